"""Finds the study, series or instance that a person means."""

from node.catalog.rows import StudyRow, study_row
from node.database import Database
from node.errors import ExitCode, NodeError

_PREFIX_CHARACTERS = 6
"""Fewest characters of a Study Instance UID for a search by its beginning."""

_LISTED_MATCHES = 5
_AFTER_UIDS = "\x7f"
"""A character that sorts after all characters of a UID: a prefix is a range of the index."""

Part = tuple[str, str, str]
"""UIDs of a study, one of its series, and an instance in that, or "" for the whole series."""


def find_parts(database: Database, uid: str) -> tuple[list[Part], list[Part]]:
    """The series and the instances with this UID."""
    return (
        [
            (row["study_uid"], row["series_uid"], "")
            for row in database.query(
                "SELECT study_uid, series_uid FROM series WHERE series_uid = ?", (uid,)
            )
        ],
        [
            (row["study_uid"], row["series_uid"], row["sop_uid"])
            for row in database.query(
                "SELECT study_uid, series_uid, sop_uid FROM instances WHERE sop_uid = ?", (uid,)
            )
        ],
    )


def find_study(database: Database, text: str) -> StudyRow:
    """See `Catalog.find_study`."""
    wanted = text.strip()
    exact = database.query_one("SELECT * FROM studies WHERE study_uid = ?", (wanted,))
    if exact is not None:
        return study_row(exact)
    prefix = wanted if len(wanted) >= _PREFIX_CHARACTERS else _AFTER_UIDS
    parameters = (wanted, prefix, prefix + _AFTER_UIDS)
    # Two queries, each by an index; one query with OR would scan all studies.
    matching = (
        "SELECT study_uid FROM studies WHERE accession_number = ?1 AND ?1 <> ''"
        " UNION SELECT study_uid FROM studies WHERE study_uid >= ?2 AND study_uid < ?3"
    )
    rows = database.query(
        f"SELECT * FROM studies WHERE study_uid IN ({matching})"
        f" ORDER BY study_uid LIMIT {_LISTED_MATCHES}",
        parameters,
    )
    if len(rows) == 1:
        return study_row(rows[0])
    if not rows:
        raise NodeError(
            f"there is no study {wanted!r} here",
            hint="see `radmesh studies`; a study is named by its UID, at least"
            f" {_PREFIX_CHARACTERS} characters of its beginning, or its accession number",
            code=ExitCode.NOT_FOUND,
        )
    count = database.query(f"SELECT count(*) FROM ({matching}) AS matching", parameters)[0][0]
    listed = ", ".join(row["study_uid"] for row in rows)
    more = f" and {count - len(rows)} more" if count > len(rows) else ""
    raise NodeError(
        f"{wanted!r} may be any of {count} studies: {listed}{more}",
        hint="give more of the Study Instance UID",
        code=ExitCode.NOT_FOUND,
    )
