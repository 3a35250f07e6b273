"""A network in memory: lines between nodes that can be slow, cut, and fall silent.

A cut refuses (both ends see the connection end) or is silent (sent bytes wait until the line
is repaired, as with a pulled cable). The connections of a killed node end; those of a node
that loses power fall silent.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence

import trio

from node.network.sockets import Unreachable
from node.network.transport import Bytes, Line, Listener

WINDOW_BYTES = 256 * 1024
"""Most bytes in flight on a line before its sender has to wait."""

Trace = Callable[..., None]


class Net:
    """All lines of a simulation.

    Args:
        rng: chooses the latency of each pair.
        trace: called with everything that is sent.
    """

    def __init__(self, rng: random.Random, trace: Trace) -> None:
        self._rng = rng
        self.trace = trace
        self.listeners: dict[str, _Listener] = {}
        self.lines: list[_Line] = []
        self._cuts: dict[tuple[int, int], str] = {}
        self._latency: dict[tuple[int, int], float] = {}
        self._delay: dict[tuple[int, int], float] = {}

    def latency(self, one: int, other: int) -> float:
        """Seconds that bytes take between two sites."""
        pair = _pair(one, other)
        if pair not in self._latency:
            self._latency[pair] = self._rng.uniform(0.002, 0.06)
        return self._latency[pair] + self._delay.get(pair, 0.0)

    def cut(self, one: int, other: int, how: str) -> None:
        """Cut all lines between two sites; `how` is "refused" or "silent"."""
        self._cuts[_pair(one, other)] = how
        if how == "refused":
            for line in [line for line in self.lines if line.pair == _pair(one, other)]:
                line.break_off()

    def slow(self, one: int, other: int, seconds: float) -> None:
        """Delay bytes between two sites by some more seconds."""
        self._delay[_pair(one, other)] = seconds

    def heal(self, one: int, other: int) -> None:
        """Repair the lines between two sites; waiting bytes arrive."""
        self._delay.pop(_pair(one, other), None)
        if self._cuts.pop(_pair(one, other), None) is not None:
            for line in self.lines:
                if line.pair == _pair(one, other):
                    line.release()

    def heal_all(self) -> None:
        """Remove all cuts and delays."""
        for one, other in sorted(self._cuts.keys() | self._delay.keys()):
            self.heal(one, other)

    def state(self, one: int, other: int) -> str:
        """How two sites are cut; "" if they are not."""
        return self._cuts.get(_pair(one, other), "")


class SimulatedTransport:
    """The network as one incarnation of a node uses it.

    Args:
        net: the network.
        site: number of the node's site.
    """

    def __init__(self, net: Net, site: int) -> None:
        self.net, self.site = net, site
        self.is_dead = False
        self._listening: list[_Listener] = []

    async def dial(self, address: str, *, timeout_seconds: float) -> Line:
        net = self.net
        target = int(address.split("/")[2].split(".")[2])
        with trio.move_on_after(timeout_seconds):
            await trio.sleep(2 * net.latency(self.site, target))
            if self.is_dead or net.state(self.site, target) == "silent":
                await trio.sleep(math.inf)
            listener = net.listeners.get(address)
            if listener is None or net.state(self.site, target):
                raise Unreachable(f"{address}: connection refused")
            ours, theirs = _Line(self, target), _Line(listener.transport, self.site)
            ours.other, theirs.other = theirs, ours
            net.lines += [ours, theirs]
            listener.calls.send_nowait(theirs)
            return ours
        raise Unreachable(f"{address}: no answer")

    async def listen(self, addresses: Sequence[str]) -> list[Listener]:
        await trio.lowlevel.checkpoint()
        self._listening = [_Listener(self, address) for address in addresses]
        for listener in self._listening:
            self.net.listeners[listener.address] = listener
        return list(self._listening)

    def die(self, *, silently: bool) -> None:
        """End the process: nothing that it still does reaches another node."""
        self.is_dead = True
        for listener in self._listening:
            listener.close()
        for line in [line for line in self.net.lines if line.transport is self]:
            line.break_off(both=not silently)


class _Listener(Listener):
    def __init__(self, transport: SimulatedTransport, address: str) -> None:
        self.transport = transport
        self._address = address
        self.calls, self._incoming = trio.open_memory_channel[_Line](math.inf)

    @property
    def address(self) -> str:
        return self._address

    async def accept(self) -> Line:
        return await self._incoming.receive()

    def close(self) -> None:
        if self.transport.net.listeners.get(self._address) is self:
            del self.transport.net.listeners[self._address]


class _Line(Line):
    """One end of a line; bytes wait at their receiving end."""

    def __init__(self, transport: SimulatedTransport, theirs: int) -> None:
        self.transport = transport
        self.pair = _pair(transport.site, theirs)
        self._theirs = theirs
        self.other: _Line = self
        self.held: deque[bytes | None] | None = None
        self._coming: deque[tuple[float, bytes | None]] = deque()
        self._waiting_bytes = 0
        self._last = 0.0
        self._is_closed = self._is_broken = False
        self._changed, self._drained = trio.Event(), trio.Event()

    @property
    def host(self) -> str:
        return f"10.0.{self._theirs}.1"

    @property
    def address(self) -> tuple[str, int] | None:
        return self.host, 4101

    def _require_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._is_broken:
            raise ConnectionResetError("the line broke")

    async def receive_into(self, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._require_open()
            now = trio.current_time()
            if not self._coming:
                self._changed = trio.Event()
                await self._changed.wait()
                continue
            at, data = self._coming[0]
            if at > now:
                self._changed = trio.Event()
                with trio.move_on_at(at):
                    await self._changed.wait()
                continue
            if data is None:
                return 0
            return self._take(buffer, now)

    def _take(self, buffer: memoryview, now: float) -> int:
        count = 0
        while self._coming and count < len(buffer):
            at, data = self._coming[0]
            if at > now or data is None:
                break
            part = data[: len(buffer) - count]
            buffer[count : count + len(part)] = part
            count += len(part)
            if len(part) == len(data):
                self._coming.popleft()
            else:
                self._coming[0] = (at, data[len(part) :])
        self._waiting_bytes -= count
        self._drained.set()
        return count

    async def send_some(self, parts: Sequence[Bytes]) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._require_open()
        while self.other._waiting_bytes > WINDOW_BYTES:
            self.other._drained = trio.Event()
            await self.other._drained.wait()
            self._require_open()
        data = b"".join(parts)
        self._send(data)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return len(data)

    def send_now(self, data: Bytes) -> None:
        if not (self._is_closed or self._is_broken):
            self._send(bytes(data))

    def _send(self, data: bytes | None) -> None:
        net, other = self.transport.net, self.other
        if self.transport.is_dead or other._is_closed or other._is_broken:
            return
        if data is not None:
            net.trace("sent", self.transport.site, self._theirs, len(data))
            other._waiting_bytes += len(data)
        if net.state(*self.pair) == "silent" or other.held is not None:
            if other.held is None:
                other.held = deque()
            other.held.append(data)
            return
        other._arrive(data)

    def _arrive(self, data: bytes | None) -> None:
        net = self.transport.net
        self._last = max(self._last, trio.current_time() + net.latency(*self.pair))
        self._coming.append((self._last, data))
        self._changed.set()

    def release(self) -> None:
        """Deliver the bytes that were held back."""
        held, self.held = self.held or deque(), None
        for data in held:
            self._arrive(data)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._changed.set()
        self._drained.set()
        self.other._drained.set()
        if not self._is_broken:
            self._send(None)
        self._forget()

    def break_off(self, *, both: bool = True) -> None:
        """End the line here and now; with `both`, also at the other end."""
        for end in (self, self.other) if both else (self,):
            end._is_broken = True
            end._changed.set()
            end._drained.set()
            end._forget()

    def _forget(self) -> None:
        lines = self.transport.net.lines
        if self in lines:
            lines.remove(self)


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)
