"""The examples of docs/protocol-log.md are what the code makes and what the verifier takes."""

import dataclasses
import hashlib
import io
import re
import zipfile

from places import ROOT

from keys.card import issue_card
from keys.fingerprint import fingerprint, parse_fingerprint
from keys.identity import KeyPair
from node.audit.files import frame
from protocol.log.checkpoint import Checkpoint, open_checkpoint_untrusted, sign_checkpoint
from protocol.log.cosignature import Cosigner, cosign, cosignatures_untrusted, witness_name
from protocol.log.entry import TYPES, Event, Opening, decode_entry_untrusted, encode_entry
from protocol.log.note import Signer, Verifier
from protocol.log.policy import format_policy, k_of_n, parse_policy_untrusted
from protocol.log.proof import TlogProof, parse_proof_untrusted
from protocol.log.rotation import KeyChange
from protocol.log.tree import (
    check_inclusion,
    inclusion_proof,
    leaf_hash,
    range_root,
)
from protocol.verify import Code, verify_bundle

DOCUMENT = ROOT / "docs" / "protocol-log.md"
AUDITING = DOCUMENT.with_name("auditing.md")

FACILITY, NODE, LOG, WITNESS, PEER = (KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 6))
COSIGNING = KeyPair.from_seed(bytes([6]) * 32)
ORIGIN = f"radmesh.log/{fingerprint(FACILITY.public)}"
TIME_MS = 1_795_512_718_123
NEW_LOG = KeyPair.from_seed(bytes([7]) * 32)


def examples():
    """Every example by its name."""
    init = Event(
        type="init",
        actor="operator",
        details={
            "facility_key": FACILITY.public.hex(),
            "log_key": LOG.public.hex(),
            "origin": ORIGIN,
        },
    )
    begun = Event(
        type="disclosure-begun",
        peer=PEER.public,
        purpose="treatment",
        subjects=(("study", "1.2.840.113619.2.55"),),
        details={"transfer": bytes(range(16)).hex()},
    )
    opening = Opening("study", "1.2.840.113619.2.55", bytes(range(16)))
    entries = [
        encode_entry(init, index=0, time_ms=TIME_MS, openings=()),
        encode_entry(begun, index=1, time_ms=TIME_MS + 1000, openings=[opening]),
    ]
    leaves = [leaf_hash(entry) for entry in entries]
    root = range_root(leaves)(0, 2)
    signer = Signer(ORIGIN, LOG)
    note = sign_checkpoint(Checkpoint(ORIGIN, 2, root), signer)
    cosigner = Cosigner(witness_name(PEER.public), COSIGNING.public)
    line = cosign(Checkpoint(ORIGIN, 2, root).encode(), cosigner.name, COSIGNING, 1_795_512_720)
    policy = k_of_n(signer.verifier, [cosigner], 1)
    proof = TlogProof(1, tuple(inclusion_proof(1, 2, range_root(leaves))), note)
    hashed = opening.commitment
    return {
        **_changes_of_keys(root),
        "entry-0": entries[0].decode() + "\n",
        "entry-1": entries[1].decode() + "\n",
        "opening": (
            f'{{"commitment":"{hashed}","index":1,"kind":"study",'
            f'"salt":"{opening.salt.hex()}","value":"{opening.value}"}}\n'
        ),
        "tree": "".join(
            f"{name} {value.hex()}\n"
            for name, value in (("leaf 0", leaves[0]), ("leaf 1", leaves[1]), ("root  ", root))
        ),
        "keys": (
            f"facility key {FACILITY.public.hex()}\n"
            f"fingerprint  {fingerprint(FACILITY.public)}\n"
            f"log key      {LOG.public.hex()}\n"
            f"vkey         {signer.verifier.vkey}\n"
        ),
        "checkpoint": note,
        "cosigned": note + line,
        "policy": format_policy(policy),
        "frame": frame(entries[1])[:16].hex(" ") + "\n",
        "proof": proof.encode(),
    }


def _changes_of_keys(root):
    """The log key replaced by entry 2, and, as another third entry, taken back."""
    rotation = KeyChange(
        origin=ORIGIN,
        facility_key=FACILITY.public,
        role="log",
        old_key=LOG.public,
        new_key=NEW_LOG.public,
        size=2,
        root=root,
    )
    revoked = dataclasses.replace(rotation, trusted=(2, root))
    made = {}
    for change, old in ((rotation, LOG), (revoked, None)):
        event = change.event(old=old, new=NEW_LOG, facility=FACILITY, card="ab" * 32, serial=2)
        entry = encode_entry(event, index=2, time_ms=TIME_MS + 2000, openings=())
        made[change.type] = entry.decode() + "\n"
    return made


def documented():
    blocks = re.findall(
        r"^```text example=([a-z0-9-]+)\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE
    )
    assert len({name for name, _ in blocks}) == len(blocks)
    return dict(blocks)


def test_the_document_shows_what_the_code_makes():
    assert documented() == examples()


def test_the_shown_checkpoint_and_proof_hold_together():
    shown = documented()
    proof = parse_proof_untrusted(shown["proof"])
    checkpoint = open_checkpoint_untrusted(proof.checkpoint.encode(), ORIGIN, LOG.public)
    leaf = leaf_hash(shown["entry-1"].rstrip("\n").encode())
    check_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    assert decode_entry_untrusted(shown["entry-0"].rstrip("\n").encode()).type == "init"


def test_the_shown_cosignature_meets_the_shown_policy():
    shown = documented()
    policy = parse_policy_untrusted(shown["policy"].encode())
    found = cosignatures_untrusted(shown["cosigned"].encode(), policy.witnesses.values())
    assert policy.is_met_by([one.cosigner for one in found])
    assert not policy.is_met_by([])
    assert policy.logs == (Verifier(ORIGIN, LOG.public),)


def test_a_bundle_of_the_shown_parts_is_sound():
    shown = documented()
    card = issue_card(
        FACILITY,
        name="North General",
        node_key=NODE.public,
        log_key=LOG.public,
        witness_key=WITNESS.public,
        addresses=(),
        serial=1,
        issued=TIME_MS // 1000,
        expires=TIME_MS // 1000 + 1000,
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        header = f'{{"format":"radmesh-audit-bundle/1","origin":"{ORIGIN}","size":2}}'
        archive.writestr("bundle.json", header)
        archive.writestr("card", card.encoded)
        archive.writestr("checkpoints/2", shown["checkpoint"])
        archive.writestr("entries.jsonl", shown["entry-0"] + shown["entry-1"])
        archive.writestr("openings.jsonl", shown["opening"])
    digest = parse_fingerprint(fingerprint(FACILITY.public))
    assert digest == hashlib.sha256(FACILITY.public).digest()
    verdict = verify_bundle(buffer, facility_fingerprint=digest)
    assert (verdict.sound, verdict.size) == (True, 2)


def test_the_documents_list_all_types_and_codes():
    types = re.findall(r"^\| `([a-z-]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert set(types) >= set(TYPES)
    codes = re.findall(r"^\| `([A-Z_]+)` \|", AUDITING.read_text(), re.MULTILINE)
    assert sorted(codes) == sorted(Code)
