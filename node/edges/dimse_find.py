"""Asks another system by C-FIND (PS3.4 annexes C and K), and reads its answers."""

import contextlib
from collections.abc import AsyncGenerator, Callable

from edges.dimse.commands import Element, Field
from edges.dimse.data_sets import DataSet, Value, encode_data_set
from edges.dimse.negotiation import Accepted
from edges.dimse.querying import CHARACTER_SET
from node.dicom.texts import decoded, encodings_of
from node.edges.dimse_client import ANSWER_SECONDS, Calling
from node.errors import NodeError

_MEDIUM = 0


async def found(
    calling: Calling,
    context: Accepted,
    wanted: DataSet,
    refused: Callable[[str], NodeError],
    *,
    answer_seconds: float = ANSWER_SECONDS,
) -> AsyncGenerator[bytes, None]:
    """The data sets that answer a query. Whoever stops before the last sends a C-CANCEL.

    Args:
        calling: the association.
        context: an accepted one, of a SOP class for queries.
        wanted: the identifier.
        refused: makes the error of a status that is none of success, such as "status A700H".
        answer_seconds: longest time without a byte.

    Raises:
        NoAssociation: it ended, or an answer did not come in time.
        NodeError: the query is refused.
    """
    values: dict[Element, int | str] = {
        Element.COMMAND_FIELD: Field.C_FIND,
        Element.AFFECTED_SOP_CLASS_UID: context.abstract_syntax,
        Element.PRIORITY: _MEDIUM,
    }
    identifier = encode_data_set(wanted, context.transfer_syntax)
    asked = calling.ask(context, values, identifier, answer_seconds=answer_seconds)
    async with contextlib.aclosing(asked) as answers:
        async for answer in answers:
            if answer.data_set:
                yield answer.data_set
            elif answer.status != 0:
                raise refused(f"status {answer.status:04X}H")


def text_of(answer: DataSet, tag: int, *, is_name: bool = False) -> str:
    """The text of an element of an answer, in the character set that the answer says."""
    encodings = encodings_of(answer.get(CHARACTER_SET, Value("CS")).data)
    value = answer.get(tag, Value("UN")).data
    return decoded(value, encodings, is_name=is_name).strip(" \0")
