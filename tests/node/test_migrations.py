"""Homes made by older releases, and databases that are newer, damaged or half migrated."""

import contextlib
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from facilities import Facility, wait_until
from places import TESTS

from keys.fingerprint import parse_fingerprint
from node.app import Node
from node.catalog.words import Search
from node.cli import main
from node.database import Database, Migration, old_copies
from node.dicom.headers import patient_identity
from node.errors import ExitCode, NodeError
from node.home import Home
from node.migrations import NODE_MIGRATIONS
from node.operations.permission import UNLISTED, unlisted_roles
from node.transfer.rereading import Rereading
from protocol.log.entry import decode_entry_untrusted
from protocol.verify import Code, verify_bundle

OLD_HOMES = TESTS / "homes" / "8dfb4af.tar.xz"
"""Two of three facilities that traded at commit 8dfb4af: studies of both, two transfers with
receipts and one that was refused, a quarantine, a conflict, a withdrawn study, an erasure."""


@pytest.fixture
def old_homes(tmp_path: Path) -> Path:
    with tarfile.open(OLD_HOMES) as archive:
        archive.extractall(tmp_path / "homes", filter="data")
    for home in (tmp_path / "homes").iterdir():
        home.chmod(0o700)
    return tmp_path / "homes"


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Tables with their columns and keys, and indexes with theirs, whatever made them."""
    with sqlite3.connect(path) as connection:
        names = connection.execute(
            "SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
        found = {}
        for kind, name, table in names:
            pragma = "table_info" if kind == "table" else "index_xinfo"
            found[f"{kind} {name} of {table}"] = connection.execute(
                f"PRAGMA {pragma}({name})"
            ).fetchall()
        return found


@pytest.mark.parametrize("name", ["north", "south"])
def test_a_home_of_8dfb4af_opens_with_all_that_it_held(old_homes: Path, name: str) -> None:
    home = Home(old_homes / name)
    with sqlite3.connect(home.database_path) as before:
        transfers = before.execute("SELECT count(*) FROM transfers").fetchone()[0]
        studies = before.execute("SELECT count(*) FROM studies").fetchone()[0]
    with Node.open(home) as node:
        assert len(node.transfers.recent()) == transfers > 0
        assert len(node.catalog.studies()) == studies > 0
        assert {peer.petname for peer in node.peers.store.peers} & {"South Clinic", "North General"}
        for study in node.catalog.studies():
            for batch in node.catalog.manifest(study.study_uid).batches:
                node.store.read(batch.digest)
    assert [copy.name for copy in old_copies(home.database_path)] == ["node.db.before-schema-1"]


@pytest.mark.parametrize("name", ["north", "south"])
def test_the_group_of_an_older_home_keeps_what_it_could_do_until_somebody_is_listed(
    old_homes: Path, name: str
) -> None:
    with Node.open(Home(old_homes / name)) as node:
        assert unlisted_roles(node) == UNLISTED["all"]
        node.persons.add("anna", ["anna1"], ["look"], "")
    with Node.open(Home(old_homes / name)) as node:
        assert unlisted_roles(node) == frozenset()


@pytest.mark.parametrize("name", ["north", "south"])
def test_receipts_quarantine_and_erasure_of_8dfb4af_are_as_they_were(
    old_homes: Path, name: str
) -> None:
    home = Home(old_homes / name)
    with sqlite3.connect(home.audit_path / "evidence.db") as before:
        openings = before.execute("SELECT count(*) FROM openings").fetchone()[0]
        receipts = before.execute("SELECT digest, receipt FROM receipts").fetchall()
    with sqlite3.connect(home.database_path) as before:
        conflicts = before.execute("SELECT sop_uid FROM conflicts ORDER BY 1").fetchall()
    aside = sorted(path.name for path in (home.path / "quarantine").iterdir())
    with Node.open(home) as node:
        entries = [decode_entry_untrusted(one) for one in node.audit.entries(0, node.audit.size)]
        subjects = [each for entry in entries for _, each in entry.subjects]
        missing = [each for each in subjects if node.audit.opening_of(each) is None]
        erased = [entry for entry in entries if entry.type == "erased"]
        assert len(subjects) - len(missing) >= openings > 0
        assert len(missing) == sum(int(entry.details["openings"]) for entry in erased)
        assert bool(missing) is (name == "north"), "North erased one, and it stays erased"
        assert len(receipts) == 3
        for digest, receipt in receipts:
            assert node.audit.receipt(digest.hex()) == receipt
        assert [(row.sop_uid,) for row in node.catalog.conflicts()] == conflicts
    assert sorted(path.name for path in (home.path / "quarantine").iterdir()) == aside
    assert bool(aside) is bool(conflicts) is (name == "north")


@pytest.mark.parametrize("name", ["north", "south"])
def test_what_peers_announced_before_stands_in_columns_now(old_homes: Path, name: str) -> None:
    home = Home(old_homes / name)
    with sqlite3.connect(home.database_path) as before:
        records = dict(before.execute("SELECT study, record FROM remote_studies"))
    Node.open(home).close()
    with sqlite3.connect(home.database_path) as after:
        rows = after.execute("SELECT study, study_date, recalls FROM remote_studies").fetchall()
    told = {study: json.loads(record) for study, record in records.items()}
    assert len(rows) == len(told) > 0
    for study, date, recalls in rows:
        assert (date, recalls) == (told[study]["study_date"], told[study].get("recalls") or 0)


@pytest.mark.parametrize("name", ["north", "south"])
def test_studies_of_8dfb4af_are_found_by_a_search(old_homes: Path, name: str) -> None:
    with Node.open(Home(old_homes / name)) as node:
        for row in node.catalog.studies():
            search = Search(
                name=row.patient_name.partition("^")[0],
                patient_id=row.patient_id,
                accession_number=row.accession_number,
                modality=row.modalities[0],
            )
            assert row in node.catalog.studies(search=search)
        told = node.feeds.announced()
        assert told
        for peer, record in told:
            search = Search(modality=record.modalities[0])
            assert (peer, record) in node.feeds.announced(search=search)


@pytest.mark.parametrize("name", ["node.db", "audit/evidence.db"])
@pytest.mark.parametrize("what", ["newer", "damaged"])
def test_a_command_on_such_a_database_ends_with_a_sentence(
    old_homes: Path, capsys: pytest.CaptureFixture[str], name: str, what: str
) -> None:
    path = old_homes / "north" / name
    if what == "newer":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version=999")
    else:
        path.write_bytes(b"no database at all".ljust(8192))
    before = path.read_bytes()
    code = main(["--home", str(old_homes / "north"), "studies"])
    said = capsys.readouterr().err
    assert code == ExitCode.NO_HOME
    told = "was written by a newer radmesh" if what == "newer" else "cannot be opened"
    assert f"the database {path} {told}" in said
    assert "radmesh: hint: " in said
    assert "Traceback" not in said
    assert path.read_bytes() == before


def test_a_log_of_8dfb4af_verifies(old_homes: Path, tmp_path: Path) -> None:
    north = Home(old_homes / "north")
    facility = Facility.__new__(Facility)
    facility.home, facility.process = north, None
    bundle = tmp_path / "log.zip"
    facility.call("audit.export", path=str(bundle))
    fingerprint = parse_fingerprint(north.read_card().fingerprint)
    with bundle.open("rb") as file:
        assert verify_bundle(file, facility_fingerprint=fingerprint).code is Code.OK


def test_a_migrated_database_is_like_a_new_one(old_homes: Path, tmp_path: Path) -> None:
    old, new = Home(old_homes / "north"), Home.create(tmp_path / "new", name="New")
    Node.open(old).close()
    Node.open(new).close()
    assert shape(old.database_path) == shape(new.database_path)
    evidence = "evidence.db"
    assert shape(old.audit_path / evidence) == shape(new.audit_path / evidence)


@pytest.mark.parametrize("name", ["north", "south"])
def test_studies_of_8dfb4af_are_read_again_for_their_patients(old_homes: Path, name: str) -> None:
    home = Home(old_homes / name)
    with sqlite3.connect(home.database_path) as before:
        known = before.execute(
            "SELECT study_uid, patient_id, coalesce(issuer, '') FROM studies"
            " LEFT JOIN patient_id_issuers USING (study_uid)"
        ).fetchall()
    with Node.open(home) as node:
        states = {row.study_uid: row.state for row in node.catalog.studies()}
        assert set(node.catalog.unread()) == set(states)
        for study, patient, issuer in known:
            identity = patient_identity(patient, issuer)
            assert node.catalog.patients(study) == ((identity,) if identity else ())
        rereading = Rereading(node.catalog, node.store, node.audit.append)
        for study in states:
            assert trio.run(rereading.read, study)
        assert node.catalog.unread() == []
        assert {row.study_uid: row.state for row in node.catalog.studies()} == states
        for study, patient, issuer in known:
            assert {patient_identity(patient, issuer)} - {""} <= set(node.catalog.patients(study))


@pytest.mark.slow
def test_old_homes_go_on_trading(old_homes: Path) -> None:
    north = _facility(old_homes, "north", "North General")
    south = _facility(old_homes, "south", "South Clinic")
    try:
        north.start()
        south.start()
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        shared = [s for s in north.call("studies")["studies"] if s["state"] == "shared"]
        for study in shared:
            south.call("fetch", study=study["study"])
        for node in (north, south):
            wait_until(lambda home=node.home: _unread(home) == 0, what="studies are read again")
    finally:
        for facility in (north, south):
            if facility.process is not None:
                facility.stop()


def _unread(home: Home) -> int:
    with contextlib.closing(sqlite3.connect(home.database_path)) as connection:
        return int(connection.execute("SELECT count(*) FROM unread_studies").fetchone()[0])


def _facility(homes: Path, folder: str, name: str) -> Facility:
    facility = Facility.__new__(Facility)
    facility.name, facility.home, facility.process = name, Home(homes / folder), None
    facility.errors = homes / f"{folder}.stderr"
    return facility


SCHEMA = ("CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY) STRICT;",)


def _widen(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 0")


def _fail(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE things SET size = 7")
    raise sqlite3.OperationalError("database or disk is full")


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    database = Database(path, SCHEMA)
    database.transact(lambda connection: connection.execute("INSERT INTO things VALUES ('ours')"))
    database.close()
    return path


def test_each_step_is_whole_or_not_there(old_file: Path) -> None:
    with pytest.raises(NodeError) as caught:
        Database(old_file, (), [Migration("size", _widen), Migration("fails", _fail)])
    assert caught.value.code is ExitCode.NO_HOME
    with sqlite3.connect(old_file) as left:
        assert left.execute("PRAGMA user_version").fetchone() == (2,)
        assert left.execute("SELECT * FROM things").fetchall() == [("ours", 0)]
    again = Database(old_file, (), [Migration("size", _widen), Migration("ends", lambda _: None)])
    assert again.query("PRAGMA user_version")[0][0] == 3
    again.close()


def test_the_copy_is_what_there_was(old_file: Path) -> None:
    Database(old_file, (), [Migration("size", _widen)]).close()
    [copy] = old_copies(old_file)
    assert copy.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(f"file:{copy}?mode=ro", uri=True) as before:
        assert before.execute("PRAGMA user_version").fetchone() == (1,)
        assert before.execute("SELECT * FROM things").fetchall() == [("ours",)]


def test_a_new_file_has_the_newest_version_and_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    Database(path, SCHEMA, [Migration("size", _fail)]).close()
    with sqlite3.connect(path) as made:
        assert made.execute("PRAGMA user_version").fetchone() == (2,)
    assert old_copies(path) == []


def test_a_newer_file_is_left_alone(old_file: Path) -> None:
    Database(old_file, (), [Migration("size", _widen)]).close()
    before = old_file.read_bytes()
    with pytest.raises(NodeError, match="newer radmesh") as caught:
        Database(old_file, SCHEMA)
    assert caught.value.code is ExitCode.NO_HOME
    assert old_file.read_bytes() == before


def _no_database(path: Path) -> None:
    path.write_bytes(b"not a database, though it is long enough to look like one" * 99)


def _spoiled_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * len(data[4096:])
    path.write_bytes(data)


def _read_all(path: Path) -> None:
    database = Database(path, SCHEMA)
    try:
        database.query("SELECT * FROM things ORDER BY name")
    finally:
        database.close()


@pytest.mark.parametrize("spoil", [_no_database, _spoiled_pages])
def test_a_damaged_file_is_told_in_a_sentence(
    old_file: Path, spoil: Callable[[Path], None]
) -> None:
    with sqlite3.connect(old_file) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.executemany("INSERT INTO things VALUES (?)", ((str(i),) for i in range(9000)))
    spoil(old_file)
    with pytest.raises(NodeError, match=r"cannot be opened|is damaged") as caught:
        _read_all(old_file)
    assert caught.value.code is ExitCode.NO_HOME
    assert caught.value.hint


def test_erasing_deletes_the_copies_too(old_homes: Path) -> None:
    """A copy that was made before a migration names the patient as the database did."""
    home = Home(old_homes / "north")
    with Node.open(home) as node:
        assert old_copies(home.database_path)
        node.transfers.forget(["1.2.826.0.1.3680043.8.498.1000"])
    assert old_copies(home.database_path) == []


def test_a_copy_that_was_cut_short_is_made_again(old_file: Path) -> None:
    cut = old_file.with_name(f".{old_file.name}.before-schema-1.tmp")
    cut.write_bytes(b"half")
    Database(old_file, (), [Migration("size", _widen)]).close()
    [copy] = old_copies(old_file)
    assert not cut.exists()
    shutil.copy(copy, old_file)
    Database(old_file, SCHEMA).close()


def test_what_is_kept_of_each_feed_is_counted_by_the_migration(tmp_path: Path) -> None:
    """For each peer its own: a feed beside it counts for nothing."""
    path = tmp_path / "node.db"
    with sqlite3.connect(path) as old:
        old.executescript(
            "CREATE TABLE transfers (transfer BLOB, direction TEXT, study TEXT, peer BLOB,"
            " purpose TEXT, state TEXT, why TEXT, only_peer INTEGER, instances INTEGER,"
            " bytes INTEGER, bytes_done INTEGER, wire_bytes INTEGER, wire_bytes_total INTEGER,"
            " held_bytes INTEGER, started INTEGER, ended INTEGER, stat INTEGER);"
            "CREATE INDEX transfers_by_start ON transfers (started);"
            "CREATE TABLE feed (peer BLOB, study TEXT);"
            "CREATE TABLE remote_feeds (peer BLOB PRIMARY KEY, epoch BLOB, cursor INTEGER);"
            "CREATE TABLE remote_studies (peer BLOB, study TEXT, record TEXT);"
            "INSERT INTO remote_feeds VALUES (x'01', x'', 3), (x'02', x'', 2), (x'03', x'', 0);"
            "INSERT INTO remote_studies VALUES (x'01', '1.2', '{1}'), (x'01', '1.3', '{22}'),"
            " (x'02', '1.2', '{333}');"
            "PRAGMA user_version=1;"
        )
    Database(path, (), NODE_MIGRATIONS[:2]).close()
    with sqlite3.connect(path) as new:
        rows = new.execute("SELECT records, bytes, left_out FROM remote_feeds ORDER BY peer")
        assert rows.fetchall() == [(2, 7, 0), (1, 5, 0), (0, 0, 0)]
