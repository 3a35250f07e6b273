"""Canonical JSON: one value, one sequence of bytes."""

import enum
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.canonical import MAX_DEPTH, MAX_INTEGER, canonical_json, parse_canonical_untrusted
from keys.errors import NotCanonical

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    text | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


class Code(enum.IntEnum):
    SEVEN = 7


def nested(depth):
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


CASES = [
    ({}, b"{}"),
    ([], b"[]"),
    ((1, 2), b"[1,2]"),
    ("", b'""'),
    (True, b"true"),
    (0, b"0"),
    (-5, b"-5"),
    (Code.SEVEN, b"7"),
    (MAX_INTEGER, b"9007199254740991"),
    ({"b": 1, "a": {"d": False, "c": [1, "x"]}}, b'{"a":{"c":[1,"x"],"d":false},"b":1}'),
    ({"z": 1, "Z": 2, "\u00e9": 3}, '{"Z":2,"z":1,"é":3}'.encode()),
    # RFC 8785 section 3.2.2.2: which characters are escaped, and how.
    ('\u20ac$\u000f\nA\'B"\\\\"/\u007f', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/\u007f"'.encode()),
    ("\b\t\f\r", b'"\\b\\t\\f\\r"'),
]


@pytest.mark.parametrize(("value", "encoded"), CASES)
def test_cases(value, encoded):
    assert canonical_json(value) == encoded
    assert canonical_json(parse_canonical_untrusted(encoded)) == encoded


@given(values)
def test_round_trip(value):
    try:
        encoded = canonical_json(value)
    except NotCanonical:
        return
    back = parse_canonical_untrusted(encoded)
    assert back == value
    assert b"\n" not in encoded


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.0,
        float("nan"),
        b"x",
        {1: 2},
        {"a": None},
        ["a", {"b": 1.5}],
        MAX_INTEGER + 1,
        -MAX_INTEGER - 1,
        "\ud800",
        {"\ud800": 1},
        {"a"},
        nested(MAX_DEPTH + 1),
        object(),
    ],
)
def test_values_without_a_canonical_form(value):
    with pytest.raises(NotCanonical):
        canonical_json(value)


def test_deepest_nesting():
    assert canonical_json(nested(MAX_DEPTH)) == b"[" * 8 + b"1" + b"]" * 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a":1}\n',
        b' {"a":1}',
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b"null",
        b"1.0",
        b"1e2",
        b"-0",
        b"01",
        b"+1",
        b"NaN",
        b"Infinity",
        b"9007199254740992",
        b"9" * 5000,
        b'"\\u0041"',
        b'"\\/"',
        b'"\\u00e9"',
        b'"\\ud800"',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        '"x"'.encode("utf-16"),
        b"[" * 100_000,
        b"[" * 9 + b"]" * 9,
        b"{}{}",
        b"'a'",
    ],
)
def test_bytes_that_are_not_canonical(data):
    with pytest.raises(NotCanonical):
        parse_canonical_untrusted(data)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_not_canonical(data):
    try:
        value = parse_canonical_untrusted(data)
    except NotCanonical:
        return
    assert canonical_json(value) == data


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_other_json_of_the_same_value_is_refused(value, ascii_only, indent):
    other = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    try:
        parse_canonical_untrusted(other)
    except NotCanonical:
        return
    assert other == canonical_json(value)
