"""Operations on transfers: fetch, follow, list, cancel."""

from typing import Any

import trio

from keys.trust import PURPOSES
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Operation, Report, Result, require_serving, text
from node.transfer.transfers import Transfer, TransferState

_PROGRESS_SECONDS = 0.1


def describe_transfer(node: Node, transfer: Transfer) -> dict[str, Any]:
    """A transfer as JSON."""
    return {
        "transfer": transfer.transfer.hex(),
        "study": transfer.study,
        "peer": node.petname(transfer.peer),
        "direction": transfer.direction,
        "purpose": transfer.purpose,
        "stat": transfer.stat,
        "follow": transfer.follow,
        "follow_up": transfer.follow_up,
        "state": transfer.state.value,
        "why": transfer.why,
        "instances": transfer.instances,
        "bytes": transfer.bytes,
        "bytes_done": transfer.bytes_done,
        "wire_bytes": transfer.wire_bytes,
        "wire_bytes_total": transfer.wire_bytes_total,
        "held_bytes": transfer.held_bytes,
        "sources": [
            {
                "peer": node.petname(source.peer),
                "transfer": source.transfer.hex(),
                "batches": source.batches,
                "wire_bytes": source.encoded_bytes,
            }
            for source in transfer.contributions.values()
            if source.batches
        ],
        "started": transfer.started,
        "ended": transfer.ended,
        "still_since": node.transfers.still_since(transfer),
    }


async def fetch(node: Node, parameters: dict[str, Any], report: Report) -> Result:
    """Fetch a study and follow the transfer to its end."""
    serving = require_serving(node)
    purpose = text(parameters, "purpose", PURPOSES[0])
    if purpose not in PURPOSES:
        raise NodeError(
            f"there is no purpose {purpose}",
            hint=f"the purposes are {', '.join(PURPOSES)}",
            code=ExitCode.USAGE,
        )
    named = parameters.get("peer")
    named = named if isinstance(named, str) and named else None
    study, peer = await in_thread(serving.fetcher.choose, text(parameters, "study"), named)
    stat = parameters.get("stat", False)
    if type(stat) is not bool:
        raise NodeError("the parameter stat must be true or false", code=ExitCode.USAGE)
    follow = parameters.get("follow", True)
    if type(follow) is not bool:
        raise NodeError("the parameter follow must be true or false", code=ExitCode.USAGE)
    transfer = await serving.fetcher.start(
        study, peer, purpose, only_peer=named is not None, stat=stat, follow=follow
    )
    while not transfer.is_ended:
        report(describe_transfer(node, transfer))
        with trio.move_on_after(_PROGRESS_SECONDS):
            await transfer.over.wait()
    report(describe_transfer(node, transfer))
    if transfer.state is TransferState.COMPLETE:
        return describe_transfer(node, transfer)
    message = transfer.why
    if transfer.state is TransferState.CANCELLED:
        message = f"the transfer was cancelled: {transfer.why}"
    raise NodeError(
        f"study {study} was not fetched: {message}",
        hint=transfer.hint,
        code=ExitCode(transfer.exit_code),
    )


async def transfers(node: Node, _: dict[str, Any], __: Report) -> Result:
    """The newest transfers, active ones included."""
    recent = await in_thread(node.transfers.recent)
    return {"transfers": [describe_transfer(node, transfer) for transfer in recent]}


async def cancel(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Stop an incoming transfer that is under way."""
    prefix = text(parameters, "transfer").lower()
    found = [
        transfer
        for transfer in node.transfers.active.values()
        if prefix and transfer.transfer.hex().startswith(prefix) and transfer.direction == "in"
    ]
    if len(found) != 1:
        raise NodeError(
            f"no incoming transfer {prefix} is under way"
            if not found
            else f"{len(found)} transfers begin with {prefix}",
            hint="see `radmesh transfers`; to stop sending to a peer, revoke its grant",
            code=ExitCode.NOT_FOUND,
        )
    await require_serving(node).fetcher.cancel(found[0])
    return describe_transfer(node, found[0])


OPERATIONS = {
    "fetch": Operation(fetch, needs_network=True),
    "transfers": Operation(transfers),
    "transfer.cancel": Operation(cancel, needs_network=True),
}
