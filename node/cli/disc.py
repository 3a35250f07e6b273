"""`radmesh disc`: what is on discs, taking it, and writing studies to a disc."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.progress import ProgressBar
from node.cli.session import Session, json_option, pass_session
from node.cli.studies import shown_date, take_in
from node.errors import ExitCode, NodeError

_SHOWN = 20
"""Files named for a disc; `--json` names more."""

_PATHS = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)


@click.group()
def disc() -> None:
    """Discs that patients bring or take along: folders, ZIP files and ISO images.

    A CD or a stick is the folder where it is mounted. Several discs can be named at once. The files
    count: a DICOMDIR that is broken or missing does no harm.
    """


@disc.command()
@_PATHS
@json_option
@pass_session
def look(session: Session, paths: tuple[Path, ...]) -> int:
    """Show the patients and studies on discs. Nothing is taken, and nothing is logged."""
    found = _look(session, paths)
    if session.as_json:
        output.emit_json(found)
    else:
        _show(found["discs"])
    return _code(found["discs"])


@disc.command()
@_PATHS
@click.option(
    "--patient", "patients", multiple=True, metavar="ID", help="Only of the patient with this ID."
)
@click.option("--study", "studies", multiple=True, metavar="UID", help="Only this study.")
@click.option("--yes", is_flag=True, help="Take what is shown without asking.")
@json_option
@pass_session
def take(
    session: Session,
    paths: tuple[Path, ...],
    patients: tuple[str, ...],
    studies: tuple[str, ...],
    yes: bool,
) -> int:
    """Show the patients and studies on discs, ask, and take them into the node.

    Without --patient and --study, all studies are taken. What cannot be taken stays on the disc
    alone. Exit codes are those of `radmesh ingest`.
    """
    if session.as_json and not yes:
        raise click.UsageError("--json asks nothing: give --yes as well")
    found = _look(session, paths)
    chosen = _chosen(found["discs"], patients, studies)
    if not chosen:
        raise NodeError(
            "there is no such study on the discs",
            hint="`radmesh disc look` shows what there is",
            code=ExitCode.NOT_FOUND,
        )
    if not session.as_json:
        _show(found["discs"])
    if not yes:
        if not sys.stdin.isatty():
            raise NodeError(
                "nothing was taken: nobody is at a terminal who could be asked",
                hint="give --yes to take what is shown without being asked",
                code=ExitCode.USAGE,
            )
        what = phrases.count(len(chosen), "study", "studies")
        click.confirm(f"take {what}?", abort=True, err=True)
    # By name: what is taken is what was shown, even if somebody changes the disc meanwhile.
    return take_in(session, _absolute(paths), patients=patients, studies=sorted(chosen))


@disc.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("studies", nargs=-1, required=True)
@click.option(
    "--for", "recipient", required=True, metavar="TEXT",
    help="Who gets the disc, such as 'Dr. Weber, Bern'. It is logged.",
)  # fmt: skip
@click.option(
    "--purpose", default="treatment", show_default=True,
    help="Why: treatment, second-opinion, research, operations, or a code of HL7, such as PATRQT "
    "for a patient who asks for it.",
)  # fmt: skip
@click.option(
    "--form",
    type=click.Choice(["folder", "zip", "iso"]),
    help="By default as TARGET ends: .zip, .iso, else a folder.",
)
@click.option(
    "--mode",
    metavar="OCTAL",
    help="Permissions of the files, such as 0640; by default 0600, or as config.toml says.",
)
@json_option
@pass_session
def write(
    session: Session,
    target: Path,
    studies: tuple[str, ...],
    recipient: str,
    purpose: str,
    form: str | None,
    mode: str | None,
) -> None:
    """Write STUDIES to TARGET as a disc: images, DICOMDIR, README.TXT and INDEX.HTM.

    TARGET is a new or empty folder, such as that of a stick, or a new file. The images are byte for
    byte as they came in. What leaves by a disc is a disclosure, and an entry of the log before.
    """
    with ProgressBar("writing") as bar:
        written = session.call(
            "disc.write",
            {
                "target": str(Path.cwd() / target),
                "studies": list(studies),
                "recipient": recipient,
                "purpose": purpose,
                "form": form,
                "mode": mode,
            },
            lambda event: bar.images("writing", event),
        )
    if session.as_json:
        output.emit_json(written)
        return
    output.say(
        f"wrote {phrases.count(written['files'], 'image')} of "
        f"{phrases.count(len(written['studies']), 'study', 'studies')} "
        f"({phrases.size(written['bytes'])}) to {phrases.clean(written['target'])}, each checked "
        "against its digest"
    )
    if written["beyond_profile"]:
        count = phrases.count(sum(written["beyond_profile"].values()), "image")
        output.note(
            f"{count} not as the general purpose profiles of PS3.11 want it, so not every viewer "
            f"opens them ({_counted(written['beyond_profile'])}); README.TXT says so"
        )
    if written["made_up"]:
        output.note(
            "the DICOMDIR must say more than some images do; made up in its records, and in no "
            f"image: {_counted(written['made_up'])}"
        )
    for study, why in written["to_check"].items():
        output.note(f"look at {phrases.clean(study)}: {phrases.clean(why)}")


def _counted(numbers: dict[str, int]) -> str:
    return ", ".join(f"{phrases.clean(name)} {number}" for name, number in sorted(numbers.items()))


def _absolute(paths: Sequence[Path]) -> list[Path]:
    return [Path.cwd() / path for path in paths]


def _look(session: Session, paths: Sequence[Path]) -> dict[str, Any]:
    with ProgressBar("looking") as bar:
        return session.call(
            "disc.look",
            {"paths": [str(path) for path in _absolute(paths)]},
            lambda event: bar.update("looking", event["bytes"], 0, f"{event['files']} files"),
        )


def _chosen(
    discs: list[dict[str, Any]], patients: Sequence[str], studies: Sequence[str]
) -> set[str]:
    """UIDs of the studies that are to be taken."""
    return {
        study["study"]
        for one in discs
        for patient in one["patients"]
        for study in patient["studies"]
        if (not patients or patient["patient_id"] in patients)
        and (not studies or study["study"] in studies)
    }


def _show(discs: list[dict[str, Any]]) -> None:
    for one in discs:
        output.say(f"{phrases.clean(one['path'])} ({_directory(one)})")
        for patient in one["patients"]:
            output.say(f"  {_patient(patient)}")
            for line in _studies(patient["studies"]):
                output.say(f"    {line}")
        if not one["patients"]:
            output.say("  no images")
        if one["other"]:
            output.say(f"  and {phrases.count(one['other'], 'file')} of another kind")
        for title, count, lines in (
            (
                "listed in a DICOMDIR and missing",
                one["missing_count"],
                one["missing"],
            ),
            (
                "cannot be taken",
                one["problem_count"],
                [f"{each['file']} {each['reason']}" for each in one["problems"]],
            ),
        ):
            if count:
                output.say(f"  {title}: {phrases.count(count, 'file')}")
                for line in lines[:_SHOWN]:
                    output.say(f"    {phrases.clean(line)}")
                if count > _SHOWN:
                    output.say(f"    and {count - _SHOWN} more: see --json")


def _directory(one: dict[str, Any]) -> str:
    form = {"zip": "ZIP file", "iso": "ISO image"}.get(one["form"], one["form"])
    if not one["directories"]:
        return f"{form}, no DICOMDIR"
    found = one["listed"] - one["missing_count"]
    which = "DICOMDIR lists" if one["directories"] == 1 else f"{one['directories']} DICOMDIRs list"
    return f"{form}, {which} {one['listed']} files, of which {found} are there"


def _patient(patient: dict[str, Any]) -> str:
    number = patient["patient_id"] or "no Patient ID"
    if patient["issuer"]:
        number += f" of {patient['issuer']}"
    parts = [patient["name"] or "no name", number]
    if patient["birth_date"]:
        parts.append(f"born {shown_date(patient['birth_date'])}")
    if patient["sex"]:
        parts.append(patient["sex"])
    return phrases.clean(", ".join(parts))


def _studies(studies: list[dict[str, Any]]) -> list[str]:
    columns = (
        output.Column("DATE"),
        output.Column("KIND"),
        output.Column("SERIES", right=True),
        output.Column("IMAGES", right=True),
        output.Column("SIZE", right=True),
        output.Column("HERE", right=True),
        output.Column("DESCRIPTION", flexible=True),
        output.Column("STUDY"),
    )
    rows = [
        (
            shown_date(one["date"]),
            "/".join(one["modalities"]) or "-",
            one["series"],
            one["instances"],
            phrases.size(one["bytes"]),
            _here(one),
            one["description"] or "-",
            one["study"],
        )
        for one in studies
    ]
    return output.table(columns, rows)


def _here(study: dict[str, Any]) -> str:
    if not study["here"]:
        return "no"
    return "all" if study["here"] == study["instances"] else f"{study['here']}"


def _code(discs: list[dict[str, Any]]) -> int:
    is_partial = any(one["missing_count"] or one["problem_count"] for one in discs)
    return ExitCode.PARTLY if is_partial else ExitCode.OK
