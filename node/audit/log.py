"""The audit log of this node: the one writer.

Theory. An event takes effect only after its entry is on disk: `append` returns
when the entry is flushed, or raises and the event must not happen. The order of
writes is: openings and receipts, entries, (memory,) checkpoint. So after a crash
at any point

- an entry whose `append` returned is in the log;
- an entry whose `append` did not return may be in the log or not;
- a signed size is never larger than the log on disk;
- openings of entries that were not written are dropped at the next opening;
- a torn tail is cut, kept in a file beside the log, and noted by an entry.

The files are those of `node/audit/files.py` (entries), `node/audit/checkpoint.py`,
`node/audit/evidence.py` (openings, receipts) and `node/audit/tree.py` (for proofs).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from keys.card_fields import SizedKey
from keys.identity import KeyPair
from node.audit.appending import Appender
from node.audit.bundle import write_bundle, write_bundle_file
from node.audit.checkpoint import CheckpointKeeper
from node.audit.evidence import EvidenceStore
from node.audit.files import rename_durable
from node.audit.halt import Halt
from node.audit.recovery import (
    CHECKPOINT_NAME,
    TORN_NAME,
    RecoveredLog,
    make_log,
    open_log,
    torn_tail_event,
)
from node.audit.tree import Proofs
from node.callers import asking
from node.errors import ExitCode, NodeError
from protocol.log.checkpoint import Checkpoint, parse_checkpoint_untrusted
from protocol.log.entry import ABOUT_PERSONS, Event, Opening, format_time
from protocol.log.note import Signer, parse_note_untrusted

EVIDENCE_NAME = "evidence.db"


class AuditLog:
    """An open audit log; made by `create` or `open`. Thread-safe.

    Attributes:
        halt: may stop it from taking entries.
    """

    def __init__(
        self,
        directory: Path,
        opened: RecoveredLog,
        evidence: EvidenceStore,
        origin: str,
        signer: Signer | None,
        clock_ms: Callable[[], int],
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._file = opened.file
        self._nodes = opened.nodes
        self.halt = Halt()
        self.failure: NodeError | None = None
        self._evidence = evidence
        self._clock_ms = clock_ms
        self._origin = origin
        self._log_key = opened.log_key
        self._changed_to = {change.new_key for change in opened.changes}
        self._newest_keys = {change.role: change.new_key for change in opened.changes}
        self._appender = Appender(
            file=opened.file,
            evidence=evidence,
            nodes=opened.nodes,
            tree=opened.tree,
            last_ms=opened.last_ms,
            clock_ms=clock_ms,
            on_durable=lambda: self._keeper.poke(),
            running=running,
        )
        self._proofs = Proofs(
            opened.nodes,
            lambda: self._appender.durable,
            self.entries,
            self._appender.rebuild_nodes,
        )
        self._keeper = CheckpointKeeper(
            directory / CHECKPOINT_NAME, signer, lambda: self._appender.durable
        )

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
        signer = Signer(origin, log_key)
        opened = make_log(directory, signer, first, clock_ms())
        evidence = EvidenceStore(directory / EVIDENCE_NAME)
        return cls(directory, opened, evidence, origin, signer, clock_ms)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        log_key: KeyPair,
        origin: str,
        clock_ms: Callable[[], int],
        log_keys: Sequence[SizedKey] = (),
        successor: KeyPair | None = None,
        is_lost: bool = False,
        running: Callable[[], float] = time.monotonic,
    ) -> "AuditLog":
        """Open a log: check it against its checkpoint, cut and note a torn tail.

        Reads the whole log (about 5 s for a million entries).

        Args:
            directory: the folder of the log.
            log_key: the log key in force; while it is sealed, nothing is signed.
            origin: name of the log.
            clock_ms: gives milliseconds since the epoch, UTC.
            log_keys: all log keys, as on the facility card; empty when there was only one.
            successor: a log key whose rotation a crash may have cut short; it is in force
                if its entry is in the log.
            is_lost: the log key in force is lost; nothing is signed before a
                `change_key`.
            running: returns seconds of a clock that never goes back.

        Raises:
            NodeError: the log is not the signed one, is held by another process, or
                cannot be read, or neither key is the one in force.
        """
        opened = open_log(directory, origin, log_keys or (SizedKey(log_key.public, 0),))
        pairs = [pair for pair in (log_key, successor) if pair is not None]
        try:
            key = next((pair for pair in pairs if pair.public == opened.log_key), None)
            if key is None and not is_lost:
                raise NodeError(
                    "the log key of this home is not the one that its audit log names",
                    hint="restore the folders `audit` and `keys` and the file `card` from the "
                    "same backup",
                    code=ExitCode.INTEGRITY,
                )
            signer = None if key is None or key.is_sealed else Signer(origin, key)
            evidence = EvidenceStore(directory / EVIDENCE_NAME)
        except BaseException:
            opened.nodes.close()
            opened.file.close()
            raise
        log = cls(directory, opened, evidence, origin, signer, clock_ms, running)
        try:
            evidence.add_openings(opened.tree.size, ())
            if opened.torn is not None:
                log._note_torn_tail(opened.torn, opened.noted)
            if signer is not None:
                log.latest_checkpoint()
        except BaseException:
            log.close()
            raise
        return log

    def _note_torn_tail(self, torn: Path, noted: tuple[str, int] | None) -> None:
        event = torn_tail_event(torn)
        if noted is not None and noted[0] == event.details["sha256"]:
            # A crash came after the entry and before the new name.
            index = noted[1]
        else:
            index = self.append(event)
        rename_durable(torn, self._directory / f"{TORN_NAME}-{index}")

    @property
    def origin(self) -> str:
        """The name of the log."""
        return self._origin

    @property
    def log_key(self) -> bytes:
        """The log key in force, 32 bytes."""
        return self._log_key

    def newest_key(self, role: str) -> bytes | None:
        """The key (32 bytes) that the newest entry for a role puts in force; None when
        that role's key was never changed."""
        return self._newest_keys.get(role)

    def has_change_to(self, public: bytes) -> bool:
        """Whether an entry puts this key (32 bytes) in force.

        Raises:
            NodeError: the disk fails, so this cannot be determined.
        """
        self._appender.mend()
        return public in self._changed_to

    def change_key(
        self, make: Callable[[int, bytes], Event], role: str, new: KeyPair, *, revoked: bool
    ) -> int:
        """Write the entry that puts a new key in force; see `protocol.log.rotation`.

        Args:
            make: returns the event, given the size and root of the log before it. Files that
                it writes exist before the entry. Nothing else is appended while it runs.
            role: the role of the key; a log key signs from the next size on.
            new: the new key.
            revoked: the old log key signs nothing more, not even the size before.

        Returns:
            The index of the entry.

        Raises:
            NodeError: it could not be logged; the old key stays in force.
        """

        def begin(size: int, root: bytes) -> Event:
            event = _with_person(make(size, root))
            if role == "log":
                if not revoked:
                    self._keeper.current()
                self._keeper.hand_over(Signer(self._origin, new), size + 1)
            return event

        if not revoked:
            self.halt.require_none()
        try:
            index = self._appender.append_last(begin)
        except BaseException:
            self._keeper.take_back(new.public)
            raise
        if role == "log":
            self._log_key = new.public
        self._changed_to.add(new.public)
        self._newest_keys[role] = new.public
        return index

    def append(self, event: Event) -> int:
        """Log an event; its entry is durable when this returns, and names the person who asked.

        Returns:
            The index of the entry.

        Raises:
            NodeError: it could not be logged; the event must not happen.
            LocalProtocolError: the entry would be too large.
        """
        return self.append_many([event])[0]

    def append_many(self, events: Sequence[Event]) -> range:
        """Log events one after the other with one flush, all or none; see `append`."""
        self.halt.require_none()
        try:
            indexes = self._appender.append_many([_with_person(event) for event in events])
        except NodeError as error:
            self.failure = error
            raise
        self.failure = None
        return indexes

    def try_again(self) -> None:
        """After an append that failed: see whether the disk takes entries again.

        Raises:
            NodeError: it does not; `failure` stays.
        """
        if self.failure is not None:
            self._appender.require_room()
            self.failure = None

    @property
    def evidence(self) -> EvidenceStore:
        """The openings and receipts beside the log."""
        return self._evidence

    @property
    def size(self) -> int:
        """Number of durable entries."""
        return self._appender.durable.size

    def root(self) -> bytes:
        """Root over the durable entries (RFC 6962), 32 bytes."""
        return self._appender.durable.root()

    def root_at(self, size: int) -> bytes:
        """The root that the log had at a size, 32 bytes.

        Raises:
            LocalProtocolError: the log never had that size.
            NodeError: the log is damaged on disk.
        """
        return self._proofs.root_at(size)

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """Proof that entry `index` is in the log of `size` (RFC 6962 section 2.1.1).

        Raises:
            LocalProtocolError: there is no such entry or size.
            NodeError: the log is damaged on disk.
        """
        return self._proofs.inclusion(index, size)

    def consistency_proof(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Proof that the log of `new_size` extends that of `old_size` (section 2.1.2).

        Raises:
            LocalProtocolError: not 0 < old_size <= new_size <= the size of the log.
            NodeError: the log is damaged on disk.
        """
        return self._proofs.consistency(old_size, new_size)

    def latest_checkpoint(self) -> str:
        """The signed checkpoint over all durable entries, which is on disk, too.

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
        """The opening of a commitment (64 hex digits) in an entry, if it is kept here."""
        return self._evidence.opening_of(commitment)

    def add_receipt(self, receipt: bytes) -> str:
        """Keep a receipt durably; call before appending the entry that names it.

        Returns:
            Its SHA-256 in hex, for the detail `receipt` of that entry.
        """
        return self._evidence.add_receipt(receipt)

    def receipt(self, digest: str) -> bytes | None:
        """The receipt with this SHA-256 (hex), if it is kept here."""
        return self._evidence.receipt(digest)

    def export(
        self,
        target: Path | BinaryIO,
        *,
        card: bytes,
        include_openings: bool | Callable[[int, Opening], bool] = True,
        head: str | None = None,
        further: Mapping[str, bytes] | None = None,
    ) -> Checkpoint:
        """Write the audit bundle of the log as it is now.

        Args:
            target: an open file, or a path; an older file there is replaced.
            card: the facility card.
            include_openings: whether the bundle names patients, studies and people; a
                function decides this by entry and opening.
            head: the checkpoint of ours that the bundle ends with; the newest by default.
            further: further members; checkpoints behind the head are left out.

        Returns:
            The checkpoint that the bundle ends with.

        Raises:
            NodeError: it cannot be written, or the log is damaged on disk.
        """
        signed = self.latest_checkpoint() if head is None else head
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
                further=further or {},
            )

        if isinstance(target, Path):
            write_bundle_file(target, write)
        else:
            write(target)
        return checkpoint

    def close(self) -> None:
        """Sign the durable entries and close the files; later appends raise NodeError."""
        if self._appender.close():
            self._keeper.close()
            self._evidence.close()
            self._nodes.close()
            self._file.close()


def _with_person(event: Event) -> Event:
    """The event, with the person who asked for it as a subject, if a person did."""
    named = event.subjects[1:] if event.type in ABOUT_PERSONS else event.subjects
    asked = [("person", opening) for opening in asking().openings]
    more = [person for person in asked if person not in named]
    details = event.details
    if asking().proposal is not None:
        details = {"proposal": asking().proposal or 0, **details}
    if not more and details == event.details:
        return event
    return replace(event, subjects=(*event.subjects, *more), details=details)
