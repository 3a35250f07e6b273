"""What `radmesh doctor` finds at the other facilities: all at once, some seconds each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from keys.rules import ALLOW
from keys.trust import Peer
from node.blocking import in_thread
from node.network.sockets import Unreachable
from node.network.streams import StreamLost
from node.operations.base import Call
from node.operations.findings import ENDING_SECONDS, Finding, finding
from node.phrases import duration, moment
from protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from node.serving import Serving

PEER_SECONDS = 10.0
"""Longest time for one facility."""

OFF_SECONDS, WRONG_SECONDS = 30.0, 300.0
"""A clock that differs by so much is named, or is wrong: ends of rights come at other times."""

ASKED_AT_ONCE = 64


async def peers(call: Call) -> list[Finding]:
    """Whether each facility can be reached, proves its key, and what both may do."""
    all_peers = sorted(call.node.peers.store.peers, key=lambda peer: peer.petname.casefold())
    found: dict[bytes, list[Finding]] = {}
    limiter = trio.CapacityLimiter(ASKED_AT_ONCE)
    last_seen = await in_thread(call.node.peers.last_seen)

    async def look(peer: Peer) -> None:
        standing = await in_thread(lambda: list(_known(call, peer)))
        found[peer.facility_key] = standing
        if call.serving is not None and peer.is_trusted(call.node.clock.now()):
            async with limiter:
                seen = last_seen.get(peer.facility_key)
                standing.extend(await _reached(call.serving, peer, seen))

    async with trio.open_nursery() as nursery:
        for peer in all_peers:
            nursery.start_soon(look, peer)
    return [one for peer in all_peers for one in found[peer.facility_key]]


def _known(call: Call, peer: Peer) -> Iterator[Finding]:
    """What is known of a facility without asking it."""
    about, now = f"facility {peer.petname}", call.node.clock.now()
    if not peer.is_trusted(now):
        yield finding(about, "note", "it is not trusted any more")
        return
    if call.serving is None:
        yield finding(about, "note", "whether it is there is not known: the node does not run")
    left, end = peer.card.expires - now, moment(peer.card.expires)
    if left <= ENDING_SECONDS:
        ends = "has ended" if left <= 0 else "ends"
        todo = "it has to renew its card: call it"
        yield finding(about, "wrong", f"its card {ends} {end}", todo)
    here = sorted({*peer.grants, *(rule.action for rule in peer.rules if rule.effect == ALLOW)})
    if not here:
        yield finding(
            about, "note", "it may do nothing here",
            f"`radmesh trust grant {peer.petname} see fetch`, if it should",
        )  # fmt: skip
    heard = call.node.granted.heard(peer)
    if heard is None:
        yield finding(
            about, "note", "it has not told what this node may do there",
            "it tells when it is connected; an older release does not",
        )  # fmt: skip
        return
    there = sorted({rule.action for rule in heard.statement.rules if rule.effect == ALLOW})
    if not there:
        yield finding(
            about, "note", "this node may do nothing there",
            "if it should, its admin has to allow it",
        )  # fmt: skip
    if here or there:
        text = f"it may {_listed(here)} here, and this node {_listed(there)} there"
        yield finding(about, "fine", text)


def _listed(actions: list[str]) -> str:
    return ", ".join(actions) or "nothing"


async def _reached(serving: "Serving", peer: Peer, last_seen: int | None) -> list[Finding]:
    about = f"facility {peer.petname}"
    seen = f"it was last connected {moment(last_seen)}" if last_seen else "it was never connected"
    why = f"no answer within {PEER_SECONDS:.0f} s"
    found: list[Finding] = []
    with trio.move_on_after(PEER_SECONDS):
        found += await _addresses(serving, peer)
        try:
            await _connect(serving, peer)
            return [*found, await _greeted(serving, peer)]
        except Unreachable as error:
            why = error.message
        except (StreamLost, RemoteProtocolError) as error:
            why = f"it is connected, and its greeting failed: {error}"
    found.append(
        finding(
            about,
            "wrong",
            f"it does not answer: {why}; {seen}",
            "if others answer, call it; if none does, look at the firewall (docs/operations.md "
            "section 2)",
        )
    )
    return found


async def _connect(serving: "Serving", peer: Peer) -> None:
    if not serving.presence.is_peer_connected(peer):
        try:
            await serving.network.connect(peer.card.node_key, peer.card.addresses)
        except Unreachable:
            # It may have called us meanwhile.
            if not serving.presence.is_peer_connected(peer):
                raise


async def _addresses(serving: "Serving", peer: Peer) -> list[Finding]:
    """The addresses of its card to which no connection can be made."""
    about = f"facility {peer.petname}"
    if not peer.card.addresses:
        text = "its card names no address: it has to call this node"
        return [finding(about, "note", text, "one of the two must be reachable")]
    found = []
    for address, why in (await serving.network.probe(peer.card.addresses)).items():
        if why:
            found.append(
                finding(
                    about,
                    "note",
                    f"it cannot be called at {address}: {why}",
                    "its admin knows whether the address is right and its firewall open",
                )
            )
    return found


async def _greeted(serving: "Serving", peer: Peer) -> Finding:
    """What it says of itself."""
    about = f"facility {peer.petname}"
    said = await serving.greeting.greet(peer.card.node_key, peer)
    text = f"it is connected ({said.software}), and answers in {duration(said.round_trip_seconds)}"
    if said.ahead_seconds is None:
        return finding(about, "fine", text)
    off = abs(said.ahead_seconds)
    way = "ahead of" if said.ahead_seconds > 0 else "behind"
    text += f"; its clock is {duration(off)} {way} ours"
    if off > OFF_SECONDS + said.round_trip_seconds:
        state = "wrong" if off > WRONG_SECONDS else "note"
        todo = "one of the two clocks is wrong: keep both right by NTP"
        return finding(about, state, text, todo)
    return finding(about, "fine", text)


async def own_addresses(call: Call) -> list[Finding]:
    """Whether the port for peers is open, and reached by the addresses of our card."""
    serving = call.serving
    if serving is None:
        return []
    if not serving.network.addresses:
        text = "the node listens for no facility, and only calls"
        return [finding("our address", "fine", text)]
    found = []
    with trio.move_on_after(PEER_SECONDS):
        for address, why in (await serving.network.probe(call.node.card.addresses)).items():
            if why:
                found.append(
                    finding(
                        "our address",
                        "note",
                        f"{address} of our card does not lead here: {why}",
                        "from behind NAT that can be so; else look at firewall and address",
                    )
                )
            else:
                found.append(finding("our address", "fine", f"{address} takes connections"))
        return found
    text = f"an address of our card did not answer within {PEER_SECONDS:.0f} s"
    return [*found, finding("our address", "note", text, "look at firewall and address")]
