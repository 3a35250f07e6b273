"""Verification of a bundle from beginning to end.

Theory: the auditor knows one thing that the node did not tell, the facility's
fingerprint. It leads to the card, the card to the log keys, they to the signed
checkpoints, those to the root, and the root to every entry. The entries are read
once; at each size for which somebody signed or remembers a root, the root over
the entries so far is compared. Side files are read in step with the entries, so
that memory does not grow with the log.

Findings about the log come before those about receipts and openings; the first
of all is the cause.
"""

import hashlib
import json
from typing import BinaryIO

from keys.card import CARD_BYTES, Card, parse_card_untrusted
from keys.errors import KeysError
from keys.fingerprint import format_hash
from protocol.verify.bundle import CHECKPOINT_NAME, FORMAT, Bundle, BundleDamaged
from protocol.verify.checkpoints import (
    CHECKPOINT_BYTES,
    CheckpointProblem,
    SignedCheckpoint,
    log_keys,
    open_checkpoint,
)
from protocol.verify.evidence import Evidence, Openings, Receipts
from protocol.verify.stream import EntryStream, Expected
from protocol.verify.verdict import Code, Finding, Verdict

_HEADER_BYTES = 4096


def verify_bundle(
    file: BinaryIO, *, facility_fingerprint: bytes, evidence: Evidence | None = None
) -> Verdict:
    """Verify an audit bundle.

    Args:
        file: the bundle, seekable, opened for reading bytes.
        facility_fingerprint: SHA-256 of the facility key (32 bytes), learned from
            somebody else than the maker of the bundle; made from the spoken form by
            `keys.fingerprint.parse_fingerprint`.
        evidence: what else the auditor holds.

    Returns:
        The verdict; nothing that the file holds makes this function raise.

    Raises:
        ValueError: the fingerprint has not 32 bytes.
    """
    if len(facility_fingerprint) != 32:
        raise ValueError("a facility's fingerprint is 32 bytes")
    check = _Check(facility_fingerprint, evidence or Evidence())
    damage = ""
    try:
        with Bundle(file) as bundle:
            check.run(bundle)
    except BundleDamaged as problem:
        damage = str(problem)
    return check.verdict(damage)


class _Check:
    def __init__(self, fingerprint: bytes, evidence: Evidence) -> None:
        self._fingerprint = fingerprint
        self._evidence = evidence
        self._origin = f"radmesh.log/{format_hash(fingerprint)}"
        self._findings: list[Finding] = []
        self._card: Card | None = None
        self._expected: dict[int, list[Expected]] = {}
        self._signed_size = -1
        self._cosignatures = 0
        self._unknown_files = 0
        self._stream: EntryStream | None = None
        self._openings: Openings | None = None
        self._receipts: Receipts | None = None

    def run(self, bundle: Bundle) -> None:
        said_origin, said_size = _read_header(bundle)
        self._unknown_files = len(bundle.unknown)
        self._card = self._read_card(bundle)
        if self._card is None:
            return
        self._read_checkpoints(bundle, self._card)
        if self._signed_size < 0:
            # Without a signed size there is no end to what a file may claim.
            if not self._findings:
                self._find(Code.UNSIGNED_TAIL, 0, "the bundle holds no signed checkpoint")
            return
        for size, root in self._evidence.pins:
            self._expected.setdefault(size, []).append(Expected(root, "your pin", True))
        self._openings = Openings(bundle)
        self._receipts = Receipts(bundle, self._card, self._evidence)
        self._stream = EntryStream(
            bundle, self._card, self._origin, self._expected, self._signed_size
        )
        self._stream.read(self._openings, self._receipts)
        self._openings.finish()
        self._receipts.finish()
        if said_origin != self._origin:
            self._find(Code.BUNDLE, None, "the bundle says that it is of another log")
        size = self._stream.tree.size
        if not self._stream.findings and said_size != size:
            self._find(
                Code.BUNDLE,
                None,
                f"the bundle says that it holds {said_size:,} entries, and holds {size:,}",
            )

    def _find(self, code: Code, index: int | None, reason: str) -> None:
        self._findings.append(Finding(code, index, reason))

    def _read_card(self, bundle: Bundle) -> Card | None:
        data = bundle.read("card", CARD_BYTES)
        try:
            card = parse_card_untrusted(data)
        except KeysError as error:
            self._find(Code.KEY_CHAIN, None, f"the facility card in the bundle is bad: {error}")
            return None
        if hashlib.sha256(card.facility_key).digest() != self._fingerprint:
            self._find(
                Code.KEY_CHAIN,
                None,
                f"the bundle is of a facility with the fingerprint {card.fingerprint}, "
                "not of the one you asked about",
            )
            return None
        return card

    def _read_checkpoints(self, bundle: Bundle, card: Card) -> None:
        sources = [(name, bundle.read(name, CHECKPOINT_BYTES)) for name in bundle.checkpoints]
        sources += [("your checkpoint", data) for data in self._evidence.checkpoints]
        held: list[tuple[str, SignedCheckpoint]] = []
        for source, data in sources:
            try:
                checkpoint = open_checkpoint(data, self._origin, log_keys(card))
            except CheckpointProblem as problem:
                self._find(problem.code, None, f"the checkpoint ({source}) {problem.reason}")
                continue
            named = CHECKPOINT_NAME.fullmatch(source)
            if named is not None and int(named[1]) != checkpoint.size:
                self._find(
                    Code.BUNDLE,
                    None,
                    f"the file {source} is a checkpoint of size {checkpoint.size}",
                )
            held.append((source, checkpoint))
        for source, checkpoint in held:
            self._cosignatures += checkpoint.others
            known = self._expected.setdefault(checkpoint.size, [])
            if any(each.root != checkpoint.root for each in known):
                self._find(
                    Code.FORK,
                    None,
                    f"the log key signed two different logs of {checkpoint.size:,} entries: "
                    "proof that somebody was shown another log",
                )
            known.append(Expected(checkpoint.root, source, False))
            self._signed_size = max(self._signed_size, checkpoint.size)

    def verdict(self, damage: str) -> Verdict:
        """Sum up; `damage` says why the bundle could not be read to its end, or is ""."""
        findings = list(self._findings)
        for part in (self._stream, self._receipts, self._openings):
            if part is not None:
                findings.extend(part.findings)
        unsure = Finding(Code.BUNDLE, None, damage) if damage else self._unsure()
        sound: bool | None = True
        cause = Finding(Code.OK, None, "all entries are there, unchanged, in order and signed")
        if unsure is not None:
            sound, cause = None, unsure
            findings.append(unsure)
        if findings and findings[0] is not unsure:
            sound, cause = False, findings[0]
        stream = self._stream
        has_entries = stream is not None and stream.tree.size > 0
        return Verdict(
            sound=sound,
            code=cause.code,
            index=cause.index,
            reason=cause.reason,
            findings=tuple(findings),
            notes=tuple(self._notes()),
            name="" if self._card is None else self._card.name,
            origin="" if self._card is None else self._origin,
            size=stream.tree.size if stream is not None else 0,
            root=stream.tree.root().hex() if stream is not None and has_entries else "",
            first_time=stream.first_time if stream is not None else "",
            last_time=stream.last_time if stream is not None else "",
            counts=dict(stream.counts) if stream is not None else {},
        )

    def _unsure(self) -> Finding | None:
        if self._stream is None or self._card is None:
            return None
        used = [key for key in log_keys(self._card) if key.since <= self._stream.tree.size]
        if self._stream.rotated or len(used) > 1:
            return Finding(
                Code.ROTATION_UNCHECKED,
                None,
                "the log changes its key, and this version cannot check how; all else holds",
            )
        return None

    def _notes(self) -> list[str]:
        notes: list[str] = []
        if self._stream is None:
            return notes
        if not self._evidence.pins and not self._evidence.checkpoints:
            notes.append(
                "somebody who holds the log key can write the whole log anew; only something "
                "from outside shows that: an earlier size and root (--pin), a checkpoint from "
                "another facility (--checkpoint), receipts from its peers (--receipt)"
            )
        notes.append(
            "an act that the node never logged is not in the log; receipts at the other "
            "facility show exchanges that are missing here"
        )
        notes.append("the times are those of the node's own clock")
        notes.append(
            "whether a newer card exists that takes back a key is not known; ask the facility"
        )
        if self._cosignatures:
            notes.append(
                f"cosignatures of witnesses, not checked by this version: {self._cosignatures:,}"
            )
        notes.extend(self._side_notes())
        if self._unknown_files:
            notes.append(
                "files of the bundle that this version does not know and did not look at: "
                f"{self._unknown_files:,}"
            )
        return notes

    def _side_notes(self) -> list[str]:
        notes: list[str] = []
        openings, receipts, stream = self._openings, self._receipts, self._stream
        if openings is not None and openings.opened < openings.commitments:
            notes.append(
                f"of {openings.commitments:,} studies and patients, "
                f"{openings.commitments - openings.opened:,} named by commitments only; without "
                "their openings the log does not say who or what they are"
            )
        if receipts is not None and receipts.held < receipts.named:
            notes.append(
                f"of {receipts.named:,} receipts named in the log, "
                f"{receipts.named - receipts.held:,} not in the bundle"
            )
        if receipts is not None and receipts.half_checked:
            notes.append(
                "receipts signed at the other side by a key that was not compared with that "
                f"facility's card (--peer-card): {receipts.half_checked:,}"
            )
        if stream is not None and stream.first_difference is not None and not stream.findings:
            notes.append(
                f"the file `leaves` of the bundle is wrong from entry {stream.first_difference} "
                "on; it is an aid for finding errors, and nothing depends on it"
            )
        return notes


def _read_header(bundle: Bundle) -> tuple[str, int]:
    """Origin and size that the bundle says it has; checks its format."""
    try:
        header = json.loads(bundle.read("bundle.json", _HEADER_BYTES))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise BundleDamaged(f"the bundle is not of the format {FORMAT}")
    origin, size = header.get("origin"), header.get("size")
    if not isinstance(origin, str) or isinstance(size, bool) or not isinstance(size, int):
        raise BundleDamaged("the file bundle.json does not name a log and a size")
    return origin, size
