"""The feeds in the database: cost by changes, nothing told that must not be."""

import dataclasses
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from catalogs_made import fill, study_uid
from peers_simulated import card
from sight_made import SightMade
from studies_made import make_study

from node.app import Node
from node.errors import NodeError
from node.home import Home
from node.operations import OPERATIONS, Call
from node.sharing.feeds import Untold
from protocol import limits
from protocol.feed import NO_EPOCH, Subscription
from protocol.messages import Announcement, Record

PEER, OTHER = b"p" * 32, b"o" * 32


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "home", name="North")) as opened:
        opened.feeds.sight = SightMade({PEER})
        yield opened


def _ingest(node: Node, directory: Path, study: str = "", first: int = 1) -> str:
    study = make_study(directory, 1, study=study, rows=8, first=first)
    parameters = {"paths": [str(directory)]}
    trio.run(OPERATIONS["ingest"].answer, Call(node), parameters)
    return study


def _tell(node: Node, epoch: bytes, cursor: int) -> Untold:
    pending = node.feeds.pending(PEER, epoch, cursor)
    node.feeds.mark_told(PEER, pending.records)
    return pending


def _kinds(pending: Untold) -> list[tuple[str, str]]:
    return [(record.kind, record.study) for record in pending.records]


def test_a_new_subscriber_starts_anew_and_then_gets_only_changes(
    node: Node, tmp_path: Path
) -> None:
    first = _ingest(node, tmp_path / "a")
    start = _tell(node, NO_EPOCH, 0)
    assert start.reset
    assert _kinds(start) == [("available", first)]
    assert _tell(node, start.epoch, start.cursor).records == ()
    second = _ingest(node, tmp_path / "b")
    assert _kinds(_tell(node, start.epoch, start.cursor)) == [("available", second)]


def test_a_study_that_grew_is_told_as_changed(node: Node, tmp_path: Path) -> None:
    study = _ingest(node, tmp_path / "a")
    start = _tell(node, NO_EPOCH, 0)
    _ingest(node, tmp_path / "a", study, first=2)
    news = _tell(node, start.epoch, start.cursor)
    assert _kinds(news) == [("changed", study)]
    assert news.records[0].instances == 2


def test_a_withdrawal_is_told_once(node: Node, tmp_path: Path) -> None:
    study = _ingest(node, tmp_path / "a")
    start = _tell(node, NO_EPOCH, 0)
    node.catalog.set_shared(study, False)
    node.feeds.study_changed(study)
    news = _tell(node, start.epoch, start.cursor)
    assert _kinds(news) == [("withdrawn", study)]
    assert news.records[0].content_root == bytes(32)
    assert _tell(node, start.epoch, news.cursor).records == ()


def test_what_was_withdrawn_before_it_was_told_is_never_told(node: Node, tmp_path: Path) -> None:
    start = _tell(node, NO_EPOCH, 0)
    study = _ingest(node, tmp_path / "a")
    node.catalog.set_shared(study, False)
    assert _tell(node, start.epoch, start.cursor).records == ()


def test_losing_the_grant_withdraws_and_getting_it_announces(node: Node, tmp_path: Path) -> None:
    study = _ingest(node, tmp_path / "a")
    start = _tell(node, NO_EPOCH, 0)
    node.feeds.sight = SightMade()
    node.feeds.peer_changed(PEER)
    lost = _tell(node, start.epoch, start.cursor)
    assert _kinds(lost) == [("withdrawn", study)]
    node.feeds.sight = SightMade({PEER})
    node.feeds.peer_changed(PEER)
    assert _kinds(_tell(node, start.epoch, lost.cursor)) == [("available", study)]


def test_a_peer_without_the_grant_has_an_empty_feed(node: Node, tmp_path: Path) -> None:
    _ingest(node, tmp_path / "a")
    assert node.feeds.pending(OTHER, NO_EPOCH, 0).records == ()


@pytest.mark.parametrize("cursor", [5, 10**9])
def test_a_cursor_that_this_feed_never_gave_starts_anew(
    node: Node, tmp_path: Path, cursor: int
) -> None:
    study = _ingest(node, tmp_path / "a")
    start = _tell(node, NO_EPOCH, 0)
    again = _tell(node, start.epoch, start.cursor + cursor)
    assert again.reset
    assert _kinds(again) == [("available", study)]


def test_a_long_feed_comes_in_pieces(node: Node, tmp_path: Path) -> None:
    study = _ingest(node, tmp_path / "a")

    def change(connection: sqlite3.Connection) -> None:
        for number in range(limits.ANNOUNCE_RECORDS + 9):
            connection.execute(
                "INSERT INTO feed VALUES (?, ?, ?, 'available', ?, 0, 0, 0, 'exam')",
                (PEER, f"{study}.{number}", 100 + number, bytes(32)),
            )
        connection.execute("UPDATE feed_heads SET last_sequence=9999 WHERE peer=?", (PEER,))

    node.database.transact(change)
    first = _tell(node, NO_EPOCH, 0)
    assert first.more
    assert len(first.records) == limits.ANNOUNCE_RECORDS
    second = _tell(node, first.epoch, first.cursor)
    assert not second.reset
    assert len(second.records) == 10


# --- incoming -----------------------------------------------------------------------


def _record(sequence: int, study: str, kind: str = "available") -> Record:
    return Record(
        sequence=sequence,
        kind=kind,
        study=study,
        content_root=b"r" * 32,
        series=1,
        instances=2,
        bytes=3,
        encoded_bytes=4,
        modalities=("CT", "SR"),
        study_date="20260301",
    )


def _take(node: Node, *records: Record, reset: bool = False, peer: bytes = PEER) -> None:
    subscription = node.feeds.subscription(peer, b"u" * 32)
    announcement = Announcement(
        recipient=b"u" * 32,
        epoch=b"e" * 16,
        reset=reset,
        cursor=max(record.sequence for record in records),
        time=0,
        records=records,
    )
    subscription.take_untrusted(announcement)
    node.feeds.store_announcement(peer, announcement, subscription)


def test_what_a_peer_announced_is_kept(node: Node) -> None:
    _take(node, _record(1, "1.2.3"), _record(2, "1.2.4"), reset=True)
    _take(node, _record(3, "1.2.3", "withdrawn"))
    assert node.feeds.announced() == [(PEER, _record(2, "1.2.4"))]
    assert node.feeds.announced(peer=OTHER) == []
    assert node.feeds.announced(study="1.2.4") == [(PEER, _record(2, "1.2.4"))]
    assert node.feeds.subscription(PEER, b"u" * 32) == Subscription(b"u" * 32, b"e" * 16, 3)


def test_a_reset_forgets_what_was_known(node: Node) -> None:
    _take(node, _record(1, "1.2.3"), reset=True)
    _take(node, _record(1, "1.2.9"), reset=True)
    assert [record.study for _, record in node.feeds.announced()] == ["1.2.9"]


def test_a_peer_that_is_not_trusted_any_more_is_forgotten(node: Node) -> None:
    _take(node, _record(1, "1.2.3"), reset=True)
    node.feeds.forget_peer(PEER)
    assert node.feeds.announced() == []
    assert node.feeds.subscription(PEER, b"u" * 32).cursor == 0


def test_what_was_announced_comes_by_date_and_no_more_than_asked_for(node: Node) -> None:
    dates = {"1.2.3": "20250101", "1.2.4": "20260101", "1.2.5": "", "1.2.6": "20260101"}
    records = [
        dataclasses.replace(_record(number, study), study_date=date)
        for number, (study, date) in enumerate(dates.items(), 1)
    ]
    _take(node, *records, reset=True)
    order = ["1.2.6", "1.2.4", "1.2.3", "1.2.5"]
    assert [record.study for _, record in node.feeds.announced()] == order
    assert [record.study for _, record in node.feeds.announced(limit=2)] == order[:2]
    assert [record.study for _, record in node.feeds.announced(peer=PEER, limit=3)] == order[:3]
    assert node.feeds.announced(peer=OTHER, limit=3) == []
    counts = [node.feeds.announced_count(peer) for peer in (None, PEER, OTHER)]
    assert counts == [4, 4, 0]


def test_the_list_of_studies_is_bounded_and_says_how_many_there_are(node: Node) -> None:
    south = card(1)
    node.peers.add(south.encoded, south.fingerprint, ["see"], "South", int(time.time()))
    fill(node, 5, 1)
    own = node.catalog.study(study_uid(3))
    assert own is not None
    held = dataclasses.replace(_record(1, own.study_uid), content_root=own.content_root)
    _take(
        node, held, _record(2, study_uid(4)), _record(3, "1.2.3"), reset=True,
        peer=south.facility_key,
    )  # fmt: skip

    def ask(**parameters: object) -> dict[str, Any]:
        return trio.run(OPERATIONS["studies"].answer, Call(node), parameters)

    newest = [row.study_uid for row in node.catalog.studies()]
    assert newest == sorted(
        newest,
        key=lambda uid: (node.catalog.study(uid).study_date, uid),
        reverse=True,  # type: ignore[union-attr]
    )
    found = ask(limit=2)
    assert [study["study"] for study in found["studies"]] == newest[:2]
    assert found["total"] == 5
    both = ask(all=True, limit=2)
    assert [study["where"] == "own" for study in both["studies"]] == [True, True, False, False]
    assert both["total"] == 8
    theirs = {study["study"]: study["held"] for study in ask(peer="South")["studies"]}
    assert theirs == {study_uid(3): True, study_uid(4): False, "1.2.3": False}
    for wrong in (0, "5", True):
        with pytest.raises(NodeError, match="limit"):
            ask(limit=wrong)


def test_a_study_that_is_held_back_keeps_its_place_and_is_not_told(
    node: Node, tmp_path: Path
) -> None:
    study, hidden = _ingest(node, tmp_path / "a"), _ingest(node, tmp_path / "b")
    told = _tell(node, NO_EPOCH, 0)
    node.catalog.hold_back(study)
    node.feeds.sight = SightMade({PEER, OTHER})
    node.feeds.sight.hidden = {(PEER, hidden)}
    node.feeds.derive([PEER, OTHER])
    assert _kinds(node.feeds.pending(PEER, told.epoch, told.cursor)) == [("withdrawn", hidden)]
    assert node.feeds.may_tell(PEER, told.records) == ()
    assert _kinds(node.feeds.pending(OTHER, NO_EPOCH, 0)) == [("available", hidden)]
    node.catalog.let_go(study)
    assert [record.study for record in node.feeds.may_tell(PEER, told.records)] == [study]
    # What is hidden while it is held back is withdrawn, whatever becomes of it.
    node.catalog.hold_back(study)
    node.feeds.sight.hidden.add((PEER, study))
    node.feeds.peer_changed(PEER)
    kinds = _kinds(node.feeds.pending(PEER, told.epoch, told.cursor))
    assert kinds == [("withdrawn", hidden), ("withdrawn", study)]


def test_deriving_finds_a_content_that_no_feed_was_told_of(node: Node, tmp_path: Path) -> None:
    study = _ingest(node, tmp_path / "a")
    told = _tell(node, NO_EPOCH, 0)
    node.database.transact(
        lambda connection: connection.execute("UPDATE studies SET content_root = ?", (b"r" * 32,))
    )
    node.feeds.derive([PEER])
    assert _kinds(node.feeds.pending(PEER, told.epoch, told.cursor)) == [("changed", study)]
