"""Checks whether the tables of the catalog agree with each other."""

import itertools
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import blake3

from node.fsck.findings import Finding

DIGEST_BYTES = 32

_CONTENT_DOMAIN = b"radmesh-content-v1\0"


@dataclass
class Catalog:
    """The content of the catalog with which other parts are compared.

    Attributes:
        batches: encoded size in bytes, by digest.
        needed: digests that a study or a version kept aside needs.
        studies: content root by Study Instance UID, of those of which images are here.
        transfers_open: whether a transfer to us is unfinished.
        sums: studies whose encoded bytes are not the sum of their batches', each with the
            stated number and the sum.
    """

    batches: dict[bytes, int] = field(default_factory=dict)
    needed: set[bytes] = field(default_factory=set)
    studies: dict[str, bytes] = field(default_factory=dict)
    transfers_open: bool = False
    sums: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_catalog(connection: sqlite3.Connection) -> tuple[Catalog, list[Finding]]:
    """Read the catalog and find what is wrong in it."""
    indexed = _indexed(connection)
    catalog = Catalog(
        batches=dict(connection.execute("SELECT digest, encoded_size FROM batches")),
        studies={
            uid: root
            for uid, root in connection.execute("SELECT study_uid, content_root FROM studies")
            if uid not in indexed
        },
        transfers_open=connection.execute(
            "SELECT 1 FROM transfers WHERE direction = 'in' AND ended IS NULL"
        ).fetchone()
        is not None,
    )
    catalog.needed |= {row[0] for row in connection.execute("SELECT digest FROM study_batches")}
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'leftover_batches'").fetchone():
        # The node deletes the files of these batches itself.
        catalog.needed |= {
            row[0] for row in connection.execute("SELECT digest FROM leftover_batches")
        }
    findings = list(_references(connection))
    for uid, blob in connection.execute("SELECT study_uid, batches FROM conflicts"):
        for start in range(0, len(blob), DIGEST_BYTES):
            digest = blob[start : start + DIGEST_BYTES]
            catalog.needed.add(digest)
            if digest not in catalog.batches:
                what = f"a version kept aside of study {uid} needs a batch without a row"
                findings.append(Finding("catalog-reference", digest.hex(), what))
    if not findings:
        # Where rows are missing, sums are wrong, too; only the missing rows are reported.
        findings += _studies(connection, catalog, indexed)
    findings += _unsearchable(connection)
    findings += _followed(connection, catalog)
    return catalog, findings


def _references(connection: sqlite3.Connection) -> Iterator[Finding]:
    counts = Counter(
        (row[0], row[2]) for row in connection.execute("PRAGMA foreign_key_check").fetchall()
    )
    for (table, parent), count in sorted(counts.items()):
        what = f"{count} rows of {table} name something that {parent} does not have"
        yield Finding("catalog-reference", table, what)


_SEARCHED = (
    ("study_patients", "patient_id", "id"),
    ("studies", "patient_birth_date", "birth"),
    ("studies", "accession_number", "accession"),
    ("series", "modality", "modality"),
)
"""Table and column with what a search has to find a study by, besides names; the kind of word."""


def _unsearchable(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Find studies that a search misses, though it would have to find them."""
    here = "SELECT 1 FROM sqlite_schema WHERE name = 'study_words'"
    if connection.execute(here).fetchone() is None:
        return
    missing: Counter[str] = Counter()
    known = "SELECT 1 FROM study_words w WHERE w.study_uid = t.study_uid AND w.kind"
    for table, column, kind in _SEARCHED:
        rows = connection.execute(
            f"SELECT study_uid, {column} FROM {table} t WHERE {column} <> ''"
            f" AND NOT EXISTS ({known} = '{kind}' AND w.word = t.{column})"
        )
        for uid, text in rows.fetchall():
            # Blanks around it are no part of the word.
            word = text.strip()
            found = connection.execute(
                "SELECT 1 FROM study_words WHERE study_uid = ? AND kind = ? AND word = ?",
                (uid, kind, word),
            ).fetchone()
            missing[uid] += word != "" and found is None
    nameless = connection.execute(
        "SELECT study_uid, patient_name FROM studies t WHERE patient_name <> ''"
        f" AND NOT EXISTS ({known} IN ('family', 'given'))"
    )
    for uid, name in nameless:
        letters = (one for one in name.partition("=")[0] if one.isascii() and one.isalnum())
        missing[uid] += any(letters)
    for uid, count in sorted(missing.items()):
        if count:
            what = f"a search misses study {uid}: {count} of its words are not in the index"
            yield Finding("study-unsearchable", uid, what)


def _followed(connection: sqlite3.Connection, catalog: Catalog) -> Iterator[Finding]:
    """Find followed sources of studies that are not here."""
    here = "SELECT 1 FROM sqlite_schema WHERE name = 'followed_sources'"
    if connection.execute(here).fetchone() is None:
        return
    for [uid] in connection.execute("SELECT DISTINCT study FROM followed_sources ORDER BY study"):
        if uid not in catalog.studies:
            what = f"sources of study {uid} are followed, and the study is not here"
            yield Finding("followed-unknown", uid, what)


def _indexed(connection: sqlite3.Connection) -> set[str]:
    """The studies that are in an archive alone; a home of an earlier release knows none."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(studies)")}
    if "indexed_in" not in columns:
        return set()
    return {
        uid for (uid,) in connection.execute("SELECT study_uid FROM studies WHERE indexed_in <> ''")
    }


def _studies(
    connection: sqlite3.Connection, catalog: Catalog, indexed: set[str]
) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT study_uid, content_root, series_count, instance_count, original_bytes,"
        " encoded_bytes, (SELECT count(*) FROM series t WHERE t.study_uid = s.study_uid),"
        " (SELECT coalesce(sum(b.encoded_size), 0) FROM study_batches p"
        "  JOIN batches b USING (digest) WHERE p.study_uid = s.study_uid)"
        " FROM studies s"
    )
    for uid, root, series, instances, original, encoded, series_here, encoded_here in rows:
        wrong = []
        if uid in indexed:
            one = connection.execute("SELECT 1 FROM instances WHERE study_uid = ?", (uid,))
            if one.fetchone() is not None or any(root) or encoded:
                what = f"study {uid} counts as in an archive alone, and images of it are here"
                yield Finding("catalog-study", uid, what)
            continue
        if series != series_here:
            wrong.append(f"it names {series} series and {series_here} are there")
        if encoded != encoded_here:
            catalog.sums[uid] = (encoded, encoded_here)
        # Ordered by the bytes of sop_uid, as in the content root.
        found = connection.execute(
            "SELECT sop_uid, size, digest, first_position, byte_offset FROM instances"
            " WHERE study_uid = ? ORDER BY sop_uid",
            (uid,),
        ).fetchall()
        if instances != len(found):
            wrong.append(f"it names {instances} instances and {len(found)} are there")
        elif original != sum(row[1] for row in found):
            wrong.append("its size is not the sum of its instances'")
        elif root != content_root(uid, (row[:3] for row in found)):
            wrong.append("its content root is not that of its instances")
        outside = _outside(connection, uid, found)
        if outside and not wrong:
            wrong.append(f"{outside} instances lie outside of its batches")
        if wrong:
            yield Finding(
                "catalog-study", uid, f"the catalog is wrong about study {uid}: {wrong[0]}"
            )


def _outside(connection: sqlite3.Connection, uid: str, instances: list[tuple[object, ...]]) -> int:
    """Number of instances that do not fit into the batches from their first batch on."""
    batches = connection.execute(
        "SELECT position, original_size FROM study_batches JOIN batches USING (digest)"
        " WHERE study_uid = ? ORDER BY position DESC",
        (uid,),
    ).fetchall()
    behind = dict(
        zip(
            (position for position, _ in batches),
            itertools.accumulate(size for _, size in batches),
            strict=True,
        )
    )
    count = 0
    for _, size, _, first, offset in instances:
        assert isinstance(size, int)
        assert isinstance(offset, int)
        if offset + size > behind.get(first, -1):
            count += 1
    return count


def content_root(study_uid: str, instances: Iterable[tuple[str, int, bytes]]) -> bytes:
    """The content root of a study (docs/protocol.md section 5), 32 bytes.

    Args:
        study_uid: Study Instance UID.
        instances: SOP Instance UID, size and digest of each, in order of the UIDs.
    """
    rows = list(instances)
    hasher = blake3.blake3(_CONTENT_DOMAIN + b"\x92" + _text(study_uid) + _array(len(rows)))
    for sop_uid, size, digest in rows:
        hasher.update(b"\x93" + _text(sop_uid) + _integer(size) + b"\xc4\x20" + digest)
    return hasher.digest()


def _text(text: str) -> bytes:
    data = text.encode()
    head = bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)])
    return head + data


def _array(length: int) -> bytes:
    if length < 16:
        return bytes([0x90 | length])
    return b"\xdc" + struct.pack(">H", length) if length < 1 << 16 else b"\xdd" + _u32(length)


def _integer(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    if value < 1 << 8:
        return b"\xcc" + bytes([value])
    if value < 1 << 16:
        return b"\xcd" + struct.pack(">H", value)
    return b"\xce" + _u32(value) if value < 1 << 32 else b"\xcf" + struct.pack(">Q", value)


def _u32(value: int) -> bytes:
    return struct.pack(">I", value)
