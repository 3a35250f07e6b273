"""Tampered audit bundles, one for each tamper case.

Each function returns the log, the auditor's own evidence, and the first bad index.
"""

import base64
import hashlib
import json
from dataclasses import replace

from bundles_made import (
    COSIGNERS,
    LOG,
    NEXT_LOG,
    PEER,
    PEER_CARD,
    RECEIPT,
    SIGNED_AT,
    START_MS,
    STORED,
    STRANGER,
    TWO_OF_THREE,
    Log,
    fill,
    honest,
    init_event,
    make_receipt,
    make_stored,
    pin_of,
    rotated,
    stored_event,
    with_stored,
    witnessed,
)

from keys.card import parse_card_untrusted
from keys.fingerprint import fingerprint
from protocol.log.entry import Event
from protocol.verify import Code


def untouched():
    return honest(), {}, None


def bit_flipped():
    log = honest()
    log.entries[7] = log.entries[7].replace(b'"instances":7', b'"instances":6')
    return log, {}, 7


def field_changed():
    log = honest()
    entry = json.loads(log.entries[3])
    entry["outcome"] = "failed"
    log.entries[3] = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    return log, {}, 3


def removed():
    log = honest()
    del log.entries[4]
    return log, {}, 4


def inserted():
    log = honest()
    log.entries.insert(6, log.entries[5])
    return log, {}, 6


def swapped():
    log = honest()
    log.entries[8], log.entries[9] = log.entries[9], log.entries[8]
    return log, {}, 8


def removed_and_renumbered():
    log = honest()
    del log.entries[4]
    for index in range(4, len(log.entries)):
        entry = {**json.loads(log.entries[index]), "index": index}
        log.entries[index] = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    return log, {}, 4


def tail_cut():
    log = honest()
    del log.entries[9:]
    return log, {}, 9


def cut_with_checkpoints(at):
    log = honest()
    del log.entries[at:]
    log.checkpoints.clear()
    log.openings = [(index, each) for index, each in log.openings if index < at]
    log.receipts = [(index, each) for index, each in log.receipts if index < at]
    return log.sign()


def tail_cut_against_pin():
    return cut_with_checkpoints(9), {"pins": [pin_of(honest(), 12)]}, 9


def tail_cut_against_receipt():
    return cut_with_checkpoints(4), {"receipts": [RECEIPT]}, None


def unsigned_tail():
    log = honest()
    log.add(Event(type="start"))
    return log, {}, 12


class Torn(Log):
    """Writes its last entry without its end."""

    def members(self):
        return [
            (name, data[:-20] if name == "entries.jsonl" else data)
            for name, data in super().members()
        ]


def torn_last_entry():
    log = Torn(**vars(honest()))
    return log, {}, 11


def rebuilt():
    """The work of an operator who holds every key: the log without entry 5, then extended."""
    log = fill(Log().add(init_event()), without=5)
    return log.add(Event(type="stop")).sign()


def rebuilt_against_pin():
    return rebuilt(), {"pins": [pin_of(honest(), 12)]}, None


def rebuilt_against_receipt():
    return rebuilt(), {"receipts": [RECEIPT]}, None


def rebuilt_with_nothing_from_outside():
    return rebuilt(), {}, None


def old_size_signed_by_newer_key():
    log = rotated()
    return log.sign(5, NEXT_LOG), {}, None


def equivocation():
    log = honest()
    other = rebuilt().checkpoints["checkpoints/12"]
    log.checkpoints["checkpoints/12.1"] = other
    return log, {}, None


def rewritten_against_pin():
    log = honest()
    pin = pin_of(log, 12)
    log.entries[11] = log.entries[11].replace(b'"instances":11', b'"instances":10')
    return log.sign(), {"pins": [pin]}, None


def rewritten_with_nothing_from_outside():
    log, _, _ = rewritten_against_pin()
    return log, {}, None


def signed_by_stranger():
    return honest().sign(key=STRANGER), {}, None


def checkpoint_of_another_log():
    log = honest()
    log.checkpoints.clear()
    return log.sign(origin="radmesh.log/OTHER", name="checkpoints/12"), {}, None


def signature_flipped():
    log = honest()
    note = log.checkpoints["checkpoints/12"]
    head, line = note.rstrip("\n").rsplit(" ", 1)
    raw = bytearray(base64.b64decode(line))
    raw[20] ^= 1
    log.checkpoints["checkpoints/12"] = f"{head} {base64.b64encode(raw).decode()}\n"
    return log, {}, None


def another_facility_key():
    return replace(honest(), card=PEER_CARD.encoded), {}, None


def with_receipt(receipt):
    log = honest()
    log.receipts = [(5, receipt)]
    return log


def receipt_changed():
    outer_start = RECEIPT.index(b"instances") + len("instances")
    changed = RECEIPT[:outer_start] + b"\x0b" + RECEIPT[outer_start + 1 :]
    assert RECEIPT[outer_start] == 12
    return with_receipt(changed), {}, 5


def receipt_by_unknown_key():
    receipt = make_receipt(1, recipient=STRANGER)
    return with_receipt(receipt), {"peer_cards": [PEER_CARD]}, 5


def receipt_not_logged():
    return with_receipt(make_receipt(2)), {}, 5


# --- statements that a study is stored ------------------------------------------------


def stored():
    return with_stored(), {"peer_cards": [PEER_CARD]}, None


def stored_changed():
    log = with_stored()
    log.stored = [(12, STORED.replace(b"commitment", b"commitmenT"))]
    log.entries[12] = log.entries[12].replace(*_digests(STORED, log.stored[0][1]))
    return log.sign(), {}, 12


def stored_by_unknown_key():
    forged = make_stored(1, recipient=STRANGER)
    return with_stored(forged), {"peer_cards": [PEER_CARD]}, 12


def stored_not_named():
    log = with_stored()
    log.stored = [(12, make_stored(1, proven_by="query"))]
    return log, {}, 12


def stored_of_another_entry():
    log = with_stored()
    log.stored = [(11, STORED)]
    return log, {}, 11


def stored_without_receipt():
    log = with_stored()
    del log.receipts[1]
    return log, {}, 12


def stored_of_an_entry_without_receipt():
    event = stored_event(STORED)
    del event.details["receipt"]
    log = with_stored(event=event)
    del log.receipts[1]
    return log, {}, 12


def stored_beside_another_receipt():
    return with_stored(make_stored(2)), {}, 12


def stored_of_more_than_arrived():
    return with_stored(make_stored(1, instances=13)), {}, 12


def stored_at_another_time():
    """The entry says another time than the recipient did."""
    event = stored_event(STORED, proven_at=START_MS // 1000)
    return with_stored(event=event), {}, 12


def stored_told_by_who_heard():
    return with_stored(event=stored_event(STORED, kind="stored-told")), {}, 12


def _digests(*blobs):
    return tuple(hashlib.sha256(blob).hexdigest().encode() for blob in blobs)


def clock_set_back():
    log = Log().add(init_event()).add(Event(type="start"))
    return log.add(Event(type="stop"), time_ms=START_MS + 500).sign(), {}, 2


def not_canonical():
    log = honest()
    log.entries[2] = json.dumps(json.loads(log.entries[2]), sort_keys=True).encode()
    return log.sign(), {}, 2


def another_genesis():
    log = honest()
    other = Log().add(init_event(PEER, LOG, f"radmesh.log/{fingerprint(PEER.public)}"))
    log.entries[0] = other.entries[0]
    return log, {}, 0


def no_entries():
    log = honest()
    log.entries, log.openings, log.receipts = [], [], []
    return log, {}, 0


# --- witnesses ---------------------------------------------------------------------


def rebuilt_against_quorum():
    return rebuilt(), TWO_OF_THREE, None


def rebuilt_with_old_cosignatures():
    """The same, with the cosignatures of the true log put under the false checkpoint."""
    log = rebuilt()
    lines = [line for line in witnessed().checkpoints["checkpoints/12"].split("\n") if line]
    log.checkpoints["checkpoints/12"] += "".join(f"{line}\n" for line in lines[-2:])
    return log, TWO_OF_THREE, None


def extended_and_not_yet_cosigned():
    log = witnessed()
    return log.add(Event(type="stop")).sign(), TWO_OF_THREE, None


def rewritten_against_quorum():
    log, _, _ = rewritten_against_pin()
    return log, TWO_OF_THREE, None


def cosigned_at_another_time():
    log = honest().cosign(COSIGNERS[0])
    note = log.checkpoints["checkpoints/12"]
    head, line = note.rstrip("\n").rsplit(" ", 1)
    raw = bytearray(base64.b64decode(line))
    assert int.from_bytes(raw[4:12], "big") == SIGNED_AT
    raw[4:12] = (SIGNED_AT - 1).to_bytes(8, "big")
    log.checkpoints["checkpoints/12"] = f"{head} {base64.b64encode(raw).decode()}\n"
    return log, TWO_OF_THREE, None


def cosignatures_stripped():
    log = witnessed()
    lines = log.checkpoints["checkpoints/12"].split("\n")
    log.checkpoints["checkpoints/12"] = "\n".join(lines[:5]) + "\n"
    return log, TWO_OF_THREE, None


# --- changes of keys ---------------------------------------------------------------


def history_rewritten_with_newer_key():
    """The rotation entry stays as signed, because a newer key cannot make another."""
    log = rotated()
    log.entries[3] = log.entries[3].replace(b'"instances":3', b'"instances":2')
    log.checkpoints.clear()
    return log.sign(), {}, 7


def history_rewritten_and_handed_over_anew():
    """The same, with a matching rotation entry, but without a signature of the older key."""
    log = fill(Log().add(init_event()), range(1, 7), without=3)
    honest_log = rotated()
    log.card, log.key = honest_log.card, NEXT_LOG
    log.add(Event(type="stop"))
    return _hand_over(log, {"old": NEXT_LOG, "facility": NEXT_LOG}), {}, 7


def history_rewritten_without_a_rotation():
    """The same, without a rotation entry, and with old sizes signed again."""
    honest_log = rotated()
    log = fill(Log(card=honest_log.card, key=NEXT_LOG).add(init_event()), without=3)
    return log.add(Event(type="stop")).sign(5).sign(), {}, 7


def _hand_over(log, signers):
    card = parse_card_untrusted(log.card)
    log.change_key(NEXT_LOG, old=LOG, card=card, signers=signers)
    return fill(log, range(8, 12)).sign()


def rotation_without_old_key():
    return rotated(signers={"old": STRANGER}), {}, 7


def rotation_by_a_stranger():
    """Somebody with the log key names the next one himself, and signs as the facility."""
    log = fill(Log().add(init_event()), range(1, 7))
    card = parse_card_untrusted(log.card)
    log.change_key(NEXT_LOG, card=card, signers={"facility": STRANGER})
    return fill(log, range(8, 12)).sign(), {}, 7


def rotation_by_a_stranger_with_his_card():
    log = fill(Log().add(init_event()), range(1, 7))
    card = log.card_with(NEXT_LOG, facility=STRANGER)
    log.change_key(NEXT_LOG, card=card, signers={"facility": STRANGER})
    return fill(log, range(8, 12)).sign(), {}, None


CASES = {
    "00": (untouched, Code.OK),
    "01": (bit_flipped, Code.ROOT_MISMATCH),
    "02": (field_changed, Code.ROOT_MISMATCH),
    "03": (removed, Code.ENTRY_INDEX),
    "04": (inserted, Code.ENTRY_INDEX),
    "05": (swapped, Code.ENTRY_INDEX),
    "06": (removed_and_renumbered, Code.ROOT_MISMATCH),
    "07": (tail_cut, Code.TRUNCATED),
    "08": (tail_cut_against_pin, Code.TRUNCATED_VS_PIN),
    "09": (tail_cut_against_receipt, Code.RECEIPT_NOT_LOGGED),
    "10": (unsigned_tail, Code.UNSIGNED_TAIL),
    "11": (torn_last_entry, Code.ENTRY_PARSE),
    "12": (rebuilt_against_quorum, Code.QUORUM),
    "13a": (rebuilt_against_pin, Code.FORK_VS_PIN),
    "13b": (rebuilt_against_receipt, Code.RECEIPT_NOT_LOGGED),
    "13c": (rebuilt_with_nothing_from_outside, Code.OK),
    "13d": (extended_and_not_yet_cosigned, Code.QUORUM),
    "14": (history_rewritten_with_newer_key, Code.KEY_CHAIN),
    "15": (old_size_signed_by_newer_key, Code.CP_BAD),
    "16": (equivocation, Code.FORK),
    "17": (rewritten_against_quorum, Code.QUORUM),
    "18": (rewritten_against_pin, Code.FORK_VS_PIN),
    "19": (rewritten_with_nothing_from_outside, Code.OK),
    "20": (signed_by_stranger, Code.CP_BAD),
    "21": (checkpoint_of_another_log, Code.CP_ORIGIN),
    "22": (signature_flipped, Code.CP_BAD),
    "23": (cosigned_at_another_time, Code.CP_BAD),
    "24": (cosignatures_stripped, Code.QUORUM),
    "25": (rotation_without_old_key, Code.KEY_CHAIN),
    "26": (rotation_by_a_stranger, Code.KEY_CHAIN),
    "27": (another_facility_key, Code.KEY_CHAIN),
    "28": (receipt_changed, Code.RECEIPT_SIG),
    "29": (receipt_by_unknown_key, Code.RECEIPT_UNKNOWN_KEY),
    "30": (receipt_not_logged, Code.RECEIPT_NOT_LOGGED),
    "31": (clock_set_back, Code.TIME_BACKWARDS),
    "32": (not_canonical, Code.ENTRY_NOT_CANONICAL),
    "33": (another_genesis, Code.GENESIS),
    "34": (no_entries, Code.GENESIS),
    # Statements that a study is stored came later than the published list.
    "35 stored": (stored, Code.OK),
    "36 stored, changed": (stored_changed, Code.RECEIPT_SIG),
    "37 stored, unknown key": (stored_by_unknown_key, Code.RECEIPT_UNKNOWN_KEY),
    "38 stored, not named": (stored_not_named, Code.RECEIPT_NOT_LOGGED),
    "39 stored, of another entry": (stored_of_another_entry, Code.RECEIPT_NOT_LOGGED),
    "40 stored, without receipt": (stored_without_receipt, Code.STORED_ALONE),
    "41 stored, entry without receipt": (stored_of_an_entry_without_receipt, Code.STORED_ALONE),
    "42 stored, beside another receipt": (stored_beside_another_receipt, Code.RECEIPT_MISMATCH),
    "43 stored, more than arrived": (stored_of_more_than_arrived, Code.RECEIPT_MISMATCH),
    "44 stored, at another time": (stored_at_another_time, Code.RECEIPT_MISMATCH),
    "45 stored, told by who heard": (stored_told_by_who_heard, Code.RECEIPT_MISMATCH),
    # The same attacks, made another way.
    "12 with cosignatures of the true log": (
        rebuilt_with_old_cosignatures,
        Code.CP_BAD,
    ),
    "14 with a rotation entry that fits": (
        history_rewritten_and_handed_over_anew,
        Code.KEY_CHAIN,
    ),
    "14 without a rotation entry": (
        history_rewritten_without_a_rotation,
        Code.KEY_CHAIN,
    ),
    "26 with a card of his own": (
        rotation_by_a_stranger_with_his_card,
        Code.KEY_CHAIN,
    ),
}
"""Number of the case to the function that makes it, and the verifier's verdict."""
