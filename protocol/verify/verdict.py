"""What a verification says: codes, findings, the verdict, and its two forms for people
and for programs. The codes are part of docs/auditing.md.
"""

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


class Code(enum.StrEnum):
    """Why a log is not sound, or that it is."""

    OK = "OK"
    BUNDLE = "BUNDLE"
    """The bundle is damaged or contradicts itself."""
    KEY_CHAIN = "KEY_CHAIN"
    """The card, or a key of the log, does not lead back to the facility key."""
    CP_BAD = "CP_BAD"
    """A checkpoint is malformed or not signed by the key in force at its size."""
    CP_ORIGIN = "CP_ORIGIN"
    """A checkpoint is of another log."""
    FORK = "FORK"
    """Two signed checkpoints of one size have different roots."""
    GENESIS = "GENESIS"
    """The first entry is missing or belongs to another log."""
    ENTRY_PARSE = "ENTRY_PARSE"
    """An entry is torn, no JSON, or lacks a field."""
    ENTRY_NOT_CANONICAL = "ENTRY_NOT_CANONICAL"
    """An entry is JSON, but not in its one canonical form."""
    ENTRY_INDEX = "ENTRY_INDEX"
    """An entry does not carry the index of its place."""
    TIME_BACKWARDS = "TIME_BACKWARDS"
    """An entry is dated before the one in front of it."""
    ROOT_MISMATCH = "ROOT_MISMATCH"
    """The entries do not have the root that was signed."""
    TRUNCATED = "TRUNCATED"
    """There are fewer entries than were signed."""
    UNSIGNED_TAIL = "UNSIGNED_TAIL"
    """There are more entries than were signed."""
    FORK_VS_PIN = "FORK_VS_PIN"
    """The log has another root at a size that the auditor knows from elsewhere."""
    TRUNCATED_VS_PIN = "TRUNCATED_VS_PIN"
    """The log is shorter than the auditor knows from elsewhere."""
    RECEIPT_SIG = "RECEIPT_SIG"
    """A receipt is malformed or a signature on it does not hold."""
    RECEIPT_UNKNOWN_KEY = "RECEIPT_UNKNOWN_KEY"
    """A receipt is signed by a key that no card names."""
    RECEIPT_NOT_LOGGED = "RECEIPT_NOT_LOGGED"
    """A good receipt is not in the log."""
    RECEIPT_MISMATCH = "RECEIPT_MISMATCH"
    """An entry says something else than the receipt it names."""
    OPENING_BAD = "OPENING_BAD"
    """An opening is not that of the entry it claims to open."""
    LOST = "LOST"
    """The log says itself that it lacks entries that had been signed."""
    OLD = "OLD"
    """The witnesses have not seen the log as lately as the auditor asks for."""
    AFTER_REVOCATION = "AFTER_REVOCATION"
    """An entry tells of a disclosure to a facility whose trust was revoked before."""
    QUORUM = "QUORUM"
    """The log has not the cosignatures that the auditor asks for."""
    PROOF_BAD = "PROOF_BAD"
    """A proof of one entry is malformed or leads to another root."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `index` is the first bad entry, None where none can be named."""

    code: Code
    index: int | None
    reason: str


def are_whole(findings: Iterable[Finding]) -> bool:
    """Whether nothing is wrong with what is there: only with what lacks, or with what was done."""
    return all(each.code in (Code.LOST, Code.QUORUM, Code.AFTER_REVOCATION) for each in findings)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a verification.

    Attributes:
        sound: True, False, or None when it cannot be told.
        code, index, reason: the cause; `index` as in `Finding`.
        findings: the cause and its consequences, in that order; empty when sound.
        notes: what the verdict does not cover, as sentences.
        name: the facility's name by its card, or "".
        origin: the log's origin, or "".
        size: entries read.
        root: root over them, 64 hex digits.
        first_time, last_time: of the first and last entry, or "".
        counts: entries by type.
        key_changes: how often a key of the facility changed, all of them checked.
        witnesses: who cosigned which size and when, as sentences; all of them hold.
        last_seen: when the auditor's witnesses saw the log last, in words, or "".
        since: where all that is wrong is that the log lost entries, as it says before the
            entry from which on the auditor asked to judge it: the index of that entry;
            else None.
        forks: what the bundle shows of logs that contradict themselves.
        is_proof: whether this is about one entry and not a whole log; `size` and `root`
            are then those of the checkpoint that it was proven by.
        entry: that entry, or "".
        opened: what its commitments stand for.
    """

    sound: bool | None
    code: Code
    index: int | None
    reason: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    name: str = ""
    origin: str = ""
    size: int = 0
    root: str = ""
    first_time: str = ""
    last_time: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    key_changes: int = 0
    witnesses: tuple[str, ...] = ()
    last_seen: str = ""
    since: int | None = None
    forks: tuple[str, ...] = ()
    is_proof: bool = False
    entry: str = ""
    opened: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all that the file holds is as it was signed, be the log sound or not."""
        return self.sound is not None and not self.is_proof and are_whole(self.findings)

    @property
    def exit_code(self) -> int:
        """0 sound, 1 not sound, 2 cannot tell, 3 sound since an entry and lost before it."""
        if self.since is not None:
            return 3
        return 2 if self.sound is None else 0 if self.sound else 1


def _word(verdict: Verdict) -> str:
    if verdict.sound is None:
        return "cannot tell"
    if verdict.since is not None:
        return f"sound since entry {verdict.since}"
    good = "proven" if verdict.is_proof else "sound"
    return good if verdict.sound else f"not {good}"


def report_lines(verdict: Verdict) -> list[str]:
    """The verdict for a person, one line each, without line ends."""
    lines = [f"{_word(verdict).upper()}: {verdict.reason}"]
    if verdict.since is not None:
        lines = [f"SOUND since entry {verdict.since}; LOST before: {verdict.reason}"]
    if verdict.sound is not True:
        place = "" if verdict.index is None else f", first bad entry {verdict.index}"
        lines.append(f"  code      {verdict.code}{place}")
    if verdict.name:
        lines.append(f"  facility  {verdict.name}")
    if verdict.origin:
        lines.append(f"  log       {verdict.origin}")
    if verdict.entry:
        lines.extend(_entry_lines(verdict))
    elif verdict.size and not verdict.is_proof:
        lines.append(
            f"  entries   {verdict.size:,}, from {verdict.first_time} to {verdict.last_time}"
        )
        lines.append(f"  root      {verdict.root}")
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(verdict.counts.items()))
        lines.append(f"  of these  {counts}")
    if verdict.key_changes:
        lines.append(f"  keys      changed and checked: {verdict.key_changes:,}")
    lines.extend(f"  witness   {witness}" for witness in verdict.witnesses)
    if verdict.last_seen:
        lines.append(f"  last seen {verdict.last_seen}")
    if verdict.forks:
        lines.append("evidence in the bundle of logs that contradict themselves:")
        lines.extend(f"  - {each}" for each in verdict.forks)
    if len(verdict.findings) > 1:
        lines.append("what follows from it, or is wrong besides:")
        lines.extend(f"  - {each.code}: {each.reason}" for each in verdict.findings[1:])
    if verdict.notes:
        lines.append("what this verdict does not cover:")
        lines.extend(f"  - {note}" for note in verdict.notes)
    return lines


def _entry_lines(verdict: Verdict) -> list[str]:
    entry = json.loads(verdict.entry)
    pairs = [("entry", f"{entry['index']} {entry['type']}, {entry['outcome']}")]
    pairs += [(name, entry[name]) for name in ("time", "actor", "peer", "purpose") if entry[name]]
    pairs += [("detail", f"{name}={value}") for name, value in entry["details"].items()]
    pairs += [("opened", each) for each in verdict.opened]
    pairs += [("signed", f"{verdict.size:,} entries"), ("root", verdict.root)]
    return [f"  {name:9} {value}" for name, value in pairs]


def to_json(verdict: Verdict) -> str:
    """The verdict for a program: one JSON object on one line."""
    return json.dumps(
        {
            "verdict": _word(verdict),
            "code": verdict.code,
            "index": verdict.index,
            "reason": verdict.reason,
            "findings": [
                {"code": each.code, "index": each.index, "reason": each.reason}
                for each in verdict.findings
            ],
            "notes": list(verdict.notes),
            "facility": verdict.name,
            "origin": verdict.origin,
            "size": verdict.size,
            "root": verdict.root,
            "first_time": verdict.first_time,
            "last_time": verdict.last_time,
            "counts": dict(verdict.counts),
            "key_changes": verdict.key_changes,
            "witnesses": list(verdict.witnesses),
            "last_seen": verdict.last_seen,
            "since": verdict.since,
            "forks": list(verdict.forks),
            "entry": json.loads(verdict.entry) if verdict.entry else None,
            "opened": list(verdict.opened),
        },
        ensure_ascii=False,
    )
