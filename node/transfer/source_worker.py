"""One source of a fetch: when it is asked, when it is tried again, when it is given up.

The sources of a fetch share a `StudyDownload`. If a source is lost, refuses or sends wrong data,
the others go on; the fetch fails when no source is left.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from keys.trust import Peer
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.failures import describe_unexpected
from node.network.network import PeerStream, StreamLost
from node.sharing.policy import sentence
from node.transfer.receiving import NotAnnouncedError, Receiver
from node.transfer.sessions import TransferRefused
from node.transfer.study_download import NotNeededError, StudyDownload
from node.transfer.transfers import Contribution, TransferState
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Event, subjects_of

log = logging.getLogger("radmesh.fetching")

RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses between attempts without progress; the last one repeats."""

BUSY_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Pauses after a source said BUSY: its budgets fill up by themselves."""

RETRIEVING_SECONDS = (0.2, 1.0, 2.0, 5.0)
"""Pauses after a source said that it is bringing the study from its archive: it holds each question
for a while itself. The last one repeats."""

APPROVAL_SECONDS = (5.0, 10.0, 20.0, 60.0)
"""Pauses after a source said that a person there has to approve first; the last one repeats."""

ROUTINE_PLACES = 6
URGENT_PLACES = 2
"""Most sessions with one source at once, routine and urgent ones counted apart: together no more
than a source serves to one peer, so that a long list of fetches never gets BUSY for that reason."""

BAD_DATA_ATTEMPTS = 3
"""The last source of a fetch is given up when it has sent wrong data this often; while others are
left, a source is given up at once."""

STAND_IN_SECONDS = 10.0
"""A source whose batches do not match those of the others takes over, from the beginning, when the
others have been away for this long."""

_PAUSES = {
    WireCode.BUSY: BUSY_SECONDS,
    WireCode.NOT_RETRIEVED: BUSY_SECONDS,
    WireCode.RETRIEVING: RETRIEVING_SECONDS,
}
"""Pauses behind a refusal, where they are not `RETRY_SECONDS`."""

_TRY_AGAIN = frozenset({*_PAUSES, WireCode.SHUTTING_DOWN, WireCode.OTHER, WireCode.WAITING})
_STANDS = frozenset({WireCode.WAITING, WireCode.RETRIEVING, WireCode.NOT_RETRIEVED})
"""Refusals after which the request stands: it is not logged again when it is asked again."""


@dataclass(frozen=True)
class Outcome:
    """Why a source was given up, for the fetch to end with if it was the last."""

    state: TransferState
    why: str
    hint: str = ""
    code: ExitCode = ExitCode.FAILED
    is_ours: bool = False
    time: float = field(default_factory=trio.current_time)


@dataclass(frozen=True)
class Reach:
    """How peers are reached.

    Attributes:
        find: gives the peer with a facility key, None when it is not trusted.
        open_stream: opens a study stream to a node key.
        wait_connected: waits until a node key is connected.
        is_connected: whether a node key is connected now.
        speaks_for: whether the node key on a peer's card is its own (`keys.claims`).
        why_away: why a peer is not connected, as far as is known, or "".
        places: limiters of sessions, by facility key and whether they are urgent.
    """

    find: Callable[[bytes], Peer | None]
    open_stream: Callable[[bytes], Awaitable[PeerStream]]
    wait_connected: Callable[[bytes], Awaitable[None]]
    is_connected: Callable[[bytes], bool]
    speaks_for: Callable[[Peer], bool] = lambda _: True
    why_away: Callable[[Peer], str] = lambda peer: ""
    places: dict[tuple[bytes, bool], trio.CapacityLimiter] = field(default_factory=dict)

    def place(self, facility_key: bytes, *, stat: bool) -> trio.CapacityLimiter:
        """The places for sessions with a source."""
        most = URGENT_PLACES if stat else ROUTINE_PLACES
        return self.places.setdefault((facility_key, stat), trio.CapacityLimiter(most))


class SourceWorker:
    """Sessions with one source of a fetch until it is done or given up.

    Args:
        receiver: runs one session.
        reach: how the source is reached.
        append: writes audit entries durably with one flush (synchronous).
        download: the state that the sources of the fetch share.
        contribution: what comes from this source.

    Attributes:
        outcome: why the source was given up, None if it was not.
        is_over: whether the source will not be asked any more.
        in_session: whether a stream to it is open.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        reach: Reach,
        append: Callable[[Sequence[Event]], object],
        download: StudyDownload,
        contribution: Contribution,
    ) -> None:
        self.outcome: Outcome | None = None
        self.is_over = False
        self.in_session = False
        self._receiver = receiver
        self._reach = reach
        self._append = append
        self._download = download
        self._contribution = contribution
        self._scope = trio.CancelScope()
        self._session_scope: trio.CancelScope | None = None

    @property
    def peer(self) -> bytes:
        """The source's facility key."""
        return self._contribution.peer

    def cancel(self, why: str) -> None:
        """Stop asking this source, also in the middle of a session."""
        self.outcome = Outcome(TransferState.CANCELLED, why)
        self._scope.cancel()

    def end(self, outcome: Outcome) -> None:
        """Give this source up, with this outcome for the fetch."""
        self.outcome = outcome
        self._scope.cancel()

    def ask_again(self) -> None:
        """Replace the session by a new one that goes on from here; too late once all is here."""
        if self._session_scope is not None and self._download.transfer.state in (
            TransferState.REQUESTING,
            TransferState.RECEIVING,
        ):
            self._session_scope.cancel()

    def stop_waiting(self) -> None:
        """The study is here: stop asking this source, but let a session end by itself."""
        if not self.in_session:
            self._scope.cancel()

    async def run(self, others_left: Callable[[], bool], delay_seconds: float) -> None:
        """Ask until the study is here, or this source is given up.

        Args:
            others_left: whether another source may still bring the study.
            delay_seconds: a head start for other sources.
        """
        with self._scope:
            await trio.sleep(delay_seconds)
            await self._repeat(others_left)
        self.is_over = True
        self._download.notify()

    async def _repeat(self, others_left: Callable[[], bool]) -> None:
        idle, bad, asked = 0, 0, 0
        while not self._download.receipts:
            peer = self._reach.find(self.peer)
            if peer is None:
                self._give_up("its peer is not trusted any more")
                return
            before = self._contribution.encoded_bytes
            most_bad = 1 if others_left() else BAD_DATA_ATTEMPTS
            refusal: WireCode | None = None
            try:
                async with self._reach.place(self.peer, stat=self._download.transfer.stat):
                    await self._session(peer)
                return
            except NotNeededError:
                await self._wait_needed(others_left)
                continue
            except TransferRefused as refused:
                what, hint = sentence(refused.code, peer.petname)
                if refused.code in (WireCode.BAD_DIGEST, WireCode.SOURCE_DISK):
                    await self._failed(peer, what)
                    self._give_up(what, hint)
                    return
                bad += refused.code is WireCode.OTHER
                refusal = refused.code
                if refused.code in _TRY_AGAIN and self._leave_to_settling(peer):
                    return
                if refused.code not in _TRY_AGAIN or bad >= most_bad:
                    await self._log("refused", what)
                    self._give_up(what, hint, ExitCode.REFUSED, TransferState.REFUSED)
                    return
            except StreamLost:
                if self._leave_to_settling(peer):
                    return
                what = f"the connection to {peer.petname} was lost"
                if not self._reach.speaks_for(peer):
                    what = f"another facility claims the key of {peer.petname} (`radmesh status`)"
            except NotAnnouncedError:
                what = f"{peer.petname} offers more of it than it has announced so far"
            except RemoteProtocolError as error:
                what = f"{peer.petname} sent wrong data: {error}"
                bad += 1
                await self._failed(peer, str(error))
                if bad >= most_bad:
                    self._give_up(what, "", ExitCode.INTEGRITY, TransferState.FAILED)
                    return
            except NodeError as error:
                await self._log("receive-failed", "a local error")
                self.outcome = Outcome(
                    TransferState.FAILED, error.message, error.hint, error.code, is_ours=True
                )
                return
            except Exception as error:
                # A bug of ours that the peer's bytes trigger: give up this source of this fetch, or
                # the node would run into it again at each start.
                where = describe_unexpected(error)
                log.error("transfer from %s: unexpected %s", peer.petname, where)
                await self._log("receive-failed", "an error of this node")
                self._give_up(
                    f"an error of this node ({where})",
                    "report this, with the log of the node",
                    ExitCode.FAILED,
                )
                return
            if self._contribution.encoded_bytes > before:
                idle = 0
            self._contribution.is_waiting = refusal is WireCode.WAITING
            self._contribution.stands = refusal in _STANDS
            await self._download.enter(TransferState.WAITING, what)
            if refusal is WireCode.WAITING:
                await trio.sleep(APPROVAL_SECONDS[min(asked, len(APPROVAL_SECONDS) - 1)])
                asked += 1
                continue
            pauses = RETRY_SECONDS if refusal is None else _PAUSES.get(refusal, RETRY_SECONDS)
            await trio.sleep(pauses[min(idle, len(pauses) - 1)])
            idle += 1

    def _leave_to_settling(self, peer: Peer) -> bool:
        """Whether the study is here and our receipt is kept, so that this source is done.

        Another session would give the transfer a second receipt.
        """
        if not self._contribution.is_signed:
            return False
        log.info("the receipt of a study from %s is settled when it is back", peer.petname)
        self._download.receipts += 1
        return True

    async def _wait_needed(self, others_left: Callable[[], bool]) -> None:
        """Wait until all other sources are given up, or none has been at work for a while."""
        idle_since = trio.current_time()
        while others_left() and trio.current_time() - idle_since < STAND_IN_SECONDS:
            if not self._download.is_idle:
                idle_since = trio.current_time()
            await self._download.wait_change(1.0)

    async def _session(self, peer: Peer) -> None:
        node_key = peer.card.node_key
        if not self._reach.speaks_for(peer):
            raise StreamLost("the node key of the peer is contested")
        if not self._reach.is_connected(node_key):
            why = self._reach.why_away(peer)
            said = f"{peer.petname} is not connected" + (f": {why}" if why else "")
            await self._download.enter(TransferState.WAITING, said)
            await self._reach.wait_connected(node_key)
        stream = await self._reach.open_stream(node_key)
        self.in_session = True
        self._download.open_sessions += 1
        is_done = False
        try:
            with trio.CancelScope() as self._session_scope:
                await self._receiver.receive(stream, self._download, self._contribution, peer)
                await stream.finish()
                is_done = True
            if not is_done:
                raise StreamLost("it is asked for again")
        finally:
            self.in_session = False
            self._session_scope = None
            self._download.open_sessions -= 1
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                if not is_done:
                    await stream.reset()

    def _give_up(
        self,
        why: str,
        hint: str = "",
        code: ExitCode = ExitCode.REFUSED,
        state: TransferState = TransferState.FAILED,
    ) -> None:
        self.outcome = Outcome(state, why, hint, code)

    async def _failed(self, peer: Peer, why: str) -> None:
        """A source sent wrong data: name it in the program's log and in the audit log."""
        name = self._contribution.transfer.hex()[:8]
        log.warning("transfer %s from %s: %s", name, peer.petname, why)
        await self._log("receive-failed", why)

    async def _log(self, kind: str, why: str) -> None:
        event = Event(
            type=kind,
            peer=self.peer,
            purpose=self._download.transfer.purpose,
            outcome="refused" if kind == "refused" else "failed",
            subjects=subjects_of(self._download.transfer.study, self._download.patients),
            details={
                "transfer": self._contribution.transfer.hex(),
                "direction": "in",
                "why": why,
                **self._download.transfer.asked_details,
            },
        )
        try:
            await in_thread(self._append, [event])
        except NodeError as error:
            # The fetch ends all the same; a full disk must not stop the node.
            log.error("the end of a session could not be logged: %s", error.message)
