"""An archive that takes images by C-STORE and is asked by C-FIND (PS3.4 annexes B and C).

An image goes in the transfer syntax that it has, never in another one. So each SOP class is
proposed with each syntax by itself, and what the archive does not take is said.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from edges.dimse.commands import BadCommand, Element, Field
from edges.dimse.data_sets import BadDataSet, DataSet, Value, decode_data_set, uid
from edges.dimse.limits import CONTEXTS
from edges.dimse.negotiation import IMPLICIT
from edges.dimse.querying import STUDY_ROOT_FIND
from node.blocking import in_thread
from node.dicom.elements import BadInstance
from node.edges import dimse_find
from node.edges.archive_settings import ArchiveSettings
from node.edges.dimse_client import Calling, associated, echo
from node.edges.outgoing import HELD_BYTES, Answered, Originals, Outgoing, OutgoingFile
from node.errors import ExitCode, NodeError

LOT_BYTES = 2 * 1024 * 1024
LOT_IMAGES = 32
"""So much is read in one go, while what was read before is sent."""

_HIGH, _MEDIUM = 1, 0
_SOP_INSTANCE, _LEVEL, _STUDY, _SERIES = 0x00080018, 0x00080052, 0x0020000D, 0x0020000E

Begin = Callable[[], Awaitable[None]]
"""Called once, before the first byte of an image leaves."""

OnAnswer = Callable[[Answered], Awaitable[None]]


class ArchiveFull(NodeError):
    """The archive takes no image now; it has nothing against the one that was sent."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """An image that was read: its data set, or the file that a large one is streamed from."""

    image: Outgoing
    data_set: bytes | OutgoingFile
    digest: bytes = b""
    why: str = ""


class DimseArchive:
    """One archive.

    Args:
        settings: of it.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        self._settings = settings

    async def check(self) -> None:
        """Ask whether it is there.

        Raises:
            NodeError: it is not, or refuses.
        """
        await echo(await in_thread(self._settings.callee))

    async def send(
        self,
        images: Sequence[Outgoing],
        originals: Originals,
        begin: Begin,
        answered: OnAnswer,
        *,
        stat: bool,
    ) -> None:
        """Send images one after the other.

        Args:
            images: which.
            originals: reads them.
            begin: see `Begin`.
            answered: told of each image what the archive said, or why it was not sent.
            stat: whether they are urgent.

        Raises:
            NoAssociation: the archive is not there, refuses, or went away.
            ArchiveFull: it takes nothing now.
            NodeError: an image cannot be read.
        """
        callee = await in_thread(self._settings.callee)
        kinds = sorted({(one.sop_class, one.transfer_syntax) for one in images})
        for start in range(0, len(kinds), CONTEXTS):
            portion = kinds[start : start + CONTEXTS]
            some = [one for one in images if (one.sop_class, one.transfer_syntax) in portion]
            async with associated(
                callee, [(kind, [syntax]) for kind, syntax in portion]
            ) as calling:
                taken = []
                for one in some:
                    if calling.context(one.sop_class, one.transfer_syntax) is None:
                        await answered(Answered(one.sop_uid, False, 0, await _refusal(one)))
                    else:
                        taken.append(one)
                if taken:
                    await begin()
                    await self._send_some(calling, taken, originals, answered, stat)

    async def _send_some(
        self,
        calling: Calling,
        images: Sequence[Outgoing],
        originals: Originals,
        answered: OnAnswer,
        stat: bool,
    ) -> None:
        failure: NodeError | BadCommand | None = None
        async with trio.open_nursery() as nursery:
            lots, read = trio.open_memory_channel[list[_Ready] | NodeError](0)
            nursery.start_soon(_read_ahead, images, originals, lots)
            try:
                async for lot in read:
                    if isinstance(lot, NodeError):
                        raise lot
                    for one in lot:
                        await answered(await self._send(calling, one, stat))
            except (NodeError, BadCommand) as error:
                # Out of the nursery as it is, not in a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _send(self, calling: Calling, one: _Ready, stat: bool) -> Answered:
        image = one.image
        if one.why:
            return Answered(image.sop_uid, False, 0, one.why)
        context = calling.context(image.sop_class, image.transfer_syntax)
        assert context is not None
        values: dict[Element, int | str] = {
            Element.COMMAND_FIELD: Field.C_STORE,
            Element.AFFECTED_SOP_CLASS_UID: image.sop_class,
            Element.AFFECTED_SOP_INSTANCE_UID: image.sop_uid,
            Element.PRIORITY: _HIGH if stat else _MEDIUM,
        }
        digest = one.digest
        if isinstance(one.data_set, bytes):
            status = await calling.ask_once(context, values, one.data_set)
        else:
            status = await calling.ask_once(context, values, _streamed(one.data_set))
            digest = one.data_set.digest
        if status == 0x0213 or 0xA700 <= status <= 0xA7FF:
            raise ArchiveFull(
                f"the archive {self._settings.name} takes no images now: it answers with status"
                f" {status:04X}H, out of resources",
                hint="is its disk full?",
                code=ExitCode.BUSY,
            )
        is_taken = status == 0 or 0xB000 <= status <= 0xBFFF
        return Answered(image.sop_uid, is_taken, status, "" if is_taken else why_of(status), digest)

    async def held(self, study_uid: str, series: Sequence[str], most: int) -> set[str]:
        """The images (SOP Instance UIDs) of a study that it says it has.

        Args:
            study_uid: UID of the study.
            series: UIDs of the series that are asked for.
            most: an answer with more images than so many is broken off.

        Raises:
            NoAssociation: it is not there, or went away.
            NodeError: it does not answer such a question.
        """
        callee = await in_thread(self._settings.callee)
        found: set[str] = set()
        async with associated(callee, [(STUDY_ROOT_FIND, [IMPLICIT])]) as calling:
            context = calling.context(STUDY_ROOT_FIND)
            if context is None:
                raise self._cannot_ask("does not take a C-FIND (Study Root)")
            for one in series:
                asked = dimse_find.found(
                    calling, context, _identifier(study_uid, one), self._refused
                )
                async with contextlib.aclosing(asked) as answers:
                    async for answer in answers:
                        found.add(_sop_uid(answer))
                        if len(found) > most:
                            break
        return found

    def _refused(self, status: str) -> NodeError:
        return self._cannot_ask(f"answers a C-FIND for images with {status}")

    def _cannot_ask(self, what: str) -> NodeError:
        return NodeError(
            f"the archive {self._settings.name} {what}, so it cannot be asked what it has stored",
            hint="set `proof` to `commitment` or `none` for it in config.toml",
            code=ExitCode.REFUSED,
        )


def why_of(status: int) -> str:
    """Why an image was refused, by the status of a C-STORE (PS3.4 annex B.2.3)."""
    if 0xA900 <= status <= 0xA9FF:
        why = "the data set does not match its SOP class"
    elif 0xC000 <= status <= 0xCFFF:
        why = "it cannot be understood"
    else:
        why = {
            0x0110: "a failure of the archive",
            0x0117: "the SOP Instance UID is not taken",
            0x0122: "the SOP class is not supported",
            0x0124: "we are not authorized",
        }.get(status, "no reason that the standard knows")
    return f"status {status:04X}H: {why}"


async def _refusal(one: Outgoing) -> str:
    from node.dicom.texts import uid_name

    kind, syntax = await in_thread(lambda: (uid_name(one.sop_class), uid_name(one.transfer_syntax)))
    return (
        f"the archive does not take {kind} in {syntax}, in which it is here, and nothing is"
        " converted"
    )


async def _streamed(file: OutgoingFile) -> AsyncIterator[bytes]:
    pieces = file.data_set()
    while (piece := await in_thread(next, pieces, None)) is not None:
        yield piece


async def _read_ahead(
    images: Sequence[Outgoing],
    originals: Originals,
    lots: trio.MemorySendChannel[list[_Ready] | NodeError],
) -> None:
    """Read lots of images one after the other, the next one while one is sent."""
    place = 0
    async with lots:
        while place < len(images):
            try:
                lot = await in_thread(_read_lot, images, place, originals)
            except NodeError as error:
                await lots.send(error)
                return
            place += len(lot)
            await lots.send(lot)
            if isinstance(lot[-1].data_set, OutgoingFile):
                # It is read while it is sent, by the same reader.
                await lots.send([])


def _read_lot(images: Sequence[Outgoing], place: int, originals: Originals) -> list[_Ready]:
    lot: list[_Ready] = []
    size = 0
    for one in images[place : place + LOT_IMAGES]:
        try:
            file = originals.read(one)
        except BadInstance as error:
            lot.append(_Ready(one, b"", why=f"it {error.reason}"))
            continue
        if file.size > HELD_BYTES:
            lot.append(_Ready(one, file))
            break
        data_set = b"".join(file.data_set())
        lot.append(_Ready(one, data_set, file.digest))
        size += len(data_set)
        if size >= LOT_BYTES:
            break
    return lot


def _identifier(study_uid: str, series_uid: str) -> DataSet:
    """What is asked for: the images of a series."""
    return {
        _SOP_INSTANCE: uid(""),
        _LEVEL: Value("CS", b"IMAGE"),
        _STUDY: uid(study_uid),
        _SERIES: uid(series_uid),
    }


def _sop_uid(data_set: bytes) -> str:
    with contextlib.suppress(BadDataSet):
        found = decode_data_set(data_set, IMPLICIT).get(_SOP_INSTANCE)
        return "" if found is None else found.text
    return ""
