"""The operation `arrive`: takes files of this machine, each as an image that comes by itself."""

import contextlib
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import trio

from node.blocking import in_thread
from node.errors import NodeError
from node.images.arrival_work import BY_OPERATOR, Became, Outcome
from node.images.reading import open_file, shown
from node.operations import parameters
from node.operations.base import Call, Operation, Result

AT_ONE_TIME = 16
"""Files that are taken at the same time, and share flushes."""

_PIECE_BYTES = 256 * 1024


async def _pieces(path: Path) -> AsyncGenerator[bytes, None]:
    """The bytes of a regular file in pieces, as an edge would pass them."""
    descriptor = await in_thread(open_file, path)
    try:
        offset = 0
        while piece := await in_thread(os.pread, descriptor, _PIECE_BYTES, offset):
            offset += len(piece)
            yield piece
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Arrive:
    """Parameters of `arrive`."""

    paths: parameters.Paths
    source: str = ""
    stat: bool = False


async def arrive(call: Call, asked: Arrive) -> Result:
    """Take files, each as an image that arrives by itself; durable on return.

    They come in one association, and are soon packed by study.
    """
    arrivals = call.require_serving().arrivals
    paths = [Path(path) for path in asked.paths]
    became: dict[int, Became] = {}
    left = iter(enumerate(paths))
    failures: list[NodeError] = []

    async def bring() -> None:
        for index, path in left:
            if failures:
                return
            try:
                async with contextlib.aclosing(_pieces(path)) as pieces:
                    became[index] = await association.take(pieces, stat=asked.stat)
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
                became[index] = Became(Outcome.REFUSED, reason)
            except NodeError as error:
                failures.append(error)
            call.report({"files": len(became), "files_total": len(paths)})

    async with arrivals.association(
        f"{BY_OPERATOR}:{asked.source}" if asked.source else BY_OPERATOR
    ) as association:
        async with trio.open_nursery() as nursery:
            for _ in range(min(AT_ONE_TIME, len(paths))):
                nursery.start_soon(bring)
    if failures:
        raise failures[0]
    count = dict.fromkeys(Outcome, 0)
    for one in became.values():
        count[one.outcome] += 1
    return {
        "taken": count[Outcome.TAKEN],
        "known": count[Outcome.KNOWN],
        "problems": [
            {"file": shown(paths[index]), "outcome": one.outcome.value, "reason": one.reason}
            for index, one in sorted(became.items())
            if one.outcome not in (Outcome.TAKEN, Outcome.KNOWN)
        ],
    }


OPERATIONS = (
    Operation("arrive", Arrive, arrive, writes=True, local_only=True, needs_network=True),
)
