"""A terminal for tests of the command line, and what its sessions are about."""

import re
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pydicom.data
import pytest

from keys.card import issue_card
from keys.fingerprint import fingerprint
from keys.identity import KeyPair
from node.cli import main

FINGERPRINT = re.compile(r"[A-Z2-7]{7}(-[A-Z2-7]{7}){7}")
MASKS = (
    (FINGERPRINT, "FINGERPRINT"),
    (re.compile(r"12D3KooW[A-Za-z0-9]{44}"), "PEER"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "HEX"),
    (re.compile(r"in \d+\.\d s"), "in SECONDS"),
    (re.compile(r"[0-9.]+ (GB|TB) free"), "SPACE free"),
)


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclass
class Terminal:
    """Runs `radmesh` in this process, and remembers the session."""

    home: Path
    capsys: pytest.CaptureFixture[str]
    session: str = ""

    def run(self, *words: str) -> Ran:
        self.capsys.readouterr()
        code = main(["--home", str(self.home), *words])
        captured = self.capsys.readouterr()
        shown = captured.out + captured.err
        if code:
            shown += f"(exit {int(code)})\n"
        self.session += f"$ radmesh {' '.join(words)}\n{shown}"
        return Ran(int(code), captured.out, captured.err)

    def masked(self) -> str:
        text = self.session.replace(str(self.home.parent), "DIR")
        for pattern, word in MASKS:
            text = pattern.sub(word, text)
        return text

    def expect(self, golden: str) -> None:
        assert self.masked().splitlines() == textwrap.dedent(golden).strip("\n").splitlines()


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path / "home", capsys)


@pytest.fixture
def north(terminal: Terminal) -> Terminal:
    """A terminal whose home is made."""
    assert terminal.run("init", "--name", "North General").code == 0
    terminal.session = ""
    return terminal


@pytest.fixture
def card_file(tmp_path: Path) -> Callable[..., Path]:
    """Makes the card file of another facility."""

    def make(name: str = "South Clinic", serial: int = 1, expires_in: int = 1000) -> Path:
        now = int(time.time()) - 10
        keys = [KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 5)]
        card = issue_card(
            keys[0],
            name=name,
            node_key=keys[1].public,
            log_key=keys[2].public,
            witness_key=keys[3].public,
            addresses=("/ip4/192.0.2.7/tcp/4101",),
            serial=serial,
            issued=now if expires_in > 0 else now - 1000,
            expires=now + expires_in,
        )
        path = tmp_path / f"south-{serial}.card"
        path.write_bytes(card.encoded)
        return path

    return make


SOUTH_FINGERPRINT = fingerprint(KeyPair.from_seed(b"\1" * 32).public)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with a CT image whose texts try to take over the terminal, and a text file."""
    folder = tmp_path / "images"
    folder.mkdir()
    dataset = pydicom.dcmread(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.StudyDescription = "red\x1b[31m \u202etxet"
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    del dataset[0xFFFC, 0xFFFC]  # trailing padding, which an ingest would note
    dataset.save_as(folder / "ct.dcm")
    (folder / "notes.txt").write_text("not an image")
    return folder


STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
