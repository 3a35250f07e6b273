"""Caps on sending, by peer and time of day: their settings, and which one is in force.

Arithmetic on the settings and a given time of day; `node.bucket` and `node.transfer.uplink` do the
holding back.
"""

import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.clock import local_time
from node.day_windows import BadWindow, in_window, read_window

EVERYONE = "*"
LEAST_MBIT, MOST_MBIT = 0.1, 100_000.0
"""At 0.1 Mbit/s each of eight transfers to one peer still moves something every few
seconds, so that none is taken for dead."""

_ENTRIES = {"peer", "from", "to", "mbit_per_second", "stat_exempt"}


class BadRule(ValueError):
    """An invalid entry; the text says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class BandwidthRule:
    """One entry `[[bandwidth]]` of the settings.

    Attributes:
        peer: petname or fingerprint, or "*" for each peer that no other entry names.
        from_minute, to_minute: the window, in minutes since local midnight, the end
            not in it; it may go over midnight. Equal: the whole day.
        mbit_per_second: most that is sent to the peer, 10^6 bits of sealed data.
        stat_exempt: whether urgent transfers are not held back.
    """

    peer: str
    from_minute: int
    to_minute: int
    mbit_per_second: float
    stat_exempt: bool

    @property
    def bytes_per_second(self) -> float:
        """The cap in bytes."""
        return self.mbit_per_second * 1e6 / 8

    def holds_at(self, minute: int) -> bool:
        """Whether a time of day (minutes since local midnight) is in the window."""
        return in_window(self.from_minute, self.to_minute, minute)

    def names(self, petname: str, fingerprint: str) -> bool:
        """Whether the entry names this peer."""
        return _folded(self.peer) == _folded(petname) or self.peer == fingerprint

    def to_json(self) -> dict[str, Any]:
        """The rule as the local API shows it."""
        return {
            "mbit_per_second": self.mbit_per_second,
            "from": _clock(self.from_minute),
            "to": _clock(self.to_minute),
            "stat_exempt": self.stat_exempt,
        }


def local_minute() -> int:
    """Minutes since local midnight, by the clock and time zone of this machine."""
    return local_time(int(time.time()))[0]


def rule_in_force(
    rules: tuple[BandwidthRule, ...], petname: str, fingerprint: str, minute: int
) -> BandwidthRule | None:
    """The cap of one peer at a time of day (minutes since local midnight); None: no cap.

    Entries that name a peer replace those for "*", at any time of day; all other peers are under
    those for "*". Of several entries in force, the lowest cap counts.
    """
    named = [rule for rule in rules if rule.names(petname, fingerprint)]
    candidates = named or [rule for rule in rules if rule.peer == EVERYONE]
    holding = [rule for rule in candidates if rule.holds_at(minute)]
    return min(holding, key=lambda rule: rule.mbit_per_second, default=None)


def read_rule(entry: Any) -> BandwidthRule:
    """Read one entry.

    Raises:
        BadRule: a value is missing or of the wrong kind.
    """
    if not isinstance(entry, Mapping):
        raise BadRule("must be a table, written [[bandwidth]]")
    unknown = sorted(set(entry) - _ENTRIES)
    if unknown:
        raise BadRule(f"has an unknown entry: {', '.join(unknown)}")
    peer = entry.get("peer")
    if not isinstance(peer, str) or not peer.strip():
        raise BadRule('needs peer: a petname, a fingerprint, or "*"')
    rate = entry.get("mbit_per_second")
    if (
        isinstance(rate, bool)
        or not isinstance(rate, int | float)
        or not (LEAST_MBIT <= rate <= MOST_MBIT)
    ):
        raise BadRule(f"needs mbit_per_second: a number from {LEAST_MBIT:g} to {MOST_MBIT:g}")
    exempt = entry.get("stat_exempt", False)
    if type(exempt) is not bool:
        raise BadRule("has a stat_exempt that is neither true nor false")
    try:
        begin, end = read_window(entry)
    except BadWindow as error:
        raise BadRule(str(error)) from None
    return BandwidthRule(
        peer=peer.strip(),
        from_minute=begin,
        to_minute=end,
        mbit_per_second=float(rate),
        stat_exempt=exempt,
    )


def _folded(name: str) -> str:
    """The name in the form in which petnames are compared (`keys.trust`)."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
