"""`radmesh discard`, `quarantine`, `recalls`: a way out for what is wrong."""

import sys
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError
from protocol.recalls import REASONS

_TAKE_REASONS = ("corrected", "damaged", "mistake")
_DROP_REASONS = ("not-needed", "damaged", "wrong-patient")


@click.command()
@click.argument("what", metavar="STUDY|SERIES|INSTANCE")
@click.option(
    "--reason",
    required=True,
    type=click.Choice(tuple(REASONS)),
    help="Why. What retention removes may come back; what is wrong is not taken again.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def discard(session: Session, what: str, reason: str, yes: bool) -> None:
    """Delete a study, a series or an instance from this node, for good.

    Peers that were told of the study learn that this was discarded, and why; those
    that fetched it are alerted. Their copies stay until they discard them.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise NodeError(
                "nothing was discarded: nobody is at a terminal who could be asked",
                hint="give --yes to discard it without being asked",
                code=ExitCode.USAGE,
            )
        click.confirm(f"discard {what} for good ({reason})?", abort=True, err=True)
    done = session.call("discard", {"what": what, "reason": reason})
    if session.as_json:
        output.emit_json(done)
        return
    left = f", {done['left']} stay" if done["left"] else ""
    output.say(
        f"discarded {phrases.count(done['instances'], 'image')} "
        f"({phrases.size(done['bytes'])}) of study {phrases.clean(done['study'])}{left}"
    )


@click.group()
def quarantine() -> None:
    """What was set aside, or could not be taken: list, take, drop."""


@quarantine.command("list")
@json_option
@pass_session
def list_aside(session: Session) -> None:
    """List what lies aside, with its reasons."""
    found = session.call("quarantine.list")
    if session.as_json:
        output.emit_json(found)
        return
    if not found["aside"]:
        output.say("nothing lies aside")
        return
    for one in found["aside"]:
        output.say(
            f"{one['name']}  {phrases.moment(one['time'])}  {phrases.size(one['bytes'])}  "
            f"from {phrases.clean(one['file'] or one['origin'])}"
        )
        if one["study"]:
            output.say(
                f"  study {phrases.clean(one['study'])} instance {phrases.clean(one['instance'])}"
            )
        output.say(f"  it {phrases.clean(one['reason'])}")


@quarantine.command("take")
@click.argument("what", metavar="NAME|STUDY")
@click.option("--reason", required=True, type=click.Choice(_TAKE_REASONS), help="Why.")
@json_option
@pass_session
def take_aside(session: Session, what: str, reason: str) -> None:
    """Take a version that lies aside in the place of the one that is here.

    The one that is here lies aside then. With the UID of a study that was discarded,
    all that lies aside of it is taken, and what comes later too.
    """
    done = session.call("quarantine.take", {"what": what, "reason": reason})
    if session.as_json:
        output.emit_json(done)
        return
    output.say(
        f"took {phrases.count(done['instances'], 'image')} into study "
        f"{phrases.clean(done['study'])}, {done['replaced']} of them in the place of another"
    )


@quarantine.command("drop")
@click.argument("what", metavar="NAME")
@click.option("--reason", required=True, type=click.Choice(_DROP_REASONS), help="Why.")
@json_option
@pass_session
def drop_aside(session: Session, what: str, reason: str) -> None:
    """Delete something that lies aside, for good."""
    done = session.call("quarantine.drop", {"what": what, "reason": reason})
    if session.as_json:
        output.emit_json(done)
        return
    output.say(f"dropped {phrases.clean(what)}")


@click.group()
def recalls() -> None:
    """What other facilities recalled of the studies that we fetched from them."""


@recalls.command("list")
@json_option
@pass_session
def list_recalls(session: Session) -> None:
    """List the recalls, settled ones too."""
    found = session.call("recalls.list")
    if session.as_json:
        output.emit_json(found)
        return
    if not found["recalls"]:
        output.say("nothing was recalled")
        return
    for one in found["recalls"]:
        output.say(recall_line(one))


@recalls.command("settle")
@click.argument("study")
@click.option("--peer", metavar="NAME", help="Only the recall of this facility.")
@json_option
@pass_session
def settle_recall(session: Session, study: str, peer: str | None) -> None:
    """Say that the recall of STUDY has been seen to; its alert ends.

    The study itself stays here as it is: see `radmesh discard`.
    """
    done = session.call("recalls.settle", {"study": study, "peer": peer})
    if session.as_json:
        output.emit_json(done)
        return
    for one in done["recalls"]:
        output.say(recall_line(one))


def recall_line(one: dict[str, Any]) -> str:
    """A recall for people."""
    what = "" if one["whole"] else "something of "
    state = "settled" if one["settled"] else "to be settled"
    where = "still here" if one["held"] else "not here any more"
    return (
        f"{phrases.moment(one['told'] / 1000)}  {what}study {phrases.clean(one['study'])} recalled "
        f"by {phrases.clean(one['peer'])}: {phrases.clean(one['reason'])} ({where}, {state})"
    )
