"""Reading an audit bundle: a ZIP file from a stranger, streamed and bounded.

Sizes that the ZIP claims are not trusted, names are only compared, nothing is
ever extracted (docs/protocol-log.md section 7).
"""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

FORMAT = "radmesh-audit-bundle/1"

MEMBERS = 10_000
"""Most files in a bundle: some, and a checkpoint for each day of 27 years."""

CHECKPOINT_NAME = re.compile(r"checkpoints/(0|[1-9][0-9]{0,18})(\.[1-9][0-9]{0,3})?")

WITNESS_NAME = re.compile(r"witnesses/[A-Za-z0-9._-]{1,100}")

EVIDENCE_NAME = re.compile(r"witnessed/([1-9][0-9]{0,8})/(held|shown|card)")

_KNOWN = (
    "bundle.json",
    "card",
    "entries.jsonl",
    "leaves",
    "openings.jsonl",
    "policy",
    "receipts.jsonl",
)

# What zipfile raises for files that are no ZIP files, or damaged ones.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
)

# End of the central directory: signature, members in all, length of a comment.
_END = struct.Struct("<4s6xH8xH")

# Longest list of the members: as many as may be, with names of 300 bytes.
_DIRECTORY_BYTES = 4_000_000

_BUFFER_BYTES = 1 << 20
_BATCH_BYTES = 1 << 18


class BundleDamaged(Exception):
    """The bundle cannot be read; the text says why."""


class Bundle:
    """An open bundle.

    Args:
        file: the bundle, seekable, opened for reading bytes; stays the caller's.

    Raises:
        BundleDamaged: not a ZIP file, or one with names that no bundle has.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._zip = zipfile.ZipFile(_Bounded(file))
            members = self._zip.infolist()
            listed = _members_listed(file)
        except _DAMAGE as error:
            raise BundleDamaged("the file is not an audit bundle, or is damaged") from error
        if len(members) > MEMBERS:
            raise BundleDamaged(f"the bundle holds more than {MEMBERS} files")
        # A damaged length makes one member swallow the next; zipfile does not mind.
        if listed != len(members) or any(member.comment for member in members):
            raise BundleDamaged("the list of files in the bundle is damaged")
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            name = member.orig_filename
            if name in self._members:
                raise BundleDamaged(f"the bundle holds two files named {name!a}")
            if not name.isprintable():
                raise BundleDamaged(f"the bundle holds a file named {name!a}")
            if name.startswith("/") or "\\" in name or ".." in name.split("/") or ":" in name:
                raise BundleDamaged(f"the bundle holds a file named {name!a}, which is a path")
            self._members[name] = member

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self._members

    @property
    def checkpoints(self) -> list[str]:
        """Names of the checkpoint files."""
        return [name for name in self._members if CHECKPOINT_NAME.fullmatch(name)]

    @property
    def witnesses(self) -> list[str]:
        """Names of the cards of witnesses."""
        return [name for name in self._members if WITNESS_NAME.fullmatch(name)]

    @property
    def evidence(self) -> list[str]:
        """Names of files about logs that contradicted themselves."""
        return [name for name in self._members if EVIDENCE_NAME.fullmatch(name)]

    @property
    def unknown(self) -> list[str]:
        """Names of files that this version does not read."""
        known = {*_KNOWN, *self.checkpoints, *self.witnesses, *self.evidence}
        return [name for name in self._members if name not in known]

    def read(self, name: str, most: int) -> bytes:
        """A whole small file of at most `most` bytes.

        Raises:
            BundleDamaged: missing, too large, or damaged.
        """
        try:
            with self._open(name) as stream:
                data = stream.read(most + 1)
        except _DAMAGE as error:
            raise BundleDamaged(f"the file {name} of the bundle is damaged") from error
        if len(data) > most:
            raise BundleDamaged(f"the file {name} of the bundle is too large")
        return data

    def lines(self, name: str, most: int) -> Iterator[bytes]:
        """The lines of a file, each with its line end.

        A line without its end is the last one or is longer than `most` bytes; the
        iteration ends with it.

        Raises:
            BundleDamaged: missing, or damaged at that point.
        """
        try:
            with self._open(name) as stream:
                while line := stream.readline(most + 1):
                    yield line
                    if not line.endswith(b"\n"):
                        return
        except _DAMAGE as error:
            raise BundleDamaged(f"the file {name} of the bundle is damaged") from error

    def batches(self, name: str, most: int) -> Iterator[tuple[list[bytes], bool]]:
        """The lines of a large file, many at a time and without their line ends.

        With them comes whether the file is whole so far. When it is not, the last line
        has no end, or is longer than `most` bytes and cut there; the iteration ends.

        Raises:
            BundleDamaged: missing, or damaged at that point.
        """
        try:
            with self._open(name) as stream:
                rest = b""
                while block := stream.read(_BATCH_BYTES):
                    *lines, rest = (rest + block).split(b"\n")
                    long = [at for at, line in enumerate(lines) if len(line) > most]
                    if long:
                        lines, rest = lines[: long[0]], lines[long[0]]
                    if len(rest) > most:
                        yield [*lines, rest[: most + 1]], False
                        return
                    if lines:
                        yield lines, True
                if rest:
                    yield [rest], False
        except _DAMAGE as error:
            raise BundleDamaged(f"the file {name} of the bundle is damaged") from error

    def stream(self, name: str) -> "Pieces":
        """A file to be read piece by piece; see `Pieces`.

        Raises:
            BundleDamaged: missing, or damaged at its beginning.
        """
        try:
            return Pieces(self._open(name))
        except _DAMAGE as error:
            raise BundleDamaged(f"the file {name} of the bundle is damaged") from error

    def _open(self, name: str) -> io.BufferedReader:
        member = self._members.get(name)
        if member is None:
            raise BundleDamaged(f"the bundle lacks the file {name}")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleDamaged(f"the file {name} is compressed in a way that bundles are not")
        # ZipExtFile reads like a raw stream; its stub does not say so.
        raw: io.RawIOBase = self._zip.open(member)  # type: ignore[assignment]
        return io.BufferedReader(raw, _BUFFER_BYTES)


class _Bounded:
    """A file as zipfile reads it, who takes the list of members into memory at once,
    however long the file says it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count > _DIRECTORY_BYTES:
            raise ValueError
        return self._file.read(count if count >= 0 else _DIRECTORY_BYTES)


def _members_listed(file: BinaryIO) -> int:
    """How many members the end of the file says there are (APPNOTE.TXT section 4.3.16)."""
    file.seek(-_END.size, 2)
    signature, count, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or comment:
        raise ValueError("no end of a ZIP file without a comment")
    return int(count)


class Pieces:
    """A file of the bundle that is an aid: it ends early where it is damaged."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        """The next `count` bytes, or fewer at the end."""
        try:
            return self._stream.read(count)
        except _DAMAGE:
            return b""
