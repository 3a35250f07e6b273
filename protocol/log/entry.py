"""Log entries: what happened, as canonical JSON without patient data.

Owns the form of an entry, and of its commitments to studies, patients, instances and
persons who asked. The caller supplies indexes, times and salts (docs/protocol-log.md
sections 2 and 3).
"""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from keys.canonical import canonical_json, parse_canonical_untrusted
from keys.errors import KeysError
from protocol.errors import LocalProtocolError, RemoteProtocolError

ENTRY_BYTES = 65_535
"""Most bytes of an entry. The entry bundles of C2SP tlog-tiles have two bytes for the
length, so the log can be served in that form without change."""

ENTRY_VERSION = 1

SALT_BYTES = 16
"""Length of a commitment's salt: long enough that nobody can try all UIDs, and fixed, so
that salt and value cannot be split in two ways."""

COMMITMENT_DOMAIN = b"radmesh-commitment-v1"

TYPES = (
    "init",
    "start",
    "stop",
    "ingest",
    "trust-added",
    "trust-granted",
    "trust-ungranted",
    "rule-added",
    "rule-removed",
    "objection-added",
    "objection-ended",
    "consent-added",
    "consent-ended",
    "trust-revoked",
    "card-updated",
    "announced",
    "requested",
    "refused",
    "disclosure-begun",
    "disclosed",
    "disclosure-failed",
    "received",
    "receive-failed",
    "receipt",
    "withdrawn",
    "shared",
    "withdrawn-from",
    "shared-to",
    "sharing-rule-added",
    "sharing-rule-removed",
    "checkpoint-heartbeat",
    "torn-tail-cut",
    "rotation",
    "key-revoked",
    "fork-seen",
    "rollback-seen",
    "key-contested",
    "keys-sealed",
    "facility-key-moved",
    "reconciled",
    "erased",
    "discarded",
    "hold-placed",
    "hold-lifted",
    "quarantine-taken",
    "quarantine-dropped",
    "recalled",
    "recall-settled",
    "log-exported",
    "exported",
    "find-asked",
    "find-answered",
    "found",
    "person-added",
    "person-changed",
    "person-removed",
    "two-person-rule",
    "proposed",
    "confirmed",
    "declined",
    "proposal-ended",
    "grants-told",
    "grants-heard",
    "retention-applied",
    "pairing-opened",
    "pairing-closed",
    "pairing-failed",
    "pairing-declined",
    "approval-asked",
    "approved",
    "denied",
    "offered",
    "offer-heard",
    "offer-answered",
    "offer-ended",
    "forward-asked",
    "forward-dropped",
    "forward-begun",
    "forwarded",
    "forward-failed",
    "retrieve-begun",
    "indexed",
    "stored",
    "stored-told",
    "stored-heard",
    "commitment-given",
    "commitment-asked",
    "commitment-heard",
    "emergency-begun",
    "emergency-ended",
    "emergency-overdue",
    "emergency-reviewed",
    "matched",
    "match-undone",
    "queried",
    "retrieved",
)
"""Types of entries in this version; a reader keeps types that it does not know."""

ABOUT_PERSONS = ("person-added", "person-changed", "person-removed")
"""Types whose first subject is the person whom they are about; who asked follows it."""

SUBJECT_KINDS = ("study", "patient", "instance", "person", "facts", "asker", "message", "note")
"""Facts are canonical JSON: those of a study that decided about a request, or, of `matched`, what a
study was and is named by. An asker is who asks at the other side, by its word: name, role and
reason, with `^^^` between them. A message is what a person wrote with an offer, or for whom a disc
is, a note what a person wrote about a review."""

OUTCOMES = ("success", "refused", "failed")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_ACTOR = re.compile(r"node|operator|[A-Z2-7]{7}(?:-[A-Z2-7]{7}){7}")
_DETAIL_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event to be recorded.

    Attributes:
        type: one of `TYPES`.
        actor: `node`, `operator`, or the fingerprint of the facility that acted.
        peer: facility key (32 bytes) of the other side, or empty.
        purpose: the purpose of the exchange, or "".
        outcome: one of `OUTCOMES`.
        subjects: (kind, value) pairs in clear; the log gets only commitments to them, in
            this order.
        details: name to a short text, integer or boolean. Never patient data.
    """

    type: str
    actor: str = "node"
    peer: bytes = b""
    purpose: str = ""
    outcome: str = "success"
    subjects: tuple[tuple[str, str], ...] = ()
    details: Mapping[str, str | int | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise LocalProtocolError(f"the log has no entry type {self.type!r}")
        if self.outcome not in OUTCOMES:
            raise LocalProtocolError(f"the log has no outcome {self.outcome!r}")
        if _ACTOR.fullmatch(self.actor) is None:
            raise LocalProtocolError("the actor of an event is node, operator or a fingerprint")
        if len(self.peer) not in (0, 32):
            raise LocalProtocolError("the peer of an event must be a facility key of 32 bytes")
        for kind, _ in self.subjects:
            if kind not in SUBJECT_KINDS:
                raise LocalProtocolError(f"the log has no subject kind {kind!r}")
        for name, value in self.details.items():
            if _DETAIL_NAME.fullmatch(name) is None or not isinstance(value, str | int):
                raise LocalProtocolError(f"{name!r} is no detail of an entry")


def subjects_of(study: str, patients: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Subjects of an event about one study and the patients named in its images."""
    return (("study", study), *(("patient", each) for each in patients))


@dataclass(frozen=True)
class Opening:
    """The value and salt to which a commitment commits; kept outside the log."""

    kind: str
    value: str
    salt: bytes

    @property
    def commitment(self) -> str:
        """The commitment in the entry, 64 hex digits."""
        return commitment(self.kind, self.value, self.salt)


def commitment(kind: str, value: str, salt: bytes) -> str:
    """Commit to a subject.

    Args:
        kind: one of `SUBJECT_KINDS`.
        value: the UID, identity or name.
        salt: 16 random bytes, fresh for every commitment, so that two entries about
            one study cannot be linked without their openings.

    Returns:
        64 hex digits (docs/protocol-log.md section 3).
    """
    if len(salt) != SALT_BYTES:
        raise LocalProtocolError(f"the salt of a commitment has {SALT_BYTES} bytes")
    subject = canonical_json({"kind": kind, "value": value})
    return hashlib.sha256(COMMITMENT_DOMAIN + b"\0" + salt + subject).hexdigest()


def format_time(time_ms: int) -> str:
    """Milliseconds since the epoch as `2026-11-24T09:31:58.123Z`."""
    if not 0 <= time_ms <= _LATEST_MS:
        raise LocalProtocolError("the time is outside the years 1970 to 9999")
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{_format_second(seconds)}.{milliseconds:03}Z"


@functools.lru_cache(maxsize=16)
def _format_second(seconds: int) -> str:
    # Cached: there are many entries a second, and this is a large part of an entry's cost.
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


def parse_time_untrusted(text: str) -> int:
    """The inverse of `format_time`.

    Raises:
        RemoteProtocolError: not a time in that form.
    """
    if _TIME.fullmatch(text) is None:
        raise RemoteProtocolError("the time of the entry is malformed")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RemoteProtocolError("the time of the entry is malformed") from None
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def encode_entry(event: Event, *, index: int, time_ms: int, openings: Sequence[Opening]) -> bytes:
    """The bytes of an entry (docs/protocol-log.md section 2).

    Args:
        event: what happened.
        index: index in the log, from 0.
        time_ms: milliseconds since the epoch, UTC; never less than that of the entry before.
        openings: one for each subject of the event, in the same order.

    Raises:
        LocalProtocolError: the entry would be larger than `ENTRY_BYTES`, or holds a value
            that canonical JSON cannot encode.
    """
    if [(opening.kind, opening.value) for opening in openings] != list(event.subjects):
        raise LocalProtocolError("the openings are not those of the event's subjects")
    try:
        encoded = canonical_json(
            {
                "actor": event.actor,
                "details": dict(event.details),
                "index": index,
                "outcome": event.outcome,
                "peer": event.peer.hex(),
                "purpose": event.purpose,
                "subjects": [
                    {"commitment": opening.commitment, "kind": opening.kind} for opening in openings
                ],
                "time": format_time(time_ms),
                "type": event.type,
                "v": ENTRY_VERSION,
            }
        )
    except KeysError as error:
        raise LocalProtocolError(f"the entry cannot be encoded: {error}") from error
    if len(encoded) > ENTRY_BYTES:
        raise LocalProtocolError(
            f"the entry has {len(encoded)} bytes; {ENTRY_BYTES} are the most that the log takes"
        )
    return encoded


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A decoded entry. `subjects` holds (kind, commitment) pairs."""

    index: int
    time_ms: int
    type: str
    actor: str
    peer: bytes
    purpose: str
    outcome: str
    subjects: tuple[tuple[str, str], ...]
    details: Mapping[str, str | int | bool]


def decode_entry_untrusted(data: bytes) -> Entry:
    """Read an entry.

    Raises:
        RemoteProtocolError: not an entry of this version.
    """
    if len(data) > ENTRY_BYTES:
        raise RemoteProtocolError("the entry is too large")
    try:
        value = parse_canonical_untrusted(data)
    except KeysError as error:
        raise RemoteProtocolError(f"the entry is not canonical JSON: {error}") from error
    if not isinstance(value, dict) or value.get("v") != ENTRY_VERSION:
        raise RemoteProtocolError("the entry is not of a version that is known here")
    try:
        return Entry(
            index=_integer(value["index"]),
            time_ms=parse_time_untrusted(_text(value["time"])),
            type=_text(value["type"]),
            actor=_text(value["actor"]),
            peer=_peer(value["peer"]),
            purpose=_text(value["purpose"]),
            outcome=_text(value["outcome"]),
            subjects=_subjects(value["subjects"]),
            details=_details(value["details"]),
        )
    except (KeyError, TypeError, ValueError):
        raise RemoteProtocolError("a field of the entry is missing or malformed") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _peer(value: Any) -> bytes:
    peer = bytes.fromhex(_text(value))
    if len(peer) not in (0, 32) or peer.hex() != value:
        raise ValueError
    return peer


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _subjects(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple((_text(subject["kind"]), _text(subject["commitment"])) for subject in value)


def _details(value: Any) -> dict[str, str | int | bool]:
    if not isinstance(value, dict) or not all(isinstance(v, str | int) for v in value.values()):
        raise TypeError
    return value
