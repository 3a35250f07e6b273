"""What comes in by a door that sends on: each study is shared to one facility and offered to it.

A study is noted before its first image is answered, so that what a sender was told to be here is
offered even if the node ends in between. It is offered when all that came of it is packed. A study
that a person has to look at waits for that; what cannot be offered now is tried again for a week.
Synchronous and thread-safe, but for `run`.
"""

import logging
import threading
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from dataclasses import dataclass

import trio

from keys.trust import Peer
from node.blocking import in_thread
from node.catalog.catalog import Catalog, StudyRow
from node.catalog.rows import WITHHELD
from node.catalog.sharing import effects_for
from node.clock import Clock
from node.database import Database
from node.edges.door_settings import Door
from node.errors import NodeError
from node.sharing.offers import Offers
from node.sharing.peers import Peers
from node.sharing.studies import SharedStudies

log = logging.getLogger("radmesh.doors")

DOORS_SCHEMA = """
CREATE TABLE IF NOT EXISTS door_studies (
    study_uid TEXT NOT NULL,
    door TEXT NOT NULL,                 -- AE title of ours
    brought_by TEXT NOT NULL,           -- AE title of the sender
    since INTEGER NOT NULL,             -- milliseconds since the epoch, UTC; differs each time
    why TEXT NOT NULL,                  -- why it is not offered yet; '' when that was not tried
    PRIMARY KEY (study_uid, door)
) STRICT, WITHOUT ROWID;
"""

AGAIN_SECONDS = 60.0
"""Time until what could not be offered is tried again."""

TRIED_MS = 7 * 24 * 3600 * 1000
"""After so long it is given up."""


@dataclass(frozen=True, slots=True)
class DoorStudy:
    """A study that is to be offered. Columns as in the table."""

    study_uid: str
    door: str
    brought_by: str
    since: int
    why: str


class Doors:
    """The doors of this node, and the studies that are to be offered.

    Args:
        doors: the doors of the settings, by AE title.
        database: holds the studies.
        catalog: the studies of this node.
        peers: who is trusted.
        shared: shares a study to a facility.
        offers: offers it.
        clock: dates them.

    Attributes:
        settled: how many studies are settled since the start: what was noted before another one was
            may be offered by now, and what comes of it later is to be noted anew.
    """

    def __init__(
        self,
        doors: Mapping[str, Door],
        database: Database,
        catalog: Catalog,
        peers: Peers,
        shared: SharedStudies,
        offers: Offers,
        clock: Clock,
    ) -> None:
        self._doors = doors
        self._database = database
        self._catalog = catalog
        self._peers = peers
        self._shared = shared
        self._offers = offers
        self._clock = clock
        self._lock = threading.Lock()
        self.settled = 0

    def note(self, study_uid: str, door: str, brought_by: str) -> None:
        """Have a study offered when all that came of it is packed; durable on return.

        Raises:
            NodeError: it could not be written.
        """
        self._write(
            "INSERT INTO door_studies VALUES (?, ?, ?, ?, '') ON CONFLICT (study_uid, door)"
            " DO UPDATE SET brought_by=excluded.brought_by, why='',"
            " since=CASE WHEN excluded.since > door_studies.since THEN excluded.since"
            " ELSE door_studies.since + 1 END",
            (study_uid, door, brought_by, self._clock.now_ms()),
        )

    def waiting(self) -> list[DoorStudy]:
        """The studies that are to be offered, the oldest first."""
        rows = self._database.query("SELECT * FROM door_studies ORDER BY since, study_uid, door")
        return [DoorStudy(*row) for row in rows]

    def forget(self, studies: Iterable[str]) -> None:
        """Delete what is noted about studies (UIDs), as openings of them are erased."""
        self._database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM door_studies WHERE study_uid = ?", [(study,) for study in studies]
            )
        )

    def offer_all(self, studies: Iterable[DoorStudy]) -> None:
        """Offer these studies; what cannot be offered waits, with its reason.

        Args:
            studies: of which no image waits to be packed.

        Raises:
            NodeError: the disk is full or failing.
        """
        with self._lock:
            for one in studies:
                why = self._offer(one)
                if not why or one.since + TRIED_MS <= self._clock.now_ms():
                    if why:
                        log.error("a study that came in by %s is given up: %s", one.door, why)
                    self._settle(one)
                elif why != one.why:
                    log.warning("a study that came in by %s is not offered: %s", one.door, why)
                    self._say(one, why)

    def _offer(self, one: DoorStudy) -> str:
        """Offer a study; returns why it is not, or "" when nothing more is to be done."""
        door, row = self._doors.get(one.door), self._catalog.study(one.study_uid)
        if door is None or not door.to:
            return f"the settings have no door {one.door} that offers"
        if row is None or row.indexed_in:
            # All of it was set aside or put to quarantine, or it was discarded since.
            return ""
        if row.to_check:
            return "a person has to look at it first"
        try:
            peer = self._peers.find(door.to)
            if self._is_offered(row, peer):
                return ""
            if self._is_withdrawn(row, peer):
                return f"it is withdrawn from {peer.petname}"
            self._shared.share_to(row.study_uid, peer, door=one.door)
            message = f"sent by {one.brought_by}"
            self._offers.make(
                row.study_uid, peer.fingerprint, door.purpose, message, None, door=one.door
            )
        except NodeError as error:
            return error.message
        return ""

    def _is_withdrawn(self, row: StudyRow, peer: Peer) -> bool:
        """Whether a person has said that this facility does not get the study."""
        held = effects_for(self._database, peer.facility_key, [row.study_uid])
        return held.get(row.study_uid) == WITHHELD

    def _is_offered(self, row: StudyRow, peer: Peer) -> bool:
        """Whether an offer of all that is here is open; one of less is ended."""
        for offer in self._offers.open_to(peer.facility_key):
            if offer.study == row.study_uid and offer.instances == row.instance_count:
                return True
            if offer.study == row.study_uid:
                self._offers.end(offer.number)
        return False

    def _settle(self, one: DoorStudy) -> None:
        # More may have come meanwhile, which is noted anew.
        self._write(
            "DELETE FROM door_studies WHERE study_uid = ? AND door = ? AND since = ?",
            (one.study_uid, one.door, one.since),
        )
        self.settled += 1

    def _say(self, one: DoorStudy, why: str) -> None:
        self._write(
            "UPDATE door_studies SET why = ? WHERE study_uid = ? AND door = ?",
            (why, one.study_uid, one.door),
        )

    def _write(self, sql: str, values: tuple[str | int, ...]) -> None:
        self._database.transact(lambda connection: connection.execute(sql, values))

    async def run(
        self,
        coming: Callable[[], Awaitable[Container[str]]],
        next_packing: Callable[[], Awaitable[None]],
    ) -> None:
        """Offer what has come, until cancelled.

        Args:
            coming: gives the studies (UIDs) of which images wait to be packed.
            next_packing: waits until images have been packed.
        """
        while True:
            try:
                # In this order: the images of what is noted wait already, or are packed.
                noted = await in_thread(self.waiting)
                still = await coming()
                all_here = [one for one in noted if one.study_uid not in still]
                await in_thread(self.offer_all, all_here)
            except NodeError as error:
                log.error("what came in by a door cannot be offered now: %s", error.message)
            with trio.move_on_after(AGAIN_SECONDS):
                await next_packing()
