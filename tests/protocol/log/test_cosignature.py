"""C2SP cosignatures against the published vectors and every small change of them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import KeyPair
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.cosignature import (
    TIME_LIMIT,
    Cosigner,
    check_cosignature_untrusted,
    cosign,
    cosignatures_untrusted,
    parse_cosigner_untrusted,
    witness_name,
)
from protocol.log.note import (
    Signature,
    open_note_untrusted,
    parse_note_untrusted,
    parse_vkey_untrusted,
)

KEY = KeyPair.from_seed(b"w" * 32)
WITNESS = Cosigner("radmesh.witness/X", KEY.public)
TEXT = "example.com/log\n5\ngy5gl3aksFyiCO95a/1vLXz88A3dRq+0l9Sxte8ZqZQ=\n"


@pytest.fixture
def vectors(shared: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        (shared / "vectors/cosignature/ed25519_v1.json").read_text()
    )
    return loaded


def test_published_cosignatures_hold(vectors: dict[str, Any]) -> None:
    witnesses = [parse_cosigner_untrusted(vkey) for vkey in vectors["witness_vkeys"]]
    assert [witness.vkey for witness in witnesses] == vectors["witness_vkeys"]
    for case in vectors["cases"]:
        data = case["note"].encode()
        assert [one.time for one in cosignatures_untrusted(data, witnesses)] == case["timestamps"]
        # The log's own signature still opens the note, and the cosignatures pass through.
        note = open_note_untrusted(data, [parse_vkey_untrusted(vectors["log_vkey"])])
        assert len(note.unverified) == len(witnesses)


def test_the_shape_in_the_specification_is_read(shared: Path) -> None:
    case = json.loads((shared / "vectors/note/c2sp_cosigned_checkpoint_shape.json").read_text())
    _, signatures = parse_note_untrusted(case["note"].encode())
    assert int.from_bytes(signatures[1].raw[:8]) == case["cosignature_timestamp"]


def _line(text: str = TEXT, time: int = 1_790_000_000) -> Signature:
    [signature] = parse_note_untrusted(f"{text}\n{cosign(text, WITNESS.name, KEY, time)}".encode())[
        1
    ]
    return signature


def test_what_is_cosigned_holds_and_nothing_near_it() -> None:
    signature = _line()
    assert check_cosignature_untrusted(TEXT, signature, WITNESS).time == 1_790_000_000
    for bit in range(8 * len(signature.raw)):
        raw = bytearray(signature.raw)
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            check_cosignature_untrusted(
                TEXT, Signature(signature.name, signature.hash, bytes(raw)), WITNESS
            )
    with pytest.raises(RemoteProtocolError):
        check_cosignature_untrusted(TEXT.replace("\n5\n", "\n6\n"), signature, WITNESS)
    with pytest.raises(RemoteProtocolError):
        check_cosignature_untrusted(TEXT, signature, Cosigner("radmesh.witness/Y", KEY.public))
    with pytest.raises(RemoteProtocolError):
        check_cosignature_untrusted(
            TEXT, Signature(signature.name, signature.hash, signature.raw[:-1]), WITNESS
        )


def test_a_signature_of_the_log_kind_is_no_cosignature() -> None:
    """The same key used as a log key signs another message, so neither stands for the other."""
    signed = (b"\0" * 8) + KEY.sign_raw(TEXT.encode())
    with pytest.raises(RemoteProtocolError):
        check_cosignature_untrusted(TEXT, Signature(WITNESS.name, WITNESS.hash, signed), WITNESS)


@given(st.integers(0, TIME_LIMIT))
def test_any_time_survives(time: int) -> None:
    assert check_cosignature_untrusted(TEXT, _line(time=time), WITNESS).time == time


@pytest.mark.parametrize("time", [-1, TIME_LIMIT + 1])
def test_a_time_out_of_range_is_not_signed(time: int) -> None:
    with pytest.raises(LocalProtocolError):
        cosign(TEXT, WITNESS.name, KEY, time)


def test_a_time_out_of_range_is_refused() -> None:
    raw = (TIME_LIMIT + 1).to_bytes(8) + bytes(64)
    with pytest.raises(RemoteProtocolError, match="out of range"):
        check_cosignature_untrusted(TEXT, Signature(WITNESS.name, WITNESS.hash, raw), WITNESS)


def test_unknown_witnesses_are_ignored_and_a_known_one_that_lies_is_not() -> None:
    good = cosign(TEXT, WITNESS.name, KEY, 7)
    other = KeyPair.from_seed(b"o" * 32)
    stranger = cosign(TEXT, "stranger", other, 7)
    note = f"{TEXT}\n{stranger}{good}{good}".encode()
    assert [one.time for one in cosignatures_untrusted(note, [WITNESS])] == [7]
    assert cosignatures_untrusted(note, []) == []
    forged = base64.b64encode(WITNESS.hash + bytes(72)).decode()
    with pytest.raises(RemoteProtocolError):
        cosignatures_untrusted(f"{TEXT}\n— {WITNESS.name} {forged}\n".encode(), [WITNESS])


def test_the_name_of_a_witness_is_that_of_its_facility() -> None:
    assert witness_name(bytes(32)).startswith("radmesh.witness/")
    with pytest.raises(LocalProtocolError):
        Cosigner("with space", bytes(32))


def test_keys_are_read_as_they_are_written_and_no_other_way() -> None:
    assert parse_cosigner_untrusted(WITNESS.vkey) == WITNESS
    vkey = WITNESS.vkey
    mangled = [vkey[:end] for end in range(len(vkey))]
    mangled += [vkey[:at] + "x" + vkey[at + 1 :] for at in range(len(vkey)) if vkey[at] != "x"]
    key = base64.b64encode(b"\x02" + KEY.public).decode()
    mangled.append(f"{WITNESS.name}+{WITNESS.hash.hex()}+{key}")
    for text in mangled:
        with pytest.raises(RemoteProtocolError):
            parse_cosigner_untrusted(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_cosignatures_or_refused(data: bytes) -> None:
    for candidate in (data, TEXT.encode() + b"\n" + data):
        try:
            cosignatures_untrusted(candidate, [WITNESS])
        except RemoteProtocolError:
            continue
