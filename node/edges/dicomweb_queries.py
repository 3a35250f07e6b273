"""Searches (QIDO-RS): our studies, then those that partners announce; PS3.18 section 10.6.

The index of the catalog narrows a search as far as it can, and each row is compared again, with the
wildcards of DICOM. What a caller is told of is in the log before. All functions block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from edges.dicomweb.attributes import Attribute, Values, row_json
from edges.dicomweb.matching import date_range, fits, has_wildcards, literal_beginning, several
from edges.dicomweb.paths import Level, Resource
from edges.dicomweb.query import Query
from node.catalog.attributes import patients_of_each
from node.catalog.catalog import Catalog, InstanceRow, SeriesRow, StudyRow
from node.catalog.words import Search
from node.database import Database
from node.edges.dicomweb_settings import WebCaller
from node.edges.dimse_settings import OUR_DOOR
from node.edges.query_values import SeenStudy, announced_study, own_study
from node.edges.told import CallersLately
from node.sharing.feeds import Feeds
from protocol.messages import Record

PAGE = 500
"""Rows of the catalog that are looked at together."""

MOST_LOOKED_AT = 100_000
"""Most studies that one search compares; then it gives what it has found."""


MOST_READ = 5_000
"""Most studies of which one search reads the series."""

_Found = tuple[Values, Callable[[], SeenStudy]]
"""What a row says, and the study it is of, for the log."""


@dataclass(slots=True)
class _Effort:
    """How many studies a search has read the series of, and whether it ended for that."""

    read: int = 0
    is_over: bool = False


class Queries:
    """Answers searches.

    Args:
        database, catalog: our studies.
        feeds: what partners announce.
        petname: the name of a partner, by its facility key.
        told: what callers were told of.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        feeds: Feeds,
        petname: Callable[[bytes], str],
        told: CallersLately,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._feeds = feeds
        self._petname = petname
        self._told = told

    def search(
        self, asked: Resource, query: Query, caller: WebCaller
    ) -> tuple[list[dict[str, Any]], bool]:
        """The rows of an answer, and whether there may be more than these.

        The entries are durable on return.

        Args:
            asked: what is listed, and in which study or series.
            query: what is wanted.
            caller: who asks; studies of partners are listed to one with a purpose.

        Raises:
            NodeError: the log cannot be written; the caller must not be told.
        """
        above = asked.level > Level.STUDY and not asked.study
        columns = query.columns(asked.level, above=above)
        effort = _Effort()
        rows = self._rows(asked, query, bool(caller.purpose), effort)
        last = query.offset + query.limit
        found = list(islice(rows, query.offset, last + 1))
        listed = found[: query.limit]
        studies = {values["StudyInstanceUID"][0]: seen for values, seen in listed}
        seen = [one() for one in studies.values()]
        self._told.tell(f"dicomweb:{caller.name}", caller.purpose, "", seen)
        has_more = len(found) > query.limit or effort.is_over
        return [row_json(values, columns) for values, _ in listed], has_more

    def _rows(
        self, asked: Resource, query: Query, with_partners: bool, effort: _Effort
    ) -> Iterator[_Found]:
        wishes = {one: wish for one, wish in query.wishes.items() if one.level <= asked.level}
        of_study = {one: wish for one, wish in wishes.items() if one.level is Level.STUDY}
        if query.fuzzy:
            # The search by words has compared these.
            of_study = {one: wish for one, wish in of_study.items() if one.keyword != "PatientName"}
        for values, seen in self._studies(asked, query, with_partners):
            if not _all_fit(of_study, values):
                continue
            if asked.level is Level.STUDY:
                yield values | {"RetrieveURL": [f"studies/{values['StudyInstanceUID'][0]}"]}, seen
                continue
            if effort.read >= MOST_READ:
                effort.is_over = True
                return
            effort.read += 1
            for row in self._below(asked, wishes, values):
                yield row, seen

    def _below(
        self, asked: Resource, wishes: dict[Attribute, str], study: Values
    ) -> Iterator[Values]:
        uid = study["StudyInstanceUID"][0]
        of_series = {one: wish for one, wish in wishes.items() if one.level is Level.SERIES}
        of_instance = {one: wish for one, wish in wishes.items() if one.level is Level.INSTANCE}
        in_study = "" if asked.study else f"studies/{uid}/"
        instances: list[InstanceRow] | None = None
        for row in self._catalog.series(uid):
            if asked.series and row.series_uid != asked.series:
                continue
            values = study | _series_values(row)
            if not _all_fit(of_series, values):
                continue
            if asked.level is Level.SERIES:
                yield values | {"RetrieveURL": [f"{in_study}series/{row.series_uid}"]}
                continue
            if instances is None:
                instances = self._catalog.instances(uid)
            in_series = "" if asked.series else f"{in_study}series/{row.series_uid}/"
            for one in instances:
                found = values | _instance_values(one)
                if one.series_uid == row.series_uid and _all_fit(of_instance, found):
                    yield found | {"RetrieveURL": [f"{in_series}instances/{one.sop_uid}"]}

    # --- studies --------------------------------------------------------------------------

    def _studies(self, asked: Resource, query: Query, with_partners: bool) -> Iterator[_Found]:
        uids = (asked.study,) if asked.study else several(query.wish("StudyInstanceUID"))
        if uids:
            rows = [row for row in self._catalog.rows(uids).values() if row.study_uid in uids]
            yield from self._own(sorted(rows, key=lambda row: row.study_uid))
            if with_partners and asked.level is Level.STUDY:
                announced = [each for uid in uids for each in self._feeds.announced(study=uid)]
                yield from self._of_partners(announced, set())
            return
        search = _narrowed(query)
        after: tuple[str, str] | None = None
        for _ in range(0, MOST_LOOKED_AT, PAGE):
            rows = self._catalog.studies(search=search, limit=PAGE, after=after)
            yield from self._own(rows)
            if len(rows) < PAGE:
                break
            after = (rows[-1].study_date, rows[-1].study_uid)
        if not with_partners or asked.level is not Level.STUDY:
            return
        listed: set[str] = set()
        place: tuple[str, str, bytes] | None = None
        for _ in range(0, MOST_LOOKED_AT, PAGE):
            announced = self._feeds.announced(search=search, limit=PAGE, after=place)
            yield from self._of_partners(announced, listed)
            if len(announced) < PAGE:
                return
            peer, last = announced[-1]
            place = (last.study_date, last.study, peer)

    def _own(self, rows: Sequence[StudyRow]) -> Iterator[_Found]:
        # What is in an archive alone, the archive itself tells.
        rows = [row for row in rows if not row.indexed_in]
        issuers = patients_of_each(self._database, (row.study_uid for row in rows))
        for row in rows:
            patients = issuers.get(row.study_uid, ())
            named = dict(patients)
            seen = partial(own_study, row, patients)
            yield _study_values(row, named.get(row.patient_id, "")), seen

    def _of_partners(
        self, announced: Sequence[tuple[bytes, Record]], listed: set[str]
    ) -> Iterator[_Found]:
        """Those that are not here; one that several announce once."""
        here = self._catalog.content_roots(record.study for _, record in announced)
        for peer, record in announced:
            if record.study in here or record.study in listed:
                continue
            listed.add(record.study)
            seen = partial(announced_study, record, peer)
            yield _announced_values(record, self._petname(peer)), seen


def _all_fit(wishes: dict[Attribute, str], values: Values) -> bool:
    return all(fits(one.kind, wish, values.get(one.keyword, ())) for one, wish in wishes.items())


def _narrowed(query: Query) -> Search:
    """What the index of the catalog can do of a search."""

    def exact(keyword: str) -> str:
        wish = query.wish(keyword).strip()
        return "" if has_wildcards(wish) or len(several(wish)) != 1 else wish

    dates = date_range(query.wish("StudyDate")) or ("", "")
    birth = query.wish("PatientBirthDate").strip()
    name = query.wish("PatientName")
    modalities = {exact("ModalitiesInStudy"), exact("Modality")} - {""}
    return Search(
        name=name if query.fuzzy else literal_beginning(name).partition("=")[0],
        patient_id=exact("PatientID"),
        birth_date=birth if len(birth) == 8 and birth.isdigit() else "",
        accession_number=exact("AccessionNumber"),
        modality=min(modalities, default=""),
        first_date=dates[0],
        last_date=dates[1],
    )


# --- what rows say ------------------------------------------------------------------------


def _study_values(row: StudyRow, issuer: str) -> Values:
    return {
        "StudyDate": [row.study_date],
        "StudyTime": [row.study_time],
        "AccessionNumber": [row.accession_number],
        "RetrieveAETitle": [OUR_DOOR],
        "InstanceAvailability": ["ONLINE"],
        "ModalitiesInStudy": list(row.modalities),
        "InstitutionName": [row.institution],
        "ReferringPhysicianName": [row.referring_physician],
        "StudyDescription": [row.description],
        "PatientName": [row.patient_name],
        "PatientID": [row.patient_id],
        "IssuerOfPatientID": [issuer],
        "PatientBirthDate": [row.patient_birth_date],
        "PatientSex": [row.patient_sex],
        "StudyInstanceUID": [row.study_uid],
        "StudyID": [row.study_id],
        "NumberOfStudyRelatedSeries": [str(row.series_count)],
        "NumberOfStudyRelatedInstances": [str(row.instance_count)],
    }


def _announced_values(record: Record, petname: str) -> Values:
    return {
        "StudyDate": [record.study_date],
        "AccessionNumber": [record.accession or ""],
        "RetrieveAETitle": [OUR_DOOR],
        "InstanceAvailability": ["NEARLINE"],
        "ModalitiesInStudy": list(record.modalities),
        "InstitutionName": [petname],
        "StudyDescription": [record.description or ""],
        "PatientName": [record.patient_name or ""],
        "PatientID": [record.patient_id or ""],
        "IssuerOfPatientID": [record.issuer or ""],
        "PatientBirthDate": [record.birth_date or ""],
        "PatientSex": [record.sex or ""],
        "StudyInstanceUID": [record.study],
        "NumberOfStudyRelatedSeries": [str(record.series)],
        "NumberOfStudyRelatedInstances": [str(record.instances)],
    }


def _series_values(row: SeriesRow) -> Values:
    return {
        "SeriesDate": [row.series_date],
        "Modality": [row.modality],
        "Manufacturer": [row.manufacturer],
        "StationName": [row.station],
        "SeriesDescription": [row.series_description],
        "BodyPartExamined": [row.body_part],
        "SeriesInstanceUID": [row.series_uid],
        "SeriesNumber": [] if row.series_number is None else [str(row.series_number)],
        "NumberOfSeriesRelatedInstances": [str(row.instance_count)],
    }


def _instance_values(row: InstanceRow) -> Values:
    frames = {"NumberOfFrames": [str(row.frames)]} if row.frames > 1 else {}
    image = {"Rows": [str(row.rows)], "Columns": [str(row.columns)]} if row.rows else {}
    return {
        "SOPClassUID": [row.sop_class_uid],
        "SOPInstanceUID": [row.sop_uid],
        "AvailableTransferSyntaxUID": [row.transfer_syntax_uid],
        "InstanceNumber": [] if row.number is None else [str(row.number)],
        **frames,
        **image,
    }
