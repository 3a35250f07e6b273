"""The RFC 6962 tree as a verifier needs it: leaves in, root out."""

from hashlib import sha256


class Tree:
    """Roots of the perfect subtrees of a growing tree, smallest last."""

    def __init__(self) -> None:
        self.size = 0
        self.subtrees: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Add a leaf hash (32 bytes)."""
        self.size += 1
        size = self.size
        while size % 2 == 0:
            leaf = sha256(b"\1" + self.subtrees.pop() + leaf).digest()
            size //= 2
        self.subtrees.append(leaf)

    def root(self) -> bytes:
        """Root over all leaves so far (RFC 6962 section 2.1)."""
        if not self.subtrees:
            return sha256(b"").digest()
        *left, root = self.subtrees
        while left:
            root = sha256(b"\1" + left.pop() + root).digest()
        return root

    def branch(self) -> "Tree":
        """A copy that grows by itself."""
        other = Tree()
        other.size, other.subtrees = self.size, list(self.subtrees)
        return other


def leaf(entry: bytes) -> bytes:
    """Leaf hash of an entry (RFC 6962 section 2.1)."""
    return sha256(b"\0" + entry).digest()
