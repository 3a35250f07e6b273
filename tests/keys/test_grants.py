"""The one decision: tables of cases, with the answer and its sentence."""

from dataclasses import replace
from typing import Any

import pytest
from grants_made import CARD, LATER, NOW, SHARED, SOUTH, STUDY, UNREAD, card_of

from keys.grants import (
    ACTIONS,
    ALLOW,
    ASK,
    DENY,
    NO_REQUEST,
    NO_USAGE,
    Answer,
    Approval,
    Ask,
    No,
    Request,
    Rule,
    Usage,
    Why,
    Yes,
    explain,
    may,
    rules_of,
    tells_apart,
)
from keys.peer import GRANTS
from keys.trust import TrustStore

NT, NG, PU, LI, NS = Why.NOT_TRUSTED, Why.NOT_GRANTED, Why.PURPOSE, Why.LIMIT, Why.NOT_SHARED


STATES = {
    "shared": SHARED,
    "withheld": replace(SHARED, state="withheld"),
    "to check": replace(SHARED, state="to check"),
    "not known": replace(SHARED, state=""),
    "of a later release": replace(SHARED, state="shared to some"),
    "none": None,
}

# --- what a record of a peer says today ------------------------------------------------

# What the peer's trust is like: the record, and when it is asked.
TRUST = {
    "trusted": ({}, NOW),
    "until later": ({"expires": NOW + 1}, NOW),
    "ended": ({"expires": NOW}, NOW),
    "revoked": ({"revoked": NOW - 5}, NOW),
    "last second": ({}, LATER - 1),
    "card expired": ({}, LATER),
    "one purpose": ({"purposes": frozenset({"research"})}, NOW),
    "purpose of a later release": ({"purposes": frozenset({"OLFACT"})}, NOW),
    "by code": ({"purposes": frozenset({"TREAT"})}, NOW),
    "a filter": ({"filters": {"modality": ["CT"]}}, NOW),
    "a filter of nothing": ({"filters": {"": None}}, NOW),
    "never paired": (None, NOW),
}

NO_SEE, NO_FIND, NO_FETCH, NO_SEND, NO_WITNESS = (
    f"South has no grant and no rule to {grant}"
    for grant in ("see", "find", "fetch", "send", "witness")
)
HIDDEN = "the study is not shared"
ENDED, REVOKED = "trust in South has ended", "trust in South was revoked"
EXPIRED = "the card of South has expired"
STRANGER = "the facility is not trusted"
OLD_KEY = "its node key does not count any more"
NO_PURPOSE = "there is no such purpose"
OTHER_PURPOSE = "South is not trusted for this purpose"
LATER_PURPOSE = "purpose of a later release"


def unread(name: str) -> str:
    return f"{name} has a condition that this release cannot read"


def nothing(action: str) -> str:
    return f"there is nothing like {action} that can be allowed"


S, F, SF, W, ALL = "see", "fetch", "see fetch", "witness", "see find fetch send witness"

# action, grants, trust, purpose ("-": its node key does not count), study -> answer
TABLE = [
    ("see", "", "trusted", "", "shared", NG, NO_SEE),
    ("see", S, "trusted", "", "shared", Yes, "allowed by the grant see"),
    ("see", S, "trusted", "treatment", "shared", Yes, "allowed by the grant see"),
    ("see", S, "trusted", "curiosity", "shared", Yes, "allowed by the grant see"),
    ("see", S, "trusted", "", "withheld", NS, HIDDEN),
    ("see", S, "trusted", "", "to check", NS, HIDDEN),
    ("see", S, "trusted", "", "not known", NS, HIDDEN),
    ("see", S, "trusted", "", "of a later release", NS, HIDDEN),
    ("see", S, "trusted", "", "none", NS, HIDDEN),
    ("see", F, "trusted", "", "shared", NG, NO_SEE),
    ("see", W, "trusted", "", "shared", NG, NO_SEE),
    ("see", "send", "trusted", "", "shared", NG, NO_SEE),
    ("see", "everything", "trusted", "", "shared", NG, NO_SEE),
    ("see", S, "until later", "", "shared", Yes, "allowed by the grant see"),
    ("see", S, "ended", "", "shared", NT, ENDED),
    ("see", S, "revoked", "", "shared", NT, REVOKED),
    ("see", "", "revoked", "", "withheld", NT, REVOKED),
    ("see", S, "last second", "", "shared", Yes, "allowed by the grant see"),
    ("see", S, "card expired", "", "shared", NT, EXPIRED),
    ("see", S, "one purpose", "", "shared", Yes, "allowed by the grant see"),
    ("see", S, "a filter", "", "shared", NG, unread("the grant see")),
    ("see", S, "a filter", "", "none", NG, unread("the grant see")),
    ("see", "", "a filter", "", "shared", NG, NO_SEE),
    ("see", S, "a filter of nothing", "", "shared", NG, unread("the grant see")),
    ("see", ALL, "never paired", "", "shared", NT, STRANGER),
    ("find", "find", "trusted", "treatment", "shared", Yes, "allowed by the grant find"),
    ("find", "find", "trusted", "treatment", "withheld", NS, HIDDEN),
    ("find", "find", "trusted", "treatment", "none", NS, HIDDEN),
    ("find", "find", "trusted", "", "shared", PU, NO_PURPOSE),
    ("find", "find", "trusted", "-", "shared", NT, OLD_KEY),
    ("find", "find", "one purpose", "treatment", "none", PU, OTHER_PURPOSE),
    ("find", "find", "revoked", "treatment", "shared", NT, REVOKED),
    ("find", "find", "a filter", "treatment", "shared", NG, unread("the grant find")),
    ("find", SF, "trusted", "treatment", "shared", NG, NO_FIND),
    ("see", "find", "trusted", "", "shared", NG, NO_SEE),
    ("fetch", "find fetch", "trusted", "treatment", "shared", NG, NO_SEE),
    ("fetch", SF, "trusted", "treatment", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "trusted", "second-opinion", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "trusted", "research", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "trusted", "operations", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "trusted", "", "shared", PU, NO_PURPOSE),
    ("fetch", SF, "trusted", "curiosity", "shared", PU, NO_PURPOSE),
    ("fetch", SF, "trusted", "Treatment", "shared", PU, NO_PURPOSE),
    ("fetch", SF, "trusted", "curiosity", "none", PU, NO_PURPOSE),
    ("fetch", SF, "trusted", "treatment", "withheld", NS, HIDDEN),
    ("fetch", SF, "trusted", "treatment", "to check", NS, HIDDEN),
    ("fetch", SF, "trusted", "treatment", "not known", NS, HIDDEN),
    ("fetch", SF, "trusted", "treatment", "none", NS, HIDDEN),
    ("fetch", F, "trusted", "treatment", "shared", NG, NO_SEE),
    ("fetch", F, "trusted", "treatment", "none", NG, NO_SEE),
    ("fetch", S, "trusted", "treatment", "shared", NG, NO_FETCH),
    ("fetch", S, "trusted", "curiosity", "none", NG, NO_FETCH),
    ("fetch", "", "trusted", "treatment", "shared", NG, NO_FETCH),
    ("fetch", "witness send", "trusted", "treatment", "shared", NG, NO_FETCH),
    ("fetch", SF, "trusted", "-", "shared", NT, OLD_KEY),
    ("fetch", SF, "trusted", "-", "none", NT, OLD_KEY),
    ("fetch", SF, "until later", "treatment", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "ended", "treatment", "shared", NT, ENDED),
    ("fetch", SF, "revoked", "treatment", "shared", NT, REVOKED),
    ("fetch", "", "revoked", "treatment", "shared", NT, REVOKED),
    ("fetch", SF, "last second", "treatment", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "card expired", "treatment", "shared", NT, EXPIRED),
    ("fetch", SF, "card expired", "-", "shared", NT, EXPIRED),
    ("fetch", SF, "one purpose", "research", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "one purpose", "treatment", "shared", PU, OTHER_PURPOSE),
    ("fetch", SF, "one purpose", "treatment", "withheld", PU, OTHER_PURPOSE),
    ("fetch", SF, "one purpose", "treatment", "none", PU, OTHER_PURPOSE),
    ("fetch", SF, "one purpose", "research", "none", NS, HIDDEN),
    ("fetch", SF, "one purpose", "", "shared", PU, NO_PURPOSE),
    ("fetch", SF, LATER_PURPOSE, "OLFACT", "shared", PU, NO_PURPOSE),
    ("fetch", SF, LATER_PURPOSE, "treatment", "shared", PU, OTHER_PURPOSE),
    ("fetch", SF, "by code", "treatment", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "by code", "TREAT", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "by code", "COC", "shared", Yes, "allowed by the grant fetch"),
    ("fetch", SF, "by code", "BTG", "shared", PU, "breaking the glass is the action emergency"),
    ("fetch", SF, "by code", "research", "shared", PU, OTHER_PURPOSE),
    ("fetch", SF, "a filter", "treatment", "shared", NG, unread("the grant fetch")),
    ("fetch", SF, "a filter", "curiosity", "none", NG, unread("the grant fetch")),
    ("fetch", ALL, "never paired", "treatment", "shared", NT, STRANGER),
    ("witness", W, "trusted", "", "none", Yes, "allowed by the grant witness"),
    ("witness", W, "one purpose", "", "none", Yes, "allowed by the grant witness"),
    ("witness", W, "trusted", "-", "withheld", Yes, "allowed by the grant witness"),
    ("witness", SF, "trusted", "", "none", NG, NO_WITNESS),
    ("witness", W, "revoked", "", "none", NT, REVOKED),
    ("witness", W, "ended", "", "none", NT, ENDED),
    ("witness", W, "card expired", "", "none", NT, EXPIRED),
    ("witness", W, "a filter", "", "none", NG, unread("the grant witness")),
    ("witness", W, "never paired", "", "none", NT, STRANGER),
    ("send", "send", "trusted", "treatment", "none", Yes, "allowed by the grant send"),
    ("send", "send", "trusted", "", "none", PU, NO_PURPOSE),
    ("send", "send", "one purpose", "treatment", "none", PU, OTHER_PURPOSE),
    ("send", "send", "trusted", "-", "none", NT, OLD_KEY),
    ("send", SF, "trusted", "treatment", "shared", NG, NO_SEND),
    ("lookup", ALL, "trusted", "treatment", "shared", NG, nothing("lookup")),
    ("lookup", "lookup", "trusted", "treatment", "shared", NG, nothing("lookup")),
    ("", ALL, "trusted", "treatment", "shared", NG, nothing("")),
    ("SEE", ALL, "trusted", "treatment", "shared", NG, nothing("SEE")),
    ("lookup", ALL, "never paired", "", "none", NG, nothing("lookup")),
]  # fmt: skip


def _asked(purpose: str) -> Request:
    return NO_REQUEST if purpose == "-" else Request(speaks=True, purpose=purpose)


def _is(answer: Answer) -> object:
    return answer.why if isinstance(answer, No) else type(answer)


@pytest.mark.parametrize(
    ("action", "grants", "trust", "purpose", "study", "expected", "sentence"), TABLE
)
def test_a_peer_may_what_its_record_says(
    action: str,
    grants: str,
    trust: str,
    purpose: str,
    study: str,
    expected: object,
    sentence: str,
) -> None:
    fields, now = TRUST[trust]
    peer = None
    if fields is not None:
        peer = replace(SOUTH, grants=frozenset(grants.split()), **fields)
    rules = () if peer is None else rules_of(peer)
    answer = may(action, peer, rules, STATES[study], _asked(purpose), NO_USAGE, now)
    assert (_is(answer), explain(answer)) == (expected, sentence)


def test_every_grant_allows_something_and_everything_has_its_grant() -> None:
    # To break the glass takes a rule: it must say how often, and may say for what.
    assert set(ACTIONS) == {*GRANTS, "emergency"}
    assert {needed for all_of_it in ACTIONS.values() for needed in all_of_it} == set(ACTIONS)
    assert all(action in needed for action, needed in ACTIONS.items())


def test_a_key_that_two_claim_speaks_for_the_first_and_the_other_gets_nothing_by_it() -> None:
    south = replace(SOUTH, grants=frozenset({"see", "fetch"}))
    card = card_of("East", CARD.node_key)
    east = replace(south, facility_key=card.facility_key, card=card, claimed={CARD.node_key: 1})
    store = TrustStore([south, east], bytes(32))
    for peer, expected in ((south, Yes), (east, NT)):
        speaks = store.speaks_for(CARD.node_key, peer, NOW)
        asked = Request(speaks=speaks, purpose="treatment")
        answer = store.may("fetch", peer.facility_key, NOW, facts=SHARED, request=asked)
        assert _is(answer) is expected
        # What a facility may be told of does not hang on the key.
        assert _is(store.may("see", peer.facility_key, NOW, facts=SHARED)) is Yes


# --- rules that no record holds yet ----------------------------------------------------

SEE = Rule("the grant see", "see")
FETCH = Rule("the grant fetch", "fetch")
RESEARCH = {"purpose": ("research",)}
TWO, THREE, FIVE = {"studies": 2}, {"studies": 3}, {"bytes": 5}
TREATMENT = Request(speaks=True, purpose="treatment")
RESEARCHING = Request(speaks=True, purpose="research")
GRANTED = "allowed by the grant fetch"
USED_UP = "it would be more than r allows (studies=2)"


def fetch(name: str, effect: str = ALLOW, **narrowed: Any) -> Rule:
    return Rule(name, "fetch", effect, **narrowed)


def approved(study_uid: str = STUDY, until: int = NOW + 1) -> Request:
    """A request that a person has approved, by the rule r."""
    return replace(TREATMENT, approval=Approval("r", study_uid, until))


def approve(name: str) -> str:
    return f"a person has to approve this first, by {name}"


def unknown(limit: str) -> str:
    return f"it is not known how much of {limit} of r is used"


# rules besides `SEE`, request, used -> answer to `fetch` of a shared study
RULES = [
    ((FETCH,), TREATMENT, {}, Yes, GRANTED),
    ((fetch("a"), fetch("b")), TREATMENT, {}, Yes, "allowed by a"),
    ((fetch("a", conditions=UNREAD), fetch("b")), TREATMENT, {}, Yes, "allowed by b"),
    ((fetch("a", conditions=RESEARCH), fetch("b")), TREATMENT, {}, Yes, "allowed by b"),
    ((fetch("a", conditions=UNREAD),), TREATMENT, {}, NG, unread("a")),
    ((FETCH, fetch("r", DENY)), TREATMENT, {}, NG, "denied by r"),
    ((fetch("r", DENY), FETCH), TREATMENT, {}, NG, "denied by r"),
    ((FETCH, Rule("r", "see", DENY)), TREATMENT, {}, NG, "denied by r"),
    ((FETCH, fetch("r", "notify")), TREATMENT, {}, NG, "denied by r"),
    ((FETCH, fetch("r", DENY, conditions=UNREAD)), TREATMENT, {}, NG, "denied by r"),
    ((FETCH, fetch("r", DENY, conditions=RESEARCH)), RESEARCHING, {}, NG, "denied by r"),
    ((FETCH, fetch("r", DENY, conditions=RESEARCH)), TREATMENT, {}, Yes, GRANTED),
    ((FETCH, Rule("r", "send", DENY)), TREATMENT, {}, Yes, GRANTED),
    ((FETCH, fetch("r", ASK)), TREATMENT, {}, Ask, approve("r")),
    ((fetch("r", ASK), FETCH, fetch("s", ASK)), TREATMENT, {}, Ask, approve("r")),
    ((FETCH, Rule("r", "see", ASK)), TREATMENT, {}, Ask, approve("r")),
    ((fetch("r", ASK),), TREATMENT, {}, Ask, approve("r")),
    ((fetch("r", ASK),), approved(), {}, Yes, "allowed by r"),
    ((fetch("r", ASK),), approved(until=NOW), {}, Ask, approve("r")),
    ((fetch("r", ASK),), approved(study_uid="1.2"), {}, Ask, approve("r")),
    ((fetch("s", ASK),), approved(), {}, Ask, approve("s")),
    ((fetch("r", ASK, conditions=UNREAD),), approved(), {}, NG, unread("r")),
    ((fetch("r", ASK, conditions=RESEARCH),), TREATMENT, {}, PU, OTHER_PURPOSE),
    ((Rule("r", "see", ASK), FETCH), TREATMENT, {}, Ask, approve("r")),
    ((FETCH, fetch("r", ASK), fetch("d", DENY)), approved(), {}, NG, "denied by d"),
    ((FETCH, fetch("r", ASK, conditions=UNREAD)), TREATMENT, {}, Ask, approve("r")),
    ((FETCH, fetch("r", ASK, conditions=RESEARCH)), TREATMENT, {}, Yes, GRANTED),
    ((FETCH, fetch("r", ASK)), approved(), {}, Yes, GRANTED),
    ((FETCH, fetch("s", ASK)), approved(), {}, Ask, approve("s")),
    ((FETCH, fetch("r", ASK), fetch("s", ASK)), approved(), {}, Ask, approve("s")),
    # The first was answered before the second could ask.
    ((FETCH, fetch("s", ASK), fetch("r", ASK)), approved(), {}, Yes, GRANTED),
    ((fetch("s", ASK), fetch("r", ASK)), approved(), {}, Yes, "allowed by s"),
    ((FETCH, fetch("r", ASK)), approved(until=NOW), {}, Ask, approve("r")),
    ((FETCH, fetch("r", ASK)), approved(study_uid="1.2"), {}, Ask, approve("r")),
    ((fetch("r", conditions=RESEARCH),), approved(), {}, PU, OTHER_PURPOSE),
    ((fetch("r", limits=TWO),), TREATMENT, TWO, Yes, "allowed by r"),
    ((fetch("r", limits=TWO),), TREATMENT, THREE, LI, USED_UP),
    ((fetch("r", limits=TWO),), TREATMENT, {}, LI, unknown("studies")),
    ((fetch("r", limits=TWO | FIVE),), TREATMENT, TWO, LI, unknown("bytes")),
    ((fetch("r", limits=FIVE | TWO),), TREATMENT, THREE, LI, USED_UP),
    ((fetch("r", conditions=UNREAD, limits=TWO), fetch("s", limits=TWO)), TREATMENT, {}, NG,
     unread("r")),
    ((fetch("r", limits=TWO), FETCH), TREATMENT, {}, Yes, GRANTED),
    ((fetch("r", limits=TWO), fetch("h", ASK)), TREATMENT, THREE, Ask, approve("h")),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "request_", "used", "expected", "sentence"), RULES)
def test_deny_goes_before_hold_and_hold_before_allow(
    rules: tuple[Rule, ...],
    request_: Request,
    used: dict[str, int],
    expected: object,
    sentence: str,
) -> None:
    given = (SEE, *rules)
    answer = may("fetch", SOUTH, given, SHARED, request_, Usage(used), NOW)
    assert (_is(answer), explain(answer)) == (expected, sentence)
    # No person is asked about what is not shared.
    hidden = may("fetch", SOUTH, given, STATES["withheld"], request_, Usage(used), NOW)
    assert _is(hidden) is (NS if expected in (Yes, Ask) else expected)


@pytest.mark.parametrize(
    ("rules", "apart"),
    [
        ((), False),
        ((SEE, FETCH), False),
        ((SEE, fetch("r", DENY), fetch("s", conditions=RESEARCH, limits=TWO)), False),
        ((SEE, fetch("r", ASK)), True),
        ((SEE, fetch("r", conditions=UNREAD)), True),
        ((Rule("r", "see", ASK), FETCH), True),
        ((SEE, FETCH, Rule("r", "send", conditions=UNREAD)), False),
    ],
)
def test_filters_and_approvals_tell_studies_apart(rules: tuple[Rule, ...], apart: bool) -> None:
    assert tells_apart("fetch", rules) is apart
    assert not tells_apart("lookup", rules)


def test_a_rule_for_a_purpose_does_not_hold_where_none_can_be_named() -> None:
    narrow = Rule("r", "see", conditions=RESEARCH)
    answer = may("see", SOUTH, (narrow,), SHARED, NO_REQUEST, NO_USAGE, NOW)
    assert explain(answer) == OTHER_PURPOSE
    denying = (SEE, replace(narrow, effect=DENY))
    assert explain(may("see", SOUTH, denying, SHARED, NO_REQUEST, NO_USAGE, NOW)) == "denied by r"
    asked = replace(NO_REQUEST, purpose="treatment")
    assert _is(may("see", SOUTH, denying, SHARED, asked, NO_USAGE, NOW)) is Yes
