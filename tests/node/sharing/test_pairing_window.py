"""Who may try a code, how often, and how long."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.sharing import pairing_window
from node.sharing.pairing_window import ADDRESSES, GIVE_WAY_SECONDS, Visit, Window
from protocol import limits

CODE, NOW = "48291570639", 1_800_000_000


def never() -> None:
    raise AssertionError("pushed out")


class Caller:
    """Enters a window from an address, as often as it may."""

    def __init__(self, window: Window, host: str, moment: float = 0.0) -> None:
        self.window, self.host, self.moment = window, host, moment

    def enter(self, push_out: Callable[[], None] = never) -> Visit | None:
        self.moment += 100
        return self.window.enter(self.host, self.moment, push_out)

    def guess(self) -> bool:
        """Come, have another code, and go; whether it could."""
        visit = self.enter()
        if visit is None:
            return False
        self.window.was_wrong(visit)
        self.window.leave(visit)
        return True


def test_it_is_open_for_ten_minutes_and_not_a_moment_longer() -> None:
    window = Window(CODE, NOW)
    assert limits.PAIRING_WINDOW_SECONDS == 600
    assert window.until == NOW + 600
    assert window.why_closed(NOW) == window.why_closed(NOW + 599) == ""
    assert window.why_closed(NOW + 600) == window.why_closed(NOW + 10_000) == "time"


def test_twenty_wrong_codes_end_it_and_there_is_no_try_after() -> None:
    window = Window(CODE, NOW)
    for number in range(20):
        assert window.why_closed(NOW) == ""
        assert Caller(window, f"192.0.2.{number // 2}", 1000 * (number % 2)).guess()
    assert window.tries == 20
    assert window.why_closed(NOW) == "tries"


def test_the_fourth_from_one_address_is_not_let_in_and_another_is() -> None:
    window = Window(CODE, NOW)
    stranger = Caller(window, "192.0.2.1")
    assert [stranger.guess() for _ in range(5)] == [True, True, True, False, False]
    assert (window.tries, window.last_wrong) == (3, "192.0.2.1")
    visit = Caller(window, "192.0.2.2").enter()
    assert visit is not None
    window.confirm(visit)
    assert window.why_closed(NOW) == "confirmed"


def test_broken_bytes_cost_the_caller_a_pause_and_the_code_nothing() -> None:
    window = Window(CODE, NOW)
    moments, moment = [], 0.0
    while len(moments) < 9:
        visit = window.enter("192.0.2.1", moment, never)
        if visit is not None:
            moments.append(moment)
            window.leave(visit)
        moment += 0.5
    pauses = [after - before for before, after in itertools.pairwise(moments)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert window.tries == 0


def test_two_are_inside_at_once_and_one_of_an_address() -> None:
    window = Window(CODE, NOW)
    assert window.enter("192.0.2.1", 0.0, never) is not None
    assert window.enter("192.0.2.1", 1.0, never) is None
    assert window.enter("192.0.2.2", 1.0, never) is not None
    assert window.enter("192.0.2.3", 1.0, never) is None


def test_who_says_nothing_gives_way_to_whoever_comes() -> None:
    window, out = Window(CODE, NOW), []
    for number in (1, 2):
        window.enter(f"192.0.2.{number}", float(number), lambda number=number: out.append(number))
    assert window.enter("192.0.2.3", 1 + GIVE_WAY_SECONDS - 0.1, never) is None
    assert out == []
    assert window.enter("192.0.2.3", 1 + GIVE_WAY_SECONDS, never) is not None
    assert out == [1]
    # And to another of its own address.
    assert window.enter("192.0.2.2", 2 + GIVE_WAY_SECONDS, never) is not None
    assert out == [1, 2]


def test_who_comes_for_the_first_time_has_the_place_of_one_that_came_before() -> None:
    window, out = Window(CODE, NOW), []
    visit = window.enter("192.0.2.1", 0.0, never)
    assert visit is not None
    window.leave(visit)
    window.enter("192.0.2.2", 10.0, never)
    window.enter("192.0.2.1", 10.0, lambda: out.append("came before"))
    assert window.enter("192.0.2.3", 10.1, never) is not None
    assert out == ["came before"]
    # Both that are inside now have come for the first time.
    assert window.enter("192.0.2.4", 10.2, never) is None


def test_who_has_confirmed_sends_all_others_away() -> None:
    window, out = Window(CODE, NOW), []
    first = window.enter("192.0.2.1", 0.0, never)
    window.enter("192.0.2.2", 0.0, lambda: out.append("other"))
    assert first is not None
    window.confirm(first)
    assert out == ["other"]
    window.leave(first)
    window.leave(first)


def test_addresses_without_end_take_a_bounded_memory() -> None:
    window = Window(CODE, NOW)
    for number in range(ADDRESSES + 50):
        visit = window.enter(str(number), float(number), never)
        assert visit is not None
        window.leave(visit)
    assert len(window._pauses) == ADDRESSES
    assert window.enter(str(ADDRESSES + 49), float(ADDRESSES + 49), never) is None
    assert len(window._wrong) == 0


def test_the_code_is_in_no_text_of_it() -> None:
    window = Window(CODE, NOW)
    visit = window.enter("192.0.2.1", 0.0, never)
    assert CODE not in repr(window) + repr(visit) + str(window)


@pytest.mark.parametrize("silent", [10, 40])
def test_silent_callers_from_many_addresses_leave_room_for_the_right_one(silent: int) -> None:
    """They come as often as they may and stay; it needs a second, and calls again every two."""
    window, moment, inside_since = Window(CODE, NOW), 0.0, None
    right: list[Visit] = []

    def lost() -> None:
        right.clear()

    while moment < 600:
        for number in range(silent):
            window.enter(f"192.0.2.{number}", moment, lambda: None)
        if right and moment - right[0].since >= 1:
            inside_since = right[0].since
            break
        if not right and moment % 2 == 0:
            visit = window.enter("198.51.100.1", moment, lost)
            right = [visit] if visit is not None else []
        moment += 0.5
    assert inside_since is not None
    assert inside_since < 120


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.floats(0, 5), st.sampled_from(["wrong", "leave", "stay"])),
        max_size=120,
    )
)
def test_whatever_callers_do_the_limits_hold(acts: list[tuple[int, float, str]]) -> None:
    window, moment, inside, wrong = Window(CODE, NOW), 0.0, [], [0] * 5
    last = [float("-inf")] * 5
    for number, later, act in acts:
        moment += later
        if window.why_closed(NOW):
            break
        gone: list[Visit] = []
        visits: list[Visit] = []
        visit = window.enter(str(number), moment, lambda at=visits, out=gone: out.append(at[0]))
        if visit is None:
            continue
        visits.append(visit)
        assert moment >= last[number] + limits.PAIRING_PAUSE_SECONDS
        assert wrong[number] < limits.PAIRING_TRIES_PER_ADDRESS
        last[number] = moment
        inside = list(window._visits)
        assert len(inside) <= limits.PAIRING_CALLERS
        assert len({one.host for one in inside}) == len(inside)
        if act == "wrong":
            window.was_wrong(visit)
            wrong[number] += 1
        if act != "stay":
            window.leave(visit)
    assert window.tries == sum(wrong) <= limits.PAIRING_TRIES
    assert pairing_window.LONGEST_PAUSE_SECONDS >= limits.PAIRING_PAUSE_SECONDS
