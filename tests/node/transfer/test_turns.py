"""Whose turn it is: a decision without clock or tasks, and properties over random schedules."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.transfer.turns import STAT_GRACE_SECONDS, TRICKLE_SECONDS, TURN_SECONDS, Place, Turns

NORTH, SOUTH = b"north", b"south"


def _begin(turns: Turns, link: bytes, now: float, *, stat: bool = False) -> Place:
    """A transfer that has the turn."""
    place = turns.enter(link, stat=stat, now=now)
    turns.ask(place, now)
    assert turns.try_begin(place, now)
    return place


def _waiting(turns: Turns, link: bytes, now: float, *, stat: bool = False) -> Place:
    """A transfer that asked for a turn and may not begin yet."""
    place = turns.enter(link, stat=stat, now=now)
    turns.ask(place, now)
    assert not turns.try_begin(place, now)
    return place


def test_one_alone_writes_as_long_as_it_likes() -> None:
    turns = Turns()
    place = _begin(turns, SOUTH, 0)
    assert all(turns.moved(place, now) for now in (0.1, 50, 1000))


def test_those_of_one_link_take_turns_in_the_order_in_which_they_asked() -> None:
    turns = Turns()
    first = _begin(turns, SOUTH, 0)
    second, third = _waiting(turns, SOUTH, 0), _waiting(turns, SOUTH, 0)
    assert turns.moved(first, 0.5)
    turns.end(first)
    turns.ask(first, 0.6)
    assert [turns.try_begin(one, 0.6) for one in (first, third, second)] == [False, False, True]
    turns.end(second)
    assert [turns.try_begin(one, 0.7) for one in (first, third)] == [False, True]


def test_links_do_not_wait_for_each_other() -> None:
    turns = Turns()
    _begin(turns, SOUTH, 0)
    _begin(turns, NORTH, 0)


def test_a_long_turn_ends_when_somebody_waits() -> None:
    turns = Turns()
    first = _begin(turns, SOUTH, 0)
    assert turns.moved(first, TURN_SECONDS + 1)
    _waiting(turns, SOUTH, 2)
    assert not turns.moved(first, TURN_SECONDS + 1)


@pytest.mark.parametrize("link", [SOUTH, NORTH])
def test_routine_transfers_pause_while_an_urgent_one_sends(link: bytes) -> None:
    turns = Turns()
    routine = _begin(turns, SOUTH, 0)
    assert turns.moved(routine, 0.1)
    urgent = turns.enter(link, stat=True, now=0.2)
    turns.ask(urgent, 0.2)
    assert turns.try_begin(urgent, 0.2) is (link != SOUTH)
    assert not turns.moved(routine, 0.3)
    turns.end(routine)
    turns.ask(routine, 0.3)
    assert not turns.try_begin(routine, 0.3)
    assert link != SOUTH or turns.try_begin(urgent, 0.3)
    assert turns.moved(urgent, 0.4)
    turns.end(urgent)
    assert not turns.try_begin(routine, 0.5)
    turns.leave(urgent)
    assert turns.try_begin(routine, 0.5)


def test_an_urgent_one_goes_before_those_that_asked_earlier() -> None:
    turns = Turns()
    first = _begin(turns, SOUTH, 0)
    second, urgent = _waiting(turns, SOUTH, 0), _waiting(turns, SOUTH, 0.1, stat=True)
    turns.end(first)
    assert not turns.try_begin(second, 0.2)
    assert turns.try_begin(urgent, 0.2)


def test_an_urgent_one_that_its_line_holds_up_holds_nobody_up() -> None:
    turns = Turns()
    _begin(turns, NORTH, 0, stat=True)
    routine = _waiting(turns, SOUTH, 0.1)
    again = turns.look_again_at(routine, 0.1)
    assert again == STAT_GRACE_SECONDS
    assert turns.try_begin(routine, again)


def test_an_urgent_one_that_its_cap_holds_up_has_its_own_link_to_itself() -> None:
    turns = Turns()
    urgent = _begin(turns, NORTH, 0, stat=True)
    turns.rest(urgent)
    _begin(turns, SOUTH, 0.1)
    _waiting(turns, NORTH, 0.1)
    turns.go_on(urgent, 0.2)
    _waiting(turns, SOUTH, 0.3)


def test_who_waited_long_writes_one_piece_whatever_goes_on() -> None:
    turns = Turns()
    urgent = _begin(turns, SOUTH, 0, stat=True)
    routine = _waiting(turns, SOUTH, 0)
    now = TRICKLE_SECONDS
    turns.moved(urgent, now)
    assert turns.look_again_at(routine, now - 0.1) <= now
    assert turns.try_begin(routine, now)
    assert routine.trickles
    assert not turns.moved(routine, now)
    turns.end(routine)
    turns.ask(routine, now)
    assert not turns.try_begin(routine, now)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([NORTH, SOUTH]), st.booleans()), min_size=1, max_size=8),
    st.lists(st.integers(1, 40), min_size=40, max_size=120),
)
def test_nobody_starves_and_equals_share(
    kinds: list[tuple[bytes, bool]], pieces_ms: list[int]
) -> None:
    """Everybody always has something to send; each piece takes some milliseconds."""
    turns, now = Turns(), 0.0
    places = [turns.enter(link, stat=stat, now=0.0) for link, stat in kinds]
    written: Counter[int] = Counter()
    for place in places:
        turns.ask(place, 0.0)
    for piece_ms in pieces_ms * 40:
        began = [place for place in places if place.state.name == "WAITING"]
        for place in began:
            if turns.try_begin(place, now):
                written[id(place)] += 1
        writing = [place for place in places if place.state.name == "WRITING"]
        assert writing, "somebody can always write"
        now += piece_ms / 1000
        for place in writing:
            turns.moved(place, now)
            turns.end(place)
            turns.ask(place, now)
        for place in places:
            assert now - place.moved_at < TRICKLE_SECONDS + 0.1
    for link in (NORTH, SOUTH):
        for stat in (True, False):
            turns_of = [
                written[id(place)] for place in places if (place.link, place.stat) == (link, stat)
            ]
            assert not turns_of or max(turns_of) - min(turns_of) <= max(2, now / TRICKLE_SECONDS)


def test_at_the_moment_that_it_names_the_answer_is_another() -> None:
    """Or a sender would look again at once, for ever where a clock stands still meanwhile."""
    chance = random.Random(1)
    # The sum has a bit less behind the point than what it is a sum of.
    for asked in (1024 - chance.uniform(0, STAT_GRACE_SECONDS) for _ in range(100)):
        turns = Turns()
        _begin(turns, SOUTH, asked)
        second = _waiting(turns, SOUTH, asked)
        assert turns.try_begin(second, turns.look_again_at(second, asked))
        urgent = turns.enter(NORTH, stat=True, now=asked)
        third = _waiting(turns, b"east", asked)
        assert turns.try_begin(third, turns.look_again_at(third, asked))
        turns.leave(urgent)
