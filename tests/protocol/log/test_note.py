"""C2SP signed notes against the published vectors and every small change of them."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import KeyPair
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.note import (
    NOTE_BYTES,
    NOTE_SIGNATURES,
    Signer,
    Verifier,
    open_note_untrusted,
    parse_note_untrusted,
    parse_skey,
    parse_vkey_untrusted,
    sign_note,
)

SIGNER = Signer("example.com/log", KeyPair.from_seed(b"n" * 32))


@pytest.fixture
def sumdb(shared):
    return json.loads((shared / "vectors/note/sumdb_note.json").read_text())


def test_signing_gives_the_published_bytes(sumdb):
    case = sumdb["sign"]
    signer = parse_skey(case["skey"])
    assert sign_note(case["text"], [signer]) == case["want"]
    assert signer.verifier.vkey == sumdb["vkey"]


def test_published_notes_open_or_are_refused(sumdb):
    for case in sumdb["open"]:
        known = [parse_vkey_untrusted(text) for text in case["vkeys"]]
        if case["ok"]:
            note = open_note_untrusted(case["note"].encode(), known)
            assert len(note.verified) == case["verified"], case["name"]
            assert len(note.unverified) == case.get("unverified", len(note.unverified))
        else:
            with pytest.raises(RemoteProtocolError):
                open_note_untrusted(case["note"].encode(), known)


def test_mangled_keys_are_refused(sumdb):
    for text in sumdb["bad_vkeys"]:
        with pytest.raises(RemoteProtocolError):
            parse_vkey_untrusted(text)
    for parse, text in (
        (parse_vkey_untrusted, sumdb["vkey"]),
        (parse_skey, sumdb["sign"]["skey"]),
    ):
        parse(text)
        changed = [text[:end] for end in range(len(text))]
        changed += [text[:at] + chr(ord(text[at]) + 1) + text[at + 1 :] for at in range(len(text))]
        for other in changed:
            with pytest.raises(RemoteProtocolError):
                parse(other)


def test_the_example_of_the_specification(shared):
    case = json.loads((shared / "vectors/note/c2sp_signed_note_example.json").read_text())
    note = open_note_untrusted(case["note"].encode(), [parse_vkey_untrusted(case["vkey"])])
    assert note.text == "This is an example message.\n"


def test_cosignature_lines_pass_through(shared):
    case = json.loads((shared / "vectors/note/c2sp_cosigned_checkpoint_shape.json").read_text())
    text, signatures = parse_note_untrusted(case["note"].encode())
    assert text.split("\n")[0] == case["origin"]
    assert len(signatures) == 2
    assert int.from_bytes(signatures[1].raw[:8], "big") == case["cosignature_timestamp"]


def test_every_changed_byte_is_noticed():
    note = sign_note("text\nof two lines\n", [SIGNER]).encode()
    open_note_untrusted(note, [SIGNER.verifier])
    for at in range(len(note)):
        changed = note[:at] + bytes([note[at] ^ 1]) + note[at + 1 :]
        with pytest.raises(RemoteProtocolError):
            open_note_untrusted(changed, [SIGNER.verifier])
    for end in range(len(note)):
        with pytest.raises(RemoteProtocolError):
            open_note_untrusted(note[:end], [SIGNER.verifier])


def test_base64_has_one_form():
    note = sign_note("text\n", [SIGNER])
    line = note.split("\n")[2]
    raw = base64.b64decode(line.rsplit(" ", 1)[1])
    assert len(raw) == 68
    # 68 bytes leave four unused bits in the last character, which must be zero.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = note.rindex("=") - 1
    loose = note[:at] + alphabet[alphabet.index(note[at]) + 1] + note[at + 1 :]
    assert base64.b64decode(loose.split("\n")[2].rsplit(" ", 1)[1]) == raw
    with pytest.raises(RemoteProtocolError):
        open_note_untrusted(loose.encode(), [SIGNER.verifier])


def test_limits():
    line = sign_note("text\n", [SIGNER]).split("\n")[2] + "\n"
    parse_note_untrusted(("text\n\n" + line * NOTE_SIGNATURES).encode())
    with pytest.raises(RemoteProtocolError):
        parse_note_untrusted(("text\n\n" + line * (NOTE_SIGNATURES + 1)).encode())
    with pytest.raises(RemoteProtocolError):
        parse_note_untrusted(b"x" * (NOTE_BYTES + 1))


@pytest.mark.parametrize("text", ["", "no newline", "a\tb\n", "a\x00\n"])
def test_texts_that_cannot_be_notes(text):
    with pytest.raises(LocalProtocolError):
        sign_note(text, [SIGNER])


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b"])
def test_names_that_cannot_name_keys(name):
    with pytest.raises(LocalProtocolError):
        Verifier(name, SIGNER.keypair.public)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_anything_else_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        open_note_untrusted(data, [SIGNER.verifier])
