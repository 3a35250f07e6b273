"""The list of transfers that lack a receipt or its countersignature, and records about them.

The log shows which receipts are missing (`node/audit/exchanges.py`). Two things that it
does not show are kept here, durably: our receipts that the source has not countersigned,
so that the same receipt is presented again and never a second one; and the answers of
peers, so that no peer is asked for ever.

Order of writes, at the recipient: entry `received` -> receipt kept here -> receipt
sent -> countersigned receipt kept beside the log -> entry `receipt` -> forgotten here.
After a crash at any arrow the receipt is presented again. The source logs a receipt
before it countersigns, and finds it in its log when it is presented again.
"""

from dataclasses import dataclass

from node.audit.exchanges import ExchangeIndex
from node.audit.log import AuditLog
from node.clock import Clock
from node.database import Database
from protocol.log.entry import Entry
from protocol.receipt import Receipt, decode_receipt_untrusted

PENDING_SCHEMA = """
CREATE TABLE IF NOT EXISTS receipts_kept (
    body BLOB PRIMARY KEY,              -- of our receipt, as it was signed
    signature BLOB NOT NULL,            -- ours
    peer BLOB NOT NULL,                 -- facility key of the source
    transfer BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS receipt_answers (
    peer BLOB NOT NULL,                 -- facility key of who was asked
    outgoing INTEGER NOT NULL,          -- whether we are the source
    transfer BLOB NOT NULL,
    entry INTEGER NOT NULL,             -- of our log that the question was about
    answer TEXT NOT NULL,               -- a word of the wire codes
    time INTEGER NOT NULL,              -- milliseconds since the epoch, UTC
    PRIMARY KEY (peer, outgoing, transfer)
) STRICT, WITHOUT ROWID;
"""

AGAIN_SECONDS = 24 * 3600
"""Pause after a peer refused: its answer may change, and asking must not be a burden."""

NOT_RECEIVED = "not_available"
"""The answer of a recipient that never got the study; this answer will not change."""


@dataclass(frozen=True)
class KeptReceipt:
    """A receipt of ours that lacks its countersignature."""

    receipt: Receipt
    body: bytes
    signature: bytes


@dataclass(frozen=True)
class PendingItem:
    """One exchange that lacks a receipt, for people.

    Attributes:
        peer: facility key of the other side.
        outgoing: whether we are the source.
        transfer: its transfer id.
        entry: index of the last `disclosure-begun` or `received` in our log.
        answer: the peer's last answer, a word of the wire codes, or "".
        answered: time of that answer, milliseconds since the epoch, or None.
    """

    peer: bytes
    outgoing: bool
    transfer: bytes
    entry: int
    answer: str = ""
    answered: int | None = None

    @property
    def is_settled(self) -> bool:
        """Whether no receipt will come: the study did not arrive."""
        return self.outgoing and self.answer == NOT_RECEIVED

    def is_due(self, time_ms: int) -> bool:
        """Whether the peer may be asked (again)."""
        if self.answered is None:
            return True
        return not self.is_settled and time_ms - self.answered > 1000 * AGAIN_SECONDS


class PendingReceipts:
    """The missing receipts. All methods are synchronous and thread-safe; they raise NodeError
    when the disk or the log is damaged.

    Args:
        database: holds our kept receipts and the peers' answers.
        audit: our log.
        exchanges: the index of exchanges in our log.
        clock: dates the answers.
    """

    def __init__(
        self, database: Database, audit: AuditLog, exchanges: ExchangeIndex, *, clock: Clock
    ) -> None:
        self.exchanges = exchanges
        self._clock = clock
        self._database = database
        self._audit = audit

    def items(self, peer: bytes | None = None) -> list[PendingItem]:
        """All exchanges that lack a receipt, oldest first; with one peer, or with all."""
        answers = {
            (row["peer"], bool(row["outgoing"]), row["transfer"], row["entry"]): row
            for row in self._database.query("SELECT * FROM receipt_answers")
        }
        found = [
            (one.peer, one.outgoing, one.transfer, one.entry) for one in self.exchanges.open(peer)
        ]
        known = {(one[0], one[2]) for one in found if not one[1]}
        for kept in self.kept(peer):
            key = kept.receipt.source_facility, kept.receipt.transfer
            if key not in known:
                # The same transfer has another receipt, which is complete.
                said = self.exchanges.entries(*key, outgoing=False)
                found.append((key[0], False, key[1], said[-1].index if said else -1))
        return [
            PendingItem(*one)
            if one not in answers
            else PendingItem(*one, answers[one]["answer"], answers[one]["time"])
            for one in found
        ]

    def subjects_of(self, entry: Entry) -> tuple[tuple[str, str], ...]:
        """The subjects of an entry in clear, as (kind, value), as far as openings are here."""
        openings = [self._audit.opening_of(commitment) for _, commitment in entry.subjects]
        return tuple((one.kind, one.value) for one in openings if one is not None)

    def study_of(self, entry: Entry) -> str:
        """The Study Instance UID that an entry is about, or "" when its opening was erased."""
        return dict(self.subjects_of(entry)).get("study", "")

    # --- receipts without countersignature ---------------------------------------------

    def keep(self, receipt: Receipt, signature: bytes) -> None:
        """Keep a receipt of ours, durably, before it is shown to its source."""
        self._database.transact(
            lambda connection: connection.execute(
                "INSERT INTO receipts_kept (body, signature, peer, transfer) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (body) DO NOTHING",
                (receipt.encode(), signature, receipt.source_facility, receipt.transfer),
            )
        )

    def kept(self, peer: bytes | None = None, transfer: bytes | None = None) -> list[KeptReceipt]:
        """The receipts that lack a countersignature; of one peer and transfer, or of all."""
        wanted = {"peer": peer, "transfer": transfer}
        chosen = {column: value for column, value in wanted.items() if value is not None}
        where = f"WHERE {' AND '.join(f'{one} = :{one}' for one in chosen)}" if chosen else ""
        rows = self._database.query(f"SELECT body, signature FROM receipts_kept {where}", chosen)
        return [
            KeptReceipt(decode_receipt_untrusted(row["body"]), row["body"], row["signature"])
            for row in rows
        ]

    def forget(self, body: bytes) -> None:
        """Drop a receipt that is in the log with both signatures, or that was replaced."""
        self._database.transact(
            lambda connection: connection.execute(
                "DELETE FROM receipts_kept WHERE body = ?", (body,)
            )
        )

    # --- answers --------------------------------------------------------------------------

    def answered(self, item: PendingItem, answer: str) -> None:
        """Remember a peer's answer about an exchange."""
        now = self._clock.now_ms()
        self._database.transact(
            lambda connection: connection.execute(
                "INSERT INTO receipt_answers (peer, outgoing, transfer, entry, answer, time)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (peer, outgoing, transfer)"
                " DO UPDATE SET entry = excluded.entry, answer = excluded.answer,"
                " time = excluded.time",
                (item.peer, int(item.outgoing), item.transfer, item.entry, answer, now),
            )
        )
