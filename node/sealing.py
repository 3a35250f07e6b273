"""Puts the key files of a home under a passphrase, under another one, or in the open.

Order of writes: all new files into the folder `sealing`, aside; the entry; the folder's name,
which puts them in force; then each file into its place; then the folder is removed. After a
crash before the name the old files are in force, after it the new ones: `finish` installs
them when the home is opened next, before any key is read, and needs no passphrase for it. Who
writes a key file calls `finish` before: what it would install later is older than that file.
"""

import contextlib
from pathlib import Path

from keys.identity import KeyPair
from keys.keyfile import ROLES
from keys.passphrase import Wrapping
from node.audit.log import AuditLog
from node.durable import (
    disk_error,
    overwrite,
    remove_overwritten,
    rename,
    sync_directory,
    write_whole,
)
from node.errors import ExitCode, NodeError
from node.home import Home, Keys
from node.keyring import encode_all
from protocol.log.entry import Event


def reseal(home: Home, audit: AuditLog, keys: Keys, wrapping: Wrapping | None) -> None:
    """Write all key files of a home anew; call under the lock of key changes.

    Args:
        home: the home.
        audit: its log.
        keys: its keys.
        wrapping: the key of the new passphrase; None: they are not sealed any more.

    Raises:
        NodeError: a change of keys is not finished, a key file is there whose key this process
            does not have, the entry could not be logged, or the disk is full or failing. Then the
            files are as they were, or all new.
    """
    if home.rotation_path.exists():
        raise NodeError(
            "a change of keys could not be finished",
            hint="start the node anew, which finishes or undoes it, then try again",
            code=ExitCode.DISK,
        )
    was_sealed = home.keyring.is_sealed or bool(home.keyring.adopted)
    how = "plain" if wrapping is None else "resealed" if was_sealed else "sealed"
    event = Event(type="keys-sealed", actor="operator", details={"how": how})
    pairs = _pairs(home, keys)
    index = None
    try:
        finish(home)
        making = _making(home)
        making.mkdir(mode=0o700)
        for role, data in encode_all(pairs, wrapping).items():
            write_whole(making / role, data)
        index = audit.append(event)
        making.rename(home.sealing_path)
    except OSError as error:
        if index is not None:
            failed = {**event.details, "of": index}
            audit.append(Event(type=event.type, actor="node", outcome="failed", details=failed))
        raise disk_error("the key files cannot be written", error) from error
    # The new files are in force, even if the disk fails from here on.
    home.keyring.wrapping = wrapping
    home.keyring.adopted = {}
    try:
        finish(home)
    except OSError as error:
        raise disk_error(
            "the new key files count, and cannot be put into their places yet", error
        ) from error


def finish(home: Home) -> None:
    """Put key files into their places that a change left aside; remove what is half made.

    Raises:
        OSError: the disk is full or failing; it can be called again.
    """
    leaving = home.path / ".sealing.old"
    for folder in (_making(home), leaving):
        with contextlib.suppress(OSError):
            remove_overwritten(folder)
    if not home.sealing_path.is_dir():
        return
    # Its name must not be lost with the power while a part of its files is in place.
    sync_directory(home.path)
    for role in ROLES:
        new, old = home.sealing_path / role, home.keys_path / role
        if not new.exists():
            continue
        data = new.read_bytes()
        if old.exists() and old.read_bytes() != data:
            # A key in the open must not stay in the free space of the disk.
            overwrite(old)
        write_whole(old, data)
    # Rename first: a half-deleted folder must not be installed again.
    rename(home.sealing_path, leaving)
    remove_overwritten(leaving)


def _making(home: Home) -> Path:
    return home.path / ".sealing.new"


def _pairs(home: Home, keys: Keys) -> dict[str, KeyPair]:
    """The keys that have a file: one may have been taken offline while the node has it.

    Raises:
        NodeError: there is a file of a key that the node does not have.
    """
    pairs: dict[str, KeyPair] = {}
    for role in ROLES:
        pair = getattr(keys, role)
        if not home.has_key(role) and role not in home.keyring.adopted:
            continue
        if pair is None:
            # It would be said to be sealed, and stay as it is.
            raise NodeError(
                f"the {role} key came back into the home while the node runs, which does not have "
                "it: the key files stay as they are",
                hint="start the node anew, then try again",
                code=ExitCode.REFUSED,
            )
        pairs[role] = pair
    return pairs
