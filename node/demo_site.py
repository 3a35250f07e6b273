"""One facility of the demonstration: a home, and its node in a process of its own.

Everything is done through the command line, as an operator would do it.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.api.client import is_running
from node.errors import ExitCode, NodeError
from node.home import Home

START_SECONDS = 30.0
STOP_SECONDS = 6.0
"""A node stops within 5 s; after this time it is killed."""

_POLL_SECONDS = 0.05


class Site:
    """A facility of the demonstration.

    Args:
        name: name of the facility.
        home: home of its node.
        port: port on which its node listens, on this machine only.
    """

    def __init__(self, name: str, home: Path, port: int) -> None:
        self.name = name
        self.home = home
        self.address = f"/ip4/127.0.0.1/tcp/{port}"
        self.card_path = home.with_name(f"{home.name}.card")
        self.log_path = home.with_name(f"{home.name}.log")
        self.fingerprint = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""

    def run(
        self, *words: str, accept: tuple[int, ...] = (), show_progress: bool = False
    ) -> dict[str, Any]:
        """Run `radmesh --home HOME WORDS --json`.

        Args:
            words: the command.
            accept: exit codes other than 0 that count as done.
            show_progress: let the command draw its progress on our terminal.

        Returns:
            The result, with the exit code as `exit_code`.

        Raises:
            NodeError: the command failed; the error has the command's own words.
        """
        draws = show_progress and sys.stderr.isatty()
        done = subprocess.run(
            [*_radmesh(), "--home", os.fspath(self.home), *words, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if draws else subprocess.PIPE,
            check=False,
        )
        if done.returncode not in (0, *accept):
            raise self._failed(words, done)
        result: dict[str, Any] = json.loads(done.stdout)
        return {**result, "exit_code": done.returncode}

    def start(self) -> None:
        """Start the node; `wait_until` waits until it answers."""
        with self.log_path.open("ab") as log:
            # Start it in a session of its own: Ctrl-C then reaches only us, and we stop it.
            self._process = subprocess.Popen(
                [*_radmesh(), "--home", os.fspath(self.home), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the node, or 0."""
        return self._process.pid if self._process is not None else 0

    def wait_until(self, what: str, ready: Callable[[], bool]) -> float:
        """Wait until the node answers and `ready` is true; returns the seconds that it took.

        Raises:
            NodeError: the node ended, or it took too long.
        """
        began = time.monotonic()
        while not self._try(ready):
            if self._process is not None and self._process.poll() is not None:
                raise NodeError(
                    f"the node of {self.name} ended: {self._last_words()}",
                    hint=f"its log is {self.log_path}",
                )
            if time.monotonic() - began > START_SECONDS:
                why = f" ({self._problem})" if self._problem else ""
                raise NodeError(
                    f"{self.name}: {what} did not happen in {START_SECONDS:.0f} s{why}",
                    hint=f"the log of its node is {self.log_path}",
                    code=ExitCode.UNREACHABLE,
                )
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - began

    def _try(self, ready: Callable[[], bool]) -> bool:
        """Check once. Until the node answers, run no command: it would lock the node's home."""
        try:
            return is_running(Home(self.home).socket_path) and ready()
        except NodeError as error:
            self._problem = error.message
            return False

    def stop(self) -> None:
        """Stop the node if it runs; kill it when it does not stop."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except BaseException as error:
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise

    def _failed(
        self, words: tuple[str, ...], done: subprocess.CompletedProcess[bytes]
    ) -> NodeError:
        try:
            code = ExitCode(done.returncode)
        except ValueError:
            code = ExitCode.FAILED
        message, hint = f"exit code {done.returncode}", ""
        for line in (done.stderr or b"").splitlines():
            if line.startswith(b'{"error"'):
                error = json.loads(line)["error"]
                message, hint = error["message"], error["hint"]
        return NodeError(
            f"`radmesh {words[0]}` failed at {self.name}: {message}", hint=hint, code=code
        )

    def _last_words(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return " / ".join(lines[-3:]) or "it said nothing"


def free_ports(count: int) -> list[int]:
    """Ports on this machine that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def typed_command() -> str:
    """The command by which a person calls `radmesh` from here, in a shell."""
    if shutil.which("radmesh"):
        return "radmesh"
    script = Path(sys.executable).with_name("radmesh")
    with contextlib.suppress(ValueError):
        return shlex.quote(os.fspath(script.relative_to(Path.cwd())))
    return shlex.quote(os.fspath(script))


def _radmesh() -> list[str]:
    # -P: do not import a folder of the user that happens to be named like one of our
    # packages.
    return [sys.executable, "-P", "-m", "node.cli"]
