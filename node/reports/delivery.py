"""A syslog collector, reached over TLS (RFC 5425).

Syslog has no answer that says that a message arrived. The end of a connection is one: the
other side ends it in order only when it has read all that came before (`tls.py`). So
messages count as delivered when the connection that carried them was ended in order by
both sides; until then they are sent again. A message may therefore arrive more than once,
and none is left out.
"""

import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator

import trio

from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.reports.collector import Collector
from node.reports.tls import TlsClient

CONNECT_SECONDS = 15.0
SEND_SECONDS = 30.0
CONFIRM_SECONDS = 30.0

_BLOCK_BYTES = 64 * 1024
"""So much must go through in `SEND_SECONDS`."""


class Delivery:
    """One connection to a collector; see `open_delivery`."""

    def __init__(self, collector: Collector, tls: TlsClient) -> None:
        self._collector = collector
        self._tls = tls

    async def send(self, data: bytes) -> None:
        """Send framed messages; they count once `confirm` has returned.

        Raises:
            NodeError: the connection is lost or stands still.
        """
        for start in range(0, len(data), _BLOCK_BYTES):
            with _translated(self._collector, SEND_SECONDS):
                await self._tls.send_all(data[start : start + _BLOCK_BYTES])

    async def confirm(self) -> None:
        """End the connection in order: all that was sent has been read by the collector.

        Raises:
            NodeError: that is not known; all has to be sent again.
        """
        with _translated(self._collector, CONFIRM_SECONDS):
            if not await self._tls.end_confirmed():
                raise trio.BrokenResourceError


@contextlib.asynccontextmanager
async def open_delivery(collector: Collector) -> AsyncIterator[Delivery]:
    """A connection to a collector whose certificate holds and names the host.

    Raises:
        NodeError: it cannot be reached, or is not who it should be.
    """
    context = await in_thread(_tls_context, collector)
    with _translated(collector, CONNECT_SECONDS):
        transport = await trio.open_tcp_stream(collector.host, collector.port)
    try:
        tls = TlsClient(transport, context, collector.host)
        with _translated(collector, CONNECT_SECONDS):
            await tls.handshake()
        yield Delivery(collector, tls)
    finally:
        await trio.aclose_forcefully(transport)


def _tls_context(collector: Collector) -> ssl.SSLContext:
    path = collector.ca
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cafile=path)
        if collector.certificate is not None:
            path = collector.certificate
            context.load_cert_chain(path, collector.key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if not isinstance(error, ssl.SSLError) else error.reason
        raise NodeError(
            f"the certificate file {path} cannot be used: {reason or 'it is not PEM'}",
            hint="it must be a PEM file that the user of the node can read",
            code=ExitCode.USAGE,
        ) from error
    return context


@contextlib.contextmanager
def _translated(collector: Collector, seconds: float) -> Iterator[None]:
    """Bound a step in time, and say in words what goes wrong in it."""
    where = f"the collector {collector.address}"
    hint = "check its address and that it runs; what it did not take can be sent again"
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise NodeError(
            f"{where} did not answer within {seconds:.0f} s", hint=hint, code=ExitCode.UNREACHABLE
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise NodeError(
            f"{where} is not trusted: {error.verify_message}",
            hint="check its name and the file of its authority; nothing was sent",
            code=ExitCode.INTEGRITY,
        ) from error
    except (ssl.SSLError, trio.BrokenResourceError) as error:
        reason = getattr(error, "reason", None)
        raise NodeError(
            f"the connection to {where} was lost{f': {reason}' if reason else ''}",
            hint=hint,
            code=ExitCode.UNREACHABLE,
        ) from error
    except OSError as error:
        raise NodeError(
            f"{where} cannot be reached: {_reason(error)}", hint=hint, code=ExitCode.UNREACHABLE
        ) from error


def _reason(error: OSError) -> str:
    """Why; what trio raises for all addresses of a host has the reasons of each as cause."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    told = cause if isinstance(cause, OSError) else error
    return (os.strerror(told.errno).lower() if told.errno else told.strerror) or str(error)
