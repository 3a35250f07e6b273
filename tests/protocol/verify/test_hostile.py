"""The verifier against who means harm: it holds no more than it needs, is not misled by what
counts twice, and accuses nobody by receipts that were made over."""

import hashlib
import io
import json
import tracemalloc
import zipfile
from dataclasses import replace

import msgpack
import nacl.bindings
import pytest
from bundles_made import (
    CARD,
    COSIGNERS,
    LOG,
    NODE,
    ORIGIN,
    PEER_CARD,
    PEER_NODE,
    RECEIPT,
    Log,
    honest,
    init_event,
    make_receipt,
    receipt_body,
    receipt_event,
    verify,
)
from second_log import receipt

from protocol.log.entry import Event
from protocol.log.note import Signer, sign_note
from protocol.verify import Code, Evidence
from protocol.verify.bundle import Bundle
from protocol.verify.evidence import Receipts

NOTE = honest().checkpoints["checkpoints/12"]


def _peak_of(data):
    tracemalloc.start()
    verdict = verify(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return verdict, peak


def test_many_large_checkpoints_are_not_held_at_once():
    """Who holds the log key can sign as many as he likes, and they pack well."""
    log = honest()
    [root] = [line for line in NOTE.split("\n") if line.endswith("=") and "—" not in line]
    text = f"{ORIGIN}\n12\n{root}\n{'x' * 900_000}\n"
    note = sign_note(text, [Signer(ORIGIN, LOG)]).encode()
    log.extra = [(f"checkpoints/12.{number}", note) for number in range(1, 60)]
    verdict, peak = _peak_of(log.bundle())
    assert verdict.sound is True
    assert peak < 20_000_000


def test_endless_witnesses_are_counted_and_not_kept():
    log = honest().cosign(COSIGNERS[0])
    log.extra = [(f"witnesses/{number}", COSIGNERS[0].card.encoded) for number in range(1, 131)]
    verdict = verify(log)
    assert any("did not look at: 30" in note for note in verdict.notes)
    assert any("in the bundle only" in note and "Lakeside" in note for note in verdict.notes)


@pytest.mark.slow
def test_a_list_of_files_without_end_is_not_read():
    """The number of files at the end is a claim; zipfile reads what is there."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(60_000):
            archive.writestr(f"{number:06}" + "x" * 60, b"")
    verdict, peak = _peak_of(buffer.getvalue())
    assert (verdict.sound, verdict.code) == (None, Code.BUNDLE)
    assert peak < 5_000_000


def test_an_opening_and_a_receipt_do_not_count_twice():
    """Else they would hide that others are missing."""
    log = honest()
    log.openings[1] = log.openings[0]
    verdict = verify(log)
    assert (verdict.code, verdict.index) == (Code.OPENING_BAD, log.openings[0][0])
    log = honest()
    log.receipts.append(log.receipts[0])
    verdict = verify(log)
    assert (verdict.code, verdict.index) == (Code.BUNDLE, log.receipts[0][0])
    assert "there twice" in verdict.reason


def test_an_auditors_receipt_is_compared_with_its_entry():
    """A log that was rewritten may name its digest, and leave it out of the bundle."""
    true = receipt_event(RECEIPT)
    in_disguise = Event(type="trust-granted", details={"receipt": true.details["receipt"]})
    for event, code in (
        (true, Code.OK),
        (in_disguise, Code.RECEIPT_NOT_LOGGED),
        (replace(true, purpose="research"), Code.RECEIPT_MISMATCH),
        (replace(true, peer=b""), Code.RECEIPT_MISMATCH),
        (receipt_event(RECEIPT, bytes=5), Code.RECEIPT_MISMATCH),
    ):
        log = Log().add(init_event()).add(event).sign()
        verdict = verify(log, receipts=[RECEIPT], peer_cards=[PEER_CARD])
        assert [finding.code for finding in verdict.findings] == [code] * (code != Code.OK)
        log.receipts.append((1, RECEIPT))
        codes = [each.code for each in verify(log, receipts=[RECEIPT]).findings]
        assert codes == [code] * (code != Code.OK)


def test_a_receipt_in_another_form_accuses_nobody():
    """Whoever has a receipt could write it otherwise; its digest is then not in the log."""
    outer = msgpack.unpackb(RECEIPT)
    body, ours, theirs = outer["body"], outer["source_signature"], outer["recipient_signature"]
    for other in (
        msgpack.packb({**outer, "x": 1}),
        msgpack.packb({"source_signature": ours, "recipient_signature": theirs, "body": body}),
        RECEIPT.replace(b"\xc4\x40" + theirs, b"\xc5\x00\x40" + theirs),
    ):
        assert other != RECEIPT
        verdict = verify(honest(), receipts=[other], peer_cards=[PEER_CARD])
        assert verdict.code == Code.RECEIPT_SIG
        assert verdict.reason.endswith("is malformed")


def test_a_receipt_that_the_other_side_signed_again_accuses_nobody():
    """Ed25519 signatures need not be made as RFC 8032 says: a signer can make many of one text."""
    body = receipt_body(1)
    first, again = receipt(body, NODE, PEER_NODE), _signed_again(body)
    details = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in body.items()
        if name
        in (
            "transfer",
            "manifest",
            "content_root",
            "instances",
            "bytes",
            "batches",
            "encoded_bytes",
        )
    }
    for changed, code in (
        ({}, Code.OK),
        ({"bytes": 1}, Code.RECEIPT_NOT_LOGGED),
        ({"transfer": "02" * 16}, Code.RECEIPT_NOT_LOGGED),
    ):
        log = Log().add(init_event()).add(receipt_event(first, **{**details, **changed})).sign()
        verdict = verify(log, receipts=[again], peer_cards=[PEER_CARD])
        assert (verdict.code, first != again) == (code, True)
    # Another entry that says as much is no receipt.
    log = Log().add(init_event()).add(replace(receipt_event(first, **details), type="disclosed"))
    verdict = verify(log.sign(), receipts=[again], peer_cards=[PEER_CARD])
    assert verdict.code == Code.RECEIPT_NOT_LOGGED


def test_a_receipt_behind_its_place_is_of_the_entry_that_it_says():
    """Though the entry that was read last names this very one."""
    log = honest()
    index, blob = log.receipts[0]
    log.receipts.insert(1, (index - 1, blob))
    verdict = verify(log)
    assert (verdict.code, verdict.index) == (Code.RECEIPT_NOT_LOGGED, index - 1)


def test_only_so_many_receipts_are_remembered_as_good():
    log = Log().add(init_event())
    made = [make_receipt(number) for number in range(120)]
    for number, each in enumerate(made):
        log.receipts.append((1 + number, each))
        log.add(receipt_event(each))
    with Bundle(io.BytesIO(log.sign().bundle())) as bundle:
        receipts = Receipts(bundle, CARD, Evidence())
        for number, entry in enumerate(log.entries):
            receipts.match(number, json.loads(entry))
        assert (receipts.held, receipts.findings) == (120, [])
        assert len(receipts._opened) == 100


def _signed_again(body):
    """The receipt with a signature of the recipient whose nonce is another."""
    signed = msgpack.unpackb(receipt(body, NODE, PEER_NODE))
    message = b"radmesh-receipt-v1\0" + signed["body"]
    hashed = hashlib.sha512(PEER_NODE.seed).digest()
    scalar = nacl.bindings.crypto_core_ed25519_scalar_reduce(_clamped(hashed[:32]) + bytes(32))
    nonce = nacl.bindings.crypto_core_ed25519_scalar_reduce(hashlib.sha512(b"other").digest())
    point = nacl.bindings.crypto_scalarmult_ed25519_base_noclamp(nonce)
    challenge = nacl.bindings.crypto_core_ed25519_scalar_reduce(
        hashlib.sha512(point + PEER_NODE.public + message).digest()
    )
    product = nacl.bindings.crypto_core_ed25519_scalar_mul(challenge, scalar)
    signed["recipient_signature"] = point + nacl.bindings.crypto_core_ed25519_scalar_add(
        nonce, product
    )
    return msgpack.packb({name: signed[name] for name in sorted(signed)})


def _clamped(scalar):
    return bytes([scalar[0] & 248]) + scalar[1:31] + bytes([scalar[31] & 127 | 64])
