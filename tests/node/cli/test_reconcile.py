"""`radmesh audit reconcile` on two exported logs: what is printed, and the exit code."""

import base64
import hashlib
import json

import pytest
from bundles_made import CARD, PEER_CARD
from exchanges_made import Pair

from keys.identity import verify
from node.cli.main import main
from node.home import Home


@pytest.fixture
def files(tmp_path):
    """Two logs that agree, their cards, and the words that compare them."""

    def write(pair):
        for name, data in zip("ab", pair.close().bundles(), strict=True):
            (tmp_path / f"{name}.zip").write_bytes(data)
        (tmp_path / "a.card").write_bytes(CARD.encoded)
        words = ["audit", "reconcile", str(tmp_path / "a.zip"), str(tmp_path / "b.zip")]
        # A card file and a spoken fingerprint will both do.
        return [
            *words,
            "--facility-a",
            str(tmp_path / "a.card"),
            "--facility-b",
            PEER_CARD.fingerprint,
        ]

    return write


def test_logs_that_agree(files, capsys):
    assert main(files(Pair().whole(1))) == 0
    assert capsys.readouterr().out.startswith("AGREED: no difference in 1 disclosure\n")


def test_logs_that_differ(files, capsys):
    words = files(Pair().whole(1).wait().source("A", "disclosure-begun", 2))
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "DIFFERENCES: 1 of 2 disclosures" in printed
    assert "ONLY_A: A to B" in printed
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["counts"]["ONLY_A"] == 1


def test_the_grace_is_an_option(files, capsys):
    words = files(Pair().wait().source("A", "disclosure-begun", 2))
    assert main([*words, "--grace", "7200"]) == 0
    assert "NOT_YET" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda words: words[:3], "two bundles and their two facilities are needed"),
        (lambda words: words[:4], "two bundles and their two facilities are needed"),
        (lambda words: [*words, "--peer", "X"], "two bundles and their two facilities are needed"),
        (lambda words: [*words[:3], "--save", "X"], "two bundles and their two facilities"),
        (lambda words: [*words[:3], "none.zip", *words[4:]], "cannot be read"),
        (lambda words: [*words[:-1], "AAAA"], "neither a card file nor a fingerprint"),
    ],
)
def test_what_cannot_be_compared_has_no_result(files, capsys, change, said):
    assert main(change(files(Pair().whole(1)))) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_a_log_that_is_not_sound_cannot_tell(files, capsys, tmp_path):
    words = files(Pair().whole(1))
    (tmp_path / "b.zip").write_bytes(b"no bundle")
    assert main(words) == 2
    assert "CANNOT TELL: the log of B cannot be relied on" in capsys.readouterr().out


def test_a_result_that_is_signed_and_logged(files, tmp_path, capsys, monkeypatch):
    home = Home.create(tmp_path / "home", name="Auditing General")
    monkeypatch.setenv("RADMESH_HOME", str(home.path))
    words = files(Pair().whole(1).wait().source("A", "disclosure-begun", 2))
    saved = tmp_path / "result"
    assert main([*words, "--save", str(saved)]) == 1
    assert "ONLY_A: A to B" in capsys.readouterr().out
    head, result, end = saved.read_bytes().split(b"\n")
    domain, signature = head.split(b" ")
    assert end == b""
    verify(home.read_card().node_key, domain, result, base64.b64decode(signature))
    assert json.loads(result)["counts"]["ONLY_A"] == 1
    assert main(["audit", "show", "--type", "reconciled", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["entries"]
    assert entry["details"]["only_a"] == 1
    assert entry["details"]["sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    # Neither the file nor the log is written over.
    assert main([*words, "--save", str(saved)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_logs_that_cannot_be_compared_are_logged_as_such(files, tmp_path, capsys, monkeypatch):
    home = Home.create(tmp_path / "home", name="Auditing General")
    monkeypatch.setenv("RADMESH_HOME", str(home.path))
    words = files(Pair().whole(1))
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes())
    assert main([*words, "--save", str(tmp_path / "result")]) == 2
    assert capsys.readouterr().out.startswith("CANNOT TELL")
    assert main(["audit", "show", "--type", "reconciled", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["entries"]
    assert (entry["outcome"], entry["details"]["why"]) == ("failed", "a log is not sound")
