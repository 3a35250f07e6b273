"""Tree, notes and cosignatures against implementations by others.

`second_log` is ours, written from the standards' texts alone, held here against what
others have published, and always there. `tamperlog` and `aics_tlog` come from PyPI, as
test oracles only; the second needs Python 3.12: `make oracles` runs this file there.
"""

import base64
import io
import json
from dataclasses import replace

import pytest
import second_log as second
from bundles_made import COSIGNERS, LOG, ORIGIN, SIGNED_AT, TWO_OF_THREE, honest, verify
from hypothesis import given
from hypothesis import strategies as st

from protocol.log import tree
from protocol.log.checkpoint import Checkpoint, open_checkpoint_untrusted, sign_checkpoint
from protocol.log.cosignature import cosign, witness_name
from protocol.log.note import Signer, parse_vkey_untrusted
from protocol.verify import verify_proof
from protocol.verify.checkpoints import LogKey, open_checkpoint
from protocol.verify.tree import Tree, leaf, root_by_proof

MOST = 40
ENTRIES = [f"entry {number}".encode() for number in range(MOST)]
LEAVES = [tree.leaf_hash(entry) for entry in ENTRIES]
ROOT_OF = tree.range_root(LEAVES)


class Second:
    """The oracle that is always there."""

    root = staticmethod(second.mth)
    inclusion = staticmethod(second.path)
    consistency = staticmethod(second.proof)


class Tamperlog:
    """The package `tamperlog`, MIT."""

    def __init__(self):
        self._module = pytest.importorskip("tamperlog")

    def root(self, entries):
        return self._module.merkle_root([self._module.hash_leaf(entry) for entry in entries])

    def inclusion(self, index, entries):
        leaves = [self._module.hash_leaf(entry) for entry in entries]
        proof = self._module.inclusion_proof(index, leaves)
        self._module.verify_inclusion(index, len(entries), leaves[index], proof, self.root(entries))
        return proof

    def consistency(self, size, entries):
        leaves = [self._module.hash_leaf(entry) for entry in entries]
        return self._module.consistency_proof(size, leaves)


class Aics:
    """The package `aics-tlog`, Apache-2.0."""

    def __init__(self):
        self._module = pytest.importorskip("aics_tlog")

    def root(self, entries):
        return self._module.MerkleTree(entries).root()

    def inclusion(self, index, entries):
        return self._module.MerkleTree(entries).inclusion_proof(index)

    def consistency(self, size, entries):
        return self._module.MerkleTree(entries).consistency_proof(size)


@pytest.fixture(params=[Second, Tamperlog, Aics])
def oracle(request):
    return request.param()


def test_roots(oracle):
    frontier, streamed = tree.Frontier(), Tree()
    for size in range(MOST):
        root = oracle.root(ENTRIES[:size])
        assert ROOT_OF(0, size) == frontier.root() == streamed.root() == root
        frontier.append(LEAVES[size])
        streamed.extend([leaf(ENTRIES[size])])


def test_inclusion_proofs(oracle):
    for size in range(1, MOST):
        for index in range(size):
            proof = oracle.inclusion(index, ENTRIES[:size])
            assert tree.inclusion_proof(index, size, ROOT_OF) == list(proof)
            assert root_by_proof(LEAVES[index], index, size, proof) == ROOT_OF(0, size)


def test_consistency_proofs(oracle):
    for new in range(1, MOST):
        for old in range(1, new + 1):
            proof = oracle.consistency(old, ENTRIES[:new])
            assert tree.consistency_proof(old, new, ROOT_OF) == list(proof)
            tree.check_consistency(old, new, ROOT_OF(0, old), ROOT_OF(0, new), proof)


@given(st.data())
def test_both_verifiers_judge_a_changed_proof_alike(data):
    size = data.draw(st.integers(1, MOST))
    index = data.draw(st.integers(0, size - 1))
    proof = tree.inclusion_proof(index, size, ROOT_OF)
    hashes = st.sampled_from([*LEAVES[:4], *proof])
    changed = data.draw(st.just(proof) | st.lists(hashes, max_size=8))
    claimed = data.draw(st.integers(index + 1, MOST))
    root = ROOT_OF(0, size)
    ours = root_by_proof(LEAVES[index], index, claimed, changed) == root
    try:
        tree.check_inclusion(LEAVES[index], index, claimed, changed, root)
        theirs = True
    except tree.RemoteProtocolError:
        theirs = False
    assert ours is theirs


# --- notes, checkpoints, cosignatures ------------------------------------------------


def test_the_second_implementation_signs_as_we_do():
    for size in (1, 7, 12):
        entries = honest().entries[:size]
        ours = sign_checkpoint(Checkpoint(ORIGIN, size, second.mth(entries)), Signer(ORIGIN, LOG))
        assert ours == second.checkpoint(ORIGIN, entries, LOG)
        for each in COSIGNERS:
            text = ours.split("\n\n")[0] + "\n"
            assert cosign(text, each.name, each.key, SIGNED_AT) == each.line(text)
            assert witness_name(each.card.facility_key) == each.name
    assert Signer(ORIGIN, LOG).verifier.vkey == second.vkey(ORIGIN, LOG.public)


def published(shared):
    """Signed notes by others, with the keys that must have signed them: their vectors."""
    go_sum = json.loads((shared / "vectors/checkpoint/real_go_sumdb.json").read_text())
    example = json.loads((shared / "vectors/note/c2sp_signed_note_example.json").read_text())
    cosigned = json.loads((shared / "vectors/cosignature/ed25519_v1.json").read_text())
    yield from ((case["note"], case["vkeys"], [0] * len(case["vkeys"])) for case in go_sum["cases"])
    yield example["note"], [example["vkey"]], [0]
    for case in cosigned["cases"]:
        yield (
            case["note"],
            [cosigned["log_vkey"], *cosigned["witness_vkeys"]],
            [0, *case["timestamps"]],
        )


def test_the_second_implementation_reads_what_others_have_published(shared):
    cases = list(published(shared))
    assert len(cases) >= 3
    for note, vkeys, times in cases:
        text, signed = second.open_note(note, vkeys)
        assert note.startswith(text)
        assert signed == dict(zip(vkeys, times, strict=True))
        for at in range(len(text.encode())):
            changed = bytearray(note.encode())
            changed[at] ^= 1
            with pytest.raises(ValueError, match=r"."):
                second.open_note(changed.decode(errors="replace"), vkeys)


def test_the_second_implementation_judges_published_notes_as_the_publishers_do(shared):
    cases = json.loads((shared / "vectors/note/sumdb_note.json").read_text())
    judged = 0
    for case in cases["open"]:
        if case["ok"]:
            _, signed = second.open_note(case["note"], case["vkeys"])
            assert len(signed) == case["verified"], case["name"]
            judged += 1
    assert judged
    for vkey in cases["bad_vkeys"]:
        with pytest.raises(ValueError, match=r"."):
            second.read_vkey(vkey)


def test_the_second_implementation_takes_our_cosigned_checkpoints():
    note = honest().cosign(*COSIGNERS[:2]).checkpoints["checkpoints/12"]
    log_key = Signer(ORIGIN, LOG).verifier.vkey
    witnesses = [second.vkey(each.name, each.key.public, 4) for each in COSIGNERS]
    text, signed = second.open_note(note, [log_key, *witnesses])
    assert signed == {log_key: 0, witnesses[0]: SIGNED_AT, witnesses[1]: SIGNED_AT}
    assert second.read_checkpoint(text) == (ORIGIN, 12, second.mth(honest().entries))
    with pytest.raises(ValueError, match="no known key"):
        second.open_note(note, witnesses[2:])


def test_we_take_the_cosigned_checkpoints_of_the_second_implementation():
    log = honest()
    note = second.checkpoint(ORIGIN, log.entries, LOG)
    text = second.checkpoint_text(ORIGIN, 12, second.mth(log.entries))
    lines = [second.cosignature_line(each.name, each.key, text, SIGNED_AT) for each in COSIGNERS]
    log.checkpoints["checkpoints/12"] = note + "".join(lines[:2])
    assert (
        log.checkpoints["checkpoints/12"]
        == (honest().cosign(*COSIGNERS[:2]).checkpoints["checkpoints/12"])
    )
    assert verify(log, **TWO_OF_THREE).sound is True
    log.checkpoints["checkpoints/12"] = note + lines[0]
    assert verify(log, **TWO_OF_THREE).sound is not True


def test_another_implementation_takes_our_cosigned_checkpoints():
    aics = pytest.importorskip("aics_tlog")
    note = honest().cosign(*COSIGNERS[:2]).checkpoints["checkpoints/12"]
    log_key = aics.parse_vkey(Signer(ORIGIN, LOG).verifier.vkey)
    witnesses = [aics.parse_vkey(second.vkey(each.name, each.key.public, 4)) for each in COSIGNERS]
    judged = aics.verify_checkpoint(
        aics.parse_note(note), log_key, witnesses, 2, expected_origin=ORIGIN
    )
    assert (judged.ok, judged.size, judged.cosignature_count) == (True, 12, 2)
    assert set(judged.timestamps.values()) == {SIGNED_AT}
    wanting = aics.verify_checkpoint(aics.parse_note(note), log_key, witnesses, 3)
    assert wanting.ok is False


def test_we_take_the_cosigned_checkpoints_of_another_implementation():
    aics = pytest.importorskip("aics_tlog")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    log = honest()
    root = second.mth(log.entries)
    checkpoint = aics.Checkpoint(ORIGIN, 12, root)
    note = aics.sign_checkpoint(checkpoint, Ed25519PrivateKey.from_private_bytes(LOG.seed), ORIGIN)
    lines = [
        aics.sign_cosignature(
            Ed25519PrivateKey.from_private_bytes(each.key.seed),
            each.name,
            SIGNED_AT,
            ORIGIN,
            12,
            root,
        )[1]
        for each in COSIGNERS[:2]
    ]
    text = replace(note, signatures=(*note.signatures, *lines)).serialise()
    assert text == log.cosign(*COSIGNERS[:2]).checkpoints["checkpoints/12"]
    log.checkpoints["checkpoints/12"] = text
    assert verify(log, **TWO_OF_THREE).sound is True
    assert open_checkpoint_untrusted(text.encode(), ORIGIN, LOG.public).root == root


def test_published_checkpoints_open_with_the_verifiers_own_code(shared):
    folder = shared / "vectors/tile_log"
    vkey = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
    key = parse_vkey_untrusted(vkey)
    for size in range(1, 9):
        data = (folder / f"checkpoint.{size}").read_bytes()
        opened = open_checkpoint(data, key.name, [LogKey(key.public, 0, None)])
        whole = (folder / f"tile_0_000.p_{size}").read_bytes()
        streamed = Tree()
        streamed.extend([whole[at : at + 32] for at in range(0, len(whole), 32)])
        assert (opened.size, opened.root) == (size, streamed.root())


def test_published_inclusion_proofs_with_the_verifiers_own_code(shared):
    probes = json.loads((shared / "vectors/rfc6962/inclusion_probes.json").read_text())["probes"]
    assert probes
    for probe in probes:
        root, hashed = (base64.b64decode(probe[name] or "") for name in ("root", "leafHash"))
        proof = [base64.b64decode(each) for each in probe["proof"] or ()]
        index, size = probe["leafIdx"], probe["treeSize"]
        fits = 0 <= index < size and {len(each) for each in (root, hashed, *proof)} == {32}
        held = fits and root_by_proof(hashed, index, size, proof) == root
        assert held is not probe["wantErr"], probe


def test_a_proof_is_no_bundle_nor_the_other_way_round():
    assert verify_proof(honest().bundle(), facility_fingerprint=b"f" * 32).sound is None
    assert verify(io.BytesIO(b"c2sp.org/tlog-proof@v1\n").getvalue()).sound is None
