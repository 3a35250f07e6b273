"""Receipts between two real nodes whose connection is cut, or that are killed, at that point."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, wait_until
from relay import Fault, Point
from relayed import NOTICED_SECONDS, Between, find_points, relayed

from keys.fingerprint import parse_fingerprint
from node.errors import NodeError
from protocol.reconcile import Class
from protocol.reconcile_bundles import Outcome, reconcile_bundles

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Between]:
    with relayed(tmp_path_factory.mktemp("pending")) as [one]:
        yield one


@pytest.fixture(scope="module")
def points(pair: Between) -> dict[str, Point]:
    return find_points(pair)


def pending(facility: Facility, study: str, **options: bool) -> list[dict[str, Any]]:
    found = facility.call("audit.pending", **options)["pending"]
    return [item for item in found if item["study"] == study]


def receipts(facility: Facility, transfer: str) -> list[str]:
    return [
        entry["details"]["receipt"]
        for entry in facility.entries("receipt")
        if entry["details"]["transfer"] == transfer
    ]


def reconciled(pair: Between, name: str) -> Outcome:
    """What an auditor finds who has both logs."""
    files, fingerprints = [], []
    for facility in (pair.north, pair.south):
        path = pair.directory / f"{name}-{facility.home.path.name}.zip"
        facility.call("audit.export", path=str(path), openings=False)
        files.append(path)
        fingerprints.append(parse_fingerprint(facility.home.read_card().fingerprint))
    with files[0].open("rb") as first, files[1].open("rb") as second:
        return reconcile_bundles(
            first,
            second,
            fingerprint_a=fingerprints[0],
            fingerprint_b=fingerprints[1],
            grace_seconds=0,
        )


def check_settled(pair: Between, transfer: str, study: str) -> None:
    for facility in (pair.north, pair.south):
        assert pending(facility, study, all=True) == []
        assert "Traceback" not in facility.stderr()
    ours, theirs = receipts(pair.south, transfer), receipts(pair.north, transfer)
    assert len(ours) == 1
    assert ours == theirs
    outcome = reconciled(pair, f"after-{study}")
    assert outcome.exit_code == 0, outcome.reason
    assert outcome.comparison is not None
    [found] = [one for one in outcome.comparison.findings if one.transfer == transfer]
    assert found.kind is Class.MATCHED


@pytest.mark.parametrize("phase", ["receipt", "countersignature"])
def test_a_cut_is_seen_on_both_sides_and_settled_when_they_are_connected_again(
    pair: Between, points: dict[str, Point], phase: str
) -> None:
    study = pair.announced_study()
    pair.relay.arm(Fault.CUT, points[phase])
    fetch = pair.fetch(study)
    assert pair.relay.struck.wait(20)
    wait_until(lambda: not pair.is_connected(), NOTICED_SECONDS, "the cut noticed")
    # The study is here: the fetch is complete, and nobody asks for it again.
    assert fetch.result()["state"] == "complete"
    transfer = pair.south.call("transfers")["transfers"][0]["transfer"]
    wait_until(lambda: not pair.is_sending(), NOTICED_SECONDS, "North's end of sending")
    [missing] = pending(pair.south, study.uid)
    assert (missing["direction"], missing["missing"]) == ("in", "countersignature")
    assert (missing["transfer"], missing["state"]) == (transfer, "waiting")
    assert "countersignature" in pair.south.cli("audit", "pending").stdout
    if phase == "receipt":
        [missing] = pending(pair.north, study.uid)
        assert (missing["direction"], missing["missing"]) == ("out", "receipt")
        assert pair.north.entries("disclosure-failed")[-1]["details"]["transfer"] == transfer
        assert receipts(pair.north, transfer) == []
    else:
        assert len(receipts(pair.north, transfer)) == 1
    assert receipts(pair.south, transfer) == []

    pair.relay.lift()
    pair.wait_connected()
    wait_until(lambda: receipts(pair.south, transfer), 20.0, "the countersignature")
    wait_until(lambda: not pending(pair.south, study.uid, all=True), 10.0, "nothing pending")
    check_settled(pair, transfer, study.uid)
    assert pair.south.entries("receipt")[-1]["details"]["late"] is True


@pytest.mark.parametrize("phase", ["receipt", "countersignature"])
@pytest.mark.parametrize("victim", ["north", "south"])
def test_kill_9_at_that_point(
    pair: Between, points: dict[str, Point], phase: str, victim: str
) -> None:
    study = pair.announced_study()
    pair.relay.arm(Fault.FREEZE, points[phase])
    fetch = pair.fetch(study)
    assert pair.relay.struck.wait(20)
    killed = pair.north if victim == "north" else pair.south
    killed.kill()
    if victim == "south":
        with pytest.raises(NodeError):
            fetch.result()
    pair.relay.strike(Fault.CUT)
    before = len(killed.cli_json("audit", "show", "--all")["entries"])
    killed.start()
    transfer = next(
        one["transfer"]
        for one in pair.south.call("transfers")["transfers"]
        if one["study"] == study.uid
    )
    pair.relay.lift()
    pair.wait_connected()

    def complete() -> bool:
        found = pair.south.call("transfers")["transfers"]
        return any(
            one["study"] == study.uid and one["state"] == "complete" for one in found
        ) and not pending(pair.south, study.uid, all=True)

    wait_until(complete, 60.0, "the fetch and its receipts")
    wait_until(lambda: not pending(pair.north, study.uid, all=True), 20.0, "nothing pending")
    # One transfer, one receipt, however often it was begun.
    check_settled(pair, transfer, study.uid)
    begun = [entry["type"] for entry in killed.entries()[before:]]
    assert begun[0] == "start", begun


def test_a_transfer_that_did_not_arrive_is_not_waited_for(
    pair: Between, points: dict[str, Point]
) -> None:
    study = pair.announced_study()
    pair.relay.arm(Fault.CUT, points["middle-batch"])
    fetch = pair.fetch(study)
    assert pair.relay.struck.wait(20)
    wait_until(lambda: not pair.is_connected(), NOTICED_SECONDS, "the cut noticed")
    transfer = pair.south.call("transfers")["transfers"][0]["transfer"]
    pair.south.call("transfer.cancel", transfer=transfer)
    with pytest.raises(NodeError):
        fetch.result()
    wait_until(lambda: pending(pair.north, study.uid), NOTICED_SECONDS, "the receipt is missed")
    pair.relay.lift()
    pair.wait_connected()
    wait_until(lambda: not pending(pair.north, study.uid), 20.0, "North has asked")
    [item] = pending(pair.north, study.uid, all=True)
    assert item["state"] == "not received"
    outcome = reconciled(pair, "broken-off")
    assert outcome.comparison is not None
    [found] = [one for one in outcome.comparison.findings if one.transfer == transfer]
    assert found.kind is Class.BROKEN_OFF
    assert outcome.exit_code == 0


def test_the_command_says_so_when_nothing_is_missing(tmp_path: Path) -> None:
    facility = Facility(tmp_path, "East Hospital")
    assert facility.cli("audit", "pending").stdout == "no receipt is missing\n"
    assert facility.cli_json("audit", "pending") == {"pending": []}
