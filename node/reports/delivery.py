"""A syslog collector, reached over TLS (RFC 5425).

Syslog has no answer that confirms a message. The orderly end of a connection serves as one:
the other side ends it in order only when it has read all messages before (`tls.py`). So
messages count as delivered when both sides have ended their connection in order; until then
they are sent again. A message may therefore arrive more than once, but none is lost.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator

import trio

from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.failures import os_reason
from node.reports.collector import Collector
from node.reports.tls import TlsClient

CONNECT_SECONDS = 15.0
SEND_SECONDS = 30.0
CONFIRM_SECONDS = 30.0

_BLOCK_BYTES = 64 * 1024
"""So many bytes must be sent within `SEND_SECONDS`."""


class Delivery:
    """One connection to a collector; see `open_delivery`."""

    def __init__(self, collector: Collector, tls: TlsClient) -> None:
        self._collector = collector
        self._tls = tls

    async def send(self, data: bytes) -> None:
        """Send framed messages; they count as delivered once `confirm` has returned.

        Raises:
            NodeError: the connection is lost or stalled.
        """
        for start in range(0, len(data), _BLOCK_BYTES):
            with _translated(self._collector, SEND_SECONDS):
                await self._tls.send_all(data[start : start + _BLOCK_BYTES])

    async def confirm(self) -> None:
        """End the connection in order; on return the collector has read all that was sent.

        Raises:
            NodeError: the end was not in order; all messages have to be sent again.
        """
        with _translated(self._collector, CONFIRM_SECONDS):
            if not await self._tls.end_confirmed():
                raise trio.BrokenResourceError


@contextlib.asynccontextmanager
async def open_delivery(collector: Collector) -> AsyncIterator[Delivery]:
    """Connect to a collector, and check that its certificate is valid and names the host.

    Raises:
        NodeError: the collector cannot be reached, or its certificate is wrong.
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
    """Limit the time of a step, and turn its errors into a NodeError."""
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
            f"{where} cannot be reached: {os_reason(error)}", hint=hint, code=ExitCode.UNREACHABLE
        ) from error
