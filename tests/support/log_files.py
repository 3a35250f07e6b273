"""Helpers for tests of the audit log's files: errors on demand, and reading the files later."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from node.audit.files import LogFile
from node.errors import ExitCode, NodeError


def open_files() -> int:
    """The number of open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def require_error(code: ExitCode, call: Callable[[], object], match: str | None = None) -> None:
    """Call a function that must fail with this code and sentence."""
    with pytest.raises(NodeError, match=match) as caught:
        call()
    assert caught.value.code is code


def failing(number: int) -> Callable[..., int]:
    """A system call that fails with an errno."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def entries_in(path: Path) -> list[bytes]:
    """The entries that the next process finds in a log."""
    file = LogFile(path)
    found = list(file.scan())
    assert file.count == len(found)
    assert list(file.read(0, file.count)) == found
    file.close()
    return found
