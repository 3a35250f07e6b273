"""Each kind of damage to a home is named by its finding, and a home that is whole by none."""

import os
import shutil
import tarfile
import zlib
from pathlib import Path

import blake3
import pytest
from checked_home import Damage, Made, kinds, make_home
from hypothesis import given, settings
from hypothesis import strategies as st
from places import TESTS

from node.app import Node
from node.fsck.catalog import content_root
from node.fsck.check import Report, check_home
from node.fsck.files import INCOMING_SECONDS, LEFTOVER_SECONDS, ORPHAN_SECONDS
from node.fsck.findings import MENDS, CannotCheck
from node.home import Home
from node.images.spool import Spool, Staged
from node.images.spool_records import About
from protocol import manifest

EVIDENCE = "audit/evidence.db"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_home(tmp_path_factory.mktemp("made"))


@pytest.fixture
def home(made: Made, tmp_path: Path) -> Made:
    return made.copied(tmp_path)


def now_of(home: Made) -> float:
    """A time at which the cards of the home still count."""
    return (home.path / "config.toml").stat().st_mtime


def check(home: Made, *, fast: bool = False, now: float = 0.0) -> Report:
    return check_home(home.path, now=now or now_of(home), fast=fast)


def write(path: Path, data: bytes, age: float = 0.0) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def frames(path: Path) -> list[bytes]:
    """The frames of a log, with their headers."""
    data, found = path.read_bytes(), []
    while len(data) >= 8 and (length := int.from_bytes(data[:4], "big")):
        found.append(data[: 8 + length])
        data = data[8 + length :]
    return found


def framed(entry: bytes) -> bytes:
    return len(entry).to_bytes(4, "big") + zlib.crc32(entry).to_bytes(4, "big") + entry


def rewrite_log(home: Made, change: object) -> None:
    path = home.path / "audit" / "log"
    path.write_bytes(b"".join(change(frames(path))))  # type: ignore[operator]


def another_entry(found: list[bytes]) -> list[bytes]:
    """One letter of an entry, and its checksum with it."""
    place = next(index for index, one in enumerate(found) if b'"ingest"' in one)
    entry = found[place][8:].replace(b'"bytes":', b'"bytfs":')
    assert entry != found[place][8:]
    return [*found[:place], framed(entry), *found[place + 1 :]]


def spooled(home: Made, *, cut: int = 0, changed: bool = False) -> None:
    """Two images that wait, the second as it was left."""
    spool = Spool(home.path / "arrivals", lambda size: None)
    contents = [b"an image", b"another image"]
    records = spool.write(
        [
            Staged(About(len(one), blake3.blake3(one).digest(), "dimse", False, 0), one)
            for one in contents
        ]
    )
    spool.close()
    [path] = (home.path / "arrivals").iterdir()
    assert len(records) == 2
    content = bytearray(path.read_bytes())
    content[-1] ^= changed
    path.write_bytes(content[: len(content) - cut])


def unshared_but_told(home: Made) -> None:
    home.sql("UPDATE studies SET shared = 0 WHERE study_uid = ?", home.shared)


def an_older_log(home: Made) -> None:
    """The folder audit of a backup, beside the newer catalog."""
    shutil.rmtree(home.path / "audit")
    shutil.copytree(home.older_audit, home.path / "audit")


DAMAGES: dict[str, tuple[str, Damage]] = {
    "a batch is missing": ("batch-missing", lambda home: home.batches(home.shared)[0].unlink()),
    "a batch is changed": ("batch-changed", lambda home: flip(home.batches(home.shared)[0])),
    "a batch is cut": (
        "batch-changed",
        lambda home: os.truncate(home.batches(home.withheld)[0], 100),
    ),
    "a batch that the catalog does not know": (
        "batch-orphaned",
        lambda home: write(home.path / "store" / "ab" / ("ab" * 32), b"x") and None,
    ),
    "the catalog has another size of a batch": (
        "batch-size",
        lambda home: home.sql("UPDATE batches SET encoded_size = encoded_size + 1"),
    ),
    "a study names a batch without a row": (
        "catalog-reference",
        lambda home: home.sql(
            "DELETE FROM batches WHERE digest IN (SELECT digest FROM study_batches LIMIT 1)"
        ),
    ),
    "an instance names a series without a row": (
        "catalog-reference",
        lambda home: home.sql("DELETE FROM series WHERE study_uid = ?", home.withheld),
    ),
    "a version kept aside names a batch without a row": (
        "catalog-reference",
        lambda home: home.sql(
            "INSERT INTO conflicts VALUES (?, '1.2', x'', x'', '1.3', 1, 'local', 1, ?, 0, '')",
            home.shared,
            bytes(32),
        ),
    ),
    "a study names too many instances": (
        "catalog-study",
        lambda home: home.sql("UPDATE studies SET instance_count = instance_count + 1"),
    ),
    "a study names too many series": (
        "catalog-study",
        lambda home: home.sql("UPDATE studies SET series_count = 7"),
    ),
    "a study has another size": (
        "catalog-study",
        lambda home: home.sql("UPDATE studies SET original_bytes = 7"),
    ),
    "a study has another encoded size": (
        "catalog-study",
        lambda home: home.sql("UPDATE studies SET encoded_bytes = 7"),
    ),
    "an instance has another digest": (
        "catalog-study",
        lambda home: home.sql("UPDATE instances SET digest = x'00' WHERE number = 1"),
    ),
    "an instance lies outside of its batches": (
        "catalog-study",
        lambda home: home.sql("UPDATE instances SET byte_offset = byte_offset + 90000000"),
    ),
    "an instance is gone": (
        "catalog-study",
        lambda home: home.sql("DELETE FROM instances WHERE number = 1"),
    ),
    "the database is no database": (
        "database-damaged",
        lambda home: write(home.path / "node.db", b"x" * 10_000) and None,
    ),
    "the database is cut": (
        "database-damaged",
        lambda home: os.truncate(home.path / "node.db", 20 * 4096),
    ),
    "the database is gone": ("database-damaged", lambda home: (home.path / "node.db").unlink()),
    "a half-written batch": (
        "store-leftover",
        lambda home: write(home.path / "store" / "tmp" / "x", b"x") and None,
    ),
    "a file of somebody else in the store": (
        "store-foreign",
        lambda home: write(home.path / "store" / "notes.txt", b"x") and None,
    ),
    "a file of somebody else among the batches": (
        "store-foreign",
        lambda home: write(home.path / "store" / "ab" / "notes.txt", b"x") and None,
    ),
    "a half-written batch in incoming": (
        "incoming-leftover",
        lambda home: write(home.path / "incoming" / ".x.tmp", b"x") and None,
    ),
    "a batch in incoming that no transfer wants": (
        "incoming-leftover",
        lambda home: (
            write(home.path / "incoming" / ("cd" * 32), b"x", 2 * INCOMING_SECONDS) and None
        ),
    ),
    "a half-written image in arrivals": (
        "arrivals-leftover",
        lambda home: write(home.path / "arrivals" / ".x.tmp", b"x") and None,
    ),
    "an image in arrivals that is not whole": (
        "arrivals-damaged",
        lambda home: spooled(home, cut=10),
    ),
    "an image in arrivals that has other bytes": (
        "arrivals-damaged",
        lambda home: spooled(home, changed=True),
    ),
    "a feed tells of a study that is not shared": ("feed-not-shared", unshared_but_told),
    "a feed tells of a study that is not here": (
        "feed-not-shared",
        lambda home: (
            home.sql("UPDATE feed SET study = '1.2.3.4', kind = 'changed'")
            or home.sql("UPDATE studies SET shared = 0")
        ),
    ),
    "a feed of a peer that may not see": (
        "feed-not-allowed",
        lambda home: home.sql("UPDATE peers SET state = replace(state, '\"see\"', '\"send\"')"),
    ),
    "a feed of a peer that was revoked": (
        "feed-not-allowed",
        lambda home: home.sql(
            "UPDATE peers SET state = replace(state, '\"revoked\": null', '\"revoked\": 5')"
        ),
    ),
    "a feed of a peer that is not known": (
        "feed-not-allowed",
        lambda home: home.sql("DELETE FROM peers WHERE facility_key = ?", home.sees),
    ),
    "a feed lacks a shared study": ("feed-missing", lambda home: home.sql("DELETE FROM feed")),
    "a feed says that a shared study was withdrawn": (
        "feed-missing",
        lambda home: home.sql("UPDATE feed SET kind = 'withdrawn'"),
    ),
    "a feed tells of an older content": (
        "feed-outdated",
        lambda home: home.sql("UPDATE feed SET content_root = ?", bytes(32)),
    ),
    "a feed has records behind its end": (
        "feed-order",
        lambda home: home.sql("UPDATE feed_heads SET last_sequence = 0"),
    ),
    "a search would miss a Patient ID": (
        "study-unsearchable",
        lambda home: home.sql("DELETE FROM study_words WHERE kind = 'id'"),
    ),
    "a search would miss a name": (
        "study-unsearchable",
        lambda home: home.sql("DELETE FROM study_words WHERE kind IN ('family', 'given')"),
    ),
    "a source of a study that is not here is followed": (
        "followed-unknown",
        lambda home: home.sql(
            "INSERT INTO followed_sources VALUES ('1.2', ?, '', 0, 0, x'', x'', 0, -1, 1, 0, 0)",
            home.sees,
        ),
    ),
    "the log is gone": ("log-damaged", lambda home: (home.path / "audit" / "log").unlink()),
    "the log lacks its last entry": (
        "log-damaged",
        lambda home: rewrite_log(home, lambda found: found[:-1]),
    ),
    "the log lacks an entry": (
        "log-damaged",
        lambda home: rewrite_log(home, lambda found: found[:3] + found[4:]),
    ),
    "an entry has another letter": ("log-damaged", lambda home: flip(home.path / "audit" / "log")),
    "an entry has another letter and its checksum": (
        "log-damaged",
        lambda home: rewrite_log(home, another_entry),
    ),
    "something stands behind the log": (
        "log-torn",
        lambda home: rewrite_log(home, lambda found: [*found, b"\0\0\1\0half an entry"]),
    ),
    "the checkpoint is of another key": (
        "log-checkpoint",
        lambda home: flip(home.path / "audit" / "checkpoint"),
    ),
    "the checkpoint is gone": (
        "log-checkpoint",
        lambda home: (home.path / "audit" / "checkpoint").unlink(),
    ),
    "the card is damaged": ("log-checkpoint", lambda home: flip(home.path / "card")),
    "no entry tells how a study came": ("entry-missing", an_older_log),
    "an opening is gone": (
        "evidence-missing",
        lambda home: home.sql("DELETE FROM openings WHERE kind = 'patient'", name=EVIDENCE),
    ),
    "all openings are gone": (
        "evidence-missing",
        lambda home: home.sql("DELETE FROM openings", name=EVIDENCE),
    ),
    "an opening tells of another": (
        "evidence-changed",
        lambda home: home.sql(
            "UPDATE openings SET value = 'X' WHERE kind = 'patient'", name=EVIDENCE
        ),
    ),
    "a receipt is gone": (
        "evidence-missing",
        lambda home: home.sql("DELETE FROM receipts", name=EVIDENCE),
    ),
    "a receipt is changed": (
        "evidence-changed",
        lambda home: home.sql("UPDATE receipts SET receipt = x'00'", name=EVIDENCE),
    ),
    "the evidence is gone": ("database-damaged", lambda home: (home.path / EVIDENCE).unlink()),
    "the evidence is no database": (
        "database-damaged",
        lambda home: write(home.path / EVIDENCE, b"x" * 10_000) and None,
    ),
}


def test_a_whole_home_has_no_finding(home: Made) -> None:
    report = check(home)
    assert report.findings == ()
    assert (report.studies, report.in_use) == (2, False)
    assert report.batches == len({*home.batches(home.shared), *home.batches(home.withheld)})
    with Node.open(Home(home.path)) as node:
        assert (report.entries, report.root) == (node.audit.size, node.audit.root())


@pytest.mark.parametrize("what", DAMAGES)
def test_each_damage_is_named_by_its_finding(home: Made, what: str) -> None:
    kind, damage = DAMAGES[what]
    damage(home)
    report = check(home)
    assert kinds(report) == {kind}, report.findings
    assert all(one.mend and one.where for one in report.findings)
    # It only looks: a second time it finds the same.
    assert check(home).findings == report.findings


def test_there_is_a_damage_for_each_kind_of_finding() -> None:
    assert {kind for kind, _ in DAMAGES.values()} == MENDS.keys()


INDEPENDENT = [
    "a batch is missing",
    "a batch is cut",
    "a batch that the catalog does not know",
    "a half-written batch",
    "a file of somebody else in the store",
    "a half-written batch in incoming",
    "a batch in incoming that no transfer wants",
    "a feed tells of an older content",
    "a feed has records behind its end",
    "a study names too many instances",
    "an opening is gone",
    "a receipt is changed",
    "something stands behind the log",
]


@pytest.mark.slow
@given(st.sets(st.sampled_from(INDEPENDENT)))
@settings(max_examples=25)
def test_damages_at_once_are_all_named_and_nothing_else(
    made: Made, tmp_path_factory: pytest.TempPathFactory, chosen: set[str]
) -> None:
    home = made.copied(tmp_path_factory.mktemp("damaged"))
    for what in sorted(chosen):
        DAMAGES[what][1](home)
    assert kinds(check(home)) == {DAMAGES[what][0] for what in chosen}


def test_a_fast_check_reads_no_batch_and_sees_its_size(home: Made) -> None:
    flip(home.batches(home.shared)[0])
    assert check(home, fast=True).findings == ()
    os.truncate(home.batches(home.shared)[0], 100)
    assert kinds(check(home, fast=True)) == {"batch-size"}


@pytest.mark.parametrize(
    ("place", "seconds", "kind"),
    [
        ("store/ab/" + "ab" * 32, ORPHAN_SECONDS, "batch-orphaned"),
        ("store/tmp/x", LEFTOVER_SECONDS, "store-leftover"),
        ("incoming/.x.tmp", LEFTOVER_SECONDS, "incoming-leftover"),
        ("arrivals/.x.tmp", LEFTOVER_SECONDS, "arrivals-leftover"),
        ("arrivals/x", LEFTOVER_SECONDS, "arrivals-damaged"),
    ],
)
def test_what_may_be_under_way_is_no_finding_while_the_home_is_in_use(
    home: Made, place: str, seconds: int, kind: str
) -> None:
    unlock = Home(home.path).lock()
    path = write(home.path / place, b"x")
    found = path.stat().st_mtime
    report = check(home, now=found + seconds)
    assert report.in_use
    assert report.findings == ()
    assert kinds(check(home, now=found + seconds + 1)) == {kind}
    unlock()
    assert kinds(check(home, now=found)) == {kind}


def test_what_waits_in_arrivals_to_be_packed_is_no_finding(home: Made) -> None:
    spooled(home)
    assert check(home).findings == ()


def test_what_a_transfer_may_still_use_is_no_finding(home: Made) -> None:
    write(home.path / "incoming" / ("cd" * 32), b"x")
    assert check(home).findings == ()
    path = write(home.path / "incoming" / ("cd" * 32), b"x", 2 * INCOMING_SECONDS)
    assert kinds(check(home)) == {"incoming-leftover"}
    columns = home.rows("SELECT name, type FROM pragma_table_info('transfers')")
    values = {"BLOB": "x'00'", "TEXT": "''", "INTEGER": "0"}
    row = [{"direction": "'in'", "ended": "NULL"}.get(name, values[kind]) for name, kind in columns]
    home.sql(f"INSERT INTO transfers VALUES ({', '.join(row)})")
    assert check(home).findings == ()
    assert path.exists()


def test_a_peer_that_ended_by_its_date_is_not_judged(home: Made) -> None:
    far = now_of(home) + 10 * 365 * 24 * 3600
    assert check(home, now=far).findings == ()
    home.sql("DELETE FROM feed")
    assert check(home, now=far).findings == ()


def test_erased_openings_are_not_missed(home: Made) -> None:
    with Node.open(Home(home.path)) as node:
        from node.audit.erasing import erase

        erase(node.audit, "study", home.withheld, node.transfers.forget)
    report = check(home)
    assert report.findings == ()
    home.sql("DELETE FROM openings WHERE kind = 'patient'", name=EVIDENCE)
    assert kinds(check(home)) == {"evidence-missing"}


def test_what_is_gone_at_the_second_look_was_a_change_under_way(home: Made) -> None:
    """As a batch that is replaced by a whole one while the check runs."""
    digests = sorted(home.rows("SELECT digest FROM batches"))
    name = digests[-1][0].hex()
    path = home.path / "store" / name[:2] / name
    whole = path.read_bytes()
    flip(path)
    looks = []

    def mend(done: int, total: int) -> None:
        looks.append(done)
        if done == total:
            path.write_bytes(whole)

    assert len(digests) > 1
    assert check_home(home.path, now=now_of(home), progress=mend).findings == ()
    assert len(looks) == 2 * len(digests)
    # One that stays is found by both.
    flip(path)
    assert kinds(check(home)) == {"batch-changed"}


def test_zeros_written_ahead_are_no_torn_tail(home: Made) -> None:
    rewrite_log(home, lambda found: [*found, bytes(4096)])
    assert check(home).findings == ()


def test_a_database_of_another_release_cannot_be_checked(home: Made) -> None:
    home.sql("ALTER TABLE feed RENAME COLUMN content_root TO root")
    with pytest.raises(CannotCheck, match=r"node\.db cannot be read: no such column"):
        check(home)


@pytest.mark.parametrize("name", ["north", "south"])
def test_a_home_of_8dfb4af_is_checked_before_and_after_it_opens(tmp_path: Path, name: str) -> None:
    """It traded, refused, set aside, withdrew and erased."""
    with tarfile.open(TESTS / "homes" / "8dfb4af.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / name
    now = (path / "config.toml").stat().st_mtime
    assert check_home(path, now=now).findings == ()
    path.chmod(0o700)
    Node.open(Home(path)).close()
    assert check_home(path, now=now).findings == ()


def test_a_check_writes_nothing(home: Made) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}

    before = files()
    check(home)
    assert files().items() >= before.items()
    # What SQLite puts beside a file to read it is empty or rebuilt at each opening.
    assert {path.name.rpartition("-")[2] for path in files().keys() - before.keys()} <= {
        "wal",
        "shm",
    }


@given(
    st.lists(
        st.tuples(
            st.text("0123456789.", min_size=1, max_size=64),
            st.integers(0, 2**40),
            st.binary(min_size=32, max_size=32),
        ),
        max_size=40,
        unique_by=lambda one: one[0],
    ),
    st.text("0123456789.", min_size=1, max_size=64),
)
def test_the_content_root_is_that_of_the_protocol(
    instances: list[tuple[str, int, bytes]], study: str
) -> None:
    ordered = sorted(instances)
    assert content_root(study, ordered) == manifest.content_root(study, instances)


@pytest.mark.parametrize("count", [15, 16, 65_535, 65_536])
def test_the_content_root_of_many_is_that_of_the_protocol(count: int) -> None:
    instances = [(f"1.{number:07}", number, bytes(32)) for number in range(count)]
    assert content_root("1.2", instances) == manifest.content_root("1.2", instances)
