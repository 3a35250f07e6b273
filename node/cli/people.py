"""`radmesh people`: who may do what at this node, over the people's socket."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session

_ROLES_HELP = (
    "look: see the studies; send: fetch, share and withdraw them; approve: decide for others; "
    "emergency: break the glass; admin: trust, people, discards; audit: read the log."
)


@click.group()
def people() -> None:
    """The people who use this node with accounts of their own, and what each of them may do.

    They come over the socket of the group that the settings name (docs/operations.md section
    14). Whoever uses the account that runs the node is its owner, and may do everything.
    """


@people.command("list")
@json_option
@pass_session
def list_people(session: Session) -> None:
    """List the people, and what a member of the group may who is not in the list."""
    found = session.call("people.list")
    if session.as_json:
        output.emit_json(found)
        return
    if found["people"]:
        for line in _table(found["people"]):
            output.say(line)
    else:
        output.note("nobody is in the list yet: see `radmesh people add --help`")
    output.say(f"members of the group who are not in the list: {_roles(found['unlisted'])}")
    if found["rules"]:
        output.say(f"two people are needed for: {', '.join(found['rules'])}")


@people.command()
@click.argument("name")
@click.option(
    "--user", "users", multiple=True, required=True, metavar="OSUSER", help="Their user here."
)
@click.option("--role", "roles", multiple=True, required=True, metavar="ROLE", help=_ROLES_HELP)
@click.option("--display", default="", metavar="TEXT", help='Such as "Dr. A. Beispiel".')
@json_option
@pass_session
def add(
    session: Session, name: str, users: tuple[str, ...], roles: tuple[str, ...], display: str
) -> None:
    """Put a person into the list: NAME is how commands and the log call them."""
    person = session.call(
        "people.add",
        {"name": name, "users": list(users), "roles": list(roles), "display": display},
    )
    _show(session, person, f"{phrases.clean(person['name'])} is in the list")


@people.command()
@click.argument("name")
@click.option("--give", multiple=True, metavar="ROLE", help=_ROLES_HELP)
@click.option("--take", multiple=True, metavar="ROLE", help="Take a role away.")
@json_option
@pass_session
def role(session: Session, name: str, give: tuple[str, ...], take: tuple[str, ...]) -> None:
    """Give the person NAME roles, or take some away. Takes effect at once."""
    person = session.call("people.role", {"name": name, "give": list(give), "take": list(take)})
    _show(session, person, phrases.clean(person["name"]))


@people.command()
@click.argument("name")
@json_option
@pass_session
def remove(session: Session, name: str) -> None:
    """Take the person NAME out of the list. Takes effect at once.

    The log still tells what the person did; `radmesh audit erase --person NAME` erases that.
    """
    person = session.call("people.remove", {"name": name})
    if session.as_json:
        output.emit_json(person)
        return
    output.say(f"{phrases.clean(person['name'])} is not in the list any more")


def _show(session: Session, person: dict[str, Any], sentence: str) -> None:
    if session.as_json:
        output.emit_json(person)
        return
    output.say(f"{sentence}, as {', '.join(map(phrases.clean, person['users']))}")
    output.say(f"may: {_roles(person['roles'])}")


def _table(people: list[dict[str, Any]]) -> list[str]:
    return output.table(
        (
            output.Column("NAME"),
            output.Column("DISPLAY", flexible=True),
            output.Column("USERS", flexible=True),
            output.Column("MAY", flexible=True),
        ),
        [
            (one["name"], one["display"] or "-", ",".join(one["users"]), _roles(one["roles"]))
            for one in people
        ],
    )


def _roles(roles: list[str]) -> str:
    return ",".join(roles) or "nothing"
