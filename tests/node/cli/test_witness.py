"""`radmesh audit witness`, `policy`, `forks` and the settings, where no node runs."""

from pathlib import Path

import pytest
from facilities import Facility

from node.config import AuditSettings, read_settings
from node.errors import ExitCode, NodeError
from protocol.log.policy import parse_policy_untrusted

pytestmark = pytest.mark.integration


def _facility(directory: Path, settings: str = "") -> Facility:
    made = Facility(directory, "North General")
    text = made.home.config_path.read_text()
    made.home.config_path.write_text(f"{text}\n{settings}")
    return made


@pytest.mark.slow
def test_without_witnesses(tmp_path: Path) -> None:
    north = _facility(tmp_path)
    assert north.cli("audit", "policy").stdout.splitlines()[-1] == "quorum none"
    forks = north.cli("audit", "forks")
    assert forks.stdout == "no log that this node knows contradicts itself\n"
    assert north.cli_json("audit", "forks") == {"alerts": []}
    assert "cosigned" not in north.cli("status").stdout
    done = north.cli("audit", "witness", check=False)
    assert done.returncode == ExitCode.BUSY
    assert "is not running" in done.stderr


@pytest.mark.slow
def test_a_policy_of_one_of_one(tmp_path: Path) -> None:
    north = _facility(tmp_path, "[audit]\nwitness_quorum = 1\n")
    south = Facility(tmp_path, "South Clinic")
    north.trust(south, "witness")
    policy = parse_policy_untrusted(north.call("audit.policy")["policy"].encode())
    [witness] = policy.witnesses.values()
    assert witness.public == south.home.read_card().witness_key
    assert policy.is_met_by([witness])
    assert "log no checkpoint is cosigned by enough witnesses yet" in north.cli("status").stdout


@pytest.mark.slow
def test_a_quorum_that_cannot_be_is_told(tmp_path: Path) -> None:
    north = _facility(tmp_path, "[audit]\nwitness_quorum = 2\n")
    done = north.cli("audit", "policy", check=False)
    assert done.returncode == ExitCode.USAGE
    assert "config.toml asks for 2 witnesses, and 0 have the grant" in done.stderr
    assert "no checkpoint can be enough" in north.cli("status").stdout
    # It must not stop an export: the auditor has a policy of their own.
    north.check_log(tmp_path)


@pytest.mark.slow
def test_what_is_not_there_cannot_be_settled(tmp_path: Path) -> None:
    north = _facility(tmp_path)
    done = north.cli("audit", "forks", "--settle", "7", check=False)
    assert done.returncode == ExitCode.NOT_FOUND
    assert "there is no alert 7" in done.stderr
    done = north.cli("audit", "forks", "--start-over", check=False)
    assert done.returncode == ExitCode.USAGE


@pytest.mark.slow
def test_evidence_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    north = _facility(tmp_path)
    (tmp_path / "file").touch()
    done = north.cli("audit", "forks", "--export", str(tmp_path / "file" / "x"), check=False)
    assert done.returncode == ExitCode.DISK
    assert "Traceback" not in done.stderr


def test_the_settings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[audit]\nwitness_quorum = 2\nheartbeat_seconds = 60\n")
    assert read_settings(path).audit == AuditSettings(witness_quorum=2, heartbeat_seconds=60)
    path.write_text("")
    assert read_settings(path).audit == AuditSettings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("audit = 1", "audit"),
        ("[audit]\nquorum = 1", "quorum"),
        ("[audit]\nwitness_quorum = -1", "audit.witness_quorum"),
        ("[audit]\nwitness_seconds = 0", "audit.witness_seconds"),
        ("[audit]\nwitness_seconds = 1.5", "audit.witness_seconds"),
        ("[audit]\nheartbeat_seconds = true", "audit.heartbeat_seconds"),
        ("[audit]\nheartbeat_seconds = 86401", "audit.heartbeat_seconds"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(NodeError, match=named) as caught:
        read_settings(path)
    assert caught.value.code is ExitCode.USAGE
