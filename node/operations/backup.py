"""The operation that backs a home up, also while its node runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keys.sealed_files import KEY_BYTES, SALT_BYTES
from node.app import Node
from node.errors import ExitCode, NodeError
from node.operations.base import Operation, Report, Result, text
from node.operations.images import run_work


async def backup(node: Node, parameters: dict[str, Any], report: Report) -> Result:
    """Write a backup into a folder of backups."""
    from node.backup.saving import Stopped, save

    directory = Path(text(parameters, "directory"))
    seal = _seal(parameters.get("seal"))

    def work(progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any:
        try:
            return save(node, directory, seal, progress, cancelled)
        except Stopped:
            raise NodeError(
                "the backup was stopped, and there is none",
                hint="run it again: the batches that it has are not copied twice",
                code=ExitCode.INTERRUPTED,
            ) from None

    saved = await run_work(work, report, dataclasses.asdict)
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


def _seal(value: Any) -> Any:
    from node.backup.saving import Seal

    if value is None:
        return None
    try:
        seal = Seal(bytes.fromhex(value["key"]), bytes.fromhex(value["salt"]))
    except (KeyError, TypeError, ValueError):
        seal = Seal(b"", b"")
    if (len(seal.key), len(seal.salt)) != (KEY_BYTES, SALT_BYTES):
        # Never with the value: it opens the keys.
        raise NodeError("the parameter seal is malformed", code=ExitCode.USAGE)
    return seal


OPERATIONS = {"backup": Operation(backup)}
