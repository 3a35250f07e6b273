"""Rules between two real nodes: feeds and transfers follow at once, limits survive a power cut."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import make_study

from node.errors import ExitCode, NodeError

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facility, Facility]]:
    with two_facilities(tmp_path_factory.mktemp("pair")) as both:
        yield both


def _ingest(facility: Facility, directory: Path, count: int = 3, **kwargs: int) -> str:
    study = make_study(directory, count, **kwargs)
    facility.call("ingest", paths=[str(directory)])
    return study


def _rule(facility: Facility, other: Facility, words: str) -> int:
    return int(facility.call("rules.add", peer=other.name, rule=words.split())["number"])


def _fetch(facility: Facility, study: str) -> Any:
    try:
        return facility.call("fetch", study=study)["state"]
    except NodeError as error:
        return error.code


def test_a_rule_withdraws_within_a_second_and_gives_it_back(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in")
    wait_until(lambda: study in south.announced(north), what="announcement")
    number = _rule(north, south, "deny see modality=CT")
    wait_until(lambda: study not in south.announced(north), 2.0, "withdrawal")
    with pytest.raises(NodeError) as caught:
        south.call("fetch", study=study, peer=north.name)
    assert caught.value.code is ExitCode.REFUSED
    north.call("rules.remove", peer=south.name, number=number)
    wait_until(lambda: study in south.announced(north), 2.0, "it is announced again")
    assert _fetch(south, study) == "complete"


@pytest.mark.slow
def test_a_limit_holds_for_two_at_once_and_over_a_power_cut(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    before = len(north.entries("disclosure-begun"))
    north.call("trust.revoke", peer=south.name, grants=["fetch"])
    _rule(north, south, f"allow fetch studies-a-day={before + 2}")
    studies = [_ingest(north, tmp_path / f"in{number}") for number in range(4)]
    wait_until(lambda: set(studies) <= set(south.announced(north)), what="announcement")
    assert _fetch(south, studies[0]) == "complete"

    # One is left, and two are asked for at once.
    ended: list[Any] = []
    threads = [
        threading.Thread(target=lambda study=study: ended.append(_fetch(south, study)))
        for study in studies[1:3]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, ended)) == sorted(map(str, ["complete", ExitCode.REFUSED]))

    north.kill()
    north.start()
    wait_until(lambda: south.peer(north)["connected"], what="connection")
    assert _fetch(south, studies[3]) is ExitCode.REFUSED
    # What it has begun to receive today counts once.
    found = north.call("trust.explain", peer=south.name, study=studies[0])
    assert (found["verdict"], found["left"][0]["used"]) == ("yes", before + 2)
    found = north.call("trust.explain", peer=south.name, study=studies[3])
    assert (found["verdict"], found["left"][0]["used"]) == ("no", before + 3)
    assert len(north.entries("disclosure-begun")) == before + 2
    _rule(north, south, f"allow fetch studies-a-day={before + 3}")
    assert _fetch(south, studies[3]) == "complete"
    north.check_log(tmp_path)
