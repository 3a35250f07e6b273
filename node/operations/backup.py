"""The operation that backs a home up, also while its node runs."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.images import run_work
from node.operations.wrapping import Sealing, wrapping_of


@dataclass(frozen=True)
class Backup:
    """Parameters of `backup`."""

    directory: parameters.Path
    seal: Sealing | None = None


async def backup(call: Call, asked: Backup) -> Result:
    """Write a backup into a folder of backups."""
    from node.backup.saving import Seal, Stopped, save

    directory = Path(asked.directory)
    seal = None
    if asked.seal is not None:
        wrapping = wrapping_of(asked.seal)
        seal = Seal(wrapping.key, wrapping.cost.salt)

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


OPERATIONS = (
    Operation("backup", Backup, backup, writes=True, local_only=True, without_private_keys=True),
)
