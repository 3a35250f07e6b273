"""What a person may write as a rule, and the sentence for what is none."""

from dataclasses import replace

import pytest

from keys.conditions import KINDS, VALUES, Asked, Facts
from keys.grants import ACTIONS, NO_USAGE, failures, holds_perhaps
from keys.rules import BadRule, Rule, read_rule

REFUSED = [
    ("", "a rule begins with allow, ask or deny"),
    ("permit fetch", "a rule begins with allow, ask or deny"),
    ("allow", "there is no action ''"),
    ("allow everything", "there is no action 'everything'"),
    ("allow fetch CT", "'CT' is no condition: write NAME=VALUE"),
    ("allow fetch modality=CT modality=MR", "modality is there twice"),
    ("allow fetch until=2027-01-01 until=2027-01-02", "until is there twice"),
    ("allow fetch colour=red", "there is no condition 'colour'"),
    ("allow fetch modality=", "the condition modality has no value"),
    ("allow fetch modality=,", "the condition modality has no value"),
    ("allow fetch modality=C-T", "'C-T' is no code"),
    ("allow fetch modality=ABCDEFGHIJKLMNOPQ", "is no code of at most 16"),
    (f"allow fetch study={','.join(map(str, range(VALUES + 1)))}", "more than 1000 values"),
    ("allow fetch study=abc", "'abc' is no UID"),
    (f"allow fetch study={'1' * 65}", "is no UID"),
    (f"allow fetch accession={'A' * 129}", "128 printable characters"),
    ("allow fetch accession=A\x07", "128 printable characters"),
    (f"allow fetch institution={'A' * 129}", "128 printable characters"),
    ("allow fetch institution=A\x07", "128 printable characters"),
    (f"allow fetch patient={'4' * 129}", "128 printable characters"),
    ("allow fetch patient=4711\x07", "128 printable characters"),
    ("allow fetch patient=@NORTH", "a Patient ID is missing before @"),
    ("allow fetch from=2026-02-30", "'2026-02-30' is no date"),
    ("allow fetch to=soon", "'soon' is no date"),
    ("allow fetch max-age=0d", "'0d' is no age"),
    ("allow fetch max-age=5w", "'5w' is no age"),
    ("allow fetch max-age=-1d", "'-1d' is no age"),
    ("allow fetch purpose=curiosity", "there is no purpose 'curiosity'"),
    ("allow fetch purpose=TREAT,treat", "there is no purpose 'treat'"),
    ("allow fetch stat=no", "take only yes"),
    ("allow fetch hours=8-18", "'8-18' is no time of day"),
    ("allow fetch hours=08:00-08:00", "is no time of day"),
    ("allow fetch hours=24:00-06:00", "is no time of day"),
    ("allow fetch hours=08:00-24:01", "is no time of day"),
    ("allow fetch hours=08:60-18:00", "is no time of day"),
    ("allow fetch hours=08:00-17:60", "is no time of day"),
    ("allow fetch days=monday", "'monday' is no day"),
    ("allow fetch days=-fri", "'-fri' is no day"),
    ("allow fetch days=mon-", "'mon-' is no day"),
    ("allow fetch days=mon-friday", "'mon-friday' is no day"),
    ("allow fetch studies-a-day=few", "'few' is no amount"),
    ("allow fetch studies-a-day=-1", "'-1' is no amount"),
    ("allow fetch bytes-a-day=999999999999TB", "is more than anybody can fetch"),
    ("deny fetch studies-a-day=1", "a limit a day belongs to"),
    ("ask fetch studies-a-day=1", "a limit a day belongs to"),
    ("allow see studies-a-day=1", "a limit a day belongs to"),
    ("allow fetch until=tomorrow", "'tomorrow' is no date"),
    ("allow fetch until=1969-12-30", "is no end of a rule"),
    ("allow fetch until=0001-01-01T00:00Z", "is no end of a rule"),
    ("allow fetch until=9999-12-31T23:59:59-14:00", "is no end of a rule"),
    ("allow fetch shows=exam", "shows= belongs to a rule `allow see`"),
    ("deny see shows=exam", "shows= belongs to a rule `allow see`"),
    ("allow see shows=all", "shows= takes one of on-request, exam, patient"),
    ("ask see", "nobody waits for an answer to see"),
    ("ask find", "nobody waits for an answer to find"),
    ("ask witness", "nobody waits for an answer to witness"),
    ("allow witness modality=CT", "a witness sees no study"),
    ("allow send modality=CT", "modality cannot be a condition of send"),
    *((f"allow see {kind}=x", "") for kind in ("purpose", "role", "hours", "days", "stat")),
]


def _blind(kind: str, value: str) -> str:
    return f"{kind}:{value}"


def _read(text: str) -> Rule:
    return read_rule(text.split(" ") if text else [], 1, actions=list(ACTIONS), blind=_blind)


@pytest.mark.parametrize(("text", "sentence"), REFUSED)
def test_what_is_no_rule_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadRule) as caught:
        _read(text)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("allow see", "allow see shows=exam"),
        ("allow fetch modality=ct,mr,ct", "allow fetch modality=CT,MR"),
        ("allow fetch max-age=1825", "allow fetch max-age=5y"),
        ("allow fetch max-age=2years", "allow fetch max-age=2y"),
        ("allow fetch max-age=90days", "allow fetch max-age=90d"),
        ("allow fetch from=2026-01-01 to=2026-03-31", None),
        ("deny fetch days=sat-mon", "deny fetch days=mon,sat,sun"),
        ("allow fetch bytes-a-day=50GB", "allow fetch bytes-a-day=50000000000"),
        ("allow fetch until=2027-03-31", None),
        ("allow fetch until=2027-03-31T12:00:00+02:00", "allow fetch until=2027-03-31T10:00:00Z"),
        ("allow fetch until=1970-01-01", None),
        ("allow fetch until=9999-12-30", None),
        ("allow fetch patient=4711@NORTH,4712", "allow fetch 'patient=2 listed'"),
        ("ask fetch institution=St.Mary's", """ask fetch 'institution=st.mary'"'"'s'"""),
        ("deny send role=clerk", None),
        ("allow witness until=2027-03-31", None),
    ],
)
def test_a_rule_is_shown_as_it_was_written(text: str, shown: str | None) -> None:
    assert str(_read(text)) == (text if shown is None else shown)


def test_what_each_condition_is_about() -> None:
    """What is of the study cannot narrow what a peer sends; lists that name persons are hidden."""
    of_request = {name for name, kind in KINDS.items() if not kind.of_study}
    assert of_request == {"purpose", "role", "hours", "days", "stat"}
    hidden = {name for name, kind in KINDS.items() if kind.is_hidden}
    assert hidden == {"study", "accession", "patient", "referring"}
    assert {name for name, kind in KINDS.items() if kind.changes_with_time} == {"max-age"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_each_condition_can_be_written(kind: str) -> None:
    value = KINDS[kind].example.rstrip(".")
    rule = read_rule(["deny", "fetch", f"{kind}={value}"], 1, actions=list(ACTIONS), blind=_blind)
    assert rule.conditions[kind]


LATER_VALUES = {
    "modality": "ct",
    "only-modality": "CT-like",
    "from": "2020",
    "to": "9",
    "max-age": "90m",
    "deidentified": "perhaps",
    "purpose": "LATER",
    "hours": "08:00-18:00 Europe/Berlin",
    "days": "holidays",
    "stat": "no",
}
FACTS = Facts(
    study_uid="1.2.3",
    modalities=("CT",),
    study_date="20260920",
    is_deidentified=True,
    consents=frozenset(),
)
ASKED = Asked(1_790_000_000, "treatment", is_stat=True, minute=9 * 60, weekday=0)


@pytest.mark.parametrize(("kind", "value"), LATER_VALUES.items())
def test_values_of_a_later_release_hold_for_nobody_and_deny_everybody(
    kind: str, value: str
) -> None:
    """Nor are they compared as if this release knew what they mean."""
    fields = {"number": 1, "action": "fetch", "conditions": {kind: [value]}}
    allow = Rule.from_fields(fields | {"effect": "allow"})
    [failed] = failures(allow, FACTS, ASKED, NO_USAGE)
    assert not failed.is_certain
    assert holds_perhaps(Rule.from_fields(fields | {"effect": "deny"}), FACTS, ASKED, NO_USAGE)
    assert Rule.from_fields(allow.to_fields()) == allow
    assert str(allow)


@pytest.mark.parametrize("blank", [" ", "\u3000", "\t"])
def test_what_is_blank_is_not_known(blank: str) -> None:
    """So it takes nobody out of a rule that denies."""
    for words in ("deny fetch institution=North", "deny fetch role=trainee"):
        rule = _read(words)
        facts, asked = replace(FACTS, institution=blank), replace(ASKED, role=blank)
        assert holds_perhaps(rule, facts, asked, NO_USAGE)
