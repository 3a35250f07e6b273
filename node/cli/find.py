"""`radmesh find`: asking a facility for the studies of one patient."""

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.cli.studies import study_table


@click.command()
@click.option("--at", "peer", required=True, metavar="NAME", help="The facility to ask.")
@click.option("--patient-id", default="", metavar="ID", help="The Patient ID, with --issuer.")
@click.option("--issuer", default="", metavar="I", help="Who gave it, as the images write it.")
@click.option("--name", default="", metavar="N", help="FAMILY^GIVEN, with --born and --sex.")
@click.option("--born", "birth_date", default="", metavar="DAY", help="Birth date: 1970-01-31.")
@click.option("--sex", default="", metavar="S", help="M, F or O.")
@click.option(
    "--purpose",
    default="treatment",
    show_default=True,
    help="Why: treatment, second-opinion, research, operations, or an HL7 code. Both sides log it.",
)
@json_option
@pass_session
def find(
    session: Session,
    peer: str,
    patient_id: str,
    issuer: str,
    name: str,
    birth_date: str,
    sex: str,
    purpose: str,
) -> None:
    """Ask a facility which studies of one patient it has.

    The patient is named wholly: by Patient ID and issuer, or by name, birth date and sex. The
    facility learns that you ask, and both logs say so. What is found can be fetched for a day.
    """
    asked = {
        "peer": peer,
        "patient_id": patient_id,
        "issuer": issuer,
        "name": name,
        "birth_date": birth_date,
        "sex": sex,
        "purpose": purpose,
    }
    found = session.call("find", asked)
    if session.as_json:
        output.emit_json(found)
        return
    there = phrases.clean(found["peer"])
    if not found["studies"]:
        output.note(f"{there} tells of no study of this patient")
        return
    for line in study_table(found["studies"], with_place=True):
        output.say(line)
    output.note(f"fetch one with `radmesh fetch STUDY --from {there}`, within a day")
