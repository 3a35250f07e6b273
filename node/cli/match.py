"""`radmesh match`: which patient of ours a study from elsewhere is of."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError


@click.command()
@click.argument("study", default="")
@click.option("--patient-id", default="", metavar="ID", help="The Patient ID here.")
@click.option("--issuer", default="", metavar="I", help="Who gave it; our own, if it is not said.")
@click.option("--name", default="", metavar="N", help="FAMILY^GIVEN, as our systems have it.")
@click.option("--born", "birth_date", default="", metavar="DAY", help="Birth date: 1970-01-31.")
@click.option("--sex", default="", metavar="S", help="M, F or O.")
@click.option(
    "--accession", "accession_number", default="", metavar="A", help="Of an order of ours, if any."
)
@click.option("--temporary", is_flag=True, help="Let it go under a temporary Patient ID, for now.")
@click.option("--several", is_flag=True, help="The patients that its images name are one.")
@click.option("--undo", is_flag=True, help="Take the match back: the study waits again.")
@json_option
@pass_session
def match(
    session: Session,
    study: str,
    patient_id: str,
    issuer: str,
    name: str,
    birth_date: str,
    sex: str,
    accession_number: str,
    temporary: bool,
    several: bool,
    undo: bool,
) -> None:
    """List the studies from elsewhere that wait for their patient here; say whose STUDY is.

    A study from elsewhere goes to our archives when it is known which of our patients it is of, and
    then under that Patient ID. The list shows who may be meant; a name alone never matches.
    """
    asked = {
        "study": study,
        "patient_id": patient_id,
        "issuer": issuer,
        "name": name,
        "birth_date": birth_date,
        "sex": sex,
        "accession_number": accession_number,
        "temporary": temporary,
        "several": several,
    }
    is_change = any(value for option, value in asked.items() if option != "study")
    if (is_change or undo) and not study:
        raise NodeError("say which study is meant", code=ExitCode.USAGE)
    if undo and is_change:
        raise NodeError("--undo stands alone", code=ExitCode.USAGE)
    if undo:
        found = session.call("match.undo", {"study": study})
        _show(session, found, f"{found['study']} waits again, and goes to no archive here")
    elif is_change:
        found = session.call("match.set", asked)
        _show(session, found, f"{found['study']} is {_as_matched(found['match'])}")
    else:
        _list(session, study)


def _show(session: Session, found: dict[str, Any], sentence: str) -> None:
    if session.as_json:
        output.emit_json(found)
        return
    output.say(phrases.clean(sentence))


def _as_matched(match: dict[str, Any]) -> str:
    issuer = f" of {match['issuer']}" if match["issuer"] else ""
    kind = "under the temporary Patient ID" if match["temporary"] else "of the patient"
    return f"{kind} {match['patient_id']}{issuer}"


def _list(session: Session, study: str) -> None:
    found = session.call("match.list", {"study": study}, listed="studies")
    if session.as_json:
        output.emit_json(found)
        return
    for one in found["studies"]:
        for line in _lines(one):
            output.say(line)
    if found["studies"]:
        output.note("match one with `radmesh match STUDY --patient-id ID`, or --temporary")
    elif study and found["match"] is not None:
        output.say(phrases.clean(f"{found['study']} is {_as_matched(found['match'])}"))
    else:
        output.note("it waits for nobody" if study else "no study waits for its patient here")


_COLUMNS = (
    output.Column(""),
    output.Column("PATIENT ID"),
    output.Column("ISSUER"),
    output.Column("NAME"),
    output.Column("BORN"),
    output.Column("SEX"),
    output.Column("", flexible=True),
)


def _lines(one: dict[str, Any]) -> list[str]:
    kinds = ", ".join(one["modalities"]) or "no modality"
    what = f", {one['description']}" if one["description"] else ""
    day = one["study_date"] or "without a date"
    match = "" if one["match"] is None else f"; now {_as_matched(one['match'])}"
    rows = [_row("there", one["patient"], "")]
    rows += [
        _row("there, too", each, "")
        for each in one["patients"]
        if each["patient_id"] != one["patient"]["patient_id"]
    ]
    rows += [_row("here", each, _why(each)) for each in one["proposals"]]
    return [
        phrases.clean(f"{one['study']}  from {one['origin']}: {kinds}, {day}{what}"),
        phrases.clean(f"   {one['why']}{match}"),
        *(f"   {line}" for line in output.table(_COLUMNS, rows)),
        *(phrases.clean(f"   not asked: {why}") for why in one["not_asked"]),
    ]


def _row(where: str, patient: dict[str, Any], why: str) -> tuple[str, ...]:
    texts = (
        patient.get(name, "") for name in ("patient_id", "issuer", "name", "birth_date", "sex")
    )
    return (where, *(phrases.clean(text) for text in texts), phrases.clean(why))


def _why(proposal: dict[str, Any]) -> str:
    order = proposal["accession_number"]
    return f"{proposal['why']}, order {order}" if order else str(proposal["why"])
