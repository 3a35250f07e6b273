"""Entries and commitments: one form, limits, and no patient data in clear."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.entry import (
    ENTRY_BYTES,
    TYPES,
    Event,
    Opening,
    commitment,
    decode_entry_untrusted,
    encode_entry,
    format_time,
    parse_time_untrusted,
)
from protocol.verify.entries import EntryProblem, parse_entry

STUDY = Opening("study", "1.2.840.10008.1", b"s" * 16)
EVENT = Event(
    type="disclosed",
    peer=b"p" * 32,
    purpose="treatment",
    subjects=(("study", "1.2.840.10008.1"),),
    details={"bytes": 12, "complete": True, "transfer": "00ff"},
)
ENCODED = encode_entry(EVENT, index=7, time_ms=1_795_512_718_123, openings=[STUDY])


def test_writer_reader_and_verifier_agree():
    entry = decode_entry_untrusted(ENCODED)
    assert (entry.index, entry.time_ms, entry.type) == (7, 1_795_512_718_123, "disclosed")
    assert (entry.peer, entry.purpose, entry.outcome) == (b"p" * 32, "treatment", "success")
    assert entry.subjects == (("study", STUDY.commitment),)
    assert entry.details == EVENT.details
    read = parse_entry(ENCODED)
    subject = f'{{"commitment":"{STUDY.commitment}","kind":"study"}}'.encode()
    assert (read.commitments, read.has_subject(subject)) == (1, True)


def test_the_value_of_a_subject_is_not_in_the_entry():
    assert b"1.2.840.10008.1" not in ENCODED


def test_commitment_is_what_the_document_says():
    text = b'{"kind":"study","value":"1.2.840.10008.1"}'
    expected = hashlib.sha256(b"radmesh-commitment-v1\0" + b"s" * 16 + text).hexdigest()
    assert commitment("study", "1.2.840.10008.1", b"s" * 16) == expected
    assert commitment("study", "1.2.840.10008.1", b"t" * 16) != expected
    assert commitment("patient", "1.2.840.10008.1", b"s" * 16) != expected
    with pytest.raises(LocalProtocolError):
        commitment("study", "1", b"short")


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "unheard-of"},
        {"type": "start", "peer": b"p" * 31},
        {"type": "start", "subjects": (("colour", "red"),)},
        {"type": "start", "details": {"Name": "x"}},
        {"type": "start", "details": {"x": 1.5}},
        {"type": "start", "details": {"x": None}},
    ],
)
def test_events_that_the_log_does_not_take(wrong):
    with pytest.raises(LocalProtocolError):
        Event(**wrong)


def test_openings_must_be_those_of_the_event():
    with pytest.raises(LocalProtocolError):
        encode_entry(EVENT, index=0, time_ms=0, openings=[])


def test_size_limit():
    def event(length):
        return Event(type="start", details={"x": "y" * length})

    room = ENTRY_BYTES - len(encode_entry(event(0), index=0, time_ms=0, openings=()))
    largest = encode_entry(event(room), index=0, time_ms=0, openings=())
    assert len(largest) == ENTRY_BYTES
    decode_entry_untrusted(largest)
    with pytest.raises(LocalProtocolError):
        encode_entry(event(room + 1), index=0, time_ms=0, openings=())


def test_an_announcement_of_256_studies_fits():
    openings = [Opening("study", f"1.2.{n}", bytes([n]) * 16) for n in range(256)]
    event = Event(type="announced", subjects=tuple((o.kind, o.value) for o in openings))
    assert len(encode_entry(event, index=2**53 - 1, time_ms=0, openings=openings)) < ENTRY_BYTES


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_read_by_the_verifier(kind):
    encoded = encode_entry(Event(type=kind), index=0, time_ms=0, openings=())
    assert parse_entry(encoded).type == kind


@given(st.integers(0, 253_402_300_799_999))
def test_times(time_ms):
    text = format_time(time_ms)
    assert len(text) == 24
    assert parse_time_untrusted(text) == time_ms


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24T09:31:58Z",
        "2026-11-24 09:31:58.123Z",
        "2026-11-31T09:31:58.123Z",
        "2026-11-24T09:31:58.123+00:00",
        "٢026-11-24T09:31:58.123Z",
    ],
)
def test_other_times_are_refused(text):
    with pytest.raises(RemoteProtocolError):
        parse_time_untrusted(text)


def test_time_out_of_range():
    with pytest.raises(LocalProtocolError):
        format_time(-1)


FIELDS = json.loads(ENCODED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", 2),
        ("index", -1),
        ("index", True),
        ("index", "7"),
        ("time", "yesterday"),
        ("type", 1),
        ("actor", 1),
        ("outcome", []),
        ("peer", "ABCD"),
        ("peer", "ab" * 31),
        ("peer", "AB" * 32),
        ("details", []),
        ("details", {"a": []}),
        ("details", {"a": {}}),
        ("subjects", {}),
        ("subjects", [{"kind": "study"}]),
        ("subjects", [1]),
    ],
)
def test_wrong_fields_are_refused_by_both_readers(name, value):
    data = json.dumps(
        {**FIELDS, name: value}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    with pytest.raises(RemoteProtocolError):
        decode_entry_untrusted(data)
    with pytest.raises(EntryProblem):
        parse_entry(data)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_missing_fields_are_refused_by_both_readers(name):
    rest = {key: value for key, value in FIELDS.items() if key != name}
    data = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(RemoteProtocolError):
        decode_entry_untrusted(data)
    with pytest.raises(EntryProblem):
        parse_entry(data)


def test_fields_of_a_later_version_are_let_through():
    data = json.dumps({**FIELDS, "zone": {"a": [1]}}, sort_keys=True, separators=(",", ":"))
    assert decode_entry_untrusted(data.encode()).index == 7
    assert parse_entry(data.encode()).fields["zone"] == {"a": [1]}
    nothing = json.dumps({**FIELDS, "zone": None}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(EntryProblem):
        parse_entry(nothing.encode())


@given(st.integers(0, len(ENCODED) - 1), st.integers(1, 255))
def test_what_one_reader_takes_the_other_takes(at, change):
    data = ENCODED[:at] + bytes([ENCODED[at] ^ change]) + ENCODED[at + 1 :]
    verdicts = []
    for read, error in ((decode_entry_untrusted, RemoteProtocolError), (parse_entry, EntryProblem)):
        try:
            read(data)
            verdicts.append(True)
        except error:
            verdicts.append(False)
    # The verifier also checks the forms of names and commitments.
    assert verdicts != [False, True]


@given(st.binary(max_size=300))
def test_anything_else_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode_entry_untrusted(data)
    with pytest.raises(EntryProblem):
        parse_entry(data)


def test_deep_nesting_is_refused():
    for data in (b"[" * 60_000, b'{"a":' * 10_000):
        with pytest.raises(RemoteProtocolError):
            decode_entry_untrusted(data)
        with pytest.raises(EntryProblem):
            parse_entry(data)
