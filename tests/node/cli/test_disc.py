"""Discs as a person types it, and what docs/edges.md says of it."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from places import ROOT
from terminal import Terminal, north, terminal

from node.errors import ExitCode

__all__ = ["north", "terminal"]

TEXT = (ROOT / "docs/edges.md").read_text()
PATIENT = "98890234"
BRAIN = "1.3.6.1.4.1.5962.1.1.0.0.0.1196533885.18148.0.133"
CT = "1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.1"


@pytest.fixture
def cdrom(tmp_path: Path, shared: Path) -> Path:
    """The disc of the document: its DICOMDIR lists a file that is not there."""
    folder = tmp_path / "cdrom"
    sample = shared / "data" / "dicomdir-tiny-multistudy"
    for name in ("77654033", "98892001", "98892003"):
        shutil.copytree(sample / name, folder / name)
    shutil.copy(sample / "DICOMDIR", folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    (folder / "98892003" / "MR700" / "4467").unlink()
    return folder


def _example(name: str) -> str:
    found = re.search(rf"```text example={name}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


class Typed(io.StringIO):
    """What a person types at a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_examples_of_the_document(
    north: Terminal, cdrom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> str:
        line, *shown = _example(name).splitlines()
        words = re.findall(r'"[^"]+"|\S+', line)[2:]
        places = {"/media/cdrom": str(cdrom), "disc.iso": str(tmp_path / "disc.iso")}
        ran = north.run(*(places.get(word, word.strip('"')) for word in words))
        out = re.sub(r"in \d+\.\d s", "in 0.1 s", ran.out)
        for place, here in places.items():
            out = out.replace(here, place)
        told = out.splitlines()
        if shown[0] == "...":
            # The question itself is on the other stream.
            assert shown[1].removesuffix("y") in ran.err
            shown = shown[2:]
            told = told[-len(shown) :]
        assert told == shown

    run("look")
    assert json.loads(north.run("studies", "--json").out)["studies"] == []
    monkeypatch.setattr("sys.stdin", Typed("y\n"))
    run("take")
    run("write")


def test_one_patient_of_a_stack(north: Terminal, cdrom: Path) -> None:
    found = json.loads(north.run("disc", "look", str(cdrom), str(cdrom / "98892001"), "--json").out)
    assert [len(one["patients"]) for one in found["discs"]] == [2, 1]
    assert found["discs"][0]["listed"] == 31
    ran = north.run("disc", "take", str(cdrom), "--patient", PATIENT, "--yes", "--json")
    assert ran.code == ExitCode.PARTLY
    assert json.loads(ran.out)["not_chosen"] == 7
    here = json.loads(north.run("studies", "--json").out)["studies"]
    assert {one["patient_id"] for one in here} == {PATIENT}
    again = json.loads(north.run("disc", "look", str(cdrom), "--json").out)["discs"][0]
    here_of = {
        patient["patient_id"]: [one["here"] for one in patient["studies"]]
        for patient in again["patients"]
    }
    assert here_of == {"77654033": [0, 0], PATIENT: [7, 10, 4, 2]}


def test_taking_asks_and_says_what_is_not_there(north: Terminal, cdrom: Path) -> None:
    asked = north.run("disc", "take", str(cdrom))
    assert asked.code == ExitCode.USAGE
    assert "nobody is at a terminal" in asked.err
    assert "Doe^Peter" in asked.out
    assert north.run("disc", "take", str(cdrom), "--json").code == ExitCode.USAGE
    none = north.run("disc", "take", str(cdrom), "--patient", "NOBODY", "--yes")
    assert none.code == ExitCode.NOT_FOUND
    assert json.loads(north.run("studies", "--json").out)["studies"] == []


def _exported(north: Terminal) -> list[dict[str, object]]:
    shown = json.loads(north.run("audit", "show", "--type", "exported", "--json").out)
    return shown["entries"]


def test_each_disc_is_an_entry_and_a_disclosure(
    north: Terminal, cdrom: Path, tmp_path: Path
) -> None:
    north.run("disc", "take", str(cdrom), "--yes")
    words = ("--for", "Dr. Weber, Bern", "--purpose", "PATRQT", "--json")
    written = json.loads(north.run("disc", "write", str(tmp_path / "d"), BRAIN, CT, *words).out)
    assert (written["form"], written["files"], written["studies"]) == ("folder", 11, [BRAIN, CT])
    first, second = _exported(north)
    assert [first["index"], second["index"]] == written["entries"]
    assert first["details"]["form"] == "folder"
    assert first["purpose"] == "PATRQT"
    # The same target again: nothing is written, and nothing is logged.
    assert north.run("disc", "write", str(tmp_path / "d"), BRAIN, *words).code == ExitCode.USAGE
    assert len(_exported(north)) == 2

    report = tmp_path / "accounting.csv"
    north.run("audit", "report", "accounting", "--output", str(report))
    rows = list(csv.DictReader(report.read_text().splitlines()))
    names = ("recipient_name", "patient", "study", "instances")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("Dr. Weber, Bern", PATIENT, BRAIN, "4"),
        ("Dr. Weber, Bern", PATIENT, CT, "7"),
    ]  # fmt: skip
    assert {row["outcome"] for row in rows} == {"written to a disc"}


def test_a_disc_that_fails_is_told_so(
    north: Terminal, cdrom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edges.media import iso_writing

    north.run("disc", "take", str(cdrom), "--yes")
    monkeypatch.setattr(iso_writing, "MOST_FILE_BYTES", 100)
    ran = north.run(
        "disc", "write", str(tmp_path / "d.iso"), BRAIN, "--for", "x", "--purpose", "PATRQT"
    )
    assert ran.code == ExitCode.USAGE
    assert not (tmp_path / "d.iso").exists()
    begun, failed = _exported(north)
    assert (begun["outcome"], failed["outcome"]) == ("success", "failed")
    assert failed["details"] == {"of": begun["index"]}
    report = tmp_path / "accounting.csv"
    north.run("audit", "report", "accounting", "--output", str(report))
    [row] = csv.DictReader(report.read_text().splitlines())
    assert row["outcome"] == "the disc was not finished"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--for", " "), "say for whom"),
        (("--for", "x" * 201), "say for whom"),
        (("--for", "x", "--purpose", "fun"), "there is no purpose"),
        (("--for", "x", "--mode", "9"), "three octal digits"),
        (("--for", "x", "--form", "tape"), "is not one of"),
        ((), "Missing option '--for'"),
    ],
)
def test_what_is_wrong_is_said(
    north: Terminal, cdrom: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    north.run("disc", "take", str(cdrom), "--yes")
    ran = north.run("disc", "write", str(tmp_path / "d"), BRAIN, *words)
    assert ran.code == ExitCode.USAGE
    assert said in ran.err
    assert not (tmp_path / "d").exists()
    assert _exported(north) == []
