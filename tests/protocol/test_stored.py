"""The statement that a study is stored: what it may hold, who signs it, and to what it adds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import KeyPair
from protocol import messages, wire
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Entry
from protocol.receipt_messages import PresentStored, StoredNoted
from protocol.stored import (
    WAYS,
    SignedStored,
    Stored,
    check_stored_signature,
    decode_signed_stored_untrusted,
    decode_stored_untrusted,
    receipt_of_stored_untrusted,
    sign_stored,
    stored_details,
)

NORTH, SOUTH, NODE, STRANGER = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 5, 6, 9))
TIME = 1_790_000_000_000
FIELDS: dict[str, Any] = {
    "transfer": b"t" * 16,
    "source_facility": NORTH.public,
    "recipient_facility": SOUTH.public,
    "recipient_node": NODE.public,
    "content_root": b"r" * 32,
    "instances": 12,
    "proven_by": "commitment",
    "proven_at": TIME // 1000,
    "time": TIME,
}
STORED = Stored(**FIELDS)

_digests = st.binary(min_size=32, max_size=32)
_seconds = st.integers(0, 2**42)


@st.composite
def statements(draw: st.DrawFn) -> Stored:
    proven_at = draw(_seconds)
    return Stored(
        transfer=draw(st.binary(min_size=16, max_size=16)),
        source_facility=draw(_digests),
        recipient_facility=draw(_digests),
        recipient_node=NODE.public,
        content_root=draw(_digests),
        instances=draw(st.integers(0, 2**53 - 1)),
        proven_by=draw(st.sampled_from(WAYS)),
        proven_at=proven_at,
        time=1000 * proven_at + draw(st.integers(0, 10**9)),
    )


@given(statements())
def test_a_statement_survives_signed_and_read(stored: Stored) -> None:
    signed = sign_stored(stored, NODE)
    check_stored_signature(signed.body, signed.signature, NODE.public)
    again = decode_signed_stored_untrusted(signed.encode())
    assert again == signed
    assert again.digest == signed.digest
    assert decode_stored_untrusted(again.body) == stored
    details = stored_details(stored, signed)
    assert details["stored"] == signed.digest.hex()
    assert {name: details[name] for name in ("proven_by", "proven_at", "instances")} == {
        "proven_by": stored.proven_by,
        "proven_at": stored.proven_at,
        "instances": stored.instances,
    }


@given(statements(), st.data())
def test_a_changed_bit_of_the_body_breaks_it(stored: Stored, data: st.DataObject) -> None:
    signed = sign_stored(stored, NODE)
    at = data.draw(st.integers(0, 8 * len(signed.body) - 1))
    changed = bytearray(signed.body)
    changed[at // 8] ^= 1 << at % 8
    with pytest.raises(RemoteProtocolError) as caught:
        check_stored_signature(bytes(changed), signed.signature, NODE.public)
    assert caught.value.code is WireCode.BAD_SIGNATURE


def test_a_receipt_of_the_same_bytes_is_no_statement() -> None:
    body = STORED.encode()
    with pytest.raises(RemoteProtocolError):
        check_stored_signature(body, NODE.sign(b"radmesh-receipt-v1", body), NODE.public)
    with pytest.raises(RemoteProtocolError):
        check_stored_signature(body, sign_stored(STORED, NODE).signature, STRANGER.public)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_statement_or_one_error(data: bytes) -> None:
    for read in (decode_stored_untrusted, decode_signed_stored_untrusted):
        try:
            found = read(data)
        except RemoteProtocolError:
            continue
        assert isinstance(found, Stored | SignedStored)


_wild = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**64 - 1), st.binary(max_size=40), st.text(),
    st.lists(st.integers(0, 9), max_size=3),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), _wild, max_size=4))
def test_any_values_are_a_statement_or_one_error(changes: dict[str, Any]) -> None:
    data = wire.pack({**FIELDS, **changes})
    try:
        stored = decode_stored_untrusted(data)
    except RemoteProtocolError:
        return
    assert stored.proven_at * 1000 <= stored.time
    assert stored.proven_by in WAYS


@pytest.mark.parametrize(
    "changes",
    [
        {"transfer": bytes(15)},
        {"content_root": bytes(33)},
        {"recipient_node": "x" * 32},
        {"instances": -1},
        {"instances": True},
        {"proven_by": "hearsay"},
        {"proven_by": 1},
        {"proven_at": TIME // 1000 + 1},
        {"time": 2**53},
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any]) -> None:
    assert decode_stored_untrusted(wire.pack(FIELDS)) == STORED
    with pytest.raises(RemoteProtocolError):
        decode_stored_untrusted(wire.pack({**FIELDS, **changes}))


def test_later_fields_are_ignored_and_kept_in_the_signed_bytes() -> None:
    body = wire.pack({**FIELDS, "version": 1, "zone": "later"})
    assert decode_stored_untrusted(body) == STORED
    signed = SignedStored(body=body, signature=bytes(64))
    assert decode_signed_stored_untrusted(signed.encode()).body == body
    with pytest.raises(RemoteProtocolError):
        decode_signed_stored_untrusted(SignedStored(body=bytes(4097), signature=bytes(64)).encode())


def test_the_messages() -> None:
    signed = sign_stored(STORED, NODE)
    known = {one.TYPE: one for one in (PresentStored, StoredNoted)}
    for message in (
        PresentStored(body=signed.body, signature=signed.signature),
        StoredNoted(),
    ):
        assert messages.decode_untrusted(messages.encode(message), known) == message
        with pytest.raises(RemoteProtocolError) as caught:
            messages.decode_untrusted(messages.encode(message))
        assert caught.value.code is WireCode.UNEXPECTED
    with pytest.raises(RemoteProtocolError):
        messages.decode_untrusted(
            messages.encode(PresentStored(body=bytes(4097), signature=bytes(64))), known
        )


def entry(kind: str, **details: Any) -> Entry:
    content = {"content_root": STORED.content_root.hex(), "instances": 12, "receipt": "d" * 64}
    return Entry(
        index=3,
        time_ms=TIME,
        type=kind,
        actor="node",
        peer=SOUTH.public,
        purpose="treatment",
        outcome="success",
        subjects=(),
        details={**content, **details},
    )


def test_it_adds_to_the_receipt_of_just_that_content() -> None:
    right = entry("receipt")
    said = [entry("disclosure-begun"), entry("receipt", instances=11), right]
    assert receipt_of_stored_untrusted(STORED, said) is right


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ([], WireCode.NOT_AVAILABLE),
        ([entry("disclosure-begun"), entry("disclosed")], WireCode.NOT_AVAILABLE),
        ([entry("receipt", receipt=True)], WireCode.NOT_AVAILABLE),
        ([entry("receipt", instances=13)], WireCode.BAD_DIGEST),
        ([entry("receipt", content_root="00" * 32)], WireCode.BAD_DIGEST),
    ],
)
def test_without_that_receipt_it_is_refused(said: list[Entry], code: WireCode) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        receipt_of_stored_untrusted(STORED, said)
    assert caught.value.code is code
