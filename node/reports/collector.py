"""A syslog collector, as people write it in `config.toml` or on the command line."""

from dataclasses import dataclass
from pathlib import Path

from node.errors import ExitCode, NodeError

FORMATS = ("dicom", "json")
"""Content of a message: a DICOM audit message, which names studies and patients if their
openings are here; or the entry as it is in the log, which names nobody."""

DEFAULT_PORT = 6514
"""syslog-tls (RFC 5425 section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class Collector:
    """A collector of syslog messages.

    Attributes:
        host: name or address; the collector's certificate must be for it.
        port: TCP port.
        ca: file (PEM) of the authority that signed the collector's certificate.
        certificate: file (PEM) of our certificate, if the collector asks for one.
        key: file (PEM) of its key; None when the key is in `certificate`.
        form: content of the messages, one of `FORMATS`.
    """

    host: str
    port: int
    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    form: str = "dicom"

    @property
    def address(self) -> str:
        """Host and port as one text."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_collector(
    address: str, ca: str, certificate: str = "", key: str = "", form: str = "dicom"
) -> Collector:
    """Read a collector as people name it.

    Args:
        address: `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
        ca: path of the authority's certificate.
        certificate: path of our certificate, or "".
        key: path of its key, or "".
        form: one of `FORMATS`.

    Raises:
        NodeError: one of these values is malformed.
    """
    host, separator, port = address.strip().rpartition(":")
    if not separator or (address.count(":") > 1 and not address.startswith("[")):
        host, port = address.strip(), str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise _usage(f"{address!r} is no address of a collector", "write HOST:PORT")
    if not ca:
        raise _usage(
            "the collector's authority is missing",
            "name the file (PEM) of the authority that signed the collector's certificate",
        )
    if key and not certificate:
        raise _usage("there is a key for the collector and no certificate", "name both")
    if form not in FORMATS:
        raise _usage(f"there is no message format {form!r}", f"it is one of {', '.join(FORMATS)}")
    return Collector(
        host=host,
        port=int(port),
        ca=Path(ca),
        certificate=Path(certificate) if certificate else None,
        key=Path(key) if key else None,
        form=form,
    )


def _usage(message: str, hint: str) -> NodeError:
    return NodeError(message, hint=hint, code=ExitCode.USAGE)
