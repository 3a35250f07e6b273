"""Budgets: what one facility may cause, and that no honest one is ever cut by them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import exchange_pair
import pytest
import trio
from budgets_made import Time, budgets_of
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study, sender_of
from hypothesis import given, settings
from hypothesis import strategies as st
from streams_made import stream_pair

from keys.peer import Peer
from node.app import Node
from node.bucket import Bucket
from node.config import read_settings
from node.errors import NodeError
from node.home import Home
from node.log_lines import LineLimit
from node.sharing.budgets import RESERVE_BYTES, Budgets
from node.sharing.refusals import Refusals
from protocol import limits
from protocol.errors import WireCode
from protocol.feed import Subscription
from protocol.limits import BUDGETS, Budget
from protocol.log.entry import Event
from protocol.messages import Announcement, Record
from protocol.recipient import RecipientTransfer
from protocol.transfer import Refused

SOUTH, EAST = b"S" * 32, b"E" * 32


# --- the bucket -----------------------------------------------------------------------


@given(
    rate=st.floats(0.001, 1000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 100), min_size=1, max_size=60),
)
def test_no_window_of_time_takes_more_than_the_rate_and_the_burst(
    rate: float, burst: int, pauses: list[float]
) -> None:
    bucket, now, taken = Bucket(), 0.0, []
    for pause in pauses:
        now += pause
        if bucket.take(1, rate, burst, now):
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = rate * (taken[last] - taken[first]) + burst
            assert last - first + 1 <= allowed * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("kind", BUDGETS)
def test_the_burst_comes_at_once_and_then_the_rate(kind: str) -> None:
    budget, time = BUDGETS[kind], Time()
    budgets = budgets_of(time, MadeClock())
    amount = budget.burst / 10 if budget.burst > 1000 else 1
    count = int(budget.burst / amount)
    assert all(budgets.take(SOUTH, kind, amount) for _ in range(count))
    assert not budgets.take(SOUTH, kind, amount)
    # Another facility is not touched by that.
    assert budgets.take(EAST, kind, amount)
    time.now += amount / budget.per_hour * 3600
    assert budgets.take(SOUTH, kind, amount)
    assert not budgets.take(SOUTH, kind, amount)
    assert budgets.today(SOUTH)[kind]["over"] == round(2 * amount)


def test_who_waits_is_served_at_the_rate() -> None:
    time = Time()
    budgets = budgets_of(time, MadeClock())
    budget = BUDGETS["announcement-bytes"]
    amount = budget.burst / 8
    waits = [budgets.wait(SOUTH, "announcement-bytes", amount) for _ in range(11)]
    assert waits[:8] == [0] * 8
    step = 3600 * amount / budget.per_hour
    assert waits[8:] == pytest.approx([step, 2 * step, 3 * step])


def test_who_asks_too_soon_makes_no_debt() -> None:
    """A line that flaps: most of those who wait go away before their turn."""
    time = Time()
    budgets = budgets_of(time, MadeClock())
    budget = BUDGETS["hello"]
    while budgets.take(SOUTH, "hello"):
        pass
    for _ in range(1000):
        assert not budgets.take(SOUTH, "hello")
    step = 3600 / budget.per_hour
    assert budgets.missing(SOUTH, "hello") == pytest.approx(step)
    time.now += step
    assert budgets.missing(SOUTH, "hello") == pytest.approx(0, abs=1e-6)
    assert budgets.take(SOUTH, "hello")
    assert budgets.missing(EAST, "hello") == 0


def test_counts_end_with_the_day() -> None:
    clock = MadeClock()
    budgets = budgets_of(Time(), clock)
    budgets.take(SOUTH, "request")
    assert budgets.today(SOUTH) == {"request": {"count": 1, "over": 0}}
    clock.move(24 * 3600)
    assert budgets.today(SOUTH) == {}


# --- settings -------------------------------------------------------------------------


def test_settings_set_other_numbers(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[limits."South Clinic"]\nrequest = [10, 2]\n[limits."*"]\nhello = [1, 1]\n')
    overrides = read_settings(path).limits
    assert overrides["South Clinic"]["request"].per_hour == 10
    assert overrides["South Clinic"]["request"].over == "busy"
    clock = MadeClock()
    budgets = Budgets(lambda key: None, overrides, clock, Time(), lambda: 1 << 40)
    assert [budgets.take(EAST, "hello") for _ in range(2)] == [True, False]


def test_a_facility_has_its_own_numbers_then_those_of_all_then_the_table() -> None:
    """By petname or fingerprint, kind by kind."""
    south = Other("South Clinic", MadeClock().now())
    peer = Peer(south.key, "South", south.card, grants=frozenset(), added=0)
    own, all_of_them = Budget(1, 2, "busy", ""), Budget(1, 3, "busy", "")
    for name in ("South", south.card.fingerprint):
        overrides = {
            name: {"request": own},
            "*": {"request": all_of_them, "hello": all_of_them},
            "Another": {"comparison": own},
        }
        find = {south.key: peer}.get
        budgets = Budgets(find, overrides, MadeClock(), Time(), lambda: 1 << 40)
        for key, kind, burst in (
            (south.key, "request", 2),
            (south.key, "hello", 3),
            (south.key, "comparison", BUDGETS["comparison"].burst),
            (EAST, "request", 3),
        ):
            taken = [budgets.take(key, kind) for _ in range(10)]
            assert taken.count(True) == burst


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limits = 3", "must be a table"),
        ("[limits]\nrequest = [1, 2]", "must be a table"),
        ('[limits."S"]\nrequests = [1, 2]', "names no kind requests"),
        ('[limits."S"]\nrequest = 5', "a pair"),
        ('[limits."S"]\nrequest = [0, 5]', "a pair"),
        ('[limits."S"]\nrequest = [5, 0.5]', "a pair"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(NodeError, match=said):
        read_settings(path)


# --- refusals -------------------------------------------------------------------------


def _refused(number: int) -> list[Event]:
    return [Event(type="refused", outcome="refused", peer=SOUTH, details={"number": number})]


def test_the_first_refusals_are_entries_and_then_one_an_hour_counts() -> None:
    clock, time, written = MadeClock(), Time(), list[Event]()
    refusals = Refusals(written.extend, budgets_of(time, clock), clock)
    logged = [refusals.log(SOUTH, "study", _refused(number)) for number in range(1000)]
    assert logged == [True] * 20 + [False] * 980
    assert len(written) == 20
    refusals.write()
    assert len(written) == 20, "its hour is not over"
    assert refusals.log(EAST, "study", _refused(0)), "another facility has its own"
    clock.move(3600)
    refusals.write()
    [summary] = written[21:]
    assert summary.peer == SOUTH
    assert summary.details["count"] == 980
    assert summary.details["what"] == "study"
    assert str(summary.details["first"]) <= str(summary.details["last"])
    refusals.write()
    assert len(written) == 22


def test_counts_are_written_at_a_stop_and_outlive_a_full_disk() -> None:
    clock, written, is_full = MadeClock(), list[Event](), True

    def append(events: object) -> None:
        if is_full and len(written) >= 20:
            raise NodeError("the disk is full")
        written.extend(events)  # type: ignore[arg-type]

    refusals = Refusals(append, budgets_of(Time(), clock), clock)
    for number in range(30):
        refusals.log(SOUTH, "study", _refused(number))
    refusals.write(all_of_it=True)
    refusals.log(SOUTH, "study", _refused(30))
    is_full = False
    refusals.write(all_of_it=True)
    assert written[-1].details["count"] == 11


# --- requests -------------------------------------------------------------------------


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        publish_study(node, instances=1)
        yield node


async def _ask(node: Node, other: Other, number: int, *, stat: bool = False) -> WireCode | None:
    """Ask for a study; the code of the refusal."""
    sender = sender_of(node)
    ours, theirs = stream_pair(node.keys.node.public, other.node.public)
    name = number.to_bytes(16)
    end = RecipientTransfer(other.node, node.keys.node.public, name)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.serve, ours)
            asked = end.ask(
                exchange_pair.STUDY, "treatment", time_ms=node.clock.now_ms(), stat=stat
            )
            await theirs.write(asked, timeout_seconds=20)
            events = end.receive_untrusted(await theirs.read(timeout_seconds=20))
            await theirs.reset()
    refused = [event.code for event in events if isinstance(event, Refused)]
    return refused[0] if refused else None


async def test_a_peer_without_a_grant_writes_little_however_often_it_asks(north: Node) -> None:
    south = Other("South Clinic", north.clock.now())
    south.pair(north)
    size = north.audit.size
    for number in range(60):
        assert await _ask(north, south, number) is WireCode.NOT_GRANTED
    assert north.audit.size - size == 40, "20 requests with their refusals"
    assert len(north.transfers.recent()) <= 20
    north.record_stop()
    summary = entries(north, "refused")[-1]
    assert summary["details"]["count"] == 40


async def test_too_many_requests_are_told_busy_and_urgent_ones_have_their_own(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    south = Other("South Clinic", north.clock.now())
    south.pair(north)
    budget = BUDGETS["request"]
    assert all(north.budgets.take(south.key, "request") for _ in range(int(budget.burst)))
    size = north.audit.size
    assert await _ask(north, south, 1) is WireCode.BUSY
    assert north.audit.size == size
    assert north.transfers.recent() == []
    assert await _ask(north, south, 2, stat=True) is WireCode.NOT_GRANTED


async def test_a_ninth_transfer_at_once_is_told_busy(north: Node) -> None:
    south = Other("South Clinic", north.clock.now())
    south.pair(north, "see", "fetch")
    sender = sender_of(north)
    streams = [stream_pair(north.keys.node.public, south.node.public) for _ in range(9)]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for ours, _ in streams:
                nursery.start_soon(sender.serve, ours)
            while sender.sessions(south.key) < 9:
                await trio.lowlevel.checkpoint()
            _, theirs = streams[0]
            end = RecipientTransfer(south.node, north.keys.node.public, bytes(16))
            asked = end.ask(exchange_pair.STUDY, "treatment", time_ms=north.clock.now_ms())
            await theirs.write(asked, timeout_seconds=20)
            events = end.receive_untrusted(await theirs.read(timeout_seconds=20))
            assert [event.code for event in events if isinstance(event, Refused)] == [WireCode.BUSY]
            for _, one in streams:
                await one.reset()
    assert not entries(north, "requested", "refused")
    assert north.transfers.recent() == []


async def test_on_a_disk_without_room_peers_are_refused_and_the_operator_is_not(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    south = Other("South Clinic", north.clock.now())
    south.pair(north)
    monkeypatch.setattr(north.budgets, "_free_bytes", lambda: RESERVE_BYTES)
    assert not north.budgets.has_room()
    size = north.audit.size
    assert await _ask(north, south, 1) is WireCode.SOURCE_DISK
    assert north.audit.size == size
    north.peers.revoke("South Clinic", [], north.clock.now())
    assert entries(north, "trust-revoked")
    monkeypatch.setattr(north.budgets, "_free_bytes", lambda: RESERVE_BYTES + 1)
    assert north.budgets.has_room()


# --- what is kept of a feed -----------------------------------------------------------


def _record(study: str, sequence: int, **more: object) -> Record:
    values = {
        "kind": "available",
        "content_root": bytes(32),
        "series": 1,
        "instances": 1,
        "bytes": 1,
        "encoded_bytes": 1,
        "modalities": ("CT",),
        "study_date": "20260301",
        **more,
    }
    return Record(sequence=sequence, study=study, **values)  # type: ignore[arg-type]


def _announce(node: Node, records: list[Record], *, reset: bool = False) -> None:
    cursor = records[-1].sequence if records else 0
    announcement = Announcement(
        recipient=bytes(32),
        epoch=bytes(16),
        reset=reset,
        cursor=cursor,
        time=0,
        records=tuple(records),
    )
    node.feeds.store_announcement(SOUTH, announcement, Subscription(bytes(32), bytes(16), cursor))


def test_a_feed_is_kept_up_to_its_bounds(north: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FEED_RECORDS", 5)
    _announce(north, [_record(f"1.{number}", number + 1) for number in range(8)])
    assert north.feeds.announced_count(SOUTH) == 5
    assert north.feeds.left_out() == {SOUTH: 3}
    # A study that is known changes and goes; its place is free again.
    _announce(north, [_record("1.0", 9, instances=2)])
    assert north.feeds.announced_count(SOUTH) == 5
    _announce(north, [_record("1.0", 10, kind="withdrawn"), _record("1.9", 11)])
    assert north.feeds.announced_count(SOUTH) == 5
    _announce(north, [_record("2.0", 12)], reset=True)
    assert north.feeds.announced_count(SOUTH) == 1
    assert north.feeds.left_out() == {}


@settings(max_examples=25)
@given(
    acts=st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(["available", "withdrawn", "reset"])),
        max_size=30,
    )
)
def test_the_bounds_count_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[int, str]]
) -> None:
    home = Home.create(tmp_path_factory.mktemp("home") / "north", name="North")
    with Node.open(home) as node:
        for sequence, (number, kind) in enumerate(acts, 1):
            is_reset = kind == "reset"
            record = _record(f"1.{number}", sequence, kind="available" if is_reset else kind)
            _announce(node, [record], reset=is_reset)
            row = node.database.query_one(
                "SELECT records, bytes, (SELECT count(*) FROM remote_studies),"
                " (SELECT coalesce(sum(length(record)), 0) FROM remote_studies) FROM remote_feeds"
            )
            assert row is not None
            assert (row[0], row[1]) == (row[2], row[3])


# --- lines of the process log ---------------------------------------------------------


def test_lines_of_one_kind_about_one_peer_are_few(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    limit = LineLimit(time)

    def line(text: str, *values: object) -> str | None:
        record = logging.LogRecord("radmesh.x", logging.WARNING, "", 0, text, values, None)
        return record.getMessage() if limit.filter(record) else None

    burst = int(BUDGETS["log-line"].burst)
    lines = [line("session with %s: %s", "South Clinic", number) for number in range(1000)]
    assert sum(text is not None for text in lines) == burst
    assert line("session with %s: %s", "East Imaging", 1) is not None
    assert line("another line of %s", "South Clinic") is not None
    time.now += 60
    said = line("session with %s: %s", "South Clinic", 5)
    assert said == f"session with South Clinic: 5 (and {1000 - burst} more like this)"


def test_audit_requests_have_a_budget() -> None:
    budgets = budgets_of(Time(), MadeClock())
    taken = sum(budgets.take(SOUTH, "audit-request") for _ in range(2000))
    assert taken == BUDGETS["audit-request"].burst
