"""Whole messages over a peer stream, for the protocols without bulk data; how sessions end."""

from collections.abc import Mapping

import trio

from node.network.network import PeerStream, StreamLost
from protocol import limits, messages
from protocol.errors import RemoteProtocolError, WireCode
from protocol.frames import FrameKind, FrameReader, frame_header
from protocol.messages import Message


class MessageStream:
    """Sends and receives one message at a time.

    Args:
        stream: to a trusted peer; the caller closes it.
    """

    def __init__(self, stream: PeerStream) -> None:
        self.peer = stream.peer
        self._stream = stream
        self._reader = FrameReader()
        self._rest: bytes | memoryview = b""

    async def send(
        self, message: Message, *, timeout_seconds: float = limits.PEER_REPLY_SECONDS
    ) -> None:
        """Write one message.

        Raises:
            StreamLost: the stream is gone, or the peer did not accept the message in time.
        """
        payload = messages.encode(message)
        await self._stream.write(
            frame_header(FrameKind.MESSAGE, len(payload)) + payload,
            timeout_seconds=timeout_seconds,
        )

    async def receive_untrusted(
        self,
        known: Mapping[str, type[Message]] | None = None,
        *,
        timeout_seconds: float = limits.PEER_REPLY_SECONDS,
    ) -> Message:
        """Read one message.

        Args:
            known: the message types that may come, by name; by default those of
                `protocol.messages`.
            timeout_seconds: longest wait for the whole message.

        Raises:
            StreamLost: the stream is gone, or nothing came in time.
            RemoteProtocolError: the bytes that came are not a message.
        """
        deadline = trio.current_time() + timeout_seconds
        while True:
            frame, used = self._reader.receive_untrusted(self._rest)
            self._rest = self._rest[used:]
            if frame is not None:
                if frame.kind is not FrameKind.MESSAGE:
                    raise RemoteProtocolError("a data frame here", WireCode.UNEXPECTED)
                if known is None:
                    return messages.decode_untrusted(frame.payload)
                return messages.decode_untrusted(frame.payload, known)
            self._rest = await self._stream.read(
                64 * 1024, timeout_seconds=max(0.001, deadline - trio.current_time())
            )


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of a session's nursery to act on: the first that is not a cancellation.

    Other failures also cause a lost stream, so `StreamLost` comes last.
    """
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending = [*error.exceptions, *pending]
        else:
            leaves.append(error)
    fatal = [error for error in leaves if not isinstance(error, trio.Cancelled | StreamLost)]
    lost = [error for error in leaves if isinstance(error, StreamLost)]
    return (fatal or lost or leaves)[0]
