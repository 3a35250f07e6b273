"""Operations that compare logs: ours with a peer's, and two exported ones."""

import base64
import json
from pathlib import Path
from typing import Any, BinaryIO

import trio

from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError
from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Operation, Report, Result, require_serving, text
from node.reports.writing import write_logged, write_parts
from node.witness.witness import sentence
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Event, format_time
from protocol.reconcile import GRACE_SECONDS
from protocol.reconcile_bundles import Outcome, reconcile_bundles
from protocol.reconcile_messages import Listed, counts_of
from protocol.reconcile_report import (
    LOST_HEADLINE,
    comparison_json,
    comparison_lines,
    headline,
    lost_lines,
    outcome_json,
    outcome_lines,
)

RESULT_DOMAIN = b"radmesh-reconciliation-v1"
"""Of the node key's signature over the result of comparing exported logs."""

CONNECT_SECONDS = 10.0
"""How long is waited for the peer to be connected."""


async def reconcile(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Compare our log (A) with that of a connected peer (B); both sign and log the result."""
    serving = require_serving(node)
    peer = node.peers.find(text(parameters, "peer"))
    grace = _grace(parameters)
    if peer.revoked is not None:
        raise NodeError(f"{peer.petname} is not trusted any more", code=ExitCode.REFUSED)
    with trio.move_on_after(CONNECT_SECONDS):
        await serving.presence.wait_connected(peer.card.node_key)
    done = await serving.reconciling.run(peer, grace_seconds=grace)
    lost = await in_thread(known_losses, node, peer)
    head = headline(done.comparison)
    if lost and not done.comparison.differences:
        head = LOST_HEADLINE
    return {
        "peer": peer.petname,
        "a": _side(node.card.name, done.listed_a),
        "b": _side(peer.petname, done.listed_b),
        **comparison_json(done.comparison),
        "lost": lost,
        "lines": [head, *lost_lines(lost), *comparison_lines(done.comparison)],
        "entry": done.entry,
        "result": done.digest,
        "signed_result": base64.b64encode(done.signed).decode(),
    }


def known_losses(node: Node, peer: Peer) -> list[str]:
    """What this node knows of entries that our log, or that of a peer, lost; as sentences.

    Ours stays so, settled or not, unless the entries came back. Of a peer's that is not
    known, so what an operator has settled is not told again.
    """
    found = []
    for alert in node.witness_store.alerts():
        if alert.facility == node.card.facility_key:
            try:
                is_lost = node.doubt.contradiction(alert.held) is not None
            except RemoteProtocolError:
                is_lost = False  # its key was taken back from before that size
            if is_lost:
                found.append(node.doubt.sentence(alert))
        elif alert.facility == peer.facility_key and alert.settled is None:
            found.append(f"{peer.petname} {sentence(alert)}")
    return list(dict.fromkeys(found))


def _side(name: str, listed: Listed) -> dict[str, Any]:
    return {
        "facility": name,
        "size": listed.size,
        "root": listed.root.hex(),
        "entries": listed.entries,
        "time": format_time(listed.time),
    }


def _grace(parameters: dict[str, Any]) -> int:
    grace = parameters.get("grace", GRACE_SECONDS)
    if type(grace) is not int or grace < 0:
        raise NodeError("the parameter grace must be a number of seconds", code=ExitCode.USAGE)
    return grace


async def reconcile_files(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Compare two exported logs; sign the result, write it to a new file, and log that.

    The file has two lines: the domain and the node key's signature (base64), and the
    result in JSON, which is what is signed.
    """
    return await in_thread(_reconcile_files, node, parameters)


def _reconcile_files(node: Node, parameters: dict[str, Any]) -> Result:
    sides = [_bundle(parameters, name) for name in ("a", "b")]
    with _open(sides[0][0]) as bundle_a, _open(sides[1][0]) as bundle_b:
        outcome = reconcile_bundles(
            bundle_a,
            bundle_b,
            fingerprint_a=sides[0][1],
            fingerprint_b=sides[1][1],
            card_a=sides[0][2],
            card_b=sides[1][2],
            grace_seconds=_grace(parameters),
        )
    found = outcome_json(outcome)
    result = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
    signature = base64.b64encode(node.keys.node.sign(RESULT_DOMAIN, result))
    details = _details(outcome, _grace(parameters))
    written = write_logged(
        Path(text(parameters, "path")),
        write_parts([RESULT_DOMAIN, b" ", signature, b"\n", result, b"\n"]),
        lambda: Event(
            type="reconciled",
            actor="operator",
            outcome="failed" if outcome.comparison is None else "success",
            details=details,
        ),
        node.audit,
        salted=False,
    )
    return {
        **found,
        "lines": outcome_lines(outcome),
        "exit_code": outcome.exit_code,
        "entry": written.entry,
    }


def _bundle(parameters: dict[str, Any], name: str) -> tuple[Path, bytes, Card | None]:
    try:
        fingerprint = bytes.fromhex(text(parameters, f"fingerprint_{name}"))
        card = parameters.get(f"card_{name}")
        known = None if card is None else parse_card_untrusted(str(card).encode())
    except (ValueError, KeysError) as error:
        raise NodeError(
            f"the facility of bundle {name} is malformed", code=ExitCode.USAGE
        ) from error
    return Path(text(parameters, f"bundle_{name}")), fingerprint, known


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise NodeError(
            f"the bundle {path} cannot be read: {error.strerror}", code=ExitCode.NOT_FOUND
        ) from error


def _details(outcome: Outcome, grace: int) -> dict[str, str | int | bool]:
    details: dict[str, str | int | bool] = {"what": "bundles", "grace_seconds": grace}
    for name, verdict in (("a", outcome.verdict_a), ("b", outcome.verdict_b)):
        details |= {
            f"origin_{name}": verdict.origin,
            f"size_{name}": verdict.size,
            f"root_{name}": verdict.root,
        }
    if outcome.comparison is None:
        return {**details, "why": "a log is not sound"}
    return {
        **details,
        "disclosures": len(outcome.comparison.findings),
        **counts_of(outcome.comparison),
    }


OPERATIONS = {
    "audit.reconcile": Operation(reconcile, needs_network=True),
    "audit.reconcile-files": Operation(reconcile_files),
}
