"""DICOM JSON of series that was asked for, kept in `dicomweb/` until the study changes.

It can be made again from the images at any time, so it is in no backup, not flushed, and deleted at
each start: each file begins with the digest of what follows. Names are digests; all of a study is
in one folder, which is deleted when anything of the study changes, so also when it is discarded.
Synchronous, thread-safe.
"""

import contextlib
import secrets
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import blake3

from node.catalog.catalog import Catalog
from protocol import zstd
from protocol.errors import RemoteProtocolError

CACHE_BYTES = 1024 * 1024 * 1024
"""Most bytes on disk; beyond it, what was longest not asked for is deleted."""

MAX_SERIES_BYTES = 16 * 1024 * 1024
"""Longest JSON of one series that is kept: all of it is held in memory while it is given."""

_DIGEST_BYTES = 32
_SIZE_BYTES = 8


class MetadataCache:
    """The folder of kept JSON; made when something is kept.

    Args:
        root: the folder.
        catalog: our studies.
    """

    def __init__(self, root: Path, catalog: Catalog) -> None:
        self._root = root
        self._catalog = catalog
        self._lock = threading.Lock()
        self._bytes: int | None = None

    def read(self, study: str, series: str, digests: Sequence[bytes]) -> list[bytes] | None:
        """The JSON of each instance of a series, in the order of `digests`; None if not kept.

        Args:
            study, series: UIDs.
            digests: of its instances as they are now.
        """
        path = self._path(study, series, digests)
        try:
            data = path.read_bytes()
            path.touch()
        except OSError:
            return None
        body = memoryview(data)[_DIGEST_BYTES:]
        size = int.from_bytes(body[:_SIZE_BYTES], "big")
        if blake3.blake3(body).digest() != data[:_DIGEST_BYTES] or size > MAX_SERIES_BYTES:
            return None
        try:
            lines = zstd.decompress_untrusted(body[_SIZE_BYTES:], size).split(b"\n")
        except RemoteProtocolError:
            return None
        return lines if len(lines) == len(digests) else None

    def keep(self, study: str, series: str, digests: Sequence[bytes], lines: list[bytes]) -> None:
        """Keep the JSON of a series; a full disk only means that it is made again."""
        text = b"\n".join(lines)
        if not lines or len(text) > MAX_SERIES_BYTES:
            return
        body = len(text).to_bytes(_SIZE_BYTES, "big") + zstd.compress(text, zstd.LEVEL)
        path = self._path(study, series, digests)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.touch(mode=0o600)
            temporary.write_bytes(blake3.blake3(body).digest() + body)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        # Something of it may have been discarded while its JSON was made.
        if not set(digests) <= set(self._catalog.held_instances(study).values()):
            self.forget(study)
        self._make_room(len(body))

    def forget(self, study: str) -> None:
        """Delete what is kept of a study."""
        folder = self._folder(study)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete all; for the start: a crash may have left JSON of images that were discarded."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _make_room(self, added: int) -> None:
        with self._lock:
            if self._bytes is not None:
                self._bytes += added
                if self._bytes <= CACHE_BYTES:
                    return
            found = []
            for path in self._root.rglob("*"):
                # Another thread may delete it meanwhile.
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if path.is_file():
                        found.append((status.st_mtime_ns, status.st_size, path))
            self._bytes = sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if self._bytes <= CACHE_BYTES * 3 // 4:
                    break
                with contextlib.suppress(OSError):
                    path.unlink()
                self._bytes -= size

    def _folder(self, study: str) -> Path:
        return self._root / blake3.blake3(study.encode()).hexdigest()[:32]

    def _path(self, study: str, series: str, digests: Sequence[bytes]) -> Path:
        hasher = blake3.blake3(series.encode() + b"\0")
        for digest in digests:
            hasher.update(digest)
        return self._folder(study) / hasher.hexdigest()[:32]
