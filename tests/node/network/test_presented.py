"""The card in a handshake: at which number it stands, and what nodes of before are heard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.security.noise.messages import NoiseExtensions, NoiseHandshakePayload
from libp2p.security.noise.pb import noise_pb2
from network_nodes import BOB, HANDLERS, LOOPBACK, Site, until

from keys.identity import KeyPair
from node.network import introduction
from node.network.hardening import host_keys
from node.network.network import Network, Unreachable
from node.network.presented import CARD_FIELD, card_in, with_card
from node.network.vouching import Introductions

PAYLOAD = noise_pb2.NoiseHandshakePayload(identity_key=b"key", identity_sig=b"sig")
NEW = KeyPair.from_seed(b"n" * 32)


def test_the_card_stands_at_a_number_that_the_registry_leaves_free() -> None:
    data = with_card(PAYLOAD.SerializeToString(), b"card")
    assert CARD_FIELD == 4101
    # Protobuf's encoding, written out: field 4, 8 bytes; in it field 4101, 4 bytes.
    assert data == PAYLOAD.SerializeToString() + b"\x22\x08\xaa\x80\x02\x04card"
    read = noise_pb2.NoiseHandshakePayload.FromString(data)
    assert (read.identity_key, read.identity_sig) == (b"key", b"sig")
    assert not read.extensions.HasField("early_data")
    assert card_in(data) == b"card"


def test_the_former_field_is_read_and_the_new_one_counts_first() -> None:
    former = noise_pb2.NoiseHandshakePayload(identity_key=b"key", identity_sig=b"sig")
    former.extensions.early_data = b"former"
    assert card_in(former.SerializeToString()) == b"former"
    assert card_in(with_card(former.SerializeToString(), b"card")) == b"card"
    assert card_in(PAYLOAD.SerializeToString()) == b""


@given(st.binary(max_size=100))
def test_a_card_comes_back_and_nothing_else_is_changed(card: bytes) -> None:
    key = host_keys(BOB.seed)
    payload = NoiseHandshakePayload(key.public_key, b"sig").serialize()
    read = NoiseHandshakePayload.deserialize(with_card(payload, card))
    assert (read.id_pubkey, read.id_sig) == (key.public_key, b"sig")
    assert card_in(with_card(payload, card)) == card


class _FormerPattern(introduction._Pattern):
    """Presents the card where nodes before the first release did."""

    def make_handshake_payload(
        self, extensions: NoiseExtensions | None = None
    ) -> NoiseHandshakePayload:
        ours = super().make_handshake_payload(extensions)
        return NoiseHandshakePayload(
            ours.id_pubkey, ours.id_sig, NoiseExtensions(early_data=b"card")
        )


@pytest.mark.integration
@pytest.mark.parametrize("counts", [True, False])
async def test_a_caller_that_uses_the_former_field_is_let_in(
    counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted: set[bytes] = set()
    bob = Network(
        BOB,
        listen=[LOOPBACK],
        is_trusted=lambda public: public in trusted,
        handlers=HANDLERS,
        introductions=Introductions(
            own_card=lambda _: b"",
            vouches=lambda card, public, _: counts and (card, public) == (b"card", NEW.public),
            take=lambda *_: trusted.add(NEW.public),
        ),
    )
    new = Site(NEW, BOB, listen="")
    async with bob.running(), new.network.running():
        # Bob's own pattern is made when he is called; both are of the former kind here.
        monkeypatch.setattr(introduction, "_Pattern", _FormerPattern)
        if counts:
            await new.network.connect(BOB.public, bob.addresses)
            await until(lambda: bob.connected() == {NEW.public})
        else:
            with pytest.raises(Unreachable):
                await new.network.connect(BOB.public, bob.addresses)
