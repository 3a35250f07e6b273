"""The conditions of a rule: what each one reads, and whether it holds for a study and a request.

A condition holds, fails, or it is unknown whether it holds: files lack attributes all the time.
A kind of condition that this release does not know is unknown always.

Lists of studies, accession numbers, patients and referring physicians are kept blinded
(`Facts.blind`), so that a rule, and the log that keeps it, names no person.
"""

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keys import written
from keys.purposes import covered_by, is_research
from keys.written import WEEKDAYS, YEAR_DAYS, BadCondition, Values, folded

VALUES = 1000
"""Most values of one condition."""

USES = ("care", "research")
"""What a patient's consent or objection is about: research (and training a model), and all else."""

DAY_SECONDS = 86_400

NOT_TO_PEER = "withdrawn from the peer"
"""The state of a study that this peer alone may not have."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Known facts about one study; None or "" if not known.

    Attributes:
        study_uid: Study Instance UID.
        state: "shared", or why not; for the peer that the decision is about.
        modalities: modalities in the study.
        body_parts: body parts named in the images.
        study_date: YYYYMMDD.
        accession: its accession number.
        patients: Patient ID and issuer of each patient that the images name.
        referring: the referring physician, as the images name them.
        institution: the institution that made it.
        more: further values of `study_date`, `accession`, `referring` and `institution`, each with
            its name, where the images differ; "" if there are some that are not known.
        is_deidentified: whether a de-identification report is bound to its content.
        consents: the uses for which the patient's consent to this peer is on file, some of `USES`;
            None if it is not known whose study it is.
        objections: the uses to which the patient objects for this peer, some of `USES`.
        blind: makes the form in which a rule keeps a value of a list, from kind and value.
    """

    study_uid: str
    state: str = ""
    modalities: tuple[str, ...] | None = None
    body_parts: tuple[str, ...] | None = None
    study_date: str = ""
    accession: str = ""
    patients: tuple[tuple[str, str], ...] = ()
    referring: str = ""
    institution: str = ""
    more: tuple[tuple[str, str], ...] = ()
    is_deidentified: bool | None = None
    consents: frozenset[str] | None = None
    objections: frozenset[str] = frozenset()
    blind: Callable[[str, str], str] = field(
        default=lambda kind, value: value, compare=False, repr=False
    )


@dataclass(frozen=True)
class Asked:
    """What conditions read of a request, beside the study; None or "" if not known.

    Attributes:
        now: seconds since the epoch, UTC.
        purpose: the purpose that is named.
        role: the role of the person who asks, by the peer's word.
        is_stat: whether it is urgent.
        minute: minute of the day by the facility's clock.
        weekday: 0 for Monday.
        uses: the uses, some of `USES`, that who asks or is told may make of a study.
    """

    now: int
    purpose: str = ""
    role: str = ""
    is_stat: bool | None = None
    minute: int | None = None
    weekday: int | None = None
    uses: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Failure:
    """A condition that does not hold, or of which it is unknown whether it holds.

    Attributes:
        kind: the condition.
        wanted: what it wants, for people here; "" if this release cannot read it.
        found: what was found instead, for people here; "" if it is not known.
    """

    kind: str
    wanted: str
    found: str

    @property
    def is_certain(self) -> bool:
        """Whether it surely does not hold."""
        return bool(self.found)

    @property
    def condition(self) -> str:
        """The condition in words, as in a rule."""
        return f"{self.kind}={self.wanted}" if self.wanted else f"{self.kind} of a later release"

    def __str__(self) -> str:
        return f"it wants {self.condition}, and {self.found or 'that is not known here'}"


@dataclass(frozen=True)
class _Kind:
    """One kind of condition.

    Attributes:
        read: makes the canonical values of what a person wrote; raises BadCondition.
        holds: whether it holds, or None if that is not known.
        found: what the study or request has instead, for people; "" for unknown.
        of_study: whether it is about the study alone, and not about who asks, why and when.
        is_hidden: whether its values are blinded.
        changes_with_time: whether the answer for one study changes from day to day.
        example: a value, for help.
    """

    read: Callable[[str], Values]
    holds: Callable[[Values, Facts | None, Asked], bool | None]
    found: Callable[[Facts | None, Asked], str]
    of_study: bool
    example: str
    is_hidden: bool = False
    changes_with_time: bool = False


# --- whether it holds ------------------------------------------------------------------


def _as_codes(found: Iterable[str] | None) -> tuple[str, ...]:
    """Codes of a study as a rule has them: files have small letters, and several values in one."""
    parts = (part.strip().upper() for text in found or () for part in text.split("\\"))
    return tuple(dict.fromkeys(part for part in parts if part))


def _any_of(get: Callable[[Facts], Iterable[str] | None]) -> Callable[..., bool | None]:
    def holds(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
        found = None if facts is None else get(facts)
        if not found:
            return None
        return any(one in values for one in found)

    return holds


def _all_of(get: Callable[[Facts], Iterable[str] | None]) -> Callable[..., bool | None]:
    def holds(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
        found = None if facts is None else get(facts)
        if not found:
            return None
        return all(one in values for one in found)

    return holds


def _in_all(name: str, one: Callable[..., bool | None]) -> Callable[..., bool | None]:
    """Whether a condition holds for each value that the images give an attribute.

    If it holds for some of them, it is not known: so it neither allows nor lets a deny pass.
    """

    def holds(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
        if facts is None:
            return one(values, None, asked)
        others: list[Any] = [{kind: text} for kind, text in facts.more if kind == name]
        ways = [facts, *(replace(facts, **other) for other in others)]
        found = {one(values, way, asked) for way in ways}
        return found.pop() if len(found) == 1 else None

    return holds


def _texted(get: Callable[[Facts], str], hide: str = "") -> Callable[..., bool | None]:
    """Whether a text is one of the values, kept blinded as of the kind `hide`.

    A value of a rule has no comma, as commas separate values: a text with commas is named if all of
    its parts are. If only some are, or the text could not be decoded, it is not known.
    """

    def holds(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
        text = "" if facts is None else get(facts)
        if facts is None or not text:
            return None
        parts = [part.strip() for part in text.split(",") if part.strip()]
        named = {(facts.blind(hide, one) if hide else one) in values for one in parts}
        if named == {True}:
            return True
        return None if True in named or _UNDECODED in text else False

    return holds


_UNDECODED = "\N{REPLACEMENT CHARACTER}"


def _blinded(kind: str, get: Callable[[Facts], Iterable[str]]) -> Callable[..., bool | None]:
    def holds(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
        found = () if facts is None else tuple(get(facts))
        if facts is None or not found:
            return None
        return any(facts.blind(kind, one) in values for one in found)

    return holds


def _hide_patient(value: str, blind: Callable[[str, str], str]) -> str:
    """A patient in the form of a rule: blinded with the issuer, and the number by itself."""
    number = value.rpartition("@")[0]
    return f"{blind('patient', value)}/{blind('patient-number', number)}"


def _of_patient(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    """Whether the study is of patients of the list, and of nobody else.

    A patient is a number with its issuer. If only one of list and study names an issuer, it is not
    known whether they mean the same patient: another hospital may use the number for somebody else.
    Nor is it known of a study that names a patient of the list and another one.
    """
    if facts is None or not facts.patients:
        return None
    wanted = {value.rpartition("/")[0] for value in values}
    numbers = {value.rpartition("/")[2] for value in values}

    def is_listed(patient: str, issuer: str) -> bool | None:
        if facts.blind("patient-number", patient) not in numbers:
            return False
        if facts.blind("patient", f"{patient}@{issuer}") in wanted:
            return True
        if not issuer or facts.blind("patient", f"{patient}@") in wanted:
            return None
        return False

    found = {is_listed(*each) for each in facts.patients}
    return found.pop() if len(found) == 1 else None


def _date(facts: Facts | None) -> str:
    """The date of the study; "" if it has none, or one that no calendar has."""
    text = "" if facts is None else facts.study_date
    return text if re.fullmatch(r"[0-9]{8}", text) and _calendar_day(text) else ""


def _calendar_day(text: str) -> datetime.date | None:
    try:
        return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _not_before(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    date = _date(facts)
    return date >= values[0] if date else None


def _not_after(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    date = _date(facts)
    return date <= values[0] if date else None


def _not_older(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    day = _calendar_day(_date(facts))
    if day is None:
        return None
    today = datetime.datetime.fromtimestamp(asked.now, datetime.UTC).date()
    return (today - day).days <= int(values[0])


def _for_purpose(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    return covered_by(values, asked.purpose) if asked.purpose else None


def _by_role(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    role = folded(asked.role)
    return role in values if role else None


def _in_hours(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    if asked.minute is None:
        return None
    return any(_is_within(asked.minute, one) for one in values)


def _is_within(minute: int, span: str) -> bool:
    begin, end = (int(one[:2]) * 60 + int(one[3:]) for one in span.split("-"))
    # A span may go over midnight.
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def _on_days(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    return None if asked.weekday is None else WEEKDAYS[asked.weekday] in values


def _with_consent(values: Values, facts: Facts | None, asked: Asked) -> bool | None:
    if facts is None or facts.consents is None:
        return None
    wanted = {use_of(asked.purpose)} if asked.purpose else asked.uses
    return bool(wanted & facts.consents) if wanted else None


def use_of(purpose: str) -> str:
    """The use that a purpose is: one of `USES`."""
    return "research" if is_research(purpose) else "care"


# --- what was found instead ------------------------------------------------------------


def _list(get: Callable[[Facts], Iterable[str] | None]) -> Callable[[Facts | None, Asked], str]:
    def found(facts: Facts | None, asked: Asked) -> str:
        values = [] if facts is None else list(get(facts) or ())
        return f"the study has {', '.join(values)}" if values else ""

    return found


def _other(what: str) -> Callable[[Facts | None, Asked], str]:
    return lambda facts, asked: f"the study is of another {what}"


def _says(what: str, get: Callable[[Asked], object]) -> Callable[[Facts | None, Asked], str]:
    return lambda facts, asked: f"{what} is {get(asked)}"


def _dated(facts: Facts | None, asked: Asked) -> str:
    date = _date(facts)
    return f"the study is of {date[:4]}-{date[4:6]}-{date[6:]}"


def _time(facts: Facts | None, asked: Asked) -> str:
    minute = asked.minute or 0
    return f"it is {minute // 60:02}:{minute % 60:02}"


def _today(facts: Facts | None, asked: Asked) -> str:
    return f"it is {WEEKDAYS[asked.weekday or 0]}"


def _no(what: str) -> Callable[[Facts | None, Asked], str]:
    return lambda facts, asked: what


KINDS: Mapping[str, _Kind] = {
    "modality": _Kind(
        written.codes,
        _any_of(lambda f: _as_codes(f.modalities)),
        _list(lambda f: f.modalities),
        True,
        "CT,MR",
    ),
    "only-modality": _Kind(
        written.codes,
        _all_of(lambda f: _as_codes(f.modalities)),
        _list(lambda f: f.modalities),
        True,
        "CT,SR",
    ),
    "body-part": _Kind(
        written.codes,
        _any_of(lambda f: _as_codes(f.body_parts)),
        _list(lambda f: f.body_parts),
        True,
        "CHEST,HEAD",
    ),
    "from": _Kind(written.day, _in_all("study_date", _not_before), _dated, True, "2020-01-01"),
    "to": _Kind(written.day, _in_all("study_date", _not_after), _dated, True, "2027-03-31"),
    "max-age": _Kind(
        written.age, _in_all("study_date", _not_older), _dated, True, "5y", changes_with_time=True
    ),
    "study": _Kind(
        written.uids,
        _blinded("study", lambda f: (f.study_uid,)),
        _other("UID"),
        True,
        "1.2.840...",
        True,
    ),
    "accession": _Kind(
        written.numbers,
        _in_all("accession", _texted(lambda f: f.accession, "accession")),
        _other("accession number"),
        True,
        "A100,A101",
        True,
    ),
    "patient": _Kind(
        written.patients, _of_patient, _other("patient"), True, "4711@NORTH,4712@NORTH", True
    ),
    "referring": _Kind(
        written.texts,
        _in_all("referring", _texted(lambda f: folded(f.referring), "referring")),
        _other("referring physician"),
        True,
        "Muster^Anna",
        True,
    ),
    "institution": _Kind(
        written.texts,
        _in_all("institution", _texted(lambda f: folded(f.institution))),
        _list(lambda f: (f.institution,) if f.institution else ()),
        True,
        "North General",
    ),
    "deidentified": _Kind(
        written.yes,
        lambda values, facts, asked: None if facts is None else facts.is_deidentified,
        _no("the study is not de-identified"),
        True,
        "yes",
    ),
    "consent": _Kind(
        written.yes,
        _with_consent,
        _no("there is no consent on file"),
        True,
        "yes",
    ),
    "purpose": _Kind(
        written.purposes,
        _for_purpose,
        _says("the purpose", lambda a: a.purpose),
        False,
        "TREAT,HRESCH",
    ),
    "role": _Kind(
        written.texts, _by_role, _says("the role", lambda a: a.role), False, "radiologist"
    ),
    "hours": _Kind(written.hours, _in_hours, _time, False, "08:00-18:00"),
    "days": _Kind(written.days, _on_days, _today, False, "mon-fri"),
    "stat": _Kind(
        written.yes,
        lambda values, facts, asked: asked.is_stat,
        _no("it is not urgent"),
        False,
        "yes",
    ),
}
"""The conditions that this release reads, by name."""

HIDDEN = frozenset(kind for kind, known in KINDS.items() if known.is_hidden)
"""The conditions whose values are kept blinded."""


def read(kind: str, text: str, blind: Callable[[str, str], str]) -> Values:
    """The canonical values of a condition that a person wrote.

    Args:
        kind: one of `KINDS`.
        text: its values, with commas between them.
        blind: see `Facts.blind`.

    Raises:
        BadCondition: there is no such condition, or it cannot have these values.
    """
    known = KINDS.get(kind)
    if known is None:
        raise BadCondition(f"there is no condition {kind!a}; there are {', '.join(KINDS)}")
    values = known.read(text)
    if not values:
        raise BadCondition(f"the condition {kind} has no value")
    if len(values) > VALUES:
        raise BadCondition(f"the condition {kind} has more than {VALUES} values")
    if known.is_hidden:
        hide = _hide_patient if kind == "patient" else lambda one, by: by(kind, one)
        values = tuple(sorted(hide(one, blind) for one in values))
    return values


def is_read(kind: str, values: Values) -> bool:
    """Whether this release reads these values of a condition; any names, and blinded ones, are."""
    known = KINDS.get(kind)
    if known is None or not values:
        return False
    if known.is_hidden or known.read is written.texts:
        return True
    try:
        return all(known.read(one) == (one,) for one in values)
    except BadCondition:
        return False


def shown(kind: str, values: Values) -> str:
    """The values of a condition for people; of a blinded list only how many there are."""
    known = KINDS.get(kind)
    if known is not None and known.is_hidden:
        return f"{len(values)} listed"
    if kind in ("from", "to") and values:
        return f"{values[0][:4]}-{values[0][4:6]}-{values[0][6:]}"
    # A peer may have told us of an age in a form of a later release.
    if kind == "max-age" and values and re.fullmatch(r"[0-9]{1,8}", values[0]):
        days = int(values[0])
        return f"{days}d" if days % YEAR_DAYS else f"{days // YEAR_DAYS}y"
    return ",".join(values)


def failure(kind: str, values: Values, facts: Facts | None, asked: Asked) -> Failure | None:
    """Why a condition does not hold, or that this is not known; None if it holds."""
    known = KINDS.get(kind)
    if known is None or not values:
        return Failure(kind, "", "")
    holds = known.holds(values, facts, asked)
    if holds:
        return None
    return Failure(kind, shown(kind, values), "" if holds is None else known.found(facts, asked))
