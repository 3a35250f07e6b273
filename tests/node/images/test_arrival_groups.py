"""Groups of arrivals: when they are due, and that each instance is packed exactly once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.images import arrival_groups
from node.images.arrival_groups import Groups, Windows

A, B = "1.2.3", "1.2.4"


def come(groups: Groups[int], item: int, now: float, **more) -> None:
    given = {"study": A, "source": "dimse:CT1", "size": 1, "association": 1, **more}
    groups.arrived(item, now=now, **given)


def due(groups: Groups[int], now: float) -> list[int] | None:
    group = groups.due(now)
    return None if group is None else group.items


def test_a_group_is_due_when_it_is_quiet_and_its_association_has_ended():
    groups: Groups[int] = Groups()
    come(groups, 1, 0)
    come(groups, 2, 20)
    groups.ended(1)
    assert due(groups, 49.9) is None
    assert groups.next_due() == 50
    assert due(groups, 50) == [1, 2]
    assert groups.next_due() is None


def test_an_open_association_holds_a_group_for_ten_minutes_at_most():
    groups: Groups[int] = Groups()
    come(groups, 1, 0)
    come(groups, 2, 500)
    assert due(groups, 599.9) is None
    assert due(groups, 600) == [1, 2]


def test_a_group_that_was_quiet_is_due_as_soon_as_its_association_ends():
    groups: Groups[int] = Groups()
    come(groups, 1, 0)
    groups.ended(2)
    assert due(groups, 300) is None
    groups.ended(1)
    assert due(groups, 300) == [1]


def test_what_keeps_coming_without_an_end_is_packed_after_ten_minutes():
    groups: Groups[int] = Groups()
    for second in range(0, 600, 10):
        come(groups, second, second, association=None)
        assert due(groups, second) is None
    assert due(groups, 600) == list(range(0, 600, 10))


def test_an_urgent_one_is_due_at_once_when_its_sender_is_gone():
    groups: Groups[int] = Groups()
    come(groups, 1, 0)
    come(groups, 2, 3, stat=True)
    assert due(groups, 3.9) is None
    groups.ended(1)
    assert due(groups, 3.9) == [1, 2]


def test_an_urgent_one_waits_for_its_sender_a_second_and_five_at_most():
    groups: Groups[int] = Groups()
    come(groups, 1, 0, stat=True)
    assert groups.next_due() == 1
    for tenth in range(9, 50, 9):
        come(groups, tenth, tenth / 10, stat=True)
    assert due(groups, 4.9) is None
    assert due(groups, 5) is not None


def test_what_waits_becomes_urgent():
    groups: Groups[int] = Groups()
    come(groups, 1, 0, association=None)
    groups.hurry(B, "dimse:CT1")
    assert due(groups, 0) is None
    groups.hurry(A, "dimse:CT1")
    assert due(groups, 0) == [1]


def test_urgent_groups_come_first():
    groups: Groups[int] = Groups()
    come(groups, 1, 0, association=None)
    come(groups, 2, 100, association=None, study=B, stat=True)
    assert [due(groups, 100), due(groups, 100)] == [[2], [1]]


def test_sources_and_studies_have_groups_of_their_own():
    groups: Groups[int] = Groups()
    come(groups, 1, 0, association=None)
    come(groups, 2, 0, association=None, source="dimse:CT2")
    come(groups, 3, 0, association=None, study=B)
    assert sorted(due(groups, 30) for _ in range(3)) == [[1], [2], [3]]


def test_each_source_has_its_windows():
    groups: Groups[int] = Groups(
        lambda source: Windows(5, 20) if source == "watch:cd" else Windows()
    )
    come(groups, 1, 0, association=None, source="watch:cd")
    come(groups, 2, 0, association=None)
    assert due(groups, 5) == [1]
    assert due(groups, 29) is None


@pytest.mark.parametrize("bound", ["MOST_ITEMS", "MOST_BYTES"])
def test_a_group_that_has_grown_enough_does_not_wait(bound, monkeypatch):
    monkeypatch.setattr(arrival_groups, bound, 3)
    groups: Groups[int] = Groups()
    come(groups, 1, 0)
    come(groups, 2, 0)
    assert due(groups, 0) is None
    come(groups, 3, 0)
    assert due(groups, 0) == [1, 2, 3]


def test_what_a_restart_finds_waits_for_quiet_and_has_waited_before():
    groups: Groups[int] = Groups()
    come(groups, 1, 1000, association=None, since=950)
    come(groups, 2, 1000, association=None, since=1005, study=B)
    assert due(groups, 3.9) is None
    assert groups.next_due() == 1030
    come(groups, 3, 1000, association=None, since=400)
    assert due(groups, 1000) == [1, 3]


def test_what_failed_is_tried_again_ever_later_with_what_came_meanwhile():
    groups: Groups[int] = Groups()
    come(groups, 1, 0, association=None)
    now, waits = 30.0, []
    for item in range(2, 14):
        group = groups.due(now)
        assert group is not None
        come(groups, item, now, association=None)
        groups.failed(group, "the disk is full", now)
        again = groups.next_due()
        assert again is not None
        assert groups.due(again - 0.1) is None
        waits.append(again - now)
        now = again
        assert [one.why for one in groups.waiting] == ["the disk is full"]
    assert waits[:3] == [30, 30, 30]
    assert waits[-1] == 600
    assert due(groups, now) == list(range(1, 14))


def test_a_group_of_which_nothing_is_left_is_gone():
    groups: Groups[int] = Groups()
    come(groups, 1, 0, association=None)
    group = groups.due(30)
    assert group is not None
    group.items = []
    groups.failed(group, "none", 30)
    assert groups.waiting == []


@st.composite
def histories(draw):
    """What may happen: (what, number, seconds that pass before)."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["come", "come stat", "end", "look", "fail", "crash", "hurry"]),
                st.integers(0, 5),
                st.sampled_from([0.0, 0.5, 3.0, 29.0, 31.0, 400.0]),
            ),
            max_size=60,
        )
    )


@settings(max_examples=300, deadline=None)
@given(histories())
def test_each_instance_is_packed_exactly_once_whatever_happens(history):
    groups: Groups[int] = Groups()
    now, packed, taken = 0.0, [], {}
    for number, (what, place, seconds) in enumerate(history):
        now += seconds
        study, source = (A, B)[place % 2], f"dimse:{place % 3}"
        if what.startswith("come"):
            taken[number] = (study, source, now)
            come(groups, number, now, study=study, source=source, association=place,
                 stat=what == "come stat")  # fmt: skip
        elif what == "end":
            groups.ended(place)
        elif what == "hurry":
            groups.hurry(study, source)
        elif what == "crash":
            # The spool holds what was not packed; associations are gone.
            groups = Groups()
            for item, (study, source, since) in taken.items():
                if item not in packed:
                    come(groups, item, now, study=study, source=source, association=None,
                         since=since)  # fmt: skip
        else:
            group = groups.due(now)
            if group is not None and what == "fail":
                groups.failed(group, "disk", now)
            elif group is not None:
                assert {taken[item][:2] for item in group.items} == {(group.study, group.source)}
                packed += group.items
                groups.done(group)
        # Nothing that waits is forgotten, or waits in two groups.
        waiting = [item for group in groups.waiting for item in group.items]
        assert sorted(waiting + packed) == sorted(taken)
    # In ten minutes all is packed, though nobody ends and each group has failed before.
    now += 1200.0
    while (group := groups.due(now)) is not None:
        packed += group.items
        groups.done(group)
    assert sorted(packed) == sorted(taken)
    assert groups.waiting == []
