"""Changes of keys as the verifier follows them: rotations, revocations, newer cards."""

import json
from dataclasses import replace

import pytest
from bundles_made import (
    CARD,
    FACILITY,
    LOG,
    NEXT_LOG,
    NEXT_NODE,
    NEXT_WITNESS,
    NODE,
    STRANGER,
    WITNESS,
    Log,
    fill,
    honest,
    init_event,
    pin_of,
    revoked,
    rotated,
    verify,
)
from second_log import canonical, key_change

from keys.card import parse_card_untrusted
from keys.identity import KeyPair
from protocol.log.entry import Event
from protocol.verify import Code

THIRD_LOG = KeyPair.from_seed(b"l" * 32)


def start():
    return fill(Log().add(init_event()), range(1, 7))


def problem(log, **evidence):
    verdict = verify(log, **evidence)
    return verdict.code, verdict.index


def test_a_rotated_log_is_sound_with_checkpoints_of_both_keys():
    verdict = verify(rotated())
    assert (verdict.sound, verdict.size, verdict.key_changes) == (True, 12, 1)
    assert verdict.counts["rotation"] == 1
    assert len(rotated().checkpoints) == 2


def test_a_key_replaced_twice():
    log = rotated().change_key(THIRD_LOG)
    verdict = verify(fill(log, range(13, 15)).sign())
    assert (verdict.sound, verdict.key_changes) == (True, 2)


def test_a_revoked_log_is_sound_with_the_last_trusted_checkpoint():
    verdict = verify(revoked())
    assert (verdict.sound, verdict.key_changes) == (True, 1)


@pytest.mark.parametrize("size", [6, 7])
def test_what_a_revoked_key_signed_later_counts_for_nothing(size):
    assert problem(revoked().sign(size, LOG)) == (Code.CP_BAD, None)


def test_everything_from_the_first_entry_on_can_be_revoked():
    log = start().change_key(NEXT_LOG, trusted_size=0)
    assert verify(fill(log, range(8, 12)).sign()).sound is True


@pytest.mark.parametrize("at", [8, 12])
def test_a_new_key_may_not_sign_old_sizes_nor_an_old_key_new_ones(at):
    assert problem(rotated().sign(at, LOG)) == (Code.CP_BAD, None)
    assert problem(rotated().sign(7, NEXT_LOG)) == (Code.CP_BAD, None)
    assert verify(rotated().sign(7, LOG).sign(8, NEXT_LOG)).sound is True


@pytest.mark.parametrize("name", ["new", "facility", "old"])
def test_each_signature_of_a_rotation_is_needed(name):
    assert problem(rotated(signers={name: STRANGER})) == (Code.KEY_CHAIN, 7)
    assert problem(rotated(details={f"signature_{name}": "AAAA"})) == (Code.KEY_CHAIN, 7)


@pytest.mark.parametrize("name", ["new", "facility"])
def test_each_signature_of_a_revocation_is_needed(name):
    log = start().change_key(NEXT_LOG, trusted_size=5, signers={name: STRANGER})
    assert problem(fill(log, range(8, 12)).sign()) == (Code.KEY_CHAIN, 7)


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 6},
        {"size": True},
        {"root": "00" * 32},
        {"root": "0" * 63},
        {"role": "facility"},
        {"role": 1},
        {"old_key": STRANGER.public.hex()},
        {"new_key": STRANGER.public.hex()},
        {"new_key": NEXT_LOG.public.hex().upper()},
        {"serial": 3},
        {"card": "00" * 32},
        {"signature_old": False},
    ],
)
def test_a_rotation_that_says_something_else_than_was_signed(changed):
    assert problem(rotated(details=changed)) == (Code.KEY_CHAIN, 7)


def test_a_rotation_that_was_signed_for_another_place():
    """All signatures hold: by it the key of the node changed one entry earlier."""
    log = start()
    card = log.card_with(NEXT_NODE, role="node")
    details = key_change(
        log.entries[:6],
        facility=FACILITY,
        old=NODE,
        new=NEXT_NODE,
        card=card,
        role="node",
        origin=log.origin,
    )
    log.add(Event(type="rotation", actor="operator", details=details))
    verdict = verify(fill(replace(log, card=card.encoded), range(8, 12)).sign())
    assert (verdict.code, verdict.index) == (Code.KEY_CHAIN, 7)
    assert "changes a key at size 6, and stands at 7" in verdict.reason


@pytest.mark.parametrize("changed", [{"trusted_root": "00" * 32}, {"trusted_size": 4}])
def test_a_revocation_that_says_something_else_than_was_signed(changed):
    log = start().change_key(NEXT_LOG, trusted_size=5, details=changed)
    assert problem(fill(log, range(8, 12)).sign()) == (Code.KEY_CHAIN, 7)


@pytest.mark.parametrize("size", [5, 8])
def test_a_revocation_of_a_root_that_this_log_never_had(size):
    """All signatures hold over it: what is wrong is only that the log says otherwise."""
    log = start()
    foreign = fill(Log().add(init_event()), range(101, 112))
    card = log.card_with(NEXT_LOG, trusted_size=size)
    entries = [*log.entries]
    details = key_change(
        entries,
        facility=FACILITY,
        old=log.key,
        new=NEXT_LOG,
        card=card,
        origin=log.origin,
        trusted_size=size,
        trusted_root=pin_of(foreign, size)[1],
    )
    log.add(Event(type="key-revoked", actor="operator", details=details))
    log = replace(log, card=card.encoded, key=NEXT_LOG)
    verdict = verify(fill(log, range(8, 12)).sign())
    assert (verdict.code, verdict.index) == (Code.KEY_CHAIN, 7)
    assert "a size or root on that this log does not have" in verdict.reason


def test_a_change_that_the_card_dates_at_the_very_end_of_the_log():
    """The entry that changes the key is the last one, or it is missing."""
    log = start()
    card = log.card_with(NEXT_LOG)
    longer = replace(fill(log, [7]), card=card.encoded, key=NEXT_LOG).sign()
    assert len(longer.entries) == 8
    assert problem(longer) == (Code.KEY_CHAIN, 7)
    ending = start().change_key(NEXT_LOG).sign()
    assert len(ending.entries) == 8
    assert verify(ending).sound is True


def test_a_detail_that_is_missing():
    log = rotated()
    whole = json.loads(log.entries[7])
    del whole["details"]["role"]
    log.entries[7] = canonical(whole)
    assert problem(log.sign()) == (Code.KEY_CHAIN, 7)


def test_a_change_that_the_card_does_not_know():
    log = rotated()
    assert problem(replace(log, card=CARD.encoded)) == (Code.KEY_CHAIN, 7)
    # Even where the serial of the card says nothing.
    log = start().change_key(NEXT_LOG, details={"serial": 1, "card": CARD.digest})
    assert problem(replace(fill(log, range(8, 12)).sign(), card=CARD.encoded))[0] == Code.KEY_CHAIN


def test_a_change_that_only_the_card_knows():
    log = start()
    card = log.card_with(NEXT_LOG)
    log = replace(fill(log, range(7, 12)), card=card.encoded, key=NEXT_LOG).sign()
    assert problem(log) == (Code.KEY_CHAIN, 7)


def test_a_log_exported_before_its_key_changed_and_a_card_from_after():
    log = start().sign()
    newer = log.card_with(NEXT_LOG)
    assert verify(replace(log, card=newer.encoded)).sound is True


def test_an_auditors_newer_card_counts_for_more_than_that_of_the_bundle():
    stolen = fill(start(), range(7, 12)).sign()
    assert verify(stolen).sound is True
    newer = stolen.card_with(NEXT_LOG, trusted_size=5)
    verdict = verify(stolen, own_card=newer)
    assert (verdict.code, verdict.index) == (Code.KEY_CHAIN, 5)
    assert Code.CP_BAD in [each.code for each in verdict.findings]
    # An older one, or one of somebody else, changes nothing.
    assert verify(replace(stolen, card=newer.encoded), own_card=CARD).code == Code.KEY_CHAIN
    twin = replace(stolen, card=newer.encoded).card_with(NEXT_NODE, role="node")
    same = replace(twin, serial=CARD.serial)
    assert problem(stolen, own_card=same) == (Code.KEY_CHAIN, None)


@pytest.mark.parametrize(
    ("role", "old", "new"), [("node", NODE, NEXT_NODE), ("witness", WITNESS, NEXT_WITNESS)]
)
def test_rotations_of_other_keys_are_checked_as_well(role, old, new):
    log = start().change_key(new, role=role, old=old)
    verdict = verify(fill(log, range(8, 12)).sign())
    assert (verdict.sound, verdict.key_changes) == (True, 1)
    for name in ("old", "new", "facility"):
        log = start().change_key(new, role=role, old=old, signers={name: STRANGER})
        assert problem(fill(log, range(8, 12)).sign()) == (Code.KEY_CHAIN, 7)
    log = start().change_key(new, role=role, old=old)
    log = replace(fill(log, range(8, 12)).sign(), card=CARD.encoded)
    assert problem(log) == (Code.KEY_CHAIN, 7)
    log = start().change_key(new, role=role, old=old, details={"serial": 1, "card": CARD.digest})
    log = replace(fill(log, range(8, 12)).sign(), card=CARD.encoded)
    assert problem(log) == (Code.KEY_CHAIN, 7)


def test_a_changed_entry_is_the_cause_and_not_the_rotation_behind_it():
    log = rotated()
    log.entries[3] = log.entries[3].replace(b'"instances":3', b'"instances":2')
    assert problem(log) == (Code.ROOT_MISMATCH, 3)
    del log.checkpoints["checkpoints/7"]
    assert problem(log) == (Code.ROOT_MISMATCH, 3)
    log = rotated()
    del log.entries[3]
    assert problem(log) == (Code.ENTRY_INDEX, 3)
    log = rotated()
    log.entries[7] = canonical({**json.loads(log.entries[7]), "type": "stop"})
    assert problem(log) == (Code.ROOT_MISMATCH, 7)


def test_a_log_cut_off_in_front_of_a_rotation():
    log = rotated()
    del log.entries[7:]
    log.openings = [(index, each) for index, each in log.openings if index < 7]
    assert problem(log) == (Code.TRUNCATED, 7)
    del log.checkpoints["checkpoints/12"]
    log.leaves = b""
    assert verify(log).sound is True


def test_a_rotation_in_a_log_of_which_no_checkpoint_holds():
    log = rotated(signers={"facility": STRANGER})
    log = replace(log, card=CARD.encoded, checkpoints={}).sign()
    verdict = verify(log)
    assert verdict.code == Code.KEY_CHAIN
    assert Code.CP_BAD in [each.code for each in verdict.findings]


def test_cards_that_are_made_here_are_good():
    assert parse_card_untrusted(honest().card_with(NEXT_LOG).encoded).serial == 2
