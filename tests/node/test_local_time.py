"""The time of day and the weekday here, by which rules and caps of bandwidth are read."""

import datetime
import time
from collections.abc import Iterator

import pytest

from keys.conditions import Asked, failure
from node.clock import local_time

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
KATHMANDU = "NPT-5:45"
KIRITIMATI = "LINT-14"
BAKER_ISLAND = "AOE12"

MON, TUE, SAT, SUN = 0, 1, 5, 6


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def _at(zone: pytest.MonkeyPatch, name: str, utc: str) -> tuple[int, int]:
    zone.setenv("TZ", name)
    time.tzset()
    return local_time(int(datetime.datetime.fromisoformat(utc + "+00:00").timestamp()))


@pytest.mark.parametrize(
    ("name", "utc", "clock", "weekday"),
    [
        ("UTC0", "2026-11-30T00:00:00", "00:00", MON),
        ("UTC0", "2026-11-29T23:59:59", "23:59", SUN),
        # The hour from two to three is not there, and then there twice.
        (BERLIN, "2027-03-28T00:59:59", "01:59", SUN),
        (BERLIN, "2027-03-28T01:00:00", "03:00", SUN),
        (BERLIN, "2026-10-25T00:30:00", "02:30", SUN),
        (BERLIN, "2026-10-25T01:30:00", "02:30", SUN),
        # The day here is another one than the day by UTC.
        (BERLIN, "2026-11-29T23:00:00", "00:00", MON),
        (BERLIN, "2026-07-05T22:00:00", "00:00", MON),
        (BERLIN, "2026-07-05T21:59:59", "23:59", SUN),
        (KATHMANDU, "2026-11-29T18:15:00", "00:00", MON),
        (KIRITIMATI, "2026-11-30T10:00:00", "00:00", TUE),
        (BAKER_ISLAND, "2026-11-29T11:59:59", "23:59", SAT),
    ],
)
def test_the_time_here(
    zone: pytest.MonkeyPatch, name: str, utc: str, clock: str, weekday: int
) -> None:
    minute, found = _at(zone, name, utc)
    assert (f"{minute // 60:02}:{minute % 60:02}", found) == (clock, weekday)


@pytest.mark.parametrize(
    ("utc", "hours", "holds"),
    [
        ("2027-03-28T00:59:00", "02:00-03:00", False),
        ("2027-03-28T01:00:00", "02:00-03:00", False),
        ("2026-10-25T00:00:00", "02:00-03:00", True),
        ("2026-10-25T01:59:00", "02:00-03:00", True),
        ("2026-10-25T02:00:00", "02:00-03:00", False),
        ("2027-03-28T01:00:00", "22:00-06:00", True),
    ],
)
def test_hours_of_a_rule_on_the_days_on_which_the_clocks_change(
    zone: pytest.MonkeyPatch, utc: str, hours: str, holds: bool
) -> None:
    minute, weekday = _at(zone, BERLIN, utc)
    asked = Asked(0, minute=minute, weekday=weekday)
    assert (failure("hours", (hours,), None, asked) is None) is holds
