"""The meaning of each entry of the log in the terms of DICOM PS3.15 section A.5.

FHIR's AuditEvent has the same terms, so both formats are written from an `AuditMessage`.
The table `EVENTS` is in docs/reports.md, too; a test compares the two.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from keys.canonical import canonical_json
from node.callers import parts_of
from node.reports.facilities import Facilities, Facility
from node.reports.records import Record, Subject
from protocol.log.entry import ABOUT_PERSONS

CODES = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110102": "Begin Transferring DICOM Instances",
    "110104": "DICOM Instances Transferred",
    "110105": "DICOM Study Deleted",
    "110106": "Export",
    "110107": "Import",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
    "110120": "Application Start",
    "110121": "Application Stop",
    "110122": "Login",
    "110123": "Logout",
    "110126": "Node Authentication",
    "110127": "Emergency Override Started",
    "110129": "Security Configuration",
    "110132": "Use of Restricted Function",
    "110133": "Audit Recording Stopped",
    "110135": "Object Security Attributes Changed",
    "110136": "Security Roles Changed",
    "110137": "User Security Attributes Changed",
    "110138": "Emergency Override Stopped",
    "110147": "Access Control Decision",
    "110150": "Application",
    "110151": "Application Launcher",
    "110152": "Destination Role ID",
    "110153": "Source Role ID",
}
"""The codes of DICOM (PS3.16 CID 400, 401, 402, 403) used here, with their meanings."""

SOURCE, DESTINATION, APPLICATION, LAUNCHER = "110153", "110152", "110150", "110151"

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"
"""Outcomes (PS3.15 section A.5.1)."""

_OUTCOMES = {"success": SUCCESS, "refused": MINOR_FAILURE, "failed": SERIOUS_FAILURE}

MESSAGE_STUDIES = 50
"""Most studies in one message: collectors may cut messages longer than 32 KiB, and an entry
may be about hundreds of studies."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """The meaning of entries of one type.

    Attributes:
        event: code of the event (CID 400).
        kind: code of its type (CID 401, 403), or "".
        action: C, R, U, D or E.
        lifecycle: life cycle of its studies and patients (PS3.15 section A.5.1), or "".
        outcome: the outcome, or "" where it follows from that of the entry.
    """

    event: str
    kind: str = ""
    action: str = "E"
    lifecycle: str = ""
    outcome: str = ""


EVENTS: dict[str, Meaning] = {
    "init": Meaning(event="110113", kind="110129", action="C"),
    "start": Meaning(event="110100", kind="110120"),
    "stop": Meaning(event="110100", kind="110121"),
    "ingest": Meaning(event="110107", action="C", lifecycle="2"),
    "trust-added": Meaning(event="110114", kind="110122"),
    "trust-granted": Meaning(event="110113", kind="110136", action="U"),
    "trust-ungranted": Meaning(event="110113", kind="110136", action="U"),
    "rule-added": Meaning(event="110113", kind="110137", action="U"),
    "rule-removed": Meaning(event="110113", kind="110137", action="U"),
    "grants-told": Meaning(event="110113", kind="110137", action="R"),
    "grants-heard": Meaning(event="110113", kind="110137", action="R"),
    "retention-applied": Meaning(event="110113", kind="110132", action="D"),
    "objection-added": Meaning(event="110113", kind="110135", action="U"),
    "objection-ended": Meaning(event="110113", kind="110135", action="U"),
    "consent-added": Meaning(event="110113", kind="110135", action="U"),
    "consent-ended": Meaning(event="110113", kind="110135", action="U"),
    "approval-asked": Meaning(event="110113", kind="110147"),
    "approved": Meaning(event="110113", kind="110147"),
    "denied": Meaning(event="110113", kind="110147", outcome=MINOR_FAILURE),
    "emergency-begun": Meaning(event="110113", kind="110127"),
    "emergency-ended": Meaning(event="110113", kind="110138"),
    "emergency-overdue": Meaning(event="110113", kind="110132", outcome=MINOR_FAILURE),
    "emergency-reviewed": Meaning(event="110113", kind="110147"),
    "trust-revoked": Meaning(event="110114", kind="110123"),
    "pairing-opened": Meaning(event="110113", kind="110136", action="U"),
    "pairing-closed": Meaning(event="110113", kind="110136", action="U"),
    "pairing-failed": Meaning(event="110113", kind="110126", outcome=MINOR_FAILURE),
    "pairing-declined": Meaning(event="110114", kind="110122"),
    "card-updated": Meaning(event="110113", kind="110129", action="U"),
    "announced": Meaning(event="110112", lifecycle="11"),
    "requested": Meaning(event="110112", lifecycle="6"),
    "find-asked": Meaning(event="110112", lifecycle="6"),
    "find-answered": Meaning(event="110112", lifecycle="11"),
    "found": Meaning(event="110112", lifecycle="12"),
    "refused": Meaning(event="110113", kind="110147"),
    "disclosure-begun": Meaning(event="110102", lifecycle="11"),
    "disclosed": Meaning(event="110104", action="C", lifecycle="11"),
    "disclosure-failed": Meaning(event="110104", action="C", lifecycle="11"),
    "received": Meaning(event="110104", action="C", lifecycle="12"),
    "receive-failed": Meaning(event="110104", action="C", lifecycle="12"),
    "withdrawn": Meaning(event="110105", action="D", lifecycle="14"),
    "shared": Meaning(event="110113", kind="110135", action="U"),
    "withdrawn-from": Meaning(event="110113", kind="110135", action="U"),
    "shared-to": Meaning(event="110113", kind="110135", action="U"),
    "sharing-rule-added": Meaning(event="110113", kind="110129", action="U"),
    "sharing-rule-removed": Meaning(event="110113", kind="110129", action="U"),
    "torn-tail-cut": Meaning(event="110113", kind="110133", outcome=MINOR_FAILURE),
    "rotation": Meaning(event="110113", kind="110129", action="U"),
    "key-revoked": Meaning(event="110113", kind="110129", action="U", outcome=MINOR_FAILURE),
    "fork-seen": Meaning(event="110113", kind="110126", outcome=SERIOUS_FAILURE),
    "rollback-seen": Meaning(event="110113", kind="110126", outcome=SERIOUS_FAILURE),
    "key-contested": Meaning(event="110113", kind="110126", outcome=SERIOUS_FAILURE),
    "keys-sealed": Meaning(event="110113", kind="110129", action="U"),
    "facility-key-moved": Meaning(event="110113", kind="110129", action="U"),
    "reconciled": Meaning(event="110101", action="R"),
    "erased": Meaning(event="110113", kind="110132", action="D", lifecycle="15"),
    "log-exported": Meaning(event="110101", action="R"),
    "exported": Meaning(event="110106", action="R", lifecycle="11"),
    "discarded": Meaning(event="110105", action="D", lifecycle="15"),
    "hold-placed": Meaning(event="110113", kind="110135", action="U"),
    "hold-lifted": Meaning(event="110113", kind="110135", action="U"),
    "quarantine-taken": Meaning(event="110107", action="C", lifecycle="2"),
    "quarantine-dropped": Meaning(event="110105", action="D", lifecycle="15"),
    "recalled": Meaning(event="110113", kind="110135", outcome=MINOR_FAILURE),
    "recall-settled": Meaning(event="110113", kind="110135", action="U"),
    "person-added": Meaning(event="110113", kind="110136", action="C"),
    "person-changed": Meaning(event="110113", kind="110136", action="U"),
    "person-removed": Meaning(event="110113", kind="110136", action="D"),
    "two-person-rule": Meaning(event="110113", kind="110129", action="U"),
    "proposed": Meaning(event="110113", kind="110147"),
    "confirmed": Meaning(event="110113", kind="110147"),
    "declined": Meaning(event="110113", kind="110147"),
    "proposal-ended": Meaning(event="110113", kind="110147"),
    "offered": Meaning(event="110112", lifecycle="11"),
    "offer-heard": Meaning(event="110112", lifecycle="6"),
    "offer-answered": Meaning(event="110113", kind="110147"),
    "offer-ended": Meaning(event="110113", kind="110135", action="U"),
    "queried": Meaning(event="110112"),
    "retrieved": Meaning(event="110102"),
    "commitment-given": Meaning(event="110112", lifecycle="4"),
    "commitment-asked": Meaning(event="110112", lifecycle="4"),
    "commitment-heard": Meaning(event="110112", lifecycle="4"),
    "forward-asked": Meaning(event="110113", kind="110147"),
    "forward-dropped": Meaning(event="110113", kind="110147"),
    "forward-begun": Meaning(event="110102", lifecycle="11"),
    "forwarded": Meaning(event="110104", action="C", lifecycle="11"),
    "forward-failed": Meaning(event="110104", action="C", lifecycle="11"),
    "retrieve-begun": Meaning(event="110112"),
    "indexed": Meaning(event="110113", kind="110135", action="U"),
    "matched": Meaning(event="110113", kind="110135", action="U"),
    "match-undone": Meaning(event="110113", kind="110135", action="U"),
}
"""The meaning of each entry type. Types that are missing here have no message: `receipt`
repeats `disclosed` and `received`, `stored` and what is told of it adds to them, and a heartbeat is
no event."""

_TRANSFERS = frozenset(
    (
        "announced", "requested", "refused", "disclosure-begun", "disclosed",
        "disclosure-failed", "received", "receive-failed", "find-asked", "find-answered", "found",
    )
)  # fmt: skip
_INCOMING = frozenset(("received", "receive-failed", "find-asked", "found"))
_QUERY = "110112"


@dataclass(frozen=True, kw_only=True)
class Agent:
    """A facility or person that took part in the event.

    Attributes:
        name: name for people.
        identity: fingerprint of a facility, name of a person, or `operator`.
        node: PeerID, or "".
        role: a code of `CODES`, or "".
        is_requestor: whether it asked for the event.
        access_point: network address and its kind; ("", "") for a person.
        person: for a person, whether `identity` is the `name` or the `commitment`.
        acts_as: the role of the node's people in which a person acts, or "".
    """

    name: str
    identity: str
    node: str = ""
    role: str = ""
    is_requestor: bool
    access_point: tuple[str, str] = ("", "")
    person: str = ""
    acts_as: str = ""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object of the event: a study, a patient, an instance, a person, a facility or a query.

    Attributes:
        kind: `study`, `patient`, `instance`, `person`, `facility` or `query`.
        identity: the identity in clear, or the commitment when `is_open` is false.
        name: name for people; never a patient's.
        is_open: whether `identity` is in clear.
        query: the content of a query.
    """

    kind: str
    identity: str
    name: str
    is_open: bool = True
    query: bytes = b""


@dataclass(frozen=True, kw_only=True)
class AuditMessage:
    """The message of one entry; very many studies or several patients need several messages.

    Attributes:
        record: the entry.
        meaning: the meaning of its type.
        outcome: `SUCCESS`, `MINOR_FAILURE` or `SERIOUS_FAILURE`.
        origin: the name of the log.
        own: our facility.
        agents: the facilities and persons that took part.
        things: the objects of the event.
        part: number of this message among those of the entry, from 0.
    """

    record: Record
    meaning: Meaning
    outcome: str
    origin: str
    own: Facility
    agents: tuple[Agent, ...]
    things: tuple[Thing, ...] = field(default=())
    part: int = 0

    @property
    def reference(self) -> str:
        """The log and the place of the entry in it, as a URI reference."""
        return f"{self.origin}#{self.record.index}"

    def of_kind(self, *kinds: str) -> list[Thing]:
        """Its objects of these kinds."""
        return [thing for thing in self.things if thing.kind in kinds]


def audit_messages(
    record: Record, facilities: Facilities, origin: str, *, persons: bool = False
) -> Iterator[AuditMessage]:
    """The messages of an entry: none, one, or several, each with a part of its studies or
    with one of its patients.

    Args:
        record: the entry.
        facilities: the facilities by their keys.
        origin: the name of the log.
        persons: whether our people are named; otherwise only their commitments are there.
    """
    if not persons:
        record = _without_persons(record)
    meaning = EVENTS.get(record.type)
    if meaning is None:
        return
    whole = AuditMessage(
        record=record,
        meaning=meaning,
        outcome=meaning.outcome or _OUTCOMES.get(record.entry["outcome"], SERIOUS_FAILURE),
        origin=origin,
        own=facilities.own,
        agents=tuple(_agents(record, facilities)),
    )
    about = [
        Thing(
            kind=subject.kind,
            identity=subject.commitment if subject.value is None else subject.value,
            name=_NAMES.get(subject.kind, subject.kind),
            is_open=subject.value is not None,
        )
        for subject in record.subjects
        if subject.kind not in ("person", "facts", "asker", "message", "note")
    ]
    others = _others(record, facilities, about)
    if record.type in ABOUT_PERSONS:
        others += [_concerned(subject) for subject in record.of_kind("person")[:1]]
    for part, chosen in enumerate(_parts(about)):
        yield replace(whole, things=(*others, *chosen), part=part)


def _parts(about: list[Thing]) -> Iterator[list[Thing]]:
    """Split the objects by message: each may have many studies, but one patient (PS3.15
    section A.5.3)."""
    patients = [thing for thing in about if thing.kind == "patient"]
    if len(patients) > 1:
        rest = [thing for thing in about if thing.kind != "patient"]
        yield from ([*rest, patient] for patient in patients)
        return
    for start in range(0, max(len(about), 1), MESSAGE_STUDIES):
        yield about[start : start + MESSAGE_STUDIES]


_NO_NAME = "a person whose name is not here"

_NAMES = {"study": "study", "patient": "the name is not in the log", "instance": "instance"}


def _agents(record: Record, facilities: Facilities) -> Iterator[Agent]:
    own, peer = facilities.own, record.entry["peer"]
    asked = record.of_kind("person")[1 if record.type in ABOUT_PERSONS else 0 :]
    persons = [_person(subject) for subject in asked]
    if record.type in _TRANSFERS and peer:
        yield from _transfer_agents(record, own, facilities.of(peer))
        yield from persons
        return
    is_operator = record.entry["actor"] == "operator"
    role = APPLICATION if record.type in ("start", "stop") else ""
    if record.type == "ingest":
        role = DESTINATION
    yield _node(own, role=role, is_requestor=not is_operator)
    yield from persons
    if is_operator and not persons:
        yield Agent(name="operator of the node", identity="operator", is_requestor=True)
    if record.type in ("trust-added", "trust-revoked") and peer:
        yield _node(facilities.of(peer), role="", is_requestor=False)


def _person(subject: Subject) -> Agent:
    """The person who asked; identified by the commitment if the name was erased."""
    if subject.value is None:
        name, identity = _NO_NAME, subject.commitment
        return Agent(name=name, identity=identity, is_requestor=True, person="commitment")
    identity, role, display = parts_of(subject.value)
    return Agent(
        name=display or identity,
        identity=identity,
        is_requestor=True,
        person="name",
        acts_as=role,
    )


def _concerned(subject: Subject) -> Thing:
    """The person of the list whom an entry is about."""
    if subject.value is None:
        return Thing(kind="person", identity=subject.commitment, name=_NO_NAME, is_open=False)
    identity, _, display = parts_of(subject.value)
    return Thing(kind="person", identity=identity, name=display or identity)


def _without_persons(record: Record) -> Record:
    """The entry as if the names of our people were erased."""
    if all(subject.value is None for subject in record.of_kind("person")):
        return record
    subjects = tuple(
        replace(subject, value=None) if subject.kind == "person" else subject
        for subject in record.subjects
    )
    return replace(record, subjects=subjects)


def _transfer_agents(record: Record, own: Facility, peer: Facility) -> Iterator[Agent]:
    """Source and destination; in a query, the asking side is the source (PS3.15 section A.5.3)."""
    is_incoming = record.type in _INCOMING or record.details.get("direction") == "in"
    recipient, sender = (own, peer) if is_incoming else (peer, own)
    first, second = (
        (recipient, sender)
        if EVENTS[record.type].event == _QUERY
        else (
            sender,
            recipient,
        )
    )
    yield _node(first, role=SOURCE, is_requestor=first is recipient)
    yield _node(second, role=DESTINATION, is_requestor=second is recipient)


def _node(facility: Facility, *, role: str, is_requestor: bool) -> Agent:
    return Agent(
        name=facility.name,
        identity=facility.fingerprint,
        node=facility.node,
        role=role,
        is_requestor=is_requestor,
        access_point=facility.access_point,
    )


def _others(record: Record, facilities: Facilities, about: list[Thing]) -> list[Thing]:
    found = []
    peer = record.entry["peer"]
    if peer and record.type not in _TRANSFERS:
        facility = facilities.of(peer)
        found.append(Thing(kind="facility", identity=facility.fingerprint, name=facility.name))
    if EVENTS[record.type].event == _QUERY:
        asked: dict[str, object] = {"purpose": record.entry["purpose"], "type": record.type}
        if record.type == "requested":
            asked["studies"] = [thing.identity for thing in about if thing.kind == "study"]
        found.append(
            Thing(
                kind="query",
                identity=str(
                    record.details.get("transfer") or record.details.get("find", "catalog")
                ),
                name="query",
                query=canonical_json(asked),
            )
        )
    return found
