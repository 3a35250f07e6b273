"""`radmesh objection` and `radmesh consent`: what patients want."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session

_USES = click.Choice(["care", "research", "all"])


def _issuer_option(function: Any) -> Any:
    return click.option(
        "--issuer",
        default="",
        metavar="I",
        help="Who issued the Patient ID; without it, the ID of every issuer is meant.",
    )(function)


@click.group()
def objection() -> None:
    """Patients who object to the exchange of their studies.

    An objection holds at once, for announcing, finding and fetching, and for studies that come
    later. A facility is told what it would be told if there were no such study.
    """


@objection.command("add")
@click.argument("patient")
@_issuer_option
@click.option("--against", default="all", show_default=True, metavar="PEER|all")
@click.option("--for", "uses", type=_USES, default="all", show_default=True)
@json_option
@pass_session
def add_objection(session: Session, patient: str, issuer: str, against: str, uses: str) -> None:
    """Note that PATIENT, a Patient ID, objects."""
    _show(
        session,
        session.call(
            "objection.add",
            {"patient": patient, "issuer": issuer, "peer": against, "uses": uses},
        ),
        "objection {number} holds now: against {peer}, for {uses}",
    )


@objection.command("end")
@click.argument("patient")
@click.option("--issuer", metavar="I", help="Who issued the Patient ID.")
@click.option("--against", metavar="PEER|all")
@click.option("--for", "uses", type=_USES)
@json_option
@pass_session
def end_objection(
    session: Session, patient: str, issuer: str | None, against: str | None, uses: str | None
) -> None:
    """End the objection of PATIENT; if there are several, say which by the options."""
    _show(
        session,
        session.call(
            "objection.end",
            {"patient": patient, "issuer": issuer, "peer": against, "uses": uses},
        ),
        "objection {number} ended: against {peer}, for {uses}",
    )


@objection.command("list")
@json_option
@pass_session
def list_objections(session: Session) -> None:
    """List objections, ended ones as well."""
    _list(session, session.call("objection.list"), "objections", "AGAINST")


@click.group()
def consent() -> None:
    """Consents of patients on file, for rules with the condition consent=yes."""


@consent.command("add")
@click.argument("patient")
@_issuer_option
@click.option("--to", "peer", default="all", show_default=True, metavar="PEER|all")
@click.option("--for", "uses", type=_USES, default="all", show_default=True)
@json_option
@pass_session
def add_consent(session: Session, patient: str, issuer: str, peer: str, uses: str) -> None:
    """Note that PATIENT, a Patient ID, has consented."""
    _show(
        session,
        session.call(
            "consent.add", {"patient": patient, "issuer": issuer, "peer": peer, "uses": uses}
        ),
        "consent {number} is on file now: to {peer}, for {uses}",
    )


@consent.command("end")
@click.argument("patient")
@click.option("--issuer", metavar="I", help="Who issued the Patient ID.")
@click.option("--to", "peer", metavar="PEER|all")
@click.option("--for", "uses", type=_USES)
@json_option
@pass_session
def end_consent(
    session: Session, patient: str, issuer: str | None, peer: str | None, uses: str | None
) -> None:
    """End the consent of PATIENT, at once; if there are several, say which by the options."""
    _show(
        session,
        session.call(
            "consent.end", {"patient": patient, "issuer": issuer, "peer": peer, "uses": uses}
        ),
        "consent {number} ended: to {peer}, for {uses}",
    )


@consent.command("list")
@json_option
@pass_session
def list_consents(session: Session) -> None:
    """List consents, ended ones as well."""
    _list(session, session.call("consent.list"), "consents", "TO")


def _show(session: Session, found: dict[str, Any], sentence: str) -> None:
    if session.as_json:
        output.emit_json(found)
        return
    output.say(phrases.clean(sentence.format(**found)))


def _list(session: Session, found: dict[str, Any], what: str, peer_title: str) -> None:
    if session.as_json:
        output.emit_json(found)
        return
    if not found[what]:
        output.note(f"there are no {what}")
        return
    columns = (
        output.Column("NO", right=True),
        output.Column("PATIENT"),
        output.Column("ISSUER"),
        output.Column(peer_title, flexible=True),
        output.Column("FOR"),
        output.Column("SINCE"),
        output.Column("ENDED"),
    )
    rows = [
        (
            one["number"],
            one["patient"],
            one["issuer"] or "any",
            one["peer"],
            one["uses"],
            phrases.moment(one["made"]),
            phrases.moment(one["ended"]) if one["ended"] else "",
        )
        for one in found[what]
    ]
    for line in output.table(columns, rows):
        output.say(line)
