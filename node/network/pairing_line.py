"""A connection below Noise, for a pairing by a code: how it is asked for, and its bytes.

A caller proposes `PAIR_PROTOCOL` in place of Noise. A node takes that while somebody there shows a
code; at all other times it answers as to every name that it does not know.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from node.network.bounds import NetworkLimits
from node.network.hardening import SocketConnection
from node.network.negotiation import Answers, BadLine, Declined, proposal
from node.network.sockets import Unreachable
from node.network.transport import Transport
from protocol.pairing import PAIR_PROTOCOL

_RECEIVE_BYTES = 4096


class LineLost(Exception):
    """The other side has hung up."""


class NothingShown(Unreachable):
    """The node at an address answers, and takes no pairing now."""


class PairingLine:
    """The bytes of one pairing.

    Args:
        raw: the connection; the caller of this class ends it.
        host: the other side's address, as limits count it.
    """

    def __init__(self, raw: SocketConnection, host: str) -> None:
        self.host = host
        self._raw = raw
        self._rest = raw.take_rest()
        self._room = memoryview(bytearray(_RECEIVE_BYTES))

    async def receive(self) -> bytes:
        """Wait for some bytes.

        Raises:
            LineLost: the other side has hung up.
        """
        if self._rest:
            rest, self._rest = self._rest, b""
            await trio.lowlevel.checkpoint()
            return rest
        count = await self._raw.receive_into(self._room)
        if not count:
            raise LineLost
        return bytes(self._room[:count])

    async def send(self, data: bytes) -> None:
        """Send everything.

        Raises:
            LineLost: the other side has hung up, or takes nothing.
        """
        try:
            await self._raw.send([data])
        except ConnectionError:
            raise LineLost from None

    def close(self) -> None:
        """End the connection."""
        self._raw.abort()


@dataclass(frozen=True)
class Door:
    """What the network asks about callers who want to pair.

    Attributes:
        is_open: whether one may come now.
        serve: talks to one; does not raise. The line is closed afterwards.
    """

    is_open: Callable[[], bool]
    serve: Callable[[PairingLine], Awaitable[None]]


async def _nobody(_: PairingLine) -> None:
    await trio.lowlevel.checkpoint()


SHUT = Door(lambda: False, _nobody)
"""Of a network that pairs with nobody."""


async def call(transport: Transport, address: str, limits: NetworkLimits) -> PairingLine:
    """Call a node to pair with it.

    Args:
        transport: makes the connection.
        address: its multiaddr.
        limits: how long to wait.

    Raises:
        NothingShown: nobody shows a code there.
        Unreachable: with the reason.
    """
    line = await transport.dial(address, timeout_seconds=limits.dial_seconds)
    host = line.host
    raw = SocketConnection(line, is_initiator=True, limits=limits)
    answers = Answers(PAIR_PROTOCOL)
    try:
        with trio.fail_after(limits.negotiate_seconds):
            await raw.send([proposal(PAIR_PROTOCOL)])
            agreed = False
            while not agreed:
                data = await raw.read(answers.missing)
                if not data:
                    raise Unreachable(f"the node at {address} hangs up")
                agreed = answers.receive_untrusted(data)
    except BaseException as error:
        raw.abort()
        if isinstance(error, Declined):
            raise NothingShown(f"no code is shown at {address} now") from None
        if isinstance(error, BadLine | ConnectionError | OSError):
            raise Unreachable(f"there is no node at {address} that can pair") from None
        if isinstance(error, trio.TooSlowError):
            raise Unreachable(f"the node at {address} does not answer") from None
        raise
    return PairingLine(raw, host)
