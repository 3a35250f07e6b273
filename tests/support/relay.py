"""A TCP relay to put between two real nodes: it delays, throttles, cuts, freezes and corrupts.

It forwards bytes and knows one thing about them: after the choice of Noise (28 bytes
in plain text) two bytes before each message hold its length. So a fault strikes at a
message of a size that was seen in a run without faults, and not at a time.
"""

import contextlib
import enum
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

PREFACE_BYTES = len(b"\x13/multistream/1.0.0\n\x07/noise\n")
CONTROL_BYTES = 2 + 12 + 16
"""A message that holds only a header of yamux: a ping, a window."""
FULL_BYTES = 2 + 65_535
"""The largest message there is: part of a batch."""

_CHUNK_BYTES = 256 * 1024
_CHUNKS_ON_THE_WAY = 256


class Way(enum.StrEnum):
    """A direction, seen from the side that dials."""

    UP = "up"
    DOWN = "down"


class Fault(enum.StrEnum):
    """What the relay does to the bytes at a point, and to all later bytes until `lift`."""

    CUT = "cut"
    """Both sockets are closed; the relay hangs up on new callers."""
    CUT_ONE_WAY = "cut-one-way"
    """The stream is ended in one direction, and nothing more is sent there."""
    FREEZE = "freeze"
    """Nothing is forwarded on any connection, and every socket stays open."""
    FREEZE_ONE_WAY = "freeze-one-way"
    """The same in one direction."""
    CORRUPT = "corrupt"
    """One bit is flipped, once; who dials after it is hung up on."""
    DELAY = "delay"
    """Every byte comes `DELAY_SECONDS` later."""
    THROTTLE = "throttle"
    """Only `THROTTLE_BYTES` pass in a second in each direction."""


DELAY_SECONDS = 0.15
THROTTLE_BYTES = 6_000_000


@dataclass(frozen=True)
class Point:
    """A place in the bytes of a direction.

    Attributes:
        way: the direction.
        bytes: size of the message, including the two bytes of its length.
        nth: number of the message among those of this size that begin after `arm`, from 1.
        offset: bytes of the message that still pass before the fault.
        slack: how far its size may differ.
        after_full: this many full messages of the same direction come first; an earlier
            message that has the size by chance is ignored.
    """

    way: Way
    bytes: int
    nth: int = 1
    offset: int = 0
    slack: int = 0
    after_full: int = 0


class Relay:
    """Listens on a port of loopback and connects each caller to another one.

    Attributes:
        port: the port on which it listens.
        struck: set when the armed fault has happened.
        struck_at: `time.monotonic()` at that moment.
        carried: bytes forwarded in each direction, over all connections.
    """

    def __init__(self, target_port: int) -> None:
        self.struck = threading.Event()
        self.struck_at = 0.0
        self.carried = dict.fromkeys(Way, 0)
        self.seen: list[tuple[Way, int]] = []
        self._target_port = target_port
        self._lock = threading.Lock()
        self._armed: tuple[Fault, Point] | None = None
        self._matches = 0
        self._full = 0
        self._closed = False
        self._cut = False
        self._thawed = {way: threading.Event() for way in Way}
        self._delay_seconds = 0.0
        self._bytes_per_second = 0
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lift()
        self._start(self._accept, self._listener)

    # --- what a test does -------------------------------------------------------

    @property
    def address(self) -> str:
        """Its address, as on a card."""
        return f"/ip4/127.0.0.1/tcp/{self.port}"

    def arm(self, fault: Fault, point: Point) -> None:
        """Let a fault happen at a point of the bytes to come."""
        with self._lock:
            self.struck.clear()
            self._matches = self._full = 0
            self._armed = (fault, point)

    def strike(self, fault: Fault, way: Way = Way.DOWN) -> None:
        """Let a fault that lasts happen now, on all connections; a cut ends a freeze."""
        with self._lock:
            self._strike(fault, way)
            if fault is Fault.CUT:
                self._hang_up()
                for event in self._thawed.values():
                    event.set()

    def lift(self) -> None:
        """Forward everything again and disarm; cut connections stay cut."""
        with self._lock:
            self._armed = None
        self.heal()

    def heal(self) -> None:
        """Like `lift`, but an armed fault stays armed."""
        with self._lock:
            self._cut = False
            self._delay_seconds = 0.0
            self._bytes_per_second = 0
            for event in self._thawed.values():
                event.set()

    def forget(self) -> None:
        """Begin a new list of seen messages."""
        with self._lock:
            self.seen = []

    def move(self) -> None:
        """Hang up on everybody, and listen on another port from now on."""
        with self._lock:
            old, self._listener = self._listener, socket.create_server(("127.0.0.1", 0))
            self.port = int(self._listener.getsockname()[1])
            self._hang_up()
        _close(old)
        self._start(self._accept, self._listener)

    def close(self) -> None:
        """End every connection and thread."""
        self._closed = True
        self.lift()
        with self._lock:
            self._hang_up()
        _close(self._listener)
        for thread in list(self._threads):
            thread.join(10)
            assert not thread.is_alive(), "a thread of the relay hangs"

    # --- connections --------------------------------------------------------------

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            for event in self._thawed.values():
                event.wait()
            try:
                if self._cut or self._closed:
                    raise ConnectionError("cut")
                called = socket.create_connection(("127.0.0.1", self._target_port), 5)
            except OSError:
                _close(caller)
                continue
            called.settimeout(None)
            with self._lock:
                self._sockets |= {caller, called}
            for way, source, sink in ((Way.UP, caller, called), (Way.DOWN, called, caller)):
                waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(_CHUNKS_ON_THE_WAY)
                self._start(self._receive, source, waiting)
                self._start(self._forward, way, sink, waiting, (caller, called))

    def _receive(self, source: socket.socket, waiting: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"?"
        while data:
            try:
                data = source.recv(_CHUNK_BYTES)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + self._delay_seconds, data))

    def _forward(
        self,
        way: Way,
        sink: socket.socket,
        waiting: queue.Queue[tuple[float, bytes]],
        both: tuple[socket.socket, socket.socket],
    ) -> None:
        messages = _Messages()
        alive = True
        while True:
            due, data = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            if not alive:
                continue  # somebody must take it, or the other end would wait
            for piece, begins in messages.pieces(data):
                if not self._pass(way, sink, piece, begins, both):
                    alive = False
                    break
        self._thawed[way].wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _pass(
        self,
        way: Way,
        sink: socket.socket,
        piece: bytes,
        begins: int,
        both: tuple[socket.socket, socket.socket],
    ) -> bool:
        """Forward a message or a part of it; returns False if nothing may follow.

        Args:
            begins: the size of the message that begins here; 0 within one.
        """
        strikes = self._look(way, begins)
        if strikes is not None:
            fault, offset = strikes
            if not self._send(way, sink, piece[:offset]):
                return False
            piece = piece[offset:]
            if fault is Fault.CORRUPT:
                piece = bytes([piece[0] ^ 0x10]) + piece[1:]
            with self._lock:
                self._strike(fault, way)
            if fault is Fault.CUT:
                for one in both:
                    _close(one)
                return False
            if fault is Fault.CUT_ONE_WAY:
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return False
        self._thawed[way].wait()
        return self._send(way, sink, piece)

    def _look(self, way: Way, begins: int) -> tuple[Fault, int] | None:
        with self._lock:
            if not begins:
                return None
            self.seen.append((way, begins))
            if self._armed is None:
                return None
            fault, point = self._armed
            if way is not point.way:
                return None
            early = self._full < point.after_full
            self._full += begins == FULL_BYTES
            if early or abs(point.bytes - begins) > point.slack:
                return None
            self._matches += 1
            if self._matches != point.nth:
                return None
            self._armed = None
            return fault, point.offset

    def _strike(self, fault: Fault, way: Way) -> None:
        match fault:
            case Fault.CUT | Fault.CUT_ONE_WAY | Fault.CORRUPT:
                self._cut = True
            case Fault.FREEZE:
                for event in self._thawed.values():
                    event.clear()
            case Fault.FREEZE_ONE_WAY:
                self._thawed[way].clear()
            case Fault.DELAY:
                self._delay_seconds = DELAY_SECONDS
            case Fault.THROTTLE:
                self._bytes_per_second = THROTTLE_BYTES
        self.struck_at = time.monotonic()
        self.struck.set()

    def _send(self, way: Way, sink: socket.socket, data: bytes) -> bool:
        if self._bytes_per_second:
            time.sleep(len(data) / self._bytes_per_second)
        try:
            sink.sendall(data)
        except OSError:
            return False
        with self._lock:
            self.carried[way] += len(data)
        return True

    def _hang_up(self) -> None:
        for one in self._sockets:
            _close(one)
        self._sockets = set()


class _Messages:
    """Cuts the bytes of a direction where its messages begin."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0
        self._is_preface = True

    def pieces(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Parts of messages, and the size of the message that begins with the part, or 0.

        One byte may be held back if it is half of a length.
        """
        data = self._rest + data
        self._rest = b""
        start = 0
        while start < len(data):
            begins = 0
            if not self._left:
                if not self._is_preface and len(data) - start < 2:
                    self._rest = data[start:]
                    return
                begins = PREFACE_BYTES
                if not self._is_preface:
                    begins = 2 + struct.unpack_from("!H", data, start)[0]
                self._is_preface = False
                self._left = begins
            piece = data[start : start + self._left]
            start += len(piece)
            self._left -= len(piece)
            yield piece, begins


def _close(one: socket.socket) -> None:
    """Close a socket for good, even if a thread waits on it."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
