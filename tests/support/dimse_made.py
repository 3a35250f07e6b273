"""A node's DICOM listeners on loopback, in this process, and those who call it."""

import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
import trio
from network_nodes import until
from pdus_made import RELEASE_RQ, elements, message, store, usual_request
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from edges.dimse import codec, negotiation
from keys.trust import Peer
from node import edge_parts, parts
from node.app import Node
from node.edges.commitment_reports import CommitmentReports
from node.edges.dimse_server import DimseServer
from node.edges.dimse_settings import read_dimse
from node.home import Home
from node.images.arrivals import Arrivals
from node.images.ingest import ingest
from node.images.spool import Spool
from protocol.find_messages import Asked

LOOPBACK = "127.0.0.1"
CALLERS = {"CT1": {"addresses": [LOOPBACK]}, "PACS": {"addresses": ["192.0.2.7"]}}

ABSENT = "needs Debian's dcmtk: make dicom-peers (or: apt install dcmtk)"
with_dcmtk = pytest.mark.skipif(shutil.which("storescu") is None, reason=ABSENT)


@dataclass
class Listening:
    """A node that takes DICOM, without its network.

    Attributes:
        node: it.
        server: its listeners.
        arrivals: takes the images; they wait until a group is quiet.
        reports: reports on storage commitments that others ask for.
        scope: ends it.
    """

    node: Node
    server: DimseServer
    arrivals: Arrivals
    reports: CommitmentReports
    scope: trio.CancelScope

    @property
    def port(self) -> int:
        """Where it listens first."""
        return int(self.server.addresses[0][1])

    @property
    def spooled(self) -> list[Path]:
        """Files of the spool."""
        return sorted(self.node.home.arrivals_path.iterdir())

    @property
    def quarantined(self) -> list[bytes]:
        """The files in quarantine."""
        return [path.read_bytes() for path in self.node.home.quarantine_path.glob("*/file")]

    async def quiet(self, *, seconds: float = 10) -> None:
        """Wait until nobody is connected."""
        await until(lambda: not self.server._guests, seconds=seconds)


@contextlib.asynccontextmanager
async def listening(
    path: Path,
    *,
    entries: dict[str, object] | None = None,
    callers: dict[str, object] | None = None,
    doors: dict[str, object] | None = None,
) -> AsyncIterator[Listening]:
    """A node that takes DICOM on a free port of loopback.

    Args:
        path: of its home, which is made if it is not there.
        entries: of `[dimse]`.
        callers, doors: its tables.
    """
    home = Home(path)
    if not path.exists():  # noqa: ASYNC240
        Home.create(path, name="North General", listen=(), addresses=())
    settings = read_dimse(
        {"listen": [f"{LOOPBACK}:0"], "idle_seconds": 600, **(entries or {})},
        CALLERS if callers is None else callers,
        doors or {},
    )
    with Node.open(home) as node:
        spool = Spool(home.arrivals_path, lambda size: node.store.require_free(size))
        with contextlib.closing(spool):
            arrivals = parts.arrivals_of(node, spool)
            reports = CommitmentReports(node.commitment_requests, arrivals, settings)
            services = {
                **edge_parts.commitment_services_of(node, reports),
                **edge_parts.query_services_of(
                    node, settings, edge_parts.told_of(node), _ask, _fetch, lambda node_key: True
                ),
            }
            server = DimseServer(settings, arrivals, node.doors, services)
            await server.open()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(arrivals.run)
                nursery.start_soon(server.run)
                nursery.start_soon(reports.run)
                nursery.start_soon(node.commitments.run)
                yield Listening(node, server, arrivals, reports, nursery.cancel_scope)
                nursery.cancel_scope.cancel()


def take_in(node: Node, folder: Path, *instances: Dataset) -> None:
    """Take images in as `radmesh ingest` does: those of a folder, after writing these into it."""
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(instances):
        one.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    ingest(
        [folder],
        catalog=node.catalog,
        store=node.store,
        quarantine=node.home.quarantine_path,
        audit=node.audit.append,
        now=node.clock.now,
    )


async def _ask(peer: Peer, asked: Asked, purpose: str) -> None:
    raise AssertionError("there is no network to ask a facility over")


async def _fetch(*study: object, **how: object) -> str:
    return "there is no network to fetch over"


# --- who calls -------------------------------------------------------------------------


class Caller:
    """Who calls over a connection, and says what it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def hear(self) -> tuple[int, bytes]:
        """The next PDU: type and variable field; 0 when the connection is closed."""
        with trio.fail_after(20):
            while len(self._buffer) < 6 or len(self._buffer) < self._end:
                try:
                    data = await self.stream.receive_some(65_536)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    return 0, b""
                self._buffer += data
        found, self._buffer = self._buffer[: self._end], self._buffer[self._end :]
        return found[0], found[6:]

    @property
    def _end(self) -> int:
        return 6 + int.from_bytes(self._buffer[2:6], "big")

    async def answer(self) -> tuple[int, int]:
        """The next message: the ID that it answers, and its status."""
        kind, body = await self.hear()
        assert kind == 4, kind
        found = elements(body[6:])
        message_id, status = (int.from_bytes(found[one], "little") for one in (0x0120, 0x0900))
        return message_id, status

    async def associate(self, *more: bytes) -> bytes:
        """Ask for an association, with these user items; returns what is accepted."""
        await self.say(usual_request(*more))
        kind, body = await self.hear()
        assert kind == 2
        return body

    async def release(self) -> None:
        """End it, and wait for the agreement."""
        await self.say(RELEASE_RQ)
        assert await self.hear() == (6, bytes(4))

    async def reset(self) -> None:
        """Break the connection."""
        self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await self.stream.aclose()


@contextlib.asynccontextmanager
async def calling(port: int, *, buffer_bytes: int = 0) -> AsyncIterator[Caller]:
    """Call a port of loopback.

    Args:
        port: the port.
        buffer_bytes: how much of what comes the system holds; 0 for what it likes.
    """
    raw = trio.socket.socket()
    if buffer_bytes:
        raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, buffer_bytes)
    await raw.connect((LOOPBACK, port))
    stream = trio.SocketStream(raw)
    try:
        yield Caller(stream)
    finally:
        await trio.aclose_forcefully(stream)


async def accepts(stream: trio.SocketStream) -> None:
    """Accept the association that somebody asks for, with all that it proposes."""
    request = codec.decode_request(await pdu_of(stream))
    answer = negotiation.answer(request, lambda *_: True, lambda _: (True, True))
    await stream.send_all(codec.encode_answer(request, answer))


async def pdu_of(stream: trio.SocketStream) -> bytes:
    """The next PDU, head included."""
    head = await _exactly(stream, 6)
    return head + await _exactly(stream, int.from_bytes(head[2:], "big"))


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise trio.BrokenResourceError
        data += piece
    return data


def data_set(instance: Dataset) -> bytes:
    """The data set of an instance as it is sent: Explicit VR Little Endian, without a head."""
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, Dataset(instance), implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def stored(message_id: int, instance: Dataset, *, size: int = 16_000) -> bytes:
    """The PDUs of a C-STORE of an instance in context 1."""
    return message(1, store(message_id, instance.SOPInstanceUID), data_set(instance), size=size)


def send_all(
    port: int,
    instances: Iterable[Dataset],
    *,
    calling: str = "CT1",
    called: str = "RADMESH",
) -> list[tuple[int, str]]:
    """Send instances as pynetdicom does, in one association: status and comment of each.

    Runs in a thread of its own, since it blocks.

    Raises:
        ConnectionError: there is no association; the text has the numbers of the refusal.
    """
    from pynetdicom import AE, evt
    from pynetdicom.pdu import A_ASSOCIATE_RJ

    sender = AE(ae_title=calling)
    sender.acse_timeout = sender.dimse_timeout = sender.network_timeout = 20
    sent = list(instances)
    for one in {instance.SOPClassUID for instance in sent} or {"1.2.840.10008.1.1"}:
        sender.add_requested_context(one, ExplicitVRLittleEndian)
    heard: list[object] = []
    # The association itself forgets a refusal that comes before it looks for one.
    listen = [(evt.EVT_PDU_RECV, lambda event: heard.append(event.pdu))]
    association = sender.associate(LOOPBACK, port, ae_title=called, evt_handlers=listen)
    if not association.is_established:
        raise ConnectionError(*(
            f"{one.result} {one.source} {one.reason_diagnostic}"
            for one in heard if isinstance(one, A_ASSOCIATE_RJ)
        ))  # fmt: skip
    try:
        answers = [association.send_c_store(one) for one in sent]
        return [(one.Status, str(one.get("ErrorComment", ""))) for one in answers]
    finally:
        association.release()


async def run(*words: object, seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Run a program, and give what it printed."""
    with trio.fail_after(seconds):
        return await trio.run_process(
            [str(one) for one in words], capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )


def identity_files(path: Path) -> tuple[Path, Path]:
    """Key and certificate of a file that has both, each in a file as dcmtk wants them."""
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    begin = b"-----BEGIN CERTIFICATE"
    first, _, second = path.read_bytes().partition(begin)
    key.write_bytes(first)
    certificate.write_bytes(begin + second)
    return key, certificate
