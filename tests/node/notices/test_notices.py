"""Notices while a node runs: all that stands is told, whatever the other side does."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.clock import SYSTEM_CLOCK
from node.database import Database
from node.errors import NodeError
from node.notices import notices as at_work
from node.notices.message import Message
from node.notices.notices import Notices
from node.notices.subjects import Alert
from node.notices.told import NOTICES_SCHEMA

DISK = Alert("disk", "it is full", ("full",))


class Other:
    """A channel of which the test says what it does.

    Attributes:
        got: what it took.
        act: called with each message before it is taken; may raise or wait.
        tries: how often it was asked.
    """

    def __init__(self, kind: str = "mail") -> None:
        self.kind = kind
        self.name = f"{kind} x"
        self.place = f"{kind}.example:1"
        self.got: list[Message] = []
        self.tries = 0
        self.act: Callable[[Message], object] = lambda message: None

    async def send(self, told: Message) -> None:
        self.tries += 1
        waits = self.act(told)
        if waits is not None:
            await trio.sleep_forever()
        self.got.append(told)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_work, "LOOK_SECONDS", 0.01)


def _notices(directory: Path, *channels: Other) -> Notices:
    return Notices(
        Database(directory / "node.db", (NOTICES_SCHEMA,)),
        channels,
        "ABC",
        SYSTEM_CLOCK,
        retry_seconds=(0.01, 0.02),
        send_seconds=0.03,
    )


@asynccontextmanager
async def _running(notices: Notices, standing: Callable[[], list[Alert]]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notices.run, standing)
        yield
        nursery.cancel_scope.cancel()


async def _until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_each_channel_gets_what_stands_and_a_restart_repeats_nothing(
    tmp_path: Path,
) -> None:
    mail, hook = Other(), Other("webhook")
    for _ in range(2):
        notices = _notices(tmp_path, mail, hook)
        async with _running(notices, lambda: [DISK, Alert("offer", "one waits")]):
            await _until(lambda: mail.got and hook.got)
            looks = 0

            def look() -> bool:
                nonlocal looks
                looks += 1
                return looks > 20

            await _until(look)
    assert [one.subject for one in mail.got] == [one.subject for one in hook.got] == ["disk"]
    assert mail.got[0].id != hook.got[0].id


async def test_one_that_fails_holds_up_no_other_and_gets_it_later(tmp_path: Path) -> None:
    mail, hook = Other(), Other("webhook")

    def refuse(message: Message) -> None:
        raise NodeError("it answers 451 later")

    mail.act = refuse
    notices = _notices(tmp_path, mail, hook)
    async with _running(notices, lambda: [DISK, Alert("card", "it ends")]):
        await _until(lambda: len(hook.got) == 2 and mail.tries > 3)
        first, second = notices.describe()
        assert (first["unsent"], first["last_error"]) == (2, "it answers 451 later")
        assert first["failing_seconds"] == 0
        assert second == {
            "kind": "webhook", "place": "webhook.example:1", "sent": 2, "unsent": 0,
            "last_error": None, "failing_seconds": None,
        }  # fmt: skip
    # A restart, and the relay is still away; then it is back.
    notices = _notices(tmp_path, mail, hook)
    async with _running(notices, lambda: [DISK, Alert("card", "it ends")]):
        await _until(lambda: notices.describe()[0]["last_error"])
        mail.act = lambda message: None
        await _until(lambda: len(mail.got) == 2)
        await _until(lambda: notices.describe()[0]["unsent"] == 0)
        assert notices.describe()[0]["last_error"] is None
    assert len(hook.got) == 2


async def test_one_that_never_answers_is_left_in_time(tmp_path: Path) -> None:
    mail = Other()
    mail.act = lambda message: "waits"
    notices = _notices(tmp_path, mail)
    async with _running(notices, lambda: [DISK]):
        await _until(lambda: mail.tries > 2)
        assert "did not answer within" in notices.describe()[0]["last_error"]


async def test_a_fault_of_ours_ends_neither_the_looks_nor_a_channel(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mail, looks = Other(), 0

    def standing() -> list[Alert]:
        nonlocal looks
        looks += 1
        if looks < 4:
            raise KeyError("Doe^John")
        return [DISK]

    def fault(message: Message) -> None:
        if mail.tries < 3:
            raise ValueError("Doe^John")

    mail.act = fault
    async with _running(_notices(tmp_path, mail), standing):
        await _until(lambda: mail.got)
    assert caplog.text.count("what stands cannot be read: KeyError") == 1
    assert "ValueError in test_notices.py" in caplog.text
    assert "Doe" not in caplog.text


async def test_a_test_goes_past_the_queue_and_says_who_took_it(tmp_path: Path) -> None:
    mail, hook = Other(), Other("webhook")

    def refuse(message: Message) -> None:
        raise NodeError("it answers 500")

    hook.act = refuse
    assert await _notices(tmp_path, mail, hook).test() == [
        {"kind": "mail", "place": "mail.example:1", "error": None},
        {"kind": "webhook", "place": "webhook.example:1", "error": "it answers 500"},
    ]
    assert [one.subject for one in mail.got] == ["test"]
