"""Homes with sealed keys, whose passphrase costs the tests little."""

from pathlib import Path

import pytest

from keys import passphrase, sealed_files
from keys.passphrase import Cost, Wrapping, derive
from node.home import Home
from node.keyring import Ask

WORDS = "four words are enough"
OTHER_WORDS = "some other four words"


def cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new passphrases in this process cost little; files say what theirs cost."""
    for module in (passphrase, sealed_files):
        monkeypatch.setattr(module, "PASSES", 1)
        monkeypatch.setattr(module, "MEMORY_BYTES", 8192)


def wrapping_of(words: str, salt: int = 1) -> Wrapping:
    """What a passphrase gives, cheaply."""
    return derive(words, Cost(bytes([salt]) * 16, 1, 8192))


def asks(words: str) -> Ask:
    """Answers with a passphrase."""
    return lambda: words


def never() -> str:
    """Fails the test that asks for a passphrase."""
    raise AssertionError("a passphrase was asked for")


def reopened(home: Home | Path, words: str) -> Home:
    """The same home, for another process that knows a passphrase."""
    path = home.path if isinstance(home, Home) else home
    return Home(path, ask=asks(words))
