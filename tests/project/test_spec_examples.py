"""The examples of docs/protocol.md are what the code makes, reads and makes again."""

import hashlib
from collections.abc import Callable
from typing import Any

import blake3
import pytest
import spec_blocks
from exchange_pair import NOW, STUDY, TRANSFER

from keys import seal
from keys.card import parse_card_untrusted
from keys.fingerprint import fingerprint
from keys.identity import KeyPair, node_public_of, peer_id, verify
from protocol import encoding, granted, messages, offers, wire
from protocol.errors import WireCode
from protocol.find_messages import (
    ByNumber,
    Find,
    FindRefused,
    Found,
    asked_untrusted,
    check_found_untrusted,
)
from protocol.frames import FrameKind, FrameReader, frame_header
from protocol.manifest import Manifest
from protocol.messages import Announcement, Message, Offer, ReceiptMessage, Request, Signed
from protocol.pairing_messages import (
    INNER,
    OUTER,
    PairHello,
    PairProof,
    PairSealed,
    PairShare,
    PairStatement,
    PairTag,
)
from protocol.receipt import SignedReceipt, check_signature, decode_receipt_untrusted
from protocol.states import DataReceived, MessageReceived, Role, State, StudyConnection
from protocol.stored import SignedStored, check_stored_signature, decode_stored_untrusted

BLOCKS = spec_blocks.blocks_of(spec_blocks.DOCUMENT.read_text())
MESSAGES = (
    "hello",
    "subscribe",
    "announcement",
    "heartbeat",
    "request",
    "refusal",
    "offer",
    "want",
    "credit",
    "end",
    "receipt",
    "countersignature",
)
SIDES = ("caller", "shower")
FROM_RECIPIENT = ("request", "want", "credit", "receipt")
FROM_SOURCE = ("offer", "manifest-piece", "batch-data", "end", "countersignature")


def _bytes(name: str) -> bytes:
    return spec_blocks.bytes_of(BLOCKS[name], BLOCKS)


def _values(name: str) -> dict[str, bytes]:
    return {key: bytes.fromhex(value) for key, value in spec_blocks.values_of(BLOCKS[name]).items()}


def _payload(name: str, kind: FrameKind = FrameKind.MESSAGE) -> bytes:
    reader = FrameReader()
    reader.max_data_bytes = 1_000_000
    data = _bytes(name)
    frame, used = reader.receive_untrusted(data)
    assert frame is not None
    assert (frame.kind, used) == (kind, len(data))
    return bytes(frame.payload)


def _signed(name: str) -> Signed:
    message = messages.decode_untrusted(_payload(name))
    assert isinstance(message, Signed)
    return message


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return spec_blocks.make_blocks()


def test_the_document_has_every_example(made: dict[str, str]) -> None:
    assert sorted(BLOCKS) == sorted(made)


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - {"batch-zstd", "batch-pixels"}))
def test_examples_are_what_the_code_makes(name: str, made: dict[str, str]) -> None:
    assert BLOCKS[name] == made[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_decode_and_encode_to_themselves(name: str) -> None:
    payload = _payload(name)
    message = messages.decode_untrusted(payload)
    assert messages.encode(message) == payload
    assert frame_header(FrameKind.MESSAGE, len(payload)) + payload == _bytes(name)
    if isinstance(message, Signed):
        inner = messages.decode_untrusted(message.body)
        assert messages.encode(inner) == message.body
        message = inner
    assert name == message.TYPE


def test_every_message_type_has_an_example() -> None:
    types = {
        message.TYPE
        for message in Message.__subclasses__()
        if message.__module__ == messages.__name__
    }
    assert types - {Signed.TYPE} == set(MESSAGES)


def test_one_changed_byte_of_a_signed_example_is_noticed() -> None:
    source, recipient = (_values("seal")[name] for name in ("source_node", "recipient_node"))
    cases: list[tuple[str, type[Message], bytes]] = [
        ("announcement", Announcement, source),
        ("request", Request, recipient),
        ("offer", Offer, source),
    ]
    for name, kind, signer in cases:
        signed = _signed(name)
        messages.open_signed_untrusted(signed, kind, signer)
        altered = Signed(
            body=signed.body, signature=bytes([signed.signature[0] ^ 1]) + signed.signature[1:]
        )
        with pytest.raises(messages.RemoteProtocolError):
            messages.open_signed_untrusted(altered, kind, signer)


def test_a_search_is_what_the_document_shows() -> None:
    source, recipient = (_values("seal")[name] for name in ("source_node", "recipient_node"))
    asked = _signed("find")
    question = messages.open_signed_untrusted(asked, Find, recipient)
    assert asked_untrusted(question) == ByNumber("P1", "NORTH")
    answer = messages.open_signed_untrusted(_signed("found"), Found, source)
    digest = blake3.blake3(asked.body).digest()
    check_found_untrusted(answer, find=question.find, recipient=recipient, question=digest)
    known: dict[str, type[Message]] = {FindRefused.TYPE: FindRefused}
    refused = messages.decode_untrusted(_payload("find-refused"), known)
    assert refused == FindRefused(code=WireCode.BUSY, wait=1800)
    for message, name in ((question, "find"), (answer, "found"), (refused, "find-refused")):
        assert name == message.TYPE


def test_the_example_of_grants_is_read_and_signed_by_the_node_key() -> None:
    message = messages.decode_untrusted(_payload("grants"), granted.KNOWN)
    assert isinstance(message, granted.Grants)
    assert messages.encode(message) == _payload("grants")
    statement = granted.open_untrusted(message)

    def identity(name: str) -> bytes:
        return bytes.fromhex(spec_blocks.values_of(BLOCKS["identity"])[name])

    assert statement.node == identity("node_key")
    assert statement.facility == identity("facility_key")
    assert sorted(str(rule) for rule in statement.rules) == [
        "allow fetch modality=CT,MR purpose=TREAT patient=(some) studies-a-day=20",
        "allow see shows=exam",
        "ask fetch stat=yes",
    ]


def test_the_examples_of_offers_are_read_by_who_they_are_for() -> None:
    source, recipient = (_values("seal")[name] for name in ("source_node", "recipient_node"))
    for name, signer, reader in (
        ("study-offer", source, recipient),
        ("offer-answer", recipient, source),
        ("offer-end", source, recipient),
    ):
        word = offers.open_word_untrusted(_signed(name), signer, reader)
        assert name == word.TYPE
        assert messages.encode(word) == _signed(name).body
        with pytest.raises(messages.RemoteProtocolError):
            offers.open_word_untrusted(_signed(name), reader, signer)
    noted = messages.decode_untrusted(_payload("offer-noted"), offers.ANSWERS)
    assert isinstance(noted, offers.OfferNoted)


def test_the_strict_example_is_one_value() -> None:
    data = _bytes("strict")
    value = wire.decode_untrusted(data)
    assert value == {"a": True, "b": [-33, 0, 256], "list": [b"\0", "x"], "z": {}}
    assert wire.pack(value) == data


def test_identities() -> None:
    values = spec_blocks.values_of(BLOCKS["identity"])
    facility = KeyPair.from_seed(bytes.fromhex(values["facility_seed"]))
    node = KeyPair.from_seed(bytes.fromhex(values["node_seed"]))
    assert (facility.public.hex(), node.public.hex()) == (
        values["facility_key"],
        values["node_key"],
    )
    assert fingerprint(facility.public) == values["fingerprint"]
    assert peer_id(node.public) == values["peer_id"]
    assert node_public_of(values["peer_id"]) == node.public


def test_the_card_holds_and_is_the_one_in_the_hello() -> None:
    card = parse_card_untrusted(BLOCKS["card"].encode())
    assert card.fingerprint == spec_blocks.values_of(BLOCKS["identity"])["fingerprint"]
    hello = messages.decode_untrusted(_payload("hello"))
    assert isinstance(hello, messages.Hello)
    assert hello.card == card.encoded


def test_batches_decode() -> None:
    batch = _bytes("batch")
    original = encoding.decode_untrusted(batch)
    assert encoding.encode(original, encoding.Encoding.RAW) == batch
    compressed = _bytes("batch-zstd")
    assert encoding.encoding_of(compressed) is encoding.Encoding.ZSTD
    assert encoding.decode_untrusted(compressed) == b" ".join([b"radmesh"] * 8)
    image = _bytes("batch-pixels")
    assert encoding.encoding_of(image) is encoding.Encoding.PIXELS
    assert encoding.decode_untrusted(image) == spec_blocks.pixel_example()


def test_the_manifest_and_its_digests() -> None:
    data = _bytes("manifest")
    manifest = Manifest.decode_untrusted(data)
    assert manifest.encode() == data
    values = _values("content")
    assert values["manifest"] == blake3.blake3(data).digest()
    rows = [[one.sop_instance_uid, one.size, one.digest] for one in manifest.instances]
    covered = b"radmesh-content-v1\0" + wire.pack([STUDY, sorted(rows)])
    assert values["content_root"] == blake3.blake3(covered).digest()
    [entry] = manifest.batches
    assert entry.digest == blake3.blake3(_bytes("batch")).digest()


def test_the_key_agreement_from_both_sides_and_by_the_formula() -> None:
    import hmac

    import nacl.bindings

    values = _values("seal")
    source = seal.EphemeralKey(values["source_secret"])
    recipient = seal.EphemeralKey(values["recipient_secret"])
    assert source.public == values["source_ephemeral"]
    assert recipient.public == values["recipient_ephemeral"]
    for ours, theirs in ((source, recipient), (recipient, source)):
        assert ours.agree(theirs.public) == values["shared_secret"]
        key = seal.transfer_key(
            ours,
            theirs.public,
            source_node=values["source_node"],
            recipient_node=values["recipient_node"],
            source_ephemeral=values["source_ephemeral"],
            recipient_ephemeral=values["recipient_ephemeral"],
            transfer_id=values["transfer"],
        )
        assert key == values["transfer_key"]
    info = b"".join(
        values[name]
        for name in (
            "source_node",
            "recipient_node",
            "source_ephemeral",
            "recipient_ephemeral",
            "transfer",
        )
    )
    extracted = hmac.digest(b"radmesh-seal-v1", values["shared_secret"], hashlib.sha256)
    assert hmac.digest(extracted, info + b"\x01", hashlib.sha256) == values["transfer_key"]
    opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        values["sealed"], values["associated"], values["nonce"], values["transfer_key"]
    )
    assert opened == values["batch"] == _bytes("batch")


def test_the_sealed_frames_open() -> None:
    values = _values("seal")
    sealer = seal.Sealer(values["transfer_key"], values["transfer"], values["manifest"])
    piece = _payload("manifest-piece", FrameKind.DATA)
    opened = sealer.open(seal.KIND_MANIFEST, int.from_bytes(piece[:4], "big"), piece[4:])
    assert encoding.decode_untrusted(opened) == _bytes("manifest")
    batch = _payload("batch-data", FrameKind.DATA)
    assert batch[4:] == values["sealed"]
    assert sealer.open(seal.KIND_BATCH, int.from_bytes(batch[:4], "big"), batch[4:]) == _bytes(
        "batch"
    )


def test_the_receipt_is_signed_by_both_and_named_by_its_hash() -> None:
    receipt = messages.decode_untrusted(_payload("receipt"))
    other = messages.decode_untrusted(_payload("countersignature"))
    assert isinstance(receipt, ReceiptMessage)
    assert isinstance(other, messages.Countersignature)
    values = _values("seal")
    check_signature(receipt.body, receipt.signature, values["recipient_node"])
    check_signature(receipt.body, other.signature, values["source_node"])
    body = decode_receipt_untrusted(receipt.body)
    assert body.encode() == receipt.body
    assert (body.transfer, body.time) == (TRANSFER, NOW)
    whole = SignedReceipt(
        body=receipt.body,
        recipient_signature=receipt.signature,
        source_signature=other.signature,
    )
    named = spec_blocks.values_of(BLOCKS["signed-receipt"])
    assert hashlib.sha256(whole.encode()).hexdigest() == named["sha256"]
    assert len(whole.encode()) == int(named["size"])


def test_a_statement_that_it_is_stored_adds_to_the_receipt() -> None:
    named = spec_blocks.values_of(BLOCKS["signed-stored"])
    body, signature = (bytes.fromhex(named[name]) for name in ("body", "signature"))
    stored = decode_stored_untrusted(body)
    check_stored_signature(body, signature, stored.recipient_node)
    receipt = messages.decode_untrusted(_payload("receipt"))
    assert isinstance(receipt, ReceiptMessage)
    added = decode_receipt_untrusted(receipt.body)
    for name in ("transfer", "source_facility", "recipient_facility", "recipient_node"):
        assert getattr(stored, name) == getattr(added, name)
    assert (stored.content_root, stored.instances) == (added.content_root, added.instances)
    whole = SignedStored(body=body, signature=signature)
    assert hashlib.sha256(whole.encode()).hexdigest() == named["sha256"]
    assert len(whole.encode()) == int(named["size"])


def _connection(role: Role) -> StudyConnection:
    values = _values("seal")
    peer = values["source_node" if role is Role.RECIPIENT else "recipient_node"]
    return StudyConnection(role, KeyPair.from_seed(b"k" * 32), peer)


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_the_frames_in_order_are_a_whole_transfer(step: int) -> None:
    """Each end takes the frames of the other, and says in between what it would have said."""
    order = (
        "request",
        "offer",
        "manifest-piece",
        "want",
        "batch-data",
        "credit",
        "end",
        "receipt",
        "countersignature",
    )
    for role, theirs in ((Role.SOURCE, FROM_RECIPIENT), (Role.RECIPIENT, FROM_SOURCE)):
        connection = _connection(role)
        for name in order:
            data = _bytes(name)
            if name in theirs:
                events = []
                for start in range(0, len(data), step):
                    events += connection.receive_untrusted(data[start : start + step])
                [event] = events
                expected = DataReceived if name in ("manifest-piece", "batch-data") else None
                assert isinstance(event, expected or MessageReceived)
            else:
                _say(connection, name)
        assert connection.state is State.DONE


def _say(connection: StudyConnection, name: str) -> None:
    if name in ("manifest-piece", "batch-data"):
        payload = _payload(name, FrameKind.DATA)
        connection.data_header(int.from_bytes(payload[:4], "big"), len(payload) - 4)
        return
    message: Any = messages.decode_untrusted(_payload(name))
    if isinstance(message, Signed):
        message = messages.decode_untrusted(message.body)
    send: Callable[[Message], bytes] = connection.send
    send(message)


def test_the_pairing_by_its_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package `cpace` in place of our code, HKDF and signatures by hand."""
    import hmac

    import cpace
    import nacl.bindings

    values = spec_blocks.values_of(BLOCKS["pairing"])
    of = {name: bytes.fromhex(value) for name, value in values.items() if name != "code"}
    hellos = [messages.decode_untrusted(of[f"{side}_hello"], OUTER) for side in SIDES]
    nonces = b"".join(hello.nonce for hello in hellos if isinstance(hello, PairHello))
    assert hashlib.sha256(b"radmesh-pair-v1\0" + nonces).digest() == of["session"]
    for role, side, other in zip((1, 2), SIDES, reversed(SIDES), strict=True):
        secret = of[f"{side}_secret"]
        monkeypatch.setattr(cpace.secrets, "token_bytes", lambda _, secret=secret: secret)
        ours = cpace.CPace.start(
            role=cpace.CPaceRole.INITIATOR if role == 1 else cpace.CPaceRole.RESPONDER,
            prs=values["code"].encode(),
            sid=of["session"],
            ci=b"radmesh-pair-v1\x01",
            ad=bytes([role]) + of[f"{side}_hello"],
        )
        assert ours.public_share == of[f"{side}_share"]
        ours.derive(of[f"{other}_share"], bytes([3 - role]) + of[f"{other}_hello"])
        assert (ours.isk, ours.tag()) == (of["agreed"], of[f"{side}_tag"])
        extracted = hmac.digest(b"radmesh-pair-v1", of["agreed"], hashlib.sha256)
        info = of["session"] + bytes([role]) + b"\x01"
        assert hmac.digest(extracted, info, hashlib.sha256) == of[f"{side}_key"]
    statements = {
        "shower": _bytes("pair-statement"),
        "caller": messages.encode(
            PairStatement(
                card=BLOCKS["pairing-card"].encode(),
                grants=("see", "fetch"),
                purposes=("treatment",),
            )
        ),
    }
    for side in SIDES:
        assert hashlib.sha256(statements[side]).digest() == of[f"{side}_statement"]
    proof = messages.decode_untrusted(_bytes("pair-proof"), INNER)
    assert isinstance(proof, PairProof)
    signed = b"\x01" + of["session"] + of["caller_statement"] + of["shower_statement"]
    south = parse_card_untrusted(BLOCKS["pairing-card"].encode())
    verify(south.node_key, b"radmesh-pair-v1", signed, proof.signature)
    # The answer is the third thing that the caller seals.
    sealed = messages.decode_untrusted(_payload("pair-sealed"), OUTER)
    assert isinstance(sealed, PairSealed)
    opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        sealed.sealed, b"radmesh-pair-v1" + of["session"], bytes(23) + b"\2", of["caller_key"]
    )
    assert opened == _bytes("pair-answer")
    for name, kind in (("pair-hello", PairHello), ("pair-share", PairShare), ("pair-tag", PairTag)):
        assert isinstance(messages.decode_untrusted(_payload(name), OUTER), kind)
