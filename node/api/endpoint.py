"""The socket of the local API: its place, and the users who may reach it.

Whoever reaches the socket controls the node. So it is in a directory that only its owner
can enter, and both sides refuse any other directory.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from node.errors import ExitCode, NodeError

BACKLOG = 64


def check_private(directory: Path) -> None:
    """Refuse a socket's directory that others can enter or have made.

    Raises:
        NodeError: it belongs to somebody else, is a link, or is open to others.
    """
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise NodeError(
            f"the directory of the node's socket, {directory}, is open to other users",
            hint=f"it must be a directory of your own: `chmod 700 {directory}`",
            code=ExitCode.NO_HOME,
        )


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen on the socket inside this block; its name is removed at the end.

    The caller has the lock of the home, so an existing socket is of a dead node.

    Raises:
        NodeError: the directory is not private, or the socket cannot be made.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            check_private(path.parent)
            path.unlink(missing_ok=True)
            listener.bind(os.fspath(path))
            path.chmod(0o600)
            listener.listen(BACKLOG)
        except OSError as error:
            raise NodeError(
                f"the node's socket {path} cannot be made: {error.strerror}",
                hint="check the permissions of the home and of the temporary directory",
                code=ExitCode.NO_HOME,
            ) from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def connect(
    path: Path, timeout_seconds: float, check: Callable[[Path], None] = check_private
) -> socket.socket | None:
    """Connect to a running node; returns None when none runs.

    Args:
        path: path of the socket.
        timeout_seconds: longest wait for the node.
        check: refuses a directory in which somebody else may have put the socket.

    Raises:
        NodeError: the socket is not the owner's.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_seconds)
    try:
        check(path.parent)
        connection.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except PermissionError:
        connection.close()
        raise NodeError(
            f"the node's socket {path} belongs to another user",
            hint="run this command as the user who runs the node, or as a member of the group "
            "of the people's socket",
            code=ExitCode.NO_HOME,
        ) from None
    except OSError as error:
        connection.close()
        raise NodeError(
            f"the running node does not answer: {error}",
            hint="see the log of `radmesh serve`, or stop it and start it again",
            code=ExitCode.BUSY,
        ) from error
    except NodeError:
        connection.close()
        raise
    return connection
