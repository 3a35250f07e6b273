"""Makes and opens the audit log, and compares the files with the signed checkpoint.

A log that is shorter than its signed size, or has another root there, does not open:
somebody cut or changed it, or an old backup came back. Bytes behind the last whole
frame are cut off and kept beside the log (docs/protocol-log.md section 6).
"""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keys.card_fields import SizedKey
from node.audit.files import LogFile, read_file, replace_durable
from node.audit.tree import NodeFile
from node.errors import ExitCode, NodeError
from protocol.errors import RemoteProtocolError
from protocol.log.checkpoint import Checkpoint, open_checkpoint_untrusted, sign_checkpoint
from protocol.log.entry import Entry, Event, decode_entry_untrusted, encode_entry
from protocol.log.note import Signer
from protocol.log.rotation import KEY_REVOKED, ROTATION, KeyChange, parse_change_untrusted
from protocol.log.tree import Frontier, leaf_hash

LOG_NAME = "log"
CHECKPOINT_NAME = "checkpoint"
TREE_NAME = "tree"
TORN_NAME = "torn-tail"

_ROTATION, _KEY_REVOKED = (f'"type":"{name}"'.encode() for name in (ROTATION, KEY_REVOKED))
_NODES_AT_ONCE = 4096


@dataclass(frozen=True)
class RecoveredLog:
    """A log that was found whole.

    Attributes:
        file: the file of entries; it ends with a complete entry, and all of it is durable.
        nodes: the nodes of the tree.
        tree: the tree over all entries.
        last_ms: time of the last entry.
        torn: file with a torn tail that was cut off and that no entry notes yet, or None.
        noted: if the last entry notes a torn tail: that tail's SHA-256 in hex, and the
            entry's index.
        first_key: the log key that the first entry names, 32 bytes.
        changes: changes of keys, all roles, oldest first.
    """

    file: LogFile
    nodes: NodeFile
    tree: Frontier
    last_ms: int
    torn: Path | None
    noted: tuple[str, int] | None
    first_key: bytes
    changes: tuple[KeyChange, ...] = ()

    @property
    def log_key(self) -> bytes:
        """The log key that these entries put in force, 32 bytes."""
        keys = [change.new_key for change in self.changes if change.role == "log"]
        return keys[-1] if keys else self.first_key


def make_log(directory: Path, signer: Signer, first: Event, time_ms: int) -> RecoveredLog:
    """Make the files of a log of one entry.

    Args:
        directory: must not hold a log yet; made if it does not exist.
        signer: signs its checkpoint.
        first: the event of the entry.
        time_ms: the time of the entry.

    Raises:
        NodeError: the disk is full, or there is a log already.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = LogFile(directory / LOG_NAME, create=True)
    entry = encode_entry(first, index=0, time_ms=time_ms, openings=())
    file.append([entry])
    tree = Frontier()
    nodes = NodeFile(directory / TREE_NAME)
    nodes.add(tree.append(leaf_hash(entry)))
    signed = sign_checkpoint(Checkpoint(signer.name, tree.size, tree.root()), signer)
    # This flushes the folder, too, and so the name of the log.
    replace_durable(directory / CHECKPOINT_NAME, signed.encode())
    return RecoveredLog(
        file=file,
        nodes=nodes,
        tree=tree,
        last_ms=time_ms,
        torn=None,
        noted=None,
        first_key=signer.keypair.public,
    )


def torn_tail_event(torn: Path) -> Event:
    """The event that notes a torn tail kept in a file.

    Raises:
        NodeError: the file cannot be read.
    """
    data = read_file(torn)
    digest = hashlib.sha256(data).hexdigest()
    return Event(type="torn-tail-cut", details={"bytes": len(data), "sha256": digest})


def _sweep(directory: Path) -> None:
    """Remove files that a crash left half written, also under the names of older releases."""
    for leftover in (*directory.glob(".*.tmp"), directory / "checkpoint.new"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def open_log(directory: Path, origin: str, keys: Sequence[SizedKey]) -> RecoveredLog:
    """Open the files of a log.

    Args:
        directory: the folder of the log.
        origin: the name of the log.
        keys: log keys and the sizes for which their checkpoints count.

    Raises:
        NodeError: the log is not the signed one, is held by another process, or
            cannot be read.
    """
    checkpoint = _read_checkpoint(directory / CHECKPOINT_NAME, origin, keys)
    file = LogFile(directory / LOG_NAME)
    nodes: NodeFile | None = None
    try:
        _sweep(directory)
        nodes = NodeFile(directory / TREE_NAME)
        replay = _Replay(file, nodes, checkpoint)
        torn = directory / TORN_NAME
        tail = file.torn_tail()
        if tail:
            # Keep the tail before cutting it, so that a crash in between does not lose it. A
            # tail of an earlier crash may be in the file and not be noted yet: append to it.
            earlier = read_file(torn)
            replace_durable(torn, earlier if earlier.endswith(tail) else earlier + tail)
        file.cut()
    except BaseException:
        if nodes is not None:
            nodes.close()
        file.close()
        raise
    return RecoveredLog(
        file=file,
        nodes=nodes,
        tree=replay.tree,
        last_ms=replay.last.time_ms,
        noted=_noted(replay.last),
        torn=torn if torn.exists() else None,
        first_key=replay.first_key,
        changes=tuple(replay.changes),
    )


def _read_checkpoint(path: Path, origin: str, keys: Sequence[SizedKey]) -> Checkpoint:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _integrity(f"its checkpoint cannot be read: {error.strerror}") from error
    reason, misplaced = "no key is known that may have signed its checkpoint", ""
    for listed in keys:
        try:
            checkpoint = open_checkpoint_untrusted(data, origin, listed.key)
        except RemoteProtocolError as error:
            reason = f"its checkpoint does not hold: {error}"
            continue
        until = listed.until_size
        if listed.since_size <= checkpoint.size and (until is None or checkpoint.size < until):
            return checkpoint
        misplaced = (
            f"its checkpoint of size {checkpoint.size} is signed by a key not in force there"
        )
    raise _integrity(misplaced or reason)


class _Replay:
    """Reads the whole log: its tree, its last entry, its changes of keys."""

    def __init__(self, file: LogFile, nodes: NodeFile, checkpoint: Checkpoint) -> None:
        self.tree = tree = Frontier()
        self.first_key = self._facility_key = b""
        self.changes: list[KeyChange] = []
        self._origin = checkpoint.origin
        last = b""
        new_nodes: list[bytes] = []
        for entry in file.scan():
            if tree.size >= checkpoint.size:
                _decode(entry, tree.size)
            if tree.size == 0:
                self._take_first(_decode(entry, 0))
            elif _ROTATION in entry or _KEY_REVOKED in entry:
                self._take_change(_decode(entry, tree.size))
            new_nodes += tree.append(leaf_hash(entry))
            if len(new_nodes) > _NODES_AT_ONCE:
                nodes.add(new_nodes)
                new_nodes.clear()
            if tree.size == checkpoint.size and tree.root() != checkpoint.root:
                raise _integrity(f"its first {tree.size} entries are not those that were signed")
            last = entry
        nodes.add(new_nodes)
        if tree.size < checkpoint.size or not last:
            raise _integrity(
                f"{checkpoint.size} entries were signed, and {tree.size} whole ones are there"
            )
        self.last = _decode(last, tree.size - 1)

    def _take_first(self, entry: Entry) -> None:
        try:
            self.first_key = bytes.fromhex(str(entry.details.get("log_key")))
            self._facility_key = bytes.fromhex(str(entry.details.get("facility_key")))
        except ValueError:
            raise _integrity("its first entry does not name the keys") from None

    def _take_change(self, entry: Entry) -> None:
        if entry.type not in (ROTATION, KEY_REVOKED):
            return
        try:
            change = parse_change_untrusted(
                entry, origin=self._origin, facility_key=self._facility_key
            )
        except RemoteProtocolError as error:
            raise _integrity(f"entry {entry.index} changes no key: {error}") from error
        if change.root != self.tree.root():
            raise _integrity(f"entry {entry.index} changes a key of another log")
        self.changes.append(change)


def _noted(entry: Entry) -> tuple[str, int] | None:
    if entry.type != "torn-tail-cut":
        return None
    return str(entry.details.get("sha256")), entry.index


def _decode(entry: bytes, index: int) -> Entry:
    try:
        decoded = decode_entry_untrusted(entry)
    except RemoteProtocolError as error:
        raise _integrity(f"entry {index} cannot be read: {error}") from error
    if decoded.index != index:
        raise _integrity(f"entry {index} calls itself entry {decoded.index}")
    return decoded


def _integrity(reason: str) -> NodeError:
    return NodeError(
        f"the audit log is not what this node wrote: {reason}",
        hint="keep the folder `audit` as it is for an examination and find out who changed it; "
        "restore it only from a backup that is as new as the log",
        code=ExitCode.INTEGRITY,
    )
