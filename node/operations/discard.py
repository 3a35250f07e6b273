"""Operations on wrong images: discards, versions set aside and quarantine, recalls."""

from dataclasses import dataclass
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.images.set_aside import DROP_REASONS, TAKE_REASONS, Aside, Done
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing
from node.sharing.recalls import Recalled
from protocol.recalls import REASONS, meaning


@dataclass(frozen=True)
class What:
    """Parameters of `discard`, `quarantine.take` and `quarantine.drop`."""

    what: str
    reason: str


@dataclass(frozen=True)
class Settle:
    """Parameters of `recalls.settle`."""

    study: str
    peer: str | None = None


def _reason(reason: str, known: dict[str, str]) -> str:
    if reason not in known:
        raise NodeError(
            f"there is no reason {reason}",
            hint=f"the reasons are {', '.join(known)}",
            code=ExitCode.USAGE,
        )
    return reason


async def discard(call: Call, asked: What) -> Result:
    """Discard a study, a series or an instance, and tell the peers why."""
    code = REASONS[_reason(asked.reason, REASONS)]
    done = await in_thread(call.node.discards.discard, asked.what, code)
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


async def list_aside(call: Call, _: Nothing) -> Result:
    """Instances set aside and files in quarantine, oldest first."""
    found = await in_thread(call.node.set_aside.all)
    return {"aside": [_describe_aside(call.node, one) for one in found]}


def _describe_done(done: Done) -> Result:
    return {
        "study": done.study,
        "instances": done.instances,
        "replaced": done.replaced,
        "entry": done.entry,
    }


async def take(call: Call, asked: What) -> Result:
    """Take a version that was set aside, in place of the one that is here."""
    reason = _reason(asked.reason, TAKE_REASONS)
    return _describe_done(await in_thread(call.node.set_aside.take, asked.what, reason))


async def drop(call: Call, asked: What) -> Result:
    """Delete something that was set aside."""
    reason = _reason(asked.reason, DROP_REASONS)
    return _describe_done(await in_thread(call.node.set_aside.drop, asked.what, reason))


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


async def recalls(call: Call, _: Nothing) -> Result:
    """Recalls by peers of studies that we fetched, oldest first."""
    node = call.node

    def read() -> Result:
        return {"recalls": [_describe_recall(node, one) for one in node.recalls.all()]}

    return await in_thread(read)


async def settle(call: Call, asked: Settle) -> Result:
    """Mark the recalls of a study as dealt with."""
    node, named = call.node, asked.peer

    def work() -> Result:
        peer = node.peers.find(named).facility_key if named else None
        done = node.recalls.settle(asked.study, peer)
        return {"recalls": [_describe_recall(node, one) for one in done]}

    return await in_thread(work)


OPERATIONS = (
    Operation("discard", What, discard, writes=True, roles=("admin",)),
    Operation("quarantine.list", Nothing, list_aside, writes=False, roles=("look", "admin")),
    Operation("quarantine.take", What, take, writes=True, roles=("admin",)),
    Operation("quarantine.drop", What, drop, writes=True, roles=("admin",)),
    Operation("recalls.list", Nothing, recalls, writes=False, roles=("look", "admin")),
    Operation("recalls.settle", Settle, settle, writes=True, roles=("admin",)),
)
