"""What a peer is told next, and what a subscriber accepts."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.feed import Change, Subscription, Told, is_announced_untrusted, next_change
from protocol.messages import Announcement, Offer, Record

EPOCH, OTHER = b"e" * 16, b"o" * 16
US = b"u" * 32


def _record(sequence: int) -> Record:
    return Record(
        sequence=sequence,
        kind="available",
        study="1.2.3",
        content_root=bytes(32),
        series=1,
        instances=1,
        bytes=1,
        encoded_bytes=1,
        modalities=("CT",),
        study_date="20260301",
    )


def _announcement(
    *sequences: int,
    cursor: int | None = None,
    epoch: bytes = EPOCH,
    reset: bool = False,
    recipient: bytes = US,
) -> Announcement:
    return Announcement(
        recipient=recipient,
        epoch=epoch,
        reset=reset,
        cursor=max(sequences, default=0) if cursor is None else cursor,
        time=0,
        records=tuple(_record(sequence) for sequence in sequences),
    )


@pytest.mark.parametrize(
    ("told", "visible", "same", "change"),
    [
        (Told.NOTHING, True, False, Change.AVAILABLE),
        (Told.NOTHING, False, False, Change.NONE),
        (Told.PENDING, True, True, Change.NONE),
        (Told.PENDING, True, False, Change.AVAILABLE),
        (Told.PENDING, False, False, Change.FORGET),
        (Told.TOLD, True, True, Change.NONE),
        (Told.TOLD, True, False, Change.CHANGED),
        (Told.TOLD, False, False, Change.WITHDRAWN),
        (Told.WITHDRAWN, True, False, Change.AVAILABLE),
        (Told.WITHDRAWN, False, False, Change.NONE),
    ],
)
def test_what_happens_to_a_study_in_a_feed(
    told: Told, visible: bool, same: bool, change: Change
) -> None:
    assert next_change(told, visible=visible, same_content=same) is change


def test_a_subscriber_moves_on() -> None:
    subscription = Subscription(US)
    subscription.take_untrusted(_announcement(1, 2, 5, reset=True))
    subscription.take_untrusted(_announcement(6))
    subscription.take_untrusted(_announcement(cursor=9))
    assert (subscription.epoch, subscription.cursor) == (EPOCH, 9)


def test_a_reset_starts_anew() -> None:
    subscription = Subscription(US, EPOCH, 100)
    subscription.take_untrusted(_announcement(1, epoch=OTHER, reset=True))
    assert (subscription.epoch, subscription.cursor) == (OTHER, 1)


@pytest.mark.parametrize(
    "announcement",
    [
        _announcement(11, recipient=b"x" * 32),
        _announcement(11, epoch=OTHER),
        _announcement(10),
        _announcement(9),
        _announcement(12, 11),
        _announcement(11, 11),
        _announcement(12, cursor=11),
        _announcement(cursor=9),
    ],
    ids=[
        "for another",
        "other epoch",
        "old sequence",
        "older",
        "descending",
        "twice",
        "cursor before records",
        "cursor goes back",
    ],
)
def test_what_a_subscriber_refuses(announcement: Announcement) -> None:
    subscription = Subscription(US, EPOCH, 10)
    with pytest.raises(RemoteProtocolError):
        subscription.take_untrusted(announcement)
    assert (subscription.epoch, subscription.cursor) == (EPOCH, 10)


@given(st.lists(st.booleans(), max_size=30), st.booleans())
def test_a_peer_is_never_told_of_a_study_that_it_must_not_know(
    steps: list[bool], delivered: bool
) -> None:
    told = Told.NOTHING
    for visible in steps:
        change = next_change(told, visible=visible, same_content=False)
        if change in (Change.AVAILABLE, Change.CHANGED):
            assert visible
            told = Told.TOLD if delivered else Told.PENDING
        elif change is Change.WITHDRAWN:
            assert told is Told.TOLD
            told = Told.WITHDRAWN
        elif change is Change.FORGET:
            told = Told.NOTHING
    if steps and not steps[-1]:
        assert told in (Told.NOTHING, Told.WITHDRAWN)


def _offer(**changes: Any) -> Offer:
    fields = {
        "transfer": bytes(16), "recipient": bytes(32), "request": bytes(32),
        "ephemeral": bytes(32), "manifest": bytes(32), "manifest_bytes": 100,
        "content_root": b"r" * 32, "time": 1,
        "series": 2, "instances": 10, "batches": 3, "bytes": 1000, **changes,
    }  # fmt: skip
    return Offer(**fields)


_ANNOUNCED = Record(
    sequence=1, kind="available", study="1.2.3", content_root=b"r" * 32, series=2,
    instances=10, bytes=1000, encoded_bytes=500, modalities=(), study_date="",
)  # fmt: skip


def test_an_offer_of_what_was_announced() -> None:
    assert is_announced_untrusted(_offer(), _ANNOUNCED)


@pytest.mark.parametrize("field", ["series", "instances", "bytes"])
@pytest.mark.parametrize("by", [-1, 1])
def test_an_offer_keeps_to_what_was_announced(field: str, by: int) -> None:
    changed = {field: getattr(_ANNOUNCED, field) + by}
    with pytest.raises(RemoteProtocolError):
        is_announced_untrusted(_offer(**changed), _ANNOUNCED)
    # Of other content there may be less; of more there has to be news first.
    grown = _offer(content_root=b"other".ljust(32), **changed)
    assert is_announced_untrusted(grown, _ANNOUNCED) is (by < 0)


def test_of_an_indexed_study_nothing_was_promised() -> None:
    """Its counts are those of an archive, which may count what it does not give."""
    indexed = replace(_ANNOUNCED, indexed=True, content_root=bytes(32), bytes=0, instances=1)
    assert is_announced_untrusted(_offer(), indexed)
    assert is_announced_untrusted(_offer(instances=9, bytes=9000, series=2), indexed)
