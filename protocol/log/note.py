"""C2SP signed notes: a text with Ed25519 signatures under it.

Format: <https://c2sp.org/signed-note>. Only signature type 1 (Ed25519 over the
text) is made and checked here; lines of other types and of unknown keys are kept,
so that cosignatures pass through unharmed.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from keys.errors import KeysError
from keys.identity import KeyPair, verify_raw
from protocol.errors import LocalProtocolError, RemoteProtocolError

NOTE_BYTES = 1_000_000
"""Most bytes of a note, the bound of golang.org/x/mod/sumdb/note."""

NOTE_SIGNATURES = 100
"""Most signature lines of a note, same source."""

ED25519 = 1

_PREFIX = "— "
_HASH = re.compile(r"[0-9a-f]{8}")


def decode_base64_untrusted(text: str) -> bytes:
    """Decode standard, padded base64 in canonical form.

    Raises:
        RemoteProtocolError: not in that form, for example with trailing bits set.
    """
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise RemoteProtocolError("malformed base64") from None
    if base64.b64encode(decoded).decode() != text:
        raise RemoteProtocolError("base64 that is not canonical")
    return decoded


def is_key_name(name: str) -> bool:
    """Whether `name` can name a key: not empty, no spaces, no plus."""
    return bool(name) and "+" not in name and not any(c.isspace() for c in name)


def key_hash(name: str, key: bytes, algorithm: int = ED25519) -> bytes:
    """The four bytes by which signature lines refer to a key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + key).digest()[:4]


@dataclass(frozen=True)
class NamedKey:
    """A public key with a name; the class's `ALGORITHM` is its type."""

    ALGORITHM: ClassVar[int]

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name) or len(self.public) != 32:
            raise LocalProtocolError("not a name and an Ed25519 key")

    @property
    def hash(self) -> bytes:
        """The four bytes by which signature lines refer to this key."""
        return key_hash(self.name, self.public, self.ALGORITHM)

    @property
    def vkey(self) -> str:
        """The text form, `name+hash+base64`."""
        encoded = base64.b64encode(bytes([self.ALGORITHM]) + self.public).decode()
        return f"{self.name}+{self.hash.hex()}+{encoded}"


@dataclass(frozen=True)
class Verifier(NamedKey):
    """A key that may sign notes."""

    ALGORITHM = ED25519


@dataclass(frozen=True)
class Signer:
    """A named key pair that signs notes."""

    name: str
    keypair: KeyPair

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self.keypair.public)


def parse_vkey_untrusted(text: str) -> Verifier:
    """Read the text form of an Ed25519 verifier key.

    Raises:
        RemoteProtocolError: malformed, of another algorithm, or its hash is wrong.
    """
    name, key = _parse_key(text)
    return Verifier(name, key)


def parse_skey(text: str) -> Signer:
    """Read the text form of an Ed25519 signer key, `PRIVATE+KEY+name+hash+base64`.

    Raises:
        RemoteProtocolError: malformed, of another algorithm, or its hash is wrong.
    """
    if not text.startswith("PRIVATE+KEY+"):
        raise RemoteProtocolError("not a signer key")
    parts = text.removeprefix("PRIVATE+KEY+").split("+", 2)
    if len(parts) != 3:
        raise RemoteProtocolError("malformed signer key")
    keypair = KeyPair.from_seed(_parse_key_bytes(parts[2]))
    signer_hash = key_hash(parts[0], keypair.public)
    if not is_key_name(parts[0]) or parts[1] != signer_hash.hex():
        raise RemoteProtocolError("malformed signer key")
    return Signer(parts[0], keypair)


def _parse_key(text: str) -> tuple[str, bytes]:
    parts = text.split("+", 2)
    if len(parts) != 3 or not is_key_name(parts[0]) or _HASH.fullmatch(parts[1]) is None:
        raise RemoteProtocolError("malformed verifier key")
    key = _parse_key_bytes(parts[2])
    if key_hash(parts[0], key).hex() != parts[1]:
        raise RemoteProtocolError("the hash of the verifier key is wrong")
    return parts[0], key


def _parse_key_bytes(text: str) -> bytes:
    decoded = decode_base64_untrusted(text)
    if len(decoded) != 33 or decoded[0] != ED25519:
        raise RemoteProtocolError("not an Ed25519 key")
    return decoded[1:]


@dataclass(frozen=True)
class Signature:
    """One signature line; `raw` is the part after the key hash (64 bytes for Ed25519)."""

    name: str
    hash: bytes
    raw: bytes


@dataclass(frozen=True)
class Note:
    """A note, with signatures by known keys separated from the others.

    Attributes:
        text: the signed text, which ends with a newline.
        verified: signatures by known keys, which hold.
        unverified: signatures by other keys, not checked.
    """

    text: str
    verified: tuple[Signature, ...]
    unverified: tuple[Signature, ...]


def sign_note(text: str, signers: Sequence[Signer]) -> str:
    """Sign a text.

    Raises:
        LocalProtocolError: the text does not end with a newline or holds control characters.
    """
    if not _is_text(text):
        raise LocalProtocolError("a note must be text that ends with a newline")
    lines = [text, "\n"]
    for signer in signers:
        signature = signer.verifier.hash + signer.keypair.sign_raw(text.encode())
        lines.append(f"{_PREFIX}{signer.name} {base64.b64encode(signature).decode()}\n")
    return "".join(lines)


def _is_text(text: str) -> bool:
    return text.endswith("\n") and not any(c < " " and c != "\n" for c in text)


def parse_note_untrusted(data: bytes) -> tuple[str, list[Signature]]:
    """Split a note into its text and its signature lines; checks no signature.

    Raises:
        RemoteProtocolError: not a note.
    """
    if len(data) > NOTE_BYTES:
        raise RemoteProtocolError("the note is too large")
    try:
        note = data.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("the note is not UTF-8") from None
    text, separator, block = note.rpartition("\n\n")
    text += "\n"
    if not separator or not _is_text(note):
        raise RemoteProtocolError("not a signed note")
    lines = block.split("\n")
    if lines.pop() or not lines or len(lines) > NOTE_SIGNATURES:
        raise RemoteProtocolError("not a signed note")
    return text, [_parse_signature(line) for line in lines]


def _parse_signature(line: str) -> Signature:
    if not line.startswith(_PREFIX):
        raise RemoteProtocolError("malformed signature line")
    name, _, encoded = line.removeprefix(_PREFIX).partition(" ")
    raw = decode_base64_untrusted(encoded)
    if not is_key_name(name) or len(raw) < 5:
        raise RemoteProtocolError("malformed signature line")
    return Signature(name, raw[:4], raw[4:])


def open_note_untrusted(data: bytes, verifiers: Sequence[Verifier]) -> Note:
    """Check a note with known keys.

    Raises:
        RemoteProtocolError: not a note, no known key signed it, two known keys share
            name and hash, or a signature by a known key does not hold.
    """
    text, signatures = parse_note_untrusted(data)
    verified: dict[tuple[str, bytes], Signature] = {}
    unverified: dict[Signature, None] = {}
    for signature in signatures:
        known = [v for v in verifiers if (v.name, v.hash) == (signature.name, signature.hash)]
        if not known:
            unverified[signature] = None
            continue
        if len(known) > 1:
            raise RemoteProtocolError("two known keys share one name and hash")
        if (signature.name, signature.hash) in verified:
            continue
        try:
            verify_raw(known[0].public, text.encode(), signature.raw)
        except KeysError:
            raise RemoteProtocolError(f"the signature of {signature.name} does not hold") from None
        verified[signature.name, signature.hash] = signature
    if not verified:
        raise RemoteProtocolError("no known key signed the note")
    return Note(text, tuple(verified.values()), tuple(unverified))
