"""Makes a backup of an open home; its node may serve meanwhile.

Order of copying: the database; the batches that it names; the card, the keys and the size
of the log, under the lock of key changes; the log up to that size, with its evidence. So
the copy is a state that a crash could have left: the log has an entry for each change in
the database, and openings of later entries are dropped when the log is opened.

A backup is written under a temporary name and renamed when all of it is on disk.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nacl.utils

from keys.keyfile import ROLES, encode_key
from keys.sealed_files import NONCE_BYTES, seal_files
from node.app import Node
from node.audit.files import frame
from node.backup import layout
from node.backup.batches import Batches
from node.database import copy_database
from node.durable import disk_error, rename, sync_directory, sync_open, write_whole
from node.errors import ExitCode, NodeError
from node.making import OF_FILE_SYSTEMS
from protocol.log.checkpoint import parse_checkpoint_untrusted
from protocol.log.note import parse_note_untrusted

TRIES = 3
"""How often the database is copied if a batch that it names has been deleted meanwhile."""


@dataclass(frozen=True)
class Seal:
    """The key derived from a passphrase, with which private keys are sealed.

    Attributes:
        key: the derived key, 32 bytes.
        salt: the salt of the derivation, 16 bytes.
    """

    key: bytes
    salt: bytes


@dataclass(frozen=True)
class Saved:
    """A finished backup.

    Attributes:
        folder: folder of the backup.
        size, root: size and root of the log.
        batches, batch_bytes: number and size of the batches that the backup needs.
        new_batches, new_bytes: number and size of those that the pool did not have.
        missing: digests (hex) of those that the store lacks or has damaged.
        with_keys: whether the backup holds the keys.
    """

    folder: Path
    size: int
    root: bytes
    batches: int
    batch_bytes: int
    new_batches: int
    new_bytes: int
    missing: tuple[str, ...]
    with_keys: bool


@dataclass(frozen=True)
class Saving:
    """Progress of a backup, in bytes of batches."""

    bytes: int
    bytes_total: int


class Stopped(Exception):
    """The operator cancelled. No backup was made; the next one uses the batches in the pool."""


def save(
    node: Node,
    directory: Path,
    seal: Seal | None,
    progress: Callable[[Saving], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Saved:
    """Back a home up; blocks until done.

    Args:
        node: opened on the home.
        directory: the folder of backups, which holds nothing else; made if missing.
        seal: seals the keys for the backup; None leaves them out.
        progress: called after each batch.
        cancelled: asked before each batch whether to stop.

    Raises:
        Stopped: `cancelled` returned true.
        NodeError: the folder holds something else, or a disk is full or failing.
    """
    _require_outside(directory, node.home.path)
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
            sync_directory(directory.parent)
        with _alone(directory):
            _require_ours(directory, node.card.fingerprint)
            return _save(node, directory, seal, progress, cancelled)
    except OSError as error:
        raise disk_error(f"the backup cannot be written to {directory}", error) from error


def _save(
    node: Node,
    directory: Path,
    seal: Seal | None,
    progress: Callable[[Saving], None],
    cancelled: Callable[[], bool],
) -> Saved:
    now = node.clock.now()
    folder = _free_name(directory, now)
    making = directory / f".{folder.name}.new"
    try:
        (making / "audit").mkdir(mode=0o700, parents=True)
        making.chmod(0o700)
        pool = _Pool(node, directory / layout.POOL, progress, cancelled)
        pool.take_all(making / layout.DATABASE)
        with node.rotator.lock:
            _require_whole_keys(node)
            checkpoint, size, root = _signed(node)
            for name in layout.SETTLED:
                write_whole(making / name, (node.home.path / name).read_bytes(), mode=0o600)
            if seal is not None:
                write_whole(making / layout.SEALED_KEYS, _sealed_keys(node, seal), mode=0o600)
        write_whole(making / layout.CHECKPOINT, checkpoint.encode(), mode=0o600)
        _write_log(node, making / layout.LOG, size)
        # Openings are written before their entries.
        copy_database(node.home.audit_path / "evidence.db", making / layout.EVIDENCE)
        for torn in node.home.audit_path.glob("torn-tail*"):
            write_whole(making / "audit" / torn.name, torn.read_bytes(), mode=0o600)
        record = layout.Record(
            format=layout.FORMAT,
            fingerprint=node.card.fingerprint,
            time=now,
            size=size,
            root=root.hex(),
            files={
                path.relative_to(making).as_posix(): layout.digest_of(path)
                for path in sorted(making.rglob("*"))
                if path.is_file()
            },
            missing=tuple(pool.missing),
        )
        write_whole(making / layout.RECORD, record.encode(), mode=0o600)
        sync_directory(making / "audit")
        sync_directory(making)
        rename(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Saved(
        folder=folder,
        size=size,
        root=root,
        batches=len(pool.batches),
        batch_bytes=sum(pool.batches.values()),
        new_batches=pool.new,
        new_bytes=pool.new_bytes,
        missing=tuple(pool.missing),
        with_keys=seal is not None,
    )


class _Pool:
    """Brings the batches of one backup into the pool."""

    def __init__(
        self,
        node: Node,
        pool: Path,
        progress: Callable[[Saving], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._node = node
        self._to = Batches(node.home.store_path, pool, link=True)
        self._progress = progress
        self._cancelled = cancelled
        self.batches: dict[bytes, int] = {}
        self.missing: list[str] = []
        self.new = self.new_bytes = 0

    def take_all(self, copy: Path) -> None:
        """Copy the database and bring over the batches that it names.

        A missing batch may have been discarded since; then a newer copy does not name it.
        """
        for _ in range(TRIES):
            copy.unlink(missing_ok=True)
            copy_database(self._node.home.database_path, copy)
            before = self.missing
            self.batches = layout.batches_of(copy)
            self.missing = self._take()
            if self.missing == before:
                break
        self._to.finish()

    def _take(self) -> list[str]:
        missing = []
        done, total = 0, sum(self.batches.values())
        for digest, size in sorted(self.batches.items()):
            if self._cancelled():
                raise Stopped
            if not self._to.has(digest, size):
                if self._to.take(digest):
                    self.new += 1
                    self.new_bytes += size
                else:
                    missing.append(digest.hex())
            done += size
            self._progress(Saving(done, total))
        return missing


def _require_whole_keys(node: Node) -> None:
    if node.home.rotation_path.exists():
        raise NodeError(
            "a change of keys could not be finished, so keys and card may not be those of the log",
            hint="start the node anew, which finishes or undoes it, then back up",
            code=ExitCode.DISK,
        )


def _signed(node: Node) -> tuple[str, int, bytes]:
    """The newest checkpoint, and the size and root that it signs."""
    try:
        text = node.audit.latest_checkpoint()
    except NodeError:
        # A home on a full disk needs its backup most: use the checkpoint on disk then.
        text = (node.home.path / layout.CHECKPOINT).read_text("utf-8")
    checkpoint = parse_checkpoint_untrusted(parse_note_untrusted(text.encode())[0])
    if node.keys.log.is_sealed and checkpoint.size < node.audit.size:
        raise NodeError(
            "the end of the log is not signed, and the key that signs it is under a passphrase",
            hint="start the node once, which signs it, and back up then",
            code=ExitCode.PASSPHRASE,
        )
    return text, checkpoint.size, checkpoint.root


def _write_log(node: Node, path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for entry in node.audit.entries(0, size):
            file.write(frame(entry))
        sync_open(file)


def _sealed_keys(node: Node, seal: Seal) -> bytes:
    pairs = {role: getattr(node.keys, role) for role in ROLES if node.home.has_key(role)}
    # Opened: so the passphrase of the backup is a second way to the keys of a sealed home.
    files = {role: encode_key(role, pair).decode() for role, pair in pairs.items() if pair}
    if node.home.keyring.is_sealed:
        files[layout.WERE_SEALED] = "yes"
    return seal_files(seal.key, seal.salt, nacl.utils.random(NONCE_BYTES), files)


def _free_name(directory: Path, now: int) -> Path:
    name = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(now))
    path, number = directory / name, 1
    while path.exists():
        number += 1
        path = directory / f"{name}-{number}"
    return path


def _require_outside(directory: Path, home: Path) -> None:
    if not directory.is_absolute():
        raise NodeError(f"the path {directory} must be absolute", code=ExitCode.USAGE)
    if directory.resolve().is_relative_to(home.resolve()):
        raise NodeError(
            f"{directory} lies in the home itself",
            hint="put backups on another disk",
            code=ExitCode.USAGE,
        )


def _require_ours(directory: Path, fingerprint: str) -> None:
    """Refuse a folder with other content; remove what a crash left."""
    for path in directory.iterdir():
        name = path.name
        left = name.removeprefix(".").removesuffix(".new")
        if name.startswith(".") and name.endswith(".new") and layout.is_backup_name(left):
            shutil.rmtree(path)
        elif not (name == layout.POOL or layout.is_backup_name(name) or name in OF_FILE_SYSTEMS):
            raise NodeError(
                f"the folder {directory} holds something else than backups",
                hint="give a new or empty folder",
                code=ExitCode.USAGE,
            )
    for backup in layout.backups_in(directory)[-1:]:
        if layout.read_record_untrusted(backup / layout.RECORD).fingerprint != fingerprint:
            raise NodeError(
                f"the folder {directory} holds backups of another facility",
                hint="give each home a folder of its own",
                code=ExitCode.USAGE,
            )


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError(
                f"another backup is being written to {directory}",
                hint="wait until it is done",
                code=ExitCode.BUSY,
            ) from None
        except OSError:
            # The file system cannot lock folders.
            pass
        yield
    finally:
        os.close(descriptor)
