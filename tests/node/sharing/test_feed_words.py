"""Searching what peers announced: the words follow the records."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.catalog.catalog import CATALOG_SCHEMA, Catalog
from node.catalog.words import Search
from node.database import Database
from node.sharing.feed_words import keep_words
from node.sharing.feeds import FEEDS_SCHEMA, Feeds
from protocol import limits
from protocol.feed import Subscription
from protocol.messages import Announcement, Record

NORTH, EAST, OWN = bytes([1]) * 32, bytes([2]) * 32, bytes([9]) * 32


def record(number: int, modality: str = "CT", date: str = "20260101", **fields: Any) -> Record:
    values: dict[str, Any] = {
        "sequence": number + 1, "kind": "available", "study": f"1.2.{number}",
        "content_root": bytes(32), "series": 1, "instances": 1, "bytes": 1, "encoded_bytes": 1,
        "modalities": (modality,), "study_date": date,
    }  # fmt: skip
    return Record(**{**values, **fields})


@pytest.fixture
def feeds(tmp_path: Path) -> Iterator[Feeds]:
    database = Database(tmp_path / "node.db", (CATALOG_SCHEMA, FEEDS_SCHEMA))
    nobody: Any = None
    yield Feeds(database, Catalog(database, clock=lambda: 0.0), nobody)
    database.close()


def announce(feeds: Feeds, peer: bytes, *records: Record, reset: bool = False) -> None:
    last = max((one.sequence for one in records), default=0)
    announcement = Announcement(
        recipient=OWN, epoch=bytes(16), reset=reset, cursor=last, time=0, records=records
    )
    feeds.store_announcement(peer, announcement, Subscription(OWN, bytes(16), last))


def found(feeds: Feeds, peer: bytes | None = None, **sought: str) -> set[tuple[bytes, str]]:
    search = Search(**sought)
    rows = {(key, one.study) for key, one in feeds.announced(peer=peer, search=search)}
    assert feeds.announced_count(peer, search) == len(rows)
    return rows


def test_announced_studies_are_found_by_modality_and_date(feeds: Feeds) -> None:
    announce(feeds, NORTH, record(1), record(2, "MR"), record(3, "MR", "20260201"))
    announce(feeds, EAST, record(2, "US"))
    assert found(feeds, modality="MR") == {(NORTH, "1.2.2"), (NORTH, "1.2.3")}
    assert found(feeds, EAST, modality="MR") == set()
    assert found(feeds, modality="MR", first_date="20260115") == {(NORTH, "1.2.3")}
    assert found(feeds, last_date="20260115") == {
        (NORTH, "1.2.1"), (NORTH, "1.2.2"), (EAST, "1.2.2"),
    }  # fmt: skip


def test_words_go_with_the_record(feeds: Feeds) -> None:
    announce(feeds, NORTH, record(1), record(2))
    announce(feeds, NORTH, record(1, "MR", sequence=5), record(2, kind="withdrawn", sequence=6))
    assert found(feeds, modality="CT") == set()
    assert found(feeds, modality="MR") == {(NORTH, "1.2.1")}
    announce(feeds, NORTH, record(3), reset=True)
    assert found(feeds, modality="MR") == set()
    feeds.forget_peer(NORTH)
    assert feeds._database.query("SELECT * FROM remote_words") == []


def test_a_named_patient_is_found_where_a_record_names_one(feeds: Feeds) -> None:
    announce(feeds, NORTH, record(1), record(2))
    named = replace(record(1), patient_name="Müller^Anna", patient_id="P1")
    feeds._database.transact(lambda connection: keep_words(connection, NORTH, named))
    assert found(feeds, name="muller") == {(NORTH, "1.2.1")}
    assert found(feeds, patient_id="P1", modality="CT") == {(NORTH, "1.2.1")}
    assert found(feeds, patient_id="P1", issuer="NORTH") == set()


def test_an_announcement_is_searched_by_what_it_shows_and_by_nothing_else(feeds: Feeds) -> None:
    announce(feeds, NORTH, record(1, patient_name="Müller^Anna", patient_id="P1"))
    rows = feeds._database.query("SELECT DISTINCT kind FROM remote_words ORDER BY kind")
    kinds = [row["kind"] for row in rows]
    assert "modality" in kinds
    assert len(kinds) > 1
    # Less is shown of it now.
    announce(feeds, NORTH, record(1, sequence=5))
    rows = feeds._database.query("SELECT kind, word FROM remote_words")
    assert [tuple(row) for row in rows] == [("modality", "CT")]


def test_a_name_of_many_words_fills_the_feed_as_its_words_do(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a peer could have this node write many times what it is bounded to."""
    monkeypatch.setattr(limits, "FEED_BYTES", 100_000)
    many = " ".join(f"w{number}" for number in range(200))
    for number in range(20):
        announce(feeds, NORTH, record(number, patient_name=many))
    rows = feeds._database.query("SELECT kind, word FROM remote_words")
    assert 0 < sum(len(row["word"]) + 200 for row in rows) < 2 * 100_000
    assert feeds.left_out()[NORTH] > 0
    kept = feeds.announced_count(NORTH)
    # What goes makes room for as much.
    for number in range(20):
        announce(feeds, NORTH, record(number, kind="withdrawn", sequence=100 + number))
    [row] = feeds._database.query("SELECT records, bytes FROM remote_feeds")
    assert tuple(row) == (0, 0)
    for number in range(20):
        announce(feeds, NORTH, record(number, patient_name=many, sequence=200 + number))
    assert feeds.announced_count(NORTH) == kept
