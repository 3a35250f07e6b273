"""The facility key out of the home, into a sealed file, and back.

Moving it out: the new file, sealed; the file read back and opened; the entry; the old file
renamed, overwritten and removed. So there is a readable copy at each moment.
"""

import os
from dataclasses import replace
from pathlib import Path

import nacl.utils

from keys.card import Card
from keys.errors import KeysError
from keys.identity import KeyPair
from keys.keyfile import KEY_FILE_BYTES, NONCE_BYTES, decode_key, seal_key
from keys.passphrase import Wrapping
from node.audit.log import AuditLog
from node.durable import disk_error, overwrite, rename, sync_directory, write_new, write_whole
from node.errors import ExitCode, NodeError
from node.home import Home, Keys
from protocol.log.entry import Event


def write_sealed(path: Path, facility: KeyPair, wrapping: Wrapping) -> None:
    """Write the facility key to a new file under a passphrase, and read it back.

    Raises:
        NodeError: the file exists, cannot be written, or does not come back as written.
    """
    data = seal_key("facility", facility, wrapping, nacl.utils.random(NONCE_BYTES))
    try:
        write_new(path, data)
        sync_directory(path.parent)
        back = decode_key("facility", _from_disk(path), wrapping)
    except FileExistsError as error:
        raise NodeError(
            f"{path} exists already",
            hint="name a new file: a key is never overwritten",
            code=ExitCode.USAGE,
        ) from error
    except OSError as error:
        raise disk_error(f"the facility key cannot be written to {path}", error) from error
    except KeysError as error:
        raise _not_read_back(path) from error
    if back.seed != facility.seed:
        raise _not_read_back(path)


def move_out(home: Home, audit: AuditLog, keys: Keys, path: Path, wrapping: Wrapping) -> Keys:
    """Move the facility key of a home to a sealed file.

    Args:
        home: the home.
        audit: its log.
        keys: its keys.
        path: the new file, outside of the home.
        wrapping: the key of the passphrase of that file.

    Returns:
        The keys without it.

    Raises:
        NodeError: the key is not here, the file cannot be written or read back, or the entry
            cannot be logged; then the key stays in the home, too.
    """
    facility = require_here(home, keys)
    _require_outside(path, home)
    write_sealed(path, facility, wrapping)
    audit.append(Event(type="facility-key-moved", actor="operator", details={"to": "file"}))
    here = home.keys_path / "facility"
    # Under a name that nobody reads: half overwritten, it would keep the node from starting. The
    # next start overwrites and removes what a crash leaves of it (`node.rotation.sweep`).
    leaving = here.with_name(".facility.tmp")
    try:
        rename(here, leaving)
        overwrite(leaving)
        leaving.unlink()
        sync_directory(here.parent)
    except OSError as error:
        raise disk_error(
            f"the facility key is in {path}, and its file in {here.parent} cannot be removed", error
        ) from error
    return replace(keys, facility=None)


def take_in(home: Home, audit: AuditLog, keys: Keys, facility: KeyPair) -> Keys:
    """Put the facility key back into a home, sealed if the other keys are.

    Raises:
        NodeError: the entry cannot be logged, or the file cannot be written.
    """
    audit.append(Event(type="facility-key-moved", actor="operator", details={"to": "home"}))
    try:
        write_whole(home.keys_path / "facility", home.keyring.encode("facility", facility))
    except OSError as error:
        raise disk_error("the facility key cannot be written", error) from error
    return replace(keys, facility=facility)


def require_here(home: Home, keys: Keys) -> KeyPair:
    """The facility key, if its file is in the home.

    Raises:
        NodeError: it is not.
    """
    # The node may still hold, from its start, a key whose file was taken offline since.
    if keys.facility is None or not home.has_key("facility"):
        raise NodeError(
            "the facility key is not in this home, and this needs it",
            hint="name its file with --facility-key; it is read once and not kept",
            code=ExitCode.NOT_FOUND,
        )
    return keys.facility


def require_of(facility: KeyPair, card: Card) -> None:
    """Refuse the facility key of another facility.

    Raises:
        NodeError: it is another's.
    """
    if facility.public != card.facility_key:
        raise NodeError(
            "this is the facility key of another facility",
            hint=f"the key of {card.name} has the fingerprint {card.fingerprint}",
            code=ExitCode.INTEGRITY,
        )


def _from_disk(path: Path) -> bytes:
    """The bytes of a file, from the disk and not from memory where the system can do that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.read(descriptor, KEY_FILE_BYTES)
    finally:
        os.close(descriptor)


def _not_read_back(path: Path) -> NodeError:
    return NodeError(
        f"what was written to {path} does not come back from it",
        hint="the facility key stays where it was; use another medium",
        code=ExitCode.DISK,
    )


def _require_outside(path: Path, home: Home) -> None:
    if path.resolve().is_relative_to(home.path.resolve()):
        raise NodeError(
            f"{path} lies in the home itself",
            hint="name a file on a medium that is kept apart from this machine",
            code=ExitCode.USAGE,
        )
