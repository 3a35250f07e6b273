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
from simulated_plan import Step, people_of, plan
from simulated_site import Site

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
    """A `node.clock.Clock` by trio's time."""

    def now_ms(self) -> int:
        try:
            return START_MS + round(trio.current_time() * 1000)
        except RuntimeError:
            return START_MS

    def now(self) -> int:
        return self.now_ms() // 1000

    def running(self) -> float:
        return (self.now_ms() - START_MS) / 1000


@dataclass
class Result:
    """The result of a run.

    Attributes:
        seed: the seed of the run.
        digest: digest over all events and their times.
        violations: sentences about promises that were not kept.
        counts: kind of event to how often it happened.
        virtual_seconds, real_seconds: how long it took, in simulated and in real time.
        cpu_seconds: processor time.
    """

    seed: int
    digest: str = ""
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    virtual_seconds: float = 0.0
    real_seconds: float = 0.0
    cpu_seconds: float = 0.0


class Simulation:
    """One run.

    Args:
        seed: determines the run.
        sites: number of facilities.
        seconds: how long people act and faults happen.
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
        self.steps = plan(random.Random(f"{seed} plan"), sites, self.pairs, seconds)

    # --- what happens ----------------------------------------------------------------

    def trace(self, *what: Any) -> None:
        """Record an event."""
        try:
            now = trio.current_time()
        except RuntimeError:
            now = 0.0
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
        for index, event in enumerate(events, first):
            site.rights.add(index, event, trio.current_time())
            self.trace("entry", site.number, index, event.type)
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
            may = site.rights.may(peer.facility_key, "see", record.study, now)
            if record.kind != "withdrawn" and not may:
                self.violated(f"{what} without the right")
        self.trace("announced", site.number, peer.number, len(announcement.records))

    def _study_sent(self, end: SourceTransfer, what: str) -> None:
        site, request = self._signer(end._key), end.request
        if site is None or request is None:
            return
        peer = next((one for one in self.sites if one.had_key(end._peer)), None)
        said = f"{site.name} sends {request.study} ({what})"
        if peer is None:
            self.violated(f"{said} to a node key that is nobody's")
            return
        now, rights = trio.current_time(), site.rights
        if request.transfer.hex() not in rights.begun:
            self.violated(f"{said} to {peer.name} without an entry")
        if not all(rights.may(peer.facility_key, g, request.study, now) for g in ("see", "fetch")):
            self.violated(f"{said} to {peer.name} without the right")
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
    seed: int, *, sites: int, seconds: float, tell: Callable[[str], None] = lambda line: None
) -> Result:
    """Run one seed in its own folder, which is removed afterwards."""
    logging.disable(logging.CRITICAL)
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="radmesh-simulator-", dir=place))
    try:
        made = Simulation(seed, sites=sites, seconds=seconds, folder=folder, tell=tell)
        return made.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["Result", "Rights", "Simulation", "simulate"]
