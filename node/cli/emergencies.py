"""`radmesh review`: what was done in an emergency, and what a person thinks of it."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session


@click.command()
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--outcome", type=click.Choice(["justified", "not-justified"]), help="What it was.")
@click.option("--note", metavar="TEXT", help="Why; it stays here.")
@click.option("--all", "everything", is_flag=True, help="List also those that were reviewed.")
@json_option
@pass_session
def review(
    session: Session, number: int | None, outcome: str | None, note: str | None, everything: bool
) -> None:
    """List the emergencies that wait for a review, or close emergency NUMBER by one.

    Whoever fetched a study in an emergency cannot review that.
    """
    if number is not None:
        if outcome is None or note is None or everything:
            raise click.UsageError("to review emergency NUMBER give --outcome and --note")
        done = session.call("review", {"number": number, "outcome": outcome, "note": note})
        if session.as_json:
            output.emit_json(done)
        else:
            output.say(f"emergency {number} is reviewed: {done['outcome']}")
        return
    if outcome is not None or note is not None:
        raise click.UsageError("say which emergency by its NUMBER")
    found = session.call("emergencies", {"all": everything})
    if session.as_json:
        output.emit_json(found)
        return
    if not found["emergencies"]:
        output.note("no emergency waits for a review")
        return
    for one in found["emergencies"]:
        for line in _lines(one):
            output.say(line)


def _lines(one: dict[str, Any]) -> list[str]:
    who = one["person"] or "somebody"
    if one["role"]:
        who += f" ({one['role']})"
    way = "asked us" if one["direction"] == "out" else "was asked"
    state = one["outcome"] or f"to review until {phrases.moment(one['until'])}"
    if one["overdue"]:
        state = "the review is OVERDUE"
    over = "under way" if one["ended"] is None else f"over {phrases.moment(one['ended'])}"
    lines = [
        f"{one['number']}  {one['peer']} {way}: study {one['study'] or 'that was erased'}",
        f"   begun {phrases.moment(one['begun'])}, {over}: {state}",
    ]
    if one["reason"]:
        lines.append(f"   {who}: {one['reason']}")
    return [phrases.clean(line) for line in lines]
