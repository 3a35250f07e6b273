"""Opens the audit log: what is on disk is compared with what was signed.

A log that is shorter than its signed size, or has another root there, does not open:
somebody cut or changed it, or an old backup came back. What lies behind the last
whole frame is cut off and kept beside the log (docs/protocol-log.md section 6).
"""

from dataclasses import dataclass
from pathlib import Path

from node.audit_files import LogFile, replace_durable
from node.audit_tree import NodeFile
from node.errors import ExitCode, NodeError
from protocol.errors import RemoteProtocolError
from protocol.log.checkpoint import Checkpoint, open_checkpoint_untrusted
from protocol.log.entry import decode_entry_untrusted
from protocol.log.note import Signer
from protocol.log.tree import Frontier, leaf_hash

LOG_NAME = "log"
CHECKPOINT_NAME = "checkpoint"
TREE_NAME = "tree"
TORN_NAME = "torn-tail"


@dataclass(frozen=True)
class Opened:
    """A log that was found whole.

    Attributes:
        file: behind it lies nothing that is not an entry; all of it is durable.
        nodes: of the tree.
        tree: over all entries.
        last_ms: time of the last entry.
        torn: what was cut off and is not noted yet, if anything.
    """

    file: LogFile
    nodes: NodeFile
    tree: Frontier
    last_ms: int
    torn: Path | None


def open_log(directory: Path, signer: Signer) -> Opened:
    """Open the files of a log.

    Args:
        directory: where it lies.
        signer: the key that signed its checkpoint.

    Raises:
        NodeError: the log is not what was signed, is held by another process, or
            cannot be read.
    """
    checkpoint = _read_checkpoint(directory / CHECKPOINT_NAME, signer)
    file = LogFile(directory / LOG_NAME)
    nodes: NodeFile | None = None
    try:
        nodes = NodeFile(directory / TREE_NAME)
        tree, last_ms = _replay(file, nodes, checkpoint)
        torn = directory / TORN_NAME
        tail = file.torn_tail()
        if tail:
            # Kept before it is cut, so that a crash in between loses neither.
            replace_durable(torn, tail)
            file.cut_torn_tail()
        file.flush()
    except BaseException:
        if nodes is not None:
            nodes.close()
        file.close()
        raise
    return Opened(file, nodes, tree, last_ms, torn if torn.exists() else None)


def _read_checkpoint(path: Path, signer: Signer) -> Checkpoint:
    try:
        data = path.read_bytes()
        return open_checkpoint_untrusted(data, signer.name, signer.keypair.public)
    except OSError as error:
        raise _integrity(f"its checkpoint cannot be read: {error.strerror}") from error
    except RemoteProtocolError as error:
        raise _integrity(f"its checkpoint does not hold: {error}") from error


def _replay(file: LogFile, nodes: NodeFile, checkpoint: Checkpoint) -> tuple[Frontier, int]:
    """Read the whole log; returns its tree and the time of its last entry."""
    tree = Frontier()
    last = b""
    for entry in file.scan():
        if tree.size >= checkpoint.size:
            _check_unsigned(entry, tree.size)
        nodes.add(tree.append(leaf_hash(entry)))
        if tree.size == checkpoint.size and tree.root() != checkpoint.root:
            raise _integrity(f"its first {tree.size} entries are not those that were signed")
        last = entry
    if tree.size < checkpoint.size or not last:
        raise _integrity(
            f"{checkpoint.size} entries were signed, and {tree.size} whole ones are there"
        )
    return tree, _check_unsigned(last, tree.size - 1)


def _check_unsigned(entry: bytes, index: int) -> int:
    try:
        decoded = decode_entry_untrusted(entry)
    except RemoteProtocolError as error:
        raise _integrity(f"entry {index} cannot be read: {error}") from error
    if decoded.index != index:
        raise _integrity(f"entry {index} calls itself entry {decoded.index}")
    return decoded.time_ms


def _integrity(reason: str) -> NodeError:
    return NodeError(
        f"the audit log is not what this node wrote: {reason}",
        hint="keep the folder `audit` as it is for an examination and find out who changed it; "
        "restore it only from a backup that is as new as the log",
        code=ExitCode.INTEGRITY,
    )
