"""One SQLite file of the node: `node.db`, or the evidence beside the log.

Owns the connection, the transaction and the schema's version; what the tables mean
belongs to the files that declare them, what a version changed to `node/migrations.py`.
All functions are synchronous and thread-safe: async owners call them through `in_thread`.

WAL with `synchronous=FULL`: a committed transaction survives a power cut.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from node.blocking import must_be_in_thread
from node.durable import rename
from node.errors import ExitCode, NodeError

FIRST_VERSION = 1
"""The schema that the first homes have."""

CHECK_VARIABLE = "RADMESH_CHECK_TRANSACTIONS"
"""In the environment of the tests: each transaction is run twice, and the first is taken back."""

Parameters = Sequence[Any] | Mapping[str, Any]
Result = TypeVar("Result")

_AMONG = (1, 8, 64, 512)
"""How many values one statement of `query_among` names."""


@dataclass(frozen=True)
class Migration:
    """One step from a schema to the next.

    Attributes:
        why: what it is for.
        apply: changes the tables, in a transaction; runs again when that was cut short.
    """

    why: str
    apply: Callable[[sqlite3.Connection], None]


class Database:
    """One connection, used by one thread at a time.

    Args:
        path: the database file; made when it does not exist.
        schema: `CREATE TABLE IF NOT EXISTS` statements of every table owner, as they are
            today.
        migrations: what leads an older file there; the first one makes version 2. Each
            is one transaction, after a copy of the file was put beside it.

    Attributes:
        transactions: how many have ended so far. While it stays the same, so do the rows; read it
            before them.

    Raises:
        NodeError: the file cannot be opened, is damaged, or is of a newer version.
    """

    def __init__(
        self, path: Path, schema: Sequence[str], migrations: Sequence[Migration] = ()
    ) -> None:
        self.transactions = 0
        self._path = path
        self._lock = threading.RLock()
        self._after_commit: list[Callable[[], None]] = []
        self._is_checked = bool(os.environ.get(CHECK_VARIABLE))
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=10.0
            )
            try:
                self._open(schema, migrations)
            except BaseException:
                self._connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise NodeError(
                f"the database {path} cannot be opened: {error}",
                hint="check the disk and its permissions; restore the home from its backup",
                code=ExitCode.NO_HOME,
            ) from error

    def _open(self, schema: Sequence[str], migrations: Sequence[Migration]) -> None:
        self._connection.row_factory = sqlite3.Row
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "cache_size=-16384",
            # What is deleted or replaced is overwritten: it may name a person.
            "secure_delete=ON",
        ):
            self._connection.execute(f"PRAGMA {pragma}")
        newest = FIRST_VERSION + len(migrations)
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > newest:
            raise NodeError(
                f"the database {self._path} was written by a newer radmesh (schema {version})",
                hint="install that version again, or restore the backup made before it",
                code=ExitCode.NO_HOME,
            )
        if 0 < version < newest:
            self._migrate(version, migrations)
        for statement in schema:
            self._connection.executescript(statement)
        if version != newest:
            self._connection.execute(f"PRAGMA user_version={newest}")

    def _migrate(self, version: int, migrations: Sequence[Migration]) -> None:
        self._copy(self._path.with_name(f"{self._path.name}{COPY_MARK}{version}"))
        for number, migration in enumerate(migrations, FIRST_VERSION + 1):
            if number <= version:
                continue
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                migration.apply(self._connection)
                self._connection.execute(f"PRAGMA user_version={number}")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _copy(self, path: Path) -> None:
        """Keep the file as it is, whole or not at all; a copy that is there already stays."""
        if path.exists():
            return
        making = path.with_name(f".{path.name}.tmp")
        making.unlink(missing_ok=True)
        _write_copy(self._connection, making)
        rename(making, path)

    def transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do work in one write transaction, and commit it; roll back on any exception.

        Nested use joins the outer transaction.

        The work may be run again from its beginning, after all that it did here was taken
        back: a database may end a transaction for the sake of another one. So it has no
        effects outside of this database. It consumes no iterator and changes nothing in
        memory that a second run would change once more. What must be done once goes behind
        this call, or is given to `after_commit`.

        Args:
            work: takes the connection, and reads and writes with it.

        Returns:
            What the last run of the work gave.

        Raises:
            NodeError: the disk is full, or the database cannot be written or is damaged.
            Exception: whatever the work raises; it is not run again then.
        """
        must_be_in_thread()
        with self._lock:
            if self._connection.in_transaction:
                return work(self._connection)
            try:
                if self._is_checked:
                    self._run(work, "ROLLBACK")
                result = self._run(work, "COMMIT")
            except sqlite3.Error as error:
                raise _sentence(error, self._path) from error
            finally:
                # Also when it failed: a disk may have taken what it reported as lost.
                self.transactions += 1
            due, self._after_commit = self._after_commit, []
        for act in due:
            act()
        return result

    def _run(self, work: Callable[[sqlite3.Connection], Result], end: str) -> Result:
        """Run the work once, from the beginning of a transaction to this end of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            # What an earlier run, or a failed one, wanted done is void.
            self._after_commit.clear()
            result = work(self._connection)
            self._connection.execute(end)
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return result

    def after_commit(self, act: Callable[[], None]) -> None:
        """Do something when the transaction at hand is committed; never when it is not.

        What must not be lost belongs into the transaction: a kill loses this.
        """
        with self._lock:
            if self._connection.in_transaction:
                self._after_commit.append(act)
                return
        act()

    def query(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """All rows of a read.

        Raises:
            NodeError: the database cannot be read or is damaged.
        """
        must_be_in_thread()
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise _sentence(error, self._path) from error

    def query_one(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """The first row of a read, or None.

        Raises:
            NodeError: the database cannot be read or is damaged.
        """
        must_be_in_thread()
        with self._lock:
            try:
                row: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            except sqlite3.Error as error:
                raise _sentence(error, self._path) from error
            return row

    def query_among(
        self, sql: str, values: Iterable[Any], parameters: Sequence[Any] = ()
    ) -> list[sqlite3.Row]:
        """All rows of a read that wants any of these values, in no order.

        Args:
            sql: with the values as `IN (?*)`, its last parameters.
            values: however many; each counts once.
            parameters: those before.

        Raises:
            NodeError: the database cannot be read or is damaged.
        """
        wanted = list(dict.fromkeys(values))
        found: list[sqlite3.Row] = []
        # One lock, so that nothing of this process is written between two portions.
        with self._lock:
            for start in range(0, len(wanted), _AMONG[-1]):
                portion = wanted[start : start + _AMONG[-1]]
                # Few lengths, so that few statements are prepared and kept.
                length = next(one for one in _AMONG if one >= len(portion))
                portion += portion[-1:] * (length - len(portion))
                marks = ", ".join("?" * length)
                found += self.query(sql.replace("?*", marks), (*parameters, *portion))
        return found

    def empty_write_ahead_log(self) -> None:
        """Bring all into the file itself and cut the `-wal` file to nothing.

        Raises:
            NodeError: the disk is full or failing, or another process reads the file.
        """
        row = self.query_one("PRAGMA wal_checkpoint(TRUNCATE)")
        if row is None or row[0]:
            raise NodeError(
                "another process reads the node's database",
                hint="end it, then run the command again",
                code=ExitCode.BUSY,
            )

    def drop_copies(self) -> None:
        """Delete the copies that migrations left beside the file: they name patients.

        Raises:
            NodeError: the disk is failing.
        """
        try:
            for path in old_copies(self._path):
                path.unlink()
        except OSError as error:
            raise NodeError(
                f"an old copy of the database cannot be deleted: {error.strerror}",
                hint="check the disk and the permissions of the node's home",
                code=ExitCode.DISK,
            ) from error

    def close(self) -> None:
        """Close the connection; committed data is on disk already."""
        with self._lock:
            self._connection.close()


def copy_database(path: Path, target: Path) -> None:
    """Copy one state of a database, durably, while others read and write it.

    Args:
        path: the file.
        target: must not exist; of one file, without a write-ahead log.

    Raises:
        NodeError: the file cannot be read, or the copy not written.
    """
    must_be_in_thread()
    try:
        # Of its own, so that nobody waits for this one.
        source = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=10.0)
        try:
            _write_copy(source, target)
        finally:
            source.close()
    except sqlite3.Error as error:
        raise NodeError(
            f"the database {path} cannot be copied to {target.parent}: {error}",
            hint="check free disk space there, and this home with `radmesh check`",
            code=ExitCode.DISK,
        ) from error


def _write_copy(source: sqlite3.Connection, target: Path) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    copy = sqlite3.connect(target, isolation_level=None)
    try:
        copy.execute("PRAGMA synchronous=FULL")
        source.backup(copy)
        # Or else the copy needs a -wal file of its own.
        copy.execute("PRAGMA journal_mode=DELETE")
    finally:
        copy.close()


COPY_MARK = ".before-schema-"
"""In the name of a copy that was made before a migration; the old version follows."""


def old_copies(path: Path) -> list[Path]:
    """The copies that migrations of a database left beside it. They name patients."""
    return sorted(path.parent.glob(f"{path.name}{COPY_MARK}*"))


def _sentence(error: sqlite3.Error, path: Path) -> Exception:
    """What a disk or a damaged file caused, for people; a fault of ours stays as it is.

    SQLite's own text never holds a value of a row.
    """
    if isinstance(error, sqlite3.OperationalError):
        return NodeError(
            f"the node's database cannot be used: {error}",
            hint="check free disk space; nothing that was committed is lost",
            code=ExitCode.DISK,
        )
    if type(error) is sqlite3.DatabaseError:
        return NodeError(
            f"the database {path} is damaged: {error}",
            hint="stop the node and restore the home from its backup",
            code=ExitCode.NO_HOME,
        )
    return error
