"""Processes of a bench: started on loopback, waited for, and ended whatever happens."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_SECONDS = 20.0
_SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin:/sbin"
_LISTENING = "0A"


def end_on_signal() -> None:
    """Make SIGTERM and SIGHUP end this process as Ctrl-C does: with everything put away."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, leave)


def program(name: str) -> str | None:
    """Where a program is, also those that are not in a user's path."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PROGRAMS)


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port; asks the kernel, so that nobody is disturbed."""
    wanted = f"{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), Path(table).open() as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[1].endswith(f":{wanted}") and fields[3] == _LISTENING:
                    return True
    return False


@contextlib.contextmanager
def server(
    words: Sequence[str], port: int, *, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server that listens on `port`; its process group is ended on leaving."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{words[0]} did not start: {log.read_text(errors='replace')}")
            time.sleep(0.01)
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def run(
    words: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run a command to its end; its own words when it fails."""
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
    )
    if done.returncode != 0:
        raise SystemExit(f"{words[0]}: exit code {done.returncode}\n{done.stderr[-2000:]}")


def flush(directory: Path) -> None:
    """Make everything on the file system of `directory` durable (syncfs)."""
    subprocess.run(["sync", "--file-system", str(directory)], check=True)
