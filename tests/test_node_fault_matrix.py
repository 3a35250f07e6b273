"""Each fault in each phase, between two real nodes: a whole study in the end, or a clear error.

A relay stands between the nodes. A pass without faults tells where in the bytes each
phase lies; a fault is armed for that place and strikes there, however fast the machine.
While the fault lasts, what South has verified is counted, and the session after it
must bring the rest and no byte more.
"""

from collections.abc import Iterator

import pytest
from relay import Fault, Point, Way
from relayed import NOTICED_SECONDS, Between, find_points, relayed

pytestmark = [pytest.mark.integration]

CONNECTING = ("connecting", "handshake", "hello")
PHASES = (
    *CONNECTING,
    "announcement",
    "request",
    "offer",
    "manifest",
    "want",
    "first-batch",
    "middle-batch",
    "last-batch",
    "end",
    "verifying",
    "receipt",
    "countersignature",
)

SOON_SECONDS = 5.0
"""A connection that ended is noticed at once; so long on a busy machine."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Between]:
    with relayed(tmp_path_factory.mktemp("matrix")) as [one]:
        yield one


@pytest.fixture(scope="module")
def points(pair: Between) -> dict[str, Point]:
    return find_points(pair)


def run(pair: Between, phase: str, fault: Fault, point: Point) -> float:
    """Let a fault strike in a phase of a fetch, lift it, and check all; seconds until noticed."""
    pair.relay.lift()
    pair.wait_connected()
    if phase in CONNECTING:
        study = pair.announced_study()
        pair.relay.strike(Fault.CUT)
        pair.wait_noticed(study)
        pair.relay.arm(fault, point)
        pair.relay.heal()
        fetch = pair.fetch(study)
    elif phase == "announcement":
        pair.relay.arm(fault, point)
        study = pair.make_study()
        fetch = None
    else:
        study = pair.announced_study()
        pair.relay.arm(fault, point)
        fetch = pair.fetch(study)
    assert pair.relay.struck.wait(20), f"no {fault} in {phase}"
    seconds = pair.wait_noticed(study)
    kept = pair.kept(study)
    pair.relay.lift()
    if fetch is None:
        fetch = pair.fetch(study)
    result = fetch.result()
    pair.check_whole(study, result, kept)
    if phase == "announcement":
        pair.wait_announced(study)
    return seconds


@pytest.mark.parametrize("phase", PHASES)
def test_a_cut(pair: Between, points: dict[str, Point], phase: str) -> None:
    assert run(pair, phase, Fault.CUT, points[phase]) < SOON_SECONDS
