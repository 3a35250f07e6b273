"""Pairing by a code between real nodes over sockets, and strangers who disturb it."""

import contextlib
import json
import time
from pathlib import Path

import pytest
import trio
import trio.testing
from pairing_made import OTHER_CODE
from pairing_sites import (
    GREETING,
    PROPOSAL,
    Stranger,
    error_of,
    meeting_of,
    relay,
    relayed,
    sites,
    until,
    wrong,
)

from node.errors import ExitCode, NodeError
from node.sharing import pairing
from node.sharing.pairing_stage import Asked
from node.sharing.pairing_window import GIVE_WAY_SECONDS
from node.sharing.peers import Terms
from protocol import limits, messages
from protocol.frames import FrameKind, frame_header
from protocol.pairing_messages import PairHello

pytestmark = pytest.mark.integration


async def test_two_pair_and_what_each_gives_is_its_own(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        end = north.clock.now() + 1000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show, Asked(("fetch",)))
            await north.has_shown()
            code = north.code
            nursery.start_soon(south.call, north, code)
            at_north, at_south = await north.has_met(), await south.has_met()
            assert at_north.met.card.encoded == south.node.card.encoded
            assert (at_north.met.grants, at_north.met.purposes) == (("see",), ("research",))
            assert (at_south.met.card.name, at_south.met.grants) == ("North General", ("fetch",))
            assert not north.trusts(south)
            assert not south.trusts(north)
            assert north.entries("trust-added") == []
            await north.accept("see", terms=Terms(frozenset({"research"}), end))
            assert north.trusts(south)
            assert not south.trusts(north)
            await south.accept()
        assert (meeting_of(north).ours, meeting_of(north).theirs) == (True, True)
        assert (meeting_of(south).ours, meeting_of(south).theirs) == (True, True)
        peer = north.node.find_peer(south.node.card.facility_key)
        assert peer is not None
        assert (peer.grants, peer.purposes, peer.expires) == ({"see"}, {"research"}, end)
        [added] = north.entries("trust-added")
        sid = meeting_of(north).session.hex()
        assert added["details"] == {
            "card": south.node.card.digest,
            "card_until": south.node.card.expires,
            "serial": 1,
            "grants": "see",
            "purposes": "research",
            "expires": end,
            "method": "code",
            "tries": 0,
            "sid": sid,
        }
        assert added["actor"] == "operator"
        [theirs] = south.entries("trust-added")
        assert theirs["details"]["sid"] == sid
        assert [
            (entry["type"], entry["details"])
            for entry in north.entries("pairing-opened", "pairing-closed", "pairing-failed")
        ] == [
            ("pairing-opened", {"seconds": 600}),
            ("pairing-closed", {"why": "confirmed", "tries": 0, "sid": sid}),
        ]
        for site in (north, south):
            assert code not in json.dumps(list(map(bytes.decode, site.node.audit.entries(0))))


async def test_a_wrong_code_is_one_try_and_the_right_one_counts_after(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            await south.call(north, wrong(north.code))
            assert error_of(south).code is ExitCode.INTEGRITY
            assert "did not confirm the code" in error_of(south).message
            await until(lambda: north.tries == 1 and north.entries("pairing-failed"))
            # Past the pause of its address.
            north.clock.move(5)
            nursery.start_soon(south.call, north, north.code)
            await north.has_met()
            await south.has_met()
            await north.accept()
            await south.accept()
        assert meeting_of(north).theirs
        [failed] = north.entries("pairing-failed")
        assert (failed["outcome"], failed["details"]) == (
            "failed",
            {"address": "127.0.0.1", "tries": 1, "side": "shown"},
        )
        [typed] = south.entries("pairing-failed")
        assert typed["details"]["side"] == "typed"
        [added] = north.entries("trust-added")
        assert added["details"]["tries"] == 1


async def test_without_a_window_the_answer_is_that_to_every_unknown_name(tmp_path: Path) -> None:
    """Byte for byte, also in time: before a window, after one, and where there is no door."""

    async def answer(port: int, name: bytes) -> bytes:
        async with Stranger(port) as stranger:
            await stranger.stream.send_all(GREETING + bytes((len(name) + 1,)) + name + b"\n")
            with trio.move_on_after(0.3):
                return await stranger.read_exactly(len(GREETING) + 4)
            return b"nothing"

    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        south.network._shared.upgrader.security_multistream.multiselect.handlers = dict(
            south.network._shared.upgrader.security_multistream.multiselect.handlers
        )
        refused = GREETING + b"\x03na\n"
        for name in (b"/radmesh/pair/1", b"/radmesh/other/1", b"/plaintext/2.0.0"):
            # South is as a node without support.
            assert await answer(north.port, name) == await answer(south.port, name) == refused
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            assert (await answer(north.port, b"/radmesh/pair/1")).startswith(PROPOSAL[:24])
            assert await answer(north.port, b"/radmesh/pair/2") == refused
            assert await answer(north.port, b"/radmesh/other/1") == refused
            nursery.cancel_scope.cancel()
        assert await answer(north.port, b"/radmesh/pair/1") == refused
        # And it is never listed.
        async with Stranger(north.port) as stranger:
            await stranger.stream.send_all(GREETING + b"\x03ls\n")
            assert b"pair" not in await stranger.read_exactly(len(GREETING) + 8)


async def test_a_caller_learns_that_nothing_is_shown(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        await south.call(north, OTHER_CODE)
        assert error_of(south).code is ExitCode.UNREACHABLE
        assert "no code is shown" in error_of(south).message
        assert south.entries("pairing-failed") == []


async def test_the_window_ends_after_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing, "LOOK_SECONDS", 0.05)
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            code = north.code
            async with Stranger(north.port) as inside:
                assert await inside.ask()
                north.clock.move(600)
                assert not north.pairings.is_open()
                # Who was inside has lost its chance, even before the node looks at its clock.
                await inside.stream.send_all(b"\x01\x00\x00\x00\x01x")
                assert await inside.read_all() == b""
            await south.call(north, code)
            assert "no code is shown" in error_of(south).message
            assert "in time" in str(await north.has_ended())
        [closed] = north.entries("pairing-closed")
        assert closed["details"] == {"why": "time", "tries": 0}


async def test_the_twenty_first_try_finds_nothing_open(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            code = north.code
            for number in range(20):
                async with Stranger(north.port, f"127.0.1.{1 + number // 3}") as stranger:
                    north.clock.move(10)
                    assert await stranger.guess(wrong(code))
                    await until(lambda number=number: north.tries == number + 1)
                    assert await stranger.read_all() == b""
            async with Stranger(north.port, "127.0.2.1") as stranger:
                assert not await stranger.guess(code)
            await south.call(north, code)
            assert "no code is shown" in error_of(south).message
            ended = await north.has_ended()
        assert isinstance(ended, NodeError)
        assert "20 times" in ended.message
        assert len(north.entries("pairing-failed")) == 20
        assert north.entries("pairing-closed")[0]["details"] == {"why": "tries", "tries": 20}
        assert north.entries("trust-added") == []


async def test_the_fourth_try_of_one_address_is_not_heard_and_another_pairs(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            guesses = []
            for _ in range(5):
                north.clock.move(70)
                async with Stranger(north.port) as stranger:
                    guesses.append(await stranger.guess(wrong(north.code)))
                    await stranger.read_all()
            assert guesses == [True, True, True, False, False]
            nursery.start_soon(south.call, north, north.code)
            await north.has_met()
            await south.has_met()
            await north.accept()
            await south.accept()
        assert north.tries == 3
        assert south.trusts(north)


BROKEN = [
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff" * 1000,
    frame_header(FrameKind.MESSAGE, limits.PAIRING_FRAME_BYTES + 1),
    frame_header(FrameKind.DATA, 0),
    frame_header(FrameKind.MESSAGE, 4) + b"\x81\xa1\x61\x01",
]


async def test_broken_bytes_cost_no_try(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General") as (north,):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            for sent in BROKEN:
                north.clock.move(61)
                async with Stranger(north.port) as stranger:
                    assert await stranger.ask()
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stranger.stream.send_all(sent)
                        await stranger.stream.send_eof()
                    assert await stranger.read_all() == b""
            assert north.pairings.is_open()
            assert north.tries == 0
            nursery.cancel_scope.cancel()
        assert north.entries("pairing-failed") == []
        assert north.entries("pairing-closed")[0]["details"] == {"why": "stopped", "tries": 0}


async def _flood(port: int, host: str, code: str) -> None:
    """Come as often as the machine can: twice with a wrong code, else silent or with garbage."""
    guesses, visits = 0, 0
    while True:
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with Stranger(port, host) as stranger:
                with trio.move_on_after(4):
                    if guesses < 2:
                        guesses += await stranger.guess(wrong(code))
                    elif await stranger.ask():
                        visits += 1
                        if visits % 2:
                            await stranger.stream.send_all(b"\xff" * 900)
                    await stranger.read_all()
        await trio.sleep(0.01)


async def test_a_flood_of_strangers_does_not_keep_the_right_one_out(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            code = north.code
            async with trio.open_nursery() as flood:
                for number in range(8):
                    flood.start_soon(_flood, north.port, f"127.0.3.{number + 1}", code)
                await until(lambda: north.tries >= 10)
                nursery.start_soon(south.call, north, code)
                await until(lambda: north.stages[-1].meeting or north.ended, 60)
                flood.cancel_scope.cancel()
            await north.has_met()
            await south.has_met()
            await north.accept("see")
            await south.accept()
        assert north.trusts(south)
        assert south.trusts(north)
        assert 10 <= north.tries <= 19
        assert len(north.entries("pairing-failed")) == north.tries
        assert [peer.petname for peer in north.node.peers.store.peers] == ["South Clinic"]


async def test_a_stranger_gets_little_memory_and_little_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAIRING_STEP_SECONDS", 0.3)
    async with sites(tmp_path, "North General") as (north,):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            # One that says nothing, and one that drips: a message in time is what counts.
            for drips in (False, True):
                north.clock.move(61)
                async with Stranger(north.port) as stranger:
                    assert await stranger.ask()
                    async with trio.open_nursery() as dripping:
                        if drips:
                            dripping.start_soon(_drip, stranger)
                        with trio.fail_after(5):
                            assert await stranger.read_all() == b""
                        dripping.cancel_scope.cancel()
            # All that one may be kept waiting for is a KiB; what is more is not read.
            north.clock.move(61)
            async with Stranger(north.port) as stranger:
                assert await stranger.ask()
                most = frame_header(FrameKind.MESSAGE, limits.PAIRING_FRAME_BYTES)
                await stranger.stream.send_all(most + bytes(limits.PAIRING_FRAME_BYTES - 1))
                await trio.testing.wait_all_tasks_blocked(0.01)
                [visit] = north.stages[-1].window._visits  # type: ignore[union-attr]
                assert visit.host == "127.0.0.9"
                sent = 0
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(5):
                    while True:
                        await stranger.stream.send_all(bytes(65_536))
                        sent += 65_536
                assert sent < 64 * 1024 * 1024
            # What it costs to answer one with a share: some milliseconds at most.
            began, count = time.process_time(), 0
            for number in range(20):
                north.clock.move(1)
                async with Stranger(north.port, f"127.0.4.{number + 1}") as stranger:
                    assert await stranger.guess(wrong(north.code))
                    count += 1
                    await stranger.read_all()
                if north.tries == 19:
                    break
            assert (time.process_time() - began) / count < 0.1
            nursery.cancel_scope.cancel()


async def _drip(stranger: Stranger) -> None:
    hello = messages.encode(PairHello(nonce=bytes(16)))
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for byte in frame_header(FrameKind.MESSAGE, len(hello)) + hello:
            await stranger.stream.send_all(bytes([byte]))
            await trio.sleep(0.1)


async def test_a_silent_caller_gives_way(tmp_path: Path) -> None:
    async with sites(tmp_path, "North General", "South Clinic") as (north, south):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            await north.has_shown()
            async with (
                Stranger(north.port, "127.0.5.1") as one,
                Stranger(north.port, "127.0.5.2") as other,
            ):
                assert await one.ask()
                assert await other.ask()
                await until(lambda: len(north.stages[-1].window._visits) == 2)
                north.clock.move(GIVE_WAY_SECONDS)
                nursery.start_soon(south.call, north, north.code)
                await north.has_met()
                assert await one.read_all() == b""
                assert await other.read_all() == b""
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("to", ["the right one", "a third one"])
async def test_who_relays_a_caller_gains_nothing(tmp_path: Path, to: str) -> None:
    """To the right node it is a wire; to a third one, which shows a code too, a wrong try."""
    names = ("North General", "South Clinic", "Third Hospital")
    async with sites(tmp_path, *names) as (north, south, third):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(north.show)
            nursery.start_soon(third.show)
            await north.has_shown()
            await third.has_shown()
            wire = await relay()
            far = north if to == "the right one" else third
            nursery.start_soon(relayed, far.port, wire.listeners)
            nursery.start_soon(south.call, wire.as_site(), north.code)
            if far is north:
                assert (await south.has_met()).met.card.name == "North General"
                assert (await north.has_met()).met.card.name == "South Clinic"
            else:
                assert "did not confirm the code" in str(await south.has_ended())
                await until(lambda: third.tries == 1)
                assert north.tries == 0
            nursery.cancel_scope.cancel()
        for site in (north, south, third):
            assert site.node.peers.store.peers == ()
