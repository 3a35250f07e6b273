"""TLS for the listeners of edges: the Non-Downgrading BCP 195 profile of PS3.15 annex B.10."""

import ssl

from node.edges.dimse_settings import BCP_195_CIPHERS
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
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.set_ciphers(BCP_195_CIPHERS)
        context.load_cert_chain(certificate, key)
        if ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        names, number = (
            ("certificate, key or ca", "all three") if ca else ("certificate or key", "both")
        )
        raise NodeError(
            f"{names} of `{table}` in config.toml cannot be used: {why}",
            hint=f"{number} are files with PEM text; the key has no passphrase",
            code=ExitCode.USAGE,
        ) from error
    return context
