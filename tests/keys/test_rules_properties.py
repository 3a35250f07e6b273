"""Rules, whatever they are: less never widens, explanations fit, words and records hold."""

import shlex
import string
from dataclasses import replace
from typing import Any

from grants_made import NOW, SOUTH, STUDY
from hypothesis import assume, given
from hypothesis import strategies as st

from keys.conditions import KINDS, USES, Facts
from keys.explaining import explain_in_full
from keys.grants import ACTIONS, Answer, Ask, No, Request, Usage, Yes, may
from keys.purposes import CODES, WORDS, covers
from keys.rules import ALLOW, ASK, DENY, EFFECTS, LIMITS, SHOWS, BadRule, Rule, read_rule

_WIDTH = {No: 0, Ask: 1, Yes: 2}
VALUES = {
    "modality": ["CT", "MR", "CT,MR", "SR", "ct,CT"],
    "only-modality": ["CT", "CT,SR", "MR"],
    "body-part": ["HEAD", "HEAD,CHEST"],
    "from": ["2026-01-01", "2026-09-01"],
    "to": ["2026-01-01", "2026-09-30"],
    "max-age": ["1d", "30d", "5y"],
    "study": [STUDY, "1.2.9"],
    "accession": ["A1", "A2,A3"],
    "patient": ["4711@NORTH", "4711", "4712@NORTH"],
    "referring": ["Muster^Anna"],
    "institution": ["North General", "St Mary's Hospital", "\u00dcbersee", "Ward\uff0c A"],
    "deidentified": ["yes"],
    "consent": ["yes"],
    "purpose": ["TREAT", "HRESCH", "treatment,research", "BTG"],
    "role": ["radiologist", "head nurse"],
    "hours": ["08:00-18:00", "22:00-06:00", "18:00-24:00"],
    "days": ["mon-fri", "sat,sun"],
    "stat": ["yes"],
}


def test_every_condition_is_tried() -> None:
    assert VALUES.keys() == KINDS.keys()


def _blind(kind: str, value: str) -> str:
    return f"{kind}:{value}".encode().hex()


def _read(words: list[str], number: int = 1) -> Rule:
    return read_rule(words, number, actions=list(ACTIONS), blind=_blind)


@st.composite
def _words(draw: st.DrawFn, effects: tuple[str, ...] = EFFECTS) -> list[str]:
    effect = draw(st.sampled_from(effects))
    action = draw(st.sampled_from(["see", "fetch", "fetch"] if effect != "ask" else ["fetch"]))
    kinds = [kind for kind in KINDS if action == "fetch" or KINDS[kind].of_study]
    chosen = draw(st.lists(st.sampled_from(kinds), max_size=3, unique=True))
    words = [effect, action, *(f"{one}={draw(st.sampled_from(VALUES[one]))}" for one in chosen)]
    if (effect, action) == (ALLOW, "fetch") and draw(st.booleans()):
        words.append(f"{draw(st.sampled_from(LIMITS))}={draw(st.sampled_from(['1', '2', '1kB']))}")
    if (effect, action) == (ALLOW, "see") and draw(st.booleans()):
        words.append(f"shows={draw(st.sampled_from(SHOWS))}")
    if draw(st.integers(0, 4)) == 0:
        ends = ["2026-09-20", "2026-09-21", "2026-09-21T13:33:20Z", "2026-09-21T13:33:21+00:00"]
        words.append(f"until={draw(st.sampled_from(ends))}")
    return words


@st.composite
def _many(draw: st.DrawFn) -> tuple[Rule, ...]:
    some = draw(st.lists(_words(), max_size=5))
    # Without these, hardly anything would be allowed.
    some += draw(st.sampled_from([[], [["allow", "see"]], [["allow", "see"], ["allow", "fetch"]]]))
    return tuple(_read(words, number) for number, words in enumerate(some, 1))


_FACTS = st.builds(
    Facts,
    study_uid=st.just(STUDY),
    state=st.sampled_from(["shared", "shared", "shared", "withheld"]),
    modalities=st.sampled_from([None, ("CT",), ("MR",), ("CT", "SR")]),
    body_parts=st.sampled_from([None, ("HEAD",), ("KNEE",)]),
    study_date=st.sampled_from(["", "20260920", "20260101", "20200101", "20260230"]),
    accession=st.sampled_from(["", "A1", "A9"]),
    patients=st.sampled_from([(), (("4711", "NORTH"),), (("4711", ""),), (("4711", "SOUTH"),)]),
    referring=st.sampled_from(["", "MUSTER^ANNA", "Other^Dr"]),
    institution=st.sampled_from(["", "North General", "St Mary's Hospital"]),
    is_deidentified=st.sampled_from([None, True, False]),
    consents=st.none() | st.frozensets(st.sampled_from(USES)),
    objections=st.sampled_from([frozenset(), frozenset(), frozenset({"research"})]),
    blind=st.just(_blind),
)
_REQUESTS = st.builds(
    Request,
    speaks=st.just(True),
    purpose=st.sampled_from(["treatment", "research", "ETREAT", "BTG"]),
    role=st.sampled_from(["", "radiologist", "clerk"]),
    is_stat=st.sampled_from([None, True, False]),
    minute=st.sampled_from([None, 0, 8 * 60, 18 * 60]),
    weekday=st.sampled_from([None, 0, 6]),
)
_USAGE = st.builds(
    Usage,
    st.dictionaries(st.sampled_from(LIMITS), st.sampled_from([0, 1, 2, 3, 1000, 1001])),
)
_ASKED = st.sampled_from(["fetch", "fetch", "see"])


def _width(answer: Answer) -> int:
    return _WIDTH[type(answer)]


@given(_ASKED, _many(), _words((DENY,)), st.integers(0, 6), _FACTS, _REQUESTS, _USAGE)
def test_a_further_deny_never_widens(
    action: str,
    rules: tuple[Rule, ...],
    deny: list[str],
    place: int,
    facts: Facts,
    request: Request,
    usage: Usage,
) -> None:
    before = may(action, SOUTH, rules, facts, request, usage, NOW)
    more = (*rules[:place], _read(deny, 99), *rules[place:])
    assert _width(may(action, SOUTH, more, facts, request, usage, NOW)) <= _width(before)


LESS_KNOWN: dict[str, Any] = {
    "modalities": None,
    "body_parts": None,
    "study_date": "",
    "accession": "",
    "patients": (),
    "referring": "",
    "institution": "",
    "is_deidentified": None,
    "consents": None,
}
LESS_SAID: dict[str, Any] = {"role": "", "is_stat": None, "minute": None, "weekday": None}


@given(_ASKED, _many(), _FACTS, _REQUESTS, _USAGE, st.data())
def test_a_removed_attribute_never_widens(
    action: str,
    rules: tuple[Rule, ...],
    facts: Facts,
    request: Request,
    usage: Usage,
    data: st.DataObject,
) -> None:
    before = may(action, SOUTH, rules, facts, request, usage, NOW)
    gone = data.draw(st.sets(st.sampled_from([*LESS_KNOWN, *LESS_SAID, *LIMITS, "issuer"])))
    less = replace(facts, **{name: LESS_KNOWN[name] for name in gone & LESS_KNOWN.keys()})
    if "issuer" in gone:
        less = replace(less, patients=tuple((patient, "") for patient, _ in less.patients))
    said = replace(request, **{name: LESS_SAID[name] for name in gone & LESS_SAID.keys()})
    used = Usage({name: value for name, value in usage.used.items() if name not in gone})
    after = may(action, SOUTH, rules, less, said, used, NOW)
    assert _width(after) <= _width(before)
    if isinstance(after, Yes) and isinstance(before, Yes):
        assert SHOWS.index(after.shows) <= SHOWS.index(before.shows)


@given(_ASKED, _many(), st.none() | _FACTS, _REQUESTS, _USAGE)
def test_explain_and_decide_agree(
    action: str,
    rules: tuple[Rule, ...],
    facts: Facts | None,
    request: Request,
    usage: Usage,
) -> None:
    answer = may(action, SOUTH, rules, facts, request, usage, NOW)
    found = explain_in_full(action, SOUTH, rules, facts, request, usage, NOW)
    assert found.answer == answer
    assert [one.rule for one in found.said] == [
        rule for needed in ACTIONS[action] for rule in rules if rule.action == needed
    ]
    counting = {one.rule.name: one for one in found.said if one.counts}
    if isinstance(answer, Yes | Ask):
        assert answer.rule in counting
        assert not found.changes
        assert not any(one.rule.effect == DENY for one in counting.values())
    elif answer.rule:
        [rule] = [one.rule for one in found.said if one.rule.name == answer.rule]
        if rule.effect == ASK:
            # It would hold something back, and is not known to hold, so nothing waits by it.
            assert [one.failures for one in found.said if one.rule is rule] != [()]
        else:
            assert (rule.effect == DENY) is (answer.rule in counting)
    for one in found.said:
        if one.rule.effect == ALLOW:
            assert one.counts is not (one.has_ended or bool(one.failures))
        assert not (one.hangs_on_missing and any(failed.is_certain for failed in one.failures))


def _change(rules: list[Rule], change: str) -> list[Rule]:
    """Do what a change says, by its words alone."""
    words = change.split()
    if change.startswith("a rule allowed"):
        return [*rules, Rule("a new rule", words[-1])]
    [index] = [place for place, rule in enumerate(rules) if change.startswith(f"{rule.name} ")] or [
        -1
    ]
    if change.endswith("were removed"):
        return [*rules[:index], *rules[index + 1 :]]
    assert index >= 0, change
    rule = rules[index]
    if change.endswith("had not ended"):
        rules[index] = replace(rule, until=None)
    elif " allowed more than " in change:
        rules[index] = replace(
            rule, limits={name: most for name, most in rule.limits.items() if name != words[-1]}
        )
    else:
        assert " did not want " in change, change
        kind = change.split(" did not want ")[1].partition("=")[0]
        assert kind in rule.conditions, change
        rules[index] = replace(
            rule, conditions={one: has for one, has in rule.conditions.items() if one != kind}
        )
    return rules


@given(_ASKED, _many(), _FACTS, _REQUESTS, _USAGE)
def test_the_changes_of_an_explanation_are_enough(
    action: str, rules: tuple[Rule, ...], facts: Facts, request: Request, usage: Usage
) -> None:
    found = explain_in_full(action, SOUTH, rules, facts, request, usage, NOW)
    if not found.changes:
        # Then it is allowed, waits for a person, or rules alone cannot allow it.
        if isinstance(found.answer, No):
            anything = (Rule("see", "see"), Rule("fetch", "fetch"))
            assert isinstance(may(action, SOUTH, anything, facts, request, usage, NOW), No)
        return
    changed = list(rules)
    for change in found.changes:
        changed = _change(changed, change)
    assert not isinstance(may(action, SOUTH, changed, facts, request, usage, NOW), No)
    # And none of them can be left out.
    for left_out in found.changes:
        fewer = list(rules)
        for change in found.changes:
            fewer = fewer if change == left_out else _change(fewer, change)
        assert isinstance(may(action, SOUTH, fewer, facts, request, usage, NOW), No), left_out


@given(_words())
def test_a_rule_that_is_shown_can_be_read_again(words: list[str]) -> None:
    rule = _read(words)
    if any(KINDS[kind].is_hidden for kind in rule.conditions):
        # A list is shown by its length alone.
        for kind in rule.conditions:
            if KINDS[kind].is_hidden:
                [value] = [word for word in words if word.startswith(f"{kind}=")]
                assert f"{len(value.split(','))} listed" in str(rule)
        return
    assert _read(shlex.split(str(rule))) == rule


@given(_words())
def test_a_rule_survives_its_record(words: list[str]) -> None:
    rule = _read(words, 7)
    assert Rule.from_fields(rule.to_fields()) == rule


@given(
    _words(), st.text(string.ascii_lowercase, min_size=1, max_size=8), st.data(), _FACTS, _REQUESTS
)
def test_what_a_later_release_writes_allows_nothing_and_denies(
    words: list[str], name: str, data: st.DataObject, facts: Facts, request: Request
) -> None:
    fields = _read(words[:2]).to_fields()
    assume(
        name not in fields and name not in {"conditions", "limits", "until", "shows", "withheld"}
    )
    assume(name not in {*KINDS, *LIMITS, *SHOWS, *EFFECTS})
    match data.draw(st.sampled_from(["field", "condition", "limit", "shows", "effect"])):
        case "field":
            fields[name] = data.draw(st.sampled_from([None, 1, "x", [], {}]))
        case "condition":
            fields["conditions"] = {name: ["x"]}
        case "limit":
            fields["limits"] = {name: 10**9}
        case "shows":
            fields["shows"] = name
        case "effect":
            fields["effect"] = name
    rule = Rule.from_fields(fields)
    action = rule.action
    plenty = Usage(dict.fromkeys((*LIMITS, name), 0))
    known = replace(facts, state="shared", objections=frozenset())
    if action == "fetch":
        request = replace(request, purpose="TREAT")
    if action == "emergency":
        request = replace(request, purpose="BTG", reason="life-threatening")
    alone = (rule, Rule("other", "see" if action == "fetch" else "fetch"))
    assert isinstance(may(action, SOUTH, alone, known, request, plenty, NOW), No)
    if rule.effect != ALLOW:
        beside = (Rule("see", "see"), Rule("fetch", "fetch"), Rule("em", "emergency"), rule)
        answer = may(action, SOUTH, beside, known, request, plenty, NOW)
        assert isinstance(answer, Ask if rule.effect == "ask" else No)


_PIECES = st.sampled_from(
    [*EFFECTS, *ACTIONS, *KINDS, *LIMITS, "=", ",", "until", "shows", "@", "-", "0", "\udcff", "\0"]
)
_GARBAGE = st.lists(
    st.lists(_PIECES | st.text(max_size=6), max_size=5).map("".join) | st.text(st.characters()),
    max_size=6,
)
_ENDS = st.from_regex(
    r"until=[0-9]{4}-[01][0-9]-[0-3][0-9](T[0-2][0-9]:[0-5][0-9](Z|[+-][0-2][0-9]:00)?)?",
    fullmatch=True,
)
_ATTEMPTS = st.one_of(
    _GARBAGE,
    _GARBAGE.map(lambda more: ["allow", "fetch", *more]),
    _ENDS.map(lambda end: ["allow", "see", end]),
)


@given(_ATTEMPTS)
def test_garbage_is_refused_with_a_sentence(words: list[str]) -> None:
    try:
        rule = _read(words)
    except BadRule:
        return
    # What is read can be shown and kept.
    str(rule).encode()
    assert Rule.from_fields(rule.to_fields()) == rule


@given(st.sampled_from([*CODES, *WORDS]), st.sampled_from([*CODES, *WORDS]))
def test_breaking_the_glass_and_training_a_model_are_never_implied(
    allowed: str, asked: str
) -> None:
    if asked in ("BTG", "MLTRAINING"):
        assert covers(allowed, asked) is (allowed == asked)
    assert covers(asked, asked)


def test_a_condition_without_values_is_not_known() -> None:
    """No release writes one; a damaged record must not make a deny hold for nothing."""
    facts = Facts(study_uid=STUDY, state="shared", modalities=("CT",))
    request, both = (
        Request(speaks=True, purpose="treatment"),
        (Rule("s", "see"), Rule("f", "fetch")),
    )
    for effect, answer in ((ALLOW, Yes), ("ask", Ask), (DENY, No)):
        rules = (*both, Rule("empty", "fetch", effect, {"modality": ()}))
        assert isinstance(may("fetch", SOUTH, rules, facts, request, Usage(), NOW), answer)
    alone = (both[0], Rule("empty", "fetch", ALLOW, {"modality": ()}))
    assert isinstance(may("fetch", SOUTH, alone, facts, request, Usage(), NOW), No)
