"""Who takes a right away waits for the decisions that rest on it, and for no other."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from node.sharing.decisions import Decisions

SECONDS = 10
"""Longest wait for something that comes at once."""


class Taking(threading.Thread):
    """Takes a right away; `is_waiting` is set when it found that it has to wait."""

    def __init__(self, decisions: Decisions) -> None:
        super().__init__(daemon=True)
        self._decisions = decisions
        self.is_waiting, self.is_over = threading.Event(), threading.Event()

    def run(self) -> None:
        self._decisions.wait_earlier()
        self.is_over.set()


class _Told(threading.Condition):
    """Says which thread waits."""

    def wait(self, timeout: float | None = None) -> bool:
        thread = threading.current_thread()
        if isinstance(thread, Taking):
            thread.is_waiting.set()
        return super().wait(timeout)


@pytest.fixture
def decisions() -> Decisions:
    made = Decisions()
    made._changed = _Told()
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def _take(decisions: Decisions) -> Taking:
    taking = Taking(decisions)
    taking.start()
    return taking


def test_without_a_decision_nobody_waits(decisions: Decisions) -> None:
    with decisions.made():
        pass
    taking = _take(decisions)
    assert taking.is_over.wait(SECONDS)
    assert not taking.is_waiting.is_set()


def test_a_decision_that_was_begun_is_waited_for(decisions: Decisions) -> None:
    with decisions.made():
        taking = _take(decisions)
        assert taking.is_waiting.wait(SECONDS)
        assert not taking.is_over.is_set()
    assert taking.is_over.wait(SECONDS)


def test_all_that_were_begun_are_waited_for(decisions: Decisions) -> None:
    first, second = ExitStack(), ExitStack()
    first.enter_context(decisions.made())
    second.enter_context(decisions.made())
    taking = _take(decisions)
    assert taking.is_waiting.wait(SECONDS)
    taking.is_waiting.clear()
    first.close()
    # Were the first one's end enough, this thread would hold up nothing.
    other = _take(decisions)
    assert other.is_waiting.wait(SECONDS)
    assert not taking.is_over.is_set()
    second.close()
    assert taking.is_over.wait(SECONDS)
    assert other.is_over.wait(SECONDS)


def test_a_decision_that_is_begun_later_is_not_waited_for(
    decisions: Decisions, stack: ExitStack
) -> None:
    earlier = ExitStack()
    earlier.enter_context(decisions.made())
    taking = _take(decisions)
    assert taking.is_waiting.wait(SECONDS)
    stack.enter_context(decisions.made())
    earlier.close()
    assert taking.is_over.wait(SECONDS), "the later one knows already what was taken"


def test_each_who_takes_waits_for_what_was_begun_before_it(decisions: Decisions) -> None:
    first, second = ExitStack(), ExitStack()
    first.enter_context(decisions.made())
    one = _take(decisions)
    assert one.is_waiting.wait(SECONDS)
    second.enter_context(decisions.made())
    two = _take(decisions)
    assert two.is_waiting.wait(SECONDS)
    first.close()
    assert one.is_over.wait(SECONDS)
    assert not two.is_over.is_set()
    second.close()
    assert two.is_over.wait(SECONDS)


def test_a_decision_that_fails_is_over_too(decisions: Decisions) -> None:
    with pytest.raises(ZeroDivisionError), decisions.made():
        raise ZeroDivisionError
    assert _take(decisions).is_over.wait(SECONDS)
