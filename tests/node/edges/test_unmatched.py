"""Which studies wait for a person to say whose they are, and who is proposed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from matches_made import HERE, OTHER, OWN, STUDY, Three, ingest, three_nodes, told

from node.operations import match


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    with three_nodes(tmp_path) as made:
        yield made


# --- proposals --------------------------------------------------------------------------


def test_a_name_with_a_birth_date_proposes_and_never_matches(three):
    south = three.south
    ingest(south, three.folder, OWN, PatientID="H-1", PatientName="Müller^Anna")
    three.place(PatientName="MUELLER^ANNA")
    assert south.matches.ready(STUDY) is None
    [left] = south.unmatched.page(50)[0]
    [proposed] = south.unmatched.proposals(left)
    assert (proposed.patient_id, proposed.issuer) == ("H-1", "HOSP-A")
    assert proposed.why == "same name and birth date, of a study made here"


def test_another_person_is_not_proposed(three):
    ingest(three.south, three.folder, OWN, PatientID="H-1")
    others = [
        {"PatientBirthDate": "19700201"},
        {"PatientBirthDate": ""},
        {"PatientSex": "M"},
        {"PatientName": "Mueller^Anne"},
        {"PatientName": ""},
    ]
    for number, said in enumerate(others):
        three.place(f"{STUDY}{number}", **said)
    found = three.south.unmatched.page(50)[0]
    assert len(found) == len(others)
    assert not any(three.south.unmatched.proposals(one) for one in found)


def test_what_was_matched_before_is_proposed_first_and_each_once(three):
    south = three.south
    ingest(south, three.folder, OWN, PatientID="H-1")
    three.place(STUDY)
    three.place(OTHER)
    south.matches.match(STUDY, HERE)
    [left] = south.unmatched.page(50)[0]
    assert [(one.patient_id, one.why) for one in south.unmatched.proposals(left)] == [
        ("H-77", "matched so before"),
        ("H-1", "same name and birth date, of a study made here"),
    ]


# --- the list ---------------------------------------------------------------------------


def test_the_list_comes_in_pages_and_shows_one_study(three, monkeypatch):
    monkeypatch.setattr(match, "PAGE_MATCHES", 1)
    south = three.south
    studies = [f"1.2.826.0.1.3680043.8.498.4{number}" for number in range(3)]
    for study in studies:
        three.place(study)
    seen, after = [], None
    for _ in range(4):
        page = told(south, "match.list", after=after)
        seen += [one["study"] for one in page["studies"]]
        after = page["next"]
        if after is None:
            break
    assert sorted(seen) == studies
    south.matches.match(studies[0], HERE)
    [one] = told(south, "match.list", study=studies[1])["studies"]
    assert (one["origin"], one["modalities"], one["study_date"]) == ("North", ["CT"], "20260301")
    assert one["patient"]["name"] == "Mueller^Anna"
    assert [each["patient_id"] for each in one["proposals"]] == ["H-77"]
    shown = told(south, "match.list", study=studies[0])
    assert (shown["studies"], shown["match"]["patient_id"]) == ([], "H-77")
