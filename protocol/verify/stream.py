"""Reads the entries of a bundle once: checks form, order, time, keys, and the root at each
known size."""

import operator
from bisect import insort
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from keys.card import Card
from protocol.verify.bundle import Bundle, BundleDamaged
from protocol.verify.entries import (
    ENTRY_BYTES,
    Entry,
    EntryProblem,
    parse_any_entry,
    parse_plain_entry,
)
from protocol.verify.evidence import Openings, Receipts
from protocol.verify.forks import OwnClaim
from protocol.verify.key_chain import CHANGES, KeyChain
from protocol.verify.losses import ALERTS, Losses
from protocol.verify.revocations import Revocations
from protocol.verify.stored import Statements
from protocol.verify.tree import Tree, leaf
from protocol.verify.verdict import Code, Finding
from protocol.verify.work import SIGNATURE, json_work

_TYPES_COUNTED = 100
_BAD_ENTRIES = 1000
"""Reading stops after more bad entries than this: further ones add no information."""


@dataclass(frozen=True)
class Expected:
    """A root that the log must have at a size, and the source of that knowledge."""

    root: bytes
    source: str
    pinned: bool


class EntryStream:
    """Reads the entries and compares the roots.

    Args:
        bundle: the bundle that holds the entries.
        card: the facility's card.
        origin: the log's origin.
        expected: size to the roots that the log must have at that size.
        signed_size: size of the largest signed checkpoint, or -1.
        limit: the size at which reading ends: the largest in a checkpoint or pin.
        claims: checkpoints of this log from alerts; `losses` gets the roots at their sizes.
        since: as in `Evidence`.
        timed: indexes of the entries whose times are noted in `times`.
    """

    def __init__(
        self,
        bundle: Bundle,
        card: Card,
        origin: str,
        expected: dict[int, list[Expected]],
        signed_size: int,
        limit: int,
        claims: Sequence[OwnClaim],
        since: int | str | None = None,
        timed: Collection[int] = (),
    ) -> None:
        self.tree = Tree()
        self.findings: list[Finding] = []
        self.first_time = ""
        self.last_time = ""
        self.counts: Counter[str] = Counter()
        self.chain = KeyChain(card, origin)
        # Index of the first entry to judge; None to judge all, or if no entry is that new.
        self.since = since if isinstance(since, int) else None
        self._since_time = since if isinstance(since, str) else ""
        self.times: dict[int, str] = {}
        self._timed = frozenset(timed)
        # Losses that the entries themselves report.
        self.losses = Losses(origin)
        # Index of the first entry whose hash in `leaves` differs.
        self.first_difference: int | None = None
        # Whether `leaves` exists, but ends before the entries do.
        self.leaves_end_early = False
        self._bundle = bundle
        self._card = card
        self._origin = origin
        self._expected = expected
        self._signed_size = signed_size
        self._limit = limit
        # The first disclosure to a facility that was not trusted any more.
        self.disclosures: list[Finding] = []
        self._revocations = Revocations()
        claimed = {claim.size for claim in claims}
        # Sizes at which the root is needed, the next one last.
        self._stops = sorted(expected.keys() | self.chain.sizes | claimed, reverse=True)
        self._good_size = 0
        self._bad_entries = 0
        self._has_leaves = bundle.has("leaves")
        self._leaves = bundle.stream("leaves") if self._has_leaves else None
        # The tree over the hashes in `leaves` from `first_difference` on. If this tree has
        # the signed root and the tree of the entries does not, that entry is the bad one.
        self._recorded: Tree | None = None

    def read(self, openings: Openings, receipts: Receipts, stored: Statements) -> None:
        """Read to the end, or to `limit`.

        Raises:
            BundleDamaged: the bundle is cut off; `findings` holds the findings so far.
        """
        self._stop_here()
        for lines, whole in self._bundle.batches("entries.jsonl", ENTRY_BYTES):
            room = self._limit - self.tree.size
            if not whole and len(lines) <= room:
                self._take(lines[:-1], openings, receipts, stored)
                index = self.tree.size
                self._find(Code.ENTRY_PARSE, index, f"entry {index} is torn or too large")
                break
            self._take(lines[:room], openings, receipts, stored)
            if len(lines) > room:
                self._find_tail(self._limit)
                break
            if self._bad_entries > _BAD_ENTRIES:
                break
        self._look_back()
        self._check_end()

    def _take(
        self, lines: Sequence[bytes], openings: Openings, receipts: Receipts, stored: Statements
    ) -> None:
        index = first = self.tree.size
        for data in lines:
            try:
                entry = parse_plain_entry(data)
                if entry is None:
                    self._bundle.spend(json_work(data))
                    entry = parse_any_entry(data)
                if entry.type in CHANGES:
                    self._bundle.spend(3 * SIGNATURE)
                    # A change of keys names the root before it, so hash those entries now.
                    self._hash(lines[self.tree.size - first : index - first])
                self._check_entry(entry, index)
            except EntryProblem as problem:
                # Report only the first bad entry: later ones mostly follow from it.
                self._bad_entries += 1
                if self._bad_entries == 1:
                    self._find(problem.code, index, f"entry {index} {problem.reason}")
                elif self._bad_entries > _BAD_ENTRIES:
                    lines = lines[: index - first]
                    break
            else:
                if entry.subjects:
                    openings.commitments += entry.commitments
                if openings.at <= index:
                    openings.match(index, entry)
                if entry.names_receipt or receipts.at <= index:
                    self._bundle.spend(json_work(data))
                    receipts.match(index, entry.fields)
                if entry.names_stored or stored.at <= index:
                    self._bundle.spend(json_work(data))
                    stored.match(index, entry.fields, receipts.last)
            index += 1
            if self._stops and self._stops[-1] == index:
                self._hash(lines[self.tree.size - first : index - first])
                self._stop_here()
        self._hash(lines[self.tree.size - first :])

    def _check_entry(self, entry: Entry, index: int) -> None:
        kind = entry.type
        if kind not in self.counts and len(self.counts) >= _TYPES_COUNTED:
            kind = "other"
        self.counts[kind] += 1
        last, self.last_time = self.last_time, entry.time
        if index in self._timed:
            self.times[index] = entry.time
        if self._since_time and self.since is None and entry.time >= self._since_time:
            self.since = index
        if index == 0:
            self.first_time = entry.time
            self._check_genesis(entry)
        if entry.place != index:
            raise EntryProblem(Code.ENTRY_INDEX, f"calls itself entry {entry.place}")
        if entry.time < last:
            raise EntryProblem(Code.TIME_BACKWARDS, f"is dated before entry {index - 1}")
        # After a bad entry, a change of keys cannot be judged.
        if entry.type in CHANGES and not self._bad_entries:
            details = entry.fields["details"]
            self.chain.check_change(entry.type, details, index, self.tree.root())
        after_revocation = self._revocations.check(entry, index)
        if after_revocation is not None and not self.disclosures:
            self.disclosures.append(
                Finding(Code.AFTER_REVOCATION, index, f"entry {index} {after_revocation}")
            )
        if entry.type in ALERTS:
            details = entry.fields["details"]
            for size in self.losses.take(index, details):
                insort(self._stops, size, key=operator.neg)

    def _check_genesis(self, entry: Entry) -> None:
        details = entry.fields["details"]
        if entry.type != "init" or entry.place != 0:
            raise EntryProblem(Code.GENESIS, "is not the beginning of a log")
        if (
            details.get("facility_key") != self._card.facility_key.hex()
            or details.get("origin") != self._origin
        ):
            raise EntryProblem(Code.GENESIS, "begins the log of another facility")
        self.chain.check_first(details)

    def _hash(self, lines: Sequence[bytes]) -> None:
        """Add entries to the tree, comparing their hashes with those in `leaves`."""
        hashes = [leaf(line) for line in lines]
        recorded = self._read_leaves(len(hashes))
        if self._has_leaves and len(recorded) < 32 * len(hashes):
            self.leaves_end_early = True
        if self._recorded is None and not b"".join(hashes).startswith(recorded):
            held = _split(recorded)
            same = next(at for at, each in enumerate(held) if each != hashes[at])
            self.first_difference = self.tree.size + same
            self._recorded = self.tree.branch()
            self._recorded.extend(hashes[:same])
            self._recorded.extend(held[same:])
        elif self._recorded is not None:
            self._recorded.extend(_split(recorded))
        self.tree.extend(hashes)

    def _read_leaves(self, count: int) -> bytes:
        """The next hashes in `leaves`, fewer at its end.

        The file is only an aid, so damage to it is reported after everything is read.
        """
        if self._leaves is None:
            return b""
        try:
            recorded = self._leaves.read(32 * count)
        except BundleDamaged:
            recorded, self._leaves = b"", None
        return recorded[: len(recorded) // 32 * 32]

    def _stop_here(self) -> None:
        """Compare the root at this size with the known roots."""
        size = self.tree.size
        while self._stops and self._stops[-1] <= size:
            self._stops.pop()
        root = self.tree.root()
        if size in self.chain.sizes:
            self.chain.note_root(size, root)
        self.losses.roots[size] = root
        known = self._expected.get(size, ())
        wrong = [each for each in known if each.root != root]
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
        if known and not wrong:
            self._good_size = size

    def _look_back(self) -> None:
        """Find the roots at sizes that the log had already passed when an entry named them."""
        sizes = sorted(self.losses.behind - self.losses.roots.keys(), reverse=True)
        tree = Tree()
        if not sizes:
            return
        for lines, _ in self._bundle.batches("entries.jsonl", ENTRY_BYTES):
            while sizes and sizes[-1] <= tree.size + len(lines):
                room = sizes[-1] - tree.size
                tree.extend([leaf(line) for line in lines[:room]])
                self.losses.roots[sizes.pop()] = tree.root()
                lines = lines[room:]
            if not sizes:
                return
            tree.extend([leaf(line) for line in lines])

    def _place(self, root: bytes) -> tuple[int | None, str]:
        """The first bad entry, if it can be determined, and words about it."""
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
        if size > self._signed_size >= 0:
            self._find_tail(self._signed_size)
        # If the log is not the signed one, its changes of keys are not the signed ones either.
        if all(each.code in _AGAINST_PINS for each in self.findings):
            broken = self.chain.finish(size)
            if broken is not None:
                self.findings.insert(0, broken)

    def _check_removal(self) -> None:
        """Distinguish a removed entry, with the rest renumbered, from a tail that was cut off."""
        recorded = self._recorded
        if recorded is None or self._leaves is None:
            return
        rest = self._signed_size - recorded.size
        while rest > 0 and (held := _split(self._read_leaves(min(rest, 4096)))):
            recorded.extend(held)
            rest -= len(held)
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


_AGAINST_PINS = (Code.FORK_VS_PIN, Code.TRUNCATED_VS_PIN)


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + 32] for at in range(0, len(hashes) // 32 * 32, 32)]
