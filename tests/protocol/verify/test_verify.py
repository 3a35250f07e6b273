"""The auditor's verifier: every tamper case, what else can be wrong, and its notes."""

import json
from dataclasses import replace

import bundles_tampered as tampered
import pytest
from bundles_made import (
    ORIGIN,
    PEER_CARD,
    RECEIPT,
    STRANGER,
    Log,
    fill,
    honest,
    init_event,
    make_receipt,
    pin_of,
    receipt_event,
    verify,
)

from protocol.log.entry import Event
from protocol.verify import Code, report_lines


@pytest.mark.parametrize("name", sorted(tampered.CASES))
def test_tamper_case(name):
    build, code = tampered.CASES[name]
    log, evidence, index = build()
    verdict = verify(log, **evidence)
    assert (verdict.code, verdict.index) == (code, index), report_lines(verdict)
    assert verdict.sound is (code == Code.OK)


def test_the_published_list_of_cases_is_this_one(shared):
    cases = json.loads((shared / "vectors/tamper_cases.json").read_text())
    assert len(cases) == 38
    assert {case["id"] for case in cases} == {name for name in tampered.CASES if " " not in name}
    for case in cases:
        assert case["expect"] == tampered.CASES[case["id"]][1], case


# --- what else can be wrong ----------------------------------------------------


def test_a_sound_verdict_says_what_it_covers_and_what_not():
    verdict = verify(honest())
    assert (verdict.size, verdict.name, verdict.origin) == (12, "North General", ORIGIN)
    assert verdict.root == pin_of(honest(), 12)[1].hex()
    assert verdict.counts == {"init": 1, "ingest": 10, "receipt": 1}
    assert verdict.first_time == "2026-11-24T09:31:58.123Z"
    assert verdict.exit_code == 0
    notes = " ".join(verdict.notes)
    for words in ("write the whole log anew", "never logged", "own clock", "newer card"):
        assert words in notes
    # Nothing is said of what is as it should be.
    assert "`leaves`" not in notes
    assert "not in the bundle" not in notes
    assert "does not know" not in notes
    # The other side's key was not compared with its card, and with the card it is.
    assert "signed at the other side" in notes
    assert "signed at the other side" not in " ".join(
        verify(honest(), peer_cards=[PEER_CARD]).notes
    )
    pinned = verify(honest(), pins=[pin_of(honest(), 7), (12, bytes.fromhex(verdict.root))])
    assert pinned.sound is True
    assert "write the whole log anew" not in " ".join(pinned.notes)


def test_the_cause_comes_first_and_its_consequences_after():
    verdict = verify(tampered.removed()[0])
    codes = [finding.code for finding in verdict.findings]
    assert codes[0] == Code.ENTRY_INDEX
    assert Code.TRUNCATED in codes
    assert len(codes) == len(set(codes)) or codes.count(Code.ENTRY_INDEX) == 1


def test_without_leaves_the_place_is_a_range():
    log = tampered.bit_flipped()[0]
    log.leaves = b""
    verdict = verify(log)
    assert (verdict.code, verdict.index) == (Code.ROOT_MISMATCH, None)
    assert "entries 0 to 11" in verdict.reason


def test_more_checkpoints_narrow_the_range():
    log = honest().sign(4).sign(8)
    log.entries[7] = log.entries[7].replace(b'"instances":7', b'"instances":6')
    log.leaves = b""
    assert "entries 4 to 7" in verify(log).reason
    log = honest().sign(4).sign(8)
    assert verify(log).sound is True


def test_damage_to_leaves_is_no_damage_to_the_log():
    log = honest()
    log.leaves = log.leaves[:70] + b"x" + log.leaves[71:]
    verdict = verify(log)
    assert verdict.sound is True
    assert any("`leaves`" in note for note in verdict.notes)


@pytest.mark.parametrize(
    "change",
    [
        lambda opening: replace(opening, value="1.2.999"),
        lambda opening: replace(opening, kind="patient"),
        lambda opening: replace(opening, salt=b"z" * 16),
    ],
)
def test_a_false_opening(change):
    log = honest()
    true = log.openings[2][1]

    class Lie:
        commitment = true.commitment

        def __init__(self, other):
            self.kind, self.value, self.salt = other.kind, other.value, other.salt

    log.openings[2] = (log.openings[2][0], Lie(change(true)))
    verdict = verify(log)
    assert (verdict.sound, verdict.code, verdict.index) == (False, Code.OPENING_BAD, 3)


def test_openings_out_of_place():
    log = honest()
    log.openings[0] = (2, log.openings[0][1])
    assert verify(log).code == Code.OPENING_BAD
    log = honest()
    log.openings.append((99, log.openings[0][1]))
    assert verify(log).code == Code.OPENING_BAD
    log = honest()
    log.openings.clear()
    verdict = verify(log)
    assert verdict.sound is True
    assert any("of 10 studies and patients, 10 named" in note for note in verdict.notes)


def test_an_entry_that_differs_from_its_receipt():
    true = receipt_event(RECEIPT, transfer="01" * 16)
    for event, field_name in (
        (true, None),
        (receipt_event(RECEIPT, instances=11), "instances"),
        (receipt_event(RECEIPT, encoded_bytes=1), "encoded_bytes"),
        (receipt_event(RECEIPT, transfer="02" * 16), "transfer"),
        (replace(true, purpose="research"), "purpose"),
        (replace(true, peer=STRANGER.public), "peer"),
    ):
        log = Log().add(init_event()).add(event)
        log.receipts.append((1, RECEIPT))
        verdict = verify(log.sign())
        if field_name is None:
            assert verdict.sound is True
        else:
            assert (verdict.code, verdict.index) == (Code.RECEIPT_MISMATCH, 1)
            assert verdict.reason.endswith(f"differ in {field_name}")


def test_a_receipt_between_two_others_is_none_of_ours():
    receipt = make_receipt(1, facility=STRANGER)
    log = Log().add(init_event()).add(receipt_event(receipt))
    log.receipts.append((1, receipt))
    assert verify(log.sign()).code == Code.RECEIPT_UNKNOWN_KEY


def test_a_receipt_that_is_left_out_is_said_so():
    log = honest()
    log.receipts.clear()
    verdict = verify(log)
    assert verdict.sound is True
    assert any("of 1 receipts named in the log, 1 not" in note for note in verdict.notes)


def test_an_auditors_receipt_that_is_logged():
    assert verify(honest(), receipts=[RECEIPT]).sound is True
    assert verify(honest(), receipts=[b"junk"]).code == Code.RECEIPT_SIG


def test_a_checkpoint_from_elsewhere():
    shown = honest().checkpoints["checkpoints/12"].encode()
    assert verify(honest(), checkpoints=[shown]).sound is True
    assert verify(tampered.rebuilt(), checkpoints=[shown]).code == Code.FORK
    assert verify(tampered.cut_with_checkpoints(9), checkpoints=[shown]).code == Code.TRUNCATED


def test_a_genesis_that_names_another_log_key():
    log = fill(Log().add(init_event(log=STRANGER))).sign()
    verdict = verify(log)
    assert (verdict.code, verdict.index) == (Code.KEY_CHAIN, 0)


@pytest.mark.parametrize("first", [Event(type="start"), Event(type="init")])
def test_a_log_that_does_not_begin(first):
    assert verify(Log().add(first).sign()).code == Code.GENESIS


def test_a_log_without_checkpoint():
    log = honest()
    log.checkpoints.clear()
    verdict = verify(log)
    assert (verdict.sound, verdict.code, verdict.index) == (False, Code.UNSIGNED_TAIL, 0)
    assert verdict.reason == "the bundle holds no signed checkpoint"
    assert [each.code for each in verdict.findings] == [Code.UNSIGNED_TAIL]


def test_a_log_whose_only_checkpoint_is_bad_is_not_said_to_have_none():
    log = honest()
    log.checkpoints = {name: note[:-8] + "AAAAAA=\n" for name, note in log.checkpoints.items()}
    verdict = verify(log)
    assert verdict.code == Code.CP_BAD
    assert Code.UNSIGNED_TAIL not in [each.code for each in verdict.findings]
    # What it claims to be about was read all the same.
    assert (verdict.size, verdict.counts["init"]) == (12, 1)


def test_entries_behind_a_signed_size_of_none_are_an_unsigned_tail():
    log = honest()
    log.checkpoints = dict(Log().sign().checkpoints)
    verdict = verify(log)
    assert (verdict.code, verdict.index) == (Code.UNSIGNED_TAIL, 0)
    assert verdict.reason != "the bundle holds no signed checkpoint"


def test_a_log_of_no_entries_has_no_root():
    log = honest()
    log.entries.clear()
    log.openings.clear()
    log.receipts.clear()
    verdict = verify(log)
    assert (verdict.sound, verdict.size, verdict.root) == (False, 0, "")


def test_a_card_that_was_altered():
    log = honest()
    log.card = log.card.replace(b"North", b"South")
    assert verify(log).code == Code.KEY_CHAIN
