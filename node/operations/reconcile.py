"""Operation that compares our log with that of a peer."""

import base64
from typing import Any

import trio

from node.app import Node
from node.errors import ExitCode, NodeError
from node.operations.base import Operation, Report, Result, require_serving, text
from protocol.log.entry import format_time
from protocol.reconcile import GRACE_SECONDS
from protocol.reconcile_messages import Listed
from protocol.reconcile_report import comparison_json, comparison_lines, headline

CONNECT_SECONDS = 10.0
"""How long is waited for the peer to be connected."""


async def reconcile(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Compare our log (A) with that of a connected peer (B); both sign and log the result."""
    serving = require_serving(node)
    peer = node.peers.find(text(parameters, "peer"))
    grace = parameters.get("grace", GRACE_SECONDS)
    if type(grace) is not int or grace < 0:
        raise NodeError("the parameter grace must be a number of seconds", code=ExitCode.USAGE)
    if peer.revoked is not None:
        raise NodeError(f"{peer.petname} is not trusted any more", code=ExitCode.REFUSED)
    with trio.move_on_after(CONNECT_SECONDS):
        await serving.wait_connected(peer.card.node_key)
    done = await serving.reconciling.run(peer, grace_seconds=grace)
    return {
        "peer": peer.petname,
        "a": _side(node.card.name, done.listed_a),
        "b": _side(peer.petname, done.listed_b),
        **comparison_json(done.comparison),
        "lines": [headline(done.comparison), *comparison_lines(done.comparison)],
        "entry": done.entry,
        "result": done.digest,
        "signed_result": base64.b64encode(done.signed).decode(),
    }


def _side(name: str, listed: Listed) -> dict[str, Any]:
    return {
        "facility": name,
        "size": listed.size,
        "root": listed.root.hex(),
        "entries": listed.entries,
        "time": format_time(listed.time),
    }


OPERATIONS = {"audit.reconcile": Operation(reconcile, needs_network=True)}
