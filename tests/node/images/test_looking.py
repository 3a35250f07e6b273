"""What is on discs is shown, and nothing is taken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from discs_made import archive, make_disc_study
from node_home import ImageHome

from node.errors import NodeError
from node.images import looking
from node.images.looking import SeenDisc, look


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ImageHome]:
    made = ImageHome(tmp_path / "home")
    yield made
    made.close()


def _look(home: ImageHome, *paths: Path) -> list[SeenDisc]:
    return look(paths, catalog=home.catalog, exclude=home.path)


def _seen(disc: SeenDisc) -> dict[str, dict[str, tuple[int, int, int]]]:
    """By patient and study: series, images, and how many are here."""
    return {
        f"{patient.patient_id} {patient.name}".strip(): {
            study.study: (len(study.series), len(study.instances), study.here)
            for study in patient.studies.values()
        }
        for patient in disc.patients.values()
    }


def test_patients_and_studies_of_a_stack(home: ImageHome, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    make_disc_study(one / "A", 2, study="1.2.3", PatientID="P1", PatientName="Doe^Jane")
    make_disc_study(one / "B", 3, study="1.2.4", PatientID="P1", PatientName="Doe^Jane")
    make_disc_study(one / "C", 1, study="1.2.5", PatientID="", PatientName="Doe^John")
    make_disc_study(one / "D", 1, study="1.2.6", PatientID="", PatientName="Roe^Ann")
    # The same study twice on one disc counts once.
    make_disc_study(one / "E", 2, study="1.2.3", PatientID="P1", PatientName="Doe^Jane")
    (one / "VIEWER.EXE").write_bytes(b"MZ")
    (one / "A" / "IM000009").write_bytes((one / "A" / "IM000001").read_bytes()[:-99])
    make_disc_study(two, 1, study="1.2.7", PatientID="P2", PatientName="")
    home.ingest(one / "B")
    before = sorted(home.path.rglob("*"))
    for form in ("folder", "zip", "iso"):
        path = one if form == "folder" else archive(one, tmp_path / f"one.{form}")
        first, second = _look(home, path, two)
        assert _seen(first) == {
            "P1 Doe^Jane": {"1.2.3": (1, 2, 0), "1.2.4": (1, 3, 3)},
            "Doe^John": {"1.2.5": (1, 1, 0)},
            "Roe^Ann": {"1.2.6": (1, 1, 0)},
        }
        assert (first.form, first.directories, first.other) == (form, 0, 1)
        assert [Path(each.file).name for each in first.problems] == ["IM000009"]
        assert _seen(second) == {"P2": {"1.2.7": (1, 1, 0)}}
    assert sorted(home.path.rglob("*")) == before
    assert len(home.events) == 1


@pytest.mark.parametrize(
    ("name", "listed"),
    [("dicomdir-tiny-multistudy", 236), ("broken", None)],
)
def test_discs_with_whole_and_broken_directories(
    home: ImageHome, shared: Path, name: str, listed: int | None
) -> None:
    [disc] = _look(home, shared / "data" / name)
    assert disc.directories
    if listed is not None:
        assert (disc.listed, disc.missing, disc.problem_count) == (listed, [], 0)
        assert {key: len(one) for key, one in _seen(disc).items()} == {
            "77654033 Doe^Archibald": 2, "98890234 Doe^Peter": 4, "12345678 Citizen^Jan": 1,
        }  # fmt: skip
    report = home.ingest(shared / "data" / name)
    taken = sum(len(study) for one in disc.patients.values() for study in [one.studies])
    assert len({one.study for one in report.studies if one.new}) == taken


def test_a_path_that_is_nowhere_and_too_many_images(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NodeError, match="there is no file or folder"):
        _look(home, tmp_path / "nowhere")
    make_disc_study(tmp_path / "in", 3)
    monkeypatch.setattr(looking, "MOST_IMAGES", 2)
    with pytest.raises(NodeError, match="more than 2 images"):
        _look(home, tmp_path / "in")


def test_it_can_be_stopped_and_says_how_far_it_is(home: ImageHome, tmp_path: Path) -> None:
    make_disc_study(tmp_path / "in", 3)
    told: list[int] = []
    seen = look(
        [tmp_path / "in"],
        catalog=home.catalog,
        exclude=home.path,
        progress=lambda progress: told.append(progress.files),
        cancelled=lambda: bool(told),
    )
    assert told == [1]
    assert seen[0].files == 1
