"""Progress lines of the local API: at a bounded rate, and never in the way of the result."""

import json
from typing import Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.api.server import PROGRESS_SECONDS, _Progress


class _Lines:
    """Takes what the server sends."""

    def __init__(self) -> None:
        self.progress: list[Any] = []

    async def send(self, message: Any) -> None:
        self.progress.append(json.loads(message["body"])["progress"])


async def test_an_end_is_told_at_once(autojump_clock: MockClock) -> None:
    progress, lines = _Progress(), _Lines()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(progress.forward, lines.send)
        progress.report({"done": 1})
        await wait_all_tasks_blocked()
        progress.end()
    assert lines.progress == [{"done": 1}]
    assert trio.current_time() == began


async def test_only_the_newest_of_many_is_sent(autojump_clock: MockClock) -> None:
    progress, lines = _Progress(), _Lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(progress.forward, lines.send)
        for done in (1, 2, 3):
            progress.report({"done": done})
            await wait_all_tasks_blocked()
        await trio.sleep(1.5 * PROGRESS_SECONDS)
        progress.end()
    assert lines.progress == [{"done": 1}, {"done": 3}]
