"""Three real facilities: one fetches a study that two others hold, from both at once.

North ingested the study, East fetched it from North and shares it. Each test has a
South of its own, which holds nothing yet.
"""

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, wait_until
from studies_made import contents, make_study

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]

_numbers = itertools.count(1)

SLOW_LINE = """
[[bandwidth]]
peer = "*"
mbit_per_second = 160
"""
"""So that a fetch of 60 MB takes long enough for something to happen in its middle."""


@dataclass
class Holders:
    """Two facilities with the same study, and the files it was made of."""

    directory: Path
    north: Facility
    east: Facility
    study: str
    files: Path


def _running(facility: Facility) -> Facility:
    if facility.process is None:
        facility.start()
    return facility


def _both_know(holder: Facility, south: Facility) -> None:
    holder.trust(south, "see", "fetch")
    south.trust(holder)


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holders]:
    directory = tmp_path_factory.mktemp("several")
    north, east = Facility(directory, "North General"), Facility(directory, "East Hospital")
    _both_know(north, east)
    for facility in (north, east):
        with facility.home.config_path.open("a") as config:
            config.write(SLOW_LINE)
    study = make_study(directory / "in", 160, rows=512)
    try:
        north.start()
        east.start()
        north.call("ingest", paths=[str(directory / "in")])
        wait_until(lambda: study in east.announced(north))
        east.call("fetch", study=study)
        east.call("share", study=study)
        yield Holders(directory, north, east, study, directory / "in")
    finally:
        for facility in (north, east):
            if facility.process is not None:
                facility.process.kill()
                facility.process.wait()


@pytest.fixture
def south(holders: Holders) -> Iterator[Facility]:
    facility = Facility(holders.directory, f"South{next(_numbers)} Clinic")
    for holder in (holders.north, holders.east):
        _both_know(_running(holder), facility)
    facility.start()
    try:
        for holder in (holders.north, holders.east):
            wait_until(
                lambda holder=holder: holders.study in facility.announced(holder),
                what=f"{holder.name} announces",
            )
        yield facility
    finally:
        if facility.process is not None:
            facility.process.kill()
            facility.process.wait()


@contextlib.contextmanager
def _frozen(facility: Facility) -> Iterator[None]:
    assert facility.process is not None
    facility.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        facility.process.send_signal(signal.SIGCONT)


def _peak_mib(facility: Facility) -> int:
    """Most memory that a node has had so far."""
    assert facility.process is not None
    status = Path(f"/proc/{facility.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    print(facility.name, line)
    return int(line.split()[1]) >> 10


def _told(facility: Facility, share: dict[str, Any]) -> list[dict[str, Any]]:
    """What a log has of the transfer between one source and the recipient."""
    return [
        entry
        for entry in facility.entries()
        if entry["details"].get("transfer") == share["transfer"]
    ]


def _part(transfer: dict[str, Any], facility: Facility) -> int:
    """Bytes on the wire that came from one source."""
    return sum(
        source["wire_bytes"] for source in transfer["sources"] if source["peer"] == facility.name
    )


def _once_both_send(holders: Holders, act: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """A follower of a fetch that acts once, as soon as both sources have sent something."""
    acted = False

    def follow(transfer: dict[str, Any]) -> None:
        nonlocal acted
        if not acted and _part(transfer, holders.north) and _part(transfer, holders.east):
            acted = True
            act()

    return follow


def _check_identical(holders: Holders, south: Facility, out: Path) -> None:
    south.call("export", study=holders.study, directory=str(out))
    assert contents(out) == contents(holders.files)


def test_both_contribute_and_each_log_tells_what_it_disclosed(
    holders: Holders, south: Facility, tmp_path: Path
) -> None:
    result = south.call("fetch", study=holders.study)
    assert result["state"] == "complete"
    shares = {source["peer"]: source for source in result["sources"]}
    assert shares.keys() == {holders.north.name, holders.east.name}
    assert result["wire_bytes"] == sum(share["wire_bytes"] for share in shares.values())
    # Hardly anything came twice.
    assert result["wire_bytes"] < 1.25 * result["wire_bytes_total"]
    assert _peak_mib(south) < 200
    _check_identical(holders, south, tmp_path / "out")

    assert len({share["transfer"] for share in shares.values()}) == 2
    receipts: dict[str, list[tuple[int, str]]] = {}
    for holder in (holders.north, holders.east):
        share = shares[holder.name]
        for facility, kinds in (
            (holder, ["requested", "disclosure-begun", "disclosed", "receipt"]),
            (south, ["requested", "received", "receipt"]),
        ):
            # The slower one's receipt may come after the fetch is complete.
            wait_until(
                lambda facility=facility, share=share: (
                    _told(facility, share)[-1:] and _told(facility, share)[-1]["type"] == "receipt"
                )
            )
            entries = _told(facility, share)
            assert [entry["type"] for entry in entries] == kinds
            said = entries[-1]["details"]
            assert said["batches"] >= share["batches"] > 0
            assert said["encoded_bytes"] >= share["wire_bytes"] > 0
            receipts.setdefault(holder.name, []).append((said["batches"], said["receipt"]))
    assert all(one == other for one, other in receipts.values())
    for facility in (holders.north, holders.east, south):
        facility.check_log(tmp_path)


def test_a_peer_that_announces_the_study_meanwhile_helps(
    holders: Holders, south: Facility, tmp_path: Path
) -> None:
    holders.east.call("withdraw", study=holders.study)
    wait_until(lambda: holders.study not in south.announced(holders.east))
    shared = False

    def follow(transfer: dict[str, Any]) -> None:
        nonlocal shared
        if not shared and _part(transfer, holders.north):
            shared = True
            holders.east.call("share", study=holders.study)

    result = south.call("fetch", follow, study=holders.study)
    assert result["state"] == "complete"
    shares = {source["peer"]: source["wire_bytes"] for source in result["sources"]}
    assert shares.keys() == {holders.north.name, holders.east.name}
    assert shares[holders.east.name] > 0
    _check_identical(holders, south, tmp_path / "out")


def test_from_limits_the_fetch_to_that_peer(holders: Holders, south: Facility) -> None:
    told = len(holders.north.entries("requested"))
    result = south.call("fetch", study=holders.study, peer=holders.east.name)
    assert [source["peer"] for source in result["sources"]] == [holders.east.name]
    assert len(holders.north.entries("requested")) == told


@pytest.mark.parametrize("victim", ["north", "east"])
def test_one_source_killed_in_the_middle_changes_nothing(
    holders: Holders, south: Facility, tmp_path: Path, victim: str
) -> None:
    killed: Facility = getattr(holders, victim)
    result = south.call("fetch", _once_both_send(holders, killed.kill), study=holders.study)
    assert killed.process is None, "the study was too small for this test"
    assert result["state"] == "complete"
    _check_identical(holders, south, tmp_path / "out")
    south.check_log(tmp_path)


@pytest.mark.alone
def test_a_frozen_source_is_not_waited_for(
    holders: Holders, south: Facility, tmp_path: Path
) -> None:
    frozen = holders.north
    with contextlib.ExitStack() as thaw:
        frozen_at: list[float] = []

        def freeze() -> None:
            thaw.enter_context(_frozen(frozen))
            frozen_at.append(time.monotonic())

        result = south.call("fetch", _once_both_send(holders, freeze), study=holders.study)
        assert frozen_at, "the study was too small for this test"
        # A stall is noticed after 25 s; this does not wait for that.
        assert time.monotonic() - frozen_at[0] < 20
        assert result["state"] == "complete"
        _check_identical(holders, south, tmp_path / "out")
    south.check_log(tmp_path)


def test_a_source_with_a_damaged_store_changes_nothing_but_the_time(
    holders: Holders, south: Facility, tmp_path: Path
) -> None:
    damaged = holders.north
    # All of them, so that the first one that is asked for is hit.
    batches = [path for path in damaged.home.store_path.glob("??/*") if path.is_file()]
    kept = {path: path.read_bytes() for path in batches}
    for path, whole in kept.items():
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        result = south.call("fetch", study=holders.study)
    finally:
        for path, whole in kept.items():
            path.write_bytes(whole)
    assert result["state"] == "complete"
    _check_identical(holders, south, tmp_path / "out")
    [entry] = south.entries("receive-failed")
    key = damaged.home.read_card().facility_key.hex()
    assert (entry["peer"], entry["outcome"]) == (key, "failed")
    assert f"from {damaged.name}:" in south.stderr()
    assert damaged.entries("disclosure-failed")[-1]["details"]["why"].endswith("damaged on disk")
    south.check_log(tmp_path)


def test_revoking_one_source_leaves_the_other(
    holders: Holders, south: Facility, tmp_path: Path
) -> None:
    def revoke() -> None:
        south.call("trust.revoke", peer=holders.east.name)

    result = south.call("fetch", _once_both_send(holders, revoke), study=holders.study)
    assert south.peer(holders.east)["revoked"], "the study was too small for this test"
    assert result["state"] == "complete"
    _check_identical(holders, south, tmp_path / "out")
