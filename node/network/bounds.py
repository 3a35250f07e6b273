"""What the network layer allows and how long it waits."""

from dataclasses import dataclass

from protocol.limits import TINY_FRAMES_PER_SECOND, WRITE_BLOCK_BYTES


@dataclass(frozen=True)
class NetworkLimits:
    """Bounds of the network layer, in seconds, bytes and counts.

    A frozen peer is noticed after `pulse_seconds + answer_seconds` by reading, after
    `stall_seconds` by writing, and in the middle of a message after `pulse_seconds +
    message_seconds`: all stay under 30 s.
    """

    dial_seconds: float = 10.0
    """For the TCP connection to one address."""
    upgrade_seconds: float = 10.0
    """For Noise and yamux on a new connection; silent sockets go after this."""
    negotiate_seconds: float = 10.0
    """For the protocol name on a new stream."""
    pulse_seconds: float = 5.0
    """A connection silent for so long is pinged."""
    answer_seconds: float = 10.0
    """A pinged connection silent for so long is closed."""
    stall_seconds: float = 15.0
    """A socket that takes nothing of a message for so long ends the connection."""
    message_seconds: float = 20.0
    """A message that has begun and is not whole after this time ends the connection:
    a damaged length would have us wait for bytes that are not meant for it."""
    linger_seconds: float = 10.0
    """A peer may take so long to close its half of a stream that we closed."""
    handler_grace_seconds: float = 30.0
    """A handler may outlive its connection by so much before it is cancelled."""
    unproved_per_host: int = 16
    """Connections of one address on which no key has been proved yet."""
    unproved_total: int = 150
    unproved_bytes: int = 128 * 1024
    """Read of one handshake before the peer is known; it takes 1 KiB, and its card."""
    greeting_bytes: int = 1024
    """Read from one connection before its handshake begins: each proposal of a caller that
    we answer costs far more than it costs him."""
    connections_per_peer: int = 4
    """Two arise when both sides dial at once; more serve nobody."""
    streams_per_peer: int = 64
    """Handlers running for one peer."""
    opened_streams: int = 256
    """Streams that we have open on one connection."""
    stream_entries: int = 512
    """Streams of one connection in any state, ours and theirs."""
    frame_bytes: int = 1024 * 1024
    """Of one yamux frame of data; we send 64 KiB."""
    tiny_frames_per_second: float = TINY_FRAMES_PER_SECOND
    """Of one connection, before it is read more slowly."""
    buffered_bytes: int = 64 * 1024 * 1024
    """Received and not yet read, over all streams of one connection: four
    transfers whose readers are behind by a full credit each."""
    window_bytes: int = 16 * 1024 * 1024
    """Largest receive window of one stream: fills 1 Gbit/s at 100 ms round trip."""
    block_bytes: int = WRITE_BLOCK_BYTES
    """Data in one frame that we send: with its header it fills one Noise message."""
