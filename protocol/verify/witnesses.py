"""Cosignatures: who saw which checkpoint, and when (<https://c2sp.org/tlog-cosignature>).

A witness is known from a policy, from a facility card that the auditor trusts, or from a
card in the bundle. For a card in the bundle, only the log's own facility vouches:
cosignatures by such witnesses must hold, but do not count.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from keys.card import Card
from protocol.verify.checkpoints import CheckpointProblem, SignedCheckpoint
from protocol.verify.claims import held_witness_keys
from protocol.verify.moments import moment_words
from protocol.verify.note import COSIGNED, NamedKey, key_hash, verifies
from protocol.verify.policy import Policy
from protocol.verify.verdict import Code

NAME_PREFIX = "radmesh.witness/"

_TIME_LIMIT = 2**63 - 1


@dataclass(frozen=True)
class Witness:
    """A key that cosigns, and when it counts, in seconds since the epoch.

    Attributes:
        name: the name in signature lines.
        public: the public key, 32 bytes.
        label: the name for people.
        since, until: when the key counts; `until` is None while it has no end.
        trusted: whether the auditor knows the key from outside the bundle.
    """

    name: str
    public: bytes
    label: str
    since: int = 0
    until: int | None = None
    trusted: bool = True


@dataclass(frozen=True)
class Cosigned:
    """A cosignature that holds. `time` is seconds since the epoch by the witness's clock."""

    witness: Witness
    size: int
    time: int

    @property
    def moment(self) -> str:
        """The time for people, UTC."""
        return moment_words(self.time)


def witness_name(card: Card) -> str:
    """The name under which a facility cosigns."""
    return NAME_PREFIX + card.fingerprint


def card_keys(card: Card, *, trusted: bool, others: Iterable[Card] = ()) -> list[Witness]:
    """The witness keys on a card that count for its facility, given other facilities' cards."""
    return [
        Witness(witness_name(card), key.key, card.name, key.since, key.until, trusted)
        for key in held_witness_keys(card, others)
    ]


class Witnesses:
    """All known witnesses, and what they cosigned."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], list[Witness]] = {}
        self._newest: dict[tuple[str, bytes], Cosigned] = {}
        self.unknown = 0

    @property
    def cosigned(self) -> list[Cosigned]:
        """The cosignature at the largest size, for each witness that cosigned."""
        return list(self._newest.values())

    def add(self, witnesses: Iterable[Witness]) -> None:
        """Add witnesses; of several with the same key, the first one added counts."""
        for witness in witnesses:
            at = witness.name, key_hash(witness.name, witness.public, COSIGNED)
            same = self._known.setdefault(at, [])
            if all(each.public != witness.public for each in same):
                same.append(witness)

    def add_trusted(self, cards: Iterable[Card], policies: Iterable[Policy]) -> None:
        """Add the witnesses on cards that the auditor trusts and in the auditor's policies."""
        known = list(cards)
        for card in known:
            self.add(card_keys(card, trusted=True, others=known))
        for policy in policies:
            self.add(
                Witness(key.name, key.public, label=name) for name, key in policy.witnesses.items()
            )

    def check(self, checkpoint: SignedCheckpoint) -> list[Cosigned]:
        """Check the cosignatures under a checkpoint; only counts those by unknown keys.

        Raises:
            CheckpointProblem: CP_BAD, a cosignature of a known witness does not hold.
        """
        found = []
        for signature in checkpoint.others:
            known = self._known.get((signature.name, signature.key))
            if known is None:
                self.unknown += 1
                continue
            time, raw = int.from_bytes(signature.raw[:8], "big"), signature.raw[8:]
            message = f"cosignature/v1\ntime {time}\n{checkpoint.text}".encode()
            signers = [each for each in known if verifies(each.public, message, raw)]
            if not signers or time > _TIME_LIMIT:
                raise _bad(f"has a cosignature of {known[0].label} that does not hold", checkpoint)
            witness = signers[0]
            if time < witness.since or (witness.until is not None and time >= witness.until):
                raise _bad(
                    f"has a cosignature of {witness.label} from a time when its key did not count",
                    checkpoint,
                )
            found.append(Cosigned(witness, checkpoint.size, time))
        for each in found:
            at = each.witness.name, each.witness.public
            if at not in self._newest or self._newest[at].size <= each.size:
                self._newest[at] = each
        return found


def missing_quorum(
    policy: Policy, signers: set[NamedKey], cosigned: Iterable[Cosigned]
) -> str | None:
    """Why a checkpoint does not satisfy a policy, or None if it does.

    Args:
        policy: the auditor's policy.
        signers: the log's keys; one of them signed the checkpoint.
        cosigned: the cosignatures under the checkpoint that hold.
    """
    if policy.logs and not signers & set(policy.logs):
        return "the policy does not name the key that signed the log"
    seen = {(each.witness.name, each.witness.public): each.witness.label for each in cosigned}
    asked = {name: (key.name, key.public) for name, key in policy.witnesses.items()}
    if policy.holds({name for name, key in asked.items() if key in seen}):
        return None
    labels = sorted({seen[key] for key in asked.values() if key in seen})
    return f"the policy asks for {policy.words}; these cosigned: {', '.join(labels) or 'none'}"


def _bad(reason: str, checkpoint: SignedCheckpoint) -> CheckpointProblem:
    return CheckpointProblem(Code.CP_BAD, reason, checkpoint.size)
