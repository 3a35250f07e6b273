"""`radmesh backup`, `restore` and `check`: what people see, with a node that runs and without."""

import json
import os
import pty
import re
import subprocess
import threading
import warnings
from pathlib import Path

import pytest
from facilities import RADMESH, Facility, two_facilities, wait_until
from studies_made import contents, make_study
from terminal import STUDY, Terminal, images, north, terminal

from node.errors import ExitCode
from node.home import ROLES

__all__ = ["images", "north", "terminal"]

WORDS = "four words are enough"


def _masked(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\dT\d{6}Z(-\d+)?", "WHEN", text)
    return re.sub(r"[0-9.]+ kB", "SIZE", text)


def test_a_home_is_backed_up_restored_and_checked(north: Terminal, images: Path) -> None:
    north.run("ingest", str(images))
    where = str(north.home.parent / "backups")
    again = str(north.home.parent / "again")
    saved = north.run("backup", where)
    assert saved.code == 0, saved
    noted = saved.out.splitlines()[2].split()[-1]
    assert _masked(saved.out) == (
        f"wrote the backup {where}/WHEN\n"
        "1 batch, SIZE; new among them: 1, SIZE\n"
        f"size and root of the log, to note down elsewhere: {noted}\n"
        "without keys: keep a copy of the folder `keys` apart from it\n"
    )
    assert "new among them: 0, 0 B" in north.run("backup", where).out
    restored = north.run("restore", where, "--home", again, "--keys", str(north.home / "keys"))
    assert restored.code == 0, restored
    assert f"size and root of the log: {noted}" in restored.out
    assert "missing" not in restored.out
    checked = north.run("check")
    assert checked.code == 0
    assert checked.out.startswith("checked 1 study, 1 batch (")
    assert checked.out.endswith("and a log of 2 entries: all is well\n")
    assert json.loads(north.run("check", "--json").out)["findings"] == []


def test_what_is_missing_is_said_with_what_to_do(north: Terminal, images: Path) -> None:
    north.run("ingest", str(images))
    where = str(north.home.parent / "backups")
    [batch] = (north.home / "store").glob("??/*")
    batch.unlink()
    checked = north.run("check")
    assert checked.code == ExitCode.FAILED
    assert checked.out.splitlines()[:3] == [
        "batch-missing: 1 finding",
        f"  the batch store/{batch.name[:2]}/{batch.name} is missing",
        "  to mend it: put the file back from a backup, or ingest or fetch the study again",
    ]
    [finding] = json.loads(north.run("check", "--json").out)["findings"]
    assert (finding["kind"], finding["where"]) == ("batch-missing", batch.name)
    saved = north.run("backup", where)
    assert saved.code == ExitCode.PARTLY
    assert "not in the backup, since missing here or damaged: 1 batch" in saved.out
    restored = north.run("restore", where, "--home", str(north.home.parent / "again"))
    assert restored.code == ExitCode.PARTLY
    assert f"  {STUDY}\n" in restored.out
    assert f"missing keys: {', '.join(ROLES)}; put them into" in restored.out


@pytest.mark.slow
def test_what_cannot_be_checked_is_exit_code_2(north: Terminal, terminal: Terminal) -> None:
    gone = subprocess.run(
        [*RADMESH, "--home", str(north.home.parent / "none"), "check"], capture_output=True
    )
    assert gone.returncode == 2
    (north.home / "card").unlink()
    ran = north.run("check")
    assert ran.code == 2
    assert "no radmesh home" in ran.err


def _with_passphrase(words: list[str], passphrase: bytes) -> subprocess.CompletedProcess[str]:
    reading, writing = os.pipe()
    os.write(writing, passphrase)
    os.close(writing)
    try:
        return subprocess.run(
            [*RADMESH, *words, "--passphrase-fd", str(reading)],
            pass_fds=[reading],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    finally:
        os.close(reading)


@pytest.mark.slow
@pytest.mark.integration
def test_keys_go_under_a_passphrase_that_no_argument_has(north: Terminal) -> None:
    where, again = str(north.home.parent / "backups"), str(north.home.parent / "again")
    home = ["--home", str(north.home)]
    saved = _with_passphrase([*home, "backup", where, "--with-keys"], WORDS.encode() + b"\n")
    assert saved.returncode == 0, saved
    assert "without keys" not in saved.stdout
    wrong = _with_passphrase(["restore", where, "--home", again], b"not the words at all\n")
    assert wrong.returncode == ExitCode.INTEGRITY
    assert "passphrase is not the one" in wrong.stderr
    assert not Path(again).exists()
    right = _with_passphrase(["restore", where, "--home", again], WORDS.encode())
    assert right.returncode == 0, right
    for role in ROLES:
        assert (Path(again) / "keys" / role).read_bytes() == (
            north.home / "keys" / role
        ).read_bytes()
    short = _with_passphrase([*home, "backup", where, "--with-keys"], b"short\n")
    assert short.returncode == ExitCode.USAGE
    assert "12 characters" in short.stderr


@pytest.mark.slow
@pytest.mark.integration
def test_at_a_terminal_the_passphrase_is_asked_for_and_not_shown(north: Terminal) -> None:
    where, again = str(north.home.parent / "backups"), str(north.home.parent / "again")
    code, shown = _at_terminal(
        ["--home", str(north.home), "backup", where, "--with-keys"], [b"passphrase", b"epeat"]
    )
    assert code == 0, shown
    assert WORDS not in shown
    code, shown = _at_terminal(["restore", where, "--home", again], [b"passphrase"])
    assert code == 0, shown
    assert WORDS not in shown
    assert (Path(again) / "keys" / "facility").exists()


def _at_terminal(words: list[str], questions: list[bytes]) -> tuple[int, str]:
    """Run `radmesh` with a terminal of its own and answer each question with the passphrase."""
    with warnings.catch_warnings():
        # The child becomes another program at once, whatever threads there are here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child, terminal = pty.fork()
    if child == 0:
        os.execv(RADMESH[0], [*RADMESH, *words])
    shown, seen = b"", 0
    try:
        while chunk := os.read(terminal, 1000):
            shown += chunk
            if (
                questions
                and (place := shown.find(questions[0], seen)) >= 0
                and b":" in shown[place:]
            ):
                seen = len(shown)
                questions.pop(0)
                os.write(terminal, WORDS.encode() + b"\n")
    except OSError:
        pass  # Linux says EIO once the other side is closed
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


def test_without_a_terminal_the_passphrase_has_to_be_given(north: Terminal) -> None:
    where = str(north.home.parent / "backups")
    ran = north.run("backup", where, "--with-keys")
    assert ran.code == ExitCode.PASSPHRASE
    assert "--passphrase-fd" in ran.err
    assert north.run("backup", where, "--passphrase-fd", "0").code == ExitCode.USAGE
    ran = north.run("backup", where, "--with-keys", "--passphrase-fd", "4000")
    assert ran.code == ExitCode.USAGE
    assert "4000" in ran.err


@pytest.mark.slow
@pytest.mark.integration
def test_a_node_is_backed_up_and_checked_while_it_works(tmp_path: Path) -> None:
    """Studies come in and go to a peer; each backup is a home that starts, with all its images."""
    with two_facilities(tmp_path) as (north, south):
        folders = [tmp_path / f"in{number}" for number in range(6)]
        studies = [make_study(folder, 12, rows=128, seed=i) for i, folder in enumerate(folders)]
        done = threading.Event()

        def work() -> None:
            try:
                for folder, study in zip(folders, studies, strict=True):
                    north.call("ingest", paths=[str(folder)])
                    wait_until(lambda study=study: study in south.announced(north))
                    south.call("fetch", study=study)
            finally:
                done.set()

        worker = threading.Thread(target=work)
        worker.start()
        where = tmp_path / "backups"
        backups, problems = [], []
        while not done.is_set() or not backups:
            backups.append(north.cli_json("backup", str(where)))
            for facility in (north, south):
                checked = facility.cli("check", "--json", check=False)
                problems += json.loads(checked.stdout)["findings"]
                assert checked.returncode == (1 if problems else 0), (checked, problems)
        worker.join()
        backups.append(north.cli_json("backup", str(where)))
        assert problems == []
        assert north.process is not None
        assert all(one["missing"] == [] for one in backups)
        south.stop()
        # Never two of one facility at once.
        north.stop()
        for number, one in enumerate(backups):
            home = tmp_path / f"home{number}"
            restored = _restore(north, one["backup"], home)
            assert (restored["missing"], restored["findings"]) == ([], []), restored
            assert (restored["size"], restored["root"]) == (one["size"], one["root"])
        assert backups[-1]["batches"] == len(list((north.home.path / "store").glob("??/*")))
        north.home = type(north.home)(home)
        north.start()
        south.start()
        wait_until(lambda: south.peer(north)["connected"])
        assert north.call("status")["witnessing"]["in_doubt"] is None
        more = make_study(tmp_path / "more", 2)
        north.call("ingest", paths=[str(tmp_path / "more")])
        wait_until(lambda: more in south.announced(north))
        assert south.call("fetch", study=more)["state"] == "complete"
        south.call("export", study=studies[0], directory=str(tmp_path / "out"))
        assert contents(tmp_path / "out") == contents(folders[0])
        north.check_log(tmp_path)


def _restore(north: Facility, backup: str, home: Path) -> dict[str, object]:
    ran = subprocess.run(
        [*RADMESH, "restore", backup, "--home", str(home),
         "--keys", str(north.home.keys_path), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran
    found: dict[str, object] = json.loads(ran.stdout)
    return found
