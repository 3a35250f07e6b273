"""Evidence in a bundle that a log contradicted itself (docs/protocol-log.md section 7).

The facility of the bundle keeps, as a witness of its peers, pairs of checkpoints
that one log signed and that do not go together. Two roots for one size prove, to
anybody who knows that facility's key, that it kept two histories.
"""

from collections.abc import Iterable

from keys.card import CARD_BYTES, Card, parse_card_untrusted
from keys.errors import KeysError
from protocol.verify.bundle import EVIDENCE_NAME, Bundle
from protocol.verify.checkpoints import (
    CHECKPOINT_BYTES,
    CheckpointProblem,
    SignedCheckpoint,
    log_keys,
    open_checkpoint,
)

_PAIRS = 100


def read_forks(bundle: Bundle, own: Card, trusted: Iterable[Card]) -> tuple[list[str], list[bytes]]:
    """What the bundle shows of logs that contradict themselves.

    Args:
        bundle: the bundle.
        own: the card of the facility whose log is verified.
        trusted: cards of other facilities that the auditor compared.

    Returns:
        A sentence for each pair about another log, and the checkpoints of the pairs
        about this log, which are to be verified like all others.

    Raises:
        BundleDamaged: a file of the bundle is damaged or too large.
    """
    numbers = {found[1] for name in bundle.evidence if (found := EVIDENCE_NAME.fullmatch(name))}
    sentences: list[str] = []
    checkpoints: list[bytes] = []
    for number in sorted(numbers, key=int)[:_PAIRS]:
        names = [f"witnessed/{number}/{part}" for part in ("card", "held", "shown")]
        if not all(bundle.has(name) for name in names):
            sentences.append(f"the evidence {number} in the bundle is not complete")
            continue
        data = bundle.read(names[0], CARD_BYTES)
        pair = [bundle.read(name, CHECKPOINT_BYTES) for name in names[1:]]
        try:
            card = parse_card_untrusted(data)
        except KeysError as error:
            sentences.append(f"the evidence {number} in the bundle has a bad card: {error}")
            continue
        if card.facility_key == own.facility_key:
            checkpoints += pair
            continue
        known = [each for each in trusted if each.facility_key == card.facility_key]
        newest = max([card, *known], key=lambda each: each.serial)
        sentences.append(_sentence(number, newest, pair, is_known=bool(known)))
    return sentences, checkpoints


def _sentence(number: str, card: Card, pair: list[bytes], *, is_known: bool) -> str:
    whose = f"{card.name} ({card.fingerprint})"
    if not is_known:
        whose += ", if that is its fingerprint,"
    origin = f"radmesh.log/{card.fingerprint}"
    try:
        held, shown = (open_checkpoint(data, origin, log_keys(card)) for data in pair)
    except CheckpointProblem as problem:
        return f"the evidence {number} about {whose} does not hold: a checkpoint {problem.reason}"
    return f"{whose} {_contradiction(held, shown)}"


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
