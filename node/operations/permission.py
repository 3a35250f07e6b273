"""Who may call an operation: the owner each of them, a person those of the person's roles."""

from dataclasses import replace
from typing import Any

from node.app import Node
from node.callers import Caller
from node.errors import ExitCode, NodeError
from node.operations.base import Operation, owner_alone
from node.people.persons import PERSON_ROLES

UNLISTED = {
    "nothing": frozenset[str](),
    "look": frozenset({"look"}),
    "all": frozenset(PERSON_ROLES) - {"approve", "emergency"},
}
"""The roles of a member of the group who is not in the list, by the setting `people.unlisted`.
An approval or an emergency is always somebody's."""


def unlisted_roles(node: Node) -> frozenset[str]:
    """What a member of the group may who is not in the list of people.

    Without the setting: nothing; but in a home from before the list, as long as nobody is in
    it, all that the group could do then.
    """
    chosen = node.settings.people.unlisted
    if chosen is None:
        chosen = "all" if node.persons.is_open_as_before() else "nothing"
    return UNLISTED[chosen]


def permitted(node: Node, caller: Caller, operation: Operation[Any]) -> Caller:
    """The caller in the role in which it may call an operation; reads the list of people.

    Args:
        node: the node.
        caller: the service, or a person by user name. What only the owner may do, a person may
            propose while a two-person rule holds it.
        operation: what is called.

    Raises:
        NodeError: the operation is not for this caller.
    """
    if caller.kind != "person":
        return caller
    person = node.persons.of_user(caller.name, caller.number)
    if operation.local_only and (person is None or not node.rules.holding(operation.held_by)):
        raise owner_alone(operation.name)
    held = unlisted_roles(node) if person is None else frozenset(person.roles)
    role = next((one for one in operation.roles if one in held), None)
    if role is None or (person is None and operation.listed_only):
        raise _refused(operation, is_listed=person is not None)
    if person is None:
        return caller
    return replace(caller, name=person.name, role=role, display=person.display, person=person.id)


def _refused(operation: Operation[Any], *, is_listed: bool) -> NodeError:
    needed = " or ".join(operation.roles)
    if is_listed:
        return NodeError(
            f"{operation.name} is not for you: it needs the role {needed}",
            hint="a person with the role admin, or the owner of the node, can give it to you: "
            "`radmesh people role`",
            code=ExitCode.REFUSED,
        )
    return NodeError(
        f"{operation.name} is not for you: it needs the role {needed}, and your user is not in the "
        "list of people",
        hint="ask the owner of the node to add you: `radmesh people add`",
        code=ExitCode.REFUSED,
    )
