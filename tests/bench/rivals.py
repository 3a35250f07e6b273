"""What the other tools have in common, and how one of them is measured.

A tool is timed from the start of its command to the end of the flush of what it
wrote. Before that everything else on the disk is flushed, and afterwards all
files must be there: a tool that lost one is not fast but broken.
"""

import abc
import contextlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from corpus import content
from line_relay import FAST, relay
from processes import flush, program


@dataclass(frozen=True)
class Line:
    """A relay between the ends of a tool.

    Attributes:
        shared: where the relay's program is.
        delay_seconds: one way.
        bytes_per_second: each way.
    """

    shared: Path
    delay_seconds: float = 0.0
    bytes_per_second: float = FAST


@dataclass(frozen=True)
class Sent:
    """One study sent.

    Attributes:
        seconds: with the receiver's flush.
        wire_bytes: both directions; None when there was no relay to count them.
    """

    seconds: float
    wire_bytes: int | None


class Tool(abc.ABC):
    """A tool that moves a directory of images.

    Attributes:
        name: in tables.
        encrypted: whether it is on the wire.
        slow: takes minutes for a study; measured only when asked for, and once.
        programs: what it needs, and the Debian package that brings each.
    """

    name: str
    encrypted: bool
    slow = False
    programs: tuple[tuple[str, str], ...]

    @abc.abstractmethod
    def serve(self, directory: Path, landed: Path) -> AbstractContextManager[int]:
        """The receiver, listening on the port that is given; writes into `landed`."""

    @abc.abstractmethod
    def send(self, directory: Path, source: Path, port: int, landed: Path) -> None:
        """Send the images in `source`; `directory` has the receiver's keys."""

    def prepare(self, directory: Path, source: Path, port: int) -> AbstractContextManager[None]:
        """What a sender needs before it can send; not timed."""
        return contextlib.nullcontext()

    def arrived(self, landed: Path) -> int:
        """How many images the receiver has."""
        return content(landed)[0]

    def missing(self) -> list[str]:
        """Debian packages that are not installed."""
        return sorted({package for name, package in self.programs if not program(name)})

    def measure(self, source: Path, line: Line | None = None) -> Sent:
        """Send one study to a new receiver."""
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rival-")))
            landed = directory / "landed"
            landed.mkdir()
            port = stack.enter_context(self.serve(directory, landed))
            between = None
            if line is not None:
                between = stack.enter_context(
                    relay(
                        line.shared,
                        port,
                        delay_seconds=line.delay_seconds,
                        bytes_per_second=line.bytes_per_second,
                    )
                )
                port = between.port
            stack.enter_context(self.prepare(directory, source, port))
            flush(directory)
            began = time.monotonic()
            self.send(directory, source, port, landed)
            flush(landed)
            seconds = time.monotonic() - began
            if self.arrived(landed) != content(source)[0]:
                raise SystemExit(f"{self.name} lost images")
            return Sent(seconds, None if between is None else between.counted())


def installed(tools: list[Tool]) -> Iterator[Tool]:
    """Those that can run here; says which package is missing for the others."""
    for tool in tools:
        missing = tool.missing()
        if missing:
            print(f"{tool.name}: skipped, Debian packages: {' '.join(missing)}\n")
        else:
            yield tool
