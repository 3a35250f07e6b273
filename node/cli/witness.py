"""`radmesh audit witness`, `policy`, `forks`: who vouches for our log, and which logs lie."""

from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.receipts import wrote
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode


@click.command()
@click.option(
    "--export",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what we cosigned of other facilities' logs to this new file, for "
    "`radmesh-verify --checkpoint`; no round is held.",
)
@click.option("--peer", metavar="NAME", help="With --export: of this facility's log alone.")
@json_option
@pass_session
def witness(session: Session, file: Path | None, peer: str | None) -> None:
    """Have our log cosigned now, and show who cosigned what.

    Witnesses are the facilities with the grant `witness`. The node asks them by itself
    every minute while there are new entries.
    """
    if file is not None:
        given = session.call("audit.cosigned", {"path": str(Path.cwd() / file), "peer": peer})
        if session.as_json:
            output.emit_json(given)
        else:
            output.say(wrote(given, "checkpoint"))
        return
    if peer is not None:
        raise click.UsageError("--peer goes with --export FILE")
    found = session.call("audit.witness")
    if session.as_json:
        output.emit_json(found)
        return
    for line in _witness_lines(found):
        output.say(line)


def _witness_lines(found: dict[str, Any]) -> list[str]:
    lines = alert_lines(found)
    if not found["witnesses"]:
        return [*lines, "no facility has the grant witness: see `radmesh trust grant --help`"]
    lines += output.table(
        (
            output.Column("WITNESS", flexible=True),
            output.Column("COSIGNED", right=True),
            output.Column("OF", right=True),
            output.Column("WHEN"),
            output.Column("STATE", flexible=True),
        ),
        [
            (
                phrases.clean(one["petname"]),
                "-" if one["size"] is None else one["size"],
                found["size"],
                phrases.moment(one["time"]),
                _state(one),
            )
            for one in found["witnesses"]
        ],
    )
    return [*lines, summary(found)]


def _state(one: dict[str, Any]) -> str:
    if one["connected"] is False:
        return "not connected"
    return phrases.clean(one["why"]) or "ok"


def summary(found: dict[str, Any]) -> str:
    """How far our log is cosigned, in one line."""
    needed, counting = found["quorum"], sum(one["counts"] for one in found["witnesses"])
    if needed > counting:
        return (
            f"{phrases.count(needed, 'witness', 'witnesses')} must cosign, and "
            f"{counting} have the grant and a key of their own: no checkpoint can be enough"
        )
    if found["cosigned_size"] is None:
        return "no checkpoint is cosigned by enough witnesses yet"
    return (
        f"cosigned up to entry {found['cosigned_size']} of {found['size']}, by "
        f"{phrases.count(found['cosigned_by'], 'witness', 'witnesses')}"
        + (f" ({needed} needed)" if needed else "")
    )


def alert_lines(found: dict[str, Any]) -> list[str]:
    """What an operator must see first, a line each; empty when all is well."""
    lines = []
    if found["in_doubt"]:
        lines.append(f"STOPPED: {phrases.clean(found['in_doubt'])}")
        lines.append("  nothing is disclosed or logged; see docs/operations.md section 12")
    for alert in found["alerts"]:
        if not alert["own"]:
            lines.append(f"ALERT {alert['number']}: {phrases.clean(alert['what'])}")
    if len(lines) > (2 if found["in_doubt"] else 0):
        lines.append("  see `radmesh audit forks`")
    return lines


def status_lines(found: dict[str, Any]) -> list[str]:
    """The lines of `radmesh status` on witnesses and alerts."""
    lines = alert_lines(found)
    if found["witnesses"] or found["quorum"]:
        lines.append(f"log {summary(found)}")
    return ["", *lines] if lines else []


@click.command()
@json_option
@pass_session
def policy(session: Session) -> None:
    """Print which witnesses must have cosigned our log, for an auditor.

    The form is that of https://c2sp.org/tlog-policy. An auditor should have it from
    the witnesses, or check their keys with them.
    """
    found = session.call("audit.policy")
    if session.as_json:
        output.emit_json(found)
        return
    click.echo(found["policy"], nl=False)
    if found["recommended"]:
        click.echo("# Recommended, after you have struck out whom you do not believe: most of them")
        click.echo("# must have cosigned. Write in place of the lines `group` and `quorum`:")
        for line in found["recommended"]:
            click.echo(f"# {line}")


@click.command()
@click.option(
    "--export",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Write the evidence there: for each alert both signed checkpoints and the card.",
)
@click.option(
    "--settle",
    "number",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="You have looked into this alert; it is no alert any more. The evidence stays.",
)
@click.option(
    "--start-over",
    is_flag=True,
    help="With --settle, for another facility's log: cosign it again from whatever it shows "
    "next. Only after its admin has told you, by phone, why entries are gone.",
)
@json_option
@pass_session
def forks(session: Session, directory: Path | None, number: int | None, start_over: bool) -> int:
    """Show logs that contradict what they had signed, ours or a peer's.

    Exit code 0: there is none that is not settled. 1: there is.
    """
    if start_over and number is None:
        raise click.UsageError("--start-over goes with --settle NUMBER")
    if number is not None:
        session.call("audit.settle", {"number": number, "start_over": start_over})
    path = None if directory is None else str(Path.cwd() / directory)
    found = session.call("audit.forks", {"directory": path})
    if session.as_json:
        output.emit_json(found)
    else:
        for line in _fork_lines(found["alerts"], path):
            output.say(line)
    is_open = any(alert["settled"] is None for alert in found["alerts"])
    return ExitCode.FAILED if is_open else ExitCode.OK


def _fork_lines(alerts: list[dict[str, Any]], path: str | None) -> list[str]:
    if not alerts:
        return ["no log that this node knows contradicts itself"]
    lines = []
    for alert in alerts:
        settled = alert["settled"]
        state = "" if settled is None else f" (settled {phrases.moment(settled)})"
        lines.append(f"{alert['number']}: {phrases.clean(alert['what'])}{state}")
        lines.append(f"   seen {phrases.moment(alert['seen'])}")
        for name in ("held", "shown"):
            one = alert[name]
            lines.append(f"   {name:5}  size {one['size']}  root {one['root']}")
    if path is not None:
        lines.append(f"the evidence was written to {path}")
    return lines
