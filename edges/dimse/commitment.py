"""Storage commitment, push model: what is asked and what is reported; PS3.4 annex J.

A request names instances by class and UID; the report says of each whether it is stored for good.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from edges.dimse import limits
from edges.dimse.commands import Element, Field
from edges.dimse.data_sets import (
    BadDataSet,
    DataSet,
    Value,
    decode_data_set,
    encode_data_set,
    number,
    sequence,
    uid,
)

MODEL = "1.2.840.10008.1.20.1"
"""The SOP class."""

INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its one instance, which is the same everywhere."""

REQUEST = 1
"""The action type of a request."""

ALL_STORED, SOME_FAILED = 1, 2
"""The event types of a report."""

REFERENCES = 50_000
"""Most instances of one transaction; `DATA_SET_BYTES` hold as many."""

_TRANSACTION, _STORED, _FAILED = 0x00081195, 0x00081199, 0x00081198
_CLASS, _UID, _REASON = 0x00081150, 0x00081155, 0x00081197
_VRS = {
    _TRANSACTION: "UI", _STORED: "SQ", _FAILED: "SQ", _CLASS: "UI", _UID: "UI", _REASON: "US",
}  # fmt: skip

_IS_UID = re.compile(r"[0-9.]+")


class Reason(IntEnum):
    """Why an instance is not stored, (0008,1197); PS3.3 section C.14."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT = 0x0112
    CLASS_CONFLICT = 0x0119


class Reference(NamedTuple):
    """An instance: its SOP class, and its UID."""

    sop_class: str
    sop_instance: str


@dataclass(frozen=True, slots=True)
class Request:
    """A transaction: are these stored for good?"""

    transaction: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a transaction: what is stored, and what is not, each with its reason."""

    transaction: str
    stored: tuple[Reference, ...] = ()
    failed: Mapping[Reference, int] = field(default_factory=dict)

    @property
    def event_type(self) -> int:
        """The event type by which it is reported."""
        return SOME_FAILED if self.failed else ALL_STORED


def decode_request(data: bytes, transfer_syntax: str) -> Request:
    """Read the data set of a request; what is named twice counts once.

    Raises:
        BadDataSet: it is none, or names nothing, or more than `REFERENCES`.
    """
    values = decode_data_set(data, transfer_syntax, _VRS)
    references = tuple(dict.fromkeys(map(_reference, _items(values, _STORED))))
    if not references:
        raise BadDataSet("the request names no instance")
    return Request(_uid(values, _TRANSACTION), references)


def encode_request(request: Request, transfer_syntax: str) -> bytes:
    """Write the data set of a request."""
    return encode_data_set(
        {
            _TRANSACTION: uid(request.transaction),
            _STORED: sequence(map(_written, request.references)),
        },
        transfer_syntax,
    )


def decode_report(data: bytes, transfer_syntax: str) -> Report:
    """Read the data set of a report; what is named as stored and as failed is failed.

    Raises:
        BadDataSet: it is none.
    """
    values = decode_data_set(data, transfer_syntax, _VRS)
    failed: dict[Reference, int] = {}
    for item in _items(values, _FAILED):
        why = item[_REASON].number if _REASON in item else None
        failed[_reference(item)] = Reason.PROCESSING_FAILURE if why is None else why
    stored = dict.fromkeys(map(_reference, _items(values, _STORED)))
    return Report(
        _uid(values, _TRANSACTION), tuple(one for one in stored if one not in failed), failed
    )


def encode_report(report: Report, transfer_syntax: str) -> bytes:
    """Write the data set of a report."""
    values = {_TRANSACTION: uid(report.transaction)}
    if report.stored:
        values[_STORED] = sequence(map(_written, report.stored))
    if report.failed:
        values[_FAILED] = sequence(
            {**_written(one), _REASON: number(why)} for one, why in report.failed.items()
        )
    return encode_data_set(values, transfer_syntax)


def action() -> dict[Element, int | str]:
    """The command set of a request."""
    return {
        Element.COMMAND_FIELD: Field.N_ACTION,
        Element.REQUESTED_SOP_CLASS_UID: MODEL,
        Element.REQUESTED_SOP_INSTANCE_UID: INSTANCE,
        Element.ACTION_TYPE_ID: REQUEST,
    }


def event(report: Report) -> dict[Element, int | str]:
    """The command set of a report."""
    return {
        Element.COMMAND_FIELD: Field.N_EVENT_REPORT,
        Element.AFFECTED_SOP_CLASS_UID: MODEL,
        Element.AFFECTED_SOP_INSTANCE_UID: INSTANCE,
        Element.EVENT_TYPE_ID: report.event_type,
    }


def _items(values: DataSet, tag: int) -> tuple[DataSet, ...]:
    found = values.get(tag, Value("SQ"))
    if found.vr != "SQ":
        raise BadDataSet("it has no list of instances where one should be")
    if len(found.items) > REFERENCES:
        raise BadDataSet(f"it names more than {REFERENCES} instances")
    return found.items


def _reference(item: DataSet) -> Reference:
    return Reference(_uid(item, _CLASS), _uid(item, _UID))


def _written(reference: Reference) -> dict[int, Value]:
    return {_CLASS: uid(reference.sop_class), _UID: uid(reference.sop_instance)}


def _uid(values: DataSet, tag: int) -> str:
    text = values[tag].text if tag in values else ""
    if len(text) > limits.UID_CHARACTERS or _IS_UID.fullmatch(text) is None:
        raise BadDataSet("it lacks a UID, or has one that is none")
    return text
