"""Reads a SQLite file of the home over a separate connection that can change nothing."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from node.fsck.findings import CannotCheck, Finding, Missing

BUSY_SECONDS = 10.0


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Read one state of the file, while others may write.

    Raises:
        Missing: the file is not there.
        CannotCheck: it cannot be opened, or is of another release.
        sqlite3.DatabaseError: it is damaged.
    """
    if not path.is_file():
        raise Missing(f"there is no {path.name}")
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro",
            uri=True,
            isolation_level=None,
            timeout=BUSY_SECONDS,
        )
    except sqlite3.OperationalError as error:
        raise CannotCheck(f"{path.name} cannot be opened: {error}") from error
    try:
        connection.execute("BEGIN")
        yield connection
    except sqlite3.OperationalError as error:
        # The causes: no such table or column, a failing disk, a lock that another holds.
        raise CannotCheck(f"{path.name} cannot be read: {error}") from error
    finally:
        connection.close()


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query.

    Raises:
        CannotCheck: the file is damaged or cannot be read.
    """
    try:
        with snapshot(path) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.DatabaseError as error:
        raise CannotCheck(f"{path.name} is damaged: {error}") from error


def damage(name: str, connection: sqlite3.Connection, *, fast: bool) -> Iterator[Finding]:
    """Run SQLite's own check of a file; yields at most one finding.

    Args:
        name: name of the file.
        fast: do not check whether the indexes agree with their tables.
    """
    how = "quick_check" if fast else "integrity_check"
    found = connection.execute(f"PRAGMA {how}(1)").fetchone()[0]
    if found != "ok":
        yield damaged(name, found)


def damaged(name: str, reason: object) -> Finding:
    """The finding that a file is damaged; SQLite's reasons contain no value of a row."""
    return Finding("database-damaged", name, f"{name} is damaged: {reason}")
