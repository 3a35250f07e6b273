"""The settings of the C library are taken where there are such."""

import ctypes
import platform
import subprocess
import sys

import pytest

from node.memory import keep_freed_memory


def test_glibc_takes_the_settings() -> None:
    # In a process of its own: they would stay for all other tests.
    code = "from node.memory import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
