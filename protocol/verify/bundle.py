"""Reading an audit bundle: a ZIP file from a stranger, streamed and bounded.

`protocol.verify.container` reads the container. This module reads the files in it, line by
line, and limits the work that they cause. Nothing is extracted (docs/protocol-log.md
section 7).
"""

import io
import re
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

from protocol.verify.container import BundleDamaged, Content, Member, read_members
from protocol.verify.work import Work, json_work, note_work

__all__ = ["CHECKPOINT_NAME", "EVIDENCE_NAME", "FORMAT", "WITNESS_NAME", "Bundle", "BundleDamaged"]

FORMAT = "radmesh-audit-bundle/1"

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
    "stored.jsonl",
)

_BATCH_BYTES = 1 << 18


class Bundle:
    """An open bundle.

    Args:
        file: the bundle, seekable, opened for reading bytes; the caller closes it.

    Raises:
        BundleDamaged: not a container in the form of a bundle.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        members, file_bytes = read_members(file)
        self._members = {member.name: member for member in members}
        self._work = Work(file_bytes)
        self._whole: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def spend(self, units: int) -> None:
        """Count work that the bundle causes, in the units of `protocol.verify.work`.

        Raises:
            BundleDamaged: it causes more work than a bundle of its size may.
        """
        if not self._work.spend(units):
            raise BundleDamaged(
                "the bundle makes more work than an honest one of its size: it was made to keep "
                "its reader busy"
            )

    @property
    def names(self) -> list[str]:
        """Names of all files."""
        return list(self._members)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self._members

    @property
    def checkpoints(self) -> list[str]:
        """Names of the checkpoint files."""
        return [name for name in self._members if CHECKPOINT_NAME.fullmatch(name)]

    @property
    def witnesses(self) -> list[str]:
        """Names of the witnesses' cards."""
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
        data = self.stream(name).read(most + 1)
        if len(data) > most:
            raise BundleDamaged(f"the file {name} of the bundle is too large")
        self.spend(note_work(data))
        return data

    def lines(self, name: str, most: int) -> Iterator[bytes]:
        """The lines of a file of JSON texts, each with its line end.

        A line without its end is the last one or is longer than `most` bytes; the
        iteration ends with it.

        Raises:
            BundleDamaged: missing, or damaged at that point.
        """
        stream = self.stream(name)
        while line := stream.readline(most + 1):
            self.spend(json_work(line))
            yield line
            if not line.endswith(b"\n"):
                return

    def batches(self, name: str, most: int) -> Iterator[tuple[list[bytes], bool]]:
        """The lines of a large file, many at a time and without their line ends.

        Also yields whether the file is whole so far. If not, the last line has no line
        end, or is longer than `most` bytes and cut there; the iteration then ends.

        Raises:
            BundleDamaged: missing, or damaged at that point.
        """
        stream = self.stream(name)
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

    def stream(self, name: str) -> io.BufferedReader:
        """A file, to be read piece by piece.

        Raises:
            BundleDamaged: missing; while reading, damaged at that point.
        """
        member = self._members.get(name)
        if member is None:
            raise BundleDamaged(f"the bundle lacks the file {name}")
        return io.BufferedReader(_Stream(self, self._file, member), _BATCH_BYTES)

    def note_whole(self, name: str) -> None:
        """Note that a file was read to its end and is what the container says."""
        self._whole.add(name)

    def read_rest(self) -> None:
        """Read all files that were not read to their end, so that every CRC is checked.

        Raises:
            BundleDamaged: a file is damaged.
        """
        for name in [name for name in self._members if name not in self._whole]:
            stream = self.stream(name)
            while stream.read(_BATCH_BYTES):
                pass


class _Stream(io.RawIOBase):
    """A file of the bundle as a raw stream; its bytes count as work."""

    def __init__(self, bundle: Bundle, file: BinaryIO, member: Member) -> None:
        self._bundle = bundle
        self._name = member.name
        self._content = Content(file, member)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        block = self._content.next_block(len(buffer))
        self._bundle.spend(len(block))
        if self._content.whole:
            self._bundle.note_whole(self._name)
        buffer[: len(block)] = block
        return len(block)
