"""TCP below libp2p: addresses, listening, dialling, and callers not yet identified.

Knows nothing of peers and keys. Radmesh listens by itself, because libp2p's listener reports
nothing when the port is taken, shares the port with a second process (SO_REUSEPORT) that then gets
half of the callers, and does not report the address of an IPv6 caller, so that a limit per address
cannot work.
"""

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import trio

from node.errors import ExitCode, NodeError

LISTEN_BACKLOG = 256

_FAMILIES = {
    "ip4": socket.AF_INET,
    "ip6": socket.AF_INET6,
    "dns": socket.AF_UNSPEC,
    "dns4": socket.AF_INET,
    "dns6": socket.AF_INET6,
}


class Unreachable(NodeError):
    """A peer cannot be reached; the message is a sentence for the operator."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=ExitCode.UNREACHABLE)


@dataclass(frozen=True)
class TcpAddress:
    """`/<kind>/<host>/tcp/<port>`, the only form of multiaddr that Radmesh uses.

    Attributes:
        kind: ip4, ip6, dns, dns4 or dns6.
        host: an address or a name, without brackets.
        port: 0..65535; 0 only to listen on a port that the system picks.
    """

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.kind}/{self.host}/tcp/{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        """The address family that `getaddrinfo` may answer with."""
        return _FAMILIES[self.kind]


def parse_address(text: str) -> TcpAddress:
    """Read a multiaddr; a trailing `/p2p/<id>` is allowed and ignored.

    It is ignored because peers are known by the key in their card, never by what
    an address claims.

    Raises:
        ValueError: it is not an address that we can dial or listen on.
    """
    parts = text.split("/")
    if len(parts) == 7 and parts[5] == "p2p":
        parts = parts[:5]
    if len(parts) != 5 or parts[0] or parts[1] not in _FAMILIES or parts[3] != "tcp":
        raise ValueError(f"{text!r} is not of the form /ip4/192.0.2.1/tcp/4101")
    kind, host, port_text = parts[1], parts[2], parts[4]
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) <= 65_535):
        raise ValueError(f"{text!r} has no port between 0 and 65535")
    if kind in ("ip4", "ip6"):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{text!r} has no usable address") from None
        if address.version != int(kind[-1]):
            raise ValueError(f"{text!r} has no usable address")
        host = str(address)
    elif not host or len(host) > 253 or not host.isascii() or not host.isprintable():
        raise ValueError(f"{text!r} has no usable host name")
    return TcpAddress(kind, host, int(port_text))


async def open_listeners(addresses: Sequence[str]) -> list[trio.SocketListener]:
    """Bind and listen on every address, or on none.

    SO_REUSEADDR without SO_REUSEPORT: a restart does not wait for old connections to time out, and
    a port that is in use is refused.

    Raises:
        NodeError: an address is malformed, or the port is taken or not allowed.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for text in addresses:
            try:
                address = parse_address(text)
            except ValueError as error:
                raise NodeError(
                    f"cannot listen: {error}",
                    hint="correct the listen addresses in config.toml",
                    code=ExitCode.USAGE,
                ) from error
            listeners.append(await _listen(address))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _listen(address: TcpAddress) -> trio.SocketListener:
    try:
        found = await trio.socket.getaddrinfo(
            address.host, address.port, address.family, socket.SOCK_STREAM
        )
        family, kind, protocol, _, bind_to = found[0]
        sock = trio.socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            await sock.bind(bind_to)
            sock.listen(LISTEN_BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise NodeError(
            f"cannot listen on {address}: "
            + ("the port is taken" if taken else describe_os_error(error)),
            hint="stop the program that uses it, or choose another port in config.toml",
            code=ExitCode.BUSY if taken else ExitCode.FAILED,
        ) from error
    return trio.SocketListener(sock)


def bound_address(listener: trio.SocketListener) -> str:
    """The multiaddr a listener is bound to, with the real port."""
    host, port = listener.socket.getsockname()[:2]
    kind = "ip6" if listener.socket.family == socket.AF_INET6 else "ip4"
    return str(TcpAddress(kind, host, port))


async def dial(text: str, *, timeout_seconds: float) -> trio.SocketStream:
    """Open a TCP connection.

    Names are resolved by the system (hosts file included; libp2p asks only DNS
    servers) and every answer is tried in turn within the one timeout.

    Raises:
        Unreachable: with the reason.
    """
    try:
        address = parse_address(text)
    except ValueError as error:
        raise Unreachable(str(error)) from error
    reason = "the name has no address"
    with trio.move_on_after(timeout_seconds):
        try:
            found = await trio.socket.getaddrinfo(
                address.host, address.port, address.family, socket.SOCK_STREAM
            )
        except OSError as error:
            raise Unreachable(f"the name {address.host} does not resolve") from error
        for family, kind, protocol, _, target in found:
            sock = trio.socket.socket(family, kind, protocol)
            try:
                await sock.connect(target)
            except OSError as error:
                sock.close()
                reason = describe_os_error(error)
            except BaseException:
                sock.close()
                raise
            else:
                return trio.SocketStream(sock)
        raise Unreachable(f"{address.host} port {address.port}: {reason}")
    raise Unreachable(f"{address.host} port {address.port}: no answer within {timeout_seconds:g} s")


def describe_os_error(error: OSError) -> str:
    """The system's own words, lower case, without numbers and file names."""
    return os.strerror(error.errno).lower() if error.errno else "network error"


def remote_host(stream: trio.SocketStream) -> str:
    """The caller's address for limits: of an IPv6 caller the /64, as it owns all of that.

    Returns "" when the caller is gone already.
    """
    try:
        host = str(stream.socket.getpeername()[0])
    except OSError:
        return ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return host


class Doorstep:
    """Callers that have not proved who they are yet, up to a limit.

    When a host, or all hosts together, have too many, the caller that has waited longest is sent
    away, and not the newcomer: an honest peer needs its place for milliseconds, so silent sockets
    make room for it and not the other way round.

    Args:
        per_host: most callers of one host.
        total: most callers.
    """

    def __init__(self, per_host: int, total: int) -> None:
        self._per_host = per_host
        self._total = total
        self._waiting: dict[trio.CancelScope, str] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @contextlib.contextmanager
    def wait(self, host: str) -> Iterator[trio.CancelScope]:
        """Hold a place; the body is cancelled when the place is needed."""
        self._make_room([s for s, h in self._waiting.items() if h == host], self._per_host)
        self._make_room(list(self._waiting), self._total)
        with trio.CancelScope() as scope:
            self._waiting[scope] = host
            try:
                yield scope
            finally:
                self._waiting.pop(scope, None)

    def _make_room(self, scopes: list[trio.CancelScope], most: int) -> None:
        for scope in scopes[: max(0, len(scopes) - most + 1)]:
            del self._waiting[scope]
            scope.cancel()
