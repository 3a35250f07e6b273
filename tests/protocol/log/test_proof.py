"""C2SP tlog-proofs: the text form."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.log.proof import HEADER, PROOF_HASHES, TlogProof, parse_proof_untrusted

HASH = base64.b64encode(b"h" * 32).decode()


def test_published_proofs(shared):
    vectors = json.loads((shared / "vectors/tlog_proof/format.json").read_text())
    for case in vectors["good"]:
        proof = parse_proof_untrusted(case["text"])
        assert (proof.index, len(proof.hashes)) == (case["index"], case["hashes"])
        assert proof.extra == (case["extra"].encode() if "extra" in case else None)
        assert proof.encode() == case["text"]
    for case in vectors["bad"]:
        with pytest.raises(RemoteProtocolError):
            parse_proof_untrusted(case["text"])


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\nindex 01\n\ncheckpoint\n",
        f"{HEADER}\nindex 1\n{HASH[:-4]}\n\ncheckpoint\n",
        f"{HEADER}\nindex 1\n{HASH}\n",
        f"{HEADER}\nindex 1\n\n",
        f"{HEADER}\nindex 1\n" + f"{HASH}\n" * (PROOF_HASHES + 1) + "\ncheckpoint\n",
        f"{HEADER}\nindex {2**63}\n\ncheckpoint\n",
        f"{HEADER}\n",
    ],
)
def test_malformed_proofs_are_refused(text):
    with pytest.raises(RemoteProtocolError):
        parse_proof_untrusted(text)


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=PROOF_HASHES),
    st.one_of(st.none(), st.binary(max_size=40)),
)
def test_round_trip(index, hashes, extra):
    proof = TlogProof(index, tuple(hashes), "origin\n1\nroot\n\n— o sig\n", extra)
    assert parse_proof_untrusted(proof.encode()) == proof
