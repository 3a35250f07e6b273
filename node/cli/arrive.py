"""`radmesh arrive`: files, each as an image that comes by itself."""

from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError

_SHOWN = 20
"""Files named in a summary; `--json` names all."""

_AT_ONE_TIME = 1000
"""Files of one request to the node."""


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--stat", is_flag=True, help="Pack and announce their studies at once.")
@click.option("--source", default="", metavar="NAME", help="Who brings them, for the audit log.")
@json_option
@pass_session
def arrive(session: Session, files: tuple[Path, ...], stat: bool, source: str) -> int:
    """Hand FILES to the running node one by one, as a modality would send them.

    When this ends they are safe on disk. They are packed when their study has been quiet
    for 30 seconds, all together, and peers are told of it then. For folders, and where
    no node runs, use `radmesh ingest`. Exit code 9 says that some were put aside, or
    could not be taken.
    """
    absolute = [Path.cwd() / path for path in files]
    for path in absolute:
        if not path.is_file():
            raise NodeError(f"there is no file {path}", code=ExitCode.NOT_FOUND)
    done: dict[str, Any] = {"taken": 0, "known": 0, "problems": []}
    for first in range(0, len(absolute), _AT_ONE_TIME):
        some = [str(path) for path in absolute[first : first + _AT_ONE_TIME]]
        result = session.call("arrive", {"paths": some, "stat": stat, "source": source})
        for name, value in result.items():
            done[name] += value
    if session.as_json:
        output.emit_json(done)
    else:
        output.say(
            f"{phrases.count(done['taken'], 'image')} taken, {done['known']} known already; "
            "packed when their studies are quiet"
        )
        for one in done["problems"][:_SHOWN]:
            file, reason = phrases.clean(one["file"]), phrases.clean(one["reason"])
            output.say(f"{one['outcome']}: {file} {reason}")
        if len(done["problems"]) > _SHOWN:
            output.say(f"  and {len(done['problems']) - _SHOWN} more: see --json")
    return ExitCode.PARTLY if done["problems"] else ExitCode.OK
