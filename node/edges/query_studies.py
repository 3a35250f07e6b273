"""Which studies a query means: ours, those that facilities have announced, and those found there.

Synchronous and thread-safe. What no index can answer, such as a wildcard in a Patient ID, is looked
for page by page.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from edges.dimse import querying as q
from edges.dimse.querying import ATTRIBUTES, Level
from edges.matching import Matcher, has_wildcard, is_universal, matcher, range_of
from keys.trust import Peer
from node.catalog.attributes import patients_of_each
from node.catalog.catalog import Catalog, StudyRow
from node.catalog.words import Search
from node.clock import Clock
from node.database import Database
from node.edges.door_settings import Door
from node.edges.identifiers import Values
from node.edges.query_values import (
    SeenStudy,
    announced_study,
    found_study,
    instance_values,
    own_study,
    series_values,
)
from node.errors import ExitCode, NodeError
from node.sharing.feeds import Feeds
from node.sharing.found import FoundStudies
from node.sharing.peers import Peers
from protocol.messages import Record

_AT_ONCE = 200

_NO_LATIN = 0x250
"""The first character behind those of Latin script."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Whose studies a caller sees by a door.

    Attributes:
        own: whether it sees ours.
        peers: the facilities whose studies it sees.
    """

    own: bool
    peers: tuple[Peer, ...]


class StudyQueries:
    """Finds studies, series and instances.

    Args:
        database, catalog: of this node.
        feeds: what facilities announced.
        found: what was found at them.
        peers: who is trusted.
        clock: tells whether trust holds.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        feeds: Feeds,
        found: FoundStudies,
        peers: Peers,
        clock: Clock,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._feeds = feeds
        self._found = found
        self._peers = peers
        self._clock = clock

    def scope(self, door: Door) -> Scope:
        """What a door lets see.

        Raises:
            NodeError: its facility is not trusted.
        """
        now = self._clock.now()
        if not door.to:
            trusted = [peer for peer in self._peers.store.peers if peer.is_trusted(now)]
            return Scope(own=True, peers=tuple(trusted) if door.partners else ())
        peer = self._peers.find(door.to)
        if not peer.is_trusted(now):
            raise NodeError(
                f"{peer.petname} is not trusted any more",
                hint="see `radmesh trust list`",
                code=ExitCode.REFUSED,
            )
        return Scope(own=False, peers=(peer,))

    def studies(self, keys: Mapping[int, str], scope: Scope) -> Iterator[list[SeenStudy]]:
        """The studies that match keys of studies and patients, page by page; each study once.

        A page may be empty.
        """
        fits = _matchers(keys, Level.STUDY)
        told: set[str] = set()
        for page in itertools.chain(self._own(keys, scope), self._others(keys, scope)):
            chosen = []
            for one in page:
                if one.study not in told and _fit(fits, one.values):
                    told.add(one.study)
                    chosen.append(one)
            yield chosen

    def series(self, study: str, keys: Mapping[int, str]) -> Iterator[list[Values]]:
        """The series of a study of ours that match keys of series, in one page."""
        fits = _matchers(keys, Level.SERIES)
        rows = map(series_values, self._catalog.series(study))
        yield [values for values in rows if _fit(fits, values)]

    def instances(self, study: str, keys: Mapping[int, str]) -> Iterator[list[Values]]:
        """The instances of a study of ours that match keys of series and instances, in pages."""
        [series] = self.series(study, keys)
        wanted = {one[q.SERIES][0]: one for one in series}
        fits = _matchers(keys, Level.IMAGE)
        rows = (row for row in self._catalog.instances(study) if row.series_uid in wanted)
        while some := list(itertools.islice(rows, _AT_ONCE)):
            described = ((row.series_uid, instance_values(row)) for row in some)
            yield [
                {**wanted[series_uid], **values}
                for series_uid, values in described
                if _fit(fits, values)
            ]

    # --- ours --------------------------------------------------------------------------

    def _own(self, keys: Mapping[int, str], scope: Scope) -> Iterator[list[SeenStudy]]:
        if scope.own:
            yield from self._here(keys)

    def _here(self, keys: Mapping[int, str]) -> Iterator[list[SeenStudy]]:
        named = _uids(keys)
        if named is not None:
            for some in _in_parts(named):
                yield self._seen(self._catalog.rows(some).values())
            return
        after, search = None, _search(keys)
        while True:
            rows = self._catalog.studies(search=search, limit=_AT_ONCE, after=after)
            yield self._seen(rows)
            if len(rows) < _AT_ONCE:
                return
            after = (rows[-1].study_date, rows[-1].study_uid)

    def _seen(self, rows: Iterable[StudyRow]) -> list[SeenStudy]:
        # What is in an archive alone, the archive itself tells.
        chosen = [row for row in rows if not row.indexed_in]
        patients = patients_of_each(self._database, (row.study_uid for row in chosen))
        return [own_study(row, patients.get(row.study_uid, [])) for row in chosen]

    # --- those of others ---------------------------------------------------------------

    def _others(self, keys: Mapping[int, str], scope: Scope) -> Iterator[list[SeenStudy]]:
        for peer in scope.peers:
            if not scope.own:
                yield from self._fetched(keys, peer)
            yield from self._announced(keys, peer)
            yield self._where_from_here(
                (found_study(one), one.record) for one in self._found.all(peer.facility_key)
            )

    def _fetched(self, keys: Mapping[int, str], peer: Peer) -> Iterator[list[SeenStudy]]:
        """Studies of a facility that are here: of these we know the patient."""
        for page in self._here(keys):
            roots = self._catalog.content_roots(one.study for one in page)
            chosen = []
            for one in page:
                record = self._feeds.announced_by(peer.facility_key, one.study)
                if record is not None and record.content_root == roots.get(one.study):
                    chosen.append(one)
            yield chosen

    def _announced(self, keys: Mapping[int, str], peer: Peer) -> Iterator[list[SeenStudy]]:
        named = _uids(keys)
        key = peer.facility_key
        if named is not None:
            for some in _in_parts(named):
                records = [self._feeds.announced_by(key, one) for one in some]
                yield self._where_from_here(
                    (announced_study(one, key), one) for one in records if one
                )
            return
        # Whoever announces a study does not say who the patient is, unless its rules show that.
        after, search = None, _search(keys)
        while True:
            rows = self._feeds.announced(peer=key, search=search, limit=_AT_ONCE, after=after)
            yield self._where_from_here(
                (announced_study(record, key), record) for _, record in rows
            )
            if len(rows) < _AT_ONCE:
                return
            after = (rows[-1][1].study_date, rows[-1][1].study, key)

    def _where_from_here(self, studies: Iterable[tuple[SeenStudy, Record]]) -> list[SeenStudy]:
        """Studies of others; those whose content is here are seen as they are here."""
        chosen = list(studies)
        rows = self._catalog.rows(one.study for one, _ in chosen)
        here = {
            one.study: one
            for one in self._seen(
                rows[each.study]
                for each, record in chosen
                if each.study in rows and _is_same(rows[each.study], record)
            )
        }
        return [here.get(one.study, one) for one, _ in chosen]


def _is_same(row: StudyRow, record: Record) -> bool:
    """Whether a study as another facility tells of it is here.

    What it has in its archive alone has no content root: that as many images are here counts.
    """
    if record.indexed:
        return not row.indexed_in and row.instance_count >= record.instances
    return row.content_root == record.content_root


def _matchers(keys: Mapping[int, str], level: Level) -> list[tuple[int, Matcher]]:
    """What the keys of a level demand; of the level of studies with those of patients."""
    levels = (Level.PATIENT, Level.STUDY) if level is Level.STUDY else (level,)
    return [
        (tag, matcher(ATTRIBUTES[tag].vr, key))
        for tag, key in keys.items()
        if ATTRIBUTES[tag].level in levels and not is_universal(key)
    ]


def _fit(fits: list[tuple[int, Matcher]], values: Values) -> bool:
    return all(matches(values.get(tag, ())) for tag, matches in fits)


def _uids(keys: Mapping[int, str]) -> list[str] | None:
    """The Study Instance UIDs that a query names; None if it names none."""
    key = keys.get(q.STUDY, "")
    if is_universal(key):
        return None
    return list(dict.fromkeys(one.strip() for one in key.split("\\") if one.strip()))


def _in_parts(uids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(uids), _AT_ONCE):
        yield uids[start : start + _AT_ONCE]


def _search(keys: Mapping[int, str]) -> Search:
    """A search by an index that finds at least all that match."""

    def exact(tag: int) -> str:
        key = keys.get(tag, "")
        return "" if is_universal(key) or has_wildcard(key) else key.strip()

    first, last = range_of("DA", keys.get(q.STUDY_DATE, "")) or ("", "")
    born = range_of("DA", keys.get(q.BIRTH_DATE, "")) or ("", "")
    return Search(
        name=_beginning(keys.get(q.PATIENT_NAME, "")),
        patient_id=exact(q.PATIENT_ID),
        birth_date=born[0] if born[0] == born[1] else "",
        accession_number=exact(q.ACCESSION),
        modality=exact(q.STUDY_MODALITIES),
        first_date=first,
        last_date=last,
    )


def _beginning(key: str) -> str:
    """What a name begins with before the first wildcard; "" if the index of names has not that."""
    if any(mark in key for mark in "=\\") or any(ord(one) >= _NO_LATIN for one in key):
        # A group of a name in another script is not in the index.
        return ""
    for mark in "*?^,":
        key = key.partition(mark)[0]
    return f"{key.strip()}^" if key.strip() else ""
