"""C-MOVE and C-GET of a node's own studies: dcmtk, pynetdicom, and strangers."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pynetdicom
import pytest
import trio
from certificates_made import Authority
from dimse_made import (
    LOOPBACK,
    Listening,
    calling,
    data_set,
    identity_files,
    listening,
    take_in,
    with_dcmtk,
)
from facilities import free_port
from pdus_made import (
    CT,
    EXPLICIT,
    IMPLICIT,
    command,
    context,
    elements,
    message,
    request,
    role,
    user,
)
from places import ROOT
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pynetdicom import AE, AllStoragePresentationContexts, evt
from studies_made import make_instance

from edges.dimse.commands import Element
from edges.dimse.data_sets import Value, decode_data_set, encode_data_set
from edges.dimse.limits import CONTEXTS
from node.edges import dimse_retrieve, dimse_wire, sub_operations
from node.edges.archive_settings import read_archives
from node.edges.sub_operations import Tally
from node.errors import ExitCode, NodeError
from node.images.export import read_instance

# pynetdicom leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STUDY = "1.2.826.0.1.3680043.8.498.21"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
FAILED_LIST = 0x00080058


def instances(count: int, **more: Any) -> list[Dataset]:
    return [make_instance(STUDY, number, rows=8, **more) for number in range(1, count + 1)]


def of_class(number: int, sop_class: str) -> Dataset:
    made = make_instance(STUDY, number, rows=4)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = sop_class
    return made


@contextlib.asynccontextmanager
async def serving(path: Path, port: int = 1, **caller: Any) -> AsyncIterator[Listening]:
    """A node with a workstation that takes images at a port."""
    ws1 = {"addresses": [LOOPBACK], "query": True, "receives_at": f"{LOOPBACK}:{port}", **caller}
    async with listening(path, callers={"WS1": ws1}) as north:
        yield north


def entries(north: Listening, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, north.node.audit.entries())
    return [one for one in found if one["type"] == kind]


# --- who asks, word by word ----------------------------------------------------------------


class Asking:
    """A caller of a C-MOVE or C-GET."""

    def __init__(self, caller: Any, sop_class: str) -> None:
        self.caller = caller
        self.sop_class = sop_class

    async def associate(self, *stores: tuple[int, str, str]) -> None:
        """Propose context 1 for the retrieve, and these for images that are taken back."""
        contexts = [context(1, self.sop_class, IMPLICIT)]
        contexts += [context(number, sop_class, syntax) for number, sop_class, syntax in stores]
        roles = [role(sop_class, 0, 1) for sop_class in {one for _, one, _ in stores}]
        await self.caller.say(request(*contexts, user(*roles), calling=b"WS1"))
        assert (await self.caller.hear())[0] == 2

    async def ask(
        self, number: int = 1, destination: str = "WS1", level: str = "STUDY", **keys: str
    ) -> None:
        tags = {"study": 0x0020000D, "series": 0x0020000E, "instance": 0x00080018}
        values = {0x00080052: Value("CS", level.encode())}
        values |= {tags[name]: Value("UI", text.encode()) for name, text in keys.items()}
        if "patient" in keys:
            values[0x00100020] = Value("LO", keys["patient"].encode())
        is_move = self.sop_class == MOVE
        fields: dict[int, Any] = {2: self.sop_class, 0x0100: 0x21 if is_move else 0x10,
                                  0x0110: number, 0x0700: 0, 0x0800: 0}  # fmt: skip
        if is_move:
            fields[0x0600] = destination
        await self.caller.say(message(1, command(fields), encode_data_set(values, IMPLICIT)))

    async def cancel(self, number: int = 1) -> None:
        fields = {0x0100: 0x0FFF, 0x0120: number, 0x0800: 0x0101}
        await self.caller.say(message(1, command(fields), None))

    async def next(self) -> tuple[dict[int, bytes], bytes]:
        """The next message: its command set, and its data set."""
        sets: dict[bool, bytes] = {True: b"", False: b""}
        while True:
            kind, body = await self.caller.hear()
            assert kind == 4, kind
            place = 0
            while place < len(body):
                size = int.from_bytes(body[place : place + 4], "big")
                flags = body[place + 5]
                sets[bool(flags & 1)] += body[place + 6 : place + 4 + size]
                place += 4 + size
            values = elements(sets[True]) if flags & 3 == 3 or not flags & 1 else {}
            has_data = values and values[0x0800] != b"\x01\x01"
            if values and (flags & 3 == 2 or (flags & 3 == 3 and not has_data)):
                return values, sets[False]

    async def answers(self) -> list[dict[str, int]]:
        """The answers to a C-MOVE: status and counts; of the last one also how many are listed."""
        names = {0x0900: "status", 0x1020: "remaining", 0x1021: "completed", 0x1022: "failed",
                 0x1023: "warning"}  # fmt: skip
        found = []
        while True:
            values, data = await self.next()
            one = {names[tag]: int.from_bytes(value, "little") for tag, value in values.items()
                   if tag in names}  # fmt: skip
            if data:
                listed = decode_data_set(data, IMPLICIT, {FAILED_LIST: "UI"})[FAILED_LIST]
                one["listed"] = len(listed.text.split("\\"))
            found.append(one)
            if one["status"] != 0xFF00:
                return found


@contextlib.asynccontextmanager
async def asking(north: Listening, sop_class: str = MOVE) -> AsyncIterator[Asking]:
    async with calling(north.port) as caller:
        yield Asking(caller, sop_class)


# --- who receives --------------------------------------------------------------------------


@contextlib.contextmanager
def receiver(
    *classes: tuple[str, str], status: Callable[[evt.Event], int] = lambda event: 0
) -> Iterator[tuple[int, list[evt.Event]]]:
    """pynetdicom takes images of these classes and syntaxes; its port, and what it got."""
    got: list[Any] = []

    def store(event: evt.Event) -> int:
        asked = event.request
        got.append((str(asked.AffectedSOPInstanceUID), asked.DataSet.getvalue()))
        assert asked.MoveOriginatorApplicationEntityTitle == "WS1"
        return status(event)

    entity = AE(ae_title="WS1")
    for sop_class, syntax in classes:
        entity.add_supported_context(sop_class, syntax)
    handlers = [(evt.EVT_C_STORE, store)]
    server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1], got
    finally:
        server.shutdown()


async def test_a_move_to_a_workstation(tmp_path: Path) -> None:
    made = instances(3)
    with receiver((CT, EXPLICIT)) as (port, got):
        async with serving(tmp_path / "north", port) as north, asking(north) as ws:
            take_in(north.node, tmp_path / "in", *made)
            await ws.associate()
            await ws.ask(study=STUDY)
            *_, last = await ws.answers()
            assert last == {"status": 0, "completed": 3, "failed": 0, "warning": 0}
            assert sorted(one[1] for one in got) == sorted(map(data_set, made))
            [entry] = entries(north, "retrieved")
            assert entry["details"] == {
                "caller": "WS1", "destination": "WS1", "door": "RADMESH", "instances": 3,
            }  # fmt: skip
            # A part of it, and nothing.
            for keys, count in (
                ({"level": "SERIES", "series": f"{STUDY}.1"}, 3),
                ({"level": "IMAGE", "series": f"{STUDY}.1", "instance": f"{STUDY}.1.2"}, 1),
                ({"level": "IMAGE", "instance": f"{STUDY}.1.2\\{STUDY}.1.9\\{STUDY}.1.3"}, 2),
                ({"level": "SERIES", "series": f"{STUDY}.9"}, 0),
            ):
                await ws.ask(study=STUDY, **keys)
                *_, last = await ws.answers()
                assert (last["status"], last["completed"]) == (0, count)
            await ws.ask(study="1.2.3")
            assert (await ws.answers())[-1]["completed"] == 0


async def test_an_archive_gets_nothing_from_elsewhere_by_a_retrieve(tmp_path: Path) -> None:
    """It would have the images under a foreign Patient ID, around the match."""
    with receiver((CT, EXPLICIT)) as (port, got):
        async with serving(tmp_path / "north", port) as north, asking(north) as ws:
            archives = {"PACS": {"ae_title": "WS1", "host": LOOPBACK, "port": port}}
            object.__setattr__(north.node.settings, "archives", read_archives(archives, Path("/")))
            take_in(north.node, tmp_path / "in", *instances(2))
            await ws.associate()
            await ws.ask(study=STUDY)
            assert (await ws.answers())[-1]["completed"] == 2
            north.node.database.query("UPDATE studies SET origin = ? RETURNING 1", ("ab" * 32,))
            await ws.ask(study=STUDY)
            *_, last = await ws.answers()
            assert (last["status"], last["completed"], last["failed"]) == (0xA702, 0, 2)
            # As many fail as were asked for, not all that the study has.
            await ws.ask(level="IMAGE", study=STUDY, instance=f"{STUDY}.1.2")
            *_, last = await ws.answers()
            assert (last["status"], last["completed"], last["failed"]) == (0xA702, 0, 1)
            assert len(got) == 2
            assert len(entries(north, "retrieved")) == 1


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({}, 0xA900),
        ({"study": "*"}, 0xA900),
        ({"level": "SERIES", "series": "1.2"}, 0xA900),
        ({"level": "PATIENT", "study": "1.2"}, 0xA900),
        ({"study": STUDY, "destination": "WS9"}, 0xA801),
    ],
)
async def test_what_cannot_be_moved(tmp_path: Path, keys: dict[str, str], status: int) -> None:
    async with serving(tmp_path / "north") as north, asking(north) as ws:
        await ws.associate()
        await ws.ask(**keys)
        assert [one["status"] for one in await ws.answers()] == [status]


async def test_what_the_receiver_does_not_take(tmp_path: Path) -> None:
    mr = "1.2.840.10008.5.1.4.1.1.4"

    def status(event: evt.Event) -> int:
        number = str(event.request.AffectedSOPInstanceUID).rpartition(".")[2]
        return {"1": 0xA700, "2": 0xB007}.get(number, 0)

    with receiver((CT, EXPLICIT), status=status) as (port, _):
        async with serving(tmp_path / "north", port) as north, asking(north) as ws:
            take_in(north.node, tmp_path / "in", *instances(3), of_class(4, mr))
            await ws.associate()
            await ws.ask(study=STUDY)
            *_, last = await ws.answers()
    assert last == {"status": 0xB000, "completed": 1, "failed": 2, "warning": 1, "listed": 2}


async def test_a_receiver_that_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path / "north", free_port()) as north, asking(north) as ws:
        take_in(north.node, tmp_path / "in", *instances(3))
        await ws.associate()
        await ws.ask(study=STUDY)
        *_, last = await ws.answers()
        assert last == {"status": 0xA702, "completed": 0, "failed": 3, "warning": 0, "listed": 3}


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """Somebody who accepts connections and says nothing; the port."""
    [listener] = await trio.open_tcp_listeners(0, host=LOOPBACK)

    async def hold(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hold, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_slow_receiver_and_a_cancel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dimse_retrieve, "PENDING_SECONDS", 0.05)
    monkeypatch.setattr(dimse_retrieve, "GRACE_SECONDS", 0.1)
    async with silent() as port, serving(tmp_path / "north", port) as north, asking(north) as ws:
        take_in(north.node, tmp_path / "in", *instances(3))
        await ws.associate()
        await ws.ask(study=STUDY)
        for _ in range(3):
            values, _ = await ws.next()
            assert int.from_bytes(values[0x0900], "little") == 0xFF00
            assert int.from_bytes(values[0x1020], "little") == 3
        await ws.cancel()
        *_, last = await ws.answers()
        assert last == {
            "status": 0xFE00, "remaining": 3, "completed": 0, "failed": 0, "warning": 0,
        }  # fmt: skip
        # The association goes on.
        await ws.ask(2, destination="WS9", study=STUDY)
        assert (await ws.answers())[-1]["status"] == 0xA801


@pytest.mark.parametrize("how", ["abort", "close", "reset", "half"])
async def test_a_caller_that_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(dimse_retrieve, "PENDING_SECONDS", 0.05)
    async with silent() as port, serving(tmp_path / "north", port) as north:
        take_in(north.node, tmp_path / "in", *instances(3))
        async with asking(north) as ws:
            await ws.associate()
            await ws.ask(study=STUDY)
            await ws.next()
            match how:
                case "abort":
                    await ws.caller.say(bytes((7, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
                case "close":
                    await ws.caller.stream.aclose()
                case "reset":
                    await ws.caller.reset()
                case "half":
                    await ws.caller.stream.send_eof()
            if how != "abort":
                await north.quiet(seconds=5)
        await north.quiet(seconds=5)


async def test_a_limit_a_day(tmp_path: Path) -> None:
    other = make_instance("1.2.826.0.1.3680043.8.498.22", 1, rows=4)
    with receiver((CT, EXPLICIT)) as (port, got):
        async with serving(tmp_path / "north", port, studies_a_day=1) as north:
            take_in(north.node, tmp_path / "in", *instances(1), other)
            async with asking(north) as ws:
                await ws.associate()
                for study, status in (
                    (STUDY, 0), (other.StudyInstanceUID, 0xA702), (STUDY, 0),
                    (f"{STUDY}\\{other.StudyInstanceUID}", 0xA702),
                ):  # fmt: skip
                    await ws.ask(study=study)
                    assert (await ws.answers())[-1]["status"] == status
        # A new start forgets nothing.
        async with serving(tmp_path / "north", port, studies_a_day=1) as north:
            async with asking(north) as ws:
                await ws.associate()
                await ws.ask(study=other.StudyInstanceUID)
                assert (await ws.answers())[-1]["status"] == 0xA702
    assert len(got) == 2


async def test_nothing_leaves_without_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver((CT, EXPLICIT)) as (port, got):
        async with serving(tmp_path / "north", port) as north, asking(north) as ws:
            take_in(north.node, tmp_path / "in", *instances(2))

            def full(events: object) -> None:
                raise NodeError("the disk is full", code=ExitCode.DISK)

            monkeypatch.setattr(north.node.audit, "append_many", full)
            await ws.associate()
            await ws.ask(study=STUDY)
            *_, last = await ws.answers()
            assert (last["status"], last["failed"]) == (0xA702, 2)
    assert not got


async def test_more_classes_than_an_association_has_contexts(tmp_path: Path) -> None:
    classes = [str(one.abstract_syntax) for one in AllStoragePresentationContexts[: CONTEXTS + 2]]
    made = [of_class(number, one) for number, one in enumerate(classes, 1)]
    with receiver(*((one, EXPLICIT) for one in classes)) as (port, got):
        async with serving(tmp_path / "north", port) as north, asking(north) as ws:
            take_in(north.node, tmp_path / "in", *made)
            await ws.associate()
            await ws.ask(study=STUDY)
            *_, last = await ws.answers()
    assert last == {"status": 0, "completed": CONTEXTS + 2, "failed": 0, "warning": 0}
    assert sorted(one[1] for one in got) == sorted(map(data_set, made))


async def test_a_receiver_that_breaks_off_at_one_image(tmp_path: Path) -> None:
    def status(event: evt.Event) -> int:
        if str(event.request.AffectedSOPInstanceUID).endswith(".2"):
            event.assoc.abort()
        return 0

    with receiver((CT, EXPLICIT), status=status) as (port, _):
        async with serving(tmp_path / "north", port) as north, asking(north) as ws:
            take_in(north.node, tmp_path / "in", *instances(4))
            await ws.associate()
            await ws.ask(study=STUDY)
            *_, last = await ws.answers()
    # The others go over a further association.
    assert last == {"status": 0xB000, "completed": 3, "failed": 1, "warning": 0, "listed": 1}


def test_counts_that_are_larger_than_there_is_room_for() -> None:
    tally = Tally(remaining=70_000)
    assert tally.values(with_remaining=True)[Element.REMAINING] == 65_535
    for number in range(70_000):
        tally.count(str(number), 0)
    assert tally.values(with_remaining=True) == {
        Element.REMAINING: 0, Element.COMPLETED: 65_535, Element.FAILED: 0, Element.WARNING: 0,
    }  # fmt: skip
    assert Element.REMAINING not in tally.values(with_remaining=False)


# --- C-GET ---------------------------------------------------------------------------------


def answer_store(values: dict[int, bytes], status: int) -> bytes:
    fields: dict[int, Any] = {
        2: values[2], 0x0100: 0x8001, 0x0120: int.from_bytes(values[0x0110], "little"),
        0x0800: 0x0101, 0x0900: status, 0x1000: values[0x1000],
    }  # fmt: skip
    return message(3, command(fields), None)


async def test_a_get_on_the_same_association(tmp_path: Path) -> None:
    made = instances(3)
    async with serving(tmp_path / "north") as north, asking(north, GET) as ws:
        take_in(north.node, tmp_path / "in", *made)
        await ws.associate((3, CT, EXPLICIT))
        await ws.ask(study=STUDY)
        got = []
        for status in (0, 0xC000, 0xB000):
            values, data = await ws.next()
            assert values[0x0100] == b"\x01\0"
            got.append(data)
            await ws.caller.say(answer_store(values, status))
        *_, last = await ws.answers()
        assert last == {"status": 0xB000, "completed": 1, "failed": 1, "warning": 1, "listed": 1}
        assert sorted(got) == sorted(map(data_set, made))
        await ws.caller.release()


async def test_a_get_without_a_context_for_the_images(tmp_path: Path) -> None:
    async with serving(tmp_path / "north") as north, asking(north, GET) as ws:
        take_in(north.node, tmp_path / "in", *instances(2))
        await ws.associate((3, CT, IMPLICIT))
        await ws.ask(study=STUDY)
        *_, last = await ws.answers()
        assert last == {"status": 0xA702, "completed": 0, "failed": 2, "warning": 0, "listed": 2}


async def test_a_get_is_cancelled_in_the_middle(tmp_path: Path) -> None:
    async with serving(tmp_path / "north") as north, asking(north, GET) as ws:
        take_in(north.node, tmp_path / "in", *instances(5))
        await ws.associate((3, CT, EXPLICIT))
        await ws.ask(study=STUDY)
        values, _ = await ws.next()
        await ws.cancel()
        await ws.caller.say(answer_store(values, 0))
        *_, last = await ws.answers()
        assert last == {
            "status": 0xFE00, "remaining": 4, "completed": 1, "failed": 0, "warning": 0,
        }  # fmt: skip


async def test_a_get_whose_caller_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dimse_wire, "STALL_SECONDS", 0.3)
    async with serving(tmp_path / "north") as north, asking(north, GET) as ws:
        take_in(north.node, tmp_path / "in", *instances(2))
        await ws.associate((3, CT, EXPLICIT))
        await ws.ask(study=STUDY)
        await ws.next()
        assert (await ws.caller.hear())[0] == 7


async def test_what_is_said_while_an_image_goes_out_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dimse_retrieve, "PENDING_SECONDS", 0.01)
    monkeypatch.setattr(sub_operations, "PIECE_BYTES", 512)
    made = make_instance(STUDY, 1, rows=64)
    async with serving(tmp_path / "north") as north, asking(north, GET) as ws:
        take_in(north.node, tmp_path / "in", made)
        real = sub_operations.in_thread

        async def slow(*arguments: Any, **more: Any) -> Any:
            await trio.sleep(0.02)
            return await real(*arguments, **more)

        monkeypatch.setattr(sub_operations, "in_thread", slow)
        await ws.associate((3, CT, EXPLICIT))
        await ws.ask(study=STUDY)
        while True:
            values, data = await ws.next()
            if values[0x0100] == b"\x01\0":
                break
            assert values[0x0900] == b"\x00\xff"
        assert data == data_set(made)
        await ws.caller.say(answer_store(values, 0))
        assert (await ws.answers())[-1]["status"] == 0


@pytest.mark.integration
async def test_every_study_goes_out_as_its_bytes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pynetdicom takes classes of vendors in this way alone.
    monkeypatch.setattr(pynetdicom._config, "UNRESTRICTED_STORAGE_SERVICE", True)
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("needs the collection of studies beside the repository")
    async with serving(tmp_path / "take-in") as north:
        node = north.node
        await trio.to_thread.run_sync(take_in, node, data)
        studies = node.catalog.studies()
        kinds = {
            (row.sop_class_uid, row.transfer_syntax_uid)
            for study in studies
            for row in node.catalog.instances(study.study_uid)
        }
    with receiver(*sorted(kinds)) as (port, got):
        async with serving(tmp_path / "take-in", port, studies_a_day=1000) as north:
            node, count = north.node, 0
            for study in studies:
                got.clear()
                async with asking(north) as ws:
                    await ws.associate()
                    await ws.ask(study=study.study_uid)
                    *_, last = await ws.answers()
                assert (last["status"], last["completed"]) == (0, study.instance_count)
                assert len({uid for uid, _ in got}) == study.instance_count
                for uid, sent in got:
                    original = read_instance(node.catalog, node.store, study.study_uid, uid)
                    assert original[_data_set_at(original) :] == sent
                count += len(got)
            assert count > 500


def _data_set_at(original: bytes) -> int:
    """Where the data set of a file begins, as pydicom finds it."""
    file = BytesIO(original)
    read_preamble(file, False)
    _read_file_meta_info(file)
    return file.tell()


@pytest.mark.integration
@with_dcmtk
@pytest.mark.parametrize("trusted", [True, False])
async def test_over_tls(tmp_path: Path, trusted: bool) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    issuer = authority if trusted else other
    key, certificate = identity_files(issuer.issue(LOOPBACK, name="storescp"))
    own_key, own = identity_files(authority.issue(LOOPBACK, name="node"))
    received = tmp_path / "received"
    received.mkdir()
    port = free_port()
    scp = ["storescp", "+B", "+tls", key, certificate, "+cf", authority.ca, "-od", received, port]
    tls = {"certificate": str(own), "key": str(own_key), "ca": str(authority.ca)}
    made = instances(2)
    ws1 = {"addresses": [LOOPBACK], "query": True, "receives_at": f"{LOOPBACK}:{port}",
           "receives_tls": True}  # fmt: skip
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.run_process, [str(one) for one in scp])
        async with listening(tmp_path / "north", entries=tls, callers={"WS1": ws1}) as north:
            take_in(north.node, tmp_path / "in", *made)
            async with asking(north) as ws:
                await ws.associate()
                with trio.fail_after(20):
                    while True:
                        await ws.ask(study=STUDY)
                        *_, last = await ws.answers()
                        # It may not listen yet.
                        if last["completed"] or not trusted:
                            break
        nursery.cancel_scope.cancel()
    if not trusted:
        assert (last["status"], last["failed"]) == (0xA702, 2)
        return
    assert (last["status"], last["completed"]) == (0, 2)
    got = sorted(one.read_bytes() for one in received.iterdir())
    sent = sorted(map(data_set, made))
    assert all(mine.endswith(theirs) for mine, theirs in zip(got, sent, strict=True))
