import subprocess
import sys
import threading
from pathlib import Path

import blake3
import pytest

from node.errors import ExitCode, NodeError
from node.images.store import BatchStore
from protocol.encoding import encode

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
        cwd=Path(__file__).parents[1],
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
