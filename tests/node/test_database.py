"""Transactions, what follows a commit, and the sentences for what a disk can do."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from node import blocking
from node.database import CHECK_VARIABLE, Database, Migration, copy_database, old_copies
from node.errors import ExitCode, NodeError

T = TypeVar("T")

SCHEMA = ("CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY) STRICT;",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(path, SCHEMA)
    yield opened
    opened.close()


def _add(database: Database, *names: str) -> None:
    database.transact(
        lambda connection: connection.executemany(
            "INSERT INTO things VALUES (?)", [(name,) for name in names]
        )
    )


def _names(database: Database) -> list[str]:
    return [row["name"] for row in database.query("SELECT name FROM things ORDER BY name")]


def _pragma(path: Path, name: str) -> object:
    with sqlite3.connect(path) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


# --- transactions ---------------------------------------------------------------------


def test_an_exception_takes_back_all_that_was_done(database: Database) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO things VALUES ('a')")

        def join(inner: sqlite3.Connection) -> str:
            assert inner is connection
            inner.execute("INSERT INTO things VALUES ('b')")
            return "joined"

        assert database.transact(join) == "joined"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.transact(fail)
    assert _names(database) == []
    _add(database, "c")
    assert _names(database) == ["c"]


def test_what_is_inside_ends_with_what_is_outside(database: Database, path: Path) -> None:
    other = Database(path, SCHEMA)

    def add(_: sqlite3.Connection) -> int:
        _add(database, "a")
        assert _names(other) == []
        return 7

    assert database.transact(add) == 7
    assert _names(other) == ["a"]
    other.close()


def test_what_follows_a_commit_comes_after_it_and_once(database: Database, path: Path) -> None:
    other, seen = Database(path, SCHEMA), list[list[str]]()

    def add(_: sqlite3.Connection) -> None:
        _add(database, "a")
        database.after_commit(lambda: seen.append(_names(other)))
        database.transact(lambda _: database.after_commit(lambda: seen.append([])))
        assert seen == []

    database.transact(add)
    assert seen == [["a"], []]
    _add(database, "b")
    assert len(seen) == 2
    database.after_commit(lambda: seen.append(["at once"]))
    assert seen[2:] == [["at once"]]
    other.close()


def test_what_follows_a_commit_does_not_follow_a_failure(database: Database) -> None:
    seen: list[str] = []

    def fail(_: sqlite3.Connection) -> None:
        database.after_commit(lambda: seen.append("lost"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.transact(fail)
    _add(database, "a")
    assert seen == []


class _Met(Exception):
    """What a database says that ended a transaction for the sake of another one."""


class _Meeting(Database):
    """The first transaction that is to be committed meets another one."""

    is_first = True

    def _run(self, work: Callable[[sqlite3.Connection], T], end: str) -> T:
        def meet(connection: sqlite3.Connection) -> T:
            result = work(connection)
            if end == "COMMIT" and self.is_first:
                self.is_first = False
                raise _Met
            return result

        try:
            return super()._run(meet, end)
        except _Met:
            return super()._run(work, end)


@pytest.mark.parametrize("is_checked", [False, True])
def test_of_work_that_is_run_again_the_last_run_stays(path: Path, is_checked: bool) -> None:
    database = _Meeting(path, SCHEMA)
    database._is_checked = is_checked
    runs, seen = 0, list[int]()

    def work(connection: sqlite3.Connection) -> int:
        nonlocal runs
        runs += 1
        number = runs
        assert _names(database) == []
        _add(database, f"run {number}")
        database.after_commit(lambda: seen.append(number))
        return number

    expected = 3 if is_checked else 2
    assert database.transact(work) == runs == expected
    assert (_names(database), seen) == ([f"run {expected}"], [expected])
    database.close()


def test_work_that_raises_is_not_run_again(database: Database) -> None:
    runs = []

    def fail(_: sqlite3.Connection) -> None:
        runs.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.transact(fail)
    assert runs == [1]


def test_work_is_run_once_outside_of_the_tests(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHECK_VARIABLE)
    database, runs = Database(path, SCHEMA), list[int]()
    database.transact(lambda _: runs.append(1))
    assert runs == [1]
    database.close()


def test_threads_take_turns(database: Database) -> None:
    def number(connection: sqlite3.Connection) -> None:
        [row] = connection.execute("SELECT count(*) FROM things")
        connection.execute("INSERT INTO things VALUES (?)", (f"{row[0]:04}",))

    def count() -> None:
        for _ in range(50):
            database.transact(number)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _names(database) == [f"{number:04}" for number in range(200)]


# --- how the file is kept -------------------------------------------------------------


def test_a_commit_survives_a_power_cut_and_what_is_deleted_is_overwritten(
    database: Database,
) -> None:
    pragmas = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "user_version": 1,
    }
    for name, value in pragmas.items():
        row = database.query_one(f"PRAGMA {name}")
        assert row is not None
        assert row[0] == value


def test_nothing_that_was_deleted_is_in_the_files(database: Database, path: Path) -> None:
    name = "DOE^JANE-MARKER"
    _add(database, name)
    database.transact(lambda connection: connection.execute("DELETE FROM things"))
    database.empty_write_ahead_log()
    for file in path.parent.iterdir():
        assert name.encode() not in file.read_bytes()
    assert path.with_name("node.db-wal").stat().st_size == 0


def test_who_reads_keeps_the_log_of_the_database(database: Database, path: Path) -> None:
    _add(database, "a")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM things").fetchall()
    _add(database, "b")
    database._connection.execute("PRAGMA busy_timeout=0")
    with pytest.raises(NodeError, match="another process reads") as caught:
        database.empty_write_ahead_log()
    assert caught.value.code is ExitCode.BUSY
    reader.close()
    database.empty_write_ahead_log()


# --- copies ---------------------------------------------------------------------------


def test_a_copy_is_one_file_that_only_its_owner_reads(
    database: Database, path: Path, tmp_path: Path
) -> None:
    _add(database, "a", "b")
    target = tmp_path / "copies" / "node.db"
    target.parent.mkdir()

    def copied(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO things VALUES ('uncommitted')")
        target.unlink(missing_ok=True)
        copy_database(path, target)

    database.transact(copied)
    assert [file.name for file in target.parent.iterdir()] == ["node.db"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert _pragma(target, "journal_mode") == "delete"
    copy = Database(target, SCHEMA)
    assert _names(copy) == ["a", "b"]
    copy.close()


def test_a_copy_overwrites_nothing(database: Database, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "other"
    target.write_bytes(b"something")
    with pytest.raises(FileExistsError):
        copy_database(path, target)
    assert target.read_bytes() == b"something"


def test_a_copy_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="cannot be copied") as caught:
        copy_database(tmp_path / "none.db", tmp_path / "copy.db")
    assert caught.value.code is ExitCode.DISK
    assert not (tmp_path / "none.db").exists()


def test_copies_of_older_schemas_are_dropped(database: Database, path: Path) -> None:
    for version in (1, 2):
        path.with_name(f"node.db.before-schema-{version}").write_bytes(b"DOE^JANE")
    other = path.with_name("evidence.db.before-schema-1")
    other.write_bytes(b"another's")
    assert len(old_copies(path)) == 2
    database.drop_copies()
    assert old_copies(path) == []
    assert other.exists()


def test_a_copy_that_cannot_be_dropped_is_told(database: Database, path: Path) -> None:
    path.with_name("node.db.before-schema-1").mkdir()
    with pytest.raises(NodeError, match="an old copy") as caught:
        database.drop_copies()
    assert caught.value.code is ExitCode.DISK


# --- what goes wrong ------------------------------------------------------------------


def test_a_fault_of_ours_is_no_fault_of_the_disk(database: Database) -> None:
    _add(database, "a")
    with pytest.raises(sqlite3.IntegrityError):
        _add(database, "a")
    assert _names(database) == ["a"]
    with pytest.raises(sqlite3.ProgrammingError):
        database.query("SELECT ?", ())


def test_a_database_that_cannot_be_used_is_told(database: Database) -> None:
    for ask in (
        lambda: database.query("SELECT * FROM nothing"),
        lambda: database.query_one("SELECT * FROM nothing"),
    ):
        with pytest.raises(NodeError, match="cannot be used") as caught:
            ask()
        assert caught.value.code is ExitCode.DISK
        assert caught.value.hint


def test_a_full_disk_is_told_and_what_was_there_stays(database: Database) -> None:
    _add(database, "a")
    pages = database.query_one("PRAGMA page_count")
    assert pages is not None
    database.query_one(f"PRAGMA max_page_count={pages[0]}")
    with pytest.raises(NodeError, match="cannot be used: database or disk is full") as caught:
        _add(database, *(f"{number:0100}" for number in range(1000)))
    assert caught.value.code is ExitCode.DISK
    assert _names(database) == ["a"]


def test_a_damaged_file_is_told(database: Database, path: Path) -> None:
    _add(database, *(f"{number:0500}" for number in range(200)))
    database.empty_write_ahead_log()
    database.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    damaged = Database(path, ())
    with pytest.raises(NodeError, match="is damaged") as caught:
        damaged.query("SELECT * FROM things")
    assert caught.value.code is ExitCode.NO_HOME
    damaged.close()


def test_a_file_that_is_no_database_is_told_and_let_go(path: Path) -> None:
    path.write_bytes(b"no database at all".ljust(5000))
    with pytest.raises(NodeError, match="cannot be opened") as caught:
        Database(path, SCHEMA)
    assert caught.value.code is ExitCode.NO_HOME


def test_the_newest_schema_is_taken_and_a_newer_one_is_not(path: Path) -> None:
    migrations = (Migration("none", lambda connection: None),)
    Database(path, SCHEMA, migrations).close()
    assert _pragma(path, "user_version") == 2
    assert old_copies(path) == [], "a new file has nothing to keep"
    Database(path, SCHEMA, migrations).close()
    assert old_copies(path) == []
    with pytest.raises(NodeError, match="newer radmesh") as caught:
        Database(path, SCHEMA)
    assert caught.value.code is ExitCode.NO_HOME


def test_only_the_steps_that_are_missing_are_made(path: Path) -> None:
    made: list[int] = []
    steps = tuple(
        Migration("step", lambda connection, number=number: made.append(number))  # type: ignore[misc]
        for number in (2, 3, 4)
    )
    Database(path, SCHEMA, steps[:1]).close()
    Database(path, SCHEMA, steps).close()
    assert made == [3, 4]
    assert _pragma(path, "user_version") == 4
    assert [copy.name for copy in old_copies(path)] == ["node.db.before-schema-2"]


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 512, 513, 1100])
def test_however_many_values_are_asked_for_each_row_comes_once(
    database: Database, count: int
) -> None:
    names = [f"{number:04}" for number in range(count)]
    _add(database, "before", *names, "behind")
    rows = database.query_among(
        "SELECT name FROM things WHERE name <> ? AND name IN (?*)",
        [*names, *reversed(names), "absent", "before"],
        ("before",),
    )
    assert sorted(row["name"] for row in rows) == names


# --- where it may be called ------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda database, path: database.query("SELECT 1"),
        lambda database, path: database.query_one("SELECT 1"),
        lambda database, path: database.transact(lambda connection: None),
        lambda database, path: copy_database(path, path.with_name("copy.db")),
    ],
    ids=["query", "query_one", "transact", "copy"],
)
def test_no_call_may_hold_up_the_event_loop(
    database: Database,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Database, Path], object],
) -> None:
    monkeypatch.setattr(blocking, "_loop", threading.get_ident())
    with pytest.raises(AssertionError, match="event loop"):
        call(database, path)
    assert not path.with_name("copy.db").exists()
