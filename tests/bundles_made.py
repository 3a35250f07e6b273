"""Audit bundles as a second implementation would write them, for tests of the verifier."""

import base64
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field

from keys.card import issue_card
from keys.fingerprint import fingerprint, parse_fingerprint
from keys.identity import KeyPair
from protocol.log.checkpoint import Checkpoint, sign_checkpoint
from protocol.log.entry import Event, Opening, encode_entry
from protocol.log.note import Signer
from protocol.log.tree import leaf_hash, range_root
from protocol.receipt import Receipt, SignedReceipt, sign_receipt
from protocol.verify import Evidence, verify_bundle

FACILITY, NODE, LOG, WITNESS, NEXT_LOG, PEER, PEER_NODE, STRANGER = (
    KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 9)
)
ORIGIN = f"radmesh.log/{fingerprint(FACILITY.public)}"
FINGERPRINT = parse_fingerprint(fingerprint(FACILITY.public))
START_MS = 1_795_512_718_123


def _card(facility, node, log, name="North General"):
    return issue_card(
        facility,
        name=name,
        node_key=node.public,
        log_key=log.public,
        witness_key=KeyPair.from_seed(facility.seed[::-1][:31] + b"w").public,
        addresses=(),
        serial=1,
        issued=START_MS // 1000 - 1000,
        expires=START_MS // 1000 + 10**8,
    )


CARD = _card(FACILITY, NODE, LOG)
PEER_CARD = _card(PEER, PEER_NODE, STRANGER, "Lakeside")


def make_receipt(number, *, recipient=PEER_NODE, instances=12, facility=FACILITY):
    body = Receipt(
        transfer=bytes([number]) * 16,
        source_facility=facility.public,
        recipient_facility=PEER.public,
        source_node=NODE.public,
        recipient_node=recipient.public,
        manifest=b"m" * 32,
        content_root=b"r" * 32,
        instances=instances,
        bytes=70_000,
        batches=2,
        encoded_bytes=30_000,
        purpose="treatment",
        time=START_MS,
        status="received",
    ).encode()
    return SignedReceipt(
        body=body,
        recipient_signature=sign_receipt(body, recipient),
        source_signature=sign_receipt(body, NODE),
    ).encode()


RECEIPT = make_receipt(1)


@dataclass
class Log:
    """A log under construction; `bundle` writes what its fields say at that moment."""

    entries: list = field(default_factory=list)
    openings: list = field(default_factory=list)
    receipts: list = field(default_factory=list)
    checkpoints: dict = field(default_factory=dict)
    card: bytes = CARD.encoded
    key: KeyPair = LOG
    origin: str = ORIGIN
    leaves: bytes = b""
    header: dict = field(default_factory=dict)
    extra: list = field(default_factory=list)

    def add(self, event, time_ms=None):
        index = len(self.entries)
        opened = [
            Opening(kind, value, bytes([index % 256, place]) * 8)
            for place, (kind, value) in enumerate(event.subjects)
        ]
        time_ms = START_MS + 1000 * index if time_ms is None else time_ms
        self.entries.append(encode_entry(event, index=index, time_ms=time_ms, openings=opened))
        self.openings += [(index, each) for each in opened]
        return self

    def sign(self, size=None, key=None, name=None, origin=None):
        size = len(self.entries) if size is None else size
        root = range_root([leaf_hash(entry) for entry in self.entries])(0, size)
        checkpoint = Checkpoint(origin or self.origin, size, root)
        note = sign_checkpoint(checkpoint, Signer(checkpoint.origin, key or self.key))
        self.checkpoints[name or f"checkpoints/{size}"] = note
        self.leaves = b"".join(map(leaf_hash, self.entries))
        return self

    def members(self):
        header = {
            "exported": "2026-11-24T09:31:58.123Z",
            "format": "radmesh-audit-bundle/1",
            "origin": self.origin,
            "size": len(self.entries),
            **self.header,
        }
        return [
            ("bundle.json", json.dumps(header).encode()),
            ("card", self.card),
            *((name, note.encode()) for name, note in self.checkpoints.items()),
            ("entries.jsonl", b"".join(entry + b"\n" for entry in self.entries)),
            ("leaves", self.leaves),
            ("openings.jsonl", b"".join(map(_opening_line, self.openings))),
            ("receipts.jsonl", b"".join(map(_receipt_line, self.receipts))),
            *self.extra,
        ]

    def bundle(self):
        return zip_of(self.members())


def _opening_line(pair):
    index, opening = pair
    return _line(
        {
            "commitment": opening.commitment,
            "index": index,
            "kind": opening.kind,
            "salt": opening.salt.hex(),
            "value": opening.value,
        }
    )


def _receipt_line(pair):
    index, receipt = pair
    return _line({"index": index, "receipt": base64.b64encode(receipt).decode()})


def _line(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def init_event(facility=FACILITY, log=LOG, origin=ORIGIN):
    details = {
        "facility_key": facility.public.hex(),
        "log_key": log.public.hex(),
        "origin": origin,
    }
    return Event(type="init", actor="operator", details=details)


def receipt_event(receipt, **more):
    details = {"receipt": hashlib.sha256(receipt).hexdigest(), "instances": 12, **more}
    return Event(type="receipt", peer=PEER.public, purpose="treatment", details=details)


def fill(log, numbers=range(1, 12), without=None):
    for number in numbers:
        if number == without:
            continue
        if number == 5:
            log.add(receipt_event(RECEIPT))
            log.receipts.append((len(log.entries) - 1, RECEIPT))
        else:
            subjects = (("study", f"1.2.{number}"),)
            log.add(Event(type="ingest", subjects=subjects, details={"instances": number}))
    return log


def honest():
    return fill(Log().add(init_event())).sign()


def verify(log, **evidence):
    data = log if isinstance(log, bytes) else log.bundle()
    return verify_bundle(
        io.BytesIO(data), facility_fingerprint=FINGERPRINT, evidence=Evidence(**evidence)
    )


def pin_of(log, size):
    return size, range_root([leaf_hash(entry) for entry in log.entries])(0, size)
