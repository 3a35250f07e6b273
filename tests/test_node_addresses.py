"""What stands in the card as addresses."""

import ipaddress

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
