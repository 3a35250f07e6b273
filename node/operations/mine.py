"""The operation that shows what peers have said that they let us do."""

from dataclasses import dataclass
from typing import Any

from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.operations.base import Call, Operation, Result
from node.sharing.granted import Heard


@dataclass(frozen=True)
class Mine:
    """Parameters of `trust.mine`; without a peer, of all."""

    peer: str | None = None


async def trust_mine(call: Call, asked: Mine) -> Result:
    """What peers have said that they let us do."""
    return await in_thread(_mine, call.node, asked)


def _mine(node: Node, asked: Mine) -> Result:
    now = node.clock.now()
    if asked.peer is not None:
        peers = [node.peers.find(asked.peer)]
    else:
        every = sorted(node.peers.store.peers, key=lambda one: one.petname.casefold())
        peers = [peer for peer in every if peer.is_trusted(now)]
    return {"peers": [_describe_heard(peer, node.granted.heard(peer), now) for peer in peers]}


def _describe_heard(peer: Peer, heard: Heard | None, now: int) -> dict[str, Any]:
    if heard is None:
        return {"peer": peer.petname, "heard": None, "rules": []}
    said = heard.statement
    return {
        "peer": peer.petname,
        "heard": heard.time,
        "since": said.since,
        "until": said.until,
        "has_ended": said.until is not None and said.until <= now,
        "said": said.time,
        "serial": said.serial,
        "rules": [
            {
                "action": rule.action,
                "effect": rule.effect,
                "rule": str(rule),
                "until": rule.until,
                "has_ended": rule.until is not None and rule.until <= now,
            }
            for rule in said.rules
        ],
        "digest": heard.digest,
        "node_key": said.node.hex(),
        "statement": heard.message.body.decode(),
        "signature": heard.message.signature.hex(),
    }


OPERATIONS = (Operation("trust.mine", Mine, trust_mine, writes=False, roles=("look", "admin")),)
