"""Debian's Orthanc as a PACS on loopback."""

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from facilities import free_port, wait_until

LOOPBACK = "127.0.0.1"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "radmesh", "secret"

with_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc") is None or not PLUGIN.exists(),
    reason="needs Debian's orthanc and orthanc-dicomweb: make dicom-peers",
)


@dataclass
class Orthanc:
    """One Orthanc with DICOM, REST and DICOMweb, which can be ended and started again.

    Attributes:
        directory: of its settings and files.
        title: its AE title.
        port: where it takes DICOM.
        http_port: where its REST API and DICOMweb are, for `USER` with `PASSWORD`.
        process: it, while it runs.
    """

    directory: Path
    title: str
    port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.directory / "orthanc.log").open("ab") as output:
            self.process = subprocess.Popen(
                ["Orthanc", str(self.directory / "orthanc.json")],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, what="Orthanc answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "orthanc.log").read_text()[-2000:]
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.port), 1):
            return bool(self.rest("GET", "/system"))
        return False

    @contextlib.contextmanager
    def running(self) -> Iterator["Orthanc"]:
        """Run it within the block; a kill ends it."""
        self.start()
        try:
            yield self
        finally:
            if self.process is not None:
                self.kill()

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """Power cut for the process."""
        self._end(lambda process: process.kill())

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        assert self.process is not None
        how(self.process)
        self.process.wait(timeout=20)
        self.process = None

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """A request of its REST API; of `/file` the bytes, else JSON.

        Raises:
            OSError: it does not answer, or refuses.
        """
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.http_port}{path}",
            method=method,
            data=data.encode() if isinstance(data, str) else data,
        )
        login = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            content = answer.read()
        return content if path.endswith("/file") else json.loads(content)

    def files(self) -> list[bytes]:
        """All instances that it has, as it gives them out."""
        return [
            self.rest("GET", f"/instances/{one}/file") for one in self.rest("GET", "/instances")
        ]


def made_orthanc(
    directory: Path, title: str = "PACS", *, calls: dict[str, tuple[str, int]] | None = None
) -> Orthanc:
    """An Orthanc that does not run yet.

    Args:
        directory: made for it.
        title: its AE title.
        calls: AE title and port on loopback of those that it may call, by name.
    """
    directory.mkdir(parents=True)
    found = Orthanc(directory, title)
    settings = {
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "storage"),
        "HttpPort": found.http_port,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "RemoteAccessAllowed": False,
        "DicomPort": found.port,
        "DicomAet": title,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowStore": True,
        "DicomModalities": {
            name: [called, LOOPBACK, port] for name, (called, port) in (calls or {}).items()
        },
        "OverwriteInstances": True,
        "SynchronousStorage": True,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (directory / "orthanc.json").write_text(json.dumps(settings))
    return found
