"""The result of a verification: codes, findings, the verdict, and its two forms for people
and for programs. docs/auditing.md explains the codes.
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
    """An entry is torn, is not JSON, or lacks a field."""
    ENTRY_NOT_CANONICAL = "ENTRY_NOT_CANONICAL"
    """An entry is JSON, but not in canonical form."""
    ENTRY_INDEX = "ENTRY_INDEX"
    """An entry's index is not its position in the log."""
    TIME_BACKWARDS = "TIME_BACKWARDS"
    """An entry is dated earlier than the entry before it."""
    ROOT_MISMATCH = "ROOT_MISMATCH"
    """The entries do not have the signed root."""
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
    """An entry differs from the receipt that it names."""
    STORED_ALONE = "STORED_ALONE"
    """A statement that a study is stored lacks the receipt to which it adds."""
    OPENING_BAD = "OPENING_BAD"
    """An opening does not open a subject of the entry that it names."""
    LOST = "LOST"
    """The log itself reports that signed entries are missing."""
    OLD = "OLD"
    """The witnesses did not see the log as recently as the auditor requires."""
    AFTER_REVOCATION = "AFTER_REVOCATION"
    """An entry records a disclosure to a facility whose trust had been revoked."""
    QUORUM = "QUORUM"
    """The log lacks cosignatures that the auditor requires."""
    PROOF_BAD = "PROOF_BAD"
    """A proof of one entry is malformed or leads to another root."""


@dataclass(frozen=True)
class Finding:
    """One problem; `index` is the first bad entry, None if no entry can be named."""

    code: Code
    index: int | None
    reason: str


def are_whole(findings: Iterable[Finding]) -> bool:
    """Whether what the file holds is intact: at most, something is missing or was not allowed."""
    return all(each.code in (Code.LOST, Code.QUORUM, Code.AFTER_REVOCATION) for each in findings)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a verification.

    Attributes:
        sound: True, False, or None when it cannot be told.
        code, index, reason: the cause; `index` as in `Finding`.
        findings: the cause and its consequences, in that order; empty when sound.
        notes: sentences about what the verdict does not cover.
        name: the facility's name on its card, or "".
        origin: the log's origin, or "".
        size: number of entries read.
        root: root over these entries, 64 hex digits.
        first_time, last_time: times of the first and last entry, or "".
        counts: type to number of entries.
        key_changes: number of changes of the facility's keys, all of them checked.
        witnesses: sentences about who cosigned which size and when; all cosignatures hold.
        last_seen: when the auditor's witnesses last saw the log, in words, or "".
        since: the index of the entry from which the auditor judges, if the only problems
            are losses that the log reports before that entry; otherwise None.
        forks: sentences about logs that contradict themselves, by the bundle's evidence.
        is_proof: whether the verdict is about one proven entry and not a whole log; `size`
            and `root` are then those of the checkpoint in the proof.
        entry: that entry, or "".
        opened: the values to which the entry's commitments commit.
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
        """Whether everything in the file is as it was signed, even if the log is not sound."""
        return self.sound is not None and not self.is_proof and are_whole(self.findings)

    @property
    def exit_code(self) -> int:
        """0 sound, 1 not sound, 2 cannot tell, 3 sound since an entry, with losses before it."""
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
