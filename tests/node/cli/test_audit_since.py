"""`radmesh audit verify --since` and `--not-older-than`: the words of `radmesh-verify`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bundles_lossy import lossy
from bundles_made import COSIGNERS, FACILITY, witnessed

from keys.fingerprint import fingerprint
from node.cli.main import main

Run = Callable[..., tuple[int, str]]
FACILITY_OPTION = ("--facility", fingerprint(FACILITY.public))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `radmesh audit verify` with some words; its exit code and all that it says."""

    def _run(*words: str) -> tuple[int, str]:
        code = main(["audit", "verify", *words, *FACILITY_OPTION])
        said = capsys.readouterr()
        return code, said.out + said.err

    return _run


@pytest.fixture
def lost(tmp_path: Path) -> str:
    """A log that says in its entry 9 that it lost entries."""
    (tmp_path / "lost.zip").write_bytes(lossy().bundle())
    return str(tmp_path / "lost.zip")


def test_a_log_that_lost_entries_is_judged_since(run: Run, lost: str) -> None:
    assert run(lost)[0] == 1
    code, said = run(lost, "--since", "10")
    assert code == 3
    assert said.startswith("SOUND since entry 10; LOST before: ")
    assert run(lost, "--since", "9")[0] == 1
    assert run(lost, "--since", "2020-01-01")[0] == 1


@pytest.mark.parametrize("words", [("--since", "soon"), ("--not-older-than", "3")])
def test_what_is_no_moment_and_no_age_cannot_be_told(
    run: Run, lost: str, words: tuple[str, str]
) -> None:
    code, said = run(lost, *words)
    assert code == 2
    assert words[1] in said


def test_how_lately_witnesses_must_have_seen_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "w.zip").write_bytes(witnessed().bundle())
    (tmp_path / "card").write_bytes(COSIGNERS[0].card.encoded)
    words = (str(tmp_path / "w.zip"), "--witness-card", str(tmp_path / "card"))
    assert run(*words, "--not-older-than", "999999d")[0] == 0
    assert run(str(tmp_path / "w.zip"), "--not-older-than", "999999d")[0] == 1
