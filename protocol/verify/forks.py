"""Evidence in a bundle that a log contradicted itself (docs/protocol-log.md section 7).

As a witness of its peers, the bundle's facility keeps pairs of contradicting checkpoints
that one log signed. Two roots for one size prove, to anybody who knows the signing
facility's key, that it kept two histories. The bundle's facility also keeps checkpoints of
its own log that its witnesses showed it.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from keys.card import CARD_BYTES, Card, parse_card_untrusted
from keys.errors import KeysError
from protocol.verify.bundle import EVIDENCE_NAME, Bundle
from protocol.verify.checkpoints import (
    CHECKPOINT_BYTES,
    CheckpointProblem,
    SignedCheckpoint,
    log_keys,
    open_checkpoint,
    signer_of,
)
from protocol.verify.losses import Loss, Losses
from protocol.verify.verdict import Code, Finding

_PAIRS = 100


@dataclass(frozen=True)
class OwnClaim:
    """A checkpoint of the verified log, from its alerts; its signature holds."""

    size: int
    root: bytes


class Forks:
    """What a bundle shows of logs that contradict themselves.

    Args:
        bundle: the bundle.
        own: the card of the facility whose log is verified.
        trusted: cards of other facilities that the auditor compared.

    Raises:
        BundleDamaged: a file of the bundle is damaged or too large.
    """

    def __init__(self, bundle: Bundle, own: Card, trusted: Iterable[Card]) -> None:
        self.sentences: list[str] = []
        self.own: list[OwnClaim] = []
        # Digest of a note of this log to the size from which its signer's key is void.
        self._void: dict[str, int] = {}
        self._own_card = own
        self._trusted = list(trusted)
        numbers = {found[1] for name in bundle.evidence if (found := EVIDENCE_NAME.fullmatch(name))}
        for number in sorted(numbers, key=int)[:_PAIRS]:
            self._read(bundle, number)
        if len(numbers) > _PAIRS:
            self.sentences.append(f"more evidence, not looked at: {len(numbers) - _PAIRS:,}")

    def _read(self, bundle: Bundle, number: str) -> None:
        names = [f"witnessed/{number}/{part}" for part in ("card", "held", "shown")]
        if not all(bundle.has(name) for name in names):
            self.sentences.append(f"the evidence {number} in the bundle is not complete")
            return
        data = bundle.read(names[0], CARD_BYTES)
        pair = [bundle.read(name, CHECKPOINT_BYTES) for name in names[1:]]
        try:
            card = parse_card_untrusted(data)
        except KeysError as error:
            words = f"the evidence {number} in the bundle has a bad card: {error}"
            self.sentences.append(words)
            return
        known = [
            each
            for each in (*self._trusted, self._own_card)
            if each.facility_key == card.facility_key
        ]
        newest = max([card, *known], key=lambda each: each.serial)
        whose = f"{newest.name} ({newest.fingerprint})"
        if not known:
            whose += ", if that is its fingerprint,"
        origin = f"radmesh.log/{newest.fingerprint}"
        if newest.facility_key == self._own_card.facility_key:
            for each in pair:
                signer = signer_of(each, origin, log_keys(newest))
                if signer is not None and signer.until is not None:
                    self._void[hashlib.sha256(each).hexdigest()] = signer.until
        try:
            held, shown = (open_checkpoint(each, origin, log_keys(newest)) for each in pair)
        except CheckpointProblem as problem:
            self.sentences.append(
                f"the evidence {number} about {whose} does not hold: a checkpoint {problem.reason}"
            )
            return
        if newest.facility_key == self._own_card.facility_key:
            self.own += [OwnClaim(each.size, each.root) for each in (held, shown)]
        else:
            self.sentences.append(f"{whose} {_contradiction(held, shown)}")

    def judge_own(
        self,
        size: int,
        losses: Losses,
        taken_back: Collection[tuple[int, int]],
    ) -> tuple[list[Finding], list[Loss]]:
        """Compare the log with checkpoints that it signed, by its entries and its alerts.

        Args:
            size: size of the log.
            losses: what the log's entries report, which counts without any side file; also
                holds the roots at the sizes of `own`, as far as the log goes.
            taken_back: for each revoked log key, the revoking entry and the trusted size.

        Returns:
            FORK findings (hidden) first, then LOST findings (admitted).
        """
        hidden: dict[Finding, None] = {}
        for claim in self.own:
            if claim.size <= size and losses.roots.get(claim.size) == claim.root:
                continue
            if losses.tells(claim.size, claim.root):
                continue
            words = f"{claim.size:,} entries ({claim.root.hex()})"
            reason = f"the log key signed another log of {words}, as the bundle itself shows"
            hidden[Finding(Code.FORK, None, reason)] = None
        return list(hidden), losses.judge(size, taken_back, self._void)


def _contradiction(held: SignedCheckpoint, shown: SignedCheckpoint) -> str:
    if held.size == shown.size and held.root != shown.root:
        return (
            f"signed two histories of its log at {held.size:,} entries: {held.root.hex()} and "
            f"{shown.root.hex()}"
        )
    return (
        f"signed {held.size:,} entries of its log ({held.root.hex()}), and by this facility "
        f"later showed {shown.size:,} ({shown.root.hex()}) that do not follow from them"
    )
