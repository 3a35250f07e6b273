"""What an operation is, and what it gets when somebody calls it."""

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
    """A report that nobody listens to."""


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        node: what is asked.
        serving: its network parts; None where the node does not serve.
        caller: who asks.
        report: takes the progress.
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
        name: as in `POST /v1/NAME`.
        parameters: the frozen dataclass of what it takes, see `node.operations.parameters`.
        run: the work; raises NodeError.
        writes: whether it changes anything: the home, its log, files beside it.
        local_only: whether it is for the owner of the home alone: it takes paths of the
            machine or a secret, or erases what names somebody.
        needs_network: whether the node must be serving.
        without_log_key: whether it can be done on a home whose log key is lost.
    """

    name: str
    parameters: type[P]
    run: Callable[[Call, P], Awaitable[Result]]
    writes: bool
    local_only: bool = False
    needs_network: bool = False
    without_log_key: bool = False

    async def answer(self, call: Call, given: dict[str, Any]) -> Result:
        """Read the parameters, and do it.

        Raises:
            NodeError: a parameter is wrong, or as the operation says.
        """
        return await self.run(call, read(self.parameters, given))
