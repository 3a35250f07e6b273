"""One study on its way to us, from one source or from several at once.

Owns what the sessions of a fetch share: the manifest by which the study is published, which batches
are missing and which source was asked for them, verification and publication. A session
(`node/transfer/receiving.py`) brings batches; `node/transfer/fetching.py` and
`node/transfer/source_worker.py` decide which sources there are and when one is tried again.

The manifest that counts is that of the source that joins while no other is at work. Another source
joins if its own manifest promises every missing batch: the same bytes with the same instances at
the same places. So its batches are checked against its own promise too, and a wrong batch is the
fault of the source that sent it. A source whose batches differ is used alone or not at all.

Order of effects: batches are flushed in `incoming/` before credit is given; the
whole study is verified before its batches move to the store; the log entries
`received` are durable before the catalog shows the study; receipts come after that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from keys.fingerprint import fingerprint
from keys.sharing import Decided
from node.blocking import in_thread
from node.catalog.catalog import Catalog
from node.catalog.sharing import details_of, received_from, state_after
from node.errors import ExitCode, NodeError
from node.images.workspaces import Workspaces
from node.transfer.checking import StudyCheck
from node.transfer.incoming import Incoming
from node.transfer.portions import Portions
from node.transfer.transfers import Contribution, Transfer, Transfers, TransferState
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Event as LogEvent
from protocol.log.entry import subjects_of
from protocol.manifest import BatchEntry, Manifest

RESERVE_BYTES = 256 * 1024 * 1024
"""Free space that a fetch leaves to the log, the database and everything else."""

POLL_SECONDS = 0.2
"""Time between two checks whether a source is late."""


class NotNeededError(Exception):
    """Nothing is missing, or the source has the study in other batches than those under way."""


@dataclass(frozen=True)
class Destination:
    """What a fetched study is written to.

    Attributes:
        catalog: where the study is published.
        incoming: where its batches arrive.
        append: writes audit entries durably with one flush (synchronous).
        transfers: the register of transfers.
        free_bytes: gives the free space of the home's disk, bytes.
        require_room: raises NodeError while no images may come in.
        is_followed: whether a study (UID) of a peer (facility key) is followed (synchronous).
        workspaces: lends workspaces in which batches are decoded.
    """

    catalog: Catalog
    incoming: Incoming
    append: Callable[[Sequence[LogEvent]], object]
    transfers: Transfers
    free_bytes: Callable[[], int]
    require_room: Callable[[], None]
    is_followed: Callable[[str, bytes], bool] = lambda study, peer: True
    workspaces: Workspaces = field(default_factory=Workspaces)


@dataclass(frozen=True)
class Member:
    """A source at work.

    Attributes:
        contribution: what came from it.
        manifest: as it offered the study.
        theirs: for each batch of ours, its index in this manifest; None: all indices are the same.
    """

    contribution: Contribution
    manifest: Manifest
    theirs: dict[int, int] | None

    def to_theirs(self, batch: int) -> int:
        """The index in its manifest of a batch of ours."""
        return batch if self.theirs is None else self.theirs[batch]

    def ours(self) -> dict[int, int]:
        """Our index of each batch of its manifest that it can help with."""
        if self.theirs is None:
            return {index: index for index in range(len(self.manifest.batches))}
        return {theirs: ours for ours, theirs in self.theirs.items()}


@dataclass(frozen=True)
class _Plan:
    """The study as the lead source offered it, and which batches of it are needed."""

    lead: Contribution
    manifest: Manifest
    needed: list[int]
    check: StudyCheck


class StudyDownload:
    """A study that is being fetched.

    Args:
        destination: what the study is written to.
        transfer: the fetch.
        several: whether more than one source may serve it.

    Attributes:
        receipts: how many sources have signed their receipt, or will when they are back; above 0
            the study is published.
        open_sessions: how many streams to sources are open.
    """

    def __init__(self, destination: Destination, transfer: Transfer, *, several: bool) -> None:
        self.transfer = transfer
        self.patients: tuple[str, ...] = ()
        self.receipts = 0
        self.open_sessions = 0
        self._destination = destination
        self._several = several
        self._pins = destination.incoming.pins()
        self._members: dict[bytes, Member] = {}
        self._plan: _Plan | None = None
        self._portions = Portions({}, several=several)
        self._is_published = False
        self._joining = trio.Lock()
        self._publishing = trio.Lock()
        self._changed = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether no source is at work."""
        return not self._members

    @property
    def window_bytes(self) -> int:
        """Sealed bytes that each source may have under way: together no more than a lone one."""
        return max(limits.SEALED_CHUNK_BYTES, limits.CREDIT_BYTES // max(1, len(self._members)))

    async def wait_change(self, most_seconds: float = float("inf")) -> None:
        """Wait until something changes: a batch has come, or a source came or left."""
        with trio.move_on_after(most_seconds):
            await self._changed.wait()

    def notify(self) -> None:
        """Wake all who wait for a change."""
        event, self._changed = self._changed, trio.Event()
        event.set()

    def expect_several(self) -> None:
        """Another source is going to be asked, too; the first one keeps what it was asked for."""
        self._several = True
        self._portions.expect_several()

    def holds_nothing(self) -> bool:
        """Whether a lone source may send the whole study unasked (synchronous).

        Only if nothing of the study can be here, neither published nor from an earlier try.
        """
        return (
            not self._several
            and self._plan is None
            and not self.transfer.wire_bytes
            and not self.transfer.bytes_done
            and not self._destination.catalog.is_here(self.transfer.study)
            and self._destination.incoming.is_empty()
        )

    # --- sources come and go -----------------------------------------------------

    async def join(self, contribution: Contribution, manifest: Manifest) -> Member:
        """A source has offered the study; `leave` must follow.

        Raises:
            NotNeededError: another source is at work, and this one cannot help.
            NodeError: our disk has no room.
        """
        async with self._joining:
            theirs = None
            if self.is_idle:
                await in_thread(self._make_plan, contribution, manifest)
            else:
                theirs = await in_thread(
                    _same_batches, self._manifest, manifest, self._portions.missing
                )
                if not theirs:
                    raise NotNeededError
            member = Member(contribution, manifest, theirs)
            self._members[contribution.peer] = member
            self._portions.join(contribution.peer, trio.current_time())
            return member

    def end(self) -> None:
        """Nothing more will be published: unpin the batches that the fetch counted on."""
        self._pins.clear()

    def leave(self, member: Member) -> None:
        """A source is done or lost; other sources are asked for what it still owes."""
        del self._members[member.contribution.peer]
        self._portions.leave(member.contribution.peer)
        self.notify()

    async def enter(self, state: TransferState, why: str = "") -> None:
        """Change the fetch's state, unless the fetch is over or another source is further."""
        if self.transfer.is_ended:
            return
        if state is TransferState.WAITING:
            if self.open_sessions:
                return
        elif self._is_published:
            return
        if state is TransferState.REQUESTING and not self.is_idle:
            return
        if (state, why) != (self.transfer.state, self.transfer.why):
            await self._destination.transfers.enter(self.transfer, state, why)

    def _make_plan(self, lead: Contribution, manifest: Manifest) -> None:
        """Find out which batches are needed, which are here already, and which have to come."""
        incoming, transfer = self._destination.incoming, self.transfer
        needed = self._destination.catalog.batches_needed(manifest)
        check = StudyCheck(manifest, needed)
        # Pin them, as another study may release batches that are in the store.
        self._pins.clear()
        self._pins.add(manifest.batches[index].digest for index in needed)
        missing: dict[int, int] = {}
        for index in needed:
            batch = manifest.batches[index]
            if incoming.has(batch.digest):
                try:
                    encoded = incoming.read(batch.digest)
                    with self._destination.workspaces.borrowed() as workspace:
                        check.check(index, encoded, workspace)
                    # A crash may have fallen between its write and its flush.
                    incoming.flush(batch.digest)
                    continue
                except RemoteProtocolError:
                    incoming.discard(batch.digest)
            missing[index] = batch.encoded_size
        to_send = sum(missing.values())
        if to_send:
            self._destination.require_room()
        if to_send + RESERVE_BYTES > self._destination.free_bytes():
            raise NodeError(
                f"there is not enough disk space for study {transfer.study}: it needs "
                f"{to_send >> 20} MiB and a reserve of {RESERVE_BYTES >> 20} MiB",
                hint="free disk space and fetch it again; nothing that was received is lost",
                code=ExitCode.DISK,
            )
        still = sum(manifest.batches[index].original_size for index in missing)
        transfer.instances = len(manifest.instances)
        transfer.bytes = manifest.total_original_bytes
        transfer.bytes_done = max(0, transfer.bytes - still)
        if self._plan is None:
            transfer.held_bytes, transfer.wire_bytes = transfer.bytes_done, 0
        transfer.wire_bytes_total = transfer.wire_bytes + to_send
        self._plan = _Plan(lead, manifest, needed, check)
        self._portions = Portions(missing, several=self._several)
        self._is_published = False

    # --- batches -------------------------------------------------------------------

    def next_portion(self, member: Member) -> tuple[list[int], bool]:
        """See `Portions.next_portion`; the batches are our indices."""
        return self._portions.next_portion(member.contribution.peer, trio.current_time())

    def owes(self, member: Member) -> bool:
        """Whether a batch that a source was asked for is still to come."""
        return self._portions.owes(member.contribution.peer)

    def is_missing(self, batch: int) -> bool:
        """Whether a batch is still missing: another source may have sent it meanwhile."""
        return self._portions.is_missing(batch)

    def store(self, batch: int, encoded: bytes) -> None:
        """Verify a batch and write it to the disk (synchronous, thread-safe).

        Args:
            batch: our index.
            encoded: its bytes, size and digest compared.

        Raises:
            RemoteProtocolError: it does not hold what its manifest says.
            NodeError: our disk.
        """
        plan = self._require_plan()
        with self._destination.workspaces.borrowed() as workspace:
            plan.check.check(batch, encoded, workspace)
        self._destination.incoming.write(plan.manifest.batches[batch].digest, encoded)

    def flush(self, batch: int) -> None:
        """Make a stored batch durable (synchronous, thread-safe).

        Raises:
            NodeError: our disk.
        """
        self._destination.incoming.flush(self._manifest.batches[batch].digest)

    def stored(self, member: Member, batch: int | None, entry: BatchEntry) -> None:
        """Count a batch that is now on disk, or that was dropped because it was here already.

        Args:
            member: who sent it.
            batch: our index; None for one that was not missing when the source joined.
            entry: the manifest's entry of the batch.
        """
        now, source = trio.current_time(), member.contribution.peer
        if batch is not None and self._portions.arrived(source, batch, now):
            self.transfer.bytes_done += entry.original_size
        self._destination.transfers.moved(self.transfer, entry.encoded_size)
        member.contribution.batches += 1
        member.contribution.encoded_bytes += entry.encoded_size
        self.notify()

    # --- publication ------------------------------------------------------------------

    async def publish(self) -> None:
        """Verify and publish the study, once, when all its batches are here.

        Raises:
            RemoteProtocolError: a large instance does not have its promised digest.
            NodeError: our disk.
        """
        async with self._publishing:
            if not self._is_published:
                # Make this durable before batches move, or after a crash this would look like a new
                # fetch.
                await self.enter(TransferState.VERIFYING)
                await in_thread(self._publish)
                self._is_published = True

    def _publish(self) -> None:
        plan, incoming = self._require_plan(), self._destination.incoming
        manifest, lead = plan.manifest, plan.lead
        plan.check.check_rest(incoming)
        self._require_wanted()
        incoming.adopt(manifest.batches[index].digest for index in plan.needed)
        self._destination.catalog.require_at_hand(manifest, plan.needed)
        described = plan.check.described
        self.patients, why = self._destination.catalog.foresee(
            self.transfer.study, described, received=True
        )
        # A copy, as a source may join meanwhile.
        contributions = [
            contribution
            for contribution in list(self.transfer.contributions.values())
            if contribution is lead or contribution.batches
        ]
        sources = tuple(received_from(fingerprint(one.peer)) for one in contributions)
        decided, asked = self._destination.catalog.deciding.foresee(
            self.transfer.study, described, plan.check.headers.values(), sources
        )
        before = self._destination.catalog.study(self.transfer.study)
        if before is not None and before.indexed_in:
            # What was decided about a study in an archive of ours does not count for this one.
            before = None
        state = state_after(decided, why or asked, before)
        received = [
            self._received(contribution, manifest, why or asked, decided, state)
            for contribution in contributions
        ]
        self._destination.append(received)
        self._destination.catalog.publish_received(
            manifest,
            plan.check.headers,
            lead.peer,
            described,
            sources=sources,
            before_commit=lambda added: self._require_wanted(),
            at_hand=plan.needed,
        )

    def _require_wanted(self) -> None:
        """Do not publish a follow-up whose following has ended meanwhile."""
        transfer = self.transfer
        if transfer.follow_up and not self._destination.is_followed(transfer.study, transfer.peer):
            raise NodeError(
                f"study {transfer.study} is not followed any more",
                hint="fetch it by hand if it is needed",
            )

    def _received(
        self,
        contribution: Contribution,
        manifest: Manifest,
        why: str,
        decided: Decided,
        state: str,
    ) -> LogEvent:
        return LogEvent(
            type="received",
            peer=contribution.peer,
            purpose=self.transfer.purpose,
            subjects=subjects_of(self.transfer.study, self.patients),
            details={
                "transfer": contribution.transfer.hex(),
                "manifest": contribution.manifest.hex(),
                "content_root": manifest.content_root.hex(),
                "instances": len(manifest.instances),
                "bytes": manifest.total_original_bytes,
                "batches": contribution.batches,
                "encoded_bytes": contribution.encoded_bytes,
                "state": state,
                **({"to_check": why} if why else {}),
                **details_of(decided),
                **self.transfer.asked_details,
            },
        )

    @property
    def _manifest(self) -> Manifest:
        return self._require_plan().manifest

    def _require_plan(self) -> _Plan:
        assert self._plan is not None, "no source has joined"
        return self._plan


def _same_batches(
    ours: Manifest, theirs: Manifest, missing: frozenset[int]
) -> dict[int, int] | None:
    """The index of each missing batch in another manifest of the content; None if one is absent."""
    if ours.content_root != theirs.content_root:
        return None
    places = {_promise(theirs, index): index for index in range(len(theirs.batches))}
    found = {index: places.get(_promise(ours, index)) for index in missing}
    same = {index: place for index, place in found.items() if place is not None}
    return same if len(same) == len(found) else None


def _promise(manifest: Manifest, batch: int) -> tuple[object, ...]:
    """All that a manifest says of one batch, in a form that can be compared between manifests."""
    instances = []
    for place in manifest.segments(batch):
        one = manifest.instances[place.instance]
        series = manifest.series[one.series_index].series_instance_uid
        instances.append((series, one.sop_instance_uid, one.size, one.digest, *place[1:]))
    return (manifest.batches[batch], *instances)
