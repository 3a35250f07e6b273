"""TLS towards systems of the hospital that the node calls."""

import ssl

from node.edges.dimse_settings import BCP_195_CIPHERS, DimseSettings
from node.errors import ExitCode, NodeError


def tls_to_call(settings: DimseSettings) -> ssl.SSLContext:
    """To call a system over TLS, whose certificate names the place where it is called.

    Raises:
        NodeError: the files cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(BCP_195_CIPHERS)
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise NodeError(
            "certificate, key or ca of `dimse` in config.toml cannot be used",
            code=ExitCode.USAGE,
        ) from error
    return context
