"""`radmesh proposals`, `confirm` and `decline`: what two people do together."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.people import people
from node.cli.session import Session, json_option, pass_session


@people.command()
@click.argument("kind")
@click.argument("persons", type=click.IntRange(1, 2))
@json_option
@pass_session
def rule(session: Session, kind: str, persons: int) -> None:
    """Let acts of a KIND (trust, erasure) need 2 PERSONS: one proposes, another confirms.

    1 ends the rule. What takes rights away is never held.
    """
    found = session.call("people.rule", {"kind": kind, "persons": persons})
    if session.as_json:
        output.emit_json(found)
        return
    if found["persons"] == 1:
        output.say(f"{found['kind']}: one person is enough")
    else:
        output.say(f"{found['kind']}: one person proposes, another one confirms")


@click.command()
@json_option
@pass_session
def proposals(session: Session) -> None:
    """Show what waits for a second person, and what became of it in the last 30 days."""
    found = session.call("proposals")
    if session.as_json:
        output.emit_json(found)
        return
    if not found["proposals"]:
        output.note("nothing waits for a second person")
    for one in found["proposals"]:
        for line in _lines(one):
            output.say(line)


@click.command()
@click.argument("number", type=click.IntRange(1))
@json_option
@pass_session
def confirm(session: Session, number: int) -> None:
    """Confirm the proposal NUMBER of another person; it is carried out at once."""
    found = session.call("confirm", {"number": number})
    if session.as_json:
        output.emit_json(found)
        return
    output.say(f"done: {phrases.clean(found['proposal']['what'])}")


@click.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--reason", required=True, metavar="TEXT", help="Why; whoever proposed it reads it.")
@json_option
@pass_session
def decline(session: Session, number: int, reason: str) -> None:
    """End the proposal NUMBER without doing it; your own, too."""
    found = session.call("decline", {"number": number, "reason": reason})
    if session.as_json:
        output.emit_json(found)
        return
    output.say(f"declined: {phrases.clean(found['what'])}")


def _lines(one: dict[str, Any]) -> list[str]:
    who = phrases.clean(one["proposer"] or "a person who has left the list")
    when = phrases.moment(one["proposed"] // 1000)
    if one["state"] == "proposed":
        until = phrases.moment(one["until"] // 1000)
        return [
            f"{one['number']}  {phrases.clean(one['what'])}",
            f"    by {who}, {when}; ends {until} unless another person confirms it",
        ]
    by = f" by {phrases.clean(one['ended_by'])}" if one["ended_by"] else ""
    why = f": {phrases.clean(one['reason'])}" if one["reason"] else ""
    return [f"{one['number']}  {one['operation']} of {who}, {when}: {one['state']}{by}{why}"]
