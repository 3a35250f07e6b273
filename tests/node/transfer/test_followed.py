"""What begins and ends the following of a study: the rules, in the tables that hold them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checked_home import kinds
from clocks_made import MadeClock
from following_made import EAST, NORTH, STUDY, begun, completed, enter, fetched, hear, root
from killed import killed_at_commit

from node.alerts import alerts_of
from node.app import Node
from node.catalog.patients import Described
from node.dicom.headers import StudyAttributes
from node.fsck.check import check_home
from node.home import Home
from node.transfer.followed import (
    FOLLOW_SECONDS,
    FOLLOW_UPS_A_DAY,
    MOST_SECONDS,
    Growth,
    News,
)
from node.transfer.transfers import TransferState
from protocol.recalls import REASONS


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    home = Home.create(tmp_path / "south", name="South", clock=MadeClock())
    with Node.open(home) as node:
        NORTH.pair(node)
        EAST.pair(node)
        yield node


def clock_of(node: Node) -> MadeClock:
    assert isinstance(node.clock, MadeClock)
    return node.clock


def growth(node: Node) -> Growth:
    return node.followed.growth([STUDY]).get(STUDY, Growth())


# --- when it is due ---------------------------------------------------------------------


def test_what_the_source_announces_anew_is_news_with_all_that_the_fetch_had(node: Node) -> None:
    fetched(node)
    hear(node, 3)
    expected = News(
        study=STUDY,
        peer=NORTH.key,
        purpose="research",
        only_peer=True,
        stat=True,
        root=root(3),
        more_bytes=max(0, 3000 - node.catalog.find_study(STUDY).original_bytes),
    )
    assert node.followed.news() == [expected]
    assert node.followed.news({NORTH.key: [STUDY]}) == [expected]
    assert node.followed.news({EAST.key: [STUDY], NORTH.key: ["1.2"]}) == []
    assert node.followed.take(STUDY, NORTH.key) == expected


def test_what_has_become_indexed_is_not_fetched_again(node: Node) -> None:
    """The source has removed it, and has it in its archive still: that is nothing new."""
    fetched(node)
    hear(node, 3, indexed=1)
    assert node.followed.news() == []
    assert node.followed.take(STUDY, NORTH.key) is None
    hear(node, 4)
    assert [one.root for one in node.followed.news()] == [root(4)]


def test_another_facility_that_announces_more_is_not_followed(node: Node) -> None:
    fetched(node)
    hear(node, 3, by=EAST)
    assert node.followed.news() == []
    assert node.followed.take(STUDY, EAST.key) is None


def test_all_that_a_fetch_came_from_are_followed(node: Node) -> None:
    hear(node, 2)
    hear(node, 2, by=EAST)
    completed(node, begun(node), 2, EAST)
    hear(node, 3, by=EAST)
    assert [one.peer for one in node.followed.news()] == [EAST.key]


def test_what_is_here_by_another_way_is_no_news(node: Node) -> None:
    fetched(node)
    hear(node, 3)
    [row] = node.catalog.studies()
    node.database.transact(
        lambda connection: connection.execute(
            "UPDATE remote_studies SET content_root = ?", (row.content_root.hex(),)
        )
    )
    assert node.followed.news() == []


def test_a_day_after_the_last_fetch_it_ends_and_a_follow_up_begins_another_day(node: Node) -> None:
    fetched(node)
    clock_of(node).move(FOLLOW_SECONDS - 1)
    hear(node, 3)
    assert len(node.followed.news()) == 1
    assert growth(node).until == node.clock.now() + 1
    completed(node, begun(node, wanted=3), 3)
    clock_of(node).move(FOLLOW_SECONDS - 1)
    hear(node, 4)
    assert len(node.followed.news()) == 1
    clock_of(node).move(1)
    assert node.followed.news() == []
    assert node.followed.take(STUDY, NORTH.key) is None
    assert growth(node).until == 0
    node.followed.sweep()
    assert not node.followed.is_followed(STUDY, NORTH.key)


def test_it_ends_a_week_after_somebody_asked_however_often_it_grows(node: Node) -> None:
    fetched(node)
    for day in range(1, 8):
        clock_of(node).move(FOLLOW_SECONDS - 1)
        hear(node, 2 + day)
        assert len(node.followed.news()) == 1
        completed(node, begun(node, wanted=2 + day), 2 + day)
    clock_of(node).move(MOST_SECONDS - 7 * (FOLLOW_SECONDS - 1))
    hear(node, 10)
    assert node.followed.news() == []


def test_a_follow_up_that_takes_longer_than_the_day_keeps_its_row(node: Node) -> None:
    fetched(node)
    hear(node, 3)
    follow_up = begun(node, wanted=3)
    clock_of(node).move(FOLLOW_SECONDS)
    node.followed.sweep()
    assert node.followed.is_followed(STUDY, NORTH.key)
    completed(node, follow_up, 3)
    assert growth(node).images == 3
    assert growth(node).until == node.clock.now() + FOLLOW_SECONDS


def test_a_source_that_never_stops_is_fetched_so_often_in_a_day_and_that_is_said(
    node: Node,
) -> None:
    fetched(node)
    for number in range(FOLLOW_UPS_A_DAY):
        hear(node, 3 + number)
        assert node.followed.take(STUDY, NORTH.key) is not None
        assert alerts_of(node, None) == [] or number == FOLLOW_UPS_A_DAY - 1
    hear(node, 3 + FOLLOW_UPS_A_DAY)
    assert node.followed.take(STUDY, NORTH.key) is None
    [alert] = alerts_of(node, None)
    assert f"study {STUDY} grows at North and was fetched 60 times within a day" in alert
    clock_of(node).move(FOLLOW_SECONDS - 1)
    assert node.followed.take(STUDY, NORTH.key) is None
    # A person's fetch is another matter, and does not wipe the count.
    completed(node, begun(node), 4)
    assert node.followed.take(STUDY, NORTH.key) is None
    clock_of(node).move(1)
    assert alerts_of(node, None) == []
    assert node.followed.take(STUDY, NORTH.key) is not None


# --- what ends it -----------------------------------------------------------------------


def _discard(node: Node) -> None:
    node.discards.discard(f"{STUDY}.1.1", REASONS["retention"])


def _discard_all(node: Node) -> None:
    node.discards.discard(STUDY, REASONS["retention"])


def _share_and_withdraw(node: Node) -> None:
    node.shared_studies.share(STUDY)
    assert node.followed.is_followed(STUDY, NORTH.key), "sharing on is no reason"
    node.shared_studies.withdraw(STUDY)


def _no_follow(node: Node) -> None:
    begun(node, by=EAST, follow=False)


def _cancel(node: Node) -> None:
    transfer = begun(node)
    transfer.follow = False
    enter(node, transfer, TransferState.CANCELLED)


def _refused(node: Node) -> None:
    hear(node, 3)
    enter(node, begun(node, wanted=3), TransferState.REFUSED)


ENDS: dict[str, Callable[[Node], object]] = {
    "the source withdraws it": lambda node: hear(node, 3, "withdrawn"),
    "the source recalls something of it": lambda node: hear(node, 3, recalls=1),
    "something of it is discarded here": _discard,
    "it is discarded here": _discard_all,
    "it is withdrawn here": _share_and_withdraw,
    "the peer is revoked": lambda node: node.peers.revoke("North", [], node.clock.now()),
    "it is erased": lambda node: node.forget([STUDY]),
    "a fetch is asked for with --no-follow": _no_follow,
    "an operator cancels a fetch": _cancel,
    "the source refuses": _refused,
}


@pytest.mark.parametrize("why", ENDS)
def test_it_ends_and_nothing_but_a_persons_fetch_begins_it_again(node: Node, why: str) -> None:
    fetched(node)
    hear(node, 3)
    under_way = begun(node, wanted=3)
    ENDS[why](node)
    assert not node.followed.is_followed(STUDY, NORTH.key)
    assert growth(node).until == 0
    hear(node, 4)
    assert node.followed.news() == []
    # A follow-up that was under way begins it no more.
    under_way.contributions.clear()
    if node.catalog.study(STUDY) is not None:
        node.transfers.contribution(under_way, NORTH.key).content_root = root(4)
        node.transfers.contribution(under_way, NORTH.key).batches = 1
    enter(node, under_way, TransferState.COMPLETE)
    assert not node.followed.is_followed(STUDY, NORTH.key)
    assert "followed-unknown" not in kinds(check_home(node.home.path, now=node.clock.now()))


def test_recalls_from_before_a_fetch_do_not_end_what_it_begins(node: Node) -> None:
    fetched(node, recalls=2)
    hear(node, 3, recalls=2)
    assert len(node.followed.news()) == 1
    hear(node, 4, recalls=3)
    assert node.followed.news() == []


def test_a_fetch_without_following_is_not_followed(node: Node) -> None:
    hear(node, 2)
    completed(node, begun(node, follow=False), 2)
    hear(node, 3)
    assert node.followed.news() == []
    assert growth(node) == Growth()


def test_what_failed_is_not_tried_again_until_there_is_more(node: Node) -> None:
    fetched(node)
    hear(node, 3)
    enter(node, begun(node, wanted=3), TransferState.FAILED)
    assert node.followed.news() == []
    assert node.followed.is_followed(STUDY, NORTH.key)
    hear(node, 4)
    # It may not be known any more, over a restart, what was wanted: then what is announced.
    failed = begun(node, wanted=4)
    failed.wanted_root = b""
    enter(node, failed, TransferState.FAILED)
    assert node.followed.news() == []
    hear(node, 5)
    assert [one.root for one in node.followed.news()] == [root(5)]


def test_a_source_that_gives_another_content_than_it_announces_is_asked_once(node: Node) -> None:
    fetched(node)
    hear(node, 3)
    completed(node, begun(node, wanted=3), 4)
    assert node.followed.news() == []
    hear(node, 5)
    follow_up = begun(node, wanted=5)
    node.transfers.contribution(follow_up, EAST.key).content_root = root(4)
    node.transfers.contribution(follow_up, EAST.key).batches = 1
    enter(node, follow_up, TransferState.COMPLETE)
    assert node.followed.news() == []


# --- what is shown ----------------------------------------------------------------------


def test_growth_is_counted_from_the_fetch_that_somebody_asked_for(node: Node) -> None:
    fetched(node)
    assert growth(node).images == 0
    for number in (3, 5):
        clock_of(node).move(60)
        hear(node, number)
        completed(node, begun(node, wanted=number), number)
        assert growth(node) == Growth(
            before=2,
            images=number,
            grown=node.clock.now_ms(),
            until=node.clock.now() + FOLLOW_SECONDS,
        )
    grown = growth(node).grown
    clock_of(node).move(60)
    hear(node, 6)
    completed(node, begun(node, wanted=6), 5)
    assert growth(node).grown == grown, "nothing new came"
    completed(node, begun(node), 6)
    assert growth(node).images == 0, "who fetches it sees what there is"
    node.forget([STUDY])
    assert growth(node) == Growth()
    node.followed.sweep()


def test_what_grew_is_known_until_the_study_goes(node: Node) -> None:
    fetched(node)
    hear(node, 3)
    completed(node, begun(node, wanted=3), 3)
    clock_of(node).move(10 * MOST_SECONDS)
    node.followed.sweep()
    assert (growth(node).before, growth(node).images, growth(node).until) == (2, 3, 0)
    _discard_all(node)
    assert growth(node) == Growth()


def test_a_grown_study_that_waits_to_be_checked_is_an_alert(node: Node) -> None:
    fetched(node)
    hear(node, 3)
    completed(node, begun(node, wanted=3), 3)
    assert alerts_of(node, None) == []
    node.database.transact(
        lambda connection: connection.execute(
            "UPDATE studies SET to_check = 'its images name 2 Patient IDs'"
        )
    )
    [alert] = alerts_of(node, None)
    assert alert.startswith(f"study {STUDY} has grown at its source, and is withheld: its images")
    node.shared_studies.withdraw(STUDY)
    assert alerts_of(node, None) == []


# --- whose it is ------------------------------------------------------------------------


def test_a_shared_study_without_a_name_is_not_shared_on_with_one(node: Node) -> None:
    """It may have been shared because it names nobody."""
    fetched(node)
    node.database.transact(lambda connection: connection.execute("DELETE FROM study_patients"))
    named = Described([StudyAttributes(STUDY, "P1", *[""] * 10)])
    assert node.catalog.foresee(STUDY, named, received=True)[1] == ""
    node.shared_studies.share(STUDY)
    why = "its new images name a patient, and those before named none"
    assert node.catalog.foresee(STUDY, named) == (("P1",), "")
    assert node.catalog.foresee(STUDY, named, received=True) == (("P1",), why)
    assert node.catalog.foresee(STUDY, Described(), received=True) == ((), "")
    assert node.catalog.foresee("1.2", named, received=True)[1] == ""


# --- killed at every commit -------------------------------------------------------------


def _grow(node: Node) -> None:
    """A fetch, its growth, and each a follow-up that was counted, to the end."""
    fetched(node)
    hear(node, 3)
    assert node.followed.take(STUDY, NORTH.key) is not None
    completed(node, begun(node, wanted=3), 3)
    hear(node, 4)
    _discard(node)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit_a_complete_fetch_is_followed_and_nothing_else(
    tmp_path: Path, when: str
) -> None:
    states, commit, killed = set(), 0, True
    while killed:
        commit += 1
        home = Home.create(tmp_path / f"{when}-{commit}", name="South", clock=MadeClock())
        with Node.open(home) as node:
            NORTH.pair(node)
            EAST.pair(node)
        killed = killed_at_commit(commit, when, lambda home=home: Node.open(home), _grow)
        with Node.open(home) as node:
            past = [one.state for one in node.transfers.recent()]
            complete = past.count(TransferState.COMPLETE)
            is_discarded = node.catalog.last_discard(STUDY) >= 0
            is_followed = node.followed.is_followed(STUDY, NORTH.key)
            assert is_followed is (complete > 0 and not is_discarded)
            assert growth(node).images == (3 if complete == 2 else 0)
            announced = node.feeds.announced_by(NORTH.key, STUDY)
            newest = 0 if announced is None else announced.sequence
            assert bool(node.followed.news()) is (is_followed and newest > 1 + complete)
            found = kinds(check_home(home.path, now=node.clock.now()))
            assert "followed-unknown" not in found
            states.add((complete, is_followed, is_discarded))
    assert states == {(0, False, False), (1, True, False), (2, True, False), (2, False, True)}
