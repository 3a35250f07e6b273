"""This node as the witness of its peers' logs.

Any trusted peer may have its own log cosigned; whether others rely on our cosignature is
their decision (grant `witness`). Invariant: this node cosigns one history of each log, and that
history only grows. The state is on disk before a cosignature is sent, so a crash can lose an
answer but not the record of it; the peer then asks again and is answered.

If a checkpoint contradicts the cosigned history, that branch is never cosigned. Both signed
checkpoints are kept and logged, the operator gets an alert, and the peer is shown the
checkpoint that it signed before.
"""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from keys.card_fields import SizedKey
from keys.identity import KeyPair
from keys.trust import Peer
from node.blocking import in_thread
from node.errors import NodeError
from node.witness.store import FORK, ROLLBACK, UNPROVEN, Alert, WitnessStore
from protocol.audit_messages import AddCheckpoint, CheckpointHeld, Cosigned, GetCheckpoint
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.checkpoint import Checkpoint, log_origin
from protocol.log.cosignature import cosign, witness_name
from protocol.log.entry import Event
from protocol.log.note import parse_note_untrusted
from protocol.log.witness import Held, Verdict, compare, decide, open_in_force_untrusted
from protocol.messages import Message

if TYPE_CHECKING:
    # The network is slow to load, and small commands need none of it.
    from node.sharing.log_queries import Answer

log = logging.getLogger("radmesh.witness")

_KINDS = {Verdict.FORK: FORK, Verdict.BEHIND: ROLLBACK, Verdict.UNPROVEN: UNPROVEN}

SENTENCES = {
    FORK: "signed two histories of its log at {held} entries",
    ROLLBACK: "shows a log of {shown} entries, and had signed {held}",
    UNPROVEN: "shows a log of {shown} entries that does not extend the {held} it had signed",
}
"""The sentence about a log that an operator reads, by the kind of the alert."""


class Witness:
    """Answers the requests of peers to cosign their logs.

    Args:
        store: keeps the cosigned checkpoints.
        own_facility: our facility key (32 bytes).
        key: returns the witness key in force now.
        append: writes one audit entry durably (synchronous).
        now: returns seconds since the epoch, UTC.
        log_keys: returns the log keys on a peer's card that are its own (`keys.claims`).
    """

    def __init__(
        self,
        store: WitnessStore,
        *,
        own_facility: bytes,
        key: Callable[[], KeyPair],
        append: Callable[[Event], int],
        now: Callable[[], int],
        log_keys: Callable[[Peer], Sequence[SizedKey]] = lambda peer: peer.card.log_keys,
    ) -> None:
        self._store = store
        self._log_keys = log_keys
        self._own = own_facility
        self._name = witness_name(own_facility)
        self._key = key
        self._append = append
        self._now = now
        self._turns: dict[bytes, trio.Lock] = {}

    @property
    def answers(self) -> "dict[type[Message], Answer]":
        """The function that answers each type of request."""
        return {GetCheckpoint: self._get, AddCheckpoint: self._add}

    async def _get(self, peer: Peer, request: Message) -> Message:
        assert isinstance(request, GetCheckpoint)
        # Judge the requests about one log in the order of arrival: otherwise a delayed
        # request would look like a log that went back.
        async with self._turn(peer):
            return await in_thread(self.show, peer, request)

    async def _add(self, peer: Peer, request: Message) -> Message:
        assert isinstance(request, AddCheckpoint)
        async with self._turn(peer):
            return await in_thread(self.judge, peer, request)

    def _turn(self, peer: Peer) -> trio.Lock:
        return self._turns.setdefault(peer.facility_key, trio.Lock())

    def show(self, peer: Peer, request: GetCheckpoint) -> CheckpointHeld:
        """The last cosigned checkpoint of the log of `peer`; raises an alert if the one in
        the request forks from it or is behind it."""
        held, note = self._store.held(peer.facility_key)
        try:
            shown = self._open(peer, request.checkpoint)
        except RemoteProtocolError as error:
            # The peer's newest card, with the key that signed, may arrive a moment later.
            log.debug("the checkpoint of %s is not compared: %s", peer.petname, error)
            return CheckpointHeld(size=held.size, checkpoint=note)
        verdict = compare(held, shown)
        if verdict in (Verdict.FORK, Verdict.BEHIND):
            self._alarm(peer, verdict, note, request.checkpoint)
        return CheckpointHeld(size=held.size, checkpoint=note)

    def judge(self, peer: Peer, request: AddCheckpoint) -> Message:
        """Cosign a checkpoint of the log of `peer`, or show the one that contradicts it.

        Raises:
            RemoteProtocolError: the checkpoint or the proof does not hold.
            NodeError: the state cannot be written; nothing is cosigned.
        """
        shown = self._open(peer, request.checkpoint)

        def compared(connection: sqlite3.Connection) -> tuple[Held, bytes, Verdict]:
            held, note = self._store.held(peer.facility_key)
            verdict = decide(held, request.old, shown, request.proof)
            if verdict is Verdict.ADVANCE:
                self._store.keep(peer.facility_key, shown, request.checkpoint, self._now())
            return held, note, verdict

        # Compare and replace the state in one transaction.
        held, note, verdict = self._store.database.transact(compared)
        if verdict in (Verdict.ADVANCE, Verdict.SAME):
            return self._cosigned(request.checkpoint)
        if verdict is Verdict.UNPROVEN:
            if _is_evidence(held, shown):
                self._alarm(peer, verdict, note, request.checkpoint)
            raise RemoteProtocolError("the proof does not hold", WireCode.BAD_PROOF)
        if verdict is not Verdict.STALE:
            self._alarm(peer, verdict, note, request.checkpoint)
        return CheckpointHeld(size=held.size, checkpoint=note)

    def _open(self, peer: Peer, note: bytes) -> Checkpoint:
        shown = open_in_force_untrusted(note, log_origin(peer.facility_key), self._log_keys(peer))
        if shown.size == 0:
            # Every log has at least its first entry.
            raise RemoteProtocolError("the checkpoint is of a log without entries")
        return shown

    def _cosigned(self, note: bytes) -> Cosigned:
        text, _ = parse_note_untrusted(note)
        line = cosign(text, self._name, self._key(), self._now())
        return Cosigned(line=line.encode())

    def _alarm(self, peer: Peer, verdict: Verdict, held: bytes, shown: bytes) -> None:
        alert = self._store.add_alert(
            peer.facility_key, self._own, _KINDS[verdict], held, shown, self._now()
        )
        if alert is None:
            return
        log.error("%s %s; see `radmesh audit forks`", peer.petname, sentence(alert))
        self.log_alerts()

    def log_alerts(self) -> None:
        """Log the alerts on peers' logs that have no entry yet, as after a crash."""
        for alert in self._store.alerts(unlogged_only=True):
            if alert.facility == self._own:
                continue
            try:
                self._append(alert_event(alert))
            except NodeError as error:
                log.error("an alert cannot be logged now: %s", error.message)
                return
            self._store.mark_logged(alert.number)


def _is_evidence(held: Held, shown: Checkpoint) -> bool:
    """Whether a failed proof is evidence against the log, not only a bad request."""
    return 0 < held.size < shown.size


def sentence(alert: Alert) -> str:
    """The text of an alert, to follow the name of the log's facility."""
    return SENTENCES[alert.kind].format(
        held=alert.held_checkpoint.size, shown=alert.shown_checkpoint.size
    )


def alert_event(alert: Alert) -> Event:
    """The entry of an alert: two sizes, two roots, and the digests of the evidence."""
    held, shown = alert.held_checkpoint, alert.shown_checkpoint
    held_digest, shown_digest = alert.digests
    return Event(
        type="rollback-seen" if alert.kind == ROLLBACK else "fork-seen",
        peer=alert.facility,
        outcome="failed",
        details={
            "origin": held.origin,
            "size": held.size,
            "root": held.root.hex(),
            "digest": held_digest,
            "shown_size": shown.size,
            "shown_root": shown.root.hex(),
            "shown_digest": shown_digest,
        },
    )
