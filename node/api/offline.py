"""Runs an operation on a home whose node does not run."""

import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from node.app import Node
from node.errors import ExitCode, NodeError
from node.failures import single_node_error
from node.home import Home
from node.operations import OPERATIONS, Call


class HomeBusy(NodeError):
    """Another process has locked the home."""


def open_node(
    home: Home,
    *,
    log_key_may_be_lost: bool = False,
    to_serve: bool = False,
    keys_may_stay_sealed: bool = False,
) -> Node:
    """Open a home, see `Node.open`.

    Raises:
        HomeBusy: another process has locked it.
        NodeError: it cannot be opened.
    """
    try:
        return Node.open(
            home,
            log_key_may_be_lost=log_key_may_be_lost,
            to_serve=to_serve,
            keys_may_stay_sealed=keys_may_stay_sealed,
        )
    except NodeError as error:
        if error.code is not ExitCode.BUSY:
            raise
        raise HomeBusy(error.message, hint=error.hint, code=error.code) from error


def run_offline(
    home: Home,
    operation: str,
    parameters: dict[str, Any],
    on_progress: Callable[[dict[str, Any]], None] | None,
    listed: str = "",
) -> dict[str, Any]:
    """Open the home, run the operation, close the home.

    With `listed`, gathers all pages of that list at once, since opening reads the whole log.

    Raises:
        HomeBusy: another process has locked the home.
        NodeError: the operation failed, or needs a running node.
        KeyboardInterrupt: Ctrl-C, once the operation has stopped.
    """
    chosen = OPERATIONS[operation]
    if chosen.needs_network:
        raise NodeError(
            "the node of this home is not running",
            hint="start it with `radmesh serve`",
            code=ExitCode.BUSY,
        )

    def report(event: dict[str, Any]) -> None:
        if on_progress is not None:
            on_progress(event)

    async def main(node: Node) -> dict[str, Any] | None:
        result: dict[str, Any] | None = None
        # Ctrl-C becomes a cancellation: a worker thread then stops at a safe point.
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
                call = Call(node, report=report)
                result = await chosen.answer(call, parameters)
                while listed and result["next"] is not None:
                    page = await chosen.answer(call, {**parameters, "after": result["next"]})
                    result[listed] += page[listed]
                    result["next"] = page["next"]
                nursery.cancel_scope.cancel()
        return result

    with open_node(
        home,
        log_key_may_be_lost=chosen.without_log_key,
        keys_may_stay_sealed=not chosen.needs_private_keys(parameters),
    ) as node:
        try:
            result = trio.run(main, node)
        except Exception as error:
            known = single_node_error(error)
            if known is None:
                raise
            raise known from error
    if result is None:
        raise KeyboardInterrupt
    return result


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return
