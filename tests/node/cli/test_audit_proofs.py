"""`radmesh audit prove` and `check-proof`: what is written is proven, and to whom."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import second_log as second
from facilities import mesh, wait_until
from places import ROOT
from studies_made import make_study
from terminal import Terminal, images, north, terminal

from node.errors import ExitCode
from protocol.log.proof import parse_proof_untrusted

__all__ = ["images", "north", "terminal"]

VERIFY = (sys.executable, "-m", "protocol.verify")


def own_fingerprint(terminal: Terminal) -> str:
    return str(json.loads(terminal.run("card", "show", "--json").out)["fingerprint"])


def entries(terminal: Terminal) -> list[dict]:
    return json.loads(terminal.run("audit", "show", "--all", "--json").out)["entries"]


@pytest.mark.slow
def test_every_entry_of_a_home_is_proven(north: Terminal, images: Path, tmp_path: Path) -> None:
    north.run("ingest", str(images))
    fingerprint = own_fingerprint(north)
    count = len(entries(north))
    for index in range(count):
        path = tmp_path / f"{index}.tlog-proof"
        made = json.loads(north.run("audit", "prove", str(index), str(path), "--json").out)
        assert (made["index"], made["bytes"]) == (index, path.stat().st_size)
        ran = north.run("audit", "check-proof", str(path), "--facility", fingerprint)
        assert ran.code == 0
        assert ran.out.startswith(f"PROVEN: entry {index} is in the log")
    # Each proof that was given away has its entry.
    given = [each["details"] for each in entries(north) if each["type"] == "log-exported"]
    assert [each["first"] for each in given] == list(range(count))
    assert {each["format"] for each in given} == {"proof"}
    assert given[-1]["sha256"] == second.sha256(path.read_bytes()).hex()
    # The hashes are those of the recursion of RFC 6962 over what the log holds.
    size = parse_proof_untrusted(path.read_text()).checkpoint.split("\n")[1]
    bundle = tmp_path / "log.zip"
    north.run("audit", "export", str(bundle))
    lines = _entries_of(bundle)[: int(size)]
    hashes = parse_proof_untrusted(path.read_text()).hashes
    assert list(hashes) == second.path(count - 1, lines)


def _entries_of(bundle: Path) -> list[bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return archive.read("entries.jsonl").split(b"\n")[:-1]


@pytest.mark.slow
def test_openings_are_given_or_not(north: Terminal, images: Path, tmp_path: Path) -> None:
    north.run("ingest", str(images))
    fingerprint = own_fingerprint(north)
    [index] = [each["index"] for each in entries(north) if each["type"] == "ingest"][:1]
    for words, shown in (((), True), (("--without-openings",), False)):
        path = tmp_path / f"{shown}.tlog-proof"
        north.run("audit", "prove", str(index), str(path), *words)
        ran = north.run("audit", "check-proof", str(path), "--facility", fingerprint)
        assert ran.code == 0
        assert ("opened    study " in ran.out) is shown


def test_what_cannot_be_proven_is_said(north: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "x.tlog-proof"
    for what, words in (
        ("99", "the log has no entry 99"),
        ("deadbeef", "the log has no entry deadbeef, and none of a transfer"),
        ("-", "the log has no entry -"),
    ):
        ran = north.run("audit", "prove", "--", what, str(path))
        assert ran.code == ExitCode.NOT_FOUND
        assert words in ran.err
        assert not path.exists()
    path.write_text("mine")
    ran = north.run("audit", "prove", "0", str(path))
    assert "exists already" in ran.err
    assert path.read_text() == "mine"
    ran = north.run("audit", "prove", "0", str(tmp_path / "none" / "x"))
    assert "cannot be written" in ran.err
    # Nothing left, so nothing is said to have left.
    assert [each["type"] for each in entries(north)] == ["init"]


def test_a_changed_or_strange_proof(north: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "0.tlog-proof"
    north.run("audit", "prove", "0", str(path))
    fingerprint = own_fingerprint(north)
    good = path.read_text()
    path.write_text(good.replace("\n1\n", "\n2\n"))
    ran = north.run("audit", "check-proof", str(path), "--facility", fingerprint)
    assert ran.code == 1
    assert "CP_BAD" in ran.out
    path.write_text("something")
    assert north.run("audit", "check-proof", str(path), "--facility", fingerprint).code == 2
    missing = north.run("audit", "check-proof", str(tmp_path / "no"), "--facility", fingerprint)
    assert missing.code == 2
    for option in ("--policy", "--witness-card", "--checkpoint", "--receipt", "--peer-card"):
        path.write_text(good)
        words = ("--facility", fingerprint, option, str(tmp_path / "no"))
        assert north.run("audit", "check-proof", str(path), *words).code == 2
    words = ("--facility", fingerprint, "--policy", str(path))
    ran = north.run("audit", "check-proof", str(path), *words)
    assert (ran.code, "is no witness policy" in ran.err) == (2, True)
    ran = north.run("audit", "check-proof", str(path), "--facility", fingerprint, "--quorum", "1")
    assert (ran.code, "quorum of 1" in ran.err) == (2, True)


@pytest.mark.slow
@pytest.mark.integration
def test_a_transfer_is_proven_to_others_with_cosignatures(tmp_path: Path) -> None:
    with mesh(tmp_path, "North", "South", witness_quorum=1) as (here, there):
        study = make_study(tmp_path / "in", 3)
        here.start()
        there.start()
        here.cli("ingest", str(tmp_path / "in"))
        wait_until(lambda: study in there.announced(here), what="announcement")
        there.cli("fetch", study, "--from", "North")
        [transfer] = {each["details"]["transfer"] for each in there.entries("receipt")}
        wait_until(lambda: here.entries("receipt"), what="the receipt at the source")
        for one, other in ((here, there), (there, here)):
            proof = tmp_path / f"{one.name}.tlog-proof"
            made = one.cli_json("audit", "prove", transfer[:8], str(proof))
            assert made["type"] == "receipt"
            policy = tmp_path / f"{one.name}.policy"
            policy.write_text(one.cli("audit", "policy").stdout)
            card = one.home.read_card().fingerprint
            peer = tmp_path / f"{other.name}.card"
            peer.write_bytes(other.home.read_card().encoded)
            for words in (
                ("--policy", str(policy)),
                ("--quorum", "1", "--witness-card", str(peer)),
                ("--peer-card", str(peer)),
            ):
                # As an auditor does, who has no node.
                done = subprocess.run(
                    [*VERIFY, str(proof), "--facility", card, *words, "--json"],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stdout + done.stderr
                verdict = json.loads(done.stdout)
                assert verdict["entry"]["details"]["transfer"] == transfer
                assert [each.split(" saw ")[0] for each in verdict["witnesses"]]
            bundle = tmp_path / f"{one.name}.zip"
            one.cli("audit", "export", str(bundle))
            words = ("--facility", card, "--policy", str(policy), "--peer-card", str(peer))
            assert one.cli("audit", "verify", str(bundle), *words).returncode == 0
