"""What the logs of two facilities say about the studies that went between them, compared.

Theory: a *disclosure* is one transfer id in one direction. Each log says its part in
several entries (a transfer that broke off goes on under its id), which a `Ledger`
folds into one `Said`. `compare` puts every disclosure of either ledger into exactly
one class, and gives the mirrored result when the two are swapped.

A facility that sends logs before it acts, and logs a receipt before it countersigns it.
The recipient presents its receipt until it is countersigned. So each receipt, which has
both signatures, must be in both logs; a log that goes on behind its time and lacks it is
not excused by a grace. No subject is compared: the
commitments of two logs differ, and the content root tells the content
(docs/protocol-log.md section 11).

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
"""What one log has in its last minutes may be missing in the other: their clocks differ,
and a transfer may have been under way."""

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
"""Entries that a comparison looks at."""

FIELDS = (
    "manifest",
    "content_root",
    "instances",
    "bytes",
    "batches",
    "encoded_bytes",
    "purpose",
)
"""What both logs must say the same of one receipt."""

_CONTENT = ("manifest", "content_root", "instances", "bytes", "purpose")
"""What they must say the same of one transfer, receipt or not."""

_TRANSFER = re.compile(r"[0-9a-f]{32}")

Values = tuple[Any, ...]


class Class(enum.StrEnum):
    """What became of one disclosure."""

    MATCHED = "MATCHED"
    """Both logs name a receipt of it, the same one, and agree."""
    ONLY_A = "ONLY_A"
    """Only A's log tells of it."""
    ONLY_B = "ONLY_B"
    """Only B's log tells of it."""
    MISMATCH = "MISMATCH"
    """Both tell of it, and something differs or lacks its receipt."""
    BROKEN_OFF = "BROKEN_OFF"
    """It was begun, as both logs say, and never arrived; some of it may have."""
    NOT_YET = "NOT_YET"
    """The other log may not reach so far, or it may still be under way."""


DIFFERENCES = frozenset({Class.ONLY_A, Class.ONLY_B, Class.MISMATCH})
"""The classes that somebody must look into."""


@dataclass(slots=True)
class Said:
    """What one log says of one disclosure.

    Attributes:
        begun: it is about to send, has sent, or broke off.
        disclosed: the recipient confirmed it.
        received: it arrived.
        asked: it was asked for, or what came did not hold.
        receipts: digest (hex) to what the entry says, in the order of `FIELDS`.
        receipt_times: digest to the time of that entry, milliseconds since the epoch.
        content: what its other entries say, in the order of `_CONTENT`, None where not said.
        first: index of its first entry.
        first_time, last_time: of its first and last entry, milliseconds since the epoch.
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
        """Whether it says that something went over."""
        return self.begun or self.disclosed or self.received or bool(self.receipts)


Key = tuple[bool, str]
"""Whether the log's own facility is the source, and the transfer."""


class Ledger:
    """What one log says of its exchanges with one peer.

    Args:
        peer: facility key of the peer (32 bytes).

    Attributes:
        said: by direction and transfer.
        last_time: how far the log reaches, milliseconds since the epoch: time of its
            last entry, about whomever, unless `reaches` said more.
        entries: how many entries were of use.
    """

    def __init__(self, peer: bytes) -> None:
        self.said: dict[Key, Said] = {}
        self.last_time = 0
        self.entries = 0
        self._peer = peer

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take the next entry of the log, in its order; others than of this pair are let pass.

        Args:
            entry: its fields, as in JSON.
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
        """The same for an entry that has been decoded."""
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
            # The newest word counts: a study may have grown before its transfer went on.
            said.content = tuple(
                old if value is None else value
                for old, value in zip(said.content, new, strict=True)
            )

    def reaches(self, time: int) -> None:
        """The log is known to be complete up to a time (milliseconds since the epoch)."""
        self.last_time = max(self.last_time, time)


def _key(kind: str, details: Mapping[str, Any]) -> Key | None:
    """Which disclosure an entry belongs to; None when it does not say."""
    transfer = details.get("transfer")
    if not isinstance(transfer, str) or _TRANSFER.fullmatch(transfer) is None:
        receipt = details.get("receipt")
        if kind != "receipt" or not isinstance(receipt, str):
            return None
        transfer = f"receipt {receipt}"
    if kind in ("disclosure-begun", "disclosed", "disclosure-failed"):
        return True, transfer
    # A source says that its receipts and requests are of the way out.
    return details.get("direction") == "out", transfer


def time_ms(text: str) -> int:
    """Milliseconds since the epoch of an entry's time, `2026-11-24T09:31:58.123Z`."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One disclosure and its class.

    Attributes:
        kind: its class.
        source: "A" or "B", whoever sent.
        transfer: its id in hex; "receipt DIGEST" where the log does not say it.
        fields: what differs, sorted; `receipt` where a receipt lacks its counterpart.
        receipt: digest (hex) of a receipt of it, one that both name if there is one; or "".
        entry_a, entry_b: index of its first entry in either log, or None.
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
    """All disclosures between A and B, by source, time and transfer; each is there once."""

    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[Class, int]:
        """How many there are of each class, zeros included."""
        counts = dict.fromkeys(Class, 0)
        for finding in self.findings:
            counts[finding.kind] += 1
        return counts

    @property
    def differences(self) -> int:
        """How many somebody must look into."""
        return sum(finding.kind in DIFFERENCES for finding in self.findings)

    def named(self) -> Iterable[Finding]:
        """Those that are not matched."""
        return (finding for finding in self.findings if finding.kind is not Class.MATCHED)


def compare(a: Ledger, b: Ledger, *, grace_seconds: int = GRACE_SECONDS) -> Comparison:
    """Put every disclosure of A to B and of B to A into its class.

    Args:
        a: A's log, about B.
        b: B's log, about A.
        grace_seconds: how long before the end of a log it may lack what the other has.
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
            # What is said may be answered in a part of the other log that is not here.
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
    """Where what both say of one transfer cannot be of the same content."""
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
    """Whether a receipt that one log names is missing in the other, which goes on behind it."""
    return any(
        time < log.last_time
        for digest, time in said.receipt_times.items()
        if digest not in other.receipts
    )


def _may_follow(kind: Class, fields: tuple[str, ...]) -> bool:
    """Whether what is missing may come with more of the other log."""
    return kind is not Class.MATCHED and fields in ((), ("receipt",))


def _entry(said: Said) -> int | None:
    return said.first if said.first >= 0 else None


def _time(said: Said) -> int | None:
    return said.first_time if said.first >= 0 else None


def _earliest(finding: Finding) -> int:
    return min(time for time in (finding.time_a, finding.time_b) if time is not None)


_NOTHING = Said()
