"""Addresses, callers and the doorstep, without libp2p."""

import pytest
import trio
import trio.testing
from network_nodes import until

from node.network.sockets import Doorstep, Unreachable, dial, parse_address, remote_host


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("/ip4/192.0.2.1/tcp/4101", "192.0.2.1", 4101),
        ("/ip6/2001:DB8:0:0::1/tcp/1", "2001:db8::1", 1),
        ("/dns/node.example.org/tcp/65535", "node.example.org", 65535),
        ("/dns4/a/tcp/0", "a", 0),
        ("/dns6/a/tcp/4101/p2p/12D3KooWxyz", "a", 4101),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert (address.host, address.port) == (host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1:4101",
        "/ip4/192.0.2.1/tcp",
        "/ip4/192.0.2.1/udp/4101",
        "/ip4/192.0.2.1/tcp/65536",
        "/ip4/192.0.2.1/tcp/-1",
        "/ip4/192.0.2.1/tcp/\u0661",
        "/ip4/1.2.3/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip6/192.0.2.1/tcp/1",
        "/dns4//tcp/1",
        "/dns4/a\nb/tcp/1",
        "/unix/a/tcp/1",
        "/ip4/192.0.2.1/tcp/1/ws",
        "/ip4/192.0.2.1/tcp/1/p2p/x/p2p-circuit",
    ],
)
async def test_other_texts_are_not_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not of the form|has no"):
        parse_address(text)
    with pytest.raises(Unreachable):
        await dial(text, timeout_seconds=1)


async def test_an_unanswered_call_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: object) -> list[object]:
        await trio.sleep_forever()

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    with pytest.raises(Unreachable, match="no answer within"):
        await dial("/dns4/slow.example.org/tcp/1", timeout_seconds=0.05)


async def test_the_doorstep_sends_away_whoever_waits_longest() -> None:
    doorstep = Doorstep(per_host=2, total=3)
    gone = []

    async def wait(host: str, name: str) -> None:
        with doorstep.wait(host) as scope:
            await trio.sleep_forever()
        if scope.cancelled_caught:
            gone.append(name)

    async with trio.open_nursery() as nursery:
        for host, name in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("a", "a3"), ("c", "c1")]:
            nursery.start_soon(wait, host, name)
            await trio.testing.wait_all_tasks_blocked()
        assert gone == ["a1", "b1"]
        assert len(doorstep) == 3
        nursery.cancel_scope.cancel()


async def test_an_ip6_caller_counts_as_its_network() -> None:
    async with trio.open_nursery() as nursery:
        hosts = []

        async def note(stream: trio.SocketStream) -> None:
            hosts.append(remote_host(stream))

        for host in ("127.0.0.1", "::1"):
            listeners = await trio.open_tcp_listeners(0, host=host)
            nursery.start_soon(trio.serve_listeners, note, listeners)
            await (await trio.open_tcp_stream(host, listeners[0].socket.getsockname()[1])).aclose()
        await until(lambda: len(hosts) == 2)
        assert sorted(hosts) == ["127.0.0.1", "::/64"]
        nursery.cancel_scope.cancel()
