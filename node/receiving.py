"""Receiving one study over one stream: ask, verify, store, publish, receipt.

Order of effects, which is what makes a crash harmless: batches are flushed in
`incoming/` before credit is given; the whole study is verified before its
batches move to the store; the log entry `received` is durable before the
catalog shows the study; the receipt is signed after that.

Tasks of a session: a reader that always drains the stream (credit bounds what it
can bring), threads that open, decode, compare and write batches, a finisher that
takes their results in order and gives credit, and the main line.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from keys.identity import KeyPair
from keys.trust import Peer
from node import studies
from node.catalog import Catalog
from node.errors import ExitCode, NodeError
from node.home import now_ms
from node.incoming import Incoming, LargeInstances, check_batch
from node.network import PeerStream, StreamLost
from node.sessions import StudyStream, first_error
from node.transfers import Transfer, Transfers, TransferState
from node.workspaces import Workspaces
from protocol import encoding, limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Event as LogEvent
from protocol.manifest import Manifest
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

_DISK_RESERVE_BYTES = 256 * 1024 * 1024


@dataclass
class _Job:
    """One batch at work; `original` is set when its instances go on in other batches."""

    batch: BatchArrived
    done: trio.Event = field(default_factory=trio.Event)
    original: bytes | None = None
    failure: Exception | None = None


class Receiver:
    """Receives studies into this node.

    Args:
        key: our node key.
        facility_key: our facility key (32 bytes).
        catalog: where studies are published.
        incoming: where batches arrive.
        append: writes one audit entry durably (synchronous).
        add_receipt: keeps a signed receipt beside the log (synchronous).
        transfers: the register of transfers.
        free_bytes: free space of the home's disk, bytes.
    """

    def __init__(
        self,
        *,
        key: KeyPair,
        facility_key: bytes,
        catalog: Catalog,
        incoming: Incoming,
        append: Callable[[LogEvent], int],
        add_receipt: Callable[[bytes], str],
        transfers: Transfers,
        free_bytes: Callable[[], int],
    ) -> None:
        self._key = key
        self._facility_key = facility_key
        self._catalog = catalog
        self._incoming = incoming
        self._append = append
        self._add_receipt = add_receipt
        self._transfers = transfers
        self._free_bytes = free_bytes
        self._at_work = trio.CapacityLimiter(BATCHES_AT_WORK)
        self._workspaces = Workspaces()
        # Urgent batches never queue behind routine ones.
        self._stat_at_work = trio.CapacityLimiter(BATCHES_AT_WORK)

    async def receive(self, stream: PeerStream, transfer: Transfer, peer: Peer) -> None:
        """Run one session; on return the study is published and both sides have its receipt.

        Raises:
            TransferRefused: the source said no.
            StreamLost: the connection broke; another session goes on from here.
            RemoteProtocolError: the source broke a rule or sent wrong data.
            NodeError: our disk, or a study too large for it.
        """
        session = _Session(self, stream, transfer, peer)
        try:
            async with trio.open_nursery() as nursery:
                await session.run(nursery)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_error(group) from None


class _Session:
    """The state of one session on one stream."""

    def __init__(self, owner: Receiver, stream: PeerStream, transfer: Transfer, peer: Peer) -> None:
        self._owner = owner
        self._stream = stream
        self._transfer = transfer
        self._peer = peer
        self._end = RecipientTransfer(owner._key, stream.peer, transfer.transfer)
        self._study = StudyStream(stream, self._end)
        self._failure: Exception | None = None

    async def run(self, nursery: trio.Nursery) -> None:
        await self._owner._transfers.enter(self._transfer, TransferState.REQUESTING)
        await self._log("requested")
        await self._stream.write(
            self._end.ask(
                self._transfer.study,
                self._transfer.purpose,
                time_ms=now_ms(),
                stat=self._transfer.stat,
            ),
            timeout_seconds=limits.PEER_REPLY_SECONDS,
        )
        self._study.start(nursery)
        try:
            await self._receive(nursery)
        except RemoteProtocolError as error:
            await self._study.refuse(error.code)
            raise
        except NodeError as error:
            disk = error.code is ExitCode.DISK
            await self._study.refuse(WireCode.STORAGE_FULL if disk else WireCode.OTHER)
            raise

    async def _receive(self, nursery: trio.Nursery) -> None:
        transfer, owner = self._transfer, self._owner
        await self._study.expect(Offered, limits.PEER_REPLY_SECONDS)
        await self._study.expect(ManifestArrived, limits.PEER_REPLY_SECONDS)
        manifest = await trio.to_thread.run_sync(self._end.open_manifest)
        await owner._transfers.enter(transfer, TransferState.RECEIVING)
        needed, wanted, large = await trio.to_thread.run_sync(self._plan, manifest)
        await self._receive_batches(nursery, manifest, wanted, large)
        await owner._transfers.enter(transfer, TransferState.VERIFYING)
        await trio.to_thread.run_sync(self._publish, manifest, needed, large)
        await self._exchange_receipts(manifest)

    # --- what is needed, and what is here already ------------------------------

    def _plan(self, manifest: Manifest) -> tuple[list[int], list[int], LargeInstances]:
        """Batches needed for the study, those to be sent, and the large instances seen so far."""
        owner, transfer = self._owner, self._transfer
        needed = owner._catalog.batches_needed(manifest)
        large = LargeInstances(manifest)
        wanted = []
        for index in needed:
            batch = manifest.batches[index]
            if owner._incoming.has(batch.digest):
                try:
                    encoded = owner._incoming.read(batch.digest)
                    original = check_batch(manifest, index, encoded, owner._workspaces.own)
                except RemoteProtocolError:
                    owner._incoming.discard(batch.digest)
                    wanted.append(index)
                    continue
                if original is not None:
                    large.add(index, original)
            else:
                wanted.append(index)
        to_send = sum(manifest.batches[index].encoded_size for index in wanted)
        if to_send + _DISK_RESERVE_BYTES > owner._free_bytes():
            raise NodeError(
                f"there is not enough disk space for study {transfer.study}: it needs "
                f"{to_send >> 20} MiB and a reserve of {_DISK_RESERVE_BYTES >> 20} MiB",
                hint="free disk space and fetch it again; nothing that was received is lost",
                code=ExitCode.DISK,
            )
        transfer.instances = len(manifest.instances)
        transfer.bytes = manifest.total_original_bytes
        still = sum(manifest.batches[index].original_size for index in wanted)
        transfer.held_bytes = transfer.bytes_done = max(0, transfer.bytes - still)
        transfer.wire_bytes = 0
        transfer.wire_bytes_total = to_send
        return needed, wanted, large

    # --- the batches -------------------------------------------------------------

    async def _receive_batches(
        self,
        nursery: trio.Nursery,
        manifest: Manifest,
        wanted: list[int],
        large: LargeInstances,
    ) -> None:
        await self._stream.write(self._end.want(wanted), timeout_seconds=limits.STALL_SECONDS)
        finish, jobs = trio.open_memory_channel[_Job](256)
        finished = trio.Event()
        nursery.start_soon(self._finish_batches, jobs, manifest, large, finished)
        async with finish:
            while True:
                match await self._study.event(limits.STALL_SECONDS):
                    case BatchArrived() as batch:
                        job = _Job(batch)
                        nursery.start_soon(self._work, job, manifest)
                        await finish.send(job)
                    case Ended():
                        break
                    case _:
                        raise RemoteProtocolError("the source's messages are out of order")
        await finished.wait()
        if self._failure is not None:
            raise self._failure

    async def _work(self, job: _Job, manifest: Manifest) -> None:
        stat = self._transfer.stat
        limiter = self._owner._stat_at_work if stat else self._owner._at_work
        try:
            # A batch that has arrived is kept, also when the connection has just ended:
            # credit bounds how many wait here.
            with trio.CancelScope(shield=True):
                job.original = await trio.to_thread.run_sync(
                    self._store_batch, job.batch, manifest, limiter=limiter
                )
        except (RemoteProtocolError, NodeError) as error:
            job.failure = error
        job.done.set()

    def _store_batch(self, batch: BatchArrived, manifest: Manifest) -> bytes | None:
        encoded = self._end.open_batch(batch)
        original = check_batch(manifest, batch.index, encoded, self._owner._workspaces.own)
        self._owner._incoming.write(manifest.batches[batch.index].digest, encoded)
        return original

    async def _finish_batches(
        self,
        jobs: trio.MemoryReceiveChannel[_Job],
        manifest: Manifest,
        large: LargeInstances,
        finished: trio.Event,
    ) -> None:
        try:
            async for job in jobs:
                await job.done.wait()
                if job.failure is not None:
                    raise job.failure
                if job.original is not None:
                    large.add(job.batch.index, job.original)
                await self._give_credit(job.batch, manifest)
        except (RemoteProtocolError, NodeError, StreamLost) as error:
            # The main line waits for the next event, or for the end of this task.
            self._failure = error
            finished.set()
            await self._study.fail(error)
        finished.set()

    async def _give_credit(self, batch: BatchArrived, manifest: Manifest) -> None:
        transfer, entry = self._transfer, manifest.batches[batch.index]
        transfer.bytes_done += entry.original_size
        transfer.wire_bytes += entry.encoded_size
        self._study.watchdog.progress()
        await self._stream.write(
            self._end.credit(len(batch.sealed)), timeout_seconds=limits.STALL_SECONDS
        )

    # --- publish and receipt -------------------------------------------------------

    def _publish(self, manifest: Manifest, needed: list[int], large: LargeInstances) -> None:
        owner = self._owner
        parts = {segment[0] for index in needed for segment in manifest.segments(index)}
        for instance_index in large.unverified(parts):
            large.verify_from_disk(instance_index, owner._incoming)
        headers = self._representatives(manifest, set(needed))
        owner._incoming.adopt(manifest)
        owner._append(self._event("received", manifest))
        owner._catalog.publish_received(manifest, headers, self._peer.facility_key)

    def _representatives(
        self, manifest: Manifest, needed: set[int]
    ) -> dict[int, studies.InstanceHeader]:
        """The header of one new instance of each series, for the catalog's attributes."""
        headers: dict[int, studies.InstanceHeader] = {}
        for instance in manifest.instances:
            if instance.series_index in headers or instance.first_batch not in needed:
                continue
            original = encoding.decode_untrusted(
                self._owner._incoming.read(manifest.batches[instance.first_batch].digest)
            )
            content = original[instance.offset : instance.offset + instance.size]
            headers[instance.series_index] = studies.read_header(content)
        return headers

    async def _exchange_receipts(self, manifest: Manifest) -> None:
        offer = self._end.offer
        assert offer is not None
        receipt = Receipt(
            transfer=self._transfer.transfer,
            source_facility=self._peer.facility_key,
            recipient_facility=self._owner._facility_key,
            source_node=self._stream.peer,
            recipient_node=self._owner._key.public,
            manifest=offer.manifest,
            content_root=manifest.content_root,
            instances=len(manifest.instances),
            bytes=manifest.total_original_bytes,
            purpose=self._transfer.purpose,
            time=now_ms(),
            status="received",
        )
        await self._stream.write(
            self._end.sign_receipt(receipt), timeout_seconds=limits.STALL_SECONDS
        )
        event = await self._study.expect(Countersigned, limits.PEER_REPLY_SECONDS)
        await trio.to_thread.run_sync(self._keep_receipt, event, manifest)

    def _keep_receipt(self, event: Countersigned, manifest: Manifest) -> None:
        digest = self._owner._add_receipt(event.receipt.encode())
        self._owner._append(self._event("receipt", manifest, receipt=digest))

    def _event(self, kind: str, manifest: Manifest, receipt: str = "") -> LogEvent:
        offer = self._end.offer
        assert offer is not None
        details: dict[str, str | int | bool] = {
            "transfer": self._transfer.transfer.hex(),
            "manifest": offer.manifest.hex(),
            "content_root": manifest.content_root.hex(),
            "instances": len(manifest.instances),
            "bytes": manifest.total_original_bytes,
        }
        if receipt:
            details["receipt"] = receipt
        details |= self._transfer.stat_detail
        return LogEvent(
            type=kind,
            peer=self._peer.facility_key,
            purpose=self._transfer.purpose,
            subjects=(("study", self._transfer.study),),
            details=details,
        )

    async def _log(self, kind: str) -> None:
        event = LogEvent(
            type=kind,
            peer=self._peer.facility_key,
            purpose=self._transfer.purpose,
            subjects=(("study", self._transfer.study),),
            details={
                "transfer": self._transfer.transfer.hex(),
                "direction": "in",
                **self._transfer.stat_detail,
            },
        )
        await trio.to_thread.run_sync(self._owner._append, event)
