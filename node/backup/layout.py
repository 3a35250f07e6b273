"""The layout of a backup on disk, and its record `backup.json`."""

import json
import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import blake3

from node.catalog.copies import batches_named, studies_that_need
from node.errors import ExitCode, NodeError
from node.fsck import tables
from node.fsck.findings import CannotCheck

RECORD = "backup.json"
POOL = "store"
SEALED_KEYS = "keys.sealed"
WERE_SEALED = "were-sealed"
"""A member of `keys.sealed` beside the keys: they were under a passphrase in the home, too."""

SETTLED = ("card", "config.toml")
LOG, CHECKPOINT, EVIDENCE = "audit/log", "audit/checkpoint", "audit/evidence.db"
DATABASE = "node.db"

FORMAT = 1

_RECORD_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6}Z(-[0-9]+)?")
_BLOCK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Record:
    """The content of `backup.json`.

    Attributes:
        format: version of the record's format.
        fingerprint: fingerprint of the facility.
        time: when the backup was made, seconds since the epoch, UTC.
        size, root: size and root of the log; the root in hex.
        files: BLAKE3 in hex of each file, by its path in the backup.
        missing: digests (hex) of batches that could not be copied.
    """

    format: int
    fingerprint: str
    time: int
    size: int
    root: str
    files: dict[str, str]
    missing: tuple[str, ...]

    def encode(self) -> bytes:
        """The bytes of `backup.json`."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode() + b"\n"


def read_record_untrusted(path: Path) -> Record:
    """The record of a backup.

    Raises:
        NodeError: it is missing or damaged, or of a newer release.
    """
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_RECORD_BYTES))
        found = value["format"]
        record = _record(value) if found == FORMAT else None
    except OSError as error:
        raise NodeError(f"{path} cannot be read: {error.strerror}", code=ExitCode.DISK) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _bad(path) from error
    if record is None:
        raise NodeError(
            f"the backup {path.parent} is of a format that this release does not know",
            hint="restore it with the release that made it, or a newer one",
            code=ExitCode.USAGE,
        )
    return record


def _record(value: dict[str, Any]) -> Record:
    whole = (
        all(isinstance(value[name], int) for name in ("format", "time", "size"))
        and isinstance(value["fingerprint"], str)
        and all(len(bytes.fromhex(digest)) == 32 for digest in (value["root"], *value["missing"]))
        and all(_is_inside(name) for name in value["files"])
        and all(len(bytes.fromhex(digest)) == 32 for digest in value["files"].values())
        and {*SETTLED, LOG, CHECKPOINT, EVIDENCE, DATABASE} <= value["files"].keys()
    )
    if not whole:
        raise ValueError
    return Record(**{**value, "missing": tuple(value["missing"])})


def _is_inside(name: str) -> bool:
    """Whether a path of a record leads to one of the places of a backup's files."""
    folder, _, file = name.rpartition("/")
    return folder in ("", "audit") and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", file) is not None


def _bad(path: Path) -> NodeError:
    return NodeError(
        f"{path} is damaged",
        hint="take an older backup beside it",
        code=ExitCode.INTEGRITY,
    )


def is_backup_name(name: str) -> bool:
    """Whether a folder of this name is a backup."""
    return _NAME.fullmatch(name) is not None


def backups_in(directory: Path) -> list[Path]:
    """The backups in a folder, oldest first."""
    return sorted((path for path in directory.iterdir() if is_backup_name(path.name)), key=_by_time)


def _by_time(path: Path) -> tuple[str, int]:
    time, _, number = path.name.partition("Z")
    return time, int(number.removeprefix("-") or 0)


def batch_path(store: Path, digest: bytes) -> Path:
    """The path of a batch in a store or a pool."""
    name = digest.hex()
    return store / name[:2] / name


def batches_of(database: Path) -> dict[bytes, int]:
    """Encoded size in bytes of each batch that a copy of the database names, by digest.

    Raises:
        NodeError: the copy is damaged.
    """
    return batches_named(partial(_rows, database))


def studies_of(database: Path, digests: frozenset[bytes]) -> list[str]:
    """Study Instance UIDs of the studies that need one of these batches."""
    return studies_that_need(partial(_rows, database), digests)


def _rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    try:
        return tables.rows(database, query)
    except CannotCheck as error:
        raise NodeError(
            f"the copy of the database cannot be read: {error}",
            hint="check the home with `radmesh check`, or take an older backup",
            code=ExitCode.INTEGRITY,
        ) from error


def digest_of(path: Path) -> str:
    """BLAKE3 of a file, hex."""
    hasher = blake3.blake3()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()
