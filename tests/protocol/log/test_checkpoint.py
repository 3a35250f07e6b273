"""C2SP checkpoints: published ones open, malformed ones are refused."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import KeyPair
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.checkpoint import (
    SIZE_LIMIT,
    Checkpoint,
    open_checkpoint_untrusted,
    parse_checkpoint_untrusted,
    sign_checkpoint,
)
from protocol.log.note import Signer, open_note_untrusted, parse_vkey_untrusted, sign_note

ORIGIN = "radmesh.log/TEST"
KEY = KeyPair.from_seed(b"c" * 32)
ROOT = base64.b64encode(b"r" * 32).decode()


def test_published_cases(shared):
    vectors = json.loads((shared / "vectors/checkpoint/parse.json").read_text())
    for case in vectors["cases"]:
        if case["ok"]:
            assert parse_checkpoint_untrusted(case["text"]).encode() == case["text"]
        else:
            with pytest.raises(RemoteProtocolError):
                parse_checkpoint_untrusted(case["text"])


def test_a_real_checkpoint_of_the_go_checksum_database(shared):
    vectors = json.loads((shared / "vectors/checkpoint/real_go_sumdb.json").read_text())
    for case in vectors["cases"]:
        keys = [parse_vkey_untrusted(text) for text in case["vkeys"]]
        note = open_note_untrusted(case["note"].encode(), keys)
        checkpoint = parse_checkpoint_untrusted(note.text)
        assert (checkpoint.origin, checkpoint.size) == (case["origin"], case["size"])


def test_checkpoints_of_a_tile_log(shared):
    folder = shared / "vectors/tile_log"
    verifier = parse_vkey_untrusted(json.loads((folder / "README.json").read_text())["vkey"])
    for size in range(9):
        data = (folder / f"checkpoint.{size}").read_bytes()
        checkpoint = open_checkpoint_untrusted(data, verifier.name, verifier.public)
        assert checkpoint.size == size


def test_a_cosigned_checkpoint_opens_by_the_logs_key(shared):
    vectors = json.loads((shared / "vectors/cosignature/ed25519_v1.json").read_text())
    log = parse_vkey_untrusted(vectors["log_vkey"])
    for case in vectors["cases"]:
        note = open_note_untrusted(case["note"].encode(), [log])
        assert parse_checkpoint_untrusted(note.text).size == case["size"]
        assert len(note.unverified) == 3


@pytest.mark.parametrize(
    "text",
    [
        f"o\n01\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n1 \n{ROOT}\n",
        f"o\n\u0661\n{ROOT}\n",
        f"o\n{SIZE_LIMIT + 1}\n{ROOT}\n",
        f"o\n1\n{ROOT}\n\n",
        f"o\n1\n{ROOT}\next\n\n",
        f"o\n1\n{base64.b64encode(b'r' * 31).decode()}\n",
        f"o\n1\n{base64.b64encode(b'r' * 33).decode()}\n",
        f"o\n1\n{ROOT[:-2]}t=\n",
        "",
    ],
)
def test_malformed_checkpoints_are_refused(text):
    with pytest.raises(RemoteProtocolError):
        parse_checkpoint_untrusted(text)


def test_extension_lines_are_kept():
    text = f"o\n1\n{ROOT}\nfirst\nsecond\n"
    checkpoint = parse_checkpoint_untrusted(text)
    assert checkpoint.extensions == ("first", "second")
    assert checkpoint.encode() == text


def test_only_the_key_named_by_the_origin_signs():
    checkpoint = Checkpoint(ORIGIN, 3, b"r" * 32)
    data = sign_checkpoint(checkpoint, Signer(ORIGIN, KEY)).encode()
    assert open_checkpoint_untrusted(data, ORIGIN, KEY.public) == checkpoint
    with pytest.raises(LocalProtocolError):
        sign_checkpoint(checkpoint, Signer("other", KEY))
    with pytest.raises(RemoteProtocolError):
        open_checkpoint_untrusted(data, ORIGIN, KeyPair.from_seed(b"d" * 32).public)
    with pytest.raises(RemoteProtocolError):
        open_checkpoint_untrusted(data, "radmesh.log/OTHER", KEY.public)
    other = sign_note(Checkpoint("other", 3, b"r" * 32).encode(), [Signer(ORIGIN, KEY)])
    with pytest.raises(RemoteProtocolError, match="another log"):
        open_checkpoint_untrusted(other.encode(), ORIGIN, KEY.public)


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [("", 1, b"r" * 32), ("a\nb", 1, b"r" * 32), ("o", -1, b"r" * 32), ("o", 1, b"r" * 31)],
)
def test_parts_that_make_no_checkpoint(origin, size, root):
    with pytest.raises(LocalProtocolError):
        Checkpoint(origin, size, root)


@given(st.text(alphabet="o1\n=A/ ", max_size=60))
def test_accepted_text_encodes_to_itself(text):
    try:
        checkpoint = parse_checkpoint_untrusted(text)
    except RemoteProtocolError:
        return
    assert checkpoint.encode() == text
