"""Two real nodes: South asks North for the studies of a patient, and fetches what it found."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import contents, make_instance

from node.errors import ExitCode, NodeError
from protocol import limits

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = "1.2.826.0.1.3680043.8.498"
ANNA = {"name": "Müller^Anna", "birth_date": "1970-01-31", "sex": "F"}
NUMBER = {"patient_id": "P1", "issuer": "NORTH"}


def _ingest(facility: Facility, directory: Path, number: int, **patient: str) -> str:
    study = f"{ROOT}.{number}"
    directory.mkdir()
    made = make_instance(study, 1, rows=8)
    values = {
        "PatientName": "Müller^Anna", "PatientID": "P1", "IssuerOfPatientID": "NORTH",
        "PatientBirthDate": "19700131", "PatientSex": "F",
    }  # fmt: skip
    for name, value in {**values, **patient}.items():
        setattr(made, name, value)
    made.save_as(directory / "one.dcm", enforce_file_format=True)
    facility.call("ingest", paths=[str(directory)])
    return study


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facility, Facility]]:
    """North has four studies and announces none to South, which may find and fetch."""
    directory = tmp_path_factory.mktemp("find")
    with two_facilities(directory, grants=("find",)) as (north, south):
        _ingest(north, directory / "1", 1)
        _ingest(north, directory / "2", 2, PatientName="MUELLER^ANNA")
        _ingest(north, directory / "3", 3, PatientBirthDate="19700130", PatientID="P2")
        north.call("withdraw", study=_ingest(north, directory / "4", 4))
        yield north, south


def _find(south: Facility, north: Facility, **asked: str) -> list[str]:
    answer = south.call("find", peer=north.name, **asked)
    return [study["study"] for study in answer["studies"]]


def _entries(facility: Facility, *kinds: str) -> list[dict[str, Any]]:
    return [entry for entry in facility.entries() if entry["type"] in kinds]


def _opened(entry: dict[str, Any], kind: str) -> list[str]:
    return [one["value"] for one in entry["opened"] if one["kind"] == kind]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (ANNA, [1, 2]),
        (NUMBER, [1, 2]),
        ({**ANNA, "name": "Muller, Anna"}, [1]),
        ({**ANNA, "sex": "M"}, []),
    ],
)
def test_what_is_found_is_what_is_shared_of_exactly_this_patient(
    pair: tuple[Facility, Facility], asked: dict[str, str], numbers: list[int]
) -> None:
    north, south = pair
    assert sorted(_find(south, north, **asked)) == [f"{ROOT}.{number}" for number in numbers]
    asking = _entries(south, "find-asked")[-1]
    name = asking["details"]["find"]
    answered = _entries(north, "find-answered")[-1]
    [found] = [one for one in _entries(south, "found") if one["details"]["find"] == name]
    details = answered["details"]
    assert (details.pop("rule"), len(details.pop("rights"))) == (
        "the grant find" if numbers else "",
        64,
    )
    assert details == {
        "find": name,
        "by": "number" if "patient_id" in asked else "person",
        "studies": len(numbers),
    }
    assert asking["purpose"] == answered["purpose"] == found["purpose"] == "treatment"
    assert sorted(_opened(answered, "study")) == sorted(_opened(found, "study"))
    # North names the patients of what it tells, or else the patient who was asked for.
    if numbers:
        assert _opened(answered, "patient") == ["P1^^^NORTH"]
    else:
        assert _opened(answered, "patient") == _opened(asking, "patient")
    assert len(_opened(asking, "patient")) == 1


def test_nothing_comes_that_was_not_asked_for(pair: tuple[Facility, Facility]) -> None:
    north, south = pair
    answer = south.call("find", peer=north.name, **ANNA)
    for study in answer["studies"]:
        assert (study["patient_id"], study["description"]) == ("", "")
        assert study["patient_name"] == ANNA["name"], "as we wrote it, not as North does"
        assert (study["state"], study["where"]) == ("found", north.name)
    with sqlite3.connect(south.home.database_path) as database:
        kept = database.execute("SELECT record FROM found_studies").fetchall()
    assert kept
    assert not any("P1" in record or "MUELLER" in record.upper() for (record,) in kept)


def test_what_was_found_is_listed_searched_and_fetched(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = f"{ROOT}.1"
    _find(south, north, **ANNA)
    assert {row["state"] for row in south.announced(north).values()} == {"found"}
    for narrowed in ({"peer": north.name}, {"all": True}, {"all": True, "name": "mueller"}):
        listed = south.call("studies", **narrowed)
        assert study in [row["study"] for row in listed["studies"] if row["state"] == "found"]
        assert listed["total"] == len(listed["studies"])
    assert south.call("studies", all=True, name="meier")["studies"] == []
    with pytest.raises(NodeError) as caught:
        south.call("fetch", study=study)
    assert caught.value.code is ExitCode.REFUSED, "to find is not to fetch"
    north.call("trust.grant", peer=south.name, grants=["see", "fetch"])
    try:
        assert south.call("fetch", study=study, peer=north.name)["state"] == "complete"
        south.call("export", study=study, directory=str(tmp_path / "out"))
        assert len(contents(tmp_path / "out")) == 1
    finally:
        north.call("trust.revoke", peer=south.name, grants=["see", "fetch"])


def test_reports_name_what_was_found(pair: tuple[Facility, Facility], tmp_path: Path) -> None:
    north, south = pair
    _find(south, north, **ANNA)
    shown = north.call("audit.show", patient="P1")["entries"]
    assert "find-answered" in {entry["type"] for entry in shown}
    shown = south.call("audit.show", patient="Müller^Anna")["entries"]
    assert {"find-asked", "found"} <= {entry["type"] for entry in shown}
    for facility in pair:
        path = tmp_path / f"{facility.home.path.name}.csv"
        facility.call("audit.report", format="accounting", path=str(path), exempt=True)
        text = path.read_text()
        assert "a search for its patient" in text if facility is north else "to search" in text
        facility.check_log(tmp_path)
        for form in ("dicom", "fhir"):
            facility.call("audit.report", format=form, path=str(tmp_path / f"{path.stem}.{form}"))


def test_without_the_grant_all_patients_are_the_same(pair: tuple[Facility, Facility]) -> None:
    north, south = pair
    north.call("trust.revoke", peer=south.name, grants=["find"])
    try:
        said = []
        for asked in (ANNA, {**ANNA, "name": "Nobody^Here"}):
            with pytest.raises(NodeError) as caught:
                south.call("find", peer=north.name, **asked)
            said.append((caught.value.message, caught.value.hint, caught.value.code))
        assert said[0] == said[1]
        assert "grant `find`" in said[0][1]
        refused = _entries(north, "refused")[-2:]
        assert [one["details"]["what"] for one in refused] == ["find", "find"]
    finally:
        north.call("trust.grant", peer=south.name, grants=["find"])


def test_erasing_the_patient_forgets_what_was_found(pair: tuple[Facility, Facility]) -> None:
    north, south = pair
    found = _find(south, north, **ANNA)
    north.call("trust.grant", peer=south.name, grants=["see", "fetch"])
    # The same as before, if tests before this one have asked for her number and fetched it.
    _find(south, north, patient_id="P1", issuer="NORTH")
    south.call("fetch", study=f"{ROOT}.1", peer=north.name)
    north.call("trust.revoke", peer=south.name, grants=["see", "fetch"])
    # South asked for Anna by name, and knows her number from the images that it fetched.
    shown = south.call("audit.show", patient="P1")["entries"]
    assert {"find-asked", "found", "received"} <= {entry["type"] for entry in shown}
    south.call("audit.erase", what="P1^^^NORTH", kind="patient", confirmed=True)
    with sqlite3.connect(south.home.database_path) as database:
        left = {row[0] for row in database.execute("SELECT study FROM found_studies")}
    assert found
    assert not left & set(found)
    with sqlite3.connect(south.home.audit_path / "evidence.db") as evidence:
        values = [row[0] for row in evidence.execute("SELECT value FROM openings")]
    assert not {"Müller^Anna^^^19700131 F", "Muller^Anna^^^19700131 F"} & set(values)


def test_the_command_says_what_was_found(pair: tuple[Facility, Facility]) -> None:
    _, south = pair
    words = ["find", "--at", "North General", "--patient-id", "P1", "--issuer"]
    done = south.cli(*words, "NORTH")
    assert f"{ROOT}.1" in done.stdout
    assert "radmesh fetch STUDY --from North General" in done.stderr
    done = south.cli(*words, "NOBODY")
    assert "no study of this patient" in done.stderr
    done = south.cli("studies", "--peer", "North General", "--patient-id", "P1", "--modality", "ct")
    assert f"{ROOT}.1" in done.stdout
    assert "found" in done.stdout
    done = south.cli("studies", "--all", "--name", "nobody", "--date", "2026-01-01..")
    assert "no such study was found" in done.stderr


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"patient_id": "P1"},
        {**ANNA, **NUMBER},
        {**ANNA, "patient_id": "P1"},
        {**ANNA, "name": "Müller"},
        {**ANNA, "name": "Müll*^Anna"},
        {**ANNA, "name": "Müller^Anna\\Meier^Eva"},
        {**ANNA, "sex": "X"},
        {**ANNA, "birth_date": "1970"},
        {**NUMBER, "patient_id": "P?"},
        {**NUMBER, "purpose": "curiosity"},
    ],
)
def test_a_patient_who_is_not_named_wholly_is_not_asked_for(
    pair: tuple[Facility, Facility], asked: dict[str, str]
) -> None:
    north, south = pair
    before = len(_entries(south, "find-asked"))
    with pytest.raises(NodeError) as caught:
        south.call("find", peer=north.name, **asked)
    assert caught.value.code is ExitCode.USAGE
    long = [value for key, value in asked.items() if len(value) > 1 and key != "purpose"]
    assert not any(value in caught.value.message for value in long)
    assert len(_entries(south, "find-asked")) == before


@pytest.mark.slow
def test_the_budget_holds_over_a_restart(pair: tuple[Facility, Facility]) -> None:
    """Last in this file: South may ask nothing more then."""
    north, south = pair
    assert _find(south, north, **NUMBER)
    with sqlite3.connect(north.home.database_path) as database:
        [(asked,)] = database.execute("SELECT count(*) FROM find_questions").fetchall()
        # As if South had asked more.
        database.executemany(
            "INSERT INTO find_questions SELECT randomblob(16), peer, asked FROM find_questions"
            " LIMIT 1",
            [()] * (limits.FINDS_AN_HOUR - asked),
        )
    for restart in (False, True):
        if restart:
            north.kill()
            north.start()
            wait_until(lambda: south.peer(north)["connected"])
        with pytest.raises(NodeError) as caught:
            _find(south, north, **NUMBER)
        assert "as many searches" in caught.value.message
        assert "search again in" in caught.value.hint
