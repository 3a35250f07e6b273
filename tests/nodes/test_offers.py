"""Offers between two real nodes: accepted, declined, ended, over restarts and kills."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import contents, make_study

from node.errors import ExitCode, NodeError

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facility, Facility]]:
    """South may neither see nor fetch anything of North."""
    with two_facilities(tmp_path_factory.mktemp("pair"), grants=()) as both:
        yield both


def _ingest(facility: Facility, directory: Path, count: int = 3) -> str:
    study = make_study(directory, count)
    facility.call("ingest", paths=[str(directory)])
    return study


def _send(north: Facility, south: Facility, study: str, **more: str) -> int:
    return int(north.call("send", study=study, peer=south.name, **more)["number"])


def _offer(facility: Facility, study: str) -> dict[str, Any] | None:
    found = [one for one in facility.call("offers")["offers"] if one["study"] == study]
    return found[-1] if found else None


def _waits(facility: Facility, study: str, state: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        one = _offer(facility, study)
        return one if one is not None and one["state"] == state else None

    found: dict[str, Any] = wait_until(look, what=f"offer is {state} at {facility.name}")
    return found


def _is_here(facility: Facility, study: str) -> bool:
    return any(one["study"] == study for one in facility.call("studies")["studies"])


def _fetch(south: Facility, north: Facility, study: str, purpose: str = "treatment") -> Any:
    try:
        return south.call("fetch", study=study, peer=north.name, purpose=purpose)["state"]
    except NodeError as error:
        return error.code


def test_a_person_accepts_and_this_study_alone_is_fetched(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in")
    other = _ingest(north, tmp_path / "other")
    said = north.cli(
        "send", study, "--to", south.name, "--purpose", "TREAT", "--message", "please look"
    ).stdout
    assert "to South Clinic is made, until" in said
    offered = _waits(south, study, "offered")
    assert (offered["message"], offered["purpose"]) == ("please look", "TREAT")
    assert offered["instances"] == 3
    assert "waits for you" in south.cli("offers").stdout
    alerts = south.call("status")["alerts"]
    assert any("1 offer of a facility waits for a person" in one for one in alerts)
    assert south.announced(north) == {}
    assert _fetch(south, north, other) is ExitCode.REFUSED
    assert not _is_here(south, study)

    number = offered["number"]
    assert "being fetched" in south.cli("offers", "accept", str(number)).stdout
    wait_until(lambda: _is_here(south, study), what="the study arrives")
    _waits(north, study, "accepted")
    south.call("export", study=study, directory=str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    assert _fetch(south, north, other) is ExitCode.REFUSED
    for facility, kinds in (
        (north, ["offered", "offer-answered", "disclosure-begun"]),
        (south, ["offer-heard", "offer-answered", "received"]),
    ):
        wait_until(lambda facility=facility: facility.entries("receipt"), what="receipt")
        about = [
            entry["type"]
            for entry in facility.entries()
            if {"kind": "study", "value": study} in entry["opened"] and entry["type"] in kinds
        ]
        assert about == kinds
        facility.check_log(tmp_path)
    [begun] = north.entries("disclosure-begun")
    assert begun["details"]["rule"].startswith("offer ")

    # Ended, it may not be fetched once more.
    sent = _offer(north, study)
    assert sent is not None
    north.cli("offers", "end", str(sent["number"]))
    _waits(south, study, "ended")
    assert _fetch(south, north, study) is ExitCode.REFUSED
    [opened] = [entry["opened"] for entry in north.entries("offered")]
    assert {"kind": "message", "value": "please look"} in opened
    for facility in pair:
        assert "please look" not in facility.stderr()
        assert _offer(facility, study) is not None
        assert _offer(facility, study)["message"] == ""  # type: ignore[index]


def test_a_person_declines(pair: tuple[Facility, Facility], tmp_path: Path) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in")
    _send(north, south, study)
    number = _waits(south, study, "offered")["number"]
    south.cli("offers", "decline", str(number))
    _waits(north, study, "declined")
    assert _fetch(south, north, study) is ExitCode.REFUSED
    assert not _is_here(south, study)


def test_rules_accept_and_decline_by_themselves(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    wanted, unwanted = _ingest(north, tmp_path / "in"), _ingest(north, tmp_path / "out")
    south.call("rules.add", peer=north.name, rule=["allow", "send", "purpose=TREAT"])
    south.call("rules.add", peer=north.name, rule=["deny", "send", "purpose=research"])
    _send(north, south, unwanted, purpose="research")
    _send(north, south, wanted, purpose="treatment")
    wait_until(lambda: _is_here(south, wanted), what="the study arrives")
    _waits(north, wanted, "accepted")
    _waits(north, unwanted, "declined")
    assert not _is_here(south, unwanted)
    answered = {entry["details"]["answer"]: entry for entry in south.entries("offer-answered")[-2:]}
    assert answered["accepted"]["details"]["rule"] == "rule 1"
    assert answered["declined"]["details"]["rule"] == "rule 2"
    for number in (1, 2):
        south.call("rules.remove", peer=north.name, number=number)


def test_a_study_that_was_withdrawn_meanwhile_does_not_come(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in")
    _send(north, south, study)
    number = _waits(south, study, "offered")["number"]
    north.call("withdraw", study=study)
    south.call("offer.accept", number=number)

    def refused() -> bool:
        found = south.call("transfers")["transfers"]
        return any(one["study"] == study and one["state"] == "refused" for one in found)

    wait_until(refused, what="the fetch is refused")
    assert not _is_here(south, study)
    with pytest.raises(NodeError, match="is withheld, and cannot be offered"):
        _send(north, south, _withheld(north, tmp_path / "held"))


def _withheld(facility: Facility, directory: Path) -> str:
    study = _ingest(facility, directory, 1)
    facility.call("withdraw", study=study)
    return study


@pytest.mark.slow
def test_an_offer_reaches_a_peer_that_was_away_over_kills_of_both(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in")
    south.stop()
    _send(north, south, study)
    # The entry is there, and the message has not left.
    north.kill()
    north.start()
    south.start()
    offered = _waits(south, study, "offered")
    assert len([one for one in south.call("offers")["offers"] if one["study"] == study]) == 1
    south.kill()
    # Accepted while the other side is away: the answer and the fetch wait for it.
    north.stop()
    south.start()
    south.call("offer.accept", number=offered["number"])
    south.kill()
    south.start()
    north.start()
    wait_until(lambda: _is_here(south, study), 30.0, "the study arrives")
    _waits(north, study, "accepted")
    heard = [
        entry
        for entry in south.entries("offer-heard")
        if {"kind": "study", "value": study} in entry["opened"]
    ]
    assert len(heard) == 1
    for facility in pair:
        facility.check_log(tmp_path)


def test_an_offer_ends_with_trust(pair: tuple[Facility, Facility], tmp_path: Path) -> None:
    """Last: the two do not trust each other afterwards."""
    north, south = pair
    study = _ingest(north, tmp_path / "in")
    _send(north, south, study)
    number = _waits(south, study, "offered")["number"]
    north.call("trust.revoke", peer=south.name)
    _waits(north, study, "ended")
    wait_until(lambda: not south.peer(north)["connected"], what="the connection is cut")
    south.call("offer.accept", number=number)
    assert not north.entries("disclosure-begun")[-1]["opened"].count(
        {"kind": "study", "value": study}
    )
    assert not _is_here(south, study)
    south.call("trust.revoke", peer=north.name)
    _waits(south, study, "ended")
