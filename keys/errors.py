"""Errors of the keys package: a caller may test the class, never the text.

Texts are parts of sentences that an operator reads: lower case, no full stop.
"""


class KeysError(Exception):
    """Root of this package's errors."""


class BadKey(KeysError):
    """Bytes or text that should be a key, a key file or a PeerID are not."""


class KeySealed(KeysError):
    """A private key is under a passphrase that was not given."""


class WrongPassphrase(KeysError):
    """A passphrase does not open a key, or the sealed key was altered."""


class BadFingerprint(KeysError):
    """Text that should be a fingerprint is not; a group may be misread or mistyped."""


class BadCode(KeysError):
    """Text that should be the code of a pairing is not; a digit may be misread or mistyped."""


class BadSignature(KeysError):
    """A signature does not hold: the message was altered or signed by another key."""


class NotCanonical(KeysError):
    """A value has no canonical JSON form, or bytes are not in that form."""


class BadCard(KeysError):
    """A facility card is damaged, forged, or holds a value that is not allowed."""


class CardExpired(KeysError):
    """A facility card is past its date; its facility has to issue a newer one."""


class CardSuperseded(KeysError):
    """A facility card is older than the known card of the same facility."""


class SealBroken(KeysError):
    """A sealed chunk does not open: altered, cut, misplaced or for another transfer."""


class TrustError(KeysError):
    """The trust store cannot do what was asked: unknown, ambiguous or forbidden."""
