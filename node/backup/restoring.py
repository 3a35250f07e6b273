"""Makes a home from a backup, and says what is missing.

Each file is compared with its digest while it is copied, and the new home is checked as by
`radmesh check` before it is put in its place. A log that contradicts its signed checkpoint
is not restored: a node could not start on it, and its folder is evidence.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nacl.utils

from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError
from keys.keyfile import ROLES, decode_key, read_key_file
from keys.passphrase import SALT_BYTES, derive, usual_cost
from keys.sealed_files import open_files_untrusted
from node.backup import layout
from node.backup.batches import Batches
from node.durable import disk_error, sync_directory, sync_open, write_whole
from node.errors import ExitCode, NodeError
from node.fsck.check import Report, check_home
from node.fsck.findings import CannotCheck, Finding
from node.keyring import encode_all
from node.making import make_whole

_FOLDERS = ("keys", "store", "incoming", "arrivals", "quarantine", "audit")
_FATAL = ("database-damaged", "log-checkpoint", "log-damaged", "log-torn")


@dataclass(frozen=True)
class Restored:
    """A home that was made from a backup.

    Attributes:
        backup: folder of the backup.
        time: when the backup was made, seconds since the epoch, UTC.
        size, root: size and root of the log.
        batches: number of batches that were restored.
        missing: digests (hex) of batches that were not.
        studies: Study Instance UIDs of studies that need a missing batch.
        missing_keys: roles of keys that were not restored.
        findings: further findings of the check.
    """

    backup: Path
    time: int
    size: int
    root: bytes
    batches: int
    missing: tuple[str, ...]
    studies: tuple[str, ...]
    missing_keys: tuple[str, ...]
    findings: tuple[Finding, ...]


def find_backup(path: Path, *, with_keys: bool = False) -> Path:
    """The folder itself if it is a backup, or the newest backup in it.

    Args:
        path: the folder.
        with_keys: only a backup that holds the keys.

    Raises:
        NodeError: there is no backup.
    """
    try:
        is_one = (path / layout.RECORD).is_file()
        found = [path] if is_one else layout.backups_in(path)
    except OSError:
        found = []
    if with_keys:
        found = [one for one in found if has_keys(one)]
    if not found:
        what = "backup with keys" if with_keys else "whole backup"
        raise NodeError(
            f"there is no {what} in {path}",
            hint="name the folder that `radmesh backup` wrote to, or one backup in it",
            code=ExitCode.NOT_FOUND,
        )
    return found[-1]


def has_keys(backup: Path) -> bool:
    """Whether a backup holds the keys, sealed with a passphrase."""
    return (backup / layout.SEALED_KEYS).is_file()


def open_keys(backup: Path, passphrase: str) -> dict[str, bytes]:
    """The key files of a backup, by role, for a home.

    If the keys were under a passphrase in their home, these files are, too: under that of the
    backup.

    Raises:
        NodeError: the passphrase is wrong, or the keys are damaged.
    """
    files, were_sealed = open_plain_keys(backup, passphrase)
    if not were_sealed:
        return files
    pairs = {role: decode_key(role, data) for role, data in files.items()}
    return encode_all(pairs, derive(passphrase, usual_cost(nacl.utils.random(SALT_BYTES))))


def open_plain_keys(backup: Path, passphrase: str) -> tuple[dict[str, bytes], bool]:
    """The key files of a backup, by role and in the open, and whether they were sealed in
    their home.

    Raises:
        NodeError: the passphrase is wrong, or the keys are damaged.
    """
    try:
        files = open_files_untrusted((backup / layout.SEALED_KEYS).read_bytes(), passphrase)
        were_sealed = files.pop(layout.WERE_SEALED, "") == "yes"
        for role, text in files.items():
            decode_key(role, text.encode())
    except OSError as error:
        raise disk_error("the sealed keys cannot be read", error) from error
    except KeysError as error:
        raise NodeError(str(error), code=ExitCode.INTEGRITY) from error
    return {role: text.encode() for role, text in files.items()}, were_sealed


def read_keys(folder: Path) -> dict[str, bytes]:
    """The key files in a folder, by role.

    Raises:
        NodeError: there is no key file, or one cannot be read.
    """
    try:
        files = {role: (folder / role).read_bytes() for role in ROLES if (folder / role).exists()}
    except OSError as error:
        raise disk_error(f"the keys in {folder} cannot be read", error) from error
    if not files:
        raise NodeError(f"there are no keys in {folder}", code=ExitCode.NOT_FOUND)
    return files


def restore(
    backup: Path,
    home: Path,
    keys: Mapping[str, bytes],
    *,
    now: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Restored:
    """Make a home from a backup; blocks until done.

    Args:
        backup: folder of the backup.
        home: folder of the new home, which is empty or does not exist.
        keys: key files by role; missing ones may be added later.
        now: seconds since the epoch, UTC.
        progress: called with the bytes of batches brought over so far, and of all.

    Raises:
        NodeError: an essential part of the backup is damaged, the keys are of another
            home, the home exists, or a disk is full. No home is left behind.
    """
    record = layout.read_record_untrusted(backup / layout.RECORD)
    missing: list[bytes] = []
    studies: list[str] = []
    reports: list[Report] = []
    batches: dict[bytes, int] = {}

    def fill(folder: Path) -> None:
        for name in _FOLDERS:
            (folder / name).mkdir(mode=0o700)
        _copy_files(backup, folder, record)
        _write_keys(folder, keys)
        batches.update(layout.batches_of(folder / layout.DATABASE))
        missing.extend(_copy_batches(backup.parent / layout.POOL, folder, batches, progress))
        studies.extend(layout.studies_of(folder / layout.DATABASE, frozenset(missing)))
        reports.append(_check(folder, record, now))

    try:
        make_whole(home, fill)
    except OSError as error:
        raise disk_error(f"the backup cannot be restored to {home}", error) from error
    return Restored(
        backup=backup,
        time=record.time,
        size=record.size,
        root=bytes.fromhex(record.root),
        batches=len(batches) - len(missing),
        missing=tuple(digest.hex() for digest in missing),
        studies=tuple(studies),
        missing_keys=tuple(role for role in ROLES if role not in keys),
        findings=tuple(one for one in reports[0].findings if one.kind != "batch-missing"),
    )


def _copy_files(backup: Path, folder: Path, record: layout.Record) -> None:
    for name, digest in record.files.items():
        if name == layout.SEALED_KEYS:
            continue
        try:
            shutil.copyfile(backup / name, folder / name)
        except FileNotFoundError:
            raise _damaged(f"{name} is missing") from None
        (folder / name).chmod(0o644 if name in layout.SETTLED else 0o600)
        if layout.digest_of(folder / name) != digest:
            raise _damaged(f"{name} is not what was written")
        with (folder / name).open("rb") as file:
            sync_open(file)
    sync_directory(folder / "audit")


def _write_keys(folder: Path, keys: Mapping[str, bytes]) -> None:
    card = parse_card_untrusted((folder / "card").read_bytes())
    for role, data in keys.items():
        try:
            public = read_key_file(role, data).public
        except KeysError as error:
            raise NodeError(f"the {role} key: {error}", code=ExitCode.INTEGRITY) from error
        if not _is_of(card, role, public):
            raise NodeError(
                f"the {role} key is not the one that the card of this backup names",
                hint="give the keys of that time: of the same backup, or before they were replaced",
                code=ExitCode.INTEGRITY,
            )
        write_whole(folder / "keys" / role, data, mode=0o600)


def _is_of(card: Card, role: str, public: bytes) -> bool:
    named = {
        "facility": card.facility_key,
        "node": card.node_key,
        "log": card.log_key,
        "witness": card.witness_key,
    }
    return named.get(role) == public


def _copy_batches(
    pool: Path, folder: Path, batches: Mapping[bytes, int], progress: Callable[[int, int], None]
) -> list[bytes]:
    # Copy, do not link: a disk that fails under the home must not damage the backup, too.
    to = Batches(pool, folder / "store", link=False)
    missing = []
    done, total = 0, sum(batches.values())
    for digest, size in sorted(batches.items()):
        if not to.take(digest):
            missing.append(digest)
        done += size
        progress(done, total)
    to.finish()
    return missing


def _check(folder: Path, record: layout.Record, now: float) -> Report:
    try:
        # Fast, since the batches were compared with their digests a moment ago.
        report = check_home(folder, now=now, fast=True)
    except CannotCheck as error:
        raise _damaged(str(error)) from error
    fatal = next((one for one in report.findings if one.kind in _FATAL), None)
    if fatal is not None:
        raise _damaged(fatal.what)
    if (report.entries, report.root.hex()) != (record.size, record.root):
        raise _damaged("its log is not the one of its record")
    return report


def _damaged(why: str) -> NodeError:
    return NodeError(
        f"the backup is damaged: {why}",
        hint="nothing was restored; take an older backup, and keep this one for an examination",
        code=ExitCode.INTEGRITY,
    )
