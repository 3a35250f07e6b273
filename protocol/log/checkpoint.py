"""C2SP checkpoints: the signed statement that a log has a size and a root.

Format: <https://c2sp.org/tlog-checkpoint>; docs/protocol-log.md section 5.
"""

import base64
import re
from dataclasses import dataclass

from keys.fingerprint import fingerprint
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.note import (
    Signer,
    Verifier,
    decode_base64_untrusted,
    is_key_name,
    open_note_untrusted,
    sign_note,
)
from protocol.log.tree import HASH_BYTES

SIZE_LIMIT = 2**63 - 1
"""Largest size of a log: a signed 64-bit integer holds it in every language."""

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


def log_origin(facility_key: bytes) -> str:
    """The origin line of a facility's audit log, by its facility key (32 bytes)."""
    return f"radmesh.log/{fingerprint(facility_key)}"


@dataclass(frozen=True)
class Checkpoint:
    """Size and root of the log named `origin`; extension lines are kept as they are."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lines = (self.origin, *self.extensions)
        if (
            not all(line and "\n" not in line for line in lines)
            or not 0 <= self.size <= SIZE_LIMIT
            or len(self.root) != HASH_BYTES
        ):
            raise LocalProtocolError("not the parts of a checkpoint")

    def encode(self) -> str:
        """The text that is signed."""
        root = base64.b64encode(self.root).decode()
        return "".join(f"{line}\n" for line in (self.origin, self.size, root, *self.extensions))


def parse_checkpoint_untrusted(text: str) -> Checkpoint:
    """Read the text of a checkpoint.

    Raises:
        RemoteProtocolError: not a checkpoint.
    """
    lines = text.split("\n")
    if lines.pop() or len(lines) < 3 or not all(lines):
        raise RemoteProtocolError("the checkpoint has not the lines it must have")
    origin, size_text, root_text, *extensions = lines
    if _SIZE.fullmatch(size_text) is None or int(size_text) > SIZE_LIMIT:
        raise RemoteProtocolError("the size of the checkpoint is malformed")
    root = decode_base64_untrusted(root_text)
    if len(root) != HASH_BYTES:
        raise RemoteProtocolError(f"the root of the checkpoint has not {HASH_BYTES} bytes")
    return Checkpoint(origin, int(size_text), root, tuple(extensions))


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> str:
    """The signed note of a checkpoint.

    Raises:
        LocalProtocolError: the origin is not a valid key name, as a signature needs.
    """
    if signer.name != checkpoint.origin or not is_key_name(checkpoint.origin):
        raise LocalProtocolError("a log's key is named by the log's origin")
    return sign_note(checkpoint.encode(), [signer])


def open_checkpoint_untrusted(data: bytes, origin: str, public: bytes) -> Checkpoint:
    """Check a signed checkpoint of the log `origin` with the log key (32 bytes).

    Raises:
        RemoteProtocolError: not a checkpoint of that log, or not signed by that key.
    """
    note = open_note_untrusted(data, [Verifier(origin, public)])
    checkpoint = parse_checkpoint_untrusted(note.text)
    if checkpoint.origin != origin:
        raise RemoteProtocolError("the checkpoint is of another log")
    return checkpoint
