"""Fetches for which a system of the hospital waits, such as a workstation with its C-MOVE.

They are fetches like any other, which several may share: two workstations that ask at once fetch
once. Who cancels only stops to wait; a fetch stops when nobody wants it any more.
"""

import trio

from keys.trust import Peer
from node.transfer.fetching import Fetcher
from node.transfer.transfers import Transfer, Transfers, TransferState

STILL_SECONDS = 300.0
"""After so long without a byte nobody waits any more; the fetch goes on by itself."""

_LOOK_SECONDS = 1.0


class AwaitedFetches:
    """Starts and awaits fetches.

    Args:
        fetcher: fetches.
        transfers: those under way.
    """

    def __init__(self, fetcher: Fetcher, transfers: Transfers) -> None:
        self._fetcher = fetcher
        self._transfers = transfers

    async def fetch(
        self,
        study: str,
        peer: Peer,
        purpose: str,
        cancelled: trio.Event,
        *,
        only_peer: bool,
        stat: bool,
    ) -> str:
        """Fetch a study (UID); returns why it is not here, or "".

        Args:
            study: its UID.
            peer: who is asked first.
            purpose: why, for both logs.
            cancelled: set when it is wanted no more; then this returns "" at once.
            only_peer: ask no other facility.
            stat: whether it is urgent.

        Raises:
            NodeError: the node is not ready.
        """
        alone = self._is_alone(study, peer, only_peer=only_peer)
        transfer = await self._fetcher.start(study, peer, purpose, only_peer=alone, stat=stat)
        is_left = True
        try:
            await _watch(transfer, cancelled)
            is_left = cancelled.is_set()
        finally:
            if is_left:
                with trio.CancelScope(shield=True):
                    await self._fetcher.leave(transfer)
        if cancelled.is_set() or transfer.state is TransferState.COMPLETE:
            return ""
        if transfer.is_ended:
            return transfer.why or "it was not fetched"
        if _waits_for_a_person(transfer):
            return f"a person at {peer.petname} has to approve it: try later"
        return f"{peer.petname} has not sent it yet: try again later"

    def _is_alone(self, study: str, peer: Peer, *, only_peer: bool) -> bool:
        """Whether no other facility is asked; as in a fetch that is under way, to share it."""
        for one in self._transfers.active.values():
            if (one.direction, one.study) == ("in", study) and (
                one.peer == peer.facility_key or not one.only_peer
            ):
                return one.only_peer
        return only_peer


def _waits_for_a_person(transfer: Transfer) -> bool:
    """Whether nobody sends it before a person there approves; that takes longer than one waits."""
    sources = transfer.contributions.values()
    return bool(sources) and all(one.is_waiting for one in sources)


async def _watch(transfer: Transfer, cancelled: trio.Event) -> None:
    """Wait for the end of a fetch, while it is wanted and waiting makes sense."""
    moved, since = -1, trio.current_time()
    while not (transfer.is_ended or cancelled.is_set() or _waits_for_a_person(transfer)):
        if transfer.wire_bytes + transfer.bytes_done != moved:
            moved, since = transfer.wire_bytes + transfer.bytes_done, trio.current_time()
        if trio.current_time() - since > STILL_SECONDS:
            return
        with trio.move_on_after(_LOOK_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_after, cancelled, nursery.cancel_scope)
                nursery.start_soon(_stop_after, transfer.over, nursery.cancel_scope)


async def _stop_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
