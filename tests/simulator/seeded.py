"""All chance of a process from one seed, so that a run can be had again."""

import contextlib
import random
import secrets
from collections.abc import Iterator

import nacl.utils

SOURCE = random.Random(0)
"""What random bytes come from once `take_over` was called."""


def take_over() -> None:
    """Random bytes come from `SOURCE` from here on; to be called before `keys` is imported,
    whose functions take their source of chance when they are made. Never in a node that has
    anything to keep secret."""
    nacl.utils.random = _random_bytes
    secrets.token_bytes = _random_bytes
    secrets.token_hex = lambda count=32: SOURCE.randbytes(count or 32).hex()


def _random_bytes(count: int | None = 32) -> bytes:
    return SOURCE.randbytes(32 if count is None else count)


@contextlib.contextmanager
def scheduled(seed: int) -> Iterator[None]:
    """Within it trio's order of tasks is that of a seed.

    Trio has no public switch for this (its issue 32); hypothesis uses the same one.
    """
    from trio._core import _run

    before = _run._ALLOW_DETERMINISTIC_SCHEDULING
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
