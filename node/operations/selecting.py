"""Reads from an operation's parameters which part of the log they select."""

from dataclasses import dataclass

from node.app import Node
from node.errors import ExitCode, NodeError
from node.reports.selection import Selection, parse_moment


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """Parameters that select a part of the log, in the form that people write; null is all."""

    since: str | None = None
    until: str | None = None
    peer: str | None = None
    study: str | None = None


@dataclass(frozen=True, kw_only=True)
class Selected(Narrowed):
    """The same parameters, and a patient."""

    patient: str | None = None


def read_selection(node: Node, asked: Narrowed) -> Selection:
    """The selection by these parameters; an empty one excludes nothing.

    Raises:
        NodeError: a moment is malformed, the end is before the beginning, or no such peer,
            study, patient or person is known.
    """
    since, until, peer, study = asked.since, asked.until, asked.peer, asked.study
    patient = asked.patient if isinstance(asked, Selected) else None
    first = parse_moment(since, end=False) if since else None
    end = parse_moment(until, end=True) if until else None
    if first is not None and end is not None and end <= first:
        raise NodeError(f"{until} is before {since}", code=ExitCode.USAGE)
    return Selection(
        since=first,
        until=end,
        peer=node.peers.find(peer).facility_key.hex() if peer else "",
        study=find_study(node, study) if study else "",
        patient=find_patient(node, patient) if patient else "",
    )


def find_study(node: Node, wanted: str) -> str:
    """The Study Instance UID of a study that is here or that an opening of the log names.

    Raises:
        NodeError: there is no such study.
    """
    uid = wanted.strip()
    if node.audit.evidence.entries_about(study=uid):
        return uid
    return node.catalog.find_study(uid).study_uid


def find_patient(node: Node, wanted: str) -> str:
    """The identity of a patient whom an opening of the log names.

    Raises:
        NodeError: there is no such patient; the text does not repeat the identity.
    """
    identity = wanted.strip()
    if not identity or not node.audit.evidence.entries_about(patient=identity):
        raise NodeError(
            "the log has nothing that names this patient",
            hint="give the Patient ID as it stands in the images; what was erased, or never "
            "came in here, cannot be found",
            code=ExitCode.NOT_FOUND,
        )
    return identity
