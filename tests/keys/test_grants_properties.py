"""The one decision, whatever the rules: nothing that is taken away or not known widens it."""

from dataclasses import replace

from grants_made import NOW, SHARED, SOUTH, STUDY, UNREAD
from hypothesis import given
from hypothesis import strategies as st

from keys.grants import (
    ACTIONS,
    ALLOW,
    ASK,
    DENY,
    NO_USAGE,
    Answer,
    Approval,
    Ask,
    Facts,
    No,
    Request,
    Rule,
    Usage,
    Yes,
    explain,
    may,
    rules_of,
    tells_apart,
    why_never,
)
from keys.peer import GRANTS, PURPOSES, Peer

_PURPOSES = st.sampled_from(["", "curiosity", *PURPOSES])
_RULES = st.builds(
    Rule,
    name=st.sampled_from(["r", "s"]),
    action=st.sampled_from([*ACTIONS, "lookup"]),
    effect=st.sampled_from([ALLOW, ALLOW, ALLOW, ASK, DENY, "notify"]),
    conditions=st.fixed_dictionaries(
        {},
        optional={
            "purpose": st.lists(st.sampled_from(PURPOSES), min_size=1, max_size=2).map(tuple),
            "modality": st.sampled_from([("CT",), ("MR", "CT"), ("MR",)]),
            "colour": st.just(("red",)),
        },
    ),
    limits=st.sampled_from([{}, {}, {"studies": 1}]),
    until=st.sampled_from([None, None, NOW, NOW + 1]),
)
_MANY = st.lists(_RULES, max_size=6).map(tuple)
_ACTIONS = st.sampled_from([*ACTIONS, "lookup"])
_FACTS = st.none() | st.builds(
    Facts,
    study_uid=st.sampled_from([STUDY, "1.2"]),
    state=st.sampled_from(["shared", "shared", "withheld", ""]),
    modalities=st.sampled_from([None, ("CT",)]),
)
_REQUESTS = st.builds(
    Request,
    speaks=st.booleans(),
    purpose=_PURPOSES,
    approval=st.none() | st.builds(Approval, st.just("r"), st.just(STUDY), st.just(NOW + 1)),
)
_USAGE = st.sampled_from([NO_USAGE, Usage({"studies": 1}), Usage({"studies": 2})])
_PEERS = st.sampled_from([None, SOUTH, SOUTH, SOUTH, replace(SOUTH, revoked=NOW)])
_WIDTH = {No: 0, Ask: 1, Yes: 2}


def _width(answer: Answer) -> int:
    return _WIDTH[type(answer)]


@given(_ACTIONS, _PEERS, _MANY, _FACTS, _REQUESTS, _USAGE)
def test_what_is_taken_away_or_not_known_never_widens(
    action: str,
    peer: Peer | None,
    rules: tuple[Rule, ...],
    facts: Facts | None,
    request: Request,
    usage: Usage,
) -> None:
    answer = _width(may(action, peer, rules, facts, request, usage, NOW))

    def asked(**changed: object) -> int:
        given_now = {
            "peer": peer, "rules": rules, "facts": facts, "request": request, "usage": usage,
        } | changed  # fmt: skip
        return _width(may(action, now=NOW, **given_now))  # type: ignore[arg-type]

    for index, rule in enumerate(rules):
        others = rules[:index] + rules[index + 1 :]
        if rule.effect == ALLOW:
            assert asked(rules=others) <= answer
            # A filter that nothing reads is as good as no rule.
            filtered = replace(rule, conditions=UNREAD)
            assert asked(rules=(*others, filtered)) <= answer
        elif rule.effect != ASK or rule.action != "fetch":
            assert asked(rules=others) >= answer
    assert asked(rules=(*rules, Rule("d", action, DENY))) == 0
    held = asked(rules=(*rules, Rule("h", action, ASK)))
    # A request to fetch may wait where it was refused before; nothing goes on by itself.
    assert held <= (1 if action == "fetch" else min(answer, 1))
    assert asked(request=replace(request, speaks=False)) <= answer
    assert asked(request=replace(request, purpose="")) <= answer
    assert asked(request=replace(request, approval=None)) <= answer
    assert asked(usage=NO_USAGE) <= answer
    assert asked(facts=None) <= answer
    assert asked(peer=None) == 0
    if facts is not None:
        assert asked(facts=replace(facts, state="")) <= answer
        assert asked(facts=replace(facts, modalities=None)) <= answer


@given(_ACTIONS, _PEERS, _MANY, _FACTS, _REQUESTS, _USAGE)
def test_the_answer_and_its_sentence_agree_with_the_rules_read_one_by_one(
    action: str,
    peer: Peer | None,
    rules: tuple[Rule, ...],
    facts: Facts | None,
    request: Request,
    usage: Usage,
) -> None:
    answer = may(action, peer, rules, facts, request, usage, NOW)
    assert _width(answer) == _expected(action, peer, rules, facts, request, usage)
    sentence = explain(answer)
    assert sentence.startswith("allowed by ") is isinstance(answer, Yes)
    assert sentence.startswith("a person has to approve") is isinstance(answer, Ask)
    never = why_never(action, peer, rules, NOW)
    if never is not None:
        assert answer == never
    needed = [rule for rule in rules if rule.action in ACTIONS.get(action, ())]
    if any(_denies_all(rule) for rule in needed):
        assert never is not None, "what is denied whatever it is about can be cut at once"
    named = {rule.name for rule in rules if rule.action in ACTIONS.get(action, ())}
    assert isinstance(answer, No) or answer.rule in named


def _denies_all(rule: Rule) -> bool:
    denies = rule.effect in (DENY, "notify") and (rule.until is None or rule.until > NOW)
    return denies and not rule.conditions and not rule.limits


def _expected(
    action: str,
    peer: Peer | None,
    rules: tuple[Rule, ...],
    facts: Facts | None,
    request: Request,
    usage: Usage,
) -> int:
    """The same decision written down as a list of demands."""

    modalities = None if facts is None else facts.modalities

    def demanded(rule: Rule, *, sure: bool) -> bool:
        wanted = rule.conditions
        if rule.until is not None and rule.until <= NOW:
            return False
        if "colour" in wanted and sure:
            return False
        other = "purpose" in wanted and request.purpose not in wanted["purpose"]
        if other and (sure or request.purpose):
            return False
        if "modality" in wanted:
            if modalities is None:
                if sure:
                    return False
            elif not set(modalities) & set(wanted["modality"]):
                return False
        return all(
            usage.used.get(name, most + 1 if sure else 0) <= most
            for name, most in rule.limits.items()
        )

    def surely(rule: Rule) -> bool:
        return demanded(rule, sure=True)

    def perhaps(rule: Rule) -> bool:
        return demanded(rule, sure=False)

    # No purpose here is the one of an emergency.
    demands = [peer is not None and peer.revoked is None, action in {*ACTIONS} - {"emergency"}]
    if action in ("find", "fetch", "send"):
        demands += [request.speaks, request.purpose in PURPOSES]
    if action in ("find", "fetch", "see"):
        demands.append(facts is not None and facts.state == "shared")
    # None of these requests names the purpose of an emergency.
    demands.append(action != "emergency")
    hidden = [rule for rule in rules if rule.action == "see" and rule.effect in (DENY, "notify")]
    demands.append(action != "find" or not any(map(perhaps, hidden)))
    width = 2
    for needed in ACTIONS.get(action, ()):
        own = [rule for rule in rules if rule.action == needed]
        denying = [rule for rule in own if rule.effect in (DENY, "notify")]
        demands += [not any(map(perhaps, denying))]
        waiting = (ALLOW, ASK) if needed == "fetch" else (ALLOW,)
        demands += [any(surely(rule) for rule in own if rule.effect in waiting)]
        approved = request.approval is not None and facts is not None and facts.study_uid == STUDY
        for place, rule in enumerate(own):
            answered = approved and any(later.name == "r" for later in own[place:])
            if rule.effect == ASK and perhaps(rule) and not answered:
                width = 1
    return width if all(demands) else 0


@given(_ACTIONS, _MANY, _REQUESTS, _USAGE)
def test_rules_that_tell_no_study_apart_answer_alike_for_all(
    action: str, rules: tuple[Rule, ...], request: Request, usage: Usage
) -> None:
    if tells_apart(action, rules):
        return
    other = Facts(study_uid="9.9", state="shared")
    answers = [may(action, SOUTH, rules, one, request, usage, NOW) for one in (SHARED, other)]
    assert answers[0] == answers[1]


@given(_ACTIONS, _FACTS, _REQUESTS, st.frozensets(st.sampled_from(GRANTS)))
def test_a_filter_that_nobody_reads_refuses_whatever_is_granted(
    action: str, facts: Facts | None, request: Request, grants: frozenset[str]
) -> None:
    peer = replace(SOUTH, grants=grants, filters={"colour": "red"})
    assert isinstance(may(action, peer, rules_of(peer), facts, request, NO_USAGE, NOW), No)
    assert isinstance(why_never(action, peer, rules_of(peer), NOW), No)
