"""Whose a study from elsewhere is: what a person says, what a rule may say, and when it waits."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from facility_in_memory import entries
from matches_made import (
    HERE,
    OTHER,
    OWN,
    SETTINGS,
    STUDY,
    Three,
    ingest,
    ready,
    three_nodes,
    told,
    waiting,
)
from people_made import ask, list_people

from node.app import Node
from node.config import read_settings
from node.dicom.coercion import CannotCoerce, coerced
from node.dicom.identity import UNCHANGED, Code
from node.edges.door_settings import BadEdge
from node.edges.identity_settings import FromPeer, IdentitySettings, read_identity
from node.edges.match_rows import LocalPatient
from node.errors import ExitCode, NodeError
from node.retention import RETENTION
from protocol.log.entry import Event
from protocol.recalls import WRONG_WORKLIST


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    with three_nodes(tmp_path) as made:
        yield made


# --- without a match --------------------------------------------------------------------


def test_a_study_from_elsewhere_goes_nowhere_by_itself(three):
    three.come()
    south = three.south
    assert south.matches.ready(STUDY) is None
    assert waiting(south) == [(STUDY, "nothing says which patient here it is")]
    assert entries(south, "matched") == []
    assert south.matches.ready("1.2.3") is None


def test_a_study_made_here_goes_as_it_is_and_is_not_matched(three):
    ingest(three.south, three.folder, OWN)
    assert three.south.matches.ready(OWN) is UNCHANGED
    assert waiting(three.south) == []
    with pytest.raises(NodeError, match="was made here"):
        three.south.matches.match(OWN, HERE)


def test_images_of_a_peer_in_a_study_made_here_make_it_one_from_elsewhere(three):
    ingest(three.south, three.folder, STUDY, 9)
    assert ready(three.south) is UNCHANGED
    three.come()
    assert three.south.matches.ready(STUDY) is None
    assert waiting(three.south) == [(STUDY, "nothing says which patient here it is")]


@pytest.mark.parametrize(
    ("elsewhere", "is_elsewhere"),
    [(("command",), True), (("comm*",), True), (("comm",), False), (("folder:*",), False)],
)
def test_sources_here_whose_images_were_made_elsewhere(three, elsewhere, is_elsewhere):
    ingest(three.south, three.folder, OWN)
    three.south.matches.settings = replace(SETTINGS, elsewhere=elsewhere)
    assert (three.south.matches.ready(OWN) is None) is is_elsewhere
    assert bool(waiting(three.south)) is is_elsewhere


# --- by a person ------------------------------------------------------------------------


def test_a_person_says_whose_it_is(three):
    three.come(IssuerOfPatientID="NORTH")
    south, asked = three.south, []
    south.matches.on_change = asked.append
    south.matches.settings = replace(SETTINGS, peers={"North": FromPeer(prefix="N-")})
    south.matches.match(STUDY, replace(HERE, accession_number="L-5"))
    assert asked == [STUDY]
    assert waiting(south) == []
    identity = ready(south)
    assert (identity.patient_id, identity.issuer, identity.name) == ("H-77", "HOSP-A", HERE.name)
    assert (identity.prefix, identity.source) == ("N-", "North")
    [image] = three.images()
    now = pydicom.dcmread(io.BytesIO(coerced(image, identity, 1)))
    assert (now.PatientID, now.IssuerOfPatientID) == ("H-77", "HOSP-A")
    assert (now.AccessionNumber, now.StudyID) == ("L-5", "N-S1")
    [former] = now.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert (former.PatientID, former.AccessionNumber, former.StudyID) == ("P1", "ACC1", "S1")
    # The study here is as it came.
    [original] = south.catalog.manifest(STUDY).instances
    assert len(image) == original.size
    assert pydicom.dcmread(io.BytesIO(image)).PatientID == "P1"


def test_the_entry_names_both_patients_in_openings_alone(three):
    three.come(IssuerOfPatientID="NORTH")
    list_people(three.south)
    answer = ask(three.south, "anna", "match.set", study=STUDY, patient_id="H-77", name="X, Y")
    assert answer["result"]["match"]["name"] == "X^Y"
    [entry] = entries(three.south, "matched")
    assert (entry["actor"], entry["details"]["how"]) == ("operator", "person")
    assert entry["peer"] == three.north.card.facility_key.hex()
    openings = [three.south.audit.opening_of(one["commitment"]) for one in entry["subjects"]]
    values = [(one.kind, one.value) for one in openings]
    assert ("person", "anna") in [(kind, value.partition("^^^")[0]) for kind, value in values]
    assert [value for kind, value in values if kind == "patient"] == [
        "P1^^^NORTH",
        "H-77^^^HOSP-A",
    ]
    [facts] = [json.loads(value) for kind, value in values if kind == "facts"]
    assert facts["there"] == {
        "accession_number": "ACC1", "birth_date": "19700131", "name": "Mueller^Anna", "sex": "F",
        "study_id": "S1",
    }  # fmt: skip
    clear = json.dumps(entry)
    assert not any(word in clear for word in ("H-77", "P1", "ACC1", "Mueller", STUDY))


@pytest.mark.parametrize(
    "wrong",
    [
        {"patient_id": ""},
        {"patient_id": " "},
        {"patient_id": "A\\B"},
        {"patient_id": "A" * 65},
        {"patient_id": "A\n"},
        {"issuer": "A\\B"},
        {"name": "N" * 65},
        {"birth_date": "1970"},
        {"birth_date": "19700231x"},
        {"sex": "W"},
        {"accession_number": "1" * 17},
    ],
)
def test_what_cannot_stand_in_an_image_is_refused(three, wrong):
    three.come()
    with pytest.raises(NodeError) as failed:
        three.south.matches.match(STUDY, replace(HERE, **wrong))
    assert failed.value.code is ExitCode.USAGE
    assert entries(three.south, "matched") == []


def test_the_same_match_again_is_no_entry(three):
    three.come()
    for _ in range(2):
        three.south.matches.match(STUDY, HERE)
    assert len(entries(three.south, "matched")) == 1


def test_another_match_has_another_mark_and_the_same_one_keeps_it(three):
    three.come()
    south = three.south
    south.matches.match(STUDY, HERE)
    mark = ready(south).mark
    south.matches.settings = replace(
        SETTINGS, peers={"North": FromPeer(prefix="N-")}, issuer="HOSP-A2"
    )
    three.come()
    assert ready(south).mark == mark
    south.matches.match(STUDY, replace(HERE, patient_id="H-78"))
    assert ready(south).mark != mark
    assert ready(south).prefix == "N-"


# --- by a rule --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_images", "peer", "is_matched"),
    [
        ("HOSP-A", "", True),
        ("REGION", "", True),
        ("NORTH", "", False),
        ("hosp-a", "", False),
        ("", "", False),
        ("", "REGION", True),
        ("", "NORTH", False),
        # What the images say goes before what the settings say of the facility.
        ("NORTH", "REGION", False),
    ],
)
def test_only_an_issuer_whose_ids_are_ours_matches(three, in_images, peer, is_matched):
    south = three.south
    south.matches.settings = replace(SETTINGS, peers={"North": FromPeer(issuer=peer)})
    said = {"IssuerOfPatientID": in_images} if in_images else {}
    three.come(**said)
    assert bool(waiting(south)) is not is_matched
    identity = south.matches.ready(STUDY)
    assert (identity is not None) is is_matched
    assert len(entries(south, "matched")) == is_matched
    if identity is not None:
        assert (identity.patient_id, identity.issuer, identity.name) == ("P1", "HOSP-A", "")
        assert south.matches.ready(STUDY) == identity
        [entry] = entries(south, "matched")
        assert (entry["actor"], entry["details"]["how"]) == ("node", "rule")


def test_the_issuer_of_facilities_counts_if_all_that_brought_the_study_have_it(three):
    south = three.south
    three.come()
    three.come(of="East")
    for known, is_matched in (("North", False), ("both", True)):
        peers = {"North": FromPeer(issuer="REGION")}
        if known == "both":
            peers[three.east.card.fingerprint] = FromPeer(issuer="REGION")
        south.matches.settings = replace(SETTINGS, peers=peers)
        assert (south.matches.ready(STUDY) is not None) is is_matched


@pytest.mark.parametrize(
    ("born", "is_matched"), [("19700131", True), ("", True), ("19700201", False)]
)
def test_a_patient_here_with_another_birth_date_contradicts_the_rule(three, born, is_matched):
    ingest(three.south, three.folder, OWN, PatientBirthDate=born)
    # What came from elsewhere says nothing against it.
    three.come(OTHER, PatientBirthDate="19550101")
    three.come(IssuerOfPatientID="REGION")
    assert (three.south.matches.ready(STUDY) is not None) is is_matched
    assert (STUDY in dict(waiting(three.south))) is not is_matched


def test_no_rule_without_our_own_issuer(three):
    three.south.matches.settings = IdentitySettings()
    three.come(IssuerOfPatientID="HOSP-A")
    assert three.south.matches.ready(STUDY) is None


def test_a_study_of_two_patients_is_matched_by_no_rule_and_by_a_person_who_has_looked(three):
    three.come(IssuerOfPatientID="REGION")
    three.come(IssuerOfPatientID="REGION", PatientID="P2")
    south = three.south
    assert south.matches.ready(STUDY) is None
    assert waiting(south) == [(STUDY, "its images name 2 Patient IDs")]
    with pytest.raises(NodeError, match="its images name 2 Patient IDs"):
        south.matches.match(STUDY, HERE)
    with pytest.raises(NodeError, match="its images name 2 Patient IDs"):
        south.matches.match_for_now(STUDY)
    south.matches.match(STUDY, HERE, several=True)
    identity = ready(south)
    for image in three.images():
        assert pydicom.dcmread(io.BytesIO(coerced(image, identity, 1))).PatientID == "H-77"


# --- growth -----------------------------------------------------------------------------


def test_a_study_that_grows_keeps_its_match_and_another_patient_ends_it(three):
    south = three.south
    three.come(IssuerOfPatientID="NORTH")
    south.matches.match(STUDY, HERE)
    before = ready(south)
    three.come(IssuerOfPatientID="NORTH")
    # An image that does not name the issuer is of any; one without a patient, too.
    three.come()
    three.come(PatientID="")
    assert ready(south) == before
    assert waiting(south) == []
    three.come(PatientID="P2", IssuerOfPatientID="NORTH")
    assert south.matches.ready(STUDY) is None
    [(_, why)] = waiting(south)
    assert why == "it has grown, and names another patient than when it was matched"
    refused = 0
    for image in three.images():
        try:
            coerced(image, before, 1)
        except CannotCoerce:
            refused += 1
    assert refused == 1


def test_a_rule_does_not_match_again_what_has_got_another_patient(three):
    south = three.south
    three.come(IssuerOfPatientID="REGION")
    ready(south)
    three.come(IssuerOfPatientID="HOSP-A", PatientID="P2")
    assert south.matches.ready(STUDY) is None
    assert len(entries(south, "matched")) == 1


def test_an_issuer_that_first_is_not_named_and_then_is_two(three):
    south = three.south
    three.come()
    south.matches.match(STUDY, HERE)
    three.come(IssuerOfPatientID="NORTH")
    assert ready(south)
    three.come(IssuerOfPatientID="EAST")
    assert south.matches.ready(STUDY) is None


# --- for now, and back ------------------------------------------------------------------


def test_an_urgent_study_goes_under_a_temporary_id_and_is_matched_later(three):
    south = three.south
    three.come()
    three.come(OTHER)
    south.matches.match_for_now(STUDY)
    south.matches.match_for_now(OTHER)
    one, other = ready(south), ready(south, OTHER)
    assert one.is_temporary
    assert one.patient_id.startswith("TEMP-")
    assert one.patient_id != other.patient_id
    assert dict(waiting(south)) == dict.fromkeys((STUDY, OTHER), "it has a temporary Patient ID")
    south.matches.match_for_now(STUDY)
    assert ready(south).patient_id not in (one.patient_id, other.patient_id)
    south.matches.match(STUDY, HERE)
    assert ready(south).mark != one.mark
    assert not ready(south).is_temporary
    assert dict(waiting(south)) == {OTHER: "it has a temporary Patient ID"}
    # It proposes nobody.
    [left] = south.unmatched.page(50)[0]
    assert [one.patient_id for one in south.unmatched.proposals(left)] == ["H-77"]


def test_a_match_that_is_undone_waits_for_a_person_also_where_a_rule_made_it(three):
    south = three.south
    three.come(IssuerOfPatientID="REGION")
    ready(south)
    south.matches.undo(STUDY)
    assert south.matches.ready(STUDY) is None
    assert waiting(south) == [(STUDY, "its match was undone")]
    with pytest.raises(NodeError, match="has no match"):
        south.matches.undo(STUDY)
    south.matches.match(STUDY, HERE)
    assert ready(south).patient_id == "H-77"
    assert [one["type"] for one in entries(south, "matched", "match-undone")] == [
        "matched", "match-undone", "matched",
    ]  # fmt: skip


def test_matches_are_there_after_a_new_start(tmp_path, three):
    three.come()
    three.south.matches.match(STUDY, HERE)
    before = ready(three.south)
    three.south.close()
    with Node.open(three.south.home) as south:
        assert south.matches.ready(STUDY) == before


# --- forgetting -------------------------------------------------------------------------


def rows(node: Node) -> int:
    [found] = node.database.query(
        "SELECT (SELECT count(*) FROM study_matches) + (SELECT count(*) FROM matched_patients)"
    )
    return int(found[0])


def test_the_match_of_a_discarded_study_goes_with_it(three):
    south = three.south
    three.come()
    south.matches.match(STUDY, HERE)
    south.discards.discard(STUDY, WRONG_WORKLIST)
    assert rows(south) == 0
    assert south.matches.ready(STUDY) is None


def test_a_study_that_is_discarded_while_it_is_matched_is_not_matched(three, monkeypatch):
    south = three.south
    three.come()
    append = south.effects.append

    def append_and_discard(event: Event) -> int:
        index = append(event)
        if event.type == "matched":
            south.discards.discard(STUDY, WRONG_WORKLIST)
        return index

    monkeypatch.setattr(south.effects, "append", append_and_discard)
    with pytest.raises(NodeError, match="discarded meanwhile"):
        south.matches.match(STUDY, HERE)
    assert rows(south) == 0
    assert [one["outcome"] for one in entries(south, "matched")] == ["success", "failed"]


@pytest.mark.parametrize("by", ["rule", "person"])
def test_an_image_of_another_patient_that_comes_while_it_is_matched_is_not_covered(
    three, monkeypatch, by
):
    south = three.south
    three.come(IssuerOfPatientID="REGION")
    append, by_rule = south.effects.append, south.matches.by_rule

    def grow() -> None:
        monkeypatch.undo()
        three.come(IssuerOfPatientID="REGION", PatientID="P2")

    def append_and_grow(event: Event) -> int:
        grow()
        return append(event)

    def decide_and_grow(*asked: Any) -> LocalPatient | None:
        found = by_rule(*asked)
        grow()
        return found

    if by == "rule":
        monkeypatch.setattr(south.matches, "by_rule", decide_and_grow)
    else:
        monkeypatch.setattr(south.effects, "append", append_and_grow)
    if by == "rule":
        assert south.matches.ready(STUDY) is None
    else:
        south.matches.match(STUDY, HERE)
    assert south.matches.ready(STUDY) is None
    assert [why for _, why in waiting(south)] == [
        "it has grown, and names another patient than when it was matched"
    ]


@pytest.mark.parametrize(
    ("kind", "what"), [("patient", "P1"), ("study", STUDY), ("patient", "H-77")]
)
def test_an_erasure_takes_the_match_with_it(three, kind, what):
    south = three.south
    three.come()
    south.matches.match(STUDY, HERE)
    told(south, "audit.erase", what=what, kind=kind, confirmed=True)
    assert rows(south) == 0
    assert south.matches.ready(STUDY) is None
    [entry] = entries(south, "matched")
    left = [south.audit.opening_of(one["commitment"]) for one in entry["subjects"]]
    assert not [one for one in left if one is not None and one.kind in ("study", "facts")]


def test_the_tables_are_in_the_inventory():
    tables = {table for row in RETENTION for table in row.tables}
    assert {"study_matches", "matched_patients"} <= tables


# --- two facilities, one number ---------------------------------------------------------


def test_two_facilities_with_the_same_patient_id_and_accession_number(three):
    south = three.south
    south.matches.settings = replace(
        SETTINGS, peers={"North": FromPeer(prefix="N-"), "East": FromPeer(prefix="E-")}
    )
    three.come(STUDY)
    three.come(OTHER, of="East", PatientName="Other^Body", PatientBirthDate="19550101")
    south.matches.match(STUDY, HERE)
    assert south.matches.ready(OTHER) is None
    [left] = south.unmatched.page(50)[0]
    assert left.row.study_uid == OTHER
    assert south.unmatched.proposals(left) == []
    south.matches.match(OTHER, LocalPatient(patient_id="H-99"))
    named = {}
    for study in (STUDY, OTHER):
        [image] = three.images(study)
        now = pydicom.dcmread(io.BytesIO(coerced(image, ready(south, study), 1)))
        named[study] = (now.PatientID, now.AccessionNumber)
        three._count += 1
    assert named == {STUDY: ("H-77", "N-ACC1"), OTHER: ("H-99", "E-ACC1")}


def test_a_temporary_match_says_nothing_of_the_patient(three):
    three.come()
    with pytest.raises(NodeError, match="made by the node"):
        told(three.south, "match.set", study=STUDY, temporary=True, patient_id="X")
    done = told(three.south, "match.set", study=STUDY, temporary=True)
    assert done["match"]["temporary"]
    assert told(three.south, "match.undo", study=STUDY) == {"study": STUDY}


# --- settings ---------------------------------------------------------------------------


def test_the_settings_are_read(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(
        """
[identity]
issuer = "HOSP-A"
ours = ["REGION"]
temporary = "T{number}X"
elsewhere = ["folder:discs"]

[identity.peers."South Clinic"]
issuer = "SOUTH"
prefix = "S-"

[identity.descriptions]
"CT  Thorax nativ" = "CT Chest"

[identity.body_parts]
"thorax" = "CHEST"

[identity.procedures]
"99SOUTH:CT77" = { value = "CTCHEST", scheme = "99HOSPA", meaning = "CT Chest" }
"""
    )
    found = read_settings(path).identity
    assert (found.issuer, found.ours, found.temporary) == ("HOSP-A", ("REGION",), "T{number}X")
    assert found.peers == {"South Clinic": FromPeer(issuer="SOUTH", prefix="S-")}
    assert found.maps.descriptions == {"ct thorax nativ": "CT Chest"}
    assert found.maps.body_parts == {"THORAX": "CHEST"}
    assert found.maps.procedures == {("99SOUTH", "CT77"): Code("CTCHEST", "99HOSPA", "CT Chest")}


def test_the_number_of_a_temporary_id_comes_at_the_end_where_nothing_else_is_said():
    assert read_identity({"temporary": "TEMP"}, {}).temporary_id(17) == "TEMP17"
    assert read_identity({"temporary": "T{number}X"}, {}).temporary_id(17) == "T17X"


@pytest.mark.parametrize(
    ("table", "tables"),
    [
        ({"issuer": "A\\B"}, {}),
        ({"issuer": "A" * 65}, {}),
        ({"issuer": "A", "ours": [""]}, {}),
        ({"temporary": "{number}{number}"}, {}),
        ({"temporary": "T" * 55 + "{number}"}, {}),
        ({"temporary": "Ü{number}"}, {}),
        ({}, {"peers": {"South": {"prefix": "123456789"}}}),
        ({}, {"peers": {"South": {"prefix": "Ü"}}}),
        ({}, {"peers": {"South": {"issuer": 1}}}),
        ({}, {"peers": {"South": {"name": "X"}}}),
        ({}, {"peers": {"South": "X"}}),
        ({}, {"peers": []}),
        ({}, {"descriptions": {"A": ""}}),
        ({}, {"descriptions": {"A": 1}}),
        ({}, {"body_parts": {"A": "chest"}}),
        ({}, {"procedures": {"A": {"value": "1", "scheme": "2", "meaning": "3"}}}),
        ({}, {"procedures": {"A:B": {"value": "1", "scheme": "2"}}}),
        ({}, {"procedures": {"A:B": {"value": "1" * 17, "scheme": "2", "meaning": "3"}}}),
        ({}, {"procedures": {"A:B": "C"}}),
    ],
)
def test_settings_that_are_none_are_refused(table, tables):
    with pytest.raises(BadEdge):
        read_identity(table, tables)


def test_an_error_of_the_settings_says_where(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[identity]\nours = [""]\n')
    with pytest.raises(NodeError, match=r"identity in .*config.toml have an issuer that is none"):
        read_settings(path)
    path.write_text("[identity]\nissuer = 5\n")
    with pytest.raises(NodeError, match=r"identity.issuer in .* must be a text"):
        read_settings(path)
