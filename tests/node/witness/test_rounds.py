"""A log's owner and a witness that is honest, wrong, or lying, over a real network."""

import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from log_queries_sides import Question, Reply, Side, derived, run, sides
from network_nodes import ALICE, BOB, until

from keys.card import sign_card
from keys.card_fields import SizedKey
from keys.identity import KeyPair
from keys.trust import Peer
from node.audit.log import AuditLog
from node.clock import SYSTEM_CLOCK
from node.config import AuditSettings
from node.witness.fork_detector import ForkDetector
from node.witness.rounds import Witnessing
from node.witness.store import WitnessStore
from node.witness.witness import Witness
from protocol.audit_messages import AddCheckpoint, CheckpointHeld, Cosigned, GetCheckpoint
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.checkpoint import Checkpoint, log_origin, sign_checkpoint
from protocol.log.cosignature import cosign, witness_name
from protocol.log.entry import Event, decode_entry_untrusted
from protocol.log.note import Signer, parse_note_untrusted
from protocol.messages import Message

pytestmark = pytest.mark.integration

BOB_NAME = witness_name(derived(BOB, b"f").public)
ORIGIN = log_origin(derived(ALICE, b"f").public)
LOG_KEY = derived(ALICE, b"l")


def _now() -> int:
    return SYSTEM_CLOCK.now()


class Owner:
    """Alice's log and its rounds, with Bob as the witness."""

    def __init__(self, directory: Path, side: Side, settings: AuditSettings) -> None:
        facility = derived(ALICE, b"f")
        first = Event(
            type="init",
            actor="operator",
            details={
                "facility_key": facility.public.hex(),
                "log_key": LOG_KEY.public.hex(),
                "origin": ORIGIN,
            },
        )
        self.log = AuditLog.create(
            directory / "audit",
            log_key=LOG_KEY,
            origin=ORIGIN,
            clock_ms=SYSTEM_CLOCK.now_ms,
            first=first,
        )
        self.store = WitnessStore(side.database)
        self.doubted = 0
        self.card = side.own_card
        fork_detector = ForkDetector(
            self.store, self.log, card=lambda: self.card, petname=lambda _: "Bob", now=_now
        )
        self.witnessing = Witnessing(
            audit=self.log,
            store=self.store,
            fork_detector=fork_detector,
            peers=side.peers,
            log_queries=side.log_queries,
            settings=settings,
            is_connected=lambda key: key in side.network.connected(),
            is_unreachable=lambda key: False,
            on_doubt=self._doubt,
            now=_now,
        )
        self.bob = side.other
        self.log_queries = side.log_queries

    def _doubt(self) -> None:
        self.doubted += 1

    def append(self, count: int = 1) -> None:
        for _ in range(count):
            self.log.append(Event(type="start"))

    @property
    def cosigned(self) -> int | None:
        newest = self.store.newest_by(self.bob.facility_key)
        return None if newest is None else newest[0]


@contextlib.asynccontextmanager
async def owner(
    directory: Path,
    add: Callable[[AddCheckpoint], Message] | None = None,
    *,
    answers_late: bool = False,
    settings: AuditSettings | None = None,
) -> AsyncIterator[tuple[Owner, WitnessStore]]:
    """Alice's rounds; Bob is a true witness unless `add` answers for him."""
    made: list[Witness] = []

    async def answer(peer: Peer, request: Message) -> Message:
        if answers_late:
            await trio.sleep_forever()
        if isinstance(request, AddCheckpoint) and add is not None:
            return add(request)
        return await made[0].answers[type(request)](peer, request)

    answers = {GetCheckpoint: answer, AddCheckpoint: answer}
    async with sides(directory, answers=answers) as (alice, bob):
        store = WitnessStore(bob.database)
        made.append(
            Witness(
                store,
                own_facility=derived(BOB, b"f").public,
                key=lambda: derived(BOB, b"w"),
                append=lambda event: 0,
                now=_now,
            )
        )
        alices = Owner(directory, alice, settings or AuditSettings())
        try:
            yield alices, store
        finally:
            alices.log.close()


def test_rounds_follow_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with owner(tmp_path) as (alice, _):
            for count in (0, 3, 0, 20):
                alice.append(count)
                await alice.witnessing.round()
                assert alice.cosigned == alice.log.size
                assert alice.witnessing.failure(alice.bob.facility_key) == ""

    run(main)


def test_a_witness_that_lost_its_memory_is_brought_up_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with owner(tmp_path) as (alice, bob):
            alice.append(5)
            await alice.witnessing.round()
            bob.forget(derived(ALICE, b"f").public)
            alice.append(5)
            await alice.witnessing.round()
            assert alice.cosigned == alice.log.size

    run(main)


def test_an_owner_that_lost_its_memory_learns_it_from_the_witness(tmp_path: Path) -> None:
    async def main() -> None:
        async with owner(tmp_path) as (alice, _):
            alice.append(5)
            await alice.witnessing.round()
            alice.store.drop_cosigned([alice.log.size])
            assert alice.cosigned is None
            await alice.witnessing.round()
            assert alice.cosigned == alice.log.size
            alice.append(5)
            alice.store.drop_cosigned([alice.log.size - 5])
            await alice.witnessing.round()
            assert alice.cosigned == alice.log.size

    run(main)


_FORGED_OTHER = f"— radmesh.witness/X {base64.b64encode(bytes(76)).decode()}\n".encode()


def _line(request: AddCheckpoint, key: KeyPair, name: str = BOB_NAME, late: int = 0) -> Cosigned:
    text, _ = parse_note_untrusted(request.checkpoint)
    return Cosigned(line=cosign(text, name, key, _now() + late).encode())


def _forged(request: AddCheckpoint) -> Message:
    found = parse_note_untrusted(request.checkpoint + _line(request, derived(BOB, b"w")).line)[1][1]
    line = f"— {BOB_NAME} {base64.b64encode(found.hash + bytes(72)).decode()}\n"
    return Cosigned(line=line.encode())


def _held(size: int, key: KeyPair = LOG_KEY, claimed: int | None = None) -> CheckpointHeld:
    checkpoint = Checkpoint(ORIGIN, size, b"r" * 32)
    note = sign_checkpoint(checkpoint, Signer(ORIGIN, key)).encode()
    return CheckpointHeld(size=size if claimed is None else claimed, checkpoint=note)


@pytest.mark.parametrize(
    "lie",
    [
        lambda request: _line(request, BOB),
        lambda request: _line(request, derived(BOB, b"w"), "radmesh.witness/X"),
        lambda request: _line(request, derived(BOB, b"w"), late=3 * 24 * 3600),
        lambda request: _line(request, derived(BOB, b"w"), late=-3 * 24 * 3600),
        _forged,
        lambda request: Cosigned(line=b"\xff"),
        lambda request: Cosigned(line=b"nonsense"),
        lambda request: Cosigned(line=b""),
        # A second line, of another witness, that would not hold.
        lambda request: Cosigned(line=_line(request, derived(BOB, b"w")).line + _FORGED_OTHER),
        lambda request: Cosigned(line=_FORGED_OTHER + _line(request, derived(BOB, b"w")).line),
        lambda request: Cosigned(line=_line(request, derived(BOB, b"w")).line[:-1]),
        lambda request: Cosigned(line=b"\n" + _line(request, derived(BOB, b"w")).line),
        lambda request: CheckpointHeld(size=1, checkpoint=b""),
        lambda request: CheckpointHeld(size=99, checkpoint=request.checkpoint),
        lambda request: _held(99, key=BOB),
        lambda request: CheckpointHeld(size=0, checkpoint=b""),
    ],
)
def test_what_a_lying_witness_says_counts_for_nothing(
    tmp_path: Path, lie: Callable[[AddCheckpoint], Message]
) -> None:
    async def main() -> None:
        async with owner(tmp_path, lie) as (alice, _):
            alice.append(3)
            await alice.witnessing.round()
            assert alice.cosigned is None
            assert alice.log.halt.reason is None
            assert alice.witnessing.failure(alice.bob.facility_key) != ""

    run(main)


def test_a_witness_that_always_refuses_is_not_asked_without_a_pause(tmp_path: Path) -> None:
    asked: list[int] = []

    def refuse(request: AddCheckpoint) -> Message:
        asked.append(request.old)
        raise RemoteProtocolError("no", WireCode.BAD_PROOF)

    async def main() -> None:
        async with owner(tmp_path, refuse) as (alice, _), trio.open_nursery() as nursery:
            nursery.start_soon(alice.witnessing.run)
            await until(lambda: alice.witnessing.failure(alice.bob.facility_key).startswith("the"))
            # The next round is a minute away; a loop would have asked many times by now.
            for _ in range(20):
                await alice.log_queries.ask(alice.bob, Question(value=1), Reply)
            assert asked == [0]
            nursery.cancel_scope.cancel()

    run(main)


def test_a_witness_that_does_not_answer_in_time_is_told_of(tmp_path: Path) -> None:
    async def main() -> None:
        async with owner(tmp_path, answers_late=True) as (alice, _):
            await alice.witnessing.round(0.2)
            why = alice.witnessing.failure(alice.bob.facility_key)
            assert why == "it has not answered in time"

    run(main)


@pytest.mark.parametrize("held_size", [6, 9])
def test_what_a_key_that_was_taken_back_signed_is_no_end_of_cosigning(
    tmp_path: Path, held_size: int
) -> None:
    """Bob cosigned it, and Alice never heard; then she took the key back from before."""
    held = sign_checkpoint(Checkpoint(ORIGIN, held_size, b"r" * 32), Signer(ORIGIN, LOG_KEY))

    def add(request: AddCheckpoint) -> Message:
        if request.old != held_size:
            return CheckpointHeld(size=held_size, checkpoint=held.encode())
        text, _ = parse_note_untrusted(request.checkpoint)
        return Cosigned(line=cosign(text, BOB_NAME, derived(BOB, b"w"), _now()).encode())

    async def main() -> None:
        async with owner(tmp_path, add) as (alice, _):
            alice.append(5)
            new = KeyPair.from_seed(b"n" * 32)
            event = Event(type="key-revoked", actor="operator")
            alice.log.change_key(lambda *_: event, "log", new, revoked=True)
            old = alice.card
            alice.card = sign_card(
                derived(ALICE, b"f"),
                name=old.name,
                node_keys=old.node_keys,
                log_keys=(SizedKey(LOG_KEY.public, 0, 4), SizedKey(new.public, 4)),
                witness_keys=old.witness_keys,
                addresses=(),
                serial=old.serial + 1,
                issued=old.issued,
                expires=old.expires,
            )
            await alice.witnessing.round()
            failure = alice.witnessing.failure(alice.bob.facility_key)
            assert alice.doubted == 0
            if held_size == 6:
                assert (alice.cosigned, failure) == (7, "")
            else:
                assert alice.cosigned is None
                assert "taken back; its operator has to start over" in failure

    run(main)


def test_heartbeats_and_rounds_by_the_settings(tmp_path: Path) -> None:
    async def main() -> None:
        settings = AuditSettings(witness_seconds=60, heartbeat_seconds=1)
        async with owner(tmp_path, settings=settings) as (alice, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.witnessing.run)
                await until(lambda: alice.log.size >= 2)
                await until(lambda: alice.cosigned == alice.log.size)
                nursery.cancel_scope.cancel()
            kinds = [decode_entry_untrusted(data).type for data in alice.log.entries()]
            assert kinds[:2] == ["init", "checkpoint-heartbeat"]

    run(main)


def test_a_witness_that_refuses_is_told_of(tmp_path: Path) -> None:
    def refuse(request: AddCheckpoint) -> Message:
        raise RemoteProtocolError("no", WireCode.BUSY)

    async def main() -> None:
        async with owner(tmp_path, refuse) as (alice, _):
            await alice.witnessing.round()
            assert alice.witnessing.failure(alice.bob.facility_key) == "the peer refused (busy)"

    run(main)


@pytest.mark.parametrize(("size", "why"), [(99, "had 99"), (2, "the first 2 entries")])
def test_what_our_own_key_signed_halts_the_log(tmp_path: Path, size: int, why: str) -> None:
    async def main() -> None:
        async with owner(tmp_path, lambda request: _held(size)) as (alice, _):
            alice.append(5)
            await alice.witnessing.round()
            assert alice.log.halt.reason is not None
            assert why in alice.log.halt.reason.message
            assert alice.doubted == 1
            before = alice.log.size
            # No round asks for a cosignature of a log in doubt.
            await alice.witnessing.round()
            assert (alice.doubted, alice.log.size, alice.cosigned) == (1, before, None)

    run(main)


def test_a_witness_of_another_history_is_asked_which_when_the_proof_fails(tmp_path: Path) -> None:
    """The owner believes itself cosigned up to a size at which the witness has another root."""

    async def main() -> None:
        async with owner(tmp_path) as (alice, bob):
            alice.append(5)
            other = _held(4)
            bob.keep(
                derived(ALICE, b"f").public,
                Checkpoint(ORIGIN, 4, b"r" * 32),
                other.checkpoint,
                _now(),
            )
            alice.store.add_cosignature(
                4, alice.log.latest_checkpoint(), alice.bob.facility_key, "x\n", _now(), _now()
            )
            await alice.witnessing.round()
            assert alice.log.halt.reason is not None
            assert alice.doubted == 1

    run(main)


def test_the_first_question_finds_a_log_that_went_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with owner(tmp_path) as (alice, bob):
            held = _held(9)
            bob.keep(
                derived(ALICE, b"f").public,
                Checkpoint(ORIGIN, 9, b"r" * 32),
                held.checkpoint,
                _now(),
            )
            await alice.witnessing.check(alice.bob, BOB.public)
            assert alice.log.halt.reason is not None
            await until(lambda: bob.alerts())
            [alert] = bob.alerts()
            assert (alert.held_checkpoint.size, alert.shown_checkpoint.size) == (9, 1)

    run(main)
