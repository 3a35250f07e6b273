"""Who reads what: entries first, once for a while; and studies that have to be fetched."""

from pathlib import Path

import pytest
import trio
from node_home import ImageHome
from studies_made import make_study

from node.edges.dicomweb_answers import Refused
from node.edges.dicomweb_cache import MetadataCache
from node.edges.dicomweb_reads import ENTRY_SECONDS, FAILED_SECONDS, Fetching, Reads
from node.edges.dicomweb_settings import WebCaller
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event

VIEWER = WebCaller(name="VIEWER", token_digest="", purpose="treatment")
OTHER = WebCaller(name="OTHER", token_digest="")


class Clock:
    """A clock that the test sets."""

    time = 1000.0

    def now_ms(self) -> int:
        return int(self.time * 1000)

    def now(self) -> int:
        return int(self.time)

    def running(self) -> float:
        return self.time


class Fetched:
    """A fetch of which the test says how it goes."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.why = ""
        self.is_ended = False

    def end(self, why: str) -> None:
        self.is_ended, self.why = True, why
        self.over.set()


@pytest.fixture
def home(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = ImageHome(tmp_path / "home")
    yield made
    made.close()


class Sides:
    """A `Reads` with what it writes and fetches."""

    def __init__(self, home: ImageHome) -> None:
        self.entries: list[Event] = []
        self.fetches: list[Fetched] = []
        self.asked: list[tuple[str, str]] = []
        self.clock = Clock()
        self.full = False
        self.announced = True
        self.reads = Reads(home.catalog, self._append, self._fetch, self.clock)

    def _append(self, event: Event) -> int:
        if self.full:
            raise NodeError("the disk is full", code=ExitCode.DISK)
        self.entries.append(event)
        return len(self.entries)

    async def _fetch(self, study: str, purpose: str) -> Fetching | None:
        self.asked.append((study, purpose))
        if not self.announced:
            return None
        self.fetches.append(Fetched())
        return self.fetches[-1]


async def test_one_entry_for_a_while_and_for_each_caller(home: ImageHome, tmp_path: Path) -> None:
    study = make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    sides = Sides(home)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(sides.reads.begin, VIEWER, study)
    assert [one.type for one in sides.entries] == ["retrieved"]
    assert sides.entries[0].details == {"caller": "dicomweb:VIEWER"}
    assert ("study", study) in sides.entries[0].subjects
    await sides.reads.begin(OTHER, study)
    assert len(sides.entries) == 2
    sides.clock.time += ENTRY_SECONDS - 1
    await sides.reads.begin(VIEWER, study)
    assert len(sides.entries) == 2
    sides.clock.time += 1
    await sides.reads.begin(VIEWER, study)
    assert len(sides.entries) == 3


async def test_without_an_entry_nothing_is_given(home: ImageHome, tmp_path: Path) -> None:
    study = make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    sides = Sides(home)
    sides.full = True
    for _ in range(2):
        with pytest.raises(NodeError, match="full"):
            await sides.reads.begin(VIEWER, study)
    sides.full = False
    await sides.reads.begin(VIEWER, study)
    assert len(sides.entries) == 1


async def test_a_study_that_is_not_here_is_fetched_for_who_has_a_purpose(
    home: ImageHome, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    study = make_study(tmp_path / "in", 1)
    sides = Sides(home)
    with pytest.raises(Refused) as refused:
        await sides.reads.begin(OTHER, study)
    assert refused.value.status == 404
    assert not sides.asked
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await sides.reads.begin(VIEWER, study)
        assert refused.value.status == 503
        assert ("retry-after", "5") in refused.value.headers
    # The second request waits for the fetch of the first.
    assert sides.asked == [(study, "treatment")]
    home.ingest(tmp_path / "in")
    sides.fetches[0].end("")
    await sides.reads.begin(VIEWER, study)
    assert len(sides.entries) == 1


async def test_a_fetch_that_failed_is_not_tried_again_at_once(home: ImageHome) -> None:
    sides = Sides(home)

    async def fail() -> None:
        while not sides.fetches:
            await trio.lowlevel.checkpoint()
        sides.fetches[-1].end("the peer refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        with pytest.raises(Refused, match="the peer refused") as refused:
            await sides.reads.require(VIEWER, "1.2.3")
        assert refused.value.status == 502
    sides.clock.time += FAILED_SECONDS - 1
    with pytest.raises(Refused, match="the peer refused"):
        await sides.reads.require(VIEWER, "1.2.3")
    assert len(sides.asked) == 1
    sides.clock.time += 1
    sides.announced = False
    with pytest.raises(Refused, match="no such study"):
        await sides.reads.require(VIEWER, "1.2.3")
    assert len(sides.asked) == 2


# --- what is kept -----------------------------------------------------------------------


def test_metadata_is_kept_until_something_of_it_changes(home: ImageHome, tmp_path: Path) -> None:
    study = make_study(tmp_path / "in", 2)
    home.ingest(tmp_path / "in")
    cache = MetadataCache(tmp_path / "kept", home.catalog)
    digests = list(home.catalog.held_instances(study).values())
    lines = [b'{"a":1}', b'{"b":"\xc3\xa4"}']
    assert cache.read(study, "1.2", digests) is None
    cache.keep(study, "1.2", digests, lines)
    assert cache.read(study, "1.2", digests) == lines
    assert cache.read(study, "1.2", digests[:1]) is None
    assert cache.read(study, "1.3", digests) is None
    [path] = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert path.stat().st_mode & 0o777 == 0o600
    whole = path.read_bytes()
    for spoilt in (whole[:-1], whole[:40], b"", whole[:50] + b"x" + whole[51:]):
        path.write_bytes(spoilt)
        assert cache.read(study, "1.2", digests) is None
    cache.keep(study, "1.2", digests, lines)
    cache.forget(study)
    assert cache.read(study, "1.2", digests) is None


def test_nothing_is_kept_of_what_is_gone_or_over_a_start(home: ImageHome, tmp_path: Path) -> None:
    study = make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    cache = MetadataCache(tmp_path / "kept", home.catalog)
    digests = list(home.catalog.held_instances(study).values())
    cache.sweep()
    # An instance that is not in the study any more.
    cache.keep(study, "1.2", [bytes(32)], [b"{}"])
    assert cache.read(study, "1.2", [bytes(32)]) is None
    cache.keep(study, "1.2", digests, [b"{}"])
    # It was discarded while its JSON was made.
    cache.keep("1.2.3", "1.2", [bytes(32)], [b"{}"])
    assert cache.read("1.2.3", "1.2", [bytes(32)]) is None
    assert cache.read(study, "1.2", digests) == [b"{}"]
    # The process may have been killed between a discard and its word here.
    cache.sweep()
    assert not (tmp_path / "kept").exists()
    cache.keep(study, "1.2", digests, [b"{}"])
    assert cache.read(study, "1.2", digests) == [b"{}"]


def test_what_is_kept_has_a_bound(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    monkeypatch.setattr("node.edges.dicomweb_cache.CACHE_BYTES", 2000)
    cache = MetadataCache(tmp_path / "kept", home.catalog)
    digests = list(home.catalog.held_instances(study).values())
    for number in range(100):
        cache.keep(study, f"1.{number}", digests, [b'"%d"' % number])
    size = sum(p.stat().st_size for p in (tmp_path / "kept").rglob("*") if p.is_file())
    assert 0 < size <= 2000
    assert cache.read(study, "1.99", digests) == [b'"99"']
    monkeypatch.setattr("node.edges.dicomweb_cache.MAX_SERIES_BYTES", 3)
    cache.keep(study, "2.1", digests, [b"long"])
    assert cache.read(study, "2.1", digests) is None
