"""Operations that compare logs: ours with a peer's, or two exported logs."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import trio

from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError
from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.parameters import From
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
"""Domain of the node key's signature over the result of comparing exported logs."""

CONNECT_SECONDS = 10.0
"""Longest wait for the peer to connect."""


@dataclass(frozen=True)
class Reconcile:
    """Parameters of `audit.reconcile`; `grace` in seconds."""

    peer: str
    grace: Annotated[int, From(0)] = GRACE_SECONDS


@dataclass(frozen=True, kw_only=True)
class ReconcileFiles:
    """Parameters of `audit.reconcile-files`; fingerprints in hex, `grace` in seconds."""

    bundle_a: parameters.Path
    bundle_b: parameters.Path
    fingerprint_a: str
    fingerprint_b: str
    card_a: str | None = None
    card_b: str | None = None
    grace: Annotated[int, From(0)] = GRACE_SECONDS
    path: parameters.Path


async def reconcile(call: Call, asked: Reconcile) -> Result:
    """Compare our log (A) with that of a connected peer (B); both sign and log the result."""
    node, serving = call.node, call.require_serving()
    peer = node.peers.find(asked.peer)
    if peer.revoked is not None:
        raise NodeError(f"{peer.petname} is not trusted any more", code=ExitCode.REFUSED)
    with trio.move_on_after(CONNECT_SECONDS):
        await serving.presence.wait_connected(peer.card.node_key)
    done = await serving.reconciling.run(peer, grace_seconds=asked.grace)
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
    """Sentences about entries that our log, or that of a peer, is known to have lost.

    A loss in our log is listed, settled or not, unless the entries came back. For a peer's
    log we cannot tell whether they did, so settled alerts are left out.
    """
    found = []
    for alert in node.witness_store.alerts():
        if alert.facility == node.card.facility_key:
            try:
                is_lost = node.fork_detector.contradiction(alert.held) is not None
            except RemoteProtocolError:
                is_lost = False  # its key was revoked from a smaller size on
            if is_lost:
                found.append(node.fork_detector.sentence(alert))
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


async def reconcile_files(call: Call, asked: ReconcileFiles) -> Result:
    """Compare two exported logs; sign the result, write it to a new file, and log that.

    The file has two lines: the domain with the node key's signature (base64), and the signed
    result in JSON.
    """
    return await in_thread(_reconcile_files, call.node, asked)


def _reconcile_files(node: Node, asked: ReconcileFiles) -> Result:
    sides = [
        (Path(asked.bundle_a), *_facility("a", asked.fingerprint_a, asked.card_a)),
        (Path(asked.bundle_b), *_facility("b", asked.fingerprint_b, asked.card_b)),
    ]
    with _open(sides[0][0]) as bundle_a, _open(sides[1][0]) as bundle_b:
        outcome = reconcile_bundles(
            bundle_a,
            bundle_b,
            fingerprint_a=sides[0][1],
            fingerprint_b=sides[1][1],
            card_a=sides[0][2],
            card_b=sides[1][2],
            grace_seconds=asked.grace,
        )
    found = outcome_json(outcome)
    result = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
    signature = base64.b64encode(node.keys.node.sign(RESULT_DOMAIN, result))
    details = _details(outcome, asked.grace)
    written = write_logged(
        Path(asked.path),
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


def _facility(name: str, fingerprint: str, card: str | None) -> tuple[bytes, Card | None]:
    try:
        decoded = bytes.fromhex(fingerprint)
        known = None if card is None else parse_card_untrusted(card.encode())
    except (ValueError, KeysError) as error:
        raise NodeError(
            f"the facility of bundle {name} is malformed", code=ExitCode.USAGE
        ) from error
    return decoded, known


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


OPERATIONS = (
    Operation(
        "audit.reconcile", Reconcile, reconcile, writes=True, needs_network=True, roles=("audit",)
    ),
    Operation(
        "audit.reconcile-files", ReconcileFiles, reconcile_files, writes=True, local_only=True
    ),
)
