"""The people at a facility of a simulation: their actions, and the answers that they got.

The effect of an acknowledged action must last through every kill. If a process was killed
before it answered, the action may or may not have had its effect.
"""

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from simulated_disk import Disk
from simulated_plan import GRANTS, Step, a_rule
from simulated_rules import BREAK_GLASS, modality_of, patient_of
from studies_made import make_instance

from keys.card import Card
from node.alerts import waiting_persons
from node.app import Node
from node.blocking import in_thread
from node.callers import SERVICE, Caller, asked_by
from node.errors import NodeError
from node.images.ingest import ingest
from node.operations import OPERATIONS, Call
from node.sharing.offered import OPEN

if TYPE_CHECKING:
    from simulator import Simulation

T = TypeVar("T")

PURPOSES = ("treatment", "treatment", "research")

NEEDS_TIME = ("fetch", "emergency")
"""Actions of which a person awaits the end while others act."""

AUDITOR = Caller("person", "auditor", role="audit", person="of-nobody")
DOCTOR = Caller("person", "doctor", role="emergency")

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
        if kind in NEEDS_TIME:
            if self.is_up:
                await getattr(self, f"_{kind}")(chance)
            return
        async with self._operator:
            if self.is_up:
                await getattr(self, f"_{kind}")(chance)

    async def _told(
        self, name: str, parameters: dict[str, Any], caller: Caller = SERVICE
    ) -> tuple[str, dict[str, Any]]:
        """Have the node do an operation.

        Returns:
            "done", "refused", or "unknown" if it was killed; and what it answered.
        """
        node, disk = self.node, self.disk
        if node is None or disk is None:
            return "unknown", {}
        outcome, result = "unknown", {}
        try:
            with trio.CancelScope() as scope, asked_by(caller):
                self._commands.append(scope)
                call = Call(node, self.serving, caller)
                result = await OPERATIONS[name].answer(call, parameters)
                outcome = "done"
        except NodeError as error:
            outcome = "refused"
            message = error.message.replace(str(self.sim.folder), "")
            self.sim.trace("refused", self.number, name, message[:60])
        except Exception:
            if not self._is_gone(node, disk):
                raise
        if disk.is_dead:
            outcome = "unknown"
        self.sim.trace("answer", self.number, name, outcome)
        return outcome, result

    def _is_gone(self, node: Node, disk: Disk) -> bool:
        """Whether a process was killed, or stops, and its files are closed: errors mean nothing."""
        return disk.is_dead or self.node is not node or not self.is_up

    async def _read(self, read: Callable[[Node], T], default: T) -> T:
        """What the node has on its disk; the default if it is gone."""
        node, disk = self.node, self.disk
        if node is None or disk is None:
            return default
        try:
            return await in_thread(read, node)
        except Exception:
            if not self._is_gone(node, disk):
                raise
            return default

    async def _answered(self, name: str, parameters: dict[str, Any]) -> str:
        """Have the node do an operation; the outcome, as of `_told`."""
        outcome, _ = await self._told(name, parameters)
        return outcome

    async def _listed(self, name: str, kind: str, **parameters: Any) -> list[dict[str, Any]]:
        """What a list of the node has; nothing if it was killed."""
        outcome, result = await self._told(name, parameters)
        return list(result[kind]) if outcome == "done" else []

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

    async def _rule(self, chance: float) -> None:
        assert self.node is not None
        await self._about_peer(chance, "rules.add", rule=a_rule(self._rng, self._soon()))

    async def _unrule(self, chance: float) -> None:
        assert self.node is not None
        held = [(peer, rule) for peer in self.node.peers.store.peers for rule in peer.rules]
        if held:
            peer, rule = held[int(chance * len(held))]
            await self._answered("rules.remove", {"peer": peer.petname, "number": rule.number})

    def _soon(self) -> str:
        """A moment that comes before the end of all trouble, mostly while something runs."""
        seconds = self.sim.clock.now() + self._rng.randrange(2, 25)
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    async def _object(self, chance: float) -> None:
        patient = f"MARKER-PATIENT-{self._rng.randrange(2)}"
        more = {"patient": patient, "uses": self._rng.choice(("all", "all", "care", "research"))}
        if chance < 0.3:
            await self._answered("objection.add", more)
        else:
            await self._about_peer(chance, "objection.add", **more)

    async def _unobject(self, chance: float) -> None:
        assert self.node is not None
        held = [wish for wish in self.node.wishes.all("objection") if not wish.ended]
        if held:
            wish = held[int(chance * len(held))]
            peer = self.node.petname(wish.peer) if wish.peer else "all"
            await self._answered("objection.end", {"patient": wish.patient_id, "peer": peer})

    # --- requests, emergencies, offers -------------------------------------------------

    async def _approve(self, chance: float) -> None:
        waiting = await self._listed("requests", "requests")
        if waiting:
            until = {"until": self._soon()} if self._rng.random() < 0.3 else {}
            number = waiting[int(chance * len(waiting))]["number"]
            await self._answered("approve", {"number": number, **until})

    async def _turn_down(self, chance: float) -> None:
        known = await self._listed("requests", "requests", all=True)
        open_ones = [one for one in known if one["state"] in ("waiting", "approved")]
        if open_ones:
            number = open_ones[int(chance * len(open_ones))]["number"]
            await self._answered("deny", {"number": number, "reason": "not today"})

    async def _review(self, chance: float) -> None:
        waiting = await self._listed("emergencies", "emergencies")
        if waiting:
            number = waiting[int(chance * len(waiting))]["number"]
            asked = {"number": number, "outcome": "justified", "note": "looked at"}
            await self._told("review", asked, AUDITOR)

    async def _offer(self, chance: float) -> None:
        held = sorted(set(self._own) & self.instances.keys())
        if held:
            more = {"until": self._soon()} if self._rng.random() < 0.3 else {}
            study = held[self._rng.randrange(len(held))]
            purpose = self._rng.choice(PURPOSES)
            await self._about_peer(chance, "send", study=study, purpose=purpose, **more)

    async def _answer_offer(self, chance: float) -> None:
        waiting = [one for one in await self._listed("offers", "offers") if one["waits"]]
        if waiting:
            number = waiting[int(chance * len(waiting))]["number"]
            answer = "offer.decline" if self._rng.random() < 0.3 else "offer.accept"
            await self._answered(answer, {"number": number})

    async def _end_offer(self, chance: float) -> None:
        known = await self._listed("offers", "offers")
        ours = [one for one in known if one["direction"] == "out" and one["state"] in OPEN]
        if ours:
            await self._answered("offer.end", {"number": ours[int(chance * len(ours))]["number"]})

    async def tidy(self) -> None:
        """Answer what waits for a person, so that no transfer waits; reviews need not come."""
        async with self._operator:
            while self.is_up:
                waits = await self._read(waiting_persons, {})
                if not waits.get("requests", 0) + waits.get("offers", 0):
                    return
                chance = self._rng.random()
                act = self._approve if chance < 0.6 else self._turn_down
                await (act if "requests" in waits else self._answer_offer)(chance)

    async def approve_all(self) -> None:
        """Approve all requests that wait."""
        async with self._operator:
            for one in await self._listed("requests", "requests"):
                await self._answered("approve", {"number": one["number"]})

    async def ask_for(self, study: str, peer: str, purpose: str) -> str:
        """Ask a peer for a study, and wait until that ends; the outcome, as of `_told`."""
        asked = {"study": study, "peer": peer}
        if purpose == BREAK_GLASS:
            more, name, caller = {"reason": "unconscious: no time to ask"}, "emergency", DOCTOR
        else:
            more, name, caller = {"purpose": purpose, "follow": False}, "fetch", SERVICE
        outcome, _ = await self._told(name, asked | more, caller)
        self._fetched(study, outcome)
        return outcome

    async def _emergency(self, chance: float) -> None:
        """Break the glass for a study of a peer, which may not be announced."""
        peers = sorted(self.possible)
        if not peers:
            return
        other = self.sim.site_of(peers[int(chance * len(peers))])
        assert other is not None
        studies = sorted(other.instances.keys() - self.instances.keys())
        if studies:
            study = studies[self._rng.randrange(len(studies))]
            await self.ask_for(study, other.name, BREAK_GLASS)

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
        announced = await self._read(lambda node: node.feeds.announced(), [])
        studies = sorted({record.study for _, record in announced} - self.instances.keys())
        if not studies:
            return
        study = studies[int(chance * len(studies))]
        asked = {"study": study, "purpose": self._rng.choice(PURPOSES)}
        if self._rng.random() < 0.3:
            asked["reason"] = "second look"
        self._fetched(study, await self._answered("fetch", asked))

    def _fetched(self, study: str, outcome: str) -> None:
        if outcome == "done":
            self.instances.setdefault(study, 1)
            self.shared.setdefault(study, {False})


def made_study(study: str, instances: int) -> Path:
    """A folder with a tiny study, made once for all runs of this process."""
    folder = _made_studies() / f"{study}-{instances}"
    if not folder.exists():
        folder.mkdir()
        for number in range(1, instances + 1):
            made = make_instance(study, number, rows=8)
            made.Modality, made.PatientID = modality_of(study), patient_of(study)
            made.save_as(folder / f"IM{number}.dcm", enforce_file_format=True)
    return folder


def size_of(study: str, instances: int) -> int:
    """How many bytes a study has with so many instances."""
    return sum(path.stat().st_size for path in made_study(study, instances).iterdir())


_folder: list[Path] = []


def _made_studies() -> Path:
    if not _folder:
        made = Path(tempfile.mkdtemp(prefix="radmesh-studies-", dir=_STUDIES))
        atexit.register(shutil.rmtree, made, True)
        _folder.append(made)
    return _folder[0]
