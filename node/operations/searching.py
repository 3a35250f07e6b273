"""Reads from an operation's parameters which studies a person looks for."""

from dataclasses import dataclass
from datetime import date

from node.catalog.names import words
from node.catalog.words import Search
from node.errors import ExitCode, NodeError

_TO = ".."


@dataclass(frozen=True, kw_only=True)
class Sought:
    """Parameters that narrow a list of studies; "" is any.

    `study_date` is one day, or two with `..` between, of which one may be missing.
    """

    name: str = ""
    patient_id: str = ""
    issuer: str = ""
    birth_date: str = ""
    accession_number: str = ""
    modality: str = ""
    study_date: str = ""


def read_search(asked: Sought) -> Search:
    """The search by these parameters.

    Raises:
        NodeError: a date is malformed, an issuer stands without its Patient ID, or a name has no
            letter. The text does not repeat a value, which may name a patient.
    """
    if asked.issuer and not asked.patient_id:
        raise NodeError(
            "an issuer alone finds no patient",
            hint="give the Patient ID, too: --patient-id ID --issuer ISSUER",
            code=ExitCode.USAGE,
        )
    if asked.name and not words(asked.name):
        raise NodeError("the name to look for has no letter", code=ExitCode.USAGE)
    first, is_range, last = asked.study_date.partition(_TO)
    if not is_range:
        last = first
    elif asked.study_date.strip() == _TO:
        raise _no_date("study date")
    found = Search(
        name=asked.name,
        patient_id=asked.patient_id.strip(),
        issuer=asked.issuer.strip(),
        birth_date=read_date(asked.birth_date, "birth date"),
        accession_number=asked.accession_number.strip(),
        modality=asked.modality.strip().upper(),
        first_date=read_date(first, "study date"),
        last_date=read_date(last, "study date"),
    )
    if found.last_date and found.first_date > found.last_date:
        raise NodeError("the last study date is before the first", code=ExitCode.USAGE)
    return found


def read_date(text: str, what: str) -> str:
    """A day as YYYYMMDD; it may have hyphens; "" for "".

    Raises:
        NodeError: there is no such day.
    """
    wanted = text.strip()
    digits = wanted.replace("-", "")
    if not wanted:
        return ""
    if wanted not in (digits, f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"):
        raise _no_date(what)
    try:
        if len(digits) != 8 or not digits.isascii():
            raise ValueError
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        raise _no_date(what) from None
    return digits


def _no_date(what: str) -> NodeError:
    return NodeError(
        f"the {what} is not a day that there is",
        hint="write it 2026-01-31; several days are 2026-01-01..2026-01-31",
        code=ExitCode.USAGE,
    )


def with_components(name: str) -> str:
    """`FAMILY^GIVEN`, also where a person wrote `Family, Given`."""
    components = name.split("^") if "^" in name else name.split(",")
    return "^".join(one.strip() for one in components)
