"""Keys that two facilities claim: logged once, and shown by `status` until settled.

`keys.claims` decides which of the two has a key. Kept here are the contests that were logged, and
those that a handshake showed: there the card may be of a facility unknown here. Synchronous and
thread-safe.
"""

import sqlite3
from collections.abc import Collection, Iterable

from keys.trust import Contested, TrustStore
from node.database import Database
from protocol.log.entry import Event

CONTESTS_SCHEMA = """
CREATE TABLE IF NOT EXISTS contests (
    facility BLOB NOT NULL,     -- facility key of the one that does not have the key
    other BLOB NOT NULL,        -- facility key of the other one
    key BLOB NOT NULL,          -- the key that both claim, or the first of several
    shown INTEGER NOT NULL,     -- 1: by a handshake; 0: by the cards that are kept
    logged INTEGER NOT NULL,    -- when its entry was written, seconds since the epoch, UTC
    PRIMARY KEY (facility, other)
) STRICT, WITHOUT ROWID;
"""

SHOWN_CONTESTS = 8
"""Most contests with one peer that are kept because a handshake showed them: a holder of its key
can make up any number of facilities."""

FORGET_SECONDS = 24 * 3600
"""How long a contest that is over is remembered: a card that changes back and forth is logged once
a day, not each time."""


class Contests:
    """The contests that were logged or shown.

    Args:
        database: holds them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def untold(self, store: TrustStore, now: int) -> list[tuple[Contested, Event]]:
        """Contests between the cards of a store that are not logged yet, each with its entry.

        One contest for each pair of facilities, however many keys they contest.

        Args:
            store: the cards.
            now: seconds since the epoch, UTC.
        """
        told = {frozenset((row["facility"], row["other"])) for row in self._rows()}
        found: dict[frozenset[bytes], list[Contested]] = {}
        for contested in store.contested(now):
            found.setdefault(frozenset(contested.facilities), []).append(contested)
        return [
            (several[0], _event(several[0], len(several)))
            for pair, several in found.items()
            if pair not in told
        ]

    def keep(
        self,
        connection: sqlite3.Connection,
        told: Iterable[Contested],
        store: TrustStore,
        now: int,
        *,
        shown: bool = False,
    ) -> None:
        """Remember the contests that were logged, and forget those that have been over for a day.

        Args:
            connection: of a transaction.
            told: the contests that have their entries.
            store: the cards as they are now.
            now: seconds since the epoch, UTC.
            shown: whether a handshake showed them.
        """
        for contested in told:
            connection.execute(
                "INSERT INTO contests (facility, other, key, shown, logged)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT (facility, other)"
                " DO UPDATE SET key = excluded.key, shown = excluded.shown,"
                " logged = excluded.logged",
                (*contested.facilities, contested.key, shown, now),
            )
        standing = {frozenset(one.facilities) for one in self.standing(store, now)}
        for row in self._rows():
            pair = row["facility"], row["other"]
            if frozenset(pair) not in standing and row["logged"] <= now - FORGET_SECONDS:
                connection.execute("DELETE FROM contests WHERE facility=? AND other=?", pair)

    def shown(
        self, node_key: bytes, holder: bytes, stranger: bytes
    ) -> tuple[Contested, Event] | None:
        """The contest of a node that called with a peer's key and another facility's card.

        None if it is kept already, or if `SHOWN_CONTESTS` of this peer are.

        Args:
            node_key: the key, 32 bytes.
            holder: facility key (32 bytes) of the peer.
            stranger: facility key of the other one.
        """
        rows = self._rows()
        pairs = [{row["facility"], row["other"]} for row in rows]
        shown = sum(row["shown"] and row["other"] == holder for row in rows)
        if {stranger, holder} in pairs or shown >= SHOWN_CONTESTS:
            return None
        contested = Contested(node_key, "node", (stranger, holder), holder, is_proven=False)
        return contested, _event(contested, 1)

    def standing(self, store: TrustStore, now: int) -> list[Contested]:
        """All that is contested now, seconds since the epoch, UTC."""
        by_cards = list(store.contested(now))
        pairs: Collection[frozenset[bytes]] = {frozenset(one.facilities) for one in by_cards}
        for row in self._rows():
            pair = row["facility"], row["other"]
            holder = store.by_node_key(row["key"], now)
            still = holder is not None and holder.facility_key == row["other"]
            if row["shown"] and still and frozenset(pair) not in pairs:
                by_cards.append(Contested(row["key"], "node", pair, row["other"], is_proven=False))
        return by_cards

    def _rows(self) -> list[sqlite3.Row]:
        return self._database.query("SELECT * FROM contests ORDER BY logged, facility, other")


def _event(contested: Contested, keys: int) -> Event:
    facility, other = contested.facilities
    return Event(
        type="key-contested",
        peer=facility,
        outcome="failed",
        details={
            "role": contested.role,
            "key": contested.key.hex(),
            "keys": keys,
            "facility": facility.hex(),
            "other": other.hex(),
            "holder": "" if contested.holder is None else contested.holder.hex(),
        },
    )
