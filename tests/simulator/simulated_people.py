"""The people at a facility of a simulation: their actions, and the answers that they got.

The effect of an acknowledged action must last through every kill. If a process was killed
before it answered, the action may or may not have had its effect.
"""

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from simulated_disk import Disk
from simulated_plan import GRANTS, Step
from studies_made import make_study

from keys.card import Card
from node.app import Node
from node.blocking import in_thread
from node.errors import NodeError
from node.images.ingest import ingest
from node.operations import OPERATIONS, Call

if TYPE_CHECKING:
    from simulator import Simulation

PATIENT = "MARKER-PATIENT-ID"
"""The patient of every study that is made."""

State = frozenset[str] | None
"""The grants of a peer; None if it is not trusted."""

_STUDIES = "/dev/shm" if Path("/dev/shm").is_dir() else None


class People:
    """The people at one facility.

    Attributes:
        node, disk: the node and disk of the running process.
        instances: acknowledged study to the number of its acknowledged instances.
        may_be_gone: the studies that an operator has discarded, or tried to discard.
        possible: facility key to the states in which the peer may be, by the answers so far.
        shared: study (UID) to the possible values of whether it is shared, likewise.
        was_broken_off: whether a process was killed, or its disk was full.
    """

    def __init__(self, sim: "Simulation", number: int) -> None:
        self.sim = sim
        self.number = number
        self.name = f"Site {number}"
        self.card: Card | None = None
        self.node: Node | None = None
        self.disk: Disk | None = None
        self.instances: dict[str, int] = {}
        self.may_be_gone: set[str] = set()
        self.possible: dict[bytes, set[State]] = {}
        self.shared: dict[str, set[bool]] = {}
        self.was_broken_off = False
        self._rng = random.Random(f"{sim.result.seed} site {number}")
        self._own: list[str] = []
        self._commands: list[trio.CancelScope] = []
        self._operator = trio.Lock()

    @property
    def is_up(self) -> bool:
        """Whether the node serves."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the node as an operator does."""
        raise NotImplementedError

    async def do(self, step: Step) -> None:
        """Do one step of the plan."""
        self.sim.trace("step", step.kind, self.number, step.how)
        match step.kind:
            case "kill":
                if self.disk is not None and not self.sim.is_resting:
                    self.disk.kill_at(1 + int(step.chance * 6), self._rng)
                    await self._act(step.how, step.chance)
            case "restart":
                self.stop()
            case "fill":
                await self._fill(step.seconds)
            case _:
                await self._act(step.kind, step.chance)

    async def _fill(self, seconds: float) -> None:
        disk = self.disk
        if disk is not None and not self.sim.is_resting:
            disk.is_full = disk.was_full = self.was_broken_off = True
            await trio.sleep(seconds)
            disk.is_full = False

    async def _act(self, kind: str, chance: float) -> None:
        if kind == "fetch":
            await self._fetch(chance)
            return
        async with self._operator:
            if self.is_up:
                await getattr(self, f"_{kind}")(chance)

    async def _answered(self, name: str, parameters: dict[str, Any]) -> str:
        """Have the node do an operation: "done", "refused", or "unknown" if it was killed."""
        node, disk = self.node, self.disk
        assert node is not None
        assert disk is not None
        outcome = "unknown"
        try:
            with trio.CancelScope() as scope:
                self._commands.append(scope)
                await OPERATIONS[name].answer(Call(node, self.serving), parameters)
                outcome = "done"
        except NodeError as error:
            outcome = "refused"
            self.sim.trace("refused", self.number, name, error.message[:60])
        except Exception:
            # Ignore the error only if the process was killed and its files closed.
            if not disk.is_dead:
                raise
        if disk.is_dead:
            outcome = "unknown"
        self.sim.trace("answer", self.number, name, outcome)
        return outcome

    async def _peer(
        self, chance: float, name: str, change: Callable[[State], State], **more: Any
    ) -> None:
        peers = sorted(self.possible)
        if not peers:
            return
        key = peers[int(chance * len(peers))]
        other = self.sim.site_of(key)
        assert other is not None
        assert other.card is not None
        if other.node is not None:
            other.card = other.node.card
        if name == "trust.add":
            more |= {"card": other.card.encoded.decode(), "fingerprint": other.card.fingerprint}
            more |= {"petname": other.name}
        else:
            more["peer"] = other.name
        before = self.possible[key]
        outcome = await self._answered(name, more)
        after = {change(one) for one in before}
        self.possible[key] = after if outcome == "done" else before | after

    async def _grant(self, chance: float) -> None:
        some = self._some()
        await self._peer(
            chance,
            "trust.grant",
            lambda one: None if one is None else one | some,
            grants=sorted(some),
        )

    async def _ungrant(self, chance: float) -> None:
        some = self._some()
        await self._peer(
            chance,
            "trust.revoke",
            lambda one: None if one is None else one - some,
            grants=sorted(some),
        )

    async def _deny(self, chance: float) -> None:
        action = self._rng.choice(("see", "fetch"))
        await self._about_peer(chance, "rules.add", rule=["deny", action])

    async def _undeny(self, chance: float) -> None:
        assert self.node is not None
        denied = [(peer, rule) for peer in self.node.peers.store.peers for rule in peer.rules]
        if denied:
            peer, rule = denied[int(chance * len(denied))]
            await self._answered("rules.remove", {"peer": peer.petname, "number": rule.number})

    async def _object(self, chance: float) -> None:
        if chance < 0.3:
            await self._answered("objection.add", {"patient": PATIENT})
        else:
            await self._about_peer(chance, "objection.add", patient=PATIENT)

    async def _unobject(self, chance: float) -> None:
        assert self.node is not None
        held = [wish for wish in self.node.wishes.all("objection") if not wish.ended]
        if held:
            wish = held[int(chance * len(held))]
            peer = self.node.petname(wish.peer) if wish.peer else "all"
            await self._answered("objection.end", {"patient": PATIENT, "peer": peer})

    async def _about_peer(self, chance: float, name: str, **more: Any) -> None:
        """Do something about a peer that changes nothing of its grants."""
        peers = sorted(self.possible)
        if peers:
            other = self.sim.site_of(peers[int(chance * len(peers))])
            assert other is not None
            await self._answered(name, {"peer": other.name, **more})

    async def _revoke(self, chance: float) -> None:
        await self._peer(chance, "trust.revoke", lambda one: None)

    async def _trust(self, chance: float) -> None:
        some = self._some() | {"see"}
        await self._peer(
            chance, "trust.add", lambda one: (one or frozenset()) | some, grants=sorted(some)
        )

    def _some(self) -> frozenset[str]:
        return frozenset(self._rng.sample(GRANTS, self._rng.randrange(1, 3)))

    async def _rotate(self, chance: float) -> None:
        await self._answered("keys.rotate", {"role": ("node", "log", "witness")[int(chance * 3)]})

    async def _ingest(self, chance: float) -> None:
        study = f"1.2.826.0.1.3680043.8.498.77.{self.number}.{len(self._own) + 1}"
        self._own.append(study)
        await self._take_in(study, 2)

    async def _grow(self, chance: float) -> None:
        held = sorted(set(self._own) & self.instances.keys() - self.may_be_gone)
        if held:
            study = held[int(chance * len(held))]
            await self._take_in(study, self.instances[study] + 1)

    async def _take_in(self, study: str, instances: int) -> None:
        node, disk = self.node, self.disk
        assert node is not None
        assert disk is not None
        folder, outcome = made_study(study, instances), "unknown"
        try:
            report = await in_thread(
                lambda: ingest(
                    [folder],
                    catalog=node.catalog,
                    store=node.store,
                    quarantine=node.home.quarantine_path,
                    audit=node.audit.append,
                    now=node.clock.now,
                )
            )
            outcome = (
                "done" if report.instances_new + report.instances_known == instances else "refused"
            )
        except NodeError as error:
            outcome = f"refused: {error.message[:40]}".replace(str(self.sim.folder), "")
        except Exception:
            if not disk.is_dead:
                raise
        if disk.is_dead:
            outcome = "unknown"
        self.sim.trace("answer", self.number, "ingest", outcome)
        if outcome == "done":
            self.instances[study] = max(instances, self.instances.get(study, 0))
        self.shared.setdefault(study, {True})

    async def _share(self, chance: float) -> None:
        await self._set_shared(chance, "share", True)

    async def _withdraw(self, chance: float) -> None:
        await self._set_shared(chance, "withdraw", False)

    async def _set_shared(self, chance: float, name: str, shared: bool) -> None:
        held = sorted(self.instances)
        if held:
            study = held[int(chance * len(held))]
            outcome = await self._answered(name, {"study": study})
            before = self.shared.get(study, {False})
            self.shared[study] = {shared} if outcome == "done" else before | {shared}

    async def _discard(self, chance: float) -> None:
        held = sorted(self.instances)
        if held:
            study = held[int(chance * len(held))]
            self.may_be_gone.add(study)
            await self._answered("discard", {"what": study, "reason": "wrong-patient"})

    async def _fetch(self, chance: float) -> None:
        """Fetch an announced study that is not here, and wait until the fetch ends."""
        node, disk = self.node, self.disk
        if not self.is_up or node is None or disk is None:
            return
        announced = await in_thread(node.feeds.announced)
        studies = sorted({record.study for _, record in announced} - self.instances.keys())
        if not studies:
            return
        study = studies[int(chance * len(studies))]
        outcome = await self._answered("fetch", {"study": study, "purpose": "treatment"})
        if outcome == "done":
            self.instances.setdefault(study, 1)
            self.shared.setdefault(study, {False})


def made_study(study: str, instances: int) -> Path:
    """A folder with a tiny study, made once for all runs of this process."""
    folder = _made_studies() / f"{study}-{instances}"
    if not folder.exists():
        make_study(folder, instances, study=study, rows=8)
    return folder


_folder: list[Path] = []


def _made_studies() -> Path:
    if not _folder:
        made = Path(tempfile.mkdtemp(prefix="radmesh-studies-", dir=_STUDIES))
        atexit.register(shutil.rmtree, made, True)
        _folder.append(made)
    return _folder[0]
