"""Checks whether the audit log is the one that was signed, and its evidence is whole.

The entries are read by the auditor's verifier, which shares no code with the log's writer.
"""

import itertools
import json
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from keys.card import parse_card_untrusted
from keys.errors import KeysError
from node.fsck import tables
from node.fsck.findings import Finding, Missing
from protocol.verify.checkpoints import (
    CheckpointProblem,
    SignedCheckpoint,
    log_keys,
    open_checkpoint,
)
from protocol.verify.entries import ENTRY_BYTES, Entry, EntryProblem, canonical, parse_entry
from protocol.verify.tree import Tree, leaf

_HEADER = struct.Struct(">II")
_COMMITMENT_DOMAIN = b"radmesh-commitment-v1\0"
_TELLING = ("ingest", "received", "quarantine-taken")
"""Entries that say how images came."""

_TAIL_BYTES = 8 * 1024 * 1024
"""Bytes read behind the last whole entry: more than is ever written at once."""

_NAMED = 20
"""Most entries named per kind of finding; further ones are only counted."""


@dataclass
class Log:
    """The content of the log with which other parts are compared.

    Attributes:
        size: number of whole entries.
        root: the root over them, 32 bytes.
        told: Study Instance UIDs in openings of entries that say how a study came.
        roots: content roots in entries that say how a study came.
        erased: number of openings that were erased, by the entries that say so.
        unopened: number of subjects without an opening.
        is_readable: whether the whole log could be read.
    """

    size: int = 0
    root: bytes = b""
    told: set[str] = field(default_factory=set)
    roots: set[bytes] = field(default_factory=set)
    erased: int = 0
    unopened: int = 0
    is_readable: bool = True


def check_log(home: Path, *, in_use: bool, fast: bool) -> tuple[Log, list[Finding]]:
    """Read the log from its beginning to its end, with its evidence.

    Args:
        home: its folder.
        in_use: whether a process may be writing after the last whole entry.
        fast: as in `tables.damage`.
    """
    log = Log()
    # Read the checkpoint before the entries: the log may grow meanwhile, but never shrinks.
    signed, findings = _checkpoint(home)
    try:
        with (home / "audit" / "log").open("rb") as file:
            frames = _Frames(file)
            findings += _with_evidence(home, log, signed, frames, fast=fast)
            tail = frames.tail()
    except FileNotFoundError:
        log.is_readable = False
        return log, [*findings, Finding("log-damaged", "log", "there is no audit/log")]
    short = signed is not None and log.size < signed.size
    if tail and not in_use and not short and log.is_readable:
        what = f"behind entry {log.size - 1} stand {len(tail)} bytes that are none"
        findings.append(Finding("log-torn", "log", what))
    return log, findings


def _with_evidence(
    home: Path, log: Log, signed: SignedCheckpoint | None, frames: "_Frames", *, fast: bool
) -> list[Finding]:
    findings: list[Finding] = []
    try:
        with tables.snapshot(home / "audit" / "evidence.db") as evidence:
            findings += tables.damage("audit/evidence.db", evidence, fast=fast)
            findings += _Entries(log, signed, evidence).check(frames)
    except (Missing, sqlite3.DatabaseError) as error:
        findings.append(tables.damaged("audit/evidence.db", error))
        log.is_readable = False
    return findings


def _checkpoint(home: Path) -> tuple[SignedCheckpoint | None, list[Finding]]:
    try:
        card = parse_card_untrusted((home / "card").read_bytes())
        data = (home / "audit" / "checkpoint").read_bytes()
        origin = f"radmesh.log/{card.fingerprint}"
        return open_checkpoint(data, origin, log_keys(card)), []
    except CheckpointProblem as error:
        what = f"audit/checkpoint {error.reason}"
    except (OSError, KeysError) as error:
        what = f"card or audit/checkpoint cannot be read: {error}"
    return None, [Finding("log-checkpoint", "checkpoint", what)]


class _Frames:
    """The whole entries of the file; `end` is the end of the last entry yielded."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.end = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            header = self._file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            length, checksum = _HEADER.unpack(header)
            if not 0 < length <= ENTRY_BYTES:
                return
            entry = self._file.read(length)
            if len(entry) != length or zlib.crc32(entry) != checksum:
                return
            self.end += _HEADER.size + length
            yield entry

    def tail(self) -> bytes:
        """The bytes after `end`, without the zeros that were written ahead."""
        self._file.seek(self.end)
        return self._file.read(_TAIL_BYTES).rstrip(b"\0")


class _Entries:
    """One pass over the entries, with the openings beside them."""

    def __init__(
        self, log: Log, signed: SignedCheckpoint | None, evidence: sqlite3.Connection
    ) -> None:
        self._log = log
        self._signed = signed
        self._evidence = evidence
        self._tree = Tree()
        self._time = ""
        self._unopened: list[int] = []
        self._openings = itertools.groupby(
            evidence.execute(
                "SELECT entry, place, commitment, kind, value, salt FROM openings"
                " ORDER BY entry, place"
            ),
            key=lambda row: int(row[0]),
        )
        self._waiting: tuple[int, list[tuple[Any, ...]]] | None = None

    def check(self, entries: Iterable[bytes]) -> Iterator[Finding]:
        """Read all entries and find what is wrong."""
        log, tree, signed = self._log, self._tree, self._signed
        for data in entries:
            index = tree.size
            try:
                entry = parse_entry(data)
                if entry.place != index or entry.time < self._time:
                    raise ValueError("is not the one that belongs there")
            except (EntryProblem, ValueError) as error:
                log.is_readable = False
                yield Finding("log-damaged", f"entry {index}", f"entry {index} {error}")
                break
            self._time = entry.time
            tree.extend([leaf(data)])
            yield from self._take(entry)
            if signed is not None and tree.size == signed.size and tree.root() != signed.root:
                log.is_readable = False
                what = f"the first {tree.size} entries are not those that were signed"
                yield Finding("log-damaged", f"entry {index}", what)
                break
        log.size, log.root = tree.size, tree.root()
        if signed is not None and log.is_readable and log.size < signed.size:
            log.is_readable = False
            what = f"{signed.size} entries were signed, and {log.size} whole ones are there"
            yield Finding("log-damaged", f"entry {log.size}", what)
        yield from self._missing()

    def _take(self, entry: Entry) -> Iterator[Finding]:
        """Check one entry and its openings and receipt beside the log."""
        log = self._log
        told = entry.type in _TELLING
        named = entry.names_receipt or entry.names_stored
        if not (entry.subjects or told or named or entry.type == "erased"):
            return
        details = entry.fields["details"]
        if entry.type == "erased" and isinstance(details.get("openings"), int):
            log.erased += details["openings"]
        root = details.get("content_root")
        if told and isinstance(root, str):
            log.roots.add(bytes.fromhex(root))
        if entry.names_receipt:
            yield from self._receipt(entry.place, str(details["receipt"]), "receipt")
        if entry.names_stored:
            yield from self._receipt(entry.place, str(details["stored"]), "statement")
        if not entry.subjects:
            return
        openings = {place: row for _, place, *row in self._openings_of(entry.place)}
        for place, subject in enumerate(json.loads(b"[" + entry.subjects + b"]")):
            if place not in openings:
                log.unopened += 1
                self._unopened.append(entry.place)
                continue
            commitment, kind, value, salt = openings[place]
            if not _opens(subject, commitment, kind, value, salt):
                what = f"the opening {place} of entry {entry.place} is not what the entry says"
                yield Finding("evidence-changed", f"entry {entry.place}", what)
            elif told and kind == "study":
                log.told.add(value)

    def _openings_of(self, index: int) -> list[tuple[Any, ...]]:
        """The rows of openings of an entry; call with ascending indexes."""
        while self._waiting is None or self._waiting[0] < index:
            following = next(self._openings, None)
            if following is None:
                return []
            self._waiting = (following[0], list(following[1]))
        return self._waiting[1] if self._waiting[0] == index else []

    def _receipt(self, index: int, digest: str, what: str) -> Iterator[Finding]:
        row = self._evidence.execute(
            "SELECT receipt FROM receipts WHERE digest = ?", (bytes.fromhex(digest),)
        ).fetchone()
        where = f"entry {index}"
        if row is None:
            yield Finding("evidence-missing", where, f"the {what} of entry {index} is missing")
        elif sha256(row[0]).hexdigest() != digest:
            yield Finding("evidence-changed", where, f"the {what} of entry {index} was changed")

    def _missing(self) -> Iterator[Finding]:
        log = self._log
        if log.unopened <= log.erased:
            return
        if log.erased:
            # Erasing leaves no trace of which entries it concerned, so none is named here.
            what = f"{log.unopened} subjects have no opening, and {log.erased} were erased"
            yield Finding("evidence-missing", "openings", what)
            return
        entries = list(dict.fromkeys(self._unopened))
        for index in entries[:_NAMED]:
            what = f"entry {index} has no opening that says whom it is about"
            yield Finding("evidence-missing", f"entry {index}", what)
        if len(entries) > _NAMED:
            what = f"{len(entries) - _NAMED} entries more have none"
            yield Finding("evidence-missing", "openings", what)


def _opens(subject: dict[str, str], commitment: bytes, kind: str, value: str, salt: bytes) -> bool:
    opened = canonical({"kind": kind, "value": value})
    digest = sha256(_COMMITMENT_DOMAIN + salt + opened).digest()
    return digest == commitment and subject == {"commitment": digest.hex(), "kind": kind}
