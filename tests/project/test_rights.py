"""The situations of docs/rights.md, done: each command prints what stands below it."""

import contextlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from facilities import RADMESH, Facility, wait_until
from pairing_commands import PairCommand
from places import ROOT
from studies_made import make_instance

pytestmark = [pytest.mark.slow, pytest.mark.integration]

TEXT = (ROOT / "docs/rights.md").read_text()
_BLOCK = re.compile(r"^```(north|south|pair-north)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_UID = "1.2.826.0.1.3680043.8.498"
STUDIES: tuple[dict[str, str], ...] = (
    {
        "StudyInstanceUID": f"{_UID}.11",
        "PatientName": "Müller^Anna",
        "PatientID": "P1",
        "PatientBirthDate": "19700131",
        "PatientSex": "F",
        "Modality": "CT",
        "StudyDescription": "Chest",
        "InstitutionName": "North",
        "StudyDate": "20260301",
    },
    {
        "StudyInstanceUID": f"{_UID}.12",
        "PatientName": "Meier^Eva",
        "PatientID": "P2",
        "Modality": "MR",
        "StudyDescription": "Knee",
        "InstitutionName": "North",
        "StudyDate": "20260302",
    },
    {
        "StudyInstanceUID": f"{_UID}.13",
        "PatientName": "Kurz^Ida",
        "PatientID": "P3",
        "Modality": "MR",
        "StudyDescription": "Head",
        "InstitutionName": "Mental Health Ward",
        "StudyDate": "20260303",
    },
)
_MASKS = (
    (re.compile(r"[A-Z2-7]{7}(-[A-Z2-7]{7}){7}"), "FINGERPRINT"),
    (re.compile(r"((?:success|refused|failure) +)[A-Z2-7]{7}\b"), r"\1NODE"),
    (re.compile(r"12D3KooW[A-Za-z0-9]{44}"), "NODE"),
    (re.compile(r"(?!2099)\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?"), "TIME"),
    (re.compile(r"^ +\d+(?=  TIME)"), "ENTRY"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "DIGEST"),
    (re.compile(r"^[0-9a-f]{8}\b"), "TRANSFER"),
    (re.compile(r"(transfer=|rights=|content_root=|root=)[0-9a-f]+"), r"\1DIGEST"),
    (re.compile(r"tcp/\d+"), "tcp/4101"),
    (re.compile(r"127\.0\.0\.1(:\d+)?"), "ADDRESS"),
    (re.compile(r"in [0-9.]+ s\b"), "in SECONDS"),
    (re.compile(r"[0-9.]+ [kM]?B of images a second"), "RATE of images a second"),
)


@dataclass
class Step:
    """A command, on which side, and what stands below it."""

    side: str
    command: str
    shown: list[str] = field(default_factory=list)


def situations(text: str) -> dict[str, list[Step]]:
    """The commands of each section; those before the first are in "Before"."""
    found: dict[str, list[Step]] = {}
    for part in re.split(r"^## ", f"Before\n{text}", flags=re.MULTILINE):
        title, _, body = part.partition("\n")
        steps = found.setdefault(title, [])
        for side, block in _BLOCK.findall(body):
            for line in block.splitlines():
                if line.startswith("$ radmesh "):
                    steps.append(Step(side, line.removeprefix("$ radmesh ")))
                else:
                    steps[-1].shown.append(line)
    return found


class Reader:
    """Somebody who does what stands there, at both nodes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sides = {name: Facility(directory, name.title()) for name in ("north", "south")}
        north, south = self.sides.values()
        north.trust(south)
        south.trust(north)
        self.waiting: list[subprocess.Popen[bytes]] = []
        for study in STUDIES:
            self._ingest(study)

    def _ingest(self, study: dict[str, str]) -> None:
        made = make_instance(study["StudyInstanceUID"], 1)
        for keyword, value in {**study, "IssuerOfPatientID": "NORTH"}.items():
            setattr(made, keyword, value)
        folder = self.directory / study["PatientID"]
        folder.mkdir()
        made.save_as(folder / "one.dcm", enforce_file_format=True)
        self.sides["north"].call("ingest", paths=[str(folder)])

    def start(self) -> None:
        north, south = self.sides.values()
        for one in (north, south):
            one.launch()
        for one in (north, south):
            one.wait_started()
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")

    def end(self) -> None:
        for process in (*self.waiting, *(one.process for one in self.sides.values())):
            if process is not None:
                process.kill()
                process.wait()

    def do(self, step: Step) -> list[str]:
        """What a command prints."""
        facility = self.sides[step.side]
        if step.command.endswith(" &"):
            words = shlex.split(step.command.removesuffix(" &"))
            self.waiting.append(
                subprocess.Popen(
                    [*RADMESH, "--home", str(facility.home.path), *words],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            return []
        done = facility.cli(*shlex.split(step.command), check=False)
        shown = done.stdout + done.stderr
        if done.returncode:
            shown += f"(exit {done.returncode})"
        return masked(shown)

    def prints(self, step: Step) -> list[str]:
        """The same, again until it is what is expected, where only time is missing."""
        printed = self.do(step)
        moving = ("studies", "requests", "transfers", "trust mine", "trust list", "review")
        if step.command in moving or step.command.startswith(moving[:4]):
            seen = [printed]

            def is_so() -> bool:
                seen[0] = self.do(step)
                return seen[0] == step.shown

            with contextlib.suppress(AssertionError):
                wait_until(is_so, 90 if step.command == "transfers" else 10)
            return seen[0]
        return printed


def masked(text: str) -> list[str]:
    """Lines without what differs each time, and without blanks at their ends."""
    lines = []
    for line in text.splitlines():
        for pattern, word in _MASKS:
            line = pattern.sub(word, line)
        lines.append(line.rstrip())
    return lines


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    one = Reader(tmp_path)
    try:
        one.start()
        yield one
    finally:
        one.end()


SITUATIONS = situations(TEXT)
_BY_PHONE = next(title for title in SITUATIONS if title.startswith("10. "))


def test_there_are_ten_situations() -> None:
    assert len(SITUATIONS) == 11
    assert all(SITUATIONS.values())


@pytest.mark.parametrize("title", [title for title in SITUATIONS if title != _BY_PHONE])
def test_a_situation(reader: Reader, title: str) -> None:
    for step in SITUATIONS[title]:
        assert reader.prints(step) == step.shown, step.command


def test_a_partner_by_phone(reader: Reader) -> None:
    pairing, *rest = SITUATIONS[_BY_PHONE]
    east = Facility(reader.directory, "East")
    reader.sides["east"] = east
    east.start()
    command = shlex.split(pairing.command)
    with PairCommand(reader.sides["north"], *command[1:]) as shows:
        place, code = shows.shown()
        with PairCommand(east, place, "--grant", "see") as types:
            types.types(code)
            for one in (shows, types):
                one.sees("at the other end is")
                one.types("y")
            assert (shows.ends(), types.ends()) == (0, 0)
    printed = masked(shows.screen.replace(code, "CODE"))
    assert printed == pairing.shown
    for step in rest:
        assert reader.prints(step) == step.shown, step.command
