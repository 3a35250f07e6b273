"""Compares the audit bundles of two facilities.

Both are verified first, each with the fingerprint that the auditor has from elsewhere and
with the other's card, so that both signatures of their receipts are checked. Then each is
read once more and its root is computed again, so that the compared log is the verified
one. Memory grows with the transfers of the pair, not with the logs.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import BinaryIO

from keys.card import CARD_BYTES, Card, parse_card_untrusted
from keys.errors import KeysError
from protocol.log.tree import Frontier, leaf_hash
from protocol.reconcile import GRACE_SECONDS, Comparison, Ledger, compare, time_ms
from protocol.verify import Code, Evidence, Verdict, verify_bundle
from protocol.verify.bundle import Bundle, BundleDamaged
from protocol.verify.entries import ENTRY_BYTES


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome for two bundles.

    Attributes:
        verdict_a, verdict_b: the verdict on each log alone.
        comparison: the comparison; None if there is none, because a log is not sound.
        reason: why there is no comparison, or "".
    """

    verdict_a: Verdict
    verdict_b: Verdict
    comparison: Comparison | None
    reason: str = ""

    @property
    def exit_code(self) -> int:
        """0 no differences, 1 differences or lost entries, 2 cannot tell."""
        if self.comparison is None:
            return 2
        if self.comparison.differences or not (self.verdict_a.sound and self.verdict_b.sound):
            return 1
        return 0


def reconcile_bundles(
    bundle_a: BinaryIO,
    bundle_b: BinaryIO,
    *,
    fingerprint_a: bytes,
    fingerprint_b: bytes,
    card_a: Card | None = None,
    card_b: Card | None = None,
    grace_seconds: int = GRACE_SECONDS,
) -> Outcome:
    """Compare what two logs record about each other.

    Args:
        bundle_a, bundle_b: the bundles, seekable, opened for reading bytes.
        fingerprint_a, fingerprint_b: SHA-256 of the facility keys (32 bytes), not learned
            from the makers of the bundles.
        card_a, card_b: the auditor's own copies of the cards; the newer of such a card and
            the card in the bundle counts.
        grace_seconds: see `protocol.reconcile.compare`.

    Returns:
        The outcome; nothing in the files makes this function raise.
    """
    newest_a = _newest(_card(bundle_a, fingerprint_a), card_a)
    newest_b = _newest(_card(bundle_b, fingerprint_b), card_b)
    verdicts = [
        verify_bundle(
            file,
            facility_fingerprint=fingerprint,
            evidence=Evidence(peer_cards=[] if other is None else [other], own_card=own),
        )
        for file, fingerprint, own, other in (
            (bundle_a, fingerprint_a, card_a, newest_b),
            (bundle_b, fingerprint_b, card_b, newest_a),
        )
    ]
    reason = ""
    for name, verdict in zip("AB", verdicts, strict=True):
        # Do not refuse because of an admitted loss: the other log may have what is missing.
        told = all(finding.code == Code.LOST for finding in verdict.findings)
        if not told and not reason:
            reason = f"the log of {name} cannot be relied on: {verdict.reason}"
    if fingerprint_a == fingerprint_b:
        reason = "both logs are of one facility"
    comparison = None
    if not reason and newest_a is not None and newest_b is not None:
        try:
            comparison = compare(
                _ledger(bundle_a, verdicts[0], newest_b.facility_key),
                _ledger(bundle_b, verdicts[1], newest_a.facility_key),
                grace_seconds=grace_seconds,
            )
        except BundleDamaged as damage:
            reason = str(damage)
    return Outcome(
        verdict_a=verdicts[0], verdict_b=verdicts[1], comparison=comparison, reason=reason
    )


def _card(file: BinaryIO, fingerprint: bytes) -> Card | None:
    """The card in a bundle; None if it is not the facility's card."""
    try:
        with Bundle(file) as bundle:
            card = parse_card_untrusted(bundle.read("card", CARD_BYTES))
    except (BundleDamaged, KeysError):
        return None
    return card if hashlib.sha256(card.facility_key).digest() == fingerprint else None


def _newest(bundled: Card | None, given: Card | None) -> Card | None:
    if bundled is None or given is None:
        return bundled
    return given if given.serial > bundled.serial else bundled


def _ledger(file: BinaryIO, verdict: Verdict, peer: bytes) -> Ledger:
    """What a verified log records about a peer.

    Raises:
        BundleDamaged: the log is not the one that was verified.
    """
    ledger, tree = Ledger(peer), Frontier()
    # The entries are canonical JSON, in which a field has only one form.
    mark = f'"peer":"{peer.hex()}"'.encode()
    with Bundle(file) as bundle:
        for line in bundle.lines("entries.jsonl", ENTRY_BYTES + 1):
            tree.append(leaf_hash(line[:-1]))
            if mark in line:
                ledger.add(json.loads(line))
    if tree.root().hex() != verdict.root:
        raise BundleDamaged("a bundle changed while it was read")
    ledger.reaches(time_ms(verdict.last_time))
    return ledger
