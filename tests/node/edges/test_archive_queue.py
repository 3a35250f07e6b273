"""What goes to which archive: put down with the study, urgent or not, and forgotten with it."""

from collections.abc import Iterator
from pathlib import Path

import exchange_pair
import pytest
import trio
from archives_made import archive, receive_study
from clocks_made import MadeClock
from facility_in_memory import Other, publish_study

from node.app import Node
from node.edges.archive_queue import (
    DROPPED,
    FAILED,
    REFUSED,
    STORED,
    TAKEN,
    WAITS,
    ArchiveInstance,
)
from node.errors import NodeError
from node.home import Home
from node.transfer.transfers import TransferState
from protocol.recalls import RETENTION

SOUTH = Other("South Clinic", MadeClock().now())


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def north(tmp_path: Path, clock: MadeClock) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as node:
        SOUTH.pair(node)
        node.archive_queue.archives = archive(104)
        yield node


def _rows(node: Node) -> list[tuple[str, str, int]]:
    return [(one.archive, one.state, one.stat) for one in node.archive_queue.all()]


def test_a_study_is_put_down_in_the_transaction_that_publishes_it(north: Node) -> None:
    class Broken(Exception):
        pass

    def publish(_: object) -> None:
        publish_study(north)
        assert _rows(north) == [("PACS", WAITS, 0)]
        raise Broken

    with pytest.raises(Broken):
        north.database.transact(publish)
    assert _rows(north) == []
    publish_study(north)
    assert _rows(north) == [("PACS", WAITS, 0)]


def test_what_changes_in_a_study_without_new_images_puts_nothing_down(north: Node) -> None:
    queue = north.archive_queue
    queue.archives = {}
    study = publish_study(north)
    queue.archives = archive(104)
    north.shared_studies.withdraw(study)
    north.shared_studies.share(study)
    assert _rows(north) == []


@pytest.mark.parametrize(("name", "wanted"), [("South Clinic", 1), ("North Clinic", 0)])
def test_a_study_from_a_facility_goes_by_the_name_that_we_have_for_it(
    north: Node, name: str, wanted: int
) -> None:
    north.archive_queue.archives = archive(104, rules=[{"source": [f"peer:{name}"]}])
    study = _received(north)
    assert len(_rows(north)) == wanted
    # It is forgotten in the transaction that discards it.
    north.discards.discard(study, "duplicate")
    assert _rows(north) == []


def _received(north: Node) -> str:
    return receive_study(north, SOUTH.key, sources=(f"peer:{SOUTH.card.fingerprint}",))


@pytest.mark.parametrize("stat", [False, True])
def test_what_was_fetched_as_urgent_goes_as_urgent(north: Node, stat: bool) -> None:
    north.archive_queue.archives = archive(104, rules=[{"stat": True}])
    fetch = north.transfers.begin_incoming(
        exchange_pair.STUDY, SOUTH.key, "treatment", only_peer=True, stat=stat
    )
    trio.run(north.transfers.enter, fetch, TransferState.VERIFYING)
    _received(north)
    assert _rows(north) == ([("PACS", WAITS, 1)] if stat else [])


def test_what_came_in_as_urgent_is_hurried_and_nothing_is_put_down_twice(north: Node) -> None:
    queue = north.archive_queue
    queue.archives = archive(104, rules=[{"stat": True}])
    study = publish_study(north)
    assert _rows(north) == []
    queue.hurry(study)
    assert _rows(north) == [("PACS", WAITS, 1)]
    [one] = queue.all()
    queue.note(study, "PACS", [ArchiveInstance(f"{study}.1.1", TAKEN)])
    queue.sent(one, {})
    queue.hurry(study)
    # Not sent again because it is said again.
    assert [state for _, state, _ in _rows(north)] != [WAITS]


def test_what_is_written_about_a_study_that_grew_meanwhile_changes_nothing(north: Node) -> None:
    queue = north.archive_queue
    study = publish_study(north)
    [before] = queue.all()
    queue.published(study)
    [now] = queue.all()
    assert now.since > before.since
    queue.postpone(before, "the disk is full", 60)
    queue.failed(before, "refused", [])
    queue.stored(before, "query", 12)
    assert queue.all() == [now]


def test_a_pause_and_a_failure_are_dated_by_the_clock(north: Node, clock: MadeClock) -> None:
    queue = north.archive_queue
    publish_study(north)
    for _ in range(2):
        [one] = queue.all()
        queue.postpone(one, "the archive is down", 60)
        clock.move(3000)
    [one] = queue.all()
    assert (one.tries, one.failing) == (2, clock.now_ms() - 6_000_000)
    assert queue.late(3600) == 1
    assert queue.late(7200) == 0
    assert queue.next_due("PACS", stat=False) == one
    assert queue.next_due("PACS", stat=True) is None
    assert queue.next_due("PACS", stat=False, only_sent=True) is None
    assert queue.why_stays(one.study_uid) == "is on its way to an archive"
    assert queue.retry() == 1
    [again] = queue.all()
    assert (again.due, again.tries) == (clock.now_ms(), 0)


def test_an_image_under_another_identity_begins_anew(north: Node) -> None:
    queue = north.archive_queue
    study = publish_study(north)
    uid = f"{study}.1.1"
    for _ in range(3):
        queue.note(study, "PACS", [ArchiveInstance(uid, REFUSED, 0xC000, "no", "one")])
    assert queue.instances(study, "PACS")[uid].tries == 3
    queue.note(study, "PACS", [ArchiveInstance(uid, TAKEN, mark="two", digest=bytes(32))])
    assert queue.instances(study, "PACS")[uid] == ArchiveInstance(
        uid, TAKEN, mark="two", digest=bytes(32), tries=1
    )
    queue.has("PACS", [(study, uid), (study, "1.2.3")])
    assert queue.instance(study, "PACS", uid).state == STORED  # type: ignore[union-attr]
    assert queue.instance(study, "PACS", "1.2.3") is None


def test_a_study_whose_archive_has_gone_from_the_settings_can_be_dropped(north: Node) -> None:
    queue = north.archive_queue
    study = publish_study(north)
    queue.archives = {}
    with pytest.raises(NodeError, match="not said to which archive"):
        queue.ask(study, "")
    assert queue.drop(study).state == DROPPED
    with pytest.raises(NodeError, match="not on its way"):
        queue.drop(study)


def test_another_try_takes_back_nothing_that_happened_meanwhile(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what `retry` reads and what it writes, a study grew, or a person dropped it."""
    queue = north.archive_queue
    study = publish_study(north)
    read = queue.all()
    queue.published(study)
    queue.postpone(queue.all()[0], "the archive is down", 60)
    [grown] = queue.all()
    monkeypatch.setattr(queue, "all", lambda: read)
    queue.retry()
    assert queue.of_study(study) == [grown]
    queue.drop(study)
    queue.retry()
    assert [one.state for one in queue.of_study(study)] == [DROPPED]


def test_what_failed_is_tried_again_and_erased_with_its_study(north: Node) -> None:
    queue = north.archive_queue
    study = publish_study(north)
    [one] = queue.all()
    bad = ArchiveInstance(f"{study}.1.1", REFUSED, 0xC000, "no")
    queue.note(study, "PACS", [bad])
    queue.failed(one, "no", [bad])
    assert [state for _, state, _ in _rows(north)] == [FAILED]
    assert queue.late(3600) == 1
    queue.retry(study)
    assert not queue.refused()
    assert [state for _, state, _ in _rows(north)] == [WAITS]
    # While it is here it still has its way to go, whatever is erased beside the log.
    north.forget([study])
    assert [state for _, state, _ in _rows(north)] == [WAITS]
    north.discards.discard(study, RETENTION)
    north.forget([study])
    assert _rows(north) == []
    assert queue.instances(study, "PACS") == {}
