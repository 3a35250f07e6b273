"""The node's one SQLite database, `node.db`.

Owns the connection, the transaction and the schema version; what the tables
mean belongs to the files that declare them. All functions are synchronous and
thread-safe: async owners call them through `in_thread`.

WAL with `synchronous=FULL`: a committed transaction survives a power cut.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from node.blocking import must_be_in_thread
from node.errors import ExitCode, NodeError

SCHEMA_VERSION = 1

Parameters = Sequence[Any] | Mapping[str, Any]


class Database:
    """One connection, used by one thread at a time.

    Args:
        path: the database file; made when it does not exist.
        schema: `CREATE TABLE IF NOT EXISTS` statements of every table owner.

    Raises:
        NodeError: the file cannot be opened, or is of a newer version.
    """

    def __init__(self, path: Path, schema: Sequence[str]) -> None:
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=10.0
            )
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
            version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise NodeError(
                    f"the database {path} was written by a newer radmesh (schema {version})",
                    hint="install that version again, or restore the backup made before it",
                    code=ExitCode.NO_HOME,
                )
            for statement in schema:
                self._connection.executescript(statement)
            self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise NodeError(
                f"the database {path} cannot be opened: {error}",
                hint="check the disk and its permissions; restore the home from its backup",
                code=ExitCode.NO_HOME,
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for one write transaction; roll back on any exception.

        Nested use joins the outer transaction.

        Raises:
            NodeError: the disk is full or the database cannot be written.
        """
        must_be_in_thread()
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise NodeError(
                    f"the node's database cannot be written: {error}",
                    hint="check free disk space; nothing that was committed is lost",
                    code=ExitCode.DISK,
                ) from error

    def query(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """All rows of a read."""
        must_be_in_thread()
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def query_one(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """The first row of a read, or None."""
        must_be_in_thread()
        with self._lock:
            row: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return row

    def empty_write_ahead_log(self) -> None:
        """Bring all into the file itself and cut the `-wal` file to nothing.

        Raises:
            NodeError: the disk is full or failing, or another process reads the file.
        """
        try:
            row = self.query_one("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            raise NodeError(
                f"the node's database cannot be written: {error}",
                hint="check free disk space; nothing that was committed is lost",
                code=ExitCode.DISK,
            ) from error
        if row is None or row[0]:
            raise NodeError(
                "another process reads the node's database",
                hint="end it, then run the command again",
                code=ExitCode.BUSY,
            )

    def close(self) -> None:
        """Close the connection; committed data is on disk already."""
        with self._lock:
            self._connection.close()
