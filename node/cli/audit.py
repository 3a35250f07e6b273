"""`radmesh audit`: the signed log of this node, and the check of anybody's."""

import re
from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.card import read_card
from node.cli.selecting import patient_option, selection_options
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError

_PIN = re.compile(r"([0-9]{1,18}):([0-9a-fA-F]{64})")
_CANNOT_TELL = 2
_FILE = click.Path(dir_okay=False, path_type=Path)
_EVIDENCE_BYTES = 1 << 20
"""Most bytes of a checkpoint or receipt; both are a few kilobytes."""


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
@json_option
@pass_session
def show(
    session: Session, /, last: int, everything: bool, kind: str | None, **selected: str | None
) -> None:
    """Show entries of our log, oldest first.

    Studies and patients stand in the log as commitments; they are shown in clear
    where this node has what opens them.
    """
    found = session.call(
        "audit.show", {"last": None if everything else last, "type": kind, **selected}
    )
    if session.as_json:
        output.emit_json(found)
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
                # A facility acts by its fingerprint; its first group tells it apart here.
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
            details.insert(0, f"peer={entry['peer']}")
        lines.extend(f"       {phrases.clean(detail)}" for detail in details)
        lines.extend(
            f"       {phrases.clean(opened['kind'])}: {phrases.clean(opened['value'])}"
            for opened in entry["opened"]
        )
    return lines


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


@audit.command()
@click.argument("bundle", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--facility",
    required=True,
    metavar="FINGERPRINT-OR-CARD",
    help="Whose log it must be: the fingerprint, or a card file, from somebody else than "
    "the bundle's maker.",
)
@click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="SIZE:ROOT",
    help="Size and root (hex) of the log that you noted down earlier. Can be repeated.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="A signed checkpoint of this log that you got elsewhere.",
)
@click.option(
    "--receipt",
    "receipts",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="A receipt that another facility holds.",
)
@click.option(
    "--peer-card",
    "peer_cards",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="The card of another facility, whose fingerprint you compared.",
)
@json_option
@pass_session
def verify(session: Session, /, bundle: Path, facility: str, **evidence: tuple[Any, ...]) -> int:
    """Check a BUNDLE; needs no node and no home.

    Exit code 0: sound. 1: not sound, with the first bad entry and why. 2: cannot tell.
    """
    try:
        return _verify(session, bundle, facility, evidence)
    except NodeError as error:
        # A check that could not be made must never look like a verdict.
        error.code = ExitCode(_CANNOT_TELL)
        raise


def _verify(
    session: Session, bundle: Path, facility: str, given: dict[str, tuple[Any, ...]]
) -> int:
    from protocol.verify import Evidence, report_lines, to_json, verify_bundle

    expected = _fingerprint(facility)
    evidence = Evidence(
        pins=[_pin(text) for text in given["pins"]],
        checkpoints=[_content(path) for path in given["checkpoints"]],
        receipts=[_content(path) for path in given["receipts"]],
        peer_cards=[read_card(path) for path in given["peer_cards"]],
    )
    try:
        with bundle.open("rb") as file:
            verdict = verify_bundle(file, facility_fingerprint=expected, evidence=evidence)
    except OSError as error:
        raise NodeError(f"the bundle {bundle} cannot be read: {error.strerror}") from error
    if session.as_json:
        click.echo(to_json(verdict))
    else:
        for line in report_lines(verdict):
            output.say(phrases.clean(line))
    return verdict.exit_code


def _fingerprint(text: str) -> bytes:
    """SHA-256 of the facility key (32 bytes), from a card file or a spoken fingerprint."""
    import hashlib

    from keys.errors import BadFingerprint
    from keys.fingerprint import parse_fingerprint

    if Path(text).is_file():
        return hashlib.sha256(read_card(Path(text)).facility_key).digest()
    try:
        return parse_fingerprint(text)
    except BadFingerprint as error:
        raise NodeError(
            f"{text} is neither a card file nor a fingerprint: {error}",
            hint="a fingerprint has 8 groups of 7 characters",
        ) from error


def _pin(text: str) -> tuple[int, bytes]:
    found = _PIN.fullmatch(text)
    if found is None:
        raise NodeError(
            f"the pin {text} is not SIZE:ROOT",
            hint="take it as `radmesh audit export` printed it: a number, a colon, 64 hex digits",
        )
    return int(found[1]), bytes.fromhex(found[2])


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_EVIDENCE_BYTES)
    except OSError as error:
        raise NodeError(f"the file {path} cannot be read: {error.strerror}") from error
