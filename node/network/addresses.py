"""Which of the addresses that a node listens on a peer can dial."""

import socket
from collections.abc import Iterable

_ANYWHERE = {"/ip4/0.0.0.0/": socket.AF_INET, "/ip6/::/": socket.AF_INET6}
_FAR_AWAY = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849): nothing is sent there."""


def reachable(listening: Iterable[str]) -> tuple[str, ...]:
    """Multiaddrs for the facility card.

    A node that listens on all interfaces listens on 0.0.0.0, which a peer would dial
    as itself; the address by which this machine reaches others stands in its place.
    Behind address translation an admin names the outer address in `config.toml`.

    Args:
        listening: multiaddrs as the network layer gives them.
    """
    found = []
    for address in listening:
        for anywhere, family in _ANYWHERE.items():
            if address.startswith(anywhere):
                own = _own_address(family)
                if own is not None:
                    protocol = "ip4" if family == socket.AF_INET else "ip6"
                    found.append(f"/{protocol}/{own}/{address.removeprefix(anywhere)}")
                break
        else:
            found.append(address)
    return tuple(dict.fromkeys(found))


def _own_address(family: socket.AddressFamily) -> str | None:
    """The address that this machine would send from; None without a network."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket picks a route and sends nothing.
            probe.connect((_FAR_AWAY[family], 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None
