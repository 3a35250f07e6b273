"""One check of a home: all parts, and a second look at the findings of the first."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.fsck import tables
from node.fsck.arrivals import check_arrivals
from node.fsck.catalog import Catalog, read_catalog
from node.fsck.feeds import check_feeds
from node.fsck.files import Progress, View, check_incoming, check_store
from node.fsck.findings import CannotCheck, Finding, Missing
from node.fsck.log import Log, check_log


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        findings: the findings, in order of kind and place.
        studies, batches: their numbers in the catalog.
        batch_bytes: size of these batches.
        entries: number of entries in the log.
        root: the root over them, 32 bytes.
        in_use: whether a process had the home.
    """

    findings: tuple[Finding, ...]
    studies: int
    batches: int
    batch_bytes: int
    entries: int
    root: bytes
    in_use: bool


def check_home(
    home: Path,
    *,
    now: float,
    fast: bool = False,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Check a home; changes nothing, and a node may run on it meanwhile.

    If the first look finds anything, there is a second one. A finding counts only if both
    looks have it: otherwise it was a change under way.

    Args:
        home: its folder.
        now: seconds since the epoch, UTC.
        fast: compare only the sizes of batches, without reading them.
        progress: called with the bytes of batches read so far, and of all.

    Raises:
        CannotCheck: a part cannot be read, so there is no result for the whole.
    """
    in_use = is_in_use(home)

    def look(only: frozenset[bytes] | None) -> _Look:
        nonlocal in_use
        in_use = in_use or is_in_use(home)
        return _look(View(home, in_use, now, fast), only, progress)

    try:
        found = look(None)
        if found.findings:
            changed = (one.where for one in found.findings if one.kind == "batch-changed")
            again = look(frozenset(bytes.fromhex(name) for name in changed))
            both = {(one.kind, one.where) for one in again.findings}
            found.findings = [one for one in found.findings if (one.kind, one.where) in both]
    except OSError as error:
        raise CannotCheck(f"{error.filename or home} cannot be read: {error.strerror}") from error
    return Report(
        findings=tuple(sorted(set(found.findings))),
        studies=len(found.catalog.studies),
        batches=len(found.catalog.batches),
        batch_bytes=sum(found.catalog.batches.values()),
        entries=found.log.size,
        root=found.log.root,
        in_use=in_use,
    )


@dataclass
class _Look:
    catalog: Catalog
    log: Log
    findings: list[Finding]


def _look(view: View, only: frozenset[bytes] | None, progress: Progress) -> _Look:
    # Read the database before the files and the log: the node writes each entry and each
    # batch before the row that needs it.
    catalog, findings = _database(view)
    if catalog is not None:
        findings += check_store(view, catalog, only, progress)
        findings += check_incoming(view, catalog)
        findings += check_arrivals(view)
        if not any(one.kind in ("batch-size", "catalog-reference") for one in findings):
            findings += _sums(catalog)
    log, found = check_log(view.home, in_use=view.in_use, fast=view.fast)
    findings += found
    if catalog is not None and log.is_readable:
        findings += _entries(catalog, log)
    return _Look(catalog or Catalog(), log, findings)


def _database(view: View) -> tuple[Catalog | None, list[Finding]]:
    try:
        with tables.snapshot(view.home / "node.db") as connection:
            findings = list(tables.damage("node.db", connection, fast=view.fast))
            if findings:
                return None, findings
            catalog, found = read_catalog(connection)
            return catalog, [*found, *check_feeds(connection, view.now)]
    except (Missing, sqlite3.DatabaseError) as error:
        return None, [tables.damaged("node.db", error)]


def _sums(catalog: Catalog) -> Iterator[Finding]:
    for uid, (claimed, here) in sorted(catalog.sums.items()):
        what = f"the catalog is wrong about study {uid}: {claimed} bytes, and its batches {here}"
        yield Finding("catalog-study", uid, what)


def _entries(catalog: Catalog, log: Log) -> Iterator[Finding]:
    """Find studies without an entry that says how they came."""
    for uid, root in sorted(catalog.studies.items()):
        if uid in log.told or root in log.roots:
            continue
        # The entry may be one whose opening was erased or is missing (a finding of its own).
        if not log.unopened:
            yield Finding("entry-missing", uid, f"no entry of the log tells how study {uid} came")


def is_in_use(home: Path) -> bool:
    """Whether a process has locked the home now."""
    try:
        descriptor = os.open(home / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
