"""`radmesh audit`: the signed log of this node, and the check of anybody's."""

from pathlib import Path
from typing import Any

import click

from node import phrases
from node.callers import parts_of
from node.cli import audit_proofs, audit_verify, output
from node.cli.selecting import patient_option, selection_options
from node.cli.session import Session, json_option, pass_session


@click.group()
def audit() -> None:
    """The signed log: what was disclosed, to whom, why."""


@audit.command()
@click.option(
    "--last", type=click.IntRange(1), default=20, show_default=True, help="How many entries."
)
@click.option("--all", "everything", is_flag=True, help="All entries.")
@click.option("--type", "kind", metavar="TYPE", help="Only such entries, such as disclosed.")
@selection_options
@patient_option
@click.option("--person", metavar="NAME", help="Only what this person asked for.")
@json_option
@pass_session
def show(
    session: Session,
    /,
    last: int,
    everything: bool,
    kind: str | None,
    person: str | None,
    **selected: str | None,
) -> None:
    """Show entries of our log, oldest first.

    Studies, patients and people who asked stand in the log as commitments; they are shown in clear
    where this node has what opens them.
    """
    found = session.call(
        "audit.show",
        {"last": None if everything else last, "type": kind, "person": person, **selected},
        listed="entries",
    )
    if session.as_json:
        output.emit_json(found)
        return
    if not found["entries"]:
        output.note("no entry of our log is selected")
        return
    for line in _entry_lines(found["entries"]):
        output.say(line)


def _entry_lines(entries: list[dict[str, Any]]) -> list[str]:
    table = output.table(
        (
            output.Column("ENTRY", right=True),
            output.Column("TIME (UTC)"),
            output.Column("WHAT"),
            output.Column("OUTCOME"),
            output.Column("BY", flexible=True),
            output.Column("PURPOSE"),
        ),
        [
            (
                entry["index"],
                entry["time"][:19].replace("T", " "),
                entry["type"],
                entry["outcome"],
                # A facility is named by its fingerprint; the first group suffices here.
                entry["actor"].split("-")[0],
                entry["purpose"] or "-",
            )
            for entry in entries
        ],
    )
    lines = [table[0]]
    for line, entry in zip(table[1:], entries, strict=True):
        lines.append(line)
        details = [f"{name}={value}" for name, value in sorted(entry["details"].items())]
        if entry["peer"]:
            details.insert(0, f"peer: {entry['peer_name']}")
        lines.extend(f"       {phrases.clean(detail)}" for detail in details)
        lines.extend(
            f"       {phrases.clean(opened['kind'])}: {phrases.clean(_opened(opened))}"
            for opened in entry["opened"]
        )
    return lines


def _opened(opened: dict[str, Any]) -> str:
    if opened["kind"] != "person":
        return str(opened["value"])
    name, role, display = parts_of(opened["value"])
    known = ", ".join(part for part in (display, role) if part)
    return f"{name} ({known})" if known else name


@audit.command("export")
@click.argument("bundle", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--without-openings",
    is_flag=True,
    help="Leave out what opens the commitments: no study or patient can be told from it.",
)
@click.option("--peer", metavar="NAME", help="Name only what is with this facility.")
@click.option("--study", metavar="STUDY", help="Name only this study.")
@json_option
@pass_session
def export_log(
    session: Session, bundle: Path, without_openings: bool, peer: str | None, study: str | None
) -> None:
    """Write our log to the file BUNDLE, for an auditor.

    With the openings (the default) it names studies and patients: hand it over as
    you would hand over the images. All entries are in it in any case; --peer and
    --study limit what it names.
    """
    path = Path.cwd() / bundle
    exported = session.call(
        "audit.export",
        {"path": str(path), "openings": not without_openings, "peer": peer, "study": study},
    )
    if session.as_json:
        output.emit_json(exported)
        return
    output.say(
        f"wrote {phrases.count(exported['entries'], 'entry', 'entries')} "
        f"({phrases.size(exported['bytes'])}) to {exported['path']}"
    )
    output.say(f"size and root to note down: {exported['size']}:{exported['root']}")


audit.add_command(audit_verify.verify)
audit.add_command(audit_proofs.prove)
audit.add_command(audit_proofs.check_proof)
