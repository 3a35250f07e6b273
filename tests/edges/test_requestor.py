"""The side that asks for an association, against pynetdicom's codec and our own acceptor."""

import itertools
from dataclasses import replace

import pytest
from acceptors_made import Talk, reached
from hypothesis import given
from hypothesis import strategies as st
from pdus_made import CT, EXPLICIT, IMPLICIT, REJECT, VERIFICATION, item, pdu, split, store, user
from pydicom.uid import UID
from pynetdicom import pdu_primitives as primitives
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.presentation import build_context

from edges.dimse import limits
from edges.dimse.acceptor import Acceptor
from edges.dimse.codec import BadAssociate, decode_answer, decode_request, encode_request
from edges.dimse.commands import decode_command
from edges.dimse.negotiation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    Accepted,
    AssociateRequest,
    Proposed,
    Result,
)
from edges.dimse.requestor import Requestor
from edges.dimse.states import State

COMMITMENT = "1.2.840.10008.1.20.1"
ASKED = AssociateRequest(
    calling="RADMESH",
    called="PACS",
    contexts=(
        Proposed(1, CT, (EXPLICIT,)),
        Proposed(3, CT, (IMPLICIT,)),
        Proposed(5, VERIFICATION, (IMPLICIT,)),
        Proposed(7, COMMITMENT, (IMPLICIT, EXPLICIT)),
    ),
    most=limits.PDU_BYTES,
    roles={COMMITMENT: (True, True)},
    operations=8,
)


def test_pynetdicom_reads_what_is_asked() -> None:
    data = encode_request(ASKED)
    read = A_ASSOCIATE_RQ()
    read.decode(data)
    assert read.encode() == data
    told = read.to_primitive()
    assert (told.calling_ae_title, told.called_ae_title) == ("RADMESH", "PACS")
    contexts = told.presentation_context_definition_list
    assert [(one.context_id, one.abstract_syntax, [*one.transfer_syntax]) for one in contexts] == [
        (one.context_id, one.abstract_syntax, [*one.transfer_syntaxes]) for one in ASKED.contexts
    ]
    assert told.maximum_length_received == limits.PDU_BYTES
    [role] = [one for one in told.user_information
              if isinstance(one, primitives.SCP_SCU_RoleSelectionNegotiation)]  # fmt: skip
    assert (role.sop_class_uid, role.scu_role, role.scp_role) == (COMMITMENT, True, True)


def test_what_is_asked_is_what_our_own_side_reads() -> None:
    ours = (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION)
    assert decode_request(encode_request(ASKED)) == replace(ASKED, implementation=ours)


def _theirs(results: list[tuple[int, int, str]], *more: object, most: int = 16382) -> bytes:
    """The A-ASSOCIATE-AC that pynetdicom writes."""
    told = primitives.A_ASSOCIATE()
    told.application_context_name = UID(ASKED.application_context)
    told.calling_ae_title, told.called_ae_title = ASKED.calling, ASKED.called
    contexts = []
    for number, result, syntax in results:
        one = build_context(CT, [UID(syntax)])
        one.context_id, one.result = number, result
        contexts.append(one)
    told.presentation_context_definition_results_list = contexts
    longest = primitives.MaximumLengthNotification()
    longest.maximum_length_received = most
    implementation = primitives.ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.276.0.7230010.3.0.3.6.7")
    told.user_information = [longest, implementation, *more]
    told.result, told.result_source = 0, 1
    made = A_ASSOCIATE_AC()
    made.from_primitive(told)
    return bytes(made.encode())


def test_an_answer_of_pynetdicom_is_read() -> None:
    role = primitives.SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = UID(COMMITMENT), True, True
    found = decode_answer(
        _theirs([(1, 0, EXPLICIT), (3, 4, EXPLICIT), (5, 0, IMPLICIT), (7, 3, IMPLICIT)], role),
        ASKED,
    )
    assert found.contexts == (
        Accepted(1, CT, EXPLICIT, Result.ACCEPTED),
        Accepted(3, CT, "", Result.NO_TRANSFER_SYNTAX),
        Accepted(5, VERIFICATION, IMPLICIT, Result.ACCEPTED),
        Accepted(7, COMMITMENT, "", Result.NO_ABSTRACT_SYNTAX),
    )
    assert found.most == 16382
    assert found.operations is None
    assert found.roles == {COMMITMENT: (True, True)}
    assert found.implementation == ("1.2.276.0.7230010.3.0.3.6.7", "")


def test_more_than_was_asked_is_not_agreed() -> None:
    roles = []
    for uid in (CT, COMMITMENT):
        role = primitives.SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = UID(uid), True, True
        roles.append(role)
    found = decode_answer(_theirs([(1, 0, EXPLICIT), (9, 0, EXPLICIT)], *roles), ASKED)
    assert [one.context_id for one in found.contexts] == [1]
    assert found.roles == {COMMITMENT: (True, True)}


def test_a_syntax_that_was_not_proposed_is_refused() -> None:
    with pytest.raises(BadAssociate, match="not proposed"):
        decode_answer(_theirs([(1, 0, IMPLICIT)]), ASKED)
    talk = Talk(side=Requestor(ASKED)).flush()
    talk.sent = b""
    talk.take(_theirs([(1, 0, IMPLICIT)]))
    assert [one[0] for one in talk.told] == ["ended"]
    assert split(talk.sent) == [(7, b"\0\0\2\6")]


@given(st.lists(st.builds(item, st.sampled_from([0x10, 0x21, 0x30, 0x40, 0x50, 0x51, 0x54]),
                          st.binary(max_size=40))), st.binary(max_size=20))  # fmt: skip
def test_any_bytes_are_an_answer_or_none(items: list[bytes], rest: bytes) -> None:
    body = bytes(68) + b"".join(items) + user(*items) + rest
    try:
        found = decode_answer(pdu(2, body), ASKED)
    except BadAssociate:
        return
    proposed = {one.context_id for one in ASKED.contexts}
    assert {one.context_id for one in found.contexts} <= proposed


def test_a_refusal_is_told_with_its_numbers() -> None:
    talk = Talk(side=Requestor(ASKED)).flush().take(REJECT)
    [(kind, *numbers)] = talk.told
    assert kind == "rejected"
    assert numbers == [*REJECT[7:10]]
    assert talk.side.is_closed


IMAGE = bytes(range(256)) * 700


@pytest.mark.parametrize("step", [1, 3, 1000, 10**7])
def test_our_two_sides_understand_each_other_in_any_pieces(step: int) -> None:
    ours = Talk(side=Requestor(ASKED)).flush()
    theirs = Talk(side=Acceptor())

    def exchange() -> None:
        """Let both sides read until nothing is on the way."""
        while ours.sent or theirs.sent:
            for one, other in itertools.permutations((ours, theirs)):
                data, one.sent = one.sent, b""
                for start in range(0, len(data), step):
                    other.take(data[start : start + step])

    exchange()
    assert ours.told == [("accepted",)]
    ours.side.send(1, _store(7), None)
    for start in range(0, len(IMAGE), 50_000):
        is_last = start + 50_000 >= len(IMAGE)
        ours.side.send_data(1, IMAGE[start : start + 50_000], is_last=is_last)
    ours.flush()
    exchange()
    assert b"".join(one[1] for one in theirs.told if one[0] == "data") == IMAGE  # type: ignore[misc]
    assert [one[2] for one in theirs.told if one[0] == "data"].count(True) == 1
    assert [one[0] for one in ours.told] == ["accepted", "command"]
    assert isinstance(ours.side, Requestor)
    ours.side.ask_release()
    ours.flush()
    exchange()
    assert ours.told[-1] == ("released",)
    assert ours.side.is_closed
    assert theirs.side.state is State.AWAITING_CLOSE


def _store(number: int) -> dict[int, int | str]:
    return dict(decode_command(store(number, "1.2.3")).values)


def test_both_ask_for_the_end_at_once() -> None:
    talk = reached(State.AWAITING_RELEASE)
    talk.take(pdu(5, bytes(4)))
    assert split(talk.sent) == [(6, bytes(4))]
    talk.take(pdu(6, bytes(4)))
    assert talk.told == [("released",)]
    assert talk.side.is_closed
