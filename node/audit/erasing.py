"""Erases the openings that name a person; a crash cannot leave half of an erasure.

Theory. An erasure is written down (`Erasures.begin`), then logged by the entry `erased`,
then done (`Erasures.finish`). After a crash in between, the next start finds it by `pending`
and goes on: a person has confirmed it, so it is never dropped. Entries stay as they are;
their commitments can no longer be opened.
"""

import logging
from collections.abc import Callable, Sequence

from node.audit.erasure import BEFORE, Erasure
from node.audit.log import AuditLog
from node.errors import ExitCode, NodeError

log = logging.getLogger("radmesh.audit")

Forget = Callable[[Sequence[str]], None]
"""Takes Study Instance UIDs, or names of persons."""


def _nothing(names: Sequence[str]) -> None:
    """Forget nobody."""


def erase(
    audit: AuditLog, kind: str, value: str, forget: Forget, forget_persons: Forget = _nothing
) -> tuple[Erasure, int, bytes]:
    """Erase the openings of a study, a patient or a person, or of all entries below an index.

    Args:
        audit: the log.
        kind: `study`, `patient`, `person` or `node.audit.erasure.BEFORE`.
        value: the Study Instance UID, the patient's identity, the person's name, or the index.
        forget: deletes other records that show which entries are about a study.
        forget_persons: deletes other records that name a person.

    Returns:
        The erasure, the index of its entry, and the salt of its commitment.

    Raises:
        NodeError: the disk is full or failing; the next start goes on with the erasure.
    """
    erasure, salt = audit.evidence.erasures.begin(kind, value, audit.size)
    try:
        index = audit.append(erasure.event())
        _finish(audit, erasure, forget, forget_persons)
    except NodeError as error:
        raise NodeError(
            f"the erasure is not finished: {error.message}",
            hint="it goes on by itself at the next start of the node, or with the next command",
            code=ExitCode.DISK,
        ) from error
    return erasure, index, salt


def _finish(audit: AuditLog, erasure: Erasure, forget: Forget, forget_persons: Forget) -> None:
    # This comes first: only the openings say which studies or persons these are. An erasure by age
    # is about old entries, and not about studies, which may have young ones.
    if erasure.kind != BEFORE:
        forget(audit.evidence.erasures.studies(erasure))
    if erasure.kind == "person":
        forget_persons(audit.evidence.erasures.persons(erasure))
    audit.evidence.erasures.finish(erasure)


def finish_erasures(audit: AuditLog, forget: Forget, forget_persons: Forget = _nothing) -> None:
    """Go on with the erasures that a crash left unfinished; see `erase`.

    Raises:
        NodeError: the disk is full or failing.
    """
    for erasure in audit.evidence.erasures.pending():
        mark = f'"erasure":"{erasure.name.hex()}"'.encode()
        if not any(mark in entry for entry in audit.entries(erasure.since)):
            audit.append(erasure.event())
        _finish(audit, erasure, forget, forget_persons)


def go_on_erasing(audit: AuditLog, forget: Forget, forget_persons: Forget = _nothing) -> None:
    """As `finish_erasures`, at the start of a node, which must not fail because of it."""
    try:
        finish_erasures(audit, forget, forget_persons)
    except NodeError as error:
        log.warning(
            "an erasure is not finished and is tried again at the next start: %s", error.message
        )
