"""The relay of ../shared/tools between two ends: it delays, throttles, and counts bytes."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facilities import free_port
from processes import START_SECONDS, end, is_listening

FAST = 1e12
"""Bytes a second of a relay that only counts."""


@dataclass
class Relay:
    """A running relay.

    Attributes:
        port: where it listens, on loopback.
    """

    port: int
    _process: "subprocess.Popen[bytes]"

    def counted(self) -> int:
        """Bytes that went through so far, both directions."""
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGUSR1)
        counts = json.loads(self._process.stdout.readline())
        return int(counts["up"]) + int(counts["down"])


def relay_program(shared: Path) -> Path:
    """Where the relay is, if it is there."""
    return shared / "tools" / "wan_relay.py"


@contextlib.contextmanager
def relay(
    shared: Path,
    port: int,
    *,
    delay_seconds: float = 0.0,
    bytes_per_second: float = FAST,
    listen: int | None = None,
) -> Iterator[Relay]:
    """A relay to a port of this machine; the far end need not listen yet."""
    listening = listen or free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            str(relay_program(shared)),
            str(listening),
            f"127.0.0.1:{port}",
            *("--delay", str(delay_seconds), "--rate", str(bytes_per_second)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_listening(listening):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the relay did not start")
            time.sleep(0.01)
        yield Relay(listening, process)
    finally:
        end(process)
