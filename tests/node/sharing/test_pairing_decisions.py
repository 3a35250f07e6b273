"""Who may be accepted, who decides, and who stops: pairing between real nodes over sockets."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from pairing_made import OTHER_CODE
from pairing_sites import (
    PROPOSAL,
    PairingSite,
    Stranger,
    error_of,
    meeting_of,
    relay,
    relayed,
    sites,
    until,
    wrong,
)

from keys.card import sign_card
from node.errors import ExitCode, NodeError
from node.network.pairing_line import LineLost
from node.sharing.pairing_stage import Asked
from node.sharing.pairing_window import Visit, Window
from node.sharing.peers import UNBOUNDED, Terms
from protocol import limits

pytestmark = pytest.mark.integration


async def test_a_line_that_breaks_leaves_each_free_to_decide(tmp_path: Path) -> None:
    """As where a node is killed: whether the other has accepted cannot be heard."""
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        wire_to = await relay()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            async with trio.open_nursery() as wire:
                wire.start_soon(relayed, north.port, wire_to.listeners)
                nursery.start_soon(south.call, wire_to.as_site(), north.code)
                at_north, at_south = await north.has_met(), await south.has_met()
                wire.cancel_scope.cancel()
            await until(lambda: at_north.is_lost and at_south.is_lost)
            await north.accept("see")
            await south.accept()
        for site in (north, south):
            assert (meeting_of(site).ours, meeting_of(site).theirs) == (True, None)
        assert north.trusts(south)
        assert south.trusts(north)


def has_heard(site: PairingSite, answer: bool) -> bool:
    """Whether a site that waits for its person has had the other's answer."""
    meeting = site.stages[-1].meeting
    return meeting is not None and meeting.theirs is answer


async def _refused(north: PairingSite, south: PairingSite, fingerprint: str = "") -> None:
    """Pair up to where a node refuses by itself."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(north.show)
        await north.has_shown()
        nursery.start_soon(south.call, north, north.code, fingerprint)
        await until(lambda: south.ended is not None)
        # Where North would still wait for a person, it hears that South has stopped.
        await until(lambda: north.ended is not None or has_heard(north, False))
        nursery.cancel_scope.cancel()


async def test_our_own_card_is_refused(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General") as (north,):
        other = PairingSite.__new__(PairingSite)
        other.__dict__ |= north.__dict__
        from node.network.transport import TCP
        from node.parts import pairings_of

        other.pairings, other.stages, other.ended = pairings_of(north.node, TCP), [], None
        await _refused(north, other)
        assert "our own card" in error_of(other).message
        assert "our own card" in error_of(north).message
        assert north.node.peers.store.peers == ()
        declined = north.entries("pairing-declined")
        assert [entry["details"]["why"] for entry in declined] == ["refused", "refused"]


@pytest.mark.parametrize(
    "name", ["South Clinic", "south  clinic", "S\N{CYRILLIC SMALL LETTER O}uth Clinic"]
)
async def test_a_known_name_with_another_key_is_refused(tmp_path: Path, name: str) -> None:
    async with sites(tmp_path / "a", "South Clinic") as (old,):
        async with sites(tmp_path / "b", "North General", name) as (north, south):
            card = old.node.card
            north.node.peers.add(card.encoded, card.fingerprint, ["see"], "", north.clock.now())
            before = north.node.peers.store.peers
            await _refused(south, north)
            assert error_of(north).code is ExitCode.REFUSED
            assert "has another facility key than South Clinic" in error_of(north).message
            assert north.node.peers.store.peers == before
            # Once it was revoked, the name is free.
            north.node.peers.revoke("South Clinic", [], north.clock.now())
            async with trio.open_nursery() as nursery:
                north.ended = None
                nursery.start_soon(south.show)
                await south.has_shown()
                nursery.start_soon(north.call, south, south.code)
                await north.has_met()
                nursery.cancel_scope.cancel()


async def test_a_card_that_has_expired_is_refused(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        card, keys = south.node.card, south.node.keys
        assert keys.facility is not None
        south.node.card = sign_card(
            keys.facility,
            name=card.name,
            node_keys=card.node_keys,
            log_keys=card.log_keys,
            witness_keys=card.witness_keys,
            addresses=(),
            serial=2,
            issued=card.issued - 1000,
            expires=card.issued - 500,
        )
        await _refused(south, north)
        assert "has expired" in error_of(north).message
        assert north.node.peers.store.peers == ()


async def test_the_fingerprint_of_the_qr_code_counts(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        await _refused(north, south, south.node.card.fingerprint)
        assert error_of(south).code is ExitCode.INTEGRITY
        assert "not the one of the QR code" in error_of(south).message
        assert not south.trusts(north)


@pytest.mark.parametrize("who", ["north", "south"])
async def test_who_does_not_accept_is_not_waited_for(tmp_path: Path, who: str) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        no, other = (north, south) if who == "north" else (south, north)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            nursery.start_soon(south.call, north, north.code)
            await north.has_met()
            at_other = await other.has_met()
            await no.pairings.decline()
            await until(lambda: at_other.theirs is False)
            with pytest.raises(NodeError, match="has stopped; nothing was changed"):
                await other.accept("see")
            await other.pairings.decline()
        assert meeting_of(no).ours is False
        assert meeting_of(other).ours is False
        for site in (north, south):
            assert site.node.peers.store.peers == ()
            [entry] = site.entries("pairing-declined")
            assert (entry["details"]["why"], entry["outcome"]) == ("declined", "refused")


async def test_who_has_accepted_learns_that_the_other_has_not(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            nursery.start_soon(south.call, north, north.code)
            await north.has_met()
            await south.has_met()
            await north.accept("see")
            await south.pairings.decline()
        assert (meeting_of(north).ours, meeting_of(north).theirs) == (True, False)
        assert north.trusts(south)
        assert not south.trusts(north)


async def test_who_goes_away_has_not_accepted_and_the_other_is_told(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            async with trio.open_nursery() as gone:
                gone.start_soon(south.call, north, north.code)
                at_north = await north.has_met()
                await south.has_met()
                gone.cancel_scope.cancel()
            await until(lambda: at_north.theirs is False)
            assert south.entries("pairing-declined")[0]["details"]["why"] == "stopped"
            with pytest.raises(NodeError, match="no facility waits"):
                await south.accept()
            nursery.cancel_scope.cancel()


class _NoPlace:
    """A line on which the node that was called hangs up without a word."""

    host = "192.0.2.1"

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        raise LineLost

    def close(self) -> None:
        pass


async def test_a_node_without_a_place_is_called_for_a_minute(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with sites(tmp_path, "South Clinic") as (south,):
        began, calls = trio.current_time(), []

        async def call(address: str) -> _NoPlace:
            await trio.lowlevel.checkpoint()
            calls.append(trio.current_time() - began)
            return _NoPlace()

        south.pairings._call = call  # type: ignore[assignment]
        await south.call(south, OTHER_CODE)
        assert error_of(south).code is ExitCode.BUSY
        assert "has no place for us" in error_of(south).message
        assert calls == [0, 1.5, 4.5, 10.5, 22.5, 37.5, 52.5]
        assert south.entries("pairing-failed") == []


async def test_a_node_that_breaks_the_rules_is_not_called_again(tmp_path: Path) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(PROPOSAL + b"\xff" * 40)
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some(4096):
                    pass

    async with sites(tmp_path, "South Clinic") as (south,), trio.open_nursery() as nursery:
        wire = await relay()
        nursery.start_soon(trio.serve_listeners, serve, wire.listeners)
        await south.call(wire.as_site(), OTHER_CODE)
        assert error_of(south).code is ExitCode.INTEGRITY
        assert "does not pair as it should" in error_of(south).message
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_what_is_no_node_is_a_sentence(tmp_path: Path, answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(answer)

    async with sites(tmp_path, "South Clinic") as (south,), trio.open_nursery() as nursery:
        wire = await relay()
        nursery.start_soon(trio.serve_listeners, serve, wire.listeners)
        await south.call(wire.as_site(), OTHER_CODE)
        assert error_of(south).code is ExitCode.UNREACHABLE
        nursery.cancel_scope.cancel()


async def test_there_is_one_pairing_at_a_time(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            for other in (
                lambda: north.pairings.show(Asked(), lambda _: None),
                lambda: north.pairings.call(south.address, OTHER_CODE, Asked(), "", lambda _: None),
            ):
                with pytest.raises(NodeError, match="under way already") as caught:
                    await other()
                assert caught.value.code is ExitCode.BUSY
            assert north.pairings.is_open()
            nursery.cancel_scope.cancel()
        assert not north.pairings.is_open()


async def test_a_try_that_cannot_be_logged_closes_the_window(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General") as (north,):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            append = north.pairings._append

            def full(event: object) -> int:
                raise NodeError("the disk is full", code=ExitCode.DISK)

            north.pairings._append = full
            async with Stranger(north.port) as stranger:
                assert await stranger.guess(wrong(north.code))
                await stranger.read_all()
            assert not north.pairings.is_open()
            assert "the disk is full" in str(await north.has_ended())
            north.pairings._append = append


async def test_a_pairing_that_cannot_be_logged_shows_no_code(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General") as (north,):

        def full(event: object) -> int:
            raise NodeError("the disk is full", code=ExitCode.DISK)

        north.pairings._append = full
        await north.show()
        assert error_of(north).code is ExitCode.DISK
        assert north.stages == []


async def test_nobody_is_waited_for_longer_than_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAIRING_DECIDE_SECONDS", 0.3)
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            nursery.start_soon(south.call, north, north.code)
        for site, name in ((north, "South Clinic"), (south, "North General")):
            assert f"nobody accepted {name} in time" in error_of(site).message
            assert site.entries("pairing-declined")[0]["details"]["why"] == "time"
            assert site.node.peers.store.peers == ()


async def test_pairing_again_settles_what_one_side_missed(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        card = south.node.card
        north.node.peers.add(card.encoded, card.fingerprint, ["see"], "South", north.clock.now())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(south.show)
            await south.has_shown()
            nursery.start_soon(north.call, south, south.code)
            await north.has_met()
            await south.has_met()
            await north.accept("fetch")
            await south.accept("see")
        assert south.trusts(north)
        [peer] = north.node.peers.store.peers
        # What it had stays, and so does our name for it.
        assert (peer.petname, peer.grants) == ("South", {"see", "fetch"})


async def test_terms_that_cannot_be_leave_the_facility_waiting(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            nursery.start_soon(south.call, north, north.code)
            await north.has_met()
            await south.has_met()
            with pytest.raises(NodeError, match="the end of trust is in the past"):
                await north.accept("see", terms=Terms(expires=north.clock.now()))
            assert not north.trusts(south)
            await north.accept("see")
            await south.accept()
        assert meeting_of(north).theirs
        assert len(north.entries("trust-added")) == 1


async def test_only_the_facility_that_the_person_saw_is_accepted(tmp_path: Path) -> None:
    """The screen may still show an older pairing."""
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            nursery.start_soon(south.call, north, north.code)
            await north.has_met()
            await south.has_met()
            seen = north.node.card.fingerprint
            with pytest.raises(NodeError, match="another facility waits to be accepted now: South"):
                await north.pairings.accept(seen, ["see"], "", UNBOUNDED)
            assert not north.trusts(south)
            await north.accept("see")
            await south.accept()
        assert meeting_of(north).theirs


@pytest.mark.parametrize("can_be_written", [True, False])
async def test_a_decision_that_is_being_written_as_its_caller_goes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_be_written: bool
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        add = north.node.peers.add

        def slowly(*given: Any) -> Any:
            begun.set()
            assert go_on.wait(20)
            if not can_be_written:
                raise NodeError("the disk is full", code=ExitCode.DISK)
            return add(*given)

        monkeypatch.setattr(north.node.peers, "add", slowly)
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as shown:
                shown.start_soon(north.show)
                await north.has_shown()
                nursery.start_soon(south.call, north, north.code)
                await north.has_met()
                at_south = await south.has_met()
                nursery.start_soon(_accepted, north)
                await until(begun.is_set)
                shown.cancel_scope.cancel()
                go_on.set()
            await until(lambda: at_south.theirs is can_be_written)
            await south.pairings.decline()
        assert north.trusts(south) is can_be_written
        assert len(north.entries("pairing-declined")) == (0 if can_be_written else 1)


async def _accepted(site: PairingSite) -> None:
    with contextlib.suppress(NodeError):
        await site.accept("see")


async def test_a_try_is_logged_though_its_caller_has_to_give_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_wrong = Window.was_wrong

    def pushed_out(window: Window, visit: Visit) -> None:
        was_wrong(window, visit)
        # The next caller has come in the same moment.
        visit.push_out()

    monkeypatch.setattr(Window, "was_wrong", pushed_out)
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            await south.call(north, wrong(north.code))
            await until(lambda: north.tries == 1 and not north.stages[-1].window._visits)
            nursery.cancel_scope.cancel()
        assert len(north.entries("pairing-failed")) == 1
