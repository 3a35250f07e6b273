"""Accounting of disclosures: one line each, with its end, safe in a spreadsheet."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from logs_made import CARD, Clock, create
from reports_made import (
    FACILITIES,
    OTHER_PATIENT,
    OTHER_STUDY,
    PATIENT,
    SOUTH,
    SOUTH_CARD,
    SOUTH_KEY,
    STEP_MS,
    STRANGER,
    STUDY,
    event_of,
)

from keys.fingerprint import fingerprint
from keys.trust import Peer
from node.audit.erasing import erase
from node.audit.log import AuditLog
from node.reports.accounting import COLUMNS, Accounting, safe_cell
from node.reports.facilities import Facilities
from node.reports.selection import Selection, parse_moment
from protocol.log.entry import Event, subjects_of


def _transfer(log: AuditLog, clock: Clock, name: int, end: str = "disclosed", **fields) -> None:
    details = {"transfer": f"{name:032x}", "instances": 2}
    for kind in ("disclosure-begun", end):
        if kind:
            clock.now += STEP_MS
            log.append(event_of(kind, details=details, **fields))


def _rows(log: AuditLog, selection: Selection | None = None, **options) -> list[dict[str, str]]:
    options.setdefault("with_exempt", True)
    facilities = options.pop("facilities", FACILITIES)
    made = Accounting(log, selection or Selection(), facilities, **options)
    text = b"".join(made.lines()).decode()
    assert text.endswith("\r\n")
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def clock() -> Clock:
    """The clock of the log."""
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock):
    """A log with nothing in it yet."""
    made = create(tmp_path, clock)
    yield made
    made.close()


def test_a_line_says_when_to_whom_what_and_why(log: AuditLog, clock: Clock) -> None:
    _transfer(log, clock, 1, purpose="research")
    assert _rows(log) == [
        {
            "date_utc": "2026-11-24T10:31:58.123Z",
            "recipient_name": "South",
            "recipient_address": "not known",
            "recipient_network_address": "/dns4/radmesh.south.example/tcp/4101",
            "patient": PATIENT,
            "description": "2 images of one imaging study (DICOM images with their headers)",
            "purpose": "research",
            "outcome": "received by the recipient",
            "study": STUDY,
            "instances": "2",
            "recipient_fingerprint": SOUTH_CARD.fingerprint,
            "transfer": f"{1:032x}",
            "entry": "1",
        }
    ]


def test_what_needs_no_accounting_is_counted_and_left_out(log: AuditLog, clock: Clock) -> None:
    for number, purpose in enumerate(("treatment", "research", "operations", "second-opinion")):
        _transfer(log, clock, number, purpose=purpose)
    made = Accounting(log, Selection(), FACILITIES, with_exempt=False)
    assert len(list(made.lines())) == 2
    assert (made.count, made.left_out) == (1, 3)
    assert [row["purpose"] for row in _rows(log)] == [
        "treatment", "research", "operations", "second-opinion",
    ]  # fmt: skip


def test_a_disclosure_that_broke_off_or_has_no_end_is_in_it(log: AuditLog, clock: Clock) -> None:
    _transfer(log, clock, 1, "disclosure-failed")
    _transfer(log, clock, 2, "")
    _transfer(log, clock, 2)
    _transfer(log, clock, 3, "")
    assert [(row["entry"], row["outcome"].split(";")[0]) for row in _rows(log)] == [
        ("3", "received by the recipient"),
        ("1", "broke off"),
        ("6", "begun, its end is not in the log"),
    ]


def test_the_beginning_counts_and_the_end_is_found_later(log: AuditLog, clock: Clock) -> None:
    _transfer(log, clock, 1)  # begins 10:31, ends 11:31
    _transfer(log, clock, 2)  # begins 12:31, ends 13:31
    _transfer(log, clock, 3)
    chosen = Selection(
        since=parse_moment("2026-11-24T11:00Z", end=False),
        until=parse_moment("2026-11-24T13:00Z", end=True),
    )
    [row] = _rows(log, chosen)
    assert row["transfer"] == f"{2:032x}"
    assert row["outcome"] == "received by the recipient"


@pytest.mark.parametrize("patient", ["PID-1001", PATIENT])
def test_of_one_patient(log: AuditLog, clock: Clock, patient: str) -> None:
    _transfer(log, clock, 1)
    _transfer(log, clock, 2, subjects=subjects_of(OTHER_STUDY, (OTHER_PATIENT,)))
    [row] = _rows(log, Selection(patient=patient))
    assert row["patient"] == PATIENT


def test_of_a_patient_whose_disclosure_names_the_study_alone(log: AuditLog, clock: Clock) -> None:
    log.append(event_of("ingest"))
    _transfer(log, clock, 1, subjects=subjects_of(STUDY, ()))
    [row] = _rows(log, Selection(patient=PATIENT))
    assert row["study"] == STUDY
    assert row["patient"] == "not named by the images"


def test_a_transfer_that_is_begun_again_while_its_first_session_breaks_off(
    log: AuditLog, clock: Clock
) -> None:
    _transfer(log, clock, 1, end="")
    _transfer(log, clock, 1, end="")
    # Another facility may call its transfer the same.
    _transfer(log, clock, 1, end="", peer=STRANGER)
    for kind in ("disclosure-failed", "disclosed"):
        clock.now += STEP_MS
        log.append(event_of(kind, details={"transfer": f"{1:032x}", "instances": 2}))
    assert [(row["entry"], row["outcome"][:8]) for row in _rows(log)] == [
        ("1", "received"),
        ("3", "begun, i"),
    ]


def test_a_transfer_that_broke_off_and_went_on_has_one_line(log: AuditLog, clock: Clock) -> None:
    _transfer(log, clock, 1, "disclosure-failed")
    _transfer(log, clock, 1, "")
    _transfer(log, clock, 1)
    [row] = _rows(log)
    assert (row["entry"], row["outcome"]) == ("1", "received by the recipient")


def test_a_killed_source_has_one_line_for_one_transfer(log: AuditLog, clock: Clock) -> None:
    """As in a log of 8dfb4af: begun twice, with a second receipt that came late."""
    details = {"transfer": f"{1:032x}", "instances": 2, "content_root": "ab" * 32}
    for kind in ("disclosure-begun", "disclosure-begun", "disclosed", "receipt", "receipt"):
        clock.now += STEP_MS
        log.append(event_of(kind, details=details))
    [row] = _rows(log)
    assert (row["entry"], row["outcome"]) == ("1", "received by the recipient")


@pytest.mark.parametrize(
    "other", [{"content_root": "cd" * 32}, {"purpose": "research"}, {"peer": STRANGER}]
)
def test_nothing_hides_behind_the_name_of_another_transfer(
    log: AuditLog, clock: Clock, other: dict[str, object]
) -> None:
    """The recipient chooses the name: what it takes under it must all be accounted for."""
    for more in ({}, other):
        root = more.get("content_root", "ab" * 32)
        fields = {name: value for name, value in more.items() if name != "content_root"}
        details = {"transfer": f"{1:032x}", "instances": 2, "content_root": root}
        log.append(event_of("disclosure-begun", details=details, **fields))
    assert len(_rows(log)) == 2


def test_a_second_disclosure_of_the_same_after_the_first_was_confirmed(
    log: AuditLog, clock: Clock
) -> None:
    _transfer(log, clock, 1)
    _transfer(log, clock, 1)
    assert [row["entry"] for row in _rows(log)] == ["1", "3"]


def test_letters_reach_the_recipient(log: AuditLog, clock: Clock) -> None:
    _transfer(log, clock, 1)
    south = replace(SOUTH, postal_address="South Clinic, 12 High Street, Southtown")
    [row] = _rows(log, facilities=Facilities(CARD, [south]))
    assert row["recipient_address"] == "South Clinic, 12 High Street, Southtown"


def test_of_one_study_and_one_peer(log: AuditLog, clock: Clock) -> None:
    _transfer(log, clock, 1)
    _transfer(log, clock, 2, peer=STRANGER)
    _transfer(log, clock, 3, subjects=subjects_of(OTHER_STUDY, (OTHER_PATIENT,)))
    assert len(_rows(log, Selection(study=STUDY))) == 2
    [row] = _rows(log, Selection(study=STUDY, peer=STRANGER.hex()))
    assert row["recipient_name"] == row["recipient_fingerprint"] == fingerprint(STRANGER)
    assert row["recipient_address"] == "not known"


def test_what_was_erased_is_told_without_a_name(log: AuditLog, clock: Clock) -> None:
    _transfer(log, clock, 1)
    erase(log, "patient", PATIENT, lambda _: None)
    [row] = _rows(log)
    assert row["patient"].startswith("erased (commitment ")
    assert row["study"].startswith("erased (commitment ")
    assert row["recipient_name"] == "South"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1+1", "\t=1", "\r=1", "＝1", "\u202e=1"]
)
def test_no_cell_is_a_formula(text: str) -> None:
    assert not safe_cell(text).lstrip().startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("text", ["P1;=1+1", "P1; @SUM(A1)", "P1,+1", "a;b;-1|=2", "x;＝1"])
def test_no_cell_is_a_formula_where_another_sign_ends_cells(text: str) -> None:
    for separator in (";", ",", "|"):
        for cell in safe_cell(text).split(separator):
            assert not cell.lstrip().startswith(("=", "+", "-", "@", "＝"))
    assert safe_cell("PID-7;B,C") == "PID-7;B,C"


def test_hostile_names_stay_in_their_cells(log: AuditLog, clock: Clock) -> None:
    hostile = '=HYPERLINK("http://x")\r\n"a",b'
    _transfer(log, clock, 1, subjects=subjects_of(STUDY, (hostile,)))
    peer = Peer(SOUTH_KEY.public, hostile, SOUTH_CARD)
    [row] = _rows(log, facilities=Facilities(CARD, [peer]))
    assert set(row) == set(COLUMNS)
    for name in ("patient", "recipient_name"):
        assert row[name].startswith("'=HYPERLINK")
        assert "\n" not in row[name]
    assert row["study"] == STUDY


# --- searches for a patient -----------------------------------------------------------


def _search(log: AuditLog, kind: str, *subjects: tuple[str, str], **fields: str) -> None:
    details: dict[str, str | int | bool] = {"find": f"{7:032x}", "by": "number"}
    if fields.get("why"):
        details["why"] = fields["why"]
    log.append(
        Event(
            type=kind,
            peer=SOUTH_KEY.public,
            purpose=fields.get("purpose", "research"),
            subjects=subjects,
            details=details,
        )
    )


_TWO = (("study", STUDY), ("study", OTHER_STUDY), ("patient", PATIENT), ("person", "m at South"))


def test_what_a_search_told_has_a_line_for_each_study_and_patient(log: AuditLog) -> None:
    _search(log, "find-answered", *_TWO)
    _search(log, "find-answered", ("study", "1.9"), ("patient", "P8"), ("patient", "P9"))
    rows = _rows(log)
    assert [(row["study"], row["patient"]) for row in rows] == [
        (STUDY, PATIENT),
        (OTHER_STUDY, PATIENT),
        ("1.9", "P8"),
        ("1.9", "P9"),
    ]
    assert {row["description"] for row in rows} == {
        "that one imaging study is here (the answer to a search for its patient)"
    }
    assert {(row["transfer"], row["outcome"], row["instances"]) for row in rows} == {
        (f"{7:032x}", "told to the recipient", "")
    }
    of_study = _rows(log, Selection(study=STUDY))
    assert [(row["study"], row["patient"]) for row in of_study] == [(STUDY, PATIENT)]
    of_patient = _rows(log, Selection(patient="P9"))
    assert [(row["study"], row["patient"]) for row in of_patient] == [("1.9", "P9")]


def test_a_question_and_too_many_studies_are_disclosures_and_a_miss_is_none(
    log: AuditLog,
) -> None:
    _search(log, "find-answered", ("patient", PATIENT))
    assert _rows(log) == []
    _search(log, "find-asked", ("patient", PATIENT))
    _search(log, "find-answered", ("patient", PATIENT), why="more than 200 studies")
    assert [(row["patient"], row["study"], row["description"]) for row in _rows(log)] == [
        (PATIENT, "", "who the patient is (a question to search for imaging studies)"),
        (PATIENT, "", "that many imaging studies are here (the answer to a search for its"
         " patient)"),
    ]  # fmt: skip


def test_searches_for_treatment_need_no_accounting(log: AuditLog) -> None:
    _search(log, "find-answered", *_TWO, purpose="treatment")
    made = Accounting(log, Selection(), FACILITIES, with_exempt=False)
    assert len(list(made.lines())) == 1
    assert (made.count, made.left_out) == (0, 2)
