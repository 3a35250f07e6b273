"""What we ask archives to commit to: who may report, when, and what becomes of it."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from clocks_made import MadeClock
from commitment_made import callee, peer, reports_as
from dimse_made import CALLERS, LOOPBACK, Listening, accepts, listening, pdu_of
from facilities import free_port
from facility_in_memory import entries
from network_nodes import until
from pdus_made import CT, message
from pydicom.uid import UID

from edges.dimse import commitment
from edges.dimse.commands import Element, Field, encode_command
from edges.dimse.commitment import Reference, Report, Request
from edges.dimse.data_sets import encode_data_set, uid
from edges.dimse.negotiation import EXPLICIT
from node.app import Node
from node.edges import commitments as commitments_module
from node.edges import dimse_client
from node.edges.commitment_transactions import (
    ASKED,
    KEPT_MS,
    NOT_REPORTED,
    REPORTED,
    Outcome,
)
from node.edges.commitments import Commitments, NotAsked
from node.edges.dimse_client import associated
from node.errors import ExitCode, NodeError
from node.home import Home

# pynetdicom leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STUDY = "1.2.826.0.1.3680043.8.498.67"
ONE, TWO = Reference(CT, "1.2.3.1"), Reference(CT, "1.2.3.2")
WANTED = (ONE, TWO)
PACS_HERE = {**CALLERS, "PACS": {"addresses": [LOOPBACK]}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments_module, "SAME_ASSOCIATION_SECONDS", 0.3)
    monkeypatch.setattr(commitments_module, "AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(dimse_client, "RELEASE_SECONDS", 0.3)


def pacs(port: int) -> Any:
    return callee(port, calling="RADMESH", called="PACS")


def learns(commitments: Commitments) -> list[Outcome]:
    """The outcomes that are told."""
    found: list[Outcome] = []

    async def learn(outcome: Outcome) -> None:
        found.append(outcome)

    commitments.on_outcome = learn
    return found


async def ask(north: Listening, port: int) -> str:
    return await north.node.commitments.ask(pacs(port), STUDY, ("PAT1",), WANTED)


def states(node: Node) -> list[str]:
    return [one.state for one in node.commitments.kept.open()]


async def test_a_report_on_a_new_association_and_the_same_once_more(tmp_path: Path) -> None:
    async with listening(tmp_path / "north", callers=PACS_HERE) as north:
        learned = learns(north.node.commitments)
        with peer() as archive:
            transaction = await ask(north, archive.port)
        assert archive.asked == [(transaction, [ONE.sop_instance, TWO.sop_instance])]
        assert UID(transaction).is_valid
        assert (states(north.node), learned) == ([ASKED], [])
        assert await reports_as("PACS", north.port, transaction, [ONE], [TWO]) == 0
        expected = Outcome(transaction, "PACS", STUDY, (ONE,), {TWO: 0x0112})
        await until(lambda: learned)
        assert learned == [expected]
        # Once more, and with another word: the first one counts, and nobody is told again.
        assert await reports_as("PACS", north.port, transaction, [ONE, TWO]) == 0
        await until(lambda: north.node.commitments.kept.open()[0].told)
        [row] = north.node.database.query("SELECT request, report FROM commitments")
        assert tuple(row) == (b"", b"")
        assert (learned, states(north.node)) == ([expected], [REPORTED])
        [asked] = entries(north.node, "commitment-asked")
        [heard] = entries(north.node, "commitment-heard")
        assert asked["details"] == {
            "system": "PACS", "transaction": transaction, "instances": 2,
        }  # fmt: skip
        assert heard["details"] == {
            "system": "PACS", "transaction": transaction, "stored": 1, "failed": 1,
        }  # fmt: skip
        assert len(asked["subjects"]) == 2


async def test_who_was_not_asked_settles_nothing(tmp_path: Path) -> None:
    async with listening(tmp_path / "north", callers=PACS_HERE) as north:
        learned = learns(north.node.commitments)
        with peer() as archive:
            transaction = await ask(north, archive.port)
        # Another system that may call; nobody's transaction; the same answer for both.
        assert await reports_as("CT1", north.port, transaction, [ONE, TWO]) == 0x0115
        assert await reports_as("PACS", north.port, "2.25.1", [ONE, TWO]) == 0x0115
        # One that may not call at all.
        assert await reports_as("NOBODY", north.port, transaction, [ONE, TWO]) == -1
        assert (states(north.node), learned) == ([ASKED], [])
        assert entries(north.node, "commitment-heard") == []
        assert await reports_as("PACS", north.port, transaction, [ONE, TWO]) == 0
        await until(lambda: learned)


async def test_only_what_the_report_names_is_stored(tmp_path: Path) -> None:
    async with listening(tmp_path / "north", callers=PACS_HERE) as north:
        learned = learns(north.node.commitments)
        with peer() as archive:
            transaction = await ask(north, archive.port)
        other = Reference("1.2.840.10008.5.1.4.1.1.4", TWO.sop_instance)
        nobody = Reference(CT, "1.2.3.99")
        assert await reports_as("PACS", north.port, transaction, [ONE, other, nobody]) == 0
        await until(lambda: learned)
        assert (learned[0].stored, dict(learned[0].failed)) == ((ONE,), {TWO: 0x0110})


async def test_what_is_no_report_is_answered_so(tmp_path: Path) -> None:
    async with listening(tmp_path / "north", callers=PACS_HERE) as north:
        with peer() as archive:
            transaction = await ask(north, archive.port)
        report = Report(transaction, WANTED)
        data = commitment.encode_report(report, EXPLICIT)
        scp = callee(north.port, calling="PACS")
        changes: list[tuple[dict[Element, int | str], bytes, int]] = [
            ({Element.EVENT_TYPE_ID: 3}, data, 0x0113),
            ({Element.AFFECTED_SOP_INSTANCE_UID: "1.2.3"}, data, 0x0112),
            ({}, b"", 0x0115),
            ({}, b"what cannot be read", 0x0115),
            ({}, encode_data_set({0x00081195: uid("no UID")}, EXPLICIT), 0x0115),
            ({}, data + bytes(8 * 1024 * 1024), 0x0115),
        ]
        async with associated(
            scp, [(commitment.MODEL, [EXPLICIT])], roles={commitment.MODEL: (False, True)}
        ) as calling:
            for change, sent, status in changes:
                values = commitment.event(report) | change
                assert await calling.ask_once(calling.contexts[0], values, sent) == status
        assert states(north.node) == [ASKED]


# --- an archive that acts on the wire ------------------------------------------------------


@contextlib.asynccontextmanager
async def archive_that(
    acts: Callable[[Any, Request], Awaitable[None]], *, status: int = 0
) -> AsyncIterator[int]:
    """An archive that takes a request, and then does what it likes; its port."""
    [listener] = await trio.open_tcp_listeners(0, host=LOOPBACK)

    async def serve(stream: trio.SocketStream) -> None:
        await accepts(stream)
        await pdu_of(stream)
        data = (await pdu_of(stream))[12:]
        answer: dict[Element, int | str] = {
            Element.COMMAND_FIELD: Field.N_ACTION | 0x8000,
            Element.MESSAGE_ID_RESPONDED_TO: 1,
            Element.DATA_SET_TYPE: 0x0101,
            Element.STATUS: status,
        }
        await stream.send_all(message(1, encode_command(answer), None))
        await acts(stream, commitment.decode_request(data, EXPLICIT))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def reported(request: Request, *stored: Reference) -> bytes:
    """The PDUs of a report."""
    report = Report(request.transaction, stored)
    values: dict[Element, int | str] = {
        **commitment.event(report), Element.MESSAGE_ID: 7, Element.DATA_SET_TYPE: 1,
    }  # fmt: skip
    return message(1, encode_command(values), commitment.encode_report(report, EXPLICIT))


async def test_a_report_on_the_same_association(tmp_path: Path) -> None:
    answered: list[bytes] = []

    async def acts(stream: trio.SocketStream, request: Request) -> None:
        await stream.send_all(reported(request, *WANTED))
        answered.append(await pdu_of(stream))
        assert (await pdu_of(stream))[0] == 5
        await stream.send_all(bytes((6, 0, 0, 0, 0, 4, 0, 0, 0, 0)))

    async with listening(tmp_path / "north") as north, archive_that(acts) as port:
        learned = learns(north.node.commitments)
        transaction = await ask(north, port)
        assert encode_command({Element.STATUS: 0})[12:] in answered[0]
        await until(lambda: learned)
        assert learned == [Outcome(transaction, "PACS", STUDY, WANTED)]


@pytest.mark.parametrize("how", ["half-closed", "reset", "silent", "released"])
async def test_however_the_association_ends_the_report_counts(tmp_path: Path, how: str) -> None:
    async def acts(stream: trio.SocketStream, request: Request) -> None:
        if how == "half-closed":
            await stream.send_eof()
        elif how == "reset":
            option = b"\1\0\0\0\0\0\0\0"
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, option)
            await stream.aclose()
        elif how == "released":
            await stream.send_all(bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
        await trio.sleep_forever()

    async with (
        listening(tmp_path / "north", callers=PACS_HERE) as north,
        archive_that(acts) as port,
    ):
        learned = learns(north.node.commitments)
        with trio.fail_after(15):
            transaction = await ask(north, port)
        assert states(north.node) == [ASKED]
        assert await reports_as("PACS", north.port, transaction, WANTED) == 0
        await until(lambda: learned)


async def test_a_report_from_elsewhere_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitments_module, "SAME_ASSOCIATION_SECONDS", 60.0)
    async with listening(tmp_path / "north", callers=PACS_HERE) as north:
        learned = learns(north.node.commitments)

        async def acts(stream: trio.SocketStream, request: Request) -> None:
            assert await reports_as("PACS", north.port, request.transaction, WANTED) == 0
            await trio.sleep_forever()

        async with archive_that(acts) as port:
            with trio.fail_after(30):
                await ask(north, port)
        await until(lambda: learned)


# --- what is not taken ---------------------------------------------------------------------


async def _does_nothing(stream: trio.SocketStream, request: Request) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(("status", "is_lasting"), [(0x0110, False), (0x0211, True)])
async def test_an_archive_that_refuses(tmp_path: Path, status: int, is_lasting: bool) -> None:
    async with (
        listening(tmp_path / "north") as north,
        archive_that(_does_nothing, status=status) as port,
    ):
        with pytest.raises(NotAsked, match=f"{status:04X}H") as caught:
            await ask(north, port)
        assert caught.value.is_lasting is is_lasting
        assert states(north.node) == []
        [asked, failed] = entries(north.node, "commitment-asked")
        assert (failed["outcome"], failed["details"]["of"]) == ("failed", asked["index"])


async def test_an_archive_that_is_not_there_or_does_no_commitment(tmp_path: Path) -> None:
    async with listening(tmp_path / "north", callers=PACS_HERE) as north:
        with pytest.raises(NotAsked, match="cannot be reached") as caught:
            await ask(north, free_port())
        assert not caught.value.is_lasting
        # So the whole archive rests, and not each study is tried, with entries.
        assert caught.value.code is ExitCode.UNREACHABLE

        from pynetdicom import AE

        ae = AE("PACS")
        ae.add_supported_context("1.2.840.10008.1.1")
        port = free_port()
        server = ae.start_server((LOOPBACK, port), block=False)
        try:
            with pytest.raises(NotAsked, match="no storage commitment") as caught:
                await ask(north, port)
        finally:
            server.shutdown()
        assert caught.value.is_lasting
        assert states(north.node) == []


# --- what is kept --------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North", clock=MadeClock())


@pytest.fixture
def node(home: Home) -> Iterator[Node]:
    with Node.open(home) as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(commitments: Commitments) -> AsyncIterator[list[Outcome]]:
    learned = learns(commitments)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commitments.run)
        yield learned
        nursery.cancel_scope.cancel()


async def _asked(node: Node) -> str:
    with peer() as archive:
        return await node.commitments.ask(pacs(archive.port), STUDY, (), WANTED)


def _reports(node: Node, transaction: str, *stored: Reference) -> bool:
    return node.commitments.kept.take("PACS", Report(transaction, stored))


async def test_what_is_not_reported_is_said_and_a_late_report_counts(node: Node) -> None:
    clock = node.clock
    assert isinstance(clock, MadeClock)
    transaction = await _asked(node)
    async with running(node.commitments) as learned:
        clock.move(24 * 3600 - 1)
        node.commitments._wake()
        await trio.sleep(0.3)
        assert (learned, states(node)) == ([], [ASKED])
        clock.move(1)
        await until(lambda: learned)
        assert learned == [Outcome(transaction, "PACS", STUDY, is_reported=False)]
        [entry] = entries(node, "commitment-heard")
        assert (entry["outcome"], entry["details"]["why"]) == ("failed", NOT_REPORTED)
        assert _reports(node, transaction, *WANTED)
        node.commitments._wake()
        await until(lambda: len(learned) == 2)
        assert learned[1] == Outcome(transaction, "PACS", STUDY, WANTED)
        await until(lambda: node.commitments.kept.open()[0].told)
        clock.move(KEPT_MS / 1000)
        await until(lambda: not node.commitments.kept.open())
        assert not _reports(node, transaction, *WANTED)


async def test_who_wants_to_know_is_told_until_it_is_noted(home: Home) -> None:
    with Node.open(home) as node:
        transaction = await _asked(node)
        other = await _asked(node)
        tries: list[str] = []

        async def full(outcome: Outcome) -> None:
            tries.append(outcome.transaction)
            raise NodeError("the disk is full")

        node.commitments.on_outcome = full
        assert _reports(node, transaction, ONE)
        assert _reports(node, other, ONE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.commitments.run)
            await until(lambda: tries.count(transaction) >= 2)
            nursery.cancel_scope.cancel()
        # One that cannot be noted does not hold up the next one.
        assert other in tries
    with Node.open(home) as node:
        async with running(node.commitments) as learned:
            await until(lambda: len(learned) == 2)
            assert {one.transaction for one in learned} == {transaction, other}
            await until(lambda: all(one.told for one in node.commitments.kept.open()))
    with Node.open(home) as node:
        async with running(node.commitments) as learned:
            await trio.sleep(0.3)
            assert learned == []


async def test_what_was_being_asked_at_a_kill_is_not_waited_for(home: Home) -> None:
    with Node.open(home) as node:
        request = Request("2.25.77", WANTED)
        node.commitments.kept.put_down("PACS", STUDY, (), request)
    with Node.open(home) as node:
        async with running(node.commitments) as learned:
            await until(lambda: learned)
            assert learned == [Outcome("2.25.77", "PACS", STUDY, is_reported=False)]
        # It was asked after all.
        assert _reports(node, "2.25.77", *WANTED)


async def test_it_goes_with_the_openings_of_its_study(node: Node) -> None:
    await _asked(node)
    node.forget(["1.2.3"])
    assert states(node) == [ASKED]
    node.forget([STUDY])
    assert states(node) == []
