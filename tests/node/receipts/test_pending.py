"""Receipts that are missing: seen on both sides, asked for, given once, and never for a lie."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from settling_made import (
    STUDY,
    TRANSFER,
    Direct,
    Site,
    begin,
    check_settled,
    complete,
    countersign,
    receipt,
    settle,
    signed_by,
    two_sites,
)

from node.errors import NodeError
from node.receipts import settling
from node.transfer.transfers import Transfer
from protocol.errors import RemoteProtocolError, WireCode
from protocol.receipt import (
    Receipt,
    decode_receipt_untrusted,
    decode_signed_untrusted,
)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    both = two_sites(tmp_path)
    yield both
    for site in both:
        site.close()


# --- what is missing is seen, and settled -------------------------------------------------


@pytest.mark.parametrize("who_first", ["north", "south"])
def test_what_is_missing_is_seen_and_settled_by_either_side(
    sites: tuple[Site, Site], who_first: str
) -> None:
    north, south = sites
    begin(north, south)
    assert north.states() == [(True, "")]
    assert south.states() == [(False, "")]
    if who_first == "north":
        # The source has the receipt by asking; the recipient gets its countersignature by asking.
        assert settle(north).asked == ["ask-receipt"]
        assert north.states() == []
        assert len(south.pending.kept()) == 1
    assert settle(south).asked == ["present-receipt"]
    check_settled(north, south)
    assert settle(north).asked == settle(south).asked == []


def test_what_the_source_had_confirmed_before_it_died_is_not_confirmed_twice(
    sites: tuple[Site, Site],
) -> None:
    """Its log has `disclosed`, and no receipt."""
    north, south = sites
    north.log("disclosure-begun", direction="out")
    south.log("received")
    north.log("disclosed", direction="out")
    settle(south)
    check_settled(north, south)


def test_a_transfer_that_did_not_arrive_is_asked_about_once(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south, arrived=False)
    assert settle(north).asked == ["ask-receipt"]
    assert north.states() == [(True, "not_available")]
    [item] = north.pending.items()
    assert item.is_settled
    assert not item.is_due(10**15)
    assert settle(north).asked == []
    # When it goes on and breaks off again, it is another question.
    north.log("disclosure-begun", direction="out")
    assert settle(north).asked == ["ask-receipt"]
    assert not south.entries("receipt")


def test_a_transfer_that_is_whole_is_not_pending(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    north.log("receipt", direction="out", receipt="a" * 64)
    south.log("receipt", receipt="a" * 64)
    assert north.states() == south.states() == []


def test_only_the_peer_of_a_transfer_learns_of_it(sites: tuple[Site, Site], tmp_path: Path) -> None:
    north, south = sites
    begin(north, south)
    stranger = Site(tmp_path, "stranger")
    stranger.other = south
    stranger.log("disclosure-begun", direction="out")
    assert settle(stranger).asked == ["ask-receipt"]
    assert stranger.states() == [(True, "not_available")]
    stranger.close()


def test_an_erased_opening_does_not_keep_a_receipt_from_being_logged(
    sites: tuple[Site, Site],
) -> None:
    north, south = sites
    begin(north, south)
    north.audit._evidence._database.query("DELETE FROM openings")
    settle(south)
    [entry] = north.entries("receipt")
    assert entry.subjects == ()
    assert south.entries("receipt")[0].subjects


# --- crashes and cuts between any two steps --------------------------------------------------


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("restarts", ["north", "south", "both", "none"])
def test_a_cut_or_a_crash_while_it_is_presented(
    sites: tuple[Site, Site], lost: str, restarts: str
) -> None:
    north, south = sites
    begin(north, south)
    settle(south, lost)
    # Our receipt is durable before anybody has seen it.
    [kept] = south.pending.kept()
    assert [one.details.get("late") for one in north.entries("receipt")] == (
        [True] if lost == "answer" else []
    )
    for site in sites:
        if restarts in (site.name, "both"):
            site.restart()
    assert [one.body for one in south.pending.kept()] == [kept.body]
    settle(south)
    check_settled(north, south)


def test_a_crash_after_the_receipt_was_kept_and_before_it_was_logged(
    sites: tuple[Site, Site],
) -> None:
    """At both sides the receipt lies beside the log, which does not name it yet."""
    north, south = sites
    begin(north, south)
    settle(south, "answer")
    [kept] = south.pending.kept()
    digest = str(north.entries("receipt")[0].details["receipt"])
    south.audit.add_receipt(north.audit.receipt(digest) or b"")
    south.restart()
    settle(south)
    check_settled(north, south)
    assert kept.body not in [one.body for one in south.pending.kept()]


def test_a_crash_after_it_was_logged_and_before_it_was_forgotten(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    settle(south)
    [entry] = south.entries("receipt")
    signed = decode_signed_untrusted(south.audit.receipt(str(entry.details["receipt"])) or b"")
    one = receipt(north, south)
    one = Receipt(**{**vars(one), "time": _time_of(signed.body)})
    assert one.encode() == signed.body
    south.pending.keep(one, signed.recipient_signature)
    south.restart()
    settle(south)
    check_settled(north, south)


def _time_of(body: bytes) -> int:
    return decode_receipt_untrusted(body).time


def test_a_session_of_the_source_that_died_with_the_receipt_in_its_hands(
    sites: tuple[Site, Site],
) -> None:
    """The session had claimed it and kept it beside the log when it failed."""
    north, south = sites
    begin(north, south)
    settle(south, "request")
    [kept] = south.pending.kept()
    signed = complete(north, kept.body, kept.signature)
    north.settling.countersigner.take_receipt(signed)
    settle(south)
    check_settled(north, south)


def test_a_session_that_still_logs_it_is_waited_for(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    body, signature = signed_by(south, receipt(north, south))
    north.settling.countersigner.take_receipt(complete(north, body, signature))
    going = Transfer(TRANSFER, "out", STUDY, south.facility.public, "")
    north.transfers.active[going.key] = going
    with pytest.raises(RemoteProtocolError) as caught:
        countersign(north, south, body, signature)
    assert caught.value.code is WireCode.BUSY
    assert not north.entries("refused")
    del north.transfers.active["out", south.facility.public, TRANSFER]
    countersign(north, south, body, signature)
    assert len(north.entries("receipt")) == 1


def test_nothing_is_signed_for_what_a_session_is_still_sending(sites: tuple[Site, Site]) -> None:
    """The manifest is there, no batch is; and a second session of the same name is over."""
    north, south = sites
    north.log("disclosure-begun", direction="out")
    for begins in (True, True, False):
        north.transfers.serve(south.facility.public, TRANSFER, begins=begins)
    body, signature = signed_by(south, receipt(north, south))
    with pytest.raises(RemoteProtocolError) as caught:
        countersign(north, south, body, signature)
    assert caught.value.code is WireCode.BUSY
    assert not north.entries("disclosed", "receipt")
    north.log("disclosure-failed", direction="out", batches=0, encoded_bytes=0)
    north.transfers.serve(south.facility.public, TRANSFER, begins=False)
    with pytest.raises(RemoteProtocolError) as caught:
        countersign(north, south, body, signature)
    assert caught.value.code is WireCode.MALFORMED
    assert not north.entries("disclosed", "receipt")


def test_a_session_does_not_log_what_was_presented_meanwhile(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    body, signature = signed_by(south, receipt(north, south))
    countersign(north, south, body, signature)
    with pytest.raises(NodeError):
        north.settling.countersigner.take_receipt(complete(north, body, signature))


def test_many_at_once_log_it_once(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    body, signature = signed_by(south, receipt(north, south))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(
                    north.settling.countersigner.countersign, south.peer, body, signature
                )

    trio.run(run)
    assert len(north.entries("receipt")) == 1


def test_what_is_being_exchanged_is_left_alone(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)

    async def run() -> None:
        direct = Direct(south)
        async with south.settling.exchanging(receipt(north, south)):
            await south.settling._settle(direct, north.peer)  # type: ignore[arg-type]
            assert direct.asked == []
        # It went well: what was kept is forgotten at the next look.
        assert len(south.pending.kept()) == 1
        await south.settling._waiting()
        assert south.pending.kept() == []

    trio.run(run)


def test_a_transfer_under_way_is_left_alone(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    coming = Transfer(TRANSFER, "in", STUDY, north.facility.public, "")
    south.transfers.active[coming.key] = coming
    assert settle(south).asked == []
    del south.transfers.active[coming.key]
    assert settle(south).asked == ["present-receipt"]


def test_the_task_settles_what_it_is_told_of_and_waits_for_a_busy_peer(
    sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(settling, "GATHER_SECONDS", 0.0)
    north, south = sites
    begin(north, south)
    body, signature = signed_by(south, receipt(north, south))
    south.pending.keep(decode_receipt_untrusted(body), signature)
    # A session of North still has the receipt in its hands.
    north.settling.countersigner.take_receipt(complete(north, body, signature))
    under_way = Transfer(TRANSFER, "out", STUDY, south.facility.public, "")
    north.transfers.active[under_way.key] = under_way

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(south.settling.run, south.direct)
                await _until(lambda: len(south.direct.asked) >= 2)
                del north.transfers.active["out", south.facility.public, TRANSFER]
                await _until(lambda: not south.pending.kept())
                # A task that has nothing to do hears of the next one.
                south.log("received", transfer=b"u".hex() * 16)
                north.log("disclosure-begun", transfer=b"u".hex() * 16, direction="out")
                south.settling.poke()
                await _until(lambda: len(north.entries("receipt")) == 2)
                await _until(lambda: not south.pending.items())
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert len(south.entries("receipt")) == 2


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (any condition, not an event)
        await trio.sleep(0.01)


def test_a_version_that_does_not_know_the_question_is_not_asked_on(
    sites: tuple[Site, Site],
) -> None:
    north, south = sites
    for transfer in ("01" * 16, "02" * 16):
        south.log("received", transfer=transfer)

    async def unknown(peer: object, request: object) -> Any:
        raise RemoteProtocolError("the message type is unknown", WireCode.UNEXPECTED)

    [kind] = [kind for kind in north.answers if kind.TYPE == "present-receipt"]
    north.answers[kind] = unknown
    assert settle(south).asked == ["present-receipt"]
    assert south.states() == [(False, ""), (False, "")]


def test_a_recipient_that_has_the_whole_receipt_gives_its_half_again(
    sites: tuple[Site, Site],
) -> None:
    """The source's log is an old backup: the receipt is not in it any more."""
    north, south = sites
    begin(north, south)
    one = receipt(north, south)
    body, signature = signed_by(south, one)
    whole = complete(north, body, signature)
    digest = south.audit.add_receipt(whole)
    south.log("receipt", receipt=digest)
    assert settle(north).asked == ["ask-receipt"]
    [entry] = north.entries("receipt")
    assert entry.details["receipt"] == digest


def test_an_entry_that_does_not_say_what_arrived_gives_no_receipt(
    sites: tuple[Site, Site],
) -> None:
    north, south = sites
    north.log("disclosure-begun", direction="out")
    south.log("received", manifest="none")
    settle(north)
    settle(south)
    assert north.states() == [(True, "not_available")]
    assert south.states() == [(False, "other")]
    assert not north.entries("receipt")


def test_a_transfer_under_way_is_not_answered_for(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    coming = Transfer(TRANSFER, "in", STUDY, north.facility.public, "")
    south.transfers.active[coming.key] = coming
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settling, "BUSY_SECONDS", 0.0)
        assert settle(north).asked == ["ask-receipt"]
    assert north.states() == [(True, "")]
