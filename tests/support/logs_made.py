"""An audit log with fixed keys, for tests."""

import io

from keys.card import issue_card
from keys.fingerprint import fingerprint, parse_fingerprint
from keys.identity import KeyPair
from node.audit.log import AuditLog
from protocol.log.entry import Event, decode_entry_untrusted
from protocol.verify import verify_bundle

FACILITY, NODE, LOG, WITNESS = (KeyPair.from_seed(bytes([n]) * 32) for n in range(4))
ORIGIN = f"radmesh.log/{fingerprint(FACILITY.public)}"
CARD = issue_card(
    FACILITY,
    name="North General",
    node_key=NODE.public,
    log_key=LOG.public,
    witness_key=WITNESS.public,
    addresses=(),
    serial=1,
    issued=1_790_000_000,
    expires=1_890_000_000,
)
INIT = Event(
    type="init",
    actor="operator",
    details={
        "facility_key": FACILITY.public.hex(),
        "log_key": LOG.public.hex(),
        "origin": ORIGIN,
    },
)
START_MS = 1_795_512_718_123


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = START_MS

    def __call__(self):
        return self.now


def create(directory, clock=lambda: START_MS):
    return AuditLog.create(directory, log_key=LOG, origin=ORIGIN, clock_ms=clock, first=INIT)


def reopen(directory, clock=lambda: START_MS):
    return AuditLog.open(directory, log_key=LOG, origin=ORIGIN, clock_ms=clock)


def entries_of(log):
    return [decode_entry_untrusted(data) for data in log.entries()]


def verified(log):
    buffer = io.BytesIO()
    log.export(buffer, card=CARD.encoded)
    return verify_bundle(
        buffer, facility_fingerprint=parse_fingerprint(fingerprint(FACILITY.public))
    )


def event(number):
    return Event(type="ingest", subjects=(("study", f"1.2.{number}"),), details={"n": number})
