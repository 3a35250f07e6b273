"""`radmesh audit reconcile` on two exported logs: what is printed, and the exit code."""

import json

import pytest
from bundles_made import CARD, PEER_CARD
from exchanges_made import Pair

from node.cli.main import main


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
        (lambda words: [*words, "--save", "X"], "two bundles and their two facilities are needed"),
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
