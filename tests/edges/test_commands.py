"""Command sets against pynetdicom's, of each message that the node takes or sends."""

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pdus_made import CT, command, echo, elements, store
from pydicom.uid import UID
from pynetdicom import dimse_messages as theirs
from pynetdicom import dimse_primitives as primitives
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import P_DATA

from edges.dimse import limits
from edges.dimse.commands import (
    NO_DATA_SET,
    BadCommand,
    Command,
    Element,
    Field,
    decode_command,
    encode_command,
    response,
)

COMMIT = "1.2.840.10008.1.20.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def _primitive(kind: str, **values: object) -> Any:
    made = getattr(primitives, kind)()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _data() -> BytesIO:
    return BytesIO(b"\x08\0\x52\0\0\0\0\0")


def _c(kind: str, sop_class: str, **more: object) -> Any:
    return _primitive(kind, AffectedSOPClassUID=UID(sop_class), **more)


def _n(kind: str, **more: object) -> Any:
    return _primitive(kind, **more)


THE_ONE = UID("1.2.840.10008.1.20.1.1")
ASKED = {"RequestedSOPClassUID": UID(COMMIT), "RequestedSOPInstanceUID": THE_ONE}
TOLD = {"AffectedSOPClassUID": UID(COMMIT), "AffectedSOPInstanceUID": THE_ONE}
SUMS = {
    "NumberOfRemainingSuboperations": 4,
    "NumberOfCompletedSuboperations": 3,
    "NumberOfFailedSuboperations": 2,
    "NumberOfWarningSuboperations": 1,
}

MESSAGES: dict[str, Any] = {
    "C_STORE_RQ": _c("C_STORE", CT, MessageID=7, Priority=2, AffectedSOPInstanceUID=UID("1.2.3"),
                     DataSet=_data()),
    "C_STORE_RQ of a move": _c("C_STORE", CT, MessageID=7, Priority=2, DataSet=_data(),
                               AffectedSOPInstanceUID=UID("1.2.34"),
                               MoveOriginatorApplicationEntityTitle="WORKSTATION",
                               MoveOriginatorMessageID=9),
    "C_STORE_RSP": _c("C_STORE", CT, MessageIDBeingRespondedTo=7, Status=0xB007,
                      AffectedSOPInstanceUID=UID("1.2.3"), ErrorComment="set aside"),
    "C_ECHO_RQ": _c("C_ECHO", "1.2.840.10008.1.1", MessageID=65535),
    "C_ECHO_RSP": _c("C_ECHO", "1.2.840.10008.1.1", MessageIDBeingRespondedTo=65535, Status=0),
    "C_FIND_RQ": _c("C_FIND", FIND, MessageID=1, Priority=0, Identifier=_data()),
    "C_FIND_RSP pending": _c("C_FIND", FIND, MessageIDBeingRespondedTo=1, Status=0xFF00,
                             Identifier=_data()),
    "C_FIND_RSP": _c("C_FIND", FIND, MessageIDBeingRespondedTo=1, Status=0),
    "C_GET_RQ": _c("C_GET", FIND, MessageID=1, Priority=1, Identifier=_data()),
    "C_GET_RSP": _c("C_GET", FIND, MessageIDBeingRespondedTo=1, Status=0xFF00, **SUMS),
    "C_MOVE_RQ": _c("C_MOVE", FIND, MessageID=1, Priority=1, Identifier=_data(),
                    MoveDestination="OTHER"),
    "C_MOVE_RSP": _c("C_MOVE", FIND, MessageIDBeingRespondedTo=1, Status=0xB000,
                     Identifier=_data(), **SUMS),
    "C_CANCEL_RQ": _primitive("C_CANCEL", MessageIDBeingRespondedTo=5),
    "N_ACTION_RQ": _n("N_ACTION", MessageID=3, ActionTypeID=1, ActionInformation=_data(), **ASKED),
    "N_ACTION_RSP": _n("N_ACTION", MessageIDBeingRespondedTo=3, ActionTypeID=1, Status=0, **TOLD),
    "N_EVENT_REPORT_RQ": _n("N_EVENT_REPORT", MessageID=4, EventTypeID=2,
                            EventInformation=_data(), **TOLD),
    "N_EVENT_REPORT_RSP": _n("N_EVENT_REPORT", MessageIDBeingRespondedTo=4, EventTypeID=2,
                             Status=0x0110, **TOLD),
}  # fmt: skip


def _of_pynetdicom(name: str) -> Any:
    message = getattr(theirs, name.split()[0])()
    message.primitive_to_message(MESSAGES[name])
    return message


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_pynetdicom_is_read_and_written_as_it_is(name: str) -> None:
    message = _of_pynetdicom(name)
    data = encode(message.command_set, True, True)
    found = decode_command(data)
    expected = {one.tag.element: one.value for one in message.command_set if one.tag.element}
    # It writes elements without a value, which say nothing.
    assert {element: value for element, value in found.values.items() if value != ""} == {
        element: value for element, value in expected.items() if value not in ("", None)
    }
    assert found.has_data_set == bool(message.data_set and message.data_set.getvalue())
    assert found.message_id == (
        MESSAGES[name].MessageID
        if name.split()[0].endswith("_RQ") and name != "C_CANCEL_RQ"
        else MESSAGES[name].MessageIDBeingRespondedTo
    )
    written = encode_command({Element(element): value for element, value in found.values.items()})
    assert written == data


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_written_pynetdicom_reads(name: str) -> None:
    command_set = _of_pynetdicom(name).command_set
    values = {
        Element(one.tag.element): one.value
        for one in command_set
        if one.tag.element and one.value not in ("", None)
    }
    wrapped = P_DATA()
    wrapped.presentation_data_value_list = [[1, b"\x03" + encode_command(values)]]
    message = theirs.DIMSEMessage()
    is_whole = message.decode_msg(wrapped)
    assert bool(is_whole) != decode_command(encode_command(values)).has_data_set
    read = {one.tag.element: one.value for one in message.command_set if one.tag.element}
    assert read == {int(element): value for element, value in values.items()}


REQUESTS = {
    "C_STORE_RQ": Field.C_STORE, "C_ECHO_RQ": Field.C_ECHO, "C_FIND_RQ": Field.C_FIND,
    "C_GET_RQ": Field.C_GET, "C_MOVE_RQ": Field.C_MOVE, "C_CANCEL_RQ": Field.C_CANCEL,
    "N_ACTION_RQ": Field.N_ACTION, "N_EVENT_REPORT_RQ": Field.N_EVENT_REPORT,
}  # fmt: skip


def test_the_fields_are_those_of_pynetdicom() -> None:
    assert {decode_command(encode(_of_pynetdicom(name).command_set, True, True)).field
            for name in REQUESTS} == set(Field)  # fmt: skip
    for name, field in REQUESTS.items():
        assert _of_pynetdicom(name).command_set.CommandField == field


@pytest.mark.parametrize(("status", "comment"), [(0, ""), (0xA700, "no room"), (0xC000, "x" * 70)])
def test_a_response_is_for_its_request(status: int, comment: str) -> None:
    values = response(decode_command(store(7, "1.2.3")), status, comment=comment)
    expected = _c("C_STORE", CT, MessageIDBeingRespondedTo=7, Status=status,
                  AffectedSOPInstanceUID=UID("1.2.3"))  # fmt: skip
    if comment:
        expected.ErrorComment = comment[:64]
    message = theirs.C_STORE_RSP()
    message.primitive_to_message(expected)
    theirs_ = {k: v for k, v in elements(encode(message.command_set, True, True)).items() if v}
    assert elements(encode_command(values)) == theirs_


def test_a_response_has_more_where_more_is_said() -> None:
    values = response(decode_command(echo(3)), 0, more={Element.REMAINING: 4})
    assert values[Element.REMAINING] == 4
    assert elements(encode_command(values))[0x1020] == b"\4\0"
    assert values[Element.DATA_SET_TYPE] == NO_DATA_SET


def _with(**changed: object) -> bytes:
    values: dict[int, Any] = {0x0100: 0x30, 0x0110: 1, 0x0800: 0x0101}
    for name, value in changed.items():
        values[int(name[1:], 16)] = value
    return command({element: value for element, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no \\(0000,0100\\)"),
        (_with(x0100=None), "no \\(0000,0100\\)"),
        (_with(x0110=None), "no \\(0000,0110\\)"),
        (_with(x0800=None), "no \\(0000,0800\\)"),
        (_with(x0100=0x8001), "no \\(0000,0120\\)"),
        (_with(x0100=0x0FFF), "no \\(0000,0120\\)"),
        (_with(x0100=b"1234"), "is no number"),
        (_with(x0900=b""), "is no number"),
        (_with(x1000=b"1" * 66), "UID of the command set is too long"),
        (echo()[:-1], "cannot be there"),
        (echo() + b"\0\0\0\2", "ends within an element"),
        (echo() + b"\x08\0\x18\0\0\0\0\0", "cannot be there"),
        (echo() + b"\0\0\0\2\xff\xff\xff\xff", "cannot be there"),
    ],
)
def test_what_is_no_command_set_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadCommand, match=why):
        decode_command(data)


def test_what_is_not_known_is_left_out() -> None:
    found = decode_command(_with(x5010=b"old", x0600=b"PLACE  "))
    assert found.text(Element.MOVE_DESTINATION) == "PLACE"
    assert 0x5010 not in found.values
    assert found.text(Element.AFFECTED_SOP_CLASS_UID) == ""
    # A text where a number is meant, and the other way round, is none.
    odd = Command({Element.STATUS: "5", Element.ERROR_COMMENT: 5})
    assert odd.text(Element.ERROR_COMMENT) == ""
    with pytest.raises(BadCommand):
        odd.number(Element.STATUS)


@pytest.mark.parametrize("padding", [b"\0", b" ", b"", b"\0\0\0"])
def test_a_uid_is_without_its_padding(padding: bytes) -> None:
    found = decode_command(_with(x1000=b"1.2.3" + padding))
    assert found.text(Element.AFFECTED_SOP_INSTANCE_UID) == "1.2.3"


def test_the_longest_uid_is_taken() -> None:
    longest = "1" * limits.UID_CHARACTERS
    found = decode_command(_with(x1000=longest))
    assert found.text(Element.AFFECTED_SOP_INSTANCE_UID) == longest


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_are_a_command_or_none(data: bytes, begun: bool) -> None:
    try:
        found = decode_command(echo() + data if begun else data)
    except BadCommand:
        return
    assert 0 <= found.message_id < 65536
    assert isinstance(found.has_data_set, bool)
