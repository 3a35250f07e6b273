"""Writes an export or report to a file, and logs that before the file is available."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from node.audit.log import AuditLog
from node.durable import sync_open, whole_file
from node.errors import ExitCode, NodeError
from node.reports.selection import Selection
from protocol.log.entry import SALT_BYTES, Event, format_time


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        bytes: its size.
        sha256: SHA-256 of the file, hex.
        salt: salt of the logged digest, hex; "" where the digest is logged without a salt.
        entry: index of the entry `log-exported`; None if the log is in doubt and takes no
            entries: it must still be possible to hand such a log to an auditor.
    """

    bytes: int
    sha256: str
    salt: str
    entry: int | None


def export_event(form: str, selection: Selection, details: dict[str, str | int | bool]) -> Event:
    """The event `log-exported`: which part of the log was exported, and in which form.

    The entry names a selected study or patient by a commitment.

    Args:
        form: `bundle`, `proof`, `dicom`, `fhir`, `accounting` or `syslog`.
        selection: the selected part of the log.
        details: range, counts and digest.
    """
    moments = {"since": selection.since, "until": selection.until}
    return Event(
        type="log-exported",
        actor="operator",
        peer=bytes.fromhex(selection.peer),
        subjects=tuple(
            (kind, value)
            for kind, value in (("study", selection.study), ("patient", selection.patient))
            if value
        ),
        details={
            "format": form,
            **{
                name: format_time(max(moment, 0))
                for name, moment in moments.items()
                if moment is not None
            },
            **details,
        },
    )


def write_logged(
    path: Path,
    write: Callable[[BinaryIO], None],
    event: Callable[[], Event],
    audit: AuditLog,
    *,
    salted: bool,
) -> Written:
    """Write a file whole or not at all; its entry is durable before the file gets its name.

    Args:
        path: path of the file, which must not exist.
        write: writes the file.
        event: returns the event, once the file is written; size and digest are added to it.
        audit: the log.
        salted: log a salted digest. A report holds little more than the log and names, so
            with its plain digest anybody who has the log could test guessed names, for ever.

    Raises:
        NodeError: the file exists already, or cannot be written or logged.
    """
    if not path.is_absolute():
        raise NodeError(f"the path {path} must be absolute", code=ExitCode.USAGE)
    if path.exists():
        raise NodeError(
            f"{path} exists already",
            hint="choose another name; an export never overwrites a file",
            code=ExitCode.USAGE,
        )
    try:
        with whole_file(path) as file:
            write(file)
            sync_open(file)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            salt = secrets.token_bytes(SALT_BYTES) if salted else b""
            named = {"digest": salted_digest(salt, digest)} if salted else {"sha256": digest}
            made, entry = event(), None
            if audit.halt.reason is None:
                details = {**made.details, "bytes": size, **named}
                entry = audit.append(replace(made, details=details))
    except OSError as error:
        raise NodeError(
            f"{path} cannot be written: {error.strerror}",
            hint="check that the folder exists, has space and is the node's to write to",
            code=ExitCode.DISK,
        ) from error
    return Written(size, digest, salt.hex(), entry)


def salted_digest(salt: bytes, sha256: str) -> str:
    """The logged digest of a report: SHA-256 over the salt and the file's SHA-256."""
    return hashlib.sha256(salt + bytes.fromhex(sha256)).hexdigest()


def write_parts(parts: Iterable[bytes]) -> Callable[[BinaryIO], None]:
    """A writer for `write_logged` that writes one part after the other."""

    def write(file: BinaryIO) -> None:
        for part in parts:
            file.write(part)

    return write
