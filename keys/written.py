"""The values of conditions as a person writes them, and their canonical form.

Each function takes the text behind `NAME=` and raises `BadCondition` where it cannot be read.
"""

import datetime
import re
import unicodedata

from keys.purposes import is_purpose

Values = tuple[str, ...]
"""The values of one condition, in their canonical form; one of them is enough."""

YEAR_DAYS = 365
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TEXT_CHARACTERS = 128
_MINUTES = 24 * 60


class BadCondition(ValueError):
    """A condition that cannot be read; the text says why."""


def folded(text: str) -> str:
    """Text for comparing names: compatible forms are one, without case and outer blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _split(text: str) -> Values:
    return tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))


def codes(text: str) -> Values:
    """Code strings as DICOM has them (PS3.5 6.2, CS)."""
    values = tuple(dict.fromkeys(one.upper() for one in _split(text)))
    for one in values:
        if re.fullmatch(r"[A-Z0-9_ ]{1,16}", one) is None:
            raise BadCondition(f"{one!a} is no code of at most 16 letters, digits and underscores")
    return values


def texts(text: str) -> Values:
    """Names, folded."""
    # A wide comma is one, too, once it is folded.
    values = _split(folded(text))
    for one in values:
        if len(one) > _TEXT_CHARACTERS or not one.isprintable():
            raise BadCondition(f"a value has more than {_TEXT_CHARACTERS} printable characters")
    return values


def uids(text: str) -> Values:
    """UIDs, with commas between them."""
    values = _split(text)
    for one in values:
        if re.fullmatch(r"[0-9.]{1,64}", one) is None:
            raise BadCondition(f"{one!a} is no UID")
    return values


def numbers(text: str) -> Values:
    """Accession numbers and the like, as files may have them."""
    values = _split(text)
    for one in values:
        if len(one) > _TEXT_CHARACTERS or not one.isprintable():
            raise BadCondition(f"a value has more than {_TEXT_CHARACTERS} printable characters")
    return values


def patients(text: str) -> Values:
    """Patient IDs, each with its issuer after the last `@`, or without."""
    values = []
    for one in numbers(text):
        patient, _, issuer = one.rpartition("@") if "@" in one else (one, "", "")
        if not patient:
            raise BadCondition("a Patient ID is missing before @")
        values.append(f"{patient.strip()}@{issuer.strip()}")
    return tuple(dict.fromkeys(values))


def day(text: str) -> Values:
    """One date, as YYYYMMDD."""
    try:
        return (datetime.date.fromisoformat(text.strip()).strftime("%Y%m%d"),)
    except ValueError:
        raise BadCondition(f"{text!a} is no date such as 2027-03-31") from None


def age(text: str) -> Values:
    """One age, in days."""
    found = re.fullmatch(r"([0-9]{1,8})\s*(d|days?|y|years?)?", text.strip())
    number = 0 if found is None else int(found[1])
    days = number * (YEAR_DAYS if found is not None and (found[2] or "d")[0] == "y" else 1)
    if not 0 < days < 10**8:
        raise BadCondition(f"{text!a} is no age such as 90d or 5y")
    return (str(days),)


def purposes(text: str) -> Values:
    """Purposes, see `keys.purposes`."""
    values = _split(text)
    for one in values:
        if not is_purpose(one):
            raise BadCondition(
                f"there is no purpose {one!a}; purposes are treatment, second-opinion, research,"
                " operations, and HL7 codes such as TREAT, ETREAT, HRESCH, BTG"
            )
    return values


def yes(text: str) -> Values:
    """The only value of a condition that is there or not."""
    if text.strip().casefold() != "yes":
        raise BadCondition("deidentified, consent and stat take only yes: leave them out instead")
    return ("yes",)


def hours(text: str) -> Values:
    """Spans of a day, which may go over midnight."""
    values = []
    for one in _split(text):
        found = re.fullmatch(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})", one)
        if found is None or not _is_span(*(int(part) for part in found.groups())):
            raise BadCondition(f"{one!a} is no time of day such as 08:00-18:00")
        values.append(one)
    return tuple(values)


def _is_span(hour: int, minute: int, to_hour: int, to_minute: int) -> bool:
    begin, end = hour * 60 + minute, to_hour * 60 + to_minute
    return minute < 60 and to_minute < 60 and begin < _MINUTES and end <= _MINUTES and begin != end


def days(text: str) -> Values:
    """Days of the week, in their order."""
    values: list[str] = []
    for one in _split(text.casefold()):
        first, dash, last = one.partition("-")
        if first not in WEEKDAYS or (dash and last not in WEEKDAYS):
            raise BadCondition(f"{one!a} is no day such as mon or mon-fri")
        begin = WEEKDAYS.index(first)
        length = (WEEKDAYS.index(last) - begin) % 7 + 1 if dash else 1
        values += [WEEKDAYS[(begin + step) % 7] for step in range(length)]
    return tuple(day for day in WEEKDAYS if day in values)
