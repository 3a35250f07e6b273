"""The parts that take arrivals, in a directory of a test."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from io import BytesIO
from pathlib import Path

import trio
from clocks_made import MadeClock
from node_home import ImageHome
from studies_made import make_instance

from node.errors import NodeError
from node.images.arrival_groups import Windows
from node.images.arrivals import Arrivals
from node.images.spool import Spool

STUDY = "1.2.826.0.1.3680043.8.498.77"


def part10(number: int, *, study: str = STUDY, rows: int = 16, seed: int = 0) -> bytes:
    """One instance as a file."""
    buffer = BytesIO()
    instance = make_instance(study, number, rows=rows, seed=seed)
    instance.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


async def pieces(content: bytes, size: int = 1000) -> AsyncGenerator[bytes, None]:
    """A stream."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


class ArrivalHome(ImageHome):
    """As `ImageHome`, with a spool."""

    @property
    def spool_path(self) -> Path:
        return self.path / "arrivals"

    @asynccontextmanager
    async def running(
        self, *, windows: Windows | None = None, quiet: float = 0.0, **more: object
    ) -> AsyncIterator[Arrivals]:
        """Arrivals with a running task, over the present spool; packs as soon as it is quiet."""
        chosen = windows or Windows(quiet=quiet)
        spool = Spool(self.spool_path, self.store.require_free)
        arguments: dict[str, object] = {
            "spool": spool,
            "catalog": self.catalog,
            "store": self.store,
            "quarantine": self.quarantine,
            "append": self.audit,
            "require_sound": lambda: None,
            "clock": MadeClock(),
            "windows": lambda source: chosen,
            **more,
        }
        make: Callable[..., Arrivals] = Arrivals
        arrivals = make(**arguments)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(arrivals.run)
                yield arrivals
                nursery.cancel_scope.cancel()
        finally:
            spool.close()

    async def all_packed(self, arrivals: Arrivals, *, seconds: float = 20) -> None:
        """Wait until no image waits to be packed."""
        with trio.fail_after(seconds):
            await arrivals.wait_recovered()
            while arrivals.describe()["instances"]:
                await arrivals.next_packing()

    def bring(self, contents: Iterable[bytes], **more: bool) -> list[str]:
        """Take instances concurrently, and pack them; returns the outcome of each."""

        async def main() -> list[str]:
            async with self.running() as arrivals:
                became = await bring(arrivals, contents, **more)
                await self.all_packed(arrivals)
            return became

        return trio.run(main)

    @property
    def spooled(self) -> list[Path]:
        """Files of the spool."""
        return sorted(self.spool_path.iterdir())


async def bring(
    arrivals: Arrivals, contents: Iterable[bytes], *, source: str = "dimse:CT1", stat: bool = False
) -> list[str]:
    """The outcome, or the error, of each instance sent concurrently in one association."""
    brought = list(contents)
    became = [""] * len(brought)

    async def one(index: int) -> None:
        try:
            async with aclosing(pieces(brought[index])) as chunks:
                taken = await association.take(chunks, stat=stat)
            became[index] = taken.outcome.value
        except NodeError as error:
            became[index] = error.message

    async with arrivals.association(source) as association, trio.open_nursery() as nursery:
        for index in range(len(brought)):
            nursery.start_soon(one, index)
    return became
