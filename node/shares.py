"""The facility key on paper: three lists of words, any two of which give it back (SLIP-39).

SLIP-0039, "Shamir's Secret-Sharing for Mnemonic Codes"; a checksum finds a wrong word. One
list alone tells nothing about the key.
"""

from collections.abc import Sequence

from keys.errors import BadKey
from keys.identity import SEED_BYTES, KeyPair

SHARES = 3
NEEDED = 2
WORDS = 33
"""Words of a share of 32 bytes."""


def split(facility: KeyPair) -> tuple[str, ...]:
    """Split a key into shares, each a line of words; new ones at each call.

    Raises:
        KeySealed: the private key is not at hand.
    """
    from shamir_mnemonic import generate_mnemonics

    [group] = generate_mnemonics(1, [(NEEDED, SHARES)], facility.seed)
    return tuple(group)


def check_untrusted(share: str) -> str:
    """A share as it was typed, in its plain form.

    Raises:
        BadKey: a word is wrong or missing; the text never contains a word.
    """
    from shamir_mnemonic import MnemonicError
    from shamir_mnemonic.share import Share

    words = share.lower().split()
    if len(words) != WORDS:
        raise BadKey(f"a share has {WORDS} words, this one {len(words)}")
    plain = " ".join(words)
    try:
        Share.from_mnemonic(plain)
    except MnemonicError:
        raise BadKey("a word of the share is wrong") from None
    return plain


def join_untrusted(shares: Sequence[str]) -> KeyPair:
    """The key of two shares.

    Raises:
        BadKey: they are damaged, the same, or of different keys.
    """
    from shamir_mnemonic import MnemonicError, combine_mnemonics

    try:
        seed = combine_mnemonics([check_untrusted(share) for share in shares])
    except MnemonicError:
        raise BadKey(f"these are not {NEEDED} different shares of one key") from None
    if len(seed) != SEED_BYTES:
        raise BadKey("these are not shares of a facility key")
    return KeyPair.from_seed(seed)
