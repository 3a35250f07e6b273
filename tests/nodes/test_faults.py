"""Faults on purpose, with real processes: killed nodes, cut connections, revoked trust."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import contents, make_study

from node.errors import ExitCode, NodeError
from node.transfer.sending import REVOKED, WITHDRAWN

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SEED = int(os.environ.get("RADMESH_TEST_SEED", "0")) or random.SystemRandom().getrandbits(32)


def _active(facility: Facility) -> list[dict[str, object]]:
    return [
        transfer
        for transfer in facility.call("transfers")["transfers"]
        if transfer["ended"] is None and transfer["direction"] == "in"
    ]


def _wait_complete(facility: Facility, study: str, seconds: float = 40.0) -> None:
    def complete() -> bool:
        return any(
            transfer["study"] == study and transfer["state"] == "complete"
            for transfer in facility.call("transfers")["transfers"]
        )

    wait_until(complete, seconds, f"study complete at {facility.name}")


def _begin_fetch(facility: Facility, study: str, past_bytes: int) -> None:
    """Start a fetch whose command goes away once some bytes have come."""

    class GoneAwayError(Exception):
        pass

    def leave(transfer: dict[str, object]) -> None:
        if int(str(transfer["wire_bytes"])) >= past_bytes:
            raise GoneAwayError

    try:
        facility.call("fetch", leave, study=study)
    except GoneAwayError:
        pass


def _check_identical(facility: Facility, study: str, original: Path, out: Path) -> None:
    facility.call("export", study=study, directory=str(out))
    assert contents(out) == contents(original)


@pytest.mark.alone
@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", ["north", "south"])
def test_kill_9_at_random_points_then_completion_with_identical_bytes(
    tmp_path: Path, victim: str
) -> None:
    print("seed", SEED)
    choose = random.Random(f"{SEED}{victim}")
    with two_facilities(tmp_path) as (north, south):
        study = make_study(tmp_path / "in", 120, rows=512)
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: study in south.announced(north))
        total = south.announced(north)[study]["encoded_bytes"]
        killed = north if victim == "north" else south
        for round_number in range(3):
            _begin_fetch(south, study, choose.randrange(total))
            time.sleep(choose.random() * 0.05)
            killed.kill()
            assert study not in _own_incomplete(south, killed)
            killed.start()
            if round_number < 2 and not _active(south):
                break
        _wait_complete(south, study)
        _check_identical(south, study, tmp_path / "in", tmp_path / "out")
        for facility in (north, south):
            facility.check_log(tmp_path)


def _own_incomplete(south: Facility, killed: Facility) -> set[str]:
    """Studies in South's catalog that are not whole: always none."""
    if killed is south:
        return set()
    return {
        row["study"] for row in south.call("studies")["studies"] if row["instances"] not in (0, 120)
    }


@pytest.mark.timeout(120)
def test_a_frozen_source_is_noticed_and_the_fetch_goes_on_when_it_thaws(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):
        study = make_study(tmp_path / "in", 200, rows=512)
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: study in south.announced(north))
        _begin_fetch(south, study, 10_000_000)
        assert north.process is not None
        north.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: not south.peer(north)["connected"], 30.0, "frozen peer noticed")
        finally:
            north.process.send_signal(signal.SIGCONT)
        _wait_complete(south, study)
        _check_identical(south, study, tmp_path / "in", tmp_path / "out")


def _revoke(facility: Facility, other: Facility, *grants: str) -> None:
    facility.call("trust.revoke", peer=other.name, grants=list(grants))


ENDS: dict[str, tuple[Callable[[Facility, Facility, str], object], str]] = {
    "fetch taken": (lambda north, south, study: _revoke(north, south, "fetch"), REVOKED),
    "see taken": (lambda north, south, study: _revoke(north, south, "see"), REVOKED),
    "trust revoked": (lambda north, south, study: _revoke(north, south), REVOKED),
    "withdrawn": (lambda north, south, study: north.call("withdraw", study=study), WITHDRAWN),
    "denied by a rule": (
        lambda north, south, study: north.call(
            "rules.add", peer=south.name, rule=["deny", "fetch", "modality=CT"]
        ),
        "denied by rule 1",
    ),
    "withdrawn from the peer": (
        lambda north, south, study: north.call("withdraw", study=study, peer=south.name),
        WITHDRAWN,
    ),
}


@pytest.mark.alone
@pytest.mark.timeout(120)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("how", ENDS)
def test_what_may_not_be_had_any_more_stops_within_a_second(
    tmp_path: Path, how: str, frozen: bool
) -> None:
    """For that reason, not because a limit for stalled peers comes by; whoever reads or not."""
    act, why = ENDS[how]
    with two_facilities(tmp_path, start=False) as (north, south):
        with north.home.config_path.open("a") as settings:
            settings.write('\n[[bandwidth]]\npeer = "*"\nmbit_per_second = 8\n')
        for facility in (north, south):
            facility.start()
        study = make_study(tmp_path / "in", 60, rows=512)
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: study in south.announced(north), what="announcement")
        _begin_fetch(south, study, 1)
        assert south.process is not None
        if frozen:
            south.process.send_signal(signal.SIGSTOP)
        try:
            act(north, south, study)
            began = time.monotonic()
            wait_until(lambda: north.entries("disclosure-failed"), 5.0, "the end of it logged")
            assert time.monotonic() - began < 5.0, "far below every limit for a stalled peer"
        finally:
            south.process.send_signal(signal.SIGCONT)
        lost = {"the connection was lost"} if how == "trust revoked" else set()
        assert north.entries("disclosure-failed")[-1]["details"]["why"] in {why} | lost
        if how != "trust revoked":
            wait_until(lambda: not _active(south), 30.0, "South learns that it may not")
            assert south.call("transfers")["transfers"][0]["state"] == "refused"
        assert not south.call("studies")["studies"]
        assert not north.entries("disclosed")
        for facility in (north, south):
            facility.check_log(tmp_path)


@pytest.mark.timeout(120)
def test_revoking_all_trust_cuts_the_connection_and_keeps_it_cut(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):
        study = make_study(tmp_path / "in", 1)
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: study in south.announced(north))
        north.call("trust.revoke", peer=south.name)
        wait_until(lambda: not south.peer(north)["connected"], 5.0, "connection cut")
        wait_until(lambda: south.peer(north)["last_error"], 10.0, "South is told why not")
        assert not south.peer(north)["connected"]
        with pytest.raises(NodeError):
            north.call("fetch", study="1.2.3", peer=south.name)


@pytest.mark.timeout(120)
def test_peers_find_each_other_again_and_learn_only_what_changed(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):
        first = make_study(tmp_path / "a", 1)
        north.call("ingest", paths=[str(tmp_path / "a")])
        wait_until(lambda: first in south.announced(north))
        assert south.stop() == ExitCode.OK
        wait_until(lambda: not north.peer(south)["connected"], what="North sees South go")
        second = make_study(tmp_path / "b", 1)
        north.call("ingest", paths=[str(tmp_path / "b")])
        announced = len(north.entries("announced"))
        south.start()
        wait_until(lambda: second in south.announced(north))
        assert first in south.announced(north)
        news = north.entries("announced")[announced:]
        assert [entry["details"]["available"] for entry in news] == [1]
        north.kill()
        wait_until(lambda: not south.peer(north)["connected"], 30.0)
        north.start()
        wait_until(lambda: south.peer(north)["connected"], 30.0, "connected again")


@pytest.mark.alone
def test_a_stop_takes_less_than_five_seconds_also_in_a_transfer(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):
        study = make_study(tmp_path / "in", 200, rows=512)
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: study in south.announced(north))
        _begin_fetch(south, study, 1)
        for facility in (south, north):
            began = time.monotonic()
            assert facility.stop() == ExitCode.OK
            assert time.monotonic() - began < 5.0
        assert south.entries()[-1]["type"] == "stop"
        assert "Traceback" not in south.stderr() + north.stderr()
