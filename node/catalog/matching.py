"""The studies that a person means by what they have in common."""

from dataclasses import dataclass

from node.catalog.rows import StudyRow, study_row
from node.database import Database

_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Matching:
    """What the studies have in common; "" is anything.

    Attributes:
        accession_number: the whole accession number.
        modality: a modality that the study has.
        first_date, last_date: the study date is one of these or between them, YYYYMMDD.
        source: who brought some of it, as the log has it; with a `*` at its end the beginning.
    """

    accession_number: str = ""
    modality: str = ""
    first_date: str = ""
    last_date: str = ""
    source: str = ""

    @property
    def is_anything(self) -> bool:
        """Whether every study is meant."""
        return self == Matching()


def studies_matching(database: Database, wanted: Matching) -> list[StudyRow]:
    """The studies that match, by UID; a person's search, so all of them are held at once."""
    chosen = []
    if wanted.accession_number:
        chosen.append("accession_number = :accession")
    if wanted.modality:
        chosen.append(
            "EXISTS (SELECT 1 FROM series r WHERE r.study_uid = studies.study_uid"
            " AND r.modality = :modality)"
        )
    if wanted.first_date:
        chosen.append("study_date >= :first")
    if wanted.last_date:
        chosen.append("study_date <= :last AND study_date <> ''")
    if wanted.source:
        how = (
            "source >= :source AND source < :end"
            if wanted.source.endswith("*")
            else ("source = :source")
        )
        chosen.append(f"study_uid IN (SELECT study_uid FROM study_sources WHERE {how})")
    source = wanted.source.removesuffix("*")
    conditions = " AND ".join(["study_uid > :after", *chosen])
    values = {
        "accession": wanted.accession_number,
        "modality": wanted.modality,
        "first": wanted.first_date,
        "last": wanted.last_date,
        "source": source,
        # Sources are printable ASCII.
        "end": source + "\x7f",
        "limit": _AT_ONCE,
        "after": "",
    }
    found: list[StudyRow] = []
    while True:
        rows = database.query(
            f"SELECT * FROM studies WHERE {conditions} ORDER BY study_uid LIMIT :limit", values
        )
        found += [study_row(row) for row in rows]
        if len(rows) < _AT_ONCE:
            return found
        values["after"] = rows[-1]["study_uid"]
