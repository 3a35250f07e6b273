"""What a new study becomes, decided in the transaction that publishes it; and for one peer only.

`keys.sharing` decides, from what all images of the study say. Two small tables belong here: who
brought the images of a study, and the studies that one peer alone may have, or may not.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from keys.conditions import Facts
from keys.sharing import (
    CHECK,
    DEFAULT,
    FROM_ARCHIVE,
    FROM_PEER,
    SHARE,
    Decided,
    SharingRule,
    decide,
)
from node.catalog.attributes import body_parts_of_each, more_of_each, patients_of_each
from node.catalog.patients import SEVERAL, Described
from node.catalog.rows import (
    IS_SHARED_TO_ANY,
    SHARED,
    TO_CHECK,
    WITHHELD,
    StudyRow,
    state_for_peers,
)
from node.database import Database
from node.dicom.headers import InstanceHeader

SHARING_SCHEMA = """
-- Who brought the images of a study: an edge of this node, or `peer:` and a fingerprint.
CREATE TABLE IF NOT EXISTS study_sources (
    study_uid TEXT NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (study_uid, source)
) STRICT, WITHOUT ROWID;
-- What holds for one peer in place of the state of the study: `shared` or `withheld`.
CREATE TABLE IF NOT EXISTS peer_sharing (
    study_uid TEXT NOT NULL,
    peer BLOB NOT NULL,         -- facility key
    effect TEXT NOT NULL,
    PRIMARY KEY (study_uid, peer)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS peer_sharing_by_peer ON peer_sharing (peer);
"""

_TEXTS = ("study_date", "accession_number", "referring_physician", "institution")


class Deciding:
    """Decides what studies become.

    Args:
        database: with the catalog.
        clock: returns seconds since the epoch, UTC.

    Attributes:
        rules: gives the sharing rules.
        blind: see `keys.conditions.Facts`.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.rules: Callable[[], tuple[SharingRule, ...]] = tuple
        self.blind: Callable[[str, str], str] = lambda kind, value: value

    def _decide(
        self,
        study_uid: str,
        described: Described,
        headers: Iterable[InstanceHeader],
        seen: Sequence[str],
    ) -> Decided:
        """What a study becomes with new instances, which may be in the catalog already."""
        facts = self.facts(study_uid, described, headers)
        return decide(self.rules(), seen, facts, int(self._clock()))

    def _seen(self, study_uid: str, sources: Sequence[str]) -> list[str]:
        """Who brought images of a study, as rules see it: an archive that is indexed by its name.

        Of a study that was indexed before it came, the rules for the archive have decided.
        """
        rows = self._database.query(
            "SELECT i.archive, i.brings FROM indexed_studies i JOIN study_sources s"
            f" ON s.study_uid = i.study_uid AND s.source = '{FROM_ARCHIVE}:' || i.archive"
            " WHERE i.study_uid = ?",
            (study_uid,),
        )
        names = {row["brings"]: f"{FROM_ARCHIVE}:{row['archive']}" for row in rows}
        return [names.get(one, one) for one in sources]

    def facts(
        self,
        study_uid: str,
        described: Described | None = None,
        headers: Iterable[InstanceHeader] = (),
    ) -> list[Facts]:
        """A study as its images describe it, see `keys.sharing.decide`."""
        told = described or Described()
        series = [header.series for header in headers]
        modalities = {one.modality for one in series if one.modality}
        parts = {one.body_part.upper() for one in series if one.body_part}
        row = self._database.query_one("SELECT * FROM studies WHERE study_uid = ?", (study_uid,))
        texts = {name: set(told.values.get(name, ())) for name in _TEXTS}
        if row is not None:
            modalities |= set(filter(None, row["modalities"].split("\n")))
            for name in _TEXTS:
                texts[name] |= {row[name]} - {""}
            for name, value in more_of_each(self._database, [study_uid]).get(study_uid, ()):
                texts[name] |= {value} - {""}
        parts.update(body_parts_of_each(self._database, [study_uid]).get(study_uid, ()))
        patients = {*patients_of_each(self._database, [study_uid]).get(study_uid, ())}
        lists = {name: sorted(found) or [""] for name, found in texts.items()}
        for found in lists.values():
            if len(found) > SEVERAL:
                # More than are kept, so what the others are is not known.
                found.append("")
        return [
            Facts(
                study_uid=study_uid,
                modalities=tuple(sorted(modalities)) or None,
                body_parts=tuple(sorted(parts)) or None,
                study_date=_of(lists["study_date"], place),
                accession=_of(lists["accession_number"], place),
                patients=tuple(sorted(patients | told.patients)),
                referring=_of(lists["referring_physician"], place),
                institution=_of(lists["institution"], place),
                blind=self.blind,
            )
            for place in range(max(map(len, lists.values())))
        ]

    def foresee(
        self,
        study_uid: str,
        described: Described,
        headers: Iterable[InstanceHeader],
        sources: Sequence[str],
    ) -> tuple[Decided, str]:
        """What `settle` is going to decide, and why the study then has to be looked at, or "".

        Args:
            study_uid: UID of the study.
            described: attributes of the new instances.
            headers: one for each series that has a new instance.
            sources: who brought them.
        """
        sources = self._seen(study_uid, sources)
        decided = self._decide(study_uid, described, headers, sources)
        row = self._database.query_one(
            f"SELECT {IS_SHARED_TO_ANY} AS shared FROM studies WHERE study_uid = ?", (study_uid,)
        )
        why = why_to_look(decided, sources, is_new=row is None)
        concerns = row is None or row["shared"] or decided.effect == CHECK
        return decided, why if concerns else ""

    def settle(
        self,
        connection: sqlite3.Connection,
        study_uid: str,
        described: Described,
        headers: Iterable[InstanceHeader],
        sources: Sequence[str],
        *,
        is_new: bool,
        may_share: bool = True,
    ) -> Decided:
        """Decide, and apply it in this transaction, in which the instances were added.

        A study that was here before is never shared by this; one that is shared is withheld if its
        new instances may not be.

        Args:
            connection: in a transaction.
            study_uid, described, headers, sources: as for `foresee`.
            is_new: whether the study was not here before.
            may_share: whether a new study may become shared.
        """
        sources = self._seen(study_uid, sources)
        decided = self._decide(study_uid, described, headers, sources)
        connection.executemany(
            "INSERT INTO study_sources VALUES (?, ?) ON CONFLICT (study_uid, source) DO NOTHING",
            [(study_uid, source) for source in sources],
        )
        why = why_to_look(decided, sources, is_new=is_new)
        if is_new:
            shared = may_share and decided.effect == SHARE
            connection.execute(
                "UPDATE studies SET shared = CASE WHEN to_check = '' THEN ?2 ELSE 0 END,"
                " to_check = CASE WHEN to_check = '' THEN ?3 ELSE to_check END"
                " WHERE study_uid = ?1",
                (study_uid, int(shared), why),
            )
        elif why:
            connection.execute(
                "UPDATE studies SET shared = 0,"
                " to_check = CASE WHEN to_check = '' THEN ?2 ELSE to_check END"
                f" WHERE study_uid = ?1 AND (?3 = 1 OR {IS_SHARED_TO_ANY})",
                (study_uid, why, int(decided.effect == CHECK)),
            )
        return decided


def _of(values: Sequence[str], place: int) -> str:
    """The value at a place; the first one stands for those that are missing."""
    return values[place] if place < len(values) else values[0]


def why_to_look(decided: Decided, sources: Sequence[str], *, is_new: bool) -> str:
    """Why a person has to look at a study that got instances; "" if nobody has to.

    A new study that is withheld waits for nobody. What grows by a fetch is what a person fetched,
    and what an indexed archive brings is what it was indexed for: so they go on as they were,
    unless a rule says otherwise.
    """
    if decided.effect == SHARE or (is_new and decided.effect != CHECK):
        return ""
    was_meant = all(source.startswith((f"{FROM_PEER}:", f"{FROM_ARCHIVE}:")) for source in sources)
    return "" if decided.rule == DEFAULT and was_meant else decided.why


def details_of(decided: Decided) -> dict[str, str]:
    """The details of the entry of the instances: which rule decided, of which rules."""
    rules = {"sharing_rules": decided.rules} if decided.rules else {}
    return {"sharing": decided.rule, **rules}


def state_after(decided: Decided, why: str, before: StudyRow | None) -> str:
    """The state for peers of a study that gets instances.

    Args:
        decided: what was decided, as by `Deciding.foresee`.
        why: why it then has to be looked at, or "".
        before: the study before, if it was here.
    """
    if why:
        return TO_CHECK
    if before is not None:
        return state_for_peers(before)
    return SHARED if decided.effect == SHARE else WITHHELD


def sources_of_each(database: Database, studies: Iterable[str]) -> dict[str, list[str]]:
    """Who brought each of these studies (UIDs), as far as that was kept, in order."""
    rows = database.query_among(
        "SELECT study_uid, source FROM study_sources WHERE study_uid IN (?*)", studies
    )
    found: dict[str, list[str]] = {}
    for study, source in sorted(map(tuple, rows)):
        found.setdefault(study, []).append(source)
    return found


# --- for one peer only -----------------------------------------------------------------


def effects_for(database: Database, peer: bytes, studies: Iterable[str]) -> dict[str, str]:
    """What holds for a peer (facility key) for those of these studies (UIDs) that have it."""
    rows = database.query_among(
        "SELECT study_uid, effect FROM peer_sharing WHERE peer = ? AND study_uid IN (?*)",
        studies,
        (peer,),
    )
    return {row["study_uid"]: row["effect"] for row in rows}


def effects_of_each(
    database: Database, studies: Iterable[str]
) -> dict[str, list[tuple[bytes, str]]]:
    """What holds for single peers (facility keys) of each of these studies (UIDs)."""
    rows = database.query_among(
        "SELECT study_uid, peer, effect FROM peer_sharing WHERE study_uid IN (?*)", studies
    )
    found: dict[str, list[tuple[bytes, str]]] = {}
    for study, peer, effect in sorted(map(tuple, rows)):
        found.setdefault(study, []).append((peer, effect))
    return found


def set_for_peer(connection: sqlite3.Connection, study: str, peer: bytes, effect: str) -> None:
    """Set what holds for a peer; "" lets the state of the study hold."""
    connection.execute("DELETE FROM peer_sharing WHERE study_uid = ? AND peer = ?", (study, peer))
    if effect:
        connection.execute("INSERT INTO peer_sharing VALUES (?, ?, ?)", (study, peer, effect))


def share_with_none(connection: sqlite3.Connection, study: str) -> bool:
    """Let no single peer have a study (UID) any more; returns whether one could."""
    gone = connection.execute(
        f"DELETE FROM peer_sharing WHERE study_uid = ? AND effect = '{SHARED}'", (study,)
    )
    return gone.rowcount > 0


def share_nothing_with(connection: sqlite3.Connection, peer: bytes) -> None:
    """Let a peer (facility key) have no study for itself any more."""
    connection.execute(f"DELETE FROM peer_sharing WHERE peer = ? AND effect = '{SHARED}'", (peer,))


def received_from(facility_fingerprint: str) -> str:
    """The source of what was fetched from a facility."""
    return f"{FROM_PEER}:{facility_fingerprint}"


def forget_study(connection: sqlite3.Connection, study: str) -> None:
    """Forget a study (UID) that is gone. That a peer may not have it stays: it may come again."""
    connection.execute("DELETE FROM study_sources WHERE study_uid = ?", (study,))
    share_with_none(connection, study)
