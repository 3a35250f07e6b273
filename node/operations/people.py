"""Operations on the list of people."""

import os
import pwd
from dataclasses import dataclass
from typing import Any

from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing
from node.operations.permission import unlisted_roles
from node.people.acts import Act
from node.people.persons import PERSON_ROLES, Person
from node.people.rules import KINDS


@dataclass(frozen=True)
class AddPerson:
    """Parameters of `people.add`."""

    name: str
    users: tuple[str, ...]
    roles: tuple[str, ...]
    display: str = ""


@dataclass(frozen=True)
class ChangeRoles:
    """Parameters of `people.role`: roles to give, or roles to take; the id that it must be."""

    name: str
    give: tuple[str, ...] = ()
    take: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class OfPerson:
    """Parameters of `people.remove`."""

    name: str


def describe_person(person: Person) -> dict[str, Any]:
    """A person as JSON."""
    return {
        "id": person.id,
        "name": person.name,
        "display": person.display,
        "roles": list(person.roles),
        "users": list(person.users),
        "added": person.added,
    }


async def people_list(call: Call, _: Nothing) -> Result:
    """The people, and what a member of the group may who is not in the list."""
    node = call.node
    people = await in_thread(node.persons.all)
    unlisted = await in_thread(unlisted_roles, node)
    return {
        "people": [describe_person(person) for person in people],
        "unlisted": [role for role in PERSON_ROLES if role in unlisted],
        "rules": list(await in_thread(node.rules.holding, KINDS)),
    }


def numbers_of(users: tuple[str, ...]) -> list[int]:
    """The numbers of users; refuses those that this machine does not have, and the node's own.

    A user that is made later would otherwise get the rights of a mistyped name.
    """
    numbers = []
    for user in users:
        if user.startswith("#") and user[1:].isascii() and user[1:].isdigit():
            numbers.append(int(user[1:]))
            continue
        try:
            uid = pwd.getpwnam(user).pw_uid
        except KeyError:
            raise NodeError(
                f"there is no user {user!r} on this machine",
                hint="give the name as `id --user --name` shows it; a user without a name is "
                "#NUMBER",
                code=ExitCode.NOT_FOUND,
            ) from None
        if uid == os.getuid():
            raise NodeError(
                f"{user} runs this node, and is its owner, not a person",
                hint="give the person an account of their own, in the group of the people's socket",
                code=ExitCode.REFUSED,
            )
        numbers.append(uid)
    return numbers


async def people_add(call: Call, asked: AddPerson) -> Result:
    """Put a person into the list."""

    def add() -> Person:
        numbers = numbers_of(asked.users)
        return call.node.persons.add(asked.name, asked.users, asked.roles, asked.display, numbers)

    return describe_person(await in_thread(add))


async def people_role(call: Call, asked: ChangeRoles) -> Result:
    """Give a person roles, or take some away."""
    if bool(asked.give) == bool(asked.take):
        raise NodeError(
            "roles are either given or taken in one command",
            hint="radmesh people role NAME --give send, or --take send",
            code=ExitCode.USAGE,
        )
    persons = call.node.persons
    changed = await in_thread(persons.change, asked.name, asked.give, asked.take, asked.id)
    return describe_person(changed)


async def people_remove(call: Call, asked: OfPerson) -> Result:
    """Take a person out of the list."""
    return describe_person(await in_thread(call.node.persons.remove, asked.name))


def add_act(call: Call, asked: AddPerson) -> Act:
    """What a two-person rule holds of `people.add`."""
    numbers_of(asked.users)
    display = f" ({asked.display})" if asked.display else ""
    return Act(
        what=f"put {asked.name}{display} into the list of people, as {', '.join(asked.users)}, "
        f"with the roles {', '.join(asked.roles)}",
        parameters={
            "name": asked.name,
            "users": list(asked.users),
            "roles": list(asked.roles),
            "display": asked.display,
        },
    )


def role_act(call: Call, asked: ChangeRoles) -> Act | None:
    """What a two-person rule holds of `people.role`; None for roles that are taken."""
    if asked.take or not asked.give:
        return None
    person = call.node.persons.find(asked.name)
    return Act(
        what=f"give {person.name} the roles {', '.join(asked.give)}",
        # The name may be another person's by the time of the confirmation.
        parameters={"name": person.name, "give": list(asked.give), "id": person.id},
    )


OPERATIONS = (
    Operation("people.list", Nothing, people_list, writes=False, roles=PERSON_ROLES),
    Operation(
        "people.add",
        AddPerson,
        people_add,
        writes=True,
        roles=("admin",),
        listed_only=True,
        held_by=tuple(KINDS),
        act=add_act,
    ),
    Operation(
        "people.role",
        ChangeRoles,
        people_role,
        writes=True,
        roles=("admin",),
        listed_only=True,
        held_by=tuple(KINDS),
        act=role_act,
    ),
    Operation(
        "people.remove",
        OfPerson,
        people_remove,
        writes=True,
        roles=("admin",),
        listed_only=True,
    ),
)
