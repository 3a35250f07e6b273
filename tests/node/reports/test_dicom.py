"""DICOM audit messages: the schema of the standard, its codes, and what entries mean."""

import base64
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from audit_message_schema import problems
from hypothesis import given
from hypothesis import strategies as st
from logs_made import create, entries_of
from places import ROOT
from reports_made import (
    FACILITIES,
    ORIGIN,
    OTHER_STUDY,
    PATIENT,
    SOUTH_CARD,
    SOUTH_KEY,
    STRANGER,
    STUDY,
    event_of,
    log_of_everything,
)

from keys.card import Card
from keys.fingerprint import fingerprint
from node.audit.erasing import erase
from node.audit.log import AuditLog
from node.callers import Caller, asked_by
from node.reports.audit_messages import CODES, EVENTS, MESSAGE_STUDIES, audit_messages
from node.reports.dicom import audit_message, document
from node.reports.facilities import Facilities
from node.reports.records import Record, Subject, records
from node.reports.selection import Selection
from protocol.log.entry import TYPES, Event

WITHOUT_MESSAGE = {"receipt", "checkpoint-heartbeat", "stored", "stored-told", "stored-heard"}


def _messages(
    log: AuditLog, facilities: Facilities = FACILITIES, *, persons: bool = False
) -> list[ElementTree.Element]:
    return [
        ElementTree.fromstring(audit_message(message))
        for record in records(log, Selection())
        for message in audit_messages(record, facilities, ORIGIN, persons=persons)
    ]


JANE = Caller("person", "j.doe", role="send", display="Dr. J. Doe", person="01")


def _message_of(tmp_path: Path, event: Event, persons: bool = False) -> ElementTree.Element:
    log = create(tmp_path / "one")
    log.append(event)
    message = _messages(log, persons=persons)[-1]
    log.close()
    return message


def _code(message: ElementTree.Element, name: str) -> list[str]:
    return [element.attrib["csd-code"] for element in message.iter(name)]


def _objects(message: ElementTree.Element) -> dict[str, str]:
    """Identity to the code of its kind."""
    return {
        element.attrib["ParticipantObjectID"]: _code(element, "ParticipantObjectIDTypeCode")[0]
        for element in message.iter("ParticipantObjectIdentification")
    }


def test_every_type_has_a_message_or_a_reason_for_none() -> None:
    assert set(EVENTS) == set(TYPES) - WITHOUT_MESSAGE


def test_messages_of_every_type_are_of_the_schema(tmp_path: Path) -> None:
    log = log_of_everything(tmp_path)
    messages = _messages(log)
    assert [problem for message in messages for problem in problems(message)] == []
    told = [_code(message, "EventTypeCode")[-1] for message in messages]
    assert told == [entry.type for entry in entries_of(log) if entry.type not in WITHOUT_MESSAGE]
    log.close()


def test_messages_that_a_person_asked_for_are_of_the_schema_and_name_who(tmp_path: Path) -> None:
    with asked_by(JANE):
        log = log_of_everything(tmp_path)
    for message in _messages(log, persons=True)[1:]:
        assert problems(message) == []
        users = [one.attrib["UserID"] for one in message.iter("ActiveParticipant")]
        assert users.count("j.doe") == 1
        assert "operator" not in users
        [jane] = [one for one in message.iter("ActiveParticipant") if one.get("UserID") == "j.doe"]
        assert jane.attrib["UserName"] == "Dr. J. Doe"
        assert _code(jane, "RoleIDCode") == ["send"]
    for message in _messages(log):
        assert problems(message) == []
        for text in (b"j.doe", b"Dr. J. Doe", b"send"):
            assert text not in ElementTree.tostring(message)
    log.close()


@pytest.mark.parametrize("persons", [False, True])
def test_the_person_whom_an_entry_is_about_is_an_object_and_did_not_ask(
    tmp_path: Path, persons: bool
) -> None:
    anna = ("person", "anna^^^look,admin^^^Dr. Anna^^^anna1")
    with asked_by(JANE):
        message = _message_of(tmp_path, Event(type="person-changed", subjects=(anna,)), persons)
    assert problems(message) == []
    requestors = [one for one in message.iter("ActiveParticipant") if one.get("UserID") == "anna"]
    assert requestors == []
    assert ("anna" in _objects(message)) is persons
    assert "person-commitment" in _objects(message).values() or persons
    assert (b"anna" in ElementTree.tostring(message)) is persons
    assert (b"j.doe" in ElementTree.tostring(message)) is persons


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.remove(m[0]), "EventIdentification is missing"),
        (lambda m: m[0].attrib.pop("EventDateTime"), "@EventDateTime: missing"),
        (lambda m: m[0].set("EventOutcomeIndicator", "1"), "bad value '1'"),
        (lambda m: m[0].set("EventDateTime", "yesterday"), "bad value 'yesterday'"),
        (lambda m: m[0].append(m[0][0]), "out of place"),
        (lambda m: m[1].attrib.pop("UserID"), "@UserID: missing"),
        (lambda m: m.append(ElementTree.Element("Extra")), "Extra: out of place"),
        (lambda m: m[-1].remove(m[-1][1]), "ParticipantObjectName or"),
        (lambda m: m[-1][0].set("code", "1"), "@code: unknown"),
    ],
)
def test_the_check_of_the_schema_finds_what_is_wrong(tmp_path, change, problem) -> None:
    message = _message_of(tmp_path, event_of("ingest"))
    assert problems(message) == []
    change(message)
    assert any(problem in one for one in problems(message))


def test_codes_are_those_of_the_standard(shared: Path) -> None:
    vectors = json.loads((shared / "vectors/health/dicom_audit_codes.json").read_text())["codes"]
    known = {**vectors["400"], **vectors["401"], **vectors["402"]}
    assert {code: meaning for code, meaning in CODES.items() if known.get(code) != meaning} == {}
    assert {meaning.event for meaning in EVENTS.values()} <= set(vectors["400"])
    assert {meaning.kind for meaning in EVENTS.values() if meaning.kind} <= set(vectors["401"])


def test_the_table_of_the_document_is_the_table_of_the_code() -> None:
    text = (ROOT / "docs/reports.md").read_text()
    rows = re.findall(
        r"^\| `([a-z-]+)` \| (\d{6}) ([^|]+) \| (?:(\d{6}) ([^|]+)|-) \| ([CRUDE]) \|",
        text,
        re.MULTILINE,
    )
    assert {row[0]: (row[1], row[3], row[5]) for row in rows} == {
        kind: (meaning.event, meaning.kind, meaning.action) for kind, meaning in EVENTS.items()
    }
    for row in rows:
        assert CODES[row[1]] == row[2].strip()
        assert not row[3] or CODES[row[3]] == row[4].strip()


def test_a_disclosure_names_source_destination_study_and_patient(tmp_path: Path) -> None:
    message = _message_of(tmp_path, event_of("disclosure-begun"))
    assert _code(message, "EventID") == ["110102"]
    source, destination = message.findall("ActiveParticipant")
    assert _code(source, "RoleIDCode") == ["110153"]
    assert source.attrib["UserName"] == "North General"
    assert source.attrib["UserIsRequestor"] == "false"
    assert _code(destination, "RoleIDCode") == ["110152"]
    assert destination.attrib["UserName"] == "South"
    assert destination.attrib["UserID"] == SOUTH_CARD.fingerprint
    assert destination.attrib["UserIsRequestor"] == "true"
    assert destination.attrib["NetworkAccessPointID"] == "radmesh.south.example"
    assert destination.attrib["NetworkAccessPointTypeCode"] == "1"
    assert _objects(message) == {f"{ORIGIN}#1": "12", STUDY: "110180", PATIENT: "2"}
    details = {
        element.attrib["type"]: base64.b64decode(element.attrib["value"]).decode()
        for element in message.iter("ParticipantObjectDetail")
    }
    assert details["purpose"] == "treatment"
    assert details["instances"] == "3"


@pytest.mark.parametrize("kind", ["ingest", "disclosure-begun", "disclosed", "withdrawn"])
def test_a_transfer_without_a_patient_says_so(tmp_path: Path, kind: str) -> None:
    message = _message_of(tmp_path, event_of(kind, subjects=(("study", STUDY),)))
    assert _objects(message)["<none>"] == "2"
    assert problems(message) == []


def test_what_comes_in_has_the_peer_as_source(tmp_path: Path) -> None:
    source, destination = _message_of(tmp_path, event_of("received")).findall("ActiveParticipant")
    assert (source.attrib["UserName"], destination.attrib["UserName"]) == ("South", "North General")
    assert destination.attrib["UserIsRequestor"] == "true"


@pytest.mark.parametrize(("direction", "asking"), [("out", "South"), ("in", "North General")])
def test_who_asks_is_the_source_of_a_query(tmp_path: Path, direction: str, asking: str) -> None:
    event = event_of("requested", details={"direction": direction, "transfer": "ab"})
    message = _message_of(tmp_path, event)
    assert _code(message, "EventID") == ["110112"]
    assert message.findall("ActiveParticipant")[0].attrib["UserName"] == asking
    [query] = message.iter("ParticipantObjectQuery")
    assert json.loads(base64.b64decode(query.text or ""))["studies"] == [STUDY]


def test_what_failed_or_was_refused_says_so(tmp_path: Path) -> None:
    refused = _message_of(tmp_path, event_of("refused"))
    assert refused[0].attrib["EventOutcomeIndicator"] == "4"
    assert _code(refused, "EventTypeCode")[0] == "110147"
    failed = _message_of(tmp_path / "f", event_of("disclosure-failed"))
    assert failed[0].attrib["EventOutcomeIndicator"] == "8"
    assert failed.findtext("EventIdentification/EventOutcomeDescription")


def test_what_was_erased_is_a_commitment_with_its_own_kind(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append(event_of("disclosed"))
    [study, patient] = [commitment for _, commitment in entries_of(log)[1].subjects]
    erase(log, "patient", PATIENT, lambda _: None)
    message = _messages(log)[1]
    assert _objects(message) == {
        f"{ORIGIN}#1": "12",
        study: "study-commitment",
        patient: "patient-commitment",
    }
    assert problems(message) == []
    everything = b"".join(ElementTree.tostring(one) for one in _messages(log))
    assert STUDY.encode() not in everything
    assert PATIENT.encode() not in everything
    log.close()


def test_many_studies_are_told_in_several_messages(tmp_path: Path) -> None:
    log = create(tmp_path)
    count = 2 * MESSAGE_STUDIES + 1
    studies = tuple(("study", f"1.2.3.{number}") for number in range(count))
    log.append(event_of("announced", subjects=studies))
    messages = _messages(log)[1:]
    assert len(messages) == 3
    told = [
        name for message in messages for name, kind in _objects(message).items() if "1.2." in name
    ]
    assert told == [uid for _, uid in studies]
    assert all(len(ElementTree.tostring(message)) < 32_768 for message in messages)
    log.close()


def test_names_and_identities_cannot_break_the_file(tmp_path: Path) -> None:
    hostile = 'A"><x/>&\x00\x1b\u202e'
    own = Card(**{**vars(SOUTH_CARD), "name": hostile})
    log = create(tmp_path)
    log.append(event_of("disclosed", subjects=(("study", STUDY), ("patient", hostile))))
    chosen = [
        message
        for record in records(log, Selection())
        for message in audit_messages(record, Facilities(own, []), ORIGIN)
    ]
    root = ElementTree.fromstring(b"".join(document(chosen)))
    assert root.tag == "AuditMessages"
    assert [problem for message in root for problem in problems(message)] == []
    cleaned = 'A"><x/>&' + 3 * "\N{REPLACEMENT CHARACTER}"
    assert root[0].find("AuditSourceIdentification").attrib["AuditEnterpriseSiteID"] == cleaned
    log.close()


@given(text=st.text(), name=st.text(), why=st.text())
def test_any_text_gives_a_message_of_the_schema(text: str, name: str, why: str) -> None:
    entry = {
        "index": 7, "time": "2026-11-24T09:31:58.123Z", "type": "disclosure-failed",
        "actor": "node", "peer": SOUTH_KEY.public.hex(), "purpose": text, "outcome": "failed",
        "details": {"transfer": text, "why": why, "stat": True, "instances": 3}, "v": 1,
        "subjects": [],
    }  # fmt: skip
    subjects = (Subject("study", "0" * 64, text), Subject("patient", "1" * 64, name))
    own = Facilities(Card(**{**vars(SOUTH_CARD), "name": name}), [])
    for message in audit_messages(Record(entry, subjects), own, ORIGIN):
        message = audit_message(message)
        assert b"\n" not in message
        assert problems(ElementTree.fromstring(message)) == []


def test_a_facility_that_is_not_known_any_more_has_its_fingerprint(tmp_path: Path) -> None:
    message = _message_of(tmp_path, event_of("disclosed", peer=STRANGER))
    assert message.findall("ActiveParticipant")[1].attrib["UserName"] == fingerprint(STRANGER)
    assert problems(message) == []


def test_only_what_was_selected_is_named(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append(event_of("announced", subjects=(("study", STUDY), ("study", OTHER_STUDY))))
    [record] = records(log, Selection(study=STUDY))
    [message] = audit_messages(record, FACILITIES, ORIGIN)
    assert [thing.identity for thing in message.of_kind("study")] == [STUDY]
    log.close()
