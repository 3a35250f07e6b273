"""What was told of what stands: once, in time, and across restarts."""

from pathlib import Path

import pytest
from clocks_made import MadeClock

from node.database import Database
from node.errors import NodeError
from node.notices.message import message_of
from node.notices.subjects import SEVERITIES, SUBJECTS, Alert, document
from node.notices.told import (
    AGAIN_SECONDS,
    GIVE_UP_SECONDS,
    KEYS,
    NOTICES_SCHEMA,
    PAUSE_SECONDS,
    Notice,
    Told,
)
from protocol.errors import RemoteProtocolError

MAIL, HOOK = "mail 1", "webhook 2"


class Site:
    """A database with what was told in it, opened again and again."""

    def __init__(self, directory: Path, channels: tuple[str, ...] = (MAIL,)) -> None:
        self.clock = MadeClock()
        self.path = directory / "node.db"
        self.channels = channels
        self.database = Database(self.path, (NOTICES_SCHEMA,))
        self.told = Told(self.database, self.clock, channels)

    def restart(self, *channels: str) -> None:
        self.database.close()
        self.database = Database(self.path, (NOTICES_SCHEMA,))
        self.told = Told(self.database, self.clock, channels or self.channels)

    def look(self, *alerts: Alert, channel: str = MAIL) -> list[Notice]:
        """What is to be sent then."""
        self.told.look(alerts)
        return self.told.unsent(channel)

    def told_of(self, *alerts: Alert) -> list[tuple[str, tuple[str, ...]]]:
        """What is new, and is sent."""
        found = self.look(*alerts)
        for notice in found:
            self.told.sent(notice)
        return [(notice.subject, notice.keys) for notice in found]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def asks(*numbers: int) -> Alert:
    return Alert("approval", "some wait", tuple(map(str, numbers)), lambda keys: [len(keys) + 40])


DISK = Alert("disk", "it is full", ("full",))


def test_what_stands_is_told_once_and_what_is_new_again(site: Site) -> None:
    assert site.told_of(asks(7), DISK) == [("approval", ("7",)), ("disk", ("full",))]
    for restart in (False, True):
        if restart:
            site.restart()
        site.clock.move(PAUSE_SECONDS)
        assert site.told_of(asks(7), DISK) == []
    assert site.told_of(asks(9, 8, 7), DISK) == [("approval", ("9", "8"))]
    site.clock.move(PAUSE_SECONDS)
    # A request that was answered changes nothing; nor does what does not go out.
    assert site.told_of(asks(9), DISK, Alert("offer", "one waits")) == []


def test_at_most_one_a_minute_and_subject(site: Site) -> None:
    assert site.told_of(asks(1)) == [("approval", ("1",))]
    site.clock.move(PAUSE_SECONDS - 1)
    assert site.told_of(asks(2, 1), DISK) == [("disk", ("full",))]
    site.restart()
    assert site.told_of(asks(3, 2, 1), DISK) == []
    site.clock.move(1)
    # What came up meanwhile is told together.
    assert site.told_of(asks(3, 2, 1), DISK) == [("approval", ("3", "2"))]


def test_one_unsent_notice_a_subject_is_all_that_waits(site: Site) -> None:
    [first] = site.look(asks(1))
    for number in range(2, 50):
        site.clock.move(PAUSE_SECONDS)
        assert site.look(asks(*range(1, number + 1))) == [first]
    site.restart()
    assert site.look(asks(*range(1, 50))) == [first]
    site.told.sent(first)
    # By the time at which it went, not at which it was made.
    assert site.look(asks(*range(1, 50))) == []
    site.clock.move(PAUSE_SECONDS)
    [second] = site.look(asks(*range(1, 50)))
    assert second.keys == tuple(map(str, range(2, 50)))
    assert second.id != first.id
    assert message_of(second, "F").count == 48


def test_a_kill_between_sending_and_noting_it_sends_the_same_once_more(site: Site) -> None:
    [notice] = site.look(asks(1))
    assert notice.entries == (41,)
    # Sent, and the node is killed here.
    site.restart()
    assert site.look(asks(1)) == [notice]
    site.told.sent(notice)
    site.restart()
    assert site.look(asks(1)) == []


def test_what_has_gone_and_comes_back_is_told_again_but_not_at_once(site: Site) -> None:
    assert site.told_of(DISK)
    site.clock.move(PAUSE_SECONDS)
    assert site.told_of() == []
    site.restart()
    for _ in range(AGAIN_SECONDS // PAUSE_SECONDS - 2):
        site.clock.move(PAUSE_SECONDS)
        assert site.told_of(DISK) == []
    site.clock.move(PAUSE_SECONDS)
    assert site.told_of(DISK) == [("disk", ("full",))]
    # Gone for long: it is forgotten, and new when it comes.
    site.clock.move(AGAIN_SECONDS)
    assert site.told_of() == []
    assert site.database.query("SELECT * FROM notices_told") == []
    assert site.told_of(DISK) == [("disk", ("full",))]
    # What stands all the time is not told again however long it stands.
    site.clock.move(30 * AGAIN_SECONDS)
    assert site.told_of(DISK) == []


def test_a_notice_is_given_up_after_a_day_and_what_still_stands_gets_a_new_one(site: Site) -> None:
    site.look(asks(1), DISK)
    site.clock.move(GIVE_UP_SECONDS - 1)
    assert site.told.give_up_old() == []
    site.clock.move(1)
    assert {one.subject for one in site.told.give_up_old()} == {"approval", "disk"}
    assert [one.subject for one in site.look(DISK)] == ["disk"]


def test_each_channel_is_told_and_a_new_one_from_the_beginning(tmp_path: Path) -> None:
    site = Site(tmp_path, (MAIL, HOOK))
    assert site.told_of(DISK)
    [waiting] = site.look(DISK, channel=HOOK)
    site.restart(HOOK, "mail 3")
    assert site.look(DISK, channel=HOOK) == [waiting]
    assert [one.subject for one in site.look(DISK, channel="mail 3")] == ["disk"]
    assert site.told.unsent(MAIL) == []
    assert {row["channel"] for row in site.database.query("SELECT * FROM notices_told")} == {
        HOOK,
        "mail 3",
    }


def test_a_disk_that_takes_no_writes_holds_up_no_notice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(work: object) -> None:
        raise NodeError("the disk is full")

    monkeypatch.setattr(site.database, "transact", failing)
    assert site.told_of(DISK) == [("disk", ("full",))]
    site.clock.move(PAUSE_SECONDS)
    assert site.told_of(DISK) == []
    monkeypatch.undo()
    # With the next change all of it is on the disk.
    assert site.told_of(DISK, asks(1)) == [("approval", ("1",))]
    site.restart()
    site.clock.move(PAUSE_SECONDS)
    assert site.told_of(DISK, asks(1)) == []


def test_entries_that_cannot_be_read_hold_up_no_notice(site: Site) -> None:
    def damaged(keys: object) -> list[int]:
        raise RemoteProtocolError("the entry is too large")

    [notice] = site.look(Alert("approval", "one waits", ("1",), damaged))
    assert notice.entries == ()


def test_a_clock_that_was_ahead_does_not_hold_up_what_is_new(site: Site) -> None:
    site.clock.move(10 * 24 * 3600)
    assert site.told_of(asks(1))
    site.clock.move(-10 * 24 * 3600)
    site.restart()
    assert site.told_of(asks(2, 1)) == [("approval", ("2",))]


def test_no_more_than_so_many_of_one_subject_are_told_apart(site: Site) -> None:
    assert len(site.told_of(asks(*range(10 * KEYS)))[0][1]) == KEYS


def test_the_table_of_subjects() -> None:
    for subject in SUBJECTS.values():
        assert subject.severity in SEVERITIES
        assert subject.outside(1) == subject.one
        assert subject.outside(3) == (f"3 {subject.many}" if subject.many else subject.one)
        for text in (subject.one, subject.todo):
            assert text
            assert not text.endswith(".")
            assert text.isprintable()
    assert {one.name for one in SUBJECTS.values() if one.goes_out} == {
        "approval", "break-glass", "forward", "disk", "quota", "card", "certificate", "in-doubt",
        "log",
    }  # fmt: skip
    assert document()
