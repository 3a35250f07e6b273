"""Has our log cosigned: rounds with the witnesses, heartbeats, and a check of each new peer.

A round presents our newest checkpoint to all connected peers with the grant `witness`
at once, each with its own time limit, so that a silent or lying witness does not delay
the others. A witness may answer with the checkpoint that it holds of our log; if our log
does not have that checkpoint, `node/witness/fork_detector.py` halts the log.

When a peer connects, we ask it which checkpoint of our log it holds before we serve it:
a node that starts from an old backup must not go on, least of all sign.
"""

import logging
from collections.abc import Callable

import trio

from keys.trust import Peer
from node.audit.log import AuditLog
from node.blocking import in_thread
from node.config import AuditSettings
from node.errors import NodeError
from node.network.network import StreamLost
from node.sharing.log_queries import LogQueries, QueryRefused
from node.sharing.peers import Peers
from node.sharing.policy import witnesses
from node.witness.fork_detector import ForkDetector
from node.witness.store import WitnessStore
from protocol import limits
from protocol.audit_messages import AddCheckpoint, CheckpointHeld, Cosigned, GetCheckpoint
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.checkpoint import Checkpoint, parse_checkpoint_untrusted
from protocol.log.cosignature import Cosigner, check_cosignature_untrusted, witness_name
from protocol.log.entry import Event
from protocol.log.note import parse_note_untrusted

log = logging.getLogger("radmesh.witnessing")

START_SECONDS = 3.0
"""Longest wait at start for the witnesses to connect and show the checkpoints they hold."""

TRIES = 3
"""Most requests to one witness in a round: it may have cosigned another size than we know."""

_CLOCK_SKEW_SECONDS = 24 * 3600
_POLL_SECONDS = 0.02


class Witnessing:
    """The rounds of this node's log.

    Args:
        audit: our log.
        store: keeps the cosigned checkpoints.
        fork_detector: judges the checkpoints that witnesses hold.
        peers: the peers, among them the witnesses.
        log_queries: sends the requests.
        settings: the interval of the rounds, and how many witnesses are needed.
        is_connected: whether a node key (32 bytes) is connected.
        is_unreachable: whether dialling a node key (32 bytes) has failed.
        on_doubt: called in the trio thread when our log turns out to be in doubt.
        now: returns seconds since the epoch, UTC.
    """

    def __init__(
        self,
        *,
        audit: AuditLog,
        store: WitnessStore,
        fork_detector: ForkDetector,
        peers: Peers,
        log_queries: LogQueries,
        settings: AuditSettings,
        is_connected: Callable[[bytes], bool],
        is_unreachable: Callable[[bytes], bool],
        on_doubt: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        self._audit = audit
        self._store = store
        self._fork_detector = fork_detector
        self._peers = peers
        self._log_queries = log_queries
        self._settings = settings
        self._is_connected = is_connected
        self._is_unreachable = is_unreachable
        self._on_doubt = on_doubt
        self._now = now
        self._poked = trio.Event()
        self._sound = trio.Event()
        self._turns: dict[bytes, trio.Lock] = {}
        self._checked: dict[bytes, trio.Event] = {}
        self._failures: dict[bytes, str] = {}
        self._last_change = (audit.size, trio.current_time())

    # --- the witnesses ---------------------------------------------------------------

    def witnesses(self) -> list[Peer]:
        """Peers whose cosignature counts for us."""
        return witnesses(self._peers.store, self._now())

    def failure(self, facility_key: bytes) -> str:
        """Why the last request to a witness failed, or ""."""
        return self._failures.get(facility_key, "")

    # --- the check of a new peer -------------------------------------------------------

    async def check(self, peer: Peer, node_key: bytes) -> None:
        """Ask a peer, connected with this node key, which checkpoint of our log it holds."""
        event = self._checked.setdefault(node_key, trio.Event())
        try:
            await self._compare(peer)
        finally:
            event.set()
        self.poke()

    async def _compare(self, peer: Peer) -> None:
        try:
            async with self._turn(peer):
                note = await in_thread(self._audit.latest_checkpoint)
                held = await self._log_queries.ask(
                    peer, GetCheckpoint(checkpoint=note.encode()), CheckpointHeld
                )
                await self._judge(peer, held)
        except (StreamLost, QueryRefused) as error:
            log.debug("%s does not say what it holds of our log: %s", peer.petname, error)
        except RemoteProtocolError as error:
            log.warning("what %s holds of our log does not count: %s", peer.petname, error)
        except NodeError as error:
            log.error("our log cannot be compared with %s: %s", peer.petname, error.message)

    async def wait_checked(self, node_key: bytes) -> None:
        """Wait until `check` of a connected peer has ended, or its time is over."""
        with trio.move_on_after(limits.PEER_REPLY_SECONDS):
            await self._checked.setdefault(node_key, trio.Event()).wait()

    def disconnected(self, node_key: bytes) -> None:
        """Note that a peer has disconnected; it is asked again when it comes back."""
        self._checked.pop(node_key, None)

    async def wait_started(self) -> None:
        """At start, wait a moment for peers that may hold a later checkpoint of our log."""
        known = await in_thread(self._who_may_know)
        with trio.move_on_after(START_SECONDS):
            # Poll: of the two conditions for each peer, the second has no event.
            while not all(map(self._has_its_say, known)):  # noqa: ASYNC110
                await trio.sleep(_POLL_SECONDS)

    def _has_its_say(self, node_key: bytes) -> bool:
        checked = self._checked.get(node_key)
        return (checked is not None and checked.is_set()) or self._is_unreachable(node_key)

    def _who_may_know(self) -> list[bytes]:
        return [peer.card.node_key for peer in self._peers.store.peers if self._may_know(peer)]

    def _may_know(self, peer: Peer) -> bool:
        if not self._peers.store.speaks_for(peer.card.node_key, peer, self._now()):
            return False
        return "witness" in peer.grants or self._store.newest_by(peer.facility_key) is not None

    async def wait_sound(self) -> None:
        """Wait until our log is no longer in doubt."""
        while self._audit.halt.reason is not None:
            await self._sound.wait()

    # --- rounds ------------------------------------------------------------------------

    def poke(self) -> None:
        """Begin a round now: a witness has connected, or a peer has got the grant."""
        self._poked.set()

    async def run(self) -> None:
        """Hold rounds while there is something to cosign, and heartbeats when idle."""
        while True:
            self._poked = trio.Event()
            try:
                await in_thread(self._beat, trio.current_time())
                await self.round()
            except NodeError as error:
                log.error("our log cannot be cosigned now: %s", error.message)
            # Wait until a point in time, not for a duration: a rounded duration ends early.
            with trio.move_on_at(self._next(trio.current_time())):
                await self._poked.wait()

    def _next(self, now: float) -> float:
        return min(now + self._settings.witness_seconds, self._next_beat)

    @property
    def _next_beat(self) -> float:
        return self._last_change[1] + self._settings.heartbeat_seconds

    def _beat(self, now: float) -> None:
        """Log a heartbeat if the log has not grown for `heartbeat_seconds`."""
        size = self._last_change[0]
        if self._audit.size != size:
            self._last_change = (self._audit.size, now)
        elif now >= self._next_beat:
            self._last_change = (size, now)
            if self._audit.halt.reason is None:
                self._audit.append(Event(type="checkpoint-heartbeat"))
                self._last_change = (self._audit.size, now)

    async def round(self, limit_seconds: float = limits.PEER_REPLY_SECONDS) -> None:
        """Have the newest checkpoint cosigned by each connected witness that has not done so.

        Args:
            limit_seconds: longest duration; witnesses that have not answered are left out.

        Raises:
            NodeError: our log or database cannot be read or written.
        """
        if self._audit.halt.reason is not None:
            await in_thread(self._fork_detector.review)
        if self._audit.halt.reason is not None:
            return
        event, self._sound = self._sound, trio.Event()
        event.set()
        note = await in_thread(self._audit.latest_checkpoint)
        checkpoint = parse_checkpoint_untrusted(parse_note_untrusted(note.encode())[0])
        errors: list[NodeError] = []

        async def ask(peer: Peer) -> None:
            try:
                await self._ask(peer, note, checkpoint)
            except NodeError as error:
                errors.append(error)

        with trio.move_on_after(limit_seconds):
            async with trio.open_nursery() as nursery:
                for peer in self.witnesses():
                    if self._is_connected(peer.card.node_key):
                        nursery.start_soon(ask, peer)
        if errors:
            raise errors[0]

    async def _ask(self, peer: Peer, note: str, checkpoint: Checkpoint) -> None:
        failure = ""
        # This text remains if the round ends before the peer has answered.
        self._failures[peer.facility_key] = "it has not answered in time"
        try:
            async with self._turn(peer):
                await self._ask_in_turn(peer, note, checkpoint)
        except StreamLost as error:
            failure = str(error)
        except QueryRefused as error:
            failure = str(error)
            if error.code is WireCode.BAD_PROOF:
                # The witness knows another history of our log: ask for its checkpoint.
                await self._compare(peer)
        except RemoteProtocolError as error:
            failure = f"its answer does not hold: {error}"
            log.warning("%s cosigns nothing that counts: %s", peer.petname, error)
        self._failures[peer.facility_key] = failure

    async def _ask_in_turn(self, peer: Peer, note: str, checkpoint: Checkpoint) -> None:
        newest = await in_thread(self._store.newest_by, peer.facility_key)
        old = 0 if newest is None else newest[0]
        if old >= checkpoint.size:
            return
        for _ in range(TRIES):
            proof = await in_thread(self._proof, old, checkpoint.size)
            answer = await self._log_queries.ask(
                peer,
                AddCheckpoint(old=old, proof=proof, checkpoint=note.encode()),
                Cosigned,
                CheckpointHeld,
            )
            if isinstance(answer, Cosigned):
                await in_thread(self._keep, peer, note, checkpoint.size, answer)
                return
            assert isinstance(answer, CheckpointHeld)
            if await self._judge(peer, answer):
                return
            if await in_thread(self._fork_detector.is_void, answer.checkpoint):
                if answer.size > checkpoint.size:
                    raise RemoteProtocolError(
                        "it holds more of our log, signed by a key that was taken back; its "
                        "operator has to start over"
                    )
            elif answer.size > checkpoint.size:
                # Our log has grown and been cosigned since this round began.
                return
            old = answer.size
        raise RemoteProtocolError("it names another size each time")

    def _proof(self, old: int, new: int) -> tuple[bytes, ...]:
        return self._audit.consistency_proof(old, new) if 0 < old < new else ()

    def _keep(self, peer: Peer, note: str, size: int, answer: Cosigned) -> None:
        """Keep a cosignature if it is valid.

        Raises:
            RemoteProtocolError: it is not.
        """
        text, own = parse_note_untrusted(note.encode())
        _, signatures = parse_note_untrusted(note.encode() + answer.line)
        if len(signatures) != len(own) + 1:
            # Further lines could be forged in the name of other witnesses and spoil our notes.
            raise RemoteProtocolError("it gives more than its own signature")
        now = self._now()
        for listed in self._peers.store.held(peer, peer.card.witness_keys, now):
            cosigner = Cosigner(witness_name(peer.facility_key), listed.key)
            if signatures[-1].hash != cosigner.hash:
                continue
            time = check_cosignature_untrusted(text, signatures[-1], cosigner).time
            if time < listed.since or (listed.until is not None and time >= listed.until):
                raise RemoteProtocolError("its key was not in force at the time that it names")
            if abs(time - now) > _CLOCK_SKEW_SECONDS:
                raise RemoteProtocolError("its clock and ours differ by more than a day")
            line = answer.line.decode()
            self._store.add_cosignature(size, note, peer.facility_key, line, time, now)
            return
        raise RemoteProtocolError("none of the peer's witness keys signed", WireCode.BAD_SIGNATURE)

    async def _judge(self, peer: Peer, held: CheckpointHeld) -> bool:
        """Whether the checkpoint that a peer holds puts our log in doubt."""
        if held.size == 0:
            return False
        in_doubt = not await in_thread(self._fork_detector.is_void, held.checkpoint) and (
            await in_thread(self._fork_detector.judge, peer.facility_key, held.checkpoint)
        )
        claimed = parse_checkpoint_untrusted(parse_note_untrusted(held.checkpoint)[0])
        if claimed.size != held.size:
            raise RemoteProtocolError("the size is not that of the checkpoint")
        if in_doubt:
            self._on_doubt()
        return in_doubt

    def _turn(self, peer: Peer) -> trio.Lock:
        return self._turns.setdefault(peer.facility_key, trio.Lock())
