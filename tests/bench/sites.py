"""Two Radmesh nodes for a bench, and one fetch between them with what it took."""

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facilities import Facility, two_facilities, wait_until
from line_relay import Relay, relay
from processes import flush
from rivals import Line

from node import config

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, and peak memory in MB, of one process."""

    cpu: float
    peak: float

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Read from /proc."""
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        status = Path(f"/proc/{pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return cls((int(fields[11]) + int(fields[12])) / _TICKS, int(peak.split()[1]) / 1000)


@dataclass
class Sites:
    """A source that has the study and announced it, and a recipient that has not.

    Attributes:
        ingest: the report of the source's ingest.
        between: the relay that their connection goes through; None without.
    """

    source: Facility
    recipient: Facility
    ingest: dict[str, Any]
    between: Relay | None = None

    @property
    def study(self) -> str:
        """The study's UID."""
        return str(self.ingest["studies"][0]["study"])

    def fetch(self) -> dict[str, float]:
        """Fetch the study once; seconds, bytes, and CPU and memory of both nodes."""
        assert self.source.process is not None
        assert self.recipient.process is not None
        pids = {"source": self.source.process.pid, "recipient": self.recipient.process.pid}
        flush(self.source.home.path)
        before = {side: Usage.of(pid) for side, pid in pids.items()}
        counted = 0 if self.between is None else self.between.counted()
        began = time.monotonic()
        result = self.recipient.call("fetch", study=self.study)
        seconds = time.monotonic() - began
        if result["state"] != "complete":
            raise SystemExit(f"the fetch is not complete: {result}")
        figures = {
            "seconds": seconds,
            "original": float(result["bytes"]),
            "batches": float(result["wire_bytes"]),
        }
        if self.between is not None:
            figures["wire"] = float(self.between.counted() - counted)
            if figures["wire"] < figures["batches"]:
                raise SystemExit("the nodes did not talk through the relay")
        for side, pid in pids.items():
            after = Usage.of(pid)
            figures[f"{side} cpu"] = after.cpu - before[side].cpu
            figures[f"{side} peak"] = after.peak
        return figures


@contextlib.contextmanager
def direct(study: Path) -> Iterator[Sites]:
    """Two new nodes, connected, one of them with the study."""
    with (
        tempfile.TemporaryDirectory(prefix="radmesh-bench-") as directory,
        two_facilities(Path(directory), start=False) as (source, recipient),
    ):
        yield _ready(source, recipient, study)


@contextlib.contextmanager
def far_apart(study: Path, line: Line) -> Iterator[Sites]:
    """The same with a relay between them.

    The source's card names the relay's address, the recipient's one where nobody
    answers: so the recipient calls, through the relay, and the source cannot call back.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radmesh-bench-")))
        # Bound, so that no other program gets it, and not listening.
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))
        source, recipient = stack.enter_context(two_facilities(directory, start=False))
        between = stack.enter_context(
            relay(
                line.shared,
                source.port,
                delay_seconds=line.delay_seconds,
                bytes_per_second=line.bytes_per_second,
            )
        )
        _reached_at(source, between.port)
        _reached_at(recipient, nobody.getsockname()[1])
        source.trust(recipient, "see", "fetch")
        recipient.trust(source)
        yield _ready(source, recipient, study, between)


def _reached_at(facility: Facility, port: int) -> None:
    """Give a facility another address in its settings and its card."""
    home, addresses = facility.home, (f"/ip4/127.0.0.1/tcp/{port}",)
    home.config_path.write_text(config.template((facility.address,), addresses))
    home.write_card(home.renew_card(home.read_card(), home.read_keys(), addresses))


def _ready(
    source: Facility, recipient: Facility, study: Path, between: Relay | None = None
) -> Sites:
    # In another process than the node's, so that its memory is not the node's peak.
    report = source.call("ingest", paths=[str(study)])
    source.start()
    recipient.start()
    sites = Sites(source, recipient, report, between)
    wait_until(lambda: recipient.peer(source)["connected"], what="the connection")
    wait_until(lambda: sites.study in recipient.announced(source), what="the announcement")
    return sites
