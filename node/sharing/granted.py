"""What peers were told that they may do here, and what peers told us; one statement each.

A statement is made again only when what the peer may know of its rights has changed: a rule that
it may not know changes nothing, and shows in no serial. Synchronous and thread-safe.
"""

import functools
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from keys.canonical import canonical_json
from keys.grants import rules_of
from keys.identity import KeyPair
from keys.trust import Peer
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.errors import RemoteProtocolError
from protocol.granted import Grants, Statement, content_of, open_untrusted, sign, stated
from protocol.log.entry import Event

GRANTED_SCHEMA = """
CREATE TABLE IF NOT EXISTS grants_told (
    peer BLOB PRIMARY KEY,      -- facility key
    serial INTEGER NOT NULL,
    content TEXT NOT NULL,      -- SHA-256 of all of it but serial and time, 64 hex digits
    body BLOB NOT NULL,         -- the statement, docs/protocol.md section 9
    signature BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS grants_heard (
    peer BLOB PRIMARY KEY,      -- facility key of the one that said it
    serial INTEGER NOT NULL,
    body BLOB NOT NULL,
    signature BLOB NOT NULL,
    heard INTEGER NOT NULL      -- seconds since the epoch, UTC
) STRICT;
"""


@dataclass(frozen=True)
class Heard:
    """The newest statement of a peer.

    Attributes:
        statement: what it says.
        message: the signed bytes.
        time: when it was heard, seconds since the epoch, UTC.
    """

    statement: Statement
    message: Grants
    time: int

    @property
    def digest(self) -> str:
        """SHA-256 of the statement, 64 hex digits, as in both logs."""
        return _digest(self.message)


class Granted:
    """The statements of both directions.

    Args:
        database: where they are kept.
        own: our facility key (32 bytes).
        key: gives our node key.
        append: writes one audit entry durably.
        clock: dates them.
    """

    def __init__(
        self,
        database: Database,
        own: bytes,
        key: Callable[[], KeyPair],
        append: Callable[[Event], int],
        clock: Clock,
    ) -> None:
        self._database = database
        self._own = own
        self._key = key
        self._append = append
        self._clock = clock
        self._lock = threading.Lock()

    def to_tell(self, peer: Peer) -> Grants:
        """The statement for a peer; a new one is logged before it is returned.

        Raises:
            NodeError: it is new, and log or database cannot be written.
        """
        now, key = self._clock.now(), self._key()
        content = content_of(
            facility=self._own,
            node=key.public,
            recipient=peer.facility_key,
            rules=stated(rules_of(peer), now),
            since=peer.added,
            until=peer.expires,
        )
        digest = hashlib.sha256(canonical_json(content)).hexdigest()
        with self._lock:
            row = self._database.query_one(
                "SELECT serial, content, body, signature FROM grants_told WHERE peer = ?",
                (peer.facility_key,),
            )
            if row is not None and row["content"] == digest:
                return Grants(body=row["body"], signature=row["signature"])
            # At least the time: a node that came back from a backup goes on behind what it said.
            serial = max(now, row["serial"] + 1 if row is not None else 0)
            message = sign(content, serial=serial, time=now, key=key)
            self._append(_event("grants-told", peer, serial, message))
            values = (peer.facility_key, serial, digest, message.body, message.signature)
            self._database.transact(lambda connection: _keep_told(connection, values))
        return message

    def is_known(self, peer: Peer, message: Grants) -> bool:
        """Whether these bytes are the newest statement of a peer already."""
        row = self._heard_row(peer.facility_key)
        return row is not None and (row["body"], row["signature"]) == (
            message.body,
            message.signature,
        )

    def take_untrusted(
        self, peer: Peer, message: Grants, speaks_for: Callable[[bytes], bool]
    ) -> bool:
        """Keep what a peer says that we may do, if it is newer; logged before it is kept.

        Args:
            peer: the peer that sent it.
            message: as received.
            speaks_for: whether a node key (32 bytes) is one of the peer now.

        Returns:
            Whether it was kept.

        Raises:
            RemoteProtocolError: it is malformed, for or of somebody else, or not signed by the
                peer.
            NodeError: log or database cannot be written.
        """
        if self.is_known(peer, message):
            return False
        statement = open_untrusted(message)
        if statement.facility != peer.facility_key or not speaks_for(statement.node):
            raise RemoteProtocolError("the statement of grants is of somebody else")
        if statement.recipient != self._own:
            raise RemoteProtocolError("the statement of grants is for somebody else")
        now = self._clock.now()
        with self._lock:
            row = self._heard_row(peer.facility_key)
            if row is not None and statement.serial <= row["serial"]:
                return False
            self._append(_event("grants-heard", peer, statement.serial, message, peer.fingerprint))
            values = (peer.facility_key, statement.serial, message.body, message.signature, now)
            self._database.transact(lambda connection: _keep_heard(connection, values))
        return True

    def heard(self, peer: Peer) -> Heard | None:
        """The newest statement of a peer; None if it has made none, or is not trusted any more.

        Raises:
            NodeError: it is damaged in the database.
        """
        row = self._heard_row(peer.facility_key)
        if row is None or not peer.is_trusted(self._clock.now()):
            return None
        message = Grants(body=row["body"], signature=row["signature"])
        try:
            return Heard(open_untrusted(message), message, row["heard"])
        except RemoteProtocolError as error:
            raise NodeError(
                f"what {peer.petname} said of our rights is damaged in the database",
                hint="run `radmesh check`; it says so again when it is connected next",
                code=ExitCode.INTEGRITY,
            ) from error

    def forget(self, facility_key: bytes) -> None:
        """Forget what a peer said, as its trust has ended; may run in another's transaction.

        What was told stays, so that a serial never comes again.
        """
        self._database.transact(functools.partial(_forget, facility_key=facility_key))

    def sweep(self, peers: Iterable[Peer]) -> None:
        """Forget the statements of all peers that are not trusted now."""
        now = self._clock.now()
        trusted = {peer.facility_key for peer in peers if peer.is_trusted(now)}
        for row in self._database.query("SELECT peer FROM grants_heard"):
            if row["peer"] not in trusted:
                self.forget(row["peer"])

    def _heard_row(self, facility_key: bytes) -> sqlite3.Row | None:
        return self._database.query_one(
            "SELECT serial, body, signature, heard FROM grants_heard WHERE peer = ?",
            (facility_key,),
        )


def _keep_told(connection: sqlite3.Connection, values: tuple[object, ...]) -> None:
    connection.execute(
        "INSERT INTO grants_told (peer, serial, content, body, signature) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (peer) DO UPDATE SET serial=excluded.serial, content=excluded.content,"
        " body=excluded.body, signature=excluded.signature",
        values,
    )


def _keep_heard(connection: sqlite3.Connection, values: tuple[object, ...]) -> None:
    connection.execute(
        "INSERT INTO grants_heard (peer, serial, body, signature, heard) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (peer) DO UPDATE SET serial=excluded.serial, body=excluded.body,"
        " signature=excluded.signature, heard=excluded.heard",
        values,
    )


def _forget(connection: sqlite3.Connection, *, facility_key: bytes) -> None:
    connection.execute("DELETE FROM grants_heard WHERE peer = ?", (facility_key,))


def _digest(message: Grants) -> str:
    return hashlib.sha256(message.body).hexdigest()


def _event(kind: str, peer: Peer, serial: int, message: Grants, actor: str = "node") -> Event:
    return Event(
        type=kind,
        actor=actor,
        peer=peer.facility_key,
        details={"digest": _digest(message), "serial": serial},
    )
