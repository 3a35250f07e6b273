"""Whole nodes in one process, on a simulated network, disks and clock, by seed.

`Simulation` runs the product's own code from the operations of a facility down to Noise and
yamux, SQLite and the files of the log. Simulated are the lines between the nodes
(`simulated_network`), full disks and killed processes (`simulated_disk`), time, threads (there
are none), and randomness. The seed determines a plan of actions and faults. At the end all
faults are removed, and when nothing happens any more the promises are checked
(`simulated_checks`); data is checked when it is sent (`simulated_book`).

`tests/simulator/simulate.py` runs it; the same seed gives the same run.
"""

import gc
import hashlib
import logging
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import seeded
import simulated_checks
import trio
import trio.testing
from simulated_book import Rights, Watch
from simulated_disk import Disks
from simulated_network import Net
from simulated_people import size_of
from simulated_plan import STEPS_PER_SITE, Step, people_of, plan
from simulated_rules import BREAK_GLASS, Asked
from simulated_site import Site
from simulated_wants import want_all

from node.app import Node
from node.audit.log import AuditLog
from node.blocking import in_thread, inline
from protocol.log.entry import Event
from protocol.messages import Announcement
from protocol.source import SourceTransfer

START_MS = 1_800_000_000_000
REST_SECONDS = 1800.0
"""Longest time until nothing happens any more, after all faults were removed."""

QUIET_SECONDS = 75.0
"""At rest means that nothing happened for this long: every retry comes within a minute."""


class SimulatedClock:
    """A `node.clock.Clock` by trio's time; days pass while all machines are suspended."""

    def __init__(self) -> None:
        self._passed: list[tuple[float, float]] = []

    def pass_hours(self, hours: float) -> None:
        """Let hours pass in which nothing runs."""
        self._passed.append((trio.current_time(), hours * 3600))

    def at(self, time: float) -> int:
        """Milliseconds since the epoch at a time of the simulation."""
        suspended = sum(seconds for when, seconds in self._passed if when <= time)
        return START_MS + round((time + suspended) * 1000)

    def wall(self, time: float) -> int:
        """Whole seconds since the epoch at a time of the simulation."""
        return self.at(time) // 1000

    def now_ms(self) -> int:
        return self.at(_time())

    def now(self) -> int:
        return self.now_ms() // 1000

    def running(self) -> float:
        return _time()


def _time() -> float:
    try:
        return trio.current_time()
    except RuntimeError:
        return 0.0


@dataclass
class Result:
    """The result of a run.

    Attributes:
        seed: the seed of the run.
        digest: digest over all events and their times.
        violations: sentences about promises that were not kept.
        counts: kind of event to how often it happened.
        entries: type of entry to how many were written.
        virtual_seconds, real_seconds: how long it took, in simulated and in real time.
        cpu_seconds: processor time.
    """

    seed: int
    digest: str = ""
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    entries: Counter[str] = field(default_factory=Counter)
    virtual_seconds: float = 0.0
    real_seconds: float = 0.0
    cpu_seconds: float = 0.0


class Simulation:
    """One run.

    Args:
        seed: determines the run.
        sites: number of facilities.
        seconds: how long people act and faults happen.
        steps: how many actions and faults there are for each site.
        about: what it is about, see `simulated_plan.ABOUT`.
        folder: an empty folder for the homes.
        tell: called with each event except bytes on lines; for people.
    """

    def __init__(
        self,
        seed: int,
        *,
        sites: int,
        seconds: float,
        folder: Path,
        steps: int = STEPS_PER_SITE,
        about: str = "all",
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.clock = SimulatedClock()
        self.result = Result(seed)
        self.is_resting = self.is_over = False
        self.last_entry, self.ended_ms = 0.0, 0
        self._tell = tell
        self._digest = hashlib.sha256()
        self._violated: set[str] = set()
        self._sent: dict[tuple[bytes, bytes, str], set[tuple[bytes, int]]] = {}
        self.net = Net(random.Random(f"{seed} lines"), self.trace)
        self.disks = Disks()
        self.sites = [Site(self, number) for number in range(sites)]
        self.pairs = people_of(random.Random(f"{seed} people"), sites)
        self.steps = plan(
            random.Random(f"{seed} plan"),
            self.pairs,
            sites=sites,
            seconds=seconds,
            steps_per_site=steps,
            about=about,
        )

    # --- what happens ----------------------------------------------------------------

    def trace(self, *what: Any) -> None:
        """Record an event."""
        now = _time()
        self._digest.update(repr((round(now, 6), *what)).encode())
        self.result.counts[str(what[0])] += 1
        if what[0] != "sent":
            self._tell(f"{now:9.3f} " + " ".join(map(str, what)))

    def violated(self, what: str) -> None:
        """Record a promise that was not kept."""
        if what in self._violated:
            return
        self._violated.add(what)
        self.trace("VIOLATED", what)
        when = "in the end" if self.is_over else f"at {trio.current_time():.3f} s"
        self.result.violations.append(f"{when}: {what}")

    def look_at(self, site: Site, node: Node) -> None:
        """Check the log of a site, which is about to be closed for good."""
        simulated_checks.look_at(self, site, node)

    def site_of(self, facility_key: bytes) -> Site | None:
        """The site of a facility."""
        return next((site for site in self.sites if site.facility_key == facility_key), None)

    def _signer(self, key: Any) -> Site | None:
        """The site whose live process holds this key object; killed processes do not count."""
        return next((site for site in self.sites if site.has_key(key)), None)

    # --- what is watched -------------------------------------------------------------

    def _entries(self, log: AuditLog, first: int, events: list[Event]) -> None:
        disk = self.disks.of(log._directory)
        site = None if disk is None else self._site_with(disk)
        if site is None:
            return
        now, time_ms = trio.current_time(), self.clock.now_ms()
        for index, event in enumerate(events, first):
            if event.type == "disclosure-begun":
                self._begins(site, event, time_ms)
            site.rights.add(index, event, time_ms, now)
            self.trace("entry", site.number, index, event.type)
            self.result.entries[event.type] += 1
            if event.type != "checkpoint-heartbeat":
                self.last_entry = trio.current_time()
        site.acknowledged[log.size] = log.root()

    def _site_with(self, disk: Any) -> Site | None:
        return next((one for one in self.sites if one.disk is disk and not disk.is_dead), None)

    def _announced(self, key: Any, announcement: Announcement) -> None:
        site = self._signer(key)
        if site is None:
            return
        peer = next((one for one in self.sites if one.had_key(announcement.recipient)), None)
        if peer is None:
            self.violated(f"{site.name} announces to a node key that is nobody's")
            return
        now = trio.current_time()
        for record in announcement.records:
            what = f"{site.name} announces {record.study} ({record.kind}) to {peer.name}"
            told = site.rights.announced.get((peer.facility_key, record.study), 0)
            places = self._sent.setdefault(
                (site.facility_key, peer.facility_key, record.study), set()
            )
            places.add((announcement.epoch, record.sequence))
            if len(places) > told:
                self.violated(f"{what} without an entry")
            may = site.rights.sees(peer.facility_key, record.study, now, self.clock.wall)
            if record.kind != "withdrawn" and not may:
                self.violated(f"{what} without the right")
        self.trace("announced", site.number, peer.number, len(announcement.records))

    def _begins(self, site: Site, event: Event, time_ms: int) -> None:
        """Check a disclosure at its first entry."""
        peer, details = self.site_of(event.peer or b""), event.details
        [study] = [value for kind, value in event.subjects if kind == "study"]
        said = f"{site.name} begins to send {study} to {peer.name if peer else 'nobody'}"
        verdict = site.rights.beginning(event, time_ms)
        if verdict.kind != "yes":
            self.violated(f"{said} without the right: {verdict.why}")
        elif details.get("rule") not in verdict.names:
            self.violated(f"{said} by {details.get('rule')}, not by {sorted(verdict.names)}")
        if details["bytes"] != size_of(study, int(details["instances"])):
            self.violated(f"{said}, and the entry has another number of bytes")

    def _study_sent(self, end: SourceTransfer, what: str) -> None:
        site, request = self._signer(end._key), end.request
        if site is None or request is None:
            return
        peer = next((one for one in self.sites if one.had_key(end._peer)), None)
        said = f"{site.name} sends {request.study} ({what})"
        if peer is None:
            self.violated(f"{said} to a node key that is nobody's")
            return
        transfer = request.transfer.hex()
        if transfer not in site.rights.begun:
            self.violated(f"{said} to {peer.name} without an entry")
        told = (request.person or "", request.role or "", request.reason or "")
        asker = "^^^".join(told) if any(told) else ""
        asked = Asked(request.study, request.purpose, transfer, asker)
        now, wall = trio.current_time(), self.clock.wall
        verdict = site.rights.going_on(peer.facility_key, asked, now, wall)
        if verdict.kind != "yes":
            self.violated(f"{said} to {peer.name} without the right: {verdict.why}")
        if request.purpose == BREAK_GLASS:
            for one, direction in ((site, "out"), (peer, "in")):
                if (direction, transfer) not in one.rights.glass:
                    self.violated(f"{said} before the log of {one.name} names the emergency")
        self.trace("disclosed", what, site.number, peer.number)

    # --- the run ---------------------------------------------------------------------

    async def _pause(self) -> None:
        """Wait as long as a thread takes to begin or to report; mostly no time at all."""
        chance = self.rng.random()
        if chance < 0.2:
            await trio.sleep(chance / 10)
        elif chance < 0.4:
            await trio.lowlevel.checkpoint()

    async def _main(self) -> None:
        for site in self.sites:
            await in_thread(site.make)
        for one, other, grants, back in self.pairs:
            await in_thread(self.sites[one].pair, self.sites[other], grants)
            await in_thread(self.sites[other].pair, self.sites[one], back)
        async with trio.open_nursery() as nursery:
            for site in self.sites:
                nursery.start_soon(site.keep, nursery)
            began = trio.current_time()
            for step in self.steps:
                await trio.sleep_until(began + step.at)
                nursery.start_soon(self._do, step)
            await self._rest()
            await want_all(self, random.Random(f"{self.result.seed} wants"))
            await self._rest()
            await in_thread(simulated_checks.check_at_rest, self)
            self.is_over, self.ended_ms = True, self.clock.now_ms()
            for site in self.sites:
                site.stop()
        self.result.virtual_seconds = trio.current_time()

    async def _do(self, step: Step) -> None:
        match step.kind:
            case "cut" | "slow":
                self.trace(step.kind, *step.pair, step.how)
                if step.kind == "cut":
                    self.net.cut(*step.pair, step.how)
                else:
                    self.net.slow(*step.pair, step.seconds / 10)
                await trio.sleep(step.seconds)
                self.net.heal(*step.pair)
            case "hours":
                if not self.is_resting:
                    self.trace("hours", step.seconds)
                    self.clock.pass_hours(step.seconds)
            case _:
                await self.sites[step.site].do(step)

    async def _rest(self) -> None:
        """End all faults, and wait until nothing happens any more."""
        self.trace("heal")
        self.is_resting = True
        self.net.heal_all()
        for site in self.sites:
            site.heal()
        end = trio.current_time() + REST_SECONDS
        while trio.current_time() < end:
            await trio.sleep(5)
            for site in self.sites:
                await site.tidy()
            is_quiet = trio.current_time() - self.last_entry > QUIET_SECONDS
            if is_quiet:
                unrest = await in_thread(simulated_checks.unrest, self)
                if not unrest:
                    return
                self.trace("unrest", *unrest)
        for what in await in_thread(simulated_checks.unrest, self) or ["entries are still written"]:
            self.violated(f"no rest: {what}")

    def run(self) -> Result:
        """Run the simulation to its end."""
        seed = self.result.seed
        seeded.SOURCE.seed(seed)
        random.seed(seed)
        began, used = time.perf_counter(), time.process_time()
        watch = Watch(self._entries, self._announced, self._study_sent)
        clock = trio.testing.MockClock(autojump_threshold=0)
        gc.collect()
        gc.disable()
        try:
            with seeded.scheduled(seed), inline(self._pause), self.disks.installed():
                with watch.installed():
                    trio.run(self._main, clock=clock)
                simulated_checks.check_stopped(self)
        finally:
            gc.enable()
        self.result.real_seconds = time.perf_counter() - began
        self.result.cpu_seconds = time.process_time() - used
        self.result.digest = self._digest.hexdigest()
        return self.result


def simulate(
    seed: int,
    *,
    sites: int,
    seconds: float,
    steps: int = STEPS_PER_SITE,
    about: str = "all",
    tell: Callable[[str], None] = lambda line: None,
) -> Result:
    """Run one seed in its own folder, which is removed afterwards."""
    logging.disable(logging.CRITICAL)
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="radmesh-simulator-", dir=place))
    try:
        return Simulation(
            seed,
            sites=sites,
            seconds=seconds,
            steps=steps,
            about=about,
            folder=folder,
            tell=tell,
        ).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["Result", "Rights", "Simulation", "simulate"]
