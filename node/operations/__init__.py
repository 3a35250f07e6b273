"""The operations of a node, by name: the one table behind the local API and the command
line. Each operation takes the parameters of its class and returns JSON values
(docs/operations.md section 14)."""

from typing import Any

from node.operations import (
    archive,
    arrive,
    backup,
    discard,
    discs,
    doctor,
    emergencies,
    erase,
    explaining,
    facility,
    find,
    handing,
    images,
    keeping,
    keys,
    log,
    manifests,
    match,
    mine,
    offers,
    pairing,
    pending,
    people,
    proofs,
    proposals,
    reconcile,
    reports,
    requests,
    retention,
    rules,
    sharing,
    transfer,
    wishes,
    witness,
)
from node.operations.base import Call, Operation

TABLE: tuple[Operation[Any], ...] = (
    *facility.OPERATIONS,
    *rules.OPERATIONS,
    *explaining.OPERATIONS,
    *mine.OPERATIONS,
    *wishes.OPERATIONS,
    *requests.OPERATIONS,
    *emergencies.OPERATIONS,
    *pairing.OPERATIONS,
    *images.OPERATIONS,
    *sharing.OPERATIONS,
    *arrive.OPERATIONS,
    *discard.OPERATIONS,
    *discs.OPERATIONS,
    *manifests.OPERATIONS,
    *keeping.OPERATIONS,
    *doctor.OPERATIONS,
    *find.OPERATIONS,
    *transfer.OPERATIONS,
    *offers.OPERATIONS,
    *archive.OPERATIONS,
    *match.OPERATIONS,
    *log.OPERATIONS,
    *reports.OPERATIONS,
    *erase.OPERATIONS,
    *handing.OPERATIONS,
    *pending.OPERATIONS,
    *reconcile.OPERATIONS,
    *keys.OPERATIONS,
    *proofs.OPERATIONS,
    *witness.OPERATIONS,
    *backup.OPERATIONS,
    *retention.OPERATIONS,
    *people.OPERATIONS,
    *proposals.OPERATIONS,
)

OPERATIONS: dict[str, Operation[Any]] = {one.name: one for one in TABLE}

__all__ = ["OPERATIONS", "Call", "Operation"]
