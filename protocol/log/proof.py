"""C2SP tlog-proofs: one text that proves one entry by one checkpoint.

Format: <https://c2sp.org/tlog-proof>.
"""

import base64
import re
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError
from protocol.log.checkpoint import SIZE_LIMIT
from protocol.log.note import decode_base64_untrusted
from protocol.log.tree import HASH_BYTES

HEADER = "c2sp.org/tlog-proof@v1"

PROOF_HASHES = 63
"""Most hashes: the depth of a tree of 2^63 entries."""

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True)
class TlogProof:
    """An entry's index, its inclusion proof, and the signed checkpoint to which this leads.

    `checkpoint` is the signed note, unchanged; `extra` is opaque, None if absent.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def encode(self) -> str:
        """The text form."""
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines.extend(base64.b64encode(each).decode() for each in self.hashes)
        return "".join(f"{line}\n" for line in lines) + "\n" + self.checkpoint


def parse_proof_untrusted(text: str) -> TlogProof:
    """Read the text form; checks neither hashes nor signatures.

    Raises:
        RemoteProtocolError: not a tlog-proof.
    """
    head, separator, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or not checkpoint or lines.pop(0) != HEADER:
        raise RemoteProtocolError("not a tlog-proof")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = decode_base64_untrusted(lines.pop(0).removeprefix("extra "))
    found = _INDEX.fullmatch(lines.pop(0)) if lines else None
    if found is None or int(found[1]) > SIZE_LIMIT or len(lines) > PROOF_HASHES:
        raise RemoteProtocolError("the index of the tlog-proof is malformed")
    hashes = tuple(decode_base64_untrusted(line) for line in lines)
    if any(len(each) != HASH_BYTES for each in hashes):
        raise RemoteProtocolError(f"a hash of the tlog-proof has not {HASH_BYTES} bytes")
    return TlogProof(int(found[1]), hashes, checkpoint, extra)
