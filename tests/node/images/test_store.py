import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import blake3
import pytest
from places import ROOT

from node.errors import ExitCode, NodeError
from node.images.store import BatchStore
from protocol.encoding import encode

DiskUsage = namedtuple("DiskUsage", "free")
ONE, TWO = encode(b"one" * 1000), encode(b"two" * 1000)


@pytest.fixture
def store(tmp_path):
    return BatchStore(tmp_path / "store", reserve_bytes=0)


def files(tmp_path):
    return sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_put_and_read(store, tmp_path):
    digest = store.put(ONE)
    assert digest == blake3.blake3(ONE).digest()
    assert store.read(digest) == ONE
    assert store.has(digest)
    assert store.path(digest) == tmp_path / "store" / digest.hex()[:2] / digest.hex()
    assert store.put_many([TWO, ONE]) == [blake3.blake3(TWO).digest(), digest]
    assert sorted(store.digests()) == sorted([digest, blake3.blake3(TWO).digest()])
    assert len(files(tmp_path)) == 2


def test_second_put_changes_nothing(store):
    digest = store.put(ONE)
    before = store.path(digest).stat()
    store.put(ONE)
    assert store.path(digest).stat().st_ino == before.st_ino


def test_damage_is_told_and_a_new_put_repairs_it(store):
    digest = store.put(ONE)
    path = store.path(digest)
    path.write_bytes(ONE[:-1] + b"x")
    with pytest.raises(NodeError, match="damaged") as caught:
        store.read(digest)
    assert caught.value.code is ExitCode.INTEGRITY
    store.put(ONE)
    assert store.read(digest) == ONE


def test_missing_batch(store):
    with pytest.raises(NodeError, match="missing") as caught:
        store.read(bytes(32))
    assert caught.value.code is ExitCode.INTEGRITY
    assert not store.has(bytes(32))
    store.remove(bytes(32))


def test_remove(store):
    digest = store.put(ONE)
    store.remove(digest)
    assert not store.has(digest)
    assert list(store.digests()) == []


def test_digest_of_other_length_is_no_path(store):
    with pytest.raises(ValueError, match="32"):
        store.path(b"../../etc/passwd")


def test_adopt(store, tmp_path):
    contents = {blake3.blake3(content).digest(): content for content in (ONE, TWO)}
    # Again, as after a crash between the move and its record.
    for _ in range(2):
        for digest, content in contents.items():
            (tmp_path / digest.hex()).write_bytes(content)
        store.adopt((tmp_path / digest.hex(), digest) for digest in contents)
        for digest, content in contents.items():
            assert store.read(digest) == content
            assert not (tmp_path / digest.hex()).exists()


def test_a_file_that_is_gone_cannot_be_adopted(store, tmp_path):
    with pytest.raises(NodeError) as caught:
        store.adopt([(tmp_path / "nothing", bytes(32))])
    assert caught.value.code is ExitCode.DISK
    assert list(store.digests()) == []


def test_sweep_removes_half_written_files_and_no_batch(store, tmp_path):
    kept = {store.put(ONE), store.put(TWO)}
    (tmp_path / "store" / "tmp" / "half").write_bytes(b"half of a")
    (tmp_path / "store" / "README").write_bytes(b"of the operator")
    assert store.sweep() == 1
    assert set(store.digests()) == kept
    assert (tmp_path / "store" / "README").exists()


def test_reserve_is_left_free(tmp_path):
    store = BatchStore(tmp_path / "store", reserve_bytes=2**60)
    assert store.free_bytes() == 0
    with pytest.raises(NodeError, match="no room") as caught:
        store.put(ONE)
    assert caught.value.code is ExitCode.DISK
    assert files(tmp_path) == []


FULL = """
import signal, resource, sys
from pathlib import Path
from node.images.store import BatchStore
from node.errors import NodeError, ExitCode
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = BatchStore(Path(sys.argv[1]), reserve_bytes=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.put(b"x" * 5000)
except NodeError as error:
    assert error.code is ExitCode.DISK and "full" in error.message, error.message
    print("refused")
store.put(b"x" * 900)
"""


def test_full_disk_leaves_nothing_half_there(tmp_path):
    """A file size limit makes the kernel fail the write as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "store")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "refused\n", done.stderr
    assert [path.stat().st_size for path in files(tmp_path)] == [900]


def test_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NodeError) as caught:
        BatchStore(tmp_path / "file" / "store")
    assert caught.value.code is ExitCode.DISK


def test_many_threads_put_the_same_batches(store):
    batches = [encode(bytes([number]) * 5000) for number in range(20)]
    failures = []

    def work():
        try:
            store.put_many(batches)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {store.read(digest) for digest in store.digests()} == set(batches)


def test_a_folder_where_a_batch_should_be_is_a_failing_disk(store):
    digest = blake3.blake3(ONE).digest()
    store.path(digest).mkdir(parents=True)
    for call, sentence in (
        (store.read, "a batch cannot be read: Is a directory"),
        (store.remove, "a batch cannot be removed: Is a directory"),
        (lambda _: store.put(ONE), "a batch cannot be stored: Is a directory"),
    ):
        with pytest.raises(NodeError) as caught:
            call(digest)
        assert (caught.value.message, caught.value.code) == (sentence, ExitCode.DISK)
    assert list(store.temporary_path().parent.iterdir()) == []


def test_a_batch_that_is_not_here_cannot_be_flushed(store):
    digest = store.put(ONE)
    store.flush([digest])
    with pytest.raises(NodeError, match="a batch cannot be stored: No such file") as caught:
        store.flush([digest, bytes(32)])
    assert caught.value.code is ExitCode.DISK


def test_nothing_but_its_owner_may_look_into_the_store(store):
    folder = store.path(store.put(ONE)).parent
    for path in (store.temporary_path().parent, folder):
        assert path.stat().st_mode & 0o777 == 0o700


def test_no_file_stays_open(store):
    before = len(list(Path("/proc/self/fd").iterdir()))
    digest = store.put(ONE)
    store.put(ONE)
    store.flush([digest])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_reserve_is_left_free_to_the_byte(tmp_path, monkeypatch):
    store = BatchStore(tmp_path / "other", reserve_bytes=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1000 + len(ONE)))
    assert store.free_bytes() == len(ONE)
    store.put(ONE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1000 + len(TWO) - 1))
    with pytest.raises(NodeError, match=f"no room for {len(TWO)} bytes: {len(TWO) - 1} are left"):
        store.put(TWO)


def test_a_name_in_passing_is_new_and_swept(store):
    first, second = store.temporary_path(), store.temporary_path()
    assert first != second
    first.write_bytes(b"half of a batch")
    assert store.sweep() == 1
    assert not first.exists()


# --- what somebody needs -------------------------------------------------------------


def nobody(digest):
    return False


def test_a_batch_that_two_need_stays_until_both_have_let_it_go(store):
    digest = store.put(ONE)
    first, second = store.pins(), store.pins()
    for pins in (first, second):
        pins.add([digest])
        # Again, as a batch that stands twice in a study.
        pins.add([digest])
    for pins in (first, second):
        assert store.remove_unused([digest], nobody) == []
        assert store.has(digest)
        pins.clear()
        # What was let go is not let go for the other one.
        pins.clear()
    assert store.remove_unused([digest], nobody) == [digest]
    assert not store.has(digest)


@pytest.mark.parametrize("is_here", [False, True])
def test_a_batch_is_pinned_as_it_is_put(store, is_here):
    if is_here:
        store.put(ONE)
    pins = store.pins()
    digest = store.put(ONE, pins)
    assert digest == blake3.blake3(ONE).digest()
    assert store.remove_unused([digest], nobody) == []
    pins.clear()
    assert store.remove_unused([digest], nobody) == [digest]


def test_pins_serve_again_after_they_were_cleared(store):
    digest = store.put(ONE)
    pins = store.pins()
    for _ in range(2):
        pins.add([digest])
        assert store.remove_unused([digest], nobody) == []
        pins.clear()
    assert store.remove_unused([digest], nobody) == [digest]


def test_what_the_catalog_claims_stays_and_is_settled(store):
    claimed, pinned, unused, gone = (store.put(encode(b"%d" % n * 900)) for n in range(4))
    store.remove(gone)
    pins = store.pins()
    pins.add([pinned])
    asked = []

    def is_claimed(digest):
        asked.append(digest)
        return digest == claimed

    digests = [pinned, claimed, unused, gone]
    assert store.remove_unused(digests, is_claimed) == [claimed, unused, gone]
    assert asked == [claimed, unused, gone]
    assert set(store.digests()) == {claimed, pinned}


def test_only_batches_in_their_folders_are_listed(store, tmp_path):
    digest = store.put(b"one")
    root = store.path(digest).parent.parent
    for name in ("x", "abc", f"{digest.hex()[:2]}/{digest.hex()[:10]}", f"abc/{'ab' * 32}"):
        (root / name).parent.mkdir(exist_ok=True)
        if name != "abc":
            (root / name).write_bytes(b"other")
    (root / digest.hex()[:2] / ("cd" * 32 if digest.hex()[:2] != "cd" else "ef" * 32)).write_bytes(
        b""
    )
    (root / "zz").write_bytes(b"a file of the length of a folder's name")
    assert list(store.digests()) == [digest]
