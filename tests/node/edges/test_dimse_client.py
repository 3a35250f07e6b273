"""Associations that the node asks for: with dcmtk, pynetdicom, our own listener and strangers."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from certificates_made import Authority
from dimse_made import (
    LOOPBACK,
    accepts,
    data_set,
    identity_files,
    listening,
    pdu_of,
    with_dcmtk,
)
from facilities import free_port
from pdus_made import CT, EXPLICIT, IMPLICIT, message, pdu
from pydicom.dataset import Dataset
from studies_made import make_instance
from trio.testing import MockClock

from edges.dimse.commands import Command, Element, Field, encode_command, response
from edges.file_head import file_head
from node.edges import dimse_client
from node.edges.dimse_client import Callee, Message, NoAssociation, associated, echo

STUDY = "1.2.826.0.1.3680043.8.498.66"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
COMMITMENT = "1.2.840.10008.1.20.1"


def callee(port: int, *, calling: str = "CT1", called: str = "RADMESH") -> Callee:
    return Callee(ae_title=called, calling=calling, host=LOOPBACK, port=port)


def to_store(instance: Dataset) -> dict[Element, int | str]:
    return {
        Element.COMMAND_FIELD: Field.C_STORE,
        Element.AFFECTED_SOP_CLASS_UID: CT,
        Element.AFFECTED_SOP_INSTANCE_UID: instance.SOPInstanceUID,
        Element.PRIORITY: 0,
    }


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_images_to_our_own_listener(tmp_path: Path) -> None:
    instances = [make_instance(STUDY, number, rows=300) for number in (1, 2)]
    async with listening(tmp_path / "north") as north:
        await echo(callee(north.port))
        async with associated(callee(north.port), [(CT, [EXPLICIT])]) as calling:
            context = calling.context(CT)
            assert context is not None
            for one in instances:
                status = await calling.ask_once(
                    context, to_store(one), in_pieces(data_set(one), 10_000)
                )
                assert status == 0
        await north.quiet()
        assert north.arrivals.describe()["instances"] == 2
        assert north.server.counts.associations == 2


@with_dcmtk
@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("tls", [False, True])
async def test_dcmtk_gets_the_bytes_as_they_are(tmp_path: Path, tls: bool) -> None:
    authority = Authority(tmp_path)
    key, certificate = identity_files(authority.issue(LOOPBACK, name="storescp"))
    received = tmp_path / "received"
    received.mkdir()
    port = free_port()
    words = ["+tls", key, certificate, "+cf", authority.ca] if tls else []
    context = None
    if tls:
        context = ssl.create_default_context(cafile=authority.ca)
        context.load_cert_chain(certificate, key)
    scp = Callee(ae_title="PACS", calling="RADMESH", host=LOOPBACK, port=port, tls=context)
    instance = make_instance(STUDY, 1, rows=400)
    data = data_set(instance)
    command = ["storescp", "+B", *words, "-od", received, port]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.run_process, [str(one) for one in command])
        await answered(scp)
        async with associated(scp, [(CT, [EXPLICIT]), (CT, [IMPLICIT])]) as calling:
            chosen = calling.context(CT, EXPLICIT)
            assert chosen is not None
            assert await calling.ask_once(chosen, to_store(instance), in_pieces(data, 50_000)) == 0
        nursery.cancel_scope.cancel()
    [file] = received.iterdir()
    found = file.read_bytes()
    assert found[found.index(b"DICM") :].endswith(data)
    assert file_head(CT, instance.SOPInstanceUID, EXPLICIT)[:132] == found[:132]


async def answered(scp: Callee) -> None:
    with trio.fail_after(20):
        while True:
            with contextlib.suppress(NoAssociation):
                await echo(scp)
                return
            await trio.sleep(0.05)


# --- whoever is at the other side ----------------------------------------------------------


Acts = Callable[[trio.SocketStream], Awaitable[None]]


@contextlib.asynccontextmanager
async def stranger(acts: Acts) -> AsyncIterator[Callee]:
    """Somebody who listens, and then does what it likes."""
    [listener] = await trio.open_tcp_listeners(0, host=LOOPBACK)
    port = listener.socket.getsockname()[1]

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await acts(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield callee(port, called="PACS")
        nursery.cancel_scope.cancel()


def answer_to(number: int, status: int, data: bytes | None = None) -> bytes:
    asked = Command(
        {
            Element.COMMAND_FIELD: Field.C_FIND,
            Element.MESSAGE_ID: number,
            Element.DATA_SET_TYPE: 0,
        }
    )
    more = {} if data is None else {Element.DATA_SET_TYPE: 1}
    return message(1, encode_command(response(asked, status, more=more)), data)


FOUND: dict[Element, int | str] = {
    Element.COMMAND_FIELD: Field.C_FIND,
    Element.AFFECTED_SOP_CLASS_UID: FIND,
    Element.PRIORITY: 0,
}


async def find(scp: Callee) -> list[tuple[int, bytes]]:
    found = []
    async with associated(scp, [(FIND, [IMPLICIT])]) as calling:
        context = calling.context(FIND)
        assert context is not None
        async with contextlib.aclosing(
            calling.ask(context, FOUND, b"\x08\0\x05\0\0\0\0\0")
        ) as all_:
            async for one in all_:
                found.append((one.status, one.data_set))
    return found


async def test_pending_answers_come_one_by_one() -> None:
    async def acts(stream: trio.SocketStream) -> None:
        await accepts(stream)
        await pdu_of(stream)
        await pdu_of(stream)
        await stream.send_all(answer_to(1, 0xFF00, b"one") + answer_to(1, 0xFF01, b"two"))
        await stream.send_all(answer_to(1, 0))
        assert (await pdu_of(stream))[0] == 5
        await stream.send_all(pdu(6, bytes(4)))

    async with stranger(acts) as scp:
        assert await find(scp) == [(0xFF00, b"one"), (0xFF01, b"two"), (0, b"")]


async def test_who_stops_early_cancels() -> None:
    heard: list[int] = []

    async def acts(stream: trio.SocketStream) -> None:
        await accepts(stream)
        await pdu_of(stream)
        await pdu_of(stream)
        await stream.send_all(answer_to(1, 0xFF00, b"one"))
        cancel = await pdu_of(stream)
        heard.append(cancel.find(encode_command({Element.COMMAND_FIELD: Field.C_CANCEL})[12:]))
        await stream.send_all(answer_to(1, 0xFF00, b"two") + answer_to(1, 0xFE00))
        assert (await pdu_of(stream))[0] == 5
        await stream.send_all(pdu(6, bytes(4)))
        heard.append(-1)

    async with (
        stranger(acts) as scp,
        associated(scp, [(FIND, [IMPLICIT])]) as calling,
        contextlib.aclosing(calling.ask(calling.contexts[0], FOUND, b"")) as answers,
    ):
        async for one in answers:
            assert one.data_set == b"one"
            break
        await answers.aclose()
    assert heard[0] > 0
    assert heard[1] == -1


async def test_what_the_other_side_asks_is_answered() -> None:
    asked: list[bytes] = []

    async def acts(stream: trio.SocketStream) -> None:
        await accepts(stream)
        command = {
            Element.COMMAND_FIELD: Field.N_EVENT_REPORT,
            Element.MESSAGE_ID: 9,
            Element.AFFECTED_SOP_CLASS_UID: COMMITMENT,
            Element.EVENT_TYPE_ID: 1,
            Element.DATA_SET_TYPE: 1,
        }
        await stream.send_all(message(1, encode_command(command), b"report"))
        asked.append(await pdu_of(stream))
        assert (await pdu_of(stream))[0] == 5
        await stream.send_all(pdu(6, bytes(4)))

    heard: list[Message] = []

    async def on_request(one: Message) -> int:
        heard.append(one)
        return 0

    async with (
        stranger(acts) as scp,
        associated(
            scp, [(COMMITMENT, [IMPLICIT])], roles={COMMITMENT: (True, True)}, on_request=on_request
        ) as calling,
    ):
        assert calling.role(COMMITMENT) == (True, True)
        await calling.wait_for_requests(5, lambda: bool(heard))
    assert [one.data_set for one in heard] == [b"report"]
    assert encode_command({Element.STATUS: 0})[12:] in asked[0]


async def rejects(stream: trio.SocketStream) -> None:
    await pdu_of(stream)
    await stream.send_all(pdu(3, bytes((0, 1, 1, 7))))


async def is_busy(stream: trio.SocketStream) -> None:
    await pdu_of(stream)
    await stream.send_all(pdu(3, bytes((0, 2, 3, 2))))


async def goes_away(stream: trio.SocketStream) -> None:
    await pdu_of(stream)


async def talks_http(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await stream.receive_some()


async def aborts(stream: trio.SocketStream) -> None:
    await accepts(stream)
    await pdu_of(stream)
    await stream.send_all(pdu(7, bytes((0, 0, 2, 1))))
    await trio.sleep_forever()


async def answers_another(stream: trio.SocketStream) -> None:
    await accepts(stream)
    await pdu_of(stream)
    await stream.send_all(answer_to(77, 0))
    await trio.sleep_forever()


async def without_status(stream: trio.SocketStream) -> None:
    await accepts(stream)
    await pdu_of(stream)
    command = {
        Element.COMMAND_FIELD: 0x8020,
        Element.MESSAGE_ID_RESPONDED_TO: 1,
        Element.DATA_SET_TYPE: 0x101,
    }
    await stream.send_all(message(1, encode_command(command), None))
    await trio.sleep_forever()


async def never_ends(stream: trio.SocketStream) -> None:
    await accepts(stream)
    await pdu_of(stream)
    await stream.send_all(answer_to(1, 0xFF00, bytes(dimse_client.DATA_SET_BYTES + 1)))
    await trio.sleep_forever()


ODD = {
    rejects: ("it has no such AE title", True),
    is_busy: ("it has too many associations", False),
    goes_away: ("went away", False),
    talks_http: ("there is no PDU of type 72", False),
    aborts: ("aborted it", False),
    answers_another: ("answered what was not asked", False),
    without_status: ("sent an answer without a status", False),
    never_ends: ("sent an answer that is too long", False),
}


@pytest.mark.parametrize("acts", ODD, ids=lambda acts: acts.__name__)
async def test_whoever_is_odd_ends_it_with_a_sentence(acts: Acts) -> None:
    why, is_lasting = ODD[acts]
    with trio.fail_after(20):
        async with stranger(acts) as scp:
            with pytest.raises(NoAssociation, match=why) as raised:
                await find(scp)
    assert raised.value.is_lasting == is_lasting
    assert "'PACS' at 127.0.0.1 port" in raised.value.message


async def test_nobody_is_there() -> None:
    with pytest.raises(NoAssociation, match="cannot be reached"):
        await echo(callee(free_port()))


@pytest.mark.parametrize("begin", [False, True])
async def test_who_says_nothing_is_left(
    begin: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the answer to the request, and within the association."""

    async def acts(stream: trio.SocketStream) -> None:
        if begin:
            await accepts(stream)
        await trio.sleep_forever()

    ours, theirs = trio.testing.memory_stream_pair()

    async def connected(_: Callee) -> trio.abc.Stream:
        return ours

    monkeypatch.setattr(dimse_client, "_connected", connected)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acts, theirs)
        started = trio.current_time()
        with pytest.raises(NoAssociation, match="has not answered for 60 s"):
            await find(callee(1))
        assert trio.current_time() - started == pytest.approx(60, abs=1)
        nursery.cancel_scope.cancel()


async def test_who_takes_nothing_is_left(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()

    async def connected(_: Callee) -> trio.abc.Stream:
        return ours

    async def acts() -> None:
        await accepts(theirs)
        await trio.sleep_forever()

    monkeypatch.setattr(dimse_client, "_connected", connected)
    instance = make_instance(STUDY, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acts)
        with pytest.raises(NoAssociation, match="does not take what is sent"):
            async with associated(callee(1), [(CT, [EXPLICIT])]) as calling:
                await calling.ask_once(calling.contexts[0], to_store(instance), data_set(instance))
        nursery.cancel_scope.cancel()


async def test_a_host_that_is_no_name_is_told_in_a_sentence() -> None:
    scp = Callee(ae_title="PACS", calling="CT1", host="ct1..lan", port=104)
    with pytest.raises(NoAssociation, match="its host is no name of a host"):
        await echo(scp)
