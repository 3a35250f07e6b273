"""Discarding: what goes, what stays, and whose batches are never touched."""

import os
import random
import sqlite3
from pathlib import Path

import pytest
import trio
from checked_home import take
from facility_in_memory import Other, entries, open_node, told_to
from hypothesis import given, settings
from hypothesis import strategies as st
from studies_kept import STUDY, check_whole, exported
from studies_made import make_instance, make_study

from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError
from node.home import Home
from node.transfer.rereading import Rereading
from protocol import encoding
from protocol.log.entry import Event
from protocol.recalls import PATIENT_SAFETY, QUALITY, RETENTION, WRONG_WORKLIST

OTHER = "1.2.826.0.1.3680043.8.498.42"
SOUTH = Other("South Clinic", SYSTEM_CLOCK.now())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    with Node.open(Home.create(tmp_path / "north", name="North")) as node:
        yield node


def test_a_study_is_discarded_and_its_space_is_given_back(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 6, study=STUDY)
    make_study(tmp_path / "other", 3, study=OTHER)
    take(node, tmp_path / "in", tmp_path / "other")
    done = node.discards.discard(STUDY, RETENTION)
    assert (done.instances, done.left) == (6, 0)
    assert node.catalog.study(STUDY) is None
    assert node.catalog.study(OTHER) is not None
    check_whole(node)
    [entry] = entries(node, "discarded")
    assert entry["details"]["code"] == RETENTION
    assert entry["details"]["instances"] == 6
    assert [one["kind"] for one in entry["subjects"]] == ["study", "patient"]
    assert STUDY not in str(entry)


def test_none_of_the_bytes_of_a_discarded_instance_stay(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 6, study=STUDY)
    take(node, tmp_path / "in")
    files = sorted((tmp_path / "in").iterdir())
    wrong = files[2].read_bytes()
    done = node.discards.discard(f"{STUDY}.1.3", PATIENT_SAFETY)
    assert (done.instances, done.left) == (1, 5)
    check_whole(node)
    assert exported(node, tmp_path / "out") == {one.read_bytes() for one in files} - {wrong}
    for digest in node.store.digests():
        assert wrong[-4000:] not in encoding.decode_untrusted(node.store.read(digest))
    manifest = node.catalog.manifest(STUDY)
    assert all(
        sum(place.length for place in manifest.segments(index)) == batch.original_size
        for index, batch in enumerate(manifest.batches)
    )


def test_a_series_is_discarded(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 2, study=STUDY)
    for number in (1, 2):
        made = make_instance(STUDY, number, series=f"{STUDY}.7")
        made.save_as(tmp_path / "in" / f"B{number}.dcm", enforce_file_format=True)
    take(node, tmp_path / "in")
    node.discards.discard(f"{STUDY}.7", QUALITY)
    assert [row.series_uid for row in node.catalog.series(STUDY)] == [f"{STUDY}.1"]
    assert node.catalog.study(STUDY).series_count == 1
    check_whole(node)


def test_what_is_discarded_as_wrong_is_not_taken_again(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 3, study=STUDY)
    take(node, tmp_path / "in")
    node.discards.discard(f"{STUDY}.1.2", WRONG_WORKLIST)
    report = take(node, tmp_path / "in")
    assert (report.instances_new, report.instances_known) == (0, 2)
    [problem] = report.conflicts
    assert "was discarded here (wrong patient)" in problem.reason
    assert node.catalog.study(STUDY).instance_count == 2
    [conflict] = node.catalog.conflicts()
    assert (conflict.sop_uid, conflict.kept_digest) == (f"{STUDY}.1.2", b"")
    node.discards.discard(STUDY, PATIENT_SAFETY)
    make_study(tmp_path / "in", 2, study=STUDY, first=8)
    report = take(node, tmp_path / "in")
    assert report.instances_new == 0
    assert len(report.conflicts) == 5
    assert node.catalog.study(STUDY) is None


def test_what_retention_removes_may_come_back(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 3, study=STUDY)
    take(node, tmp_path / "in")
    manifest = node.catalog.manifest(STUDY)
    revision = node.catalog.study(STUDY).revision
    node.discards.discard(STUDY, RETENTION)
    report = take(node, tmp_path / "in")
    assert report.instances_new == 3
    assert node.catalog.study(STUDY).revision > revision
    assert node.catalog.manifest(STUDY) is not manifest
    check_whole(node)


def test_a_peer_is_told_why(node: Node, tmp_path: Path) -> None:
    SOUTH.pair(node, "see")
    make_study(tmp_path / "in", 3, study=STUDY)
    make_study(tmp_path / "other", 3, study=OTHER)
    take(node, tmp_path / "in", tmp_path / "other")
    assert {(one.kind, one.recall) for one in told_to(node, SOUTH)} == {("available", None)}
    root = node.catalog.study(STUDY).content_root
    node.discards.discard(f"{STUDY}.1.3", QUALITY)
    node.discards.discard(OTHER, WRONG_WORKLIST)
    told = {one.study: one for one in told_to(node, SOUTH)}
    assert (told[STUDY].kind, told[STUDY].recall, told[STUDY].recalls) == ("changed", QUALITY, 1)
    assert told[STUDY].content_root == node.catalog.study(STUDY).content_root != root
    one = told[OTHER]
    assert (one.kind, one.recall, one.recalls) == ("withdrawn", WRONG_WORKLIST, 1)


def test_a_peer_that_was_told_of_it_once_hears_of_the_recall(node: Node, tmp_path: Path) -> None:
    SOUTH.pair(node, "see")
    make_study(tmp_path / "in", 3, study=STUDY)
    take(node, tmp_path / "in")
    told_to(node, SOUTH)
    node.shared_studies.withdraw(STUDY)
    told_to(node, SOUTH)
    node.peers.revoke("South Clinic", ["see"], SYSTEM_CLOCK.now())
    node.discards.discard(STUDY, PATIENT_SAFETY)
    [record] = told_to(node, SOUTH)
    assert (record.kind, record.recall) == ("withdrawn", PATIENT_SAFETY)


def test_nobody_else_hears_of_it(node: Node, tmp_path: Path) -> None:
    SOUTH.pair(node, "see")
    make_study(tmp_path / "in", 3, study=STUDY)
    take(node, tmp_path / "in")
    node.shared_studies.withdraw(STUDY)
    node.discards.discard(STUDY, PATIENT_SAFETY)
    assert told_to(node, SOUTH) == []


def test_a_damaged_rest_is_said_and_nothing_is_done(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 3, study=STUDY)
    take(node, tmp_path / "in")
    [batch] = node.catalog.study_batches(STUDY)
    path = node.store.path(batch.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(NodeError) as caught:
        node.discards.discard(f"{STUDY}.1.1", QUALITY)
    assert caught.value.code is ExitCode.INTEGRITY
    assert entries(node, "discarded") == []
    assert node.catalog.study(STUDY).state == "shared"
    node.discards.discard(STUDY, QUALITY)
    check_whole(node)


def test_what_came_in_while_the_rest_was_packed_stays(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(tmp_path / "in", 3, study=STUDY)
    make_study(tmp_path / "more", 1, study=STUDY, first=7)
    take(node, tmp_path / "in")
    rest = node.discards._rest
    calls: list[int] = []

    def rest_and_take(discard, pins):
        made = rest(discard, pins)
        calls.append(1)
        if len(calls) == 2:
            take(node, tmp_path / "more")
        return made

    monkeypatch.setattr(node.discards, "_rest", rest_and_take)
    node.discards.discard(f"{STUDY}.1.1", QUALITY)
    assert len(calls) == 3
    assert set(node.catalog.held_instances(STUDY)) == {f"{STUDY}.1.{n}" for n in (2, 3, 7)}
    check_whole(node)


def test_whose_the_rest_is_is_asked_anew(node: Node, tmp_path: Path) -> None:
    """The wrong patient's image has gone, and his name must not stay with the study."""
    make_study(tmp_path / "in", 2, study=STUDY)
    wrong = make_instance(STUDY, 7)
    wrong.PatientID = "ANOTHER-PATIENT"
    wrong.save_as(tmp_path / "in" / "wrong.dcm", enforce_file_format=True)
    take(node, tmp_path / "in")
    assert len(node.catalog.patients(STUDY)) == 2
    assert node.catalog.study(STUDY).to_check
    node.discards.discard(f"{STUDY}.1.7", WRONG_WORKLIST)
    assert node.catalog.unread() == [STUDY]
    reading = Rereading(node.catalog, node.store, node.audit.append)
    assert trio.run(reading.read, STUDY)
    assert node.catalog.patients(STUDY) == ("MARKER-PATIENT-ID",)
    assert not node.catalog.study(STUDY).to_check
    assert node.catalog.study(STUDY).state == "withheld"


def test_a_pinned_batch_stays_until_it_is_let_go(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 3, study=STUDY)
    take(node, tmp_path / "in")
    [batch] = node.catalog.study_batches(STUDY)
    pins = node.store.pins()
    pins.add([batch.digest])
    node.discards.discard(STUDY, RETENTION)
    assert node.store.has(batch.digest)
    assert node.discards.is_unfinished
    pins.clear()
    node.discards.write_unwritten()
    assert not node.store.has(batch.digest)
    assert not node.discards.is_unfinished


@pytest.mark.parametrize("what", [STUDY, f"{STUDY}.1.2", f"{STUDY}.1"])
@pytest.mark.parametrize("at", ["before the entry", "entry", "commit", "file"])
def test_killed_at_each_step(tmp_path: Path, what: str, at: str) -> None:
    home = Home.create(tmp_path / "north", name="North")
    make_study(tmp_path / "in", 4, study=STUDY)
    with Node.open(home) as node:
        SOUTH.pair(node, "see")
        take(node, tmp_path / "in")
        told_to(node, SOUTH)
    child = os.fork()
    if child == 0:
        _discard_and_die(home, what, at)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    with open_node(home.path) as node:
        done = at != "before the entry"
        assert [one["outcome"] for one in entries(node, "discarded")] == ["success"] * done
        left = 4 if not done else 3 if what == f"{STUDY}.1.2" else 0
        row = node.catalog.study(STUDY)
        assert (0 if row is None else row.instance_count) == left
        assert bool(node.catalog.bars(STUDY).discards) is done
        if done:
            check_whole(node)
            [record] = told_to(node, SOUTH)
            assert record.recall == WRONG_WORKLIST
            assert take(node, tmp_path / "in").instances_new == 0
        if left:
            node.discards.discard(STUDY, RETENTION)
        check_whole(node)


def _discard_and_die(home: Home, what: str, at: str) -> None:
    try:
        with Node.open(home) as node:
            if at in ("before the entry", "entry"):
                append = node.audit.append

                def append_and_die(event: Event) -> int:
                    if at == "entry":
                        append(event)
                    os._exit(9)

                node.audit.append = append_and_die  # type: ignore[method-assign]
            elif at == "commit":
                mark = node.catalog.mark

                def mark_and_die(connection: sqlite3.Connection, entry: int) -> None:
                    mark(connection, entry)
                    node.database.after_commit(lambda: os._exit(9))

                node.catalog.mark = mark_and_die
            else:
                remove = node.store.remove
                node.store.remove = lambda digest: (remove(digest), os._exit(9))  # type: ignore[method-assign, assignment, func-returns-value]
            node.discards.discard(what, WRONG_WORKLIST)
    finally:
        os._exit(1)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_discarded_the_rest_is_whole(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random studies, grown, discarded in parts, kept aside, taken again."""
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("discards")
    with Node.open(Home.create(path / "north", name="North")) as node:
        wanted: dict[tuple[str, int, int], bytes] = {}
        gone: set[tuple[str, int, int]] = set()
        for step in range(6):
            study = chance.choice((STUDY, OTHER))
            folder = path / f"in{step}"
            folder.mkdir()
            for number in chance.sample(range(1, 9), 4):
                series = chance.randint(1, 2)
                rows = 1700 if chance.random() < 0.1 else 32
                key = (study, series, number)
                version = chance.randint(0, 1)
                made = make_instance(
                    study, number, rows=rows, series=f"{study}.{series}", seed=version
                )
                file = folder / f"{series}-{number}.dcm"
                made.save_as(file, enforce_file_format=True)
                if key not in gone:
                    wanted.setdefault(key, file.read_bytes())
            take(node, folder)
            check_whole(node)
            held = sorted(key for key in wanted if key[0] == study)
            if not held or chance.random() < 0.2:
                continue
            level = chance.randint(0, 5)
            key = chance.choice(held)
            code = chance.choice((RETENTION, QUALITY))
            text = ".".join(map(str, key))
            if level == 0:
                removed, code, text = held, RETENTION, study
            elif level == 1:
                removed = [one for one in held if one[1] == key[1]]
                code, text = RETENTION, f"{study}.{key[1]}"
            else:
                removed = [key]
            node.discards.discard(text, code)
            for one in removed:
                del wanted[one]
                if code == QUALITY:
                    gone.add(one)
            check_whole(node)
        for study in (STUDY, OTHER):
            expected = {content for key, content in wanted.items() if key[0] == study}
            if expected:
                assert exported(node, path / "out", study) == expected
            else:
                assert node.catalog.study(study) is None
