"""The studies that wait for a person to say whose they are, and who may be meant."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keys.sharing import FROM_PEER
from node.catalog.attributes import patients_of_each
from node.catalog.catalog import LOCAL, Catalog, StudyRow
from node.catalog.names import same
from node.catalog.patients import Patient, why_to_check
from node.catalog.rows import study_row
from node.catalog.sharing import sources_of_each
from node.catalog.words import Search
from node.database import Database
from node.edges.match_rows import MATCHED, TEMPORARY, UNDONE, LocalPatient, Match, are_same
from node.edges.matches import Matches

_BEFORE = 20
"""Most earlier matches that are looked at for a proposal."""

_LOOKED_AT = 200
"""Most studies made here that are looked at for one."""


@dataclass(frozen=True, kw_only=True)
class PatientThere:
    """The patient of a study as its images name them; texts as in `LocalPatient`."""

    patient_id: str
    issuer: str
    name: str
    birth_date: str
    sex: str


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A study that waits for its match.

    Attributes:
        row: the study, as the catalog has it.
        patients: Patient IDs and issuers that its images name.
        match: what it has: a temporary one, one that was undone, or one that holds for other
            patients than its images name now; None for none.
        why: why it waits, for people.
    """

    row: StudyRow
    patients: tuple[Patient, ...]
    match: Match | None
    why: str

    @property
    def there(self) -> PatientThere:
        """Its patient, as the images have it."""
        issuers = sorted({issuer for one, issuer in self.patients if one == self.row.patient_id})
        return PatientThere(
            patient_id=self.row.patient_id,
            issuer=issuers[-1] if issuers else "",
            name=self.row.patient_name,
            birth_date=self.row.patient_birth_date,
            sex=self.row.patient_sex,
        )


class Unmatched:
    """The studies from elsewhere that wait for a person.

    Args:
        matches: the matches of this node.
        database: with the catalog.
        catalog: the studies of this node.
    """

    def __init__(self, matches: Matches, database: Database, catalog: Catalog) -> None:
        self._matches = matches
        self._database = database
        self._catalog = catalog

    def page(
        self, limit: int, after: tuple[str, str] | None = None
    ) -> tuple[list[Waiting], tuple[str, str] | None]:
        """Studies that wait for a person, the newest study date first.

        Args:
            limit: most studies that are looked at.
            after: only those that follow the study of this date and UID.

        Returns:
            The studies, and date and UID of the last one looked at; None at the end.
        """
        elsewhere = [
            f"origin <> '{LOCAL}'",
            "EXISTS (SELECT 1 FROM study_sources s WHERE s.study_uid = studies.study_uid"
            f" AND s.source >= '{FROM_PEER}:' AND s.source < '{FROM_PEER};')",
        ]
        values: dict[str, str | int] = {"limit": limit}
        for number, one in enumerate(self._matches.settings.elsewhere):
            # Sources are printable ASCII.
            values |= {f"s{number}": one.removesuffix("*"), f"z{number}": one[:-1] + "\x7f"}
            how = (
                f">= :s{number} AND s.source < :z{number}" if one.endswith("*") else f"= :s{number}"
            )
            elsewhere.append(
                "EXISTS (SELECT 1 FROM study_sources s WHERE s.study_uid = studies.study_uid"
                f" AND s.source {how})"
            )
        chosen = [
            "indexed_in = ''",
            f"({' OR '.join(elsewhere)})",
            f"(NOT EXISTS (SELECT 1 FROM study_matches m WHERE m.study_uid = studies.study_uid"
            f" AND m.state = '{MATCHED}')"
            " OR EXISTS (SELECT 1 FROM study_patients p WHERE p.study_uid = studies.study_uid"
            "  AND NOT EXISTS (SELECT 1 FROM matched_patients n WHERE n.study_uid = p.study_uid"
            "   AND n.patient_id = p.patient_id AND n.issuer = p.issuer)))",
        ]
        if after is not None:
            chosen.append("study_date <= :date AND (study_date < :date OR study_uid > :uid)")
            values |= {"date": after[0], "uid": after[1]}
        rows = [
            study_row(row)
            for row in self._database.query(
                f"SELECT * FROM studies WHERE {' AND '.join(chosen)}"
                " ORDER BY study_date DESC, study_uid LIMIT :limit",
                values,
            )
        ]
        studies = [row.study_uid for row in rows]
        patients = patients_of_each(self._database, studies)
        sources = sources_of_each(self._database, studies)
        found = [
            self._waiting(row, patients.get(row.study_uid, []), sources.get(row.study_uid, []))
            for row in rows
        ]
        end = (rows[-1].study_date, rows[-1].study_uid) if len(rows) == limit else None
        return [one for one in found if one is not None], end

    def _waiting(
        self, row: StudyRow, patients: Sequence[Patient], sources: Iterable[str]
    ) -> Waiting | None:
        match = self._matches.of(row.study_uid)
        if match is None:
            if self._matches.by_rule(row, patients, sources) is not None:
                return None
            why = why_to_check(patients) or "nothing says which patient here it is"
        elif match.state == TEMPORARY:
            why = "it has a temporary Patient ID"
        elif match.state == UNDONE:
            why = "its match was undone"
        elif not are_same(self._matches.seen(row.study_uid), patients):
            why = "it has grown, and names another patient than when it was matched"
        else:
            return None
        return Waiting(row=row, patients=tuple(patients), match=match, why=why)

    def one(self, study_uid: str) -> Waiting | None:
        """A study, if it waits for a person; None for any other one."""
        row = self._catalog.study(study_uid)
        if row is None:
            return None
        sources = sources_of_each(self._database, [study_uid]).get(study_uid, [])
        if not self._matches.is_from_elsewhere(row, sources):
            return None
        patients = patients_of_each(self._database, [study_uid]).get(study_uid, [])
        return self._waiting(row, patients, sources)

    def proposals(self, waiting: Waiting) -> list[LocalPatient]:
        """Local patients who may be meant, each once; whom a person has matched before come first.

        By what is here; `patient_query` asks the other systems of the facility.
        """
        found: dict[tuple[str, str], LocalPatient] = {}
        for one in (*self._matched_before(waiting), *self._made_here(waiting.there)):
            found.setdefault((one.patient_id, one.issuer), one)
        return list(found.values())

    def _matched_before(self, waiting: Waiting) -> list[LocalPatient]:
        """The local patients of other studies of the same patient from the same facility."""
        there = waiting.there
        if not there.patient_id:
            return []
        rows = self._database.query(
            "SELECT m.* FROM study_matches m JOIN matched_patients p ON p.study_uid = m.study_uid"
            " JOIN studies s ON s.study_uid = m.study_uid"
            f" WHERE m.state = '{MATCHED}' AND p.patient_id = ? AND p.issuer = ? AND s.origin = ?"
            f" AND m.study_uid <> ? ORDER BY m.made DESC, m.study_uid LIMIT {_BEFORE}",
            (there.patient_id, there.issuer, waiting.row.origin, waiting.row.study_uid),
        )
        return [_local(Match(*row), "matched so before") for row in rows]

    def _made_here(self, there: PatientThere) -> list[LocalPatient]:
        """Patients of studies made here with the same name, birth date and sex."""
        if not (there.name and there.birth_date):
            return []
        search = Search(name=there.name, birth_date=there.birth_date)
        rows = self._catalog.studies(limit=_LOOKED_AT, search=search)
        patients = patients_of_each(self._database, [row.study_uid for row in rows])
        sources = sources_of_each(self._database, [row.study_uid for row in rows])
        found = []
        for row in rows:
            named = patients.get(row.study_uid, [])
            is_one = len({patient_id for patient_id, _ in named}) == 1
            if (
                not is_one
                or self._matches.is_from_elsewhere(row, sources.get(row.study_uid, []))
                or not same(row.patient_name, there.name)
                or (row.patient_sex and there.sex and row.patient_sex != there.sex)
            ):
                continue
            issuers = sorted({issuer for _, issuer in named} - {""})
            found.append(
                LocalPatient(
                    patient_id=named[0][0],
                    issuer=issuers[0] if issuers else self._matches.settings.issuer,
                    name=row.patient_name,
                    birth_date=row.patient_birth_date,
                    sex=row.patient_sex,
                    why="same name and birth date, of a study made here",
                )
            )
        return found


def _local(match: Match, why: str) -> LocalPatient:
    return LocalPatient(
        patient_id=match.patient_id,
        issuer=match.issuer,
        name=match.name,
        birth_date=match.birth_date,
        sex=match.sex,
        why=why,
    )
