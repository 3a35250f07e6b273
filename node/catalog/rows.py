"""The tables of the catalog, and the rows that it returns."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keys.sharing import Decided
from protocol.manifest import NO_NUMBER

SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    study_uid TEXT PRIMARY KEY,
    patient_id TEXT NOT NULL,
    patient_name TEXT NOT NULL,
    patient_birth_date TEXT NOT NULL,
    patient_sex TEXT NOT NULL,
    accession_number TEXT NOT NULL,
    study_id TEXT NOT NULL,
    study_date TEXT NOT NULL,
    study_time TEXT NOT NULL,
    description TEXT NOT NULL,
    referring_physician TEXT NOT NULL,
    institution TEXT NOT NULL,
    shared INTEGER NOT NULL,
    origin TEXT NOT NULL,
    received INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    content_root BLOB NOT NULL,
    series_count INTEGER NOT NULL,
    instance_count INTEGER NOT NULL,
    original_bytes INTEGER NOT NULL,
    encoded_bytes INTEGER NOT NULL,
    modalities TEXT NOT NULL,
    to_check TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '',
    indexed_in TEXT NOT NULL DEFAULT '' -- see `StudyRow`
) STRICT;
-- Every Patient ID that the instances of a study name, with its issuer where they say so.
CREATE TABLE IF NOT EXISTS study_patients (
    study_uid TEXT NOT NULL REFERENCES studies,
    patient_id TEXT NOT NULL,
    issuer TEXT NOT NULL,
    PRIMARY KEY (study_uid, patient_id, issuer)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS study_patients_by_patient ON study_patients (patient_id);
-- Values that the instances of a study give an attribute beside the one in its row.
CREATE TABLE IF NOT EXISTS study_values (
    study_uid TEXT NOT NULL REFERENCES studies,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (study_uid, name, value)
) STRICT, WITHOUT ROWID;
-- Studies of whose instances not all have been asked for their patient: an earlier release
-- asked one.
CREATE TABLE IF NOT EXISTS unread_studies (
    study_uid TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS studies_to_check ON studies (to_check) WHERE to_check <> '';
CREATE INDEX IF NOT EXISTS studies_accession ON studies (accession_number);
CREATE INDEX IF NOT EXISTS studies_by_date ON studies (study_date DESC, study_uid);

CREATE TABLE IF NOT EXISTS series (
    study_uid TEXT NOT NULL REFERENCES studies,
    series_uid TEXT NOT NULL,
    series_number INTEGER,
    modality TEXT NOT NULL,
    series_description TEXT NOT NULL,
    body_part TEXT NOT NULL,
    series_date TEXT NOT NULL,
    manufacturer TEXT NOT NULL,
    station TEXT NOT NULL,
    PRIMARY KEY (study_uid, series_uid)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS batches (
    digest BLOB PRIMARY KEY,
    encoded_size INTEGER NOT NULL,
    original_size INTEGER NOT NULL,
    encoding INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Positions count from 0 without gaps, and change only where something is discarded, with
-- the revision. One batch may have several: the pieces of a large black image are equal.
CREATE TABLE IF NOT EXISTS study_batches (
    study_uid TEXT NOT NULL REFERENCES studies,
    position INTEGER NOT NULL,
    digest BLOB NOT NULL REFERENCES batches,
    PRIMARY KEY (study_uid, position)
) STRICT, WITHOUT ROWID;

-- What does not fit behind byte_offset goes on at the start of the next positions.
CREATE TABLE IF NOT EXISTS instances (
    study_uid TEXT NOT NULL,
    sop_uid TEXT NOT NULL,
    series_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL,
    number INTEGER NOT NULL,
    image_rows INTEGER NOT NULL,
    image_columns INTEGER NOT NULL,
    frames INTEGER NOT NULL,
    first_position INTEGER NOT NULL,
    byte_offset INTEGER NOT NULL,
    PRIMARY KEY (study_uid, sop_uid),
    FOREIGN KEY (study_uid, series_uid) REFERENCES series,
    FOREIGN KEY (study_uid, first_position) REFERENCES study_batches
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS instances_by_sop_uid ON instances (sop_uid);

-- Other bytes under the SOP Instance UID of an instance that we have. The bytes are
-- in the batches (digests one after another) from byte_offset on, or in the folder
-- kept_at of the quarantine.
CREATE TABLE IF NOT EXISTS conflicts (
    study_uid TEXT NOT NULL,
    sop_uid TEXT NOT NULL,
    digest BLOB NOT NULL,
    kept_digest BLOB NOT NULL,
    series_uid TEXT NOT NULL,
    size INTEGER NOT NULL,
    origin TEXT NOT NULL,
    received INTEGER NOT NULL,
    batches BLOB NOT NULL,
    byte_offset INTEGER NOT NULL,
    kept_at TEXT NOT NULL,
    PRIMARY KEY (study_uid, sop_uid, digest)
) STRICT, WITHOUT ROWID;
"""

LOCAL = "local"
"""Origin of studies ingested here; other origins are facility keys of sources in hex."""


class StudyRow(NamedTuple):
    """One study, as far as this node has it; a tuple, since thousands are listed at once.

    Attributes:
        study_date, patient_birth_date: YYYYMMDD or "".
        series_count, instance_count: numbers of series and instances here.
        original_bytes, encoded_bytes: sizes of all files, and of the batches on disk.
        modalities: the modalities in alphabetical order.
        state: "shared" (peers with `see` learn of it), "withheld", or "to check": withheld
            until an operator has looked at it and shares it.
        origin: "local", or the facility key (hex) of the first source.
        received: when it first came, seconds since the epoch, UTC.
        revision: a number that grows with every change.
        content_root: as `Manifest.content_root`.
        to_check: why a person should look at it, or "".
        note: an oddity of its images, or "".
        indexed_in: the archive of this facility that has the study, of which no image is here; ""
            for one that is here. Such a study has no content root, and counts as the archive says.
    """

    study_uid: str
    patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_id: str
    study_date: str
    study_time: str
    description: str
    referring_physician: str
    institution: str
    state: str
    origin: str
    received: int
    revision: int
    content_root: bytes
    series_count: int
    instance_count: int
    original_bytes: int
    encoded_bytes: int
    modalities: tuple[str, ...]
    to_check: str
    note: str
    indexed_in: str


_STATE, _MODALITIES = StudyRow._fields.index("state"), StudyRow._fields.index("modalities")
_ORIGIN, _TO_CHECK = StudyRow._fields.index("origin"), StudyRow._fields.index("to_check")

STATES = {
    "shared": "shared <> 0",
    "to check": f"shared = 0 AND to_check <> '' AND origin = '{LOCAL}'",
    "withheld": f"shared = 0 AND NOT (to_check <> '' AND origin = '{LOCAL}')",
}
"""SQL: the condition for each state; the same rule as in `study_row`."""


SHARED, WITHHELD = "shared", "withheld"
"""What holds for one peer in place of a study's state."""

TO_CHECK = "to check"


def state_for_peers(row: StudyRow) -> str:
    """The state of a study as it counts for peers: whatever its origin, it has to be checked."""
    return TO_CHECK if row.to_check and row.state != SHARED else row.state


IS_SHARED_TO_ANY = (
    "(shared <> 0 OR EXISTS (SELECT 1 FROM peer_sharing p"
    f" WHERE p.study_uid = studies.study_uid AND p.effect = '{SHARED}'))"
)
"""SQL: whether a row of `studies` is shared to all peers that may see, or to single ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRow:
    """One series of a study; `series_number` is None where the files give none."""

    series_uid: str
    series_number: int | None
    modality: str
    series_description: str
    body_part: str
    series_date: str
    manufacturer: str
    station: str
    instance_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    """One instance; `number` is None without Instance Number; `digest` is the file's BLAKE3."""

    series_uid: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    digest: bytes
    number: int | None
    rows: int
    columns: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictRow:
    """Other bytes under the SOP Instance UID of an instance that the study has.

    Attributes:
        digest: BLAKE3 of the version set aside, 32 bytes; `kept_digest` is that of the
            version in the study, empty if this one was set aside because of a discard.
        origin: "local", or the facility key (hex) of the version's source.
        batches: digests of the batches that hold it; empty when it is a file.
        byte_offset: where it begins in the original bytes of the first batch.
        kept_at: folder in the quarantine that holds it, or "".
    """

    study_uid: str
    sop_uid: str
    digest: bytes
    kept_digest: bytes
    series_uid: str
    size: int
    origin: str
    received: int
    batches: tuple[bytes, ...]
    byte_offset: int
    kept_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all studies; the bytes are those of their batches."""

    studies: int
    instances: int
    encoded_bytes: int


@dataclass(frozen=True, slots=True)
class Added:
    """The outcome of adding instances.

    Attributes:
        new: number of instances that the study did not have.
        known: number of instances that it had with the same bytes.
        conflicting: number of instances that it has with other bytes; it keeps its own.
        decided: what the sharing rules decided; None if they were not asked.
    """

    new: int
    known: int
    conflicting: int
    decided: Decided | None = field(default=None, compare=False)


def instance_row(row: sqlite3.Row) -> InstanceRow:
    """Read a row of `instances`."""
    return InstanceRow(
        series_uid=row["series_uid"],
        sop_uid=row["sop_uid"],
        sop_class_uid=row["sop_class_uid"],
        transfer_syntax_uid=row["transfer_syntax_uid"],
        size=row["size"],
        digest=row["digest"],
        number=None if row["number"] == NO_NUMBER else row["number"],
        rows=row["image_rows"],
        columns=row["image_columns"],
        frames=row["frames"],
    )


def conflict_row(row: sqlite3.Row) -> ConflictRow:
    """Read a row of `conflicts`."""
    return ConflictRow(
        **{name: row[name] for name in ConflictRow.__slots__ if name != "batches"},
        batches=tuple(
            row["batches"][start : start + 32] for start in range(0, len(row["batches"]), 32)
        ),
    )


def study_row(row: Iterable[Any]) -> StudyRow:
    """Read a whole row of `studies`, with the columns in the order of the table.

    Reading by place is many times as fast as by name.
    """
    values = list(row)
    if values[_STATE]:
        values[_STATE] = "shared"
    else:
        waits = values[_TO_CHECK] and values[_ORIGIN] == LOCAL
        values[_STATE] = "to check" if waits else "withheld"
    values[_MODALITIES] = tuple(values[_MODALITIES].split("\n")) if values[_MODALITIES] else ()
    return StudyRow._make(values)
