"""Which instances are here under a SOP Instance UID, whatever their study."""

from collections.abc import Iterable
from dataclasses import dataclass

from keys.sharing import FROM_PEER
from node.catalog.sharing import sources_of_each
from node.database import Database


@dataclass(frozen=True, slots=True)
class Held:
    """An instance of the catalog.

    Attributes:
        study_uid, sop_uid, sop_class_uid: its UIDs.
        digest: BLAKE3 of its bytes.
        is_disputed: whether other bytes under its UID are set aside.
        is_foreign: whether its study came from other facilities alone.
    """

    study_uid: str
    sop_uid: str
    sop_class_uid: str
    digest: bytes
    is_disputed: bool
    is_foreign: bool


def held_under(database: Database, sop_uids: Iterable[str]) -> list[Held]:
    """The instances under these SOP Instance UIDs, in no order."""
    rows = database.query_among(
        "SELECT i.study_uid, i.sop_uid, i.sop_class_uid, i.digest,"
        " (SELECT count(*) FROM conflicts c WHERE c.study_uid = i.study_uid"
        " AND c.sop_uid = i.sop_uid) AS aside"
        " FROM instances i WHERE i.sop_uid IN (?*)",
        sop_uids,
    )
    sources = sources_of_each(database, {row["study_uid"] for row in rows})
    foreign = {
        study
        for study, who in sources.items()
        if all(one.startswith(f"{FROM_PEER}:") for one in who)
    }
    return [
        Held(
            study_uid=row["study_uid"],
            sop_uid=row["sop_uid"],
            sop_class_uid=row["sop_class_uid"],
            digest=bytes(row["digest"]),
            is_disputed=row["aside"] > 0,
            is_foreign=row["study_uid"] in foreign,
        )
        for row in rows
    ]
