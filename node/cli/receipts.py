"""`radmesh audit receipts`: what both sides of our exchanges signed, shown or handed over."""

from pathlib import Path

import click

from node import phrases
from node.cli import output
from node.cli.selecting import selection_options
from node.cli.session import Session, json_option, pass_session


@click.command()
@click.option(
    "--export",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the receipts to this new file, for `radmesh-verify --receipt`. They name "
    "facilities and amounts, and no patient.",
)
@selection_options
@json_option
@pass_session
def receipts(session: Session, /, file: Path | None, **selected: str | None) -> None:
    """List the receipts of our exchanges, oldest first, or hand them over.

    Each is signed by both sides. An auditor holds them against the log of the other
    facility, which must name them.
    """
    path = None if file is None else str(Path.cwd() / file)
    found = session.call("audit.receipts", {"path": path, **selected})
    if session.as_json:
        output.emit_json(found)
        return
    if path is not None:
        output.say(wrote(found, "receipt"))
        if found["missing"]:
            output.say(f"named in our log and not kept here: {found['missing']}")
        return
    if not found["receipts"]:
        output.note("our log names no such receipt")
        return
    for line in output.table(
        (
            output.Column("ENTRY", right=True),
            output.Column("TIME (UTC)"),
            output.Column("WAY"),
            output.Column("PEER", flexible=True),
            output.Column("TRANSFER"),
            output.Column("RECEIPT"),
        ),
        [
            (
                one["entry"],
                one["time"][:19].replace("T", " "),
                "to" if one["direction"] == "out" else "from",
                one["peer"],
                one["transfer"][:8],
                one["receipt"][:16],
            )
            for one in found["receipts"]
        ],
    ):
        output.say(line)


def wrote(found: dict[str, object], what: str) -> str:
    """What was handed over, in one line."""
    count, size = found["count"], found["bytes"]
    assert isinstance(count, int)
    assert isinstance(size, int)
    return f"wrote {phrases.count(count, what)} ({phrases.size(size)}) to {found['path']}"
