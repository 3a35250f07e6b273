"""Archives on loopback: dcmtk's storescp and Orthanc as processes, and a node that sends there."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import exchange_pair
import pydicom
import pytest
import trio
from facilities import free_port
from studies_made import make_instance

from node import edge_parts
from node.app import Node
from node.dicom.studies import read_header
from node.edges.archive_settings import ArchiveSettings, read_archives
from node.edges.archiving import Archiving
from node.home import Home

LOOPBACK = "127.0.0.1"
START_SECONDS = 20.0
ALL = [{}]

with_dcmtk = pytest.mark.skipif(
    shutil.which("storescp") is None, reason="needs Debian's dcmtk: make dicom-peers"
)


@contextlib.contextmanager
def server(words: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on a port; killed at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
                break
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def storescp(folder: Path, port: int, *words: str) -> Iterator[Path]:
    """A storescp of dcmtk; gives the folder with what it got."""
    landed = folder / "landed"
    landed.mkdir(parents=True, exist_ok=True)
    command = ["storescp", "+B", "-pdu", "131072", *words, "-od", str(landed), str(port)]
    with server(command, port, log=folder / "log"):
        yield landed


def archive(port: int = 0, **entries: object) -> dict[str, ArchiveSettings]:
    """The settings of one archive."""
    at = {"ae_title": "PACS", "host": LOOPBACK, "port": port} if port else {}
    return read_archives({"PACS": {**at, "rules": ALL, **entries}}, Path("/"))


@contextlib.asynccontextmanager
async def sending(
    home: Home, archives: dict[str, ArchiveSettings], **more: Any
) -> AsyncIterator[tuple[Node, Archiving]]:
    """A node that sends to archives, without its network."""
    with Node.open(home) as node:
        node.archive_queue.archives = archives
        archiving = edge_parts.archiving_of(node)
        token = trio.lowlevel.current_trio_token()
        node.archive_queue.on_change = partial(token.run_sync_soon, archiving.poke)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(archiving.run)
            yield node, archiving
            nursery.cancel_scope.cancel()
        node.archive_queue.on_change = lambda: None


def receive_study(
    node: Node, facility_key: bytes, instances: int = 3, sources: Sequence[str] = ()
) -> str:
    """A study that a facility sent; its UID."""
    contents = []
    for number in range(1, instances + 1):
        buffer = BytesIO()
        instance = make_instance(exchange_pair.STUDY, number, rows=16)
        instance.save_as(buffer, enforce_file_format=True)
        contents.append(buffer.getvalue())
    made = exchange_pair.make_study(contents)
    node.store.put_many(made.encoded)
    header = read_header(contents[0])
    node.catalog.publish_received(made.manifest, {0: header}, facility_key, sources=sources)
    return exchange_pair.STUDY


async def until(condition: Callable[[], object], what: str = "", *, seconds: float = 20) -> Any:
    """Wait for a condition that nothing tells of; its value once it is true."""
    with trio.move_on_after(seconds):
        while True:
            found = await trio.to_thread.run_sync(condition)
            if found:
                return found
            await trio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def states(node: Node) -> list[str]:
    """The states of all that goes to archives."""
    return [one.state for one in node.archive_queue.all()]


def pixels(data: bytes) -> dict[str, bytes]:
    """The pixel data of a file by its SOP Instance UID."""
    found = pydicom.dcmread(BytesIO(data))
    return {found.SOPInstanceUID: found.PixelData}


def data_set_of(data: bytes) -> bytes:
    """The data set of a file."""
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :]


class OddArchive:
    """An archive that does what a test wants; pynetdicom's server in threads.

    Attributes:
        answer: gives the status for an image, or "abort", from its SOP Instance UID and how many
            it has got before.
        forgets: images (SOP Instance UIDs) that it takes and does not store.
        got: SOP Instance UID and data set of each image that came, in order.
        most: most associations at one time so far.
    """

    def __init__(self) -> None:
        self.answer: Callable[[str, int], int | str] = lambda uid, before: 0
        self.forgets: set[str] = set()
        self.got: list[tuple[str, bytes]] = []
        self.port = free_port()
        self.before: Callable[[str], None] = lambda uid: None
        self.open = self.most = 0

    @property
    def uids(self) -> list[str]:
        """SOP Instance UIDs of what came."""
        return [uid for uid, _ in self.got]

    @contextlib.contextmanager
    def running(self) -> Iterator["OddArchive"]:
        """Take associations within this block."""
        from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

        entity = AE("PACS")
        entity.require_called_aet = True
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        entity.add_supported_context("1.2.840.10008.1.1")
        entity.add_supported_context("1.2.840.10008.5.1.4.1.2.2.1")
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_ESTABLISHED, lambda event: self._count(1)),
            (evt.EVT_RELEASED, lambda event: self._count(-1)),
            (evt.EVT_ABORTED, lambda event: self._count(-1)),
        ]
        running = entity.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)
        try:
            yield self
        finally:
            running.shutdown()

    def _count(self, by: int) -> None:
        self.open += by
        self.most = max(self.most, self.open)

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.before(uid)
        status = self.answer(uid, len(self.got))
        if status == "abort":
            event.assoc.abort()
            return 0x0110
        if status == 0:
            self.got.append((uid, event.request.DataSet.getvalue()))
        assert isinstance(status, int)
        return status

    def _find(self, event: Any) -> Iterator[tuple[int, Any]]:
        from pydicom.dataset import Dataset

        asked = event.identifier
        assert asked.QueryRetrieveLevel == "IMAGE"
        for uid in sorted(set(self.uids) - self.forgets):
            if uid.startswith(asked.SeriesInstanceUID):
                found = Dataset()
                found.SOPInstanceUID = uid
                found.StudyInstanceUID = asked.StudyInstanceUID
                found.SeriesInstanceUID = asked.SeriesInstanceUID
                yield 0xFF00, found
