"""Cuts: a revocation counts before it is written, and is retried until it is written.

A cut takes something away: trust, a share, a study. Its owner first removes it from memory,
which needs no disk. Then `Cuts` waits for decisions under way, so that no entry grants
anything after the entry of the cut; then it writes that entry, and the effect in one
transaction with the entry's index (`node/audit/effects.py`). A full disk may stop each step.
The cut is then kept here, with the index of its entry if that was written, and resumed there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.log.entry import Event


@dataclass(eq=False)
class Cut:
    """A cut that counts in memory and is not completely written yet.

    Attributes:
        name: what is cut, for people.
        event: the event to log.
        effect: applies the cut to the database, in one transaction with the mark of its
            entry. Its argument is a function that returns the entry's index and writes the
            entry when first called; anything the effect must check, it checks before that.
        entry: index of the entry; None until it is written.
    """

    name: str
    event: Event
    effect: Callable[[Callable[[], int]], None]
    entry: int | None = None


class Cuts:
    """The unwritten cuts of one owner, oldest first. The owner lets in one thread at a time.

    Args:
        append: writes one audit entry durably.
        wait_earlier: waits for decisions that may rest on the state before the cut.
    """

    def __init__(self, append: Callable[[Event], int], wait_earlier: Callable[[], None]) -> None:
        self._append = append
        self._wait_earlier = wait_earlier
        self._unwritten: list[Cut] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the cuts that could not be written yet; may be read by any thread."""
        return tuple(dict.fromkeys(cut.name for cut in self._unwritten))

    def make(self, cut: Cut, *, alone: bool = False) -> int:
        """Write a cut that counts in memory already.

        Args:
            cut: the cut.
            alone: write it even if an earlier cut cannot be written.

        Returns:
            The index of its entry.

        Raises:
            NodeError: it, or an earlier cut, cannot be written; it is kept for `write`.
        """
        self._wait_earlier()
        self._unwritten.append(cut)
        if alone:
            self._write(cut)
        else:
            self.write()
        assert cut.entry is not None
        return cut.entry

    def write(self) -> None:
        """Write all unwritten cuts.

        Raises:
            NodeError: the oldest cut still cannot be written.
        """
        for cut in list(self._unwritten):
            self._write(cut)

    def give_up(self, cut: Cut) -> None:
        """Drop a cut that cannot be done and whose entry was not written."""
        self._unwritten.remove(cut)

    def _write(self, cut: Cut) -> None:
        cut.effect(lambda: self._entry(cut))
        self._unwritten.remove(cut)

    def _entry(self, cut: Cut) -> int:
        if cut.entry is None:
            cut.entry = self._append(cut.event)
        return cut.entry
