"""The auditor's verifier against files that are odd, damaged or hostile."""

import base64
import io
import json
import tracemalloc
import zipfile
from dataclasses import replace

import msgpack
import pytest
from bundles_made import (
    CARD,
    FACILITY,
    FINGERPRINT,
    LOG,
    NODE,
    ORIGIN,
    PEER_CARD,
    PEER_NODE,
    RECEIPT,
    START_MS,
    STRANGER,
    Log,
    honest,
    pin_of,
    receipt_body,
    verify,
    zip_of,
)
from bundles_tampered import removed, unsigned_tail
from containers_made import changed, container, deflate, parts_of
from hypothesis import given
from hypothesis import strategies as st
from proofs_made import check, prove
from second_log import base64_of, key_id, receipt, vkey

from keys.card import CLOCK_SKEW_SECONDS, sign_card
from keys.card_fields import SizedKey, TimedKey
from protocol.log.note import Signer, sign_note
from protocol.verify import Code, verify_bundle
from protocol.verify.bundle import Bundle, BundleDamaged
from protocol.verify.checkpoints import CheckpointProblem, log_keys, open_checkpoint, signer_of
from protocol.verify.note import NoteProblem, parse_vkey
from protocol.verify.receipts import ReceiptProblem, open_receipt

ENTRY_INDEX = Code.ENTRY_INDEX
NOTE = honest().checkpoints["checkpoints/12"]


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff",
        NOTE.encode()[:-1],
        NOTE.replace("\n12\n", "\n012\n").encode(),
        NOTE.replace("\n12\n", "\n\n").encode(),
        NOTE.replace("\n12\n", "\n").encode(),
        NOTE.replace("=\n\n", "==\n\n").encode(),
        NOTE.replace("=\n\n", "\n\n").encode(),
        NOTE.replace("\n12\n", "\n12\r\n").encode(),
        NOTE.replace("— ", "- ").encode(),
        NOTE.split("— ")[0].encode(),
    ],
)
def test_checkpoints_that_are_none(note):
    verdict = verify(honest(), checkpoints=[note])
    assert verdict.sound is False
    assert verdict.code in (Code.CP_BAD, Code.CP_ORIGIN)


@pytest.mark.parametrize("size", ["012", "+12", "-1", "1_2", "12 ", "\u0661\u0662", "x", "1" * 20])
def test_a_checkpoint_whose_size_is_no_number_in_its_one_form(size):
    """The signature holds, so it is what the log key said."""
    note = sign_note(f"{ORIGIN}\n{size}\n{NOTE.split(chr(10))[2]}\n", [Signer(ORIGIN, LOG)])
    with pytest.raises(CheckpointProblem, match=r"^has a malformed size$"):
        open_checkpoint(note.encode(), ORIGIN, log_keys(CARD))


def test_who_signed_a_checkpoint_is_found_among_others_and_by_a_signature_that_holds():
    [key] = log_keys(CARD)
    text, line = NOTE.split("\n\n")
    stranger = f"— x {base64_of(b'abcde')}\n"
    assert signer_of(f"{text}\n\n{stranger}{line}".encode(), ORIGIN, [key]) == key
    assert signer_of(f"{text}\n\n{stranger}".encode(), ORIGIN, [key]) is None
    assert signer_of(NOTE.replace("\n12\n", "\n13\n").encode(), ORIGIN, [key]) is None


def test_a_checkpoint_with_a_short_root():
    note = sign_note(
        f"{ORIGIN}\n12\n{base64.b64encode(b'r' * 31).decode()}\n", [Signer(ORIGIN, LOG)]
    )
    assert verify(honest(), checkpoints=[note.encode()]).code == Code.CP_BAD


@given(st.integers(0, len(RECEIPT) * 8 - 1))
def test_no_flipped_bit_of_a_receipt_goes_unnoticed(bit):
    changed = bytearray(RECEIPT)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ReceiptProblem):
        open_receipt(bytes(changed), CARD, [PEER_CARD])


@given(st.binary(max_size=200))
def test_anything_else_is_no_receipt(data):
    with pytest.raises(ReceiptProblem):
        open_receipt(data, CARD, [])


@pytest.mark.parametrize(
    ("ended", "code"),
    [(1 - CLOCK_SKEW_SECONDS, Code.OK), (-CLOCK_SKEW_SECONDS, Code.RECEIPT_UNKNOWN_KEY)],
)
def test_a_receipt_signed_after_a_key_was_taken_back(ended, code):
    """Its time is of another clock than the card's, which may be a day off."""
    end = START_MS // 1000 + ended
    newer = sign_card(
        FACILITY,
        name="North General",
        node_keys=(TimedKey(NODE.public, 1, end), TimedKey(STRANGER.public, end)),
        log_keys=CARD.log_keys,
        witness_keys=CARD.witness_keys,
        addresses=(),
        serial=2,
        issued=START_MS // 1000,
        expires=START_MS // 1000 + 10**8,
    )
    verdict = verify(replace(honest(), card=newer.encoded))
    assert verdict.code == code


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"junk", b'{"index":5,"receipt":"!"}\n'])
def test_side_files_that_are_none(line):
    members = dict(honest().members())
    for name, code in (("receipts.jsonl", Code.RECEIPT_SIG), ("openings.jsonl", Code.OPENING_BAD)):
        verdict = verify(zip_of({**members, name: line}.items()))
        assert (verdict.sound, verdict.code) == (False, code)


def test_receipts_of_entries_that_are_not_there():
    log = honest()
    log.receipts.append((99, RECEIPT))
    assert verify(log).code == Code.RECEIPT_NOT_LOGGED


def test_a_file_compressed_in_another_way():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in honest().members():
            archive.writestr(name, data)
    assert verify(buffer.getvalue()).sound is None


def test_too_many_files_are_refused():
    log = honest()
    log.extra = [(f"x{number}", b"") for number in range(10_001)]
    assert verify(log).sound is None


def test_a_log_of_no_entries_but_junk_is_given_up():
    log = Log(entries=[b"x"] * 3000).sign()
    verdict = verify(log)
    assert (verdict.code, verdict.index) == (Code.ENTRY_PARSE, 0)
    assert verdict.size < 1100


def test_a_pin_beyond_what_is_signed():
    log = unsigned_tail()[0]
    verdict = verify(log, pins=[pin_of(log, 13)])
    assert (verdict.code, verdict.index) == (Code.UNSIGNED_TAIL, 12)


def test_an_entry_is_named_where_two_checkpoints_stand_close():
    log = honest().sign(7).sign(8)
    log.entries[7] = log.entries[7].replace(b'"instances":7', b'"instances":6')
    log.leaves = b""
    assert verify(log).index == 7


def test_many_types_are_counted_under_one_name():
    log = honest()
    for number in range(150):
        entry = {**json.loads(log.entries[1]), "index": 12 + number, "type": f"later-{number}"}
        entry["time"] = "2027-01-01T00:00:00.000Z"
        log.entries.append(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode())
    verdict = verify(log.sign())
    assert verdict.sound is True
    assert sum(verdict.counts.values()) == 162
    assert len(verdict.counts) <= 101


def test_what_the_header_says_is_compared():
    log = honest()
    log.header = {"size": 13}
    assert verify(log).code == Code.BUNDLE
    log.header = {"origin": "radmesh.log/OTHER"}
    assert verify(log).code == Code.BUNDLE
    log.header = {"format": "radmesh-audit-bundle/2"}
    assert verify(log).sound is None


def test_a_checkpoint_under_a_wrong_name():
    log = honest()
    log.checkpoints["checkpoints/3"] = log.checkpoints.pop("checkpoints/12")
    assert verify(log).code == Code.BUNDLE


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../b", "C:x", "a\\b"])
def test_names_that_are_paths_are_refused(name):
    log = honest()
    log.extra = [(name, b"x")]
    verdict = verify(log)
    assert (verdict.sound, verdict.code) == (None, Code.BUNDLE)


def test_two_files_of_one_name_are_refused():
    members = honest().members()
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zip_of([*members, ("card", PEER_CARD.encoded)])
    assert verify(data).sound is None


def test_files_of_later_versions_are_let_through_and_named():
    log = honest()
    log.extra = [("later", b"x")]
    verdict = verify(log)
    assert verdict.sound is True
    assert any("does not know and did not look at: 1" in note for note in verdict.notes)


@pytest.mark.parametrize("name", ["bundle.json", "card", "entries.jsonl"])
def test_files_that_are_missing(name):
    data = zip_of([member for member in honest().members() if member[0] != name])
    verdict = verify(data)
    assert (verdict.sound, verdict.code, verdict.exit_code) == (None, Code.BUNDLE, 2)


def test_a_bomb_costs_no_memory():
    log = honest()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in log.members():
            bomb = b"\0" * 50_000_000
            archive.writestr(name, bomb if name in ("entries.jsonl", "card") else data)
    del bomb
    tracemalloc.start()
    verdict = verify(buffer.getvalue())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert verdict.sound is None
    assert peak < 5_000_000


def test_endless_entries_end_where_nothing_is_signed():
    log = honest()
    log.entries += [b"x"] * 5000
    verdict = verify(log)
    assert (verdict.code, verdict.size) == (Code.UNSIGNED_TAIL, 12)


@given(st.binary(max_size=300))
def test_any_file_gets_a_verdict(data):
    assert verify(data).sound is None
    assert verify_bundle(io.BytesIO(b""), facility_fingerprint=FINGERPRINT).sound is None


def test_a_fingerprint_of_another_length_is_the_callers_mistake():
    with pytest.raises(ValueError, match="32 bytes"):
        verify_bundle(io.BytesIO(b""), facility_fingerprint=b"short")


def _with_zip(change):
    """The honest bundle, its members changed by `change(archive, name, data)`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in honest().members():
            change(archive, name, data)
    return buffer.getvalue()


def test_members_with_comments_or_odd_names_are_refused():
    def comment(archive, name, data):
        member = zipfile.ZipInfo(name)
        member.comment = b"x" if name == "leaves" else b""
        archive.writestr(member, data)

    def bell(archive, name, data):
        archive.writestr(name, data)
        if name == "card":
            archive.writestr("x\a", b"")

    assert verify(_with_zip(comment)).code == Code.BUNDLE
    assert verify(_with_zip(bell)).code == Code.BUNDLE
    data = honest().bundle()
    # A file that says it has one member more than it lists; and one with a comment.
    count = len(honest().members())
    end = data[-22:].replace(count.to_bytes(2, "little") * 2, (count + 1).to_bytes(2, "little") * 2)
    assert end != data[-22:]
    assert verify(data[:-22] + end).code == Code.BUNDLE
    assert verify(data[:-2] + b"\1\0x").code == Code.BUNDLE


@pytest.mark.parametrize("place", [3, 11])
def test_an_entry_that_is_too_large(place):
    log = honest()
    log.entries[place] = b"x" * 70_000
    verdict = verify(log)
    assert (verdict.code, verdict.index, verdict.size) == (Code.ENTRY_PARSE, place, place)


def test_leaves_that_are_damaged_hide_nothing_about_the_entries():
    """They are an aid: their damage alone is that of a file, and a bad entry is still named."""
    damaged = {"listed": {"crc": 0}, "local": {"crc": 0}}
    for log, sound, code in ((honest(), None, Code.BUNDLE), (removed()[0], False, ENTRY_INDEX)):
        for changes in (damaged, {"deflated": True, "packed_as": b"\xff" * 20}):
            parts = changed(parts_of(log.members()), b"leaves", **changes)
            verdict = verify(container(parts))
            assert (verdict.sound, verdict.code) == (sound, code)


def test_leaves_that_end_early_are_said_to_do_so():
    members = dict(honest().members())
    verdict = verify(zip_of({**members, "leaves": members["leaves"][:-40]}.items()))
    assert verdict.sound is True
    assert any("`leaves` of the bundle is not whole" in note for note in verdict.notes)


def test_a_checkpoint_of_endless_signatures_is_refused():
    log = honest()
    log.checkpoints["checkpoints/12"] += "— x AAAAAAA=\n" * 100
    assert verify(log).code == Code.CP_BAD


def test_a_receipt_of_a_later_version_with_more_fields():
    body = {**receipt_body(1), "later": 1, "more": "x"}
    later = receipt(body, NODE, PEER_NODE)
    fields, known = open_receipt(later, CARD, [PEER_CARD])
    assert (fields["more"], known) == ("x", True)


@pytest.mark.parametrize("length", [0, 31, 32, 255, 256])
def test_texts_of_every_width_in_a_receipt(length):
    body = {**receipt_body(1), "purpose": "p" * length}
    fields, known = open_receipt(receipt(body, NODE, PEER_NODE), CARD, [PEER_CARD])
    assert (fields["purpose"], known) == ("p" * length, True)


@pytest.mark.parametrize("name", ["entries.jsonl", "openings.jsonl", "receipts.jsonl", "card"])
def test_a_file_whose_content_is_damaged_does_not_read_as_if_it_ended_early(name):
    """Cut within what is packed, or of another CRC: nothing can be told."""
    data = dict(honest().members())[name]
    for changes in (
        {"deflated": True, "packed_as": deflate(data)[:-4]},
        {"deflated": True, "packed_as": deflate(data[:-40])},
        {"listed": {"crc": 0}, "local": {"crc": 0}},
    ):
        parts = changed(parts_of(honest().members()), name.encode(), **changes)
        with pytest.raises(BundleDamaged, match=f"the file {name} of the bundle is damaged"):
            read_all(container(parts), name)
        assert verify(container(parts)).sound is not True


def read_all(data, name):
    with Bundle(io.BytesIO(data)) as bundle:
        return [lines for lines, _ in bundle.batches(name, 70_000)]


def test_the_bounds_of_lines_and_files_are_met_exactly():
    data = zip_of([("entries.jsonl", b"a" * 9 + b"\n" + b"b" * 10 + b"\n")])
    with Bundle(io.BytesIO(data)) as bundle:
        assert list(bundle.batches("entries.jsonl", 10)) == [([b"a" * 9, b"b" * 10], True)]
        assert list(bundle.batches("entries.jsonl", 9)) == [([b"a" * 9, b"b" * 10], False)]
        assert list(bundle.lines("entries.jsonl", 11)) == [b"a" * 9 + b"\n", b"b" * 10 + b"\n"]
        assert list(bundle.lines("entries.jsonl", 9)) == [b"a" * 9 + b"\n", b"b" * 10]
        assert bundle.read("entries.jsonl", 21) == b"a" * 9 + b"\n" + b"b" * 10 + b"\n"
        with pytest.raises(BundleDamaged, match="too large"):
            bundle.read("entries.jsonl", 20)


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_checkpoint_of_fewer_lines_than_it_must_have(lines):
    text = "".join(f"{line}\n" for line in [ORIGIN, "12"][:lines])
    note = sign_note(text or "\n", [Signer(ORIGIN, LOG)]).encode()
    verdict = verify(honest(), checkpoints=[note])
    assert (verdict.sound, verdict.code) == (False, Code.CP_BAD)


def test_a_receipt_that_says_something_twice_is_none():
    """Readers differ in which of the two counts."""
    body = msgpack.packb(receipt_body(1))
    count = body[0]
    twice = bytes([0xDE, 0, (count & 15 if count != 0xDE else body[2]) + 1])
    rest = body[1:] if count != 0xDE else body[3:]
    double = twice + rest + msgpack.packb("instances") + msgpack.packb(99)
    good = twice[:2] + bytes([twice[2] - 1]) + rest
    signatures = {
        "recipient_signature": PEER_NODE.sign(b"radmesh-receipt-v1", double),
        "source_signature": NODE.sign(b"radmesh-receipt-v1", double),
    }
    with pytest.raises(ReceiptProblem, match="malformed"):
        open_receipt(msgpack.packb({"body": double, **signatures}), CARD, [PEER_CARD])
    signatures = {
        "recipient_signature": PEER_NODE.sign(b"radmesh-receipt-v1", good),
        "source_signature": NODE.sign(b"radmesh-receipt-v1", good),
    }
    fields, _ = open_receipt(msgpack.packb({"body": good, **signatures}), CARD, [PEER_CARD])
    assert fields["instances"] == 12


@pytest.mark.parametrize(
    ("began", "code"),
    [(CLOCK_SKEW_SECONDS, Code.OK), (CLOCK_SKEW_SECONDS + 1, Code.RECEIPT_UNKNOWN_KEY)],
)
def test_a_receipt_signed_before_a_key_began(began, code):
    """Its time is of another clock than the card's, which may be a day off."""
    newer = sign_card(
        FACILITY,
        name="North General",
        node_keys=(TimedKey(NODE.public, START_MS // 1000 + began),),
        log_keys=CARD.log_keys,
        witness_keys=CARD.witness_keys,
        addresses=(),
        serial=2,
        issued=START_MS // 1000,
        expires=START_MS // 1000 + 10**8,
    )
    assert verify(replace(honest(), card=newer.encoded)).code == code


def test_a_card_that_has_expired_since_says_nothing_about_the_log():
    """The verifier has no clock; a bundle of ten years ago stays what it was."""
    old = sign_card(
        FACILITY,
        name="North General",
        node_keys=CARD.node_keys,
        log_keys=CARD.log_keys,
        witness_keys=CARD.witness_keys,
        addresses=(),
        serial=2,
        issued=1,
        expires=2,
    )
    assert verify(replace(honest(), card=old.encoded)).sound is True


def test_a_log_whose_first_key_counts_later_has_no_beginning():
    late = sign_card(
        FACILITY,
        name="North General",
        node_keys=CARD.node_keys,
        log_keys=(SizedKey(LOG.public, 1),),
        witness_keys=CARD.witness_keys,
        addresses=(),
        serial=2,
        issued=1,
        expires=2,
    )
    verdict = verify(replace(honest(), card=late.encoded))
    assert (verdict.code, verdict.index) == (Code.KEY_CHAIN, 0)


@pytest.mark.parametrize(
    "opening", [1, [], "x", {}, {"index": "1"}, {"index": True}, {"index": -1}, {"salt": 1}]
)
def test_an_opening_in_a_proof_that_is_none(opening):
    good = prove(honest(), 1)
    [true] = good.extra["openings"]
    good.extra["openings"] = [{**true, **opening} if opening and type(opening) is dict else opening]
    verdict = check(good)
    assert (verdict.sound, verdict.code) == (False, Code.OPENING_BAD)


@pytest.mark.parametrize("space", [" ", "\t", "\u00a0", "\u2028"])
def test_a_key_whose_name_has_a_space_is_none(space):
    name = f"radmesh{space}log"
    text = f"{name}+{key_id(name, LOG.public, 1).hex()}+{base64_of(bytes([1]) + LOG.public)}"
    with pytest.raises(NoteProblem, match="not a key of the form"):
        parse_vkey(text, (1,))
    assert parse_vkey(vkey("radmesh.log", LOG.public), (1,)).public == LOG.public


def test_a_key_without_a_name_is_none():
    text = f"+{key_id('', LOG.public, 1).hex()}+{base64_of(bytes([1]) + LOG.public)}"
    with pytest.raises(NoteProblem, match="not a key of the form"):
        parse_vkey(text, (1,))


@pytest.mark.parametrize("rest", ["\n", "\nmore\n", "more\n\nmore\n"])
def test_a_checkpoint_with_an_empty_line_is_refused(rest):
    root = NOTE.split("\n")[2]
    note = sign_note(f"{ORIGIN}\n12\n{root}\n{rest}", [Signer(ORIGIN, LOG)]).encode()
    assert verify(honest(), checkpoints=[note]).code == Code.CP_BAD


def test_a_signature_line_without_a_signature_is_refused():
    """The name of a key alone, as a cosignature that nobody knows."""
    for raw, code in ((b"abcd", Code.CP_BAD), (b"abcde", Code.OK)):
        log = honest()
        log.checkpoints["checkpoints/12"] += f"— x {base64_of(raw)}\n"
        assert verify(log).code == code


def test_bytes_behind_the_body_of_a_receipt_are_refused():
    body = msgpack.packb(receipt_body(1)) + b"\0"
    signed = {
        "recipient_signature": PEER_NODE.sign(b"radmesh-receipt-v1", body),
        "source_signature": NODE.sign(b"radmesh-receipt-v1", body),
    }
    with pytest.raises(ReceiptProblem, match="malformed"):
        open_receipt(msgpack.packb({"body": body, **signed}), CARD, [PEER_CARD])


def test_a_line_of_the_longest_length_may_end_in_the_next_block():
    lines = [b"z" * 43, *[b"x" * 99] * 2620, b"y" * 100]
    data = b"".join(line + b"\n" for line in lines)
    assert data.index(b"y") + 100 == 1 << 18
    with Bundle(io.BytesIO(zip_of([("entries.jsonl", data)]))) as bundle:
        read = list(bundle.batches("entries.jsonl", 100))
    assert [line for block, _ in read for line in block] == lines
    assert all(whole for _, whole in read)
