"""A transfer ends when the right to it does: for that reason, and before the next batches."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import exchange_pair
import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study, sender_of
from streams_made import stream_pair

from node.app import Node
from node.home import Home
from node.transfer.disclosure import SEALED_AHEAD
from node.transfer.sending import REVOKED, WITHDRAWN
from protocol.log.entry import Event
from protocol.recalls import WRONG_WORKLIST
from protocol.recipient import RecipientTransfer
from protocol.transfer import BatchArrived, ManifestArrived, Refused

CLOCK = MadeClock()
SOUTH = Other("South Clinic", CLOCK.now(), expires=CLOCK.now() + 1000)
BATCHES = 12
CUTS = (
    "withdrawn",
    "withdrawn-from",
    "discarded",
    "trust-ungranted",
    "trust-revoked",
    "rule-added",
    "objection-added",
)


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    clock = MadeClock()
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as node:
        publish_study(node, instances=BATCHES)
        SOUTH.pair(node, "see", "fetch")
        yield node


def _expire_card(node: Node) -> None:
    clock = node.clock
    assert isinstance(clock, MadeClock)
    clock.move(1001)


ENDS: dict[str, tuple[Callable[[Node], object], str]] = {
    "withdrawn": (
        lambda node: node.shared_studies.withdraw(exchange_pair.STUDY),
        "the study is not shared",
    ),
    "withdrawn from the peer": (
        lambda node: node.shared_studies.withdraw_from(
            exchange_pair.STUDY, node.peers.find("South Clinic")
        ),
        "the study is withdrawn from this peer",
    ),
    "discarded": (
        lambda node: node.discards.discard(exchange_pair.STUDY, WRONG_WORKLIST),
        "the study is not shared",
    ),
    "one instance discarded": (
        lambda node: node.discards.discard(f"{exchange_pair.STUDY}.1.1", WRONG_WORKLIST),
        "something of the study was discarded",
    ),
    "see taken": (
        lambda node: node.peers.revoke("South Clinic", ["see"], 0),
        "South Clinic has no grant and no rule to see",
    ),
    "fetch taken": (
        lambda node: node.peers.revoke("South Clinic", ["fetch"], 0),
        "South Clinic has no grant and no rule to fetch",
    ),
    "trust revoked": (
        lambda node: node.peers.revoke("South Clinic", [], 0),
        "trust in South Clinic was revoked",
    ),
    "a rule that denies": (
        lambda node: node.peers.add_rule(
            "South Clinic", ["deny", "fetch", "modality=MR,CT,OT,SC"], node.facts.blind
        ),
        "denied by rule 1",
    ),
    "an objection": (
        lambda node: node.wishes.add("objection", "MARKER-PATIENT-ID", "", b"", "care"),
        "the patient objects",
    ),
    "card ended": (_expire_card, "the card of South Clinic has expired"),
}


@pytest.mark.parametrize("how", ENDS)
async def test_what_may_not_be_had_any_more_is_not_sent_on(
    north: Node, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Nothing but the batch itself asks: as if every message of a change was lost."""
    act, why = ENDS[how]
    read, reads = north.store.read, 0

    def read_and_end(digest: bytes) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 3:
            act(north)
        return read(digest)

    monkeypatch.setattr(north.store, "read", read_and_end)
    arrived = await _fetch(north)
    assert reads == 3
    assert arrived <= 3
    [failed] = entries(north, "disclosure-failed")
    assert failed["details"]["why"] == why
    assert not entries(north, "disclosed", "receipt")
    if how != "card ended":
        kinds = [entry["type"] for entry in entries(north)]
        cut = next(kind for kind in kinds if kind in CUTS)
        assert kinds.index("disclosure-begun") < kinds.index(cut) < kinds.index("disclosure-failed")


async def _fetch(north: Node) -> int:
    """Ask for the study and read until the source ends it; how many batches arrived."""
    sender = sender_of(north)
    ours, theirs = stream_pair(north.keys.node.public, SOUTH.node.public)
    end = RecipientTransfer(SOUTH.node, north.keys.node.public, exchange_pair.TRANSFER)
    arrived = 0
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.serve, ours)
            asked = end.ask(
                exchange_pair.STUDY, "treatment", time_ms=north.clock.now_ms(), whole=True
            )
            await theirs.write(asked, timeout_seconds=20)
            while not entries(north, "disclosure-failed", "refused"):
                try:
                    data = await theirs.read(timeout_seconds=20)
                    events = end.receive_untrusted(data)
                except Exception:
                    break
                for event in events:
                    if isinstance(event, Refused):
                        await theirs.reset()
                    if isinstance(event, ManifestArrived):
                        end.open_manifest()
                    arrived += isinstance(event, BatchArrived)
    return arrived


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        (lambda sender: sender.stop_peer(SOUTH.key), REVOKED),
        (lambda sender: sender.stop_study(exchange_pair.STUDY, SOUTH.key), WITHDRAWN),
    ],
)
async def test_a_session_is_stopped_at_once_even_when_nobody_reads(
    north: Node, stop: Callable[[object], None], why: str
) -> None:
    """The recipient reads nothing: no batch is made ready, so no batch asks."""
    sender = sender_of(north)
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()
    append = sender.append

    def append_and_tell(events: Sequence[Event]) -> object:
        written = append(events)
        token.run_sync_soon(begun.set)
        return written

    sender.append = append_and_tell
    ours, theirs = stream_pair(north.keys.node.public, SOUTH.node.public)
    end = RecipientTransfer(SOUTH.node, north.keys.node.public, exchange_pair.TRANSFER)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.serve, ours)
            asked = end.ask(
                exchange_pair.STUDY, "treatment", time_ms=north.clock.now_ms(), whole=False
            )
            await theirs.write(asked, timeout_seconds=20)
            await begun.wait()
            stop(sender)
    [failed] = entries(north, "disclosure-failed")
    assert failed["details"]["why"] == why
    assert not sender.receivers(exchange_pair.STUDY)
    assert sender.sessions(SOUTH.key) == 0


async def test_a_request_after_the_withdrawal_is_refused_though_the_table_is_late(
    north: Node,
) -> None:
    north.catalog.hold_back(exchange_pair.STUDY)
    await _fetch(north)
    [refused] = entries(north, "refused")
    assert refused["details"]["why"] == "the study is not shared"
    assert not entries(north, "disclosure-begun")


def test_two_batches_are_the_most_that_are_ready_ahead() -> None:
    """How much may go after a right has ended, beside what is in the network already."""
    assert SEALED_AHEAD == 2
