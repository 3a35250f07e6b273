"""What systemd is told."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import RADMESH

from node import service
from node.api.client import is_running
from node.home import Home


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        yield listening


def test_a_state_is_one_datagram(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    service.tell(service.READY)
    assert manager.recv(100) == b"READY=1"


def test_a_name_that_is_in_no_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"radmesh-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        service.tell(service.STOPPING)
        assert listening.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "notify", "/none/such", "@radmesh-none", "/" + "x" * 200])
def test_where_nobody_listens_nothing_happens(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    service.tell(service.READY)


def test_a_manager_that_does_not_read_holds_up_nobody(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    for _ in range(1000):  # more than any queue takes
        service.tell(service.READY)


@pytest.mark.slow
@pytest.mark.integration
def test_a_node_is_ready_when_it_answers_and_says_that_it_stops(
    tmp_path: Path, manager: socket.socket
) -> None:
    home = Home.create(tmp_path / "home", name="North General", listen=("/ip4/127.0.0.1/tcp/0",))
    with subprocess.Popen(
        [*RADMESH, "--home", str(home.path), "serve"],
        env={**os.environ, "NOTIFY_SOCKET": manager.getsockname()},
        stdout=subprocess.DEVNULL,
    ) as process:
        assert manager.recv(100) == b"READY=1"
        assert is_running(home.socket_path)
        process.terminate()
        assert manager.recv(100) == b"STOPPING=1"
        assert process.wait(20) == 0
