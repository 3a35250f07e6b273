"""The verdict in its two forms, the command, and what docs/auditing.md shows of both."""

import importlib
import json
import re
import subprocess
import sys

import pytest
from bundles_made import (
    CARD,
    COSIGNERS,
    FACILITY,
    LOG,
    ORIGIN,
    PEER,
    PEER_CARD,
    RECEIPT,
    SIGNED_AT,
    TWO_OF_THREE,
    Log,
    honest,
    pin_of,
    rotated,
    verify,
    witnessed,
)
from bundles_tampered import bit_flipped, rewritten_against_quorum, tail_cut, untouched
from places import ROOT
from proofs_made import check, prove
from second_log import vkey

from keys.fingerprint import fingerprint
from protocol.verify import report_lines, to_json
from protocol.verify.command import main

BUNDLE = honest().bundle()


def test_report_and_json_say_the_same():
    for log in (untouched()[0], bit_flipped()[0], tail_cut()[0], rotated(), b"junk"):
        verdict = verify(log)
        value = json.loads(to_json(verdict))
        text = "\n".join(report_lines(verdict))
        assert value["code"] == verdict.code
        assert value["index"] == verdict.index
        assert value["reason"] in text
        assert all(note in text for note in value["notes"])
        assert text.startswith(value["verdict"].upper() + ": ")
        assert ("changed and checked: 1" in text) is (value["key_changes"] == 1)


def test_a_report_has_a_line_for_all_that_is_known_and_none_for_what_is_not():
    bare, empty = report_lines(verify(honest())), verify(Log().sign())
    for heading in ("  keys ", "  witness ", "  last seen", "what follows from it"):
        assert not any(line.startswith(heading) for line in bare)
    assert not any(line.startswith("  entries ") for line in report_lines(empty))
    seen = verify(witnessed(), **TWO_OF_THREE, now=SIGNED_AT)
    lines = report_lines(seen)
    assert [line for line in lines if line.startswith("  witness ")] == [
        f"  witness   {each}" for each in seen.witnesses
    ]
    assert len(seen.witnesses) == 2
    assert f"  last seen {seen.last_seen}" in lines
    log = honest()
    log.entries[7] = log.entries[7].replace(b'"instances":7', b'"instances":6')
    bad = verify(log, checkpoints=[b""])
    at = report_lines(bad).index("what follows from it, or is wrong besides:")
    assert len(bad.findings) > 1
    assert report_lines(bad)[at + 1 :][: len(bad.findings) - 1] == [
        f"  - {each.code}: {each.reason}" for each in bad.findings[1:]
    ]


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
        cwd=ROOT,
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


def test_command_with_a_proof_and_witnesses(files):
    facility = ("--facility", fingerprint(FACILITY.public))
    (files / "w.zip").write_bytes(witnessed().bundle())
    (files / "w.tlog-proof").write_text(prove(witnessed(), 3).text())
    policy = "".join(
        f"witness w{number} {vkey(each.name, each.key.public, 4)}\n"
        for number, each in enumerate(COSIGNERS)
    )
    (files / "policy").write_text(policy + "group g 2 w0 w1 w2\nquorum g\n")
    (files / "all").write_text(policy + "group g all w0 w1 w2\nquorum g\n")
    cards = []
    for number, each in enumerate(COSIGNERS):
        (files / f"w{number}").write_bytes(each.card.encoded)
        cards += ["--witness-card", str(files / f"w{number}")]
    for name in ("w.zip", "w.tlog-proof"):
        name = str(files / name)
        for words, code in (
            ((), 0),
            (("--policy", str(files / "policy")), 0),
            (("--policy", str(files / "all")), 1),
            (("--quorum", "2", *cards), 0),
            (("--quorum", "3", *cards), 1),
            (("--quorum", "4", *cards), 2),
            (("--policy", str(files / "card")), 2),
            (("--pin", "12:" + "0" * 64), 1),
        ):
            assert (
                main([name, *facility, *words]) == code
                if code < 2
                else _refused([name, *facility, *words])
            )


def _refused(words):
    with pytest.raises(SystemExit) as error:
        main(words)
    return error.value.code == 2


def test_what_is_shown_cannot_drive_a_terminal(files, capsys):
    log = honest()
    log.entries[3] = log.entries[3].replace(b"ingest", b"in\x1b[2J")
    (files / "odd.zip").write_bytes(log.sign().bundle())
    main([str(files / "odd.zip"), "--facility", fingerprint(FACILITY.public)])
    assert "\x1b" not in capsys.readouterr().out


def test_the_console_script_is_this_command():
    text = (ROOT / "pyproject.toml").read_text()
    [(module, name)] = re.findall(r'^radmesh-verify = "([a-z.]+):(\w+)"$', text, re.MULTILINE)
    assert getattr(importlib.import_module(module), name) is main


@pytest.mark.slow
def test_the_verifier_loads_nothing_of_the_writer_or_the_node():
    code = (
        "import sys; before = set(sys.modules); import protocol.verify.command; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}), '|', "
        "*sorted(m for m in sys.modules if m.startswith(('keys', 'protocol'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    packages, _, ours = (part.split() for part in done.stdout.partition("|"))
    others = {name for name in packages if name not in sys.stdlib_module_names}
    # PyNaCl and what it is made of; `keys` and this part of `protocol`.
    assert {name.strip("_") for name in others} <= {
        "nacl",
        "sodium",
        "cffi_backend",
        "keys",
        "protocol",
    }
    assert not {"sqlite3", "socket", "ssl", "asyncio", "subprocess"} & set(packages)
    allowed = ("protocol.verify", "keys.card", "keys.fingerprint")
    below = {
        "keys",
        "keys.canonical",
        "keys.errors",
        "keys.identity",
        "keys.possession",
        "protocol",
    }
    assert [name for name in ours if not name.startswith(allowed) and name not in below] == []


# --- docs/auditing.md ----------------------------------------------------------

AUDITING = ROOT / "docs" / "auditing.md"


def test_the_outputs_shown_to_auditors_are_real():
    blocks = re.findall(r"^```text output=([a-z]+)\n(.*?)^```$", AUDITING.read_text(), re.S | re.M)
    rewritten, against, _ = rewritten_against_quorum()
    known = {"peer_cards": [PEER_CARD], "now": SIGNED_AT + 3 * 3600, **TWO_OF_THREE}
    verdicts = {
        "sound": verify(untouched()[0]),
        "witnessed": verify(witnessed(), **known),
        "proof": check(prove(witnessed(), 5), **known),
        "changed": verify(bit_flipped()[0]),
        "cut": verify(tail_cut()[0]),
        "rewritten": verify(rewritten, **against),
    }
    real = {
        name: "".join(f"{line}\n" for line in report_lines(verdict))
        for name, verdict in verdicts.items()
    }
    assert dict(blocks) == real


@pytest.fixture
def shown(files):
    """What the program shown to auditors prints, as words."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", AUDITING.read_text(), re.S | re.M)
    (files / "cosigned.zip").write_bytes(witnessed().bundle())
    done = subprocess.run(
        [sys.executable, "-c", program, str(files / "cosigned.zip")],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_the_program_shown_to_auditors_computes_the_signed_root(shown):
    computed, signed, facility, key = shown
    assert computed[1:] == signed[1:] == ["12", pin_of(honest(), 12)[1].hex()]
    letters = CARD.fingerprint.replace("-", "")
    assert facility[1].rstrip("=") == "".join(letters[at : at + 13] for at in (0, 14, 28, 42))
    assert key[1] == vkey(ORIGIN, LOG.public)


@pytest.mark.slow
def test_the_other_program_shown_to_auditors_takes_that_key(shown, files, capsys):
    cli = pytest.importorskip("aics_tlog.cli")
    (files / "note").write_text(witnessed().checkpoints["checkpoints/12"])
    words = ["verify-checkpoint", "--note", str(files / "note"), "--log-key", shown[3][1]]
    witnesses = [word for each in COSIGNERS for word in ("--witness-key", _witness_key(each))]
    assert cli.main([*words, *witnesses, "--quorum", "2"]) == 0
    assert cli.main([*words, *witnesses, "--quorum", "3"]) != 0
    assert cli.main([*words[:-1], vkey(ORIGIN, PEER.public)]) != 0


def _witness_key(cosigner):
    return vkey(cosigner.name, cosigner.key.public, 4)
