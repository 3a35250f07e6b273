"""The second statement of the rules, by which a simulation judges the first."""

import json

import pytest
from simulated_book import Rights
from simulated_faults import MISTAKES
from simulated_rules import Asked, Standing

from protocol.log.entry import Event

NOW_MS = 1_800_000_000_000
NOW = NOW_MS // 1000
PEER, TRANSFER = b"p" * 32, "11" * 16
CT, MR = "1.2.826.0.1.3680043.8.498.77.0.2", "1.2.826.0.1.3680043.8.498.77.0.1"


def _event(kind: str, *, study: str = "", purpose: str = "", **details: str | int) -> Event:
    subjects = (("study", study),) if study else ()
    return Event(type=kind, peer=PEER, purpose=purpose, subjects=subjects, details=details)


def _rule(number: int, effect: str, action: str, **more: object) -> Event:
    rule = {"number": number, "effect": effect, "action": action, **more}
    return _event("rule-added", rule=json.dumps(rule), number=number)


OBJECTION = Event(
    type="objection-added",
    peer=b"",
    subjects=(("patient", "MARKER-PATIENT-1^^^"),),
    details={"number": 1, "uses": "all"},
)
WAITS = _event(
    "approval-asked", study=CT, purpose="treatment", number=1, rule="rule 1", transfer=TRANSFER
)
APPROVED = _event("approved", number=1, rule="rule 1", transfer=TRANSFER, until=NOW + 10)
FETCHES = _event("trust-added", grants="see,fetch")
SEES = _event("trust-added", grants="see")
OFFERED = _event("offered", study=CT, purpose="treatment", number=1, until=NOW + 10)
BROKEN = _event(
    "emergency-begun", study=CT, purpose="BTG", direction="out", number=1, transfer=TRANSFER
)
BEGUN = _event(
    "disclosure-begun", study=MR, purpose="treatment", transfer="22" * 16, bytes=100, instances=1
)
USED_UP = [SEES, _rule(1, "allow", "fetch", limits={"studies-a-day": 1}), BEGUN]
MAY_BREAK = [SEES, _rule(1, "allow", "emergency")]

TABLE: list[tuple[list[Event], str, str]] = [
    ([], "treatment", "no: it is not trusted"),
    ([FETCHES], "treatment", "yes"),
    ([SEES], "treatment", "no: no rule allows fetch"),
    ([FETCHES, _event("trust-revoked")], "treatment", "no: it is not trusted"),
    ([FETCHES, _event("withdrawn", study=CT)], "treatment", "no: the study is not shared"),
    ([FETCHES, _event("discarded", study=CT)], "treatment", "no: the study is not shared"),
    ([FETCHES, _rule(1, "deny", "see")], "treatment", "no: a rule denies see"),
    ([FETCHES, _rule(1, "deny", "see", until=NOW)], "treatment", "yes"),
    ([FETCHES, _rule(1, "deny", "see", conditions={"modality": ["MR"]})], "treatment", "yes"),
    ([SEES, _rule(1, "allow", "fetch", conditions={"purpose": ["TREAT"]})], "treatment", "yes"),
    (
        [SEES, _rule(1, "allow", "fetch", conditions={"purpose": ["TREAT"]})],
        "research",
        "no: no rule allows fetch",
    ),
    ([SEES, _rule(1, "allow", "fetch", until=NOW)], "treatment", "no: no rule allows fetch"),
    (USED_UP, "treatment", "no: the limit is used up"),
    ([*USED_UP, _event("rule-removed", number=1)], "treatment", "no: no rule allows fetch"),
    ([FETCHES, OBJECTION], "treatment", "no: the patient objects"),
    ([FETCHES, OBJECTION, _event("objection-ended", number=1)], "treatment", "yes"),
    ([FETCHES, _rule(1, "ask", "fetch")], "treatment", "ask: nobody has approved it"),
    ([SEES, _rule(1, "ask", "fetch")], "treatment", "ask: nobody has approved it"),
    ([SEES, _rule(1, "ask", "fetch"), WAITS, APPROVED], "treatment", "yes"),
    (
        [SEES, _rule(1, "ask", "fetch"), _rule(2, "ask", "fetch"), WAITS, APPROVED],
        "treatment",
        "ask: nobody has approved it",
    ),
    (
        [
            SEES,
            _rule(1, "ask", "fetch"),
            WAITS,
            APPROVED,
            _event("trust-revoked"),
            SEES,
            _rule(1, "ask", "fetch"),
        ],
        "treatment",
        "ask: nobody has approved it",
    ),
    (
        [SEES, _rule(1, "ask", "fetch", conditions={"purpose": ["HRESCH"]})],
        "treatment",
        "no: no rule allows fetch",
    ),
    ([FETCHES, _rule(1, "ask", "fetch"), WAITS, APPROVED], "treatment", "yes"),
    (
        [FETCHES, _rule(1, "ask", "fetch"), WAITS, APPROVED],
        "research",
        "ask: nobody has approved it",
    ),
    (
        [
            FETCHES,
            _rule(1, "ask", "fetch"),
            WAITS,
            APPROVED,
            _event("disclosed", transfer=TRANSFER),
        ],
        "treatment",
        "ask: nobody has approved it",
    ),
    (
        [FETCHES, WAITS, _event("denied", number=1, rule="rule 1", transfer=TRANSFER)],
        "treatment",
        "no: it was denied",
    ),
    ([_event("trust-added"), OFFERED], "treatment", "yes"),
    ([_event("trust-added"), OFFERED], "research", "no: no rule allows fetch"),
    (
        [
            _event("trust-added"),
            OFFERED,
            _event("offer-ended", number=1, direction="out", why="person"),
        ],
        "treatment",
        "no: no rule allows fetch",
    ),
    (
        [_event("trust-added"), OFFERED, _event("trust-revoked"), _event("trust-added")],
        "treatment",
        "no: no rule allows fetch",
    ),
    ([FETCHES], "BTG", "no: no rule allows emergency"),
    (MAY_BREAK, "BTG", "yes"),
    ([*MAY_BREAK, _event("withdrawn", study=CT)], "BTG", "no: the study is not shared"),
    (
        [SEES, _rule(1, "allow", "emergency", withheld=True), _event("withdrawn", study=CT)],
        "BTG",
        "yes",
    ),
    ([*MAY_BREAK, OBJECTION], "BTG", "no: the patient objects"),
]


@pytest.mark.parametrize(("events", "purpose", "expected"), TABLE)
def test_what_the_entries_of_a_log_allow(events: list[Event], purpose: str, expected: str) -> None:
    rights = _rights(events)
    verdict = rights.decide(PEER, Asked(CT, purpose, TRANSFER), 100, NOW)
    assert ": ".join(filter(None, (verdict.kind, verdict.why))) == expected


def _rights(events: list[Event], *, rests: bool = False) -> Rights:
    rights = Rights(Standing(over_objections=False, rests=rests))
    both = [_event("ingest", study=study) for study in (CT, MR)]
    for index, event in enumerate([*both, *events]):
        rights.add(index, event, NOW_MS, None)
    return rights


def test_a_limit_is_of_a_day_and_a_study_counts_once_with_its_growth() -> None:
    day = 24 * 3600
    rule = _rule(1, "allow", "fetch", limits={"bytes-a-day": 150})
    rights = _rights([SEES, rule, BEGUN])
    for study, size, later, expected in (
        (MR, 100, 0, "yes"),
        (MR, 151, 0, "no"),
        (CT, 51, 0, "no"),
        (CT, 50, day - 1, "yes"),
        (CT, 51, day - 1, "no"),
        (CT, 51, day, "yes"),
    ):
        verdict = rights.decide(PEER, Asked(study, "treatment"), size, NOW + later)
        assert verdict.kind == expected, (study, size, later)


def test_an_emergency_rests_while_a_review_is_overdue() -> None:
    rights, late = _rights([*MAY_BREAK, BROKEN], rests=True), NOW + 72 * 3600
    assert not rights.standing.rest_of(PEER, "33" * 16, late - 1)
    assert rights.standing.rest_of(PEER, "33" * 16, late)
    assert not rights.standing.rest_of(PEER, TRANSFER, late), "what has begun goes on"
    reviewed = _event("emergency-reviewed", direction="out", number=1)
    rights.add(len(rights._events), reviewed, NOW_MS, None)
    assert not rights.standing.rest_of(PEER, "33" * 16, late)


def test_an_entry_that_failed_has_changed_nothing() -> None:
    rights = _rights([FETCHES])
    failed = Event(type="trust-added", peer=PEER, outcome="failed", details={"of": 2})
    rights.add(3, failed, NOW_MS, None)
    assert rights.decide(PEER, Asked(CT, "treatment"), 1, NOW).why == "it is not trusted"


def test_what_was_lost_is_pardoned_for_a_second() -> None:
    rights = _rights([FETCHES])
    rights.add(3, _event("trust-revoked"), NOW_MS, 10.0)
    asked, wall = Asked(CT, "treatment"), lambda time: NOW + int(time)
    assert rights.going_on(PEER, asked, 10.9, wall).kind == "yes"
    assert rights.going_on(PEER, asked, 11.1, wall).kind == "no"
    # A disclosure that begins after that entry is not.
    begins = _event(
        "disclosure-begun", study=CT, purpose="treatment", transfer=TRANSFER, bytes=1, instances=1
    )
    assert rights.beginning(begins, NOW_MS).why == "it is not trusted"


@pytest.mark.parametrize("named", MISTAKES)
def test_each_mistake_that_is_planted_can_still_be_made(named: str) -> None:
    """They reach into the product by name; that a name is gone shall not show in CI alone."""
    with MISTAKES[named].made():
        pass
