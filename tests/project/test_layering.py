"""The import contracts of pyproject.toml hold, and break when they should."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

# One forbidden import for each contract, by the beginning of the contract's name.
FORBIDDEN = [
    ("Imports point one way", "keys/identity.py", "import protocol.errors"),
    ("In node a floor imports", "node/home.py", "import node.serving"),
    ("No files import each other", "protocol/zstd.py", "import protocol.encoding"),
    ("keys, protocol and edges are arithmetic", "protocol/wire.py", "import socket"),
    ("keys needs the standard library", "keys/seal.py", "import msgpack"),
    (
        "The auditor's verifier shares no code",
        "protocol/verify/tree.py",
        "import protocol.log.tree",
    ),
    ("The auditor's verifier takes cards", "protocol/verify/tree.py", "import keys.canonical"),
    ("The check of a home shares no code", "node/fsck/tables.py", "import node.database"),
    ("SQL stays with", "node/operations/images.py", "import sqlite3"),
    ("msgpack is called", "protocol/messages.py", "import msgpack"),
    ("zstandard is called", "node/images/store.py", "import zstandard"),
    ("libp2p is called", "node/app.py", "import libp2p"),
    ("pydicom is called", "node/app.py", "import pydicom"),
    ("pynetdicom is an oracle of tests", "edges/dimse/codec.py", "import pynetdicom"),
    ("shamir_mnemonic is called", "node/app.py", "import shamir_mnemonic"),
    ("httpx is called", "node/app.py", "import httpx"),
    ("prometheus_client is called", "node/app.py", "import prometheus_client"),
    ("The web server is called", "node/app.py", "import starlette"),
    ("Only the command line prints", "node/app.py", "import click"),
]


def _lint(directory: Path) -> tuple[int, str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=directory,
        env={"PYTHONPATH": str(directory), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_import_contracts_hold():
    code, output = _lint(ROOT)
    assert code == 0, output


@pytest.mark.slow
def test_forbidden_imports_are_caught(tmp_path):
    for package in ("keys", "protocol", "edges", "node"):
        for source in (ROOT / package).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for _, place, line in FORBIDDEN:
        with (tmp_path / place).open("a") as file:
            file.write(f"\n{line}\n")
    code, output = _lint(tmp_path)
    assert code != 0
    broken = [line for line in output.splitlines() if " BROKEN" in line]
    missed = [name for name, _, _ in FORBIDDEN if not any(line.startswith(name) for line in broken)]
    assert missed == [], output


def test_each_contract_has_a_forbidden_import_here():
    names = [
        line.split('"')[1]
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith("name = ")
    ][1:]
    assert len(names) == len(FORBIDDEN)
    for name, (start, _, _) in zip(names, FORBIDDEN, strict=True):
        assert name.startswith(start)


def test_there_is_one_way_to_block_and_one_clock():
    """What a contract of imports cannot say: who calls these."""
    alone = {"to_thread.run_sync": "blocking.py", "time.time_ns": "clock.py"}
    for call, place in alone.items():
        users = {path.name for path in (ROOT / "node").rglob("*.py") if call in path.read_text()}
        assert users == {place}


def test_one_file_makes_files_durable():
    """Beside the log, which appends to its files."""
    flushing = {
        str(source.relative_to(ROOT))
        for source in (ROOT / "node").rglob("*.py")
        if re.search(r"\bos\.f(data)?sync\(", source.read_text())
    }
    assert flushing == {"node/durable.py", "node/audit/files.py"}
