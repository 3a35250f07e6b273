"""The collector as `config.toml` names it."""

from pathlib import Path

import pytest

from node.config import read_settings
from node.errors import ExitCode, NodeError
from node.reports.collector import Collector

ADDRESS = 'address = "logs.example:6514"\n'
CA = 'ca = "ca.pem"\n'


def _read(directory: Path, text: str) -> Collector | None:
    path = directory / "config.toml"
    path.write_text(text)
    return read_settings(path).audit.syslog


def test_none_unless_it_is_named(tmp_path: Path) -> None:
    assert _read(tmp_path, "") is None
    assert _read(tmp_path, "[audit]\nwitness_quorum = 1\n") is None


def test_paths_start_at_the_home(tmp_path: Path) -> None:
    text = f'[audit.syslog]\n{ADDRESS}{CA}certificate = "/etc/node.pem"\nformat = "json"\n'
    assert _read(tmp_path, text) == Collector(
        host="logs.example",
        port=6514,
        ca=tmp_path / "ca.pem",
        certificate=Path("/etc/node.pem"),
        form="json",
    )
    assert _read(tmp_path, f"[audit]\nwitness_seconds = 5\n[audit.syslog]\n{ADDRESS}{CA}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[audit]\nsyslog = 1\n", "a table of texts"),
        (f"[audit.syslog]\n{CA}address = 1\n", "audit.syslog.address in .* must be a text"),
        (f"[audit.syslog]\n{CA}", "is no address of a collector"),
        (f"[audit.syslog]\n{ADDRESS}", "authority is missing"),
        (f'[audit.syslog]\n{ADDRESS}{CA}port = "1"\n', "unknown entry: port"),
        (f'[audit.syslog]\n{ADDRESS}{CA}key = "k"\n', "no certificate"),
        (f'[audit.syslog]\n{ADDRESS}{CA}format = "xml"\n', "must be one of"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NodeError, match=message) as raised:
        _read(tmp_path, text)
    assert raised.value.code is ExitCode.USAGE
    assert "syslog" in raised.value.message
