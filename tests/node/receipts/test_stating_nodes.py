"""Two real nodes: a study is sent, arrives and is stored in South's archive; North sees both.

What proves that a study is stored is not a part of these tests: it is noted on South's home while
South does not run. Either node is killed when the other one has its entry about it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import make_study

from node.app import Node

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

KINDS = ("stored-told", "stored-heard")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facility, Facility]]:
    with two_facilities(tmp_path_factory.mktemp("pair")) as both:
        yield both


def sent(pair: tuple[Facility, Facility], directory: Path) -> str:
    """A new study of North's, fetched by South, with its receipt at both."""
    north, south = pair
    study = make_study(directory, 3)
    north.call("ingest", paths=[str(directory)])
    wait_until(lambda: study in south.announced(north), what="the announcement")
    south.call("fetch", study=study, peer=north.name)
    for one in pair:
        wait_until(lambda one=one: receipts(one, study), what="the receipt")
    return study


def receipts(facility: Facility, study: str) -> list[dict[str, Any]]:
    return [
        receipt
        for one in facility.call("transfers")["transfers"]
        if one["study"] == study
        for receipt in one["receipts"]
    ]


def stored(facility: Facility, study: str) -> dict[str, Any] | None:
    [receipt] = receipts(facility, study)
    found: dict[str, Any] | None = receipt["stored"]
    return found


def note(south: Facility, study: str) -> None:
    """South's archive has the study; South does not run."""
    with Node.open(south.home) as node:
        assert node.stored.note(study, "commitment", 3)


def about(facility: Facility, study: str) -> list[str]:
    return [
        entry["type"]
        for kind in KINDS
        for entry in facility.entries(kind)
        if {"kind": "study", "value": study} in entry["opened"]
    ]


def check_told_once(pair: tuple[Facility, Facility], study: str, directory: Path) -> None:
    north, south = pair
    wait_until(lambda: stored(north, study), 40.0, "North hears it")
    wait_until(lambda: (stored(south, study) or {})["noted"], 40.0, "South has the answer")
    assert about(north, study) == ["stored-heard"]
    assert about(south, study) == ["stored-told"]
    for one in pair:
        assert "Traceback" not in one.stderr()
        one.check_log(directory, f"{one.home.path.name}-{study}")


def test_the_sender_sees_both_receipts_over_a_stop_of_the_other_side(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = sent(pair, tmp_path / "in")
    before = north.cli("transfers").stdout
    assert " by South Clinic, signed by both" in before
    assert "stored" not in before
    south.stop()
    note(south, study)
    # North is away as well, and hears it at the next connection.
    north.stop()
    south.start()
    north.start()
    check_told_once(pair, study, tmp_path)
    after = north.cli("transfers").stdout.splitlines()
    [line] = [one for one in after if "stored" in one]
    assert line.startswith("  stored   ")
    assert line.endswith("in its archive, by storage commitment")
    ours = south.cli("transfers").stdout
    assert "in our archive, by storage commitment" in ours
    assert "not noted" not in ours
    index = north.entries("stored-heard")[-1]["index"]
    proof = tmp_path / "proof"
    north.call("audit.prove", what=str(index), path=str(proof))
    card = tmp_path / "north.card"
    card.write_bytes(north.home.read_card().encoded)
    said = north.cli("audit", "check-proof", str(proof), "--facility", str(card)).stdout
    assert "PROVEN" in said
    assert "stored-heard" in said


@pytest.mark.parametrize("victim", ["north", "south"])
def test_kill_9_when_the_other_side_has_its_entry(
    pair: tuple[Facility, Facility], tmp_path: Path, victim: str
) -> None:
    """The entry is the moment: what the killed side did not do follows, and nothing twice."""
    north, south = pair
    study = sent(pair, tmp_path / "in")
    south.stop()
    note(south, study)
    south.start()
    watched, kind = (south, "stored-told") if victim == "north" else (north, "stored-heard")
    killed = north if victim == "north" else south
    wait_until(lambda: kind in about(watched, study), 40.0, kind)
    killed.kill()
    killed.start()
    check_told_once(pair, study, tmp_path)
