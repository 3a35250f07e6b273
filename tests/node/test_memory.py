"""The C library keeps memory while a node works, and gives it back when it is quiet."""

import ctypes
import itertools
import platform
import subprocess
import sys
import time

import pytest
import trio
import trio.testing
from clocks_made import jumps_when_idle

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


_KEPT = """
from pathlib import Path
from node.memory import give_back, keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
keep_freed_memory()
held = [bytearray(1024 * 1024) for _ in range(100)]
end = bytearray(1024 * 1024)
held.clear()
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_what_the_c_library_keeps_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _KEPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 90 * 1024 * 1024


_KEPT_BY_A_THREAD = """
import threading
from pathlib import Path
from node.memory import give_back, keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
keep_freed_memory()
before = resident()
def work():
    held = [bytearray(1024 * 1024) for _ in range(50)]
    held.append(held)
both = [threading.Thread(target=work) for _ in range(2)]
[thread.start() for thread in both]
[thread.join() for thread in both]
give_back()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_what_threads_used_is_given_back_too_also_from_circles() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KEPT_BY_A_THREAD], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 10 * 1024 * 1024


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
    mock_clock: trio.testing.MockClock,
    seconds_used: list[float],
    times: int,
) -> None:
    given: list[None] = []
    used = iter([0.0, *itertools.accumulate(seconds_used)])
    monkeypatch.setattr(time, "process_time", lambda: next(used))
    monkeypatch.setattr(memory, "give_back", lambda: given.append(None))
    with jumps_when_idle(mock_clock):
        with trio.move_on_after((len(seconds_used) + 0.5) * QUIET_SECONDS):
            await give_back_when_quiet()
    assert len(given) == times


def test_what_is_loaded_is_out_of_the_collectors_way() -> None:
    code = (
        "import gc, node.app; from node.memory import spare_collector; spare_collector();"
        "print(gc.get_freeze_count(), len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    frozen, left = map(int, done.stdout.split())
    assert frozen > 20_000
    assert left < frozen / 10
