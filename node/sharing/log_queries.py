"""Questions between nodes about their logs: one request and one answer a stream.

Owns the streams of `/radmesh/audit/1` in both directions; the content belongs to the handlers, one
for each type of request. A slow, silent or faulty peer costs its own stream and nothing else.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import trio

from keys.trust import Peer
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.network.messaging import MessageStream
from node.network.network import PeerStream, StreamLost
from node.sharing.budgets import Budgets
from node.sharing.peers import Peers
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.messages import Message, Refusal
from protocol.reconcile_messages import AskExchanges

log = logging.getLogger("radmesh.log_queries")

A = TypeVar("A", bound=Message)

Answer = Callable[[Peer, Message], Awaitable[Message]]
"""Answers one request of a trusted peer. Raises RemoteProtocolError, whose code is
what the peer is told, or NodeError when this node cannot answer."""


class QueryRefused(Exception):
    """The peer refused to answer a request.

    Attributes:
        code: the peer's reason.
    """

    def __init__(self, code: WireCode) -> None:
        super().__init__(f"the peer refused ({code.name.lower()})")
        self.code = code


class LogQueries:
    """Both directions of the audit protocol.

    Args:
        peers: who is trusted.
        open_stream: opens a stream to a connected peer (node key, 32 bytes).
        answers: the handler for each type of request.
        clock: tells whether trust in a caller still counts.
        budgets: limits how much a facility may ask.
    """

    def __init__(
        self,
        peers: Peers,
        open_stream: Callable[[bytes], Awaitable[PeerStream]],
        answers: Mapping[type[Message], Answer],
        *,
        clock: Clock,
        budgets: Budgets,
    ) -> None:
        self._budgets = budgets
        self._peers = peers
        self._clock = clock
        self._open_stream = open_stream
        self._answers = dict(answers)
        self._requests = {request.TYPE: request for request in self._answers}
        self._answering: Counter[bytes] = Counter()

    async def serve(self, stream: PeerStream) -> None:
        """Answer the one request of an inbound stream; never raises for a peer's doing."""
        peer = self._peers.store.by_node_key(stream.peer, self._clock.now())
        if peer is None:
            await stream.reset()
            return
        self._answering[stream.peer] += 1
        try:
            channel = MessageStream(stream)
            await channel.send(await self._answer(peer, channel))
        except StreamLost as error:
            log.debug("a request of %s was cut off: %s", peer.petname, error)
        finally:
            self._answering[stream.peer] -= 1
            if not self._answering[stream.peer]:
                del self._answering[stream.peer]

    async def _answer(self, peer: Peer, channel: MessageStream) -> Message:
        try:
            request = await channel.receive_untrusted(self._requests)
            if self._answering[channel.peer] > limits.AUDIT_STREAMS_PER_PEER:
                raise RemoteProtocolError("too many requests at once", WireCode.BUSY)
            kinds = ["audit-request"]
            if isinstance(request, AskExchanges) and not request.start:
                kinds.append("comparison")
            if not all(self._budgets.take(peer.facility_key, kind) for kind in kinds):
                raise RemoteProtocolError("more requests than its budget", WireCode.BUSY)
            return await self._answers[type(request)](peer, request)
        except RemoteProtocolError as error:
            log.info("a request of %s about a log is refused: %s", peer.petname, error)
            return Refusal(code=error.code)
        except NodeError as error:
            log.error("a request of %s cannot be answered: %s", peer.petname, error.message)
            # A disk that is full today is no reason to ask no more until tomorrow.
            is_disk = error.code is ExitCode.DISK
            return Refusal(code=WireCode.BUSY if is_disk else WireCode.OTHER)

    async def ask(
        self,
        peer: Peer,
        request: Message,
        *expected: type[A],
        timeout_seconds: float = limits.PEER_REPLY_SECONDS,
    ) -> A:
        """Send one request to a connected peer and return its answer.

        Args:
            peer: the peer to ask.
            request: the request to send.
            expected: the types that its answer may have.
            timeout_seconds: longest wait for the whole exchange.

        Raises:
            StreamLost: the peer is not connected, does not know this protocol, went
                away, or did not answer in time.
            QueryRefused: the peer refused.
            RemoteProtocolError: the peer broke a rule.
        """
        known: dict[str, type[Message]] = {answer.TYPE: answer for answer in expected}
        known[Refusal.TYPE] = Refusal
        if not self._peers.store.speaks_for(peer.card.node_key, peer, self._clock.now()):
            raise StreamLost("the node key of the peer is contested, or it is not trusted")
        with trio.move_on_after(timeout_seconds):
            stream = await self._open_stream(peer.card.node_key)
            async with stream:
                channel = MessageStream(stream)
                await channel.send(request, timeout_seconds=timeout_seconds)
                answer = await channel.receive_untrusted(known, timeout_seconds=timeout_seconds)
            if isinstance(answer, Refusal):
                raise QueryRefused(WireCode.from_wire(answer.code))
            assert isinstance(answer, expected)
            return answer
        raise StreamLost(f"nothing from the peer for {timeout_seconds:g} s")
