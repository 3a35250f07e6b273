"""Images when the power goes off, or the disk fails, at each call on the way into the store.

What must hold afterwards: what was acknowledged (a batch put or adopted, credit given, an
ingest that returned, a receipt that was sent) is on the disk whole, and whatever the log and
the catalog tell of is there, too.
"""

import contextlib
import errno
import itertools
import json
import shutil
from pathlib import Path

import blake3
import exchange_pair
import pytest
import trio
from disk_sweep import KILLED, Run, require_studies_kept, sweep
from download_made import part10
from exchange_pair import SmallStudy
from faulty_disk import FaultyDisk
from node_home import ImageHome
from sources_made import Source, World
from studies_made import make_study

from node.app import Node
from node.errors import NodeError
from node.home import Home
from node.images.quarantine import Quarantine
from node.images.store import BatchStore
from node.network.streams import PeerStream
from node.transfer.incoming import Incoming
from protocol.encoding import encode
from protocol.errors import DigestMismatch
from protocol.source import SourceTransfer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def digest_of(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


ONE, TWO, THREE = (encode(text * 100) for text in (b"one", b"two", b"three"))
BESIDE_ONE = next(
    data
    for data in (encode(b"%d" % number * 50) for number in itertools.count())
    if digest_of(data)[0] == digest_of(ONE)[0]
)
BATCHES = (ONE, TWO, BESIDE_ONE, THREE)


# --- the store -----------------------------------------------------------------------


def fill(run: Run, store: BatchStore | None = None) -> None:
    """Put batches, one of them twice, and adopt others."""
    store = store or BatchStore(run.path / "store", reserve_bytes=0)
    for content in (ONE, TWO, ONE, BESIDE_ONE):
        run.kept[store.put(content)] = content
    incoming = Incoming(run.path / "incoming", store)
    for content in (TWO, THREE):
        incoming.write(digest_of(content), content)
        incoming.flush(digest_of(content))
        # Credit is given now.
        run.kept[digest_of(content)] = content
    incoming.adopt([digest_of(content) for content in (TWO, THREE, ONE)])


def test_power_fails_at_each_call_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in sweep(tmp_path, monkeypatch, fill, least=20):
        run.require_kept(tmp_path)


def test_a_batch_that_a_killed_process_left_is_durable_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in sweep(tmp_path, monkeypatch, fill, KILLED, least=20):
        run.require_kept(tmp_path)
        fill(run)
        run.require_kept(tmp_path)


def test_a_batch_that_the_same_process_could_not_flush_is_durable_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[BatchStore] = []

    def work(run: Run) -> None:
        stores.append(BatchStore(run.path / "store", reserve_bytes=0))
        fill(run, stores[-1])

    for run in sweep(tmp_path, monkeypatch, work, KILLED, least=20):
        if stores:
            fill(run, stores.pop())
            run.require_kept(tmp_path)


def test_what_arrived_before_a_process_was_killed_is_durable_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a fetch goes on: what is here is read and flushed, what is not comes again."""

    def work(run: Run) -> None:
        incoming = Incoming(run.path / "incoming", BatchStore(run.path / "store", reserve_bytes=0))
        for content in BATCHES:
            digest = digest_of(content)
            if incoming.has(digest):
                assert incoming.read(digest) == content
            else:
                incoming.write(digest, content)
            incoming.flush(digest)
            run.kept[digest] = content
        incoming.adopt(map(digest_of, BATCHES))
        for content in BATCHES:
            assert BatchStore(run.path / "store").read(digest_of(content)) == content

    for run in sweep(tmp_path, monkeypatch, work, KILLED, least=20):
        run.require_kept(tmp_path)
        work(run)
        run.require_kept(tmp_path)


@pytest.mark.parametrize("half", [False, True])
def test_a_full_disk_leaves_nothing_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    def work(run: Run) -> None:
        run.disk.half = half
        fill(run)

    for run in sweep(tmp_path, monkeypatch, work, errno.ENOSPC, least=20):
        for path in run.path.rglob("*"):
            if path.is_file():
                assert digest_of(path.read_bytes()).hex() == path.name, f"call {run.at}: {path}"
        fill(run)
        run.require_kept(tmp_path)


def test_a_disk_that_fails_for_good_ends_with_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what was half written can be removed; `sweep` asserts that it is a NodeError."""
    for run in sweep(tmp_path, monkeypatch, fill, least=20):
        if not run.is_whole:
            with pytest.raises(NodeError):
                fill(run)


def test_the_harness_sees_each_flush_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any one flush of the work less, and something that was acknowledged can be lost."""
    flushes = 0
    for at in itertools.count():
        with monkeypatch.context() as patch:
            home = tmp_path / f"run-{at}"
            (home / "incoming").mkdir(parents=True)
            run = Run(at, FaultyDisk(home, patch), home)
            run.disk.forget_flush(at)
            store = BatchStore(home / "store", reserve_bytes=0)
            run.kept[store.put(ONE)] = ONE
            lost = False
            try:
                run.require_kept(tmp_path)
            except (pytest.fail.Exception, NodeError):
                lost = True
            if not run.disk.forgotten:
                assert not lost
                break
            flushes += lost
    # The content, the folder, the folder's name, the store's name.
    assert flushes == 4


def test_a_batch_costs_two_flushes_and_the_first_of_a_folder_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultyDisk(tmp_path, monkeypatch)
    store = BatchStore(tmp_path / "store", reserve_bytes=0)
    flushes = []
    for content in (ONE, BESIDE_ONE, ONE):
        before = disk.flushes
        store.put(content)
        flushes.append(disk.flushes - before)
    assert flushes == [3, 2, 2]


# --- an ingest -------------------------------------------------------------------------


def test_power_fails_at_each_call_of_an_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "cd"
    make_study(source, 3)

    def work(run: Run) -> None:
        home = ImageHome(run.path)
        try:
            report = home.ingest(source)
            assert report.instances_new + report.instances_known == 3
        finally:
            home.close()

    for error in (0, KILLED):
        for run in sweep(tmp_path, monkeypatch, work, error, least=5):
            for what, left in run.survivors(tmp_path):
                require_catalog_kept(left, what)
            if error:
                work(run)
                for what, left in run.survivors(tmp_path):
                    assert require_catalog_kept(left, what) == 1


def require_catalog_kept(left: Path, what: str) -> int:
    """Every batch of every study in the catalog is in the store; how many studies there are."""
    home = ImageHome(left)
    try:
        return require_studies_kept(home.catalog, home.store, what)
    finally:
        home.close()


# --- what is set aside ---------------------------------------------------------------------


def test_a_file_that_was_set_aside_is_kept_whenever_the_power_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"DICM, nearly")

    def work(run: Run) -> None:
        aside = Quarantine(run.path / "quarantine", now=1_790_000_000)
        run.kept[aside.keep(bad, "no DICOM", free_bytes=1 << 20).encode()] = bad.read_bytes()

    def require_aside(run: Run) -> None:
        for what, left in run.survivors(tmp_path):
            for name, content in run.kept.items():
                file = left / "quarantine" / name.decode() / "file"
                assert file.is_file(), what
                assert file.read_bytes() == content, what

    for error in (0, KILLED):
        for run in sweep(tmp_path, monkeypatch, work, error, least=5, parts=("quarantine",)):
            require_aside(run)
            if error:
                work(run)
                require_aside(run)


# --- a fetch, up to its receipt -----------------------------------------------------------


class Told(Source):
    """A source that remembers what the recipient gave it credit for, and its receipt."""

    def __init__(self, directory: Path, study: SmallStudy) -> None:
        super().__init__(directory, "North", study)
        self.forget()

    def forget(self) -> None:
        self.sent = 0
        self.receipts.clear()
        self._end: SourceTransfer | None = None
        self._order: list[tuple[int, int]] = []

    async def send(self, end: SourceTransfer, stream: PeerStream, index: int) -> None:
        if end is not self._end:
            self._end, self._order = end, []
        await super().send(end, stream, index)
        self._order.append((index, len(end.seal_batch(index, self.study.encoded[index]))))

    def credited(self) -> dict[bytes, bytes]:
        """Digest to content of the batches of the last session that credit was given for."""
        if self._end is None:
            return {}
        left = sum(size for _, size in self._order) - self._end.connection.uncredited_bytes
        found = {}
        for index, size in self._order:
            left -= size
            if left < 0:
                break
            found[self.study.manifest.batches[index].digest] = self.study.encoded[index]
        return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Told:
    contents = [part10(number, rows) for number, rows in enumerate((8, 8, 20), 1)]
    study = exchange_pair.make_study(contents, 1000)
    assert len(study.encoded) == 4
    return Told(tmp_path_factory.mktemp("source"), study)


@pytest.fixture(scope="module")
def recipient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home.create(tmp_path_factory.mktemp("recipient") / "south", name="South")
    Node.open(home).close()
    return home.path


def fetch(path: Path, source: Told) -> None:
    """Run one fetch with a home as it is; how it ends is for others to look at."""

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            world = World(node, nursery, source)
            await world.run(0)
            nursery.cancel_scope.cancel()

    with contextlib.closing(Node.open(Home(path))) as node:
        trio.run(run)


def require_told_is_kept(left: Path, source: Told, credited: dict[bytes, bytes], what: str) -> None:
    with contextlib.closing(Node.open(Home(left))) as node:
        for digest, content in credited.items():
            try:
                assert node.incoming.read(digest) == content
            except DigestMismatch as error:
                pytest.fail(f"{what}: a batch is lost that credit was given for: {error}")
        studies = require_studies_kept(node.catalog, node.store, what)
        entries = [json.loads(entry) for entry in node.audit.entries()]
        types = [entry["type"] for entry in entries]
        assert types.count("requested") >= bool(source.sent), what
        if source.receipts:
            assert studies == 1, f"{what}: a study is lost whose receipt was sent"
        if studies or "receipt" in types:
            assert "received" in types, f"{what}: the catalog shows what the log does not tell of"
        if "received" in types:
            for batch in source.study.manifest.batches:
                assert node.store.read(batch.digest)
        for entry in entries:
            if entry["type"] == "receipt":
                assert node.audit.evidence.receipt(entry["details"]["receipt"]) is not None


@pytest.mark.parametrize("error", [0, KILLED])
def test_power_fails_at_each_call_of_a_fetch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Told,
    recipient: Path,
    error: int,
) -> None:
    for at in itertools.count():
        home = tmp_path / f"run-{at}"
        shutil.copytree(recipient, home)
        source.forget()
        with monkeypatch.context() as patch:
            disk = FaultyDisk(home, patch)
            disk.fail(at, error)
            with contextlib.suppress(NodeError):
                fetch(home, source)
            reached = disk.calls > at
            credited = source.credited()
            for kind, left in disk.survivors(tmp_path / "left", seed=at):
                require_told_is_kept(left, source, credited, f"fault at call {at}, {kind}")
            if error:
                # The process was killed, the disk goes on: another process takes up the fetch.
                disk.fail(None)
                fetch(home, source)
                assert source.receipts
                for kind, left in disk.survivors(tmp_path / "left", seed=at):
                    what = f"fault at call {at}, then again, {kind}"
                    require_told_is_kept(left, source, source.credited(), what)
        shutil.rmtree(home)
        if not reached:
            assert source.receipts
            assert len(credited) == len(source.study.encoded)
            assert at > 30
            return
