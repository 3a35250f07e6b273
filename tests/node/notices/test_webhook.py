"""The webhook, against a real https server with a certificate of a test authority."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from certificates_made import Authority
from clocks_made import MadeClock
from notices_made import SECRET, Hook, hook, slowly

from node.errors import NodeError
from node.notices.message import Message
from node.notices.settings import WebhookSettings, is_url, read_webhook
from node.notices.webhook import Webhook, signature

pytestmark = pytest.mark.integration

MESSAGE = Message(
    id="ab" * 16,
    made=1_800_000_000,
    facility="ABC",
    subject="approval",
    severity="warning",
    count=2,
    text="2 requests wait for approval",
    next="see `radmesh requests`",
    about=("7", "8"),
    entries=(40, 41),
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Iterator[Hook]:
    with hook(authority.issue("localhost")) as found:
        yield found


def _webhook(directory: Path, port: int, path: str = "/radmesh?token=t0ken") -> Webhook:
    settings = WebhookSettings(
        url=f"https://localhost:{port}{path}",
        secret=directory / "secret",
        ca=directory / "authority.pem",
    )
    return Webhook(settings, MadeClock())


async def _fails(webhook: Webhook) -> str:
    with pytest.raises(NodeError) as caught:
        await webhook.send(MESSAGE)
    assert "t0ken" not in caught.value.message
    assert SECRET not in caught.value.message + caught.value.hint
    return caught.value.message


async def test_a_signed_body_with_entries_and_no_names_arrives(
    server: Hook, tmp_path: Path
) -> None:
    webhook = _webhook(tmp_path, server.port)
    await webhook.send(MESSAGE)
    assert server.paths == ["/radmesh?token=t0ken"]
    assert server.got == [
        {
            "id": "ab" * 16,
            "time": "2027-01-15T08:00:00Z",
            "facility": "ABC",
            "subject": "approval",
            "severity": "warning",
            "count": 2,
            "text": "2 requests wait for approval",
            "next": "see `radmesh requests`",
            "about": ["7", "8"],
            "entries": [40, 41],
        }
    ]
    # The server has compared the signature; its time is that of the node.
    assert server.heads[0]["radmesh-signature"].startswith(f"t={MadeClock().now()},v1=")
    assert server.heads[0]["content-type"] == "application/json"
    assert "t0ken" not in webhook.name + webhook.place


def test_the_signature_is_as_a_second_source_computes_it() -> None:
    # printf '1800000000.{"a":1}' | openssl dgst -sha256 -hmac 'key'
    assert signature(b"key", b'{"a":1}', 1_800_000_000) == (
        "t=1800000000,v1=7330c9cf7d886970cbebbbb5494c04d2aeff06a990adb7d7a75abfeb0159d291"
    )
    with pytest.raises(AssertionError):
        Hook.check(signature(b"another secret", b"{}", 1), b"{}")
    Hook.check(signature(SECRET.encode(), b"{}", 1), b"{}")
    with pytest.raises(AssertionError):
        Hook.check(signature(SECRET.encode(), b"{}", 1), b"{ }")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(server: Hook, tmp_path: Path, status: int) -> None:
    server.answer = lambda path: iter(
        [b"HTTP/1.1 %d x\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, path.encode())]
    )
    assert f"a redirect ({status})" in await _fails(_webhook(tmp_path, server.port))
    assert len(server.paths) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503])
async def test_a_server_that_does_not_take_it_is_told_of(
    server: Hook, tmp_path: Path, status: int
) -> None:
    server.answer = lambda path: iter([b"HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\nno" % status])
    assert (await _fails(_webhook(tmp_path, server.port))).endswith(f"it answers {status}")


async def test_a_huge_answer_is_not_read(server: Hook, tmp_path: Path) -> None:
    sent = 0

    def answer(path: str) -> Iterator[bytes]:
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n"
        while True:
            yield bytes(65_536)
            sent += 65_536

    server.answer = answer
    with trio.fail_after(10):
        await _webhook(tmp_path, server.port).send(MESSAGE)
    # What fits into the buffers of two sockets, and no more.
    assert sent < 64 * 1024 * 1024


async def test_endless_headers_are_not_read_on(server: Hook, tmp_path: Path) -> None:
    def answer(path: str) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        while True:
            yield b"X: " + bytes(4096).replace(b"\0", b"x") + b"\r\n"

    server.answer = answer
    with trio.fail_after(10):
        await _fails(_webhook(tmp_path, server.port))


async def test_a_slow_server_is_left_when_the_time_is_over(server: Hook, tmp_path: Path) -> None:
    server.answer = lambda path: slowly([b"H"] * 100, 0.05)
    with trio.move_on_after(0.1) as patience:
        await _webhook(tmp_path, server.port).send(MESSAGE)
    assert patience.cancelled_caught


async def test_a_server_that_breaks_off_or_says_nonsense(server: Hook, tmp_path: Path) -> None:
    for answer in ([], [b"HTTP/1.1 2"], [b"SSH-2.0-x\r\n\r\n"], [b"\0" * 1000]):
        server.answer = lambda path, answer=answer: iter(answer)
        assert "did not take it" in await _fails(_webhook(tmp_path, server.port))


async def test_only_the_authority_of_the_settings_is_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    for identity in (stranger.issue("localhost"), authority.issue("elsewhere", name="wrong")):
        with hook(identity) as server:
            why = await _fails(_webhook(tmp_path, server.port))
            assert "its certificate is not trusted" in why
            assert server.got == []


async def test_a_server_that_is_away_or_does_not_speak_tls(tmp_path: Path, authority) -> None:
    with hook(authority.issue("localhost")) as server:
        port = server.port
    assert "connection refused" in await _fails(_webhook(tmp_path, port))


async def test_a_secret_that_is_missing_or_short_is_named(server: Hook, tmp_path: Path) -> None:
    webhook = _webhook(tmp_path, server.port)
    (tmp_path / "secret").write_text("short")
    assert "less than 16 characters" in await _fails(webhook)
    (tmp_path / "secret").write_text("")
    assert "webhook.secret cannot be used" in await _fails(webhook)
    (tmp_path / "secret").unlink()
    assert "webhook.secret cannot be used: No such file" in await _fails(webhook)
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "authority.pem").write_text("nonsense")
    assert "webhook.ca cannot be used" in await _fails(webhook)
    assert server.got == []


def test_settings(tmp_path: Path) -> None:
    found = read_webhook({"url": "https://a.example/x", "secret": "s", "ca": "/c"}, tmp_path)
    assert found == WebhookSettings(url="https://a.example/x", secret=tmp_path / "s", ca=Path("/c"))
    assert found.place == "a.example"
    assert dataclasses.replace(found, url="https://[::1]:8443/t").place == "[::1]:8443"
    assert read_webhook({}, tmp_path) is None
    assert is_url("https://a.example:8443/x?y=z")
    assert json.loads(json.dumps(MESSAGE.to_json())) == MESSAGE.to_json()
