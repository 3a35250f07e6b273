"""C2SP cosignatures: a witness's signature under the checkpoint of somebody else's log.

Format: <https://c2sp.org/tlog-cosignature>, the Ed25519 type (cosignature/v1);
docs/protocol-log.md section 5.1. A cosignature says: at this time, the largest
consistent tree that I have seen of this log has this root.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from keys.errors import KeysError
from keys.fingerprint import fingerprint
from keys.identity import SIGNATURE_BYTES, KeyPair, verify_raw
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.note import (
    NamedKey,
    Signature,
    decode_base64_untrusted,
    is_key_name,
    key_hash,
    parse_note_untrusted,
)

ED25519_COSIGNATURE = 4
"""The algorithm byte of the key id."""

TIME_LIMIT = 2**63 - 1
"""Largest time, seconds since the epoch, that a cosignature may carry."""

_TIME_BYTES = 8


def witness_name(facility_key: bytes) -> str:
    """The key name of a facility's witness, from its facility key (32 bytes)."""
    return f"radmesh.witness/{fingerprint(facility_key)}"


@dataclass(frozen=True)
class Cosigner(NamedKey):
    """A key that may cosign checkpoints."""

    ALGORITHM = ED25519_COSIGNATURE


@dataclass(frozen=True)
class Cosignature:
    """A cosignature that holds: the cosigner, and the time in seconds since the epoch, UTC."""

    cosigner: Cosigner
    time: int


def cosign(text: str, name: str, keypair: KeyPair, time: int) -> str:
    """The signature line of a witness under a checkpoint.

    Args:
        text: the text of the checkpoint's note, without its signatures.
        name: name of the witness's key.
        keypair: the witness key.
        time: seconds since the epoch, UTC.

    Returns:
        The line, which ends with a newline.

    Raises:
        LocalProtocolError: the time is out of range.
    """
    if not 0 <= time <= TIME_LIMIT:
        raise LocalProtocolError("the time of a cosignature is out of range")
    signature = (
        Cosigner(name, keypair.public).hash
        + time.to_bytes(_TIME_BYTES)
        + keypair.sign_raw(_message(text, time))
    )
    return f"— {name} {base64.b64encode(signature).decode()}\n"


def check_cosignature_untrusted(text: str, signature: Signature, cosigner: Cosigner) -> Cosignature:
    """Check one signature line of a note.

    Args:
        text: the text of the note.
        signature: the line.
        cosigner: the key that must have made it.

    Raises:
        RemoteProtocolError: the signature is by another key or does not hold.
    """
    if (signature.name, signature.hash) != (cosigner.name, cosigner.hash):
        raise RemoteProtocolError("the cosignature is of another witness")
    if len(signature.raw) != _TIME_BYTES + SIGNATURE_BYTES:
        raise RemoteProtocolError("the cosignature has a wrong length")
    time = int.from_bytes(signature.raw[:_TIME_BYTES])
    if time > TIME_LIMIT:
        raise RemoteProtocolError("the time of the cosignature is out of range")
    try:
        verify_raw(cosigner.public, _message(text, time), signature.raw[_TIME_BYTES:])
    except KeysError:
        raise RemoteProtocolError(f"the cosignature of {cosigner.name} does not hold") from None
    return Cosignature(cosigner, time)


def cosignatures_untrusted(data: bytes, cosigners: Iterable[Cosigner]) -> list[Cosignature]:
    """The cosignatures of known witnesses under a note; other lines are ignored.

    Raises:
        RemoteProtocolError: not a note, or the cosignature of a known witness does not hold.
    """
    known = {(cosigner.name, cosigner.hash): cosigner for cosigner in cosigners}
    text, signatures = parse_note_untrusted(data)
    found: dict[Cosigner, Cosignature] = {}
    for signature in signatures:
        cosigner = known.get((signature.name, signature.hash))
        if cosigner is not None and cosigner not in found:
            found[cosigner] = check_cosignature_untrusted(text, signature, cosigner)
    return list(found.values())


def parse_cosigner_untrusted(vkey: str) -> Cosigner:
    """Read the text form of a witness key.

    Keys of type 1 (Ed25519 notes) are read too, since existing policies name witnesses that way.

    Raises:
        RemoteProtocolError: malformed, of another algorithm, or its hash is wrong.
    """
    name, _, rest = vkey.partition("+")
    digest, _, encoded = rest.partition("+")
    key = decode_base64_untrusted(encoded)
    if not is_key_name(name) or len(key) != 33 or key[0] not in (1, ED25519_COSIGNATURE):
        raise RemoteProtocolError("not the key of a witness")
    if digest != key_hash(name, key[1:], key[0]).hex():
        raise RemoteProtocolError("the hash of the witness's key is wrong")
    return Cosigner(name, key[1:])


def _message(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
