"""dcmtk's storescu and storescp, as they come and as somebody who measures sets them up."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from facilities import free_port
from processes import run, server
from rivals import Tool

_TUNED = {"TCP_NODELAY": "1", "TCP_BUFFER_LENGTH": "1048576"}
"""Without the first every image waits for a delayed acknowledgement, 40 ms each."""

_LARGEST_PDU = "131072"


class Dcmtk(Tool):
    """storescu to storescp.

    Args:
        tuned: no Nagle, the largest PDU, files written as they are read, and TLS.
    """

    def __init__(self, *, tuned: bool) -> None:
        self.encrypted = tuned
        self.slow = not tuned
        self.name = "dcmtk tuned, TLS" if tuned else "dcmtk, defaults"
        self.programs = (("storescu", "dcmtk"), ("storescp", "dcmtk"), ("openssl", "openssl"))
        self._environment = _TUNED if tuned else {}

    def _tls(self, directory: Path) -> list[str]:
        if not self.encrypted:
            return []
        key, certificate = str(directory / "key.pem"), str(directory / "certificate.pem")
        if not Path(key).exists():
            run(
                [
                    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                    *("-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate),
                ]
            )
        return ["-pdu", _LARGEST_PDU, "+tls", key, certificate, "+cf", certificate]

    @contextlib.contextmanager
    def serve(self, directory: Path, landed: Path) -> Iterator[int]:
        """Run storescp."""
        port = free_port()
        words = ["storescp", *self._tls(directory), *(["+B"] if self.encrypted else [])]
        words += ["-od", str(landed), str(port)]
        log = directory / "storescp.log"
        with server(words, port, log=log, environment=self._environment):
            yield port

    def send(self, directory: Path, source: Path, port: int, landed: Path) -> None:
        """Send all images of a directory over one association."""
        tuned = ["--max-send-pdu", _LARGEST_PDU, "-R"] if self.encrypted else []
        words = ["storescu", *self._tls(directory), *tuned, "127.0.0.1", str(port)]
        run([*words, "+sd", "+r", str(source)], environment=self._environment)
