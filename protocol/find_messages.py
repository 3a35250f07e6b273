"""The messages of `/radmesh/find/1`: a search for one patient (docs/protocol.md section 11).

A stream carries one question and one answer, or a refusal. A question names one patient wholly: a
Patient ID with its issuer, or name, birth date and sex. It has no wildcards, so nobody can leaf
through the patients of a facility. The answer has records as they are announced, and nothing about
the patient that the question did not say.
"""

from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.fields import maps, number, octets, text
from protocol.messages import Message, Record

SEXES = ("M", "F", "O")
"""Patient's Sex, PS3.3 section C.7.1.1."""

_WILDCARDS = "*?\\"
"""Wildcards of DICOM queries (PS3.4 section C.2.2.2.4), and what separates several values."""


@dataclass(frozen=True, kw_only=True)
class Find(Message):
    """Ask for the shared studies of one patient; always `Signed` by the asker's node key.

    `source` is the node key that is asked. Either `patient_id` and `issuer` are there, or `name`,
    `birth_date` and `sex`. `person` is who asks, by the asker's word, or empty. `time` is
    milliseconds since the epoch, UTC.
    """

    TYPE: ClassVar[str] = "find"
    find: bytes = octets(16)
    source: bytes = octets(32)
    purpose: str = text(32)
    person: str = text(limits.NAME_CHARACTERS)
    time: int = number()
    patient_id: str | None = text(limits.FIND_CHARACTERS, optional=True)
    issuer: str | None = text(limits.FIND_CHARACTERS, optional=True)
    name: str | None = text(limits.FIND_CHARACTERS, optional=True)
    birth_date: str | None = text(8, optional=True)
    sex: str | None = text(1, optional=True)


@dataclass(frozen=True, kw_only=True)
class Found(Message):
    """The studies of the patient that the asker may know of; always `Signed` by the source.

    `question` is the BLAKE3 digest of the signed question's body. The list is complete: an asker
    is refused where it would be longer than a message may be.
    """

    TYPE: ClassVar[str] = "found"
    find: bytes = octets(16)
    recipient: bytes = octets(32)
    question: bytes = octets(32)
    time: int = number()
    records: tuple[Record, ...] = maps(Record, limits.FIND_STUDIES)


@dataclass(frozen=True, kw_only=True)
class FindRefused(Message):
    """No answer; `code` is a `WireCode`, `wait` after how many seconds the asker may ask again."""

    TYPE: ClassVar[str] = "find-refused"
    code: int = number(255)
    wait: int = number(limits.FIND_DAY_SECONDS)


@dataclass(frozen=True)
class ByNumber:
    """A patient named by Patient ID and issuer."""

    patient_id: str
    issuer: str


@dataclass(frozen=True)
class ByPerson:
    """A patient named by name (`FAMILY^GIVEN` or `FAMILY^GIVEN^MIDDLE`), birth date (YYYYMMDD) and
    sex (one of `SEXES`)."""

    name: str
    birth_date: str
    sex: str


Asked = ByNumber | ByPerson


def asked_untrusted(find: Find) -> Asked:
    """The one patient whom a question names.

    Raises:
        RemoteProtocolError: it names none, or in two ways, or not wholly, or has a wildcard.
    """
    by_number = (find.patient_id, find.issuer)
    by_person = (find.name, find.birth_date, find.sex)
    if by_person == (None, None, None) and find.patient_id is not None and find.issuer is not None:
        asked: Asked = ByNumber(find.patient_id, find.issuer)
    elif (
        by_number == (None, None)
        and find.name is not None
        and find.birth_date is not None
        and find.sex is not None
    ):
        asked = ByPerson(find.name, find.birth_date, find.sex)
    else:
        raise RemoteProtocolError("a question must name one patient, in one way and wholly")
    wrong = why_not_whole(asked)
    if wrong:
        raise RemoteProtocolError(wrong)
    return asked


def why_not_whole(asked: Asked) -> str:
    """Why a patient is not named wholly; "" if it is. Repeats no value."""
    if isinstance(asked, ByNumber):
        texts = (asked.patient_id, asked.issuer)
        if not all(map(_is_plain, texts)):
            return "Patient ID and issuer must be whole, without wildcards"
        return ""
    components = asked.name.split("^")
    if (
        not 2 <= len(components) <= 3
        or not all(any(map(str.isalnum, one)) for one in components)
        or not _is_plain(asked.name)
        or "=" in asked.name
    ):
        return "the name must be FAMILY^GIVEN or FAMILY^GIVEN^MIDDLE, without wildcards"
    if not _is_day(asked.birth_date):
        return "the birth date must be a day, as YYYYMMDD"
    return "" if asked.sex in SEXES else f"the sex must be one of {', '.join(SEXES)}"


def _is_plain(value: str) -> bool:
    return value == value.strip() != "" and not any(mark in value for mark in _WILDCARDS)


def _is_day(value: str) -> bool:
    if len(value) != 8 or not value.isascii() or not value.isdigit():
        return False
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return False
    return True


def check_found_untrusted(found: Found, *, find: bytes, recipient: bytes, question: bytes) -> None:
    """Check that an answer is one to this question.

    Args:
        found: the answer, its signature checked.
        find: the question's name, 16 bytes.
        recipient: our node key, 32 bytes.
        question: BLAKE3 digest of the signed question's body.

    Raises:
        RemoteProtocolError: it answers another question, or its records are none of studies that
            can be had, or name one study twice.
    """
    if (found.find, found.recipient, found.question) != (find, recipient, question):
        raise RemoteProtocolError("the answer is to another question")
    studies = [record.study for record in found.records]
    if len(set(studies)) != len(studies):
        raise RemoteProtocolError("the answer names a study twice")
    if any(record.kind != "available" for record in found.records):
        raise RemoteProtocolError("the answer has a study that cannot be had")
