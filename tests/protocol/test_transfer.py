"""The two ends of a transfer against each other, and against peers that break the rules."""

import blake3
import pytest
from exchange_pair import NOW, STUDY, TRANSFER, Pair, SmallStudy, make_study
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.identity import KeyPair
from protocol import limits, messages, wire
from protocol.errors import (
    DigestMismatch,
    RemoteProtocolError,
    WireCode,
)
from protocol.frames import FrameKind, frame_header
from protocol.receipt import check_signature, decode_receipt_untrusted
from protocol.recipient import batch_runs
from protocol.states import State
from protocol.transfer import BatchArrived, Refused

CONTENTS = [bytes([n]) * size for n, size in enumerate((1, 400, 999, 2500, 1000, 7))]


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    return make_study(CONTENTS)


def _frame(message: messages.Message) -> bytes:
    payload = messages.encode(message)
    return frame_header(FrameKind.MESSAGE, len(payload)) + payload


def _whole_transfer(study: SmallStudy, wanted: list[int], step: int) -> Pair:
    pair = Pair()
    pair.request(step)
    pair.offer(study, step)
    assert pair.recipient.manifest == study.manifest
    assert list(pair.want(wanted, step)) == wanted
    assert pair.send(study, wanted, step) == [study.encoded[index] for index in wanted]
    receipted, countersigned = pair.finish(study, step)
    assert countersigned.receipt.body == receipted.body
    assert pair.source.state is pair.recipient.state is State.DONE
    return pair


def test_a_whole_transfer(study: SmallStudy) -> None:
    _whole_transfer(study, list(range(len(study.encoded))), 0)


def test_a_whole_transfer_one_byte_at_a_time(study: SmallStudy) -> None:
    _whole_transfer(study, list(range(len(study.encoded))), 1)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_split_and_any_want_list(data: st.DataObject) -> None:
    contents = data.draw(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=8))
    study = make_study(contents)
    wanted = data.draw(st.sets(st.integers(0, len(study.encoded) - 1)))
    _whole_transfer(study, sorted(wanted), data.draw(st.integers(1, 500)))


def test_the_receipt_is_signed_by_both(study: SmallStudy) -> None:
    pair = _whole_transfer(study, [], 0)
    signed = pair.recipient._receipt_body  # the same body at both ends
    receipt = decode_receipt_untrusted(signed)
    assert receipt.transfer == TRANSFER
    assert receipt.instances == len(CONTENTS)


def test_nothing_of_the_study_stands_in_clear_on_the_wire() -> None:
    study = make_study([b"PATIENT^NAME" * 50])
    pair = Pair()
    pair.request()
    pair.log.clear()
    pair.offer(study)
    pair.want([0])
    pair.send(study, [0])
    wire = b"".join(data for _, data in pair.log)
    assert b"PATIENT" not in wire
    assert STUDY.encode() not in wire


# --- a lying source ---------------------------------------------------------------


def _offered(study: SmallStudy) -> Pair:
    pair = Pair()
    pair.request()
    pair.offer(study)
    return pair


def test_a_sealed_batch_with_one_bit_changed_is_refused(study: SmallStudy) -> None:
    pair = _offered(study)
    pair.want([0])
    frame = bytearray(pair.batch_frame(0, study.encoded[0]))
    frame[-1] ^= 1
    [event] = pair.to_recipient(bytes(frame))
    assert isinstance(event, BatchArrived)
    with pytest.raises(RemoteProtocolError, match="cannot be opened"):
        pair.recipient.open_batch(event)


def test_a_batch_that_is_not_the_promised_one_is_refused(study: SmallStudy) -> None:
    pair = _offered(study)
    pair.want([0])
    other = bytearray(study.encoded[0])
    other[-1] ^= 1
    [event] = pair.to_recipient(pair.batch_frame(0, bytes(other)))
    assert isinstance(event, BatchArrived)
    with pytest.raises(DigestMismatch):
        pair.recipient.open_batch(event)


def test_a_batch_of_another_size_is_refused(study: SmallStudy) -> None:
    pair = _offered(study)
    pair.want([0])
    [event] = pair.to_recipient(pair.batch_frame(0, study.encoded[0] + b"x"))
    assert isinstance(event, BatchArrived)
    with pytest.raises(RemoteProtocolError, match="promised size"):
        pair.recipient.open_batch(event)


@pytest.mark.parametrize("indices", [[1], [0, 0], [0, 2], [5]])
def test_batches_not_wanted_or_out_of_order_end_the_transfer(
    study: SmallStudy, indices: list[int]
) -> None:
    pair = _offered(study)
    pair.want([0, 1])
    *right, wrong = indices
    for index in right:
        assert pair.to_recipient(pair.batch_frame(index, study.encoded[0]))
    frame = pair.batch_frame(wrong, study.encoded[0])
    with pytest.raises(RemoteProtocolError, match="not wanted"):
        pair.to_recipient(frame)


def test_an_end_before_all_batches_is_refused(study: SmallStudy) -> None:
    pair = _offered(study)
    pair.want([0, 1])
    with pytest.raises(RemoteProtocolError, match="ended before"):
        pair.to_recipient(pair.source.end())


def test_an_offer_with_a_forged_signature_is_refused(study: SmallStudy) -> None:
    pair = Pair()
    pair.request()
    frames = list(pair.source.offer_manifest(study.manifest, time_ms=NOW))
    forged = messages.sign(pair.source.offer, KeyPair.generate())  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError) as caught:
        pair.to_recipient(_frame(forged))
    assert caught.value.code is WireCode.BAD_SIGNATURE
    assert pair.recipient.state is State.FAILED
    assert len(frames) == 2


def test_an_unsigned_offer_is_refused(study: SmallStudy) -> None:
    pair = Pair()
    pair.request()
    list(pair.source.offer_manifest(study.manifest, time_ms=NOW))
    with pytest.raises(RemoteProtocolError, match="unsigned"):
        pair.to_recipient(_frame(pair.source.offer))  # type: ignore[arg-type]


def test_an_offer_of_another_request_is_refused(study: SmallStudy) -> None:
    first, second = Pair(), Pair()
    first.request()
    second.recipient.ask(STUDY, "research", time_ms=NOW)
    frame = next(first.source.offer_manifest(study.manifest, time_ms=NOW))
    with pytest.raises(RemoteProtocolError, match="another request"):
        second.to_recipient(frame)


def test_a_manifest_of_another_study_is_refused(study: SmallStudy) -> None:
    pair = Pair()
    pair.to_source(pair.recipient.ask("1.2.3", "treatment", time_ms=NOW))
    for frame in pair.source.offer_manifest(study.manifest, time_ms=NOW):
        pair.to_recipient(frame)
    with pytest.raises(RemoteProtocolError, match="another study"):
        pair.recipient.open_manifest()


def test_a_source_that_ignores_credit_is_cut_off() -> None:
    pair = _offered(make_study([b"x"]))
    pair.want([0])
    connection = pair.recipient.connection
    connection._sent_bytes = limits.CREDIT_BYTES
    with pytest.raises(RemoteProtocolError, match="credit"):
        pair.to_recipient(frame_header(FrameKind.DATA, 5) + bytes(5))


# --- a lying recipient ----------------------------------------------------------------


def test_an_urgent_request() -> None:
    pair = Pair()
    [asked] = pair.to_source(pair.recipient.ask(STUDY, "treatment", time_ms=NOW, stat=True))
    assert asked.request.stat
    routine = Pair()
    routine.request()
    assert routine.source.request is not None
    assert not routine.source.request.stat


def test_a_request_of_a_node_that_knows_no_urgency_is_routine() -> None:
    fields = wire.decode_untrusted(messages.encode(_REQUEST))
    del fields["stat"]
    assert messages.decode_untrusted(wire.pack(fields)) == _REQUEST
    with pytest.raises(RemoteProtocolError, match="boolean"):
        messages.decode_untrusted(wire.pack({**fields, "stat": 1}))


_REQUEST = messages.Request(
    transfer=TRANSFER,
    source=b"x" * 32,
    study=STUDY,
    purpose="treatment",
    ephemeral=b"e" * 32,
    time=NOW,
)


def test_a_request_for_another_node_is_refused() -> None:
    pair = Pair()
    with pytest.raises(RemoteProtocolError, match="another node"):
        pair.to_source(_frame(messages.sign(_REQUEST, pair.recipient_key)))


def test_wanting_a_batch_that_is_not_there_is_refused(study: SmallStudy) -> None:
    pair = _offered(study)
    with pytest.raises(RemoteProtocolError, match="does not have"):
        pair.want([len(study.encoded)])


def test_wanting_batches_before_the_manifest_is_there_is_refused() -> None:
    pair = Pair()
    pair.request()
    frames = pair.source.offer_manifest(make_study([b"x"]).manifest, time_ms=NOW)
    pair.to_recipient(next(frames))
    with pytest.raises(RemoteProtocolError, match="before the manifest"):
        pair.to_source(_frame(messages.Want(runs=(), last=True)))


def test_credit_for_bytes_never_sent_is_refused(study: SmallStudy) -> None:
    pair = _offered(study)
    pair.want([0])
    with pytest.raises(RemoteProtocolError, match="never sent"):
        pair.to_source(pair.recipient.credit(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"instances": 1},
        {"bytes": 1},
        {"batches": 1},
        {"encoded_bytes": 1},
        {"purpose": "research"},
        {"content_root": b"z" * 32},
        {"transfer": b"z" * 16},
        {"source_node": b"z" * 32},
        {"recipient_node": b"z" * 32},
        {"manifest": b"z" * 32},
    ],
)
def test_a_receipt_for_something_else_is_refused(
    study: SmallStudy, changes: dict[str, object]
) -> None:
    pair = _offered(study)
    pair.want([])
    pair.send(study, [])
    with pytest.raises(RemoteProtocolError, match="something else"):
        pair.to_source(pair.recipient.sign_receipt(pair.receipt(study, **changes)))


def test_a_forged_countersignature_is_refused(study: SmallStudy) -> None:
    pair = _offered(study)
    pair.want([])
    pair.send(study, [])
    pair.to_source(pair.recipient.sign_receipt(pair.receipt(study)))
    with pytest.raises(RemoteProtocolError) as caught:
        pair.to_recipient(_frame(messages.Countersignature(signature=bytes(64))))
    assert caught.value.code is WireCode.BAD_SIGNATURE


def test_a_signature_holds_for_its_body_alone() -> None:
    key = KeyPair.generate()
    with pytest.raises(RemoteProtocolError):
        check_signature(b"another body", key.sign(b"radmesh-receipt-v1", b"body"), key.public)


# --- refusals and bad bytes --------------------------------------------------


def test_a_refusal_carries_its_code() -> None:
    pair = Pair()
    pair.request()
    assert pair.to_recipient(pair.source.refuse(WireCode.NOT_GRANTED)) == [
        Refused(WireCode.NOT_GRANTED)
    ]


def test_a_refusal_with_an_unknown_code_is_the_general_one() -> None:
    pair = Pair()
    pair.request()
    [event] = pair.to_recipient(_frame(messages.Refusal(code=200)))
    assert event == Refused(WireCode.OTHER)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_events_or_the_one_error(data: bytes) -> None:
    pair = Pair()
    try:
        pair.source.receive_untrusted(data)
    except RemoteProtocolError:
        assert pair.source.state is State.FAILED


@given(st.sets(st.integers(0, 300)))
def test_runs_cover_exactly_what_is_wanted(wanted: set[int]) -> None:
    runs = batch_runs(wanted)
    covered = [index for first, count in runs for index in range(first, first + count)]
    assert covered == sorted(wanted)


def test_the_manifest_is_bound_to_its_digest(study: SmallStudy) -> None:
    assert blake3.blake3(study.manifest.encode()).digest() == study.manifest.digest
