"""The batches that a copy of the catalog names, for a backup of them.

A copy is read by itself, without a node: the caller passes a function that runs a query.
"""

from collections.abc import Callable
from typing import Any

Rows = Callable[[str], list[tuple[Any, ...]]]
"""Runs a query on a copy."""


def batches_named(rows: Rows) -> dict[bytes, int]:
    """Encoded size in bytes of each batch, by digest."""
    return dict(rows("SELECT digest, encoded_size FROM batches"))


def studies_that_need(rows: Rows, digests: frozenset[bytes]) -> list[str]:
    """Study Instance UIDs of the studies that need one of these batches, in order."""
    found = rows("SELECT study_uid, digest FROM study_batches")
    return sorted({uid for uid, digest in found if digest in digests})
