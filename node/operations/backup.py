"""The operation that backs a home up, also while its node runs."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keys.passphrase import KEY_BYTES, SALT_BYTES
from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.images import run_work


@dataclass(frozen=True, repr=False)
class BackupSeal:
    """A key of 32 bytes and a salt of 16 (hex) that seal the private keys. Has no repr."""

    key: str
    salt: str


@dataclass(frozen=True)
class Backup:
    """Parameters of `backup`."""

    directory: parameters.Path
    seal: BackupSeal | None = None


async def backup(call: Call, asked: Backup) -> Result:
    """Write a backup into a folder of backups."""
    from node.backup.saving import Stopped, save

    directory = Path(asked.directory)
    seal = None
    if asked.seal is not None:
        seal = _seal(asked.seal)

    def work(progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any:
        try:
            return save(call.node, directory, seal, progress, cancelled)
        except Stopped:
            raise NodeError(
                "the backup was stopped, and there is none",
                hint="run it again: the batches that it has are not copied twice",
                code=ExitCode.INTERRUPTED,
            ) from None

    saved = await run_work(work, call.report, dataclasses.asdict)
    return {
        "backup": str(saved.folder),
        "size": saved.size,
        "root": saved.root.hex(),
        "batches": saved.batches,
        "bytes": saved.batch_bytes,
        "new_batches": saved.new_batches,
        "new_bytes": saved.new_bytes,
        "missing": list(saved.missing),
        "with_keys": saved.with_keys,
    }


def _seal(given: BackupSeal) -> Any:
    from node.backup.saving import Seal

    try:
        seal = Seal(bytes.fromhex(given.key), bytes.fromhex(given.salt))
    except ValueError:
        seal = Seal(b"", b"")
    if (len(seal.key), len(seal.salt)) != (KEY_BYTES, SALT_BYTES):
        # The error must not contain the value, which opens the keys.
        raise NodeError("the parameter seal is malformed", code=ExitCode.USAGE)
    return seal


OPERATIONS = (
    Operation(
        "backup",
        Backup,
        backup,
        writes=True,
        local_only=True,
        without_private_keys=True,
        private_keys_with="seal",
    ),
)
