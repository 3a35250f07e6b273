"""Checks whether this node's own log is still the one that it signed.

If our log key signed a checkpoint that our log does not have, the log was cut or
changed, or comes from an old backup. While such a proof holds, the log takes no entry,
and so nothing is disclosed, received or changed. The proof ends when the log has that
checkpoint again (the right copy is back), when the key that signed it is no longer in
force at its size (the log key was revoked from a smaller size on), or when an operator
settles it, having spoken with the witness.

Synchronous and thread-safe.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from keys.card import Card
from node.audit.log import AuditLog
from node.errors import ExitCode, NodeError
from node.witness.store import FORK, ROLLBACK, Alert, WitnessStore
from node.witness.witness import alert_event
from protocol.errors import RemoteProtocolError
from protocol.log.checkpoint import log_origin, open_checkpoint_untrusted
from protocol.log.witness import open_in_force_untrusted

log = logging.getLogger("radmesh.witness")

_HINT = (
    "bring back the newest copy of this home's folder `audit` and start again; if there is "
    "none, see docs/operations.md section 12 before anything else"
)


class ForkDetector:
    """Halts the log when a checkpoint signed by our log key contradicts it.

    Args:
        store: keeps the proofs.
        audit: our log.
        card: returns our newest card.
        petname: returns a facility's name for people, given its facility key.
        now: returns seconds since the epoch, UTC.
    """

    def __init__(
        self,
        store: WitnessStore,
        audit: AuditLog,
        *,
        card: Callable[[], Card],
        petname: Callable[[bytes], str],
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._audit = audit
        self._card = card
        self._petname = petname
        self._now = now
        self._own = card().facility_key
        self._lock = threading.Lock()

    def contradiction(self, note: bytes) -> str | None:
        """The kind of alert that a checkpoint of our log causes; None when it fits our log.

        Raises:
            RemoteProtocolError: our log key, in force at its size, did not sign it.
            NodeError: our log is damaged on disk.
        """
        checkpoint = open_in_force_untrusted(note, log_origin(self._own), self._card().log_keys)
        if checkpoint.size > self._audit.size:
            return ROLLBACK
        if self._audit.root_at(checkpoint.size) != checkpoint.root:
            return FORK
        return None

    def is_void(self, note: bytes) -> bool:
        """Whether a log key of ours signed a checkpoint at or beyond the size at which that
        key was revoked. Such a checkpoint proves nothing about our log."""
        for listed in self._card().log_keys:
            try:
                checkpoint = open_checkpoint_untrusted(note, log_origin(self._own), listed.key)
            except RemoteProtocolError:
                continue
            return listed.until_size is not None and checkpoint.size >= listed.until_size
        return False

    def judge(self, witness: bytes, note: bytes) -> bool:
        """Compare our log with a checkpoint of it that a witness holds.

        Args:
            witness: its facility key (32 bytes).
            note: the checkpoint as the witness sent it.

        Returns:
            Whether the checkpoint puts our log in doubt.

        Raises:
            RemoteProtocolError: our log key, in force at its size, did not sign it.
            NodeError: our log is damaged on disk.
        """
        kind = self.contradiction(note)
        if kind is None:
            return False
        shown = self._audit.latest_checkpoint().encode()
        self._store.add_alert(self._own, witness, kind, note, shown, self._now())
        self.review()
        return True

    def check_kept(self) -> None:
        """At start: compare our log with the cosigned checkpoints of it that are kept here."""
        for kept in self._store.cosigned():
            witness = next(iter(kept.lines), self._own)
            try:
                if self.judge(witness, kept.merged.encode()):
                    break
            except RemoteProtocolError:
                continue
        self.review()

    def review(self) -> None:
        """Settle alerts whose proof no longer holds. Halt the log if an alert remains;
        otherwise let the log go on, and log the settled alerts."""
        with self._lock:
            standing = [alert for alert in self.alerts() if self._stands(alert)]
            settled = {alert.number for alert in self.alerts()} - {a.number for a in standing}
            self._store.settle(settled, self._now())
            if standing:
                if self._audit.halt.reason is None:
                    log.error("%s", self.sentence(standing[0]))
                self._audit.halt.reason = NodeError(
                    self.sentence(standing[0]), hint=_HINT, code=ExitCode.INTEGRITY
                )
                return
            self._audit.halt.reason = None
            self._log_settled()

    def alerts(self) -> list[Alert]:
        """The unsettled alerts about our own log."""
        return [a for a in self._store.alerts(open_only=True) if a.facility == self._own]

    def _stands(self, alert: Alert) -> bool:
        try:
            return self.contradiction(alert.held) is not None
        except RemoteProtocolError:
            return False

    def settle(self, number: int) -> None:
        """Settle an alert: an operator accepts the log as it is, though it contradicts the
        signed checkpoint."""
        gone = []
        for kept in self._store.cosigned():
            try:
                if self.contradiction(kept.merged.encode()) is not None:
                    gone.append(kept.size)
            except RemoteProtocolError:
                gone.append(kept.size)
        self._store.drop_cosigned(gone)
        self._store.settle([number], self._now())
        self.review()

    def _log_settled(self) -> None:
        """Log the settled alerts about our log, now that it takes entries again."""
        for alert in self._store.alerts(unlogged_only=True):
            if alert.facility == self._own:
                event = replace(alert_event(alert), peer=alert.witness)
                self._audit.append(event)
                self._store.mark_logged(alert.number)

    def sentence(self, alert: Alert) -> str:
        """What is wrong with our log, for people."""
        held, name = alert.held_checkpoint.size, self._petname(alert.witness)
        if alert.kind == ROLLBACK:
            return (
                f"this node's audit log has {alert.shown_checkpoint.size} entries, but had {held} "
                f"when {name} cosigned it: it was cut, or comes from an old backup"
            )
        return (
            f"the first {held} entries of this node's audit log are not those that {name} "
            "cosigned: the log was rewritten, or an old backup was continued"
        )
