"""Fetching studies: which peer, when to try again, and when to give up.

A fetch belongs to the node, not to the command that started it: it goes on when
the command ends, over broken connections, and after a restart.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from keys.trust import Peer
from node.errors import ExitCode, NodeError
from node.feeds import Feeds
from node.network import PeerStream, StreamLost
from node.peers import Peers
from node.policy import sentence
from node.receiving import Receiver
from node.sessions import TransferRefused
from node.transfers import Transfer, Transfers, TransferState
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Event

log = logging.getLogger("radmesh.fetching")

RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses between attempts without progress; the last one repeats."""

BAD_DATA_ATTEMPTS = 3
"""A source that sends wrong data so often in a row is given up."""

_TRY_AGAIN = frozenset({WireCode.BUSY, WireCode.SHUTTING_DOWN, WireCode.OTHER})


class Fetcher:
    """Starts, repeats and ends incoming transfers.

    Args:
        receiver: runs one session.
        transfers: the register.
        peers: who is trusted.
        feeds: who announced what.
        append: writes one audit entry durably (synchronous).
        open_stream: opens a study stream to a node key.
        wait_connected: waits until a node key is connected.
        is_connected: whether it is now.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        transfers: Transfers,
        peers: Peers,
        feeds: Feeds,
        append: Callable[[Event], int],
        open_stream: Callable[[bytes], Awaitable[PeerStream]],
        wait_connected: Callable[[bytes], Awaitable[None]],
        is_connected: Callable[[bytes], bool],
    ) -> None:
        self._receiver = receiver
        self._transfers = transfers
        self._peers = peers
        self._feeds = feeds
        self._append = append
        self._open_stream = open_stream
        self._wait_connected = wait_connected
        self._is_connected = is_connected
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Own all fetches until cancelled; those that a stop interrupted go on at once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for transfer in await trio.to_thread.run_sync(self._transfers.unfinished_incoming):
                self._transfers.active[transfer.transfer] = transfer
                nursery.start_soon(self._fetch, transfer)
            await trio.sleep_forever()

    def choose(self, text: str, peer_text: str | None) -> tuple[str, Peer]:
        """The study and the peer that a person means.

        Args:
            text: Study Instance UID, or the beginning of an announced one.
            peer_text: the peer, or None for any that announced it.

        Raises:
            NodeError: nobody announced it, it is ambiguous, or no such peer is trusted.
        """
        peer = self._peers.find(peer_text) if peer_text else None
        found = self._feeds.announced(peer=peer.facility_key if peer else None, study=text)
        studies = sorted({record.study for _, record in found})
        if text in studies:
            studies = [text]
        if len(studies) > 1:
            raise NodeError(
                f"{len(studies)} announced studies begin with {text}",
                hint="give more of the Study Instance UID",
                code=ExitCode.NOT_FOUND,
            )
        if not studies:
            if peer is not None:
                return text, peer
            raise NodeError(
                f"no peer has announced a study {text}",
                hint="see `radmesh studies --all`; or name the peer with --from",
                code=ExitCode.NOT_FOUND,
            )
        if peer is None:
            holders = {
                known.facility_key: known
                for known in self._peers.store.peers
                if known.revoked is None
            }
            candidates = [
                holders[key]
                for key, record in found
                if record.study == studies[0] and key in holders
            ]
            candidates.sort(key=lambda known: not self._is_connected(known.card.node_key))
            peer = candidates[0]
        return studies[0], peer

    async def start(self, study: str, peer: Peer, purpose: str, *, stat: bool = False) -> Transfer:
        """Start a fetch, or join the one that is under way; `stat` when it is urgent.

        A routine one that becomes urgent is asked for again, so that the source knows.
        """
        transfer = self._transfers.find_active("in", study, peer.facility_key)
        if transfer is None:
            if self._nursery is None:
                raise NodeError("the node is not ready yet", code=ExitCode.BUSY)
            transfer = self._transfers.begin_incoming(study, peer.facility_key, purpose, stat=stat)
            await self._transfers.enter(transfer, TransferState.WAITING)
            self._nursery.start_soon(self._fetch, transfer)
        elif stat and not transfer.stat:
            transfer.stat = True
            transfer.ask_again()
        return transfer

    async def cancel(self, transfer: Transfer) -> None:
        """Stop a fetch; what was received stays and is not fetched again later."""
        if transfer.scope is not None:
            transfer.scope.cancel()
        if not transfer.is_ended:
            await self._transfers.enter(transfer, TransferState.CANCELLED, "by an operator")

    def cancel_peer(self, facility_key: bytes) -> None:
        """Stop all fetches from a peer: its trust was revoked."""
        for transfer in list(self._transfers.active.values()):
            if transfer.peer == facility_key and transfer.scope is not None:
                transfer.why = "its trust was revoked"
                transfer.scope.cancel()

    async def _fetch(self, transfer: Transfer) -> None:
        with trio.CancelScope() as scope:
            transfer.scope = scope
            await self._attempts(transfer)
        if scope.cancelled_caught and not transfer.is_ended:
            await self._transfers.enter(
                transfer, TransferState.CANCELLED, transfer.why or "by an operator"
            )

    async def _attempts(self, transfer: Transfer) -> None:
        idle, bad = 0, 0
        while not transfer.is_ended:
            peer = self._trusted(transfer.peer)
            if peer is None:
                await self._fail(transfer, "its peer is not trusted any more", ExitCode.REFUSED)
                return
            before = transfer.bytes_done
            try:
                if not self._is_connected(peer.card.node_key):
                    await self._transfers.enter(
                        transfer, TransferState.WAITING, f"{peer.petname} is not connected"
                    )
                    await self._wait_connected(peer.card.node_key)
                await self._attempt(transfer, peer)
                return
            except TransferRefused as refused:
                what, hint = sentence(refused.code, peer.petname)
                if refused.code is WireCode.OTHER:
                    bad += 1
                if refused.code not in _TRY_AGAIN or bad >= BAD_DATA_ATTEMPTS:
                    await self._refused(transfer, what, hint)
                    return
            except StreamLost:
                what = f"the connection to {peer.petname} was lost"
            except RemoteProtocolError as error:
                what = f"{peer.petname} sent wrong data: {error}"
                bad += 1
                log.warning("transfer %s: %s", transfer.transfer.hex()[:8], what)
                await self._log(transfer, "receive-failed", str(error))
                if bad >= BAD_DATA_ATTEMPTS:
                    await self._fail(transfer, what, ExitCode.INTEGRITY)
                    return
            except NodeError as error:
                await self._log(transfer, "receive-failed", "a local error")
                await self._fail(transfer, error.message, error.code, error.hint)
                return
            if transfer.bytes_done > before:
                idle = 0
            await self._transfers.enter(transfer, TransferState.WAITING, what)
            await trio.sleep(RETRY_SECONDS[min(idle, len(RETRY_SECONDS) - 1)])
            idle += 1

    async def _attempt(self, transfer: Transfer, peer: Peer) -> None:
        stream = await self._open_stream(peer.card.node_key)
        try:
            with trio.CancelScope() as session:
                transfer.session = session
                await self._receiver.receive(stream, transfer, peer)
            if session.cancelled_caught:
                raise StreamLost("it is asked for again")
            await self._transfers.enter(transfer, TransferState.COMPLETE)
            await stream.close()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                if not transfer.is_ended:
                    await stream.reset()

    def _trusted(self, facility_key: bytes) -> Peer | None:
        for peer in self._peers.store.peers:
            if peer.facility_key == facility_key and peer.revoked is None:
                return peer
        return None

    async def _refused(self, transfer: Transfer, what: str, hint: str) -> None:
        await self._log(transfer, "refused", what)
        transfer.exit_code = ExitCode.REFUSED
        await self._transfers.enter(transfer, TransferState.REFUSED, what, hint)

    async def _fail(self, transfer: Transfer, why: str, code: ExitCode, hint: str = "") -> None:
        transfer.exit_code = code
        await self._transfers.enter(transfer, TransferState.FAILED, why, hint)

    async def _log(self, transfer: Transfer, kind: str, why: str) -> None:
        event = Event(
            type=kind,
            peer=transfer.peer,
            purpose=transfer.purpose,
            outcome="refused" if kind == "refused" else "failed",
            subjects=(("study", transfer.study),),
            details={
                "transfer": transfer.transfer.hex(),
                "direction": "in",
                "why": why,
                **transfer.stat_detail,
            },
        )
        try:
            await trio.to_thread.run_sync(self._append, event)
        except NodeError as error:
            # The fetch ends all the same; a full disk must not take the node with it.
            log.error("the end of a session could not be logged: %s", error.message)
