"""Which facility holds a key that the cards of several facilities list.

A card may list any key (`keys.possession`), so all known cards are read together. For two
claims to the same key, in whatever roles:

- a proven claim beats an unproven claim, whichever came first;
- two proven claims cancel each other: two facilities hold the key;
- of two unproven claims, that of the facility that called us with the key counts;
  otherwise the claim that was known first counts.

A claim takes a key from nobody once it has ended or its facility is no longer trusted. But
an unproven claim never wins against a claim that was proven, even one that has ended.
Decisions depend only on the known cards, not on the order of queries.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keys.card_fields import SizedKey, TimedKey
from keys.peer import Peer


@dataclass(frozen=True)
class Contested:
    """A key in force that does not count for a facility because another facility claims it.

    Attributes:
        key: 32 bytes.
        role: `node`, `log` or `witness`, as the first of `facilities` lists it.
        facilities: facility keys (32 bytes): of the facility for which the key does not
            count, then of the other claimant.
        holder: the facility that holds the key, though its claim may have ended; None if
            neither does.
        is_proven: whether the holder proved the key; without a holder, whether both did.
    """

    key: bytes
    role: str
    facilities: tuple[bytes, bytes]
    holder: bytes | None
    is_proven: bool


@dataclass(frozen=True)
class _Claim:
    """One key on one card; `place` is the claim's position in the order of arrival."""

    peer: Peer
    role: str
    is_proven: bool
    until: int | None
    place: tuple[int, int]

    def stands(self, now: int) -> bool:
        """Whether it may take the key from another facility."""
        card_counts = self.peer.is_trusted(now) and now < self.peer.card.expires
        return card_counts and (self.until is None or now < self.until)

    def beats(self, other: "_Claim", now: int) -> bool:
        if not self.is_proven:
            return not other.is_proven and self.place < other.place and self.stands(now)
        return not other.is_proven or self.stands(now)


class Claims:
    """All claims on the cards of some peers.

    Args:
        peers: the peers, in the order in which they were paired.
    """

    def __init__(self, peers: Iterable[Peer]) -> None:
        self._by_key: dict[bytes, list[_Claim]] = defaultdict(list)
        for number, peer in enumerate(peers):
            # The card's signature proves the facility key.
            mine = _Claim(peer, "facility", True, None, (0, number))
            self._by_key[peer.facility_key].append(mine)
            for role, key in peer.card.listed:
                place = (peer.claimed.get(key.key, 0), number)
                claim = _Claim(peer, role, key.proof is not None, _end(key), place)
                self._by_key[key.key].append(claim)

    def naming(self, key: bytes) -> list[Peer]:
        """The peers whose cards list a key (32 bytes), in the order of pairing."""
        return list({one.peer.facility_key: one.peer for one in self._by_key.get(key, ())}.values())

    def holds(self, facility_key: bytes, key: bytes, now: int) -> bool:
        """Whether a key (32 bytes) on a facility's card counts for that facility.

        Args:
            facility_key: the facility's key, 32 bytes.
            key: the listed key.
            now: seconds since the epoch, UTC.
        """
        claims = self._by_key.get(key, ())
        mine = next((one for one in claims if one.peer.facility_key == facility_key), None)
        return mine is not None and not any(_rivals(mine, claims, now))

    def contested(self, now: int) -> tuple[Contested, ...]:
        """Keys in force that do not count for their facility (`now` in seconds, UTC)."""
        found: dict[tuple[bytes, frozenset[bytes]], Contested] = {}
        for key, claims in self._by_key.items():
            for loser in claims:
                if loser.role == "facility" or not loser.stands(now):
                    continue
                for rival in _rivals(loser, claims, now):
                    pair = (loser.peer.facility_key, rival.peer.facility_key)
                    holder = rival if self.holds(pair[1], key, now) else None
                    proven = rival.is_proven and (holder is not None or loser.is_proven)
                    contested = Contested(
                        key, loser.role, pair, None if holder is None else pair[1], proven
                    )
                    found.setdefault((key, frozenset(pair)), contested)
        return tuple(found.values())


def _rivals(mine: _Claim, claims: Sequence[_Claim], now: int) -> list[_Claim]:
    return [one for one in claims if one.peer is not mine.peer and one.beats(mine, now)]


def _end(key: TimedKey | SizedKey) -> int | None:
    """The time at which a claim ended; 0 for a replaced log key, which ended at a log size."""
    if isinstance(key, TimedKey):
        return key.until
    return None if key.until_size is None else 0
