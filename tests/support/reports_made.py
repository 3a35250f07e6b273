"""A log with one of everything, and the facilities in it, for tests of reports."""

from pathlib import Path

from logs_made import CARD, ORIGIN, Clock, create

from keys.card import issue_card
from keys.identity import KeyPair
from keys.trust import Peer
from node.audit.log import AuditLog
from node.reports.facilities import Facilities
from protocol.log.entry import ABOUT_PERSONS, TYPES, Event, subjects_of

SOUTH_KEY, SOUTH_NODE, SOUTH_LOG, SOUTH_WITNESS = (
    KeyPair.from_seed(bytes([n]) * 32) for n in range(20, 24)
)
SOUTH_CARD = issue_card(
    SOUTH_KEY,
    name="South Clinic",
    node_key=SOUTH_NODE.public,
    log_key=SOUTH_LOG.public,
    witness_key=SOUTH_WITNESS.public,
    addresses=("/dns4/radmesh.south.example/tcp/4101",),
    serial=1,
    issued=1_790_000_000,
    expires=1_890_000_000,
)
SOUTH = Peer(SOUTH_KEY.public, "South", SOUTH_CARD)
STRANGER = bytes([7]) * 32
FACILITIES = Facilities(CARD, [SOUTH])

STUDY = "1.2.826.0.1.3680043.8.498.1001"
PATIENT = "PID-1001^^^NORTH"
OTHER_STUDY = "1.2.826.0.1.3680043.8.498.2002"
OTHER_PATIENT = "PID-2002"
TRANSFER = "000102030405060708090a0b0c0d0e0f"

STEP_MS = 3_600_000
"""Between two entries of `log_of_everything`."""


def event_of(kind: str, **fields: object) -> Event:
    """An entry of a type as the node writes it, about STUDY and South if the type has them."""
    with_peer = kind.startswith(("trust-", "disclos", "receive", "receipt")) or kind in (
        "announced", "requested", "refused", "fork-seen", "reconciled",
    )  # fmt: skip
    with_study = kind in (
        "ingest", "announced", "requested", "refused", "disclosure-begun", "disclosed",
        "disclosure-failed", "received", "receive-failed", "receipt", "withdrawn", "shared",
    )  # fmt: skip
    details: dict[str, object] = {}
    if with_study and with_peer:
        details = {"transfer": TRANSFER, "instances": 3, "bytes": 1_000_000}
    if kind in ("refused", "disclosure-failed", "receive-failed"):
        details["why"] = "the connection was lost"
    if kind == "requested":
        details["direction"] = "out"
    subjects = subjects_of(STUDY, (PATIENT,)) if with_study else ()
    if kind in ABOUT_PERSONS:
        subjects = (("person", "anna^^^look^^^Dr. Anna^^^anna1"),)
    given: dict[str, object] = {
        "type": kind,
        "actor": "operator" if kind.startswith("trust-") or kind == "ingest" else "node",
        "peer": SOUTH_KEY.public if with_peer else b"",
        "purpose": "treatment" if details else "",
        "outcome": {"refused": "refused"}.get(kind, "failed" if "failed" in kind else "success"),
        "subjects": subjects,
        "details": details,
        **fields,
    }
    return Event(**given)  # type: ignore[arg-type]


def log_of_everything(directory: Path) -> AuditLog:
    """One entry of each type, an hour apart, the first of type `init`."""
    clock = Clock()
    log = create(directory, clock)
    for kind in TYPES[1:]:
        clock.now += STEP_MS
        log.append(event_of(kind))
    return log


__all__ = ["CARD", "ORIGIN"]
