"""Keeps the signed checkpoint of the audit log up with the log.

A checkpoint costs two flushes more than an entry, so it is written by a thread
of its own, once for all entries that came meanwhile. The checkpoint on disk may lag
by a quarter of a second. A checkpoint is written before anybody sees it, so after a
crash the log is never behind a checkpoint that others have seen.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from node.audit.files import replace_durable
from node.blocking import Background
from node.errors import ExitCode, NodeError
from protocol.log.checkpoint import Checkpoint, sign_checkpoint
from protocol.log.note import Signer
from protocol.log.tree import Frontier

PAUSE_SECONDS = 0.25
"""Least time between two checkpoints that this thread writes by itself."""

RETRY_SECONDS = 1.0
"""Pause after a failed write. Not reported here: entries are on the same disk and report it."""


class CheckpointKeeper:
    """Signs and writes checkpoints.

    Args:
        path: the file of the newest checkpoint.
        signer: the log key in force now, named by the origin; None when it is lost or
            sealed: then nothing can be signed before `hand_over`.
        durable: returns the tree over the entries that are on disk, never a larger one.
    """

    def __init__(self, path: Path, signer: Signer | None, durable: Callable[[], Frontier]) -> None:
        self._path = path
        # Each signer with the first size that it signs; the last one is the current key.
        self._signers: list[tuple[int, Signer | None]] = [(0, signer)]
        self._durable = durable
        self._lock = threading.Lock()
        self._size = -1
        self._text = ""
        self._background = Background("radmesh-checkpoint", self._write)

    def poke(self) -> None:
        """Say that there are new entries."""
        self._background.poke()

    def current(self) -> str:
        """The signed checkpoint over all durable entries; on disk before it is returned.

        Raises:
            NodeError: it cannot be written.
        """
        with self._lock:
            tree = self._durable()
            if tree.size != self._size:
                signer = next(
                    signer for since, signer in reversed(self._signers) if since <= tree.size
                )
                if signer is None:
                    raise NodeError(
                        "the log key is not at hand, so the end of the log cannot be signed",
                        hint="start the node with the passphrase of its keys; a lost log key is "
                        "replaced by `radmesh keys revoke log`",
                        code=ExitCode.NO_HOME,
                    )
                checkpoint = Checkpoint(signer.name, tree.size, tree.root())
                text = sign_checkpoint(checkpoint, signer)
                replace_durable(self._path, text.encode())
                self._size, self._text = tree.size, text
            return self._text

    def hand_over(self, signer: Signer, since_size: int) -> None:
        """Let another key sign from `since_size` on; call before the log has that size."""
        with self._lock:
            self._signers.append((since_size, signer))

    def take_back(self, public: bytes) -> None:
        """Undo a `hand_over` to a key (32 bytes), if any: the log did not reach that size."""
        with self._lock:
            signer = self._signers[-1][1]
            if signer is not None and signer.keypair.public == public:
                self._signers.pop()

    def _write(self) -> tuple[float, bool]:
        try:
            self.current()
        except NodeError:
            return RETRY_SECONDS, True
        return PAUSE_SECONDS, False

    def close(self) -> None:
        """Stop, after a last checkpoint if the disk takes one."""
        self._background.stop()
        try:
            self.current()
        except NodeError:
            # The next start signs it; the entries themselves are durable.
            return
