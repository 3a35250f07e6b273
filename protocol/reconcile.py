"""Compares what the logs of two facilities record about studies sent between them.

Theory: a *disclosure* is one transfer id in one direction. Each log records its part in
several entries (a broken transfer resumes under the same id); a `Ledger` folds these into
one `Said`. `compare` puts every disclosure of either ledger into exactly one class;
swapping the two ledgers gives the mirrored result.

A source logs before it sends, and logs a receipt before it countersigns it. The recipient
presents its receipt until it is countersigned. So each receipt, with both signatures, must
be in both logs. The grace period does not excuse a log that lacks the receipt but has
entries after the receipt's time. Subjects are not compared: the commitments of two logs
differ, and the content root identifies the content (docs/protocol-log.md section 11).

No patient data and no openings are needed. Memory grows with the transfers of the
pair, not with the logs.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from protocol.log.entry import Entry

GRACE_SECONDS = 300
"""The other log may lack events from one log's last minutes: the clocks differ, and a
transfer may have been in progress."""

TYPES = frozenset(
    {
        "requested",
        "disclosure-begun",
        "disclosed",
        "disclosure-failed",
        "received",
        "receive-failed",
        "receipt",
    }
)
"""Types of the entries that are compared."""

FIELDS = (
    "manifest",
    "content_root",
    "instances",
    "bytes",
    "batches",
    "encoded_bytes",
    "purpose",
)
"""Fields of a receipt that must be equal in both logs."""

_CONTENT = ("manifest", "content_root", "instances", "bytes", "purpose")
"""Fields of a transfer that must be equal in both logs, even without a receipt."""

_TRANSFER = re.compile(r"[0-9a-f]{32}")

Values = tuple[Any, ...]


class Class(enum.StrEnum):
    """The result for one disclosure."""

    MATCHED = "MATCHED"
    """Both logs name the same receipt of it, and agree."""
    ONLY_A = "ONLY_A"
    """Only A's log records it."""
    ONLY_B = "ONLY_B"
    """Only B's log records it."""
    MISMATCH = "MISMATCH"
    """Both logs record it, but a field differs or a receipt is missing."""
    BROKEN_OFF = "BROKEN_OFF"
    """By both logs it was begun and did not arrive as a whole; parts may have."""
    NOT_YET = "NOT_YET"
    """The other log may not reach that far, or the transfer may still be in progress."""


DIFFERENCES = frozenset({Class.ONLY_A, Class.ONLY_B, Class.MISMATCH})
"""The classes that a person must investigate."""


@dataclass(slots=True)
class Said:
    """What one log records about one disclosure.

    Attributes:
        begun: sending is about to begin, has begun, or failed.
        disclosed: the recipient confirmed it.
        received: the study arrived.
        asked: the study was requested, or receiving it failed.
        receipts: digest (hex) to the fields in the entry, in the order of `FIELDS`.
        receipt_times: digest to the time of that entry, milliseconds since the epoch.
        content: the fields in its other entries, in the order of `_CONTENT`; None if absent.
        first: index of its first entry.
        first_time, last_time: times of its first and last entry, milliseconds since the epoch.
    """

    begun: bool = False
    disclosed: bool = False
    received: bool = False
    asked: bool = False
    receipts: dict[str, Values] = field(default_factory=dict)
    receipt_times: dict[str, int] = field(default_factory=dict)
    content: Values = (None,) * len(_CONTENT)
    first: int = -1
    first_time: int = 0
    last_time: int = 0

    @property
    def tells(self) -> bool:
        """Whether the log records that data was, or was about to be, sent."""
        return self.begun or self.disclosed or self.received or bool(self.receipts)


Key = tuple[bool, str]
"""Whether the log's own facility is the source, and the transfer's id."""


class Ledger:
    """What one log records about exchanges with one peer.

    Args:
        peer: facility key of the peer (32 bytes).

    Attributes:
        said: direction and transfer to what the log records.
        last_time: the time up to which the log reaches, milliseconds since the epoch; set
            by `reaches`.
        entries: number of entries used.
    """

    def __init__(self, peer: bytes) -> None:
        self.said: dict[Key, Said] = {}
        self.last_time = 0
        self.entries = 0
        self._peer = peer

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take the next entry of the log, in order; ignores entries about other peers.

        Args:
            entry: the entry's fields, as in JSON.
        """
        if entry["peer"] == self._peer.hex() and entry["type"] in TYPES:
            self.add_entry(
                Entry(
                    index=entry["index"],
                    time_ms=time_ms(entry["time"]),
                    type=entry["type"],
                    actor=entry["actor"],
                    peer=self._peer,
                    purpose=entry["purpose"],
                    outcome=entry["outcome"],
                    subjects=(),
                    details=entry["details"],
                )
            )

    def add_entry(self, entry: Entry) -> None:
        """Like `add`, for a decoded entry."""
        details, kind = entry.details, entry.type
        key = _key(kind, details)
        if entry.peer != self._peer or kind not in TYPES or key is None:
            return
        self.entries += 1
        said = self.said.setdefault(key, Said())
        if said.first < 0:
            said.first, said.first_time = entry.index, entry.time_ms
        said.last_time = entry.time_ms
        if kind == "receipt":
            values = (*(details.get(name) for name in FIELDS[:-1]), entry.purpose)
            digest = str(details.get("receipt", ""))
            said.receipts.setdefault(digest, values)
            said.receipt_times.setdefault(digest, entry.time_ms)
            return
        said.begun |= kind in ("disclosure-begun", "disclosure-failed")
        said.disclosed |= kind == "disclosed"
        said.received |= kind == "received"
        said.asked |= kind in ("requested", "receive-failed")
        if kind not in ("requested", "receive-failed"):
            new = (*(details.get(name) for name in _CONTENT[:-1]), entry.purpose)
            # The newest value counts: the study may have grown before the transfer resumed.
            said.content = tuple(
                old if value is None else value
                for old, value in zip(said.content, new, strict=True)
            )

    def reaches(self, time: int) -> None:
        """Note that the log is complete up to a time (milliseconds since the epoch)."""
        self.last_time = max(self.last_time, time)


def _key(kind: str, details: Mapping[str, Any]) -> Key | None:
    """The disclosure to which an entry belongs; None if it names none."""
    transfer = details.get("transfer")
    if not isinstance(transfer, str) or _TRANSFER.fullmatch(transfer) is None:
        receipt = details.get("receipt")
        if kind != "receipt" or not isinstance(receipt, str):
            return None
        transfer = f"receipt {receipt}"
    if kind in ("disclosure-begun", "disclosed", "disclosure-failed"):
        return True, transfer
    # A source marks its receipts and requests with the direction "out".
    return details.get("direction") == "out", transfer


def time_ms(text: str) -> int:
    """Milliseconds since the epoch of an entry's time, `2026-11-24T09:31:58.123Z`."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One disclosure and its class.

    Attributes:
        kind: its class.
        source: "A" or "B", the side that sent.
        transfer: the transfer's id in hex; "receipt DIGEST" if the log does not give the id.
        fields: the differing fields, sorted; `receipt` if a receipt lacks its counterpart.
        receipt: digest (hex) of one of its receipts, if possible one in both logs; or "".
        entry_a, entry_b: index of its first entry in A's and B's log, or None.
        time_a, time_b: time of that entry, milliseconds since the epoch, or None.
    """

    kind: Class
    source: str
    transfer: str
    fields: tuple[str, ...] = ()
    receipt: str = ""
    entry_a: int | None = None
    entry_b: int | None = None
    time_a: int | None = None
    time_b: int | None = None


@dataclass(frozen=True)
class Comparison:
    """All disclosures between A and B, each once, sorted by source, time and transfer."""

    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[Class, int]:
        """The number of disclosures in each class, including zeros."""
        counts = dict.fromkeys(Class, 0)
        for finding in self.findings:
            counts[finding.kind] += 1
        return counts

    @property
    def differences(self) -> int:
        """The number of disclosures that a person must investigate."""
        return sum(finding.kind in DIFFERENCES for finding in self.findings)

    def named(self) -> Iterable[Finding]:
        """The disclosures that are not `MATCHED`."""
        return (finding for finding in self.findings if finding.kind is not Class.MATCHED)


def compare(a: Ledger, b: Ledger, *, grace_seconds: int = GRACE_SECONDS) -> Comparison:
    """Put every disclosure of A to B and of B to A into its class.

    Args:
        a: A's log, about B.
        b: B's log, about A.
        grace_seconds: a log may lack what the other has within this time before its end.
    """
    keys = dict.fromkeys((*a.said, *((not is_source, name) for is_source, name in b.said)))
    findings = []
    for is_a_source, transfer in keys:
        said_a = a.said.get((is_a_source, transfer), _NOTHING)
        said_b = b.said.get((not is_a_source, transfer), _NOTHING)
        if not said_a.tells and not said_b.tells:
            continue
        if is_a_source:
            kind, fields = _classify(said_a, said_b, Class.ONLY_A, Class.ONLY_B)
        else:
            kind, fields = _classify(said_b, said_a, Class.ONLY_B, Class.ONLY_A)
        if _may_follow(kind, fields):
            # The counterpart may be in a later part of the other log, which is not here.
            lacks_b = said_a.tells and said_a.last_time > b.last_time - 1000 * grace_seconds
            lacks_a = said_b.tells and said_b.last_time > a.last_time - 1000 * grace_seconds
            is_proven = _lacks_receipt(said_a, said_b, b) or _lacks_receipt(said_b, said_a, a)
            if (lacks_a or lacks_b) and not is_proven:
                kind = Class.NOT_YET
        shared = sorted(said_a.receipts.keys() & said_b.receipts.keys())
        others = sorted(said_a.receipts.keys() | said_b.receipts.keys())
        findings.append(
            Finding(
                kind=kind,
                source="A" if is_a_source else "B",
                transfer=transfer,
                fields=fields,
                receipt=(*shared, *others, "")[0],
                entry_a=_entry(said_a),
                entry_b=_entry(said_b),
                time_a=_time(said_a),
                time_b=_time(said_b),
            )
        )
    findings.sort(key=lambda one: (one.source, _earliest(one), one.transfer))
    return Comparison(tuple(findings))


def _classify(
    source: Said, recipient: Said, only_source: Class, only_recipient: Class
) -> tuple[Class, tuple[str, ...]]:
    if not source.tells:
        return only_recipient, ()
    if not (recipient.received or recipient.receipts):
        confirmed = source.disclosed or source.receipts
        if recipient.asked and not confirmed:
            return Class.BROKEN_OFF, ()
        return only_source, ()
    shared = source.receipts.keys() & recipient.receipts.keys()
    wrong = {
        name
        for digest in shared
        for name, ours, theirs in zip(
            FIELDS, source.receipts[digest], recipient.receipts[digest], strict=True
        )
        if ours != theirs
    }
    if not shared or recipient.receipts.keys() != source.receipts.keys():
        wrong.add("receipt")
        wrong |= _differing_content(source, recipient)
    return (Class.MISMATCH if wrong else Class.MATCHED), tuple(sorted(wrong))


def _differing_content(source: Said, recipient: Said) -> set[str]:
    """Fields in which what both logs record about a transfer cannot be the same content."""
    wrong = set()
    for place, name in enumerate(_CONTENT):
        said = [_values(one, place, name) for one in (source, recipient)]
        if all(said) and said[0].isdisjoint(said[1]):
            wrong.add(name)
    return wrong


def _values(said: Said, place: int, name: str) -> set[Any]:
    values = {values[FIELDS.index(name)] for values in said.receipts.values()}
    return (values | {said.content[place]}) - {None}


def _lacks_receipt(said: Said, other: Said, log: Ledger) -> bool:
    """Whether the other log lacks a receipt that this log names, but has later entries."""
    return any(
        time < log.last_time
        for digest, time in said.receipt_times.items()
        if digest not in other.receipts
    )


def _may_follow(kind: Class, fields: tuple[str, ...]) -> bool:
    """Whether a later part of the other log may contain what is missing."""
    return kind is not Class.MATCHED and fields in ((), ("receipt",))


def _entry(said: Said) -> int | None:
    return said.first if said.first >= 0 else None


def _time(said: Said) -> int | None:
    return said.first_time if said.first >= 0 else None


def _earliest(finding: Finding) -> int:
    return min(time for time in (finding.time_a, finding.time_b) if time is not None)


_NOTHING = Said()
