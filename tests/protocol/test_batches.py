import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.batches import Segment, plan
from protocol.errors import LocalProtocolError

BATCH = 100
CASES = {
    (): [],
    (1,): [[(0, 0, 1)]],
    (100,): [[(0, 0, 100)]],
    (99, 1): [[(0, 0, 99), (1, 0, 1)]],
    (99, 2): [[(0, 0, 99)], [(1, 0, 2)]],
    (40, 40, 40): [[(0, 0, 40), (1, 0, 40)], [(2, 0, 40)]],
    (101,): [[(0, 0, 100)], [(0, 100, 1)]],
    (200,): [[(0, 0, 100)], [(0, 100, 100)]],
    # Nothing joins the end of a split instance, nor what stood open before it.
    (10, 150, 10): [[(0, 0, 10)], [(1, 0, 100)], [(1, 100, 50)], [(2, 0, 10)]],
}


@pytest.mark.parametrize("sizes", CASES)
def test_plan_cases(sizes):
    assert [
        [(one.instance, one.start, one.length) for one in batch] for batch in plan(sizes, BATCH)
    ] == CASES[sizes]


def test_size_of_zero_is_refused():
    with pytest.raises(LocalProtocolError):
        list(plan([5, 0]))


def test_default_is_the_protocols_batch():
    assert list(plan([limits.BATCH_BYTES, 1])) == [
        (Segment(0, 0, limits.BATCH_BYTES),),
        (Segment(1, 0, 1),),
    ]


@given(st.lists(st.integers(1, 350), max_size=40))
def test_plan_property(sizes):
    batches = list(plan(sizes, BATCH))
    found = [0] * len(sizes)
    for batch in batches:
        assert 0 < sum(one.length for one in batch) <= BATCH
        if any(one.length < sizes[one.instance] for one in batch):
            assert len(batch) == 1
        for one in batch:
            assert one.start == found[one.instance]
            found[one.instance] += one.length
    assert found == list(sizes)
    order = [one.instance for batch in batches for one in batch]
    assert order == sorted(order)
