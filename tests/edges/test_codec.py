"""A-ASSOCIATE-RQ and -AC against pynetdicom's, and from people who mean no good."""

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pdus_made import (
    APPLICATION,
    CT,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    context,
    item,
    pdu,
    request,
    role,
    user,
    usual_request,
    window,
)
from pydicom.uid import UID
from pynetdicom import pdu_primitives as primitives
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    build_context,
    build_role,
)

from edges.dimse import limits
from edges.dimse.codec import BadAssociate, decode_request, encode_answer
from edges.dimse.negotiation import (
    APPLICATION_CONTEXT,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    Proposed,
    answer,
)

# --- against pynetdicom ----------------------------------------------------------------


def _theirs(contexts: list[PresentationContext], *more: object) -> bytes:
    """The A-ASSOCIATE-RQ that pynetdicom writes."""
    asked = primitives.A_ASSOCIATE()
    asked.application_context_name = UID(APPLICATION_CONTEXT)
    asked.calling_ae_title, asked.called_ae_title = "CT 1", "RADMESH"
    for index, one in enumerate(contexts):
        one.context_id = 2 * index + 1
    asked.presentation_context_definition_list = contexts
    longest = primitives.MaximumLengthNotification()
    longest.maximum_length_received = 16382
    implementation = primitives.ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.826.0.1.3680043.9.3811.3.0.4")
    version = primitives.ImplementationVersionNameNotification()
    version.implementation_version_name = "PYNETDICOM_304"
    asked.user_information = [longest, implementation, version, *more]
    made = A_ASSOCIATE_RQ()
    made.from_primitive(asked)
    return bytes(made.encode())


def _window(invoked: int) -> Any:
    found = primitives.AsynchronousOperationsWindowNegotiation()
    found.maximum_number_operations_invoked = invoked
    found.maximum_number_operations_performed = 1
    return found


def _identity(kind: int, primary: bytes, secondary: bytes = b"") -> Any:
    found = primitives.UserIdentityNegotiation()
    found.user_identity_type = kind
    found.positive_response_requested = False
    found.primary_field = primary
    if secondary:
        found.secondary_field = secondary
    return found


def _extended() -> list[Any]:
    one = primitives.SOPClassExtendedNegotiation()
    one.sop_class_uid, one.service_class_application_information = UID(CT), b"\2\0\3\0\1\0"
    other = primitives.SOPClassCommonExtendedNegotiation()
    other.sop_class_uid, other.service_class_uid = UID(CT), UID("1.2.840.10008.4.2")
    return [one, other]


USER = "Anna Bäcker"
MANY = [build_context(one.abstract_syntax) for one in AllStoragePresentationContexts[:128]]


def test_a_usual_request() -> None:
    found = decode_request(
        _theirs([build_context(CT), build_context(VERIFICATION, [UID(IMPLICIT)])])
    )
    assert (found.calling, found.called) == ("CT 1", "RADMESH")
    assert found.application_context == APPLICATION_CONTEXT
    assert found.contexts == (
        Proposed(1, CT, tuple(build_context(CT).transfer_syntax)),
        Proposed(3, VERIFICATION, (IMPLICIT,)),
    )
    assert found.most == 16382
    assert found.operations is None
    assert found.roles == {}
    assert found.user == ""
    assert found.implementation == ("1.2.826.0.1.3680043.9.3811.3.0.4", "PYNETDICOM_304")


def test_all_that_a_request_may_have() -> None:
    roles = [build_role(CT, scu_role=True, scp_role=True),
             build_role(VERIFICATION, scp_role=True)]  # fmt: skip
    found = decode_request(
        _theirs(MANY, *roles, _window(8), _identity(2, USER.encode(), b"secret"), *_extended())
    )
    assert [one.context_id for one in found.contexts] == list(range(1, 256, 2))
    assert [one.abstract_syntax for one in found.contexts] == [one.abstract_syntax for one in MANY]
    assert found.roles == {CT: (True, True), VERIFICATION: (False, True)}
    assert found.operations == 8
    assert found.user == USER
    assert "secret" not in repr(found)


def test_any_number_of_operations_is_zero() -> None:
    assert decode_request(_theirs([build_context(CT)], _window(0))).operations == 0


def test_an_answer_is_read_by_pynetdicom() -> None:
    proposed = [build_context(CT), build_context("1.2.3.4"), build_context(VERIFICATION)]
    roles = [build_role(CT, scu_role=True, scp_role=True), build_role(VERIFICATION, scp_role=True)]
    asked = decode_request(_theirs(proposed, *roles, _window(0)))
    ours = answer(asked, lambda sop_class, _: sop_class != "1.2.3.4")
    read = A_ASSOCIATE_AC()
    data = encode_answer(asked, ours)
    read.decode(data)
    assert read.encode() == data
    told = read.to_primitive()
    assert told.result == 0
    assert (told.calling_ae_title, told.called_ae_title) == ("CT 1", "RADMESH")
    assert told.application_context_name == APPLICATION_CONTEXT
    results = told.presentation_context_definition_results_list
    assert [(one.context_id, one.result) for one in results] == [(1, 0), (3, 3), (5, 0)]
    assert [one.transfer_syntax[0] for one in results] == [EXPLICIT, IMPLICIT, EXPLICIT]
    assert told.maximum_length_received == limits.PDU_BYTES
    assert told.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    told_more = {type(one): one for one in told.user_information}
    version = told_more[primitives.ImplementationVersionNameNotification]
    assert version.implementation_version_name == IMPLEMENTATION_VERSION
    operations = told_more[primitives.AsynchronousOperationsWindowNegotiation]
    assert operations.maximum_number_operations_invoked == limits.OPERATIONS
    assert operations.maximum_number_operations_performed == 1
    agreed = {one.sop_class_uid: (one.scu_role, one.scp_role)
              for one in told.user_information
              if isinstance(one, primitives.SCP_SCU_RoleSelectionNegotiation)}  # fmt: skip
    # Of what was asked for as SCP alone, nothing is agreed to: both are refused.
    assert agreed == {CT: (True, False), VERIFICATION: (False, False)}


def test_an_answer_to_who_asked_for_little_says_little() -> None:
    asked = decode_request(_theirs([build_context(CT)]))
    read = A_ASSOCIATE_AC()
    read.decode(encode_answer(asked, answer(asked, lambda *_: True)))
    assert {type(one) for one in read.to_primitive().user_information} == {
        primitives.MaximumLengthNotification,
        primitives.ImplementationClassUIDNotification,
        primitives.ImplementationVersionNameNotification,
    }


def test_the_longest_answer_is_read_by_pynetdicom() -> None:
    asked = decode_request(_theirs(MANY, *[build_role(one.abstract_syntax, scp_role=True)
                                           for one in MANY]))  # fmt: skip
    read = A_ASSOCIATE_AC()
    read.decode(encode_answer(asked, answer(asked, lambda *_: True)))
    assert len(read.to_primitive().presentation_context_definition_results_list) == 128
    assert len(read.user_information.user_data) == 3 + 128


def test_roles_for_what_is_not_proposed_are_not_answered() -> None:
    many = [user(*(role(f"1.{i}.{number}", 1, 1) for number in range(3000))) for i in range(3)]
    asked = decode_request(request(context(1, CT, EXPLICIT), *many, user(role(CT, 1, 1))))
    assert len(asked.roles) == 9001
    ours = answer(asked, lambda *_: True)
    assert ours.roles == {CT: (True, False)}
    assert len(encode_answer(asked, ours)) < 500


# --- odd ones --------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [b"", b"\0", b" ", b"\0 "])
def test_padded_uids_and_titles_are_taken(padding: bytes) -> None:
    found = decode_request(
        request(
            context(1, CT.encode() + padding, EXPLICIT.encode() + padding),
            calling=b" CT1" + padding,
        )
    )
    assert found.contexts == (Proposed(1, CT, (EXPLICIT,)),)
    assert found.calling == "CT1"


def test_what_is_said_twice_counts_as_it_was_said_first() -> None:
    assert decode_request(request(user(most=100), user(most=7))).most == 100


def test_what_is_not_known_is_left_out() -> None:
    odd = item(0x99, b"odd")
    body = bytes((1, 0, 0, 0)) + odd + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode())
    found = decode_request(request(odd, item(0x20, body), user(odd)))
    assert found.contexts == (Proposed(1, CT, (EXPLICIT,)),)


def test_no_transfer_syntax_is_a_context_that_is_not_accepted() -> None:
    asked = decode_request(request(context(1, CT), context(3, CT, b"", b"\0")))
    assert [one.transfer_syntaxes for one in asked.contexts] == [(), ()]
    ours = answer(asked, lambda *_: True)
    assert [int(one.result) for one in ours.contexts] == [4, 4]
    assert A_ASSOCIATE_AC().decode(encode_answer(asked, ours)) is None


def test_a_later_version_that_speaks_the_first_as_well_is_taken() -> None:
    assert decode_request(request(version=3)).calling == "CT1"


def test_titles_of_other_letters_are_nobodys() -> None:
    found = decode_request(usual_request(calling=b"R\xd6NTGEN"))
    assert found.calling == "R\ufffdNTGEN"


TOO_MANY = [context(number % 256, CT, EXPLICIT) for number in range(1, 259, 2)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (usual_request()[:73], "too short"),
        (usual_request()[:-1], "longer than what holds it"),
        (usual_request() + b"\x20\0\0", "ends within an item"),
        (request(version=2), "another version"),
        (request(context(2, CT, EXPLICIT)), "wrongly"),
        (request(context(0, CT, EXPLICIT)), "wrongly"),
        (request(context(1, CT, EXPLICIT), context(1, VERIFICATION, IMPLICIT)), "wrongly"),
        (request(*TOO_MANY), "too many"),
        (request(context(1, b"", EXPLICIT)), "no abstract syntax"),
        (request(item(0x20, bytes((1, 0, 0)))), "too short"),
        (request(item(0x20, bytes((1, 0, 0, 0)))), "no abstract syntax"),
        (request(context(1, b"1.2.\xff", EXPLICIT)), "a UID that is none"),
        (request(context(1, b"1" * 65, EXPLICIT)), "a UID that is none"),
        (request(context(1, CT, b"1" * 65)), "a UID that is none"),
        (request(item(0x20, bytes((1, 0, 0, 0, 0x30, 0, 0, 9)))), "longer than what holds it"),
        (request(item(0x50, item(0x51, b"\1\2\3"))), "wrong length"),
        (request(user(item(0x53, b"\1"))), "wrong length"),
        (request(user(item(0x54, b"\0\1"))), "wrong length"),
        (request(user(item(0x54, b"\0\7" + b"1.2\1\1"))), "wrong length"),
        (request(user(item(0x54, b""))), "wrong length"),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadAssociate, match=why):
        decode_request(data)


@given(st.lists(st.builds(item, st.sampled_from([0x10, 0x20, 0x30, 0x40, 0x50, 0x51, 0x54, 0x58]),
                          st.binary(max_size=40))),
       st.binary(max_size=20))  # fmt: skip
def test_any_bytes_are_a_request_or_none(items: list[bytes], rest: bytes) -> None:
    try:
        found = decode_request(request(*items, item(0x50, b"".join(items)), rest))
    except BadAssociate:
        return
    # Whatever is read can be answered.
    assert encode_answer(found, answer(found, lambda *_: True))


# --- from strangers --------------------------------------------------------------------

ROOM = limits.REQUEST_BYTES - 68 - 25


def _full(one: bytes, room: int = ROOM) -> bytes:
    return one * (room // len(one))


LONGEST_ITEM = 65_000
BEGUN = bytes((1, 0, 0, 0)) + item(0x30, b"1.2")
HOSTILE = {
    "contexts": _full(item(0x20, BEGUN)),
    "empty items": _full(item(0x10, b"")),
    "empty user items": _full(item(0x50, b"")),
    "empty sub-items": _full(item(0x50, _full(item(0x55, b""), LONGEST_ITEM))),
    "lengths": _full(item(0x50, _full(item(0x51, bytes(4)), LONGEST_ITEM))),
    "roles": _full(item(0x50, _full(role("1.2", 1, 1), LONGEST_ITEM))),
    "transfer syntaxes": _full(item(0x20, BEGUN + _full(item(0x40, b"1.2"), LONGEST_ITEM))),
    "empty transfer syntaxes": _full(item(0x20, BEGUN + _full(item(0x40, b""), LONGEST_ITEM))),
    "common negotiation": _full(item(0x50, _full(item(0x57, bytes(6)), LONGEST_ITEM))),
    "identities": _full(item(0x50, _full(item(0x58, b"\1\0\0\0\0\0"), LONGEST_ITEM))),
    "deep": _full(item(0x50, item(0x50, item(0x50, item(0x50, b""))))),
    "a long identity": item(0x50, item(0x58, b"\1\0\xff\xff" + bytes(60_000))) * 4,
    "a length that lies": _full(item(0x10, b""))[:-2] + b"\xff\xff",
    "letters": bytes(ROOM),
    "ones": b"\xff" * ROOM,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_longest_request_of_a_stranger_costs_little(name: str) -> None:
    data = pdu(1, request()[6:] + HOSTILE[name])
    assert len(data) <= limits.REQUEST_BYTES + 6
    started = time.process_time()
    _decoded(data)
    # 0.08 s here; with pynetdicom up to 2.3 s, in which the node does nothing else.
    assert time.process_time() - started < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_the_longest_request_of_a_stranger_takes_little_memory(name: str) -> None:
    data = pdu(1, request()[6:] + HOSTILE[name])
    tracemalloc.start()
    try:
        _decoded(data)
        assert tracemalloc.get_traced_memory()[1] < 24 * limits.REQUEST_BYTES
    finally:
        tracemalloc.stop()


def _decoded(data: bytes) -> None:
    try:
        decode_request(data)
    except BadAssociate:
        pass


def test_what_a_stranger_says_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    marked = [b"MARKED\xff", b"1.2.MARKED"]
    for mark in marked:
        _decoded(request(context(1, mark, mark), calling=mark))
        _decoded(request(item(0x10, mark)))
        _decoded(request(user(item(0x58, mark), item(0x52, mark), window(1))))
    assert caplog.records == []


def test_the_request_is_for_the_context_that_it_names() -> None:
    other = request().replace(APPLICATION, b"1.2.840.10008.3.1.1.2")
    assert decode_request(other).application_context == "1.2.840.10008.3.1.1.2"
