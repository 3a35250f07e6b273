"""The second socket: for people of a system group who have no access to the home.

It is in a folder of its own that only the group can enter. The system tells which user is at
the other end (SO_PEERCRED); nothing that the other end sends is used for that.
"""

import contextlib
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from node.api.endpoint import BACKLOG
from node.callers import SERVICE, Caller
from node.errors import ExitCode, NodeError

SOCKET_NAME = "api.sock"

FOLDER_MODE = 0o750
SOCKET_MODE = 0o660

_CREDENTIALS = struct.Struct("iII")
"""The value of SO_PEERCRED (unix(7)): pid, uid, gid."""


def uid_of(connection: socket.socket) -> int:
    """The user at the other end at the time of the connection."""
    size = _CREDENTIALS.size
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def caller_of(uid: int) -> Caller:
    """The caller for a user; looks into the system's list of users, which may block.

    The node's own account is the service here, too. A user without a name is named by number.
    """
    if uid == os.getuid():
        return SERVICE
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"#{uid}"
    return Caller("person", name, number=uid)


@contextlib.contextmanager
def listening_for_people(folder: Path, group: str) -> Iterator[socket.socket]:
    """Listen on the people's socket inside this block; its name is removed at the end.

    The caller has the lock of the home, so an existing socket is of a dead node.

    Args:
        folder: folder of the socket; made when it does not exist.
        group: name of the group whose members may connect.

    Raises:
        NodeError: there is no such group, the folder is open to others, or the folder or the
            socket cannot be made.
    """
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise NodeError(
            f"there is no group {group} on this machine",
            hint="make it, or change group in the table people of config.toml",
            code=ExitCode.USAGE,
        ) from None
    path = folder / SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _make_folder(folder, gid)
            _check_folder(folder, gid, group)
            path.unlink(missing_ok=True)
            listener.bind(os.fspath(path))
            os.chown(path, -1, gid)
            path.chmod(SOCKET_MODE)
            # Listen last: before this call nobody can connect.
            listener.listen(BACKLOG)
        except OSError as error:
            raise NodeError(
                f"the people's socket {path} cannot be made: {error.strerror or error}",
                hint=f"the user who runs the node must be in the group {group} and must be able "
                "to write there; folder in the table people of config.toml names another place "
                "(at most 90 bytes)",
                code=ExitCode.NO_HOME,
            ) from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _make_folder(folder: Path, gid: int) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    os.chown(folder, -1, gid)
    folder.chmod(FOLDER_MODE)


def _check_folder(folder: Path, gid: int, group: str) -> None:
    """Check an existing folder; its permissions are never widened."""
    found = folder.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.getuid()
        or found.st_gid != gid
        or stat.S_IMODE(found.st_mode) != FOLDER_MODE
    ):
        raise NodeError(
            f"the folder of the people's socket, {folder}, is not as it must be",
            hint=f"it must be a directory of the node's user: `chgrp {group} {folder}` and "
            f"`chmod {FOLDER_MODE:o} {folder}`",
            code=ExitCode.NO_HOME,
        )


def check_folder_of_node(folder: Path) -> None:
    """Refuse to connect where others than the node's user could have put a socket.

    Raises:
        NodeError: others can write there.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise NodeError(
            f"others can write into the folder of the socket, {folder}",
            hint="ask the node's owner; somebody else may listen there",
            code=ExitCode.NO_HOME,
        )
