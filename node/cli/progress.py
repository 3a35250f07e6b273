"""Progress of long work, on stderr: a bar on a terminal, else a line now and then."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from node.cli.output import note
from node.phrases import duration, size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 3.0
"""Between two lines where there is no terminal."""

UNCHANGED_SECONDS = 60.0
"""Before a line is said again that says the same: what waits for a peer may wait for days."""


class ProgressBar:
    """How far work is, in bytes.

    Use as a context manager, in one thread. `shown` is whether anything was shown.

    Args:
        label: what is done, at first.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._extra = ""
        self._done = 0
        self._total = 0
        self._began = self._said = time.monotonic()
        self._done_at_first: int | None = None
        self._said_line = ""
        self._rich: RichProgress | None = None

    def __enter__(self) -> "ProgressBar":
        if sys.stderr.isatty():
            self._rich = _rich_progress()
            self._task = self._rich.add_task(self._label, total=None, extra="")
            self._rich.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def images(self, label: str, event: dict[str, Any]) -> None:
        """Show how far files of images are written: an event of `export` or `disc.write`."""
        self.update(
            label,
            event["bytes"],
            event["bytes_total"],
            f"{event['instances']} of {event['instances_total']} images",
        )

    def update(self, label: str, done: int, total: int, extra: str = "") -> None:
        """Show how far the work is.

        Args:
            label: what is being done now; a new one begins a new bar.
            done: bytes done of it.
            total: bytes in all; 0 when unknown.
            extra: a few words more.
        """
        begins = label != self._label or self._done_at_first is None
        self._label, self._extra, self._done, self._total = label, extra, done, total
        if begins:
            self._done_at_first = done
            self._began = time.monotonic()
        if self._rich is not None:
            if begins:
                self._rich.reset(self._task)
            self._rich.update(
                self._task, description=label, completed=done, total=total or None, extra=extra
            )
        elif time.monotonic() - self._said >= PLAIN_SECONDS:
            line = self._line()
            if line == self._said_line and time.monotonic() - self._said < UNCHANGED_SECONDS:
                return
            self._said, self._said_line = time.monotonic(), line
            note(line)

    def _line(self) -> str:
        words = [f"{self._label}: {size(self._done)}"]
        if self._total:
            words[0] += f" of {size(self._total)}"
        seconds = time.monotonic() - self._began
        rate = (self._done - (self._done_at_first or 0)) / seconds if seconds > 0 else 0.0
        if rate > 0:
            words.append(f"{size(int(rate))}/s")
            if self._total > self._done:
                words.append(f"{duration((self._total - self._done) / rate)} left")
        if self._extra:
            words.append(self._extra)
        return ", ".join(words)


def _rich_progress() -> "RichProgress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[extra]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
