"""One session with one source of a fetch: ask, take batches, sign the receipt.

What the sessions of a fetch share, and when the study is published, is
`node/transfer/study_download.py`'s; this file speaks with one peer.

Tasks of a session: a reader that always drains the stream (credit bounds what it
can bring), threads that open, decode, compare and write batches and others that
flush them, a finisher that takes their results in order and gives credit, an asker
that says what is wanted next, and the main line.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import trio

from keys.identity import KeyPair
from keys.purposes import BREAK_GLASS
from keys.trust import Peer
from node.blocking import in_thread
from node.callers import parts_of, told_of
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.network.messaging import first_error
from node.network.network import PeerStream, StreamLost
from node.sharing.emergencies import IN, Emergencies
from node.transfer.sessions import StudyStream
from node.transfer.shares import Shares
from node.transfer.study_download import POLL_SECONDS, Member, NotNeededError, StudyDownload
from node.transfer.transfers import Contribution, TransferState
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.feed import is_announced_untrusted
from protocol.log.entry import Event as LogEvent
from protocol.log.entry import subjects_of
from protocol.manifest import BatchEntry, Manifest
from protocol.messages import Offer, Record
from protocol.receipt import Receipt
from protocol.recipient import RecipientTransfer
from protocol.transfer import (
    BatchArrived,
    Countersigned,
    Ended,
    ManifestArrived,
    Offered,
)

BATCHES_AT_WORK = 2
"""Threads that decode and write: as many as there are cores on a small machine."""

MANIFESTS_AT_WORK = 1
"""The largest manifest takes some hundred MiB while it is decoded."""

FLUSHES_AT_WORK = 4
"""Threads that wait for the disk, which does several flushes at the price of one."""


class NotAnnouncedError(Exception):
    """A source offers more of a study than it has announced: its news is still to come."""


@dataclass
class _Job:
    """One batch at work.

    `index` is ours, None when it was not missing as the source joined; `entry` is what
    the manifest says of it.
    """

    batch: BatchArrived | None
    index: int | None
    entry: BatchEntry
    sealed_bytes: int
    done: trio.Event = field(default_factory=trio.Event)
    failure: Exception | None = None


class Receiver:
    """Receives from sources.

    Args:
        key: our node key.
        facility_key: our facility key (32 bytes).
        append: writes audit entries durably with one flush (synchronous).
        add_receipt: keeps a signed receipt beside the log (synchronous).
        exchanging: keeps a receipt that lacks its countersignature, and within it leaves
            the exchange to us.
        announced: what a facility (its key) announced last of a study (synchronous).
        clock: dates requests and receipts.
        emergencies: what waits for a review.
    """

    def __init__(
        self,
        *,
        key: KeyPair,
        facility_key: bytes,
        append: Callable[[Sequence[LogEvent]], object],
        add_receipt: Callable[[bytes], str],
        exchanging: Callable[[Receipt], AbstractAsyncContextManager[None]],
        announced: Callable[[bytes, str], Record | None],
        clock: Clock,
        emergencies: Emergencies,
    ) -> None:
        self._clock = clock
        self._emergencies = emergencies
        self._key = key
        self._facility_key = facility_key
        self._append = append
        self._add_receipt = add_receipt
        self._exchanging = exchanging
        self._announced = announced
        self._at_work = Shares(BATCHES_AT_WORK)
        # Urgent batches never queue behind routine ones.
        self._stat_at_work = Shares(BATCHES_AT_WORK)
        self._opening = trio.CapacityLimiter(MANIFESTS_AT_WORK)
        self._flushing = trio.CapacityLimiter(FLUSHES_AT_WORK)

    def use_key(self, key: KeyPair) -> None:
        """Ask and sign with another node key from now on."""
        self._key = key

    async def receive(
        self, stream: PeerStream, download: StudyDownload, contribution: Contribution, peer: Peer
    ) -> None:
        """Run one session; on return the study is published and both sides have its receipt.

        Raises:
            TransferRefused: the source said no.
            NotNeededError: the source may be needed when others are gone.
            NotAnnouncedError: the source offers more than it has announced.
            StreamLost: the connection broke; another session goes on from here.
            RemoteProtocolError: the source broke a rule or sent wrong data.
            NodeError: our disk, or a study too large for it.
        """
        session = _Session(self, stream, download, contribution, peer)
        try:
            async with trio.open_nursery() as nursery:
                await session.run(nursery)
                # While it is still read: a reader that is cancelled ends the stream for us, and
                # the source would wait for our end of it.
                await stream.close()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_error(group) from None


class _Session:
    """The state of one session on one stream."""

    def __init__(
        self,
        owner: Receiver,
        stream: PeerStream,
        download: StudyDownload,
        contribution: Contribution,
        peer: Peer,
    ) -> None:
        self._owner = owner
        self._download = download
        self._contribution = contribution
        self._peer = peer
        self._stream = stream
        self._end = RecipientTransfer(owner._key, stream.peer, contribution.transfer)
        self._study = StudyStream(stream, self._end)
        self._ours: dict[int, int] = {}
        self._stored_bytes = 0
        self._credited_bytes = 0
        self._failure: Exception | None = None

    async def run(self, nursery: trio.Nursery) -> None:
        await self._download.enter(TransferState.REQUESTING)
        request = await in_thread(self._make_request)
        await self._stream.write(request, timeout_seconds=limits.PEER_REPLY_SECONDS)
        self._study.start(nursery)
        try:
            await self._receive()
        except RemoteProtocolError as error:
            await self._study.refuse(error.code)
            raise
        except NotNeededError:
            await self._study.refuse(WireCode.NOT_NEEDED)
            raise
        except NotAnnouncedError:
            await self._study.refuse(WireCode.OTHER)
            raise
        except NodeError as error:
            disk = error.code is ExitCode.DISK
            await self._study.refuse(WireCode.STORAGE_FULL if disk else WireCode.OTHER)
            raise

    def _make_request(self) -> bytes:
        """The request, which is in the log on return."""
        transfer = self._download.transfer
        person, role = told_of(transfer.asked_by)
        if transfer.purpose == BREAK_GLASS:
            asker = (*parts_of(transfer.asked_by)[:2], transfer.reason)
            self._owner._emergencies.begin(IN, self._peer, transfer, asker, ())
        # While it waits for a person or an archive there, it asks again: one entry is enough.
        if not self._contribution.stands:
            self._owner._append([self._entry("requested", {"direction": "in"})])
        return self._end.ask(
            transfer.study,
            transfer.purpose,
            time_ms=self._owner._clock.now_ms(),
            stat=transfer.stat,
            whole=self._download.holds_nothing(),
            person=person,
            role=role,
            reason=transfer.reason,
        )

    async def _receive(self) -> None:
        offer = (await self._study.expect(Offered, limits.PEER_REPLY_SECONDS)).offer
        await self._study.expect(ManifestArrived, limits.PEER_REPLY_SECONDS)
        manifest = await in_thread(self._open_manifest, offer, limiter=self._owner._opening)
        self._contribution.manifest = offer.manifest
        self._contribution.content_root = offer.content_root
        member = await self._download.join(self._contribution, manifest)
        try:
            await self._receive_batches(member)
            await self._download.publish()
            await self._exchange_receipts()
        finally:
            self._download.leave(member)

    def _open_manifest(self, offer: Offer) -> Manifest:
        record = self._owner._announced(self._peer.facility_key, self._download.transfer.study)
        if record is not None and not is_announced_untrusted(offer, record):
            raise NotAnnouncedError
        return self._end.open_manifest()

    @property
    def _comes_whole(self) -> bool:
        """Whether all batches come without our `want`."""
        return self._end.offer is not None and self._end.offer.whole

    # --- the batches -------------------------------------------------------------

    async def _receive_batches(self, member: Member) -> None:
        try:
            async with trio.open_nursery() as helpers:
                await self._take_batches(helpers, member)
        except BaseExceptionGroup as group:
            raise first_error(group) from None

    async def _take_batches(self, helpers: trio.Nursery, member: Member) -> None:
        finish, jobs = trio.open_memory_channel[_Job](256)
        finished, taking = trio.Event(), trio.CancelScope()
        helpers.start_soon(self._download.enter, TransferState.RECEIVING)
        helpers.start_soon(self._finish_batches, helpers, jobs, member, finished, taking)
        if self._comes_whole:
            self._ours = member.ours()
        helpers.start_soon(self._ask, member)
        async with finish:
            with taking:
                await self._take_until_end(helpers, member, finish)
        await finished.wait()
        if self._failure is not None:
            raise self._failure

    async def _take_until_end(
        self, helpers: trio.Nursery, member: Member, finish: trio.MemorySendChannel[_Job]
    ) -> None:
        while True:
            match await self._study.event(limits.STALL_SECONDS):
                case BatchArrived() as batch:
                    ours = self._ours.get(batch.index)
                    entry = member.manifest.batches[batch.index]
                    job = _Job(batch, ours, entry, len(batch.sealed))
                    helpers.start_soon(self._work, job)
                    await finish.send(job)
                case Ended():
                    return
                case _:
                    raise RemoteProtocolError("the source's messages are out of order")

    async def _ask(self, member: Member) -> None:
        """Say what is wanted, portion by portion, until that is all."""
        try:
            is_last = False
            while not is_last:
                portion, is_last = self._download.next_portion(member)
                if portion or is_last:
                    await self._want(portion, member, is_last)
                elif not self._download.owes(member):
                    # The source owes us nothing, so its silence is right.
                    self._study.watchdog.progress()
                if not is_last:
                    await self._download.wait_change(POLL_SECONDS)
        except StreamLost as error:
            await self._study.fail(error)

    async def _want(self, portion: list[int], member: Member, is_last: bool) -> None:
        theirs = {member.to_theirs(index): index for index in portion}
        self._ours.update(theirs)
        if self._comes_whole:
            # It is under way already; what is here nevertheless is discarded.
            return
        await self._study.send(lambda: self._end.want(theirs, last=is_last))

    async def _work(self, job: _Job) -> None:
        stat = self._download.transfer.stat
        shares = self._owner._stat_at_work if stat else self._owner._at_work
        if job.index is not None and self._download.is_missing(job.index):
            try:
                # A batch that has arrived is kept, also when the connection has just
                # ended: credit bounds how many wait here.
                with trio.CancelScope(shield=True):
                    share = shares.of(self._peer.facility_key)
                    await in_thread(self._store_batch, job, job.index, limiter=share)
                    await in_thread(self._download.flush, job.index, limiter=self._owner._flushing)
            except (RemoteProtocolError, NodeError) as error:
                job.failure = error
        job.done.set()

    def _store_batch(self, job: _Job, index: int) -> None:
        batch, job.batch = job.batch, None
        assert batch is not None
        self._download.store(index, self._end.open_batch(batch))

    async def _finish_batches(
        self,
        helpers: trio.Nursery,
        jobs: trio.MemoryReceiveChannel[_Job],
        member: Member,
        finished: trio.Event,
        taking: trio.CancelScope,
    ) -> None:
        """Count what is stored, in order; what fails ends the `taking` of the main line."""
        is_lost = False
        try:
            async for job in jobs:
                await job.done.wait()
                if job.failure is not None:
                    raise job.failure
                self._download.stored(member, job.index, job.entry)
                self._study.watchdog.progress()
                if not is_lost:
                    try:
                        await self._give_credit(job.sealed_bytes)
                    except StreamLost as error:
                        # Reported after what has arrived, which may hold a more precise
                        # error; and that is still taken, or the main line could not go on.
                        is_lost = True
                        helpers.start_soon(self._study.fail, error)
        except (RemoteProtocolError, NodeError) as error:
            # The main line may wait for an event, or for room among the jobs.
            self._failure = error
            taking.cancel()
        finished.set()

    async def _give_credit(self, sealed_bytes: int) -> None:
        """Credit what is stored, less what other sources need of the room there is."""
        self._stored_bytes += sealed_bytes
        withheld = limits.CREDIT_BYTES - self._download.window_bytes
        due = self._stored_bytes - withheld - self._credited_bytes
        if due > 0:
            self._credited_bytes += due
            await self._study.send(lambda: self._end.credit(due))

    # --- the receipt ---------------------------------------------------------------

    async def _exchange_receipts(self) -> None:
        offer, manifest = self._end.offer, self._end.manifest
        assert offer is not None
        assert manifest is not None
        receipt = Receipt(
            transfer=self._contribution.transfer,
            source_facility=self._peer.facility_key,
            recipient_facility=self._owner._facility_key,
            source_node=self._stream.peer,
            recipient_node=self._owner._key.public,
            manifest=offer.manifest,
            content_root=manifest.content_root,
            instances=len(manifest.instances),
            bytes=manifest.total_original_bytes,
            batches=len(self._end.asked),
            encoded_bytes=self._end.asked_encoded_bytes,
            purpose=self._download.transfer.purpose,
            time=self._owner._clock.now_ms(),
            status="received",
        )
        async with self._owner._exchanging(receipt):
            self._contribution.is_signed = True
            await self._finish_exchange(receipt)
        self._download.receipts += 1
        self._download.notify()

    async def _finish_exchange(self, receipt: Receipt) -> None:
        await self._study.send(lambda: self._end.sign_receipt(receipt))
        event = await self._study.expect(Countersigned, limits.PEER_REPLY_SECONDS)
        await in_thread(self._keep_receipt, receipt, event.receipt.encode())

    def _keep_receipt(self, receipt: Receipt, signed: bytes) -> None:
        details: dict[str, str | int | bool] = {
            "manifest": receipt.manifest.hex(),
            "content_root": receipt.content_root.hex(),
            "instances": receipt.instances,
            "bytes": receipt.bytes,
            "batches": receipt.batches,
            "encoded_bytes": receipt.encoded_bytes,
            "receipt": self._owner._add_receipt(signed),
        }
        self._owner._append([self._entry("receipt", details)])

    def _entry(self, kind: str, details: dict[str, str | int | bool]) -> LogEvent:
        return LogEvent(
            type=kind,
            peer=self._peer.facility_key,
            purpose=self._download.transfer.purpose,
            subjects=subjects_of(self._download.transfer.study, self._download.patients),
            details={
                "transfer": self._contribution.transfer.hex(),
                **details,
                **self._download.transfer.asked_details,
            },
        )
