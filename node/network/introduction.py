"""Cards in the handshake: how a peer with a replaced node key is recognised.

Noise proves a node key. A node whose key was replaced adds its facility card to its
part of the handshake, so that a peer that was away meanwhile learns of the new key from the only
key that it trusts, the facility key. A node without such a card, or with one that changes nothing,
is refused at the same point as every stranger: before yamux, and by a dialler before it says who it
is itself (docs/protocol.md section 2.2).
"""

from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyType
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.messages import NoiseExtensions, NoiseHandshakePayload
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.noise.pb import noise_pb2
from libp2p.security.noise.transport import Transport as Noise

from node.blocking import in_thread
from node.network.presented import card_in, with_card
from node.network.vouching import NOBODY, Introductions

PRESENTED_BYTES = 60_000
"""Largest card that fits into a message of the handshake beside its other content."""

_ED25519_IDENTITY = bytes.fromhex("08011220")
_ED25519_IDENTITY_BYTES = len(_ED25519_IDENTITY) + 32


class IntroducingNoise(Noise):
    """Noise with cards in its handshakes; set `introductions` after making it."""

    introductions: Introductions = NOBODY

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Answer a handshake."""
        pattern = self._pattern(None)
        session = await pattern.handshake_inbound(conn)
        await pattern.take_card()
        return session

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Start a handshake with the holder of a key.

        If another key has replaced this one, the handshake fails all the same; the card is kept,
        and the next dial is for the new key.
        """
        pattern = self._pattern(peer_id)
        # Do not pass the expected peer: the pattern compares it, after reading the card.
        session = await pattern.handshake_outbound(conn, None)
        await pattern.take_card()
        if session.get_remote_peer() != peer_id:
            raise PeerIDMismatchesPubkey("the key was replaced; the new one is known now")
        return session

    def _pattern(self, expected: ID | None) -> "_Pattern":
        pattern = _Pattern(self.local_peer, self.libp2p_privkey, self.noise_privkey)
        pattern.expected = expected
        pattern.introductions = self.introductions
        return pattern


class _Presenting(NoiseHandshakePayload):
    """Our part of a handshake, with our card."""

    card = b""

    def serialize(self) -> bytes:
        """The payload as bytes, with the card, for which libp2p has no field."""
        return with_card(super().serialize(), self.card)


class _Pattern(PatternXX):
    expected: ID | None = None
    introductions: Introductions = NOBODY
    _heard: NoiseHandshakePayload | None = None
    _heard_card = b""

    def create_noise_state(self, prologue: bytes | None = None) -> object:
        """The state of one handshake; it remembers the peer's payload."""
        state = super().create_noise_state(prologue)
        read = state.read_message

        def read_and_remember(data: bytes) -> bytearray:
            payload: bytearray = read(data)
            if payload:
                _require_ed25519(bytes(payload))
                self._heard = NoiseHandshakePayload.deserialize(bytes(payload))
                self._heard_card = card_in(bytes(payload))
            return payload

        state.read_message = read_and_remember
        return state

    def make_handshake_payload(
        self, extensions: NoiseExtensions | None = None
    ) -> NoiseHandshakePayload:
        """Our payload. A dialler has checked the signature of the peer's payload by now."""
        if self.expected is not None:
            self._require_expected()
        payload = super().make_handshake_payload(extensions)
        card = self.introductions.own_card(self.expected is not None)
        if not card or len(card) > PRESENTED_BYTES:
            return payload
        presenting = _Presenting(payload.id_pubkey, payload.id_sig, payload.extensions)
        presenting.card = card
        return presenting

    def _require_expected(self) -> None:
        public, card = self._presented()
        expected = self.expected.to_bytes()[-32:] if self.expected is not None else b""
        if public == expected or self.introductions.vouches(card, public, expected):
            return
        raise PeerIDMismatchesPubkey("the peer has another key, and no card that explains it")

    def _presented(self) -> tuple[bytes, bytes]:
        if self._heard is None or self._heard.id_pubkey.get_type() != KeyType.Ed25519:
            return b"", b""
        return self._heard.id_pubkey.to_bytes(), self._heard_card

    async def take_card(self) -> None:
        """After the handshake: keep the card that the peer presented, if it counts.

        Raises:
            HandshakeFailure: the card is of another facility than the one to which we know the key
                to belong.
        """
        public, card = self._presented()
        # A card may list keys that its facility does not hold. A malicious peer could list the new
        # key of another peer, and that peer's actions would count as its own.
        if card and self.introductions.contests(card, public):
            await in_thread(self.introductions.alarm, card, public)
            raise HandshakeFailure("the key stands on the cards of two facilities")
        if card and self.introductions.vouches(card, public, None):
            await in_thread(self.introductions.take, card, public)


def _require_ed25519(payload_untrusted: bytes) -> None:
    """Refuse every other kind of key before libp2p reads it.

    libp2p accepts RSA keys, private ones too, and tests whether their factors are prime: a message
    of 2 KiB from anybody would block this node for seconds.
    """
    identity = noise_pb2.NoiseHandshakePayload.FromString(payload_untrusted).identity_key
    if len(identity) != _ED25519_IDENTITY_BYTES or not identity.startswith(_ED25519_IDENTITY):
        raise HandshakeFailure("the caller's key is not an Ed25519 key")
