"""`radmesh retention`: it shows first, and deletes only what a person has confirmed."""

from pathlib import Path

import pytest

from node.cli.main import main
from node.errors import ExitCode
from node.home import Home
from node.images.quarantine import Quarantine


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose quarantine holds a file of 1970."""
    made = Home.create(tmp_path / "north", name="North")
    file = tmp_path / "file"
    file.write_bytes(b"no image")
    Quarantine(made.quarantine_path, now=1.0).keep(file, "is no DICOM file", free_bytes=1 << 30)
    with made.config_path.open("a") as settings:
        settings.write("\n[retention]\nquarantine_days = 90\n")
    return made.path


def _held(home: Path) -> int:
    return len(list((home / "quarantine").iterdir()))


def test_it_shows_then_refuses_then_deletes(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--home", str(home), "retention"]
    assert main(words) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "retention.quarantine_days: 90 days; 1 would go" in shown
    assert "retention.openings_days: no end" in shown
    assert "`radmesh retention --apply` deletes" in shown
    monkeypatch.setattr("node.cli.retention.sys.stdin", _NoTerminal())
    assert main([*words, "--apply"]) == ExitCode.USAGE
    assert "nothing was deleted" in capsys.readouterr().err
    assert _held(home) == 1
    assert main([*words, "--apply", "--yes"]) == ExitCode.OK
    assert "quarantine: 1 deleted, logged in 1 entry" in capsys.readouterr().out
    assert _held(home) == 0
    assert main([*words, "--apply"]) == ExitCode.OK
    assert "nothing has been kept for long enough" in capsys.readouterr().out


class _NoTerminal:
    def isatty(self) -> bool:
        return False
