"""The verifier's two ways of reading an entry agree, whatever the bytes."""

import contextlib
import json

import pytest
import second_log as second
from bundles_made import honest, rotated
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.fingerprint import fingerprint
from protocol.verify import Code
from protocol.verify.entries import (
    ENTRY_BYTES,
    EntryProblem,
    parse_any_entry,
    parse_entry,
    parse_object,
    parse_plain_entry,
)
from protocol.verify.openings import parse_any_opening, parse_opening

KINDS = ("study", "patient", "instance", "person")
FINGERPRINT = fingerprint(bytes(32))
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
VALUES = st.text(max_size=8) | st.integers(-(2**54), 2**54) | st.booleans()
ENTRIES = st.builds(
    lambda index, milliseconds, details, subjects, fields: second.entry(
        index, milliseconds, details=details, subjects=subjects, **fields
    ),
    st.integers(0, 2**54),
    st.integers(0, 4 * 10**12),
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.lists(
        st.tuples(st.sampled_from(["study", "odd kind"]), st.text(max_size=5), st.binary()),
        max_size=2,
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["disclosed", "a" * 64, "a" * 65, "Odd"])}),
)
FRAGMENTS = [
    b"",
    b" ",
    b"\n",
    b'"',
    b"\\u0041",
    b"\\/",
    b"0",
    b"-0",
    b"1.0",
    b"1e3",
    b"null",
    b"true",
    b',"a":1',
    b'"a":1,',
    b"{}",
    b"[]",
    b"\xff",
    "é".encode(),
    b"\x7f",
    b"NaN",
    b'"receipt":"x",',
    b"T24:00:00",
    b"02-30",
]


def outcome(parse, data):
    try:
        return parse(data)
    except EntryProblem as problem:
        return problem.code


def edited(draw, data):
    """The bytes with some parts replaced."""
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 12)))
        data = data[:start] + draw(st.sampled_from(FRAGMENTS)) + data[stop:]
    return data


def test_an_ordinary_entry_is_read_the_quick_way():
    """Of a million entries the long way takes half a minute."""
    for entry in (*honest().entries, *rotated().entries):
        assert parse_plain_entry(entry) == parse_any_entry(entry)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.data())
def test_both_ways_of_reading_an_entry_agree(data):
    encoded = edited(data.draw, data.draw(ENTRIES))
    assert outcome(parse_entry, encoded) == outcome(parse_any_entry, encoded)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.data())
def test_both_ways_of_reading_an_opening_agree(data):
    kind, value, salt = data.draw(
        st.tuples(st.sampled_from(["study", "é"]), st.text(max_size=9), st.binary(min_size=16))
    )
    line = second.canonical(
        {
            "commitment": second.commitment(kind, value, salt[:16]),
            "index": data.draw(st.integers(0, 2**54)),
            "kind": kind,
            "salt": salt[:16].hex(),
            "value": value,
        }
    )
    line = edited(data.draw, line + b"\n")
    ours = outcome(parse_opening, line)
    assert ours == outcome(parse_any_opening, line)


@given(st.sampled_from(["study", "é"]), st.text(max_size=9), st.binary(min_size=16, max_size=16))
def test_an_opening_holds_for_its_own_commitment_alone(kind, value, salt):
    fields = {
        "commitment": second.commitment(kind, value, salt),
        "index": 1,
        "kind": kind,
        "salt": salt.hex(),
        "value": value,
    }
    assert parse_opening(second.canonical(fields) + b"\n").holds
    for change in ({"kind": kind + "x"}, {"value": value + "x"}, {"salt": "00" * 15 + "01"}):
        assert not parse_opening(second.canonical({**fields, **change}) + b"\n").holds


@pytest.mark.parametrize("end", [b"", b"\0", b" ", b"\r", b"x"])
@pytest.mark.parametrize("value", ["1.2", "é"])
def test_an_opening_without_the_end_of_its_line_is_torn(value, end):
    salt = b"s" * 16
    fields = {
        "commitment": second.commitment("study", value, salt),
        "index": 1,
        "kind": "study",
        "salt": salt.hex(),
        "value": value,
    }
    assert parse_opening(second.canonical(fields) + b"\n").holds
    with pytest.raises(EntryProblem, match="is torn or too large") as caught:
        parse_opening(second.canonical(fields) + end)
    assert caught.value.code == Code.OPENING_BAD


@given(st.sampled_from(KINDS), st.text(max_size=9), st.booleans())
def test_a_subject_is_found_only_where_it_is_one(kind, text, plain):
    """Not in the text of another field, and of no other kind."""
    hashed, other = "0" * 64, "1" * 64
    fake = second.canonical({"commitment": other, "kind": kind}).decode()
    data = second.canonical(
        {
            **json.loads(second.entry(0, 0, type="init")),
            "subjects": [{"commitment": hashed, "kind": kind}],
            "purpose": fake + text + "é" * (not plain),
        }
    )
    read = parse_entry(data)
    assert read.commitments == 1
    for commitment in (hashed, other):
        for each in (*KINDS, text):
            subject = second.canonical({"commitment": commitment, "kind": each})
            assert read.has_subject(subject) is ((commitment, each) == (hashed, kind))


@pytest.mark.parametrize("purpose", ["x", "é"])
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("outcome", ["success", "refused", "failed"], ["maybe", "", "Success", "success "]),
        ("actor", ["node", "operator", FINGERPRINT], ["", "peer", FINGERPRINT[:-1], "node\n"]),
    ],
)
def test_outcomes_and_actors_are_closed_lists(name, good, bad, purpose):
    for values, code in ((good, None), (bad, Code.ENTRY_PARSE)):
        for value in values:
            data = second.entry(0, 0, type="init", purpose=purpose)
            data = second.canonical({**json.loads(data), name: value})
            read = outcome(parse_entry, data)
            assert (read if code else read.place) == (code or 0), value


@pytest.mark.parametrize("purpose", ["x", "é"])
def test_kinds_are_a_closed_list_and_a_subject_has_two_members(purpose):
    plain = json.loads(second.entry(0, 0, type="init", purpose=purpose))
    for kind in KINDS:
        subject = {"commitment": "0" * 64, "kind": kind}
        good = second.canonical({**plain, "subjects": [subject]})
        assert parse_entry(good).commitments == 1
        for change in ({"kind": "series"}, {"kind": ""}, {"kind": None}, {"later": 1}):
            bad = second.canonical({**plain, "subjects": [subject | change]})
            assert outcome(parse_entry, bad) == Code.ENTRY_PARSE


def test_the_bounds_of_integers_and_entries_are_met_exactly():
    plain = json.loads(second.entry(0, 0, type="init"))
    limit = 2**53 - 1
    assert ENTRY_BYTES == 65_535
    for number, fits in ((limit, True), (limit + 1, False), (-limit, True), (-limit - 1, False)):
        data = second.canonical({**plain, "details": {"a": number}})
        assert (outcome(parse_entry, data) != Code.ENTRY_PARSE) is fits
    for index, fits in ((limit, True), (limit + 1, False)):
        data = second.canonical({**plain, "index": index})
        assert (outcome(parse_entry, data) != Code.ENTRY_PARSE) is fits
    for text in ("x", "é"):
        room = ENTRY_BYTES - len(second.canonical({**plain, "purpose": ""})) - len(text.encode())
        for more, fits in ((0, True), (1, False)):
            data = second.canonical({**plain, "purpose": text + "x" * (room + more)})
            assert len(data) == ENTRY_BYTES + more
            assert (outcome(parse_entry, data) != Code.ENTRY_PARSE) is fits


@pytest.mark.parametrize(
    ("day", "is_one"),
    [
        ("2026-02-28", True),
        ("2026-02-29", False),
        ("2024-02-29", True),
        ("0000-01-01", False),
        ("2026-13-01", False),
        ("9999-12-31", True),
    ],
)
def test_days(day, is_one):
    for entry in (
        second.entry(0, 0, type="init"),
        second.entry(0, 0, type="init", details={"not": "é"}),
    ):
        data = entry.replace(b"1970-01-01", day.encode())
        assert (outcome(parse_entry, data) == Code.ENTRY_PARSE) is not is_one


def test_details_in_another_order_are_not_canonical():
    data = second.entry(0, 0, type="init", details={"a": 1, "b": 2})
    assert outcome(parse_entry, data) != Code.ENTRY_NOT_CANONICAL
    for other in (b'"b":2,"a":1', b'"a":1,"a":2'):
        changed = data.replace(b'"a":1,"b":2', other)
        assert outcome(parse_entry, changed) == Code.ENTRY_NOT_CANONICAL


def test_a_large_entry_is_read_in_time_that_grows_with_it():
    data = second.entry(0, 0, type="init", details={"a": "x" * (ENTRY_BYTES - 300)})
    # A pattern that went back and forth would not come to an end here.
    assert outcome(parse_entry, data[:-1] + b'"}') == Code.ENTRY_PARSE
    many = second.entry(0, 0, type="init", details={f"d{at:04}": at for at in range(4000)})
    assert parse_entry(many).place == 0
    assert outcome(parse_entry, many[:-1]) == Code.ENTRY_PARSE


@pytest.mark.parametrize(
    "change",
    [
        {"peer": "00"},
        {"peer": 1},
        {"type": 1},
        {"type": "Odd"},
        {"details": []},
        {"details": {"Odd": 1}},
        {"details": {"a": []}},
        {"details": {"a": 2**53}},
        {"subjects": {}},
        {"subjects": ["study"]},
        {"subjects": [1]},
        {"subjects": [None]},
        {"subjects": [["commitment", "kind"]]},
        {"subjects": [{"kind": "study"}]},
        {"subjects": [{"kind": "study", "commitment": "00"}]},
        {"index": -1},
        {"index": True},
        {"time": 1},
        {"actor": None},
        {"v": True},
        {"later": None},
        {"later": [[[[[[[[1]]]]]]]]},
        {"later": 2**53},
    ],
)
def test_fields_of_a_wrong_kind(change):
    data = second.canonical({**json.loads(second.entry(0, 0, type="init")), **change})
    assert outcome(parse_entry, data) == Code.ENTRY_PARSE


def test_fields_of_later_versions_are_let_through():
    for later in ("x", 1, True, [1, {"a": [2]}], [[[[[[[1]]]]]]]):
        assert parse_entry(second.entry(0, 0, type="init", later=later)).place == 0


def test_half_a_character_has_no_canonical_form():
    data = second.entry(0, 0, type="init", purpose="x").replace(b'"x"', b'"\\ud800"')
    assert outcome(parse_entry, data) == Code.ENTRY_NOT_CANONICAL
    assert outcome(parse_entry, b"\xed\xa0\x80") == Code.ENTRY_PARSE


def test_no_depth_of_nesting_gets_through():
    """Near the interpreter's own limit decoding may succeed where encoding does not."""
    for depth in range(900, 1001):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            deep = f'{{"a":{opening * depth}1{closing * depth}}}'.encode()
            with contextlib.suppress(EntryProblem):
                parse_object(deep)
