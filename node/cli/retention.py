"""`radmesh retention`: what is kept about people, and what has been kept for long enough."""

import sys
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError
from node.phrases import count


@click.command()
@click.option("--apply", is_flag=True, help="Delete what would go; cannot be undone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def retention(session: Session, apply: bool, yes: bool) -> None:
    """Show what this node keeps about people, for how long, and what would go now.

    Only what has a setting in the table [retention] goes by age; --apply deletes it, after an entry
    of the log for each act. Images are discarded with `radmesh discard`.
    """
    found = session.call("retention", {"apply": False})
    due = [one for one in found["kept"] if one["due"]]
    if not apply:
        if session.as_json:
            output.emit_json(found)
            return
        for line in _lines(found["kept"]):
            output.say(phrases.clean(line))
        if due:
            output.say("`radmesh retention --apply` deletes what would go")
        return
    if due and not yes:
        if not sys.stdin.isatty():
            raise NodeError(
                "nobody is at a terminal who could confirm it; nothing was deleted",
                hint="look with `radmesh retention`, then give --yes to delete without being asked",
                code=ExitCode.USAGE,
            )
        for one in due:
            click.echo(f"{one['name']}: {one['due']} from before {one['before']}", err=True)
        click.confirm("Delete this? It cannot be undone.", abort=True, err=True)
    done = session.call("retention", {"apply": True})
    if session.as_json:
        output.emit_json(done)
        return
    gone = [one for one in done["kept"] if one["entries"]]
    if not gone:
        output.say("nothing has been kept for long enough to go")
    for one in gone:
        output.say(
            f"{one['name']}: {one['due']} deleted, logged in"
            f" {count(len(one['entries']), 'entry', 'entries')}"
        )


def _lines(kept: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in kept:
        lines.append(f"{one['name']}: {one['holds']}")
        lines.append(f"  in {one['place']}; kept {one['kept']}")
        if one["setting"]:
            days = count(one["days"], "day") if one["days"] else "no end"
            go = f"; {one['due']} would go" if one["days"] else ""
            lines.append(f"  {one['setting']}: {days}{go}")
    return lines
