"""The RFC 6962 tree: published vectors, a slow twin, and every change of a proof."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log import tree
from protocol.verify.tree import Tree, leaf

# 0 and 1, powers of two and their neighbours, and one with many bits.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)


def _slow_root(leaves):
    """The definition of RFC 6962 section 2.1, word by word."""
    if not leaves:
        return tree.EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return tree.node_hash(_slow_root(leaves[:k]), _slow_root(leaves[k:]))


def _leaves(count):
    return [tree.leaf_hash(b"%d" % index) for index in range(count)]


def _holds(check, *arguments):
    try:
        check(*arguments)
    except RemoteProtocolError:
        return False
    return True


def test_reference_tree(shared):
    vectors = json.loads((shared / "vectors/rfc6962/reference_tree.json").read_text())
    leaves = [bytes.fromhex(text) for text in vectors["leaves_hex"]]
    assert tree.leaf_hash(b"").hex() == vectors["empty_leaf"]
    assert tree.leaf_hash(b"L123456").hex() == vectors["leaf_L123456"]
    assert tree.node_hash(b"N123", b"N456").hex() == vectors["node_N123_N456"]
    writer, verifier = tree.Frontier(), Tree()
    for size, root in enumerate(vectors["roots_by_size_0_8"]):
        assert writer.root().hex() == root
        assert verifier.root().hex() == root
        if size < len(leaves):
            writer.append(tree.leaf_hash(leaves[size]))
            verifier.extend([leaf(leaves[size])])
    for level, hashes in enumerate(vectors["node_hashes_by_level"]):
        root_of = tree.range_root([tree.leaf_hash(data) for data in leaves])
        width = 1 << level
        for place, expected in enumerate(hashes):
            assert root_of(place * width, (place + 1) * width).hex() == expected


def test_golden_roots(shared):
    vectors = json.loads((shared / "vectors/rfc6962/golden_roots.json").read_text())
    roots = {case["size"]: base64.b64decode(case["root_b64"]) for case in vectors["roots"]}
    writer, verifier = tree.Frontier(), Tree()
    seen = 0
    for index in range(max(roots)):
        data = bytes([index & 0xFF, index >> 8])
        writer.append(tree.leaf_hash(data))
        verifier.extend([leaf(data)])
        if index + 1 in roots:
            assert writer.root() == verifier.root() == roots[index + 1]
            seen += 1
    assert seen == len(roots)


def test_published_inclusion_probes(shared):
    vectors = json.loads((shared / "vectors/rfc6962/inclusion_probes.json").read_text())
    for probe in vectors["probes"]:
        held = _holds(
            tree.check_inclusion,
            base64.b64decode(probe["leafHash"] or ""),
            probe["leafIdx"],
            probe["treeSize"],
            [base64.b64decode(each) for each in probe["proof"] or ()],
            base64.b64decode(probe["root"] or ""),
        )
        assert held is not probe["wantErr"], probe["file"]


def test_published_consistency_probes(shared):
    vectors = json.loads((shared / "vectors/rfc6962/consistency_probes.json").read_text())
    for probe in vectors["probes"]:
        held = _holds(
            tree.check_consistency,
            probe["size1"],
            probe["size2"],
            base64.b64decode(probe["root1"] or ""),
            base64.b64decode(probe["root2"] or ""),
            [base64.b64decode(each) for each in probe["proof"] or ()],
        )
        assert held is not probe["wantErr"], probe["file"]


def test_certificate_transparency_consistency(shared):
    vectors = json.loads((shared / "vectors/rfc6962/ct_consistency.json").read_text())
    for data, expected in vectors["leaf_hashes"]:
        assert tree.leaf_hash(bytes.fromhex(data)).hex() == expected
    left, right, node = (bytes.fromhex(text) for text in vectors["node"])
    assert tree.node_hash(left, right) == node
    for good, cases in ((True, vectors["consistency_ok"]), (False, vectors["consistency_bad"])):
        for case in cases:
            held = _holds(
                tree.check_consistency,
                case["m"],
                case["n"],
                bytes.fromhex(case["r1"]),
                bytes.fromhex(case["r2"]),
                [bytes.fromhex(each) for each in case["proof"]],
            )
            assert held is good, case


def test_witness_update_proof_joins_its_checkpoints(shared):
    vectors = json.loads((shared / "vectors/witness/update.json").read_text())
    happy = vectors["cases"][0]
    roots = [base64.b64decode(happy[side].split("\n")[2]) for side in ("init", "new")]
    proof = [bytes.fromhex(each) for each in happy["proof_hex"]]
    tree.check_consistency(5, 8, *roots, proof)
    with pytest.raises(RemoteProtocolError):
        tree.check_consistency(5, 8, roots[1], roots[0], proof)


def test_tile_log_hashes_and_checkpoints(shared):
    folder = shared / "vectors/tile_log"
    for size in range(1, 9):
        data = (folder / f"entries_000.p_{size}").read_bytes()
        entries = []
        while data:
            length = int.from_bytes(data[:2], "big")
            entries.append(data[2 : 2 + length])
            data = data[2 + length :]
        hashes = [tree.leaf_hash(entry) for entry in entries]
        assert b"".join(hashes) == (folder / f"tile_0_000.p_{size}").read_bytes()
        root = base64.b64decode((folder / f"checkpoint.{size}").read_text().split("\n")[2])
        assert tree.range_root(hashes)(0, size) == root


@given(st.integers(0, 300))
def test_frontier_is_its_slow_twin(size):
    leaves = _leaves(size)
    frontier, verifier = tree.Frontier(), Tree()
    for each in leaves:
        frontier.append(each)
        verifier.extend([each])
    assert frontier.root() == verifier.root() == _slow_root(leaves)
    assert frontier.size == verifier.size == size


def test_a_copy_grows_by_itself():
    frontier = tree.Frontier()
    for each in _leaves(5):
        frontier.append(each)
    root = frontier.root()
    frontier.copy().append(b"x" * 32)
    assert (frontier.size, frontier.root()) == (5, root)


@pytest.mark.parametrize("size", SIZES)
def test_inclusion_proofs_of_every_leaf(size):
    leaves = _leaves(size)
    root_of = tree.range_root(leaves)
    root = _slow_root(leaves)
    for index in range(size):
        proof = tree.inclusion_proof(index, size, root_of)
        tree.check_inclusion(leaves[index], index, size, proof, root)
        other = (index + 1) % size
        assert not _holds(tree.check_inclusion, leaves[other], index, size, proof, root) or (
            other == index
        )
        for at in range(len(proof)):
            shorter = proof[:at] + proof[at + 1 :]
            assert not _holds(tree.check_inclusion, leaves[index], index, size, shorter, root)
            flipped = [*proof[:at], bytes([proof[at][0] ^ 1]) + proof[at][1:], *proof[at + 1 :]]
            assert not _holds(tree.check_inclusion, leaves[index], index, size, flipped, root)
        longer = [*proof, root]
        assert not _holds(tree.check_inclusion, leaves[index], index, size, longer, root)


@pytest.mark.parametrize("new", SIZES)
def test_consistency_proofs_from_every_size(new):
    leaves = _leaves(new)
    root_of = tree.range_root(leaves)
    new_root = _slow_root(leaves)
    for old in range(1, new + 1):
        old_root = _slow_root(leaves[:old])
        proof = tree.consistency_proof(old, new, root_of)
        tree.check_consistency(old, new, old_root, new_root, proof)
        arguments = (old, new, old_root, new_root)
        for at in range(len(proof)):
            shorter = proof[:at] + proof[at + 1 :]
            assert not _holds(tree.check_consistency, *arguments, shorter)
            flipped = [*proof[:at], bytes([proof[at][0] ^ 1]) + proof[at][1:], *proof[at + 1 :]]
            assert not _holds(tree.check_consistency, *arguments, flipped)
        assert not _holds(tree.check_consistency, *arguments, [*proof, new_root])


def test_what_cannot_be_proven_is_refused():
    root_of = tree.range_root(_leaves(4))
    with pytest.raises(LocalProtocolError):
        tree.inclusion_proof(4, 4, root_of)
    for old, new in ((0, 4), (5, 4)):
        with pytest.raises(LocalProtocolError):
            tree.consistency_proof(old, new, root_of)
    # Sources disagree on these two; both are refused here.
    with pytest.raises(RemoteProtocolError):
        tree.check_consistency(0, 4, tree.EMPTY_ROOT, root_of(0, 4), [])
    with pytest.raises(RemoteProtocolError):
        tree.check_consistency(4, 4, root_of(0, 4), root_of(0, 4), [root_of(0, 2)])


@given(
    st.integers(0, 20),
    st.integers(0, 20),
    st.lists(st.binary(min_size=31, max_size=33), max_size=6),
    st.binary(max_size=33),
)
def test_any_proof_holds_or_is_refused(index, size, proof, root):
    _holds(tree.check_inclusion, b"l" * 32, index, size, proof, root)
    _holds(tree.check_consistency, index, size, root, root, proof)


def test_kept_nodes_give_what_all_leaves_give():
    leaves = _leaves(max(SIZES))
    frontier = tree.Frontier()
    nodes = []
    for size in range(len(leaves) + 1):
        assert tree.node_count(size) == len(nodes)
        kept, slow = tree.kept_root(nodes.__getitem__), tree.range_root(leaves)
        assert kept(0, size) == slow(0, size) == _slow_root(leaves[:size])
        for index in range(size):
            assert tree.inclusion_proof(index, size, kept) == tree.inclusion_proof(
                index, size, slow
            )
            assert tree.consistency_proof(index + 1, size, kept) == tree.consistency_proof(
                index + 1, size, slow
            )
        if size < len(leaves):
            nodes += frontier.append(leaves[size])
