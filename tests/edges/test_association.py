"""Associations without sockets: whatever comes, in pieces of whatever size."""

import itertools

import pytest
from acceptors_made import Talk, reached
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pdus_made import (
    ABORT,
    ACCEPT,
    CT,
    EXPLICIT,
    REJECT,
    RELEASE_RP,
    RELEASE_RQ,
    context,
    echo,
    message,
    p_data,
    pdu,
    pdv,
    request,
    split,
    store,
    user,
    usual_request,
)

from edges.dimse import limits
from edges.dimse.states import State

IMAGE = bytes(range(256)) * 200
WHOLE = (
    usual_request()
    + message(3, echo(1), None)
    + message(1, store(2, "1.2.3"), IMAGE)
    + message(1, store(3, "1.2.4"), IMAGE, size=1000)
    + RELEASE_RQ
)


def test_a_usual_conversation() -> None:
    talk = Talk().take(WHOLE)
    kinds = [one[0] for one in talk.told]
    assert kinds == ["requested", "command", "command", *["data"] * 4, "command",
                     *["data"] * 52, "release"]  # fmt: skip
    data = [one for one in talk.told if one[0] == "data"]
    assert b"".join(one[1] for one in data) == IMAGE * 2
    assert [index for index, one in enumerate(data) if one[2]] == [3, 55]
    assert [kind for kind, _ in split(talk.sent)] == [2, 4, 4, 4, 6]
    assert talk.side.state is State.AWAITING_CLOSE
    assert talk.close().side.is_closed


@pytest.mark.parametrize("size", [1, 2, 5, 7, 6000])
def test_the_size_of_the_pieces_is_no_matter(size: int) -> None:
    whole, pieces = Talk().take(WHOLE), Talk()
    for start in range(0, len(WHOLE), size):
        pieces.take(WHOLE[start : start + size])
    assert pieces.told == whole.told
    assert pieces.sent == whole.sent


# --- whatever comes --------------------------------------------------------------------

FRAGMENTS = st.one_of(
    st.just(b""),
    st.just(echo()),
    st.sampled_from([store(1, "1.2"), store(2, "1.2")[:20], store(2, "1.2")[20:]]),
    st.binary(max_size=40),
)
PDVS = st.builds(
    pdv, st.sampled_from([1, 3, 5, 0, 255]), st.sampled_from([0, 1, 2, 3, 255]), FRAGMENTS
)
HOSTILE = st.one_of(
    st.sampled_from([usual_request(), request(), message(3, echo(), None), RELEASE_RQ, RELEASE_RP]),
    st.sampled_from([message(1, store(1, "1.2.3"), b"abcdef", size=4), ABORT, ACCEPT, REJECT]),
    st.lists(PDVS, max_size=5).map(lambda some: p_data(*some)),
    st.builds(pdu, st.integers(0, 9), st.binary(max_size=100)),
    st.binary(max_size=30),
)
BEGUN = st.sampled_from([b"", usual_request()])
MANY = st.builds(lambda begin, some: begin + b"".join(some), BEGUN, st.lists(HOSTILE, max_size=8))


@given(MANY, st.lists(st.integers(1, 200), min_size=1), st.sampled_from(["accept", "reject", ""]))
@example(pdu(9, b"") + RELEASE_RQ, [6], "accept")
@settings(max_examples=200)
def test_whatever_comes_is_the_same_in_any_pieces(data: bytes, sizes: list[int], do: str) -> None:
    whole, pieces = Talk(decide=do).take(data), Talk(decide=do)
    place = 0
    for size in itertools.cycle(sizes):
        if place >= len(data):
            break
        pieces.take(data[place : place + size])
        place += size
    assert pieces.told == whole.told
    assert pieces.sent == whole.sent
    assert pieces.side.state is whole.side.state


class Anybody(RuleBasedStateMachine):
    """Anybody at the other side, and whoever acts here: nothing raises, and one end is told."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = Talk()

    @rule(data=HOSTILE, decide=st.sampled_from(["accept", "accept", "reject", "abort", ""]),
          answers=st.booleans())  # fmt: skip
    def takes(self, data: bytes, decide: str, answers: bool) -> None:
        self.talk.decide, self.talk.answers = decide, answers
        self.talk.take(data)

    @precondition(lambda self: self.talk.side.state is State.AWAITING_REQUEST)
    @rule()
    def asks(self) -> None:
        self.talk.decide = "accept"
        self.talk.take(usual_request())

    @precondition(lambda self: not self.talk.side.is_closed)
    @rule()
    def closes(self) -> None:
        self.talk.close()

    @precondition(
        lambda self: self.talk.side.state in (State.AWAITING_REQUEST, State.AWAITING_CLOSE)
    )
    @rule()
    def waits_too_long(self) -> None:
        self.talk.time_over()

    @rule()
    def we_abort(self) -> None:
        self.talk.side.abort()
        self.talk.flush()

    @precondition(lambda self: self.talk.side.can_send)
    @rule(data=st.none() | st.binary(max_size=50))
    def we_send(self, data: bytes | None) -> None:
        self.talk.side.send(1, {}, data)
        self.talk.flush()

    @invariant()
    def one_end_is_told_and_nothing_after_it(self) -> None:
        kinds = [one[0] for one in self.talk.told]
        assert "ended" not in kinds[:-1]

    @invariant()
    def what_is_sent_are_whole_pdus(self) -> None:
        kinds = [kind for kind, _ in split(self.talk.sent)]
        assert set(kinds) <= {2, 3, 4, 6, 7}
        # Of a message nothing is sent before the association, nor after its end.
        over = next((index for index, kind in enumerate(kinds) if kind in (3, 6, 7)), len(kinds))
        assert 4 not in kinds[over:]
        assert 4 not in kinds[:1]


TestAnybody = Anybody.TestCase
TestAnybody.settings = settings(max_examples=100, stateful_step_count=15)

# --- messages --------------------------------------------------------------------------


def broken(*pdus: bytes) -> tuple[str, list[str]]:
    """Why an association ended by these, and what was told before."""
    talk = reached(State.ESTABLISHED)
    talk.answers = False
    for one in pdus:
        talk.take(one)
    *before, (end, why) = talk.told
    assert end == "ended"
    assert talk.sent == b"\7\0\0\0\0\4\0\0\2\6"
    return str(why), [str(one[0]) for one in before]


STORE = pdv(1, 3, store(1, "1.2.3"))
LONG = bytes(8) * (limits.COMMAND_BYTES // 8)


@pytest.mark.parametrize(
    ("pdus", "why", "before"),
    [
        ([p_data()], "holds nothing", []),
        ([p_data(b"\0\0\0")], "ends within an item", []),
        ([p_data(pdv(3, 3, echo())[:-1])], "longer than it", []),
        ([p_data(b"\0\0\0\1\3\3")], "longer than it", []),
        ([p_data(b"\xff\xff\xff\xff\3\3" + echo())], "longer than it", []),
        ([p_data(pdv(5, 3, echo()))], "not accepted", []),
        ([p_data(pdv(0, 3, echo()))], "not accepted", []),
        ([p_data(pdv(1, 2, b"data"))], "not one after the other", []),
        ([p_data(STORE, pdv(3, 3, echo()))], "two messages are mixed", ["command"]),
        ([p_data(STORE), p_data(pdv(3, 2, b"data"))], "two messages are mixed", ["command"]),
        ([p_data(STORE, STORE)], "not one after the other", ["command"]),
        ([p_data(pdv(1, 1, b"\0\0"), pdv(1, 2, b"data"))], "not one after the other", []),
        ([p_data(pdv(3, 3, echo()[:-1]))], "cannot be there", []),
        ([p_data(pdv(3, 3, b""))], "has no", []),
        ([p_data(pdv(3, 1, LONG)), p_data(pdv(3, 1, b"\0"))], "too long", []),
        ([p_data(STORE, pdv(1, 0, b"begun")), RELEASE_RQ], "within a message",
         ["command", "data"]),
        ([p_data(pdv(3, 1, echo()[:20])), RELEASE_RQ], "within a message", []),
    ],
)  # fmt: skip
def test_broken_messages_end_it(pdus: list[bytes], why: str, before: list[str]) -> None:
    said, told = broken(*pdus)
    assert why in said
    assert told == before


def test_items_may_lie_as_they_like() -> None:
    talk = reached(State.ESTABLISHED)
    begun = store(7, "1.2.3")
    talk.take(
        p_data(pdv(1, 1, begun[:9]), pdv(1, 1, b""), pdv(1, 1, begun[9:]), pdv(1, 3, b""),
               pdv(1, 0, b""), pdv(1, 0, b"abc"))
        + p_data(pdv(1, 0, b"def"), pdv(1, 2, b""), pdv(3, 3, echo(8)), pdv(1, 3, store(9, "1.2")))
    )  # fmt: skip
    assert [one[0] for one in talk.told] == ["command", *["data"] * 4, "command", "command"]
    assert b"".join(bytes(one[1]) for one in talk.told if one[0] == "data") == b"abcdef"
    assert talk.side.is_in_message
    talk.take(p_data(pdv(1, 2, b"x")))
    assert not talk.side.is_in_message
    assert len(split(talk.sent)) == 3


def test_after_an_abort_of_ours_the_rest_of_a_pdu_is_not_told() -> None:
    talk = reached(State.ESTABLISHED)
    told = []
    for event in talk.side.receive(p_data(pdv(3, 3, echo(1)), pdv(3, 3, echo(2)))):
        told.append(event)
        talk.side.abort()
    assert len(told) == 1
    assert [kind for kind, _ in split(talk.flush().sent)] == [7]


def test_who_is_within_something_owes_the_rest() -> None:
    talk = Talk()
    assert not talk.side.is_in_message
    assert talk.take(usual_request()[:-1]).side.is_in_message
    assert not talk.take(usual_request()[-1:]).side.is_in_message
    assert talk.take(p_data(pdv(3, 1, echo()[:9]))).side.is_in_message
    assert not talk.take(p_data(pdv(3, 3, echo()[9:]))).side.is_in_message
    assert talk.take(RELEASE_RQ[:3]).side.is_in_message


@pytest.mark.parametrize(
    ("kind", "most"),
    [(1, limits.REQUEST_BYTES), (2, limits.REQUEST_BYTES), (4, limits.PDU_BYTES), (3, 4), (5, 4),
     (6, 4), (7, 4)],
)  # fmt: skip
def test_a_pdu_that_is_too_long_is_refused_by_its_head(kind: int, most: int) -> None:
    for claimed, is_taken in ((most, True), (most + 1, False), (2**32 - 1, False)):
        talk = reached(State.ESTABLISHED)
        talk.take(bytes((kind, 0)) + claimed.to_bytes(4, "big"))
        assert (talk.told == []) == is_taken, claimed


@pytest.mark.parametrize("kind", [3, 5, 6, 7])
def test_a_short_pdu_has_four_bytes(kind: int) -> None:
    talk = reached(State.ESTABLISHED).take(bytes((kind, 0, 0, 0, 0, 3)))
    assert "claims 3 bytes" in str(talk.told)


def test_nothing_of_a_long_message_is_kept() -> None:
    talk = reached(State.ESTABLISHED).take(p_data(STORE))
    for _ in range(50):
        talk.take(p_data(pdv(1, 0, bytes(limits.PDU_BYTES - 6))))
        assert not talk.side._buffer
    assert not talk.side._command


# --- what we send ----------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 7, 8, 100, 16_384, 2**32 - 1])
def test_what_is_sent_fits_what_the_other_side_takes(most: int) -> None:
    talk = Talk().take(request(context(1, CT, EXPLICIT), user(most=most)))
    talk.sent = b""
    data = bytes(range(256)) * (800 if most > 100 or not most else 3)
    talk.side.send(1, {}, data)
    commands, sets, ends = b"", b"", []
    for kind, body in split(talk.flush().sent):
        assert kind == 4
        assert len(body) <= min(most or limits.SENT_PDU_BYTES, limits.SENT_PDU_BYTES)
        assert int.from_bytes(body[:4], "big") == len(body) - 4
        assert body[4] == 1
        is_command, is_last = body[5] & 1, body[5] & 2
        assert is_command or ends
        if is_command:
            commands += body[6:]
        else:
            sets += body[6:]
        if is_last:
            ends.append(is_command)
    assert ends == [1, 0]
    assert sets == data
    assert commands == b"\0\0\0\0\4\0\0\0\0\0\0\0"


def test_an_empty_data_set_is_one_last_item() -> None:
    talk = reached(State.ESTABLISHED)
    talk.side.send(1, {}, b"")
    assert split(talk.flush().sent)[1:] == [(4, b"\0\0\0\2\1\2")]


def test_another_application_context_is_known() -> None:
    talk = Talk(decide="").take(usual_request())
    assert talk.side.is_of_dicom
    talk = Talk(decide="").take(usual_request().replace(b"10008.3.1.1.1", b"10008.3.1.1.2"))
    assert not talk.side.is_of_dicom
