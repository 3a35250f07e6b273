"""Caps: which one is in force when, and the token bucket that keeps them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.bucket import LEAST_STEP_BYTES, PACE_SECONDS, Bucket, step_bytes
from node.transfer.bandwidth import BadRule, BandwidthRule, read_rule, rule_in_force

FINGERPRINT = "663WO3E-U357I7H-WMZRY4P-T77QJWZ-CYRMAND-AAXMTRU-7DB32H7-VOIR3Q3"


def rule(peer: str = "*", mbit: float = 50, **entries: object) -> BandwidthRule:
    return read_rule({"peer": peer, "mbit_per_second": mbit, **entries})


def _mbit(rules: list[BandwidthRule], petname: str, time: str) -> float | None:
    minute = int(time[:2]) * 60 + int(time[3:])
    found = rule_in_force(tuple(rules), petname, FINGERPRINT, minute)
    return None if found is None else found.mbit_per_second


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ({"from": "07:00", "to": "19:00"}, ["07:00", "12:00", "18:59"], ["06:59", "19:00"]),
        ({"from": "22:00", "to": "06:00"}, ["22:00", "23:59", "00:00", "05:59"], ["06:00"]),
        ({"from": "22:00", "to": "24:00"}, ["22:00", "23:59"], ["00:00", "21:59"]),
        ({}, ["00:00", "12:00", "23:59"], []),
    ],
)
def test_windows(window: dict[str, str], inside: list[str], outside: list[str]) -> None:
    rules = [rule(**window)]
    assert [_mbit(rules, "South", time) for time in inside] == [50] * len(inside)
    assert [_mbit(rules, "South", time) for time in outside] == [None] * len(outside)


def test_a_peer_that_is_named_is_under_its_own_entries_alone() -> None:
    day = {"from": "07:00", "to": "19:00"}
    rules = [rule("*", 10), rule("South Clinic", 100, **day), rule(FINGERPRINT[:7], 1)]
    assert _mbit(rules, "south clinic", "12:00") == 100
    assert _mbit(rules, "South Clinic", "20:00") is None
    assert _mbit(rules, "West", "20:00") == 10
    assert _mbit([rule("*", 10), rule(FINGERPRINT, 7)], "any name", "20:00") == 7


def test_the_lowest_of_several_counts() -> None:
    rules = [rule("*", 10), rule("*", 5, **{"from": "07:00", "to": "19:00"})]
    assert (_mbit(rules, "South", "12:00"), _mbit(rules, "South", "20:00")) == (5, 10)


def test_rate_in_bytes_and_as_it_is_shown() -> None:
    one = rule("*", 50, stat_exempt=True, **{"from": "07:00", "to": "24:00"})
    assert one.bytes_per_second == 6_250_000
    assert one.to_json() == {
        "mbit_per_second": 50, "from": "07:00", "to": "00:00", "stat_exempt": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (5, "must be a table"),
        ({}, "needs peer"),
        ({"peer": " "}, "needs peer"),
        ({"peer": "*"}, "needs mbit_per_second"),
        ({"mbit_per_second": "50"}, "needs mbit_per_second"),
        ({"mbit_per_second": True}, "needs mbit_per_second"),
        ({"mbit_per_second": 0}, "from 0.1 to 100000"),
        ({"mbit_per_second": float("nan")}, "from 0.1 to 100000"),
        ({"mbit_per_second": 1e6}, "from 0.1 to 100000"),
        ({"from": "07:00"}, "both from and to"),
        ({"from": "7:00", "to": "19:00"}, "a from that is no time"),
        ({"from": "24:00", "to": "19:00"}, "a from that is no time"),
        ({"from": "07:00", "to": "24:01"}, "a to that is no time"),
        ({"from": "07:00", "to": 19}, "a to that is no time"),
        ({"from": "07:00", "to": "07:00"}, "begins and ends"),
        ({"stat_exempt": "yes"}, "neither true nor false"),
        ({"rate": 5}, "unknown entry: rate"),
    ],
)
def test_wrong_entries_are_told(entry: object, said: str) -> None:
    whole = entry
    if isinstance(entry, dict) and entry not in ({}, {"peer": " "}, {"peer": "*"}):
        whole = {"peer": "*", "mbit_per_second": 1, **entry}
    with pytest.raises(BadRule, match=said):
        read_rule(whole)


# --- the token bucket -------------------------------------------------------------------

SIZES = st.integers(1, 65_507)
RATES = st.floats(12_500, 1e9)


@given(
    RATES,
    st.lists(st.tuples(SIZES, st.floats(0, 3), st.floats(0, 0.02)), min_size=1, max_size=60),
)
def test_no_window_of_time_carries_more_than_the_rate(
    rate: float, demands: list[tuple[int, float, float]]
) -> None:
    """Whoever asks whenever, and wakes as late as it will."""
    pace, now, left = Bucket(), 100.0, []
    for size, pause, late in demands:
        now += pause
        now += pace.reserve(size, rate, PACE_SECONDS * rate, now)
        left.append((now, size))
        now += late
    for first in range(len(left)):
        carried = 0
        for time, size in left[first:]:
            allowed = rate * (time - left[first][0] + PACE_SECONDS) + 65_507
            assert carried <= allowed * (1 + 1e-9)
            carried += size


@given(RATES, st.lists(SIZES, min_size=5, max_size=60), st.integers(0, 100))
def test_whoever_always_has_something_to_send_gets_the_rate(
    rate: float, sizes: list[int], late_percent: int
) -> None:
    """Waking late by less than the burst costs nothing."""
    pace, now = Bucket(), 100.0
    for size in sizes:
        now += pace.reserve(size, rate, PACE_SECONDS * rate, now)
        now += min(PACE_SECONDS, size / rate) * late_percent / 100
    assert sum(sizes[:-1]) >= rate * (now - 100 - 2 * PACE_SECONDS) * (1 - 1e-9)


def test_two_that_share_a_pace_share_the_rate() -> None:
    pace = Bucket()
    waits = [pace.reserve(1000, 10_000, PACE_SECONDS * 10_000, 0.0) for _ in range(6)]
    assert waits == pytest.approx([0, 0.05, 0.15, 0.25, 0.35, 0.45])


def test_a_quiet_peer_saves_nothing_up() -> None:
    pace = Bucket()
    pace.reserve(1000, 10_000, PACE_SECONDS * 10_000, 0.0)
    assert pace.reserve(1000, 10_000, PACE_SECONDS * 10_000, 1000.0) == 0
    assert pace.reserve(1000, 10_000, PACE_SECONDS * 10_000, 1000.0) == pytest.approx(0.05)
    assert pace.reserve(1000, 10_000, PACE_SECONDS * 10_000, 1000.0) == pytest.approx(0.15)


def test_a_new_rate_counts_from_the_next_piece() -> None:
    pace = Bucket()
    pace.reserve(1000, 1000, PACE_SECONDS * 1000, 0.0)
    assert pace.reserve(1000, 100_000, PACE_SECONDS * 100_000, 0.0) == pytest.approx(0.95)
    assert pace.reserve(1000, 100_000, PACE_SECONDS * 100_000, 0.95) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("rate", "step"),
    [(100.0, LEAST_STEP_BYTES), (12_500.0, 3125), (200_000.0, 50_000), (1e9, 65_507)],
)
def test_steps_are_smooth(rate: float, step: int) -> None:
    assert step_bytes(rate, 65_507) == step
