"""Ed25519 keys: how they sign, how they are verified, and the PeerID of a node key.

Each of our signatures covers `domain || 0x00 || message`, so that one kind of message can
never be read as another kind. `sign_raw` is for formats with their own separation, such
as C2SP signed notes.
"""

from collections.abc import Callable

import nacl.bindings
import nacl.exceptions
import nacl.signing
import nacl.utils

from keys.errors import BadKey, BadSignature, KeySealed

SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64

# A libp2p public key (protobuf: type Ed25519, 32 bytes of key) as an identity
# multihash; the key itself follows. libp2p specification "peer-ids", section "Keys".
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PEER_ID_CHARACTERS = 52


class KeyPair:
    """An Ed25519 key pair (RFC 8032) for one of the four roles.

    Attributes:
        public: the public key, 32 bytes.
    """

    __slots__ = ("_signing", "public")

    _signing: nacl.signing.SigningKey | None

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise BadKey(f"a key seed has {SEED_BYTES} bytes, this one {len(seed)}")
        self._signing = nacl.signing.SigningKey(bytes(seed))
        self.public = bytes(self._signing.verify_key)

    @classmethod
    def sealed(cls, public: bytes) -> "KeyPair":
        """A pair whose private half is under a passphrase that was not given."""
        pair = cls.__new__(cls)
        pair._signing = None
        pair.public = public
        return pair

    @property
    def is_sealed(self) -> bool:
        """Whether the private half is not at hand."""
        return self._signing is None

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes.

        Raises:
            KeySealed: they are not at hand.
        """
        return bytes(self._private())

    def _private(self) -> nacl.signing.SigningKey:
        if self._signing is None:
            raise KeySealed("the private key is under a passphrase that was not given")
        return self._signing

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = nacl.utils.random) -> "KeyPair":
        """Make a new key pair from `random(32)`."""
        return cls(random(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> "KeyPair":
        """The key pair of a seed.

        Raises:
            BadKey: the seed is not 32 bytes.
        """
        return cls(seed)

    def sign(self, domain: bytes, message: bytes) -> bytes:
        """Sign a message of one kind.

        Args:
            domain: the kind, such as b"radmesh-card-v1"; never holds a zero byte.
            message: what is signed.

        Returns:
            64 bytes.
        """
        return self.sign_raw(_separated(domain, message))

    def sign_raw(self, message: bytes) -> bytes:
        """Sign bytes as they are; returns 64 bytes.

        Raises:
            KeySealed: the private key is not at hand.
        """
        return self._private().sign(bytes(message)).signature

    def __repr__(self) -> str:
        # The seed must not reach a log or a traceback.
        return f"KeyPair({self.public.hex()})"


def verify(public: bytes, domain: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature made by `KeyPair.sign`.

    Raises:
        BadSignature: it does not hold, or key or signature have a wrong length.
    """
    verify_raw(public, _separated(domain, message), signature)


def verify_raw(public: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature over bytes as they are.

    Raises:
        BadSignature: it does not hold, or key or signature have a wrong length.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        raise BadSignature("the signature or its key has a wrong length")
    try:
        nacl.bindings.crypto_sign_open(bytes(signature) + bytes(message), bytes(public))
    except nacl.exceptions.BadSignatureError:
        raise BadSignature("the signature does not hold") from None


def peer_id(node_public: bytes) -> str:
    """The libp2p PeerID of a node key: "12D3KooW" and 44 more characters.

    Raises:
        BadKey: the key is not 32 bytes.
    """
    if len(node_public) != PUBLIC_BYTES:
        raise BadKey(f"a node key has {PUBLIC_BYTES} bytes, this one {len(node_public)}")
    rest = int.from_bytes(_PEER_ID_PREFIX + node_public)
    digits = ""
    while rest:
        rest, digit = divmod(rest, 58)
        digits = _BASE58[digit] + digits
    # The "1" encodes the leading zero byte of the prefix.
    return "1" + digits


def node_public_of(peer_id_text: str) -> bytes:
    """The node key (32 bytes) in a PeerID.

    Raises:
        BadKey: the text is not the PeerID of an Ed25519 key.
    """
    if len(peer_id_text) == _PEER_ID_CHARACTERS and set(peer_id_text) <= set(_BASE58):
        value = 0
        for character in peer_id_text:
            value = value * 58 + _BASE58.index(character)
        public = (value & ((1 << 8 * PUBLIC_BYTES) - 1)).to_bytes(PUBLIC_BYTES)
        if peer_id(public) == peer_id_text:
            return public
    raise BadKey("this is not the PeerID of a node (12D3KooW and 44 more characters)")


def _separated(domain: bytes, message: bytes) -> bytes:
    return b"%b\0%b" % (domain, message)
