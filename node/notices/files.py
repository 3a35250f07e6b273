"""Files that the settings of notices name: secrets, and who is trusted for TLS. All blocks."""

import ssl
from pathlib import Path

from node.errors import ExitCode, NodeError

SECRET_BYTES = 4096


def read_secret(path: Path, setting: str) -> bytes:
    """The secret in a file, without white space around it.

    Raises:
        NodeError: the file cannot be read, is empty or too long; the text names the setting.
    """
    try:
        with path.open("rb") as file:
            secret = file.read(SECRET_BYTES + 1)
    except OSError as error:
        raise _unusable(setting, error.strerror or "it cannot be read") from error
    if not 0 < len(secret.strip()) <= SECRET_BYTES:
        raise _unusable(setting, f"it is empty, or longer than {SECRET_BYTES} bytes")
    return secret.strip()


def tls_context(ca: Path | None, setting: str) -> ssl.SSLContext:
    """TLS 1.2 or newer that checks the certificate and the name of the other side.

    Args:
        ca: file (PEM) of who is trusted; None for those of the system.
        setting: its name, for errors.

    Raises:
        NodeError: the file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except ssl.SSLError as error:
        raise _unusable(setting, error.reason or "it is not PEM") from error
    except OSError as error:
        raise _unusable(setting, error.strerror or "it cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _unusable(setting: str, why: str) -> NodeError:
    return NodeError(
        f"the file of {setting} cannot be used: {why}",
        hint="the user of the node must be able to read it",
        code=ExitCode.USAGE,
    )
