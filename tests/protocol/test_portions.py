"""What is wanted, portion by portion: served in order, and refused when it breaks the rules."""

import pytest
from exchange_pair import Pair, SmallStudy, make_study
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, messages
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import FrameKind, frame_header


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    return make_study([bytes([n]) * size for n, size in enumerate((1, 400, 999, 2500, 1000, 7))])


def offered(study: SmallStudy) -> Pair:
    pair = Pair()
    pair.request()
    pair.offer(study)
    return pair


def test_portions_are_served_in_their_order_and_the_receipt_counts_them_all(
    study: SmallStudy,
) -> None:
    pair = offered(study)
    assert pair.want([3, 4], last=False) == (3, 4)
    # The next portion is asked for while the first one is on its way.
    assert pair.send_batches(study, [3]) == [study.encoded[3]]
    assert pair.want([0, 2], last=False) == (0, 2)
    assert pair.send_batches(study, [4, 0, 2]) == [study.encoded[index] for index in (4, 0, 2)]
    with pytest.raises(LocalProtocolError, match="ask for more"):
        pair.source.end()
    assert pair.want([], last=True) == ()
    pair.send(study, [])
    receipted, _ = pair.finish(study)
    assert receipted.receipt.batches == 4
    assert receipted.receipt.encoded_bytes == sum(
        study.manifest.batches[index].encoded_size for index in (0, 2, 3, 4)
    )


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_division_into_portions(data: st.DataObject) -> None:
    study = make_study([bytes([n]) * 700 for n in range(9)])
    order = data.draw(st.permutations(range(len(study.encoded))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(order) - 1))))
    portions = [
        sorted(order[start:end]) for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)
    ]
    pair = offered(study)
    for portion in portions:
        assert list(pair.want(portion, last=portion is portions[-1])) == portion
    everything = [index for portion in portions for index in portion]
    assert pair.send(study, everything) == [study.encoded[index] for index in everything]
    pair.finish(study)


def _want(*runs: tuple[int, int], last: bool = False) -> bytes:
    payload = messages.encode(messages.Want(runs=runs, last=last))
    return frame_header(FrameKind.MESSAGE, len(payload)) + payload


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (_want((0, 2)), _want((1, 1)), "wanted twice"),
        (_want((0, 2)), _want(), "empty and not the last"),
        (_want((0, 2), last=True), _want((2, 1)), "after the last"),
        (_want((0, 2), last=True), _want(last=True), "after the last"),
    ],
)
def test_portions_against_the_rules_are_refused(
    study: SmallStudy, first: bytes, second: bytes, reason: str
) -> None:
    pair = offered(study)
    pair.to_source(first)
    with pytest.raises(RemoteProtocolError, match=reason):
        pair.to_source(second)


def test_portions_of_ours_against_the_rules_are_refused(study: SmallStudy) -> None:
    pair = offered(study)
    pair.want([0, 1], last=False)
    for wrong in ([1], [2, 2], range(limits.WANT_RUNS + 1)):
        with pytest.raises(LocalProtocolError):
            pair.recipient.want(wrong, last=False)
    pair.want([2], last=True)
    with pytest.raises(LocalProtocolError):
        pair.recipient.want([3], last=False)


@pytest.mark.parametrize("indices", [[0, 3], [3, 2], [3, 0, 1], [3, 0, 2, 3]])
def test_batches_out_of_the_order_of_portions_end_the_transfer(
    study: SmallStudy, indices: list[int]
) -> None:
    pair = offered(study)
    pair.want([3], last=False)
    pair.want([0, 2], last=True)
    with pytest.raises(RemoteProtocolError, match="not wanted"):
        pair.send_batches(study, indices)


def test_an_end_before_the_last_portion_is_refused(study: SmallStudy) -> None:
    pair = offered(study)
    pair.want([0], last=False)
    pair.send_batches(study, [0])
    pair.source.asked_all = True
    with pytest.raises(RemoteProtocolError, match="ended before"):
        pair.to_recipient(pair.source.end())
