"""One association and what it brings, by a caller that says what it likes."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from arrivals_made import pieces
from dimse_made import Caller, Listening, calling, data_set, listening, stored
from network_nodes import until
from pdus_made import (
    ABORT,
    CT,
    DATA,
    EXPLICIT,
    RELEASE_RQ,
    VERIFICATION,
    command,
    context,
    echo,
    item,
    message,
    p_data,
    pdu,
    pdv,
    request,
    role,
    store,
    user,
    usual_request,
    window,
)
from pydicom.dataset import Dataset
from studies_made import make_instance
from trio.testing import wait_all_tasks_blocked

from node.edges import dimse_server, dimse_session, dimse_wire
from node.images import arrivals as arrivals_module

STUDY = "1.2.826.0.1.3680043.8.498.6"
BROKEN = (7, bytes((0, 0, 2, 6)))


def instance(number: int = 1, rows: int = 16, seed: int = 0) -> Dataset:
    return make_instance(STUDY, number, rows=rows, seed=seed)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_echo_store_and_release(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.associate()
        await ct.say(message(3, echo(1), None))
        assert await ct.answer() == (1, 0)
        await ct.say(stored(2, instance(1)) + stored(3, instance(2), size=999))
        assert {await ct.answer(), await ct.answer()} == {(2, 0), (3, 0)}
        assert north.server.associations == 1
        await ct.release()
        await ct.stream.aclose()
        await north.quiet()
        assert north.arrivals.describe()["instances"] == 2
        assert north.server.counts.associations == 1


async def test_byte_for_byte(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        for byte in usual_request() + message(3, echo(1), None) + stored(2, instance(rows=4)):
            await ct.say(bytes((byte,)))
        assert (await ct.hear())[0] == 2
        assert [await ct.answer(), await ct.answer()] == [(1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("pdus", "status"),
    [
        # C-FIND in a context of images; with a data set, which is read and thrown away.
        (message(1, command({0x0100: 0x20, 0x0110: 9, 0x0800: DATA, 2: CT}), b"abc"), 0x0211),
        (message(1, command({0x0100: 0x130, 0x0110: 9, 0x0800: 0x0101}), None), 0x0211),
        (message(1, command({0x0100: 0x7777, 0x0110: 9, 0x0800: 0x0101}), None), 0x0211),
        # C-ECHO and C-STORE in each other's context.
        (message(1, echo(9), None), 0x0211),
        (message(3, store(9, "1.2.3"), b"abc"), 0x0211),
        # C-STORE without an image.
        (message(1, command({0x0100: 1, 0x0110: 9, 0x0800: 0x0101, 2: CT}), None), 0xC000),
    ],
)
async def test_what_is_not_done_is_said(tmp_path: Path, pdus: bytes, status: int) -> None:
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.associate()
        await ct.say(pdus)
        assert await ct.answer() == (9, status)
        await ct.say(message(3, echo(10), None))
        assert await ct.answer() == (10, 0)


async def test_answers_and_cancels_for_nothing_are_read_over(tmp_path: Path) -> None:
    cancel = command({0x0100: 0x0FFF, 0x0120: 5, 0x0800: 0x0101})
    answer = command({0x0100: 0x8001, 0x0120: 5, 0x0800: 0x0101, 0x0900: 0})
    with_data = command({0x0100: 0x8020, 0x0120: 5, 0x0800: DATA, 0x0900: 0xFF00})
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.associate()
        await ct.say(message(1, cancel, None) + message(1, answer, None))
        await ct.say(message(1, with_data, b"abc") + message(3, echo(6), None))
        assert await ct.answer() == (6, 0)


@pytest.mark.parametrize(
    "data",
    [
        p_data(pdv(5, 3, echo())),
        p_data(pdv(1, 3, store(1, "1.2")), pdv(1, 0, b"abc"), pdv(3, 3, echo())),
        p_data(pdv(1, 3, store(1, "1.2")), pdv(1, 0, b"abc")) + RELEASE_RQ,
    ],
)
async def test_broken_messages_end_it_and_leave_nothing(tmp_path: Path, data: bytes) -> None:
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.associate()
        await ct.say(data)
        assert await ct.hear() == BROKEN
        await ct.stream.aclose()
        await north.quiet()
        assert not north.arrivals.describe()["instances"]


async def test_a_request_that_is_none_is_aborted(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", RELEASE_RQ,
                     b"\1\0\0\xff\xff\xff", request(item(0x10, b"\xff")),
                     message(3, echo(), None)):  # fmt: skip
            async with calling(north.port) as anybody:
                await anybody.say(data)
                assert (await anybody.hear())[0] == 7
        assert north.server.counts.associations == 0


async def test_a_pdu_that_claims_much_is_not_read(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north:
        for head, associates in ((b"\1\0\xff\xff\xff\xff", False), (b"\4\0\0\2\0\1", True)):
            async with calling(north.port) as anybody:
                if associates:
                    await anybody.associate()
                await anybody.say(head)
                assert (await anybody.hear())[0] == 7


async def test_another_protocol_is_rejected(tmp_path: Path) -> None:
    other = usual_request().replace(b"10008.3.1.1.1", b"10008.3.1.1.9")
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.say(other)
        assert await ct.hear() == (3, bytes((0, 1, 1, 2)))


async def test_odd_proposals_are_answered(tmp_path: Path) -> None:
    odd = request(
        context(1, "x.y", EXPLICIT), context(3, CT, "no uid"), context(5, CT), context(7, CT, "1"),
        user(role(CT, 0, 1), role(VERIFICATION, 0, 0)),
    )  # fmt: skip
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.say(odd)
        assert (await ct.hear())[0] == 2
        await ct.release()


# --- images ----------------------------------------------------------------------------


async def test_eight_operations_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the window has are under way; the next image is read when one is answered."""
    at_once, most, gate = 0, 0, trio.Event()
    real = arrivals_module.Association.take

    async def take(self: Any, chunks: Any, **more: Any) -> Any:
        nonlocal at_once, most
        whole = b"".join([bytes(chunk) async for chunk in chunks])
        at_once += 1
        most = max(most, at_once)
        await gate.wait()
        try:
            return await real(self, pieces(whole), **more)
        finally:
            at_once -= 1

    monkeypatch.setattr(arrivals_module.Association, "take", take)
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        accepted = await ct.associate(window(8))
        assert window(8) in accepted
        await ct.say(b"".join(stored(number, instance(number)) for number in range(1, 31)))
        await until(lambda: most == 8)
        await wait_all_tasks_blocked(0.05)
        assert most == 8
        gate.set()
        assert {await ct.answer() for _ in range(30)} == {(one, 0) for one in range(1, 31)}
        await ct.release()
        assert most == 8
        assert north.arrivals.describe()["instances"] == 30


async def test_all_is_answered_before_a_release(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.associate(window(0))
        sent = b"".join(stored(number, instance(number)) for number in range(1, 6))
        await ct.say(sent + RELEASE_RQ)
        assert {await ct.answer() for _ in range(5)} == {(number, 0) for number in range(1, 6)}
        assert await ct.hear() == (6, bytes(4))


@pytest.mark.parametrize("rows", [16, 300, 900])
async def test_an_image_of_any_size(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece, in several, and in a file of its own while it comes."""
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.associate()
        await ct.say(stored(1, instance(rows=rows)) + stored(2, instance(rows=rows)))
        assert {(await ct.answer())[1] for _ in range(2)} == {0}
        [path] = north.spooled
        assert data_set(instance(rows=rows)) in path.read_bytes()


BREAKS: dict[str, Callable[[Caller], Any]] = {
    "abort": lambda ct: ct.say(ABORT),
    "close": lambda ct: ct.stream.aclose(),
    "reset": lambda ct: ct.reset(),
    "garbage": lambda ct: ct.say(pdu(9, b"")),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BREAKS)
async def test_what_breaks_within_an_image_leaves_nothing(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals_module, "SMALL_BYTES", 100_000)
    whole = stored(1, instance(rows=500), size=100_000)
    async with listening(tmp_path / "north") as north:
        await north.arrivals.wait_recovered()
        await wait_all_tasks_blocked(0.05)
        gc.collect()
        before, tasks = descriptors(), _tasks()
        for number in range(40):
            async with calling(north.port) as ct:
                await ct.associate()
                # From within the command to the last byte but one.
                await ct.say(whole[: 1 + (len(whole) - 2) * number // 39])
                if number > 30:
                    # Its file is open.
                    await until(lambda: north.spooled)
                await BREAKS[how](ct)
        await north.quiet()
        assert north.spooled == []
        gc.collect()
        await wait_all_tasks_blocked(0.05)
        assert descriptors() == before
        assert _tasks() == tasks
        assert north.server.associations == 0
        assert north.server._storing.borrowed_tokens == 0
        assert not north.arrivals.describe()["instances"]
        assert north.arrivals._takes == 0
        # It goes on.
        async with calling(north.port) as ct:
            await ct.associate()
            await ct.say(whole)
            assert await ct.answer() == (1, 0)


def _tasks() -> int:
    return int(trio.lowlevel.current_statistics().tasks_living)


async def test_who_half_closes_after_an_image_is_gone(tmp_path: Path) -> None:
    """It said all that it says: it is answered, or what came of it is known when it comes again."""
    async with listening(tmp_path / "north") as north:
        async with calling(north.port) as ct:
            await ct.associate()
            await ct.say(stored(1, instance()))
            await ct.stream.send_eof()
            while (await ct.hear())[0]:
                pass
        await north.quiet()
        async with calling(north.port) as ct:
            await ct.associate()
            await ct.say(stored(2, instance()))
            assert await ct.answer() == (2, 0)
        assert north.arrivals.describe()["instances"] == 1


async def test_what_was_answered_is_here_when_the_other_side_goes_at_once(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north:
        for number in range(1, 21):
            async with calling(north.port) as ct:
                await ct.associate()
                await ct.say(stored(1, instance(number)))
                assert await ct.answer() == (1, 0)
                await ct.reset()
        assert north.arrivals.describe()["instances"] == 20


@pytest.mark.slow
async def test_who_goes_before_the_answer_may_send_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is here or not, whole either way, and nothing twice."""
    monkeypatch.setattr(arrivals_module, "SMALL_BYTES", 10_000)
    monkeypatch.setattr(dimse_session, "HELD_BYTES", 10_000)
    images = [instance(number, rows=40 if number % 2 else 100) for number in range(1, 41)]
    async with listening(tmp_path / "north") as north:
        for number, image in enumerate(images):
            async with calling(north.port) as ct:
                await ct.associate()
                await ct.say(stored(1, image))
                # At once, and while it is being written.
                await trio.sleep(0.001 * (number % 8))
                await ct.reset()
        await north.quiet()
        async with calling(north.port) as ct:
            await ct.associate(window(8))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ct.say, b"".join(stored(1, image) for image in images))
                assert [await ct.answer() for _ in images] == [(1, 0)] * 40
            await ct.release()
        await north.quiet()
        assert north.arrivals.describe()["instances"] == 40
        assert not list(north.node.home.arrivals_path.glob(".*"))
        assert north.quarantined == []


async def test_a_fault_of_ours_ends_one_association_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("patient NAME")

    async with listening(tmp_path / "north") as north:
        async with calling(north.port) as other:
            await other.associate()
            with monkeypatch.context() as patch:
                patch.setattr(arrivals_module.Association, "take", broken)
                async with calling(north.port) as ct:
                    await ct.associate()
                    await ct.say(stored(1, instance()))
                    assert await ct.hear() == (0, b"")
            await other.say(stored(1, instance()))
            assert await other.answer() == (1, 0)
        assert "an association ended by a fault" in caplog.text
        assert "NAME" not in caplog.text


# --- who waits, and for how long -------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short times."""
    monkeypatch.setattr(dimse_session, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(dimse_server, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(dimse_session, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(dimse_wire, "STALL_SECONDS", 0.3)


async def _drips(ct: Caller, byte: bytes) -> float:
    """Say a byte again and again until the other side closes; how many seconds that took."""
    begun = trio.current_time()
    with trio.move_on_after(3):
        while True:
            try:
                await ct.say(byte)
            except trio.BrokenResourceError:
                break
            await trio.sleep(0.02)
    return trio.current_time() - begun


async def test_who_asks_for_nothing_is_closed(tmp_path: Path, short: None) -> None:
    async with listening(tmp_path / "north") as north, calling(north.port) as stranger:
        assert await stranger.hear() == (0, b"")


async def test_who_asks_slowly_is_closed_as_well(tmp_path: Path, short: None) -> None:
    """The time to ask runs from the beginning: a byte now and then does not lengthen it."""
    async with listening(tmp_path / "north") as north, calling(north.port) as stranger:
        await stranger.say(usual_request()[:6])
        assert await _drips(stranger, b"\0") < 1


@pytest.mark.slow
async def test_who_does_not_close_is_closed(tmp_path: Path, short: None) -> None:
    async with listening(tmp_path / "north") as north:
        for last in (RELEASE_RQ, pdu(9, b"")):
            async with calling(north.port) as ct:
                await ct.associate()
                await ct.say(last)
                assert (await ct.hear())[0] in (6, 7)
                assert await ct.hear() == (0, b"")


async def test_who_goes_on_after_the_end_is_closed(tmp_path: Path, short: None) -> None:
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.associate()
        await ct.release()
        assert await _drips(ct, b"\0") < 1


@pytest.mark.slow
async def test_who_stalls_within_a_message_is_aborted(tmp_path: Path, short: None) -> None:
    async with listening(tmp_path / "north") as north:
        for part in (stored(1, instance())[:-1], message(3, echo(), None)[:3]):
            async with calling(north.port) as ct:
                await ct.associate()
                await ct.say(part)
                assert await ct.hear() == (7, bytes(4))
        assert not north.arrivals.describe()["instances"]


@pytest.mark.slow
async def test_who_is_idle_between_messages_is_aborted_later(tmp_path: Path, short: None) -> None:
    async with listening(tmp_path / "north", entries={"idle_seconds": 1}) as north:
        async with calling(north.port) as ct:
            await ct.associate()
            begun = trio.current_time()
            assert await ct.hear() == (7, bytes(4))
            assert trio.current_time() - begun > 0.9


@pytest.mark.slow
async def test_who_waits_for_our_answer_is_not_idle(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = arrivals_module.Association.take

    async def slow(self: Any, chunks: Any, **more: Any) -> Any:
        found = await real(self, chunks, **more)
        await trio.sleep(1.2)
        return found

    monkeypatch.setattr(arrivals_module.Association, "take", slow)
    async with listening(tmp_path / "north", entries={"idle_seconds": 1}) as north:
        async with calling(north.port) as ct:
            await ct.associate()
            await ct.say(stored(1, instance()))
            assert await ct.answer() == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["echo", "images"])
async def test_who_never_reads_our_answers_is_let_go(
    tmp_path: Path, short: None, what: str
) -> None:
    one = message(3, echo(), None) * 200
    if what == "images":
        # They are refused, so that the answers are soon many.
        one = message(1, store(1, "1.2.3"), b"abc") * 200
    async with listening(tmp_path / "north") as north:
        listener = north.server._listeners[0][0].socket
        listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4096)
        async with calling(north.port, buffer_bytes=2048) as ct:
            await ct.say(usual_request(window(8)))
            # A bound for a machine that is busy: it is let go within seconds.
            with trio.fail_after(60):
                while north.server._guests or not north.server.counts.associations:
                    with trio.move_on_after(0.2):
                        try:
                            await ct.say(one)
                        except trio.BrokenResourceError:
                            break
            await north.quiet(seconds=2)


# --- memory and turns ----------------------------------------------------------------------------


async def _peak(north: Listening, data: bytes, times: int) -> int:
    """Bytes held at most while this comes again and again within an image."""
    async with calling(north.port) as ct:
        await ct.associate()
        await ct.say(p_data(pdv(1, 3, store(1, "1.2.3"))))
        tracemalloc.start()
        try:
            for _ in range(times):
                await ct.say(data)
            # What was said has been taken when this is answered by an end.
            await ct.say(pdu(9, b""))
            assert (await ct.hear())[0] == 7
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("fragment", [b"", b"x"])
async def test_small_fragments_cost_no_memory(tmp_path: Path, fragment: bytes) -> None:
    one = pdv(1, 0, fragment)
    data = p_data(one * (131_000 // len(one)))
    async with listening(tmp_path / "north") as north:
        assert await _peak(north, data, 3) < 2 << 20


async def test_others_have_their_turns_while_thousands_of_fragments_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, at = 0, []
    real = dimse_session.Session._take

    async def take(self: Any, *arguments: Any) -> None:
        at.append(turns)
        await real(self, *arguments)

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    monkeypatch.setattr(dimse_session.Session, "_take", take)
    async with listening(tmp_path / "north") as north, calling(north.port) as ct:
        await ct.associate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            flood = p_data(pdv(1, 3, store(1, "1.2.3")), *[pdv(1, 0, b"")] * 2000)
            await ct.say(flood + pdu(9, b""))
            assert (await ct.hear())[0] == 7
            nursery.cancel_scope.cancel()
    assert len(at) == 2000
    assert at[-1] - at[0] > 1000
