"""Who is being sent what: one disclosure a stream, and their end when a right ends."""

from dataclasses import dataclass, field

import trio

from node.blocking import in_thread
from node.errors import NodeError
from node.network.messaging import first_error
from node.network.network import PeerStream
from node.transfer.disclosure import Disclosure, SendingParts

TRANSFERS_PER_PEER = 8

WITHDRAWN = "the study was withdrawn"

REVOKED = "its trust was revoked"


@dataclass(eq=False, kw_only=True)
class Sender(SendingParts):
    """Serves studies of this node to peers."""

    _sessions: dict[bytes, set[Disclosure]] = field(default_factory=dict, init=False)

    async def serve(self, stream: PeerStream) -> None:
        """Handle one inbound stream of the study protocol; never raises for a peer's doing."""
        peer = self.peers.store.by_node_key(stream.peer, self.clock.now())
        if peer is None:
            await stream.reset()
            return
        session = Disclosure(
            self,
            stream,
            peer,
            is_too_many=lambda: self.sessions(peer.facility_key) > TRANSFERS_PER_PEER,
        )
        sessions = self._sessions.setdefault(peer.facility_key, set())
        sessions.add(session)
        try:
            await self._serve(session)
        finally:
            sessions.discard(session)
            session.leave()

    async def _serve(self, session: Disclosure) -> None:
        with session.scope as scope:
            try:
                async with trio.open_nursery() as nursery:
                    await session.run(nursery)
                    nursery.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                error = first_error(group)
                if isinstance(error, trio.Cancelled):
                    raise
                await session.failed(error)
        if scope.cancelled_caught:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await session.failed(None)

    def stop_peer(self, facility_key: bytes, why: str = REVOKED) -> None:
        """End all transfers to a peer at once, as its right to them has ended."""
        for session in self._sessions.get(facility_key, ()):
            session.stop(why)

    async def stop_ended(self, *, facility_key: bytes = b"", study: str = "") -> None:
        """End at once the transfers that a peer may not have any more.

        Without this, what is sealed already would still be sent.

        Args:
            facility_key: only those to this peer.
            study: only those of this study (UID).
        """
        sending = [one for many in self._sessions.values() for one in many]
        for session in sending:
            if facility_key not in (b"", session.facility_key) or study not in ("", session.study):
                continue
            try:
                why = await in_thread(session.why_ended)
            except NodeError as error:
                why = error.message
            if why:
                session.stop(why)

    def stop_study(self, study: str, facility_key: bytes) -> None:
        """End all transfers of a study (UID) to a peer at once, as it was withdrawn."""
        for session in self._sessions.get(facility_key, ()):
            # An emergency may have a withheld study: `stop_ended` asks whether it may.
            if session.study == study and not session.is_emergency:
                session.stop(WITHDRAWN)

    def receivers(self, study: str) -> list[bytes]:
        """The peers (facility keys) to which a study (UID) is being sent."""
        return [
            peer for peer, many in self._sessions.items() if any(one.study == study for one in many)
        ]

    def sessions(self, facility_key: bytes) -> int:
        """How many transfers to this peer are under way."""
        return len(self._sessions.get(facility_key, ()))
