"""The verdict in its two forms, the command, and what docs/auditing.md shows of both."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bundles_made import CARD, FACILITY, PEER_CARD, RECEIPT, honest, pin_of, verify
from bundles_tampered import bit_flipped, tail_cut, untouched

from keys.fingerprint import fingerprint
from protocol.verify import report_lines, to_json

BUNDLE = honest().bundle()


def test_report_and_json_say_the_same():
    for build in (untouched, bit_flipped, tail_cut):
        verdict = verify(build()[0])
        value = json.loads(to_json(verdict))
        text = "\n".join(report_lines(verdict))
        assert value["code"] == verdict.code
        assert value["index"] == verdict.index
        assert value["reason"] in text
        assert all(note in text for note in value["notes"])
        assert (value["verdict"] == "sound") is text.startswith("SOUND")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "good.zip").write_bytes(BUNDLE)
    (tmp_path / "bad.zip").write_bytes(bit_flipped()[0].bundle())
    (tmp_path / "junk.zip").write_bytes(b"junk")
    (tmp_path / "card").write_bytes(CARD.encoded)
    (tmp_path / "peer-card").write_bytes(PEER_CARD.encoded)
    (tmp_path / "receipt").write_bytes(RECEIPT)
    (tmp_path / "checkpoint").write_text(honest().checkpoints["checkpoints/12"])
    return tmp_path


def command(files, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "protocol.verify", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_command(files):
    facility = ("--facility", fingerprint(FACILITY.public))
    root = pin_of(honest(), 12)[1].hex()
    for name, code in (("good.zip", 0), ("bad.zip", 1), ("junk.zip", 2), ("missing", 2)):
        assert command(files, str(files / name), *facility).returncode == code
    good = str(files / "good.zip")
    done = command(
        files,
        good,
        "--facility",
        str(files / "card"),
        f"--pin=12:{root}",
        f"--checkpoint={files / 'checkpoint'}",
        f"--receipt={files / 'receipt'}",
        f"--peer-card={files / 'peer-card'}",
        "--json",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verdict"] == "sound"
    assert command(files, good, *facility, f"--pin=12:{'00' * 32}").returncode == 1
    assert command(files, good, *facility, "--pin=12").returncode == 2
    assert command(files, good, "--facility", str(files / "peer-card")).returncode == 1
    wrong = command(files, good, "--facility", "ABCDEFG")
    assert wrong.returncode == 2
    assert "neither a fingerprint" in wrong.stderr


@pytest.mark.slow
def test_the_verifier_loads_nothing_of_the_writer_or_the_node():
    code = (
        "import sys, protocol.verify.__main__; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('trio', 'libp2p', 'sqlite3', 'msgpack', 'pydicom', 'node') or "
        "m.startswith(('protocol.log', 'protocol.wire', 'protocol.receipt'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# --- docs/auditing.md ----------------------------------------------------------

AUDITING = Path(__file__).resolve().parents[1] / "docs" / "auditing.md"


def test_the_outputs_shown_to_auditors_are_real():
    blocks = re.findall(r"^```text output=([a-z]+)\n(.*?)^```$", AUDITING.read_text(), re.S | re.M)
    real = {
        name: "".join(f"{line}\n" for line in report_lines(verify(build()[0])))
        for name, build in (("sound", untouched), ("changed", bit_flipped), ("cut", tail_cut))
    }
    assert dict(blocks) == real


@pytest.mark.slow
def test_the_program_shown_to_auditors_computes_the_signed_root(files):
    (program,) = re.findall(r"^```python\n(.*?)^```$", AUDITING.read_text(), re.S | re.M)
    done = subprocess.run(
        [sys.executable, "-c", program, str(files / "good.zip")],
        capture_output=True,
        text=True,
        check=True,
    )
    computed, signed = (line.split() for line in done.stdout.splitlines())
    assert computed[1:] == signed[1:] == ["12", pin_of(honest(), 12)[1].hex()]
