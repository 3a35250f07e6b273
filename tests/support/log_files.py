"""What tests of the audit log's files share: errors on demand, and what is found afterwards."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from node.audit.files import LogFile
from node.errors import ExitCode, NodeError


def open_files() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def require_error(code: ExitCode, call: Callable[[], object], match: str | None = None) -> None:
    """Do it; it must end with this code and sentence."""
    with pytest.raises(NodeError, match=match) as caught:
        call()
    assert caught.value.code is code


def failing(number: int) -> Callable[..., int]:
    """A system call that fails with an errno."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def entries_in(path: Path) -> list[bytes]:
    """What the next process finds in a log."""
    file = LogFile(path)
    found = list(file.scan())
    assert file.count == len(found)
    assert list(file.read(0, file.count)) == found
    file.close()
    return found
