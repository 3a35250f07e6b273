"""`radmesh audit report`, `send` and `erase`: the log in other formats, and forgetting."""

import sys
from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.selecting import patient_option, selection_options
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError

_FILE = click.Path(dir_okay=False, path_type=Path)
_REPORTS = ("dicom", "fhir", "accounting")


@click.command()
@click.argument("form", metavar="FORMAT", type=click.Choice(_REPORTS))
@click.option(
    "--output",
    "path",
    required=True,
    type=_FILE,
    metavar="FILE",
    help="Where to write it; must not exist.",
)
@selection_options
@patient_option
@click.option(
    "--all-purposes",
    is_flag=True,
    help="accounting: with disclosures for treatment and operations, which need none.",
)
@json_option
@pass_session
def report(
    session: Session, /, form: str, path: Path, all_purposes: bool, **selected: str | None
) -> None:
    """Write our log to a file in the FORMAT dicom, fhir or accounting.

    dicom: audit messages of DICOM PS3.15, XML. fhir: AuditEvents of FHIR R4, disclosures
    by IHE BALP, NDJSON. accounting: disclosures as CSV, for 45 CFR 164.528.

    Studies and patients are named where this node still has what opens the commitments:
    handle the file as you would the images. That it was written is logged.
    """
    parameters = {
        "format": form,
        "path": str(Path.cwd() / path),
        "exempt": all_purposes,
        **selected,
    }
    made = session.call("audit.report", parameters)
    if session.as_json:
        output.emit_json(made)
        return
    noun = {"accounting": "disclosure"}.get(form, "message")
    output.say(
        f"wrote {phrases.count(made['count'], noun)} ({phrases.size(made['bytes'])}) "
        f"to {made['path']}"
    )
    if made["entry"] is not None:
        output.say(
            f"entry {made['entry']} says so; to show later that it is this file, keep: "
            f"salt {made['salt']}"
        )
    if made["left_out"]:
        output.say(
            f"left out: {phrases.count(made['left_out'], 'disclosure')} for treatment or "
            "operations, which need no accounting (45 CFR 164.528(a)(1)(i)); "
            "--all-purposes takes them in"
        )


@click.command()
@click.option("--to", required=True, metavar="HOST:PORT", help="The syslog collector.")
@click.option(
    "--ca",
    required=True,
    type=_FILE,
    metavar="FILE",
    help="Authority (PEM) of the collector's certificate.",
)
@click.option("--cert", type=_FILE, metavar="FILE", help="Our certificate (PEM), if it wants one.")
@click.option("--key", type=_FILE, metavar="FILE", help="The key (PEM) of our certificate.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("dicom", "json")),
    default="dicom",
    show_default=True,
    help="DICOM audit messages, or the entries as they are, which name nobody.",
)
@selection_options
@patient_option
@json_option
@pass_session
def send(
    session: Session,
    /,
    to: str,
    ca: Path,
    cert: Path | None,
    key: Path | None,
    form: str,
    **selected: str | None,
) -> None:
    """Send our log to a syslog collector over TLS, once.

    config.toml has a node send all that comes (docs/operations.md).
    """
    parameters = {
        "to": to,
        "ca": str(Path.cwd() / ca),
        "certificate": None if cert is None else str(Path.cwd() / cert),
        "key": None if key is None else str(Path.cwd() / key),
        "format": form,
        **selected,
    }
    sent = session.call("audit.send", parameters)
    if session.as_json:
        output.emit_json(sent)
        return
    output.say(f"{sent['to']} has {phrases.count(sent['count'], 'message')}")


@click.command()
@click.argument("what", metavar="STUDY|PATIENT|USER")
@click.option("--study", "kind", flag_value="study", help="It is a Study Instance UID.")
@click.option("--patient", "kind", flag_value="patient", help="It is a Patient ID.")
@click.option("--person", "kind", flag_value="person", help="It is a user who asked for things.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def erase(session: Session, what: str, kind: str | None, yes: bool) -> None:
    """Erase what names a study, a patient or a person beside the log. It cannot be undone.

    The log stays as it is and verifies; what it says of the study or patient, or who
    asked, can no longer be read from it, by anybody. The images themselves stay.
    """
    parameters = {"what": what, "kind": kind}
    if not yes:
        found = session.call("audit.erase", parameters)
        output.note(_question(found))
        if not sys.stdin.isatty():
            raise NodeError(
                "nothing was erased: nobody is at a terminal who could be asked",
                hint="give --yes to erase it without being asked",
                code=ExitCode.USAGE,
            )
        click.confirm("erase it for ever?", abort=True, err=True)
    done = session.call("audit.erase", {**parameters, "confirmed": True})
    if session.as_json:
        output.emit_json(done)
        return
    for line in _erased_lines(done):
        output.say(line)


def _question(found: dict[str, Any]) -> str:
    several = ""
    if found["kind"] == "patient" and found["patients"] > 1:
        several = (
            f"; this is the number of {found['patients']} patients, each of another issuer: "
            "name one as ID^^^ISSUER"
        )
    if found["kind"] == "person":
        return (
            f"this person is named by {phrases.count(found['openings'], 'opening')}; without them "
            "nothing can tell who asked for what these entries record"
        )
    return (
        f"this {found['kind']} is named by {phrases.count(found['openings'], 'opening')} of "
        f"{phrases.count(found['entries'], 'entry', 'entries')} "
        f"({phrases.count(found['studies'], 'study', 'studies')}); without them no report and no "
        f"accounting of disclosures can name it{several}"
    )


def _erased_lines(done: dict[str, Any]) -> list[str]:
    lines = [
        f"erased {phrases.count(done['openings'], 'opening')} of "
        f"{phrases.count(done['entries'], 'entry', 'entries')}; entry {done['entry']} says so",
        f"to show later what was erased, keep: commitment {done['commitment']} salt {done['salt']}",
    ]
    if done["in_catalog"]:
        lines.append(
            f"not touched: the images and the catalog, which still have "
            f"{phrases.count(done['in_catalog'], 'study', 'studies')} of it"
        )
    lines.append("not touched either: backups, bundles and reports of before, and what peers hold")
    return lines
