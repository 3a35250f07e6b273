"""A pairing in memory: who has the code, who has not, and who is in between."""

import dataclasses

import cpace
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairing_made import CODE, OTHER_CODE, Line, caller, shower, statement

from keys.identity import KeyPair
from keys.pairing_seal import DOMAIN
from keys.pake import Role
from protocol import limits, messages
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.frames import FrameKind, frame_header
from protocol.pairing import Answered, Confirmed, Heard, Met, PairingExchange, Step, WrongCode
from protocol.pairing_messages import OUTER, PairHello, PairShare, PairStatement, PairTag

IN, RE = Role.INITIATOR, Role.RESPONDER


def framed(message):
    payload = messages.encode(message)
    return frame_header(FrameKind.MESSAGE, len(payload)) + payload


def inside(flight):
    return messages.decode_untrusted(flight[limits.FRAME_HEADER_BYTES :], OUTER)


def test_two_with_one_code_meet_and_answer():
    line = Line(caller(), shower()).run()
    assert line.failed == {}
    for role, name, grants in (
        (IN, "North General", ("see",)),
        (RE, "South Clinic", ("see", "fetch")),
    ):
        assert line.heard[role][:2] == [Heard(), Heard()]
        assert line.heard[role][2:4] == [Confirmed(), Heard()]
        [met] = line.heard[role][4:]
        assert isinstance(met, Met)
        assert met.card.encoded == statement(name, grants)[0].card
        assert (met.card.name, met.grants, met.purposes) == (name, grants, ("treatment",))
        assert line.sides[role].step is Step.ANSWER
    assert line.sides[IN].session == line.sides[RE].session != b""
    line.sides[IN].answer(True)
    line.sides[RE].answer(False)
    line.run()
    assert line.heard[IN][-1] == Answered(False)
    assert line.heard[RE][-1] == Answered(True)
    assert {side.step for side in line.sides.values()} == {Step.DONE}


def test_each_run_has_a_name_of_its_own():
    first, second = (Line(caller(), shower()).run() for _ in range(2))
    assert first.sides[IN].session != second.sides[IN].session


def test_it_comes_in_pieces_of_any_size():
    one, other = caller(), shower()
    for _ in range(20):
        for sender, taker in ((one, other), (other, one)):
            for byte in sender.take_outgoing():
                taker.receive_untrusted(bytes([byte]))
    assert (one.step, other.step) == (Step.ANSWER, Step.ANSWER)


def test_before_a_confirmation_neither_name_nor_key_is_on_the_wire():
    line = Line(caller(), shower(OTHER_CODE)).run()
    everything = b"".join(line.flights[IN] + line.flights[RE])
    good = Line(caller(), shower()).run()
    everything += b"".join(good.flights[IN] + good.flights[RE])
    for name in ("North General", "South Clinic"):
        said, key = statement(name)
        for secret in (name.encode(), said.card[20:60], key.public, key.public.hex().encode()):
            assert secret not in everything
    assert CODE.encode() not in everything


# --- who has not the code -----------------------------------------------------------------


def test_a_caller_with_another_code_is_found_out_and_learns_nothing():
    line = Line(caller(OTHER_CODE), shower()).run()
    assert isinstance(line.failed[RE], WrongCode)
    assert line.sides[RE].take_outgoing() == b""
    # The one with the code has sent a nonce and a share, and no tag.
    assert [type(inside(flight)) for flight in line.flights[RE]] == [PairHello, PairShare]
    assert not line.sides[RE].has_guessed
    assert line.sides[IN].has_guessed


def test_a_shower_with_another_code_that_answers_all_the_same_is_found_out():
    line = Line(caller(), shower())

    def tamper(role, number, flight):
        return framed(PairTag(tag=bytes(64))) if role is RE and number == 3 else flight

    line._tamper = tamper
    line.run()
    assert isinstance(line.failed[IN], WrongCode)
    # Its card stays here.
    assert len(line.flights[IN]) == 3


def reflected(side, flights):
    """Send a side its own messages back, except that its nonce is not repeated."""
    for _ in range(flights):
        flight = side.take_outgoing()
        if not flight:
            return
        side.receive_untrusted(flight)


def test_what_the_caller_sends_and_gets_back_is_no_confirmation():
    side = caller()
    with pytest.raises(WrongCode):
        reflected(side, 5)
    assert side.step is Step.TAG


def test_what_the_shower_sends_and_gets_back_is_no_confirmation():
    side = shower()
    side.receive_untrusted(framed(PairHello(nonce=bytes(16))))
    # As if its share were known before it is sent, and its tag, which never is.
    ours = side._pake.share
    side.receive_untrusted(framed(PairShare(share=ours)))
    with pytest.raises(WrongCode):
        side.receive_untrusted(framed(PairTag(tag=side._agreement.tag)))


def test_a_caller_that_is_relayed_to_a_third_node_confirms_nobody():
    """The third one shows a code of its own; who relays knows neither."""
    third = shower(OTHER_CODE, "Third Hospital")
    line = Line(caller(), third).run()
    assert isinstance(line.failed[RE], WrongCode)


def test_two_callers_of_one_code_do_not_pair():
    """Who relays the one that types to another one that types has two of one role."""
    one, other = caller(), caller(name="West Practice")
    for _ in range(2):
        first, second = one.take_outgoing(), other.take_outgoing()
        one.receive_untrusted(second)
        other.receive_untrusted(first)
    with pytest.raises(WrongCode):
        one.receive_untrusted(other.take_outgoing())


@pytest.mark.parametrize("role", [IN, RE])
def test_a_share_that_is_replaced_on_the_way_is_found_out(role):
    def tamper(sender, number, flight):
        if sender is role and number == 2:
            return framed(PairShare(share=bytes([9]) + bytes(31)))
        return flight

    line = Line(caller(), shower(), tamper).run()
    assert isinstance(line.failed[RE], WrongCode)
    assert Met not in {type(event) for events in line.heard.values() for event in events}


@pytest.mark.parametrize("role", [IN, RE])
def test_a_hello_that_is_altered_on_the_way_is_found_out(role):
    """Also where it has gained a field that this version does not know."""

    def tamper(sender, number, flight):
        if sender is not role or number != 1:
            return flight
        value = messages.wire.map_untrusted(flight[limits.FRAME_HEADER_BYTES :])
        payload = messages.wire.pack({**{name: value[name] for name in ("nonce", "type")}, "z": 1})
        return frame_header(FrameKind.MESSAGE, len(payload)) + payload

    line = Line(caller(), shower(), tamper).run()
    assert isinstance(line.failed[RE], WrongCode)


@pytest.mark.parametrize("share", [bytes(32), bytes([1]) + bytes(31)])
@pytest.mark.parametrize("make", [caller, shower])
def test_a_share_of_small_order_is_refused_and_is_no_guess(make, share):
    side = make()
    side.receive_untrusted(framed(PairHello(nonce=bytes(16))))
    with pytest.raises(RemoteProtocolError) as caught:
        side.receive_untrusted(framed(PairShare(share=share)))
    assert not isinstance(caught.value, WrongCode)
    assert not side.has_guessed


@pytest.mark.parametrize("make", [caller, shower])
@pytest.mark.parametrize(
    ("said", "next_message"),
    [
        ([], PairShare(share=bytes(32))),
        ([], PairTag(tag=bytes(64))),
        ([PairHello(nonce=bytes(16))], PairTag(tag=bytes(64))),
        ([PairHello(nonce=bytes(16))], PairHello(nonce=bytes(16))),
    ],
    ids=["share before hello", "tag before hello", "tag before share", "two hellos"],
)
def test_out_of_order_is_refused_and_is_no_guess(make, said, next_message):
    side = make()
    for message in said:
        side.receive_untrusted(framed(message))
    with pytest.raises(RemoteProtocolError) as caught:
        side.receive_untrusted(framed(next_message))
    assert caught.value.code is WireCode.UNEXPECTED
    assert not isinstance(caught.value, WrongCode)


# --- who has it, and lies -------------------------------------------------------------------


@pytest.mark.parametrize("role", [IN, RE])
@pytest.mark.parametrize("number", [4, 5])
def test_one_changed_bit_of_what_is_sealed_is_refused(role, number):
    def tamper(sender, count, flight):
        if sender is role and count == number:
            return flight[:60] + bytes([flight[60] ^ 1]) + flight[61:]
        return flight

    line = Line(caller(), shower(), tamper).run()
    [failed] = [one for one in Role if one is not role]
    assert line.failed[failed].code is WireCode.BAD_DIGEST


@pytest.mark.parametrize("role", [IN, RE])
def test_a_sealed_message_that_is_sent_twice_is_refused(role):
    def tamper(sender, count, flight):
        return flight * 2 if sender is role and count == 5 else flight

    line = Line(caller(), shower(), tamper).run()
    [failed] = [one for one in Role if one is not role]
    assert line.failed[failed].code is WireCode.BAD_DIGEST


@pytest.mark.parametrize("role", [IN, RE])
def test_the_card_of_somebody_else_is_not_taken(role):
    """Whoever shows a card must have its node key."""
    sides = {IN: caller(), RE: shower()}
    liar = sides[role]
    said, _ = statement("East Hospital")
    sides[role] = PairingExchange(role, CODE, said, liar.key)
    line = Line(sides[IN], sides[RE]).run()
    [honest] = [one for one in Role if one is not role]
    assert line.failed[honest].code is WireCode.BAD_SIGNATURE
    assert Met not in map(type, line.heard[honest])


@pytest.mark.parametrize("role", [IN, RE])
def test_a_card_that_is_no_card_is_refused(role):
    sides = {IN: caller(), RE: shower()}
    forged = sides[role].statement.card.replace(b"North", b"Worth").replace(b"South", b"Mouth")
    said = dataclasses.replace(sides[role].statement, card=forged)
    sides[role] = PairingExchange(role, CODE, said, sides[role].key)
    line = Line(sides[IN], sides[RE]).run()
    [honest] = [one for one in Role if one is not role]
    assert "the card of the other side is refused" in str(line.failed[honest])


def test_a_signature_of_another_run_does_not_count():
    first = Line(caller(), shower()).run()
    second = Line(caller(), shower())
    second.run()
    # The same cards, and another session: what is signed differs.
    assert first.sides[IN]._signed[32:] == second.sides[IN]._signed[32:]
    assert first.sides[IN]._signed[:32] != second.sides[IN]._signed[:32]


def test_nobody_is_accepted_before_it_is_known_who_it_is():
    with pytest.raises(LocalProtocolError):
        shower().answer(True)


def test_nothing_follows_the_answer():
    line = Line(caller(), shower()).run()
    line.sides[IN].answer(True)
    line.sides[IN].answer(True)
    line.run()
    assert line.failed[RE].code is WireCode.UNEXPECTED


# --- what comes from anybody -----------------------------------------------------------------


@pytest.mark.parametrize("make", [caller, shower])
def test_a_stranger_cannot_have_us_wait_for_a_large_message(make):
    side = make()
    most = limits.PAIRING_FRAME_BYTES
    assert side.receive_untrusted(frame_header(FrameKind.MESSAGE, most)) == []
    with pytest.raises(RemoteProtocolError) as caught:
        make().receive_untrusted(frame_header(FrameKind.MESSAGE, most + 1))
    assert caught.value.code is WireCode.TOO_LARGE


def test_a_large_message_is_taken_for_the_card_alone():
    one, other = caller(), shower()
    sizes = {}
    for _ in range(10):
        for sender, taker in ((one, other), (other, one)):
            sizes[taker.role, taker.step] = taker._reader.max_message_bytes
            taker.receive_untrusted(sender.take_outgoing())
    large = {step for (_, step), most in sizes.items() if most > limits.PAIRING_FRAME_BYTES}
    assert large == {Step.STATEMENT}


def test_the_largest_card_fits():
    said = PairStatement(card=bytes(64 * 1024), grants=("x" * 32,) * 16, purposes=("y" * 32,) * 16)
    sealed = len(messages.encode(said)) + 16
    assert sealed + 64 <= limits.PAIRING_CARD_FRAME_BYTES


@given(st.lists(st.binary(max_size=200), max_size=5), st.booleans(), st.booleans())
def test_whatever_comes_is_refused_with_one_error(pieces, is_shower, after_hello):
    side = shower() if is_shower else caller()
    if after_hello:
        side.receive_untrusted(framed(PairHello(nonce=bytes(16))))
    try:
        for piece in pieces:
            side.receive_untrusted(piece)
    except RemoteProtocolError:
        pass
    assert side.step in (Step.HELLO, Step.SHARE)


# --- by others' code ---------------------------------------------------------------------------


def test_the_key_is_that_of_another_cpace():
    """The document's formulas, and the package `cpace` in place of ours."""
    import hashlib

    one = caller()
    hello = one.take_outgoing()
    nonce = inside(hello).nonce
    answer = PairHello(nonce=b"n" * 16)
    sid = hashlib.sha256(b"radmesh-pair-v1\0" + nonce + b"n" * 16).digest()
    theirs = cpace.CPace.start(
        role=cpace.CPaceRole.RESPONDER,
        prs=CODE.encode(),
        sid=sid,
        ci=b"radmesh-pair-v1\x01",
        ad=b"\x02" + messages.encode(answer),
    )
    one.receive_untrusted(framed(answer))
    share = inside(one.take_outgoing()).share
    theirs.derive(share, b"\x01" + hello[limits.FRAME_HEADER_BYTES :])
    one.receive_untrusted(framed(PairShare(share=theirs.public_share)))
    assert theirs.verify(inside(one.take_outgoing()).tag)
    assert one.receive_untrusted(framed(PairTag(tag=theirs.tag()))) == [Confirmed()]
    assert one.session == sid
    assert DOMAIN == b"radmesh-pair-v1"


def test_a_code_is_in_no_text_of_an_exchange():
    side = shower()
    assert CODE not in repr(side)
    assert KeyPair.from_seed(bytes(32)).seed.hex() not in repr(side)
