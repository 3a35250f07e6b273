"""Two facilities that settle receipts with each other without a network; logs are real."""

from pathlib import Path
from typing import Any

import trio
from log_queries_sides import budgets

from keys.card import issue_card
from keys.fingerprint import fingerprint
from keys.identity import KeyPair
from keys.peer import Peer
from node.audit.exchanges import EXCHANGES_SCHEMA, ExchangeIndex
from node.audit.log import AuditLog
from node.clock import SYSTEM_CLOCK
from node.database import Database
from node.network.network import StreamLost
from node.receipts.pending import PENDING_SCHEMA, PendingReceipts
from node.receipts.reconciling import Reconciling
from node.receipts.settling import Settling
from node.sharing.log_queries import QueryRefused
from node.sharing.refusals import Refusals
from node.transfer.transfers import TRANSFERS_SCHEMA, Transfers
from protocol import messages
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Entry, Event, decode_entry_untrusted
from protocol.receipt import (
    Receipt,
    SignedReceipt,
    check_signature,
    decode_signed_untrusted,
    sign_receipt,
)

STUDY = "1.2.826.0.1.3680043.8.498.77"
TRANSFER = b"t" * 16
MANIFEST, ROOT = b"m" * 32, b"r" * 32


class Site:
    """One facility: its keys, log, database and settling; `card` may be replaced."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.directory = directory / name
        self.facility, self.node, self.log_key, witness = (
            KeyPair.from_seed(f"{name} {role}".encode().ljust(32, b".")) for role in "fnlw"
        )
        now = SYSTEM_CLOCK.now()
        self.card = issue_card(
            self.facility,
            name=name,
            node_key=self.node.public,
            log_key=self.log_key.public,
            witness_key=witness.public,
            addresses=(),
            serial=1,
            issued=now,
            expires=now + 10**6,
        )
        self.origin = f"radmesh.log/{fingerprint(self.facility.public)}"
        self.other: Site
        self.audit = AuditLog.create(
            self.directory / "audit",
            log_key=self.log_key,
            origin=self.origin,
            clock_ms=SYSTEM_CLOCK.now_ms,
            first=Event(
                type="init",
                actor="operator",
                details={
                    "facility_key": self.facility.public.hex(),
                    "log_key": self.log_key.public.hex(),
                    "origin": self.origin,
                },
            ),
        )
        self._build()

    def _build(self) -> None:
        self.database = Database(
            self.directory / "node.db", (TRANSFERS_SCHEMA, EXCHANGES_SCHEMA, PENDING_SCHEMA)
        )
        self.exchanges = ExchangeIndex(self.database, self.audit)
        self.pending = PendingReceipts(
            self.database, self.audit, self.exchanges, clock=SYSTEM_CLOCK
        )
        self.transfers = Transfers(self.database, clock=SYSTEM_CLOCK)
        self.settling = Settling(
            key=lambda: self.node,
            own_facility=self.facility.public,
            pending=self.pending,
            audit=self.audit,
            transfers=self.transfers,
            connected=lambda facility: self.other.peer if facility == self.other_key else None,
            clock=SYSTEM_CLOCK,
            refusals=Refusals(self.audit.append_many, budgets(), SYSTEM_CLOCK),
            went_out=lambda peer, transfer: None,
        )
        self.direct = Direct(self)
        self.reconciling = Reconciling(
            key=lambda: self.node,
            own_facility=self.facility.public,
            audit=self.audit,
            index=self.exchanges,
            log_queries=lambda: self.direct,  # type: ignore[arg-type, return-value]
            clock=SYSTEM_CLOCK,
        )
        self.answers = {**self.settling.answers, **self.reconciling.answers}

    @property
    def peer(self) -> Peer:
        """This facility as the other one trusts it."""
        return Peer(self.facility.public, self.name, self.card)

    @property
    def other_key(self) -> bytes:
        return self.other.facility.public

    def restart(self) -> None:
        """Restart the site, which loses everything in memory."""
        self.close()
        self.audit = AuditLog.open(
            self.directory / "audit",
            log_key=self.log_key,
            origin=self.origin,
            clock_ms=SYSTEM_CLOCK.now_ms,
        )
        self._build()

    def close(self) -> None:
        self.audit.close()
        self.database.close()

    def log(self, kind: str, **more: Any) -> int:
        """Log an entry about the study between the two, with all fields that a node writes."""
        details = {
            "transfer": TRANSFER.hex(),
            "manifest": MANIFEST.hex(),
            "content_root": ROOT.hex(),
            "instances": 12,
            "bytes": 70_000,
            **more,
        }
        if kind not in ("disclosure-begun", "requested"):
            details = {"batches": 2, "encoded_bytes": 30_000, **details}
        return self.audit.append(
            Event(
                type=kind,
                peer=self.other_key,
                purpose="treatment",
                subjects=(("study", STUDY),),
                details=details,
            )
        )

    def entries(self, *kinds: str) -> list[Entry]:
        """Entries of the log, of these types."""
        found = [decode_entry_untrusted(data) for data in self.audit.entries()]
        return [entry for entry in found if not kinds or entry.type in kinds]

    def states(self) -> list[tuple[bool, str]]:
        """What is pending: whether we are the source, and the answer so far."""
        return [(item.outgoing, item.answer) for item in self.pending.items()]


class Direct:
    """Asks the other site without a network.

    Attributes:
        asked: the types of all requests.
        lost: "request" or "answer": the message that never arrives.
    """

    def __init__(self, own: Site) -> None:
        self._own = own
        self.asked: list[str] = []
        self.lost = ""

    async def ask(self, peer: Peer, request: Any, *expected: Any, **_: Any) -> Any:
        assert peer.facility_key == self._own.other_key
        self.asked.append(request.TYPE)
        if self.lost == "request":
            raise StreamLost("cut")
        known = {type(request).TYPE: type(request)}
        arrived = messages.decode_untrusted(messages.encode(request), known)
        try:
            answer = await self._own.other.answers[type(request)](self._own.peer, arrived)
        except RemoteProtocolError as error:
            raise QueryRefused(error.code) from None
        if self.lost == "answer":
            raise StreamLost("cut")
        return messages.decode_untrusted(
            messages.encode(answer), {one.TYPE: one for one in expected}
        )


def two_sites(directory: Path) -> tuple[Site, Site]:
    """North, who sends; and South, who receives."""
    north, south = Site(directory, "north"), Site(directory, "south")
    north.other, south.other = south, north
    return north, south


def settle(site: Site, lost: str = "") -> Direct:
    """One round of settling with the other site."""
    direct = Direct(site)
    direct.lost = lost

    async def run() -> None:
        with trio.fail_after(20):
            await site.settling._settle(direct, site.other.peer)  # type: ignore[arg-type]

    trio.run(run)
    return direct


def receipt(north: Site, south: Site, **changes: Any) -> Receipt:
    """South's receipt for the study that North sent."""
    fields: dict[str, Any] = {
        "transfer": TRANSFER,
        "source_facility": north.facility.public,
        "recipient_facility": south.facility.public,
        "source_node": north.node.public,
        "recipient_node": south.node.public,
        "manifest": MANIFEST,
        "content_root": ROOT,
        "instances": 12,
        "bytes": 70_000,
        "batches": 2,
        "encoded_bytes": 30_000,
        "purpose": "treatment",
        "time": SYSTEM_CLOCK.now_ms(),
        "status": "received",
        **changes,
    }
    return Receipt(**fields)


def signed_by(site: Site, one: Receipt) -> tuple[bytes, bytes]:
    """A receipt's body and the site's signature."""
    return one.encode(), sign_receipt(one.encode(), site.node)


def begin(north: Site, south: Site, *, arrived: bool = True) -> None:
    """A broken transfer; with `arrived`, it broke after its last batch."""
    north.log("requested", direction="out")
    north.log("disclosure-begun", direction="out")
    south.log("requested", direction="in")
    if arrived:
        south.log("received")
        north.log("disclosure-failed", direction="out")
    else:
        north.log("disclosure-failed", direction="out", batches=1)


def check_settled(*sites: Site) -> None:
    """Check that each log has the same single receipt, and that nothing is pending."""
    digests = []
    for site in sites:
        assert site.states() == []
        assert site.pending.kept() == []
        [entry] = site.entries("receipt")
        assert entry.details["late"] is True
        assert site.pending.study_of(entry) == STUDY
        digests.append(entry.details["receipt"])
        signed = decode_signed_untrusted(site.audit.receipt(str(digests[-1])) or b"")
        check_signature(signed.body, signed.source_signature, sites[0].node.public)
        check_signature(signed.body, signed.recipient_signature, sites[1].node.public)
    assert len(set(digests)) == 1
    confirmed = sites[0].entries("disclosed")
    assert [entry.details["manifest"] for entry in confirmed] == [MANIFEST.hex()]


def countersign(north: Site, south: Site, body: bytes, signature: bytes) -> bytes:
    async def run() -> bytes:
        return await north.settling.countersigner.countersign(south.peer, body, signature)

    return trio.run(run)


def complete(north: Site, body: bytes, signature: bytes) -> bytes:
    return SignedReceipt(
        body=body,
        recipient_signature=signature,
        source_signature=sign_receipt(body, north.node),
    ).encode()
