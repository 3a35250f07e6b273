"""The announcer's two directions, with a peer that the test plays over a stream in memory."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from clocks_made import MadeClock, jumps_when_idle
from facility_in_memory import Other, entries, publish_study, share_row
from streams_made import stream_pair

from keys.identity import KeyPair
from keys.trust import Peer
from node.app import Node
from node.home import Home
from node.network.messaging import MessageStream
from node.network.streams import PeerStream, PeerTimeout, StreamLost
from node.parts import announcer_of
from node.sharing.announcer import NO_ROOM_SECONDS, Announcer
from protocol import limits, messages
from protocol.errors import RemoteProtocolError, WireCode
from protocol.limits import BUDGETS
from protocol.messages import Announcement, Heartbeat, Message, Record, Signed, Subscribe

SOUTH = Other("South Clinic", MadeClock().now())
EPOCH = b"e" * 16
NEW_KEY = KeyPair.from_seed(b"the next node key".ljust(32))


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        yield node


@pytest.fixture
def south(north: Node) -> Peer:
    return SOUTH.pair(north, "see")


def _use_up(node: Node, kind: str) -> float:
    """Use a budget of South up; how many seconds later there is one of it again."""
    node.budgets._now = trio.current_time
    assert node.budgets.take(SOUTH.key, kind, BUDGETS[kind].burst)
    return 3600 / BUDGETS[kind].per_hour


# --- listening --------------------------------------------------------------------------


def _record(sequence: int, study: str = "1.2.3", kind: str = "available") -> Record:
    return Record(
        sequence=sequence,
        kind=kind,
        study=study,
        content_root=bytes(32),
        series=1,
        instances=1,
        bytes=1,
        encoded_bytes=1,
        modalities=("CT",),
        study_date="20260301",
    )


def _announcement(node: Node, *records: Record, **changes: object) -> Announcement:
    fields = {
        "recipient": node.keys.node.public,
        "epoch": EPOCH,
        "reset": True,
        "cursor": max((record.sequence for record in records), default=0),
        "time": 0,
        "records": records,
    }
    return Announcement(**{**fields, **changes})  # type: ignore[arg-type]


def _signed(said: Announcement, key: KeyPair = SOUTH.node) -> Signed:
    return messages.sign(said, key)


class Speaker:
    """South, as it speaks: what it says, and where the listener said that it stands."""

    def __init__(self, node: Node, announcer: Announcer, peer: Peer) -> None:
        self._announcer, self._peer = announcer, peer
        self.ours, self.theirs = stream_pair(node.keys.node.public, SOUTH.node.public)
        self.subscribed: Message | None = None
        self.heard: list[tuple[bytes, Sequence[Record]]] = []
        announcer.on_heard = lambda key, records: self.heard.append((key, records))

    async def _open(self, protocol_id: str) -> PeerStream:
        assert protocol_id == messages.CATALOG_PROTOCOL
        return self.ours

    async def say(self, *said: Message, hangs_up: bool = True) -> None:
        """Let the announcer listen to this; raises what ends the listening."""
        channel = MessageStream(self.theirs)

        async def speak() -> None:
            self.subscribed = await channel.receive_untrusted(timeout_seconds=60)
            with contextlib.suppress(StreamLost):
                for one in said:
                    await channel.send(one)
                if hangs_up:
                    await self.theirs.close()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak)
                await self._announcer.listen(self._peer, self._open)
        except BaseExceptionGroup as group:
            [error] = group.exceptions
            raise error from None

    async def is_over(self) -> bool:
        """Whether the listener has reset the stream."""
        try:
            await self.theirs.read(timeout_seconds=5)
        except PeerTimeout:
            return False
        except StreamLost:
            return True
        return False


async def test_what_is_announced_is_kept_and_the_next_subscription_goes_on(
    north: Node, south: Peer
) -> None:
    announcer = announcer_of(north)
    speaker = Speaker(north, announcer, south)
    first = _announcement(north, _record(1), _record(2, "1.2.4"))
    second = _announcement(north, _record(5, "1.2.5"), reset=False)
    with pytest.raises(StreamLost):
        await speaker.say(_signed(first), Heartbeat(), _signed(second))
    assert speaker.subscribed == Subscribe(epoch=bytes(16), cursor=0)
    assert speaker.heard == [(SOUTH.key, first.records), (SOUTH.key, second.records)]
    kept = {record.study for _, record in north.feeds.announced(peer=SOUTH.key)}
    assert kept == {"1.2.3", "1.2.4", "1.2.5"}
    assert await speaker.is_over()
    again = Speaker(north, announcer, south)
    with pytest.raises(StreamLost):
        await again.say()
    assert again.subscribed == Subscribe(epoch=EPOCH, cursor=5)


HOSTILE = {
    "for another node": ({"recipient": b"x" * 32}, "for another node"),
    "of another feed": ({"epoch": b"o" * 16, "reset": False}, "of another feed"),
    "cursor before its records": ({"cursor": 1}, "cursor is before the records"),
    "out of order": ({"records": (_record(2), _record(1, "1.2.4"))}, "not in order"),
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_an_announcement_that_breaks_a_rule_is_not_kept(
    north: Node, south: Peer, how: str
) -> None:
    changes, said = HOSTILE[how]
    speaker = Speaker(north, announcer_of(north), south)
    broken = _announcement(north, _record(2, "1.2.9"), **changes)
    with pytest.raises(RemoteProtocolError, match=said):
        await speaker.say(_signed(broken))
    assert speaker.heard == []
    assert north.feeds.announced() == []
    assert await speaker.is_over()
    assert north.feeds.subscription(SOUTH.key, bytes(32)).cursor == 0


@pytest.mark.parametrize("signed", [False, True])
async def test_what_the_peer_did_not_sign_is_not_taken(
    north: Node, south: Peer, signed: bool
) -> None:
    said = _announcement(north, _record(1))
    message: Message = _signed(said, NEW_KEY) if signed else Subscribe(epoch=EPOCH, cursor=0)
    speaker = Speaker(north, announcer_of(north), south)
    with pytest.raises(RemoteProtocolError) as caught:
        await speaker.say(message)
    assert caught.value.code is WireCode.BAD_SIGNATURE
    assert north.feeds.announced() == []


async def test_a_listener_with_another_key_takes_what_is_for_that_key(
    north: Node, south: Peer
) -> None:
    announcer = announcer_of(north)
    announcer.use_key(NEW_KEY)
    old = Speaker(north, announcer, south)
    with pytest.raises(RemoteProtocolError, match="for another node"):
        await old.say(_signed(_announcement(north, _record(1))))
    new = Speaker(north, announcer, south)
    with pytest.raises(StreamLost):
        await new.say(_signed(_announcement(north, _record(1), recipient=NEW_KEY.public)))
    assert len(north.feeds.announced()) == 1


async def test_a_peer_that_says_nothing_is_not_waited_for(
    north: Node, south: Peer, mock_clock: trio.testing.MockClock
) -> None:
    with jumps_when_idle(mock_clock):
        speaker, began = Speaker(north, announcer_of(north), south), trio.current_time()
        with pytest.raises(PeerTimeout):
            await speaker.say(Heartbeat(), hangs_up=False)
        assert trio.current_time() - began == limits.SUBSCRIPTION_SILENCE_SECONDS


async def test_what_is_too_much_waits_and_is_taken_then(
    north: Node, south: Peer, mock_clock: trio.testing.MockClock
) -> None:
    seconds_due = 200_000 * _use_up(north, "announcement-bytes")
    assert north.budgets.wait(SOUTH.key, "announcement-bytes", 200_000) == 0
    with jumps_when_idle(mock_clock):
        speaker, began = Speaker(north, announcer_of(north), south), trio.current_time()
        first = _signed(_announcement(north, _record(1)))
        second = _signed(_announcement(north, _record(2, "1.2.4"), reset=False))
        with pytest.raises(StreamLost):
            await speaker.say(first, second)
        seconds_due += len(first.body) / BUDGETS["announcement-bytes"].per_hour * 3600
        assert trio.current_time() - began == pytest.approx(seconds_due)
    assert len(speaker.heard) == 2


async def test_on_a_full_disk_announcements_wait(
    north: Node, south: Peer, mock_clock: trio.testing.MockClock
) -> None:
    looks: list[float] = []

    def has_room() -> bool:
        looks.append(len(looks))
        assert north.feeds.announced() == []
        return len(looks) == 4

    north.budgets.has_room = has_room  # type: ignore[method-assign]
    with jumps_when_idle(mock_clock):
        speaker, began = Speaker(north, announcer_of(north), south), trio.current_time()
        with pytest.raises(StreamLost):
            await speaker.say(_signed(_announcement(north, _record(1))))
        assert trio.current_time() - began == 3 * NO_ROOM_SECONDS
    assert len(speaker.heard) == 1


# --- telling ----------------------------------------------------------------------------


class Subscriber:
    """South, as it listens to one subscription."""

    def __init__(self, node: Node, announcer: Announcer) -> None:
        self._node, self._announcer = node, announcer
        self.ours, self.theirs = stream_pair(node.keys.node.public, SOUTH.node.public)
        self.channel = MessageStream(self.theirs)
        self.error: BaseException | None = None
        self.over = trio.Event()
        self.epoch = bytes(16)

    async def serve(self) -> None:
        try:
            await self._announcer.serve(self.ours)
        except (StreamLost, RemoteProtocolError) as error:
            self.error = error
        self.over.set()

    async def hear(self, key: bytes | None = None) -> Announcement | None:
        """The next announcement; None for a sign of life."""
        message = await self.channel.receive_untrusted(timeout_seconds=60)
        if isinstance(message, Heartbeat):
            return None
        assert isinstance(message, Signed)
        said = messages.open_signed_untrusted(
            message, Announcement, key or self._node.keys.node.public
        )
        self.epoch = said.epoch
        return said


@contextlib.asynccontextmanager
async def _subscribed(
    node: Node, announcer: Announcer, epoch: bytes = bytes(16), cursor: int = 0
) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber(node, announcer)
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.serve)
            await subscriber.channel.send(Subscribe(epoch=epoch, cursor=cursor))
            yield subscriber
            await subscriber.theirs.reset()


async def test_news_are_told_as_they_come_and_nothing_twice(
    north: Node, south: Peer, mock_clock: trio.testing.MockClock
) -> None:
    """No time passes: each is told since it came, not since something else was due."""
    announcer = announcer_of(north)
    publish_study(north, instances=1)
    async with _subscribed(north, announcer) as subscriber:
        first = await subscriber.hear()
        assert first is not None
        assert (first.recipient, first.reset) == (SOUTH.node.public, True)
        assert first.time == north.clock.now_ms()
        assert len(first.records) == 1
        await trio.to_thread.run_sync(share_row, north, "1.2.50")
        announcer.announce()
        second = await subscriber.hear()
        assert second is not None
        assert (second.reset, [record.study for record in second.records]) == (False, ["1.2.50"])
        assert second.cursor > first.cursor
    # Who stands where the feed stands is told nothing but that we are here.
    async with _subscribed(north, announcer, second.epoch, second.cursor) as subscriber:
        await trio.to_thread.run_sync(share_row, north, "1.2.51")
        announcer.announce()
        third = await subscriber.hear()
        assert third is not None
        assert [record.study for record in third.records] == ["1.2.51"]


async def test_another_key_signs_from_then_on(north: Node, south: Peer) -> None:
    announcer = announcer_of(north)
    async with _subscribed(north, announcer) as subscriber:
        assert await subscriber.hear() is not None
        announcer.use_key(NEW_KEY)
        await trio.to_thread.run_sync(share_row, north, "1.2.50")
        announcer.announce()
        said = await subscriber.hear(NEW_KEY.public)
        assert said is not None
        assert len(said.records) == 1


async def test_a_sign_of_life_comes_when_there_is_no_news(
    north: Node, south: Peer, mock_clock: trio.testing.MockClock
) -> None:
    with jumps_when_idle(mock_clock):
        async with _subscribed(north, announcer_of(north)) as subscriber:
            assert await subscriber.hear() is not None
            for _ in range(2):
                before = trio.current_time()
                assert await subscriber.hear() is None
                assert trio.current_time() - before == limits.HEARTBEAT_SECONDS


async def test_a_subscriber_has_nothing_more_to_say(north: Node, south: Peer) -> None:
    async with _subscribed(north, announcer_of(north)) as subscriber:
        assert await subscriber.hear() is not None
        await subscriber.channel.send(Heartbeat())
        await subscriber.over.wait()
        assert isinstance(subscriber.error, RemoteProtocolError)
        assert subscriber.error.code is WireCode.UNEXPECTED


async def test_a_subscription_ends_with_its_stream_and_is_told_no_more(
    north: Node, south: Peer
) -> None:
    announcer = announcer_of(north)
    async with _subscribed(north, announcer) as subscriber:
        assert await subscriber.hear() is not None
        await subscriber.theirs.reset()
        await subscriber.over.wait()
        await trio.to_thread.run_sync(share_row, north, "1.2.50")
        announcer.announce()
        await trio.testing.wait_all_tasks_blocked()
    assert not entries(north, "announced"), "nobody reads it, so nobody was told"


async def test_the_first_word_is_a_subscription(north: Node, south: Peer) -> None:
    subscriber = Subscriber(north, announcer_of(north))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscriber.serve)
        await subscriber.channel.send(Heartbeat())
    assert isinstance(subscriber.error, RemoteProtocolError)
    assert subscriber.error.code is WireCode.UNEXPECTED


async def test_who_is_not_trusted_is_told_nothing(north: Node) -> None:
    publish_study(north, instances=1)
    async with _subscribed(north, announcer_of(north)) as subscriber:
        with pytest.raises(StreamLost):
            await subscriber.hear()
        await subscriber.over.wait()
        assert subscriber.error is None
    assert not entries(north, "announced")


async def test_trust_that_is_revoked_ends_a_subscription(north: Node, south: Peer) -> None:
    announcer = announcer_of(north)
    async with _subscribed(north, announcer) as subscriber:
        assert await subscriber.hear() is not None
        await trio.to_thread.run_sync(north.peers.revoke, "South Clinic", [], north.clock.now())
        announcer.announce()
        with pytest.raises(StreamLost):
            await subscriber.hear()
        await subscriber.over.wait()


async def test_a_second_subscription_ends_the_first(north: Node, south: Peer) -> None:
    announcer = announcer_of(north)
    async with _subscribed(north, announcer) as first:
        assert await first.hear() is not None
        async with _subscribed(north, announcer) as second:
            await first.over.wait()
            assert await second.hear() is not None
            await trio.to_thread.run_sync(share_row, north, "1.2.50")
            announcer.announce()
            assert await second.hear() is not None
            assert not second.over.is_set()
    [announced] = entries(north, "announced")
    assert announced["details"]["available"] == 1


async def test_a_feed_that_is_asked_for_anew_too_often_is_told_slowly(
    north: Node, south: Peer, mock_clock: trio.testing.MockClock
) -> None:
    """With signs of life, so that the peer does not take us for dead."""
    seconds_due = _use_up(north, "feed-reset")
    with jumps_when_idle(mock_clock):
        began, signs = trio.current_time(), 0
        async with _subscribed(north, announcer_of(north)) as subscriber:
            while await subscriber.hear() is None:
                signs += 1
            seconds = trio.current_time() - began
    assert seconds == pytest.approx(seconds_due)
    assert signs == int(seconds_due / limits.HEARTBEAT_SECONDS - 0.01)


async def test_subscriptions_beyond_their_budget_wait(
    north: Node, south: Peer, mock_clock: trio.testing.MockClock
) -> None:
    seconds_due = _use_up(north, "subscription")
    with jumps_when_idle(mock_clock):
        began = trio.current_time()
        async with _subscribed(north, announcer_of(north)) as subscriber:
            while await subscriber.hear() is None:
                pass
        assert trio.current_time() - began == pytest.approx(seconds_due)


async def test_what_is_withdrawn_is_told_and_counted_apart(north: Node, south: Peer) -> None:
    announcer = announcer_of(north)
    study = publish_study(north, instances=1)
    await trio.to_thread.run_sync(share_row, north, "1.2.50")
    async with _subscribed(north, announcer) as subscriber:
        first = await subscriber.hear()
        assert first is not None
        assert len(first.records) == 2
        await trio.to_thread.run_sync(north.shared_studies.withdraw, study)
        announcer.announce()
        second = await subscriber.hear()
        assert second is not None
        assert [(one.kind, one.study) for one in second.records] == [("withdrawn", study)]
    told = [entry["details"] for entry in entries(north, "announced")]
    rights = {"rights": north.peers.find("South Clinic").rights_digest}
    assert told == [
        {"available": 2, "withdrawn": 0, **rights},
        {"available": 0, "withdrawn": 1, **rights},
    ]
    [_, last] = entries(north, "announced")
    assert last["peer"] == SOUTH.key.hex()
    assert len(last["subjects"]) == 1
