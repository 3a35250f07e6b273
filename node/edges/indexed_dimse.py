"""An archive that is indexed by C-FIND, and gives a study by C-MOVE (PS3.4 annex C).

It sends the images to our own AE title, so they come in as those of any other system do.
"""

import contextlib
from collections.abc import AsyncGenerator, Sequence

from edges.dimse import querying as q
from edges.dimse.commands import Element, Field
from edges.dimse.data_sets import BadDataSet, Value, decode_data_set, encode_data_set, uid
from edges.dimse.negotiation import IMPLICIT, Accepted
from edges.dimse.querying import STUDY_ROOT_FIND, STUDY_ROOT_MOVE
from node.blocking import in_thread
from node.catalog.indexed import IndexedStudy
from node.edges import dimse_find
from node.edges.archive_settings import ArchiveSettings
from node.edges.dimse_client import Calling, associated
from node.edges.indexing import STUDIES_READ, Days, Given, Listed, indexed_study
from node.errors import ExitCode, NodeError

MOVE_SECONDS = 900.0
"""Longest time without a word of an archive that sends a study: it may lie on tapes."""

_ASKED = (
    q.PATIENT_NAME, q.PATIENT_ID, q.ISSUER, q.BIRTH_DATE, q.SEX, q.STUDY_TIME, q.ACCESSION,
    q.STUDY_MODALITIES, q.INSTITUTION, q.REFERRING, q.STUDY_DESCRIPTION, q.STUDY, q.STUDY_ID,
    q.STUDY_SERIES, q.STUDY_INSTANCES,
)  # fmt: skip
_MEDIUM, _HIGH = 0, 1


class IndexedDimse:
    """One archive.

    Args:
        settings: of it.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        self._settings = settings

    async def studies(self, asked: Sequence[Days]) -> AsyncGenerator[Listed, None]:
        """What it has of some days, an answer for each question.

        Raises:
            NoAssociation: it is not there, or went away.
            NodeError: it does not answer such questions.
        """
        callee = await in_thread(self._settings.callee)
        async with associated(callee, [(STUDY_ROOT_FIND, [IMPLICIT])]) as calling:
            context = calling.context(STUDY_ROOT_FIND)
            if context is None:
                raise self._refused("does not take a C-FIND (Study Root)")
            for days in asked:
                yield await self._of_days(calling, context, days)

    async def _of_days(self, calling: Calling, context: Accepted, days: Days) -> Listed:
        wanted = {tag: Value(q.ATTRIBUTES[tag].vr) for tag in _ASKED}
        wanted |= {
            q.QUERY_LEVEL: Value("CS", b"STUDY"),
            q.STUDY_DATE: Value("DA", days.text.encode()),
        }
        found: list[IndexedStudy] = []
        count = 0
        asked = dimse_find.found(calling, context, wanted, self._refused_to_say)
        async with contextlib.aclosing(asked) as answers:
            async for answer in answers:
                count += 1
                one = _study(answer, context.transfer_syntax, days)
                if one is not None:
                    found.append(one)
                if count > STUDIES_READ:
                    return Listed(days, tuple(found), is_all=False)
        return Listed(days, tuple(found), is_all=len(found) == count)

    async def give(self, study: str, *, stat: bool) -> Given:
        """Have it send a study (UID) to us.

        Raises:
            NoAssociation: it is not there, or went away.
            NodeError: it does not send.
        """
        callee = await in_thread(self._settings.callee)
        values: dict[Element, int | str] = {
            Element.COMMAND_FIELD: Field.C_MOVE,
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_MOVE,
            Element.MOVE_DESTINATION: self._settings.moves_to,
            Element.PRIORITY: _HIGH if stat else _MEDIUM,
        }
        identifier = {q.QUERY_LEVEL: Value("CS", b"STUDY"), q.STUDY: uid(study)}
        async with associated(callee, [(STUDY_ROOT_MOVE, [IMPLICIT])]) as calling:
            context = calling.context(STUDY_ROOT_MOVE)
            if context is None:
                raise self._refused("does not take a C-MOVE (Study Root)")
            given = Given()
            asked = calling.ask(
                context,
                values,
                encode_data_set(identifier, context.transfer_syntax),
                answer_seconds=MOVE_SECONDS,
            )
            async with contextlib.aclosing(asked) as answers:
                async for answer in answers:
                    told = answer.command.values
                    completed, warned, failed = (
                        _number(told.get(one))
                        for one in (Element.COMPLETED, Element.WARNING, Element.FAILED)
                    )
                    # Some answer without counts at the end: what was said before holds.
                    given = Given(max(given.given, completed + warned), max(given.failed, failed))
                    status = answer.status
        if status == q.UNKNOWN_DESTINATION:
            raise self._refused(
                f"does not know {self._settings.moves_to}, to which it is asked to send",
                "have its admin add the node there, with host and port",
            )
        if status not in (q.SUCCESS, q.SOME_FAILED) and not given.given:
            raise self._refused(f"answers a C-MOVE with status {status:04X}H")
        if status not in (q.SUCCESS, q.SOME_FAILED):
            given = Given(given.given, max(given.failed, 1))
        return given

    def _refused_to_say(self, status: str) -> NodeError:
        return self._refused(f"answers a C-FIND for studies with {status}")

    def _refused(self, what: str, hint: str = "see the archive's own log") -> NodeError:
        return NodeError(
            f"the archive {self._settings.name} {what}", hint=hint, code=ExitCode.REFUSED
        )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _study(data: bytes, transfer_syntax: str, days: Days) -> IndexedStudy | None:
    try:
        answer = decode_data_set(data, transfer_syntax, q.VRS)
    except BadDataSet:
        return None

    def text(tag: int) -> str:
        return dimse_find.text_of(answer, tag, is_name=q.ATTRIBUTES[tag].vr == "PN")

    return indexed_study(text, days)
