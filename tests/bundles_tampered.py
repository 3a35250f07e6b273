"""Audit bundles that somebody tampered with, one for each tamper case.

Each function gives the log, what the auditor holds besides, and the first bad index.
"""

import base64
import json
from dataclasses import replace

from bundles_made import (
    CARD,
    FACILITY,
    LOG,
    NEXT_LOG,
    PEER,
    PEER_CARD,
    RECEIPT,
    START_MS,
    STRANGER,
    Log,
    fill,
    honest,
    init_event,
    make_receipt,
    pin_of,
)

from keys.card import sign_card
from keys.card_fields import SizedKey
from keys.fingerprint import fingerprint
from protocol.log.entry import Event


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
    """What an operator who holds every key makes: the log without entry 5, longer again."""
    log = fill(Log().add(init_event()), without=5)
    return log.add(Event(type="stop")).sign()


def rebuilt_against_pin():
    return rebuilt(), {"pins": [pin_of(honest(), 12)]}, None


def rebuilt_against_receipt():
    return rebuilt(), {"receipts": [RECEIPT]}, None


def rebuilt_with_nothing_from_outside():
    return rebuilt(), {}, None


def two_log_keys():
    card = sign_card(
        FACILITY,
        name="North General",
        node_keys=CARD.node_keys,
        log_keys=(SizedKey(LOG.public, 0, 8), SizedKey(NEXT_LOG.public, 8)),
        witness_keys=CARD.witness_keys,
        addresses=(),
        serial=2,
        issued=START_MS // 1000,
        expires=START_MS // 1000 + 10**8,
    )
    log = replace(honest(), card=card.encoded, checkpoints={})
    return log.sign(5, LOG).sign(12, NEXT_LOG)


def old_size_signed_by_newer_key():
    log = two_log_keys()
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
