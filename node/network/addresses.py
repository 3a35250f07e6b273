"""The addresses that peers can dial, of those that a node listens on; and as people type them."""

import ipaddress
import logging
import socket
from collections.abc import Iterable

from node.network.sockets import TcpAddress, parse_address

log = logging.getLogger("radmesh.network")

_ANYWHERE = {"/ip4/0.0.0.0/": socket.AF_INET, "/ip6/::/": socket.AF_INET6}
_FAR_AWAY = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849): nothing is sent there."""
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)
"""Addresses that mean another machine in every network: RFC 1918, shared behind a
provider's translation (RFC 6598), link-local (RFC 3927, RFC 4291), ULA (RFC 4193)."""


def reachable(listening: Iterable[str]) -> tuple[str, ...]:
    """Multiaddrs for the facility card.

    A node that listens on all interfaces listens on 0.0.0.0, which a peer would dial
    as itself; it is replaced by the address from which this machine reaches others. Behind address
    translation an admin names the outer address in `config.toml`. A private address is left out:
    peers elsewhere would dial a machine of their own network. An admin who wants it on the card,
    for peers in the same network, names it there too.

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
    known = tuple(dict.fromkeys(found))
    public = tuple(address for address in known if not _is_private(address))
    if left_out := [address for address in known if address not in public]:
        log.info(
            "not on the card, since only this network knows them: %s; name addresses that "
            "peers can use in config.toml",
            ", ".join(left_out),
        )
    return public


def typed(text: str, port: int) -> str:
    """The multiaddr of an address as a person types it.

    Args:
        text: a multiaddr, `HOST`, `HOST:PORT`, or `[IPV6]:PORT`.
        port: the port where none is typed.

    Raises:
        ValueError: it is none of these.
    """
    wanted = text.strip()
    if wanted.startswith("/"):
        return str(parse_address(wanted))
    if wanted.startswith("["):
        host, end, rest = wanted[1:].partition("]")
        rest = rest.removeprefix(":") if end else "no bracket"
    elif wanted.count(":") > 1:
        host, rest = wanted, ""
    else:
        host, _, rest = wanted.partition(":")
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns"
    if "/" in host or any(letter.isspace() for letter in host):
        raise ValueError(f"{text!r} is no address")
    return str(parse_address(f"/{kind}/{host}/tcp/{rest or port}"))


def for_people(address: str, port: int) -> str:
    """A multiaddr as a person types it: the inverse of `typed`.

    Raises:
        ValueError: it is not an address that can be dialled.
    """
    known: TcpAddress = parse_address(address)
    host = f"[{known.host}]" if known.kind == "ip6" else known.host
    return host if known.port == port else f"{host}:{known.port}"


def _is_private(address: str) -> bool:
    """Whether a multiaddr names a machine of a private network by its number."""
    kind, host = address.split("/")[1:3]
    if kind not in ("ip4", "ip6"):
        return False
    number = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(number, "ipv4_mapped", None) or number
    return any(mapped in network for network in _PRIVATE)


def _own_address(family: socket.AddressFamily) -> str | None:
    """The address that this machine would send from; None without a network."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket picks a route and sends nothing.
            probe.connect((_FAR_AWAY[family], 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None
