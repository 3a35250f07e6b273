"""Writes to the catalog's tables, each inside a transaction of `node.catalog.catalog`.

Decides which instances of a manifest are new, known, or in conflict with the study.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping

from node.catalog.patients import Described, update_study
from node.catalog.rows import LOCAL, Added, ConflictRow
from node.catalog.words import index_study
from node.dicom.headers import InstanceHeader, StudyAttributes
from protocol.manifest import BatchEntry, Manifest, content_root

Barred = Callable[[str, str], str]


def insert_manifest(
    connection: sqlite3.Connection,
    manifest: Manifest,
    headers: Mapping[int, InstanceHeader],
    described: Described,
    *,
    origin: str,
    shared: bool,
    now: int,
    bars: Barred = lambda series, sop: "",
) -> Added:
    """Add the new instances of a manifest and record conflicts; see `Catalog.publish`.

    `bars` returns, for a series and an instance (UIDs), why it is not taken, or "".
    """
    study_uid = manifest.study_instance_uid
    held = _held(connection, study_uid)
    new, conflicting, known = _compare(connection, manifest, held, bars)
    if new:
        new_series = sorted({manifest.instances[index].series_index for index in new})
        insert_study(connection, headers[new_series[0]].study, origin, shared, now)
        _insert_series(connection, study_uid, (headers[index] for index in new_series))
        _insert_instances(connection, manifest, new)
        update_study(connection, study_uid, described, received=origin != LOCAL)
        recount(connection, study_uid, None if held else manifest)
    for index in conflicting:
        one = manifest.instances[index]
        batches = [manifest.batches[batch] for batch, _ in manifest.places(index)]
        insert_batches(connection, batches)
        insert_conflict(
            connection,
            ConflictRow(
                study_uid=study_uid,
                sop_uid=one.sop_instance_uid,
                digest=one.digest,
                kept_digest=held.get(one.sop_instance_uid, b""),
                series_uid=manifest.series[one.series_index].series_instance_uid,
                size=one.size,
                origin=origin,
                received=now,
                batches=tuple(batch.digest for batch in batches),
                byte_offset=one.offset,
                kept_at="",
            ),
        )
    return Added(new=len(new), known=known, conflicting=len(conflicting))


def insert_conflict(connection: sqlite3.Connection, row: ConflictRow) -> None:
    """Record a version set aside; an existing record is not changed."""
    connection.execute(
        "INSERT INTO conflicts VALUES (?,?,?,?,?,?,?,?,?,?,?)"
        " ON CONFLICT (study_uid, sop_uid, digest) DO NOTHING",
        (
            row.study_uid, row.sop_uid, row.digest, row.kept_digest, row.series_uid, row.size,
            row.origin, row.received, b"".join(row.batches), row.byte_offset, row.kept_at,
        ),
    )  # fmt: skip


def _held(connection: sqlite3.Connection, study_uid: str) -> dict[str, bytes]:
    return {
        row["sop_uid"]: row["digest"]
        for row in connection.execute(
            "SELECT sop_uid, digest FROM instances WHERE study_uid = ?", (study_uid,)
        )
    }


def _compare(
    connection: sqlite3.Connection, manifest: Manifest, held: Mapping[str, bytes], bars: Barred
) -> tuple[list[int], list[int], int]:
    """New instances and those with other bytes (indices), and the number of known ones."""
    recorded = {
        (row["sop_uid"], row["digest"])
        for row in connection.execute(
            "SELECT sop_uid, digest FROM conflicts WHERE study_uid = ?",
            (manifest.study_instance_uid,),
        )
    }
    new, conflicting, known = [], [], 0
    for index, entry in enumerate(manifest.instances):
        here = held.get(entry.sop_instance_uid)
        series = manifest.series[entry.series_index].series_instance_uid
        if here is None and not bars(series, entry.sop_instance_uid):
            new.append(index)
        elif here == entry.digest or (entry.sop_instance_uid, entry.digest) in recorded:
            known += 1
        else:
            conflicting.append(index)
    return new, conflicting, known


def insert_study(
    connection: sqlite3.Connection,
    study: StudyAttributes,
    origin: str,
    shared: bool,
    now: int,
) -> None:
    """Add a study without images, unless it is there."""
    connection.execute(
        "INSERT INTO studies VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,"
        # A study that was here before goes on counting: caches identify it by its revision.
        " coalesce((SELECT max(revision) + 1 FROM discards WHERE study = ?1), 0),"
        " ?16,0,0,0,0,'','','','') ON CONFLICT (study_uid) DO NOTHING",
        (
            study.study_uid, study.patient_id, study.patient_name, study.patient_birth_date,
            study.patient_sex, study.accession_number, study.study_id, study.study_date,
            study.study_time, study.study_description, study.referring_physician,
            study.institution, shared, origin, now, b"",
        ),
    )  # fmt: skip


def _insert_series(
    connection: sqlite3.Connection, study_uid: str, headers: Iterable[InstanceHeader]
) -> None:
    for header in headers:
        series = header.series
        connection.execute(
            "INSERT INTO series VALUES (?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (study_uid, series_uid) DO NOTHING",
            (
                study_uid, series.series_uid, series.series_number, series.modality,
                series.series_description, series.body_part, series.series_date,
                series.manufacturer, series.station,
            ),
        )  # fmt: skip


def _insert_instances(connection: sqlite3.Connection, manifest: Manifest, new: list[int]) -> None:
    positions = _append_batches(connection, manifest, new)
    connection.executemany(
        "INSERT INTO instances VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            (
                manifest.study_instance_uid, one.sop_instance_uid,
                manifest.series[one.series_index].series_instance_uid,
                one.sop_class_uid, one.transfer_syntax_uid, one.size, one.digest, one.number,
                one.rows, one.columns, one.frames, positions[one.first_batch], one.offset,
            )
            for one in (manifest.instances[index] for index in new)
        ),
    )  # fmt: skip


def _append_batches(
    connection: sqlite3.Connection, manifest: Manifest, new: list[int]
) -> dict[int, int]:
    """Append the batches with new instances; returns positions in the study by batch index.

    All batches of an instance are appended in order, so that the batches of a split
    instance are adjacent in the study, as in the manifest.
    """
    study_uid = manifest.study_instance_uid
    new_ones = set(new)
    wanted = [
        batch
        for batch in range(len(manifest.batches))
        if any(place.instance in new_ones for place in manifest.segments(batch))
    ]
    first = connection.execute(
        "SELECT coalesce(max(position) + 1, 0) FROM study_batches WHERE study_uid = ?",
        (study_uid,),
    ).fetchone()[0]
    positions = {batch: first + count for count, batch in enumerate(wanted)}
    insert_batches(connection, [manifest.batches[batch] for batch in wanted])
    connection.executemany(
        "INSERT INTO study_batches VALUES (?,?,?)",
        (
            (study_uid, position, manifest.batches[batch].digest)
            for batch, position in positions.items()
        ),
    )
    return positions


def insert_batches(connection: sqlite3.Connection, entries: Iterable[BatchEntry]) -> None:
    """Record batches; existing records are not changed."""
    connection.executemany(
        "INSERT INTO batches VALUES (?,?,?,?) ON CONFLICT (digest) DO NOTHING",
        ((one.digest, one.encoded_size, one.original_size, int(one.encoding)) for one in entries),
    )


def recount(connection: sqlite3.Connection, study_uid: str, whole: Manifest | None) -> None:
    """Bring the study's counts, content root and revision up to date.

    Args:
        connection: in a transaction.
        study_uid: Study Instance UID.
        whole: a manifest of exactly the instances here, which saves reading them again.
    """
    if whole is not None:
        root, count, size = whole.content_root, len(whole.instances), whole.total_original_bytes
    else:
        rows = connection.execute(
            "SELECT sop_uid, size, digest FROM instances WHERE study_uid = ?", (study_uid,)
        ).fetchall()
        root = content_root(study_uid, (tuple(row) for row in rows))
        count, size = len(rows), sum(row["size"] for row in rows)
    modalities = {
        row["modality"]
        for row in connection.execute(
            "SELECT DISTINCT modality FROM series WHERE study_uid = ? AND modality <> ''",
            (study_uid,),
        )
    }
    connection.execute(
        "UPDATE studies SET revision = revision + 1, content_root = ?2, instance_count = ?3,"
        " original_bytes = ?4, modalities = ?5,"
        " series_count = (SELECT count(*) FROM series WHERE study_uid = ?1),"
        " encoded_bytes = (SELECT coalesce(sum(b.encoded_size), 0) FROM study_batches p"
        "  JOIN batches b USING (digest) WHERE p.study_uid = ?1)"
        " WHERE study_uid = ?1",
        (study_uid, root, count, size, "\n".join(sorted(modalities))),
    )
    index_study(connection, study_uid)
