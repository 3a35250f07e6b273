"""The entries of a bundle, read once: form, order, time, and the root at each known size."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keys.card import Card
from protocol.verify.bundle import Bundle, BundleDamaged
from protocol.verify.checkpoints import log_keys
from protocol.verify.entries import ENTRY_BYTES, EntryProblem, parse_entry
from protocol.verify.evidence import Openings, Receipts
from protocol.verify.tree import Tree, leaf
from protocol.verify.verdict import Code, Finding

_TYPES_COUNTED = 100
_BAD_ENTRIES = 1000
"""After so many entries that are none, reading on tells nothing."""


@dataclass(frozen=True)
class Expected:
    """A root that the log must have at a size, and where that is known from."""

    root: bytes
    source: str
    pinned: bool


class EntryStream:
    """Reads the entries and compares the roots.

    Args:
        bundle: where the entries are.
        card: the facility's card.
        origin: the log's origin.
        expected: size to the roots the log must have there; reading ends at the largest.
        signed_size: size of the largest signed checkpoint.
    """

    def __init__(
        self,
        bundle: Bundle,
        card: Card,
        origin: str,
        expected: dict[int, list[Expected]],
        signed_size: int,
    ) -> None:
        self.tree = Tree()
        self.findings: list[Finding] = []
        self.first_time = ""
        self.last_time = ""
        self.counts: Counter[str] = Counter()
        self.rotated = False
        # First place where the hashes in `leaves` differ from the entries.
        self.first_difference: int | None = None
        self._bundle = bundle
        self._card = card
        self._origin = origin
        self._expected = expected
        self._signed_size = signed_size
        self._good_size = 0
        self._bad_entries = 0
        self._leaves = self._open_leaves()
        # The tree of `leaves` from that difference on: when that tree, and not that
        # of the entries, has the signed root, the difference is the culprit.
        self._recorded: Tree | None = None

    def read(self, openings: Openings, receipts: Receipts) -> None:
        """Read to the end, or to where nothing is signed any more.

        Raises:
            BundleDamaged: the bundle breaks off; what was found till then is in `findings`.
        """
        limit = max(self._expected)
        self._compare_roots()
        for line in self._bundle.lines("entries.jsonl", ENTRY_BYTES + 1):
            index = self.tree.size
            if index >= limit:
                self._find_tail(index)
                break
            if not line.endswith(b"\n"):
                self._find(Code.ENTRY_PARSE, index, f"entry {index} is torn or too large")
                break
            self._take(line[:-1], index, openings, receipts)
            if self._bad_entries > _BAD_ENTRIES:
                break
        self._check_end()

    def _open_leaves(self) -> Iterator[bytes]:
        # An aid that nothing depends on: damage to it is not damage to the log.
        try:
            if self._bundle.has("leaves"):
                yield from self._bundle.blocks("leaves", 32)
        except BundleDamaged:
            return

    def _take(self, data: bytes, index: int, openings: Openings, receipts: Receipts) -> None:
        try:
            entry = parse_entry(data)
            self._check_entry(entry, index)
        except EntryProblem as problem:
            # What follows a first bad entry is mostly its consequence.
            self._bad_entries += 1
            if self._bad_entries == 1:
                self._find(problem.code, index, f"entry {index} {problem.reason}")
        else:
            openings.match(index, entry["subjects"])
            receipts.match(index, entry)
        hashed = leaf(data)
        recorded = next(self._leaves, None)
        if self._recorded is None and recorded is not None and recorded != hashed:
            self._recorded = self.tree.branch()
            self.first_difference = index
        if self._recorded is not None and recorded is not None:
            self._recorded.add(recorded)
        self.tree.add(hashed)
        if self.tree.size in self._expected:
            self._compare_roots()

    def _check_entry(self, entry: dict[str, Any], index: int) -> None:
        kind: str = entry["type"]
        if kind not in self.counts and len(self.counts) >= _TYPES_COUNTED:
            kind = "other"
        self.counts[kind] += 1
        last, self.last_time = self.last_time, entry["time"]
        if index == 0:
            self.first_time = entry["time"]
            self._check_genesis(entry)
        if entry["index"] != index:
            raise EntryProblem(Code.ENTRY_INDEX, f"calls itself entry {entry['index']}")
        if entry["time"] < last:
            raise EntryProblem(Code.TIME_BACKWARDS, f"is dated before entry {index - 1}")
        if kind == "rotation":
            self.rotated = True

    def _check_genesis(self, entry: dict[str, Any]) -> None:
        details = entry["details"]
        if entry["type"] != "init" or entry["index"] != 0:
            raise EntryProblem(Code.GENESIS, "is not the beginning of a log")
        if (
            details.get("facility_key") != self._card.facility_key.hex()
            or details.get("origin") != self._origin
        ):
            raise EntryProblem(Code.GENESIS, "begins the log of another facility")
        first = [key.public.hex() for key in log_keys(self._card) if key.in_force(1)]
        if details.get("log_key") not in first:
            raise EntryProblem(
                Code.KEY_CHAIN, "names a first log key that is not that of the facility's card"
            )

    def _compare_roots(self) -> None:
        size = self.tree.size
        wrong = [each for each in self._expected.get(size, ()) if each.root != self.tree.root()]
        for each in wrong:
            index, place = self._place(each.root)
            if each.pinned:
                self._find_once(
                    Code.FORK_VS_PIN,
                    index,
                    f"at size {size:,} the log is another one than by {each.source}: {place}",
                )
            else:
                self._find_once(
                    Code.ROOT_MISMATCH,
                    index,
                    f"the first {size:,} entries are not those that were signed: {place}",
                )
        if not wrong:
            self._good_size = size

    def _place(self, root: bytes) -> tuple[int | None, str]:
        """First bad entry, if it can be told, and words about it."""
        size = self.tree.size
        recorded = self._recorded
        if recorded is not None and recorded.size == size and recorded.root() == root:
            index = self.first_difference
            return index, f"entry {index} was changed, or one was removed or put in there"
        if self._good_size == size - 1:
            return size - 1, f"entry {size - 1} was changed"
        return None, f"at least one of the entries {self._good_size} to {size - 1} was changed"

    def _check_end(self) -> None:
        size = self.tree.size
        if size == 0 and not self.findings:
            self._find(Code.GENESIS, 0, "the log has no entries at all")
        if size < self._signed_size:
            self._check_removal()
            self._find(
                Code.TRUNCATED,
                size,
                f"{self._signed_size:,} entries were signed, and only {size:,} are here",
            )
        pins = [at for at, known in self._expected.items() if any(each.pinned for each in known)]
        if size < max(pins, default=0):
            self._find(
                Code.TRUNCATED_VS_PIN,
                size,
                f"by your pin the log had {max(pins):,} entries, and only {size:,} are here",
            )
        if size > self._signed_size:
            self._find_tail(self._signed_size)

    def _check_removal(self) -> None:
        """Tell an entry taken out, the rest renumbered, from a tail cut off."""
        recorded = self._recorded
        if recorded is None:
            return
        for each in self._leaves:
            if recorded.size == self._signed_size:
                break
            recorded.add(each)
        signed = self._expected.get(self._signed_size, ())
        if any(not each.pinned and each.root == recorded.root() for each in signed):
            index = self.first_difference
            self._find_once(
                Code.ROOT_MISMATCH,
                index,
                f"entry {index} is not the one that was signed: it was changed or removed",
            )

    def _find_tail(self, index: int) -> None:
        self._find_once(
            Code.UNSIGNED_TAIL,
            max(index, 0),
            f"entry {max(index, 0)} and those after it are covered by no signed checkpoint",
        )

    def _find(self, code: Code, index: int | None, reason: str) -> None:
        self.findings.append(Finding(code, index, reason))

    def _find_once(self, code: Code, index: int | None, reason: str) -> None:
        if all(each.code != code for each in self.findings):
            self._find(code, index, reason)
