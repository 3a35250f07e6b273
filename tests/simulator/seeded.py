"""All randomness of a process from one seed, so that a run can be repeated."""

import contextlib
import random
import secrets
from collections.abc import Iterator

import nacl.utils

SOURCE = random.Random(0)
"""The source of all random bytes once `take_over` was called."""


def take_over() -> None:
    """Take random bytes from `SOURCE` from here on. Call this before `keys` is imported: its
    functions bind their source of randomness when they are defined. Never use this in a node
    that has secrets."""
    nacl.utils.random = _random_bytes
    secrets.token_bytes = _random_bytes
    secrets.token_hex = lambda count=32: SOURCE.randbytes(count or 32).hex()


def _random_bytes(count: int | None = 32) -> bytes:
    return SOURCE.randbytes(32 if count is None else count)


@contextlib.contextmanager
def scheduled(seed: int) -> Iterator[None]:
    """Inside this block, a seed determines trio's order of tasks.

    Trio has no public switch for this (its issue 32); hypothesis uses the same private one.
    """
    from trio._core import _run

    before = _run._ALLOW_DETERMINISTIC_SCHEDULING
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
