"""One odd record holds up nobody's news: it is found, set aside, and tried again later."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from clocks_made import jumps_when_idle
from facility_in_memory import Other, entries, share_row, told_to
from hypothesis import given
from hypothesis import strategies as st
from streams_made import stream_pair

from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.home import Home
from node.network.messaging import MessageStream
from node.network.network import StreamLost
from node.parts import announcer_of
from node.sharing.announcer import Announcer
from node.sharing.setbacks import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    SET_ASIDE,
    STRIKES,
    Setbacks,
)
from protocol import messages
from protocol.fields import from_map_untrusted, to_map
from protocol.limits import ANNOUNCE_RECORDS
from protocol.messages import Announcement, Record, Signed, Subscribe

SOUTH = Other("South Clinic", SYSTEM_CLOCK.now())


@given(
    odd=st.sets(st.integers(0, 39), max_size=3),
    count=st.integers(1, 40),
)
def test_only_the_odd_ones_are_set_aside_and_all_others_are_told(odd: set[int], count: int) -> None:
    """A peer that refuses each announcement with an odd record in it, and comes back."""
    setbacks, cursor, taken, now = Setbacks(), 0, set[int](), 0.0
    epoch = bytes(16)
    subscriptions = 0
    while cursor < count:
        subscriptions += 1
        assert subscriptions < 200
        setbacks.comes_back((epoch, cursor), now)
        refused = False
        while cursor < count and not refused:
            window = range(cursor, min(cursor + setbacks.most, count))
            records = [number for number in window if str(number) not in setbacks.aside]
            setbacks.tells((epoch, cursor), tuple(map(str, records)))
            refused = bool(odd.intersection(records))
            if not refused:
                taken.update(records)
                cursor = window.stop
    assert taken == set(range(count)) - odd
    assert set(setbacks.aside) == {str(number) for number in odd if number < count}


def test_a_lost_connection_is_no_refusal() -> None:
    setbacks = Setbacks()
    for _ in range(10):
        assert not setbacks.comes_back((bytes(16), 0), 0.0)
        setbacks.tells((bytes(16), 0), ("1.2",))
        setbacks.forget_told()
    assert not setbacks.aside
    assert setbacks.most == ANNOUNCE_RECORDS


def test_pauses_double_up_to_the_longest() -> None:
    setbacks, now, pauses = Setbacks(), 0.0, []
    for _ in range(14):
        setbacks.set_aside("1.2", "why", now)
        again = setbacks.aside["1.2"].again
        pauses.append(again - now)
        assert setbacks.take_due(again - 1) == []
        assert setbacks.take_due(again) == ["1.2"]
        now = again
    assert pauses[0] == FIRST_PAUSE_SECONDS
    assert pauses[1] == 2 * FIRST_PAUSE_SECONDS
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


# --- with the real announcer ----------------------------------------------------------


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North")) as node:
        SOUTH.pair(node, "see")
        yield node


def test_what_our_own_decoder_refuses_is_never_sent_and_the_rest_is_told(north: Node) -> None:
    for number in range(3):
        share_row(north, f"1.2.{number}")
    share_row(north, "1.2.99", date="20260301" * 3)
    share_row(north, "1.2.100")
    announcer = announcer_of(north)
    told = {record.study for record in told_to(north, SOUTH, announcer)}
    assert told == {"1.2.0", "1.2.1", "1.2.2", "1.2.100"}
    [(peer, study, why)] = announcer.aside()
    assert (peer, study) == (SOUTH.key, "1.2.99")
    assert "study_date" in why
    [entry] = entries(north, "announced")
    assert entry["details"]["available"] == 4


class _Picky:
    """A peer of another release: it resets a subscription with a record that it cannot read."""

    def __init__(self, node: Node, announcer: Announcer, odd: str) -> None:
        self._node, self._announcer, self._odd = node, announcer, odd
        self.epoch, self.cursor = bytes(16), 0
        self.known: set[str] = set()

    async def subscribe(self) -> bool:
        """Listen until something is refused, or there is nothing more; whether all was read."""
        ours, theirs = stream_pair(self._node.keys.node.public, SOUTH.node.public)
        channel = MessageStream(theirs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, ours)
            await channel.send(Subscribe(epoch=self.epoch, cursor=self.cursor))
            is_whole = await self._listen(channel)
            await theirs.reset()
        return is_whole

    async def _serve(self, stream: object) -> None:
        try:
            await self._announcer.serve(stream)  # type: ignore[arg-type]
        except StreamLost:
            pass

    async def _listen(self, channel: MessageStream) -> bool:
        while True:
            message = await channel.receive_untrusted(timeout_seconds=60)
            if not isinstance(message, Signed):
                return True
            said = messages.open_signed_untrusted(
                message, Announcement, self._node.keys.node.public
            )
            if any(record.study == self._odd for record in said.records):
                return False
            self.known |= {record.study for record in said.records}
            self.epoch, self.cursor = said.epoch, said.cursor


async def test_a_peer_that_cannot_read_one_study_hears_of_all_others(
    north: Node, mock_clock: trio.testing.MockClock
) -> None:
    with jumps_when_idle(mock_clock):
        await _odd_study(north)


async def _odd_study(north: Node) -> None:
    studies = [f"1.2.{number}" for number in range(20)]
    for study in studies:
        share_row(north, study)
    announcer = announcer_of(north)
    picky = _Picky(north, announcer, "1.2.13")
    rounds = 0
    while not await picky.subscribe():
        rounds += 1
        assert rounds < 40
    assert picky.known == set(studies) - {"1.2.13"}
    assert [study for _, study, _ in announcer.aside()] == ["1.2.13"]
    # Each study was logged once, however often the peer came back.
    assert sum(entry["details"]["available"] for entry in entries(north, "announced")) == 20
    # News goes on, and the odd one is tried again after its pause, alone.
    share_row(north, "1.2.50")
    assert await picky.subscribe()
    assert "1.2.50" in picky.known
    await trio.sleep(FIRST_PAUSE_SECONDS + 1)
    assert not await picky.subscribe()


def test_a_feed_that_is_read_anew_is_not_logged_anew(north: Node) -> None:
    for number in range(5):
        share_row(north, f"1.2.{number}")
    first = told_to(north, SOUTH)
    size = north.audit.size
    for _ in range(3):
        assert told_to(north, SOUTH) == first
    assert north.audit.size == size


TEXTS = st.text(max_size=20)


@pytest.mark.slow
@given(modalities=st.lists(TEXTS, max_size=70), date=TEXTS)
def test_whatever_is_announced_can_be_read(modalities: list[str], date: str) -> None:
    """The check before sending and the decoder of the peer are one."""
    record = Record(
        sequence=1,
        kind="available",
        study="1.2.3",
        content_root=bytes(32),
        series=1,
        instances=1,
        bytes=1,
        encoded_bytes=1,
        modalities=tuple(modalities),
        study_date=date,
    )
    try:
        from_map_untrusted(Record, to_map(record))
    except Exception:
        return
    said = Announcement(
        recipient=bytes(32), epoch=bytes(16), reset=False, cursor=1, time=0, records=(record,)
    )
    again = messages.decode_untrusted(messages.encode(said))
    assert again == said


# --- what is remembered ---------------------------------------------------------------

EPOCH = bytes(16)


def _refuse(setbacks: Setbacks, studies: tuple[str, ...], times: int, now: float = 0.0) -> None:
    """A peer is told of these at the start of its feed, and comes back there so often."""
    for _ in range(times):
        setbacks.tells((EPOCH, 0), studies)
        assert setbacks.comes_back((EPOCH, 0), now)


def test_fewer_are_told_only_when_it_was_no_chance() -> None:
    setbacks = Setbacks()
    _refuse(setbacks, ("1.2", "1.3"), STRIKES - 1)
    assert setbacks.most == ANNOUNCE_RECORDS
    # It took something in between: what was refused before says nothing any more.
    setbacks.tells((EPOCH, 0), ("1.2", "1.3"))
    assert not setbacks.comes_back((EPOCH, 2), 0.0)
    _refuse(setbacks, ("1.2", "1.3"), STRIKES - 1)
    assert setbacks.most == ANNOUNCE_RECORDS
    _refuse(setbacks, ("1.2", "1.3"), 1)
    assert setbacks.most == 1
    # And it counts anew from there.
    _refuse(setbacks, ("1.2",), STRIKES - 1)
    assert not setbacks.aside
    _refuse(setbacks, ("1.2",), 1)
    assert list(setbacks.aside) == ["1.2"]
    assert setbacks.most == ANNOUNCE_RECORDS


def test_a_connection_that_was_lost_in_between_counts_anew() -> None:
    setbacks = Setbacks()
    _refuse(setbacks, ("1.2", "1.3"), STRIKES - 1)
    setbacks.forget_told()
    _refuse(setbacks, ("1.2", "1.3"), STRIKES - 1)
    assert setbacks.most == ANNOUNCE_RECORDS


def test_who_takes_what_is_told_is_told_more_again() -> None:
    setbacks = Setbacks()
    _refuse(setbacks, tuple(map(str, range(40))), STRIKES)
    assert setbacks.most == 20
    cursor = 0
    for most in (40, 80):
        cursor += setbacks.most
        assert not setbacks.comes_back((EPOCH, cursor), 0.0)
        assert setbacks.most == most
    for _ in range(20):
        setbacks.comes_back((EPOCH, 9999), 0.0)
    assert setbacks.most == ANNOUNCE_RECORDS


def test_an_announcement_without_a_study_sets_none_aside() -> None:
    setbacks = Setbacks()
    _refuse(setbacks, (), 2 * STRIKES)
    assert not setbacks.aside
    assert setbacks.most == ANNOUNCE_RECORDS


def test_what_is_remembered_is_bounded() -> None:
    setbacks = Setbacks()
    for cursor in range(200):
        setbacks.tells((EPOCH, cursor), (str(cursor),))
    # The newest: a peer that comes back stands at one of them.
    assert len(setbacks._told) == 64
    assert setbacks.comes_back((EPOCH, 199), 0.0)
    for number in range(SET_ASIDE + 100):
        setbacks.set_aside(str(number), "why", 0.0)
    assert len(setbacks.aside) == SET_ASIDE
    assert set(setbacks.take_due(FIRST_PAUSE_SECONDS)) == set(map(str, range(SET_ASIDE)))
    # Pauses are remembered for the first ones alone, and all are set aside as they come.
    for number in range(SET_ASIDE + 100, 0, -1):
        setbacks.set_aside(str(number), "why", 0.0)
    assert len(setbacks._pauses) == SET_ASIDE
    again = {one.again for one in setbacks.aside.values()}
    assert again == {FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS}


def test_what_is_set_aside_already_keeps_its_pause() -> None:
    setbacks = Setbacks()
    setbacks.set_aside("1.2", "why", 0.0)
    setbacks.set_aside("1.2", "another reason", 50.0)
    assert setbacks.aside["1.2"].reason == "why"
    assert setbacks.aside["1.2"].again == FIRST_PAUSE_SECONDS
