"""What a source signs of receipts that are presented late, and what it never signs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study
from recipient_made import RecipientMade
from settling_made import (
    TRANSFER,
    Site,
    begin,
    check_settled,
    countersign,
    receipt,
    settle,
    signed_by,
    two_sites,
)

from keys.card import issue_card
from keys.identity import KeyPair
from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import Home
from node.network.streams import StreamLost
from node.parts import settling_of
from node.receipts.pending import AGAIN_SECONDS, PendingItem
from protocol.errors import RemoteProtocolError, WireCode
from protocol.receipt import (
    check_signature,
    decode_signed_untrusted,
    sign_receipt,
)
from protocol.transfer import Ended


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    both = two_sites(tmp_path)
    yield both
    for site in both:
        site.close()


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
        ({"encoded_bytes": 30_001}, WireCode.MALFORMED),
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


# --- approvals ----------------------------------------------------------------------------


@pytest.mark.parametrize("breaks", ["the line", "the log"])
async def test_an_approval_is_used_up_however_the_study_went_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    """The line breaks before the receipt, which then comes late; or the log breaks before its
    entry."""
    south = Other("South Clinic", MadeClock().now())
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as north:
        publish_study(north, instances=1)
        peer = south.pair(north, "see", "fetch")
        north.peers.add_rule("South Clinic", ["ask", "fetch"], north.facts.blind)
        await RecipientMade(north, south).fetch()
        north.requests.approve(1)
        with monkeypatch.context() as broken:

            def full(events: object) -> range:
                raise NodeError("the disk is full", code=ExitCode.DISK)

            async def at_end(*_: object) -> None:
                if breaks == "the line":
                    raise StreamLost("cut")
                broken.setattr(north.audit._appender, "append_many", full)

            recipient = RecipientMade(north, south, at={Ended: at_end})
            await recipient.fetch()
        if breaks == "the line":
            assert [one.state for one in north.requests.all()] == ["approved"]
            body = recipient.receipt().encode()
            settling = settling_of(north, lambda key: peer)
            await settling.countersigner.countersign(peer, body, sign_receipt(body, south.node))
            assert "disclosed" in [entry["type"] for entry in entries(north)]
        assert [one.state for one in north.requests.all()] == ["ended"]
        again = RecipientMade(north, south)
        await again.fetch()
        assert again.refused is WireCode.WAITING
