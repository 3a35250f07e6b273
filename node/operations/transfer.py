"""Operations on transfers: fetch, follow, list, cancel."""

from dataclasses import dataclass
from typing import Any

import trio

from keys.purposes import BREAK_GLASS, is_purpose
from keys.trust import PURPOSES
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.paging import bytes_of, cursor, place_of
from node.sharing.requests import REASON_CHARACTERS
from node.transfer.transfers import Transfer, TransferKey, TransferState

_PROGRESS_SECONDS = 0.1

PAGE_TRANSFERS = 100


@dataclass(frozen=True)
class Fetch:
    """Parameters of `fetch`; without a peer, from all peers that announced the study."""

    study: str
    peer: str | None = None
    purpose: str = PURPOSES[0]
    stat: bool = False
    follow: bool = True
    reason: str = ""


@dataclass(frozen=True)
class Transfers:
    """Parameters of `transfers`."""

    after: str | None = None


@dataclass(frozen=True)
class Cancel:
    """Parameters of `transfer.cancel`: the beginning of the transfer's name."""

    transfer: str


def describe_transfer(node: Node, transfer: Transfer) -> dict[str, Any]:
    """A transfer as JSON."""
    return {
        "transfer": transfer.transfer.hex(),
        "study": transfer.study,
        "peer": node.petname(transfer.peer),
        "direction": transfer.direction,
        "purpose": transfer.purpose,
        "stat": transfer.stat,
        "follow": transfer.follow,
        "follow_up": transfer.follow_up,
        "state": transfer.state.value,
        "why": transfer.why,
        "instances": transfer.instances,
        "bytes": transfer.bytes,
        "bytes_done": transfer.bytes_done,
        "wire_bytes": transfer.wire_bytes,
        "wire_bytes_total": transfer.wire_bytes_total,
        "held_bytes": transfer.held_bytes,
        "sources": [
            {
                "peer": node.petname(source.peer),
                "transfer": source.transfer.hex(),
                "batches": source.batches,
                "wire_bytes": source.encoded_bytes,
            }
            for source in transfer.contributions.values()
            if source.batches
        ],
        "started": transfer.started,
        "ended": transfer.ended,
        "still_since": node.transfers.still_since(transfer),
    }


def _receipts(node: Node, found: list[Transfer]) -> dict[TransferKey, list[dict[str, Any]]]:
    """The receipts of transfers, and what their recipients say of the archive; by transfer."""
    facilities = [peer.facility_key for peer in node.peers.store.peers]
    keys: dict[tuple[bool, bytes, bytes], TransferKey] = {}
    for one in found:
        # A fetch has another name with each of its sources.
        sources = {one.peer} if one.direction == "out" or one.only_peer else {one.peer, *facilities}
        for peer in sources:
            name = node.transfers.name_for(one, peer)
            keys[one.direction == "out", peer, name] = one.key
    names = [name for _, _, name in keys]
    stored = {(one.outgoing, one.peer, one.transfer): one for one in node.stored.statements(names)}
    receipts = {
        (one.outgoing, one.peer, one.transfer): one for one in node.exchanges.receipts(names)
    }
    shown: dict[TransferKey, list[dict[str, Any]]] = {}
    for key, receipt in receipts.items():
        if key not in keys:
            continue
        said = stored.get(key)
        shown.setdefault(keys[key], []).append(
            {
                "peer": node.petname(receipt.peer),
                "received": receipt.time,
                "stored": None
                if said is None
                else {
                    "instances": said.instances,
                    "proven_by": said.proven_by,
                    "proven_at": said.proven_at,
                    "noted": said.time or None,
                },
            }
        )
    return shown


async def fetch(call: Call, asked: Fetch) -> Result:
    """Fetch a study and follow the transfer to its end."""
    serving, purpose = call.require_serving(), asked.purpose
    if not is_purpose(purpose):
        raise NodeError(
            f"there is no purpose {purpose}",
            hint=f"the purposes are {', '.join(PURPOSES)}, and the codes of HL7, such as TREAT",
            code=ExitCode.USAGE,
        )
    if len(asked.reason) > REASON_CHARACTERS or not asked.reason.isprintable():
        raise NodeError(
            f"a reason is at most {REASON_CHARACTERS} printable characters on one line",
            code=ExitCode.USAGE,
        )
    if purpose == BREAK_GLASS:
        raise NodeError(
            f"the purpose {BREAK_GLASS} is for an emergency",
            hint="use `radmesh fetch STUDY --from NAME --emergency REASON`",
            code=ExitCode.USAGE,
        )
    named = asked.peer or None
    study, peer = await in_thread(serving.fetcher.choose, asked.study, named)
    transfer = await serving.fetcher.start(
        study,
        peer,
        purpose,
        only_peer=named is not None,
        stat=asked.stat,
        follow=asked.follow,
        reason=asked.reason,
    )
    return await follow_to_end(call, transfer)


async def follow_to_end(call: Call, transfer: Transfer) -> Result:
    """Report the progress of a transfer until it is over.

    Raises:
        NodeError: it did not complete.
    """
    node, study = call.node, transfer.study
    while not transfer.is_ended:
        call.report(describe_transfer(node, transfer))
        with trio.move_on_after(_PROGRESS_SECONDS):
            await transfer.over.wait()
    call.report(describe_transfer(node, transfer))
    if transfer.state is TransferState.COMPLETE:
        return describe_transfer(node, transfer)
    message = transfer.why
    if transfer.state is TransferState.CANCELLED:
        message = f"the transfer was cancelled: {transfer.why}"
    raise NodeError(
        f"study {study} was not fetched: {message}",
        hint=transfer.hint,
        code=ExitCode(transfer.exit_code),
    )


async def transfers(call: Call, asked: Transfers) -> Result:
    """Transfers, the newest first, active ones included."""
    node, before = call.node, None
    if asked.after is not None:
        started, direction, *names = place_of(asked.after, int, str, str, str)
        before = (started, direction, *map(bytes_of, names))
    found, following = await in_thread(node.transfers.page, PAGE_TRANSFERS, before)
    receipts = await in_thread(_receipts, node, found)
    return {
        "transfers": [
            {**describe_transfer(node, transfer), "receipts": receipts.get(transfer.key, [])}
            for transfer in found
        ],
        "next": None
        if following is None
        else cursor(*following[:2], *map(bytes.hex, following[2:])),
    }


async def cancel(call: Call, asked: Cancel) -> Result:
    """Stop an incoming transfer that is under way."""
    node, prefix = call.node, asked.transfer.lower()
    found = [
        transfer
        for transfer in node.transfers.active.values()
        if prefix and transfer.transfer.hex().startswith(prefix) and transfer.direction == "in"
    ]
    if len(found) != 1:
        raise NodeError(
            f"no incoming transfer {prefix} is under way"
            if not found
            else f"{len(found)} transfers begin with {prefix}",
            hint="see `radmesh transfers`; to stop sending to a peer, revoke its grant",
            code=ExitCode.NOT_FOUND,
        )
    await call.require_serving().fetcher.cancel(found[0])
    return describe_transfer(node, found[0])


OPERATIONS = (
    Operation("fetch", Fetch, fetch, writes=True, needs_network=True, roles=("send",)),
    Operation("transfers", Transfers, transfers, writes=False, roles=("look", "send")),
    Operation(
        "transfer.cancel", Cancel, cancel, writes=True, needs_network=True, roles=("send", "admin")
    ),
)
