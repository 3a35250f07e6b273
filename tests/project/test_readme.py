"""The ten minutes of the README, done: each command works and prints what stands below it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom.data
import pytest
from facilities import free_port, wait_until
from places import ROOT

TEXT = (ROOT / "README.md").read_text()
BY_HAND = TEXT.partition("## Ten minutes by hand")[2].partition("## Where to read on")[0]
FINGERPRINT = re.compile(r"[A-Z2-7]{7}(-[A-Z2-7]{7}){7}")

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def _steps() -> Iterator[tuple[str, list[str], list[str]]]:
    """Terminal, its commands, and the lines that they print, as the README has them."""
    terminal = told = ""
    commands, shown = list[str](), list[str]()
    is_shown = False
    for line in BY_HAND.splitlines():
        if line.startswith("```"):
            is_shown = not is_shown
            if not is_shown:
                yield terminal, commands, shown
                commands, shown = [], []
        elif is_shown:
            shown.append(line)
        elif line.startswith("    "):
            # A terminal counts when a command follows: text may speak of the other one.
            if told != terminal and commands:
                yield terminal, commands, []
                commands = []
            terminal = told
            commands.append(line.strip())
        elif named := re.search(r"[Ii]n terminal ([12])", line):
            told = named[1]
    yield terminal, commands, []


class _Reader:
    """Somebody who does what stands in the README, in two terminals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._ports = {"4101": str(free_port()), "4102": str(free_port())}
        # Where the README finds test images after `make setup`.
        images = folder / ".venv/lib/python3.11/site-packages/pydicom/data/test_files"
        images.parent.mkdir(parents=True)
        found = Path(str(pydicom.data.get_testdata_file("DICOMDIR"))).parent
        shutil.copytree(found, images / "dicomdirtests")

    def do(self, terminal: str, command: str) -> str:
        for port, free in self._ports.items():
            command = command.replace(f"tcp/{port}", f"tcp/{free}")
        home = self.folder / ("north" if terminal == "1" else "south")
        environment = {
            **os.environ,
            "RADMESH_HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        if command.startswith("radmesh trust add"):
            other = self.folder / ("south" if terminal == "1" else "north")
            command += f" --fingerprint {self._fingerprint(other, environment)}"
        if command.startswith("radmesh serve"):
            self.nodes += [
                subprocess.Popen(
                    ["radmesh", "--home", str(self.folder / name), "serve"],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for name in ("north", "south")
            ]
            return ""
        if command.startswith(("make ", ". ", "export ")):
            return ""
        return self._run(command, environment)

    def _run(self, command: str, environment: dict[str, str]) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    def _fingerprint(self, home: Path, environment: dict[str, str]) -> str:
        told = self._run(f"radmesh --home {home} status", environment)
        found = FINGERPRINT.search(told)
        assert found is not None
        return found[0]

    def prints(self, terminal: str, commands: list[str], lines: list[str]) -> None:
        """Do commands until they print these lines: news take a moment to arrive."""
        printed = list[str]()

        def matches() -> bool:
            printed[:] = [line for one in commands for line in self._masked(self.do(terminal, one))]
            return any(printed[at : at + len(lines)] == lines for at in range(len(printed) or 1))

        if commands[0].startswith("radmesh studies --peer"):
            wait_until(lambda: len(self._masked(self.do(terminal, commands[0]))) > 1)
        assert matches(), printed

    def _masked(self, text: str) -> list[str]:
        for pattern, word in (
            (FINGERPRINT, "FINGERPRINT"),
            (re.compile(re.escape(str(self.folder))), "HERE"),
            (re.compile(r"in [0-9.]+ s\b"), "in SECONDS"),
            (re.compile(r"[0-9.]+ [kM]?B of images a second"), "RATE of images a second"),
        ):
            text = pattern.sub(word, text)
        return text.splitlines()


def test_the_ten_minutes_by_hand(tmp_path: Path) -> None:
    steps = list(_steps())
    assert sum(bool(lines) for _, _, lines in steps) == 7
    reader = _Reader(tmp_path)
    try:
        for terminal, commands, lines in steps:
            if lines:
                reader.prints(terminal, commands, lines)
            else:
                for command in commands:
                    reader.do(terminal, command)
    finally:
        for node in reader.nodes:
            node.terminate()
            node.wait(20)
