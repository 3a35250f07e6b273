"""The transfers of this node: their state, for people and across restarts.

A `Transfer` is live state in the trio thread; a row in SQLite follows its
changes of state, not its bytes. Received batches are in `incoming/` under their digests and need no
journal: on resumption they are read and verified again.
"""

import builtins
import enum
import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import blake3
import trio

from node.blocking import in_thread
from node.callers import asking, parts_of
from node.clock import Clock
from node.database import Database
from node.errors import NodeError

log = logging.getLogger("radmesh.transfers")

TRANSFERS_SCHEMA = """
CREATE TABLE IF NOT EXISTS transfers (
    transfer BLOB NOT NULL,             -- its id, chosen by who asks
    direction TEXT NOT NULL,            -- in, out
    study TEXT NOT NULL,
    peer BLOB NOT NULL,                 -- facility key
    purpose TEXT NOT NULL,
    state TEXT NOT NULL,
    why TEXT NOT NULL,
    only_peer INTEGER NOT NULL,         -- whether no other peer may serve it
    instances INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    bytes_done INTEGER NOT NULL,
    wire_bytes INTEGER NOT NULL,
    wire_bytes_total INTEGER NOT NULL,
    held_bytes INTEGER NOT NULL,
    started INTEGER NOT NULL,           -- milliseconds since the epoch, UTC
    ended INTEGER,
    stat INTEGER NOT NULL,              -- whether it is urgent
    moved INTEGER NOT NULL DEFAULT 0,   -- when something of it moved last; milliseconds, UTC
    follow INTEGER NOT NULL DEFAULT 0,  -- whether its sources are followed when it is complete
    follow_up INTEGER NOT NULL DEFAULT 0, -- whether the node asked for it by itself
    asked_by TEXT NOT NULL DEFAULT '',  -- the person who asked, as in openings, until it is over
    reason TEXT NOT NULL DEFAULT '',    -- why, in that person's words, until it is over
    PRIMARY KEY (direction, peer, transfer)
) STRICT;
CREATE INDEX IF NOT EXISTS transfers_by_start ON transfers (started);
"""


_KEY = ("direction", "peer", "transfer")
_COLUMNS = (
    "transfer", "direction", "study", "peer", "purpose", "state", "why", "only_peer",
    "instances", "bytes", "bytes_done", "wire_bytes", "wire_bytes_total", "held_bytes",
    "started", "ended", "stat", "moved", "follow", "follow_up", "asked_by",
    "reason",
)  # fmt: skip
_STORE = (
    f"INSERT INTO transfers ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    f" ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    + ", ".join(f"{one} = excluded.{one}" for one in _COLUMNS if one not in _KEY)
)

TransferKey = tuple[str, bytes, bytes]
"""Direction, facility key of the peer, id. The id alone is not unique: the recipient chooses it."""

Place = tuple[int, str, bytes, bytes]
"""Position of a transfer in the list of transfers: when it started (milliseconds), and its key."""

_REFUSED = "direction = 'out' AND state = 'refused'"

_NAME_DOMAIN = b"radmesh-source-of-transfer\0"


class TransferState(enum.StrEnum):
    """The state of a transfer, in words for people."""

    WAITING = "waiting"
    REQUESTING = "requesting"
    RECEIVING = "receiving"
    SENDING = "sending"
    VERIFYING = "verifying"
    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset(
    {
        TransferState.COMPLETE,
        TransferState.REFUSED,
        TransferState.FAILED,
        TransferState.CANCELLED,
    }
)


@dataclass
class Contribution:
    """What came from one source of a fetch.

    Attributes:
        peer: its facility key.
        transfer: the name of the transfer between it and us, in both logs.
        manifest: digest of the manifest that it offered last.
        content_root: of the study as it offered it last.
        batches, encoded_bytes: what it sent.
        is_waiting: whether it said last that a person there has to approve first.
        stands: whether it has taken note of the request, which is not logged again then.
        is_signed: whether the study is published and our receipt for it is kept; a missing
            countersignature is then settled without another session (`node/receipts/settling.py`).
    """

    peer: bytes
    transfer: bytes
    manifest: bytes = b""
    content_root: bytes = b""
    batches: int = 0
    encoded_bytes: int = 0
    is_waiting: bool = False
    stands: bool = False
    is_signed: bool = False


STILL_SECONDS = 10.0
"""A transfer in which nothing has moved for this long is shown as stalled."""

_MOVING = (TransferState.REQUESTING, TransferState.RECEIVING, TransferState.SENDING)


@dataclass
class Transfer:
    """One transfer; to us, with one peer or, unless `only_peer`, with several at once.

    `bytes` counts original bytes of the whole study, `bytes_done` those verified here (or sent),
    `held_bytes` those that were here before; `moved` is when data last moved (milliseconds since
    the epoch, UTC, 0 never); `wire_bytes` counts encoded bytes moved and `wire_bytes_total` those
    that have to move. `stat`: the transfer is urgent and goes before routine ones. `follow`: new
    instances at its sources are fetched for a day; `follow_up`: the transfer is such a fetch, which
    nobody here asked for, of the content `wanted_root` (empty when that is not known any more).
    `asked_by`: the person who asked for it, as in openings; "" for the service, or nobody.
    `reason`: why, in that person's words, which the sources are told.
    `askers`: how many have asked for it, and still want it as far as they have said.
    """

    transfer: bytes
    direction: str
    study: str
    peer: bytes
    purpose: str
    state: TransferState = TransferState.WAITING
    why: str = ""
    only_peer: bool = False
    instances: int = 0
    bytes: int = 0
    bytes_done: int = 0
    wire_bytes: int = 0
    wire_bytes_total: int = 0
    held_bytes: int = 0
    started: int = 0
    ended: int | None = None
    stat: bool = False
    moved: int = 0
    follow: bool = False
    follow_up: bool = False
    asked_by: str = field(default="", repr=False)
    reason: str = field(default="", repr=False)
    wanted_root: builtins.bytes = field(default=b"", repr=False)
    entered: int = field(default=0, repr=False)
    askers: int = field(default=1, repr=False)
    exit_code: int = 1
    hint: str = ""
    contributions: dict[builtins.bytes, Contribution] = field(default_factory=dict, repr=False)
    scope: trio.CancelScope | None = field(default=None, repr=False)
    over: trio.Event = field(default_factory=trio.Event, repr=False)

    @property
    def key(self) -> TransferKey:
        """The key by which this node knows the transfer."""
        return self.direction, self.peer, self.transfer

    @property
    def place(self) -> Place:
        """Its position in the list of transfers."""
        return self.started, *self.key

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    @property
    def asked_details(self) -> dict[str, bool]:
        """How it was asked for, for its entries in the audit log; the usual case is left out."""
        urgent = {"stat": True} if self.stat else {}
        return urgent | ({"follow_up": True} if self.follow_up else {})


class Transfers:
    """All transfers, live and past.

    Args:
        database: holds the states of transfers.
        clock: dates begin and end.

    Attributes:
        active: the transfers under way.
        ended: how many have ended since the start, by direction and state.
        carried: encoded bytes that came and went since the start, by direction.
        on_end: called when a transfer has ended, in the trio thread.
        at_end: called in a thread with a transfer that is over.
        in_change: called with a transfer, in the transaction of each change of its state.
    """

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.active: dict[TransferKey, Transfer] = {}
        self.ended: Counter[tuple[str, str]] = Counter()
        self.carried: Counter[str] = Counter()
        self.on_end: Callable[[], None] = lambda: None
        self.at_end: Callable[[Transfer], object] = lambda transfer: None
        self.in_change: Callable[[sqlite3.Connection, Transfer], None] = lambda c, transfer: None
        self._served: Counter[tuple[bytes, bytes]] = Counter()

    def find_incoming(self, study: str, peer: bytes, *, only_peer: bool) -> Transfer | None:
        """The fetch of this study that is under way: from this peer alone, or from any."""
        for transfer in self.active.values():
            if (transfer.direction, transfer.study, transfer.only_peer) == (
                "in",
                study,
                only_peer,
            ) and (transfer.peer == peer or not only_peer):
                return transfer
        return None

    def begin_incoming(
        self,
        study: str,
        peer: bytes,
        purpose: str,
        *,
        only_peer: bool,
        stat: bool,
        follow: bool = False,
        follow_up: bool = False,
        reason: str = "",
    ) -> Transfer:
        """A new transfer to us, under a new random name."""
        name = secrets.token_bytes(16)
        return Transfer(
            name,
            "in",
            study,
            peer,
            purpose,
            only_peer=only_peer,
            started=self._clock.now_ms(),
            stat=stat,
            follow=follow,
            follow_up=follow_up,
            asked_by="" if follow_up else asking().opening,
            reason=reason,
        )

    def contribution(self, transfer: Transfer, peer: bytes) -> Contribution:
        """The contribution of one source of a fetch, made if there is none.

        Each pair of source and fetch has a transfer name of its own, the same after a
        restart, so that two sources have no name in common.
        """
        if peer not in transfer.contributions:
            transfer.contributions[peer] = Contribution(peer, self.name_for(transfer, peer))
        return transfer.contributions[peer]

    def name_for(self, transfer: Transfer, peer: bytes) -> bytes:
        """The name of a fetch between one of its sources and us."""
        if peer == transfer.peer:
            return transfer.transfer
        return blake3.blake3(_NAME_DOMAIN + transfer.transfer + peer).digest()[:16]

    async def enter(
        self, transfer: Transfer, state: TransferState, why: str = "", hint: str = ""
    ) -> None:
        """Change a transfer's state; an ended one sets `over`.

        Durable on return, unless the disk is full: then the row is older than the state, and a
        fetch goes on from the row after a restart.
        """
        transfer.state, transfer.why, transfer.hint = state, why, hint
        transfer.entered = self._clock.now_ms()
        if transfer.is_ended:
            transfer.ended = self._clock.now_ms()
            self.ended[transfer.direction, state.value] += 1
            if self.active.get(transfer.key) is transfer:
                del self.active[transfer.key]
        else:
            self.active[transfer.key] = transfer
        try:
            await in_thread(self._store, transfer)
            if transfer.is_ended:
                await in_thread(self.at_end, transfer)
        except NodeError as error:
            log.error("the state of a transfer could not be kept: %s", error.message)
        if transfer.is_ended:
            transfer.over.set()
            self.on_end()

    def moved(self, transfer: Transfer, encoded_bytes: int) -> None:
        """Data of a transfer has moved."""
        transfer.wire_bytes += encoded_bytes
        self.carried[transfer.direction] += encoded_bytes
        transfer.moved = self._clock.now_ms()

    def still_since(self, transfer: Transfer) -> int | None:
        """Since when a transfer that should move has been stalled; None when all is well.

        Returns:
            Milliseconds since the epoch, UTC.
        """
        since = max(transfer.moved, transfer.entered)
        is_still = self._clock.now_ms() - since > STILL_SECONDS * 1000
        return since if transfer.state in _MOVING and is_still else None

    def is_old(self, transfer: Transfer, seconds: float) -> bool:
        """Whether nothing has moved in a transfer for this many seconds."""
        since = max(transfer.moved, transfer.started)
        return self._clock.now_ms() - since >= seconds * 1000

    def serve(self, peer: bytes, transfer: bytes, *, begins: bool) -> None:
        """A session of a transfer from us begins or is over; a peer may open several."""
        self._served[peer, transfer] += 1 if begins else -1
        if not self._served[peer, transfer]:
            del self._served[peer, transfer]

    def is_under_way(self, peer: bytes, transfer: bytes, *, outgoing: bool) -> bool:
        """Whether a transfer with a peer, or the peer's part of a fetch, is under way.

        Any thread may ask.
        """
        if ("out" if outgoing else "in", peer, transfer) in self.active:
            return True
        if outgoing:
            return (peer, transfer) in self._served
        return any(
            part.transfer == transfer
            for one in list(self.active.values())
            if one.direction == "in"
            for part in list(one.contributions.values())
            if part.peer == peer
        )

    def is_moving(self, study: str) -> bool:
        """Whether a transfer of a study (UID) is under way, or will go on."""
        return bool(
            self._database.query(
                "SELECT 1 FROM transfers WHERE study = ? AND ended IS NULL LIMIT 1", (study,)
            )
        ) or any(one.study == study for one in list(self.active.values()))

    def unfinished_incoming(self) -> list[Transfer]:
        """Transfers to us that a stop or a crash interrupted."""
        rows = self._database.query(
            "SELECT * FROM transfers WHERE direction='in' AND ended IS NULL ORDER BY started"
        )
        return [_from_row(row) for row in rows]

    def close_interrupted_outgoing(self) -> None:
        """End outgoing transfers that a crash interrupted; the peer asks again."""
        now = self._clock.now_ms()
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE transfers SET state='failed', why='the node stopped', ended=? "
                "WHERE direction='out' AND ended IS NULL",
                (now,),
            )
        )

    def recent(self, count: int = 100) -> list[Transfer]:
        """The newest transfers; those under way with their live state."""
        return self.page(count)[0]

    def page(self, count: int, before: Place | None = None) -> tuple[list[Transfer], Place | None]:
        """Transfers, newest first, and the value of `before` for the next page.

        A page holds at most `count // 10` refused requests, so that a peer that is refused again
        and again does not hide the other transfers.

        Args:
            count: most transfers that were not refused.
            before: only transfers before this place; None: the newest.
        """
        found = self._part(f"NOT ({_REFUSED})", count, before, None)
        last = found[-1].place if len(found) == count else None
        found += self._part(_REFUSED, count // 10, before, last)
        found.sort(key=lambda one: one.place, reverse=True)
        return [self.active.get(one.key, one) for one in found], last

    def _part(
        self, chosen: str, count: int, before: Place | None, since: Place | None
    ) -> list[Transfer]:
        values: dict[str, object] = {"count": count}
        for name, sign, place in (("before", "<", before), ("since", ">", since)):
            if place is not None:
                # The first condition lets SQLite start within its index.
                chosen += (
                    f" AND started {sign}= :{name}0 AND (started, direction, peer, transfer) "
                    f"{sign} (:{name}0, :{name}1, :{name}2, :{name}3)"
                )
                values |= {f"{name}{number}": part for number, part in enumerate(place)}
        rows = self._database.query(
            f"SELECT * FROM transfers WHERE {chosen} "
            "ORDER BY started DESC, direction DESC, peer DESC, transfer DESC LIMIT :count",
            values,
        )
        return [_from_row(row) for row in rows]

    def forget(self, studies: Sequence[str]) -> None:
        """Delete the transfers of these studies that are over, and overwrite them.

        The audit log names transfers, so this list would show which entries concern a study after
        the openings are erased.

        Raises:
            NodeError: the disk is full or failing, or another process reads the database.
        """
        self._database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM transfers WHERE study = ? AND ended IS NOT NULL",
                [(study,) for study in studies],
            )
        )
        self._database.drop_copies()
        self._database.empty_write_ahead_log()

    def ended_before(self, time_ms: int) -> int:
        """How many transfers of the list ended before a time (milliseconds, UTC)."""
        row = self._database.query_one(
            "SELECT count(*) AS found FROM transfers WHERE ended IS NOT NULL AND ended < ?",
            (time_ms,),
        )
        return 0 if row is None else int(row["found"])

    def forget_ended_before(self, time_ms: int) -> None:
        """Delete the transfers that ended before a time, and overwrite them.

        Raises:
            NodeError: the disk is full or failing, or another process reads the database.
        """
        self._database.transact(
            lambda connection: connection.execute(
                "DELETE FROM transfers WHERE ended IS NOT NULL AND ended < ?", (time_ms,)
            )
        )
        self._database.drop_copies()
        self._database.empty_write_ahead_log()

    def forget_persons(self, names: Sequence[str]) -> None:
        """Take these people from the transfers that they asked for, which go on.

        Raises:
            NodeError: the disk is full or failing, or another process reads the database.
        """
        wanted = set(names)
        for transfer in list(self.active.values()):
            if parts_of(transfer.asked_by)[0] in wanted:
                transfer.asked_by = ""
        rows = self._database.query("SELECT DISTINCT asked_by FROM transfers WHERE asked_by <> ''")
        kept = [row["asked_by"] for row in rows if parts_of(row["asked_by"])[0] in wanted]
        self._database.transact(
            lambda connection: connection.executemany(
                "UPDATE transfers SET asked_by = '' WHERE asked_by = ?", [(one,) for one in kept]
            )
        )
        self._database.drop_copies()
        self._database.empty_write_ahead_log()

    def _store(self, transfer: Transfer) -> None:

        def store(connection: sqlite3.Connection) -> None:
            connection.execute(
                _STORE,
                (
                    transfer.transfer,
                    transfer.direction,
                    transfer.study,
                    transfer.peer,
                    transfer.purpose,
                    transfer.state.value,
                    transfer.why,
                    transfer.only_peer,
                    transfer.instances,
                    transfer.bytes,
                    transfer.bytes_done,
                    transfer.wire_bytes,
                    transfer.wire_bytes_total,
                    transfer.held_bytes,
                    transfer.started,
                    transfer.ended,
                    transfer.stat,
                    transfer.moved,
                    transfer.follow,
                    transfer.follow_up,
                    # When it is over, the log alone says who asked, in a form that can be erased.
                    "" if transfer.is_ended else transfer.asked_by,
                    "" if transfer.is_ended else transfer.reason,
                ),
            )
            self.in_change(connection, transfer)

        self._database.transact(store)


def _from_row(row: Any) -> Transfer:
    values = dict(row)
    values["state"] = TransferState(values["state"])
    for flag in ("only_peer", "stat", "follow", "follow_up"):
        values[flag] = bool(values[flag])
    return Transfer(**values)
