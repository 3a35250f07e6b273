"""Every patient of a study is in the log, and one of two patients waits for a person."""

import csv
import io
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from facility_in_memory import Other, available, entries, told_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studies_made import make_instance
from two_in_memory import TwoNodes, two_nodes

from node.alerts import alerts_of
from node.app import Node
from node.catalog.names import folded
from node.catalog.patients import (
    PATIENTS,
    Described,
    count_of,
    identities,
    why_to_check,
)
from node.cli.studies import study_table
from node.dicom.headers import StudyAttributes
from node.errors import ExitCode, NodeError
from node.home import Home
from node.operations import OPERATIONS, Call
from node.reports.accounting import Accounting
from node.reports.facilities import Facilities
from node.reports.selection import Selection
from node.transfer.rereading import Rereading

STUDY = "1.2.826.0.1.3680043.8.498.23"


@dataclass(frozen=True)
class Image:
    """What one image says; `issuer` and `patient` as in the file, with blanks."""

    patient: str = ""
    issuer: str = ""
    name: str = ""
    series: int = 1

    @property
    def identity(self) -> str:
        """As the log commits to it."""
        patient, issuer = self.patient.strip(), self.issuer.strip()
        return f"{patient}^^^{issuer}" if patient and issuer else patient


def write(directory: Path, images: Sequence[Image], first: int = 1, study: str = STUDY) -> Path:
    """Write images as files, numbered from `first`."""
    directory.mkdir(parents=True)
    for number, image in enumerate(images, first):
        dataset = make_instance(study, number, rows=4, series=f"{study}.{image.series}")
        dataset.PatientID, dataset.PatientName = image.patient, image.name
        if image.issuer:
            dataset.IssuerOfPatientID = image.issuer
        dataset.save_as(directory / f"{number}.dcm", enforce_file_format=True)
    return directory


def call(node: Node, operation: str, **parameters: Any) -> dict[str, Any]:
    """Run an operation as a command does."""
    result = trio.run(OPERATIONS[operation].answer, Call(node), parameters)
    assert isinstance(result, dict)
    return result


def ingest(node: Node, directory: Path) -> dict[str, Any]:
    return call(node, "ingest", paths=[str(directory)])


def state_of(node: Node, study: str = STUDY) -> str:
    row = node.catalog.study(study)
    assert row is not None
    return row.state


def named(node: Node, patient: str, **selection: str) -> set[str]:
    """Types of the entries that `audit show --patient` lists."""
    found = call(node, "audit.show", patient=patient, **selection)
    return {entry["type"] for entry in found["entries"]}


def accounting(node: Node, patient: str = "") -> list[dict[str, str]]:
    """The lines of an accounting."""
    facilities = Facilities(node.card, node.peers.store.peers)
    made = Accounting(node.audit, Selection(patient=patient), facilities, with_exempt=True)
    return list(csv.DictReader(io.StringIO(b"".join(made.lines()).decode(), newline="")))


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North")) as node:
        yield node


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    with two_nodes(tmp_path) as made:
        yield made


# --- what is one patient ----------------------------------------------------------------

IDS = st.sampled_from(["", "A", "B", "C"])
ISSUERS = st.sampled_from(["", "ABCD", "EFGH"])
PATIENTS_OF = st.sets(st.tuples(IDS.filter(bool), ISSUERS), max_size=6)


@given(PATIENTS_OF)
def test_what_is_missing_never_differs(patients: set[tuple[str, str]]) -> None:
    can_be_one = all(
        one[0] == other[0] and (one[1] == other[1] or not one[1] or not other[1])
        for one in patients
        for other in patients
    )
    assert (why_to_check(patients) == "") == can_be_one
    assert (count_of(patients) <= 1) == can_be_one


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        ("DOE^JOHN", "Doe^John^", True),
        ("Doe, John", "DOE^JOHN", True),
        ("Müller^Änne", "MULLER^ANNE", True),
        ("Yamada^Tarou=山田^太郎", "YAMADA^TAROU", True),
        ("Doe^John", "Doe^Joan", False),
    ],
)
def test_names_are_compared_folded(one: str, other: str, are_equal: bool) -> None:
    assert (folded(one) == folded(other)) is are_equal


_FIELDS = [name for name in StudyAttributes.__slots__ if name != "study_uid"]


@given(
    st.lists(
        st.fixed_dictionaries({name: st.sampled_from(["", "a", "b"]) for name in _FIELDS}),
        max_size=5,
    ),
    st.randoms(),
)
def test_what_instances_say_has_no_order(said: list[dict[str, str]], random: Any) -> None:
    attributes = [StudyAttributes(study_uid=STUDY, **each) for each in said]
    shuffled = random.sample(attributes, len(attributes))
    empty = dict.fromkeys((*_FIELDS, "description"), "")
    found = [Described(each) for each in (attributes, shuffled, [*shuffled, *attributes])]
    for one in found:
        assert one.patients == found[0].patients
        filled = one.missing_of(empty)
        assert filled == found[0].missing_of(empty)
        for name in ("accession_number", "study_date", "patient_id"):
            assert bool(filled.get(name)) == any(each[name] for each in said)


# --- the catalog --------------------------------------------------------------------------


def test_a_study_of_two_patients_waits_until_an_operator_shares_it(
    north: Node, tmp_path: Path
) -> None:
    south = Other("South Clinic", north.clock.now())
    south.pair(north, "see", "fetch")
    report = ingest(north, write(tmp_path / "in", [Image("PAT-A"), Image(" PAT-B ")]))
    assert any("its images name 2 Patient IDs; it is not shared" in n for n in report["notes"])
    assert state_of(north) == "to check"
    assert available(told_to(north, south)) == set()
    [ingested] = entries(north, "ingest")
    assert ingested["details"]["to_check"] == "its images name 2 Patient IDs"
    assert len(ingested["subjects"]) == 3
    assert [alert for alert in alerts_of(north, None) if "1 study to check" in alert]
    [listed] = call(north, "studies", to_check=True)["studies"]
    assert (listed["state"], listed["to_check"]) == ("to check", "its images name 2 Patient IDs")
    shown = study_table([listed], with_place=False)
    assert "to check" in shown[1]
    assert shown[3] == "  look at it: its images name 2 Patient IDs"
    assert call(north, "share", study=STUDY)["state"] == "shared"
    assert available(told_to(north, south)) == {STUDY}
    assert not alerts_of(north, None)
    assert call(north, "studies", to_check=True)["studies"] == []
    [shared] = entries(north, "shared")
    assert len(shared["subjects"]) == 3


@pytest.mark.parametrize(
    ("images", "waits"),
    [
        ([Image("2405", "ABCD"), Image("2405", "EFGH")], True),
        ([Image("2405", "ABCD"), Image("2405")], False),
        ([Image("2405", "ABCD"), Image()], False),
        ([Image("", "ABCD"), Image("2405", "EFGH")], False),
        ([Image("2405"), Image(" 2405 ")], False),
        ([Image("2405"), Image("02405")], True),
        ([Image("2405", name="A^B"), Image("2405", name="C^D")], False),
    ],
)
def test_which_studies_wait(north: Node, tmp_path: Path, images: list[Image], waits: bool) -> None:
    ingest(north, write(tmp_path / "in", images))
    assert state_of(north) == ("to check" if waits else "shared")
    assert set(north.catalog.patients(STUDY)) == {one.identity for one in images} - {""}


def test_names_that_differ_are_noted_and_no_more(north: Node, tmp_path: Path) -> None:
    ingest(north, write(tmp_path / "a", [Image("P", name="DOE^JOHN")]))
    report = ingest(north, write(tmp_path / "b", [Image("P", name="Doe^John^")], 2))
    assert report["notes"] == []
    report = ingest(north, write(tmp_path / "c", [Image("P", name="Roe^Jane")], 3))
    note = "its images write the patient's name in several ways"
    assert report["notes"] == [f"study {STUDY}: {note}"]
    [listed] = call(north, "studies")["studies"]
    assert (listed["state"], listed["note"]) == ("shared", note)


def test_a_shared_study_that_gets_another_patient_is_not_shared_any_more(
    north: Node, tmp_path: Path
) -> None:
    south = Other("South Clinic", north.clock.now())
    south.pair(north, "see", "fetch")
    ingest(north, write(tmp_path / "a", [Image("P")]))
    assert available(told_to(north, south)) == {STUDY}
    ingest(north, write(tmp_path / "b", [Image("Q")], 2))
    assert state_of(north) == "to check"
    assert available(told_to(north, south)) == set()
    call(north, "share", study=STUDY)
    # Whom an operator has seen in it does not stop it again.
    ingest(north, write(tmp_path / "c", [Image("Q"), Image("P", "ABCD"), Image()], 3))
    assert state_of(north) == "shared"
    ingest(north, write(tmp_path / "d", [Image("R")], 6))
    assert state_of(north) == "to check"


def test_an_operator_settles_that_a_study_is_not_shared(north: Node, tmp_path: Path) -> None:
    ingest(north, write(tmp_path / "a", [Image("P"), Image("Q")]))
    assert call(north, "withdraw", study=STUDY)["state"] == "withheld"
    assert not alerts_of(north, None)
    assert [entry["outcome"] for entry in entries(north, "withdrawn")] == ["success"]
    ingest(north, write(tmp_path / "b", [Image("Q")], 3))
    assert state_of(north) == "withheld"


def test_an_export_says_what_is_to_be_checked(north: Node, tmp_path: Path) -> None:
    ingest(north, write(tmp_path / "in", [Image("P"), Image("Q")]))
    exported = call(north, "export", study=STUDY, directory=str(tmp_path / "out"))
    assert (exported["files"], exported["to_check"]) == (2, "its images name 2 Patient IDs")


@pytest.mark.slow
def test_what_came_from_a_peer_is_settled_by_withdrawing_it(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    ingest(nodes.north, write(tmp_path / "in", [Image("P"), Image("Q")]))
    nodes.north.shared_studies.share(STUDY)
    assert nodes.fetch(STUDY)
    assert state_of(nodes.south) == "withheld"
    assert call(nodes.south, "studies", to_check=True)["total"] == 1
    assert not alerts_of(nodes.south, None)
    call(nodes.south, "withdraw", study=STUDY)
    assert call(nodes.south, "studies", to_check=True)["total"] == 0
    assert state_of(nodes.south) == "withheld"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "more", "why"),
    [
        (Image("PAT-A", "ISSUER"), Image("PAT-A"), ""),
        (Image("PAT-A"), Image(""), ""),
        (Image("PAT-A"), Image("PAT-B"), "its images name 2 Patient IDs"),
        (Image(""), Image("PAT-A"), "its new images name a patient, and those before named none"),
    ],
)
def test_what_was_shared_onward_and_grows_is_shared_with_the_same_patients_alone(
    nodes: TwoNodes, tmp_path: Path, first: Image, more: Image, why: str
) -> None:
    north, south = nodes.north, nodes.south
    ingest(north, write(tmp_path / "first", [first]))
    assert nodes.fetch(STUDY)
    south.shared_studies.share(STUDY)
    ingest(north, write(tmp_path / "more", [more], first=2))
    north.shared_studies.share(STUDY)
    assert nodes.fetch(STUDY)
    row = south.catalog.find_study(STUDY)
    assert (row.instance_count, row.state, row.to_check) == (
        2,
        "withheld" if why else "shared",
        why,
    )
    assert entries(south, "received")[-1]["details"].get("to_check", "") == why


def test_a_study_of_more_patients_than_an_entry_can_name_is_never_shared(
    north: Node, tmp_path: Path
) -> None:
    images = [Image(f"P{number:04}", "AN ISSUER") for number in range(PATIENTS + 3)]
    ingest(north, write(tmp_path / "in", images))
    assert state_of(north) == "to check"
    with pytest.raises(NodeError, match=f"its images name more than {PATIENTS} patients") as caught:
        north.shared_studies.share(STUDY)
    assert caught.value.code is ExitCode.REFUSED
    assert state_of(north) == "to check"
    assert len(entries(north, "ingest")[0]["subjects"]) == 1 + PATIENTS


# --- the cases that were reported ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "patients", "accession"),
    [
        ("two-patients-one-study", ["PAT-A", "PAT-B"], ""),
        ("series-without-patient-first", ["PAT-Z"], "ACC77"),
        ("sparse-report-first", [], "ACC88"),
    ],
)
def test_cases_that_were_reported(
    nodes: TwoNodes, shared: Path, case: str, patients: list[str], accession: str
) -> None:
    ingest(nodes.north, shared / "cases" / "images" / case)
    [row] = nodes.north.catalog.studies()
    if len(patients) > 1:
        assert not nodes.fetch(row.study_uid)
        nodes.north.shared_studies.share(row.study_uid)
    assert nodes.fetch(row.study_uid)
    for patient in patients:
        assert named(nodes.north, patient) >= {"ingest", "disclosure-begun", "disclosed"}
        assert named(nodes.south, patient) >= {"received", "receipt"}
        assert [line["patient"] for line in accounting(nodes.north, patient)] == [patient]
    for node in (nodes.north, nodes.south):
        if accession:
            found = node.catalog.find_study(accession)
            assert found.study_uid == row.study_uid
            assert found.study_date
    received = nodes.south.catalog.study(row.study_uid)
    assert received is not None
    assert received.state == "withheld"
    assert received.to_check == ("its images name 2 Patient IDs" if len(patients) > 1 else "")


@pytest.mark.slow
def test_an_accounting_for_one_patient_names_no_other(nodes: TwoNodes, tmp_path: Path) -> None:
    ingest(nodes.north, write(tmp_path / "in", [Image("PAT-A"), Image("PAT-B", "ISSUER")]))
    nodes.north.shared_studies.share(STUDY)
    assert nodes.fetch(STUDY)
    assert [line["patient"] for line in accounting(nodes.north, "PAT-B")] == ["PAT-B^^^ISSUER"]
    lines = accounting(nodes.north)
    assert [line["patient"] for line in lines] == ["PAT-A", "PAT-B^^^ISSUER"]
    assert len({line["entry"] for line in lines}) == 1
    shown = call(nodes.north, "audit.show", patient="PAT-B")["entries"]
    assert "PAT-A" not in json.dumps(shown)


# --- the property ---------------------------------------------------------------------------

IMAGES = st.builds(
    Image,
    patient=st.sampled_from(["", "P", " P ", "Q"]),
    issuer=st.sampled_from(["", "ABCD", "EFGH"]),
    series=st.integers(1, 3),
)
STEPS = st.lists(
    st.tuples(st.lists(IMAGES, min_size=1, max_size=3), st.booleans()), min_size=1, max_size=3
)
"""Ingests of some images each, and whether South fetches behind it."""


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_every_patient_of_a_study_is_found_on_both_sides(
    steps: list[tuple[list[Image], bool]],
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        two_nodes(Path(folder)) as nodes,
    ):
        _check_steps(Path(folder), nodes, steps)


def _check_steps(directory: Path, nodes: TwoNodes, steps: list[tuple[list[Image], bool]]) -> None:
    there: set[tuple[str, str]] = set()
    seen_by_operator = 1
    total = 0
    for number, (images, fetches) in enumerate([*steps, ([Image()], True)]):
        ingest(nodes.north, write(directory / f"in{number}", images, total + 1))
        total += len(images)
        there |= {(i.patient.strip(), i.issuer.strip()) for i in images if i.patient.strip()}
        waits = count_of(there) > seen_by_operator
        assert state_of(nodes.north) == ("to check" if waits else "shared")
        assert nodes.north.catalog.patients(STUDY) == identities(there)
        if not fetches:
            continue
        if waits:
            assert not nodes.fetch(STUDY)
            nodes.north.shared_studies.share(STUDY)
            seen_by_operator = count_of(there)
        assert nodes.fetch(STUDY)
        _check_found(nodes, there)
    _check_erased(nodes, there)


def _check_found(nodes: TwoNodes, there: set[tuple[str, str]]) -> None:
    assert nodes.south.catalog.patients(STUDY) == identities(there)
    assert bool(why_to_check(there)) == bool(nodes.south.catalog.studies()[0].to_check)
    assert state_of(nodes.south) == "withheld"
    for identity in identities(there):
        assert named(nodes.north, identity) >= {"ingest", "disclosure-begun", "disclosed"}
        assert named(nodes.south, identity) >= {"received", "receipt"}
        disclosures = entries(nodes.north, "disclosure-begun")
        lines = accounting(nodes.north, identity)
        assert {line["entry"] for line in lines} == {str(one["index"]) for one in disclosures}
        assert identity in {line["patient"] for line in lines}
    for node, kind in ((nodes.north, "disclosed"), (nodes.south, "received")):
        last = call(node, "audit.show", type=kind)["entries"][-1]
        opened = {one["value"] for one in last["opened"] if one["kind"] == "patient"}
        assert opened == set(identities(there))


def _check_erased(nodes: TwoNodes, there: set[tuple[str, str]]) -> None:
    left = set(identities(there))
    for identity in identities(there):
        if identity not in left:
            continue
        for node in (nodes.north, nodes.south):
            result = call(node, "audit.erase", what=identity, kind="patient", confirmed=True)
            assert result["erased"]
            with pytest.raises(NodeError, match="nothing that names this patient"):
                named(node, identity)
        left -= {one for one in left if one == identity or one.startswith(f"{identity}^^^")}
        for other in left:
            assert "disclosed" in named(nodes.north, other)
            assert "received" in named(nodes.south, other)


# --- homes of an earlier release --------------------------------------------------------------


def _as_left_by_8dfb4af(node: Node) -> None:
    """The catalog as a migration leaves it: one patient, shared, nothing else known."""

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM study_patients WHERE patient_id <> 'P'")
        connection.execute("UPDATE studies SET shared = 1, to_check = '', accession_number = ''")
        connection.execute("INSERT INTO unread_studies SELECT study_uid FROM studies")

    node.catalog._database.transact(change)


async def _read_again(node: Node) -> None:
    rereading = Rereading(node.catalog, node.store, node.audit.append)
    for study in node.catalog.unread():
        assert await rereading.read(study)


@pytest.mark.slow
def test_what_an_earlier_release_shared_is_read_again_and_stays_shared_with_an_alert(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    north = nodes.north
    ingest(north, write(tmp_path / "in", [Image("P"), Image("Q"), Image("", series=2)]))
    _as_left_by_8dfb4af(north)
    assert nodes.fetch(STUDY)
    assert "disclosed" not in {
        entry["type"]
        for entry in call(north, "audit.show")["entries"]
        if any(one["value"] == "Q" for one in entry["opened"])
    }
    trio.run(_read_again, north)
    assert north.catalog.unread() == []
    assert north.catalog.patients(STUDY) == ("P", "Q")
    assert state_of(north) == "shared"
    assert [alert for alert in alerts_of(north, None) if "earlier release has shared" in alert]
    last = entries(north, "ingest")[-1]
    assert (last["actor"], last["details"]["instances"]) == ("node", 0)
    assert "to_check" not in last["details"]
    # The disclosure before it is found under both now.
    assert "disclosed" in named(north, "Q")
    call(north, "share", study=STUDY)
    assert not alerts_of(north, None)
    assert state_of(north) == "shared"


def test_a_study_that_is_of_one_patient_is_read_again_without_a_word(
    north: Node, tmp_path: Path
) -> None:
    ingest(north, write(tmp_path / "in", [Image("P"), Image("", series=2)]))
    _as_left_by_8dfb4af(north)
    before = north.audit.size
    trio.run(_read_again, north)
    assert (north.audit.size, north.catalog.unread(), alerts_of(north, None)) == (before, [], [])


def test_a_patient_whose_images_are_gone_is_dropped_when_a_study_is_read_again(
    north: Node, tmp_path: Path
) -> None:
    ingest(north, write(tmp_path / "in", [Image("P"), Image("P", "ABCD")]))

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO study_patients VALUES (?, 'GONE', '')", (STUDY,))
        connection.execute("UPDATE studies SET shared = 0, to_check = 'two'")
        connection.execute("INSERT INTO unread_studies SELECT study_uid FROM studies")

    north.catalog._database.transact(change)
    trio.run(_read_again, north)
    assert north.catalog.patients(STUDY) == ("P", "P^^^ABCD")
    assert state_of(north) == "withheld"
