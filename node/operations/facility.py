"""Operations on who we are, whom we trust, and how the node is."""

from collections.abc import Iterable
from typing import Any

from keys.identity import peer_id
from keys.trust import Contested, Peer
from node import VERSION
from node.alerts import contest_sentence
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.images.spool_records import waiting
from node.operations.base import Operation, Report, Result, text, texts
from node.operations.transfer import describe_transfer
from node.operations.witness import describe_witnessing
from node.transfer.bandwidth import local_minute, rule_in_force


async def describe_peer(node: Node, peer: Peer) -> dict[str, Any]:
    """A peer as JSON."""
    [described] = await describe_peers(node, [peer])
    return described


async def describe_peers(node: Node, peers: Iterable[Peer]) -> list[dict[str, Any]]:
    """Peers as JSON."""
    last_seen = await in_thread(node.peers.last_seen)
    return [_describe(node, peer, last_seen.get(peer.facility_key)) for peer in peers]


def _describe(node: Node, peer: Peer, last_seen: int | None) -> dict[str, Any]:
    serving = node.serving_parts
    connected, last_error = None, None
    if serving is not None:
        connected = serving.presence.is_peer_connected(peer)
        last_error = serving.links.status(peer.card.node_key).last_error
    cap = rule_in_force(node.settings.bandwidth, peer.petname, peer.fingerprint, local_minute())
    return {
        "petname": peer.petname,
        "name": peer.card.name,
        "fingerprint": peer.fingerprint,
        "peer_id": peer_id(peer.card.node_key),
        "facility_key": peer.facility_key.hex(),
        "addresses": list(peer.card.addresses),
        "postal_address": peer.postal_address,
        "grants": sorted(peer.grants),
        "purposes": sorted(peer.purposes),
        "added": peer.added,
        "revoked": peer.revoked,
        "card_serial": peer.card.serial,
        "card_expires": peer.card.expires,
        "connected": connected,
        "last_seen": node.clock.now() if connected else last_seen,
        "last_error": None if connected else last_error,
        "cap": None if cap is None else cap.to_json(),
        "today": node.budgets.today(peer.facility_key),
    }


async def own_card(node: Node, _: dict[str, Any], __: Report) -> Result:
    """Our facility card and what stands in it."""
    card = node.card
    return {
        "card": card.encoded.decode(),
        "name": card.name,
        "fingerprint": card.fingerprint,
        "peer_id": peer_id(card.node_key),
        "addresses": list(card.addresses),
        "serial": card.serial,
        "issued": card.issued,
        "expires": card.expires,
    }


async def trust_add(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Trust a facility by its card and the fingerprint that a person confirmed."""

    def add() -> Peer:
        return node.peers.add(
            text(parameters, "card").encode(),
            text(parameters, "fingerprint"),
            texts(parameters, "grants"),
            text(parameters, "petname", ""),
            node.clock.now(),
        )

    return await describe_peer(node, await in_thread(add))


async def trust_list(node: Node, _: dict[str, Any], __: Report) -> Result:
    """All peers, by petname."""
    peers = sorted(node.peers.store.peers, key=lambda peer: peer.petname.casefold())
    return {"peers": await describe_peers(node, peers)}


async def trust_show(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """One peer."""
    return await describe_peer(node, node.peers.find(text(parameters, "peer")))


async def trust_grant(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Give a peer grants."""
    grants = texts(parameters, "grants")
    if not grants:
        raise NodeError("no grant is named", code=ExitCode.USAGE)
    peer = await in_thread(node.peers.grant, text(parameters, "peer"), grants)
    return await describe_peer(node, peer)


async def trust_revoke(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Take grants, or all trust, from a peer."""
    peer = await in_thread(
        node.peers.revoke,
        text(parameters, "peer"),
        texts(parameters, "grants"),
        node.clock.now(),
    )
    return await describe_peer(node, peer)


async def trust_rename(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Give a peer another petname."""
    peer = await in_thread(node.peers.rename, text(parameters, "peer"), text(parameters, "petname"))
    return await describe_peer(node, peer)


def _contested(node: Node) -> list[dict[str, Any]]:
    """The keys that two facilities claim, as JSON."""
    return [_describe_contested(node, one) for one in node.peers.contested(node.clock.now())]


def _describe_contested(node: Node, contested: Contested) -> dict[str, Any]:
    return {
        "role": contested.role,
        "key": contested.key.hex(),
        "facilities": [key.hex() for key in contested.facilities],
        "holder": None if contested.holder is None else contested.holder.hex(),
        "what": contest_sentence(node, contested),
    }


async def trust_address(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Note the postal address of a peer; an empty one is not known."""
    peer = await in_thread(
        node.peers.set_postal_address,
        text(parameters, "peer"),
        text(parameters, "postal_address", ""),
    )
    return await describe_peer(node, peer)


async def status(node: Node, _: dict[str, Any], __: Report) -> Result:
    """How the node is: identity, addresses, peers, transfers, log, disk."""
    serving = node.serving_parts
    totals = await in_thread(node.catalog.totals)
    quarantined = await in_thread(
        lambda: sum(1 for path in node.home.quarantine_path.iterdir() if path.is_dir())
    )
    incoming = await in_thread(node.incoming.totals)
    if serving is None:
        arrived = await in_thread(waiting, node.home.arrivals_path)
        arrivals = {"instances": arrived[0], "bytes": arrived[1]}
    else:
        arrivals = serving.arrivals.describe()
    peers = sorted(node.peers.store.peers, key=lambda peer: peer.petname.casefold())
    return {
        "running": serving is not None,
        "name": node.card.name,
        "fingerprint": node.card.fingerprint,
        "peer_id": peer_id(node.card.node_key),
        "home": str(node.home.path),
        "version": VERSION,
        "addresses": serving.network.addresses if serving else list(node.card.addresses),
        "studies": totals.studies,
        "instances": totals.instances,
        "store_bytes": totals.encoded_bytes,
        "free_bytes": node.free_bytes(),
        "log_size": node.audit.size,
        "log_root": node.audit.root().hex(),
        "peers": await describe_peers(node, peers),
        "transfers": [
            describe_transfer(node, transfer) for transfer in node.transfers.active.values()
        ],
        "quarantined": quarantined,
        "incoming": dict(zip(("batches", "bytes"), incoming, strict=True)),
        "arrivals": arrivals,
        "collector": None
        if serving is None or serving.forwarder is None
        else serving.forwarder.describe(),
        "contested": await in_thread(_contested, node),
        "witnessing": await in_thread(describe_witnessing, node),
        "started": node.started_ms,
        "alerts": await in_thread(node.alerts),
    }


OPERATIONS = {
    "card.own": Operation(own_card),
    "trust.add": Operation(trust_add),
    "trust.list": Operation(trust_list),
    "trust.show": Operation(trust_show),
    "trust.grant": Operation(trust_grant),
    "trust.revoke": Operation(trust_revoke),
    "trust.rename": Operation(trust_rename),
    "trust.address": Operation(trust_address),
    "status": Operation(status),
}
