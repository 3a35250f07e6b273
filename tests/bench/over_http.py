"""Orthanc to Orthanc over its peer interface, plain HTTP, as two departments set it up.

The source has the study in its own storage before the clock starts, like a
Radmesh node. Orthanc answers requests of this machine only.
"""

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facilities import free_port
from processes import program, server
from rivals import Tool

_ANSWER_SECONDS = 600


class OrthancPeers(Tool):
    """One Orthanc stores a study at another."""

    name = "Orthanc peers, HTTP"
    encrypted = False
    programs = (("Orthanc", "orthanc"),)

    def __init__(self) -> None:
        self._far = self._near = 0

    @contextlib.contextmanager
    def serve(self, directory: Path, landed: Path) -> Iterator[int]:
        """Run the receiving Orthanc."""
        with _orthanc(directory, "receiver", landed, {}) as port:
            self._far = port
            yield port

    @contextlib.contextmanager
    def prepare(self, directory: Path, source: Path, port: int) -> Iterator[None]:
        """Run the sending Orthanc and give it the study."""
        storage = directory / "storage"
        storage.mkdir()
        peers = {"far": {"Url": f"http://127.0.0.1:{port}/"}}
        with _orthanc(directory, "sender", storage, peers) as self._near:
            for path in sorted(source.iterdir()):
                _ask(self._near, "POST", "/instances", path.read_bytes())
            yield

    def send(self, directory: Path, source: Path, port: int, landed: Path) -> None:
        """Store the study at the peer."""
        studies = _ask(self._near, "GET", "/studies")
        body = {"Resources": studies, "Synchronous": True}
        _ask(self._near, "POST", "/peers/far/store", json.dumps(body).encode())

    def arrived(self, landed: Path) -> int:
        """What the receiver says; its storage holds more files than instances."""
        return int(_ask(self._far, "GET", "/statistics")["CountInstances"])


@contextlib.contextmanager
def _orthanc(
    directory: Path, name: str, storage: Path, peers: dict[str, dict[str, str]]
) -> Iterator[int]:
    port = free_port()
    settings = directory / f"{name}.json"
    settings.write_text(
        json.dumps(
            {
                "Name": name,
                "HttpPort": port,
                "StorageDirectory": str(storage),
                "IndexDirectory": str(storage),
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomServerEnabled": False,
                "OrthancPeers": peers,
                "Plugins": [],
            }
        )
    )
    orthanc = program("Orthanc")
    assert orthanc is not None
    with server([orthanc, str(settings)], port, log=directory / f"{name}.log"):
        yield port


def _ask(port: int, method: str, path: str, body: bytes = b"") -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"Orthanc: {method} {path}: {answer.status} {content[:500]!r}")
    return json.loads(content)
