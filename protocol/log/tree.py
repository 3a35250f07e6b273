"""The Merkle tree of RFC 6962: hashes, roots, inclusion and consistency proofs.

Sizes and indexes count entries; every hash is 32 bytes of SHA-256.
"""

import hashlib
from collections.abc import Callable, Sequence

from protocol.errors import LocalProtocolError, RemoteProtocolError

HASH_BYTES = 32

EMPTY_ROOT = hashlib.sha256(b"").digest()

RangeRoot = Callable[[int, int], bytes]
"""Computes the root over the leaves `start` to `stop - 1`: `kept_root` from kept inner
nodes, `range_root` from leaf hashes."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of an entry (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Frontier:
    """A tree that only grows, held as the roots of its perfect subtrees.

    Holds at most 64 hashes at any size. Not thread-safe.
    """

    __slots__ = ("_roots", "size")

    def __init__(self) -> None:
        self.size = 0
        # Roots of the perfect subtrees, leftmost and largest first; one for each 1 bit of size.
        self._roots: list[bytes] = []

    def append(self, leaf: bytes) -> list[bytes]:
        """Add one leaf hash.

        Returns:
            The roots of the perfect subtrees that end with this leaf, from the leaf itself
            up. A log that keeps its nodes appends these (`node_count`).
        """
        size = self.size
        nodes = [leaf]
        while size & 1:
            leaf = node_hash(self._roots.pop(), leaf)
            nodes.append(leaf)
            size >>= 1
        self._roots.append(leaf)
        self.size += 1
        return nodes

    def root(self) -> bytes:
        """Root of the tree; that of the empty tree is SHA-256 of nothing."""
        if not self._roots:
            return EMPTY_ROOT
        root = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            root = node_hash(left, root)
        return root

    def copy(self) -> "Frontier":
        """An independent tree of the same state."""
        other = Frontier()
        other.size = self.size
        other._roots = list(self._roots)
        return other


def range_root(leaves: Sequence[bytes]) -> RangeRoot:
    """A `RangeRoot` over leaf hashes held in memory."""

    def root_of(start: int, stop: int) -> bytes:
        frontier = Frontier()
        for index in range(start, stop):
            frontier.append(leaves[index])
        return frontier.root()

    return root_of


def node_count(size: int) -> int:
    """How many nodes a tree of `size` keeps. They are in the order in which
    `Frontier.append` returns them: each leaf, then the perfect subtrees that end with it."""
    return 2 * size - size.bit_count()


def kept_root(node_at: Callable[[int], bytes]) -> RangeRoot:
    """A `RangeRoot` from kept nodes; the number of reads grows with the tree's depth.

    Args:
        node_at: returns the node at a position in the order of `node_count`.
    """

    def root_of(start: int, stop: int) -> bytes:
        # A range in a proof starts at a multiple of its largest perfect subtree, so the 1 bits
        # of its width are its perfect subtrees, largest first.
        root = b""
        end = stop
        while end > start:
            level = ((end - start) & (start - end)).bit_length() - 1
            node = node_at(node_count(end - 1) + level)
            root = node_hash(node, root) if root else node
            end -= 1 << level
        return root or EMPTY_ROOT

    return root_of


def _split(width: int) -> int:
    """Largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, root_of: RangeRoot) -> list[bytes]:
    """Proof that leaf `index` is in the tree of `size` (RFC 6962 section 2.1.1).

    Raises:
        LocalProtocolError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise LocalProtocolError(f"a tree of {size} has no leaf {index}")
    proof: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            proof.append(root_of(middle, stop))
            stop = middle
        else:
            proof.append(root_of(start, middle))
            start = middle
    proof.reverse()
    return proof


def consistency_proof(old_size: int, new_size: int, root_of: RangeRoot) -> list[bytes]:
    """Proof that the tree of `new_size` extends that of `old_size` (RFC 6962 section 2.1.2).

    Raises:
        LocalProtocolError: not 0 < old_size <= new_size.
    """
    if not 0 < old_size <= new_size:
        raise LocalProtocolError(f"no proof leads from size {old_size} to size {new_size}")
    proof: list[bytes] = []
    start, stop = 0, new_size
    while stop != old_size:
        middle = start + _split(stop - start)
        if old_size <= middle:
            proof.append(root_of(middle, stop))
            stop = middle
        else:
            proof.append(root_of(start, middle))
            start = middle
    if start > 0:
        proof.append(root_of(start, stop))
    proof.reverse()
    return proof


def check_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check an inclusion proof (RFC 9162 section 2.1.3.2).

    A proof alone holds for many sizes: take `size` and `root` from one signed
    checkpoint only.

    Raises:
        RemoteProtocolError: it does not hold.
    """
    if not 0 <= index < size:
        raise RemoteProtocolError("the proof is for an index outside the tree")
    _check_hashes((leaf, root, *proof))
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise RemoteProtocolError("the inclusion proof is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise RemoteProtocolError("the inclusion proof is too short")
    if computed != root:
        raise RemoteProtocolError("the inclusion proof leads to another root")


def check_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check a consistency proof (RFC 9162 section 2.1.4.2).

    Nothing can be proven from size 0, so that case is refused; a caller that accepts a
    first checkpoint must decide so itself.

    Raises:
        RemoteProtocolError: it does not hold.
    """
    if not 0 < old_size <= new_size:
        raise RemoteProtocolError("no consistency proof can join these sizes")
    if old_size == new_size:
        if proof or old_root != new_root:
            raise RemoteProtocolError("two trees of one size have no proof but equal roots")
        return
    _check_hashes((old_root, new_root, *proof))
    hashes = list(proof)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise RemoteProtocolError("the consistency proof is too short")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old_computed = new_computed = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise RemoteProtocolError("the consistency proof is too long")
        if node & 1 or node == last:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new_computed = node_hash(new_computed, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise RemoteProtocolError("the consistency proof is too short")
    if old_computed != old_root or new_computed != new_root:
        raise RemoteProtocolError("the consistency proof leads to other roots")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise RemoteProtocolError(f"a hash of the proof has not {HASH_BYTES} bytes")
