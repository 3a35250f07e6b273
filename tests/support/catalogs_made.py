"""Large catalogs made without images: manifests as an ingest would publish them."""

import functools
import sqlite3

import blake3

from node.app import Node
from node.catalog.catalog import LOCAL, Catalog
from node.dicom.headers import InstanceHeader, SeriesAttributes, StudyAttributes
from protocol.encoding import Encoding
from protocol.limits import BATCH_BYTES
from protocol.manifest import BatchEntry, InstanceEntry, Manifest, SeriesEntry

ROOT = "1.2.826.0.1.3680043.8.498"
_CT, _EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
_SIZE = 526_000
_PER_BATCH = BATCH_BYTES // _SIZE
_A_TRANSACTION = 100


def study_uid(number: int) -> str:
    """The Study Instance UID of study `number`."""
    return f"{ROOT}.{100_000 + number}"


def _digest(*what: object) -> bytes:
    return blake3.blake3(repr(what).encode()).digest()


def manifest(number: int, instances: int) -> Manifest:
    """A CT study of one series, its instances of half a megabyte each."""
    uid = study_uid(number)
    entries = tuple(
        InstanceEntry(
            0, f"{uid}.1.{index + 1}", _CT, _EXPLICIT, _SIZE, _digest(uid, index),
            index // _PER_BATCH, index % _PER_BATCH * _SIZE, index + 1, 512, 512, 1,
        )
        for index in range(instances)
    )  # fmt: skip
    batches = tuple(
        BatchEntry(
            _digest(uid, "batch", first), 1_300_000, min(_PER_BATCH, instances - first) * _SIZE,
            Encoding.ZSTD,
        )
        for first in range(0, instances, _PER_BATCH)
    )  # fmt: skip
    return Manifest(uid, (SeriesEntry(f"{uid}.1", "CT"),), entries, batches)


def header(number: int) -> InstanceHeader:
    """What an ingest reads of the first image of study `number`."""
    uid = study_uid(number)
    return InstanceHeader(
        study=StudyAttributes(
            study_uid=uid,
            patient_id=f"PID{number:07}",
            patient_name=f"MADE^PATIENT {number}",
            patient_birth_date="19600101",
            patient_sex="O",
            accession_number=f"ACC{number:07}",
            study_id=str(number),
            study_date=f"20{10 + number % 16:02}{number % 12 + 1:02}{number % 28 + 1:02}",
            study_time="101500",
            study_description="CT THORAX WITH CONTRAST",
            referring_physician="MADE^DOCTOR",
            institution="NORTH GENERAL",
        ),
        series=SeriesAttributes(f"{uid}.1", 1, "CT", "Axial 1 mm", "CHEST", "", "Made", "CT1"),
        sop_instance_uid=f"{uid}.1.1",
        sop_class_uid=_CT,
        transfer_syntax_uid=_EXPLICIT,
        number=1,
        rows=512,
        columns=512,
        frames=1,
    )


def publish(catalog: Catalog, number: int, instances: int, *, shared: bool = True) -> None:
    """Publish study `number`."""
    catalog.publish(manifest(number, instances), {0: header(number)}, origin=LOCAL, shared=shared)


def fill(node: Node, studies: int, instances: int) -> None:
    """Publish studies 0 to `studies` - 1, many in a transaction; nobody is told of them."""
    told, node.catalog.in_change = node.catalog.in_change, lambda study: None
    for first in range(0, studies, _A_TRANSACTION):
        portion = range(first, min(first + _A_TRANSACTION, studies))
        node.database.transact(functools.partial(_publish, node.catalog, portion, instances))
    node.catalog.in_change = told


def _publish(
    catalog: Catalog, numbers: range, instances: int, connection: sqlite3.Connection
) -> None:
    for number in numbers:
        publish(catalog, number, instances)
