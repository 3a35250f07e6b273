"""Cuts: what takes something away counts before it is written, and is written until it is.

What is revoked, withdrawn or discarded is gone from memory first, by its owner; that needs
no disk. Then decisions under way are waited for, so that no entry says yes behind one that
says no; then comes the entry, and its effect in a transaction with the entry's index
(`node/audit/effects.py`). A full disk may stop that at each step. Then the cut is kept here,
with the index of its entry when it has one, and tried again from where it stood.
"""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.log.entry import Event


@dataclass(eq=False)
class Cut:
    """One that counts in memory, and is not written whole.

    Attributes:
        name: of what is cut, for people.
        event: its entry.
        effect: makes it true in the database, in one transaction with the mark of its
            entry. Called with what gives the index of that, and writes it at the first call;
            what has to be known before anything is said is looked at before.
        entry: index of the entry, when it is written.
    """

    name: str
    event: Event
    effect: Callable[[Callable[[], int]], None]
    entry: int | None = None


class Cuts:
    """Those of one owner, the oldest first. Its owner sees to it that one thread is in it.

    Args:
        append: writes one audit entry durably.
        wait_earlier: waits for the decisions that may rest on what was before.
    """

    def __init__(self, append: Callable[[Event], int], wait_earlier: Callable[[], None]) -> None:
        self._append = append
        self._wait_earlier = wait_earlier
        self._unwritten: list[Cut] = []

    @property
    def names(self) -> tuple[str, ...]:
        """What is cut and could not be written yet; of any thread."""
        return tuple(dict.fromkeys(cut.name for cut in self._unwritten))

    def make(self, cut: Cut, *, alone: bool = False) -> int:
        """Write a cut that counts in memory already.

        Args:
            cut: which.
            alone: whether it may be written though an earlier one cannot.

        Returns:
            The index of its entry.

        Raises:
            NodeError: it, or an earlier one, cannot be written; it is kept for `write`.
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
        """Write what is not written.

        Raises:
            NodeError: the oldest still cannot be written.
        """
        for cut in list(self._unwritten):
            self._write(cut)

    def give_up(self, cut: Cut) -> None:
        """It cannot be done, and nothing was said of it."""
        self._unwritten.remove(cut)

    def _write(self, cut: Cut) -> None:
        cut.effect(lambda: self._entry(cut))
        self._unwritten.remove(cut)

    def _entry(self, cut: Cut) -> int:
        if cut.entry is None:
            cut.entry = self._append(cut.event)
        return cut.entry
