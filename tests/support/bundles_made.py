"""Audit bundles as a second implementation writes them, for tests of the verifier."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, field, replace

import second_log as second

from keys.card import issue_card, parse_card_untrusted, sign_card
from keys.card_fields import SizedKey, TimedKey
from keys.fingerprint import fingerprint, parse_fingerprint
from keys.identity import KeyPair
from protocol.log.entry import Event
from protocol.verify import Evidence, verify_bundle

(
    FACILITY,
    NODE,
    LOG,
    WITNESS,
    NEXT_LOG,
    PEER,
    PEER_NODE,
    STRANGER,
    NEXT_NODE,
    NEXT_WITNESS,
    *WITNESSING,
) = (KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 17))
ORIGIN = f"radmesh.log/{fingerprint(FACILITY.public)}"
FINGERPRINT = parse_fingerprint(fingerprint(FACILITY.public))
START_MS = 1_795_512_718_123
SIGNED_AT = START_MS // 1000 + 60
"""When witnesses cosign, seconds since the epoch."""


def _card(facility, node, log, name="North General", witness=None):
    witness = witness or KeyPair.from_seed(facility.seed[::-1][:31] + b"w")
    return issue_card(
        facility,
        name=name,
        node_key=node.public,
        log_key=log.public,
        witness_key=witness.public,
        addresses=(),
        serial=1,
        issued=START_MS // 1000 - 1000,
        expires=START_MS // 1000 + 10**8,
    )


CARD = _card(FACILITY, NODE, LOG, witness=WITNESS)
PEER_CARD = _card(PEER, PEER_NODE, STRANGER, "Lakeside")


@dataclass(frozen=True)
class Cosigner:
    """A facility that witnesses."""

    card: object
    key: KeyPair

    @property
    def name(self):
        return f"radmesh.witness/{self.card.fingerprint}"

    def line(self, text, seconds=SIGNED_AT):
        return second.cosignature_line(self.name, self.key, text, seconds)


def _cosigner(number, name):
    facility, node, log, key = (
        KeyPair.from_seed(bytes([number, place]) * 16) for place in range(4)
    )
    return Cosigner(_card(facility, node, log, name, witness=key), key)


COSIGNERS = tuple(
    _cosigner(number, name) for number, name in ((101, "Lakeside"), (102, "Hill"), (103, "Bay"))
)
TWO_OF_THREE = {"quorum": 2, "witness_cards": [each.card for each in COSIGNERS]}


def receipt_body(number, *, instances=12, facility=FACILITY, recipient=PEER_NODE):
    return {
        "transfer": bytes([number]) * 16,
        "source_facility": facility.public,
        "recipient_facility": PEER.public,
        "source_node": NODE.public,
        "recipient_node": recipient.public,
        "manifest": b"m" * 32,
        "content_root": b"r" * 32,
        "instances": instances,
        "bytes": 70_000,
        "batches": 2,
        "encoded_bytes": 30_000,
        "purpose": "treatment",
        "time": START_MS,
        "status": "received",
    }


def make_receipt(number, *, recipient=PEER_NODE, **changes):
    return second.receipt(receipt_body(number, recipient=recipient, **changes), NODE, recipient)


RECEIPT = make_receipt(1)


def stored_body(number, *, recipient=PEER_NODE, **changes):
    """A statement that the study of the receipt of this number is stored."""
    return {
        "transfer": bytes([number]) * 16,
        "source_facility": FACILITY.public,
        "recipient_facility": PEER.public,
        "recipient_node": recipient.public,
        "content_root": b"r" * 32,
        "instances": 12,
        "proven_by": "commitment",
        "proven_at": START_MS // 1000 + 5,
        "time": START_MS + 6000,
        **changes,
    }


def make_stored(number, *, recipient=PEER_NODE, **changes):
    return second.stored(stored_body(number, recipient=recipient, **changes), recipient)


STORED = make_stored(1)


@dataclass(frozen=True)
class Opening:
    """A subject in clear, and the salt of its commitment."""

    kind: str
    value: str
    salt: bytes

    @property
    def commitment(self):
        return second.commitment(self.kind, self.value, self.salt)


@dataclass
class Log:
    """A log under construction; `bundle` writes its present fields."""

    entries: list = field(default_factory=list)
    openings: list = field(default_factory=list)
    receipts: list = field(default_factory=list)
    stored: list = field(default_factory=list)
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
        self.entries.append(
            second.entry(
                index,
                time_ms,
                subjects=[(each.kind, each.value, each.salt) for each in opened],
                peer=event.peer,
                type=event.type,
                actor=event.actor,
                purpose=event.purpose,
                outcome=event.outcome,
                details=dict(event.details),
            )
        )
        self.openings += [(index, each) for each in opened]
        return self

    def sign(self, size=None, key=None, name=None, origin=None):
        size = len(self.entries) if size is None else size
        note = second.checkpoint(origin or self.origin, self.entries[:size], key or self.key)
        self.checkpoints[name or f"checkpoints/{size}"] = note
        self.leaves = b"".join(second.mth([entry]) for entry in self.entries)
        return self

    def cosign(self, *cosigners, size=None, seconds=SIGNED_AT):
        name = f"checkpoints/{len(self.entries) if size is None else size}"
        text = self.checkpoints[name].split("\n\n")[0] + "\n"
        self.checkpoints[name] += "".join(each.line(text, seconds) for each in cosigners)
        return self

    def change_key(
        self, new, *, trusted_size=None, role="log", old=None, card=None, signers=None, details=()
    ):
        """Add a rotation, or with `trusted_size` a revocation; the card follows.

        `signers` replace the right signers; `details` replace the true details.
        """
        old = old or self.key
        card = card or self.card_with(new, role=role, trusted_size=trusted_size)
        true = second.key_change(
            self.entries,
            facility=FACILITY,
            old=old,
            new=new,
            card=card,
            role=role,
            origin=self.origin,
            trusted_size=trusted_size,
            signers=signers,
        )
        kind = "rotation" if trusted_size is None else "key-revoked"
        self.add(Event(type=kind, actor="operator", details={**true, **dict(details)}))
        self.card = card.encoded
        if role == "log":
            self.key = new
        return self

    def card_with(self, new, *, role="log", trusted_size=None, facility=FACILITY):
        """The next card, on which a key of this role is replaced now."""
        card = parse_card_untrusted(self.card)
        lists = {name: getattr(card, name) for name in ("log_keys", "node_keys", "witness_keys")}
        if role == "log":
            size = len(self.entries) if trusted_size is None else trusted_size
            *older, last = card.log_keys
            ended = replace(last, until_size=size + 1)
            lists["log_keys"] = (*older, ended, SizedKey(new.public, size + 1))
        else:
            now = START_MS // 1000 + len(self.entries)
            *older, last = lists[f"{role}_keys"]
            ended = replace(last, until=now)
            lists[f"{role}_keys"] = (*older, ended, TimedKey(new.public, now))
        return sign_card(
            facility,
            name=card.name,
            addresses=card.addresses,
            serial=card.serial + 1,
            issued=card.issued + 1,
            expires=card.expires,
            **lists,
        )

    def members(self):
        header = {
            "exported": "2026-11-24T09:31:58.123Z",
            "format": "radmesh-audit-bundle/1",
            "origin": self.origin,
            "size": len(self.entries),
            **self.header,
        }
        return [
            ("bundle.json", second.canonical(header)),
            ("card", self.card),
            *((name, note.encode()) for name, note in self.checkpoints.items()),
            ("entries.jsonl", b"".join(entry + b"\n" for entry in self.entries)),
            ("leaves", self.leaves),
            ("openings.jsonl", b"".join(map(_opening_line, self.openings))),
            ("receipts.jsonl", b"".join(map(_receipt_line, self.receipts))),
            *([("stored.jsonl", b"".join(map(_stored_line, self.stored)))] if self.stored else []),
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
    return _line({"index": index, "receipt": second.base64_of(receipt)})


def _stored_line(pair):
    index, stored = pair
    return _line({"index": index, "stored": second.base64_of(stored)})


def _line(value):
    return second.canonical(value) + b"\n"


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


def stored_event(stored, receipt=RECEIPT, kind="stored-heard", **more):
    """The entry of the source about a statement, or with `kind` that of the recipient."""
    fields = second.fields_of(second.fields_of(stored)["body"])
    details = {
        "transfer": fields["transfer"].hex(),
        "content_root": fields["content_root"].hex(),
        **{name: fields[name] for name in ("instances", "proven_by", "proven_at")},
        "receipt": hashlib.sha256(receipt).hexdigest(),
        "stored": hashlib.sha256(stored).hexdigest(),
        **more,
    }
    peer = (
        PEER.public if fields["source_facility"] == FACILITY.public else fields["source_facility"]
    )
    return Event(type=kind, peer=peer, purpose="treatment", details=details)


def alert_event(other, held, shown, origin=ORIGIN, **details):
    """The entry that a node logs when it is shown that its log is, or was, `other`."""
    notes = [other.sign(size).checkpoints[f"checkpoints/{size}"] for size in (held, shown)]
    said = {"origin": origin}
    for prefix, size, note in zip(("", "shown_"), (held, shown), notes, strict=True):
        said[f"{prefix}size"] = size
        said[f"{prefix}root"] = second.mth(other.entries[:size]).hex()
        said[f"{prefix}digest"] = second.sha256(note.encode()).hex()
    return Event(type="rollback-seen", outcome="failed", details={**said, **details})


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


def with_stored(stored=STORED, event=None):
    """The honest log, and as entry 12 that the recipient says that the study is stored."""
    log = fill(Log().add(init_event())).add(event or stored_event(stored))
    log.receipts.append((12, RECEIPT))
    log.stored.append((12, stored))
    return log.sign()


def rotated(**changed):
    """A log whose key changes at size 7 (entry 7), with a checkpoint of each key."""
    log = fill(Log().add(init_event()), range(1, 7)).sign()
    log.change_key(NEXT_LOG, **changed)
    return fill(log, range(8, 12)).sign()


def revoked():
    """A log whose key was stolen at 5 entries; the theft was noticed at 7."""
    log = fill(Log().add(init_event()), range(1, 7)).sign(5)
    log.change_key(NEXT_LOG, trusted_size=5)
    return fill(log, range(8, 12)).sign()


def witnessed():
    """The honest log, cosigned by two of the three witnesses."""
    return honest().cosign(*COSIGNERS[:2])


def verify(log, **evidence):
    data = log if isinstance(log, bytes) else log.bundle()
    return verify_bundle(
        io.BytesIO(data), facility_fingerprint=FINGERPRINT, evidence=Evidence(**evidence)
    )


def pin_of(log, size):
    return size, second.mth(log.entries[:size])
