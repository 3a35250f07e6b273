"""One facility of a simulation: its node, killed and started again."""

import random
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from simulated_book import Rights
from simulated_disk import Disk, tear
from simulated_network import SimulatedTransport
from simulated_people import People
from simulated_plan import Rights as Given
from simulated_rules import Standing

from node.app import Node
from node.blocking import in_thread
from node.errors import NodeError
from node.home import Home
from node.serving import Serving, serving

if TYPE_CHECKING:
    from simulator import Simulation

RESTART_SECONDS = 5.0
"""Time between two tries of the service manager to start a node that does not start."""


class Site(People):
    """A facility.

    Attributes:
        settings: what it has decided about emergencies, and no right yet.
        rights: the rights derived from its log.
        acknowledged: acknowledged sizes of its log, and their roots.
        bundle, entries: its log at the end, as exported and as stored.
        witnessed: number of a site to size and root of that site's log that it cosigned.
        friends: numbers of the sites that it trusts at the end.
    """

    def __init__(self, sim: "Simulation", number: int) -> None:
        super().__init__(sim, number)
        self.address = f"/ip4/10.0.{number}.1/tcp/4101"
        self.facility_key = b""
        self.serving: Serving | None = None
        chance = random.Random(f"{sim.result.seed} settings {number}")
        self.settings = Standing(over_objections=chance.random() < 0.5, rests=chance.random() < 0.5)
        self.rights = Rights(self.settings)
        self.acknowledged: dict[int, bytes] = {}
        self.bundle = BytesIO()
        self.entries: list[bytes] = []
        self.witnessed: dict[int, tuple[int, bytes]] = {}
        self.friends: set[int] = set()
        self._path = sim.folder / str(number) / "0"
        self._lives = 0
        self._keys: list[Any] = []
        self._former: set[bytes] = set()
        self._scope = trio.CancelScope()
        self._transport: SimulatedTransport | None = None
        self._ended = trio.Event()
        self._stopping = trio.Event()
        self._hurry = trio.Event()

    # --- before it begins ------------------------------------------------------------

    def make(self) -> None:
        """Make its home."""
        self._path.parent.mkdir()
        home = Home.create(
            self._path,
            name=self.name,
            listen=(self.address,),
            addresses=(self.address,),
            clock=self.sim.clock,
        )
        with (self._path / "config.toml").open("a") as file:
            file.write(
                f"\n[emergency]\nover_objections = {str(self.settings.over_objections).lower()}\n"
                f"rest_until_reviewed = {str(self.settings.rests).lower()}\n"
            )
        self.card = home.read_card()
        self.facility_key = self.card.facility_key
        self._former.add(self.card.node_key)

    def pair(self, other: "Site", given: Given) -> None:
        """Trust another site, before any node runs."""
        grants, rules = given
        assert other.card is not None
        with Node.open(Home(self._path, clock=self.sim.clock)) as node:
            card = other.card
            node.peers.add(card.encoded, card.fingerprint, grants, "", node.clock.now())
            for rule in rules:
                words = rule.format(soon=self._soon()).split()
                node.peers.add_rule(other.name, words, node.facts.blind)
        self.possible[other.facility_key] = {frozenset(grants)}

    # --- its process -----------------------------------------------------------------

    @property
    def home_path(self) -> Path:
        """The present path of its home."""
        return self._path

    @property
    def is_up(self) -> bool:
        """Whether its node serves."""
        return self.serving is not None

    def has_key(self, key: Any) -> bool:
        """Whether the process that runs now signs with this object."""
        if self.node is not None and all(self.node.keys.node is not one for one in self._keys):
            self._keys.append(self.node.keys.node)
            self._former.add(self.node.keys.node.public)
        return any(one is key for one in self._keys)

    def had_key(self, public: bytes) -> bool:
        """Whether this is, or was, one of its node keys."""
        self.has_key(None)
        return public in self._former

    async def keep(self, nursery: trio.Nursery) -> None:
        """Be the service manager: start the node whenever it is down."""
        while not self.sim.is_over:
            self._ended, self._stopping = trio.Event(), trio.Event()
            self.disk = Disk(self._path, self._killed)
            self.sim.disks.add(self.disk)
            self._scope, self._keys = trio.CancelScope(), []
            self._transport = SimulatedTransport(self.sim.net, self.number)
            nursery.start_soon(self._live, self.disk, self._scope, self._transport, self._ended)
            await self._ended.wait()
            self._down()
            if not self.sim.is_over:
                self._hurry = trio.Event()
                seconds = RESTART_SECONDS if self.sim.is_resting else self._rng.uniform(0.2, 15)
                with trio.move_on_after(seconds):
                    await self._hurry.wait()

    async def _live(
        self,
        disk: Disk,
        scope: trio.CancelScope,
        transport: SimulatedTransport,
        ended: trio.Event,
    ) -> None:
        """Run one process from its start to its end; also what still runs after a kill."""
        node: Node | None = None
        try:
            with scope:
                home = Home(disk.path, clock=self.sim.clock)
                node = await in_thread(lambda: Node.open(home, to_serve=True))
                if disk.is_dead:
                    return
                self.node = node
                self.rights = await in_thread(Rights.of, node, self.settings)
                stopping = self._stopping
                async with serving(node, transport) as running:
                    if not disk.is_dead:
                        self.serving = running
                        self.sim.trace("up", self.number)
                        await stopping.wait()
                        self.serving = None
        except NodeError as error:
            self._ended_by(disk, error.message)
        except BaseExceptionGroup as group:
            self._ended_by(disk, repr(group.exceptions))
        finally:
            if node is not None:
                with trio.CancelScope(shield=True):
                    if self.sim.is_over and not disk.is_dead:
                        await in_thread(self._export, node)
                    await in_thread(node.close)
            ended.set()

    def _ended_by(self, disk: Disk, why: str) -> None:
        if disk.is_dead:
            return
        self.sim.trace("down", self.number, why.replace(str(self.sim.folder), ""))
        if not disk.was_full:
            self.sim.violated(f"the node of {self.name} ended by itself: {why}")

    def _killed(self, disk: Disk, what: str) -> None:
        disk.is_dead = self.was_broken_off = True
        silently = self._rng.random() < 0.3
        self.sim.trace("killed", self.number, what, silently)
        self._lives += 1
        target = self._path.with_name(str(self._lives))
        disk.copy(target)
        tear(disk, target, self._rng)
        self._path = target
        if self._transport is not None:
            self._transport.die(silently=silently)
        self._scope.cancel()
        self._down()
        self._ended.set()

    def _down(self) -> None:
        for command in self._commands:
            command.cancel()
        self._commands = []
        self.node = self.serving = None
        self._keys = []

    def _export(self, node: Node) -> None:
        self.bundle = BytesIO()
        node.audit.export(self.bundle, card=node.card.encoded)
        self.rights = Rights.of(node, self.settings)
        self.sim.look_at(self, node)

    def stop(self) -> None:
        """Stop its node as an operator does."""
        self._stopping.set()
        self._hurry.set()

    def heal(self) -> None:
        """End all faults here."""
        if self.disk is not None:
            self.disk.is_full = False
            self.disk.spare()
        self._hurry.set()
