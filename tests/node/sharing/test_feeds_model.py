"""A feed against a model: whatever changes, each peer knows what it may, and learned no more."""

import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sight_made import SightMade

from node.catalog.catalog import CATALOG_SCHEMA, Catalog
from node.database import Database
from node.sharing.feeds import FEEDS_SCHEMA, Feeds
from protocol import limits
from protocol.feed import NO_EPOCH
from protocol.messages import Announcement, Record

# One is the beginning of another, so that no comparison but equality will do.
STUDIES = ("1.2", "1.2.3", "1.2.4")
PEERS = (b"e" * 32, b"n" * 32, b"s" * 32)

ACTS = st.one_of(
    st.tuples(st.just("share"), st.sampled_from(STUDIES), st.integers(1, 3)),
    st.tuples(st.just("withdraw"), st.sampled_from(STUDIES), st.just(0)),
    st.tuples(st.just("see"), st.sampled_from(PEERS), st.just(0)),
    st.tuples(st.just("blind"), st.sampled_from(PEERS), st.just(0)),
    st.tuples(st.just("hide"), st.sampled_from(PEERS), st.integers(0, 2)),
    st.tuples(st.just("show"), st.sampled_from(PEERS), st.integers(0, 2)),
    st.tuples(st.just("hear"), st.sampled_from(PEERS), st.integers(1, 2)),
    st.tuples(st.just("lose"), st.sampled_from(PEERS), st.just(0)),
    st.tuples(st.just("again"), st.sampled_from(PEERS), st.integers(0, 2)),
    st.tuples(st.just("derive"), st.just(""), st.just(0)),
)


@dataclass
class Listener:
    """What one peer has heard, and where it stands."""

    epoch: bytes = NO_EPOCH
    cursor: int = 0
    known: dict[str, bytes] = field(default_factory=dict)
    ever: set[str] = field(default_factory=set)


def _feeds(database: Database, sight: SightMade | None = None) -> Feeds:
    return Feeds(database, Catalog(database, clock=lambda: 0), sight or SightMade())


class Model:
    """The feeds of a node, and what each peer may know."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sight = SightMade()
        self.shared: dict[str, bytes] = {}
        self.listeners = {peer: Listener() for peer in PEERS}
        self.feeds = _feeds(database, self.sight)

    def share(self, study: str, version: int) -> None:
        root = bytes([version]) * 32

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM studies WHERE study_uid=?", (study,))
            connection.execute(
                "INSERT INTO studies VALUES (?,'','','','','','','','','','','',1,'local',0,1,"
                "?,1,1,10,10,'CT','','','')",
                (study, root),
            )
            self.feeds.study_changed(study)

        self._database.transact(change)
        self.shared[study] = root

    def withdraw(self, study: str, _: int) -> None:
        def change(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE studies SET shared=0 WHERE study_uid=?", (study,))
            self.feeds.study_changed(study)

        self._database.transact(change)
        self.shared.pop(study, None)

    def see(self, peer: bytes, _: int) -> None:
        self.sight.seeing.add(peer)
        self.feeds.peer_changed(peer)

    def blind(self, peer: bytes, _: int) -> None:
        self.sight.seeing.discard(peer)
        self.feeds.peer_changed(peer)

    def hide(self, peer: bytes, number: int) -> None:
        """A rule of the peer leaves out one study."""
        self.sight.hidden.add((peer, STUDIES[number]))
        self.feeds.peer_changed(peer)

    def show(self, peer: bytes, number: int) -> None:
        self.sight.hidden.discard((peer, STUDIES[number]))
        self.feeds.peer_changed(peer)

    def may_know(self, peer: bytes) -> dict[str, bytes]:
        if peer not in self.sight.seeing:
            return {}
        hidden = {study for one, study in self.sight.hidden if one == peer}
        return {study: root for study, root in self.shared.items() if study not in hidden}

    def lose(self, peer: bytes, _: int) -> None:
        """The peer's disk is a new one."""
        listener = self.listeners[peer]
        listener.epoch, listener.cursor = NO_EPOCH, 0

    def again(self, peer: bytes, number: int) -> None:
        """Something that was set aside is told once more."""
        self.feeds.announce_again(peer, [STUDIES[number]])

    def derive(self, *_: object) -> None:
        self.feeds.derive(PEERS)

    def hear(self, peer: bytes, most: int) -> None:
        """One announcement, as the announcer makes it."""
        listener = self.listeners[peer]
        pending = self.feeds.pending(peer, listener.epoch, listener.cursor, most)
        assert len(pending.records) <= most
        told = self.feeds.may_tell(peer, pending.records)
        assert told == pending.records, "a feed that is up to date holds nothing else"
        self.feeds.mark_told(peer, self.feeds.unlogged(peer, told))
        assert self.feeds.unlogged(peer, told) == ()
        if pending.reset:
            listener.known.clear()
        sequences = [record.sequence for record in told]
        assert sequences == sorted(set(sequences))
        for record in told:
            if record.kind == "withdrawn":
                assert record.study in listener.ever, "it never learned of it"
                listener.known.pop(record.study, None)
            else:
                assert record.content_root == self.shared[record.study]
                listener.known[record.study] = record.content_root
                listener.ever.add(record.study)
        listener.epoch, listener.cursor = pending.epoch, pending.cursor

    def check(self) -> None:
        """Heard out, each peer knows what it may; and what is told is told once."""
        for peer, listener in self.listeners.items():
            for _ in range(3 * len(STUDIES)):
                self.hear(peer, 2)
            assert listener.known == self.may_know(peer)
            last = self.feeds.pending(peer, listener.epoch, listener.cursor)
            assert (last.records, last.reset, last.more) == ((), False, False)
        before = self._rows()
        self.feeds.derive(PEERS)
        assert self._rows() == before, "what follows from grants and catalog is there already"

    def _rows(self) -> list[tuple[object, ...]]:
        rows = self._database.query("SELECT * FROM feed ORDER BY peer, study")
        return [tuple(row) for row in rows]


@settings(max_examples=60)
@given(acts=st.lists(ACTS, max_size=25))
def test_each_peer_knows_what_it_may_and_learned_no_more(
    acts: list[tuple[str, object, int]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        database = Database(Path(directory) / "node.db", (CATALOG_SCHEMA, FEEDS_SCHEMA))
        # What a power cut would leave is for other tests.
        database.query_one("PRAGMA synchronous=OFF")
        model = Model(database)
        for what, subject, number in acts:
            act: Callable[[object, int], None] = getattr(model, what)
            act(subject, number)
        model.check()
        database.close()


# --- what peers announce ---------------------------------------------------------------


def _record(sequence: int, study: str, kind: str = "available", **more: object) -> Record:
    fields: dict[str, object] = {
        "sequence": sequence,
        "kind": kind,
        "study": study,
        "content_root": bytes(32),
        "series": 1,
        "instances": 1,
        "bytes": 1,
        "encoded_bytes": 1,
        "modalities": ("CT",),
        "study_date": "20260301",
    }
    return Record(**{**fields, **more})  # type: ignore[arg-type]


@settings(max_examples=40)
@given(
    said=st.lists(
        st.tuples(
            st.sampled_from(PEERS[:2]),
            st.sampled_from(STUDIES),
            st.sampled_from(("available", "changed", "withdrawn")),
            st.booleans(),
        ),
        max_size=15,
    )
)
def test_what_each_peer_announced_is_kept_apart(said: list[tuple[bytes, str, str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        database = Database(Path(directory) / "node.db", (CATALOG_SCHEMA, FEEDS_SCHEMA))
        database.query_one("PRAGMA synchronous=OFF")
        feeds = _feeds(database)
        model: dict[bytes, dict[str, int]] = {peer: {} for peer in PEERS}
        for sequence, (peer, study, kind, reset) in enumerate(said, 1):
            subscription = feeds.subscription(peer, bytes(32))
            announcement = Announcement(
                recipient=bytes(32),
                epoch=peer[:16],
                reset=reset or subscription.epoch == NO_EPOCH,
                cursor=sequence,
                time=0,
                records=(_record(sequence, study, kind),),
            )
            subscription.take_untrusted(announcement)
            feeds.store_announcement(peer, announcement, subscription)
            if announcement.reset:
                model[peer].clear()
            model[peer].pop(study, None)
            if kind != "withdrawn":
                model[peer][study] = sequence
            again = feeds.subscription(peer, bytes(32))
            assert (again.epoch, again.cursor) == (peer[:16], sequence)
        for peer in PEERS:
            kept = feeds.announced(peer=peer)
            assert {one.study: one.sequence for _, one in kept} == model[peer]
            assert feeds.announced_count(peer) == len(model[peer])
            assert feeds.announced_studies("1.2", peer=peer, limit=9) == sorted(model[peer])
            for study in STUDIES:
                found = feeds.announced_by(peer, study)
                assert (None if found is None else found.sequence) == model[peer].get(study)
        for study in STUDIES:
            told = {peer for peer, _ in feeds.announced(study=study)}
            assert told == {peer for peer in PEERS if study in model[peer]}
        everything = {study for known in model.values() for study in known}
        assert feeds.announced_studies("1.2", peer=None, limit=9) == sorted(everything)
        assert feeds.announced_studies("1.2.3", peer=None, limit=9) == sorted(
            everything & {"1.2.3"}
        )
        assert len(feeds.announced_studies("1", peer=None, limit=1)) == min(1, len(everything))
        assert feeds.announced_count() == sum(map(len, model.values()))
        [rows] = database.query("SELECT sum(records), sum(bytes) FROM remote_feeds")
        [lying] = database.query("SELECT count(*), sum(length(record)) FROM remote_studies")
        assert (rows[0] or 0, rows[1] or 0) == (lying[0], lying[1] or 0)
        feeds.forget_peer(PEERS[0])
        assert feeds.announced_count() == len(model[PEERS[1]])
        assert feeds.subscription(PEERS[0], bytes(32)).epoch == NO_EPOCH
        database.close()


def test_a_feed_is_told_in_pieces_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.db", (CATALOG_SCHEMA, FEEDS_SCHEMA))
    model = Model(database)
    model.see(PEERS[0], 0)
    for study in STUDIES:
        model.share(study, 1)
    for most, more in ((1, True), (2, True), (3, False), (limits.ANNOUNCE_RECORDS, False)):
        pending = model.feeds.pending(PEERS[0], NO_EPOCH, 0, most)
        assert (len(pending.records), pending.more) == (min(most, 3), more)
        assert pending.cursor == pending.records[-1].sequence
    database.close()


def test_the_last_record_that_fits_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(tmp_path / "node.db", (CATALOG_SCHEMA, FEEDS_SCHEMA))
    feeds, peer = _feeds(database), PEERS[0]

    def announce(sequence: int, *records: Record) -> None:
        subscription = feeds.subscription(peer, bytes(32))
        announcement = Announcement(
            recipient=bytes(32),
            epoch=b"e" * 16,
            reset=sequence == 1,
            cursor=sequence,
            time=0,
            records=records,
        )
        subscription.take_untrusted(announcement)
        feeds.store_announcement(peer, announcement, subscription)

    announce(1, _record(1, "1.2.1"))
    [row] = database.query("SELECT bytes FROM remote_feeds")
    # Two of the same size fill it to the last byte.
    monkeypatch.setattr(limits, "FEED_BYTES", 2 * row["bytes"])
    announce(2, _record(2, "1.2.2"))
    assert (feeds.announced_count(), feeds.left_out()) == (2, {})
    announce(3, _record(3, "1.2.3"))
    assert (feeds.announced_count(), feeds.left_out()) == (2, {peer: 1})
    # What is replaced makes room for itself.
    announce(4, _record(4, "1.2.1", "changed"))
    assert feeds.announced_count() == 1 + 1
    assert feeds.left_out() == {peer: 1}
    monkeypatch.setattr(limits, "FEED_RECORDS", 2)
    monkeypatch.setattr(limits, "FEED_BYTES", 1 << 30)
    announce(5, _record(5, "1.2.5"))
    assert (feeds.announced_count(), feeds.left_out()) == (2, {peer: 2})
    database.close()
