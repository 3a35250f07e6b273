"""FHIR AuditEvents: valid R4B, and disclosures by the profiles of IHE BALP."""

import copy
import json
from pathlib import Path
from typing import Any

import balp_rules
import pytest
from logs_made import create, entries_of
from reports_made import FACILITIES, ORIGIN, PATIENT, STUDY, event_of, log_of_everything

from node.audit.erasing import erase
from node.audit.log import AuditLog
from node.callers import Caller, asked_by
from node.reports.audit_messages import EVENTS, audit_messages
from node.reports.fhir import RECIPIENT_PROFILE, SOURCE_PROFILE, lines
from node.reports.records import records
from node.reports.selection import Selection
from protocol.log.entry import subjects_of


def _events(log: AuditLog, *, persons: bool = False) -> list[dict[str, Any]]:
    chosen = (
        message
        for record in records(log, Selection())
        for message in audit_messages(record, FACILITIES, ORIGIN, persons=persons)
    )
    return [json.loads(line) for line in lines(chosen)]


def _check_fhir(event: dict[str, Any]) -> None:
    """Raise ValueError unless it is a valid AuditEvent of FHIR R4B."""
    pytest.importorskip("fhir.resources")
    from fhir.resources.R4B.auditevent import AuditEvent

    AuditEvent.model_validate(event)


def _changed(event: dict[str, Any], change: list[Any]) -> dict[str, Any]:
    """A copy with a change of the vectors: ["set", path, value] or ["remove", path]."""
    changed = copy.deepcopy(event)
    target: Any = changed
    *way, last = change[1].split(".")
    for step in way:
        target = target[int(step) if step.isdigit() else step]
    key = int(last) if last.isdigit() else last
    if change[0] == "remove":
        del target[key]
    else:
        target[key] = change[2]
    return changed


def test_events_of_every_type_are_valid_fhir(tmp_path: Path) -> None:
    log = log_of_everything(tmp_path)
    events = _events(log)
    assert len(events) == len(EVENTS)
    for event in events:
        _check_fhir(event)
    assert len({event["id"] for event in events}) == len(events)
    log.close()


def test_events_that_a_person_asked_for_are_valid_and_name_who(tmp_path: Path) -> None:
    with asked_by(Caller("person", "j.doe", role="send", display="Dr. J. Doe")):
        log = log_of_everything(tmp_path)
    for erased in (False, True):
        for event in _events(log):
            _check_fhir(event)
            assert "j.doe" not in json.dumps(event)
            assert "Dr. J. Doe" not in json.dumps(event)
        for event in _events(log, persons=True)[1 : len(EVENTS)]:
            _check_fhir(event)
            if "meta" in event:
                assert balp_rules.problems(event) == []
            [name] = [
                agent["name"]
                for agent in event["agent"]
                if agent["name"] == "Dr. J. Doe" or "person" in agent["name"]
            ]
            assert name == ("a person whose name is not here" if erased else "Dr. J. Doe")
            [role] = [agent["role"] for agent in event["agent"] if "role" in agent] or [None]
            assert role == (None if erased else [{"text": "send"}])
        erase(log, "person", "j.doe", lambda _: None)
    log.close()


@pytest.mark.parametrize(
    ("kind", "profile", "outcome"),
    [
        ("disclosed", SOURCE_PROFILE, "0"),
        ("disclosure-failed", SOURCE_PROFILE, "8"),
        ("received", RECIPIENT_PROFILE, "0"),
    ],
)
def test_disclosures_keep_the_rules_of_balp(
    tmp_path: Path, kind: str, profile: str, outcome: str
) -> None:
    log = create(tmp_path)
    log.append(event_of(kind))
    log.append(event_of(kind, subjects=subjects_of(STUDY, ())))
    erase(log, "study", "1.2", lambda _: None)
    for event in _events(log)[1:3]:
        assert event["meta"]["profile"] == [profile]
        assert event["outcome"] == outcome
        assert balp_rules.problems(event) == []
        _check_fhir(event)
    log.close()


def test_a_disclosure_of_several_patients_is_an_event_for_each(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append(event_of("disclosed", subjects=subjects_of(STUDY, (PATIENT, "OTHER"))))
    events = _events(log)[1:]
    numbers = [
        [
            entity["what"]["identifier"]["value"]
            for entity in event["entity"]
            if entity["what"].get("type") == "Patient"
        ]
        for event in events
    ]
    assert numbers == [[PATIENT.partition("^")[0]], ["OTHER"]]
    assert len({event["id"] for event in events}) == 2
    for event in events:
        assert balp_rules.problems(event) == []
        assert f"urn:oid:{STUDY}" in json.dumps(event)
    log.close()


def test_an_erased_disclosure_still_keeps_the_rules(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append(event_of("disclosed"))
    erase(log, "patient", PATIENT, lambda _: None)
    event = _events(log)[1]
    assert balp_rules.problems(event) == []
    identifiers = [entity["what"]["identifier"] for entity in event["entity"][:2]]
    assert [one["value"] for one in identifiers] == [
        commitment for _, commitment in entries_of(log)[1].subjects
    ]
    assert STUDY not in json.dumps(event)
    assert PATIENT.partition("^")[0] not in json.dumps(event)
    log.close()


def test_who_what_and_why(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append(event_of("disclosed"))
    event = _events(log)[1]
    assert event["purposeOfEvent"][0]["coding"][0]["code"] == "TREAT"
    assert [agent["name"] for agent in event["agent"]] == ["North General", "South"]
    study, patient = event["entity"][:2]
    assert study["what"]["identifier"] == {"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}
    assert patient["what"]["identifier"]["value"] == "PID-1001"
    assert patient["what"]["identifier"]["assigner"] == {"display": "NORTH"}
    assert event["recorded"].endswith("Z")
    log.close()


@pytest.fixture(scope="module")
def vector(shared: Path) -> dict[str, Any]:
    """The published shape of a disclosure and what must fail."""
    text = (shared / "vectors/health/balp_disclosure_source.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_rules_accept_the_published_shape(vector: dict[str, Any]) -> None:
    assert balp_rules.problems(vector["good"]) == []
    _check_fhir(vector["good"])


def test_the_rules_refuse_what_must_fail(vector: dict[str, Any]) -> None:
    for change in vector["must_fail_balp_profile_only"]:
        changed = _changed(vector["good"], change)
        assert balp_rules.problems(changed) != [], change
        _check_fhir(changed)
    for change in vector["must_fail_base_r4"]:
        with pytest.raises(ValueError, match="validation error"):
            _check_fhir(_changed(vector["good"], change))


def test_the_rules_refuse_our_events_changed_in_the_same_ways(
    tmp_path: Path, vector: dict[str, Any]
) -> None:
    log = create(tmp_path)
    log.append(event_of("disclosed"))
    event = _events(log)[1]
    # The patient is our second entity.
    changes = [
        ["remove", "entity.1"] if change == ["remove", "entity.0"] else change
        for change in vector["must_fail_balp_profile_only"]
    ]
    for change in changes:
        assert balp_rules.problems(_changed(event, change)) != [], change
    log.close()
