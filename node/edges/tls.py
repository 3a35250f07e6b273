"""TLS of the edges, both ways: the Non-Downgrading BCP 195 profile of PS3.15 annex B.10."""

import contextlib
import ssl
from collections.abc import Iterator

from node.edges.dimse_settings import BCP_195_CIPHERS, DimseSettings
from node.errors import ExitCode, NodeError


def server_context(table: str, certificate: str, key: str, ca: str = "") -> ssl.SSLContext:
    """How a listener talks TLS.

    Args:
        table: of `config.toml`, for an error.
        certificate, key: files with those of the node.
        ca: file with the certificates of who signs those of the callers; "" asks them for none.

    Raises:
        NodeError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names, number = (
        ("certificate, key or ca", "all three") if ca else ("certificate or key", "both")
    )
    with _said(f"{names} of `{table}` in config.toml", number):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(BCP_195_CIPHERS)
        context.load_cert_chain(certificate, key)
        if ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(ca)
    return context


def client_context(whose: str, ca: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """How a system is called over TLS, whose certificate names the place where it is called.

    Args:
        whose: files, for an error, such as "`dimse` in config.toml".
        ca: file with the certificates of who signs that of the other side; "" for those of the
            machine.
        certificate, key: files with those of the node, or "".

    Raises:
        NodeError: a file cannot be used.
    """
    with _said(f"ca, certificate or key of {whose}", "all three"):
        context = ssl.create_default_context(cafile=ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(BCP_195_CIPHERS)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    return context


def tls_to_call(settings: DimseSettings) -> ssl.SSLContext:
    """How a caller of ours is called over TLS, with the files of its listeners.

    Raises:
        NodeError: a file cannot be used.
    """
    files = settings.ca, settings.certificate, settings.key
    return client_context("`dimse` in config.toml", *files)


@contextlib.contextmanager
def _said(which: str, number: str) -> Iterator[None]:
    """Turn what is wrong with files into a sentence for people."""
    try:
        yield
    except (OSError, ssl.SSLError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise NodeError(
            f"{which} cannot be used: {why}",
            hint=f"{number} are files with PEM text; the key has no passphrase",
            code=ExitCode.USAGE,
        ) from error
