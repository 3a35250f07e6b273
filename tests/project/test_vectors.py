"""The checked-in vectors are the ones that are made, and both our writer and our
verifier agree with them."""

import hashlib
import io
import json

import bundles_made as made
import make_vectors
import pytest
from bundles_made import FINGERPRINT

from keys.card import parse_card_untrusted, sign_card
from keys.errors import BadCard
from keys.identity import KeyPair
from protocol.errors import RemoteProtocolError
from protocol.log import tree
from protocol.log.checkpoint import open_checkpoint_untrusted
from protocol.log.cosignature import cosignatures_untrusted, parse_cosigner_untrusted
from protocol.log.entry import commitment, decode_entry_untrusted
from protocol.log.note import parse_vkey_untrusted
from protocol.log.policy import parse_policy_untrusted
from protocol.log.proof import parse_proof_untrusted
from protocol.log.rotation import parse_change_untrusted
from protocol.receipt import SignedReceipt, check_signature, decode_receipt_untrusted
from protocol.stored import (
    check_stored_signature,
    decode_stored_untrusted,
    sign_stored,
    stored_details,
)
from protocol.verify import Code, Evidence, parse_policy, verify_bundle, verify_proof
from protocol.verify.checkpoints import CheckpointProblem, log_keys, open_checkpoint
from protocol.verify.entries import EntryProblem, parse_entry
from protocol.verify.openings import read_opening
from protocol.verify.stored import open_stored, stored_differences
from protocol.verify.tree import Tree, leaf, root_by_proof
from protocol.verify.witnesses import Witnesses

FOLDER = make_vectors.FOLDER


def read(name):
    return json.loads((FOLDER / name).read_text())


KEYS = read("keys.json")
ORIGIN = KEYS["origin"]
CARD = parse_card_untrusted(KEYS["card"].encode())

CARD_FIELDS = (
    "name", "node_keys", "log_keys", "witness_keys", "addresses", "serial", "issued", "expires",
)  # fmt: skip


def test_the_files_are_those_that_are_made():
    made = make_vectors.contents()
    held = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.name != "README.md"}
    assert sorted(held) == sorted(made)
    for name, data in made.items():
        assert held[name] == data, f"{name}: run `python tests/support/make_vectors.py`"


def test_the_readme_names_each_of_them():
    text = (FOLDER / "README.md").read_text()
    assert [name for name in make_vectors.contents() if f"| `{name}` |" not in text] == []


def test_keys():
    for each in KEYS["keys"].values():
        assert KeyPair.from_seed(bytes.fromhex(each["seed"])).public.hex() == each["public"]
    assert (CARD.fingerprint, CARD.digest) == (KEYS["fingerprint"], KEYS["card_sha256"])
    assert parse_vkey_untrusted(KEYS["log_vkey"]).public == CARD.log_key


def test_cards():
    vectors = read("cards.json")
    old = parse_card_untrusted(vectors["without_proofs"].encode())
    assert old == CARD
    new = parse_card_untrusted(vectors["proven"].encode())
    assert [(role, key.key) for role, key in new.listed] == [
        (role, key.key) for role, key in old.listed
    ]
    assert all(key.proof for _, key in new.listed)
    ours = sign_card(
        made.FACILITY,
        **{name: getattr(old, name) for name in CARD_FIELDS},
        proving=[made.NODE, made.LOG, made.WITNESS],
    )
    assert ours == new
    for text in vectors["false_proofs"].values():
        with pytest.raises(BadCard):
            parse_card_untrusted(text.encode())


def test_commitments():
    for each in read("commitments.json")["commitments"]:
        salt = bytes.fromhex(each["salt"])
        assert commitment(each["kind"], each["value"], salt) == each["commitment"]
        assert read_opening({"index": 0, **each}).holds


def test_entries():
    vectors = read("entries.json")
    for each in vectors["good"]:
        data = each["text"].encode()
        assert tree.leaf_hash(data).hex() == leaf(data).hex() == each["leaf"]
        ours, theirs = decode_entry_untrusted(data), parse_entry(data)
        assert (ours.index, ours.type) == (theirs.place, theirs.type)
    for each in vectors["bad"]:
        with pytest.raises(RemoteProtocolError):
            decode_entry_untrusted(each["text"].encode())
        with pytest.raises(EntryProblem) as problem:
            parse_entry(each["text"].encode())
        assert problem.value.code == each["code"], each["name"]


def test_tree():
    vectors = read("tree.json")
    leaves = [bytes.fromhex(each) for each in vectors["leaves"]]
    root_of = tree.range_root(leaves)
    roots = [bytes.fromhex(each) for each in vectors["roots"]]
    streamed = Tree()
    for size, root in enumerate(roots):
        assert root_of(0, size) == streamed.root() == root
        streamed.extend(leaves[size : size + 1])
    for each in vectors["inclusion"]:
        proof, index, size = map(each.get, ("proof", "index", "size"))
        assert [one.hex() for one in tree.inclusion_proof(index, size, root_of)] == proof
        hashes = [bytes.fromhex(one) for one in proof]
        assert root_by_proof(leaves[index], index, size, hashes) == roots[size]
    for each in vectors["consistency"]:
        proof = tree.consistency_proof(each["old"], each["new"], root_of)
        assert [one.hex() for one in proof] == each["proof"]


def test_checkpoints():
    vectors = read("checkpoints.json")
    for each in vectors["good"]:
        data = each["note"].encode()
        ours = open_checkpoint_untrusted(data, ORIGIN, CARD.log_key)
        theirs = open_checkpoint(data, ORIGIN, log_keys(CARD))
        assert (ours.size, ours.root) == (theirs.size, theirs.root)
        assert ours.size == each["size"]
    assert len(vectors["bad"]) == 7
    for each in vectors["bad"]:
        data = each["note"].encode()
        with pytest.raises(RemoteProtocolError):
            open_checkpoint_untrusted(data, ORIGIN, CARD.log_key)
        with pytest.raises(CheckpointProblem):
            open_checkpoint(data, ORIGIN, log_keys(CARD))


def test_checkpoints_of_a_log_whose_key_changed():
    vectors = read("checkpoints.json")["rotated"]
    card = parse_card_untrusted(vectors["card"].encode())
    sizes = [
        open_checkpoint(each.encode(), ORIGIN, log_keys(card)).size for each in vectors["notes"]
    ]
    assert sizes == [7, 12]
    with pytest.raises(CheckpointProblem, match="not in force"):
        open_checkpoint(vectors["key_not_in_force"].encode(), ORIGIN, log_keys(card))


def test_cosignatures():
    vectors = read("checkpoints.json")
    cosigned = vectors["cosigned"]
    lines = [f"witness {at} {each}" for at, each in enumerate(cosigned["witnesses"])]
    witnesses = Witnesses()
    witnesses.add_trusted([], [parse_policy("\n".join([*lines, "quorum none", ""]).encode())])
    card = parse_card_untrusted(vectors["rotated"]["card"].encode())
    found = witnesses.check(open_checkpoint(cosigned["note"].encode(), ORIGIN, log_keys(card)))
    assert [each.time for each in found] == [cosigned["time"]] * 2
    cosigners = [parse_cosigner_untrusted(each) for each in cosigned["witnesses"]]
    ours = cosignatures_untrusted(cosigned["note"].encode(), cosigners)
    assert [each.time for each in ours] == [cosigned["time"]] * 2


def test_key_changes():
    for each in read("key-changes.json")["changes"]:
        entry = decode_entry_untrusted(each["entry"].encode())
        change = parse_change_untrusted(entry, origin=ORIGIN, facility_key=CARD.facility_key)
        assert change.signed_bytes().decode() == each["signed"]
        assert change.root.hex() == each["root_before"]
        card = parse_card_untrusted(each["card"].encode())
        assert card.log_keys[-1].since_size == change.since_size


def test_receipts():
    vectors = read("receipts.json")
    body = bytes.fromhex(vectors["body"])
    receipt = decode_receipt_untrusted(body)
    assert receipt.encode() == body
    for name, value in vectors["fields"].items():
        held = getattr(receipt, name)
        assert (held.hex() if isinstance(held, bytes) else held) == value
    nodes = {
        side: KEYS["keys"][name]["seed"]
        for side, name in (("source", "node"), ("recipient", "peer node"))
    }
    signatures = {
        side: KeyPair.from_seed(bytes.fromhex(seed)).sign(b"radmesh-receipt-v1", body)
        for side, seed in nodes.items()
    }
    for side, signature in signatures.items():
        check_signature(body, signature, bytes.fromhex(vectors[f"{side}_node"]))
    whole = SignedReceipt(
        body=body,
        source_signature=signatures["source"],
        recipient_signature=signatures["recipient"],
    )
    assert (whole.encode().hex(), whole.digest.hex()) == (vectors["receipt"], vectors["sha256"])


def test_stored():
    vectors = read("stored.json")
    body = bytes.fromhex(vectors["body"])
    stored = decode_stored_untrusted(body)
    assert stored.encode() == body
    for name, value in vectors["fields"].items():
        held = getattr(stored, name)
        assert (held.hex() if isinstance(held, bytes) else held) == value
    seed = bytes.fromhex(KEYS["keys"]["peer node"]["seed"])
    signed = sign_stored(stored, KeyPair.from_seed(seed))
    check_stored_signature(body, signed.signature, bytes.fromhex(vectors["recipient_node"]))
    assert (signed.encode().hex(), signed.digest.hex()) == (vectors["stored"], vectors["sha256"])
    entry = decode_entry_untrusted(vectors["entry"].encode())
    said = {**entry.details}
    receipt = hashlib.sha256(bytes.fromhex(vectors["receipt"])).hexdigest()
    assert said.pop("receipt") == receipt
    assert said == stored_details(stored, signed)
    fields, _ = open_stored(bytes.fromhex(vectors["stored"]), CARD, [made.PEER_CARD])
    assert stored_differences(parse_entry(vectors["entry"].encode()).fields, fields, CARD) == []


def test_bundle_with_a_statement():
    data = (FOLDER / "bundle-stored.zip").read_bytes()
    verdict = verify_bundle(
        io.BytesIO(data),
        facility_fingerprint=FINGERPRINT,
        evidence=Evidence(peer_cards=[made.PEER_CARD]),
    )
    assert (verdict.sound, verdict.code, verdict.size) == (True, Code.OK, 13)
    assert verdict.counts["stored-heard"] == 1


def test_policies():
    vectors = read("policies.json")
    policy = parse_policy(vectors["policy"].encode())
    assert all(policy.holds(set(each)) for each in vectors["enough"])
    assert not any(policy.holds(set(each)) for each in vectors["too_few"])
    ours = parse_policy_untrusted(vectors["policy"].encode())
    for name, met in (("enough", True), ("too_few", False)):
        for each in vectors[name]:
            assert ours.is_met_by([ours.witnesses[witness] for witness in each]) is met


def test_proof():
    data = (FOLDER / "entry-5.tlog-proof").read_bytes()
    proof = parse_proof_untrusted(data.decode())
    extra = json.loads(proof.extra)
    checkpoint = open_checkpoint_untrusted(proof.checkpoint.encode(), ORIGIN, CARD.log_key)
    hashed = tree.leaf_hash(extra["entry"].encode())
    tree.check_inclusion(hashed, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    verdict = verify_proof(data, facility_fingerprint=FINGERPRINT)
    assert (verdict.sound, verdict.index) == (True, None)


def test_bundle():
    data = (FOLDER / "bundle.zip").read_bytes()
    policy = parse_policy(read("policies.json")["policy"].encode())
    verdict = verify_bundle(
        io.BytesIO(data), facility_fingerprint=FINGERPRINT, evidence=Evidence(policy=policy)
    )
    assert (verdict.sound, verdict.code, verdict.size) == (True, Code.OK, 12)
    assert (verdict.key_changes, len(verdict.witnesses)) == (1, 2)
