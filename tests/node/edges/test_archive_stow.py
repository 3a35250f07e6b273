"""STOW-RS and QIDO-RS with an archive that does what a test wants; Orthanc: `test_archiving`."""

import contextlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from archives_made import LOOPBACK, archive, sending, states, until
from certificates_made import Authority
from dimse_made import take_in
from facility_in_memory import entries
from studies_made import make_study

from node.edges import archive_web
from node.edges import archiving as archiving_module
from node.edges.archive_queue import DONE, FAILED, STORED, WAITS
from node.errors import NodeError
from node.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.integration]

Answer = tuple[int, bytes]


class Web:
    """A server whose answers a test makes.

    Attributes:
        post: gives the answer to a STOW request with these images (UIDs, ascending).
        get: gives the answer to a question, from its path.
        got: the images of each STOW request, and its header Authorization.
    """

    def __init__(self) -> None:
        self.got: list[tuple[list[str], str]] = []
        self.post: Callable[[list[str]], Answer] = stored
        self.get: Callable[[str], Answer] = lambda path: (204, b"")

    @contextlib.contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[int]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                boundary = self.headers["Content-Type"].rpartition("boundary=")[2].encode()
                parts = body.split(b"--" + boundary)
                assert parts[-1] == b"--\r\n"
                uids = [_uid(part) for part in parts[1:-1]]
                web.got.append((uids, self.headers.get("Authorization", "")))
                self._answer(*web.post(uids))

            def do_GET(self) -> None:
                assert self.headers["Accept"] == "application/dicom+json"
                self._answer(*web.get(self.path))

            def _answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _uid(part: bytes) -> str:
    found = re.search(rb"\x08\x00\x18\x00UI..([0-9.]+)", part, re.DOTALL)
    assert found is not None
    return found[1].decode()


def _told(**of: dict[str, int]) -> bytes:
    tags = {"stored": ("00081199", "00081196"), "failed": ("00081198", "00081197")}
    told: dict[str, Any] = {}
    for kind, images in of.items():
        sequence, reason = tags[kind]
        told[sequence] = {
            "vr": "SQ",
            "Value": [
                {
                    "00081155": {"vr": "UI", "Value": [uid]},
                    **({reason: {"vr": "US", "Value": [why]}} if why else {}),
                }
                for uid, why in images.items()
            ],
        }
    return json.dumps(told).encode()


def stored(uids: list[str]) -> Answer:
    return 200, _told(stored=dict.fromkeys(uids, 0))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North", listen=(), addresses=())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving_module, "FIRST_PAUSE_SECONDS", 0.05)


def at(port: int, **more: Any) -> Any:
    return archive(stow=f"http://{LOOPBACK}:{port}/web/", **{"proof": "none", **more})


async def test_what_it_refuses_of_a_request_is_told_image_by_image(
    home: Home, tmp_path: Path
) -> None:
    make_study(tmp_path / "in", 4)
    web = Web()

    def post(uids: list[str]) -> Answer:
        bad = {uid: 0xC122 for uid in uids if uid.endswith(".2")}
        warned = {uid: 0xB000 * uid.endswith(".3") for uid in uids if uid not in bad}
        return (202 if warned else 409), _told(stored=warned, failed=bad)

    web.post = post
    with web.running() as port:
        async with sending(home, at(port)) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [FAILED])
            [(_, _, refused)] = node.archive_queue.refused()
            assert (refused.status, refused.tries) == (0xC122, 3)
            assert [len(uids) for uids, _ in web.got] == [4, 1, 1]


async def test_what_went_before_it_was_full_does_not_go_again(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 4)
    web = Web()
    room = [2]

    def post(uids: list[str]) -> Answer:
        taken, rest = uids[: room[0]], uids[room[0] :]
        return 202, _told(stored=dict.fromkeys(taken, 0), failed=dict.fromkeys(rest, 0xA700))

    web.post = post
    with web.running() as port:
        async with sending(home, at(port)) as (node, archiving):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: "out of resources" in archiving.describe()[0]["trouble"])
            assert not node.archive_queue.refused()
            room[0] = 4
            archiving.try_now()
            await until(lambda: states(node) == [DONE])
            assert [len(uids) for uids, _ in web.got[:2]] == [4, 2]
            assert {len(uids) for uids, _ in web.got[1:]} == {2}


async def test_one_image_that_breaks_a_request_does_not_hold_up_the_others(
    home: Home, tmp_path: Path
) -> None:
    make_study(tmp_path / "in", 3)
    web = Web()
    web.post = lambda uids: (
        (500, b"broken") if any(one.endswith(".2") for one in uids) else stored(uids)
    )
    with web.running() as port:
        async with sending(home, at(port)) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [FAILED])
            [(_, _, refused)] = node.archive_queue.refused()
            assert refused.sop_uid.endswith(".2")
            assert refused.why == "HTTP status 500"


@pytest.mark.parametrize("status", [503, 401, 302, 200])
async def test_a_service_that_is_not_well_is_tried_again(
    home: Home, tmp_path: Path, status: int
) -> None:
    make_study(tmp_path / "in", 2)
    web = Web()
    # Status 200 with an answer that has no end that we would read.
    long = b" " * (archive_web.ANSWER_BYTES + 1)
    web.post = lambda uids: (status, long if status == 200 else b"")
    why = {503: "takes no images now", 401: "token", 302: "status 302", 200: "too long"}[status]
    with web.running() as port:
        async with sending(home, at(port)) as (node, archiving):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: why in archiving.describe()[0]["trouble"], why)
            assert states(node) == [WAITS]
            web.post = stored
            archiving.try_now()
            await until(lambda: states(node) == [DONE])


async def test_a_service_that_says_nothing_is_given_up(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_web, "STILL_SECONDS", 0.3)
    make_study(tmp_path / "in", 1)
    web = Web()
    let_go = threading.Event()
    is_silent = True

    def post(uids: list[str]) -> Answer:
        if is_silent:
            let_go.wait(20)
        return stored(uids)

    web.post = post
    with web.running() as port:
        async with sending(home, at(port)) as (node, archiving):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: "cannot be reached" in archiving.describe()[0]["trouble"])
            is_silent = False
            archiving.try_now()
            await until(lambda: states(node) == [DONE])
            let_go.set()


async def test_the_end_of_the_node_does_not_wait_for_it(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 1)
    web = Web()
    let_go = threading.Event()
    is_asked = threading.Event()

    def post(uids: list[str]) -> Answer:
        is_asked.set()
        let_go.wait(20)
        return stored(uids)

    web.post = post
    with web.running() as port:
        with trio.fail_after(15):
            async with sending(home, at(port)) as (node, _):
                await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
                await until(is_asked.is_set)
        assert not let_go.is_set()
        let_go.set()


async def test_over_tls_with_a_token_and_pages_of_an_answer(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 5)
    authority = Authority(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.issue(LOOPBACK, name="web"))
    (tmp_path / "token").write_text("secret-word\n")
    web = Web()
    asked: list[str] = []

    def get(path: str) -> Answer:
        asked.append(path)
        offset = int(path.rpartition("=")[2])
        have = [uid for uids, _ in web.got for uid in uids][offset : offset + 2]
        return 200, json.dumps(
            [{"00080018": {"vr": "UI", "Value": [one]}} for one in have]
        ).encode()

    web.get = get
    with web.running(tls) as port:
        settings = archive(
            stow=f"https://{LOOPBACK}:{port}", ca=str(authority.ca), token=str(tmp_path / "token")
        )
        async with sending(home, settings) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [STORED])
            assert {header for _, header in web.got} == {"Bearer secret-word"}
            assert [path.rpartition("=")[2] for path in asked] == ["0", "2", "4", "5"]
            assert len(entries(node, "stored")) == 1
        # A certificate of somebody else.
        async with sending(home, archive(stow=f"https://{LOOPBACK}:{port}")) as (node, archiving):
            with pytest.raises(NodeError, match="certificate is not accepted"):
                await archiving.check("PACS")
