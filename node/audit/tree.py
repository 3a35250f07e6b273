"""The nodes of the audit log's tree, kept in a file so that a proof takes few reads.

The file `tree` holds 32 bytes a node, in the order in which entries complete them
(`protocol.log.tree.node_count`): two for an entry, one of them a leaf. It is derived
data: never flushed, compared with the entries each time the log is opened, and rebuilt
from them when it is missing, short or damaged. Each proof is checked against the entry
itself and the signed root before it is returned.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from node.errors import ExitCode, NodeError
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.tree import (
    HASH_BYTES,
    Frontier,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    kept_root,
    leaf_hash,
)

_SPILL_BYTES = 64 * 1024

T = TypeVar("T")


class NodeFile:
    """Hashes in the order in which they are added. Thread-safe.

    An added hash is compared with the one that the file holds at its place from earlier,
    and written where it differs; so one pass over the log leaves the right nodes.

    Raises:
        NodeError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._written = 0
        # Nodes that follow the written ones, so that an entry costs no system call here.
        self._waiting = bytearray()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NodeError(
                f"the tree of the audit log {path} cannot be opened: {error.strerror}",
                hint="delete it: it is made anew from the log",
                code=ExitCode.DISK,
            ) from error

    def add(self, nodes: Iterable[bytes]) -> None:
        """Add nodes, 32 bytes each."""
        with self._lock:
            self._waiting += b"".join(nodes)
            if len(self._waiting) >= _SPILL_BYTES:
                self._spill()

    def _spill(self) -> None:
        data = bytes(self._waiting)
        try:
            if os.pread(self._descriptor, len(data), self._written) != data:
                done = 0
                while done < len(data):
                    done += os.pwrite(self._descriptor, data[done:], self._written + done)
        except OSError:
            # A full disk: the nodes wait in memory. Entries fail on the same disk and report it.
            return
        self._written += len(data)
        self._waiting.clear()

    def at(self, place: int) -> bytes:
        """The node at a place, from 0; shorter than a node when the file is damaged."""
        position = place * HASH_BYTES
        with self._lock:
            if position >= self._written:
                start = position - self._written
                return bytes(self._waiting[start : start + HASH_BYTES])
        try:
            return os.pread(self._descriptor, HASH_BYTES, position)
        except OSError:
            return b""

    def restart(self) -> None:
        """Begin again: the next added node is the first."""
        with self._lock:
            self._written = 0
            self._waiting.clear()

    def close(self) -> None:
        """Write the waiting nodes and close the file."""
        with self._lock:
            if self._descriptor >= 0:
                self._spill()
                os.close(self._descriptor)
                self._descriptor = -1


class Proofs:
    """Roots and proofs of an open log.

    Args:
        nodes: hold the nodes of all durable entries.
        durable: returns the tree over the entries on disk.
        entries: returns the entries `start` to `stop - 1`.
        rebuild: rebuilds the nodes from the entries.
    """

    def __init__(
        self,
        nodes: NodeFile,
        durable: Callable[[], Frontier],
        entries: Callable[[int, int], Iterator[bytes]],
        rebuild: Callable[[], None],
    ) -> None:
        self._root_of = kept_root(nodes.at)
        self._durable = durable
        self._entries = entries
        self._rebuild = rebuild

    def root_at(self, size: int) -> bytes:
        """The root that the log had at a size, 32 bytes.

        Raises:
            LocalProtocolError: the log never had that size.
            NodeError: the log is damaged on disk.
        """
        return self._checked(lambda: self._checked_root(size))

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Proof that entry `index` is in the log of `size` (RFC 6962 section 2.1.1).

        Raises:
            LocalProtocolError: there is no such entry or size.
            NodeError: the log is damaged on disk.
        """

        def make() -> tuple[bytes, ...]:
            proof = inclusion_proof(index, size, self._root_of)
            root = self._checked_root(size)
            (entry,) = self._entries(index, index + 1)
            check_inclusion(leaf_hash(entry), index, size, proof, root)
            return tuple(proof)

        return self._checked(make)

    def consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Proof that the log of `new_size` extends that of `old_size` (section 2.1.2).

        Raises:
            LocalProtocolError: not 0 < old_size <= new_size <= the size of the log.
            NodeError: the log is damaged on disk.
        """

        def make() -> tuple[bytes, ...]:
            proof = consistency_proof(old_size, new_size, self._root_of)
            old, new = self._checked_root(old_size), self._checked_root(new_size)
            check_consistency(old_size, new_size, old, new, proof)
            return tuple(proof)

        return self._checked(make)

    def _checked_root(self, size: int) -> bytes:
        durable = self._durable()
        if not 0 <= size <= durable.size:
            raise LocalProtocolError(f"the log has {durable.size} entries and never had {size}")
        root = self._root_of(0, size)
        if size:
            proof = consistency_proof(size, durable.size, self._root_of)
            check_consistency(size, durable.size, root, durable.root(), proof)
        return root

    def _checked(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except RemoteProtocolError:
            self._rebuild()
        try:
            return make()
        except RemoteProtocolError as error:
            raise NodeError(
                "the entries of the audit log are no longer those that were signed",
                hint="keep the folder `audit` as it is and restore it from the backup",
                code=ExitCode.INTEGRITY,
            ) from error
