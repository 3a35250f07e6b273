"""`radmesh ingest`, `studies`, `export`: images in, listed, out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.progress import ProgressBar
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError

_LISTED = 200
"""Studies that `radmesh studies` shows a person."""

_SHOWN = 20
"""Studies, files or notes named in a summary; `--json` names all."""


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
@pass_session
def ingest(session: Session, paths: tuple[Path, ...]) -> int:
    """Take DICOM files, and folders with all that is in them, into the node.

    A ZIP file or an ISO image is taken like a folder. The files themselves stay where they
    are. Exit code 9 says that the rest was taken, but something was put aside or to
    quarantine, with its reason, or is missing although a DICOMDIR lists it.
    """
    absolute = [Path.cwd() / path for path in paths]
    for path in absolute:
        if not path.exists():
            raise NodeError(f"there is no file or folder {path}", code=ExitCode.NOT_FOUND)
    return take_in(session, absolute)


def take_in(
    session: Session,
    paths: Sequence[Path],
    *,
    patients: Sequence[str] = (),
    studies: Sequence[str] = (),
) -> int:
    """Run an ingest with its progress, and say what became of it; returns the exit code.

    With patients or studies, of these alone.
    """
    wanted = {
        "paths": [str(path) for path in paths],
        "patients": list(patients),
        "studies": list(studies),
    }
    with ProgressBar("reading") as bar:

        def show(event: dict[str, Any]) -> None:
            storing = event["phase"] == "store"
            label = "storing" if storing else "reading"
            if storing and event["encoded_bytes"]:
                extra = f"ratio {phrases.ratio(event['bytes'], event['encoded_bytes'])}"
            else:
                extra = f"{event['files']} files"
            bar.update(label, event["bytes"], event["bytes_total"], extra)

        try:
            report = session.call("ingest", wanted, show)
        except KeyboardInterrupt:
            output.note(
                "what is stored so far is safe; run the same command again to take the rest"
            )
            raise
    if session.as_json:
        output.emit_json(report)
    else:
        for line in _ingest_lines(report):
            output.say(line)
    if report["cancelled"]:
        return ExitCode.INTERRUPTED
    is_partial = any(report[kind] for kind, _ in _NOT_TAKEN)
    return ExitCode.PARTLY if is_partial else ExitCode.OK


_NOT_TAKEN = (
    ("quarantined", "quarantined, not taken"),
    ("conflicts", "set aside: another image with the same UID is here already"),
    ("unreadable", "could not be read"),
    ("missing", "missing"),
)
"""Kinds of problems in a report of an ingest, and their titles."""


def _ingest_lines(report: dict[str, Any]) -> list[str]:
    studies = report["studies"]
    new = phrases.count(report["instances_new"], "new image")
    lines = [
        f"{phrases.count(report['files'], 'file')} looked at in "
        f"{phrases.duration(report['seconds'])}: {new} in "
        f"{phrases.count(len(studies), 'study', 'studies')}, "
        f"{report['instances_known']} known already"
    ]
    if report["encoded_bytes"]:
        lines.append(
            f"stored {phrases.size(report['original_bytes'])} as "
            f"{phrases.size(report['encoded_bytes'])} "
            f"({phrases.ratio(report['original_bytes'], report['encoded_bytes'])} times smaller), "
            "each image checked bit for bit"
        )
    lines.extend(
        f"  {phrases.clean(study['study'])}  {study['new']} new, {study['known']} known"
        + (f", {study['conflicting']} set aside" if study["conflicting"] else "")
        for study in studies[:_SHOWN]
    )
    if len(studies) > _SHOWN:
        lines.append(f"  and {len(studies) - _SHOWN} more: see `radmesh studies`")
    for number, what in (
        (report["skipped_not_dicom"], "not DICOM"),
        (report["skipped_media_directories"], "DICOMDIR"),
        (report["skipped_links"], "links that are not followed"),
        (report["not_chosen"], "of others"),
    ):
        if number:
            lines.append(f"left alone: {phrases.count(number, 'file')}, {what}")
    for kind, title in _NOT_TAKEN:
        problems = report[kind]
        if problems:
            lines.append(f"{title}: {phrases.count(len(problems), 'file')}")
            lines.extend(_problem_line(problem) for problem in problems[:_SHOWN])
            if len(problems) > _SHOWN:
                lines.append(f"  and {len(problems) - _SHOWN} more: see --json")
    lines.extend(f"note: {phrases.clean(note)}" for note in report["notes"][:_SHOWN])
    return lines


def _problem_line(problem: dict[str, Any]) -> str:
    # The reason completes a sentence that begins with the file.
    return f"  {phrases.clean(problem['file'])} {phrases.clean(problem['reason'])}"


@click.command()
@click.option("--peer", metavar="NAME", help="Those that this facility announced to us.")
@click.option("--all", "everything", is_flag=True, help="Ours, and those of all facilities.")
@click.option("--to-check", is_flag=True, help="Ours that somebody should look at.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"Only the newest so many; {_LISTED} without --json.",
)
@click.option(
    "--name",
    default="",
    metavar="N",
    help="Of patients with these words, or beginnings of them, in their name; FAMILY^GIVEN says "
    "which is which. Muller finds Müller.",
)
@click.option("--patient-id", default="", metavar="ID", help="Of the patient with this ID.")
@click.option("--issuer", default="", metavar="I", help="Whose Patient ID it is.")
@click.option("--born", "birth_date", default="", metavar="DAY", help="Of patients born then.")
@click.option("--accession", "accession_number", default="", metavar="A", help="With this number.")
@click.option("--modality", default="", metavar="M", help="With images of this kind, such as CT.")
@click.option(
    "--date",
    "study_date",
    default="",
    metavar="DAYS",
    help="Of this day, or of days: 2026-01-01..2026-01-31, 2026-01-01.. or ..2026-01-31.",
)
@json_option
@pass_session
def studies(
    session: Session,
    peer: str | None,
    everything: bool,
    to_check: bool,
    limit: int | None,
    name: str,
    patient_id: str,
    issuer: str,
    birth_date: str,
    accession_number: str,
    modality: str,
    study_date: str,
) -> None:
    """List our studies, or those that others announced to us; all, or those that you look for.

    A study in the state `to check` is shown with the reason, such as two patients in its images;
    it is not shared until you say `radmesh share`.
    """
    if (peer is not None) + everything + to_check > 1:
        raise click.UsageError("--peer, --all and --to-check exclude each other")
    if limit is None and not session.as_json:
        limit = _LISTED
    sought = {
        "name": name,
        "patient_id": patient_id,
        "issuer": issuer,
        "birth_date": birth_date,
        "accession_number": accession_number,
        "modality": modality,
        "study_date": study_date,
    }
    wanted = {"peer": peer, "all": everything, "to_check": to_check, "limit": limit, **sought}
    found = session.call("studies", wanted, listed="studies")
    if session.as_json:
        output.emit_json(found)
        return
    if not found["studies"]:
        if any(sought.values()):
            output.note("no such study was found")
        elif peer is not None:
            output.note(f"{phrases.clean(peer)} has announced no study to us")
        elif to_check:
            output.note("no study waits to be checked")
        else:
            output.note("no study is here yet: see `radmesh ingest --help`")
        return
    for line in study_table(found["studies"], with_place=peer is not None or everything):
        output.say(line)
    more = found["total"] - len(found["studies"])
    if more:
        output.note(f"and {more} older: see --limit")


def study_table(studies: list[dict[str, Any]], *, with_place: bool) -> list[str]:
    """Studies for people: a line each, and its Study Instance UID, to copy, below."""
    columns = [
        output.Column("DATE"),
        output.Column("KIND"),
        output.Column("SERIES", right=True),
        output.Column("IMAGES", right=True),
        output.Column("SIZE", right=True),
        output.Column("STATE"),
        output.Column("DESCRIPTION", flexible=True),
        output.Column("PATIENT", flexible=True),
    ]
    if with_place:
        columns.insert(0, output.Column("AT", flexible=True))
    rows: list[list[object]] = []
    for study in studies:
        row: list[object] = [
            shown_date(study["study_date"]),
            "/".join(study["modalities"]) or "-",
            study["series"],
            study["instances"],
            "-" if study["indexed"] else phrases.size(study["bytes"]),
            _state(study),
            study["description"] or "-",
            study["patient_name"] or study["patient_id"] or "-",
        ]
        rows.append([study["where"], *row] if with_place else row)
    lines = output.table(columns, rows)
    shown = [lines[0]]
    for line, study in zip(lines[1:], studies, strict=True):
        shown += [line, f"  {phrases.clean(study['study'])}"]
        if study["indexed"]:
            shown.append(f"  {_indexed(study)}")
        why = "; ".join(one for one in (study["to_check"], study["note"]) if one)
        if why:
            shown.append(f"  look at it: {phrases.clean(why)}")
        for key, what in (("shared_to", "shared with"), ("withdrawn_from", "withdrawn from")):
            if study[key]:
                shown.append(f"  {what} {phrases.clean(', '.join(study[key]))}")
        if study["grew"]:
            shown.append(f"  {_grew(study['grew'])}")
    return shown


def _indexed(study: dict[str, Any]) -> str:
    if study["where"] == "own":
        return f"not here but in the archive {phrases.clean(study['indexed'])}"
    return "in an archive there, which takes a while"


def _grew(growth: dict[str, Any]) -> str:
    return (
        f"grew {growth['before']} -> {phrases.count(growth['instances'], 'image')}, "
        f"{phrases.moment(growth['time'] / 1000)}"
    )


def _state(study: dict[str, Any]) -> str:
    if study["where"] == "own":
        return str(study["state"])
    return "held here" if study["held"] else str(study["state"])


def shown_date(text: str) -> str:
    """A DICOM date for people; anything else as it stands."""
    if len(text) == 8 and text.isascii() and text.isdigit():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text or "-"


@click.command()
@click.argument("study")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--mode",
    metavar="OCTAL",
    help="Permissions of the files, such as 0640; by default 0600, or as config.toml says.",
)
@json_option
@pass_session
def export(session: Session, study: str, directory: Path, mode: str | None) -> None:
    """Write the files of STUDY to DIRECTORY, byte for byte as they came in.

    Files of the study that are there already keep their names and are not written again.
    """
    with ProgressBar("exporting") as bar:
        exported = session.call(
            "export",
            {"study": study, "directory": str(Path.cwd() / directory), "mode": mode},
            lambda event: bar.images("exporting", event),
        )
    if session.as_json:
        output.emit_json(exported)
        return
    output.say(
        f"wrote {phrases.count(exported['files'], 'file')} ({phrases.size(exported['bytes'])}) "
        f"to {exported['directory']}, each checked against its digest"
    )
    if exported["to_check"]:
        output.note(f"look at it: {phrases.clean(exported['to_check'])}")
