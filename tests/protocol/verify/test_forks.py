"""Evidence in a bundle that a log contradicts itself: another one, or this very one."""

import io

import pytest
import second_log as second
from bundles_made import (
    CARD,
    COSIGNERS,
    LOG,
    ORIGIN,
    PEER,
    PEER_CARD,
    STRANGER,
    TWO_OF_THREE,
    alert_event,
    honest,
    pin_of,
    revoked,
    verify,
)
from bundles_tampered import rebuilt
from exchanges_made import FINGERPRINT, PEER_FINGERPRINT, Pair

from protocol.log.entry import Event
from protocol.reconcile_bundles import reconcile_bundles
from protocol.reconcile_report import outcome_json, outcome_lines
from protocol.verify import Code, report_lines

PEER_ORIGIN = f"radmesh.log/{PEER_CARD.fingerprint}"


def _peer_note(*entries):
    return second.checkpoint(PEER_ORIGIN, list(entries), STRANGER).encode()


def _with_evidence(log, held, shown, card=PEER_CARD.encoded):
    log.extra = [
        ("witnessed/1/held", held),
        ("witnessed/1/shown", shown),
        ("witnessed/1/card", card),
    ]
    return log


def test_a_fork_of_another_log_is_reported_and_is_none_of_this_one():
    log = _with_evidence(honest(), _peer_note(b"a", b"b"), _peer_note(b"a", b"c"))
    verdict = verify(log)
    assert verdict.sound is True
    [words] = verdict.forks
    assert words.startswith(f"Lakeside ({PEER_CARD.fingerprint}), if that is its fingerprint, ")
    assert "signed two histories of its log at 2 entries" in words
    assert any("two histories" in line for line in report_lines(verdict))
    [words] = verify(log, peer_cards=[PEER_CARD]).forks
    assert words.startswith(f"Lakeside ({PEER_CARD.fingerprint}) signed two histories")


def test_a_log_that_went_back_is_reported_as_what_it_is():
    log = _with_evidence(honest(), _peer_note(b"a", b"b"), _peer_note(b"a"))
    [words] = verify(log).forks
    assert "signed 2 entries" in words
    assert "later showed 1 (" in words


def test_evidence_that_does_not_hold_is_said_to_be_so():
    signed = _peer_note(b"a", b"b")
    by_another = second.checkpoint(PEER_ORIGIN, [b"a"], PEER).encode()
    for shown, card in (
        (by_another, PEER_CARD.encoded),
        (b"junk", PEER_CARD.encoded),
        (signed, b"junk"),
    ):
        verdict = verify(_with_evidence(honest(), signed, shown, card))
        assert verdict.sound is True
        assert "does not hold" in verdict.forks[0] or "bad card" in verdict.forks[0]
    log = honest()
    log.extra = [("witnessed/1/held", signed)]
    assert "not complete" in verify(log).forks[0]


def _against_itself(log, *sizes, told=True):
    """The log with an alert about itself: it had signed other logs of these sizes."""
    other = rebuilt()
    held, shown = (other.sign(size).checkpoints[f"checkpoints/{size}"] for size in sizes)
    if told:
        log.add(alert_event(other, *sizes))
    return _with_evidence(log.sign(), held.encode(), shown.encode(), CARD.encoded)


@pytest.mark.parametrize("sizes", [(12, 9), (9, 12), (12, 12)])
def test_evidence_against_this_very_log_is_a_fork(sizes):
    verdict = verify(_against_itself(honest(), *sizes, told=False))
    assert (verdict.sound, verdict.code, verdict.forks) == (False, Code.FORK, ())
    assert "as the bundle itself shows" in verdict.reason


def test_a_log_that_tells_what_it_lost_lacks_it_all_the_same():
    verdict = verify(_against_itself(honest(), 12, 9))
    assert (verdict.sound, verdict.code, verdict.exit_code) == (False, Code.LOST, 1)
    assert len(verdict.findings) == 2
    for size, finding in zip((12, 9), verdict.findings, strict=True):
        assert finding.reason.startswith(f"this log had been signed with {size} entries (")
        assert "as its entry 12 says" in finding.reason
    # An entry about another alert tells nothing of this one.
    log = honest()
    log.add(Event(type="rollback-seen", details={"digest": "00" * 32}))
    assert verify(_against_itself(log, 12, 9, told=False)).code == Code.FORK


def test_what_the_auditor_holds_weighs_more_than_what_the_log_admits():
    """Nobody rewrites a log and has it pass for an accident by an entry."""
    cut = honest()
    del cut.entries[7:]
    cut.checkpoints.clear()
    cut.openings = [pair for pair in cut.openings if pair[0] < 7]
    cut = _against_itself(cut, 12, 9)
    assert verify(cut).code == Code.LOST
    for evidence, code in (
        ({"pins": [pin_of(honest(), 12)]}, Code.TRUNCATED_VS_PIN),
        ({"pins": [pin_of(honest(), 8)]}, Code.FORK_VS_PIN),
        (TWO_OF_THREE, Code.QUORUM),
    ):
        verdict = verify(cut, **evidence)
        assert verdict.code == code
        assert Code.LOST in [finding.code for finding in verdict.findings]
    # Even cosigned anew, it lacks what it lost.
    assert verify(cut.cosign(*COSIGNERS), **TWO_OF_THREE).code == Code.LOST


def test_of_endless_evidence_the_rest_is_counted():
    log = honest()
    log.extra = [(f"witnessed/{number}/held", b"x") for number in range(1, 131)]
    assert verify(log).forks[-1] == "more evidence, not looked at: 30"


def test_evidence_about_this_log_that_goes_well_with_it_is_nothing():
    log = honest().sign(9)
    held, shown = (log.checkpoints[f"checkpoints/{size}"].encode() for size in (12, 9))
    verdict = verify(_with_evidence(log, held, shown, CARD.encoded))
    assert (verdict.sound, verdict.forks) == (True, ())


def test_what_a_thief_signed_with_a_key_that_was_taken_back_counts_for_nothing():
    log = revoked()
    thief = second.checkpoint(ORIGIN, [b"x"] * 7, LOG).encode()
    verdict = verify(_with_evidence(log, thief, thief, CARD.encoded))
    assert verdict.sound is True
    assert (
        "does not hold: a checkpoint of size 7 is signed by a log key not in force"
        in (verdict.forks[0])
    )
    assert any("took back the log key from size 5 on" in note for note in verdict.notes)


def test_a_log_that_tells_of_its_loss_is_compared_and_never_agrees():
    pair = Pair().whole(1)
    lost = second.checkpoint(ORIGIN, [b"x"] * 9, LOG).encode()
    details = {
        "origin": ORIGIN,
        "size": 9,
        "root": second.mth([b"x"] * 9).hex(),
        "digest": second.sha256(lost).hex(),
        "shown_size": 1,
        "shown_root": second.mth(pair.a.entries[:1]).hex(),
    }
    pair.a.add(Event(type="rollback-seen", outcome="failed", details=details), pair.now_ms)
    pair.close()
    pair.a.extra = [(f"witnessed/1/{name}", lost) for name in ("held", "shown")]
    pair.a.extra.append(("witnessed/1/card", CARD.encoded))
    found = reconcile_bundles(
        *map(io.BytesIO, pair.bundles()),
        fingerprint_a=FINGERPRINT,
        fingerprint_b=PEER_FINGERPRINT,
    )
    assert (found.exit_code, found.comparison.differences) == (1, 0)
    assert outcome_lines(found)[0].startswith("LOST: ")
    assert "not sound (LOST), " in outcome_lines(found)[1]
    assert outcome_json(found)["outcome"] == "lost"
