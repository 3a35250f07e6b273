"""Each fault in each phase, between two real nodes: a whole study in the end, or a clear error.

A relay stands between the nodes. A pass without faults tells where in the bytes each
phase lies; a fault is armed for that place and strikes there, however fast the machine.
While the fault lasts, what South has verified is counted, and the session after it
must bring the rest and no byte more.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from facilities import wait_until
from relay import DELAY_SECONDS, THROTTLE_BYTES, Fault, Point, Way
from relayed import INSTANCES, NOTICED_SECONDS, Between, Fetch, Study, find_points, relayed

from node.errors import NodeError

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


class Case:
    """One fault in one phase of a fetch, from an idle connection to the last check.

    Attributes:
        noticed_seconds: from the fault until neither side went on as if nothing had been.
    """

    def __init__(self, pair: Between, phase: str, fault: Fault, point: Point) -> None:
        self.name = f"{fault} in {phase}"
        self.noticed_seconds = 0.0
        self._pair = pair
        self._phase = phase
        self._fault = fault
        self._point = point
        self._study: Study | None = None
        self._fetch: Fetch | None = None

    def prepare(self) -> None:
        """Make the study, and the connection; without one where it is the phase."""
        pair = self._pair
        pair.relay.lift()
        pair.wait_connected()
        if self._phase != "announcement":
            self._study = pair.announced_study()
        if self._phase in CONNECTING:
            pair.relay.strike(Fault.CUT)
            wait_until(lambda: not pair.is_connected(), SOON_SECONDS, "the first cut noticed")

    def begin(self) -> None:
        """Arm the fault and do what brings it about."""
        pair = self._pair
        pair.relay.arm(self._fault, self._point)
        pair.relay.heal()
        if self._study is None:
            self._study = pair.make_study()
        else:
            self._fetch = pair.fetch(self._study)

    def look(self) -> bool:
        """Whether both sides have noticed the fault."""
        assert self._study is not None
        relay = self._pair.relay
        assert relay.struck.wait(20), f"no {self.name}"
        self.noticed_seconds = time.monotonic() - relay.struck_at
        assert self.noticed_seconds < NOTICED_SECONDS, f"not noticed: {self.name}"
        if self._phase in ("connecting", "handshake"):
            # There is no connection to lose: a person is told that the call failed.
            told = self._pair.south.peer(self._pair.north)["last_error"]
            if self._fault is Fault.CORRUPT:
                return told not in ("", "the connection was lost")
            return ("said nothing" if self._fault is Fault.FREEZE else "hung up") in told
        return self._pair.has_noticed(self._study)

    def finish(self) -> None:
        """Lift the fault: the study arrives, what was there is not sent again, the logs agree."""
        pair, study = self._pair, self._study
        assert study is not None
        kept = pair.kept(study)
        if self._phase in ("receipt", "countersignature"):
            assert kept == study.encoded_bytes
        if self._fault is Fault.CUT_ONE_WAY and self._phase == "verifying":
            # All was sent before the other way was cut. North ends the connection for that, and
            # what South has not read of the last two batches by then goes with it.
            assert kept >= study.encoded_bytes * (INSTANCES - 2) // INSTANCES - 4096
        pair.relay.lift()
        pair.call_again()
        fetch = self._fetch or pair.fetch(study)
        pair.check_whole(study, fetch.result(), kept)
        if self._phase == "announcement":
            pair.wait_announced(study)


def cases() -> Iterator[object]:
    """All pairs of fault and phase that need no waiting; the quick ones run by default."""
    always = {"connecting", "hello", "request", "manifest", "middle-batch", "receipt"}
    for phase in PHASES:
        yield pytest.param(Fault.CUT, phase, marks=[] if phase in always else pytest.mark.slow)
        if phase not in ("offer", "want", "first-batch", "end", "verifying"):
            yield pytest.param(Fault.CORRUPT, phase, marks=pytest.mark.slow)
    for phase in ("handshake", "request", "middle-batch", "verifying", "countersignature"):
        yield pytest.param(Fault.CUT_ONE_WAY, phase, marks=pytest.mark.slow)


@pytest.mark.parametrize(("fault", "phase"), list(cases()))
def test_a_connection_that_breaks(
    pair: Between, points: dict[str, Point], fault: Fault, phase: str
) -> None:
    case = Case(pair, phase, fault, points[phase])
    case.prepare()
    case.begin()
    wait_until(case.look, SOON_SECONDS, f"{case.name} noticed")
    case.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "phase"),
    [
        ("north", "middle-batch"),
        ("north", "countersignature"),
        ("south", "middle-batch"),
        ("south", "verifying"),
    ],
)
def test_a_node_that_is_killed(
    pair: Between, points: dict[str, Point], victim: str, phase: str
) -> None:
    pair.relay.lift()
    pair.wait_connected()
    study = pair.announced_study()
    pair.relay.arm(Fault.FREEZE, points[phase])
    fetch = pair.fetch(study)
    assert pair.relay.struck.wait(20)
    killed = pair.north if victim == "north" else pair.south
    killed.kill()
    pair.relay.strike(Fault.CUT)
    if victim == "south":
        with pytest.raises(NodeError):
            fetch.result()
        wait_until(lambda: not pair.is_sending(), SOON_SECONDS, "North noticed")
        kept = pair.kept_on_disk(study)
        killed.start()
        pair.relay.lift()
        wait_until(lambda: pair.transfer(study)["state"] == "complete", 30.0, "it goes on")
        pair.check_whole(study, pair.transfer(study), kept)
    else:
        # A study that is here with its receipt is complete; the countersignature comes later.
        noticed = "complete" if phase == "countersignature" else "waiting"
        wait_until(lambda: pair.transfer(study)["state"] == noticed, SOON_SECONDS, "noticed")
        kept = pair.kept(study)
        killed.start()
        pair.relay.lift()
        pair.call_again()
        pair.check_whole(study, fetch.result(), kept, crashes=1)


@pytest.mark.slow
def test_a_source_that_comes_back_under_another_address(
    pair: Between, points: dict[str, Point]
) -> None:
    """Its operator sends the new card; what was received before is not fetched from there."""
    study, fetch = pair.interrupt(points["last-batch"])
    kept = pair.kept(study)
    assert pair.north.stop() == 0
    old = pair.relay.address
    pair.relay.move()
    assert pair.relay.address != old
    pair.north.set_address(pair.relay.address)
    pair.north.start()
    pair.relay.lift()
    assert not pair.is_connected()
    pair.south.trust(pair.north)
    pair.check_whole(study, fetch.result(), kept)
    assert pair.south.peer(pair.north)["addresses"] == [pair.relay.address]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.DELAY, Fault.THROTTLE])
def test_a_slow_line_changes_nothing_but_the_time(
    pair: Between, points: dict[str, Point], fault: Fault
) -> None:
    pair.relay.lift()
    pair.wait_connected()
    study = pair.announced_study()
    pair.relay.arm(fault, points["request"])
    carried = pair.relay.carried[Way.DOWN]
    result = pair.fetch(study).result()
    seconds = time.monotonic() - pair.relay.struck_at
    if fault is Fault.THROTTLE:
        assert seconds > study.encoded_bytes / THROTTLE_BYTES * 0.9
    else:
        # Offer, want, receipt and countersignature each wait for the one before.
        assert seconds > 4 * DELAY_SECONDS
    # One pass, and little besides: a slow line is not taken for a broken one.
    assert 1.0 < (pair.relay.carried[Way.DOWN] - carried) / study.encoded_bytes < 1.02
    pair.check_whole(study, result, None)


QUICKLY_OVER = ("connecting", "offer", "want", "first-batch", "last-batch", "end")
"""Phases left out here: the nodes wait as they do in their neighbours."""

FROZEN = (
    *((Fault.FREEZE, phase) for phase in PHASES if phase not in QUICKLY_OVER),
    (Fault.FREEZE_ONE_WAY, "middle-batch"),
    # A length that is not the right one: a part of what follows is waited for as if it
    # belonged to the message.
    (Fault.CORRUPT, "request"),
)


@pytest.fixture(scope="module")
def frozen(
    tmp_path_factory: pytest.TempPathFactory, points: dict[str, Point]
) -> Iterator[dict[tuple[Fault, str], Case]]:
    """All that has to be waited for, at once, each at a South of its own, until it is noticed."""
    with relayed(tmp_path_factory.mktemp("frozen"), len(FROZEN)) as pairs:
        cases = {}
        for (fault, phase), one in zip(FROZEN, pairs, strict=True):
            point = points[phase]
            if fault is Fault.CORRUPT:
                point = replace(point, offset=0)
            cases[fault, phase] = Case(one, phase, fault, point)
        for case in cases.values():
            case.prepare()
        for case in cases.values():
            case.begin()
        waiting = list(cases.values())
        while waiting:
            waiting = [case for case in waiting if not case.look()]
            time.sleep(0.2)
        yield cases


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "phase"), FROZEN)
def test_a_peer_that_does_not_answer(
    frozen: dict[tuple[Fault, str], Case], fault: Fault, phase: str
) -> None:
    case = frozen[fault, phase]
    print(f"{case.name}: noticed after {case.noticed_seconds:.1f} s")
    case.finish()
