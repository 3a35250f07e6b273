"""The table `dicomweb` of the settings, and who a token is."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from node.config import read_settings
from node.edges.dicomweb_settings import DicomWebSettings
from node.errors import NodeError

DIGEST = hashlib.sha256(b"secret").hexdigest()
CALLER = f'[dicomweb.callers."VIEWER"]\ntoken_digest = "{DIGEST}"\n'


def _read(tmp_path: Path, text: str) -> DicomWebSettings:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return read_settings(path).dicomweb


def test_nothing_listens_by_itself(tmp_path: Path) -> None:
    found = _read(tmp_path, CALLER)
    assert not found.is_on
    assert not found.is_secure


def test_a_caller_is_who_has_its_token(tmp_path: Path) -> None:
    found = _read(tmp_path, CALLER + 'store = true\npurpose = "treatment"\n')
    caller = found.caller_of("secret")
    assert caller is not None
    assert (caller.name, caller.read, caller.store, caller.purpose) == (
        "VIEWER", True, True, "treatment",
    )  # fmt: skip
    for token in ("", "Secret", "secret ", DIGEST, "\udcff"):
        assert found.caller_of(token) is None


@pytest.mark.parametrize("place", ["127.0.0.1:0", "[::1]:0", "127.9.9.9:1"])
def test_this_machine_alone_needs_no_certificate(tmp_path: Path, place: str) -> None:
    assert _read(tmp_path, f'[dicomweb]\nlisten = ["{place}"]\n').is_on


def test_others_need_tls(tmp_path: Path) -> None:
    text = '[dicomweb]\nlisten = ["10.1.2.3:8443"]\n'
    with pytest.raises(NodeError, match="without certificate and key"):
        _read(tmp_path, text)
    found = _read(tmp_path, text + 'certificate = "a.pem"\nkey = "a.key"\n')
    assert found.is_secure
    assert found.certificate == str(tmp_path / "a.pem")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[dicomweb]\ncertificate = "a.pem"\n', "one of certificate and key"),
        ('[dicomweb]\norigins = ["viewer"]\n', "origins"),
        ('[dicomweb]\norigins = ["https://a/b"]\n', "origins"),
        ("[dicomweb]\ncallers = 3\n", "callers that are no tables"),
        ('[dicomweb.callers."A B"]\n', "a name that is none"),
        ('[dicomweb.callers."A"]\n', "no token_digest"),
        ('[dicomweb.callers."A"]\ntoken_digest = "secret"\n', "no token_digest"),
        (CALLER + "read = 1\n", "`read` or `store`"),
        (CALLER + 'purpose = "no"\n', "a purpose that there is not"),
        (CALLER + 'purpose = "BTG"\n', "emergencies"),
        (CALLER + 'token = "secret"\n', "its entries are"),
        (CALLER + CALLER.replace("VIEWER", "OTHER"), "two callers with one token"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: Any) -> None:
    with pytest.raises(NodeError, match=said):
        _read(tmp_path, text)
