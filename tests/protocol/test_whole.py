"""A study that is asked for and offered whole: its batches follow the manifest unasked."""

import dataclasses

import pytest
from exchange_pair import NOW, Pair, SmallStudy, make_study
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, messages
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.manifest import Manifest
from protocol.states import State
from protocol.transfer import BatchArrived, Ended, Event, ManifestArrived, Offered

CONTENTS = [bytes([n]) * size for n, size in enumerate((1, 400, 999, 2500, 1000, 7))]


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    return make_study(CONTENTS)


def _requested() -> Pair:
    pair = Pair()
    pair.request(whole=True)
    return pair


def _everything(pair: Pair, study: SmallStudy) -> bytes:
    """All that the source says, from the offer to the end."""
    said = b"".join(pair.source.offer_manifest(study.manifest, time_ms=NOW))
    said += b"".join(pair.batch_frame(*each) for each in enumerate(study.encoded))
    return said + pair.source.end()


def _opened(pair: Pair, events: list[Event]) -> list[bytes]:
    return [pair.recipient.open_batch(event) for event in events if isinstance(event, BatchArrived)]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 3000))
def test_a_whole_study_follows_its_manifest_unasked(step: int) -> None:
    study = make_study(CONTENTS)
    pair = _requested()
    events = pair.to_recipient(_everything(pair, study), step)
    assert [type(event) for event in events] == [
        Offered, ManifestArrived, *(BatchArrived for _ in study.encoded), Ended,
    ]  # fmt: skip
    assert pair.recipient.open_manifest() == study.manifest
    assert _opened(pair, events) == list(study.encoded)
    assert pair.recipient.asked == pair.source.asked == set(range(len(study.encoded)))
    for encoded in study.encoded:
        pair.to_source(pair.recipient.credit(len(encoded) + limits.SEAL_OVERHEAD_BYTES))
    receipted, _ = pair.finish(study)
    assert receipted.receipt.batches == len(study.encoded)
    assert pair.source.state is pair.recipient.state is State.DONE


def test_batches_may_come_before_and_after_the_manifest_is_opened(study: SmallStudy) -> None:
    pair = _requested()
    for frame in pair.source.offer_manifest(study.manifest, time_ms=NOW):
        pair.to_recipient(frame)
    early = pair.to_recipient(pair.batch_frame(0, study.encoded[0]))
    pair.recipient.open_manifest()
    assert _opened(pair, early) == [study.encoded[0]]
    rest = pair.send(study, range(1, len(study.encoded)))
    assert rest == list(study.encoded[1:])


def test_a_manifest_of_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # Random digests do not compress: several pieces of 4 MiB would take minutes to make.
    monkeypatch.setattr(limits, "BATCH_BYTES", 300)
    study = make_study([bytes([n]) * 150 for n in range(9)], batch_bytes=150)
    assert len(study.manifest.wire_form.pieces) > 3
    pair = _requested()
    events = pair.to_recipient(_everything(pair, study))
    assert sum(isinstance(event, BatchArrived) for event in events) == len(study.encoded)
    assert pair.recipient.open_manifest() == study.manifest


def test_nothing_is_wanted_of_a_whole_study(study: SmallStudy) -> None:
    pair = _requested()
    for frame in pair.source.offer_manifest(study.manifest, time_ms=NOW):
        pair.to_recipient(frame)
    pair.recipient.open_manifest()
    with pytest.raises(LocalProtocolError):
        pair.recipient.want([0], last=True)
    want = pair.recipient.connection.send(messages.Want(runs=((0, 1),), last=True))
    with pytest.raises(RemoteProtocolError, match="after the last"):
        pair.to_source(want)


def test_a_source_that_does_not_know_of_it_waits_for_a_want(study: SmallStudy) -> None:
    pair = _requested()
    assert pair.source.request is not None
    pair.source.request = dataclasses.replace(pair.source.request, whole=False)
    pair.offer(study)
    assert pair.want([0, 2]) == (0, 2)
    assert pair.send(study, [0, 2]) == [study.encoded[0], study.encoded[2]]


def test_a_whole_study_that_was_not_asked_for_is_refused(study: SmallStudy) -> None:
    pair = Pair()
    pair.request()
    assert pair.source.request is not None
    pair.source.request = dataclasses.replace(pair.source.request, whole=True)
    offer, *_ = pair.source.offer_manifest(study.manifest, time_ms=NOW)
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        pair.to_recipient(offer)


def _claiming(study: SmallStudy, count: int) -> SmallStudy:
    """The same study as if it had so many batches; only its manifest is used."""
    last = count - 1
    kept = [one for one in study.manifest.instances if one.first_batch <= last]
    manifest = Manifest(
        study.manifest.study_instance_uid,
        study.manifest.series,
        tuple(one for one in kept if one.offset + one.size <= 1000),
        study.manifest.batches[:count],
    )
    return SmallStudy(manifest, study.encoded)


@pytest.mark.parametrize("opened_first", [False, True])
@pytest.mark.parametrize("sent", [1, 3])
def test_more_or_fewer_batches_than_the_manifest_has_are_refused(
    study: SmallStudy, opened_first: bool, sent: int
) -> None:
    pair = _requested()
    for frame in pair.source.offer_manifest(_claiming(study, 2).manifest, time_ms=NOW):
        pair.to_recipient(frame)

    def send() -> None:
        for index in range(sent):
            pair.to_recipient(pair.batch_frame(index, study.encoded[index]))
        pair.to_recipient(pair.source.end())

    first, second = pair.recipient.open_manifest, send
    if not opened_first:
        first, second = second, first

    def both() -> None:
        first()
        second()

    with pytest.raises(RemoteProtocolError, match="not as many"):
        both()


def test_batches_out_of_order_are_refused(study: SmallStudy) -> None:
    pair = _requested()
    for frame in pair.source.offer_manifest(study.manifest, time_ms=NOW):
        pair.to_recipient(frame)
    pair.to_recipient(pair.batch_frame(0, study.encoded[0]))
    with pytest.raises(RemoteProtocolError, match="out of order") as caught:
        pair.to_recipient(pair.batch_frame(2, study.encoded[2]))
    assert caught.value.code is WireCode.UNEXPECTED


def test_credit_bounds_what_comes_before_the_manifest_is_opened() -> None:
    size = limits.CREDIT_BYTES // 4
    encoded = bytes(size - limits.SEAL_OVERHEAD_BYTES)
    pair = _requested()
    for frame in pair.source.offer_manifest(make_study(CONTENTS).manifest, time_ms=NOW):
        pair.to_recipient(frame)
    for index in range(4):
        pair.to_recipient(pair.batch_frame(index, encoded))
    with pytest.raises(LocalProtocolError, match="credit"):
        pair.batch_frame(4, encoded)
    pair.source.connection._credited_bytes = size
    with pytest.raises(RemoteProtocolError, match="credit"):
        pair.to_recipient(pair.batch_frame(4, encoded))
