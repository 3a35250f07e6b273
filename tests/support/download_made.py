"""A `StudyDownload` on a disk of a test, without sources: the test hands it the batches."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from pathlib import Path

import trio
import trio.testing
from exchange_pair import STUDY, SmallStudy
from logs_made import FACILITY
from node_home import ImageHome
from studies_made import make_instance

from node.clock import SYSTEM_CLOCK
from node.database import Database
from node.transfer.incoming import Incoming
from node.transfer.study_download import Destination, Member, StudyDownload
from node.transfer.transfers import TRANSFERS_SCHEMA, Transfer, Transfers, TransferState
from protocol.log.entry import Event as LogEvent

PEER = FACILITY.public


class NotingTransfers(Transfers):
    """Records each saved state."""

    kept: list[tuple[TransferState, str]]

    async def enter(
        self, transfer: Transfer, state: TransferState, why: str = "", hint: str = ""
    ) -> None:
        self.kept.append((state, why))
        await super().enter(transfer, state, why, hint)


class NotingIncoming(Incoming):
    """Records the flushed batches."""

    flushed: list[bytes]

    def flush(self, digest: bytes) -> None:
        self.flushed.append(digest)
        super().flush(digest)


@dataclasses.dataclass
class Place:
    """A download and the parts that it uses.

    Attributes:
        free: free bytes of the disk, as reported to it.
        append: called with the entries `received`.
    """

    home: ImageHome
    incoming: NotingIncoming
    transfers: NotingTransfers
    free: int = 1 << 40
    append: Callable[[Sequence[LogEvent]], object] = lambda events: None

    def download(self, *, several: bool = False) -> StudyDownload:
        transfer = self.transfers.begin_incoming(
            STUDY, PEER, "treatment", only_peer=True, stat=False
        )
        destination = Destination(
            self.home.catalog,
            self.incoming,
            lambda events: self.append(events),
            self.transfers,
            lambda: self.free,
            lambda: None,
        )
        return StudyDownload(destination, transfer, several=several)

    async def join(self, download: StudyDownload, study: SmallStudy, peer: bytes = PEER) -> Member:
        contribution = self.transfers.contribution(download.transfer, peer)
        return await download.join(contribution, study.manifest)

    def is_untouched(self) -> bool:
        """Whether nothing is published and nothing has moved to the store."""
        return self.home.catalog.study(STUDY) is None and not any(
            path.is_file() for path in (self.home.path / "store").rglob("*")
        )


@contextmanager
def opened_place(directory: Path) -> Iterator[Place]:
    """A place in an empty directory."""
    home = ImageHome(directory / "home")
    incoming = NotingIncoming(directory / "incoming", home.store)
    incoming.flushed = []
    database = Database(directory / "transfers.db", (TRANSFERS_SCHEMA,))
    transfers = NotingTransfers(database, clock=SYSTEM_CLOCK)
    transfers.kept = []
    yield Place(home, incoming, transfers)
    database.close()
    home.close()


def part10(number: int, rows: int = 16, series: str = "") -> bytes:
    """A small instance of the study, as a file."""
    buffer = BytesIO()
    instance = make_instance(STUDY, number, rows=rows, series=series)
    instance.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def take(download: StudyDownload, study: SmallStudy, order: Sequence[int]) -> None:
    for index in order:
        download.store(index, study.encoded[index])
        download.flush(index)


def arrived(download: StudyDownload, member: Member, study: SmallStudy) -> None:
    for index, entry in enumerate(study.manifest.batches):
        download.stored(member, index, entry)


@asynccontextmanager
async def wakes(download: StudyDownload) -> AsyncIterator[None]:
    """Check that the block wakes tasks that wait for a change, and that nothing did before."""
    woken = trio.Event()

    async def wait() -> None:
        await download.wait_change()
        woken.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not woken.is_set()
            yield
            await woken.wait()
