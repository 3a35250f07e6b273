"""Whole nodes, by seed: the promises hold whatever is cut, killed, revoked, rotated or full.

Each run is a separate process, because the environment determines the order of sets, and
randomness must be replaced before any part of the product is imported.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import seeded
import trio
import trio.testing
from simulated_network import Net, SimulatedTransport

from node.network.sockets import Unreachable
from node.network.transport import Line

PROGRAM = Path(__file__).with_name("simulate.py")

SEEDS, TWENTY_SITES = 30, 8
ABOUT_RIGHTS = ("--about", "rights", "--sites", 3, "--steps", 40, "--seconds", 60)
AT_ONCE = min(os.cpu_count() or 1, 4)


def start(*arguments: object) -> subprocess.Popen[str]:
    """A run of the simulator."""
    command = [sys.executable, str(PROGRAM), "--json", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> None:
    """End the process: if it hangs, it takes a processor from all later tests."""
    assert process.stdout is not None
    process.kill()
    process.wait()
    process.stdout.close()


def results(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The results of its seeds."""
    try:
        out, _ = process.communicate()
    finally:
        end(process)
    assert process.returncode in (0, 1)
    return [json.loads(line) for line in out.splitlines()]


def run(*arguments: object) -> list[dict[str, Any]]:
    """Run it to its end."""
    return results(start(*arguments))


def require_held(found: list[dict[str, Any]]) -> None:
    """Fail with each promise that was not kept, and the command that repeats it."""
    said = [f"{what}\n  {one['again']}" for one in found for what in one["violations"]]
    assert not said, "\n".join(said)


def run_seeds(first: int, count: int, *arguments: object) -> list[dict[str, Any]]:
    """Run seeds, with 20 sites if nothing else is said, on all processors."""
    shares = []
    for one in range(AT_ONCE):
        which = ("--seed", first + one, "--step", AT_ONCE)
        shares.append(start(*which, "--count", len(range(one, count, AT_ONCE)), *arguments))
    try:
        return [result for share in shares for result in results(share)]
    finally:
        for share in shares:
            end(share)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_promises_hold_on_twenty_sites() -> None:
    found = run_seeds(1, TWENTY_SITES)
    assert len(found) == TWENTY_SITES
    require_held(found)
    # Check that enough happened for the promises to be tested.
    for what in ("killed", "cut", "slow", "announced", "disclosed", "entry", "refused"):
        assert sum(one["counts"].get(what, 0) for one in found) > TWENTY_SITES, what


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_promises_hold_where_most_is_about_rights() -> None:
    found = run_seeds(1, SEEDS, *ABOUT_RIGHTS)
    assert len(found) == SEEDS
    require_held(found)
    # Check that each kind of right was given, used and taken often enough.
    for what in (
        "rule-added",
        "rule-removed",
        "approval-asked",
        "approved",
        "denied",
        "emergency-begun",
        "emergency-overdue",
        "emergency-reviewed",
        "offered",
        "offer-answered",
        "offer-ended",
        "objection-added",
        "objection-ended",
    ):
        assert sum(one["entries"].get(what, 0) for one in found) > SEEDS / 5, what
    assert sum(one["counts"].get("wanted", 0) for one in found) > 5 * SEEDS
    assert sum(one["counts"].get("hours", 0) for one in found) > SEEDS / 2


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
def test_the_promises_hold_for_more_seeds() -> None:
    more = int(os.environ.get("RADMESH_SEEDS", "0"))
    if not more:
        pytest.skip("RADMESH_SEEDS says how many more; about four a minute and processor")
    require_held(run_seeds(SEEDS + 1, more))
    require_held(run_seeds(SEEDS + 1, more, *ABOUT_RIGHTS))


@pytest.mark.slow
def test_the_same_seed_is_the_same_run() -> None:
    small = ("--sites", 5, "--seconds", 30)
    first, second = run("--seed", 2, "--count", 2, *small)
    [alone] = run("--seed", 3, *small)
    [again] = run("--seed", 3, *small)
    # The digest is the same even after another seed in the same process.
    assert second["digest"] == alone["digest"] == again["digest"]
    assert first["digest"] != alone["digest"]
    assert alone["counts"]["entry"] > 20


# --- mistakes on purpose --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_announcement_after_a_lost_callback_is_found() -> None:
    """The mistake for which the simulator was built: feeds by a callback, which a kill loses."""
    found = run("--fault", "lost-callback", "--sites", 5, "--count", 30)
    wrong = ("which it may not know", "which it may know", "now a stranger")
    said = [what for one in found for what in one["violations"]]
    assert any(words in what for what in said for words in wrong), said


FAULTS = {
    "announced-unsaid": "without an entry",
    "changed-log": "does not verify",
    "disclosure-unsaid": "differ",
    "everybody-fetches": "without the right",
    "everybody-sees": "without the right",
    "lost-commit": "has lost",
    "nobody-dials": "no rest",
    "older-backup": "has lost entries",
    "other-root": "has cosigned another log",
    "sent-unsaid": "without an entry",
}


def require_found(found: list[dict[str, Any]], faults: Mapping[str, str]) -> None:
    """Fail unless each mistake was found, by the words that say it."""
    for fault, words in faults.items():
        said = [what for one in found if one["fault"] == fault for what in one["violations"]]
        assert any(words in what for what in said), f"{fault}: {said}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_promise_can_be_seen_to_be_broken() -> None:
    arguments = [word for fault in FAULTS for word in ("--fault", fault)]
    found = run("--sites", 4, "--seconds", 30, "--count", 20, *arguments)
    require_found(found, FAULTS)


RIGHTS_FAULTS = {
    "limits-forgotten": "the limit is used up",
    "limits-begin-anew": "the limit is used up",
    "glass-unlimited": "the limit is used up",
    "ends-forgotten": "without the right",
    "conditions-forgotten": "without the right",
    "approved-for-ever": "nobody has approved it",
    "denial-forgotten": "it was denied",
    "nobody-is-asked": "nobody has answered request",
    "glass-unsaid-there": "its log names no emergency",
    "glass-unsaid-here": "names the emergency",
    "glass-over-objections": "the patient objects",
    "never-rests": "emergency access rests",
    "reviewed-by-itself": "has the emergencies",
    "offers-stand": "without the right",
    "offers-outlive-trust": "has the offers",
    "objections-unheard": "without the right",
    "rule-unnamed": "by None",
    "rights-unnamed": "by rights",
    "research-refused": "although the rules say",
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_promise_about_rights_can_be_seen_to_be_broken() -> None:
    """Some of the mistakes need 15 seeds of three sites."""
    shares = []
    for one in range(AT_ONCE):
        faults = [word for fault in [*RIGHTS_FAULTS][one::AT_ONCE] for word in ("--fault", fault)]
        shares.append(start(*ABOUT_RIGHTS, "--count", 40, *faults))
    try:
        found = [result for share in shares for result in results(share)]
    finally:
        for share in shares:
            end(share)
    require_found(found, RIGHTS_FAULTS)


@pytest.mark.slow
def test_a_failing_seed_says_how_to_see_it_again() -> None:
    command = [sys.executable, str(PROGRAM), "--sites", "3", "--seconds", "10"]
    command += ["--fault", "announced-unsaid"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        "again: python tests/simulator/simulate.py --seed 1 --sites 3 --seconds 10 "
        "--fault announced-unsaid" in done.stdout
    )


# --- chance ---------------------------------------------------------------------------


def _order(seed: int) -> list[int]:
    """The order in which ten tasks ran, three times each."""
    order: list[int] = []

    async def one(number: int) -> None:
        for _ in range(3):
            order.append(number)
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(one, number)

    with seeded.scheduled(seed):
        trio.run(main)
    return order


def test_the_order_of_tasks_follows_from_the_seed() -> None:
    assert _order(1) == _order(1)
    assert _order(1) != _order(2)


# --- the network ----------------------------------------------------------------------


async def _line(net: Net) -> tuple[Line, Line]:
    """Both ends of a line from site 1 to site 2."""
    [listener] = await SimulatedTransport(net, 2).listen(["/ip4/10.0.2.1/tcp/4101"])
    transport = SimulatedTransport(net, 1)
    ours = await transport.dial(listener.address, timeout_seconds=5)
    return ours, await listener.accept()


async def _read(line: Line) -> bytes:
    buffer = memoryview(bytearray(100))
    return bytes(buffer[: await line.receive_into(buffer)])


def made_net() -> Net:
    """A network that nobody traces."""
    return Net(random.Random(1), lambda *what: None)


async def test_bytes_come_in_order_and_take_their_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    net = made_net()
    ours, theirs = await _line(net)
    net.slow(1, 2, 10)
    began = trio.current_time()
    await ours.send_some([b"one", b"two"])
    net.slow(1, 2, 0)
    await ours.send_some([b"three"])
    assert await _read(theirs) == b"onetwothree"
    assert 10 < trio.current_time() - began < 10.1
    ours.close()
    assert await _read(theirs) == b""
    with pytest.raises(trio.ClosedResourceError):
        await _read(ours)


async def test_a_silent_cut_keeps_bytes_back_and_a_refused_one_ends_the_line(
    autojump_clock: trio.testing.MockClock,
) -> None:
    net = made_net()
    ours, theirs = await _line(net)
    net.cut(1, 2, "silent")
    await ours.send_some([b"one"])
    with trio.move_on_after(60) as waited:
        await _read(theirs)
    assert waited.cancelled_caught
    with pytest.raises(Unreachable, match="no answer"):
        await SimulatedTransport(net, 1).dial("/ip4/10.0.2.1/tcp/4101", timeout_seconds=5)
    net.heal(1, 2)
    assert await _read(theirs) == b"one"
    net.cut(1, 2, "refused")
    for end in (ours, theirs):
        with pytest.raises(ConnectionResetError):
            await _read(end)
    with pytest.raises(Unreachable, match="refused"):
        await SimulatedTransport(net, 1).dial("/ip4/10.0.2.1/tcp/4101", timeout_seconds=5)


async def test_a_slow_reader_holds_up_its_writer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    net = made_net()
    ours, theirs = await _line(net)
    await ours.send_some([bytes(300_000)])
    with trio.move_on_after(60) as waited:
        await ours.send_some([b"more"])
    assert waited.cancelled_caught
    buffer = memoryview(bytearray(300_000))
    await theirs.receive_into(buffer)
    await ours.send_some([b"more"])
    assert await _read(theirs) == b"more"


@pytest.mark.parametrize("silently", [False, True])
async def test_of_a_dead_process_comes_nothing_more(
    autojump_clock: trio.testing.MockClock, silently: bool
) -> None:
    net = made_net()
    [listener] = await SimulatedTransport(net, 2).listen(["/ip4/10.0.2.1/tcp/4101"])
    transport = SimulatedTransport(net, 1)
    ours = await transport.dial(listener.address, timeout_seconds=5)
    theirs = await listener.accept()
    transport.die(silently=silently)
    with pytest.raises(ConnectionResetError):
        await ours.send_some([b"a word from beyond"])
    if silently:
        with trio.move_on_after(600) as waited:
            await _read(theirs)
        assert waited.cancelled_caught
    else:
        with pytest.raises(ConnectionResetError):
            await _read(theirs)
