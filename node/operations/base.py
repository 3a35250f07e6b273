"""The type of an operation, and of a call of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from node.app import Node
from node.callers import SERVICE, Caller
from node.errors import ExitCode, NodeError
from node.operations.parameters import read

if TYPE_CHECKING:
    from node.serving import Serving

P = TypeVar("P")
Result = dict[str, Any]
Report = Callable[[dict[str, Any]], None]
"""Takes a progress event; does not block."""


def unheard(_: dict[str, Any]) -> None:
    """A report function that drops the progress events."""


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        node: the node.
        serving: its network parts; None if the node does not serve.
        caller: the person or program that asks.
        report: takes the progress events.
    """

    node: Node
    serving: "Serving | None" = None
    caller: Caller = SERVICE
    report: Report = unheard

    def require_serving(self) -> "Serving":
        """The node's network parts.

        Raises:
            NodeError: the node does not serve.
        """
        if self.serving is None:
            raise NodeError(
                "the node of this home is not running",
                hint="start it with `radmesh serve`",
                code=ExitCode.BUSY,
            )
        return self.serving


@dataclass(frozen=True)
class Operation(Generic[P]):
    """One thing that a node can be asked to do: a row of the table.

    Attributes:
        name: its name, as in `POST /v1/NAME`.
        parameters: the frozen dataclass of its parameters, see `node.operations.parameters`.
        run: does the work; raises NodeError.
        writes: whether it changes anything: the home, its log, files beside it.
        local_only: whether only the owner of the home may call it: it takes paths of the
            machine or a secret, or erases openings.
        needs_network: whether the node must be serving.
        without_log_key: whether it works on a home whose log key is lost.
        without_private_keys: whether it works on a home whose keys stay sealed; so does
            each operation that only reads.
        private_keys_with: a parameter with which it needs the private keys after all, or "".
    """

    name: str
    parameters: type[P]
    run: Callable[[Call, P], Awaitable[Result]]
    writes: bool
    local_only: bool = False
    needs_network: bool = False
    without_log_key: bool = False
    without_private_keys: bool = False
    private_keys_with: str = ""

    def needs_private_keys(self, given: dict[str, Any]) -> bool:
        """Whether a call with these parameters needs the private keys."""
        if self.private_keys_with and given.get(self.private_keys_with) is not None:
            return True
        return self.writes and not self.without_private_keys

    async def answer(self, call: Call, given: dict[str, Any]) -> Result:
        """Read the parameters and run the operation.

        Raises:
            NodeError: a parameter is wrong, or as the operation says.
        """
        return await self.run(call, read(self.parameters, given))
