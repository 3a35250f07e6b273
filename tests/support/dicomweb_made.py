"""A node that serves DICOMweb, and Orthanc with its plugin, for tests."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from facilities import Facility, free_port
from orthanc_made import PASSWORD, USER, made_orthanc

TOKEN = "a token of 32 random bytes in hex"


def settings_of(port: int, *, more: str = "", purpose: str = "treatment") -> str:
    """A table `dicomweb` with one caller, and a quick packing of what it sends."""
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    return f"""
[dicomweb]
listen = ["127.0.0.1:{port}"]
{more}

[dicomweb.callers."VIEWER"]
token_digest = "{digest}"
store = true
purpose = "{purpose}"

[arrivals."dicomweb"]
quiet_seconds = 1
"""


class Web:
    """Requests to one DICOMweb server."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self.session = requests.Session()
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, accept: str = "*/*", **headers: str) -> requests.Response:
        """The answer to a GET."""
        return self.session.get(self.url + path, headers={"Accept": accept, **headers}, timeout=60)

    def json(self, path: str) -> Any:
        """The JSON of an answer."""
        answer = self.get(path, "application/dicom+json")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def store(self, bodies: list[bytes], path: str = "/studies") -> requests.Response:
        """The answer to images that are sent."""
        return self.session.post(
            self.url + path,
            data=multipart(bodies),
            headers={
                "Content-Type": 'multipart/related; type="application/dicom"; boundary=BB',
                "Accept": "application/dicom+json",
            },
            timeout=60,
        )


def multipart(bodies: list[bytes]) -> bytes:
    """A body of parts of DICOM files."""
    parts = [b"--BB\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in bodies]
    return b"".join(parts) + b"--BB--\r\n"


def parts_of(answer: requests.Response) -> list[tuple[dict[str, str], bytes]]:
    """Headers and content of the parts of an answer; split by its boundary, without our reader."""
    boundary = answer.headers["Content-Type"].split("boundary=")[1].split(";")[0].strip('"')
    assert answer.content.startswith(f"--{boundary}\r\n".encode())
    assert answer.content.endswith(f"\r\n--{boundary}--\r\n".encode()) or (
        answer.content.endswith(f"\r\n--{boundary}--".encode())
    )
    found = []
    for part in answer.content.split(f"--{boundary}".encode())[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        lines = [line.split(": ", 1) for line in head.decode().strip().split("\r\n")]
        found.append(({name.lower(): value for name, value in lines}, body[:-2]))
    return found


def web_of(port: int) -> Web:
    """Requests to a node of `settings_of`."""
    return Web(f"http://127.0.0.1:{port}/dicom-web", TOKEN)


@contextlib.contextmanager
def web_node(directory: Path, *, more: str = "") -> Iterator[tuple[Facility, Web]]:
    """A node that serves DICOMweb on loopback."""
    facility, port = Facility(directory, "North Hospital"), free_port()
    with facility.home.config_path.open("a") as settings:
        settings.write(settings_of(port, more=more))
    facility.start()
    try:
        yield facility, web_of(port)
    finally:
        facility.kill()


@contextlib.contextmanager
def orthanc_web(directory: Path) -> Iterator[Web]:
    """Orthanc with its DICOMweb plugin, empty."""
    with made_orthanc(directory / "orthanc").running() as found:
        web = Web(f"http://127.0.0.1:{found.http_port}/dicom-web")
        web.session.auth = (USER, PASSWORD)
        yield web


class Together:
    """Runs a function in several threads at once, and keeps what each returns."""

    def __init__(self, work: Any, times: int) -> None:
        self.results: list[Any] = []
        self._threads = [
            threading.Thread(target=lambda: self.results.append(work())) for _ in range(times)
        ]
        for one in self._threads:
            one.start()

    def wait(self) -> list[Any]:
        """What all returned."""
        for one in self._threads:
            one.join(60)
        return self.results
