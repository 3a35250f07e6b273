"""Losses that a log itself reports (docs/protocol-log.md section 9 point 7).

Entries `fork-seen` and `rollback-seen` report that the log had been signed with entries
that are not in it any more. These two are signed and cannot be removed, so they count
whichever files exist beside the log.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.verify.entries import is_count
from protocol.verify.verdict import Code, Finding

ALERTS = ("fork-seen", "rollback-seen")
"""Types of the entries that report a log that contradicts itself."""

_CLAIMS = 1000
"""Most earlier roots that a log may report; an honest log reports two for each alert."""

_PARTS = (("size", "root", "digest"), ("shown_size", "shown_root", "shown_digest"))


@dataclass(frozen=True)
class _Claim:
    """A size and root that the log key had signed, by entry `entry`; `digest` is the digest of
    the signed note, in hex."""

    size: int
    root: bytes
    digest: str
    entry: int


@dataclass(frozen=True)
class Loss:
    """A loss that entry `entry` reports."""

    entry: int
    finding: Finding


class Losses:
    """What the entries of a log report about that log itself.

    Args:
        origin: the log's origin.

    Attributes:
        behind: sizes that the log had already passed when an entry named them.
        roots: size to the root at that size, as far as the log goes; the reader fills this.
    """

    def __init__(self, origin: str) -> None:
        self.behind: set[int] = set()
        self.roots: dict[int, bytes] = {}
        self._origin = origin
        self._claims: dict[tuple[int, bytes], _Claim] = {}
        self._unclear: Loss | None = None

    def take(self, index: int, details: Mapping[str, Any]) -> list[int]:
        """Take entry `index`, an alert.

        Returns:
            Sizes not yet reached at which the root is needed.
        """
        if details.get("origin") != self._origin:
            return []
        ahead = []
        for names in _PARTS:
            size, root, digest = (details.get(name) for name in names)
            if not is_count(size) or not _is_hash(root):
                self._unclear = self._unclear or _unclear(index)
                continue
            assert isinstance(size, int)
            assert isinstance(root, str)
            claim = _Claim(size, bytes.fromhex(root), str(digest), index)
            if (size, claim.root) in self._claims:
                continue
            if len(self._claims) >= _CLAIMS:
                self._unclear = self._unclear or _unclear(index)
                continue
            self._claims[size, claim.root] = claim
            if size > index:
                ahead.append(size)
            else:
                self.behind.add(size)
        return ahead

    def judge(
        self, size: int, taken_back: Collection[tuple[int, int]], void: Mapping[str, int]
    ) -> list[Loss]:
        """Compare the reported sizes and roots with the log that was read.

        Args:
            size: size of the log.
            taken_back: for each revoked log key, the revoking entry and the trusted size.
            void: digest of a note to the size from which its signer's key no longer counts.
        """
        found = [
            Loss(claim.entry, _lost(claim.size, claim.root, claim.entry))
            for claim in self._claims.values()
            if (claim.size > size or self.roots.get(claim.size) != claim.root)
            and not _is_void(claim, taken_back, void)
        ]
        return found + ([self._unclear] if self._unclear is not None else [])

    def tells(self, size: int, root: bytes) -> bool:
        """Whether an entry says that this log had this root."""
        return (size, root) in self._claims


def _lost(size: int, root: bytes, entry: int) -> Finding:
    """The finding for signed entries that are missing, by the report of entry `entry`."""
    return Finding(
        Code.LOST,
        None,
        f"this log had been signed with {size:,} entries ({root.hex()}), which are not in it any "
        f"more, as its entry {entry} says: what else they told, nothing here shows; ask the "
        "facility, and the other side of each exchange for its receipts",
    )


def _unclear(entry: int) -> Loss:
    return Loss(
        entry,
        Finding(
            Code.LOST,
            None,
            f"this log had been signed with entries that are not in it any more, as its entry "
            f"{entry} says, which does not tell clearly with which",
        ),
    )


def _is_void(
    claim: _Claim, taken_back: Collection[tuple[int, int]], void: Mapping[str, int]
) -> bool:
    """Whether the claim was signed by a key that had been revoked for the claim's size.

    The new key signs only sizes after the revoking entry. So the old key signed every
    claim that was reported before that entry or whose size does not exceed its index. For
    other claims, only the note itself shows which key signed it.
    """
    return any(
        claim.size > trusted
        and (claim.size <= entry or claim.entry < entry or void.get(claim.digest) == trusted + 1)
        for entry, trusted in taken_back
    )


def _is_hash(value: object) -> bool:
    return (
        isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    )
