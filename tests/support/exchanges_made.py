"""Two facilities' logs of their exchanges, for tests of their comparison."""

import hashlib
from dataclasses import dataclass, field

from bundles_made import (
    FACILITY,
    FINGERPRINT,
    PEER,
    PEER_CARD,
    START_MS,
    STRANGER,
    Log,
    init_event,
)

from keys.fingerprint import fingerprint, parse_fingerprint
from protocol.log.entry import Event

PEER_ORIGIN = f"radmesh.log/{fingerprint(PEER.public)}"
PEER_FINGERPRINT = parse_fingerprint(fingerprint(PEER.public))
HOUR_MS = 3_600_000
CONTENT = {"content_root": "c" * 64, "instances": 12, "bytes": 70_000}
SENT = {"batches": 2, "encoded_bytes": 30_000}
MANIFEST = {"manifest": "d" * 64}


def transfer_id(number):
    return f"{number:032x}"


@dataclass
class Pair:
    """The logs of North (A) and Lakeside (B) under construction; one hour between exchanges."""

    a: Log = field(default_factory=lambda: Log().add(init_event()))
    b: Log = field(
        default_factory=lambda: Log(card=PEER_CARD.encoded, key=STRANGER, origin=PEER_ORIGIN).add(
            init_event(PEER, STRANGER, PEER_ORIGIN)
        )
    )
    now_ms: int = START_MS

    def wait(self, ms=HOUR_MS):
        self.now_ms += ms
        return self

    def log(self, where, kind, number, subjects=True, purpose="treatment", **details):
        log, peer = (self.a, PEER) if where == "A" else (self.b, FACILITY)
        event = Event(
            type=kind,
            peer=peer.public,
            purpose=purpose,
            subjects=(("study", f"1.2.{number}"),) if subjects else (),
            details={"transfer": transfer_id(number), **details},
        )
        log.add(event, self.now_ms)
        return self

    def source(self, where, kind, number, **details):
        """An entry of the side that sends."""
        more = {**CONTENT, "direction": "out"}
        if kind != "disclosure-begun":
            more |= {**SENT, **MANIFEST}
        return self.log(where, kind, number, **{**more, **details})

    def recipient(self, where, kind, number, **details):
        """An entry of the side that receives."""
        return self.log(where, kind, number, **{**CONTENT, **SENT, **MANIFEST, **details})

    def begin(self, number, source="A"):
        """The request and the beginning, as both log them."""
        self.wait()
        self.log(_other(source), "requested", number, direction="in")
        self.log(source, "requested", number, direction="out")
        return self.source(source, "disclosure-begun", number)

    def whole(self, number, source="A", **details):
        """A complete transfer, as both should log it."""
        self.begin(number, source)
        self.recipient(_other(source), "received", number)
        self.source(source, "disclosed", number)
        self.source(source, "receipt", number, receipt=receipt_of(number))
        return self.recipient(
            _other(source), "receipt", number, receipt=receipt_of(number), **details
        )

    def close(self):
        """Let both logs continue for an hour, and sign them."""
        self.wait()
        for log in (self.a, self.b):
            log.add(Event(type="stop"), self.now_ms)
            log.sign()
        return self

    def bundles(self):
        return self.a.bundle(), self.b.bundle()


def _other(name):
    return "B" if name == "A" else "A"


def receipt_of(number, session=0):
    return hashlib.sha256(f"{number}.{session}".encode()).hexdigest()


__all__ = [
    "CONTENT",
    "FINGERPRINT",
    "MANIFEST",
    "PEER_FINGERPRINT",
    "SENT",
    "Pair",
    "receipt_of",
    "transfer_id",
]
