"""Operations on our facility, the peers that we trust, and the state of the node."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keys.card import check_card, parse_card_untrusted
from keys.errors import KeysError
from keys.fingerprint import matches
from keys.identity import peer_id
from keys.trust import GRANTS, Contested, Peer
from node import VERSION
from node.alerts import alerts_of, contest_sentence, waiting_persons
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.images.spool_records import waiting
from node.operations.archive import describe_archives
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing
from node.operations.transfer import describe_transfer
from node.operations.witness import describe_witnessing
from node.people.acts import Act
from node.people.persons import PERSON_ROLES
from node.transfer.bandwidth import local_minute, rule_in_force


@dataclass(frozen=True)
class Add:
    """Parameters of `trust.add`."""

    card: str
    fingerprint: str
    grants: tuple[str, ...] = ()
    petname: str = ""


@dataclass(frozen=True)
class OfPeer:
    """Parameters of `trust.show`."""

    peer: str


@dataclass(frozen=True)
class Grant:
    """Parameters of `trust.grant`."""

    peer: str
    grants: tuple[str, ...]


@dataclass(frozen=True)
class Revoke:
    """Parameters of `trust.revoke`; without grants all trust."""

    peer: str
    grants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rename:
    """Parameters of `trust.rename`."""

    peer: str
    petname: str


@dataclass(frozen=True)
class Address:
    """Parameters of `trust.address`."""

    peer: str
    postal_address: str = ""


async def describe_peer(call: Call, peer: Peer) -> dict[str, Any]:
    """A peer as JSON."""
    [described] = await describe_peers(call, [peer])
    return described


async def describe_peers(call: Call, peers: Iterable[Peer]) -> list[dict[str, Any]]:
    """Peers as JSON."""
    last_seen = await in_thread(call.node.peers.last_seen)
    return [_describe(call, peer, last_seen.get(peer.facility_key)) for peer in peers]


def _describe(call: Call, peer: Peer, last_seen: int | None) -> dict[str, Any]:
    node, serving = call.node, call.serving
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
        "rules": [{"number": rule.number, "rule": str(rule)} for rule in peer.rules],
        "expires": peer.expires,
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


async def own_card(call: Call, _: Nothing) -> Result:
    """Our facility card and its content."""
    card = call.node.card
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


async def trust_add(call: Call, asked: Add) -> Result:
    """Trust a facility by its card and the fingerprint that a person confirmed."""
    peer = await in_thread(
        call.node.peers.add,
        asked.card.encode(),
        asked.fingerprint,
        list(asked.grants),
        asked.petname,
        call.node.clock.now(),
    )
    return await describe_peer(call, peer)


def add_act(call: Call, asked: Add) -> Act | None:
    """What a two-person rule holds of `trust.add`; None for a card that will be refused."""
    try:
        card = parse_card_untrusted(asked.card.encode())
        check_card(card, call.node.clock.now())
        if not matches(card.facility_key, asked.fingerprint):
            return None
    except KeysError:
        return None
    petname = f" as {asked.petname}" if asked.petname else ""
    return Act(
        what=f"trust {card.name} ({card.fingerprint}){petname} and let it "
        f"{', '.join(sorted(asked.grants)) or 'do nothing yet'}",
        parameters={
            "card": asked.card,
            "fingerprint": asked.fingerprint,
            "grants": list(asked.grants),
            "petname": asked.petname,
        },
        peer=card.facility_key,
    )


def grant_act(call: Call, asked: Grant) -> Act | None:
    """What a two-person rule holds of `trust.grant`; None for one that will be refused."""
    peer = call.node.peers.find(asked.peer)
    if not asked.grants or set(asked.grants) - set(GRANTS):
        return None
    return Act(
        what=f"let {peer.petname} ({peer.fingerprint}) {', '.join(sorted(asked.grants))}",
        # A petname may name another facility by the time of the confirmation.
        parameters={"peer": peer.fingerprint, "grants": list(asked.grants)},
        peer=peer.facility_key,
    )


async def trust_list(call: Call, _: Nothing) -> Result:
    """All peers, by petname."""
    peers = sorted(call.node.peers.store.peers, key=lambda peer: peer.petname.casefold())
    return {"peers": await describe_peers(call, peers)}


async def trust_show(call: Call, asked: OfPeer) -> Result:
    """One peer."""
    return await describe_peer(call, call.node.peers.find(asked.peer))


async def trust_grant(call: Call, asked: Grant) -> Result:
    """Give a peer grants."""
    if not asked.grants:
        raise NodeError("no grant is named", code=ExitCode.USAGE)
    peer = await in_thread(call.node.peers.grant, asked.peer, list(asked.grants))
    return await describe_peer(call, peer)


async def trust_revoke(call: Call, asked: Revoke) -> Result:
    """Take grants, or all trust, from a peer."""
    peer = await in_thread(
        call.node.peers.revoke, asked.peer, list(asked.grants), call.node.clock.now()
    )
    return await describe_peer(call, peer)


async def trust_rename(call: Call, asked: Rename) -> Result:
    """Give a peer another petname."""
    peer = await in_thread(call.node.peers.rename, asked.peer, asked.petname)
    return await describe_peer(call, peer)


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


async def trust_address(call: Call, asked: Address) -> Result:
    """Note the postal address of a peer; an empty one means unknown."""
    peer = await in_thread(call.node.peers.set_postal_address, asked.peer, asked.postal_address)
    return await describe_peer(call, peer)


async def status(call: Call, _: Nothing) -> Result:
    """The state of the node: identity, addresses, peers, transfers, log, disk."""
    node, serving = call.node, call.serving
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
        "peers": await describe_peers(call, peers),
        "transfers": [
            describe_transfer(node, transfer) for transfer in node.transfers.active.values()
        ],
        "quarantined": quarantined,
        "incoming": dict(zip(("batches", "bytes"), incoming, strict=True)),
        "arrivals": arrivals,
        "folders": [] if serving is None else [one.describe() for one in serving.folders],
        "dicom": None if serving is None or serving.dimse is None else serving.dimse.describe(),
        "commitment": await in_thread(_commitment, call),
        "archives": await in_thread(describe_archives, node),
        "collector": None
        if serving is None or serving.forwarder is None
        else serving.forwarder.describe(),
        "notices": [] if serving is None or serving.notices is None else serving.notices.describe(),
        "contested": await in_thread(_contested, node),
        "witnessing": await in_thread(describe_witnessing, call),
        "started": node.started_ms,
        "alerts": await in_thread(alerts_of, node, serving),
        "waiting": await in_thread(waiting_persons, node),
    }


def _commitment(call: Call) -> dict[str, int]:
    """Storage commitments: reports that wait to be given, that are awaited, and were given."""
    return {
        "waiting": len(call.node.commitment_requests.open()),
        "awaited": sum(one.is_open for one in call.node.commitments.kept.open()),
        "given": 0 if call.serving is None else call.serving.commitment_reports.given,
    }


OPERATIONS = (
    Operation("card.own", Nothing, own_card, writes=False, roles=PERSON_ROLES),
    Operation(
        "trust.add",
        Add,
        trust_add,
        writes=True,
        roles=("admin",),
        held_by=("trust",),
        act=add_act,
    ),
    Operation("trust.list", Nothing, trust_list, writes=False, roles=PERSON_ROLES),
    Operation("trust.show", OfPeer, trust_show, writes=False, roles=PERSON_ROLES),
    Operation(
        "trust.grant",
        Grant,
        trust_grant,
        writes=True,
        roles=("admin",),
        held_by=("trust",),
        act=grant_act,
    ),
    Operation("trust.revoke", Revoke, trust_revoke, writes=True, roles=("admin",)),
    Operation("trust.rename", Rename, trust_rename, writes=True, roles=("admin",)),
    Operation("trust.address", Address, trust_address, writes=True, roles=("admin",)),
    Operation("status", Nothing, status, writes=False, roles=PERSON_ROLES),
)
