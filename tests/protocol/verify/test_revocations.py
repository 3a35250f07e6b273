"""A log that tells of a disclosure behind a revocation says so to the auditor."""

import pytest
from bundles_made import PEER, STRANGER, Log, init_event, verify

from protocol.log.entry import Event
from protocol.verify import Code


def _event(kind: str, transfer: str = "", **more: object) -> Event:
    details = {"transfer": transfer * 32} if transfer else {}
    values = {"peer": PEER.public, **more}
    return Event(type=kind, details=details, **values)  # type: ignore[arg-type]


ADDED, REVOKED = _event("trust-added"), _event("trust-revoked")
TOLD, BEGUN = _event("announced"), _event("disclosure-begun", "a")
DONE, BROKEN = _event("disclosed", "a"), _event("disclosure-failed", "a")

CASES = {
    "trusted": ([ADDED, TOLD, BEGUN, DONE], None),
    "revoked and quiet": ([ADDED, TOLD, BEGUN, DONE, REVOKED], None),
    "announced after it": ([ADDED, REVOKED, TOLD], 3),
    "a search answered after it": ([ADDED, REVOKED, _event("find-answered")], 3),
    "a search refused after it": ([ADDED, REVOKED, _event("refused")], None),
    "sent after it": ([ADDED, REVOKED, BEGUN, DONE], 3),
    "disclosed after it": ([ADDED, REVOKED, DONE, DONE], 3),
    "broken off by it": ([ADDED, BEGUN, REVOKED, BROKEN], None),
    "ended after it, begun before": ([ADDED, BEGUN, REVOKED, DONE], None),
    "another transfer after it": ([ADDED, BEGUN, REVOKED, _event("disclosed", "b")], 4),
    "trusted anew": ([ADDED, REVOKED, ADDED, TOLD, BEGUN, DONE], None),
    "a new trust that failed": (
        [ADDED, REVOKED, _event("trust-added", outcome="failed"), TOLD],
        4,
    ),
    "a revocation that failed": ([ADDED, _event("trust-revoked", outcome="failed"), TOLD], None),
    "somebody else": ([ADDED, REVOKED, _event("announced", peer=STRANGER.public)], None),
    "somebody else's new trust": (
        [ADDED, REVOKED, _event("trust-added", peer=STRANGER.public), TOLD],
        4,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_disclosures_behind_a_revocation(case: str) -> None:
    events, bad = CASES[case]
    log = Log().add(init_event())
    for event in events:
        log.add(event)
    verdict = verify(log.sign())
    if bad is None:
        assert verdict.code is Code.OK
    else:
        assert verdict.sound is False
        assert (verdict.code, verdict.index) == (Code.AFTER_REVOCATION, bad)
        assert f"entry {events.index(REVOKED) + 1} revoked" in verdict.reason


def test_damage_to_the_log_comes_first() -> None:
    log = Log().add(init_event()).add(ADDED).add(REVOKED).add(TOLD).sign()
    log.entries[1] = log.entries[1].replace(b'"actor":"node"', b'"actor":"nod3"')
    verdict = verify(log)
    assert verdict.code is not Code.AFTER_REVOCATION
    assert Code.AFTER_REVOCATION in {finding.code for finding in verdict.findings}


def test_many_revocations_and_transfers_take_bounded_memory() -> None:
    log = Log().add(init_event())
    for number in range(12_000):
        key = number.to_bytes(32)
        log.add(Event(type="trust-revoked", peer=key), time_ms=2 * 10**12)
        begun = Event(type="disclosure-begun", details={"transfer": key.hex()})
        log.add(begun, time_ms=2 * 10**12)
    from protocol.verify import revocations
    from protocol.verify.entries import parse_entry

    known = revocations.Revocations()
    for index, data in enumerate(log.entries):
        known.check(parse_entry(data), index)
    assert len(known._revoked) == len(known._begun) == revocations._TRACKED
