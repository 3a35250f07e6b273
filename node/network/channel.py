"""The encrypted messages of one connection, once its handshake is done.

libp2p's Noise does the handshake and makes the two ciphers; its reading and writing of messages
copies each byte five times and is not used. The wire format is the same: two bytes of length, then
up to 65,519 bytes and their tag of 16 (libp2p's Noise specification, "Wire format").

Received messages are decrypted where the socket put them, all messages of one read at once, so that
a message costs no more than its cipher.
"""

import struct
from collections.abc import Sequence
from typing import Protocol

import trio

PLAIN_BYTES = 65_519
"""Most bytes of one message before it is encrypted."""

_LENGTH = struct.Struct(">H")
_NONCE = struct.Struct("<IQ")
_IDLE_BUFFER_BYTES = 16 * 1024
_BULK_BUFFER_BYTES = 256 * 1024
_SMALL_READS = 16
_MESSAGES_AT_ONCE = 64
"""Most messages decrypted in one go: a full buffer would hold 14,000 empty ones."""
_LARGEST_MESSAGE_BYTES = _LENGTH.size + 65_535

Bytes = bytes | bytearray | memoryview


class ChannelBroken(Exception):
    """The bytes that came are no message of this connection; nothing after them can be read."""


class Aead(Protocol):
    """ChaCha20-Poly1305 of RFC 8439 with one key."""

    def encrypt(self, nonce: bytes, data: Bytes, associated_data: None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: Bytes, associated_data: None) -> bytes: ...


class Wire(Protocol):
    """The part of `hardening.SocketConnection` that a channel uses."""

    partial_since: float | None

    async def receive_into(self, buffer: memoryview) -> int: ...

    async def send(self, parts: Sequence[Bytes]) -> None: ...

    def send_now(self, data: Bytes) -> None: ...


class Cipher:
    """One direction of a channel.

    Args:
        aead: the cipher with the key of that direction.
        count: messages carried so far, which is the nonce of the next one.
    """

    def __init__(self, aead: Aead, count: int) -> None:
        self._aead = aead
        self._count = count

    def seal(self, plain: Bytes) -> bytes:
        """Encrypt the next message."""
        sealed = self._aead.encrypt(_NONCE.pack(0, self._count), plain, None)
        self._count += 1
        return sealed

    def open(self, sealed: Bytes) -> bytes:
        """Decrypt the next message.

        Raises:
            ChannelBroken: it is not the message that the peer sent.
        """
        try:
            plain = self._aead.decrypt(_NONCE.pack(0, self._count), sealed, None)
        except Exception as error:
            raise ChannelBroken("a message does not decrypt") from error
        self._count += 1
        return plain


class Channel:
    """Reads and writes the messages; one task may read while another writes.

    Args:
        wire: the connection.
        sending, receiving: the ciphers of the handshake.
        opened: bytes that are already decrypted and come before all others.
        rest: bytes that were read from the connection and are not decrypted yet.
    """

    def __init__(
        self, wire: Wire, *, sending: Cipher, receiving: Cipher, opened: bytes, rest: bytes
    ) -> None:
        self._wire = wire
        self._sending = sending
        self._receiving = receiving
        self._opened = opened
        self._buffer = bytearray(max(_IDLE_BUFFER_BYTES, len(rest)))
        self._buffer[: len(rest)] = rest
        self._begin, self._end = 0, len(rest)
        self._size = _IDLE_BUFFER_BYTES
        self._small_reads = 0

    async def receive(self) -> list[bytes]:
        """Wait for messages; returns complete ones, or none when the connection is over.

        Raises:
            ChannelBroken: the bytes that came are no message.
        """
        if self._opened:
            opened, self._opened = self._opened, b""
            return [opened]
        while not (messages := self._open_whole()):
            self._make_room()
            with memoryview(self._buffer)[self._end :] as room:
                count = await self._wire.receive_into(room)
                if not count:
                    return []
                self._adapt(count, len(room))
            self._end += count
        return messages

    def _open_whole(self) -> list[bytes]:
        buffer, at, end = self._buffer, self._begin, self._end
        messages: list[bytes] = []
        with memoryview(buffer) as view:
            while end - at >= _LENGTH.size and len(messages) < _MESSAGES_AT_ONCE:
                (length,) = _LENGTH.unpack_from(buffer, at)
                stop = at + _LENGTH.size + length
                if stop > end:
                    break
                messages.append(self._receiving.open(view[at + _LENGTH.size : stop]))
                at = stop
        self._begin = at
        if at == end:
            self._wire.partial_since = None
        elif messages or self._wire.partial_since is None:
            self._wire.partial_since = trio.current_time()
        return messages

    def _make_room(self) -> None:
        """Move the bytes of a partial message to the front of the buffer; resize it if due."""
        left = self._end - self._begin
        size = max(self._size, _LARGEST_MESSAGE_BYTES) if left else self._size
        if left and size == len(self._buffer) and size - self._end >= _LARGEST_MESSAGE_BYTES:
            return
        rest = self._buffer[self._begin : self._end]
        if size != len(self._buffer):
            self._buffer = bytearray(size)
        self._buffer[:left] = rest
        self._begin, self._end = 0, left

    def _adapt(self, count: int, room: int) -> None:
        """Choose a large buffer while much data comes, a small one while little does."""
        if count == room:
            self._size, self._small_reads = _BULK_BUFFER_BYTES, 0
        elif count < _IDLE_BUFFER_BYTES:
            self._small_reads += 1
            if self._small_reads == _SMALL_READS:
                self._size = _IDLE_BUFFER_BYTES
        else:
            self._small_reads = 0

    async def send(self, messages: Sequence[Bytes]) -> None:
        """Encrypt and send messages of up to `PLAIN_BYTES`; cancellation does not cut them short.

        One caller at a time.

        Raises:
            ConnectionError: the connection is over.
        """
        parts: list[Bytes] = []
        for plain in messages:
            sealed = self._sending.seal(plain)
            parts += (_LENGTH.pack(len(sealed)), sealed)
        await self._wire.send(parts)

    def send_last(self, message: Bytes) -> None:
        """Send the last message without waiting, as far as the connection accepts it.

        Not allowed while another message is being sent.
        """
        sealed = self._sending.seal(message)
        self._wire.send_now(_LENGTH.pack(len(sealed)) + sealed)
