"""rsync and tar over ssh to a server of our own: own port, own keys, own configuration."""

import contextlib
import getpass
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from facilities import free_port
from processes import program, run, server
from rivals import Tool

_PRIVILEGE_SEPARATION = Path("/run/sshd")
"""sshd of a root user asks for it; where the system's own never ran it is not there."""


class OverSsh(Tool):
    """What the tools over ssh share."""

    encrypted = True
    programs: tuple[tuple[str, str], ...] = (
        ("sshd", "openssh-server"),
        ("ssh", "openssh-client"),
        ("ssh-keygen", "openssh-client"),
    )

    @contextlib.contextmanager
    def serve(self, directory: Path, landed: Path) -> Iterator[int]:
        """Run sshd on loopback with throwaway keys."""
        for name in ("host", "user"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)])
        port = free_port()
        public = (directory / "host.pub").read_text()
        (directory / "known").write_text(f"[127.0.0.1]:{port} {public}")
        settings = directory / "sshd_config"
        settings.write_text(
            f"ListenAddress 127.0.0.1:{port}\n"
            f"HostKey {directory / 'host'}\n"
            f"AuthorizedKeysFile {directory / 'user.pub'}\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        sshd = program("sshd")
        assert sshd is not None
        with _privilege_separation():
            words = [sshd, "-D", "-e", "-f", str(settings)]
            with server(words, port, log=directory / "sshd.log"):
                yield port

    def shell(self, directory: Path, port: int) -> list[str]:
        """The ssh command, ignoring all settings of the user."""
        options = {
            "UserKnownHostsFile": directory / "known",
            "HostKeyAlias": f"[127.0.0.1]:{self.far_port(directory)}",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
        }
        words = ["ssh", "-F", "none", "-p", str(port), "-i", str(directory / "user")]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return [*words, "-l", getpass.getuser()]

    @staticmethod
    def far_port(directory: Path) -> str:
        """The port of sshd itself, when the connection goes through a relay."""
        return (directory / "known").read_text().partition("]:")[2].split()[0]


@contextlib.contextmanager
def _privilege_separation() -> Iterator[None]:
    made = os.geteuid() == 0 and not _PRIVILEGE_SEPARATION.exists()
    if made:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                _PRIVILEGE_SEPARATION.rmdir()


class Rsync(OverSsh):
    """rsync over ssh.

    Args:
        flags: how it copies, `-a` or `-az`.
    """

    programs = (*OverSsh.programs, ("rsync", "rsync"))

    def __init__(self, flags: str) -> None:
        self.name = f"rsync {flags} over ssh"
        self._flags = flags

    def send(self, directory: Path, source: Path, port: int, landed: Path) -> None:
        """Copy a directory."""
        shell = shlex.join(self.shell(directory, port))
        run(["rsync", self._flags, "-e", shell, f"{source}/", f"127.0.0.1:{landed}/"])


class TarZstd(OverSsh):
    """tar, zstd and ssh in a pipe, as an administrator copies a folder over a slow line."""

    name = "tar, zstd -3, ssh"
    programs = (*OverSsh.programs, ("tar", "tar"), ("zstd", "zstd"))

    def send(self, directory: Path, source: Path, port: int, landed: Path) -> None:
        """Copy a directory."""
        unpack = f"zstd -dcq | tar -xf - -C {shlex.quote(str(landed))}"
        words = shlex.join([*self.shell(directory, port), "127.0.0.1", unpack])
        pipe = f"tar -cf - -C {shlex.quote(str(source))} . | zstd -3 -cq | {words}"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {pipe}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"{self.name}: {done.stderr[-2000:]}")
