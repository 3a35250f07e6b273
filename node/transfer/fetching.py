"""Fetching studies: from which peers, and how a fetch ends.

A fetch belongs to the node, not to the command that started it: it goes on when
the command ends, over broken connections, and after a restart. It asks all peers
that announced the study under the same content root, unless a person named one.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from keys.purposes import BREAK_GLASS
from keys.trust import Peer
from node.audit.exchanges import ExchangeIndex
from node.blocking import in_thread
from node.callers import Caller, asked_by, asking, caller_from
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.sharing.feeds import Feeds
from node.sharing.found import FoundStudies
from node.sharing.peers import Peers
from node.transfer.receiving import Receiver
from node.transfer.source_worker import Outcome, Reach, SourceWorker
from node.transfer.study_download import Destination, StudyDownload
from node.transfer.transfers import Transfer, TransferState
from protocol.messages import Record

log = logging.getLogger("radmesh.fetching")

SOURCES = 4
"""Most sources of one fetch. More would not be faster, and each source learns of the study."""

HEAD_START_SECONDS = 0.3
"""Time between the first requests to two sources: a small study has arrived before a second
facility is asked, which then learns nothing of it."""

GIVE_UP_SECONDS = 7 * 24 * 3600
"""A fetch that received nothing for this long ends: its source may have revoked us."""

PATIENCE_SECONDS = 3600.0
"""Time after a start before a fetch may end for that: peers have to come back first."""

LOOK_SECONDS = 60.0

SWEEP_SECONDS = 3600.0
"""Time between two looks for leftovers."""

_SAID_AT_MOST = 20
"""Most studies with the same beginning that are counted for a person; above that it says "more"."""

RECEIPTS_SECONDS = 0.5
"""How long the fetch of a published study waits for the receipts of slower sources before it counts
as complete; these go on in the background."""


@dataclass
class _Fetch:
    """A fetch under way.

    Attributes:
        content_root: what its sources announced; None where the chosen one announced nothing.
        sources: all sources that were asked.
        is_over: whether nobody is asked any more.
        caller: who asked for it.
        watching: the scope of the task that ends the fetch when nothing comes for too long.
    """

    download: StudyDownload
    content_root: bytes | None
    nursery: trio.Nursery
    sources: list[SourceWorker] = field(default_factory=list)
    is_over: bool = False
    watching: trio.CancelScope = field(default_factory=trio.CancelScope)
    caller: Caller = field(default_factory=asking)


class Fetcher:
    """Starts and ends incoming transfers.

    Args:
        receiver: runs one session.
        destination: where studies go.
        peers: who is trusted.
        feeds: who announced what.
        found: what searches for patients found at whom.
        reach: how peers are reached.
        clock: tells how old leftovers are.
        index: what our log says of exchanges.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        destination: Destination,
        peers: Peers,
        feeds: Feeds,
        found: FoundStudies,
        reach: Reach,
        clock: Clock,
        index: ExchangeIndex,
    ) -> None:
        self._clock = clock
        self._index = index
        self._receiver = receiver
        self._destination = destination
        self._transfers = destination.transfers
        self._peers = peers
        self._feeds = feeds
        self._found = found
        self._reach = reach
        self._fetches: dict[bytes, _Fetch] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Own all fetches until cancelled; fetches that a stop interrupted go on at once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            unfinished = await in_thread(self._transfers.unfinished_incoming)
            # Register all of them first, so that nobody settles the receipt of an active fetch.
            self._transfers.active.update({one.key: one for one in unfinished})
            for transfer in unfinished:
                if await in_thread(self._is_here, transfer):
                    await self._transfers.enter(transfer, TransferState.COMPLETE)
                else:
                    with asked_by(caller_from(transfer.asked_by)):
                        nursery.start_soon(self._fetch, transfer)
            await self._sweep()

    def _is_here(self, transfer: Transfer) -> bool:
        """Whether a crash fell between the publication of a study and the end of its fetch.

        Receipts that are still missing are settled without another session.
        """
        study = self._destination.catalog.study(transfer.study)
        if study is None:
            return False
        for source in {transfer.peer, *(peer.facility_key for peer in self._peers.store.peers)}:
            name = self._transfers.name_for(transfer, source)
            for entry in self._index.entries(source, name, outgoing=False):
                root = entry.details.get("content_root")
                if entry.type == "received" and root == study.content_root.hex():
                    contribution = self._transfers.contribution(transfer, source)
                    contribution.content_root = study.content_root
                    contribution.is_signed = True
        return bool(transfer.contributions)

    def choose(self, text: str, peer_text: str | None) -> tuple[str, Peer]:
        """The study and the peer that a person means; reads the database.

        Args:
            text: Study Instance UID, or the beginning of one that was announced or found.
            peer_text: the peer, or None for any that announced it or where it was found.

        Raises:
            NodeError: no peer has it, it is ambiguous, or no such peer is trusted.
        """
        peer = self._peers.find(peer_text) if peer_text else None
        by = peer.facility_key if peer else None
        announced = self._feeds.announced_studies(text, peer=by, limit=_SAID_AT_MOST + 1)
        found = [one for one in self._found.of_study(text) if by in (None, one[0])]
        studies = sorted({*announced, *(study for _, study in found)})
        if text in studies:
            studies = [text]
        if len(studies) > 1:
            many = len(studies) > _SAID_AT_MOST
            count = f"more than {_SAID_AT_MOST}" if many else str(len(studies))
            raise NodeError(
                f"{count} studies that were announced or found begin with {text}",
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
            announcing = self._feeds.announced(study=studies[0])
            # Whoever has it at hand goes before those that take it out of an archive first.
            announcing.sort(key=lambda one: bool(one[1].indexed))
            keys = [key for key, _ in announcing]
            keys += [key for key, study in found if study == studies[0]]
            candidates = [holders[key] for key in dict.fromkeys(keys) if key in holders]
            if not candidates:
                raise NodeError(
                    f"who announced the study {studies[0]} is not trusted any more",
                    hint="see `radmesh trust list`; or name a peer with --from",
                    code=ExitCode.NOT_FOUND,
                )
            candidates.sort(key=lambda known: not self._reach.is_connected(known.card.node_key))
            peer = candidates[0]
        return studies[0], peer

    async def start(
        self,
        study: str,
        peer: Peer,
        purpose: str,
        *,
        only_peer: bool,
        stat: bool = False,
        follow: bool = True,
        wanted_root: bytes = b"",
        reason: str = "",
    ) -> Transfer:
        """Start a fetch, or join the one that is under way.

        Args:
            study: Study Instance UID.
            peer: who is asked first.
            purpose: why, for both logs.
            only_peer: ask no other peer.
            stat: the fetch is urgent. A routine fetch that becomes urgent is requested again, so
                that its sources know.
            follow: whether new instances are fetched for a day when it is complete.
            wanted_root: of a follow-up, the content that the peer has announced.
            reason: why, in the words of the person who asks; the sources are told.
        """
        transfer = self._transfers.find_incoming(study, peer.facility_key, only_peer=only_peer)
        if transfer is not None:
            transfer = await self._join(transfer, purpose, follow)
        if transfer is None:
            if self._nursery is None:
                raise NodeError("the node is not ready yet", code=ExitCode.BUSY)
            transfer = self._transfers.begin_incoming(
                study,
                peer.facility_key,
                purpose,
                only_peer=only_peer,
                stat=stat,
                follow=follow,
                follow_up=bool(wanted_root),
                reason=reason,
            )
            transfer.wanted_root = wanted_root
            # No cancellation comes between: a transfer without its task would never end.
            with trio.CancelScope(shield=True):
                await self._transfers.enter(transfer, TransferState.WAITING)
                self._nursery.start_soon(self._fetch, transfer)
            return transfer
        transfer.askers += 1
        if stat and not transfer.stat:
            transfer.stat = True
            if transfer.transfer in self._fetches:
                for source in self._fetches[transfer.transfer].sources:
                    source.ask_again()
        return transfer

    async def _join(self, transfer: Transfer, purpose: str, follow: bool) -> Transfer | None:
        """A person asks for a study that is being fetched; a follow-up becomes that person's fetch.

        A follow-up for another purpose ends, since both logs record its purpose; likewise any
        other fetch when an emergency comes.
        """
        anew = transfer.follow_up or purpose == BREAK_GLASS
        if anew and transfer.purpose != purpose:
            await self.stop(transfer, "it was asked for with another purpose")
            return None
        if transfer.follow_up or transfer.follow > follow:
            if transfer.follow_up:
                transfer.asked_by = asking().opening
            transfer.follow_up, transfer.wanted_root = False, b""
            transfer.follow = transfer.follow and follow
            await self._transfers.enter(transfer, transfer.state, transfer.why)
        return transfer

    async def leave(self, transfer: Transfer) -> None:
        """One who asked for a fetch wants it no more; it stops when nobody wants it.

        What a person asked for at a command line goes on, as nobody ever leaves for that person.
        """
        transfer.askers -= 1
        if transfer.askers <= 0 and not transfer.is_ended:
            await self.cancel(transfer)

    async def cancel(self, transfer: Transfer) -> None:
        """Stop a fetch and stop following the study; batches that were received stay."""
        transfer.follow = False
        await self.stop(transfer, "by an operator")

    async def stop(self, transfer: Transfer, why: str) -> None:
        """Stop a fetch; batches that were received stay."""
        if transfer.scope is not None:
            transfer.scope.cancel()
        if not transfer.is_ended:
            await self._transfers.enter(transfer, TransferState.CANCELLED, why)

    def cancel_peer(self, facility_key: bytes) -> None:
        """Stop asking a peer whose trust was revoked. Other sources go on."""
        for fetch in self._fetches.values():
            for source in fetch.sources:
                if source.peer == facility_key:
                    source.cancel("its trust was revoked")

    def heard(self, facility_key: bytes, records: Iterable[Record]) -> None:
        """A peer has announced studies: add it as a source of those that are being fetched."""
        announced = {record.study: record.content_root for record in records}
        for fetch in self._fetches.values():
            transfer = fetch.download.transfer
            if (
                not (fetch.is_over or transfer.only_peer)
                and fetch.content_root is not None
                and announced.get(transfer.study) == fetch.content_root
                and len(fetch.sources) < SOURCES
                and all(source.peer != facility_key for source in fetch.sources)
            ):
                fetch.download.expect_several()
                self._add_source(fetch, facility_key, HEAD_START_SECONDS)

    async def _fetch(self, transfer: Transfer) -> None:
        if transfer.is_ended:
            return
        with trio.CancelScope() as scope:
            transfer.scope = scope
            try:
                await self._gather(transfer)
            finally:
                self._fetches.pop(transfer.transfer, None)
        if scope.cancelled_caught and not transfer.is_ended:
            await self._transfers.enter(transfer, TransferState.CANCELLED, "by an operator")

    async def _gather(self, transfer: Transfer) -> None:
        root, peers = await in_thread(self._holders, transfer)
        download = StudyDownload(self._destination, transfer, several=len(peers) > 1)
        try:
            await self._gather_from(transfer, download, root, peers)
        finally:
            download.end()

    async def _gather_from(
        self, transfer: Transfer, download: StudyDownload, root: bytes | None, peers: list[bytes]
    ) -> None:
        async with trio.open_nursery() as nursery:
            fetch = self._fetches[transfer.transfer] = _Fetch(download, root, nursery)
            nursery.start_soon(self._end_when_hopeless, fetch)
            for number, peer in enumerate(peers):
                self._add_source(fetch, peer, number * HEAD_START_SECONDS)
            await self._wait_end(download, fetch.sources)
            is_complete = download.receipts > 0
            fetch.is_over = True
            fetch.watching.cancel()
            if is_complete:
                await self._transfers.enter(transfer, TransferState.COMPLETE)
                for source in fetch.sources:
                    source.stop_waiting()
            else:
                nursery.cancel_scope.cancel()
        if not is_complete:
            await self._fail(transfer, fetch.sources)

    async def _end_when_hopeless(self, fetch: _Fetch) -> None:
        """End a fetch when nothing has come for `GIVE_UP_SECONDS`."""
        transfer = fetch.download.transfer
        with fetch.watching:
            await trio.sleep(PATIENCE_SECONDS)
            # There is no event for "nothing happens".
            while not self._is_hopeless(fetch):  # noqa: ASYNC110
                await trio.sleep(LOOK_SECONDS)
            days = GIVE_UP_SECONDS // (24 * 3600)
            why = f"nothing came of it for {days} days"
            if transfer.why:
                why += f"; at last: {transfer.why}"
            hint = "ask the admin of the other side, then fetch it again"
            for source in fetch.sources:
                source.end(Outcome(TransferState.FAILED, why, hint, ExitCode.UNREACHABLE))

    def _is_hopeless(self, fetch: _Fetch) -> bool:
        transfer = fetch.download.transfer
        idle = not fetch.download.open_sessions
        return idle and self._transfers.is_old(transfer, GIVE_UP_SECONDS)

    async def _sweep(self) -> None:
        """Delete unused leftovers from `incoming/`, repeatedly while the node runs."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            try:
                await in_thread(
                    self._destination.incoming.sweep_old, bool(self._fetches), self._clock.now()
                )
            except NodeError as error:
                log.error("leftovers of transfers cannot be deleted: %s", error.message)

    def _add_source(self, fetch: _Fetch, peer: bytes, delay_seconds: float) -> None:
        source = SourceWorker(
            receiver=self._receiver,
            reach=self._reach,
            append=self._destination.append,
            download=fetch.download,
            contribution=self._transfers.contribution(fetch.download.transfer, peer),
        )
        fetch.sources.append(source)

        def others_left() -> bool:
            return any(not other.is_over for other in fetch.sources if other is not source)

        async def run() -> None:
            # A source may be added later, in a task that has no caller of its own.
            with asked_by(fetch.caller):
                await source.run(others_left, delay_seconds)

        fetch.nursery.start_soon(run)

    async def _wait_end(self, download: StudyDownload, sources: list[SourceWorker]) -> None:
        """Wait for a receipt, then briefly for slower sources; or until no source is left."""
        while not download.receipts:
            if all(source.is_over for source in sources) or any(map(_is_our_fault, sources)):
                return
            await download.wait_change()
        with trio.move_on_after(RECEIPTS_SECONDS):
            while any(source.in_session for source in sources):
                await download.wait_change()

    async def _fail(self, transfer: Transfer, sources: list[SourceWorker]) -> None:
        """End with our own error if there is one, else as the source that was given up last."""
        outcomes = [source.outcome for source in sources if source.outcome is not None]
        last = max(outcomes, key=lambda outcome: (outcome.is_ours, outcome.time))
        transfer.exit_code = last.code
        await self._transfers.enter(transfer, last.state, last.why, last.hint)

    def _holders(self, transfer: Transfer) -> tuple[bytes | None, list[bytes]]:
        """The content root, and the peers to ask: the chosen one first, then connected ones."""
        chosen = transfer.peer
        if transfer.only_peer:
            return None, [chosen]
        announced = {
            key: record.content_root
            for key, record in self._feeds.announced(study=transfer.study)
            if not record.indexed
        }
        roots = [announced[chosen]] if chosen in announced else list(announced.values())
        others = [
            known
            for known in self._peers.store.peers
            if known.revoked is None
            and known.facility_key != chosen
            and announced.get(known.facility_key) in roots[:1]
        ]
        others.sort(key=lambda known: not self._reach.is_connected(known.card.node_key))
        holders = [chosen, *(known.facility_key for known in others[: SOURCES - 1])]
        return next(iter(roots), None), holders


def _is_our_fault(source: SourceWorker) -> bool:
    return source.outcome is not None and source.outcome.is_ours
