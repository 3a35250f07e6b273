"""Operations on images: ingest, export, list, share, withdraw."""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import trio

from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.catalog.catalog import StudyRow
from node.catalog.rows import SHARED, WITHHELD
from node.catalog.sharing import effects_of_each
from node.catalog.words import Search
from node.errors import ExitCode, NodeError
from node.images.export import export_study
from node.operations import parameters
from node.operations.base import Call, Operation, Report, Result
from node.operations.paging import bytes_of, cursor, place_of, wrong_cursor
from node.operations.parameters import MOST, From
from node.operations.searching import Sought, read_search
from node.setting import parse_mode
from node.sharing.found import FoundStudy
from node.transfer.followed import Growth
from protocol.messages import Record

T = TypeVar("T")

_PROGRESS_SECONDS = 0.1

PAGE_STUDIES = 500
"""Most studies on one page."""


@dataclass(frozen=True)
class Ingest:
    """Parameters of `ingest`; with patients (their Patient IDs) or studies, these alone."""

    paths: parameters.Paths
    patients: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Export:
    """Parameters of `export`; without a mode, the mode of the settings counts."""

    study: str
    directory: parameters.Path
    mode: str | None = None


@dataclass(frozen=True, kw_only=True)
class Studies(Sought):
    """Parameters of `studies`: of which list, and what is looked for in it."""

    peer: str | None = None
    all: bool = False
    to_check: bool = False
    limit: Annotated[int, From(1)] | None = None
    after: str | None = None


@dataclass(frozen=True)
class OfStudy:
    """Parameters of `share` and `withdraw`; with a peer, for this one alone."""

    study: str
    peer: str | None = None


def describe_studies(node: Node, rows: Sequence[StudyRow]) -> list[dict[str, Any]]:
    """Studies of ours as JSON; reads the database."""
    grown = node.followed.growth(row.study_uid for row in rows)
    apart = effects_of_each(node.database, (row.study_uid for row in rows))
    return [
        _describe_study(node, row, grown.get(row.study_uid, Growth()))
        | _describe_apart(node, apart.get(row.study_uid, ()))
        for row in rows
    ]


def _describe_apart(node: Node, apart: Sequence[tuple[bytes, str]]) -> dict[str, list[str]]:
    """The peers for which something else holds than the state of a study."""
    return {
        "shared_to": [node.petname(peer) for peer, effect in apart if effect == SHARED],
        "withdrawn_from": [node.petname(peer) for peer, effect in apart if effect == WITHHELD],
    }


def _describe_study(node: Node, row: StudyRow, growth: Growth) -> dict[str, Any]:
    return {
        "study": row.study_uid,
        "where": "own",
        "state": row.state,
        "origin": "local" if row.origin == "local" else node.petname(bytes.fromhex(row.origin)),
        "modalities": list(row.modalities),
        "study_date": row.study_date,
        "description": row.description,
        "patient_id": row.patient_id,
        "patient_name": row.patient_name,
        "accession_number": row.accession_number,
        "series": row.series_count,
        "instances": row.instance_count,
        "bytes": row.original_bytes,
        "encoded_bytes": row.encoded_bytes,
        "content_root": row.content_root.hex(),
        "held": not row.indexed_in,
        "indexed": row.indexed_in,
        "to_check": row.to_check,
        "note": row.note,
        "grew": _describe_growth(growth),
        "followed_until": growth.until or None,
        "found_until": None,
    }


def _describe_growth(growth: Growth) -> dict[str, int] | None:
    if not growth.images:
        return None
    return {"before": growth.before, "instances": growth.images, "time": growth.grown}


def describe_record(node: Node, peer: bytes, record: Record, held: bool) -> dict[str, Any]:
    """An announced study as JSON; `held` says that the same content is here."""
    return {
        "study": record.study,
        "where": node.petname(peer),
        "state": "announced",
        "origin": node.petname(peer),
        "modalities": list(record.modalities),
        "study_date": record.study_date,
        "description": record.description or "",
        "patient_id": record.patient_id or "",
        "patient_name": record.patient_name or "",
        "accession_number": record.accession or "",
        "series": record.series,
        "instances": record.instances,
        "bytes": record.bytes,
        "encoded_bytes": record.encoded_bytes,
        "content_root": record.content_root.hex(),
        "held": held,
        "indexed": "archive" if record.indexed else "",
        "to_check": "",
        "note": "",
        "grew": None,
        "followed_until": None,
        "found_until": None,
        "shared_to": [],
        "withdrawn_from": [],
    }


def describe_found(node: Node, found: Sequence[FoundStudy]) -> list[dict[str, Any]]:
    """Studies found at peers as JSON, the patient as we asked for; reads the database."""
    own = node.catalog.content_roots(one.record.study for one in found)
    return [
        describe_record(
            node, one.peer, one.record, own.get(one.record.study) == one.record.content_root
        )
        | {
            "state": "found",
            "patient_id": one.patient_id,
            "patient_name": one.patient_name,
            "found_until": one.until,
        }
        for one in found
    ]


async def run_work(
    work: Callable[[Callable[[Any], None], Callable[[], bool]], T],
    report: Report,
    describe: Callable[[Any], dict[str, Any]],
) -> T:
    """Run blocking work in a thread; its progress goes to `report`, at most 10 times a second.

    When the caller is cancelled, this asks the work to stop and waits until it has: it stops
    at a point where nothing is half done.

    Args:
        work: takes a progress function and a function that returns whether to stop.
        report: takes the events, in the trio thread.
        describe: converts the work's progress into an event.
    """
    token = trio.lowlevel.current_trio_token()
    stopped = threading.Event()
    last = 0.0

    def progress(value: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS:
            last = now
            token.run_sync_soon(report, describe(value))

    async def stop_with_us() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped.set()

    failure: Exception | None = None
    result: T
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_with_us)
        try:
            result = await in_thread(work, progress, stopped.is_set)
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def ingest_paths(call: Call, asked: Ingest) -> Result:
    """Take files and folders into the store."""
    from node.images.ingest import Chosen, ingest  # here, since pydicom is slow to load

    node, paths = call.node, [Path(path) for path in asked.paths]

    def work(progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any:
        node.require_intake()
        for path in paths:
            if not path.exists():
                raise NodeError(f"there is no file or folder {path}", code=ExitCode.NOT_FOUND)
        return ingest(
            paths,
            catalog=node.catalog,
            store=node.store,
            quarantine=node.home.quarantine_path,
            audit=node.audit.append,
            progress=progress,
            cancelled=cancelled,
            now=node.clock.now,
            chosen=Chosen(frozenset(asked.patients), frozenset(asked.studies)),
        )

    return dataclasses.asdict(await run_work(work, call.report, dataclasses.asdict))


def read_mode(node: Node, given: str | None) -> int:
    """The permissions of files that are written: the given ones, or those of the settings."""
    if given is None:
        return node.settings.export_mode
    try:
        return parse_mode(given)
    except ValueError as error:
        raise NodeError(str(error), code=ExitCode.USAGE) from error


async def export(call: Call, asked: Export) -> Result:
    """Write the original files of a study."""
    node = call.node
    row = await in_thread(node.catalog.find_study, asked.study)
    directory = Path(asked.directory)
    mode = read_mode(node, asked.mode)

    def work(progress: Callable[[Any], None], _: Callable[[], bool]) -> Any:
        return export_study(node.catalog, node.store, row.study_uid, directory, progress, mode=mode)

    await run_work(work, call.report, dataclasses.asdict)
    return {
        "study": row.study_uid,
        "files": row.instance_count,
        "bytes": row.original_bytes,
        "directory": str(directory),
        "to_check": row.to_check,
    }


async def studies(call: Call, asked: Studies) -> Result:
    """Our studies, those of one peer, or all, newest first: ours, then announced, then found ones.

    `limit` applies to each of the three; `total` is the number of all.
    With `to_check`, only those of ours that somebody should look at; of a search, those that
    it finds.
    """
    return await in_thread(_studies, call.node, asked)


Place = tuple[str, str, str]
"""Study date and UID, and the facility key (hex) of who has it, or ""."""


@dataclass(frozen=True)
class _Lists:
    """The three lists that an answer is made of; each gives rows with their places."""

    node: Node
    search: Search
    to_check: bool
    peer: bytes | None

    def own(self, count: int, after: Place | None) -> list[tuple[Place, dict[str, Any]]]:
        """Studies of ours."""
        rows = self.node.catalog.studies(
            limit=count,
            to_check=self.to_check,
            search=self.search,
            after=None if after is None else after[:2],
        )
        places = [(row.study_date, row.study_uid, "") for row in rows]
        return list(zip(places, describe_studies(self.node, rows), strict=True))

    def others(self, count: int, after: Place | None) -> list[tuple[Place, dict[str, Any]]]:
        """Studies that peers announced."""
        behind = None if after is None else (after[0], after[1], bytes_of(after[2]))
        rows = self.node.feeds.announced(
            peer=self.peer, search=self.search, limit=count, after=behind
        )
        places = [(record.study_date, record.study, key.hex()) for key, record in rows]
        return list(zip(places, _describe_announced(self.node, rows), strict=True))

    def found(self, count: int, after: Place | None) -> list[tuple[Place, dict[str, Any]]]:
        """Studies that we found at peers and that these did not announce."""
        rows = [(_place_of_found(one), one) for one in self._not_announced()]
        chosen = [row for row in rows if after is None or row[0] < after][:count]
        described = describe_found(self.node, [one for _, one in chosen])
        return list(zip((place for place, _ in chosen), described, strict=True))

    def total(self, names: Sequence[str]) -> int:
        """How many studies these lists have."""
        node, count = self.node, 0
        if "own" in names:
            count += node.catalog.study_count(to_check=self.to_check, search=self.search)
        if "others" in names:
            count += node.feeds.announced_count(self.peer, self.search)
        return count + (len(self._not_announced()) if "found" in names else 0)

    def _not_announced(self) -> list[FoundStudy]:
        return [
            one
            for one in self.node.found.all(self.peer, self.search)
            if self.node.feeds.announced_by(one.peer, one.record.study) is None
        ]


def _place_of_found(one: FoundStudy) -> Place:
    return one.record.study_date, one.record.study, one.peer.hex()


def _studies(node: Node, asked: Studies) -> Result:
    key = None if asked.peer is None else node.peers.find(asked.peer).facility_key
    names = ["own"] if key is None else []
    names += ["others", "found"] if key is not None or asked.all else []
    lists = _Lists(node, read_search(asked), asked.to_check, key)
    limit = MOST if asked.limit is None else asked.limit
    first, place, left = names[0], ("", "", ""), limit
    if asked.after is not None:
        first, *parts, left = place_of(asked.after, str, str, str, str, int)
        place = (parts[0], parts[1], parts[2])
        if first not in names:
            raise wrong_cursor()
    reading = {"own": lists.own, "others": lists.others, "found": lists.found}
    found: list[dict[str, Any]] = []
    following = None
    for name in names[names.index(first) :]:
        count = min(left, PAGE_STUDIES - len(found))
        rows = reading[name](count + 1, place if place[1] else None)
        found += [described for _, described in rows[:count]]
        if len(rows) > count and left > count:
            place = rows[count - 1][0] if count else place
            following = cursor(name, *place, left - count)
            break
        place, left = ("", "", ""), limit
    return {"studies": found, "total": lists.total(names), "next": following}


def _describe_announced(node: Node, announced: list[tuple[bytes, Record]]) -> list[dict[str, Any]]:
    own = node.catalog.content_roots(record.study for _, record in announced)
    return [
        describe_record(node, key, record, own.get(record.study) == record.content_root)
        for key, record in announced
    ]


def change_sharing(node: Node, study: str, peer: Peer | None, *, to_share: bool) -> StudyRow:
    """Share or withdraw a study, for all peers or for one."""
    owner = node.shared_studies
    if peer is None:
        return owner.share(study) if to_share else owner.withdraw(study)
    return owner.share_to(study, peer) if to_share else owner.withdraw_from(study, peer)


async def _set_shared(node: Node, asked: OfStudy, *, to_share: bool) -> Result:
    def work() -> Result:
        peer = None if asked.peer is None else node.peers.find(asked.peer)
        row = change_sharing(node, asked.study, peer, to_share=to_share)
        [described] = describe_studies(node, [row])
        return described

    return await in_thread(work)


async def share(call: Call, asked: OfStudy) -> Result:
    """Announce a study to all peers that may see, or to one."""
    return await _set_shared(call.node, asked, to_share=True)


async def withdraw(call: Call, asked: OfStudy) -> Result:
    """Stop sharing a study with all peers, or with one."""
    return await _set_shared(call.node, asked, to_share=False)


OPERATIONS = (
    Operation("ingest", Ingest, ingest_paths, writes=True, local_only=True),
    Operation("export", Export, export, writes=True, local_only=True),
    Operation("studies", Studies, studies, writes=False, roles=("look",)),
    Operation("share", OfStudy, share, writes=True, roles=("send",)),
    Operation("withdraw", OfStudy, withdraw, writes=True, roles=("send", "admin")),
)
