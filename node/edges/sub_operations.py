"""The C-STORE sub-operations of a C-MOVE or C-GET: originals go out as their bytes are.

Nothing is converted: an image goes in its own transfer syntax or it counts as failed. One batch of
originals is in memory for each retrieve.
"""

import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edges.dimse.commands import Element, Field
from edges.dimse.limits import CONTEXTS
from edges.dimse.negotiation import Accepted
from node.blocking import in_thread
from node.dicom.elements import BadInstance
from node.dicom.part10 import read_meta, reader_of
from node.edges.dimse_client import Callee, Calling, NoAssociation, associated
from node.edges.dimse_operation import Lost, Operation, Values
from node.errors import NodeError
from node.images.export import InstanceReader
from node.images.store import BatchStore
from protocol.manifest import InstanceEntry, Manifest

log = logging.getLogger("radmesh.dimse")

PIECE_BYTES = 256 * 1024

_HEAD_BYTES = 64 * 1024
"""The data set begins before: file meta is some hundred bytes."""

_COUNT = 0xFFFF
"""The largest number that a response has room for."""

_WARNINGS = range(0xB000, 0xC000)

Pair = tuple[str, str]
"""SOP class and transfer syntax."""


@dataclass
class Tally:
    """What has become of the sub-operations.

    Attributes:
        remaining, completed, failed, warning: counts of instances.
        failed_uids: SOP Instance UIDs of those that failed, as far as they are known.
        why: why some failed, for the caller and the process log; no patient data.
    """

    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)
    why: str = ""

    def fail(self, uids: Sequence[str], why: str, more: int = 0) -> None:
        """These instances will not be sent, and further ones whose UIDs are not known."""
        self.failed += len(uids) + more
        self.remaining = max(0, self.remaining - len(uids) - more)
        self.failed_uids += uids
        self.why = self.why or why

    def count(self, uid: str, status: int) -> None:
        """The answer to a sub-operation."""
        if status != 0 and status not in _WARNINGS:
            self.fail([uid], f"the receiver answers {status:04X}H")
            return
        self.remaining = max(0, self.remaining - 1)
        if status == 0:
            self.completed += 1
        else:
            self.warning += 1

    def values(self, *, with_remaining: bool) -> dict[Element, int | str]:
        """The counts of a response; what is larger than there is room for stands at the largest."""
        counts = {
            Element.COMPLETED: self.completed,
            Element.FAILED: self.failed,
            Element.WARNING: self.warning,
        }
        if with_remaining:
            counts[Element.REMAINING] = self.remaining
        return {element: min(count, _COUNT) for element, count in counts.items()}


class Receiver(Protocol):
    """Who takes the images of one association."""

    def context(self, pair: Pair) -> Accepted | None:
        """In which presentation context it takes such images; None if it does not."""

    async def store(
        self, context: Accepted, values: Values, pieces: AsyncGenerator[bytes, None]
    ) -> int:
        """Send one image, and give the status of the answer."""


class Way(Protocol):
    """How images get to who receives them.

    Attributes:
        destination: AE title of who gets them.
    """

    destination: str

    def open(self, pairs: Sequence[Pair]) -> contextlib.AbstractAsyncContextManager[Receiver]:
        """A receiver for images of these classes and transfer syntaxes, at most `CONTEXTS`."""


class BackToCaller:
    """The way of a C-GET: on the association of the caller itself."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self.destination = operation.caller.ae_title

    @contextlib.asynccontextmanager
    async def open(self, pairs: Sequence[Pair]) -> AsyncIterator[Receiver]:
        """See `Way`."""
        yield self

    def context(self, pair: Pair) -> Accepted | None:
        """See `Receiver`."""
        return self._operation.wire.may_store(*pair)

    async def store(
        self, context: Accepted, values: Values, pieces: AsyncGenerator[bytes, None]
    ) -> int:
        """See `Receiver`.

        Raises:
            Lost: the association is over.
        """
        return await self._operation.wire.request(context, values, pieces)


class ToDestination:
    """The way of a C-MOVE: on associations that the node asks for."""

    def __init__(self, callee: Callee, originator: str, message_id: int) -> None:
        self._callee = callee
        self._more: Values = {
            Element.MOVE_ORIGINATOR_AE: originator,
            Element.MOVE_ORIGINATOR_ID: message_id,
        }
        self.destination = callee.ae_title

    @contextlib.asynccontextmanager
    async def open(self, pairs: Sequence[Pair]) -> AsyncIterator[Receiver]:
        """See `Way`.

        Raises:
            NoAssociation: it cannot be reached, or has ended the association.
        """
        proposed = [(sop_class, [syntax]) for sop_class, syntax in pairs]
        async with associated(self._callee, proposed) as calling:
            yield _Called(calling, self._more)


class _Called:
    def __init__(self, calling: Calling, more: Values) -> None:
        self._calling = calling
        self._more = more

    def context(self, pair: Pair) -> Accepted | None:
        return self._calling.context(*pair)

    async def store(
        self, context: Accepted, values: Values, pieces: AsyncGenerator[bytes, None]
    ) -> int:
        return await self._calling.ask_once(context, {**values, **self._more}, pieces)


async def send_study(
    way: Way,
    manifest: Manifest,
    chosen: Sequence[int],
    store: BatchStore,
    tally: Tally,
    is_cancelled: Callable[[], bool],
) -> bool:
    """Send instances of a study, one after the other, until all are sent or failed.

    Args:
        way: how they get there.
        manifest: of the study.
        chosen: which of its instances (indices).
        store: has its batches.
        tally: counts.
        is_cancelled: asked before each instance.

    Returns:
        Whether the receiver can be reached; if not, the rest has failed.

    Raises:
        Lost: the association of the caller is over.
    """
    instances = manifest.instances
    # In the order of the batches, so that each is decoded once.
    rest = sorted(chosen, key=lambda one: (instances[one].first_batch, instances[one].offset))
    pairs = sorted({_pair(instances[index]) for index in chosen})
    for start in range(0, len(pairs), CONTEXTS):
        group = pairs[start : start + CONTEXTS]
        left = [index for index in rest if _pair(instances[index]) in group]
        rest = [index for index in rest if _pair(instances[index]) not in group]
        in_vain = 0
        while left and not is_cancelled():
            before, taken = len(left), tally.completed + tally.warning
            try:
                async with way.open(group) as receiver:
                    await _send(receiver, manifest, left, store, tally, is_cancelled)
            except NoAssociation as error:
                log.warning("images cannot be sent to %s: %s", way.destination, error.message)
                in_vain = 0 if tally.completed + tally.warning > taken else in_vain + 1
                if len(left) == before or in_vain > 1:
                    never = [instances[one].sop_instance_uid for one in (*left, *rest)]
                    tally.fail(never, error.message)
                    return False
    return True


async def _send(
    receiver: Receiver,
    manifest: Manifest,
    left: list[int],
    store: BatchStore,
    tally: Tally,
    is_cancelled: Callable[[], bool],
) -> None:
    """Send over one association; takes out of `left` what is done with, one way or the other."""
    reader = InstanceReader(manifest, store)
    while left and not is_cancelled():
        index = left[0]
        entry = manifest.instances[index]
        uid = entry.sop_instance_uid
        context = receiver.context(_pair(entry))
        if context is None:
            del left[0]
            tally.fail([uid], "the receiver takes no such images in their transfer syntax")
            continue
        values: Values = {
            Element.COMMAND_FIELD: Field.C_STORE,
            Element.AFFECTED_SOP_CLASS_UID: entry.sop_class_uid,
            Element.AFFECTED_SOP_INSTANCE_UID: uid,
            Element.PRIORITY: 0,
        }
        pieces = _data_set(reader.pieces(index))
        try:
            # Before anything is said: a damaged batch is then the fault of this instance alone.
            first = await in_thread(next, pieces, b"")
        except (NodeError, BadInstance) as error:
            del left[0]
            log.error("an instance cannot be sent: %s", error)
            tally.fail([uid], "an instance cannot be read: see the log of the node")
            continue
        try:
            status = await receiver.store(context, values, _rest(first, pieces))
        except Lost:
            raise
        except NodeError as error:
            # Also if the association has ended within it: the instance may be the reason.
            del left[0]
            tally.fail([uid], error.message)
            raise NoAssociation(error.message) from error
        del left[0]
        tally.count(uid, status)


def _pair(entry: InstanceEntry) -> Pair:
    return entry.sop_class_uid, entry.transfer_syntax_uid


def _data_set(pieces: Iterator[memoryview]) -> Iterator[bytes]:
    """The data set of an original, without preamble and file meta; in pieces.

    Raises:
        BadInstance: there is no file meta.
        NodeError: the store is damaged.
    """
    head = b""
    for piece in pieces:
        head += bytes(piece)
        if len(head) >= _HEAD_BYTES:
            break
    meta, _ = read_meta(reader_of(head))
    for piece in itertools.chain([memoryview(head)[meta.end :]], pieces):
        for start in range(0, len(piece), PIECE_BYTES):
            yield bytes(piece[start : start + PIECE_BYTES])


async def _rest(first: bytes, pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    piece = first
    while piece:
        yield piece
        piece = await in_thread(next, pieces, b"")
