"""Syslog over TLS to a real collector: who it is, what came, and when that is known."""

from pathlib import Path

import pytest
from certificates_made import Authority, collector

from node.errors import ExitCode, NodeError
from node.reports.collector import Collector, parse_collector
from node.reports.delivery import open_delivery
from node.reports.syslog import framed


def _of(port: int, ca: Path, host: str = "localhost", **more: Path) -> Collector:
    return Collector(host=host, port=port, ca=ca, **more)


async def _deliver(where: Collector, *sent: bytes) -> None:
    async with open_delivery(where) as delivery:
        await delivery.send(b"".join(map(framed, sent)))
        await delivery.confirm()


@pytest.mark.parametrize("orderly", [True, False])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_messages_arrive_and_that_is_known(tmp_path: Path, host: str, orderly: bool) -> None:
    authority = Authority(tmp_path)
    with collector(authority.issue("localhost", "127.0.0.1")) as server:
        server.orderly = orderly
        sent = [b"<85>1 one", "<85>1 zwei Stück".encode(), b"x" * 100_000]
        await _deliver(_of(server.port, authority.ca, host), *sent)
        assert server.messages == sent


async def test_another_name_than_that_of_the_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with collector(authority.issue("logs.north.example")) as server:
        with pytest.raises(NodeError, match="not trusted: Hostname mismatch") as raised:
            async with open_delivery(_of(server.port, authority.ca)):
                pass
        assert raised.value.code is ExitCode.INTEGRITY
        assert server.messages == []


async def test_another_authority_is_refused(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    with collector(authority.issue("localhost")) as server:
        with pytest.raises(NodeError, match="not trusted"):
            async with open_delivery(_of(server.port, other.ca)):
                pass


async def test_a_collector_that_wants_a_certificate_gets_ours(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("node", name="node")
    with collector(authority.issue("localhost"), clients=authority.ca) as server:
        await _deliver(_of(server.port, authority.ca, certificate=ours), b"one")
        assert server.messages == [b"one"]
        assert "node" in str(server.peers)


async def test_without_our_certificate_nothing_counts_as_delivered(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with collector(authority.issue("localhost"), clients=authority.ca) as server:
        with pytest.raises(NodeError, match="was lost"):
            await _deliver(_of(server.port, authority.ca), b"one")
        assert server.messages == []


async def test_a_connection_that_is_broken_off_delivers_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with collector(authority.issue("localhost")) as server:
        server.reset_after = 1
        with pytest.raises(NodeError, match="was lost") as raised:
            await _deliver(_of(server.port, authority.ca), b"one", b"two")
        assert raised.value.code is ExitCode.UNREACHABLE


async def test_nobody_there(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with collector(authority.issue("localhost")) as server:
        port = server.port
    with pytest.raises(NodeError, match="cannot be reached: connection refused"):
        async with open_delivery(_of(port, authority.ca)):
            pass


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_a_certificate_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NodeError, match=r"ca\.pem cannot be used"):
        async with open_delivery(_of(1, path)):
            pass


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("logs.example", "logs.example", 6514),
        ("logs.example:601", "logs.example", 601),
        ("[2001:db8::1]:601", "2001:db8::1", 601),
        ("2001:db8::1", "2001:db8::1", 6514),
        ("192.0.2.1:1", "192.0.2.1", 1),
    ],
)
def test_addresses(address: str, host: str, port: int) -> None:
    found = parse_collector(address, "ca.pem")
    assert (found.host, found.port) == (host, port)
    assert parse_collector(found.address, "ca.pem") == found


@pytest.mark.parametrize(
    "words",
    [
        ("", "ca"), (":6514", "ca"), ("a:0", "ca"), ("a:70000", "ca"), ("a:b", "ca"), ("a", ""),
        ("a", "ca", "", "key"), ("a", "ca", "", "", "xml"),
    ],
)  # fmt: skip
def test_what_is_no_collector(words: tuple[str, ...]) -> None:
    with pytest.raises(NodeError) as raised:
        parse_collector(*words)
    assert raised.value.code is ExitCode.USAGE
