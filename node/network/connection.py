"""One connection to a trusted peer, from handshake to end.

A connection is one task with two nurseries: the inner one runs the muxer and the
pulse and ends with the connection; the outer one runs the stream handlers, which
then find their streams lost and get a while to clean up. Nothing that a peer does
raises out of `run`.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from keys.identity import peer_id
from node.network import hardening
from node.network.bounds import NetworkLimits
from node.network.channel import Channel
from node.network.hardening import SocketConnection, Upgrader
from node.network.muxed import MuxedStream
from node.network.muxer import GONE_NORMALLY, Muxer, TooManyStreams
from node.network.negotiation import Answers, BadLine, Choice, proposal
from node.network.streams import PeerStream, StreamLost

if TYPE_CHECKING:
    # The stubs that come with libp2p's dependencies hide trio's own name for it.
    from trio_typing import TaskStatus

log = logging.getLogger("radmesh.network")

Handler = Callable[[PeerStream], Awaitable[None]]

_DRAIN_BYTES = 1024 * 1024
_PULSE_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The parts that all connections of a node share.

    Attributes:
        upgrader: of `hardening.make_upgrader`.
        limits: bounds.
        handlers: protocol id to the coroutine that serves one stream.
        is_trusted: whether a node public key may talk to us now.
        handling: number of running handlers, by peer.
        joined: called when a connection is ready; returns False if it must end.
        left: called when a connection has ended; may be called more than once.
    """

    upgrader: Upgrader
    limits: NetworkLimits
    handlers: Mapping[str, Handler]
    is_trusted: Callable[[bytes], bool]
    handling: Counter[bytes]
    joined: Callable[["Connection"], bool]
    left: Callable[["Connection"], None]


async def upgrade(raw: SocketConnection, expected: bytes | None, shared: Shared) -> "Connection":
    """Agree on Noise and yamux over a TCP connection.

    Args:
        raw: a fresh connection; the caller closes it on failure.
        expected: node public key of the peer we dialled; None for a caller.
        shared: the shared parts of this node.

    Raises:
        Unreachable: with the reason.
    """
    public, channel = await hardening.handshake(raw, expected, shared.upgrader)
    return Connection(raw, channel, public, shared)


class Connection:
    """A connection on which the peer's key is proved; `run` owns it until its end.

    Attributes:
        peer: node public key of the peer, 32 bytes.
    """

    def __init__(
        self, raw: SocketConnection, channel: Channel, peer: bytes, shared: Shared
    ) -> None:
        self.peer = peer
        self._raw = raw
        self._shared = shared
        self._limits = shared.limits
        self._handlers: trio.Nursery | None = None
        self._muxer = Muxer(
            channel,
            peer=peer_id(peer),
            is_initiator=raw.is_initiator,
            limits=shared.limits,
            accept=self._accept,
        )

    async def run(self, task_status: "TaskStatus[bool]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the peer until the connection ends; reports whether it was ready."""
        try:
            async with trio.open_nursery() as handlers:
                self._handlers = handlers
                async with trio.open_nursery() as core:
                    ready = self._shared.joined(self)
                    task_status.started(ready)
                    if not ready:
                        self.end()
                    core.start_soon(self._run_writer)
                    core.start_soon(self._watch_pulse)
                    await self._muxer.run()
                    self._raw.abort()
                    core.cancel_scope.cancel()
                self._shared.left(self)
                grace = self._limits.handler_grace_seconds
                handlers.cancel_scope.deadline = trio.current_time() + grace
        except Exception as error:
            log.warning("a connection to %s failed: %s", peer_id(self.peer), _name(error))
        finally:
            self._muxer.end()
            self._shared.left(self)
            self._raw.abort()

    def end(self) -> None:
        """Cut the connection now; `run` then ends by itself."""
        self._muxer.say_goodbye(GONE_NORMALLY)
        self._raw.abort()

    async def open_stream(self, protocol_id: str, timeout_seconds: float) -> PeerStream:
        """Open a stream of a protocol, without waiting for the peer.

        Whether the peer accepts the stream shows at the first read or write.

        Args:
            protocol_id: the protocol.
            timeout_seconds: longest wait for the peer to accept, from now.

        Raises:
            StreamLost: the connection broke, or has too many streams.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            muxed = self._muxer.open_stream(proposal(protocol_id))
        except TooManyStreams:
            raise StreamLost("too many streams to the peer are open") from None
        except ConnectionError as error:
            raise StreamLost("the connection to the peer broke") from error
        stream = self._wrap(muxed, protocol_id)
        stream.await_answers(Answers(protocol_id), muxed, trio.current_time() + timeout_seconds)
        return stream

    async def _run_writer(self) -> None:
        try:
            await self._muxer.run_writer()
        finally:
            self._raw.abort()

    async def _watch_pulse(self) -> None:
        """Cut the connection when the peer is silent and does not answer a ping.

        A reader notices a stopped process or a pulled cable in no other way. Bytes are no sign of
        life if they only extend a message that does not end.
        """
        while True:
            seen = self._raw.received
            await trio.sleep(self._limits.pulse_seconds)
            since = self._raw.partial_since
            if since is not None and trio.current_time() - since > self._limits.message_seconds:
                log.info("%s does not finish a message", peer_id(self.peer))
                break
            if self._raw.received != seen:
                continue
            self._muxer.ping()
            with trio.move_on_after(self._limits.answer_seconds):
                while self._raw.received == seen:  # noqa: ASYNC110 (an event per read costs more)
                    await trio.sleep(_PULSE_POLL_SECONDS)
            if self._raw.received == seen:
                log.info("%s does not answer", peer_id(self.peer))
                break
        self.end()

    def _accept(self, muxed: MuxedStream) -> None:
        """Serve a stream that the peer opens, unless it has too many or is not trusted now."""
        handling = self._shared.handling
        full = handling[self.peer] >= self._limits.streams_per_peer
        if full or not self._shared.is_trusted(self.peer):
            muxed.reset()
        elif self._start(self._serve, muxed):
            handling[self.peer] += 1

    async def _serve(self, muxed: MuxedStream) -> None:
        handling = self._shared.handling
        protocol_id = "?"
        try:
            protocol_id = await self._negotiate(muxed)
            async with self._wrap(muxed, protocol_id) as stream:
                await self._shared.handlers[protocol_id](stream)
        except (StreamLost, _Declined):
            log.debug("a stream of %s from %s was lost", protocol_id, peer_id(self.peer))
        except Exception as error:
            # Log names only: the text of an error might hold patient data.
            log.warning(
                "serving %s to %s failed: %s", protocol_id, peer_id(self.peer), _name(error)
            )
        finally:
            handling[self.peer] -= 1
            if not handling[self.peer]:
                del handling[self.peer]

    async def _negotiate(self, muxed: MuxedStream) -> str:
        """Agree with the peer on the protocol of a stream that it opened; reset it on failure."""
        choice = Choice(self._shared.handlers)
        answers = b""
        try:
            with trio.fail_after(self._limits.negotiate_seconds):
                while choice.chosen is None:
                    if answers and not muxed.buffered:
                        await muxed.write(memoryview(answers))
                        answers = b""
                    answers += choice.receive_untrusted(await muxed.read(choice.missing))
                await muxed.write(memoryview(answers))
        except BaseException as error:
            muxed.reset()
            if isinstance(error, BadLine | EOFError | ConnectionError | trio.TooSlowError):
                raise _Declined from error
            raise
        return choice.chosen

    def _wrap(self, muxed: MuxedStream, protocol_id: str) -> PeerStream:
        return PeerStream(
            muxed,
            peer=self.peer,
            protocol_id=protocol_id,
            abandon=muxed.reset,
            linger=lambda: self._start(self._linger, muxed),
        )

    def _start(self, job: Callable[[MuxedStream], Awaitable[None]], muxed: MuxedStream) -> bool:
        try:
            if self._handlers is not None:
                self._handlers.start_soon(job, muxed)
                return True
        except RuntimeError:
            # The connection is over, and the stream with it.
            pass
        return False

    async def _linger(self, muxed: MuxedStream) -> None:
        """Wait for the peer to close its half; after a reset now it could lose our last bytes."""
        with trio.move_on_after(self._limits.linger_seconds):
            try:
                while True:
                    await muxed.read(_DRAIN_BYTES)
            except (EOFError, ConnectionError):
                return
        muxed.reset()


class _Declined(Exception):
    """The negotiation did not end with a protocol of ours."""


def _name(error: BaseException) -> str:
    """The class names of an error and of those in its group, without their texts."""
    if isinstance(error, BaseExceptionGroup):
        return " and ".join(sorted({_name(inner) for inner in error.exceptions}))
    return type(error).__name__
