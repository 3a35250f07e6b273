"""Receipts that are missing: seen on both sides, asked for, given once, and never for a lie."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from settling_made import (
    MANIFEST,
    STUDY,
    TRANSFER,
    Direct,
    Site,
    receipt,
    settle,
    signed_by,
    two_sites,
)

from keys.card import issue_card
from keys.identity import KeyPair
from node.errors import NodeError
from node.receipts import settling
from node.receipts.pending import AGAIN_SECONDS, PendingItem
from node.transfer.transfers import Transfer
from protocol.errors import RemoteProtocolError, WireCode
from protocol.receipt import (
    Receipt,
    SignedReceipt,
    check_signature,
    decode_receipt_untrusted,
    decode_signed_untrusted,
    sign_receipt,
)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    both = two_sites(tmp_path)
    yield both
    for site in both:
        site.close()


def begin(north: Site, south: Site, *, arrived: bool = True) -> None:
    """A transfer that broke off; `arrived`: after its last batch."""
    north.log("requested", direction="out")
    north.log("disclosure-begun", direction="out")
    south.log("requested", direction="in")
    if arrived:
        south.log("received")
        north.log("disclosure-failed", direction="out")
    else:
        north.log("disclosure-failed", direction="out", batches=1)


def check_settled(*sites: Site) -> None:
    """One receipt, the same in both logs, once in each, and nothing pending."""
    digests = []
    for site in sites:
        assert site.states() == []
        assert site.pending.kept() == []
        [entry] = site.entries("receipt")
        assert entry.details["late"] is True
        assert site.pending.study_of(entry) == STUDY
        digests.append(entry.details["receipt"])
        signed = decode_signed_untrusted(site.audit.receipt(str(digests[-1])) or b"")
        check_signature(signed.body, signed.source_signature, sites[0].node.public)
        check_signature(signed.body, signed.recipient_signature, sites[1].node.public)
    assert len(set(digests)) == 1
    confirmed = sites[0].entries("disclosed")
    assert [entry.details["manifest"] for entry in confirmed] == [MANIFEST.hex()]


def countersign(north: Site, south: Site, body: bytes, signature: bytes) -> bytes:
    async def run() -> bytes:
        return await north.settling.countersigner.countersign(south.peer, body, signature)

    return trio.run(run)


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
    signed = _complete(north, kept.body, kept.signature)
    north.settling.countersigner.take_receipt(signed)
    settle(south)
    check_settled(north, south)


def _complete(north: Site, body: bytes, signature: bytes) -> bytes:
    return SignedReceipt(
        body=body,
        recipient_signature=signature,
        source_signature=sign_receipt(body, north.node),
    ).encode()


def test_a_session_that_still_logs_it_is_waited_for(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    body, signature = signed_by(south, receipt(north, south))
    north.settling.countersigner.take_receipt(_complete(north, body, signature))
    north.transfers.active[TRANSFER] = Transfer(TRANSFER, "out", STUDY, south.facility.public, "")
    with pytest.raises(RemoteProtocolError) as caught:
        countersign(north, south, body, signature)
    assert caught.value.code is WireCode.BUSY
    assert not north.entries("refused")
    del north.transfers.active[TRANSFER]
    countersign(north, south, body, signature)
    assert len(north.entries("receipt")) == 1


def test_a_session_does_not_log_what_was_presented_meanwhile(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    body, signature = signed_by(south, receipt(north, south))
    countersign(north, south, body, signature)
    with pytest.raises(NodeError):
        north.settling.countersigner.take_receipt(_complete(north, body, signature))


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
    south.transfers.active[TRANSFER] = Transfer(TRANSFER, "in", STUDY, north.facility.public, "")
    assert settle(south).asked == []
    del south.transfers.active[TRANSFER]
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
    north.settling.countersigner.take_receipt(_complete(north, body, signature))
    under_way = Transfer(TRANSFER, "out", STUDY, south.facility.public, "")
    north.transfers.active[TRANSFER] = under_way

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(south.settling.run, south.direct)
                await _until(lambda: len(south.direct.asked) >= 2)
                del north.transfers.active[TRANSFER]
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
    complete = _complete(north, body, signature)
    digest = south.audit.add_receipt(complete)
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
    south.transfers.active[TRANSFER] = Transfer(TRANSFER, "in", STUDY, north.facility.public, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settling, "BUSY_SECONDS", 0.0)
        assert settle(north).asked == ["ask-receipt"]
    assert north.states() == [(True, "")]


# --- lies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"transfer": b"x" * 16}, WireCode.NOT_AVAILABLE),
        ({"manifest": b"x" * 32}, WireCode.BAD_DIGEST),
        ({"content_root": b"x" * 32}, WireCode.BAD_DIGEST),
        ({"instances": 13}, WireCode.BAD_DIGEST),
        ({"bytes": 1}, WireCode.BAD_DIGEST),
        ({"purpose": "research"}, WireCode.BAD_DIGEST),
        ({"batches": 3}, WireCode.MALFORMED),
        ({"source_facility": b"x" * 32}, WireCode.MALFORMED),
        ({"recipient_facility": b"x" * 32}, WireCode.MALFORMED),
        ({"recipient_node": b"x" * 32}, WireCode.BAD_SIGNATURE),
        ({"source_node": b"x" * 32}, WireCode.BAD_SIGNATURE),
    ],
)
def test_a_receipt_that_is_not_true_is_refused_and_logged(
    sites: tuple[Site, Site], changes: dict[str, object], code: WireCode
) -> None:
    north, south = sites
    begin(north, south)
    with pytest.raises(RemoteProtocolError) as caught:
        countersign(north, south, *signed_by(south, receipt(north, south, **changes)))
    assert caught.value.code is code
    [entry] = north.entries("refused")
    assert (entry.peer, entry.outcome, entry.details["what"]) == (
        south.facility.public,
        "refused",
        "receipt",
    )
    assert not north.entries("receipt")


@pytest.mark.parametrize("forged", [b"", bytes(64), b"x" * 4000])
def test_what_is_no_receipt_or_not_signed_is_refused_and_logged(
    sites: tuple[Site, Site], forged: bytes
) -> None:
    north, south = sites
    begin(north, south)
    body, signature = signed_by(south, receipt(north, south))
    for what in ((forged, signature), (body, bytes(64))):
        with pytest.raises(RemoteProtocolError):
            countersign(north, south, *what)
    assert len(north.entries("refused")) == 2
    assert not north.entries("receipt")


def test_a_crash_of_the_source_leaves_the_number_of_batches_open(sites: tuple[Site, Site]) -> None:
    north, south = sites
    north.log("disclosure-begun", direction="out")
    countersign(north, south, *signed_by(south, receipt(north, south, batches=5)))
    assert len(north.entries("receipt")) == 1


def test_a_source_that_is_told_of_another_transfer_takes_nothing(sites: tuple[Site, Site]) -> None:
    north, south = sites
    begin(north, south)
    other = b"o" * 16
    south.log("received", transfer=other.hex())
    answers = south.answers
    [asked] = [kind for kind in answers if kind.TYPE == "ask-receipt"]
    honest = answers[asked]

    async def lie(peer: object, request: object) -> object:
        return await honest(peer, type(request)(transfer=other))  # type: ignore[call-arg, arg-type]

    south.answers[asked] = lie  # type: ignore[assignment]
    settle(north)
    assert not north.entries("receipt")
    assert north.states() == [(True, "other")]


def test_a_source_that_says_no_is_asked_again_the_next_day(sites: tuple[Site, Site]) -> None:
    _, south = sites
    south.log("received")
    settle(south)
    assert south.states() == [(False, "not_available")]
    assert settle(south).asked == []
    [item] = south.pending.items()
    assert item.answered is not None
    assert not item.is_due(item.answered + 1000 * AGAIN_SECONDS)
    assert item.is_due(item.answered + 1000 * AGAIN_SECONDS + 1)
    assert isinstance(item, PendingItem)


# --- keys that were replaced -------------------------------------------------------------


def test_a_receipt_for_a_node_key_that_was_replaced_is_made_anew(
    sites: tuple[Site, Site],
) -> None:
    north, south = sites
    begin(north, south)
    settle(south, "request")
    _replace_node_key(north)
    # The old one is refused and forgotten; the next round makes one for the new key.
    settle(south)
    assert south.pending.kept() == []
    settle(south)
    check_settled(north, south)


def test_a_receipt_that_was_countersigned_before_the_key_was_replaced_holds(
    sites: tuple[Site, Site],
) -> None:
    north, south = sites
    begin(north, south)
    settle(south, "answer")
    old = north.node.public
    _replace_node_key(north)
    settle(south)
    [entry] = south.entries("receipt")
    signed = decode_signed_untrusted(south.audit.receipt(str(entry.details["receipt"])) or b"")
    check_signature(signed.body, signed.source_signature, old)
    assert entry.details["receipt"] == north.entries("receipt")[0].details["receipt"]


def _replace_node_key(site: Site) -> None:
    site.node = KeyPair.from_seed(b"another".ljust(32, b"."))
    site.card = issue_card(
        site.facility,
        name=site.name,
        node_key=site.node.public,
        log_key=site.log_key.public,
        witness_key=KeyPair.from_seed(b"w" * 32).public,
        addresses=(),
        serial=2,
        issued=site.card.issued,
        expires=site.card.expires,
    )
    site.restart()


# --- the index of the log --------------------------------------------------------------------


def test_the_index_follows_the_log_and_another_log_makes_it_anew(
    sites: tuple[Site, Site],
) -> None:
    north, south = sites
    begin(north, south)
    assert len(north.exchanges.entries(south.facility.public, TRANSFER, outgoing=True)) == 3
    north.log("receipt", direction="out", receipt="a" * 64)
    said = north.exchanges.entries(south.facility.public, TRANSFER, outgoing=True)
    assert [entry.type for entry in said][-1] == "receipt"
    assert north.exchanges.about(south.facility.public, 2, 5, 10) == [2, 3, 4]
    assert north.exchanges.about(south.facility.public, 0, 99, 1) == [1]
    # The rows of another log in our database: as after a backup of one of the two.
    north.database.query("UPDATE exchanges_read SET last = ?", (bytes(32),))
    north.database.query("UPDATE exchange_entries SET transfer = ?", (bytes(16),))
    assert len(north.exchanges.entries(south.facility.public, TRANSFER, outgoing=True)) == 4


def test_entries_that_name_no_transfer_are_let_pass(sites: tuple[Site, Site]) -> None:
    north, south = sites
    for wrong in ("", "zz", "aa"):
        north.log("disclosure-begun", transfer=wrong)
    assert north.states() == []
    assert north.exchanges.about(south.facility.public, 0, 99, 10) == []
