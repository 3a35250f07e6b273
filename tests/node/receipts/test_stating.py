"""A source learns, once and signed, that what it sent is stored in the recipient's archive."""

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study
from killed import killed_at_commit
from network_nodes import until
from stating_made import Pair, opened
from two_in_memory import TwoNodes

from keys.fingerprint import parse_fingerprint
from keys.identity import KeyPair
from node.app import Node
from node.errors import ExitCode, NodeError
from node.fsck.check import check_home
from node.operations import OPERATIONS, Call
from node.receipts.stored import SILENT, UNKNOWN, pause_seconds
from node.rotation import Request
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Event
from protocol.stored import SignedStored, Stored, decode_stored_untrusted, sign_stored
from protocol.verify import Code, Evidence, verify_bundle

pytestmark = pytest.mark.slow

STUDY = exchange_pair.STUDY
ONCE = {"stored": 1, "stored-told": 1, "stored-heard": 1}
DAY = 24 * 3600.0


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def pair(tmp_path: Path, clock: MadeClock) -> Iterator[Pair]:
    with opened(tmp_path, clock) as one:
        yield one


def transfers(node: Node) -> list[dict[str, Any]]:
    async def run() -> Any:
        return await OPERATIONS["transfers"].answer(Call(node), {})

    return list(trio.run(run)["transfers"])


def bundle_of(node: Node) -> bytes:
    buffer = io.BytesIO()
    node.audit.export(buffer, card=node.card.encoded)
    return buffer.getvalue()


def verdict_of(node: Node, other: Node) -> Any:
    return verify_bundle(
        io.BytesIO(bundle_of(node)),
        facility_fingerprint=parse_fingerprint(node.card.fingerprint),
        evidence=Evidence(peer_cards=[other.card]),
    )


def about_evidence(node: Node) -> list[str]:
    """What `radmesh check` finds wrong beside the log."""
    found = check_home(node.home.path, now=node.clock.now()).findings
    return [one.kind for one in found if one.kind.startswith("evidence")]


# --- the whole way -------------------------------------------------------------------------


def test_the_sender_sees_received_and_stored(pair: Pair) -> None:
    pair.clock.move(60)
    assert pair.south.stored.note(STUDY, "commitment", 12)
    proven_at = pair.clock.now()
    pair.clock.move(60)
    assert pair.tell() == 1
    assert pair.count() == ONCE

    [receipt] = entries(pair.north, "receipt")
    [heard] = entries(pair.north, "stored-heard")
    [told] = entries(pair.south, "stored-told")
    [stored] = entries(pair.south, "stored")
    assert heard["peer"] == pair.south.card.facility_key.hex()
    assert told["peer"] == pair.north.card.facility_key.hex()
    assert heard["details"] == told["details"] == {
        "content_root": receipt["details"]["content_root"],
        "instances": 12,
        "proven_at": proven_at,
        "proven_by": "commitment",
        "receipt": receipt["details"]["receipt"],
        "stored": heard["details"]["stored"],
        "transfer": receipt["details"]["transfer"],
    }  # fmt: skip
    assert stored["peer"] == ""
    assert (heard["purpose"], stored["purpose"]) == ("treatment", "")
    for entry, node in ((heard, pair.north), (told, pair.south), (stored, pair.south)):
        values = {
            opening.value
            for subject in entry["subjects"]
            if (opening := node.audit.opening_of(subject["commitment"])) is not None
        }
        assert STUDY in values

    said = {"instances": 12, "proven_by": "commitment", "proven_at": proven_at}
    for node, noted in ((pair.north, pair.clock.now_ms()), (pair.south, pair.clock.now_ms())):
        [shown] = [one["receipts"] for one in transfers(node) if one["receipts"]]
        [one] = shown
        assert one["stored"] == {**said, "noted": noted}
        assert one["received"] == pair.clock.now_ms() - 120_000

    for node, other in ((pair.north, pair.south), (pair.south, pair.north)):
        verdict = verdict_of(node, other)
        assert (verdict.sound, verdict.code) == (True, Code.OK)
        notes = " ".join(verdict.notes)
        assert "what its recipient says" in notes
        assert "not in the bundle" not in notes
        assert about_evidence(node) == []


def test_both_keep_the_same_statement_and_nothing_of_the_patient_is_in_it(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "query", 12)
    pair.tell()
    digest = entries(pair.north, "stored-heard")[0]["details"]["stored"]
    kept = pair.north.audit.receipt(digest)
    assert kept is not None
    assert kept == pair.south.audit.receipt(digest)
    assert hashlib.sha256(kept).hexdigest() == digest
    for secret in (STUDY.encode(), b"PAT1", b"archive"):
        assert secret not in kept


def test_until_it_is_told_the_recipient_alone_sees_it(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "returned", 12)
    assert [one["receipts"][0]["stored"] for one in transfers(pair.north)] == [None]
    assert pair.tell("request") == 1
    [one] = transfers(pair.south)[0]["receipts"]
    assert one["stored"]["noted"] is None


def test_a_study_of_our_own_owes_nothing_to_anybody(pair: Pair) -> None:
    north = pair.north.stored
    assert north.note(STUDY, "commitment", 12)
    assert pair.count() == {"stored": 1, "stored-told": 0, "stored-heard": 0}
    assert north.owed(pair.south.card.facility_key) is None


# --- once, and only what is so -------------------------------------------------------------


def test_however_often_it_is_noted_and_told_there_is_one_of_each(pair: Pair) -> None:
    for proof in ("query", "commitment", "query"):
        assert pair.south.stored.note(STUDY, proof, 12)
        pair.tell()
    assert pair.count() == ONCE
    assert pair.line.asked == 1


@pytest.mark.parametrize("instances", [0, 11, 13])
def test_a_study_of_which_not_all_is_proven_is_not_stored(pair: Pair, instances: int) -> None:
    assert not pair.south.stored.note(STUDY, "commitment", instances)
    assert not pair.south.stored.note("1.2.3", "commitment", 12)
    with pytest.raises(ValueError, match="hearsay"):
        pair.south.stored.note(STUDY, "hearsay", 12)
    assert pair.tell() == 0
    assert pair.count() == dict.fromkeys(ONCE, 0)


def test_a_study_that_grew_is_stored_again_by_its_new_content(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "commitment", 12)
    old = pair.south.catalog.study(STUDY)
    publish_study(pair.north, instances=14)
    two = TwoNodes(pair.north, pair.south)
    assert two.fetch(STUDY, "treatment")
    new = pair.south.catalog.study(STUDY)
    assert old is not None
    assert new is not None
    assert pair.south.stored.content(new.content_root) is None
    # What was proven before it grew is still so, of the transfer that brought it.
    assert not pair.south.stored.note(STUDY, "commitment", 12)
    assert pair.tell() == 1
    assert pair.south.stored.note(STUDY, "commitment", 14)
    assert pair.tell() == 1
    heard = entries(pair.north, "stored-heard")
    assert [one["details"]["instances"] for one in heard] == [12, 14]
    roots = [old.content_root.hex(), new.content_root.hex()]
    assert [one["details"]["content_root"] for one in heard] == roots


def test_what_is_stored_as_it_is_here_may_go_by_the_days_of_the_settings(pair: Pair) -> None:
    assert list(pair.south.proven_stored()) == []
    pair.south.stored.note(STUDY, "commitment", 12)
    row = pair.south.catalog.study(STUDY)
    assert row is not None
    [one] = pair.south.proven_stored()
    assert (one.study, one.content_root, one.since) == (STUDY, row.content_root, pair.clock.now())
    publish_study(pair.north, instances=14)
    assert TwoNodes(pair.north, pair.south).fetch(STUDY, "treatment")
    assert list(pair.south.proven_stored()) == [], "it grew, and not all of it is there"


def test_a_transfer_that_comes_after_the_proof_is_told_as_well(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "commitment", 12)
    pair.tell()
    # The same content once more, by a transfer of its own.
    assert TwoNodes(pair.north, pair.south).fetch(STUDY, "research")
    assert pair.tell() == 1
    heard = entries(pair.north, "stored-heard")
    assert len({one["details"]["transfer"] for one in heard}) == len(heard) == 2
    assert pair.tell() == 0


def test_without_a_receipt_of_both_nothing_is_owed(pair: Pair) -> None:
    """A receipt that South alone has signed is settled first."""
    north = pair.north.card.facility_key
    [receipt] = entries(pair.south, "receipt")
    pair.south.stored.note(STUDY, "commitment", 12)
    owed = pair.south.stored.owed(north)
    assert owed is not None
    assert owed.entry == receipt["index"]
    stranger = Other("East Imaging", pair.clock.now())
    assert pair.south.stored.owed(stranger.key) is None


def test_a_fetch_from_several_sources_shows_the_receipt_of_each(pair: Pair) -> None:
    """Each source knows the fetch by a name of its own."""
    east = Other("East Imaging", pair.clock.now())
    peer = east.pair(pair.south)
    [fetch] = pair.south.transfers.recent()
    fetch.only_peer = False
    pair.south.transfers._store(fetch)
    [receipt] = entries(pair.south, "receipt")
    name = pair.south.transfers.name_for(fetch, east.key)
    details = {**receipt["details"], "transfer": name.hex()}
    pair.south.audit.append(Event(type="receipt", peer=east.key, details=details))
    pair.south.stored.note(STUDY, "query", 12)
    pair.tell()
    [shown] = transfers(pair.south)
    by_peer = {one["peer"]: one["stored"] for one in shown["receipts"]}
    assert set(by_peer) == {"North", peer.petname}
    assert by_peer["North"]["noted"]
    assert by_peer[peer.petname] is None, "East is not connected"


# --- nobody listens ------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_what_was_lost_is_said_again_and_heard_once(pair: Pair, lost: str) -> None:
    pair.south.stored.note(STUDY, "commitment", 12)
    assert pair.tell(lost) == 1
    assert pair.tell() == 0, "it is not due"
    pair.clock.move(pause_seconds(1, SILENT))
    assert pair.tell() == 1
    assert pair.count() == ONCE
    assert pair.tell() == 0


def test_a_source_that_connects_again_is_told_at_once(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "commitment", 12)
    for _ in range(5):
        pair.clock.move(DAY)
        assert pair.tell("request") == 1
    pair.south.stored.connected(pair.north.card.facility_key)
    assert pair.tell() == 1
    assert pair.count() == ONCE


def test_a_release_that_does_not_know_it_is_asked_once_a_day_for_all(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "commitment", 12)
    two = TwoNodes(pair.north, pair.south)
    for _ in range(3):
        assert two.fetch(STUDY, "research")
    assert pair.tell(WireCode.UNEXPECTED) == 1
    pair.south.stored.connected(pair.north.card.facility_key)
    assert pair.tell(WireCode.UNEXPECTED) == 0
    pair.clock.move(DAY + 1)
    assert pair.tell(WireCode.UNEXPECTED) == 1
    assert pair.count()["stored-told"] == 1, "only what is said is logged"
    # It has a newer release now.
    pair.clock.move(2 * DAY)
    assert pair.tell() == 4
    assert pair.count() == {"stored": 1, "stored-told": 4, "stored-heard": 4}


@pytest.mark.parametrize("code", [WireCode.BUSY, WireCode.NOT_AVAILABLE, "nonsense"])
def test_a_source_that_never_notes_it_is_asked_ever_more_seldom(
    pair: Pair, code: str | WireCode
) -> None:
    pair.south.stored.note(STUDY, "commitment", 12)
    times = []
    while len(times) < 20:
        if pair.tell(code):
            times.append(pair.clock.now())
        # The task waits for the moment at which it is due.
        pair.clock.move(max(1, pair.stored_due() - pair.clock.now()))
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= DAY
    assert pair.count()["stored-told"] == 1
    assert pair.count()["stored-heard"] == 0


def test_pauses_double_to_a_day_or_a_month() -> None:
    assert [pause_seconds(tries, SILENT) for tries in (1, 2, 3)] == [5, 10, 20]
    assert pause_seconds(1000, "busy") == DAY
    assert pause_seconds(1, UNKNOWN) == pause_seconds(1, "not_available") == DAY
    assert pause_seconds(1000, "other") == 30 * DAY
    assert pause_seconds(1000, UNKNOWN) == DAY


def test_one_that_is_refused_holds_up_no_other(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "commitment", 12)
    assert pair.tell(WireCode.NOT_AVAILABLE) == 1
    assert TwoNodes(pair.north, pair.south).fetch(STUDY, "research")
    assert pair.tell() == 1
    assert pair.count() == {"stored": 1, "stored-told": 2, "stored-heard": 1}


def test_two_connections_of_a_source_make_one_statement(pair: Pair) -> None:
    """As when its node key is replaced: the old connection may still be there."""
    pair.south.stored.note(STUDY, "query", 12)
    for _ in range(3):
        assert TwoNodes(pair.north, pair.south).fetch(STUDY, "research")
    north = pair.north.card.facility_key

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(trio.to_thread.run_sync, pair.telling.next_for, north)

    trio.run(run)
    told = [entry["details"]["transfer"] for entry in entries(pair.south, "stored-told")]
    assert len(told) == len(set(told))
    pair.tell()
    assert pair.count() == {"stored": 1, "stored-told": 4, "stored-heard": 4}


def test_a_connected_source_is_told_when_it_happens(pair: Pair) -> None:
    """The task looks when it is poked, and again when something is due."""
    pair.line.us = pair.peer_of(pair.south)
    pair.south.stored.on_change = lambda: trio.from_thread.run_sync(pair.telling.poke)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.telling.keep_told, pair.north.keys.node.public)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await trio.to_thread.run_sync(pair.south.stored.note, STUDY, "query", 12)
            await until(lambda: pair.count()["stored-heard"])
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert pair.count() == ONCE


def test_a_log_that_cannot_be_written_stops_neither_the_task_nor_the_statement(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.south.stored.note(STUDY, "query", 12)
    pair.line.us = pair.peer_of(pair.south)
    pair.south.audit.halt.reason = NodeError("the log is in doubt", code=ExitCode.INTEGRITY)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.telling.keep_told, pair.north.keys.node.public)
            await until(lambda: "cannot be told" in caplog.text)
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert pair.line.asked == 0
    pair.south.audit.halt.reason = None
    assert pair.tell() == 1
    assert pair.count() == ONCE


def test_a_statement_that_is_missing_beside_the_log_is_an_error_with_a_hint(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "query", 12)
    statement = pair.telling.next_for(pair.north.card.facility_key)
    assert statement is not None
    pair.south.audit.evidence._database.transact(
        lambda connection: connection.execute(
            "DELETE FROM receipts WHERE digest = ?", (statement.digest,)
        )
    )
    with pytest.raises(NodeError, match="missing beside the log") as caught:
        pair.telling._signed(statement)
    assert caught.value.code is ExitCode.INTEGRITY
    assert about_evidence(pair.south) == ["evidence-missing"]


# --- liars -----------------------------------------------------------------------------------


def a_statement(pair: Pair, **changes: Any) -> Stored:
    """What South would say, with changes."""
    [receipt] = entries(pair.south, "receipt")
    fields: dict[str, Any] = {
        "transfer": bytes.fromhex(receipt["details"]["transfer"]),
        "source_facility": pair.north.card.facility_key,
        "recipient_facility": pair.south.card.facility_key,
        "recipient_node": pair.south.keys.node.public,
        "content_root": bytes.fromhex(receipt["details"]["content_root"]),
        "instances": 12,
        "proven_by": "commitment",
        "proven_at": pair.clock.now(),
        "time": pair.clock.now_ms(),
    }
    return Stored(**{**fields, **changes})


def take(pair: Pair, signed: SignedStored) -> None:
    pair.hearing.take_untrusted(pair.peer_of(pair.south), signed.body, signed.signature)


STRANGER = KeyPair.from_seed(b"z" * 32)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"transfer": bytes(16)}, WireCode.NOT_AVAILABLE),
        ({"content_root": bytes(32)}, WireCode.BAD_DIGEST),
        ({"instances": 13}, WireCode.BAD_DIGEST),
        ({"source_facility": bytes(32)}, WireCode.MALFORMED),
        ({"recipient_facility": bytes(32)}, WireCode.MALFORMED),
        ({"recipient_node": STRANGER.public}, WireCode.BAD_SIGNATURE),
        ({"time": MadeClock().time_ms + 90_000_000}, WireCode.CLOCK_SKEW),
        ({"time": 1}, WireCode.MALFORMED),
    ],
)
def test_what_is_not_so_is_refused_and_logged(
    pair: Pair, changes: dict[str, Any], code: WireCode
) -> None:
    signed = sign_stored(a_statement(pair, **changes), pair.south.keys.node)
    with pytest.raises(RemoteProtocolError) as caught:
        take(pair, signed)
    assert caught.value.code is code
    [refused] = entries(pair.north, "refused")
    assert refused["details"]["what"] == "stored"
    assert pair.count()["stored-heard"] == 0
    assert transfers(pair.north)[0]["receipts"][0]["stored"] is None


def test_a_signature_by_another_key_is_refused(pair: Pair) -> None:
    signed = sign_stored(a_statement(pair), STRANGER)
    with pytest.raises(RemoteProtocolError) as caught:
        take(pair, signed)
    assert caught.value.code is WireCode.BAD_SIGNATURE
    with pytest.raises(RemoteProtocolError):
        pair.hearing.take_untrusted(pair.peer_of(pair.south), b"junk", bytes(64))
    assert pair.count()["stored-heard"] == 0


def test_another_facility_says_nothing_about_a_transfer_that_is_not_its_own(pair: Pair) -> None:
    east = Other("East Imaging", pair.clock.now())
    peer = east.pair(pair.north, "see")
    stored = a_statement(pair, recipient_facility=east.key, recipient_node=east.node.public)
    signed = sign_stored(stored, east.node)
    with pytest.raises(RemoteProtocolError) as caught:
        pair.hearing.take_untrusted(peer, signed.body, signed.signature)
    assert caught.value.code is WireCode.NOT_AVAILABLE


def test_a_flood_of_statements_leaves_one_of_each_transfer(pair: Pair) -> None:
    for number in range(50):
        pair.clock.move(1)
        proof = ("commitment", "query", "returned")[number % 3]
        take(pair, sign_stored(a_statement(pair, proven_by=proof), pair.south.keys.node))
    [heard] = entries(pair.north, "stored-heard")
    assert heard["details"]["proven_by"] == "commitment", "the first counts"
    for number in range(60):
        with pytest.raises(RemoteProtocolError):
            take(pair, sign_stored(a_statement(pair, instances=number), STRANGER))
    assert len(entries(pair.north, "refused")) == 20
    assert pair.count()["stored-heard"] == 1


def test_the_clock_of_the_recipient_may_have_been_set_back(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "query", 12)
    pair.clock.move(-3600)
    assert pair.tell() == 1
    [heard] = entries(pair.north, "stored-heard")
    assert heard["details"]["proven_at"] == pair.clock.now()


def test_a_statement_by_a_node_key_that_was_replaced_meanwhile_counts(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "query", 12)
    assert pair.tell("request") == 1
    pair.clock.move(60)
    pair.south.rotator.change(Request(role="node", facility=pair.south.keys.facility))
    card = pair.south.card
    pair.north.peers.take_newer_card(card.encoded, card.facility_key, pair.clock.now())
    pair.clock.move(60)
    assert pair.tell() == 1
    assert pair.count() == ONCE
    assert verdict_of(pair.north, pair.south).sound is True


# --- killed at each step -----------------------------------------------------------------


def _note(pair: Pair) -> object:
    return pair.south.stored.note(STUDY, "commitment", 12)


def _tell(pair: Pair) -> object:
    return pair.tell()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("work", [_note, _tell])
def test_a_kill_at_any_commit_loses_and_doubles_nothing(
    tmp_path: Path, clock: MadeClock, work: Callable[[Pair], object], when: str
) -> None:
    killed, commit = True, 0
    while killed:
        commit += 1
        path = tmp_path / f"{commit}"
        path.mkdir()
        with opened(path, clock) as pair:
            if work is _tell:
                _note(pair)
        killed = killed_at_commit(commit, when, lambda path=path: opened(path, clock), work)
        with opened(path, clock) as pair:
            assert _note(pair)
            pair.tell()
            # A statement that waits for its answer is due at the next connection.
            pair.south.stored.connected(pair.north.card.facility_key)
            pair.tell()
            assert pair.count() == ONCE, (commit, when)
            [one] = transfers(pair.north)[0]["receipts"]
            assert one["stored"]["proven_by"] == "commitment"
            for node, other in ((pair.north, pair.south), (pair.south, pair.north)):
                assert not entries(node, "stored-told", "stored-heard", "stored")[0]["details"].get(
                    "of"
                )
                assert verdict_of(node, other).sound is True
    assert commit > 2


def test_what_it_says_is_what_it_signed(pair: Pair) -> None:
    pair.south.stored.note(STUDY, "commitment", 12)
    statement = pair.telling.next_for(pair.north.card.facility_key)
    assert statement is not None
    signed = pair.telling._signed(statement)
    stored = decode_stored_untrusted(signed.body)
    assert stored == a_statement(pair)
    assert sign_stored(stored, pair.south.keys.node) == signed
