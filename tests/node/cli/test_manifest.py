"""Manifests of studies: others find no error, and MADO's own example has the same content."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from pydicom.sr._concepts_dict import concepts
from terminal import Terminal, north, terminal

from edges.manifests.regions import REGIONS
from node.errors import ExitCode

__all__ = ["north", "terminal"]

STUDY_B = "1.2.250.1.59.40211.22756022.2.1.102"
URL, PLACE = "https://north.example/dicom-web", "1.2.3.4.5"
TOOLS = Path(sys.executable).parent

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")


@pytest.fixture
def filled(north: Terminal, shared: Path) -> Terminal:
    """A home with IHE's study and others, which says where its images are."""
    data = shared / "data"
    north.run(
        "ingest", str(shared / "vectors/mado/Study_B.zip"),
        *(str(data / name) for name in ("sr-ecg", "rt-ct-rtstruct", "charsets", "mr-adc-dcmqi")),
    )  # fmt: skip
    with (north.home / "config.toml").open("a") as settings:
        settings.write(f'\n[manifests]\ndicomweb_url = "{URL}/"\nlocation_uid = "{PLACE}"\n')
    return north


def _make(north: Terminal, study: str, path: Path, form: str) -> Path:
    ran = north.run("manifest", study, str(path), "--form", form, "--json")
    assert ran.code == 0, ran.err
    return path


def _studies(north: Terminal) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(north.run("studies", "--json").out)["studies"]
    return found


def _evidence(manifest: pydicom.Dataset) -> dict[str, list[tuple[str, str]]]:
    """By series, the objects and their classes."""
    [study] = manifest.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == manifest.StudyInstanceUID
    return {
        series.SeriesInstanceUID: sorted(
            (one.ReferencedSOPInstanceUID, one.ReferencedSOPClassUID)
            for one in series.ReferencedSOPSequence
        )
        for series in study.ReferencedSeriesSequence
    }


@pytest.mark.slow
def test_a_key_object_selection_of_each_study(filled: Terminal, tmp_path: Path) -> None:
    studies = _studies(filled)
    assert len(studies) > 10
    for number, study in enumerate(studies):
        path = _make(filled, str(study["study"]), tmp_path / f"{number}.dcm", "kos")
        done = subprocess.run(
            [str(TOOLS / "dciodvfy"), str(path)], capture_output=True, timeout=60, check=False
        )
        told = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert "KeyObjectSelectionDocument" in told
        # UIDs that no authority gave are those of the images.
        errors = [line for line in told.splitlines() if line.startswith("Error")]
        assert all("Illegal root for UID" in line for line in errors), errors
        manifest = pydicom.dcmread(path)
        assert sum(map(len, _evidence(manifest).values())) == study["instances"]
        assert len(manifest.ContentSequence) == study["instances"]
        assert manifest.ConceptNameCodeSequence[0].CodeMeaning == "Manifest"
        [evidence] = manifest.CurrentRequestedProcedureEvidenceSequence
        for series in evidence.ReferencedSeriesSequence:
            assert series.RetrieveLocationUID == PLACE
            assert series.RetrieveURL.startswith(f"{URL}/studies/{study['study']}/series/")


@pytest.mark.slow
def test_an_imaging_study_of_each_study(filled: Terminal, tmp_path: Path) -> None:
    from fhir.resources.R4B.imagingstudy import ImagingStudy

    for number, study in enumerate(_studies(filled)):
        path = _make(filled, str(study["study"]), tmp_path / f"{number}.json", "fhir")
        found = json.loads(path.read_bytes())
        ImagingStudy.model_validate(found)
        assert found["identifier"][0]["value"] == f"urn:oid:{study['study']}"
        assert found["numberOfInstances"] == study["instances"]
        assert sum(len(one["instance"]) for one in found["series"]) == study["instances"]
        [endpoint] = [one for one in found["contained"] if one["resourceType"] == "Endpoint"]
        assert endpoint["address"] == URL


def _concepts(items: pydicom.Sequence) -> Counter[tuple[str, str, str]]:
    """How often each concept is in a tree of content: value type, code, meaning."""
    found: Counter[tuple[str, str, str]] = Counter()
    for one in items:
        code = one.get("ConceptNameCodeSequence")
        if code:
            found[one.ValueType, code[0].CodeValue, code[0].CodeMeaning] += 1
        else:
            found[one.ValueType, "", ""] += 1
        found += _concepts(one.get("ContentSequence", []))
    return found


def test_mado_is_as_in_its_own_example(filled: Terminal, tmp_path: Path, shared: Path) -> None:
    theirs = pydicom.dcmread(shared / "vectors/mado/MADO_KOS_B.dcm")
    ours = pydicom.dcmread(_make(filled, STUDY_B, tmp_path / "b.dcm", "mado"))
    assert _evidence(ours) == _evidence(theirs)
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "Modality"):
        assert ours[name].value == theirs[name].value
    title = [one.ConceptNameCodeSequence[0] for one in (ours, theirs)]
    assert title[0].CodeValue == title[1].CodeValue == "MADOTEMP001"
    mine, example = _concepts(ours.ContentSequence), _concepts(theirs.ContentSequence)
    # The series of key objects has neither date, description nor region in its file; and left out
    # are times of series, which the catalog does not have, and what a key object selects.
    assert {code[1]: count for code, count in (example - mine).items()} == {
        "MADOTEMP003": 1, "MADOTEMP002": 1, "123014": 1, "MADOTEMP004": 2, "121144": 1, "113012": 1,
    }  # fmt: skip
    assert mine - example == {("TEXT", "113609", "Instance Number"): 1}


def test_the_codes_of_regions_are_those_of_the_standard() -> None:
    known = {
        (code, about[0]) for named in concepts["SCT"].values() for code, about in named.items()
    }
    assert set(REGIONS.values()) <= known


def test_a_manifest_is_an_entry_and_overwrites_nothing(filled: Terminal, tmp_path: Path) -> None:
    path = _make(filled, STUDY_B, tmp_path / "m", "kos")
    content = path.read_bytes()
    again = filled.run("manifest", STUDY_B, str(path))
    assert again.code == ExitCode.USAGE
    assert "exists already" in again.err
    assert path.read_bytes() == content
    [entry] = json.loads(filled.run("audit", "show", "--type", "exported", "--json").out)["entries"]
    assert (entry["details"]["form"], entry["details"]["instances"]) == ("kos", 21)
    assert filled.run("manifest", "1.2.3.4.5.6", str(tmp_path / "n")).code == ExitCode.NOT_FOUND
    report = tmp_path / "r.csv"
    filled.run("audit", "report", "accounting", "--output", str(report))
    assert "written to a file" in report.read_text()


def test_without_the_setting_it_says_no_place(
    north: Terminal, shared: Path, tmp_path: Path
) -> None:
    north.run("ingest", str(shared / "vectors/mado/Study_B.zip"))
    ran = north.run("manifest", STUDY_B, str(tmp_path / "m.json"), "--form", "fhir")
    assert "does not say where" in ran.err
    found = json.loads((tmp_path / "m.json").read_bytes())
    assert "endpoint" not in found
    ran = north.run("manifest", STUDY_B, str(tmp_path / "m.dcm"))
    [study] = pydicom.dcmread(tmp_path / "m.dcm").CurrentRequestedProcedureEvidenceSequence
    assert all("RetrieveURL" not in one for one in study.ReferencedSeriesSequence)
