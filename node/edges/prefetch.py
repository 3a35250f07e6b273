"""Prefetch: priors of a patient who comes here are fetched from the facilities that have them.

A patient comes when images of her are made here, or when she stands in the worklist of today. Who
she is elsewhere is known by matches that a person or a rule made before; a name alone fetches
nothing. One study is fetched at a time. What is fetched is decided by the rules of the other
facility, like any other request, and logged there and here.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from keys.purposes import is_purpose
from keys.trust import Peer
from node.blocking import in_thread
from node.catalog.attributes import patients_of_each
from node.catalog.catalog import Catalog
from node.catalog.words import Search
from node.clock import Clock, local_date
from node.database import Database
from node.edges.door_settings import BadEdge
from node.edges.match_rows import LocalPatient
from node.edges.matches import Matches
from node.errors import NodeError
from node.sharing.feeds import Feeds
from node.sharing.peers import Peers
from protocol.find_messages import ByNumber
from protocol.messages import Record

log = logging.getLogger("radmesh.prefetch")

WORKLIST_SECONDS = 600.0
"""Time between two looks into the worklist."""

WAITING = 1000
"""Patients that wait at most to be looked for; later ones are left out, and counted."""

DAY_SECONDS = 24 * 3600
YEAR_DAYS = 366


@dataclass(frozen=True, kw_only=True)
class PrefetchSettings:
    """The table `prefetch`.

    Attributes:
        peers: from whom, by petname or fingerprint; none: nothing is fetched by itself.
        find: whether they are also asked for studies that they have not announced.
        modalities: only studies with one of these; none for any.
        years: only studies of so many years; 0 for all.
        most_a_day: studies fetched in 24 hours at most.
        purpose: for both logs.
        worklist: one of `worklists`, into which it is looked, or "".
    """

    peers: tuple[str, ...] = ()
    find: bool = False
    modalities: tuple[str, ...] = ()
    years: int = 0
    most_a_day: int = 50
    purpose: str = "treatment"
    worklist: str = ""


def read_prefetch(entries: dict[str, Any]) -> PrefetchSettings:
    """The settings of the table, from entries that are each of the right kind but the two texts.

    Raises:
        BadEdge: a text is none, or there is no such purpose.
    """
    if not all(type(entries.get(name, "")) is str for name in ("purpose", "worklist")):
        raise BadEdge("has a purpose or a worklist that is no text")
    lists: dict[str, Any] = {
        name: tuple(entries[name]) for name in ("peers", "modalities") if name in entries
    }
    found = PrefetchSettings(**(entries | lists))
    if not is_purpose(found.purpose):
        raise BadEdge(f'has a purpose "{found.purpose}" that is none')
    return found


Fetch = Callable[[str, Peer, str], Awaitable[None]]
"""Fetches a study (UID) from a peer for a purpose; returns when that has ended, however."""

Find = Callable[[Peer, ByNumber, str], Awaitable[Sequence[Record]]]
"""Asks a peer for the studies of a patient, for a purpose; raises NodeError."""

Planned = Callable[[], Awaitable[Iterable[LocalPatient]]]
"""Gives the patients of today's worklist; raises NodeError."""


class Prefetch:
    """Fetches priors by itself.

    Args:
        settings: the table.
        database: with the catalog.
        catalog: the studies of this node.
        matches: who is who elsewhere.
        peers: who is trusted.
        feeds: who announced what.
        fetch, find: reach the peers.
        planned: looks into the worklist; None without one.
        clock: tells the date.

    Attributes:
        begun: studies whose fetch was begun since the start.
        left_out: patients that were not looked for, since too many waited.
    """

    def __init__(
        self,
        settings: PrefetchSettings,
        database: Database,
        catalog: Catalog,
        matches: Matches,
        peers: Peers,
        feeds: Feeds,
        fetch: Fetch,
        find: Find,
        planned: Planned | None,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._database = database
        self._catalog = catalog
        self._matches = matches
        self._peers = peers
        self._feeds = feeds
        self._fetch = fetch
        self._find = find
        self._planned = planned
        self._clock = clock
        self._send, self._receive = trio.open_memory_channel[str](WAITING)
        # When which study was fetched, and which patient was asked for at whom; seconds, UTC.
        self._fetched: dict[str, int] = {}
        self._asked: dict[tuple[bytes, ByNumber], int] = {}
        self.begun = self.left_out = 0

    def study_came(self, study_uid: str) -> None:
        """A study came or changed; whether it was made here is looked at later."""
        if not self._settings.peers:
            return
        try:
            self._send.send_nowait(study_uid)
        except trio.WouldBlock:
            self.left_out += 1

    async def run(self) -> None:
        """Fetch, until cancelled."""
        if not self._settings.peers:
            return
        async with trio.open_nursery() as nursery:
            coming = trio.Lock()
            if self._planned is not None:
                nursery.start_soon(self._look_into_worklist, self._planned, coming)
            async for study in self._receive:
                try:
                    patients = await in_thread(self._made_here, study)
                except NodeError as error:
                    log.warning("priors are not fetched now: %s", error.message)
                    continue
                async with coming:
                    for one in patients:
                        await self._comes(one)

    async def _look_into_worklist(self, planned: Planned, coming: trio.Lock) -> None:
        while True:
            try:
                patients = list(await planned())
            except NodeError as error:
                log.warning("the worklist cannot be read: %s", error.message)
                patients = []
            async with coming:
                for one in patients:
                    await self._comes(one)
            await trio.sleep(WORKLIST_SECONDS)

    def _made_here(self, study_uid: str) -> list[LocalPatient]:
        """The patients of a study that was made here; none for another one."""
        row = self._catalog.study(study_uid)
        if row is None or row.indexed_in or not self._matches.is_made_here(row):
            return []
        patients = patients_of_each(self._database, [study_uid]).get(study_uid, [])
        return [LocalPatient(patient_id=one, issuer=issuer) for one, issuer in patients if one]

    async def _comes(self, local: LocalPatient) -> None:
        """Fetch the priors of a patient who is here."""
        try:
            elsewhere = await in_thread(self._matches.elsewhere, local.patient_id, local.issuer)
            for facility_key, patient in elsewhere:
                peer = await in_thread(self._peer, facility_key)
                if peer is not None:
                    await self._from(peer, patient)
        except NodeError as error:
            log.warning("priors are not fetched now: %s", error.message)

    def _peer(self, facility_key: bytes) -> Peer | None:
        """A facility from which priors are fetched."""
        now = self._clock.now()
        for peer in self._peers.store.peers:
            if peer.facility_key == facility_key and peer.is_trusted(now):
                named = {peer.petname, peer.fingerprint}
                return peer if named & {*self._settings.peers} else None
        return None

    async def _from(self, peer: Peer, patient: ByNumber) -> None:
        records = await in_thread(self._announced, peer, patient)
        if self._settings.find and self._may_ask(peer, patient):
            known = {one.study for one in records}
            try:
                found = await self._find(peer, patient, self._settings.purpose)
                records += [one for one in found if one.study not in known]
            except NodeError as error:
                # It is away, or does not let us: what it announced is fetched all the same.
                log.info("%s was not asked for priors: %s", peer.petname, error.message)
        for record in await in_thread(self._wanted, records):
            if not self._may_fetch(record.study):
                continue
            self.begun += 1
            await self._fetch(record.study, peer, self._settings.purpose)

    def _announced(self, peer: Peer, patient: ByNumber) -> list[Record]:
        search = Search(patient_id=patient.patient_id, issuer=patient.issuer)
        rows = self._feeds.announced(peer=peer.facility_key, search=search, limit=WAITING)
        # Without an issuer an ID is the facility's own, not one that it has from elsewhere.
        return [record for _, record in rows if patient.issuer or not record.issuer]

    def _wanted(self, records: Sequence[Record]) -> list[Record]:
        """What the settings want of it, and is not here as it is there; the newest first."""
        own = self._catalog.content_roots(one.study for one in records)
        days = self._settings.years * YEAR_DAYS
        first = local_date(self._clock.now() - days * DAY_SECONDS) if days else ""
        found = [
            one
            for one in records
            if own.get(one.study) != one.content_root
            # What is in an archive there and was brought here once is not brought again.
            and not (one.indexed and one.study in own)
            and one.study_date >= first
            and (
                not self._settings.modalities
                or not {*self._settings.modalities}.isdisjoint(one.modalities)
            )
        ]
        return sorted(found, key=lambda one: (one.study_date, one.study), reverse=True)

    def _may_ask(self, peer: Peer, patient: ByNumber) -> bool:
        """Whether a patient was not asked for in the last day; it is from now on."""
        _forget(self._asked, self._clock.now())
        if not patient.issuer or (peer.facility_key, patient) in self._asked:
            return False
        self._asked[peer.facility_key, patient] = self._clock.now()
        return True

    def _may_fetch(self, study: str) -> bool:
        """Whether a study was not fetched in the last day, and one more may be; it is now."""
        _forget(self._fetched, self._clock.now())
        if study in self._fetched or len(self._fetched) >= self._settings.most_a_day:
            return False
        self._fetched[study] = self._clock.now()
        return True


def _forget(times: dict[Any, int], now: int) -> None:
    """Forget what is a day old; what a clock that was set back puts into the future goes, too."""
    for key in [one for one, time in times.items() if not 0 <= now - time < DAY_SECONDS]:
        del times[key]
