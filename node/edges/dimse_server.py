"""Listens for DICOM associations, with and without TLS; strangers cost little, and give way.

Of connections without an association the oldest are closed when there are too many: who says
nothing keeps nobody out.
"""

import contextlib
import hashlib
import ipaddress
import logging
import socket
import ssl
from functools import partial
from typing import Any

import trio

from node.edges.dimse_operation import Services
from node.edges.dimse_session import LOGGED, REQUEST_SECONDS, Counts, Line, Session
from node.edges.dimse_settings import Address, DimseSettings
from node.edges.doors import Doors
from node.edges.guests import Guest, Guests
from node.edges.tls import server_context
from node.errors import ExitCode, NodeError
from node.failures import describe_unexpected
from node.images.arrivals import Arrivals

log = logging.getLogger("radmesh.dimse")

_NO_TLS = "the TLS handshake failed"

ASSOCIATIONS = 256
"""Most associations at one time."""

STORING = 64
"""Most images that are taken in at one time; the others wait."""


class DimseServer:
    """The listeners of a node for DICOM.

    Args:
        settings: the table `dimse`.
        arrivals: takes the images.
        doors: offers what comes in by those that send on.
        services: what is done beside storing.

    Attributes:
        counts: what has happened since the start.
        addresses: where it listens.
    """

    def __init__(
        self, settings: DimseSettings, arrivals: Arrivals, doors: Doors, services: Services
    ) -> None:
        self._settings = settings
        self._services = services
        self._arrivals = arrivals
        self._doors = doors
        self._storing = trio.CapacityLimiter(STORING)
        self._guests = Guests()
        self._listeners: list[tuple[trio.SocketListener, ssl.SSLContext | None]] = []
        self.counts = Counts()
        self.addresses: tuple[tuple[str, int], ...] = ()

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return self._guests.admitted

    def describe(self) -> dict[str, Any]:
        """Where it listens and what has happened since the start, as JSON."""
        return {
            "addresses": [f"{host}:{port}" for host, port in self.addresses],
            "plain": [
                *(f"{title} from {place}" for title, place in self._settings.plain_links),
                *(
                    f"{what} to {title} at {place}"
                    for what, title, place in self._settings.plain_calls
                ),
            ],
            "associations": self.associations,
            "taken": self.counts.associations,
            "refused": dict(self.counts.refused),
            "images": dict(self.counts.images),
        }

    async def open(self) -> None:
        """Open the listeners.

        Raises:
            NodeError: an address is not ours or taken, or the files for TLS cannot be used.
        """
        places: list[tuple[Address, ssl.SSLContext | None]] = [
            (one, None) for one in self._settings.listen
        ]
        if self._settings.tls_listen:
            files = self._settings
            context = server_context("dimse", files.certificate, files.key, files.ca)
            places += [(one, context) for one in self._settings.tls_listen]
        for address, tls in places:
            try:
                found = await trio.open_tcp_listeners(address.port, host=address.host)
            except OSError as error:
                raise NodeError(
                    f"the node cannot listen for DICOM at {address.host} port {address.port}:"
                    f" {error.strerror}",
                    hint="see `dimse` in config.toml; is another program using the port?",
                    code=ExitCode.BUSY,
                ) from error
            self._listeners += [(one, tls) for one in found]
        self.addresses = tuple(one.socket.getsockname()[:2] for one, _ in self._listeners)

    async def run(self) -> None:
        """Take associations until cancelled."""
        async with trio.open_nursery() as nursery:
            for listener, tls in self._listeners:
                nursery.start_soon(
                    partial(trio.serve_listeners, partial(self._serve, tls), [listener])
                )

    async def _serve(self, tls: ssl.SSLContext | None, raw: trio.SocketStream) -> None:
        try:
            with self._guests.entered() as guest:
                await self._host(guest, tls, raw)
        except Exception as error:
            # A fault of ours in one association is not the end of the others.
            log.error("an association ended by a fault: %s", describe_unexpected(error))
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(raw)

    async def _host(self, guest: Guest, tls: ssl.SSLContext | None, raw: trio.SocketStream) -> None:
        try:
            address = _written(raw.socket.getpeername()[0])
            # Each answer is one small write, for which the other side waits.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            # It has gone already.
            return
        stream: trio.abc.Stream = _Prompt(raw)
        certificate = None
        if tls is not None:
            stream = secured = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
            try:
                with trio.move_on_after(REQUEST_SECONDS) as patience:
                    await secured.do_handshake()
            except trio.BrokenResourceError as error:
                self.counts.refused[_NO_TLS] += 1
                # A port scan does not fill the log.
                level = logging.INFO if self.counts.refused[_NO_TLS] <= LOGGED else logging.DEBUG
                log.log(level, "a TLS handshake from %s failed: %s", address, error.__cause__)
                return
            if patience.cancelled_caught:
                return
            shown = secured.getpeercert(binary_form=True)
            assert isinstance(shown, bytes)
            certificate = hashlib.sha256(shown).hexdigest()
        line = Line(stream=stream, address=address, certificate=certificate)
        admit = partial(self._admit, guest)
        session = Session(
            line,
            self._settings,
            self._arrivals,
            self._doors,
            self.counts,
            self._storing,
            self._services,
            admit,
        )
        await session.run()

    def _admit(self, guest: Guest) -> bool:
        return self._guests.admit(guest, ASSOCIATIONS)


def _written(address: str) -> str:
    """An address as settings have it: one of IPv4 also where a socket is for both kinds."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


class _Prompt(trio.abc.Stream):
    """A connection that acknowledges at once what it gets.

    Many senders leave Nagle's algorithm on: of each image they keep back the last piece until the
    one before is acknowledged, which Linux else puts off for 40 ms.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._option = getattr(socket, "TCP_QUICKACK", None)

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._option is not None:
            with contextlib.suppress(OSError):
                # The kernel forgets it by itself.
                self._stream.setsockopt(socket.IPPROTO_TCP, self._option, 1)
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()
