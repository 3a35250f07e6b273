"""The node's database on PostgreSQL, for tests only: do both databases accept our SQL?

`Server` is Debian's PostgreSQL in a temporary folder, reached only by its Unix socket.
`PostgresDatabase` replaces `node.database.Database`: transactions and queries are the node's
own code, over a connection that translates word by word. It changes only what a dialect must
change: the form of parameters, the names of two types, and SQLite's statements about its
file. A statement that needs more than that fails, which is the purpose.

Each file of a test is a schema (a namespace) of one database.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from pg8000.converters import make_params
from pg8000.core import CoreConnection
from pg8000.exceptions import DatabaseError

from node.database import CHECK_VARIABLE, Database, Migration

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
"""Where Debian puts it, one for each of its releases."""

ABSENT = "needs Debian's PostgreSQL: make postgres (or: apt install postgresql)"

_INTEGER, _TEXT, _BYTES, _UNKNOWN = 20, 25, 17, 0
"""Numbers of PostgreSQL's types: bigint, text, bytea; to be found out by the server."""

_ACCOUNT = "postgres"

MET = ("40001", "40P01")
"""What the server says of a transaction that it ended for the sake of another one: their order
would make a difference, or they wait for each other."""

ATTEMPTS = 5
"""How often a transaction is run before that is an error."""

Result = TypeVar("Result")


class Server:
    """A PostgreSQL of its own; `close` leaves nothing behind.

    Args:
        programs: the folder with `initdb` and `pg_ctl`.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        # PostgreSQL refuses to run as root.
        self._account = _ACCOUNT if os.geteuid() == 0 else None
        if self._account is not None:
            shutil.chown(self.folder, self._account, self._account)
        data = self.folder / "data"
        try:
            # Names are compared byte by byte, as SQLite does.
            self._run(
                "initdb", "--pgdata", str(data), "--auth=trust", f"--username={_ACCOUNT}",
                "--locale=C", "--encoding=UTF8", "--no-sync",
            )  # fmt: skip
            settings = {
                "listen_addresses": "",
                "unix_socket_directories": str(self.folder),
                "max_connections": "300",
                # What is lost with the machine is lost with the test.
                "fsync": "off",
                "synchronous_commit": "off",
                "full_page_writes": "off",
            }
            with (data / "postgresql.conf").open("a") as file:
                file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
            log = str(self.folder / "log")
            self._run("pg_ctl", "start", "--pgdata", str(data), "--log", log, "--wait")
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _run(self, program: str, *arguments: str) -> None:
        said = self.folder / "said"
        # Into a file: a server that is started would hold a pipe open.
        with said.open("w") as file:
            done = subprocess.run(
                [self._programs / program, *arguments],
                cwd=self.folder,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                user=self._account,
                group=self._account,
                extra_groups=None if self._account is None else [],
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=60,
            )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {said.read_text()}")

    def close(self) -> None:
        """End it and delete its folder."""
        try:
            self._run("pg_ctl", "stop", "--pgdata", str(self.folder / "data"), "--mode=immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """The newest PostgreSQL of this machine, running."""
    running = Server(FOUND[-1].parent)
    try:
        yield running
    finally:
        running.close()


def connect(folder: Path) -> CoreConnection:
    """A connection to the server in this folder."""
    made = CoreConnection(
        _ACCOUNT, unix_sock=str(folder / ".s.PGSQL.5432"), database=_ACCOUNT, timeout=60
    )
    # Sums are of type numeric there; all of ours are whole.
    made.register_in_adapter(1700, lambda text: int(Decimal(text)))
    return made


# --- the dialect -----------------------------------------------------------------------

_SCHEMA_WORDS = (
    (r"--[^\n]*", ""),
    (r"\)\s*STRICT(,\s*WITHOUT ROWID)?", ")"),
    (r"\bBLOB\b", "bytea"),
    (r"\bINTEGER\b", "bigint"),
)
_WORDS = {
    "BEGIN IMMEDIATE": "BEGIN ISOLATION LEVEL SERIALIZABLE",
    # Of tests that make many databases; the server flushes nothing anyway.
    "PRAGMA synchronous=OFF": "SELECT 0",
}
_PARAMETER = re.compile(r"'[^']*'|\?(?P<number>\d*)|(?<![:\w]):(?P<name>\w+)")


def of_schema(text: str) -> str:
    """What makes the same tables there."""
    for pattern, other in _SCHEMA_WORDS:
        text = re.sub(pattern, other, text)
    return text


@functools.cache
def of_statement(sql: str) -> tuple[str, tuple[int | str, ...]]:
    """A statement with numbered parameters, and which of ours each of them is."""
    wanted: list[int | str] = []
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        if found["name"] is not None:
            which: int | str = found["name"]
        elif found["number"] is None:
            return found[0]  # quoted
        elif found["number"]:
            which = int(found["number"]) - 1
        else:
            which, count = count, count + 1
        if which not in wanted:
            wanted.append(which)
        return f"${wanted.index(which) + 1}"

    return _PARAMETER.sub(number, _WORDS.get(sql, sql)), tuple(wanted)


class Row(tuple[Any, ...]):
    """A row whose columns have places and names, as `sqlite3.Row`."""

    names: dict[str, int]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names[key] if isinstance(key, str) else key)

    def keys(self) -> list[str]:
        """The names of the columns."""
        return list(self.names)


class Cursor:
    """What a statement gave."""

    def __init__(self, rows: Iterable[Row], rowcount: int) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def fetchone(self) -> Row | None:
        """The next row."""
        return next(self._rows, None)

    def fetchall(self) -> list[Row]:
        """All that are left."""
        return list(self._rows)


class Connection:
    """A connection as `sqlite3` has them, as far as the owners of tables use it."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self._server = connect(folder)
        self._is_full = False
        self._prepared: dict[tuple[str, tuple[int, ...]], tuple[Any, ...]] = {}
        self._server.execute_simple(f"CREATE SCHEMA IF NOT EXISTS {namespace}")
        self._server.execute_simple(f"SET search_path = {namespace}")

    def __del__(self) -> None:
        self.close()

    @property
    def in_transaction(self) -> bool:
        """Whether one has begun, also when a statement of it failed."""
        return bool(self._server._transaction_status != b"I")

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Cursor:
        """Run one statement."""
        if sql.startswith("PRAGMA query_only="):
            # Of tests of a database that cannot be written: there no change begins.
            self._is_full = sql.endswith("ON")
            return Cursor((), 0)
        if self._is_full and sql.startswith("BEGIN"):
            raise sqlite3.OperationalError("attempt to write a readonly database")
        text, wanted = of_statement(sql)
        values = [_value(parameters[one]) for one in wanted]  # type: ignore[index, call-overload]
        types = tuple(_type(value) for value in values)
        if (text, types) not in self._prepared:
            self._prepared[text, types] = self._server.prepare_statement(text, types)
        name, columns, read = self._prepared[text, types]
        sent = make_params(self._server.py_types, values)
        done = self._server.execute_named(name, sent, columns, read, text)
        names = {column["name"]: place for place, column in enumerate(done.columns or ())}
        rows = [_row(row, names) for row in done.rows or ()]
        return Cursor(rows, done.row_count)

    def executemany(self, sql: str, many: Iterable[Sequence[Any]]) -> None:
        """Run one statement many times."""
        for parameters in many:
            self.execute(sql, parameters)

    def executescript(self, script: str) -> None:
        """Make tables."""
        self._server.execute_simple(of_schema(script))

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(Exception):
            self._server.close()


def _row(values: Iterable[Any], names: dict[str, int]) -> Row:
    row = Row(values)
    row.names = names
    return row


def _value(value: Any) -> Any:
    # Flags are integers in the tables.
    return int(value) if isinstance(value, bool) else value


def _type(value: Any) -> int:
    if isinstance(value, int):
        return _INTEGER
    if isinstance(value, str):
        return _TEXT
    return _BYTES if isinstance(value, bytes | bytearray) else _UNKNOWN


class PostgresDatabase(Database):
    """`node.database.Database` on a server, which `RADMESH_TEST_POSTGRES` names.

    A file that does not exist is an empty database, as it is with SQLite.
    """

    _paths: dict[str, Path] = {}  # noqa: RUF012 (one for all of them)

    def __init__(
        self, path: Path, schema: Sequence[str], migrations: Sequence[Migration] = ()
    ) -> None:
        folder = Path(os.environ["RADMESH_TEST_POSTGRES"])
        self.transactions = 0
        self._path = path
        self._lock = threading.RLock()
        self._after_commit = []
        self._is_checked = bool(os.environ.get(CHECK_VARIABLE))
        namespace = f"home_{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}"
        if not path.exists():
            self._drop_what_is_gone(folder)
            path.touch(mode=0o600)
        self._paths[namespace] = path
        self._connection = Connection(folder, namespace)  # type: ignore[assignment]
        for statement in schema:
            self._connection.executescript(statement)

    @classmethod
    def _drop_what_is_gone(cls, folder: Path) -> None:
        """Drop the tables of files that were deleted: properties make hundreds of them."""
        gone = [name for name, path in cls._paths.items() if not path.exists()]
        if gone:
            server = connect(folder)
            server.execute_simple("SET client_min_messages = warning")
            for name in gone:
                server.execute_simple(f"DROP SCHEMA {name} CASCADE")
                del cls._paths[name]
            server.close()

    def _run(self, work: Callable[[sqlite3.Connection], Result], end: str) -> Result:
        for _ in range(ATTEMPTS - 1):
            try:
                return super()._run(work, end)
            except DatabaseError as error:
                if error.args[0]["C"] not in MET:
                    raise
        return super()._run(work, end)

    def empty_write_ahead_log(self) -> None:
        """There is no such file."""
