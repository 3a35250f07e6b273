"""What a rule to see shows: the exam, the patient, or nothing until the peer asks."""

import csv
import datetime
import io
from collections.abc import Iterator
from pathlib import Path

import exchange_pair
import find_made
import pytest
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study, told_to

from node.app import Node
from node.catalog.words import Search
from node.home import Home
from node.reports.accounting import Accounting
from node.reports.facilities import Facilities
from node.reports.selection import Selection
from node.sharing.feeds import without_patient
from node.sharing.peers import Terms
from protocol.feed import Subscription
from protocol.find_messages import ByNumber
from protocol.messages import Announcement, Record

STUDY, PATIENT = exchange_pair.STUDY, "MARKER-PATIENT-ID"
SOUTH = Other("South Clinic", MadeClock().now())


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        publish_study(node, instances=2)
        SOUTH.pair(node)
        yield node


def _rule(node: Node, words: str) -> int:
    return node.peers.add_rule("South Clinic", words.split(), node.facts.blind)[1].number


def _named(record: Record) -> tuple[str | None, ...]:
    return (record.patient_id, record.patient_name, record.accession, record.description)


def test_an_exam_names_nobody_and_a_patient_is_named(north: Node) -> None:
    row = north.catalog.study(STUDY)
    assert row is not None
    number = _rule(north, "allow see")
    [exam] = told_to(north, SOUTH)
    assert _named(exam) == (None, None, None, None)
    _rule(north, "allow see shows=patient")
    [shown] = told_to(north, SOUTH)
    assert shown.patient_id == PATIENT
    assert shown.patient_name == row.patient_name
    assert (shown.birth_date or "") == row.patient_birth_date
    assert shown.sequence > exam.sequence
    # Less again: the record that follows has no patient, so that the peer forgets it.
    north.peers.remove_rule("South Clinic", number + 1)
    [less] = told_to(north, SOUTH)
    assert _named(less) == (None, None, None, None)
    assert (less.kind, less.sequence > shown.sequence) == ("changed", True)


def test_on_request_nothing_is_told(north: Node) -> None:
    _rule(north, "allow see shows=on-request")
    assert told_to(north, SOUTH) == []
    _rule(north, "allow see modality=XX shows=patient")
    assert told_to(north, SOUTH) == []


def test_each_patient_told_of_is_a_subject_and_in_the_accounting(north: Node) -> None:
    _rule(north, "allow see")
    told_to(north, SOUTH)
    _rule(north, "allow see shows=patient")
    told_to(north, SOUTH)
    exam, shown = entries(north, "announced")
    assert [one["kind"] for one in exam["subjects"]] == ["study"]
    assert [one["kind"] for one in shown["subjects"]] == ["study", "patient"]
    opening = north.audit.opening_of(shown["subjects"][1]["commitment"])
    assert opening is not None
    assert opening.value == PATIENT
    report = Accounting(
        north.audit, Selection(), Facilities(north.card, north.peers.store.peers), with_exempt=True
    )
    rows = list(csv.DictReader(io.StringIO(b"".join(report.lines()).decode())))
    assert len(rows) == 1
    assert PATIENT in rows[0].values()
    assert any("is here, with its patient" in value for value in rows[0].values())


def test_a_patient_without_a_patient_id_is_accounted_for_by_name(north: Node) -> None:
    nobody = {"patient_id": "", "patient_id_issuer": ""}
    whole = find_made.publish(north, 3, **nobody)
    bare = find_made.publish(north, 4, **nobody, patient_birth_date="", patient_sex="")
    nameless = find_made.publish(north, 5, **nobody, patient_name="")
    _rule(north, "allow see shows=patient")
    assert {record.study for record in told_to(north, SOUTH)} == {STUDY, whole, bare, nameless}
    about = Selection(patient="Müller^Anna")
    rows = []
    for selection in (about, Selection()):
        report = Accounting(
            north.audit,
            selection,
            Facilities(north.card, north.peers.store.peers),
            with_exempt=True,
        )
        text = b"".join(report.lines()).decode()
        rows.append({one["study"]: one["patient"] for one in csv.DictReader(io.StringIO(text))})
    named = {whole: "Müller^Anna^^^19700131 F", bare: "Müller^Anna^^^-------- -"}
    assert rows == [named, {**named, STUDY: PATIENT}]


def test_the_entry_of_a_patient_told_names_rule_and_rights(north: Node) -> None:
    other = find_made.publish(north, 3)
    _rule(north, "allow see")
    _rule(north, f"allow see shows=patient study={other}")
    told_to(north, SOUTH)
    rights = north.peers.find("South Clinic").rights_digest
    exam, patient = entries(north, "announced")
    assert [one["details"].get("rule", "") for one in (exam, patient)] == ["", "rule 2"]
    assert {one["details"]["rights"] for one in (exam, patient)} == {rights}
    assert [len(one["subjects"]) for one in (exam, patient)] == [1, 2]


def test_what_was_logged_without_its_patient_is_logged_again_with_it(north: Node) -> None:
    """The end of a rule has come, and the feed does not know it yet."""
    soon = north.clock.now() + 100
    moment = datetime.datetime.fromtimestamp(soon, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _rule(north, "allow see")
    _rule(north, f"allow see shows=patient until={moment}")
    assert isinstance(north.clock, MadeClock)
    north.clock.move(101)
    [exam] = told_to(north, SOUTH)
    assert _named(exam) == (None, None, None, None)
    _rule(north, "allow see shows=patient")
    [shown] = told_to(north, SOUTH)
    assert shown.patient_id == PATIENT
    assert [len(one["subjects"]) for one in entries(north, "announced")] == [1, 2]


def test_what_is_not_shown_any_more_is_not_told_though_the_feed_still_has_it(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = _rule(north, "allow see shows=patient")
    _rule(north, "allow see")
    monkeypatch.setattr(north.feeds, "peer_changed", lambda peer: None)
    monkeypatch.setattr(north.peers, "in_change", lambda peer: None)
    north.peers.remove_rule("South Clinic", number)
    [record] = told_to(north, SOUTH)
    assert _named(record) == (None, None, None, None)


def test_the_peer_keeps_searches_and_forgets_what_it_was_shown(north: Node, tmp_path: Path) -> None:
    _rule(north, "allow see shows=patient")
    [record] = told_to(north, SOUTH)
    peer = b"n" * 32
    with Node.open(Home.create(tmp_path / "south", name="South", clock=MadeClock())) as south:

        def hear(*records: Record, cursor: int) -> None:
            told = Announcement(
                recipient=south.keys.node.public,
                epoch=b"e" * 16,
                reset=cursor == 1,
                cursor=cursor,
                time=0,
                records=records,
            )
            position = Subscription(south.keys.node.public, b"e" * 16, cursor)
            south.feeds.store_announcement(peer, told, position)

        hear(record, cursor=1)
        search = Search(patient_id=PATIENT)
        [(_, kept)] = south.feeds.announced(search=search)
        assert kept.patient_name == record.patient_name
        # A search found it there, too.
        south.found.keep(peer, ByNumber(PATIENT, "NORTH"), [kept])
        south.found.keep(b"e" * 32, ByNumber("ANOTHER", "NORTH"), [without_patient(kept)])
        hear(Record(**{**_fields(record), "kind": "withdrawn"}), cursor=2)
        assert south.feeds.announced(search=search) == []
        assert [one.peer for one in south.found.all()] == [b"e" * 32]
        assert PATIENT.encode() not in _bytes_of(south)


@pytest.mark.parametrize("how", ["look", "start"])
def test_when_trust_ends_by_its_date_what_the_peer_told_is_forgotten(
    tmp_path: Path, how: str
) -> None:
    home = Home.create(tmp_path / "south", name="South", clock=MadeClock())
    with Node.open(home) as south:
        terms = Terms(expires=south.clock.now() + 100)
        card = SOUTH.card
        south.peers.add(card.encoded, card.fingerprint, [], "", south.clock.now(), terms)
        told = Announcement(
            recipient=bytes(32), epoch=bytes(16), reset=True, cursor=1, time=0,
            records=(feed_record(1, patient_name="Müller^Anna", patient_id=PATIENT),),
        )  # fmt: skip
        south.feeds.store_announcement(SOUTH.key, told, Subscription(bytes(32), bytes(16), 1))
        south.found.keep(SOUTH.key, ByNumber(PATIENT, "NORTH"), [feed_record(2)])
        south.clean_up()
        assert (south.feeds.announced_count(), len(south.found.all())) == (1, 1)
        assert isinstance(south.clock, MadeClock)
        south.clock.move(101)
        if how == "look":
            south.feeds.peer_changed(SOUTH.key)
        else:
            south.clean_up()
        assert (south.feeds.announced_count(), len(south.found.all())) == (0, 0)
        assert PATIENT.encode() not in _bytes_of(south)


def feed_record(number: int, **more: str) -> Record:
    return Record(
        sequence=number, kind="available", study=f"1.2.{number}", content_root=bytes(32), series=1,
        instances=1, bytes=1, encoded_bytes=1, modalities=("CT",), study_date="20260101",
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def _fields(record: Record) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _bytes_of(node: Node) -> bytes:
    node.database.empty_write_ahead_log()
    return (node.home.path / "node.db").read_bytes()
