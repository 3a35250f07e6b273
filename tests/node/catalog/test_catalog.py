import dataclasses
import sqlite3
import threading

import blake3
import pytest
from node_home import NOW, ImageHome
from studies_made import make_study

from node.catalog.catalog import CATALOG_SCHEMA, LOCAL, Added, Catalog, StudyRow
from node.database import Database
from node.dicom.headers import InstanceHeader, SeriesAttributes, StudyAttributes
from node.errors import ExitCode, NodeError
from protocol.encoding import Encoding
from protocol.manifest import BatchEntry, InstanceEntry, Manifest, SeriesEntry

STUDY = "1.2.826.0.1.3680043.8.498.7"
PEER = bytes(range(32))


@pytest.fixture
def catalog(tmp_path):
    database = Database(tmp_path / "node.db", (CATALOG_SCHEMA,))
    yield Catalog(database, clock=lambda: NOW)
    database.close()


def header(study=STUDY, series=f"{STUDY}.1", modality="CT", **study_fields):
    values = dict.fromkeys(StudyAttributes.__slots__, "") | {"study_uid": study} | study_fields
    return InstanceHeader(
        study=StudyAttributes(**values),
        series=SeriesAttributes(series, 1, modality, "Axial", "CHEST", "", "", ""),
        sop_instance_uid="1.2.3",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        number=1,
        rows=512,
        columns=512,
        frames=1,
    )


def digest(*what):
    return blake3.blake3(repr(what).encode()).digest()


def manifest(*numbers, version="", study=STUDY, size=100, batch_size=None, series=1):
    """A manifest of instances with these numbers, all in one batch unless sizes say else."""
    batch_size = batch_size or size * len(numbers)
    total = size * len(numbers)
    batches = tuple(
        BatchEntry(digest(study, numbers, version, start), 60, min(batch_size, total - start),
                   Encoding.ZSTD)
        for start in range(0, total, batch_size)
    )  # fmt: skip
    instances = tuple(
        InstanceEntry(
            0, f"{study}.{series}.{number}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1",
            size, digest(number, version), position * size // batch_size,
            position * size % batch_size, number, 512, 512, 1,
        )
        for position, number in enumerate(numbers)
    )  # fmt: skip
    made = Manifest(study, (SeriesEntry(f"{study}.{series}", "CT"),), instances, batches)
    assert Manifest.decode_untrusted(made.encode()) == made
    return made


def publish(catalog, made, **kwargs):
    arguments = {"origin": LOCAL, "shared": True, **kwargs}
    uid = made.series[0].series_instance_uid
    return catalog.publish(made, {0: header(made.study_instance_uid, uid)}, **arguments)


def test_publish_makes_a_study(catalog):
    made = manifest(1, 2, 3)
    headers = {0: header(patient_id="P1", accession_number="A1", study_date="20260301")}
    added = catalog.publish(made, headers, origin=LOCAL, shared=True)
    assert added == Added(new=3, known=0, conflicting=0)
    row = catalog.study(STUDY)
    assert row is not None
    assert (row.patient_id, row.accession_number, row.study_date) == ("P1", "A1", "20260301")
    assert (row.series_count, row.instance_count, row.original_bytes) == (1, 3, 300)
    assert (row.encoded_bytes, row.modalities, row.state) == (60, ("CT",), "shared")
    assert (row.origin, row.received, row.revision) == (LOCAL, NOW, 1)
    assert row.content_root == made.content_root
    assert catalog.manifest(STUDY) == made
    assert catalog.held_instances(STUDY) == {
        one.sop_instance_uid: one.digest for one in made.instances
    }
    assert [one.number for one in catalog.instances(STUDY)] == [1, 2, 3]
    assert [one.series_description for one in catalog.series(STUDY)] == ["Axial"]
    assert catalog.series(STUDY)[0].instance_count == 3
    totals = catalog.totals()
    assert (totals.studies, totals.instances, totals.encoded_bytes) == (1, 3, 60)


def test_publish_twice_changes_nothing(catalog):
    changes = []
    catalog.on_change = changes.append
    publish(catalog, manifest(1, 2))
    called = []
    assert publish(catalog, manifest(1, 2), before_commit=called.append) == Added(0, 2, 0)
    assert called == []
    assert changes == [STUDY]
    row = catalog.study(STUDY)
    assert row is not None
    assert row.revision == 1


def test_new_instances_bring_batches_behind_the_old_ones(catalog):
    first, second = manifest(1, 3), manifest(2, 4)
    publish(catalog, first)
    assert publish(catalog, second) == Added(2, 0, 0)
    merged = catalog.manifest(STUDY)
    assert merged.batches == (*first.batches, *second.batches)
    assert [(one.number, one.first_batch, one.offset) for one in merged.instances] == [
        (1, 0, 0), (2, 1, 0), (3, 0, 100), (4, 1, 100),
    ]  # fmt: skip
    assert Manifest.decode_untrusted(merged.encode()) == merged
    row = catalog.study(STUDY)
    assert row is not None
    assert row.content_root == merged.content_root == manifest(1, 2, 3, 4).content_root
    assert row.revision == 2


def test_known_instances_keep_their_place_and_bring_no_batch(catalog):
    publish(catalog, manifest(1, 2))
    # Two batches: one of instances that are here, one that is half new.
    later = manifest(1, 2, 3, 4, size=100, batch_size=200)
    overlapping = dataclasses.replace(
        later,
        instances=tuple(
            one._replace(first_batch=batch, offset=offset)
            for one, (batch, offset) in zip(
                later.instances, [(0, 0), (1, 0), (1, 100), (2, 0)], strict=True
            )
        ),
        batches=(*later.batches, later.batches[0]._replace(digest=digest("third"))),
    )
    Manifest.decode_untrusted(overlapping.encode())
    assert catalog.batches_needed(overlapping) == [1, 2]
    assert publish(catalog, overlapping) == Added(new=2, known=2, conflicting=0)
    merged = catalog.manifest(STUDY)
    assert [one.digest for one in merged.batches] == [
        manifest(1, 2).batches[0].digest,
        overlapping.batches[1].digest,
        overlapping.batches[2].digest,
    ]
    assert Manifest.decode_untrusted(merged.encode()) == merged
    assert merged.instances[1].first_batch == 0


def test_split_instances_keep_their_batches_side_by_side(catalog):
    publish(catalog, manifest(1))
    entries = tuple(BatchEntry(digest("b", n), 60, 4_000_000, Encoding.ZSTD) for n in range(5))
    template = manifest(1).instances[0]
    instances = tuple(
        template._replace(
            sop_instance_uid=f"{STUDY}.1.{n}", number=n, size=size, digest=digest(n, ""),
            first_batch=first, offset=0,
        )
        for n, size, first in ((1, 4_000_000, 0), (2, 10_000_000, 1), (3, 4_000_000, 4))
    )  # fmt: skip
    made = Manifest(STUDY, manifest(1).series, instances, entries)
    Manifest.decode_untrusted(made.encode())
    assert publish(catalog, made) == Added(2, 1, 0)
    merged = catalog.manifest(STUDY)
    Manifest.decode_untrusted(merged.encode())
    assert [merged.batches[batch].digest for batch, _ in merged.places(1)] == [
        entries[n].digest for n in (1, 2, 3)
    ]


def test_equal_batches_of_one_instance(catalog):
    same = BatchEntry(digest("black"), 60, 100, Encoding.ZSTD)
    one = manifest(1).instances[0]._replace(size=300)
    made = Manifest(STUDY, manifest(1).series, (one,), (same, same, same))
    publish(catalog, made)
    assert catalog.manifest(STUDY) == made


def test_other_bytes_under_a_known_uid_are_kept_aside(catalog):
    publish(catalog, manifest(1, 2))
    changes = []
    catalog.on_change = changes.append
    other = manifest(1, 2, 3, version="other", batch_size=200)
    assert catalog.batches_needed(other) == [0, 1]
    added = catalog.publish_received(other, {0: header()}, PEER)
    assert added == Added(new=1, known=0, conflicting=2)
    row = catalog.study(STUDY)
    assert row is not None
    # The local study stays local and shared, with its own versions.
    assert (row.origin, row.state, row.instance_count) == (LOCAL, "shared", 3)
    assert catalog.held_instances(STUDY)[f"{STUDY}.1.1"] == digest(1, "")
    merged = catalog.manifest(STUDY)
    assert [one.digest for one in merged.batches] == [
        manifest(1, 2).batches[0].digest,
        other.batches[1].digest,
    ]
    conflicts = catalog.conflicts(STUDY)
    assert [(one.sop_uid, one.digest, one.kept_digest) for one in conflicts] == [
        (f"{STUDY}.1.{n}", digest(n, "other"), digest(n, "")) for n in (1, 2)
    ]
    assert conflicts[1].batches == (other.batches[0].digest,)
    assert (conflicts[1].byte_offset, conflicts[1].origin) == (100, PEER.hex())
    assert catalog.has_batch(other.batches[0].digest)
    assert changes == [STUDY]
    # Told once, and not fetched again for it.
    assert catalog.batches_needed(other) == []
    assert catalog.publish_received(other, {}, PEER) == Added(0, 3, 0)
    assert changes == [STUDY]


def test_conflicts_alone_do_not_change_the_study(catalog):
    publish(catalog, manifest(1))
    called = []
    added = publish(catalog, manifest(1, version="x"), before_commit=called.append)
    assert set(called) == {added}
    assert added == Added(0, 0, 1)
    row = catalog.study(STUDY)
    assert row is not None
    assert row.revision == 1


def test_local_conflict_is_recorded_once(catalog):
    publish(catalog, manifest(1))
    for _ in range(2):
        catalog.record_conflict(
            study_uid=STUDY, series_uid=f"{STUDY}.1", sop_uid=f"{STUDY}.1.1",
            kept_digest=digest(1, ""), digest=digest("x"), size=7, kept_at="20260101-aa",
        )  # fmt: skip
    (row,) = catalog.conflicts()
    assert (row.kept_at, row.origin, row.batches, row.size) == ("20260101-aa", LOCAL, (), 7)
    assert catalog.conflicts("1.2") == []


def test_uids_of_another_study_do_not_matter(catalog):
    publish(catalog, manifest(1))
    made = manifest(1, version="x")
    other = dataclasses.replace(made, study_instance_uid="1.2.9")
    assert catalog.batches_needed(other) == [0]
    added = catalog.publish(other, {0: header("1.2.9")}, origin=LOCAL, shared=True)
    assert added == Added(1, 0, 0)
    assert catalog.conflicts() == []


def test_received_study_is_withheld(catalog):
    catalog.publish_received(manifest(1), {0: header()}, PEER)
    row = catalog.study(STUDY)
    assert row is not None
    assert (row.state, row.origin) == ("withheld", PEER.hex())
    assert catalog.studies("shared") == []
    assert catalog.studies("withheld") == [row] == catalog.studies()


def test_share_and_withhold(catalog):
    publish(catalog, manifest(1))
    changes = []
    catalog.on_change = changes.append
    assert catalog.set_shared(STUDY, False)
    assert not catalog.set_shared(STUDY, False)
    assert [row.state for row in catalog.studies()] == ["withheld"]
    assert catalog.set_shared(STUDY, True)
    assert changes == [STUDY, STUDY]
    with pytest.raises(NodeError) as caught:
        catalog.set_shared("1.2.3", True)
    assert caught.value.code is ExitCode.NOT_FOUND


def test_failure_before_commit_undoes_all(catalog):
    def fail(_):
        raise NodeError("the log is full", code=ExitCode.DISK)

    changes = []
    catalog.on_change = changes.append
    with pytest.raises(NodeError, match="log is full"):
        publish(catalog, manifest(1, 2), before_commit=fail)
    assert catalog.studies() == []
    assert not catalog.has_batch(manifest(1, 2).batches[0].digest)
    assert changes == []
    assert publish(catalog, manifest(1, 2)) == Added(2, 0, 0)


def test_a_manifest_of_a_revision_that_is_taken_back_is_not_kept(catalog):
    publish(catalog, manifest(1))

    def fail(_):
        assert len(catalog.manifest(STUDY).instances) == 2
        raise NodeError("the log is full", code=ExitCode.DISK)

    with pytest.raises(NodeError, match="log is full"):
        publish(catalog, manifest(1, 2), before_commit=fail)
    publish(catalog, manifest(1, 3))
    numbers = {one.sop_instance_uid for one in catalog.manifest(STUDY).instances}
    assert numbers == {one.sop_instance_uid for one in manifest(1, 3).instances}


def test_nothing_is_visible_before_commit(catalog, tmp_path):
    seen = []

    def look(_):
        with sqlite3.connect(tmp_path / "node.db") as other:
            seen.append(other.execute("SELECT count(*) FROM studies").fetchone()[0])
        other.close()

    publish(catalog, manifest(1), before_commit=look)
    assert set(seen) == {0}
    assert len(catalog.studies()) == 1


def test_find_study(catalog):
    for number, accession in ((71, "ACC1"), (72, "ACC2"), (81, "ACC2")):
        study = f"1.2.826.{number}"
        catalog.publish(
            manifest(1, study=study),
            {0: header(study, f"{study}.1", accession_number=accession)},
            origin=LOCAL,
            shared=True,
        )
    assert catalog.find_study(" 1.2.826.71 ").study_uid == "1.2.826.71"
    assert catalog.find_study("1.2.826.8").study_uid == "1.2.826.81"
    assert catalog.find_study("ACC1").study_uid == "1.2.826.71"
    for text in ("1.2.826.7", "ACC2"):
        with pytest.raises(NodeError, match=r"any of 2 studies: 1\.2\.826"):
            catalog.find_study(text)
    # Too short, a pattern of SQL, nothing at all.
    for text in ("1.2.8", "1.2.826.%", "", "9.9.9.9.9"):
        with pytest.raises(NodeError, match="no study") as caught:
            catalog.find_study(text)
        assert caught.value.code is ExitCode.NOT_FOUND


def test_exact_uid_wins_over_a_longer_one(catalog):
    for study in ("1.2.826.7", "1.2.826.71"):
        publish(catalog, manifest(1, study=study))
    assert catalog.find_study("1.2.826.7").study_uid == "1.2.826.7"


def test_unknown_study(catalog):
    assert catalog.study("1.2") is None
    assert catalog.held_instances("1.2") == {}
    assert catalog.batches_needed(manifest(1)) == [0]
    with pytest.raises(NodeError) as caught:
        catalog.manifest("1.2")
    assert caught.value.code is ExitCode.NOT_FOUND


def test_manifests_are_cached_until_the_study_changes(catalog):
    for number in range(6):
        publish(catalog, manifest(1, study=f"1.2.{number}"))
        catalog.manifest(f"1.2.{number}")
    assert catalog.manifest("1.2.5") is catalog.manifest("1.2.5")
    publish(catalog, manifest(2, study="1.2.5"))
    assert len(catalog.manifest("1.2.5").instances) == 2


def test_two_threads_add_to_one_study(catalog):
    failures = []

    def work(numbers):
        try:
            for number in numbers:
                publish(catalog, manifest(number))
                catalog.manifest(STUDY)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(range(start, start + 30),)) for start in (0, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    merged = catalog.manifest(STUDY)
    assert [one.number for one in merged.instances] == list(range(50))
    Manifest.decode_untrusted(merged.encode())


def test_catalog_survives_reopening(tmp_path):
    home = ImageHome(tmp_path / "home")
    study = make_study(tmp_path / "in", 3)
    home.ingest(tmp_path / "in")
    before = home.catalog.manifest(study)
    home.close()
    again = ImageHome(tmp_path / "home")
    assert again.catalog.manifest(study) == before
    again.close()


def test_a_study_row_has_the_columns_of_its_table(catalog):
    columns = [row["name"] for row in catalog._database.query("PRAGMA table_info(studies)")]
    assert [name.replace("shared", "state") for name in columns] == list(StudyRow._fields)
