"""Proofs of single entries: what holds, what does not, and every flipped bit."""

import base64
import json
from dataclasses import replace

import pytest
import second_log as second
from bundles_made import (
    CARD,
    COSIGNERS,
    LOG,
    NEXT_LOG,
    PEER_CARD,
    RECEIPT,
    SIGNED_AT,
    STRANGER,
    TWO_OF_THREE,
    honest,
    make_receipt,
    pin_of,
    receipt_event,
    revoked,
    rotated,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs_made import check, prove

from keys.fingerprint import parse_fingerprint
from protocol.verify import Code, report_lines, to_json, verify_proof
from protocol.verify.proof import PROOF_BYTES


def result(proof, **evidence):
    verdict = check(proof, **evidence)
    return verdict.sound, verdict.code


@pytest.mark.parametrize("index", range(12))
def test_every_entry_is_proven(index):
    verdict = check(prove(honest(), index))
    assert (verdict.sound, verdict.exit_code, verdict.size) == (True, 0, 12)
    assert verdict.entry.encode() == honest().entries[index]
    assert verdict.root == pin_of(honest(), 12)[1].hex()


def test_what_people_and_programs_see():
    verdict = check(prove(honest(), 3))
    lines = report_lines(verdict)
    assert lines[0] == "PROVEN: entry 3 is in the log, as it was signed"
    assert "  entry     3 ingest, success" in lines
    assert "  opened    study 1.2.3" in lines
    assert "  detail    instances=3" in lines
    assert any("about this entry alone" in line for line in lines)
    assert json.loads(to_json(verdict))["entry"] == json.loads(honest().entries[3])
    bad = check(replace(prove(honest(), 3), index=4))
    assert report_lines(bad)[0].startswith("NOT PROVEN: ")
    assert (json.loads(to_json(bad))["verdict"], bad.exit_code) == ("not proven", 1)


def test_a_proof_at_an_earlier_size():
    log = honest().sign(7)
    assert result(prove(log, 3, 7)) == (True, Code.OK)
    # The hashes of another size do not fit, nor do those of this size elsewhere.
    mixed = replace(prove(log, 3, 7), hashes=prove(log, 3, 12).hashes)
    assert result(mixed) == (False, Code.PROOF_BAD)
    assert result(replace(prove(log, 3, 12), note=log.checkpoints["checkpoints/7"]))[0] is False


def test_size_and_root_come_from_the_checkpoint():
    log = honest()
    proof = prove(log, 11)
    assert result(replace(proof, note=proof.note.replace("\n12\n", "\n13\n"))) == (
        False,
        Code.CP_BAD,
    )
    assert result(replace(prove(log, 11), index=12))[0] is False
    short = honest().sign(5)
    past = replace(prove(short, 11), note=short.checkpoints["checkpoints/5"])
    assert result(past) == (False, Code.PROOF_BAD)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"entry": honest().entries[4].decode()}, Code.ENTRY_INDEX),
        ({"entry": honest().entries[3].decode().replace('s":3', 's":2')}, Code.PROOF_BAD),
        ({"entry": honest().entries[3].decode().replace(":", ": ")}, Code.ENTRY_NOT_CANONICAL),
        ({"entry": "{}"}, Code.ENTRY_PARSE),
        ({"card": PEER_CARD.encoded.decode()}, Code.KEY_CHAIN),
        ({"card": CARD.encoded.decode().replace("North", "South")}, Code.KEY_CHAIN),
        ({"openings": [{}]}, Code.OPENING_BAD),
        ({"openings": {}}, Code.OPENING_BAD),
        ({"openings": prove(honest(), 4).extra["openings"]}, Code.OPENING_BAD),
        ({"receipt": second.base64_of(RECEIPT)}, Code.RECEIPT_NOT_LOGGED),
        ({"receipt": "!"}, Code.RECEIPT_SIG),
        ({"receipt": 1}, Code.RECEIPT_SIG),
        ({"witnesses": ["x"]}, Code.KEY_CHAIN),
    ],
)
def test_what_does_not_belong_to_the_entry(change, code):
    proof = prove(honest(), 3)
    proof.extra.update(change)
    assert result(proof) == (False, code)


@pytest.mark.parametrize("name", ["card", "entry"])
def test_what_is_missing_cannot_be_told(name):
    proof = prove(honest(), 3)
    del proof.extra[name]
    verdict = check(proof)
    assert (verdict.sound, verdict.exit_code) == (None, 2)


@pytest.mark.parametrize(
    "change", [{"card": 1}, {"witnesses": 1}, {"witnesses": [1]}, {"entry": False}]
)
def test_what_is_of_another_type_cannot_be_told(change):
    proof = prove(honest(), 3)
    proof.extra.update(change)
    assert check(proof).sound is None


def test_the_card_may_be_given_instead():
    proof = prove(honest(), 3)
    del proof.extra["card"]
    assert result(proof, own_card=CARD) == (True, Code.OK)


def test_the_receipt_of_an_entry():
    proof = prove(honest(), 5)
    verdict = check(proof)
    assert verdict.sound is True
    assert any("receipt is signed at the other side" in note for note in verdict.notes)
    with_card = check(proof, peer_cards=[PEER_CARD])
    assert not any("receipt is signed at the other side" in note for note in with_card.notes)
    by_stranger = make_receipt(1, recipient=STRANGER)
    proof.extra["receipt"] = second.base64_of(by_stranger)
    assert result(proof, peer_cards=[PEER_CARD]) == (False, Code.RECEIPT_UNKNOWN_KEY)


def test_a_receipt_that_the_auditor_has():
    proof = prove(honest(), 5)
    assert result(proof, receipts=[RECEIPT]) == (True, Code.OK)
    del proof.extra["receipt"]
    assert result(proof, receipts=[RECEIPT]) == (True, Code.OK)
    assert result(proof, receipts=[make_receipt(2)]) == (False, Code.RECEIPT_NOT_LOGGED)
    assert result(proof, receipts=[b"junk"]) == (False, Code.RECEIPT_SIG)
    assert result(prove(honest(), 3), receipts=[RECEIPT]) == (False, Code.RECEIPT_NOT_LOGGED)


def test_an_entry_that_differs_from_its_receipt():
    log = honest()
    log.add(receipt_event(RECEIPT, bytes=1)).receipts.append((12, RECEIPT))
    assert result(prove(log.sign(), 12)) == (False, Code.RECEIPT_MISMATCH)


def test_keys_that_were_replaced():
    log = rotated()
    assert result(prove(log, 3, 7)) == (True, Code.OK)
    assert result(prove(log, 9, 12)) == (True, Code.OK)
    assert result(prove(log.sign(12, LOG), 3, 12)) == (False, Code.CP_BAD)
    assert result(prove(rotated().sign(5, NEXT_LOG), 3, 5)) == (False, Code.CP_BAD)
    # By the newer card, which the auditor has, the key of this proof was taken back.
    stolen = prove(honest(), 3)
    newer = honest().card_with(NEXT_LOG, trusted_size=5)
    assert result(stolen) == (True, Code.OK)
    assert result(stolen, own_card=newer) == (False, Code.CP_BAD)
    assert result(prove(revoked(), 3, 5)) == (True, Code.OK)


def test_witnesses():
    two = honest().cosign(*COSIGNERS[:2])
    verdict = check(prove(two, 3), **TWO_OF_THREE)
    assert verdict.sound is True
    assert verdict.witnesses[0].startswith("Lakeside saw 12 entries at 2026-11-24T09:32:58Z")
    one = honest().cosign(COSIGNERS[0])
    assert result(prove(one, 3), **TWO_OF_THREE) == (False, Code.QUORUM)
    late = honest().cosign(COSIGNERS[0], seconds=SIGNED_AT + 10**9)
    assert result(prove(late, 3), **TWO_OF_THREE) == (False, Code.QUORUM)
    early = honest().cosign(COSIGNERS[0], seconds=1)
    assert result(prove(early, 3), **TWO_OF_THREE) == (False, Code.CP_BAD)
    # A card in the proof makes a cosignature one that must hold, and no more.
    proof = prove(honest().cosign(COSIGNERS[0]), 3)
    proof.extra["witnesses"] = [COSIGNERS[0].card.encoded.decode()]
    assert any("count" not in note and "Lakeside" in note for note in check(proof).notes)
    assert result(proof, **TWO_OF_THREE) == (False, Code.QUORUM)


def test_what_the_auditor_holds_is_compared():
    proof = prove(honest(), 3)
    good, shown = pin_of(honest(), 12), honest().checkpoints["checkpoints/12"].encode()
    assert result(proof, pins=[good, (5, b"x" * 32)], checkpoints=[shown]) == (True, Code.OK)
    assert result(proof, pins=[(12, b"x" * 32)]) == (False, Code.FORK_VS_PIN)
    other = honest()
    other.entries[3] = other.entries[3].replace(b's":3', b's":2')
    shown = other.sign().checkpoints["checkpoints/12"].encode()
    assert result(proof, checkpoints=[shown]) == (False, Code.FORK)
    assert result(proof, checkpoints=[b"junk"]) == (False, Code.CP_BAD)


def test_what_the_auditor_holds_of_another_size_is_no_help():
    proof = prove(honest(), 3)
    nine = honest().sign(9).checkpoints["checkpoints/9"].encode()
    anew, unused = "write the whole log anew", "of other sizes, which only the whole log"
    for evidence, is_compared in (
        ({"pins": [pin_of(honest(), 12)]}, True),
        ({"pins": [(5, b"x" * 32)]}, False),
        ({"checkpoints": [nine]}, False),
    ):
        notes = " ".join(check(proof, **evidence).notes)
        assert (anew not in notes, unused not in notes) == (is_compared, is_compared)


def test_another_facility():
    data = prove(honest(), 3).text().encode()
    verdict = verify_proof(data, facility_fingerprint=parse_fingerprint(PEER_CARD.fingerprint))
    assert (verdict.sound, verdict.code) == (False, Code.KEY_CHAIN)
    with pytest.raises(ValueError, match="32 bytes"):
        verify_proof(data, facility_fingerprint=b"")


def test_the_published_forms(shared):
    vectors = json.loads((shared / "vectors/tlog_proof/format.json").read_text())
    for case in (*vectors["good"], *vectors["bad"]):
        # None of them is of one of our logs; the good ones get as far as that.
        verdict = check(case["text"].encode())
        assert verdict.sound is None
        readable = "damaged" not in verdict.reason
        assert readable is (case in vectors["good"] and "extra" not in case), case


@given(st.binary(max_size=200))
def test_any_file_gets_a_verdict(data):
    assert check(data).sound is None
    assert check(b"c2sp.org/tlog-proof@v1\n" + data).sound is None


def test_a_huge_file_is_not_read():
    assert check(prove(honest(), 3).text().encode() + b"\n" * 4_000_000).sound is None


PROOF = prove(honest().cosign(*COSIGNERS[:2]), 5).text().encode()


@settings(max_examples=400)
@given(st.integers(0, len(PROOF) * 8 - 1))
def test_no_flipped_bit_of_a_proof_goes_unnoticed(bit):
    changed = bytearray(PROOF)
    changed[bit // 8] ^= 1 << bit % 8
    verdict = check(bytes(changed), **TWO_OF_THREE)
    if verdict.sound is True:
        # Harmless by name: a member of `extra` that is not needed has another name.
        lines = [data.split(b"\n")[1] for data in (PROOF, bytes(changed))]
        before, after = (
            json.loads(base64.b64decode(line.removeprefix(b"extra "))) for line in lines
        )
        assert before.keys() - after.keys() <= {"openings", "receipt", "witnesses"}
        assert len(before.keys() - after.keys()) == 1


def _extra(proof):
    line = proof.split(b"\n")[1]
    return json.loads(base64.b64decode(line.removeprefix(b"extra ")))


def test_the_bounds_of_a_proof_are_met_exactly():
    good = prove(honest(), 3)
    hashes = [b"h" * 32]
    assert result(replace(good, hashes=hashes * 63)) == (False, Code.PROOF_BAD)
    assert result(replace(good, hashes=hashes * 64)) == (None, Code.BUNDLE)
    card = COSIGNERS[0].card.encoded.decode()
    for cards, code in ((100, Code.OK), (101, Code.BUNDLE)):
        assert result(replace(good, extra={**good.extra, "witnesses": [card] * cards}))[1] == code
    for size, is_large in ((PROOF_BYTES, False), (PROOF_BYTES + 1, True)):
        verdict = check(b"x" * size)
        assert verdict.sound is None
        assert ("too large" in verdict.reason) == is_large


def test_a_true_opening_of_something_that_the_entry_does_not_name():
    """Its commitment is one to its value, and of no subject of the entry."""
    made = prove(honest(), 3)
    salt = b"s" * 16
    made.extra["openings"].append(
        {
            "commitment": second.commitment("patient", "someone else", salt),
            "index": 3,
            "kind": "patient",
            "salt": salt.hex(),
            "value": "someone else",
        }
    )
    verdict = check(made)
    assert (verdict.sound, verdict.code) == (False, Code.OPENING_BAD)
    assert "patient someone else" not in verdict.opened
