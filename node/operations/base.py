"""The type of an operation, and of a call of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from node.app import Node
from node.blocking import in_thread
from node.callers import SERVICE, Caller
from node.errors import ExitCode, NodeError
from node.operations.parameters import read
from node.people.acts import Act, Proposal

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
        roles: the roles of which a person needs one to call it (`node.people.persons`); with
            none it is for the owner alone.
        listed_only: whether a person must be in the list of people, whatever the settings say.
        held_by: the two-person rules that hold it (`node.people.rules`).
        act: what a rule would hold of a call; None where that takes nothing but rights away, or
            changes nothing. Runs in a thread.
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
    roles: tuple[str, ...] = ()
    listed_only: bool = False
    held_by: tuple[str, ...] = ()
    act: Callable[[Call, P], Act | None] | None = None

    def __post_init__(self) -> None:
        if self.act is not None:
            HELD[self.name] = self

    def needs_private_keys(self, given: dict[str, Any]) -> bool:
        """Whether a call with these parameters needs the private keys."""
        if self.private_keys_with and given.get(self.private_keys_with) is not None:
            return True
        return self.writes and not self.without_private_keys

    async def answer(self, call: Call, given: dict[str, Any]) -> Result:
        """Read the parameters and run the operation, or propose it to a second person.

        Returns:
            The result; where a rule asks for two persons only `waits_for_second`, the proposal.

        Raises:
            NodeError: a parameter is wrong, or as the operation says.
        """
        asked = read(self.parameters, given)
        if self.act is not None and call.caller.proposal is None:
            proposed = await in_thread(self._propose, call, asked)
            if proposed is not None:
                return {"waits_for_second": proposed}
        return await self.run(call, asked)

    def _propose(self, call: Call, asked: P) -> Result | None:
        act = None if self.act is None else self.act(call, asked)
        if act is None:
            return None
        kinds = call.node.rules.holding(self.held_by if act.kinds is None else act.kinds)
        if kinds:
            made = call.node.proposals.propose(self.name, kinds, act, call.caller)
            return describe_proposal(call.node, made)
        if self.local_only and call.caller.kind == "person":
            # The rule, under which a person could propose this, has just ended.
            raise owner_alone(self.name)
        return None


HELD: dict[str, Operation[Any]] = {}
"""The operations that a two-person rule may hold, by name."""


def owner_alone(operation: str) -> NodeError:
    """The error for a person who calls what only the owner may."""
    return NodeError(
        f"{operation} is for the owner of the node alone",
        hint="it takes files of the machine or a secret, or erases names: ask whoever runs the "
        "node",
        code=ExitCode.REFUSED,
    )


def describe_proposal(node: Node, proposal: Proposal) -> Result:
    """A proposal as JSON."""
    names = {person.id: person.display or person.name for person in node.persons.all()}
    return {
        "number": proposal.number,
        "operation": proposal.operation,
        "what": proposal.what,
        "proposer": names.get(proposal.proposer),
        "proposed": proposal.proposed,
        "until": proposal.until,
        "state": proposal.state,
        "ended": proposal.ended,
        "ended_by": names.get(proposal.ended_by),
        "reason": proposal.reason,
    }
