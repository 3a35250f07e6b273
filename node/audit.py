"""The audit log of this node: the one writer.

Theory. An event takes effect only after its entry is on disk: `append` returns
when the entry is flushed, or raises and the event must not happen. The order of
writes is: openings and receipts, entries, (memory,) checkpoint. So after a crash
at any point

- an entry whose `append` returned is in the log;
- an entry whose `append` did not return may be in the log or not;
- a signed size is never larger than what is on disk;
- openings of entries that were not written are dropped at the next opening;
- a torn tail is cut, kept in a file beside the log, and noted by an entry.

A log that is shorter than its signed size, or has another root there, does not
open: somebody cut or changed it, or an old backup came back.

Threads that append at the same time share one flush: each puts its events in
the queue, and the first to get the commit lock writes them all.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nacl.utils

from keys.identity import KeyPair
from node.audit_bundle import write_bundle, write_bundle_file
from node.audit_checkpoint import CheckpointKeeper
from node.audit_evidence import EvidenceStore
from node.audit_files import LogFile, replace_durable, sync_directory
from node.errors import ExitCode, NodeError
from protocol.errors import ProtocolError, RemoteProtocolError
from protocol.log.checkpoint import (
    Checkpoint,
    open_checkpoint_untrusted,
    parse_checkpoint_untrusted,
    sign_checkpoint,
)
from protocol.log.entry import (
    SALT_BYTES,
    Event,
    Opening,
    decode_entry_untrusted,
    encode_entry,
    format_time,
)
from protocol.log.note import Signer, parse_note_untrusted
from protocol.log.tree import Frontier, leaf_hash

LOG_NAME = "log"
CHECKPOINT_NAME = "checkpoint"
EVIDENCE_NAME = "evidence.db"
TORN_NAME = "torn-tail"


@dataclass
class _Pending:
    events: Sequence[Event]
    first: int = -1
    error: Exception | None = None
    done: bool = False


class AuditLog:
    """An open audit log; made by `create` or `open`. Thread-safe."""

    def __init__(
        self,
        directory: Path,
        file: LogFile,
        evidence: EvidenceStore,
        signer: Signer,
        clock_ms: Callable[[], int],
        durable: Frontier,
        last_ms: int,
    ) -> None:
        self._directory = directory
        self._file = file
        self._evidence = evidence
        self._clock_ms = clock_ms
        # Replaced whole after each flush, never changed: any thread may read it.
        self._durable = durable
        self._last_ms = last_ms
        self._queue: list[_Pending] = []
        self._queue_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._stale_openings = False
        self._closed = False
        self._keeper = CheckpointKeeper(directory / CHECKPOINT_NAME, signer, lambda: self._durable)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        log_key: KeyPair,
        origin: str,
        clock_ms: Callable[[], int],
        first: Event,
    ) -> "AuditLog":
        """Make a log whose first entry is `first`.

        Args:
            directory: must not hold a log yet; made if it does not exist.
            log_key: signs the checkpoints.
            origin: name of the log, `radmesh.log/` and the facility's fingerprint.
            clock_ms: gives milliseconds since the epoch, UTC.
            first: of type `init`; details `facility_key`, `log_key` (hex) and `origin`.

        Raises:
            NodeError: the disk is full, or there is a log already.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = LogFile(directory / LOG_NAME, create=True)
        now = clock_ms()
        entry = encode_entry(first, index=0, time_ms=now, openings=())
        file.append([entry])
        sync_directory(directory)
        tree = Frontier()
        tree.append(leaf_hash(entry))
        signer = Signer(origin, log_key)
        signed = sign_checkpoint(Checkpoint(origin, tree.size, tree.root()), signer)
        replace_durable(directory / CHECKPOINT_NAME, signed.encode())
        evidence = EvidenceStore(directory / EVIDENCE_NAME)
        return cls(directory, file, evidence, signer, clock_ms, tree, now)

    @classmethod
    def open(
        cls, directory: Path, *, log_key: KeyPair, origin: str, clock_ms: Callable[[], int]
    ) -> "AuditLog":
        """Open a log: check it against its checkpoint, cut and note a torn tail.

        Takes time and reading in proportion to the log (about 4 s for a million entries).

        Raises:
            NodeError: the log is not what was signed, is held by another process, or
                cannot be read.
        """
        signer = Signer(origin, log_key)
        checkpoint = _read_checkpoint(directory / CHECKPOINT_NAME, signer)
        file = LogFile(directory / LOG_NAME)
        try:
            tree, last_ms = _replay(file, checkpoint)
            torn = directory / TORN_NAME
            tail = file.torn_tail()
            if tail:
                # Kept before it is cut, so that a crash in between loses neither.
                replace_durable(torn, tail)
                file.cut_torn_tail()
            file.flush()
            evidence = EvidenceStore(directory / EVIDENCE_NAME)
        except BaseException:
            file.close()
            raise
        log = cls(directory, file, evidence, signer, clock_ms, tree, last_ms)
        try:
            evidence.add_openings(tree.size, ())
            if torn.exists():
                log._note_torn_tail(torn)
            log.latest_checkpoint()
        except BaseException:
            log.close()
            raise
        return log

    def _note_torn_tail(self, torn: Path) -> None:
        data = torn.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        index = self.append(
            Event(type="torn-tail-cut", details={"bytes": len(data), "sha256": digest})
        )
        torn.rename(self._directory / f"{TORN_NAME}-{index}")

    def append(self, event: Event) -> int:
        """Log an event; its entry is durable when this returns.

        Returns:
            The index of the entry.

        Raises:
            NodeError: it could not be logged; the event must not happen.
            LocalProtocolError: the entry would be too large.
        """
        return self.append_many([event])[0]

    def append_many(self, events: Sequence[Event]) -> range:
        """Log events one after the other with one flush, all or none; see `append`."""
        pending = _Pending(events)
        with self._queue_lock:
            self._queue.append(pending)
        with self._commit_lock:
            if not pending.done:
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit(batch)
        if pending.error is not None:
            raise pending.error
        return range(pending.first, pending.first + len(events))

    def _commit(self, batch: list[_Pending]) -> None:
        try:
            if self._closed:
                raise NodeError("the audit log is closed", code=ExitCode.FAILED)
            self._write(batch)
        except NodeError as error:
            for pending in batch:
                # Each thread raises its own: one object would mix their tracebacks.
                pending.error = pending.error or NodeError(
                    error.message, hint=error.hint, code=error.code
                )
        except BaseException as error:
            for pending in batch:
                pending.error = NodeError(f"the audit log failed: {type(error).__name__}")
            raise
        finally:
            for pending in batch:
                pending.done = True

    def _write(self, batch: list[_Pending]) -> None:
        tree = self._durable.copy()
        first = tree.size
        now = max(self._clock_ms(), self._last_ms)
        entries: list[bytes] = []
        openings: list[tuple[int, int, Opening]] = []
        for pending in batch:
            pending.first = first + len(entries)
            try:
                encoded, opened = _encode(pending.events, pending.first, now)
            except ProtocolError as error:
                # One caller's mistake is not that of the others in this batch.
                pending.error = error
                continue
            entries += encoded
            openings += opened
        if not entries:
            return
        if openings or self._stale_openings:
            self._evidence.add_openings(first, openings)
        self._stale_openings = bool(openings)
        self._file.append(entries)
        self._stale_openings = False
        for entry in entries:
            tree.append(leaf_hash(entry))
        self._durable, self._last_ms = tree, now
        self._keeper.poke()

    @property
    def size(self) -> int:
        """Durable entries."""
        return self._durable.size

    def root(self) -> bytes:
        """Root over the durable entries (RFC 6962), 32 bytes."""
        return self._durable.root()

    def latest_checkpoint(self) -> str:
        """The signed checkpoint over all durable entries, itself on disk.

        Raises:
            NodeError: it cannot be written.
        """
        return self._keeper.current()

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Encoded entries `start` to `stop - 1`; to the end when `stop` is None.

        Raises:
            NodeError: an entry is damaged on disk.
        """
        size = self.size
        return self._file.read(max(start, 0), size if stop is None else min(stop, size))

    def opening_of(self, commitment: str) -> Opening | None:
        """What a commitment (64 hex digits) in an entry stands for, if it is kept here."""
        return self._evidence.opening_of(commitment)

    def add_receipt(self, receipt: bytes) -> str:
        """Keep a receipt, durably; to be called before the entry that names it.

        Returns:
            Its SHA-256 in hex, for the detail `receipt` of that entry.
        """
        return self._evidence.add_receipt(receipt)

    def receipt(self, digest: str) -> bytes | None:
        """The receipt with this SHA-256 (hex), if it is kept here."""
        return self._evidence.receipt(digest)

    def export(
        self, target: Path | BinaryIO, *, card: bytes, include_openings: bool = True
    ) -> Checkpoint:
        """Write the audit bundle of the log as it is now.

        Args:
            target: a path, where an older file is replaced, or an open file.
            card: the facility card.
            include_openings: whether the auditor may learn who and what.

        Returns:
            The checkpoint that the bundle carries: its size and root.

        Raises:
            NodeError: it cannot be written, or the log is damaged on disk.
        """
        signed = self.latest_checkpoint()
        checkpoint = parse_checkpoint_untrusted(parse_note_untrusted(signed.encode())[0])

        def write(file: BinaryIO) -> None:
            write_bundle(
                file,
                checkpoint=checkpoint,
                signed=signed,
                card=card,
                exported=format_time(self._clock_ms()),
                entries=lambda: self.entries(0, checkpoint.size),
                evidence=self._evidence,
                include_openings=include_openings,
            )

        if isinstance(target, Path):
            write_bundle_file(target, write)
        else:
            write(target)
        return checkpoint

    def close(self) -> None:
        """Sign what is there and give the files back; later appends raise NodeError."""
        with self._commit_lock:
            if self._closed:
                return
            self._closed = True
            self._keeper.close()
            self._evidence.close()
            self._file.close()


def _encode(
    events: Sequence[Event], first: int, now: int
) -> tuple[list[bytes], list[tuple[int, int, Opening]]]:
    entries: list[bytes] = []
    openings: list[tuple[int, int, Opening]] = []
    for index, event in enumerate(events, first):
        opened = [
            Opening(kind, value, nacl.utils.random(SALT_BYTES)) for kind, value in event.subjects
        ]
        entries.append(encode_entry(event, index=index, time_ms=now, openings=opened))
        openings += [(index, place, opening) for place, opening in enumerate(opened)]
    return entries, openings


def _read_checkpoint(path: Path, signer: Signer) -> Checkpoint:
    try:
        data = path.read_bytes()
        return open_checkpoint_untrusted(data, signer.name, signer.keypair.public)
    except OSError as error:
        raise _integrity(f"its checkpoint cannot be read: {error.strerror}") from error
    except RemoteProtocolError as error:
        raise _integrity(f"its checkpoint does not hold: {error}") from error


def _replay(file: LogFile, checkpoint: Checkpoint) -> tuple[Frontier, int]:
    """Read the whole log; returns its tree and the time of its last entry."""
    tree = Frontier()
    last = b""
    for entry in file.scan():
        if tree.size >= checkpoint.size:
            _check_unsigned(entry, tree.size)
        tree.append(leaf_hash(entry))
        if tree.size == checkpoint.size and tree.root() != checkpoint.root:
            raise _integrity(f"its first {tree.size} entries are not those that were signed")
        last = entry
    if tree.size < checkpoint.size or not last:
        raise _integrity(
            f"{checkpoint.size} entries were signed, and {tree.size} whole ones are there"
        )
    return tree, _check_unsigned(last, tree.size - 1)


def _check_unsigned(entry: bytes, index: int) -> int:
    try:
        decoded = decode_entry_untrusted(entry)
    except RemoteProtocolError as error:
        raise _integrity(f"entry {index} cannot be read: {error}") from error
    if decoded.index != index:
        raise _integrity(f"entry {index} calls itself entry {decoded.index}")
    return decoded.time_ms


def _integrity(reason: str) -> NodeError:
    return NodeError(
        f"the audit log is not what this node wrote: {reason}",
        hint="keep the folder `audit` as it is for an examination and find out who changed it; "
        "restore it only from a backup that is as new as the log",
        code=ExitCode.INTEGRITY,
    )
