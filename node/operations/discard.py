"""Operations on what is wrong: discard, what lies aside, recalls."""

from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.images.set_aside import DROP_REASONS, TAKE_REASONS, Aside, Done
from node.operations.base import Operation, Report, Result, text
from node.operations.selecting import optional
from node.sharing.recalls import Recalled
from protocol.recalls import REASONS, meaning


def _reason(parameters: dict[str, Any], known: dict[str, str]) -> str:
    reason = text(parameters, "reason")
    if reason not in known:
        raise NodeError(
            f"there is no reason {reason}",
            hint=f"the reasons are {', '.join(known)}",
            code=ExitCode.USAGE,
        )
    return reason


async def discard(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Discard a study, a series or an instance, and tell the peers why."""
    code = REASONS[_reason(parameters, REASONS)]
    done = await in_thread(node.discards.discard, text(parameters, "what"), code)
    return {
        "study": done.study,
        "instances": done.instances,
        "bytes": done.bytes,
        "left": done.left,
        "code": code,
        "entry": done.entry,
    }


def _describe_aside(node: Node, one: Aside) -> dict[str, Any]:
    row = one.row
    origin = "" if row is None else row.origin
    return {
        "name": one.name,
        "digest": one.digest,
        "study": "" if row is None else row.study_uid,
        "instance": "" if row is None else row.sop_uid,
        "replaces": row is not None and bool(row.kept_digest),
        "origin": node.petname(bytes.fromhex(origin)) if origin not in ("", "local") else "local",
        "reason": one.reason,
        "file": one.file,
        "bytes": one.size,
        "time": one.time,
    }


async def list_aside(node: Node, _: dict[str, Any], __: Report) -> Result:
    """What was set aside or put to quarantine, oldest first."""
    found = await in_thread(node.set_aside.all)
    return {"aside": [_describe_aside(node, one) for one in found]}


def _describe_done(done: Done) -> Result:
    return {
        "study": done.study,
        "instances": done.instances,
        "replaced": done.replaced,
        "entry": done.entry,
    }


async def take(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Take what was set aside in the place of what is here."""
    reason = _reason(parameters, TAKE_REASONS)
    return _describe_done(await in_thread(node.set_aside.take, text(parameters, "what"), reason))


async def drop(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Delete something that was set aside."""
    reason = _reason(parameters, DROP_REASONS)
    return _describe_done(await in_thread(node.set_aside.drop, text(parameters, "what"), reason))


def _describe_recall(node: Node, one: Recalled) -> dict[str, Any]:
    return {
        "study": one.study,
        "peer": node.petname(one.peer),
        "code": one.code,
        "reason": meaning(one.code),
        "whole": one.whole,
        "told": one.told,
        "settled": one.settled,
        "held": node.catalog.study(one.study) is not None,
    }


async def recalls(node: Node, _: dict[str, Any], __: Report) -> Result:
    """What peers recalled of the studies that we fetched, oldest first."""

    def read() -> Result:
        return {"recalls": [_describe_recall(node, one) for one in node.recalls.all()]}

    return await in_thread(read)


async def settle(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Say that the recalls of a study have been seen to."""
    named = optional(parameters, "peer")

    def work() -> Result:
        peer = node.peers.find(named).facility_key if named else None
        done = node.recalls.settle(text(parameters, "study"), peer)
        return {"recalls": [_describe_recall(node, one) for one in done]}

    return await in_thread(work)


OPERATIONS = {
    "discard": Operation(discard),
    "quarantine.list": Operation(list_aside),
    "quarantine.take": Operation(take),
    "quarantine.drop": Operation(drop),
    "recalls.list": Operation(recalls),
    "recalls.settle": Operation(settle),
}
