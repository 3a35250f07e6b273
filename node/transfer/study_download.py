"""One study on its way to us, from one source or from several at once.

Owns what the sessions of a fetch share: the manifest by which the study is
published, which batches are missing and who was asked for them, verification and
publication. A session (`node/transfer/receiving.py`) brings batches; which source there is
and when it is tried again is `node/transfer/fetching.py`'s.

The manifest of the source that joins while no other is at work is the one that
counts. Another source joins if its own manifest promises every batch that is
missing: the same bytes with the same instances at the same places. So what it
sends is checked against its own promise too, and a batch that does not hold is the
fault of the one that sent it. A source whose batches differ is used alone or not
at all.

Order of effects: batches are flushed in `incoming/` before credit is given; the
whole study is verified before its batches move to the store; the log entries
`received` are durable before the catalog shows the study; receipts come after that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from node.blocking import in_thread
from node.catalog.catalog import Catalog
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
"""How often it is looked whether a source is late."""


class NotNeededError(Exception):
    """Nothing is missing, or a source has it in other batches than those under way."""


@dataclass(frozen=True)
class Destination:
    """Where a study goes.

    Attributes:
        catalog: where it is published.
        incoming: where its batches arrive.
        append: writes audit entries durably with one flush (synchronous).
        transfers: the register of transfers.
        free_bytes: free space of the home's disk, bytes.
        is_followed: whether a study (UID) of a peer (facility key) is followed (synchronous).
        workspaces: where batches are decoded.
    """

    catalog: Catalog
    incoming: Incoming
    append: Callable[[Sequence[LogEvent]], object]
    transfers: Transfers
    free_bytes: Callable[[], int]
    is_followed: Callable[[str, bytes], bool] = lambda study, peer: True
    workspaces: Workspaces = field(default_factory=Workspaces)


@dataclass(frozen=True)
class Member:
    """A source at work.

    Attributes:
        contribution: what came from it.
        manifest: as it offered the study.
        theirs: where its manifest has our batches, None for at the same index.
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
    """The study as the lead source offered it, and what of it is needed (batches)."""

    lead: Contribution
    manifest: Manifest
    needed: list[int]
    check: StudyCheck


class StudyDownload:
    """A study that is being fetched.

    Args:
        destination: where it goes.
        transfer: the fetch.
        several: whether more than one source may serve it.

    Attributes:
        receipts: how many sources have signed theirs, or will when they are back; the
            study is published then.
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
        """Sealed bytes that each source may have under way: together no more than one alone."""
        return max(limits.SEALED_CHUNK_BYTES, limits.CREDIT_BYTES // max(1, len(self._members)))

    async def wait_change(self, most_seconds: float = float("inf")) -> None:
        """Wait until a batch or a source came or went."""
        with trio.move_on_after(most_seconds):
            await self._changed.wait()

    def notify(self) -> None:
        """Something changed that others wait for."""
        event, self._changed = self._changed, trio.Event()
        event.set()

    def expect_several(self) -> None:
        """Another source is going to be asked, too; what the first was asked for stays so."""
        self._several = True
        self._portions.expect_several()

    def holds_nothing(self) -> bool:
        """Whether a lone source may send the whole study unasked (synchronous).

        Only where nothing of it can be here, neither published nor from an earlier try.
        """
        return (
            not self._several
            and self._plan is None
            and not self.transfer.wire_bytes
            and not self.transfer.bytes_done
            and self._destination.catalog.study(self.transfer.study) is None
            and self._destination.incoming.is_empty()
        )

    # --- sources come and go -----------------------------------------------------

    async def join(self, contribution: Contribution, manifest: Manifest) -> Member:
        """A source has offered the study; `leave` must follow.

        Raises:
            NotNeededError: another is at work, and this one cannot help it.
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
        """Nothing more is published: batches that were counted on may go."""
        self._pins.clear()

    def leave(self, member: Member) -> None:
        """A source is done, or lost; what it still owes is given to others."""
        del self._members[member.contribution.peer]
        self._portions.leave(member.contribution.peer)
        self.notify()

    async def enter(self, state: TransferState, why: str = "") -> None:
        """Change the fetch's state, unless it is over, or another source is further."""
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
        """What is needed, what is here already, and what has to come."""
        incoming, transfer = self._destination.incoming, self.transfer
        needed = self._destination.catalog.batches_needed(manifest)
        check = StudyCheck(manifest, needed)
        # What lies in the store may be let go by another study meanwhile.
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
                    # A crash may have come between its write and its flush.
                    incoming.flush(batch.digest)
                    continue
                except RemoteProtocolError:
                    incoming.discard(batch.digest)
            missing[index] = batch.encoded_size
        to_send = sum(missing.values())
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
        """What to ask of a source now (our indices), and whether that is all for good."""
        return self._portions.next_portion(member.contribution.peer, trio.current_time())

    def owes(self, member: Member) -> bool:
        """Whether something that a source was asked for is still to come."""
        return self._portions.owes(member.contribution.peer)

    def is_missing(self, batch: int) -> bool:
        """Whether a batch has not come from another source meanwhile."""
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
        """Make a batch durable that was stored (synchronous, thread-safe).

        Raises:
            NodeError: our disk.
        """
        self._destination.incoming.flush(self._manifest.batches[batch].digest)

    def stored(self, member: Member, batch: int | None, entry: BatchEntry) -> None:
        """Count a batch that is on disk, or was discarded as it was here already.

        Args:
            member: who sent it.
            batch: our index; None for one that was not missing when the source joined.
            entry: what the manifest says of it.
        """
        now, source = trio.current_time(), member.contribution.peer
        if batch is not None and self._portions.arrived(source, batch, now):
            self.transfer.bytes_done += entry.original_size
        self.transfer.wire_bytes += entry.encoded_size
        self._destination.transfers.touch(self.transfer)
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
                # Durable before batches move, so that a crash does not look like a new fetch.
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
        received = [
            self._received(contribution, manifest, why)
            # A source may come meanwhile.
            for contribution in list(self.transfer.contributions.values())
            if contribution is lead or contribution.batches
        ]
        self._destination.append(received)
        self._destination.catalog.publish_received(
            manifest,
            plan.check.headers,
            lead.peer,
            described,
            before_commit=lambda added: self._require_wanted(),
            at_hand=plan.needed,
        )

    def _require_wanted(self) -> None:
        """What nobody asked for is not taken behind what has ended the following."""
        transfer = self.transfer
        if transfer.follow_up and not self._destination.is_followed(transfer.study, transfer.peer):
            raise NodeError(
                f"study {transfer.study} is not followed any more",
                hint="fetch it by hand if it is needed",
            )

    def _received(self, contribution: Contribution, manifest: Manifest, why: str) -> LogEvent:
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
                **({"to_check": why} if why else {}),
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
    """Where another manifest of the same content promises each missing batch; None if not all."""
    if ours.content_root != theirs.content_root:
        return None
    places = {_promise(theirs, index): index for index in range(len(theirs.batches))}
    found = {index: places.get(_promise(ours, index)) for index in missing}
    same = {index: place for index, place in found.items() if place is not None}
    return same if len(same) == len(found) else None


def _promise(manifest: Manifest, batch: int) -> tuple[object, ...]:
    """All that a manifest says of one batch, in terms that any manifest can share."""
    instances = []
    for place in manifest.segments(batch):
        one = manifest.instances[place.instance]
        series = manifest.series[one.series_index].series_instance_uid
        instances.append((series, one.sop_instance_uid, one.size, one.digest, *place[1:]))
    return (manifest.batches[batch], *instances)
