"""The limits and timeouts of the network layer."""

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
    """A connection that is silent for this long is pinged."""
    answer_seconds: float = 10.0
    """A connection that stays silent for this long after a ping is closed."""
    stall_seconds: float = 15.0
    """A socket that accepts no byte of a message for this long ends the connection."""
    message_seconds: float = 20.0
    """A message that is incomplete after this time ends the connection: a damaged length would make
    us wait for bytes that belong to other messages."""
    linger_seconds: float = 10.0
    """How long a peer may take to close its half of a stream that we closed."""
    handler_grace_seconds: float = 30.0
    """How long a handler may outlive its connection before it is cancelled."""
    unproved_per_host: int = 16
    """Most connections from one address on which no key has been proved yet."""
    unproved_total: int = 150
    unproved_bytes: int = 128 * 1024
    """Most bytes of a handshake read before the peer is known; it takes 1 KiB and a card."""
    greeting_bytes: int = 1024
    """Most bytes that are read from a connection before its handshake begins: answering a caller's
    proposal costs us far more than making it costs the caller."""
    connections_per_peer: int = 4
    """Two arise when both sides dial at once; more are of no use."""
    streams_per_peer: int = 64
    """Most handlers running for one peer."""
    opened_streams: int = 256
    """Most streams of ours that are open on one connection."""
    stream_entries: int = 512
    """Most streams of one connection in any state, ours and theirs."""
    frame_bytes: int = 1024 * 1024
    """Largest yamux data frame; we send 64 KiB."""
    tiny_frames_per_second: float = TINY_FRAMES_PER_SECOND
    """Rate of tiny frames above which a connection is read more slowly."""
    buffered_bytes: int = 64 * 1024 * 1024
    """Most bytes received and not yet read, over all streams of one connection: four transfers
    whose readers are behind by a full credit each."""
    window_bytes: int = 16 * 1024 * 1024
    """Largest receive window of one stream: fills 1 Gbit/s at 100 ms round trip."""
    block_bytes: int = WRITE_BLOCK_BYTES
    """Data in one frame that we send: with its header it fills one Noise message."""
