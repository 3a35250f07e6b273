"""Operations on the archives of the facility: what goes there, send a study, try again, drop."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node.app import Node
from node.blocking import in_thread
from node.edges.archive_queue import ArchiveStudy
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing

if TYPE_CHECKING:
    # It is slow to load, and small commands need none of it.
    from node.edges.archive_retrieval import Retrievals

LISTED = 1000
"""Most studies and most refused images that are listed."""


@dataclass(frozen=True)
class ToArchive:
    """Parameters of `archive.send`; without `to` it goes to the only archive."""

    study: str
    to: str = ""
    stat: bool = False


@dataclass(frozen=True)
class OfArchive:
    """Parameters of `archive.retry`; without them all that waits or failed."""

    study: str = ""
    to: str = ""


@dataclass(frozen=True)
class FromArchive:
    """Parameters of `archive.retrieve`."""

    study: str
    stat: bool = False


@dataclass(frozen=True)
class NotToArchive:
    """Parameters of `archive.drop`."""

    study: str
    to: str = ""


def _describe(call: Call, one: ArchiveStudy) -> dict[str, Any]:
    serving = call.serving
    is_under_way = serving is not None and serving.archiving.is_under_way(one)
    return {
        "study": one.study_uid,
        "archive": one.archive,
        "state": "under way" if is_under_way else one.state,
        "stat": bool(one.stat),
        "since": one.since // 1000,
        "due": one.due // 1000,
        "failing": one.failing // 1000,
        "why": one.why,
        "proof": one.proof,
    }


def describe_archives(node: Node) -> list[dict[str, Any]]:
    """The archives of the settings, and how many studies of each are in each state, as JSON."""
    found = []
    counts, indexed = node.archive_queue.counts(), node.indexed.counts()
    for name, archive in node.settings.archives.items():
        states = {state: many for (one, state), many in counts.items() if one == name}
        found.append(
            {
                "archive": name,
                "place": archive.place,
                "plain": archive.is_plain,
                "proof": archive.proof,
                "states": states,
                "indexed": indexed.get(name, 0) if archive.index_days else None,
            }
        )
    return found


async def archive(call: Call, _: Nothing) -> Result:
    """The archives, the studies that are on their way there or were, and refused images."""
    node = call.node
    rows = await in_thread(node.archive_queue.all)
    refused = await in_thread(node.archive_queue.refused)
    lanes = [] if call.serving is None else call.serving.archiving.describe()
    by_name = {one["archive"]: one for one in lanes}
    archives = await in_thread(describe_archives, node)
    index = {} if call.serving is None else call.serving.indexing.describe()
    retrievals = None if call.serving is None else call.serving.retrievals
    return {
        "archives": [
            {
                **one,
                "trouble": _trouble(by_name.get(one["archive"])),
                "index": index.get(one["archive"]),
            }
            for one in archives
        ],
        "retrieved": [] if retrievals is None else _describe_retrievals(retrievals),
        "studies": [_describe(call, one) for one in rows[:LISTED]],
        "more": max(0, len(rows) - LISTED),
        "refused": [
            {
                "study": study,
                "archive": name,
                "instance": one.sop_uid,
                "status": f"{one.status:04X}",
                "why": one.why,
                "tries": one.tries,
            }
            for study, name, one in refused[:LISTED]
        ],
    }


def _describe_retrievals(retrievals: "Retrievals") -> list[dict[str, Any]]:
    """What is wanted from archives, and what could not be brought, as JSON."""
    return [
        {
            "study": one.wanting.study,
            "archive": one.wanting.archive,
            "state": one.state,
            "stat": one.stat,
            "why": one.why,
        }
        for one in [*retrievals.under_way(), *retrievals.failed()]
    ]


def _trouble(lane: dict[str, Any] | None) -> str:
    return "" if lane is None else str(lane["trouble"])


async def send(call: Call, asked: ToArchive) -> Result:
    """Send a study to an archive, all of it."""
    one = await in_thread(
        lambda: call.node.archive_queue.ask(asked.study, asked.to, stat=asked.stat)
    )
    return _describe(call, one)


async def retry(call: Call, asked: OfArchive) -> Result:
    """Try again now what waits or failed."""
    many = await in_thread(call.node.archive_queue.retry, asked.study, asked.to)
    if call.serving is not None:
        call.serving.archiving.try_now()
    return {"studies": many}


async def drop(call: Call, asked: NotToArchive) -> Result:
    """Send a study to an archive no more."""
    return _describe(call, await in_thread(call.node.archive_queue.drop, asked.study, asked.to))


async def retrieve(call: Call, asked: FromArchive) -> Result:
    """Bring a study here that is in an archive, all that it gives of it."""
    row = await in_thread(call.node.catalog.find_study, asked.study)
    found = await call.require_serving().retrievals.bring(
        row.study_uid, stat=asked.stat, seconds=float("inf")
    )
    if found is not None and found.has_failed:
        raise NodeError(
            f"study {row.study_uid} does not come from the archive {found.wanting.archive}: "
            f"{found.why}",
            hint="see `radmesh archive`, and the archive's own log",
            code=ExitCode.FAILED,
        )
    row = await in_thread(call.node.catalog.find_study, row.study_uid)
    return {
        "study": row.study_uid,
        "archive": "" if found is None else found.wanting.archive,
        "instances": row.instance_count,
        "missing": "" if found is None else found.why,
    }


_DECIDE = ("send", "admin")

OPERATIONS = (
    Operation("archive", Nothing, archive, writes=False, roles=("look", *_DECIDE)),
    Operation("archive.send", ToArchive, send, writes=True, roles=_DECIDE),
    Operation("archive.retry", OfArchive, retry, writes=True, roles=_DECIDE),
    Operation("archive.retrieve", FromArchive, retrieve, writes=True, roles=_DECIDE),
    Operation("archive.drop", NotToArchive, drop, writes=True, roles=_DECIDE),
)
