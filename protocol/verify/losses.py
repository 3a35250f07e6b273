"""What a log says itself that it lost (docs/protocol-log.md section 9 point 7).

A log tells by its entries `fork-seen` and `rollback-seen` that it had been signed with
entries that are not in it any more. These entries are signed and cannot be taken out;
so they count by what they say, whatever lies beside the log, or is missing there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.verify.entries import is_count
from protocol.verify.verdict import Code, Finding

ALERTS = ("fork-seen", "rollback-seen")
"""Types of the entries that tell of a log that contradicts itself."""

_CLAIMS = 1000
"""Most roots that a log may say to have had; an honest one has two for each alert."""

_PARTS = (("size", "root", "digest"), ("shown_size", "shown_root", "shown_digest"))


@dataclass(frozen=True)
class _Claim:
    """A size and root that the log key had signed, as `entry` says; `digest` is that of the
    signed note, in hex."""

    size: int
    root: bytes
    digest: str
    entry: int


@dataclass(frozen=True)
class Loss:
    """A loss that entry `entry` tells of."""

    entry: int
    finding: Finding


class Losses:
    """What the entries of a log say about that very log.

    Args:
        origin: the log's origin.

    Attributes:
        behind: sizes of claims that the log had passed when it made them.
        roots: size to the root there, as far as the log goes; to be filled by the reader.
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
            Sizes that are still to come, at which the root is needed.
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
        """Compare what was said with the log that was read, of `size` entries.

        Args:
            size: of the log.
            taken_back: of each log key that was revoked, the entry and the trusted size.
            void: digest of a note to the size from which on the key that signed it does
                not count any more.
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
    """The finding for entries that were signed and are not there, as `entry` says."""
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
    """Whether the key that signed this was taken back from before that size on.

    The new key signs the sizes behind the entry of the revocation alone. So what is told
    in front of that entry, or is not larger, is by the old one; of the rest only the note
    itself tells which key signed it.
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
