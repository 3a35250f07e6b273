"""What a node can be asked to do, by name: the one table behind the local API and
the command line. Each operation takes and gives JSON values (docs/operations.md)."""

from node.operations import (
    arrive,
    backup,
    discard,
    erase,
    facility,
    handing,
    images,
    keys,
    log,
    pending,
    proofs,
    reconcile,
    reports,
    transfer,
    witness,
)
from node.operations.base import Operation

OPERATIONS: dict[str, Operation] = {
    **facility.OPERATIONS,
    **images.OPERATIONS,
    **arrive.OPERATIONS,
    **discard.OPERATIONS,
    **transfer.OPERATIONS,
    **log.OPERATIONS,
    **reports.OPERATIONS,
    **erase.OPERATIONS,
    **handing.OPERATIONS,
    **pending.OPERATIONS,
    **reconcile.OPERATIONS,
    **keys.OPERATIONS,
    **proofs.OPERATIONS,
    **witness.OPERATIONS,
    **backup.OPERATIONS,
}

__all__ = ["OPERATIONS", "Operation"]
