"""Real nodes as processes over loopback, for the integration tests."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keys.card import Card
from keys.fingerprint import parse_fingerprint
from node.api.client import call
from node.errors import NodeError
from node.home import Home
from protocol.verify import Code, verify_bundle

LISTS = {"studies": "studies", "audit.show": "entries"}
"""Operations that answer in pages, and the list in their answer."""

RADMESH = [sys.executable, "-m", "node.cli"]
WAIT_SECONDS = 60.0
"""Longest wait for another process: long, as tests share the processors."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS, what: str = "") -> Any:
    """Wait for a condition of another process; its value once it is true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


class Facility:
    """One facility: a home, and a node process that can be started, stopped and killed."""

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        port: int | None = None,
        address: str = "",
        only_calls: bool = False,
    ) -> None:
        """Make its home.

        Args:
            directory: where.
            name: of the facility; the first word names its home.
            port: where it listens; a free one unless given.
            address: what its card says instead of where it listens.
            only_calls: it does not listen, and its card names no address.
        """
        self.name = name
        self.port = port or free_port()
        self.address = address or f"/ip4/127.0.0.1/tcp/{self.port}"
        self.home = Home.create(
            directory / name.split()[0].lower(),
            name=name,
            listen=(f"/ip4/127.0.0.1/tcp/{self.port}",),
            addresses=() if only_calls else (self.address,),
        )
        if only_calls:
            self._set(f'listen = ["/ip4/127.0.0.1/tcp/{self.port}"]', "listen = []")
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = directory / f"{name.split()[0].lower()}.stderr"

    def set_address(self, address: str) -> None:
        """Give it another address in its settings; its next start makes a card with it."""
        self._set(f'addresses = ["{self.address}"]', f'addresses = ["{address}"]')
        self.address = address

    def _set(self, old: str, new: str) -> None:
        settings = self.home.config_path.read_text()
        assert old in settings
        self.home.config_path.write_text(settings.replace(old, new))

    def start(self) -> None:
        """Start the node and wait until its API answers."""
        self.launch()
        self.wait_started()

    def launch(self) -> None:
        """Start the node's process."""
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*RADMESH, "--home", str(self.home.path), "serve"],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def wait_started(self) -> None:
        """Wait until the node's API answers."""
        wait_until(self.answers, what=f"start of {self.name}: {self.stderr()[-2000:]}")

    def answers(self) -> bool:
        """Whether the node's API answers and says that it is running."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {self.stderr()[-3000:]}")
        if not self.home.socket_path.exists():
            return False
        try:
            return bool(self.call("status")["running"])
        except NodeError:
            return False

    def stop(self) -> int:
        """Stop the node as an operator would; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=10)
        self.process = None
        return code

    def kill(self) -> None:
        """Power cut for the process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stderr(self) -> str:
        """All that the node wrote to its log."""
        return self.errors.read_text() if self.errors.exists() else ""

    def call(
        self,
        operation: str,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Run an operation, over the API or on the home; of a list in pages all of them."""
        listed = LISTS.get(operation, "")
        return call(
            self.home, operation, parameters, on_progress or (lambda _: None), listed=listed
        )

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as a person would."""
        done = subprocess.run(
            [*RADMESH, "--home", str(self.home.path), *words],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def cli_json(self, *words: str) -> Any:
        """Run a command with --json and read its result."""
        return json.loads(self.cli(*words, "--json").stdout)

    def trust(self, other: "Facility", *grants: str) -> None:
        """Trust another facility by its card."""
        self.trust_card(other.home.read_card(), other.name, *grants)

    def trust_card(self, card: Card, petname: str, *grants: str) -> None:
        """Trust a facility by a card, under a name."""
        self.call(
            "trust.add",
            card=card.encoded.decode(),
            fingerprint=card.fingerprint,
            grants=list(grants),
            petname=petname,
        )

    def peer(self, other: "Facility") -> dict[str, Any]:
        """What we know of another facility."""
        return self.call("trust.show", peer=other.name)

    def announced(self, other: "Facility") -> dict[str, dict[str, Any]]:
        """Studies that another facility announced to us, by UID."""
        found = self.call("studies", peer=other.name)["studies"]
        return {study["study"]: study for study in found}

    def entries(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Entries of the audit log."""
        return list(self.call("audit.show", type=kind)["entries"])

    def check_log(self, directory: Path, name: str = "", code: Code = Code.OK) -> None:
        """Export the audit log to a new file and verify it as an auditor does."""
        bundle = directory / f"{name or self.home.path.name}-log.zip"
        self.call("audit.export", path=str(bundle))
        fingerprint = parse_fingerprint(self.home.read_card().fingerprint)
        with bundle.open("rb") as file:
            verdict = verify_bundle(file, facility_fingerprint=fingerprint)
        assert verdict.code == code, verdict


@contextlib.contextmanager
def two_facilities(
    directory: Path, *, grants: tuple[str, ...] = ("see", "fetch"), start: bool = True
) -> Iterator[tuple[Facility, Facility]]:
    """North, which grants; and South, which asks. Both trusted by key, and running."""
    north, south = Facility(directory, "North General"), Facility(directory, "South Clinic")
    north.trust(south, *grants)
    south.trust(north)
    try:
        if start:
            north.start()
            south.start()
            wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        yield north, south
    finally:
        for facility in (north, south):
            if facility.process is not None:
                facility.process.kill()
                facility.process.wait()


def _configure(facility: Facility, **audit: int) -> None:
    """Write settings of the audit log."""
    lines = "".join(f"{name} = {value}\n" for name, value in audit.items())
    text = facility.home.config_path.read_text()
    facility.home.config_path.write_text(f"{text}\n[audit]\n{lines}")


@contextlib.contextmanager
def mesh(directory: Path, *names: str, **audit: int) -> Iterator[list[Facility]]:
    """Facilities that all trust and witness each other, not started."""
    everybody = [Facility(directory, name) for name in names]
    for one in everybody:
        _configure(one, **{"witness_seconds": 1, **audit})
        for other in everybody:
            if other is not one:
                one.trust(other, "see", "fetch", "witness")
    try:
        yield everybody
    finally:
        for one in everybody:
            if one.process is not None:
                one.process.kill()
                one.process.wait()
