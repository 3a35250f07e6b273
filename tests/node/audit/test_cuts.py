"""Cuts: waited for, logged once, and tried again from where they stood."""

from collections.abc import Callable

import pytest

from node.audit.cuts import Cut, Cuts
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event


class Disk:
    """Takes entries and effects, in one list, unless it is full for one of them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.full_for: set[str] = set()
        self.cuts = Cuts(self.append, lambda: self.done.append("waited"))

    def append(self, event: Event) -> int:
        self._take(f"entry {event.details['name']}")
        return len(self.done)

    def _take(self, what: str) -> None:
        if what in self.full_for:
            raise NodeError("the disk is full", code=ExitCode.DISK)
        self.done.append(what)

    def cut(self, name: str, thing: str = "") -> Cut:
        def effect(entry: Callable[[], int]) -> None:
            self._take(f"look at {name}")
            index = entry()
            assert entry() == index, "it is written once"
            self._take(f"effect of {name}")

        return Cut(thing or name, Event(type="withdrawn", details={"name": name}), effect)


ALL_OF_A = ["look at A", "entry A", "effect of A"]
ALL_OF_B = ["look at B", "entry B", "effect of B"]


def test_decisions_are_waited_for_then_comes_the_entry_then_the_effect() -> None:
    disk = Disk()
    cut = disk.cut("A")
    index = disk.cuts.make(cut)
    assert disk.done == ["waited", *ALL_OF_A]
    assert index == cut.entry == 3
    assert disk.cuts.names == ()
    disk.cuts.write()
    assert disk.done == ["waited", *ALL_OF_A]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_what_could_not_be_written_goes_on_from_where_it_stood(step: int) -> None:
    disk = Disk()
    disk.full_for = {ALL_OF_A[step]}
    for attempt in (lambda: disk.cuts.make(disk.cut("A")), disk.cuts.write):
        with pytest.raises(NodeError, match="full"):
            attempt()
        assert disk.cuts.names == ("A",)
    assert disk.done.count("entry A") == (1 if step == 2 else 0)
    disk.full_for.clear()
    disk.cuts.write()
    assert disk.done.count("entry A") == 1
    assert disk.done[-1] == "effect of A"
    assert disk.done.count("effect of A") == 1
    assert disk.cuts.names == ()


def test_a_later_cut_is_written_behind_an_earlier_one() -> None:
    """Both may be about one peer, and then the later record is the one that stays."""
    disk = Disk()
    disk.full_for = {"entry A"}
    for name in ("A", "B"):
        with pytest.raises(NodeError):
            disk.cuts.make(disk.cut(name))
    assert disk.cuts.names == ("A", "B")
    assert "look at B" not in disk.done
    disk.full_for.clear()
    disk.done.clear()
    disk.cuts.write()
    assert disk.done == ALL_OF_A + ALL_OF_B


def test_one_that_may_be_alone_does_not_wait_for_an_earlier_one() -> None:
    disk = Disk()
    disk.full_for = {"look at A"}
    first = disk.cut("A")
    with pytest.raises(NodeError):
        disk.cuts.make(first, alone=True)
    disk.cuts.make(disk.cut("B"), alone=True)
    assert disk.done == ["waited", "waited", *ALL_OF_B]
    assert disk.cuts.names == ("A",)
    disk.cuts.give_up(first)
    assert disk.cuts.names == ()
    disk.cuts.write()
    assert disk.done == ["waited", "waited", *ALL_OF_B]


def test_what_is_cut_twice_is_named_once() -> None:
    disk = Disk()
    disk.full_for = {"entry A"}
    for name in ("A", "B"):
        with pytest.raises(NodeError):
            disk.cuts.make(disk.cut(name, "South"))
    assert disk.cuts.names == ("South",)
