"""`radmesh archive`: what goes to the archives of this facility, and how far that is."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session

_to_option = click.option("--to", default="", metavar="NAME", help="The archive.")


@click.group(invoke_without_command=True)
@json_option
@pass_session
@click.pass_context
def archive(context: click.Context, session: Session) -> None:
    """List what goes to the archives of this facility; send a study, try again, or drop one.

    The archives and what goes there by itself are in config.toml.
    """
    if context.invoked_subcommand is not None:
        return
    found = session.call("archive")
    if session.as_json:
        output.emit_json(found)
        return
    if not found["archives"]:
        output.note('there are no archives: each is a table [archives."NAME"] in config.toml')
    for line in archive_lines(found["archives"]):
        output.say(line)
    if found["studies"]:
        output.say("")
        for line in output.table(_COLUMNS, [_row(one) for one in found["studies"]]):
            output.say(line)
    if found["more"]:
        output.note(f"and {found['more']} more")
    for one in found["retrieved"]:
        why = f": {one['why']}" if one["why"] else ""
        text = f"study {one['study']} from {one['archive']}: {one['state']}{why}"
        output.say(phrases.clean(text))
    for one in found["refused"]:
        output.say(
            phrases.clean(
                f"{one['archive']} refuses {one['instance']} of study {one['study']}: {one['why']}"
            )
        )


_COLUMNS = (
    output.Column("ARCHIVE"),
    output.Column("STATE"),
    output.Column("SINCE"),
    output.Column("STUDY"),
    output.Column("WHY", flexible=True),
)


def archive_lines(archives: list[dict[str, Any]]) -> list[str]:
    """A line for each archive, with what is wrong with it."""
    lines = []
    for one in archives:
        states = ", ".join(f"{many} {state}" for state, many in sorted(one["states"].items()))
        plain = ", without TLS" if one["plain"] else ""
        text = f"{one['archive']}: {one['place']}{plain}; {states or 'nothing'}"
        lines.append(phrases.clean(text))
        if one.get("trouble"):
            lines.append(phrases.clean(f"  {one['trouble']}"))
        if one["indexed"] is not None:
            lines.append(phrases.clean(_index_line(one["indexed"], one.get("index"))))
    return lines


def _index_line(studies: int, index: dict[str, Any] | None) -> str:
    line = f"  indexed: {phrases.count(studies, 'study', 'studies')}"
    if index is None:
        return line
    if index["looked"]:
        line += f", looked at {phrases.moment(index['looked'])}"
    if index["days_left"]:
        line += f", {phrases.count(index['days_left'], 'day', 'days')} to go"
    return f"{line}; {index['trouble']}" if index["trouble"] else line


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    proof = f" ({one['proof']})" if one["proof"] else ""
    return (
        one["archive"],
        f"{one['state']}{proof}{', STAT' if one['stat'] else ''}",
        phrases.moment(one["since"]),
        one["study"],
        phrases.clean(one["why"]),
    )


@archive.command()
@click.argument("study")
@_to_option
@click.option("--stat", is_flag=True, help="It is urgent: it goes first, at any time of day.")
@json_option
@pass_session
def send(session: Session, study: str, to: str, stat: bool) -> None:
    """Send STUDY to an archive, all of it, also what the archive has got already."""
    found = session.call("archive.send", {"study": study, "to": to, "stat": stat})
    _show(session, found, f"goes to {found['archive']}; see `radmesh archive`")


@archive.command()
@click.argument("study")
@click.option("--stat", is_flag=True, help="It is urgent: it goes before others.")
@json_option
@pass_session
def retrieve(session: Session, study: str, stat: bool) -> None:
    """Bring STUDY here from the archive that has it, all that the archive gives of it."""
    found = session.call("archive.retrieve", {"study": study, "stat": stat})
    if session.as_json:
        output.emit_json(found)
        return
    images = phrases.count(found["instances"], "image", "images")
    if not found["archive"]:
        output.say(f"study {found['study']} is here with {images}")
        return
    output.say(f"study {found['study']} came from {found['archive']}: {images}")
    if found["missing"]:
        output.note(found["missing"])


@archive.command()
@click.argument("study", default="")
@_to_option
@json_option
@pass_session
def retry(session: Session, study: str, to: str) -> None:
    """Try again now what waits or failed: STUDY, or all."""
    found = session.call("archive.retry", {"study": study, "to": to})
    if session.as_json:
        output.emit_json(found)
        return
    studies = phrases.count(found["studies"], "study", "studies")
    output.say(f"{studies} {'is' if found['studies'] == 1 else 'are'} tried again")


@archive.command()
@click.argument("study")
@_to_option
@json_option
@pass_session
def drop(session: Session, study: str, to: str) -> None:
    """Send STUDY to an archive no more; what is there stays there."""
    found = session.call("archive.drop", {"study": study, "to": to})
    _show(session, found, f"goes to {found['archive']} no more")


def _show(session: Session, found: dict[str, Any], sentence: str) -> None:
    if session.as_json:
        output.emit_json(found)
        return
    output.say(f"study {found['study']} {sentence}")
