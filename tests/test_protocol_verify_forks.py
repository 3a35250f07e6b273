"""Evidence in a bundle that a log contradicts itself: another one, or this very one."""

import pytest
import second_log as second
from bundles_made import (
    CARD,
    LOG,
    ORIGIN,
    PEER,
    PEER_CARD,
    STRANGER,
    honest,
    revoked,
    verify,
)
from bundles_tampered import rebuilt

from protocol.log.entry import Event
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
    digest = second.sha256(held.encode()).hex()
    if told:
        details = {"origin": ORIGIN, "digest": digest, "shown_digest": "00" * 32}
        log.add(Event(type="rollback-seen", outcome="failed", details=details))
    return _with_evidence(log.sign(), held.encode(), shown.encode(), CARD.encoded)


@pytest.mark.parametrize("sizes", [(12, 9), (9, 12), (12, 12)])
def test_evidence_against_this_very_log_is_a_fork(sizes):
    verdict = verify(_against_itself(honest(), *sizes, told=False))
    assert (verdict.sound, verdict.code, verdict.forks) == (False, Code.FORK, ())
    assert "as the bundle itself shows" in verdict.reason


def test_a_log_that_tells_what_it_lost_is_sound_and_reported():
    log = _against_itself(honest(), 12, 9)
    verdict = verify(log)
    assert verdict.sound is True
    assert len(verdict.forks) == 2
    for size, words in zip((12, 9), verdict.forks, strict=True):
        assert words.startswith(f"this log had been signed with {size} entries (")
        assert "as its entry 12 says" in words
    # An entry about another alert tells nothing of this one.
    log = honest()
    log.add(Event(type="rollback-seen", details={"digest": "00" * 32}))
    assert verify(_against_itself(log, 12, 9, told=False)).code == Code.FORK


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
