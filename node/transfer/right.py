"""The right of one peer to one study, asked at its request and again before each batch.

What ends a right is also told to the sessions at once (`node/transfer/sending.py`). This is for
what no message tells: a date that has come, and a message that was lost with a crash.
"""

from keys.trust import Peer
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.sharing.peers import Peers
from node.sharing.policy import Refusal, decide_fetch, decide_having
from protocol.errors import WireCode
from protocol.messages import Request

DISCARDED = "something of the study was discarded"


class RightEnded(Exception):
    """The peer is not allowed to have the study any more.

    Attributes:
        refusal: what the peer is told, and why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Right:
    """Whether a peer may have what it asks for. All methods block.

    Args:
        catalog: the studies of this node.
        peers: the trusted peers and their grants.
        clock: tells which rights count now.
        peer: who asks.
        node_key: of its node, 32 bytes, proven by the connection.
    """

    def __init__(
        self, catalog: Catalog, peers: Peers, clock: Clock, peer: Peer, node_key: bytes
    ) -> None:
        self._catalog = catalog
        self._peers = peers
        self._clock = clock
        self._peer = peer
        self._node_key = node_key
        self._discard = -1
        self._held: tuple[object, ...] = ()

    def begin(self, study: str) -> None:
        """Note what has been discarded of a study (UID) so far.

        Call it before the manifest is read, so that no discard is missed.
        """
        self._discard = self._catalog.last_discard(study)

    def refusal(self, request: Request) -> Refusal | None:
        """Why the peer does not get what it asks for; None if it does."""
        return decide_fetch(
            self._peers.store,
            self._peer,
            request,
            self._catalog.study(request.study),
            node_key=self._node_key,
            now_ms=self._clock.now_ms(),
            now=self._clock.now(),
        )

    def require(self, request: Request) -> None:
        """Check that the peer may still have what it was offered.

        Raises:
            RightEnded: it may not.
        """
        now = self._clock.now()
        version, store = self._catalog.version, self._peers.store
        if self._held == (version, store, now):
            return
        study = self._catalog.study(request.study)
        refusal = decide_having(
            store, self._peer, request.purpose, study, node_key=self._node_key, now=now
        )
        refusal = refusal or self.discarded(request.study)
        if refusal is not None:
            raise RightEnded(refusal)
        # The same answer until something changes, or the second is over.
        self._held = (version, store, now)

    def discarded(self, study: str) -> Refusal | None:
        """A refusal if an operator has discarded some of the study since `begin`."""
        if self._catalog.last_discard(study) == self._discard:
            return None
        return Refusal(WireCode.NOT_AVAILABLE, DISCARDED)
