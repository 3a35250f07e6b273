"""Statements that a study is stored, as the auditor's verifier reads them."""

import hashlib
import io

import pytest
import second_log as second
from bundles_made import (
    CARD,
    FACILITY,
    FINGERPRINT,
    NODE,
    PEER,
    PEER_CARD,
    PEER_NODE,
    RECEIPT,
    START_MS,
    STORED,
    STRANGER,
    Log,
    honest,
    init_event,
    make_receipt,
    make_stored,
    receipt_body,
    stored_body,
    stored_event,
    verify,
    with_stored,
    zip_of,
)
from hypothesis import given
from hypothesis import strategies as st
from proofs_made import check, prove

from protocol.verify import Code, report_lines, verify_bundle
from protocol.verify.command import main
from protocol.verify.receipts import ReceiptProblem
from protocol.verify.stored import open_stored


def with_lines(lines, log=None):
    """The bundle of a log whose stored.jsonl has these bytes."""
    members = dict((log or with_stored()).members())
    return zip_of({**members, "stored.jsonl": lines}.items())


LINE = second.canonical({"index": 12, "stored": second.base64_of(STORED)}) + b"\n"


def test_a_statement_is_checked_and_its_limits_are_said():
    log = with_stored()
    unknown, known = verify(log), verify(log, peer_cards=[PEER_CARD])
    for verdict in (unknown, known):
        assert (verdict.sound, verdict.counts["stored-heard"]) == (True, 1)
        assert "what its recipient says" in " ".join(verdict.notes)
    words = "statements that a study is stored, signed by a key that was not compared"
    assert words in " ".join(unknown.notes)
    assert words not in " ".join(known.notes)


def test_a_bundle_without_the_statement_says_so():
    log = with_stored()
    log.stored = []
    verdict = verify(log)
    assert verdict.sound is True
    assert "of 1 statements that a study is stored, 1 not in the bundle" in verdict.notes
    assert "statement" not in " ".join(verify(honest()).notes)


def test_the_log_of_the_recipient_is_checked_likewise():
    """Its own card is at hand, so nothing of the statement is half checked."""
    receipt = second.receipt(
        {
            **receipt_body(1),
            "source_facility": PEER.public,
            "recipient_facility": FACILITY.public,
            "source_node": PEER_NODE.public,
            "recipient_node": NODE.public,
        },
        PEER_NODE,
        NODE,
    )
    body = {
        **stored_body(1, recipient=NODE),
        "source_facility": PEER.public,
        "recipient_facility": FACILITY.public,
    }
    stored = second.stored(body, NODE)
    log = Log().add(init_event()).add(stored_event(stored, receipt, kind="stored-told"))
    log.receipts, log.stored = [(1, receipt)], [(1, stored)]
    verdict = verify(log.sign())
    assert verdict.sound is True, report_lines(verdict)
    assert "statements that a study is stored, signed" not in " ".join(verdict.notes)
    heard = Log().add(init_event()).add(stored_event(stored, receipt))
    heard.receipts, heard.stored = [(1, receipt)], [(1, stored)]
    assert "direction" in verify(heard.sign()).reason


@pytest.mark.parametrize(
    "lines",
    [
        b"{}\n",
        b"junk\n",
        LINE[:-1],
        LINE.replace(b'"index":12', b'"index":true'),
        LINE.replace(b'"index":12', b'"index":"12"'),
        LINE.replace(b'"stored":"', b'"stored":"*'),
        second.canonical({"index": 12, "stored": 1}) + b"\n",
    ],
)
def test_a_malformed_line(lines):
    verdict = verify(with_lines(lines))
    assert (verdict.sound, verdict.code) == (False, Code.RECEIPT_SIG)
    assert "stored.jsonl is malformed" in verdict.reason


def test_a_statement_that_is_there_twice_hides_none_that_is_missing():
    verdict = verify(with_lines(LINE * 2))
    assert (verdict.code, verdict.index) == (Code.BUNDLE, 12)


def test_a_statement_of_an_entry_that_is_not_there():
    verdict = verify(with_lines(LINE.replace(b"12", b"99", 1)))
    assert (verdict.code, verdict.index) == (Code.RECEIPT_NOT_LOGGED, 99)
    assert "was not read" in verdict.reason


def test_a_thousand_bad_lines_are_left_at_the_twentieth():
    log = with_stored()
    bad = make_stored(1, proven_by="query")
    line = second.canonical({"index": 12, "stored": second.base64_of(bad)}) + b"\n"
    verdict = verify(with_lines(line * 1000, log))
    assert len(verdict.findings) == 20


MALFORMED = {
    "no map": b"\xc0",
    "empty": b"",
    "without signature": second.message({"body": second.message(stored_body(1))}),
    "a field is missing": second.stored({**stored_body(1), "transfer": b"t"}, PEER_NODE),
    "a number is text": second.stored({**stored_body(1), "instances": "12"}, PEER_NODE),
    "a proof is binary": second.stored({**stored_body(1), "proven_by": b"query"}, PEER_NODE),
    "another encoding": STORED.replace(b"\xc4\x40", b"\xc5\x00\x40"),
    "more behind": STORED + b"\0",
    "another key": second.message(
        {
            "body": second.fields_of(STORED)["body"],
            "signature": second.fields_of(make_stored(1, recipient=STRANGER))["signature"],
        }
    ),
    "a key that is none": second.stored({**stored_body(1), "recipient_node": bytes(32)}, PEER_NODE),
}


@pytest.mark.parametrize("name", sorted(MALFORMED))
def test_what_is_no_statement(name):
    with pytest.raises(ReceiptProblem) as caught:
        open_stored(MALFORMED[name], CARD, [PEER_CARD])
    assert caught.value.code is Code.RECEIPT_SIG


def test_a_body_of_more_than_255_bytes_has_its_own_head():
    long = make_stored(1, later="x" * 300)
    short = second.stored({**stored_body(1)}, PEER_NODE)
    for blob in (long, short):
        fields, known = open_stored(blob, CARD, [PEER_CARD])
        assert known
        assert fields["instances"] == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"source_facility": STRANGER.public},
        {"time": START_MS - 10**9 - 86_500_000, "proven_at": 0},
    ],
)
def test_a_statement_of_others_or_before_its_key(changes):
    with pytest.raises(ReceiptProblem) as caught:
        open_stored(make_stored(1, **changes), CARD, [PEER_CARD])
    assert caught.value.code is Code.RECEIPT_UNKNOWN_KEY


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data):
    with pytest.raises(ReceiptProblem):
        open_stored(data, CARD, [PEER_CARD])


@given(st.integers(0, 8 * len(STORED) - 1))
def test_any_flipped_bit_is_found(at):
    flipped = bytearray(STORED)
    flipped[at // 8] ^= 1 << at % 8
    with pytest.raises(ReceiptProblem) as caught:
        open_stored(bytes(flipped), CARD, [PEER_CARD])
    assert caught.value.code in (Code.RECEIPT_SIG, Code.RECEIPT_UNKNOWN_KEY)


def test_another_peer_in_the_entry_is_a_difference():
    event = stored_event(STORED)
    object.__setattr__(event, "peer", STRANGER.public)
    verdict = verify(with_stored(event=event))
    assert verdict.code == Code.RECEIPT_MISMATCH
    assert "differ in peer" in verdict.reason


def test_an_entry_that_names_no_statement_by_text():
    """A later release may use the word otherwise; nothing is claimed of it."""
    event = stored_event(STORED)
    event.details["stored"] = 1
    verdict = verify(with_stored(event=event))
    assert (verdict.code, verdict.index) == (Code.RECEIPT_NOT_LOGGED, 12)


# --- proofs of one entry --------------------------------------------------------------------


def test_a_proof_holds_statement_and_receipt():
    proof = prove(with_stored(), 12)
    assert proof.extra["stored"] == second.base64_of(STORED)
    verdict = check(proof, peer_cards=[PEER_CARD])
    assert verdict.sound is True
    assert "stored-heard" in verdict.entry
    assert "was not compared" in " ".join(check(proof).notes)


def changed(**extra):
    proof = prove(with_stored(), 12)
    proof.extra |= {name: second.base64_of(value) for name, value in extra.items()}
    return proof


def without_receipt():
    proof = prove(with_stored(), 12)
    del proof.extra["receipt"]
    return proof


def beside_another_receipt():
    log = with_stored(event=stored_event(STORED, make_receipt(2)))
    log.receipts[1] = (12, make_receipt(2))
    return prove(log, 12)


def of_no_text():
    proof = prove(with_stored(), 12)
    proof.extra["stored"] = 1
    return proof


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (lambda: changed(stored=b"junk"), Code.RECEIPT_SIG),
        (of_no_text, Code.RECEIPT_SIG),
        (lambda: changed(stored=make_stored(1, recipient=STRANGER)), Code.RECEIPT_UNKNOWN_KEY),
        (lambda: changed(stored=make_stored(2)), Code.RECEIPT_NOT_LOGGED),
        (without_receipt, Code.STORED_ALONE),
        (beside_another_receipt, Code.RECEIPT_MISMATCH),
        (lambda: prove(with_stored(make_stored(1, instances=13)), 12), Code.RECEIPT_MISMATCH),
    ],
)
def test_a_proof_that_does_not_hold(proof, code):
    verdict = check(proof(), peer_cards=[PEER_CARD])
    assert (verdict.sound, verdict.code) == (False, code)


# --- giving out --------------------------------------------------------------------------------


def test_what_was_verified_is_given_out(tmp_path, capfdbinary):
    path, card = tmp_path / "north.zip", tmp_path / "north.card"
    path.write_bytes(with_stored().bundle())
    card.write_bytes(CARD.encoded)
    assert main([str(path), "--facility", str(card), "--print", "stored"]) == 0
    assert capfdbinary.readouterr().out == LINE
    assert main([str(path), "--facility", str(card), "--extract", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "stored.jsonl").read_bytes() == LINE


def test_the_digest_in_the_log_is_that_of_the_whole_statement():
    assert stored_event(STORED).details["stored"] == hashlib.sha256(STORED).hexdigest()
    data = io.BytesIO(with_stored().bundle())
    assert verify_bundle(data, facility_fingerprint=FINGERPRINT).sound is True
    assert receipt_body(1)["content_root"] == stored_body(1)["content_root"]
    assert make_receipt(1) == RECEIPT
