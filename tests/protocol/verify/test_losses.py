"""A log that says that it lost entries: it stays so, whatever lies beside it."""

import io
import json

import pytest
import second_log as second
from bundles_lossy import lossy, with_files
from bundles_made import (
    CARD,
    COSIGNERS,
    NEXT_LOG,
    PEER_CARD,
    TWO_OF_THREE,
    Log,
    alert_event,
    fill,
    honest,
    init_event,
    verify,
    zip_of,
)
from bundles_tampered import rebuilt
from exchanges_made import FINGERPRINT, PEER_FINGERPRINT, Pair
from hypothesis import given
from hypothesis import strategies as st
from proofs_made import check, prove

from protocol.reconcile_bundles import reconcile_bundles
from protocol.reconcile_report import outcome_lines
from protocol.verify import Code, report_lines, to_json


def _spoiled(log, place, content=None):
    members = with_files(log).members()
    names = [f"witnessed/1/{part}" for part in ("held", "shown", "card")]
    wanted = names if place == "all" else [f"witnessed/1/{place}"]
    kept = [(name, data) for name, data in members if name not in wanted]
    if content is not None:
        kept += [(name, content) for name in wanted]
    return zip_of(kept)


@pytest.mark.parametrize("place", ["all", "held", "shown", "card"])
@pytest.mark.parametrize("content", [None, b"junk", PEER_CARD.encoded])
def test_nothing_beside_the_log_takes_back_what_it_says(place, content):
    whole = verify(with_files(lossy()))
    assert (whole.code, whole.exit_code) == (Code.LOST, 1)
    verdict = verify(_spoiled(lossy(), place, content))
    assert (verdict.sound, verdict.code, verdict.exit_code) == (False, Code.LOST, 1)
    assert verdict.reason == whole.reason
    assert "as its entry 9 says" in verdict.reason


@given(st.data())
def test_any_part_of_the_unsigned_files_may_be_missing(data):
    """Property: no choice of files that lie beside the log makes it sound."""
    log = with_files(lossy()).cosign(*COSIGNERS)
    needed = {"bundle.json", "card", "entries.jsonl", "checkpoints/15"}
    members = log.members()
    optional = sorted({name for name, _ in members} - needed)
    kept = needed | set(data.draw(st.lists(st.sampled_from(optional))))
    verdict = verify(zip_of([each for each in members if each[0] in kept]), **TWO_OF_THREE)
    assert verdict.code == Code.LOST


@pytest.mark.parametrize(("held", "shown"), [(12, 9), (9, 12), (12, 12), (9, 9), (40, 9)])
def test_either_root_counts_at_sizes_before_and_behind_the_entry(held, shown):
    other = rebuilt()
    fill(other, range(100, 140))
    log = fill(Log().add(init_event()), range(1, 9))
    log.add(alert_event(other, held, shown)).sign()
    assert verify(log).code == Code.LOST


@pytest.mark.parametrize(("held", "shown"), [(12, 9), (9, 12), (14, 3), (1, 1)])
def test_a_log_that_has_what_it_was_told_of_lost_nothing(held, shown):
    """The right copy came back: what the alert names is there."""
    log = fill(Log().add(init_event()), range(1, 20))
    log.add(alert_event(log, held, shown))
    log.checkpoints.clear()
    verdict = verify(fill(log, range(30, 33)).sign())
    assert (verdict.sound, verdict.exit_code) == (True, 0)


def test_a_root_ahead_of_the_entry_is_compared_when_the_log_gets_there():
    log = fill(Log().add(init_event()), range(1, 9))
    ahead = fill(Log().add(init_event()), range(1, 20))
    log.add(alert_event(ahead, 12, 9))
    assert verify(fill(log, range(9, 20)).sign()).code == Code.LOST


def test_an_alert_about_another_log_is_nothing_to_this_one():
    event = alert_event(rebuilt(), 12, 9, origin=f"radmesh.log/{PEER_CARD.fingerprint}")
    log = fill(Log().add(init_event()), range(1, 9)).add(event).sign()
    assert verify(log).sound is True


@pytest.mark.parametrize(
    "said",
    [
        {"size": "12"},
        {"root": "zz" * 32},
        {"root": "AB" * 32},
        {"root": 12},
        {"size": -1},
        {"size": True},
    ],
)
def test_what_does_not_tell_clearly_is_no_way_out(said):
    verdict = verify(lossy(held=9, shown=9, **said))
    assert verdict.code == Code.LOST


def test_a_flood_of_alerts_hides_nothing():
    log = fill(Log().add(init_event()), range(1, 9))
    same = fill(Log().add(init_event()), range(1, 9))
    for number in range(1010):
        root = second.sha256(bytes([number >> 8, number & 255])).hex()
        log.add(alert_event(same, 9, 9, root=root, shown_root=root))
    log.add(alert_event(rebuilt(), 12, 9)).sign()
    verdict = verify(log)
    assert verdict.code == Code.LOST
    assert any("does not tell clearly" in each.reason for each in verdict.findings)
    # As many claims as are kept, and one finding for all others.
    assert len(verdict.findings) == 1001


# --- keys ------------------------------------------------------------------------------


def test_a_log_does_not_get_rid_of_a_loss_by_another_key():
    """By the newest card the note was signed by a key not in force at its size."""
    log = with_files(lossy())
    log.change_key(NEXT_LOG)
    assert verify(fill(log, range(20, 25)).sign()).code == Code.LOST


@pytest.mark.parametrize("trusted_size", [9, 10])
def test_a_loss_of_what_still_counts_outlives_the_revocation_of_its_key(trusted_size):
    """The key was taken back from a later size on than the one that was lost."""
    log = fill(Log().add(init_event()), range(1, 9))
    log.add(alert_event(rebuilt(), 9, 9)).change_key(NEXT_LOG, trusted_size=trusted_size)
    assert verify(fill(log, range(20, 25)).sign()).code == Code.LOST


def test_what_a_thief_signed_with_a_key_that_was_taken_back_is_no_loss():
    for told_first in (True, False):
        log = fill(Log().add(init_event()), range(1, 9))
        thief = rebuilt()
        fill(thief, range(100, 110))
        event = alert_event(thief, 20, 9, shown_root=second.mth(log.entries[:9]).hex())
        if told_first:
            log.add(event)
        log.change_key(NEXT_LOG, trusted_size=9)
        if not told_first:
            log.add(event)
            log.extra = [
                ("witnessed/1/held", thief.checkpoints["checkpoints/20"].encode()),
                ("witnessed/1/shown", thief.checkpoints["checkpoints/9"].encode()),
                ("witnessed/1/card", CARD.encoded),
            ]
        assert verify(fill(log, range(20, 25)).sign()).sound is True
    # Which key signed it, the note alone shows; without it, the log's own word counts.
    log.extra = []
    assert verify(log).code == Code.LOST


def test_a_loss_of_what_the_new_key_signed_is_one():
    log = fill(Log().add(init_event()), range(1, 9))
    log.change_key(NEXT_LOG, trusted_size=9)
    other = fill(Log(list(log.entries), key=NEXT_LOG, card=log.card), range(100, 110))
    log.add(alert_event(other, 15, 10))
    note = other.checkpoints["checkpoints/15"].encode()
    log.extra = [(f"witnessed/1/{name}", note) for name in ("held", "shown")]
    log.extra.append(("witnessed/1/card", log.card))
    assert verify(fill(log, range(20, 25)).sign()).code == Code.LOST


# --- --since ---------------------------------------------------------------------------


def _time(log, index):
    return json.loads(log.entries[index])["time"]


def test_what_came_after_a_loss_is_judged_apart():
    log = lossy()
    for since in (10, 14, _time(log, 10), _time(log, 14)):
        verdict = verify(log, since=since)
        first = since if isinstance(since, int) else 10 if since == _time(log, 10) else 14
        assert (verdict.sound, verdict.code) == (False, Code.LOST)
        assert (verdict.since, verdict.exit_code) == (first, 3)
        head = f"SOUND since entry {first}; LOST before: this log had been signed with "
        assert report_lines(verdict)[0].startswith(head)
        assert json.loads(to_json(verdict))["verdict"] == f"sound since entry {first}"
        assert any("entries that it lost are not in it" in note for note in verdict.notes)


def test_a_loss_that_is_not_before_is_one():
    log = lossy()
    for since, words in (
        (9, "is not before entry 9"),
        (0, "is not before entry 0"),
        (_time(log, 9), "is not before entry 9"),
        (15, "no entry since 15"),
        ("2099-01-01T00:00:00.000Z", "no entry since 2099"),
    ):
        verdict = verify(log, since=since)
        assert (verdict.code, verdict.since, verdict.exit_code) == (Code.LOST, None, 1)
        assert any(words in note for note in verdict.notes)


def test_what_else_is_wrong_stays_wrong_before_and_after():
    log = lossy()
    log.entries[3] = log.entries[3].replace(b'"instances":3', b'"instances":4')
    assert (verify(log, since=10).exit_code, verify(log, since=10).since) == (1, None)
    assert verify(lossy(), since=10, **TWO_OF_THREE).exit_code == 1
    assert verify(lossy().cosign(*COSIGNERS), since=10, **TWO_OF_THREE).exit_code == 3
    assert verify(honest(), since=10).exit_code == 0
    hidden = with_files(fill(Log().add(init_event()), range(1, 9)).sign())
    assert verify(hidden, since=3).code == Code.FORK


# --- proofs and comparisons ---------------------------------------------------------------


def test_a_proof_of_such_an_entry_says_what_it_means():
    [note] = [note for note in check(prove(lossy(), 9)).notes if note.startswith("by this entry")]
    assert "had been signed with 12 entries" in note
    assert not [n for n in check(prove(lossy(), 8)).notes if n.startswith("by this entry")]


def test_a_comparison_without_the_files_never_agrees():
    pair = Pair().whole(1)
    pair.a.add(alert_event(rebuilt(), 12, 9), pair.now_ms)
    pair.close()
    found = reconcile_bundles(
        *map(io.BytesIO, pair.bundles()),
        fingerprint_a=FINGERPRINT,
        fingerprint_b=PEER_FINGERPRINT,
    )
    assert found.exit_code == 1
    assert outcome_lines(found)[0].startswith("LOST: ")
