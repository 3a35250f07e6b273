"""The fingerprint of a facility key, which two admins compare by voice.

Form: SHA-256 of the key in RFC 4648 base32 (52 characters), cut into 4 parts
of 13, each followed by a check character, and the 56 characters written as 8
groups of 7. Syncthing device IDs have the same construction; their published examples
are the test vectors. The check characters catch a slip of the tongue; comparison is
always on the full hash.
"""

import base64
import hashlib

from keys.errors import BadFingerprint

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PART = 13
_GROUP = 7
_CHARACTERS = 56
_HASH_CHARACTERS = 52

# Characters that are not in the alphabet, read as the letters that they look like.
_LOOKALIKES = str.maketrans("018", "OIB")
_IGNORED = "-\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"


def fingerprint(facility_key: bytes) -> str:
    """The fingerprint of a facility key (32 bytes), such as `ABCDEFG-...`, 63 characters."""
    return format_hash(hashlib.sha256(facility_key).digest())


def format_hash(digest: bytes) -> str:
    """Write a SHA-256 digest (32 bytes) in the form of a fingerprint."""
    letters = base64.b32encode(digest).decode().rstrip("=")
    parts = [letters[at : at + _PART] for at in range(0, _HASH_CHARACTERS, _PART)]
    checked = "".join(part + _check_character(part) for part in parts)
    return "-".join(checked[at : at + _GROUP] for at in range(0, _CHARACTERS, _GROUP))


def parse_fingerprint(text: str) -> bytes:
    """Read a fingerprint as a person types it.

    Case, spaces and dashes do not matter, and 0, 1, 8 are read as O, I, B.

    Returns:
        The SHA-256 of the facility key, 32 bytes.

    Raises:
        BadFingerprint: too long, too short, a character that is never in one, or a
            check character that does not fit; the text says which groups.
    """
    letters = "".join(text.split()).upper().translate(_LOOKALIKES)
    letters = "".join(character for character in letters if character not in _IGNORED)
    if not set(letters) <= set(_ALPHABET):
        raise BadFingerprint("a fingerprint has only letters and the digits 2 to 7")
    if len(letters) != _CHARACTERS:
        raise BadFingerprint(
            f"a fingerprint has 8 groups of 7 characters, {_CHARACTERS} in all, not {len(letters)}"
        )
    parts = []
    for number in range(4):
        part = letters[number * (_PART + 1) : (number + 1) * (_PART + 1)]
        if _check_character(part[:_PART]) != part[_PART]:
            first = 2 * number + 1
            raise BadFingerprint(
                f"group {first} or {first + 1} of the fingerprint is mistyped: "
                f"{part[:_GROUP]}-{part[_GROUP:]}"
            )
        parts.append(part[:_PART])
    digest = base64.b32decode("".join(parts) + "====")
    if format_hash(digest).replace("-", "") != letters:
        # The last character holds one bit of the hash; its other four bits must be 0.
        raise BadFingerprint("the last group of the fingerprint is mistyped")
    return digest


def matches(facility_key: bytes, text: str) -> bool:
    """Whether `text` is the fingerprint of this facility key (32 bytes).

    Raises:
        BadFingerprint: the text is no fingerprint at all.
    """
    return parse_fingerprint(text) == hashlib.sha256(facility_key).digest()


def _check_character(part: str) -> str:
    """Luhn mod N for base 32, from left to right with factors 1, 2, 1, ..."""
    total = 0
    for position, character in enumerate(part):
        addend = _ALPHABET.index(character) * (1 + position % 2)
        total += addend // 32 + addend % 32
    return _ALPHABET[-total % 32]
