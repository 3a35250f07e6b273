"""`radmesh requests`, `approve`, `deny`: what peers ask for and a person has to approve."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
@json_option
@pass_session
def requests(session: Session, everything: bool) -> None:
    """List the requests that wait for a person here, by rules that ask first."""
    found = session.call("requests", {"all": everything})
    if session.as_json:
        output.emit_json(found)
        return
    if not found["requests"]:
        output.note("no request waits")
        return
    for one in found["requests"]:
        for line in _lines(one):
            output.say(line)


def _lines(one: dict[str, Any]) -> list[str]:
    who = one["person"] or "somebody"
    if one["role"]:
        who += f" ({one['role']})"
    urgent = ", urgent" if one["stat"] else ""
    state = one["state"]
    if one["until"] and state == "approved":
        state += f" until {phrases.moment(one['until'])}"
    lines = [
        f"{one['number']}  {one['peer']}: study {one['study']}",
        f"   {who}, for {one['purpose']}{urgent}, since {phrases.moment(one['asked'])},"
        f" by {one['rule']}: {state}",
    ]
    if one["reason"]:
        lines.append(f"   why: {one['reason']}")
    if one["note"]:
        lines.append(f"   denied: {one['note']}")
    return [phrases.clean(line) for line in lines]


@click.command()
@click.argument("number", type=click.IntRange(min=1))
@click.option("--until", metavar="TIME", help="When it ends; a day from now if nothing is said.")
@json_option
@pass_session
def approve(session: Session, number: int, until: str | None) -> None:
    """Let request NUMBER go on: this study, one use, until a time."""
    found = session.call("approve", {"number": number, "until": until})
    _show(session, found, f"approved until {phrases.moment(found['until'])}")


@click.command()
@click.argument("number", type=click.IntRange(min=1))
@click.option("--reason", required=True, metavar="TEXT", help="Why; it stays here.")
@json_option
@pass_session
def deny(session: Session, number: int, reason: str) -> None:
    """Refuse request NUMBER, or take its approval back."""
    found = session.call("deny", {"number": number, "reason": reason})
    _show(session, found, "denied")


def _show(session: Session, found: dict[str, Any], what: str) -> None:
    if session.as_json:
        output.emit_json(found)
        return
    output.say(phrases.clean(f"request {found['number']} of {found['peer']}: {what}"))
