"""Finding and correcting the places in a peer's feed that differ from grants and catalog.

SQL finds the studies that are shared; `keys.grants.may` decides which peer may know of a study,
`protocol.feed` what to tell of it. All of it happens in the caller's transaction.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

from node.catalog.catalog import Catalog
from node.catalog.discards import recall_of
from node.catalog.rows import SHARED, WITHHELD, study_row
from node.sharing.policy import Sight
from protocol.feed import Change, Told, next_change
from protocol.recalls import REJECTED

NO_ROOT = bytes(32)

_REJECTED = ", ".join(f"'{code}'" for code in sorted(REJECTED))

_TO_PEER = f"""((s.shared <> 0 AND coalesce(p.effect, '') <> '{WITHHELD}')
    OR (s.to_check = '' AND coalesce(p.effect, '') = '{SHARED}'))"""
"""Whether a study is shared to this peer, as in `StudyFacts`: what holds for a peer alone goes
before the state of the study."""

_SHARED = f"""
SELECT s.*, f.kind, f.content_root, f.told, f.recalls, f.shows
    FROM studies s LEFT JOIN feed f ON f.peer = :peer AND f.study = s.study_uid
    LEFT JOIN peer_sharing p ON p.peer = :peer AND p.study_uid = s.study_uid
    WHERE {_TO_PEER} AND (:tells_apart <> 0
        OR f.kind IS NULL OR f.kind = 'withdrawn' OR f.content_root <> s.content_root
        OR f.shows <> :shows)
"""
"""Shared studies, each with its place in the peer's feed. If the peer may be told of all shared
studies or of none, those that it was told of in the same way are left out."""

_UNSHARED = f"""
SELECT f.study, f.kind, f.content_root, f.told, f.recalls, f.shows FROM feed f
    LEFT JOIN studies s ON s.study_uid = f.study
    LEFT JOIN peer_sharing p ON p.peer = :peer AND p.study_uid = f.study
    WHERE f.peer = :peer AND NOT (:sees <> 0 AND s.study_uid IS NOT NULL AND {_TO_PEER})
    AND (f.kind <> 'withdrawn' OR f.recalls <> (SELECT count(*) FROM discards d
        WHERE d.study = f.study AND d.code IN ({_REJECTED})))
"""
"""Places of studies that nobody, or this peer, may be told of, if they do not say "withdrawn" with
all recalls yet."""


class Place(NamedTuple):
    """The place of a study in a peer's feed; columns as in the table."""

    kind: str
    content_root: bytes
    told: int
    recalls: int
    shows: str


class Derived(NamedTuple):
    """A study (UID), its place in a feed, and what the peer may know of it now.

    `root` is its content root, `shows` as in `Sight.shows`; None and "" for nothing.
    """

    study: str
    place: Place | None
    root: bytes | None = None
    shows: str = ""


_PLACE = len(Place._fields)


def places_of(connection: sqlite3.Connection, study: str) -> dict[bytes, Place]:
    """The places of a study (UID) in the feeds, by facility key."""
    rows = connection.execute(
        "SELECT peer, kind, content_root, told, recalls, shows FROM feed WHERE study = ?", (study,)
    )
    return {row["peer"]: Place(*row[1:]) for row in rows}


def different(
    connection: sqlite3.Connection, catalog: Catalog, sight: Sight, peer: bytes
) -> list[Derived]:
    """Studies whose place in a peer's feed may be wrong."""
    sees = peer in sight.peers()
    rows = connection.execute(_UNSHARED, {"peer": peer, "sees": sees})
    found: list[Derived] = [Derived(row["study"], Place(*row[1:])) for row in rows]
    if sees:
        found += _of_shared(connection, catalog, sight, peer)
    return sorted(found, key=itemgetter(0))


def _of_shared(
    connection: sqlite3.Connection, catalog: Catalog, sight: Sight, peer: bytes
) -> Iterator[Derived]:
    """Shared studies whose place in a peer's feed may be wrong."""
    values = {
        "peer": peer,
        "tells_apart": sight.tells_apart(peer),
        "shows": sight.shows_alike(peer),
    }
    # All of them before the next query: a statement must not stay open meanwhile.
    rows = connection.execute(_SHARED, values).fetchall()
    studies = [study_row(row[:-_PLACE]) for row in rows]
    for row, study, shows in zip(rows, studies, sight.shows_each(peer, studies), strict=True):
        place = None if row["kind"] is None else Place(*row[-_PLACE:])
        if place is None and not shows:
            continue
        told = None if place is None or place.kind == "withdrawn" else place
        if shows and told and (told.content_root, told.shows) == (study.content_root, shows):
            continue
        if shows and not catalog.is_held_back(study.study_uid):
            yield Derived(study.study_uid, place, study.content_root, shows)
        else:
            yield Derived(study.study_uid, place)


def refresh(connection: sqlite3.Connection, peer: bytes, studies: Iterable[Derived]) -> None:
    """Bring one feed up to date with these studies."""
    moved, forgotten = [], []
    for study, place, root, shows in studies:
        if place is None:
            told = Told.NOTHING
        elif place.kind == "withdrawn":
            told = Told.WITHDRAWN
        else:
            told = Told.TOLD if place.told else Told.PENDING
        content = root or NO_ROOT
        same = place is not None and (place.content_root, place.shows) == (content, shows)
        recalls = recall_of(connection, study).count
        change = next_change(
            told,
            visible=root is not None,
            same_content=same,
            recalled=place is not None and place.recalls != recalls,
        )
        if change is Change.FORGET:
            forgotten.append((peer, study))
        elif change is not Change.NONE:
            moved.append((study, change.value, content, int(told is Told.TOLD), recalls, shows))
    connection.executemany("DELETE FROM feed WHERE peer=? AND study=?", forgotten)
    if not moved:
        return
    [last] = connection.execute(
        "INSERT INTO feed_heads (peer, epoch, last_sequence) VALUES (?1, ?2, ?3) "
        "ON CONFLICT (peer) DO UPDATE SET last_sequence=feed_heads.last_sequence+?3 "
        "RETURNING last_sequence",
        (peer, secrets.token_bytes(16), len(moved)),
    ).fetchone()
    first = last - len(moved) + 1
    connection.executemany(
        "INSERT INTO feed (peer, study, sequence, kind, content_root, told, recalls, shows) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (peer, study) DO UPDATE SET sequence=excluded.sequence, "
        "kind=excluded.kind, content_root=excluded.content_root, recalls=excluded.recalls, "
        "shows=excluded.shows",
        [(peer, one[0], sequence, *one[1:]) for sequence, one in enumerate(moved, first)],
    )
