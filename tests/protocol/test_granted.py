"""What a peer is told of its rights: signed, bounded, and silent on patients and wards."""

import dataclasses
import json

import pytest
from grants_made import NOW, UNREAD
from hypothesis import given
from hypothesis import strategies as st

from keys.conditions import KINDS
from keys.grants import ALLOW, ASK, DENY, Rule
from keys.identity import KeyPair
from node.phrases import moment
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.granted import Grants, content_of, open_untrusted, sign, stated

KEY, OTHER = KeyPair.from_seed(b"n" * 32), KeyPair.from_seed(b"o" * 32)
SECRET = "0f" * 16
"""A value that must not be told."""

OPEN_VALUES = {
    "modality": ("CT",),
    "only-modality": ("CT", "SR"),
    "max-age": ("365",),
    "deidentified": ("yes",),
    "purpose": ("TREAT",),
    "role": ("radiologist",),
    "hours": ("08:00-18:00",),
    "days": ("mon",),
    "stat": ("yes",),
}
"""What a rule of each kind may tell."""

conditions = st.dictionaries(
    st.sampled_from([*KINDS, *UNREAD]),
    st.just((SECRET,)),
    max_size=4,
).map(lambda made: {kind: OPEN_VALUES.get(kind, values) for kind, values in made.items()})
rules = st.builds(
    Rule,
    st.just(SECRET),
    st.sampled_from(["see", "fetch", "send", "witness"]),
    st.sampled_from([ALLOW, ASK, DENY, "later"]),
    conditions,
    st.dictionaries(st.just("studies-a-day"), st.integers(1, 9), max_size=1),
    st.none() | st.integers(NOW - 2, NOW + 2),
    st.just("exam"),
    st.integers(1, 200),
)


def _statement(told, key=KEY, **changes):
    content = content_of(
        facility=b"f" * 32, node=KEY.public, recipient=b"r" * 32, rules=told, since=NOW, until=None
    )
    return sign({**content, **changes}, serial=NOW, time=NOW, key=key)


@given(st.lists(rules, max_size=6))
def test_what_is_told_names_no_patient_and_no_ward(made):
    """Values of lists are never told, and those of study conditions only of what is allowed."""
    for one in stated(made, NOW):
        told = one.get("conditions", {})
        assert not any(KINDS[kind].is_hidden for kind in told)
        assert not UNREAD.keys() & {*told, *one.get("listed", ())}
        if one["effect"] != ALLOW:
            assert SECRET not in json.dumps(one)
            assert {*told, *one.get("listed", ())} <= OPEN_VALUES.keys()
        assert one.get("until", NOW + 1) > NOW


@given(st.lists(rules, max_size=6), st.randoms())
def test_a_rule_that_is_not_told_leaves_no_trace(made, chance):
    """Neither a gap in numbers, nor another order, nor one rule more."""
    guard = Rule("rule 7", "fetch", DENY, {"patient": (SECRET,)}, number=7)
    ward = Rule("rule 8", "see", ASK, {"institution": ("psychiatry",)}, number=8)
    later = Rule("rule 9", "see", ALLOW, dict(UNREAD), number=9)
    more = [*made, guard, ward, later]
    chance.shuffle(more)
    renumbered = [dataclasses.replace(one, number=at) for at, one in enumerate(more)]
    assert stated(renumbered, NOW) == stated(made, NOW)


@given(st.lists(rules, max_size=6))
def test_a_statement_is_read_as_it_was_made(made):
    told = stated(made, NOW)
    message = _statement(told)
    read = open_untrusted(message)
    assert (read.facility, read.node, read.recipient) == (b"f" * 32, KEY.public, b"r" * 32)
    assert (read.serial, read.time, read.since, read.until) == (NOW, NOW, NOW, None)
    assert [(one.action, one.effect, one.until) for one in read.rules] == [
        (one["action"], one["effect"], one.get("until")) for one in told
    ]
    for one, fields in zip(read.rules, told, strict=True):
        assert dict(one.conditions) == {
            kind: tuple(values) for kind, values in fields.get("conditions", {}).items()
        }
        assert str(one).startswith(f"{one.effect} {one.action}")


def test_a_list_is_told_as_some_and_not_how_many():
    few = Rule("rule 1", "fetch", conditions={"patient": (SECRET,)})
    many = dataclasses.replace(few, conditions={"patient": tuple(map(str, range(900)))})
    assert stated([few], NOW) == stated([many], NOW) == stated([few, many], NOW)
    [told] = open_untrusted(_statement(stated([few], NOW))).rules
    assert str(told) == "allow fetch patient=(some)"


def test_a_statement_of_the_most_rules_is_small_enough():
    values = tuple(f"hospital {number:>110}" for number in range(5))
    most = [
        Rule(
            f"rule {number}",
            "fetch",
            conditions=dict.fromkeys(KINDS, values),
            limits={"studies-a-day": 2**53 - 1 - number, "bytes-a-day": 2**53 - 1},
            until=2**53 - 1,
            number=number,
        )
        for number in range(200)
    ]
    message = _statement(stated(most, NOW))
    assert len(message.body) <= limits.GRANTS_BYTES
    read = open_untrusted(message)
    assert len(read.rules) == 200
    assert set(read.rules[0].listed) == KINDS.keys()


@given(st.data())
def test_one_changed_byte_is_noticed(data):
    message = _statement(stated([Rule("the grant see", "see")], NOW))
    whole = message.body + message.signature
    at = data.draw(st.integers(0, len(whole) - 1))
    bad = bytearray(whole)
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        open_untrusted(Grants(body=bytes(bad[:-64]), signature=bytes(bad[-64:])))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "radmesh-grants-v2"},
        {"facility": "00"},
        {"facility": "FF" * 32},
        {"serial": -1},
        {"time": True},
        {"until": "soon"},
        {"rules": {}},
        {"rules": [[]]},
        {"rules": [{"action": "see", "effect": "allow", "listed": "patient"}]},
        {"rules": [{"action": "see"}]},
        {"rules": [{"action": "see", "effect": 1}]},
        {"rules": [{"action": "see", "effect": "allow", "conditions": []}]},
        {"rules": [{"action": "see", "effect": "allow", "limits": {"studies-a-day": "x"}}]},
    ],
)
def test_malformed_statements(changes):
    content = json.loads(_statement([]).body)
    content.pop("serial"), content.pop("time")
    made = {**content, **changes}
    message = sign(made, serial=NOW, time=NOW, key=KEY)
    if {"serial", "time"} & changes.keys():
        body = json.dumps({**json.loads(message.body), **changes}, sort_keys=True)
        body = body.replace(" ", "").encode()
        message = Grants(body=body, signature=KEY.sign(b"radmesh-grants-v1", body))
    with pytest.raises(RemoteProtocolError):
        open_untrusted(message)


def test_values_that_this_release_cannot_read_are_shown_as_they_came():
    conditions = {"max-age": ["90m"], "hours": ["8-18"], "from": [""], "deidentified": []}
    rule = {"action": "see", "effect": "allow", "conditions": conditions, "until": 2**53 - 1}
    [told] = open_untrusted(_statement([rule])).rules
    assert "max-age=90m" in str(told)
    assert moment(told.until) == "in no year of the calendar"


def test_another_key_or_domain_does_not_sign_for_it():
    with pytest.raises(RemoteProtocolError, match="does not hold"):
        open_untrusted(_statement([], key=OTHER))
    body = _statement([]).body
    with pytest.raises(RemoteProtocolError, match="does not hold"):
        open_untrusted(Grants(body=body, signature=KEY.sign(b"radmesh-offer-v1", body)))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    with pytest.raises(RemoteProtocolError):
        open_untrusted(Grants(body=body, signature=bytes(64)))


def test_fields_of_a_later_release_are_shown_as_conditions():
    later = [{"action": "see", "effect": "allow", "colour": "red"}]
    [told] = open_untrusted(_statement(later, mood="good")).rules
    assert str(told) == "allow see (under a condition of a later release) shows=exam"
