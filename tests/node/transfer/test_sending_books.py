"""What the log, the register and the recipient are told of how a disclosure ended."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import YEAR, Other, entries, publish_study, sender_of
from recipient_made import RecipientMade

from keys.card import sign_card
from keys.card_fields import SizedKey, TimedKey
from keys.identity import KeyPair
from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import Home
from node.network.streams import PeerStream
from node.transfer.sending import TRANSFERS_PER_PEER
from node.transfer.transfers import TransferState
from protocol.errors import WireCode
from protocol.log.entry import Event as LogEvent
from protocol.log.entry import decode_entry_untrusted
from protocol.recipient import RecipientTransfer
from protocol.transfer import BatchArrived, Countersigned, ManifestArrived, Offered

CLOCK = MadeClock()
SOUTH = Other("South Clinic", CLOCK.now())
BATCHES = 12
ENDS = ("refused", "disclosure-failed", "disclosed", "receipt")


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        publish_study(node, instances=BATCHES)
        SOUTH.pair(node, "see", "fetch")
        yield node


def _kinds(node: Node) -> list[str]:
    """How the entries of the transfer follow each other."""
    return [entry["type"] for entry in entries(node, "requested", "disclosure-begun", *ENDS)]


def _shown(node: Node) -> tuple[TransferState, str]:
    """The one transfer of the register: its state and why."""
    [transfer] = node.transfers.recent()
    assert transfer.is_ended
    return transfer.state, transfer.why


def _failed(node: Node) -> dict[str, Any]:
    """The entry of a disclosure that failed, as the register has it, and no other end."""
    assert _kinds(node) == ["requested", "disclosure-begun", "disclosure-failed"]
    [failed] = entries(node, "disclosure-failed")
    assert failed["outcome"] == "failed"
    assert _shown(node) == (TransferState.FAILED, failed["details"]["why"])
    return failed


# --- how it ends well -----------------------------------------------------------------


@pytest.mark.parametrize("stat", [False, True])
async def test_a_disclosure_is_told_whole(north: Node, stat: bool) -> None:
    recipient = RecipientMade(north, SOUTH, ask={"stat": stat})
    await recipient.fetch()
    assert recipient.heard(Countersigned)
    assert _kinds(north) == ["requested", "disclosure-begun", "disclosed", "receipt"]
    manifest = recipient.end.manifest
    assert manifest is not None
    of_transfer = {"transfer": exchange_pair.TRANSFER.hex(), "direction": "out"}
    if stat:
        of_transfer["stat"] = True  # type: ignore[assignment]
    of_study = {
        "content_root": manifest.content_root.hex(),
        "instances": BATCHES,
        "bytes": manifest.total_original_bytes,
        "manifest": manifest.digest.hex(),
    }
    sent = {
        "batches": BATCHES,
        "encoded_bytes": sum(batch.encoded_size for batch in manifest.batches),
    }
    requested, begun, disclosed, receipted = entries(
        north, "requested", "disclosure-begun", "disclosed", "receipt"
    )
    [signed] = [one.receipt for one in recipient.told if isinstance(one, Countersigned)]
    kept = north.audit.evidence.receipt(receipted["details"].pop("receipt"))
    assert kept == signed.encode()
    assert requested["details"] == of_transfer
    rights = north.peers.find("South Clinic").rights_digest
    decided = {"rule": "the grant fetch", "rights": rights}
    assert begun["details"] == {**of_transfer, **of_study, **decided}
    assert disclosed["details"] == {**of_transfer, **of_study, **sent}
    assert receipted["details"] == {**of_transfer, **of_study, **sent}
    for entry in (requested, begun, disclosed, receipted):
        assert entry["peer"] == SOUTH.key.hex()
        assert (entry["purpose"], entry["outcome"]) == ("treatment", "success")
    [shown] = north.transfers.recent()
    assert (shown.state, shown.why, shown.stat) == (TransferState.COMPLETE, "", stat)
    assert shown.instances == BATCHES
    assert shown.bytes == shown.bytes_done == manifest.total_original_bytes
    assert shown.wire_bytes == shown.wire_bytes_total == sent["encoded_bytes"]
    assert shown.moved == north.clock.now_ms()
    assert not north.transfers.active


async def test_the_entries_name_study_and_patient(north: Node) -> None:
    await RecipientMade(north, SOUTH).fetch()
    patients = north.catalog.patients(exchange_pair.STUDY)
    assert patients
    wanted = {("study", exchange_pair.STUDY), *(("patient", one) for one in patients)}
    found = [decode_entry_untrusted(encoded) for encoded in north.audit.entries()]
    told = [one for one in found if one.type in ("disclosure-begun", "disclosed", "receipt")]
    assert len(told) == 3
    for entry in told:
        openings = [north.audit.opening_of(commitment) for _, commitment in entry.subjects]
        assert {(one.kind, one.value) for one in openings if one is not None} == wanted


# --- receipts that are for somebody else ----------------------------------------------


@pytest.mark.parametrize("field", ["source_facility", "recipient_facility"])
async def test_a_receipt_that_names_another_facility_is_none(north: Node, field: str) -> None:
    """Signed by the right node key, and for this transfer: only a facility is another one."""
    other = KeyPair.from_seed(b"another facility".ljust(32)).public
    recipient = RecipientMade(north, SOUTH, receipt={field: other})
    await recipient.fetch()
    assert _failed(north)["details"]["why"] == "the receipt names other facilities"
    assert recipient.refused is WireCode.MALFORMED
    assert not recipient.heard(Countersigned)


async def test_two_facilities_in_exchanged_places_are_no_receipt(north: Node) -> None:
    swapped = {"source_facility": SOUTH.key, "recipient_facility": north.card.facility_key}
    await RecipientMade(north, SOUTH, receipt=swapped).fetch()
    assert _failed(north)["details"]["why"] == "the receipt names other facilities"


# --- a connection that is lost ---------------------------------------------------------


async def test_what_is_receipted_did_not_fail_whatever_the_connection_does(north: Node) -> None:
    """It is lost once the receipt is in the log, before the countersignature is on its way."""
    sender, recipient = sender_of(north), RecipientMade(north, SOUTH)
    append = sender.append

    def append_and_lose(events: Sequence[LogEvent]) -> object:
        written = append(events)
        if any(event.type == "disclosed" for event in events):
            trio.from_thread.run(recipient.ours.reset)
        return written

    sender.append = append_and_lose
    await recipient.fetch(sender)
    assert not recipient.heard(Countersigned)
    assert _kinds(north) == ["requested", "disclosure-begun", "disclosed", "receipt"]
    assert _shown(north) == (TransferState.FAILED, "the connection was lost")


@pytest.mark.parametrize("kind", [Offered, BatchArrived])
async def test_a_connection_that_is_lost_on_the_way_is_told(north: Node, kind: type) -> None:
    async def leave(end: RecipientTransfer, stream: PeerStream) -> None:
        await stream.reset()

    await RecipientMade(north, SOUTH, at={kind: leave}).fetch()
    assert _failed(north)["details"]["why"] == "the connection was lost"


# --- why it failed ---------------------------------------------------------------------


async def test_a_recipient_that_gives_up_is_told_with_its_reason(north: Node) -> None:
    async def give_up(end: RecipientTransfer, stream: PeerStream) -> None:
        await stream.write(end.refuse(WireCode.STORAGE_FULL), timeout_seconds=20)
        await stream.close()

    await RecipientMade(north, SOUTH, at={ManifestArrived: give_up}).fetch()
    assert _failed(north)["details"]["why"] == "the recipient gave up (storage_full)"


async def test_a_recipient_that_breaks_a_rule_is_told_which(north: Node) -> None:
    async def want_again(end: RecipientTransfer, stream: PeerStream) -> None:
        end.asked_all = False
        end.asked.clear()
        await stream.write(end.want([0], last=True), timeout_seconds=20)

    recipient = RecipientMade(north, SOUTH, at={ManifestArrived: want_again})
    await recipient.fetch()
    assert _failed(north)["details"]["why"] == "batches are wanted after the last portion"
    assert recipient.refused is WireCode.UNEXPECTED


@pytest.mark.parametrize(
    ("code", "in_doubt", "told"),
    [
        (ExitCode.INTEGRITY, False, WireCode.SOURCE_DISK),
        (ExitCode.DISK, False, WireCode.SOURCE_DISK),
        (ExitCode.FAILED, False, WireCode.OTHER),
        (ExitCode.DISK, True, WireCode.LOG_IN_DOUBT),
    ],
)
async def test_a_failure_of_this_node_is_told_to_both_sides(
    north: Node, code: ExitCode, in_doubt: bool, told: WireCode
) -> None:
    sender, recipient = sender_of(north), RecipientMade(north, SOUTH)
    _fail_read(north, NodeError("a batch is damaged on the disk", code=code))
    sender.in_doubt = lambda: in_doubt
    await recipient.fetch(sender)
    assert _failed(north)["details"]["why"] == "a batch is damaged on the disk"
    assert recipient.refused is told


async def test_a_fault_of_ours_is_told_and_not_swallowed(north: Node) -> None:
    _fail_read(north, ZeroDivisionError())
    with pytest.raises(BaseExceptionGroup) as caught:
        await RecipientMade(north, SOUTH).fetch()
    assert caught.value.split(ZeroDivisionError)[1] is None
    assert _failed(north)["details"]["why"] == "an error of this node"


async def test_a_failed_disclosure_says_how_much_went_out(north: Node) -> None:
    read, reads = north.store.read, 0

    def read_some(digest: bytes) -> bytes:
        nonlocal reads
        reads += 1
        if reads > 3:
            raise NodeError("a batch is damaged on the disk", code=ExitCode.INTEGRITY)
        return read(digest)

    north.store.read = read_some  # type: ignore[method-assign]
    recipient = RecipientMade(north, SOUTH)
    await recipient.fetch()
    details = _failed(north)["details"]
    arrived = sum(isinstance(event, BatchArrived) for event in recipient.told)
    manifest = recipient.end.manifest
    assert manifest is not None
    assert details["batches"] == arrived == 3
    assert details["encoded_bytes"] == sum(one.encoded_size for one in manifest.batches[:3])
    assert details["manifest"] == manifest.digest.hex()
    assert "content_root" not in details


async def test_a_disk_that_takes_no_entry_at_the_end_leaves_the_beginning(
    north: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a crash, and the session ends all the same."""
    sender, append = sender_of(north), north.audit.append_many

    def append_no_failure(events: Sequence[LogEvent]) -> object:
        if any(event.type == "disclosure-failed" for event in events):
            raise NodeError("the disk is full", code=ExitCode.DISK)
        return append(events)

    sender.append = append_no_failure
    _fail_read(north, NodeError("a batch is damaged on the disk", code=ExitCode.INTEGRITY))
    await RecipientMade(north, SOUTH).fetch(sender)
    assert _kinds(north) == ["requested", "disclosure-begun"]
    assert _shown(north) == (TransferState.FAILED, "a batch is damaged on the disk")
    assert "the disk is full" in caplog.text


def _fail_read(node: Node, error: Exception) -> None:
    def fail(digest: bytes) -> bytes:
        raise error

    node.store.read = fail  # type: ignore[method-assign]


# --- what is not even begun ------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "code", "why"),
    [
        ("fetch", WireCode.NOT_GRANTED, "South Clinic has no grant and no rule to fetch"),
        ("study", WireCode.NOT_AVAILABLE, "the study is not shared"),
    ],
)
async def test_a_refusal_is_in_the_log_with_its_reason_before_it_is_told(
    north: Node, taken: str, code: WireCode, why: str
) -> None:
    if taken == "fetch":
        north.peers.revoke("South Clinic", ["fetch"], north.clock.now())
    else:
        north.shared_studies.withdraw(exchange_pair.STUDY)
    recipient = RecipientMade(north, SOUTH)
    await recipient.fetch()
    assert recipient.refused is code
    assert not recipient.heard(Offered)
    assert _kinds(north) == ["requested", "refused"]
    [refused] = entries(north, "refused")
    assert (refused["outcome"], refused["details"]["why"]) == ("refused", why)
    assert _shown(north) == (TransferState.REFUSED, why)


async def test_a_study_that_cannot_be_read_is_asked_for_and_not_begun(north: Node) -> None:
    def fail(study: str) -> None:
        raise NodeError("the catalog is damaged", code=ExitCode.INTEGRITY)

    north.catalog.manifest = fail  # type: ignore[method-assign,assignment]
    recipient = RecipientMade(north, SOUTH)
    await recipient.fetch()
    assert recipient.refused is WireCode.SOURCE_DISK
    assert _kinds(north) == ["requested"]
    assert _shown(north) == (TransferState.FAILED, "the catalog is damaged")


async def test_a_log_that_takes_no_entry_lets_nothing_out(north: Node) -> None:
    sender = sender_of(north)

    def fail(events: Sequence[LogEvent]) -> object:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    sender.append = fail
    recipient = RecipientMade(north, SOUTH)
    await recipient.fetch(sender)
    assert recipient.refused is WireCode.SOURCE_DISK
    assert not recipient.heard(Offered)
    assert _kinds(north) == []


# --- who is served at all --------------------------------------------------------------


def _with_two_node_keys(old: KeyPair, until: int) -> bytes:
    """South's newer card: its node key until a time, and one after it."""
    now = CLOCK.now()
    return sign_card(
        SOUTH.facility,
        name=SOUTH.name,
        node_keys=(
            TimedKey(old.public, now - 60, until),
            TimedKey(KeyPair.from_seed(b"the new node key".ljust(32)).public, now - 30),
        ),
        log_keys=(SizedKey(SOUTH.log.public, 0),),
        witness_keys=(TimedKey(SOUTH.witness.public, now - 60),),
        addresses=(),
        serial=2,
        issued=now - 30,
        expires=now + YEAR,
    ).encoded


@pytest.mark.parametrize("how", ["key", "trust", "stranger"])
async def test_a_node_key_that_does_not_count_is_not_served(north: Node, how: str) -> None:
    other = SOUTH
    if how == "key":
        card = _with_two_node_keys(SOUTH.node, until=north.clock.now() + 10)
        assert north.peers.take_newer_card(card, SOUTH.key, north.clock.now()) is not None
        north.clock.move(11)  # type: ignore[attr-defined]
    elif how == "trust":
        north.peers.revoke("South Clinic", [], north.clock.now())
    else:
        other = Other("East Practice", north.clock.now())
    size = north.audit.size
    recipient = RecipientMade(north, other)
    await recipient.fetch()
    assert recipient.told == []
    assert north.audit.size == size, "it is not even refused: there is nobody to name"
    assert north.transfers.recent() == []


async def test_a_node_key_is_served_until_it_ends(north: Node) -> None:
    card = _with_two_node_keys(SOUTH.node, until=north.clock.now() + 10)
    assert north.peers.take_newer_card(card, SOUTH.key, north.clock.now()) is not None
    recipient = RecipientMade(north, SOUTH)
    await recipient.fetch()
    assert recipient.heard(Countersigned)


async def test_a_node_key_that_ends_on_the_way_ends_the_transfer(north: Node) -> None:
    card = _with_two_node_keys(SOUTH.node, until=north.clock.now() + 10)
    assert north.peers.take_newer_card(card, SOUTH.key, north.clock.now()) is not None
    read = north.store.read

    def read_late(digest: bytes) -> bytes:
        north.clock.move(11)  # type: ignore[attr-defined]
        return read(digest)

    north.store.read = read_late  # type: ignore[method-assign]
    recipient = RecipientMade(north, SOUTH)
    await recipient.fetch()
    assert _failed(north)["details"]["why"] == "its node key does not count any more"
    assert recipient.refused is WireCode.NOT_GRANTED


# --- portions and credit ---------------------------------------------------------------


async def test_what_is_wanted_is_sent_and_no_more(north: Node) -> None:
    """Two portions, the second once the first is here; the books count what went."""

    async def want_two(end: RecipientTransfer, stream: PeerStream) -> None:
        await stream.write(end.want([0, 2], last=False), timeout_seconds=20)
        await stream.write(end.want([5], last=True), timeout_seconds=20)

    recipient = RecipientMade(north, SOUTH, ask={"whole": False}, at={ManifestArrived: want_two})
    await recipient.fetch()
    arrived = [event.index for event in recipient.told if isinstance(event, BatchArrived)]
    assert arrived == [0, 2, 5]
    [disclosed] = entries(north, "disclosed")
    assert disclosed["details"]["batches"] == 3
    [shown] = north.transfers.recent()
    assert shown.wire_bytes == shown.wire_bytes_total == disclosed["details"]["encoded_bytes"]


async def test_nothing_wanted_is_a_disclosure_of_nothing(north: Node) -> None:
    async def want_nothing(end: RecipientTransfer, stream: PeerStream) -> None:
        await stream.write(end.want([], last=True), timeout_seconds=20)

    await RecipientMade(
        north, SOUTH, ask={"whole": False}, at={ManifestArrived: want_nothing}
    ).fetch()
    [disclosed] = entries(north, "disclosed")
    assert (disclosed["details"]["batches"], disclosed["details"]["encoded_bytes"]) == (0, 0)


# --- how many at once ------------------------------------------------------------------


async def test_eight_transfers_at_once_are_served(north: Node) -> None:
    """The ninth is told BUSY (tests/node/sharing/test_budgets.py); each that is over makes room."""
    sender, recipient = sender_of(north), RecipientMade(north, SOUTH)
    others = [RecipientMade(north, SOUTH) for _ in range(TRANSFERS_PER_PEER)]
    async with trio.open_nursery() as nursery:
        for one in others:
            nursery.start_soon(sender.serve, one.ours)
        while sender.sessions(SOUTH.key) < TRANSFERS_PER_PEER:
            await trio.lowlevel.checkpoint()
        await others[0].theirs.reset()
        while sender.sessions(SOUTH.key) == TRANSFERS_PER_PEER:
            await trio.lowlevel.checkpoint()
        await recipient.fetch(sender)
        assert recipient.heard(Countersigned)
        assert sender.sessions(SOUTH.key) == TRANSFERS_PER_PEER - 1
        for one in others:
            await one.theirs.reset()
    assert sender.sessions(SOUTH.key) == 0


async def test_a_study_is_sending_while_it_is(north: Node) -> None:
    sender, states = sender_of(north), []

    async def look(end: RecipientTransfer, stream: PeerStream) -> None:
        states.append((sender.receivers(exchange_pair.STUDY), sender.receivers("1.2.3")))

    await RecipientMade(north, SOUTH, at={Offered: look, Countersigned: look}).fetch(sender)
    assert states == [([SOUTH.key], []), ([SOUTH.key], [])]
    assert not sender.receivers(exchange_pair.STUDY)
