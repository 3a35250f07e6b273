"""The RFC 6962 tree for a verifier: roots over leaves, and checking inclusion proofs."""

from collections.abc import Sequence
from hashlib import sha256


class Tree:
    """Roots of the perfect subtrees of a growing tree, smallest last."""

    def __init__(self) -> None:
        self.size = 0
        self.subtrees: list[bytes] = []

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add leaf hashes (32 bytes each)."""
        subtrees = self.subtrees
        size = self.size
        for leaf in leaves:
            size += 1
            rest = size
            while not rest & 1:
                leaf = sha256(b"\1" + subtrees.pop() + leaf).digest()
                rest >>= 1
            subtrees.append(leaf)
        self.size = size

    def root(self) -> bytes:
        """Root over all leaves so far (RFC 6962 section 2.1)."""
        if not self.subtrees:
            return sha256(b"").digest()
        *left, root = self.subtrees
        while left:
            root = sha256(b"\1" + left.pop() + root).digest()
        return root

    def branch(self) -> "Tree":
        """A copy that grows independently."""
        other = Tree()
        other.size, other.subtrees = self.size, list(self.subtrees)
        return other


def leaf(entry: bytes) -> bytes:
    """Leaf hash of an entry (RFC 6962 section 2.1)."""
    return sha256(b"\0" + entry).digest()


def root_by_proof(hashed: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root to which an inclusion proof leads (RFC 6962 section 2.1.1).

    Args:
        hashed: the leaf hash.
        index: index of the leaf, less than `size`.
        size: size of the tree.
        proof: hashes of 32 bytes, from the leaf's sibling upwards.

    Returns:
        The root, or None if a proof for this index and size has another length.
    """
    # The side of each sibling, from the top of the tree down to the leaf.
    sides: list[bool] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + (1 << (stop - start - 1).bit_length() - 1)
        on_left = index >= middle
        sides.append(on_left)
        start, stop = (middle, stop) if on_left else (start, middle)
    if len(sides) != len(proof):
        return None
    for on_left, sibling in zip(reversed(sides), proof, strict=True):
        pair = sibling + hashed if on_left else hashed + sibling
        hashed = sha256(b"\1" + pair).digest()
    return hashed
