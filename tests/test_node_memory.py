"""The C library keeps memory while a node works, and gives it back when it is quiet."""

import ctypes
import platform
import subprocess
import sys
import time

import pytest
import trio
import trio.testing

from node import memory
from node.memory import QUIET_SECONDS, give_back_when_quiet, keep_freed_memory


def test_glibc_takes_the_settings() -> None:
    # In a process of its own: they would stay for all other tests.
    code = "from node.memory import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()


def test_the_c_library_of_this_system_gives_memory_back() -> None:
    code = "from node.memory import give_back; print(give_back(), give_back())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The second time nothing is left to give.
    assert done.stdout.split()[1] == "False"


@pytest.mark.parametrize(
    ("seconds_used", "times"),
    [
        ([0.1, 0.1, 0.1], 0),
        ([5.0, 5.0, 5.0], 0),
        ([5.0, 5.0, 0.1, 0.1, 0.1], 1),
        ([5.0, 0.1, 5.0, 0.1], 2),
    ],
)
async def test_it_is_given_back_once_when_work_has_ended(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    seconds_used: list[float],
    times: int,
) -> None:
    given: list[float] = []
    used = iter([0.0, *(sum(seconds_used[: at + 1]) for at in range(len(seconds_used)))])
    monkeypatch.setattr(time, "process_time", lambda: next(used))

    async def give(_: object) -> None:
        given.append(trio.current_time())

    monkeypatch.setattr(memory, "in_thread", give)
    with trio.move_on_after((len(seconds_used) + 0.5) * QUIET_SECONDS):
        await give_back_when_quiet()
    assert len(given) == times
