"""packaging/ and docs/install.md: the unit of systemd, the container, and what both promise."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

from node.cli.passphrases import CREDENTIAL
from node.cli.serve import STOP_SECONDS
from node.errors import ExitCode

UNIT = ROOT / "packaging" / "radmesh.service"
CONTAINER = ROOT / "packaging" / "Containerfile"
INSTALL = (ROOT / "docs" / "install.md").read_text()

EXPOSURE = 15
"""What `systemd-analyze security` may find at most, in tenths: 1.5 of 10."""


def _settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def _systemd_analyze(*words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze (package systemd)")
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60)


def _unit_for(tmp_path: Path) -> Path:
    """The unit, with a program that is on this machine."""
    program = tmp_path / "radmesh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text().replace("/opt/radmesh/.venv/bin/radmesh", str(program))
    assert str(program) in text
    unit = tmp_path / "radmesh.service"
    unit.write_text(text)
    return unit


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    ran = _systemd_analyze("verify", "--man=no", str(_unit_for(tmp_path)))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_mistake_in_the_unit_would_be_noticed(tmp_path: Path) -> None:
    unit = _unit_for(tmp_path)
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHouse=yes"))
    assert "ProtectHouse" in _systemd_analyze("verify", "--man=no", str(unit)).stderr


def test_the_unit_lets_the_node_do_little(tmp_path: Path) -> None:
    words = ("security", "--offline=true", f"--threshold={EXPOSURE}", str(_unit_for(tmp_path)))
    ran = _systemd_analyze(*words)
    assert ran.returncode == 0, ran.stdout[-600:] + ran.stderr


def test_an_open_unit_would_be_noticed(tmp_path: Path) -> None:
    unit = _unit_for(tmp_path)
    unit.write_text(unit.read_text().replace("ProtectSystem=strict\n", "").replace("=yes", "=no"))
    words = ("security", "--offline=true", f"--threshold={EXPOSURE}", str(unit))
    assert _systemd_analyze(*words).returncode != 0


def test_the_unit_fits_the_node() -> None:
    settings = _settings()
    assert settings["Type"] == ["notify"]
    assert float(settings["TimeoutStopSec"][0]) > STOP_SECONDS
    given_up = {ExitCode(int(code)) for code in settings["RestartPreventExitStatus"][0].split()}
    assert given_up == {
        ExitCode.USAGE, ExitCode.NO_HOME, ExitCode.INTEGRITY, ExitCode.PASSPHRASE,
    }  # fmt: skip
    [start] = settings["ExecStart"]
    assert shlex.split(start)[1:] == ["--home", "/var/lib/radmesh/home", "serve"]
    assert settings["StateDirectory"] == ["radmesh"]
    loaded = re.findall(r"LoadCredentialEncrypted=([^:]+):", UNIT.read_text() + INSTALL)
    assert set(loaded) == {CREDENTIAL}


def test_what_the_container_is_made_of_exists_and_is_pinned() -> None:
    text = CONTAINER.read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in shlex.split(line)[:-1]
    ]
    assert {"keys", "protocol", "node", "requirements.lock"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    # Whatever is installed by name comes with its hash.
    for command in re.findall(r"pip install (.*?)(?= && |\n[A-Z])", text.replace("\\\n", " ")):
        assert "--no-deps" in command
        assert ("--require-hashes" in command) is ("-r " in command)


def test_the_container_runs_without_rights() -> None:
    text = CONTAINER.read_text()
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER [1-9][0-9]*:", last, re.MULTILINE)
    assert 'ENTRYPOINT ["radmesh"]\nCMD ["serve"]' in last
    assert "CREDENTIALS_DIRECTORY=/run/secrets" in last
    assert f"secret create {CREDENTIAL} " in INSTALL


def test_what_the_document_names_is_there() -> None:
    for name in re.findall(r"packaging/\w+(?:\.\w+)?", INSTALL):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"^    make (\S+)", INSTALL, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(re.findall(r"radmesh-([0-9.]+)-py3", INSTALL)) == {version[1]}


def test_the_credential_is_read_as_the_document_makes_it(tmp_path: Path) -> None:
    """One line without its end, as `systemd-ask-password -n` gives it, or with it."""
    from node.cli.passphrases import of_home

    for text in ("four words are enough", "four words are enough\n"):
        (tmp_path / CREDENTIAL).write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
            assert of_home(None) == "four words are enough"
