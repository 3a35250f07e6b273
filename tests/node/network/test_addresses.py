"""What stands in the card as addresses."""

import ipaddress

import pytest

from node.network import addresses as addresses_module
from node.network.addresses import reachable


def test_real_addresses_stay() -> None:
    addresses = ("/ip4/192.0.2.7/tcp/4101", "/ip6/2001:db8::7/tcp/4101")
    assert reachable(addresses) == addresses


def test_an_address_for_all_interfaces_never_stands_in_a_card() -> None:
    found = reachable(["/ip4/0.0.0.0/tcp/4101", "/ip6/::/tcp/4101", "/ip4/127.0.0.1/tcp/1"])
    assert "/ip4/127.0.0.1/tcp/1" in found
    for address in found:
        _, _, host, transport, port = address.split("/")
        assert not ipaddress.ip_address(host).is_unspecified
        assert (transport, port) in {("tcp", "4101"), ("tcp", "1")}


@pytest.mark.parametrize(
    "host",
    [
        "ip4/10.1.0.2",
        "ip4/172.16.0.1",
        "ip4/172.31.255.255",
        "ip4/192.168.7.7",
        "ip4/169.254.1.1",
        "ip4/100.64.0.1",
        "ip6/fd00::1",
        "ip6/fe80::1",
        "ip6/::ffff:10.1.0.2",
    ],
)
def test_a_private_address_is_not_on_a_card_unasked(
    host: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    public = "/ip4/192.0.2.7/tcp/4101"
    with caplog.at_level("INFO"):
        assert reachable([f"/{host}/tcp/4101", public]) == (public,)
    assert f"/{host}/tcp/4101" in caplog.text
    assert public not in caplog.text
    # Nor when it is only the address by which this machine reaches others.
    own = host.partition("/")[2]
    monkeypatch.setattr(addresses_module, "_own_address", lambda _: own)
    anywhere = "/ip4/0.0.0.0/" if host.startswith("ip4") else "/ip6/::/"
    assert reachable([f"{anywhere}tcp/4101"]) == ()


@pytest.mark.parametrize(
    "host", ["ip4/172.32.0.1", "ip4/11.0.0.1", "ip6/2001:db8::1", "ip4/127.0.0.1", "dns4/10.1.0.2"]
)
def test_other_addresses_are_on_the_card(host: str) -> None:
    assert reachable([f"/{host}/tcp/4101"]) == (f"/{host}/tcp/4101",)
