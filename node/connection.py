"""One libp2p connection to a trusted peer, from handshake to end.

With `node/hardening.py` and `node/muxer_guard.py` the only file that imports
libp2p, whose exceptions end here.

A connection is one task with two nurseries: the inner one runs yamux, the pulse
and the acceptor and ends with the connection; the outer one runs the stream
handlers, which then find their streams lost and get a while to clean up. Nothing
that a peer does raises out of `run`.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import trio
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from keys.identity import peer_id
from node import hardening, muxer_guard
from node.hardening import NetworkLimits, SocketConnection
from node.sockets import Unreachable
from node.streams import PeerStream, PeerTimeout, StreamLost

if TYPE_CHECKING:
    # The stubs that come with libp2p's dependencies hide trio's own name for it.
    from trio_typing import TaskStatus

log = logging.getLogger("radmesh.network")

Handler = Callable[[PeerStream], Awaitable[None]]

_DRAIN_BYTES = 64 * 1024
_PULSE_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all connections of a node have in common.

    Attributes:
        upgrader: of `hardening.make_upgrader`.
        limits: bounds.
        handlers: protocol id to the coroutine that serves one stream.
        is_trusted: whether a node public key may talk to us now.
        handling: handlers running, by peer.
        joined: a connection is ready; False when it must end.
        left: a connection has ended; may come more than once.
    """

    upgrader: TransportUpgrader
    limits: NetworkLimits
    handlers: Mapping[str, Handler]
    is_trusted: Callable[[bytes], bool]
    handling: Counter[bytes]
    joined: Callable[["Connection"], bool]
    left: Callable[["Connection"], None]


async def upgrade(raw: SocketConnection, expected: bytes | None, shared: Shared) -> "Connection":
    """Agree on Noise and yamux over a TCP connection.

    Args:
        raw: a fresh connection; closing it on failure stays with the caller.
        expected: node public key of the peer we dialled; None for a caller.
        shared: of this node.

    Raises:
        Unreachable: with the reason.
    """
    wanted = hardening.node_id(expected) if expected is not None else None
    try:
        secured = await shared.upgrader.upgrade_security(raw, raw.is_initiator, wanted)
        peer = secured.get_remote_peer()
        muxed = await shared.upgrader.upgrade_connection(secured, peer)
    except SecurityUpgradeFailure as error:
        if raw.ended:
            raise Unreachable("the peer hung up while connecting") from error
        raise Unreachable("the node there has another key or does not speak Noise") from error
    except MuxerUpgradeFailure as error:
        raise Unreachable("the peer hung up: it may not trust this node yet") from error
    except Exception as error:
        raise Unreachable("the peer hung up while connecting") from error
    public = hardening.node_public(peer)
    if not isinstance(muxed, Yamux) or public is None:
        raise Unreachable("the peer does not speak yamux")
    muxer_guard.guard_muxer(muxed, shared.limits)
    return Connection(raw, muxed, public, shared)


class Connection:
    """A connection on which the peer's key is proved; `run` owns it to its end.

    Attributes:
        peer: node public key of the peer, 32 bytes.
    """

    def __init__(self, raw: SocketConnection, muxed: Yamux, peer: bytes, shared: Shared) -> None:
        self.peer = peer
        self._raw = raw
        self._muxed = muxed
        self._shared = shared
        self._limits = shared.limits
        self._handlers: trio.Nursery | None = None

    async def run(self, task_status: "TaskStatus[bool]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the peer until the connection ends; reports whether it was ready."""
        try:
            async with trio.open_nursery() as handlers:
                self._handlers = handlers
                async with trio.open_nursery() as core:
                    muxer_done = trio.Event()
                    core.start_soon(self._run_muxer, muxer_done)
                    await self._muxed.event_started.wait()
                    ready = self._shared.joined(self)
                    task_status.started(ready)
                    if not ready:
                        self.end()
                    core.start_soon(self._watch_pulse)
                    await self._accept_streams(handlers)
                    await muxer_done.wait()
                    core.cancel_scope.cancel()
                self._shared.left(self)
                grace = self._limits.handler_grace_seconds
                handlers.cancel_scope.deadline = trio.current_time() + grace
        except Exception as error:
            log.warning("a connection to %s failed: %s", peer_id(self.peer), _name(error))
        finally:
            self._shared.left(self)
            self._raw.abort()

    def end(self) -> None:
        """Cut the connection now; `run` then ends by itself."""
        self._raw.abort()

    async def open_stream(self, protocol_id: str, timeout_seconds: float) -> PeerStream:
        """Open a stream and agree on its protocol.

        Raises:
            StreamLost: the connection broke, is full, or the peer declines.
            PeerTimeout: no answer in time.
        """
        if self._muxed.stream_backlog_semaphore.value == 0:
            # The library would wait without end and without a word.
            raise StreamLost("too many streams to the peer are open")
        deadline = trio.current_time() + timeout_seconds
        muxed: YamuxStream | None = None
        try:
            # Cut in the middle, the library would lose one of its 256 places.
            with trio.CancelScope(shield=True, deadline=deadline):
                muxed = await self._muxed.open_stream()
        except Exception as error:
            raise StreamLost("the connection to the peer broke") from error
        if muxed is None:
            raise PeerTimeout("the peer takes no new stream")
        stream = self._wrap(muxed, protocol_id)
        try:
            with trio.CancelScope(deadline=deadline) as scope:
                await MultiselectClient().select_one_of(
                    [TProtocol(protocol_id)],
                    MultiselectCommunicator(hardening.LineReader(muxed)),
                    negotiate_timeout=ceil(timeout_seconds) + 1,
                )
        except Exception as error:
            await stream.reset()
            raise StreamLost(f"the peer does not take a stream of {protocol_id}") from error
        except BaseException:
            await stream.reset()
            raise
        if scope.cancelled_caught:
            await stream.reset()
            raise PeerTimeout("the peer did not answer on a new stream")
        return stream

    async def _run_muxer(self, done: trio.Event) -> None:
        try:
            await self._muxed.start()
        except Exception as error:
            log.warning("yamux with %s failed: %s", peer_id(self.peer), _name(error))
        finally:
            self._raw.abort()
            muxer_guard.release_waiters(self._muxed)
            done.set()

    async def _watch_pulse(self) -> None:
        """Cut the connection when the peer is silent and does not answer a ping.

        A stopped process or a pulled cable shows in no other way to a reader. Bytes
        are no sign of life when they only fill up a message that does not end.
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
            with trio.move_on_after(self._limits.answer_seconds):
                try:
                    await muxer_guard.ping(self._muxed)
                except Exception:
                    break
                while self._raw.received == seen:  # noqa: ASYNC110 (an event per read costs more)
                    await trio.sleep(_PULSE_POLL_SECONDS)
            if self._raw.received == seen:
                log.info("%s does not answer", peer_id(self.peer))
                break
        self.end()

    async def _accept_streams(self, handlers: trio.Nursery) -> None:
        while True:
            try:
                muxed = await self._muxed.accept_stream()
            except MuxedConnUnavailable:
                return
            if isinstance(muxed, YamuxStream):
                handlers.start_soon(self._serve, muxed)

    async def _serve(self, muxed: YamuxStream) -> None:
        handling = self._shared.handling
        full = handling[self.peer] >= self._limits.streams_per_peer
        if full or not self._shared.is_trusted(self.peer):
            await self._reset(muxed)
            return
        handling[self.peer] += 1
        protocol_id = "?"
        try:
            protocol_id = await self._negotiate(muxed)
            async with self._wrap(muxed, protocol_id) as stream:
                await self._shared.handlers[protocol_id](stream)
        except (StreamLost, _Declined):
            log.debug("a stream of %s from %s was lost", protocol_id, peer_id(self.peer))
        except Exception as error:
            # Names only: a message might hold what is in a study.
            log.warning(
                "serving %s to %s failed: %s", protocol_id, peer_id(self.peer), _name(error)
            )
        finally:
            handling[self.peer] -= 1
            if not handling[self.peer]:
                del handling[self.peer]

    async def _negotiate(self, muxed: YamuxStream) -> str:
        choices = Multiselect(dict.fromkeys(map(TProtocol, self._shared.handlers)))
        communicator = MultiselectCommunicator(hardening.LineReader(muxed))
        try:
            chosen, _ = await choices.negotiate(communicator, ceil(self._limits.negotiate_seconds))
        except BaseException as error:
            self._abandon(muxed)
            if isinstance(error, Exception):
                raise _Declined from error
            raise
        return str(chosen)

    def _wrap(self, muxed: YamuxStream, protocol_id: str) -> PeerStream:
        return PeerStream(
            muxed,
            peer=self.peer,
            protocol_id=protocol_id,
            block_bytes=self._limits.block_bytes,
            abandon=lambda: self._abandon(muxed),
            linger=lambda: self._start(self._linger, muxed),
        )

    def _abandon(self, muxed: YamuxStream) -> None:
        muxer_guard.discard_input(muxed)
        self._start(self._reset, muxed)

    def _start(self, job: Callable[[YamuxStream], Awaitable[None]], muxed: YamuxStream) -> None:
        try:
            if self._handlers is not None:
                self._handlers.start_soon(job, muxed)
        except RuntimeError:
            # The connection is over, and the stream with it.
            pass

    async def _reset(self, muxed: YamuxStream) -> None:
        muxer_guard.discard_input(muxed)
        try:
            await muxed.reset()
        except Exception as error:
            log.debug("resetting a stream: %s", _name(error))

    async def _linger(self, muxed: YamuxStream) -> None:
        """Wait for the peer to close its half; a reset now could cost it our last bytes."""
        with trio.move_on_after(self._limits.linger_seconds):
            try:
                while True:
                    await muxed.read(_DRAIN_BYTES)
            except Exception as error:
                log.debug("a stream has ended: %s", _name(error))
        if not muxed.closed:
            await self._reset(muxed)


class _Declined(Exception):
    """The peer did not get as far as a protocol of ours."""


def _name(error: BaseException) -> str:
    """The kinds of an error, without texts."""
    if isinstance(error, BaseExceptionGroup):
        return " and ".join(sorted({_name(inner) for inner in error.exceptions}))
    return type(error).__name__
