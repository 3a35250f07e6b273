"""Debian's Orthanc as a PACS on loopback."""

import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from facilities import free_port, wait_until

LOOPBACK = "127.0.0.1"
ABSENT = "needs Debian's orthanc: make dicom-peers (or: apt install orthanc)"
with_orthanc = pytest.mark.skipif(shutil.which("Orthanc") is None, reason=ABSENT)


@dataclass
class Orthanc:
    """One Orthanc, which can be ended and started again.

    Attributes:
        directory: of its settings and files.
        port: where it takes DICOM.
        http_port: where its REST API is.
        process: it, while it runs.
    """

    directory: Path
    port: int
    http_port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.directory / "orthanc.log").open("ab") as output:
            self.process = subprocess.Popen(
                ["Orthanc", str(self.directory / "orthanc.json")],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, 30, "Orthanc answers")

    def _answers(self) -> bool:
        try:
            return bool(self.rest("GET", "/system"))
        except OSError:
            return False

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """Power cut for the process."""
        self._end(lambda process: process.kill())

    def _end(self, how: Any) -> None:
        assert self.process is not None
        how(self.process)
        self.process.wait(timeout=20)
        self.process = None

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """A request of its REST API.

        Raises:
            OSError: it does not answer, or refuses.
        """
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.http_port}{path}",
            method=method,
            data=data.encode() if isinstance(data, str) else data,
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


@contextlib.contextmanager
def orthanc(directory: Path, modalities: dict[str, tuple[str, int]]) -> Iterator[Orthanc]:
    """Run an Orthanc with the AE title ORTHANC.

    Args:
        directory: made for it.
        modalities: AE title and port on loopback of those that it may call, by name.
    """
    directory.mkdir()
    found = Orthanc(directory, free_port(), free_port())
    settings = {
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "storage"),
        "HttpPort": found.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": found.port,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomModalities": {
            name: [title, LOOPBACK, port] for name, (title, port) in modalities.items()
        },
        "SynchronousStorage": True,
        "Plugins": [],
    }
    (directory / "orthanc.json").write_text(json.dumps(settings))
    try:
        found.start()
        yield found
    finally:
        if found.process is not None:
            found.kill()
