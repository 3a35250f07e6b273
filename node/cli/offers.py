"""`radmesh send` and `radmesh offers`: offering a study to another facility."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session

_WAYS = {"out": "to", "in": "from"}


@click.command()
@click.argument("study")
@click.option("--to", "peer", required=True, metavar="NAME", help="The facility to offer it to.")
@click.option(
    "--purpose",
    default="treatment",
    show_default=True,
    help="Why: treatment, second-opinion, research, operations, or a code of HL7. It is logged on "
    "both sides.",
)
@click.option(
    "--message", default="", metavar="TEXT", help="What the people there should know; one line."
)
@click.option(
    "--until", metavar="DATE", help="The day with which the offer ends; a week unless given."
)
@json_option
@pass_session
def send(
    session: Session, study: str, peer: str, purpose: str, message: str, until: str | None
) -> None:
    """Offer STUDY to a facility, which may then fetch this one study for this purpose.

    There a rule or a person accepts it or declines. If the facility is away, it learns of the offer
    when it is connected again.
    """
    found = session.call(
        "send",
        {"study": study, "peer": peer, "purpose": purpose, "message": message, "until": until},
    )
    if session.as_json:
        output.emit_json(found)
        return
    output.say(
        f"offer {found['number']} to {phrases.clean(found['peer'])} is made, until "
        f"{phrases.moment(found['until'])}"
    )
    output.note(f"see `radmesh offers`; `radmesh offers end {found['number']}` takes it back")


@click.group(invoke_without_command=True)
@json_option
@pass_session
@click.pass_context
def offers(context: click.Context, session: Session) -> None:
    """List the offers of both directions; accept, decline or end one."""
    if context.invoked_subcommand is not None:
        return
    found = session.call("offers")
    if session.as_json:
        output.emit_json(found)
        return
    if not found["offers"]:
        output.note("there are no offers")
        return
    columns = (
        output.Column("NO", right=True),
        output.Column("WAY"),
        output.Column("FACILITY", flexible=True),
        output.Column("STATE"),
        output.Column("PURPOSE"),
        output.Column("UNTIL"),
        output.Column("STUDY"),
    )
    rows = [
        (
            one["number"],
            _WAYS[one["direction"]],
            phrases.clean(one["peer"]),
            _state(one),
            one["purpose"],
            phrases.moment(one["until"]),
            one["study"],
        )
        for one in found["offers"]
    ]
    for line in output.table(columns, rows):
        output.say(line)
    for one in found["offers"]:
        if one["waits"]:
            output.say(f"offer {one['number']}: {_content(one)}")
            if one["person"]:
                role = f", {phrases.clean(one['role'])}" if one["role"] else ""
                output.say(f"  by {phrases.clean(one['person'])}{role}, as that facility says")
            if one["message"]:
                output.say(f"  {phrases.clean(one['message'])}")


@offers.command()
@click.argument("number", type=click.IntRange(1))
@json_option
@pass_session
def accept(session: Session, number: int) -> None:
    """Accept the offer NUMBER; the study is fetched."""
    found = session.call("offer.accept", {"number": number})
    _show(session, found, "accepted: the study is being fetched, see `radmesh transfers`")


@offers.command()
@click.argument("number", type=click.IntRange(1))
@json_option
@pass_session
def decline(session: Session, number: int) -> None:
    """Decline the offer NUMBER of another facility."""
    _show(session, session.call("offer.decline", {"number": number}), "declined")


@offers.command()
@click.argument("number", type=click.IntRange(1))
@json_option
@pass_session
def end(session: Session, number: int) -> None:
    """Take our offer NUMBER back, at once; what was sent stays there."""
    _show(session, session.call("offer.end", {"number": number}), "ended")


def _show(session: Session, found: dict[str, Any], sentence: str) -> None:
    if session.as_json:
        output.emit_json(found)
        return
    output.say(f"offer {found['number']}: {sentence}")


def _state(one: dict[str, Any]) -> str:
    if one["waits"]:
        return "waits for you"
    if one["direction"] == "out" and one["state"] == "offered":
        return "offered" if one["told"] else "not told yet"
    return str(one["state"])


def _content(one: dict[str, Any]) -> str:
    kinds = ", ".join(phrases.clean(kind) for kind in one["modalities"]) or "unknown kind"
    day = phrases.clean(one["study_date"]) or "without a date"
    return (
        f"{phrases.count(one['instances'], 'image')} ({kinds}, {day}), {phrases.size(one['bytes'])}"
    )
