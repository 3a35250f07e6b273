"""The local API over its real socket: in this process, and with a node of its own."""

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from facilities import RADMESH, Facility

from node.api import endpoint
from node.api.client import call, is_running
from node.api.server import REQUEST_BYTES, serve_api
from node.app import Node
from node.errors import ExitCode, NodeError
from node.failures import HTTP_STATUS
from node.home import Home
from node.operations import OPERATIONS, Call, Operation
from node.operations.parameters import Nothing

# --- in this process --------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", name="North General")


@asynccontextmanager
async def _serving(home: Home) -> AsyncIterator[None]:
    with Node.open(home) as node:
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(serve_api, node, None, home.socket_path, ready.set)
            await ready.wait()
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()


async def _call(home: Home, operation: str, on_progress: Any = None, **parameters: Any) -> Any:
    return await trio.to_thread.run_sync(
        lambda: call(home, operation, parameters, on_progress), abandon_on_cancel=True
    )


def _add(monkeypatch: pytest.MonkeyPatch, name: str, run: Any) -> None:
    """Have an operation more, which takes nothing."""
    monkeypatch.setitem(OPERATIONS, name, Operation(name, Nothing, run, writes=False))


def _raw(home: Home, request: bytes) -> tuple[int, Any]:
    """Send bytes as they are; the status and the JSON of the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(home.socket_path))
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
        is_one = body.startswith(b"{") and body.count(b"\n") <= 1
        return answer.status, json.loads(body) if is_one else body


def _post(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        path.encode(),
        len(body),
        body,
    )


async def test_an_operation_and_the_health_over_the_socket(home: Home) -> None:
    async with _serving(home):
        assert (await _call(home, "card.own"))["name"] == "North General"
        status, body = await trio.to_thread.run_sync(
            _raw, home, b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        assert (status, body) == (200, {"ok": True, "pid": os.getpid()})


async def test_only_the_owner_reaches_the_socket(home: Home) -> None:
    async with _serving(home):
        found = home.socket_path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert stat.S_IMODE(home.socket_path.parent.stat().st_mode) == 0o700
    assert not home.socket_path.exists()


async def test_errors_keep_message_hint_and_code(home: Home) -> None:
    async with _serving(home):
        with pytest.raises(NodeError) as caught:
            await _call(home, "export", study="1.2.3.4.5.6", directory="/tmp/none")
        assert caught.value.code is ExitCode.NOT_FOUND
        assert caught.value.hint
        with pytest.raises(NodeError, match="no operation nonsense") as caught:
            await _call(home, "nonsense")
        assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (_post("/v1/status", b"not json"), 400),
        (_post("/v1/status", b"[1]"), 400),
        (_post("/v1/status", b'{"a":' * 10_000), 400),
        (_post("/v1/status", b" " * (REQUEST_BYTES + 1)), 400),
        (_post("/v1/no-such", b"{}"), 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)
async def test_bad_requests_are_answered_and_survived(
    home: Home, request_bytes: bytes, status: int
) -> None:
    async with _serving(home):
        answered, _ = await trio.to_thread.run_sync(_raw, home, request_bytes)
        assert answered == status
        assert (await _call(home, "card.own"))["name"] == "North General"


async def test_an_unexpected_error_tells_where_and_not_what(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> dict[str, Any]:
        async with trio.open_nursery():
            raise KeyError("Doe^John")

    async def give_bytes(*_: Any) -> dict[str, Any]:
        return {"value": b"Doe^John"}

    _add(monkeypatch, "fail", fail)
    _add(monkeypatch, "give.bytes", give_bytes)
    async with _serving(home):
        with pytest.raises(NodeError, match=r"\(KeyError in test_api\.py:\d+\)") as caught:
            await _call(home, "fail")
        assert caught.value.code is ExitCode.FAILED
        with pytest.raises(NodeError, match="TypeError"):
            await _call(home, "give.bytes")
        assert (await _call(home, "card.own"))["name"] == "North General"
    assert "KeyError" in caplog.text
    assert "Doe" not in caplog.text


async def test_an_error_in_a_group_is_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> dict[str, Any]:
        async with trio.open_nursery():
            raise NodeError("no disk", hint="buy one", code=ExitCode.DISK)

    _add(monkeypatch, "fail", fail)
    async with _serving(home):
        with pytest.raises(NodeError, match="no disk") as caught:
            await _call(home, "fail")
    assert (caught.value.hint, caught.value.code) == ("buy one", ExitCode.DISK)


@pytest.mark.parametrize("code", list(ExitCode), ids=lambda code: code.name)
async def test_the_status_of_an_error_tells_what_it_is(
    home: Home, monkeypatch: pytest.MonkeyPatch, code: ExitCode
) -> None:
    async def fail(*_: Any) -> dict[str, Any]:
        raise NodeError("it did not work", code=code)

    _add(monkeypatch, "fail", fail)
    async with _serving(home):
        status, body = await trio.to_thread.run_sync(_raw, home, _post("/v1/fail", b"{}"))
    assert status == HTTP_STATUS[code]
    assert body == {"error": {"message": "it did not work", "hint": "", "code": code}}


async def test_an_error_behind_a_line_of_progress_is_in_the_last_line(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(call: Call, _: Any) -> dict[str, Any]:
        call.report({"done": 1})
        await trio.sleep(0.05)
        raise NodeError("it did not work", code=ExitCode.DISK)

    _add(monkeypatch, "fail", fail)
    async with _serving(home):
        status, body = await trio.to_thread.run_sync(_raw, home, _post("/v1/fail", b"{}"))
    assert status == 200
    progress, error = map(json.loads, body.splitlines())
    assert progress == {"progress": {"done": 1}}
    assert error["error"]["code"] == ExitCode.DISK


async def test_progress_comes_in_order_and_the_newest_wins(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(call: Call, _: Any) -> dict[str, Any]:
        for number in range(1000):
            call.report({"number": number})
            if number % 100 == 0:
                await trio.testing.wait_all_tasks_blocked()
        return {"done": True}

    _add(monkeypatch, "work", work)
    seen: list[int] = []
    async with _serving(home):
        result = await _call(home, "work", lambda event: seen.append(event["number"]))
    assert result == {"done": True}
    assert seen == sorted(seen)
    # A report that nobody has sent yet gives way to the next.
    assert 1 <= len(seen) <= 10


async def test_a_client_that_goes_away_cancels_its_operation_and_nothing_else(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, cancelled = trio.Event(), trio.Event()

    async def forever(*_: Any) -> dict[str, Any]:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        return {}

    _add(monkeypatch, "forever", forever)
    async with _serving(home):
        client = await trio.open_unix_socket(str(home.socket_path))
        await client.send_all(_post("/v1/forever", b"{}"))
        await began.wait()
        await client.aclose()
        with trio.fail_after(5):
            await cancelled.wait()
        assert (await _call(home, "card.own"))["name"] == "North General"


async def test_half_requests_and_silent_clients_do_no_harm(home: Home) -> None:
    request = _post("/v1/card.own", b"{}")
    async with _serving(home):
        silent = [await trio.open_unix_socket(str(home.socket_path)) for _ in range(20)]
        for length in range(0, len(request) - 1, 3):
            client = await trio.open_unix_socket(str(home.socket_path))
            await client.send_all(request[:length])
            await client.aclose()
        assert (await _call(home, "card.own"))["name"] == "North General"
        for client in silent:
            await client.aclose()


def test_a_node_that_dies_while_it_answers(home: Home) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(home.socket_path))
    listener.listen()

    def die() -> None:
        for answer in (b"", b"HTTP/1.1 200 OK\r\n\r\n", b'HTTP/1.1 200 OK\r\n\r\n{"prog'):
            connection, _ = listener.accept()
            connection.recv(10_000)
            connection.sendall(answer)
            connection.close()

    thread = threading.Thread(target=die)
    thread.start()
    for _ in range(3):
        with pytest.raises(NodeError, match="the node stopped before it answered") as caught:
            call(home, "status", {})
        assert caught.value.code is ExitCode.BUSY
    thread.join()
    listener.close()


def test_without_a_node_the_home_itself_is_used(home: Home) -> None:
    assert call(home, "card.own", {})["name"] == "North General"
    assert call(home, "status", {})["running"] is False
    with pytest.raises(NodeError, match="is not running") as caught:
        call(home, "fetch", {"study": "1.2.3"})
    assert caught.value.code is ExitCode.BUSY
    home.lock()()  # it was given back


def test_a_command_waits_for_another_that_has_the_home(home: Home) -> None:
    release = home.lock()
    timer = threading.Timer(0.3, release)
    timer.start()
    assert call(home, "card.own", {})["name"] == "North General"
    timer.join()


def test_a_socket_that_others_can_reach_is_refused(home: Home, tmp_path: Path) -> None:
    home.path.chmod(0o755)
    with pytest.raises(NodeError, match="is open to other users") as caught:
        call(home, "status", {})
    assert caught.value.code is ExitCode.NO_HOME
    with (
        pytest.raises(NodeError, match="is open to other users"),
        endpoint.listening(home.socket_path),
    ):
        pass
    home.path.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(home.path)
    with pytest.raises(NodeError, match="is open to other users"):
        endpoint.connect(link / "api.sock", 1)


def test_the_socket_of_a_dead_node_is_replaced(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.socket_path))
    assert not is_running(home.socket_path)
    with endpoint.listening(home.socket_path):
        assert is_running(home.socket_path)
    assert not home.socket_path.exists()


# --- a node in a process of its own ------------------------------------------------------


@pytest.fixture
def facility(tmp_path: Path) -> Iterator[Facility]:
    made = Facility(tmp_path, "North General")
    made.start()
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()


@pytest.mark.slow
@pytest.mark.integration
def test_a_second_node_in_the_same_home_is_refused(facility: Facility) -> None:
    second = facility.cli("serve", check=False)
    assert second.returncode == ExitCode.BUSY
    assert second.stderr.splitlines() == [
        f"radmesh: error: the node of {facility.home.path} is running already",
        "radmesh: hint: see `radmesh status`",
    ]
    assert facility.call("status")["running"] is True


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_node_stops_in_time_with_clients_about(facility: Facility, number: int) -> None:
    process = facility.process
    assert process is not None
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(facility.home.socket_path))
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5
    assert not facility.home.socket_path.exists()
    assert [entry["type"] for entry in facility.entries()][-1] == "stop"
    facility.start()
    assert facility.call("status")["running"] is True


@pytest.mark.slow
@pytest.mark.integration
def test_after_a_kill_the_home_works_with_and_without_a_node(facility: Facility) -> None:
    facility.kill()
    assert facility.home.socket_path.exists()
    assert facility.call("status")["running"] is False
    facility.start()
    assert facility.call("status")["running"] is True


@pytest.mark.slow
@pytest.mark.integration
def test_a_home_too_deep_for_a_socket_has_it_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    facility = Facility(deep, "North General")
    try:
        facility.start()
        assert facility.home.path not in facility.home.socket_path.parents
        assert stat.S_IMODE(facility.home.socket_path.parent.stat().st_mode) == 0o700
        assert facility.call("status")["running"] is True
    finally:
        facility.stop()


@pytest.mark.slow
@pytest.mark.integration
def test_what_serve_says(tmp_path: Path) -> None:
    facility = Facility(tmp_path, "North General")
    with subprocess.Popen(
        [*RADMESH, "--home", str(facility.home.path), "serve"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        greeting = "".join(process.stdout.readline() for _ in range(4))
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert (greeting + rest).splitlines() == [
        f"North General is running (home {facility.home.path})",
        f"fingerprint {facility.home.read_card().fingerprint}",
        f"listening on {facility.address}",
        "Ctrl-C stops it",
        "stopping",
        "the node has stopped",
    ]
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.integration
def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    facility = Facility(tmp_path, "North General")
    with socket.socket() as other:
        other.bind(("127.0.0.1", facility.port))
        other.listen()
        ran = facility.cli("serve", check=False)
    assert ran.returncode not in (0, ExitCode.USAGE)
    assert ran.stderr.startswith("radmesh: error: ")
    assert str(facility.port) in ran.stderr
    assert "Traceback" not in ran.stderr
