"""Operations on witnesses: a round, the policy, and logs that contradict themselves."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.durable import write_whole
from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.cosigned import (
    counted,
    evidence,
    newest_cosigned,
    own_policy,
    recommended_policy,
    witnesses,
)
from node.operations.parameters import From, Nothing
from node.witness.store import Alert
from node.witness.witness import alert_event, sentence
from protocol.log.entry import Event

ROUND_SECONDS = 10.0
"""Longest wait for witnesses when somebody asks for a round."""


@dataclass(frozen=True)
class Forks:
    """Parameters of `audit.forks`; with a directory, the evidence is written there."""

    directory: parameters.Path | None = None


@dataclass(frozen=True)
class Settle:
    """Parameters of `audit.settle`."""

    number: Annotated[int, From(1)]
    start_over: bool = False


def describe_witnessing(call: Call) -> dict[str, Any]:
    """The witnesses of our log and their progress, the logs that we cosign, and alerts, as JSON."""
    node, serving = call.node, call.serving
    cosigners = []
    store, now = node.peers.store, node.clock.now()
    for peer in witnesses(node):
        counts = bool(store.held(peer, peer.card.witness_keys[-1:], now))
        newest = node.witness_store.newest_by(peer.facility_key)
        cosigners.append(
            {
                "petname": peer.petname,
                "connected": None if serving is None else serving.presence.is_peer_connected(peer),
                "size": None if newest is None else newest[0],
                "time": None if newest is None else newest[1],
                "counts": counts,
                "why": _why(call, peer, counts),
            }
        )
    newest_enough = newest_cosigned(node)
    halted = node.audit.halt.reason
    return {
        "quorum": node.settings.audit.witness_quorum,
        "size": node.audit.size,
        "witnesses": cosigners,
        "cosigned_size": None if newest_enough is None else newest_enough.size,
        "cosigned_by": 0 if newest_enough is None else counted(node, newest_enough),
        "logs": [
            {"petname": node.petname(facility), "size": size, "time": time}
            for facility, size, time in node.witness_store.all_held()
        ],
        "in_doubt": None if halted is None else halted.message,
        "alerts": [
            describe_alert(node, alert) for alert in node.witness_store.alerts(open_only=True)
        ],
    }


def _why(call: Call, peer: Peer, counts: bool) -> str:
    if not counts:
        return "another facility claims its witness key"
    return "" if call.serving is None else call.serving.witnessing.failure(peer.facility_key)


def describe_alert(node: Node, alert: Alert) -> dict[str, Any]:
    """A log that contradicts itself, as JSON."""
    is_own = alert.facility == node.card.facility_key
    held, shown = alert.held_checkpoint, alert.shown_checkpoint
    held_digest, shown_digest = alert.digests
    what = (
        node.fork_detector.sentence(alert)
        if is_own
        else f"{node.petname(alert.facility)} {sentence(alert)}"
    )
    return {
        "number": alert.number,
        "own": is_own,
        "kind": alert.kind,
        "what": what,
        "origin": held.origin,
        "held": {"size": held.size, "root": held.root.hex(), "sha256": held_digest},
        "shown": {"size": shown.size, "root": shown.root.hex(), "sha256": shown_digest},
        "seen": alert.seen,
        "settled": alert.settled,
    }


async def witness(call: Call, _: Nothing) -> Result:
    """Hold a round with the witnesses now, and return who cosigned what."""
    await call.require_serving().witnessing.round(ROUND_SECONDS)
    return await in_thread(describe_witnessing, call)


async def policy(call: Call, _: Nothing) -> Result:
    """Our policy in the form of C2SP tlog-policy, and lines recommended from two witnesses on."""
    node = call.node

    def read() -> Result:
        return {"policy": own_policy(node), "recommended": recommended_policy(node)}

    return await in_thread(read)


async def forks(call: Call, asked: Forks) -> Result:
    """Logs that contradict themselves, settled ones too; with `directory`, the evidence."""
    node = call.node

    def run() -> Result:
        alerts = node.witness_store.alerts()
        if asked.directory is not None:
            _write(node, alerts, Path(asked.directory))
        return {"alerts": [describe_alert(node, alert) for alert in alerts]}

    return await in_thread(run)


def _write(node: Node, alerts: list[Alert], directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for alert in alerts:
            folder = directory / str(alert.number)
            folder.mkdir(exist_ok=True)
            for name, content in evidence(node, alert).items():
                write_whole(folder / name, content, mode=0o644)
    except OSError as error:
        raise NodeError(
            f"the evidence cannot be written to {directory}: {os.strerror(error.errno or 0)}",
            hint="check that the folder can be written and the disk has space",
            code=ExitCode.DISK,
        ) from error


async def settle(call: Call, asked: Settle) -> Result:
    """Settle an alert for an operator; with `start_over`, a peer's log begins anew for us."""
    node, number, start_over = call.node, asked.number, asked.start_over

    def run() -> Result:
        found = [alert for alert in node.witness_store.alerts() if alert.number == number]
        if not found:
            raise NodeError(
                f"there is no alert {number}", hint="see `radmesh audit forks`",
                code=ExitCode.NOT_FOUND,
            )  # fmt: skip
        [alert] = found
        if alert.facility == node.card.facility_key:
            _settle_own(node, alert, start_over)
        else:
            _settle_peer(node, alert, start_over)
        [alert] = [one for one in node.witness_store.alerts() if one.number == number]
        return describe_alert(node, alert)

    result = await in_thread(run)
    if call.serving is not None:
        call.serving.witnessing.poke()
    return result


def _settle_own(node: Node, alert: Alert, start_over: bool) -> None:
    if start_over:
        raise NodeError(
            "a node's own log does not start over",
            hint="--start-over is for the log of another facility, on the nodes that witness it",
            code=ExitCode.USAGE,
        )
    node.fork_detector.settle(alert.number)


def _settle_peer(node: Node, alert: Alert, start_over: bool) -> None:
    # Log the decision before it takes effect.
    event = alert_event(alert)
    node.audit.append(
        Event(
            type=event.type,
            actor="operator",
            peer=event.peer,
            details={**event.details, "settled": True, "start_over": start_over},
        )
    )
    node.witness_store.settle([alert.number], node.clock.now())
    if start_over:
        node.witness_store.forget(alert.facility)


OPERATIONS = (
    Operation(
        "audit.witness", Nothing, witness, writes=True, needs_network=True, roles=("audit", "admin")
    ),
    Operation("audit.policy", Nothing, policy, writes=False, roles=("audit", "admin")),
    Operation("audit.forks", Forks, forks, writes=True, local_only=True),
    Operation("audit.settle", Settle, settle, writes=True, roles=("admin",)),
)
