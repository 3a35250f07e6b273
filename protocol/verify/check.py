"""Verification of a bundle from beginning to end.

Theory: the auditor learned one fact from elsewhere, the facility's fingerprint. The
fingerprint authenticates the card, the card the log keys, the log keys the signed
checkpoints, the checkpoints the root, and the root every entry. The entries are read
once. At each size with a signed or pinned root, the root over the entries so far is
compared with it. Side files are read in step with the entries, so that memory does not
grow with the log.

The first finding is the cause. Findings are ordered: a broken chain of keys, bad
checkpoints, entries that differ from the signed ones, missing cosignatures, losses that
the log reports, and last receipts, statements and openings.
"""

import hashlib
import json
from typing import BinaryIO

from keys.card import CARD_BYTES, Card, parse_card_untrusted
from keys.errors import KeysError
from keys.fingerprint import format_hash
from protocol.verify import coverage, seen
from protocol.verify.bundle import CHECKPOINT_NAME, FORMAT, Bundle, BundleDamaged
from protocol.verify.checkpoints import (
    CHECKPOINT_BYTES,
    CheckpointProblem,
    log_keys,
    open_checkpoint,
    signer_of,
)
from protocol.verify.evidence import FINDINGS, Evidence, Openings, Receipts
from protocol.verify.forks import Forks
from protocol.verify.losses import Loss
from protocol.verify.note import NamedKey
from protocol.verify.policy import POLICY_BYTES
from protocol.verify.stored import Statements
from protocol.verify.stream import EntryStream, Expected
from protocol.verify.verdict import Code, Finding, Verdict, are_whole
from protocol.verify.witnesses import Cosigned, Witnesses, card_keys, missing_quorum

_HEADER_BYTES = 4096
_OUTSIDE = "your checkpoint"
_WITNESSES = 100
"""Most cards of witnesses that are read; each may name hundreds of keys."""


def verify_bundle(
    file: BinaryIO, *, facility_fingerprint: bytes, evidence: Evidence | None = None
) -> Verdict:
    """Verify an audit bundle.

    Args:
        file: the bundle, seekable, opened for reading bytes.
        facility_fingerprint: SHA-256 of the facility key (32 bytes), not learned from the
            maker of the bundle; `keys.fingerprint.parse_fingerprint` reads its spoken form.
        evidence: the auditor's own evidence.

    Returns:
        The verdict; nothing in the file makes this function raise.

    Raises:
        ValueError: the fingerprint is not 32 bytes.
        PolicyProblem: the evidence has an impossible rule for witnesses; see
            `Evidence.policies`.
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
        self._policies = evidence.policies(fingerprint)
        self._origin = f"radmesh.log/{format_hash(fingerprint)}"
        self._findings: list[Finding] = []
        self._card: Card | None = None
        self._witnesses = Witnesses()
        self._witnesses.add_trusted([*evidence.witness_cards, *evidence.peer_cards], self._policies)
        self._expected: dict[int, list[Expected]] = {}
        self._signed_size = -1
        self._claimed_size = -1
        self._cosigned: dict[int, list[Cosigned]] = {}
        self._unknown_files = 0
        self._own_policy = ""
        self._forks: Forks | None = None
        # For checkpoints from outside by a key not in force at their size: where that key ends.
        self._by_old_keys: list[tuple[int | None, Finding]] = []
        self._hidden: list[Finding] = []
        self._lost: list[Loss] = []
        self._stream: EntryStream | None = None
        self._openings: Openings | None = None
        self._receipts: Receipts | None = None
        self._stored: Statements | None = None

    def run(self, bundle: Bundle) -> None:
        said_origin, said_size = _read_header(bundle)
        self._unknown_files = len(bundle.unknown)
        self._card = card = self._read_card(bundle)
        if card is None:
            return
        self._read_witnesses(bundle)
        trusted = [*self._evidence.peer_cards, *self._evidence.witness_cards]
        self._forks = forks = Forks(bundle, card, trusted)
        self._read_checkpoints(bundle, card)
        limit = max(self._claimed_size, *self._expected, -1)
        if limit < 0:
            # Without a signed size, the file could claim any number of entries.
            if not self._findings:
                self._find(Code.UNSIGNED_TAIL, 0, "the bundle holds no signed checkpoint")
            return
        for size, root in self._evidence.pins:
            self._expected.setdefault(size, []).append(Expected(root, "your pin", True))
        self._openings = Openings(bundle)
        self._receipts = Receipts(bundle, card, self._evidence)
        self._stored = Statements(bundle, card, self._evidence)
        self._stream = EntryStream(
            bundle,
            card,
            self._origin,
            self._expected,
            self._signed_size,
            max(limit, *self._expected, 0),
            forks.own,
            self._evidence.since,
            {at for each in self._counted for at in (each.size - 1, each.size)},
        )
        self._stream.read(self._openings, self._receipts, self._stored)
        self._openings.finish()
        self._receipts.finish(self._stream.last_time)
        self._stored.finish()
        if said_origin != self._origin:
            self._find(Code.BUNDLE, None, "the bundle says that it is of another log")
        size = self._stream.tree.size
        stream = self._stream
        void = {trusted + 1 for _, trusted in stream.chain.taken_back}
        self._findings += [each for until, each in self._by_old_keys if until not in void]
        self._hidden, self._lost = forks.judge_own(size, stream.losses, stream.chain.taken_back)
        if not self._stream.findings and said_size != size:
            self._find(
                Code.BUNDLE,
                None,
                f"the bundle says that it holds {said_size:,} entries, and holds {size:,}",
            )
        if are_whole(self._ordered()):
            bundle.read_rest()

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
        own = self._evidence.own_card
        if own is None or own.facility_key != card.facility_key or own.serial < card.serial:
            return card
        if own.serial == card.serial and own.encoded != card.encoded:
            self._find(
                Code.KEY_CHAIN,
                None,
                f"the card in the bundle and yours are two cards of serial {card.serial}",
            )
            return None
        return own

    def _read_witnesses(self, bundle: Bundle) -> None:
        names = bundle.witnesses
        self._unknown_files += len(names[_WITNESSES:])
        for name in names[:_WITNESSES]:
            try:
                card = parse_card_untrusted(bundle.read(name, CARD_BYTES))
            except KeysError as error:
                self._find(
                    Code.BUNDLE, None, f"the card of a witness in the bundle is bad: {error}"
                )
            else:
                self._witnesses.add(card_keys(card, trusted=False))
        if bundle.has("policy"):
            self._own_policy = coverage.policy_words(bundle.read("policy", POLICY_BYTES))

    def _read_checkpoints(self, bundle: Bundle, card: Card) -> None:
        for data in self._evidence.checkpoints:
            self._read_checkpoint(_OUTSIDE, data, card)
        # Files with the same content are checked once.
        sizes: dict[bytes, int | None] = {}
        for name in bundle.checkpoints:
            if len(self._findings) >= FINDINGS:
                break
            # Read one file at a time: all of them together may be large.
            data = bundle.read(name, CHECKPOINT_BYTES)
            digest = hashlib.sha256(data).digest()
            if digest not in sizes:
                sizes[digest] = self._read_checkpoint(name, data, card)
            found, size = CHECKPOINT_NAME.fullmatch(name), sizes[digest]
            if found is not None and size is not None and int(found[1]) != size:
                self._find(Code.BUNDLE, None, f"the file {name} is a checkpoint of size {size}")
        for size, known in self._expected.items():
            if len({each.root for each in known}) > 1:
                self._find(
                    Code.FORK,
                    None,
                    f"the log key signed two different logs of {size:,} entries: "
                    "proof that somebody was shown another log",
                )

    def _read_checkpoint(self, source: str, data: bytes, card: Card) -> int | None:
        """Check a checkpoint and remember its size and root; returns the size if it holds."""
        try:
            checkpoint = open_checkpoint(data, self._origin, log_keys(card))
            cosigned = self._witnesses.check(checkpoint)
        except CheckpointProblem as problem:
            reason = f"the checkpoint ({source}) {problem.reason}"
            signer = signer_of(data, self._origin, log_keys(card))
            if source == _OUTSIDE and signer is not None and not signer.in_force(problem.size):
                # Judge this after the entries are read: they may revoke this key.
                self._by_old_keys.append((signer.until, Finding(problem.code, None, reason)))
                return None
            self._find(problem.code, None, reason)
            self._claimed_size = max(self._claimed_size, problem.size)
            return None
        counted = [each for each in cosigned if each.witness.trusted]
        self._cosigned.setdefault(checkpoint.size, []).extend(counted)
        known = self._expected.setdefault(checkpoint.size, [])
        known.append(Expected(checkpoint.root, source, False))
        self._signed_size = max(self._signed_size, checkpoint.size)
        return checkpoint.size

    def _missing_quorum(self, card: Card) -> list[Finding]:
        """Findings for the cosignatures that the checkpoint of the full size lacks."""
        cosigned, size = self._cosigned, self._signed_size
        # The key that a policy names may have been replaced by a newer log key.
        signers = {
            NamedKey(self._origin, key.public) for key in log_keys(card) if key.since <= size
        }
        found = []
        for policy in self._policies:
            reason = missing_quorum(policy, signers, cosigned.get(size, []))
            if reason is None:
                continue
            enough = [
                at for at, held in cosigned.items() if not missing_quorum(policy, signers, held)
            ]
            if enough:
                reason += f"; enough saw {max(enough):,} entries"
            reason = f"too few others saw the log of {max(size, 0):,} entries: {reason}"
            found.append(Finding(Code.QUORUM, None, reason))
        return found

    @property
    def _counted(self) -> list[Cosigned]:
        """All cosignatures of the auditor's witnesses."""
        return [each for listed in self._cosigned.values() for each in listed]

    @property
    def _last_seen(self) -> Cosigned | None:
        return seen.newest(self._counted)

    def _ordered(self) -> list[Finding]:
        entries = list(self._stream.findings) if self._stream is not None else []
        # A key-chain finding comes first: whoever rewrites history with a newer key must sign
        # sizes that this key may not sign.
        first = entries[:1] if entries and entries[0].code == Code.KEY_CHAIN else []
        findings = [*first, *self._findings, *entries[len(first) :], *self._hidden]
        if self._stream is not None and self._card is not None:
            missing = self._missing_quorum(self._card)
            old = seen.too_old(
                self._evidence,
                self._policies,
                self._cosigned.get(self._signed_size, []),
                self._last_seen,
            )
            # Without a quorum there is no time at which a quorum saw the log.
            findings += missing or ([old] if old is not None else [])
        # A loss that the log admits ranks below what the auditor's own evidence shows.
        findings += [each.finding for each in self._lost]
        for part in (self._receipts, self._stored, self._openings):
            findings += part.findings if part is not None else []
        # Here the log is correct, but it records a disclosure that was not permitted.
        findings += self._stream.disclosures if self._stream is not None else []
        return findings

    def verdict(self, damage: str) -> Verdict:
        """The verdict; `damage` says why the bundle could not be read to its end, or is ""."""
        findings = self._ordered()
        sound: bool | None = True
        cause = Finding(Code.OK, None, "all entries are there, unchanged, in order and signed")
        if damage:
            sound, cause = None, Finding(Code.BUNDLE, None, damage)
            findings.append(cause)
        if findings and findings[0] is not cause:
            sound, cause = False, findings[0]
        stream = self._stream
        since = None
        if findings and not damage and all(each.code == Code.LOST for each in findings):
            since = self._judged_since()
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
            key_changes=stream.chain.changes if stream is not None else 0,
            witnesses=coverage.witness_words(self._witnesses.cosigned),
            last_seen=seen.seen_words(self._last_seen, self._evidence.now),
            since=since,
            forks=() if self._forks is None else tuple(self._forks.sentences),
        )

    def _judged_since(self) -> int | None:
        """The entry from which the auditor judges, if every loss was reported before it."""
        stream = self._stream
        since = None if stream is None else stream.since
        if stream is None or since is None or since >= stream.tree.size:
            return None
        return since if all(each.entry < since for each in self._lost) else None

    def _notes(self) -> list[str]:
        if self._stream is None or self._openings is None:
            return []
        assert self._receipts is not None
        assert self._stored is not None
        return [
            *coverage.outside_notes(self._evidence, self._policies),
            *coverage.loss_notes(self._evidence, self._stream, [each.entry for each in self._lost]),
            *coverage.witness_notes(self._policies, self._witnesses, self._own_policy),
            *seen.time_notes(self._counted, self._stream.times),
            *coverage.side_notes(self._openings, self._receipts, self._stored),
            *coverage.file_notes(self._stream, self._unknown_files),
        ]


def _read_header(bundle: Bundle) -> tuple[str, int]:
    """The origin and size that the bundle claims; checks its format."""
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
