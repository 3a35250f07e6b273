"""Writes or prints verified files, since another program might read the bundle differently."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from protocol.verify.bundle import CHECKPOINT_NAME, Bundle, BundleDamaged
from protocol.verify.verdict import Verdict

PRINTED = {
    "entries": "entries.jsonl",
    "openings": "openings.jsonl",
    "receipts": "receipts.jsonl",
    "stored": "stored.jsonl",
}
"""What can be printed, to the file of the bundle that holds it."""

_VERIFIED = ("card", *PRINTED.values())
_BLOCK_BYTES = 1 << 16


class NotGiven(Exception):
    """Writing or printing failed; the text is a sentence that says why and what to do."""


def _printed_blocks(file: BinaryIO, what: str) -> Iterator[bytes]:
    """A file of a bundle, one of `PRINTED`, piece by piece; nothing if it is missing.

    Args:
        file: the bundle, still open since its verification.
        what: the file to print, one of `PRINTED`.

    Raises:
        NotGiven: the bundle was changed since its verification.
    """
    try:
        with Bundle(file) as bundle:
            if bundle.has(PRINTED[what]):
                yield from _blocks(bundle, PRINTED[what])
    except BundleDamaged as damage:
        raise NotGiven(f"the bundle was changed while it was read: {damage}") from damage


def _extract(file: BinaryIO, directory: str) -> None:
    """Write the verified files to a new folder that only its owner can read: the card, the
    checkpoints, entries, openings, receipts and statements of storage.

    Args:
        file: the bundle, still open since its verification.
        directory: the folder; made here, and removed if writing fails.

    Raises:
        NotGiven: the folder exists or cannot be written, or the bundle was changed since
            its verification.
    """
    try:
        os.mkdir(directory, 0o700)  # noqa: PTH102
    except FileExistsError as error:
        raise NotGiven(f"{directory} exists; name a folder that does not") from error
    except OSError as error:
        raise NotGiven(f"{directory} cannot be made: {error.strerror}") from error
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, directory, ignore_errors=True)
        try:
            with Bundle(file) as bundle:
                for name in bundle.names:
                    if name in _VERIFIED or CHECKPOINT_NAME.fullmatch(name):
                        _write(bundle, name, os.path.join(directory, *name.split("/")))  # noqa: PTH118
        except OSError as error:
            raise NotGiven(f"{directory} cannot be written: {error.strerror}") from error
        except BundleDamaged as damage:
            raise NotGiven(f"the bundle was changed while it was read: {damage}") from damage
        undo.pop_all()


def _write(bundle: Bundle, name: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)  # noqa: PTH103, PTH120
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:  # noqa: PTH123
        for block in _blocks(bundle, name):
            target.write(block)


def _blocks(bundle: Bundle, name: str) -> Iterator[bytes]:
    stream = bundle.stream(name)
    while block := stream.read(_BLOCK_BYTES):
        yield block


class Giving:
    """Writes or prints files of a bundle after its verification.

    Args:
        directory: the folder to write, None for none.
        what: the file to print, one of `PRINTED`, None for none.
    """

    def __init__(self, directory: str | None, what: str | None) -> None:
        self._directory = directory
        self._what = what
        self.refused = ""
        """A sentence that says why nothing was written or printed, or ""."""

    def take(self, file: BinaryIO, verdict: Verdict) -> None:
        """Write or print the files asked for, if they are as they were signed.

        Raises:
            NotGiven: they are not, or writing failed.
        """
        if self._directory is None and self._what is None:
            return
        if verdict.is_proof:
            raise NotGiven("the file is the proof of one entry, which the verdict shows")
        if not verdict.is_whole:
            self.refused = "nothing is given out, since it is not what was signed"
            return
        if self._directory is not None:
            _extract(file, self._directory)
        if self._what is not None:
            _print(_printed_blocks(file, self._what))


def _print(blocks: Iterable[bytes]) -> None:
    """Write to the standard output: byte for byte, but only printable text to a terminal."""
    try:
        if sys.stdout.isatty():
            rest = b""
            for block in blocks:
                *lines, rest = (rest + block).split(b"\n")
                sys.stdout.write("".join(f"{printable(line.decode())}\n" for line in lines))
        else:
            for block in blocks:
                sys.stdout.buffer.write(block)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe; without this, Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(line: str) -> str:
    """The line without characters that move the cursor or turn the direction of writing."""
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in line)
