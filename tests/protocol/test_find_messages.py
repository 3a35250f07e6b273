"""Searches for a patient: what a question and an answer may be."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import KeyPair
from protocol import limits, messages, wire
from protocol.errors import RemoteProtocolError, WireCode
from protocol.find_messages import (
    SEXES,
    ByNumber,
    ByPerson,
    Find,
    FindRefused,
    Found,
    asked_untrusted,
    check_found_untrusted,
    why_not_whole,
)
from protocol.messages import Message, Record

KEY = KeyPair.from_seed(b"k" * 32)
KNOWN: dict[str, type[Message]] = {one.TYPE: one for one in (Find, Found, FindRefused)}
BASE: dict[str, Any] = {
    "find": bytes(16), "source": bytes(32), "purpose": "treatment", "person": "", "time": 0,
}  # fmt: skip
NUMBER = {"patient_id": "P1", "issuer": "NORTH"}
PERSON = {"name": "Müller^Anna", "birth_date": "19700131", "sex": "F"}

_TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=limits.FIND_CHARACTERS)
_OPTIONAL = st.none() | _TEXTS


@given(
    st.builds(
        Find,
        find=st.binary(min_size=16, max_size=16),
        source=st.binary(min_size=32, max_size=32),
        purpose=st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), max_size=32),
        person=_TEXTS,
        time=st.integers(0, 2**53 - 1),
        patient_id=_OPTIONAL,
        issuer=_OPTIONAL,
        name=_OPTIONAL,
        birth_date=st.none() | st.sampled_from(["19700131", "1970", ""]),
        sex=st.none() | st.sampled_from(["F", "X", ""]),
    )
)
def test_a_question_survives_and_names_one_patient_or_none(find: Find) -> None:
    assert messages.decode_untrusted(messages.encode(find), KNOWN) == find
    assert messages.open_signed_untrusted(messages.sign(find, KEY), Find, KEY.public) == find
    try:
        asked = asked_untrusted(find)
    except RemoteProtocolError:
        return
    assert why_not_whole(asked) == ""
    named = dataclasses.asdict(asked)
    given_ = {name for name in (*NUMBER, *PERSON) if getattr(find, name) is not None}
    assert named.keys() == given_
    assert all(value.strip() == value != "" for value in named.values())
    assert not any(mark in value for value in named.values() for mark in "*?\\")


def test_the_two_ways_to_name_a_patient() -> None:
    assert asked_untrusted(Find(**BASE, **NUMBER)) == ByNumber("P1", "NORTH")
    assert asked_untrusted(Find(**BASE, **PERSON)) == ByPerson("Müller^Anna", "19700131", "F")
    assert {asked_untrusted(Find(**BASE, **{**PERSON, "sex": one})) for one in SEXES}


@pytest.mark.parametrize(
    "named",
    [
        {},
        {**NUMBER, **PERSON},
        {"patient_id": "P1"},
        {"issuer": "NORTH"},
        {**NUMBER, "name": "Müller^Anna"},
        {**NUMBER, "sex": ""},
        {**NUMBER, "patient_id": ""},
        {**NUMBER, "issuer": " "},
        {**NUMBER, "patient_id": " P1"},
        {**NUMBER, "patient_id": "P*"},
        {**NUMBER, "issuer": "NORTH\\SOUTH"},
        {"name": "Müller^Anna", "birth_date": "19700131"},
        {**PERSON, "name": "Müller"},
        {**PERSON, "name": "Müller^"},
        {**PERSON, "name": "^Anna"},
        {**PERSON, "name": "-^-"},
        {**PERSON, "name": "Müller^Anna^"},
        {**PERSON, "name": "Müller^Anna^Maria^Dr"},
        {**PERSON, "name": "Mü?ler^Anna"},
        {**PERSON, "name": "Müller^Anna\\Meier^Eva"},
        {**PERSON, "name": "Müller^Anna=x"},
        {**PERSON, "name": "Müller^Anna "},
        {**PERSON, "birth_date": "19700230"},
        {**PERSON, "birth_date": "1970013"},
        {**PERSON, "birth_date": "1970-1-1"},
        {**PERSON, "birth_date": "²9700131"},
        {**PERSON, "sex": "f"},
        {**PERSON, "sex": "X"},
    ],
)
def test_a_question_names_one_patient_wholly_and_in_one_way(named: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        asked_untrusted(Find(**BASE, **named))
    assert caught.value.code is WireCode.MALFORMED
    long = [value for value in named.values() if len(value) > 3]
    assert not any(value in str(caught.value) for value in long)


@pytest.mark.parametrize(
    "changes",
    [
        {"find": bytes(15)},
        {"source": b""},
        {"purpose": "x" * 33},
        {"person": 7},
        {"person": "a\nb"},
        {"time": -1},
        {"patient_id": "x" * (limits.FIND_CHARACTERS + 1)},
        {"patient_id": ["P1", "P2"]},
        {"name": b"bytes"},
        {"birth_date": "197001311"},
        {"sex": "FM"},
    ],
)
def test_bad_fields_are_refused(changes: dict[str, Any]) -> None:
    good = {"type": "find", **BASE, **NUMBER}
    messages.decode_untrusted(wire.pack(good), KNOWN)
    with pytest.raises(RemoteProtocolError):
        messages.decode_untrusted(wire.pack({**good, **changes}), KNOWN)


def record(study: str = "1.2.3", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "sequence": 1, "kind": "available", "study": study, "content_root": bytes(32),
        "series": 1, "instances": 1, "bytes": 1, "encoded_bytes": 1, "modalities": ("CT",),
        "study_date": "20260101", **changes,
    }  # fmt: skip
    return Record(**values)


def found(**changes: Any) -> Found:
    values: dict[str, Any] = {
        "find": bytes(16), "recipient": bytes(32), "question": b"q" * 32, "time": 0,
        "records": (record(), record("1.2.4")), **changes,
    }  # fmt: skip
    return Found(**values)


def check(answer: Found) -> None:
    check_found_untrusted(answer, find=bytes(16), recipient=bytes(32), question=b"q" * 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"find": b"x" * 16},
        {"recipient": b"x" * 32},
        {"question": b"x" * 32},
        {"records": (record(), record())},
        {"records": (record(kind="withdrawn"),)},
    ],
)
def test_an_answer_to_another_question_is_refused(changes: dict[str, Any]) -> None:
    check(found())
    check(found(records=()))
    with pytest.raises(RemoteProtocolError):
        check(found(**changes))


def test_an_answer_survives_and_is_bounded() -> None:
    answer = found(records=tuple(record(f"1.2.{n}") for n in range(limits.FIND_STUDIES)))
    signed = messages.sign(answer, KEY)
    assert len(signed.body) < limits.MESSAGE_BYTES // 4
    assert messages.open_signed_untrusted(signed, Found, KEY.public) == answer
    more = dataclasses.replace(answer, records=(*answer.records, record("1.3")))
    with pytest.raises(RemoteProtocolError):
        messages.decode_untrusted(messages.encode(more), KNOWN)


def test_other_protocols_take_none_of_them() -> None:
    for message in (Find(**BASE), found(), FindRefused(code=13, wait=60)):
        data = messages.encode(message)
        assert messages.decode_untrusted(data, KNOWN) == message
        with pytest.raises(RemoteProtocolError) as caught:
            messages.decode_untrusted(data)
        assert caught.value.code is WireCode.UNEXPECTED
    for wait in (-1, limits.FIND_DAY_SECONDS + 1):
        data = wire.pack({"type": "find-refused", "code": 13, "wait": wait})
        with pytest.raises(RemoteProtocolError):
            messages.decode_untrusted(data, KNOWN)
