"""`radmesh-verify --extract` and `--print`: what was verified is given out, and nothing else."""

import fcntl
import os
import pty
import resource
import stat
import subprocess
import sys

import pytest
from bundles_made import COSIGNERS, FACILITY, honest, witnessed, zip_of
from bundles_tampered import bit_flipped
from proofs_made import prove

from keys.fingerprint import fingerprint
from protocol.log.entry import Event
from protocol.verify.command import main

WHO = ["--facility", fingerprint(FACILITY.public)]
VERIFIED = ["card", "checkpoints/12", "entries.jsonl", "openings.jsonl", "receipts.jsonl"]


def run(*words):
    """Run the program as a process of its own."""
    words = [sys.executable, "-m", "protocol.verify", *map(str, words), *WHO]
    return subprocess.run(words, capture_output=True, check=False, timeout=60)


@pytest.fixture
def bundle(tmp_path):
    log = honest()
    log.extra = [("later", b"x"), ("policy", b"quorum none\n")]
    (tmp_path / "good.zip").write_bytes(log.bundle())
    return tmp_path / "good.zip"


def test_what_was_verified_is_written_for_the_owner_alone(bundle, tmp_path, capsys):
    target = tmp_path / "out"
    assert main([str(bundle), *WHO, "--extract", str(target)]) == 0
    assert capsys.readouterr().out.startswith("SOUND")
    members = dict(honest().members())
    found = {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }
    assert found == {name: members[name] for name in VERIFIED}
    for path in (target, *target.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("what", ["entries", "openings", "receipts"])
def test_what_is_printed_is_alone_on_the_output(bundle, what):
    done = run(bundle, "--print", what)
    assert done.returncode == 0
    assert done.stdout == dict(honest().members())[f"{what}.jsonl"]
    assert done.stderr.startswith(b"SOUND")


def test_what_is_not_there_is_printed_as_nothing(tmp_path):
    members = [each for each in honest().members() if each[0] != "openings.jsonl"]
    (tmp_path / "without.zip").write_bytes(zip_of(members))
    done = run(tmp_path / "without.zip", "--print", "openings")
    assert (done.returncode, done.stdout) == (0, b"")


def test_what_is_not_as_it_was_signed_is_not_given_out(tmp_path):
    target = tmp_path / "out"
    for data, code in ((bit_flipped()[0].bundle(), 1), (b"junk", 2)):
        (tmp_path / "bad.zip").write_bytes(data)
        done = run(tmp_path / "bad.zip", "--print", "entries", "--extract", target)
        assert (done.returncode, done.stdout) == (code, b"")
        assert b"nothing is given out" in done.stderr
        assert not target.exists()


def test_a_log_that_only_lacks_witnesses_is_given_out_and_not_called_sound(tmp_path):
    """An auditor must be able to read it."""
    (tmp_path / "log.zip").write_bytes(honest().bundle())
    (tmp_path / "hill").write_bytes(COSIGNERS[1].card.encoded)
    words = ["--quorum", 1, "--witness-card", tmp_path / "hill"]
    done = run(tmp_path / "log.zip", *words, "--print", "entries")
    assert (done.returncode, done.stdout.count(b"\n")) == (1, 12)
    assert b"code      QUORUM" in done.stderr


def test_a_file_that_nobody_reads_can_be_damaged_and_is_not_passed_over(tmp_path):
    """Even where the verdict is not the container's."""
    (tmp_path / "hill").write_bytes(COSIGNERS[1].card.encoded)
    data = honest().bundle().replace(honest().members()[5][1][:8], b"damaged!")
    (tmp_path / "log.zip").write_bytes(data)
    done = run(
        tmp_path / "log.zip", "--quorum", 1, "--witness-card", tmp_path / "hill", "--print=entries"
    )
    assert done.returncode in (1, 2)
    assert done.stdout == b""


def test_folders_that_cannot_be_filled(bundle, tmp_path):
    (tmp_path / "there").mkdir()
    for target, words in (
        (tmp_path / "there", b"exists; name a folder that does not"),
        (tmp_path / "not" / "there", b"cannot be made: No such file"),
    ):
        done = run(bundle, "--extract", target)
        assert done.returncode == 2
        assert words in done.stderr
        assert b"Traceback" not in done.stderr
    assert not list((tmp_path / "there").iterdir())


def test_a_full_disk_leaves_no_half_of_a_log(bundle, tmp_path):
    target = tmp_path / "out"

    def limit():
        # Larger files than this cannot be written; the system says so by a signal or an error.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    words = [sys.executable, "-m", "protocol.verify", bundle, *WHO, "--extract", target]
    done = subprocess.run(words, capture_output=True, check=False, preexec_fn=limit, timeout=60)
    assert done.returncode == 2
    assert b"cannot be written: File too large" in done.stderr
    assert not target.exists()


def test_a_proof_holds_no_files(tmp_path):
    (tmp_path / "proof").write_text(prove(witnessed(), 5).text())
    done = run(tmp_path / "proof", "--print", "entries")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"the proof of one entry" in done.stderr


def test_who_reads_only_the_beginning_gets_no_traceback(tmp_path):
    log = honest()
    for _ in range(2000):
        log.add(Event(type="start"))
    (tmp_path / "long.zip").write_bytes(log.sign().bundle())
    words = [sys.executable, "-m", "protocol.verify", tmp_path / "long.zip", *WHO]
    with subprocess.Popen(
        [*words, "--print", "entries"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        errors = process.stderr.read()
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors
    assert b"SOUND" in errors


def test_on_a_terminal_an_entry_cannot_move_the_cursor(tmp_path):
    log = honest().add(Event(type="start", purpose="x\u202ey\x9b2Jz"))
    (tmp_path / "log.zip").write_bytes(log.sign().bundle())
    words = [sys.executable, "-m", "protocol.verify", str(tmp_path / "log.zip"), *WHO]
    reading, writing = pty.openpty()
    with os.fdopen(reading, "rb", buffering=0) as shown:
        done = subprocess.run(
            [*words, "--print", "entries"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
        os.close(writing)
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)
        text = b""
        while (block := _read(shown)) != b"":
            text += block
    assert done.returncode == 0
    assert b'"purpose":"x\\u202ey\\u009b2Jz"' in text
    assert text.count(b"\r\n") == 13


def _read(file):
    try:
        return file.read(65536) or b""
    except OSError:
        return b""
