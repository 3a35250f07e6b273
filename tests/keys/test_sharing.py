"""What a new study becomes: a table of cases, and what holds for all rules."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.conditions import Facts
from keys.rules import BadRule
from keys.sharing import (
    CHECK,
    DEFAULT,
    SHARE,
    SHARING_CONDITIONS,
    SHARING_EFFECTS,
    WITHHOLD,
    Decided,
    SharingRule,
    counts,
    decide,
    hangs_on_missing,
    read_sharing_rule,
    rules_digest,
)

NOW = 1_800_000_000  # 2027-01-15
CT1, HAND, SOUTH = "dimse:CT1", "command", "peer:ABCDEFG-HIJKLMN"


def blind(kind: str, value: str) -> str:
    return f"<{kind}:{value}>"


FULL = Facts(
    study_uid="1.2.3",
    modalities=("CT",),
    body_parts=("HEAD",),
    study_date="20260301",
    accession="A100",
    patients=(("4711", "NORTH"),),
    referring="Muster^Anna",
    institution="North General",
    blind=blind,
)
BARE = Facts(study_uid="1.2.3", blind=blind)


def rules(*texts: str) -> list[SharingRule]:
    return [
        read_sharing_rule(text.split(), number, blind=blind)
        for number, text in enumerate(texts, start=1)
    ]


def facts(**changed: object) -> Facts:
    return replace(FULL, **changed)  # type: ignore[arg-type]


CASES = [
    # rules, source, facts, effect, number of the rule that decides (0: none)
    ((), HAND, FULL, SHARE, 0),
    ((), "command:night shift", FULL, SHARE, 0),
    ((), "commander", FULL, WITHHOLD, 0),
    ((), CT1, FULL, WITHHOLD, 0),
    ((), SOUTH, FULL, WITHHOLD, 0),
    (("share",), CT1, BARE, SHARE, 1),
    (("withhold",), HAND, FULL, WITHHOLD, 1),
    (("check",), HAND, FULL, CHECK, 1),
    (("share source=dimse:CT*",), CT1, FULL, SHARE, 1),
    (("share source=dimse:CT*",), "dimse:MR1", FULL, WITHHOLD, 0),
    (("share source=dimse:CT*",), HAND, FULL, SHARE, 0),
    (("share source=dimse:CT1",), "dimse:CT11", FULL, WITHHOLD, 0),
    (("share source=*:CT1,http:*",), "http:x", FULL, SHARE, 1),
    (("withhold source=command",), HAND, FULL, WITHHOLD, 1),
    (("withhold source=command",), "command:x", FULL, SHARE, 0),
    (("share source=peer:*",), SOUTH, FULL, SHARE, 1),
    (("share modality=CT,MR",), CT1, FULL, SHARE, 1),
    (("share modality=MR",), CT1, FULL, WITHHOLD, 0),
    (("share modality=CT",), CT1, facts(modalities=("CT", "SR")), SHARE, 1),
    (("share only-modality=CT",), CT1, facts(modalities=("CT", "SR")), WITHHOLD, 0),
    (("share modality=CT",), CT1, BARE, WITHHOLD, 0),
    (("withhold modality=SR",), HAND, FULL, SHARE, 0),
    (("withhold modality=SR",), HAND, facts(modalities=("CT", "SR")), WITHHOLD, 1),
    (("withhold modality=SR",), HAND, BARE, WITHHOLD, 1),
    (("check modality=SR",), HAND, BARE, CHECK, 1),
    (("share institution=north",), CT1, FULL, WITHHOLD, 0),
    (("withhold institution=Ward",), HAND, facts(institution="WARD "), WITHHOLD, 1),
    (("withhold institution=Ward",), HAND, FULL, SHARE, 0),
    (("share max-age=1y",), CT1, FULL, SHARE, 1),
    (("share max-age=300d",), CT1, FULL, WITHHOLD, 0),
    (("share max-age=5y",), CT1, facts(study_date=""), WITHHOLD, 0),
    (("share from=2026-03-01 to=2026-03-01",), CT1, FULL, SHARE, 1),
    (("withhold to=2025-12-31",), HAND, facts(study_date=""), WITHHOLD, 1),
    (("share accession=A100",), CT1, FULL, SHARE, 1),
    (("share accession=A101",), CT1, FULL, WITHHOLD, 0),
    (("withhold patient=4711",), HAND, FULL, WITHHOLD, 1),
    (("withhold patient=4712@NORTH",), HAND, FULL, SHARE, 0),
    (("withhold patient=4712",), HAND, facts(patients=()), WITHHOLD, 1),
    (("withhold referring=muster^anna",), HAND, FULL, WITHHOLD, 1),
    (("share body-part=HEAD study=1.2.3",), CT1, FULL, SHARE, 1),
    (("share body-part=HEAD study=1.2.4",), CT1, FULL, WITHHOLD, 0),
    (("share", "check", "withhold"), CT1, FULL, WITHHOLD, 3),
    (("share", "check"), CT1, FULL, CHECK, 2),
    (("withhold modality=MR", "check modality=CT", "share"), CT1, FULL, CHECK, 2),
    (("share modality=MR", "share modality=CT", "share"), CT1, FULL, SHARE, 2),
]


@pytest.mark.parametrize(("texts", "source", "study", "effect", "number"), CASES)
def test_a_study_becomes(
    texts: tuple[str, ...], source: str, study: Facts, effect: str, number: int
) -> None:
    decided = decide(rules(*texts), [source], [study], NOW)
    assert (decided.effect, decided.rule) == (
        effect,
        f"sharing rule {number}" if number else DEFAULT,
    )
    assert bool(decided.why) is (effect != SHARE)
    assert decided.rules == rules_digest(rules(*texts))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("share institution=North", WITHHOLD),
        ("share institution=North,South", SHARE),
        ("withhold institution=South", WITHHOLD),
        ("withhold institution=South accession=A2", WITHHOLD),
        ("withhold institution=East", SHARE),
    ],
)
def test_images_that_differ_share_only_together_and_withhold_alone(text: str, wanted: str) -> None:
    first = facts(institution="North", accession="A1")
    second = facts(institution="South", accession="A1")
    third = facts(institution="North", accession="A2")
    source = HAND if text.startswith("withhold") else CT1
    assert decide(rules(text), [source], [first, second, third], NOW).effect == wanted


def test_every_source_has_to_be_one_that_shares() -> None:
    both = ["peer:A", "peer:B"]
    assert decide(rules("share source=peer:A"), both, [FULL], NOW).effect == WITHHOLD
    assert decide(rules("share source=peer:*"), both, [FULL], NOW).effect == SHARE
    assert decide(rules("withhold source=peer:B", "share"), both, [FULL], NOW).effect == WITHHOLD
    assert decide((), [HAND, CT1], [FULL], NOW).effect == WITHHOLD


def test_what_a_later_release_wrote_never_shares() -> None:
    later = {"number": 1, "effect": "share", "conditions": {"moon": ["full"]}}
    assert decide([SharingRule.from_fields(later)], [CT1], [FULL], NOW).effect == WITHHOLD
    further = {"number": 1, "effect": "share", "until": 5}
    assert decide([SharingRule.from_fields(further)], [CT1], [FULL], NOW).effect == WITHHOLD
    unknown = {"number": 1, "effect": "blur", "conditions": {"modality": ["CT"]}}
    assert decide([SharingRule.from_fields(unknown)], [HAND], [FULL], NOW) == Decided(
        WITHHOLD,
        "sharing rule 1",
        "sharing rule 1 withholds it",
        rules_digest([SharingRule.from_fields(unknown)]),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "allow",
        "share CT",
        "share modality=",
        "share modality=CT modality=MR",
        "share purpose=TREAT",
        "share consent=yes",
        "share deidentified=yes",
        "share source=",
        "share source=dimse:\x01",
        "share max-age=old",
    ],
)
def test_a_rule_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadRule):
        read_sharing_rule(text.split(" ") if text else [], 1, blind=blind)


def test_lists_are_blinded_and_words_stay() -> None:
    [rule] = rules("share source=dimse:CT*,command modality=CT,MR accession=A100 max-age=5y")
    assert str(rule) == "share source=dimse:CT*,command modality=CT,MR 'accession=1 listed' " + (
        "max-age=5y"
    )
    assert "A100" not in str(rule.to_fields()).replace("<accession:A100>", "")


@pytest.mark.parametrize(
    ("text", "study", "expected"),
    [
        ("share modality=CT", BARE, True),
        ("share modality=CT max-age=1d", facts(modalities=None), False),
        ("share modality=CT", FULL, False),
        ("withhold modality=CT", BARE, True),
        ("withhold modality=MR", FULL, False),
        ("share source=dimse:MR*", BARE, False),
    ],
)
def test_whether_only_a_missing_attribute_decides(text: str, study: Facts, expected: bool) -> None:
    [rule] = rules(text)
    assert hangs_on_missing(rule, [CT1], [study], NOW) is expected


# --- what holds for all ----------------------------------------------------------------

WORDS = {
    "source": ["dimse:*", "dimse:CT1", "command*", "peer:*", "*"],
    "modality": ["CT", "SR", "CT,MR"],
    "only-modality": ["CT", "CT,SR"],
    "institution": ["North General", "Ward"],
    "max-age": ["30d", "5y"],
    "accession": ["A100", "A101"],
    "patient": ["4711", "4712@NORTH"],
}
assert WORDS.keys() <= set(SHARING_CONDITIONS)

CONDITIONS = st.dictionaries(st.sampled_from(sorted(WORDS)), st.integers(0, 4), max_size=3)


@st.composite
def some_rules(draw: st.DrawFn) -> list[SharingRule]:
    found = []
    for number in range(draw(st.integers(0, 4))):
        chosen = draw(CONDITIONS)
        words = [draw(st.sampled_from(SHARING_EFFECTS))]
        words += [f"{kind}={WORDS[kind][at % len(WORDS[kind])]}" for kind, at in chosen.items()]
        found.append(read_sharing_rule(words, number + 1, blind=blind))
    return found


STUDIES = st.lists(
    st.builds(
        Facts,
        study_uid=st.just("1.2.3"),
        modalities=st.sampled_from([None, ("CT",), ("SR",), ("CT", "SR"), ("MR",)]),
        study_date=st.sampled_from(["", "20261220", "20240101", "19990101", "when"]),
        institution=st.sampled_from(["", "North General", "Ward"]),
        accession=st.sampled_from(["", "A100", "A101"]),
        patients=st.sampled_from([(), (("4711", ""),), (("4712", "NORTH"), ("4711", "SOUTH"))]),
        blind=st.just(blind),
    ),
    min_size=1,
    max_size=3,
)
SOURCES = st.lists(
    st.sampled_from([HAND, "command:x", CT1, "dimse:MR", SOUTH]), min_size=1, max_size=2
)


def strictness(effect: str) -> int:
    return SHARING_EFFECTS.index(effect)


@given(some_rules(), SOURCES, STUDIES, st.sampled_from([CHECK, WITHHOLD]), CONDITIONS)
def test_a_further_rule_that_does_not_share_never_shares_more(
    made: list[SharingRule],
    sources: list[str],
    studies: list[Facts],
    effect: str,
    conditions: dict[str, int],
) -> None:
    words = [f"{kind}={WORDS[kind][at % len(WORDS[kind])]}" for kind, at in conditions.items()]
    further = read_sharing_rule([effect, *words], 9, blind=blind)
    before = decide(made, sources, studies, NOW)
    after = decide([*made, further], sources, studies, NOW)
    assert not (after.effect == SHARE and before.effect != SHARE)


@given(
    some_rules(),
    SOURCES,
    STUDIES,
    st.sampled_from(["modalities", "study_date", "institution", "accession", "patients"]),
)
def test_what_is_not_known_never_shares_more(
    made: list[SharingRule], sources: list[str], studies: list[Facts], attribute: str
) -> None:
    empty = {"modalities": None, "patients": ()}.get(attribute, "")
    less = [replace(one, **{attribute: empty}) for one in studies]  # type: ignore[arg-type]
    before, after = (decide(made, sources, each, NOW) for each in (studies, less))
    assert not (after.effect == SHARE and before.effect != SHARE)


@given(some_rules(), SOURCES, STUDIES, st.data())
def test_more_images_and_more_sources_never_share_more(
    made: list[SharingRule], sources: list[str], studies: list[Facts], data: st.DataObject
) -> None:
    more_sources = [*sources, data.draw(SOURCES)[0]]
    more_studies = [*studies, data.draw(STUDIES)[0]]
    before = decide(made, sources, studies, NOW)
    for more in (studies, more_studies):
        after = decide(made, more_sources, more, NOW)
        assert not (after.effect == SHARE and before.effect != SHARE)


@given(some_rules(), SOURCES, STUDIES)
def test_the_rule_that_is_named_counts_and_none_that_is_stricter_does(
    made: list[SharingRule], sources: list[str], studies: list[Facts]
) -> None:
    decided = decide(made, sources, studies, NOW)
    counting = [rule for rule in made if counts(rule, sources, studies, NOW)]
    if decided.rule == DEFAULT:
        assert not counting
    else:
        assert decided.rule in [rule.name for rule in counting]
        assert strictness(decided.effect) == max(strictness(rule.effect) for rule in counting)
    # The same rules as the log keeps them decide the same.
    kept = [SharingRule.from_fields(rule.to_fields()) for rule in made]
    assert decide(kept, sources, studies, NOW) == decided


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_star_stands_for_any_characters(pattern: str, source: str) -> None:
    def fits(left: str, right: str) -> bool:
        if not left:
            return not right
        if left[0] == "*":
            return fits(left[1:], right) or (bool(right) and fits(left, right[1:]))
        return bool(right) and left[0] == right[0] and fits(left[1:], right[1:])

    rule = SharingRule(1, SHARE, {"source": (pattern,)})
    assert counts(rule, [source], [FULL], NOW) is fits(pattern, source)
