"""Local patients who may be meant, asked of the systems of the facility by C-FIND.

An archive is asked for the patient's studies (PS3.4 annex C), a worklist for what is planned (annex
K). Only a name with a birth date is asked for, or a Patient ID: never all patients. What comes back
proposes; a person decides.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from edges.dimse.data_sets import (
    BadDataSet,
    DataSet,
    Value,
    decode_data_set,
    sequence,
)
from edges.dimse.negotiation import EXPLICIT, IMPLICIT, Accepted
from edges.dimse.querying import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from node.catalog.names import same
from node.dicom.texts import encoded
from node.edges import dimse_find
from node.edges.archive_settings import ArchiveSettings
from node.edges.dimse_client import Callee, Calling, associated
from node.edges.match_rows import LocalPatient
from node.edges.unmatched import PatientThere
from node.errors import ExitCode, NodeError

WORKLIST_FIND = "1.2.840.10008.5.1.4.31"

ANSWERS = 200
"""Most answers of one system that are read: then it is asked to stop."""

PLANNED = 2000
"""Most entries of a day's worklist that are read."""

PATIENTS = 20
"""Most patients that are proposed of one system."""

ANSWER_SECONDS = 10.0

_CHARACTER_SET = 0x00080005
_ACCESSION, _LEVEL = 0x00080050, 0x00080052
_NAME, _ID, _ISSUER = 0x00100010, 0x00100020, 0x00100021
_BIRTH_DATE, _SEX = 0x00100030, 0x00100040
_STUDY_UID = 0x0020000D
_STEPS = 0x00400100
_STEP_MODALITY, _STEP_DATE = 0x00080060, 0x00400002

_VRS = {
    _CHARACTER_SET: "CS", _ACCESSION: "SH", _LEVEL: "CS", _NAME: "PN", _ID: "LO", _ISSUER: "LO",
    _BIRTH_DATE: "DA", _SEX: "CS", _STUDY_UID: "UI", _STEPS: "SQ", _STEP_MODALITY: "CS",
    _STEP_DATE: "DA",
}  # fmt: skip

_UTF_8 = b"ISO_IR 192"


@dataclass(frozen=True, kw_only=True)
class PatientSystem:
    """A system that knows the patients of this facility.

    Attributes:
        name: ours for it.
        callee: how it is called.
        is_worklist: whether it is asked for what is planned; else for studies.
    """

    name: str
    callee: Callee
    is_worklist: bool = False

    @property
    def sop_classes(self) -> tuple[str, ...]:
        """The queries that it may answer, the best first."""
        return (WORKLIST_FIND,) if self.is_worklist else (STUDY_ROOT_FIND, PATIENT_ROOT_FIND)


class HasSystems(Protocol):
    """The settings that name the systems."""

    @property
    def archives(self) -> Mapping[str, ArchiveSettings]:
        """The archives, by name."""

    @property
    def worklists(self) -> Mapping[str, ArchiveSettings]:
        """The worklists, by name."""


def systems_of(settings: HasSystems) -> list[PatientSystem]:
    """The systems that know the patients of this facility: archives by DICOM, and worklists.

    Raises:
        NodeError: a file for TLS cannot be used.
    """
    archives = (one for one in settings.archives.values() if not one.stow)
    return [
        *(PatientSystem(name=one.name, callee=one.callee()) for one in archives),
        *(
            PatientSystem(name=one.name, callee=one.callee(), is_worklist=True)
            for one in settings.worklists.values()
        ),
    ]


def questions(there: PatientThere) -> list[dict[int, str]]:
    """The keys by which a patient is asked for, the most telling first; none if nothing tells.

    A family name is asked for with `*` behind it, as systems write given names in many ways; what
    does not fit is left out afterwards.
    """
    found: list[dict[int, str]] = []
    patient_id, birth_date = _literal(there.patient_id), _literal(there.birth_date)
    family = _literal(there.name.partition("=")[0].partition("^")[0])
    if patient_id:
        found.append({_ID: patient_id})
    if family and birth_date:
        found.append({_NAME: f"{family}*", _BIRTH_DATE: birth_date})
    return found


def _literal(text: str) -> str:
    """A text without blanks around it; "" if it has a sign with a meaning in a query."""
    stripped = text.strip()
    return "" if any(sign in stripped for sign in "*?\\") else stripped


async def ask(system: PatientSystem, there: PatientThere) -> list[LocalPatient]:
    """The local patients of one system who may be meant, the most likely first.

    Raises:
        NoAssociation: it is not there, or does not answer.
        NodeError: it refuses the question.
    """
    asked = questions(there)
    if not asked:
        return []
    proposed = [(one, (EXPLICIT, IMPLICIT)) for one in system.sop_classes]
    found: dict[tuple[str, str], LocalPatient] = {}
    async with associated(system.callee, proposed) as calling:
        context = next(
            (one for each in system.sop_classes if (one := calling.context(each)) is not None), None
        )
        if context is None:
            raise _refused(system, "does not answer queries")
        for keys in asked:
            for answer in await _answers(system, calling, context, keys, ANSWERS):
                local = _patient(answer, there, system)
                if local is not None:
                    found.setdefault((local.patient_id, local.issuer), local)
    return sorted(found.values(), key=lambda one: _rank(one, there))[:PATIENTS]


async def planned(system: PatientSystem, date: str) -> list[LocalPatient]:
    """The patients for whom something is planned on a day (YYYYMMDD); `PLANNED` at most.

    Raises:
        NoAssociation: the worklist is not there, or does not answer.
        NodeError: it refuses the question.
    """
    found: dict[tuple[str, str], LocalPatient] = {}
    async with associated(system.callee, [(WORKLIST_FIND, (EXPLICIT, IMPLICIT))]) as calling:
        context = calling.context(WORKLIST_FIND)
        if context is None:
            raise _refused(system, "serves no worklist")
        for answer in await _answers(system, calling, context, {_STEP_DATE: date}, PLANNED):
            patient_id, issuer = _text(answer, _ID), _text(answer, _ISSUER)
            if patient_id:
                local = LocalPatient(patient_id=patient_id, issuer=issuer)
                found.setdefault((patient_id, issuer), local)
    return list(found.values())


async def _answers(
    system: PatientSystem,
    calling: Calling,
    context: Accepted,
    keys: dict[int, str],
    most: int,
) -> list[DataSet]:
    found: list[DataSet] = []
    asked = dimse_find.found(
        calling,
        context,
        _identifier(keys, context.abstract_syntax),
        lambda status: _refused(system, f"answers a query with {status}"),
        answer_seconds=ANSWER_SECONDS,
    )
    async with contextlib.aclosing(asked) as answers:
        async for answer in answers:
            found += _read(answer, context)
            if len(found) == most:
                break
    return found


def _read(answer: bytes, context: Accepted) -> Iterator[DataSet]:
    # One answer that cannot be read does not take the others away.
    with contextlib.suppress(BadDataSet):
        yield decode_data_set(answer, context.transfer_syntax, _VRS)


def _identifier(keys: dict[int, str], sop_class: str) -> dict[int, Value]:
    wanted = dict.fromkeys((_NAME, _ID, _ISSUER, _BIRTH_DATE, _SEX, _ACCESSION), "")
    character_set = b"" if all(one.isascii() for one in keys.values()) else _UTF_8
    found = {
        tag: Value(_VRS[tag], encoded(text, character_set, is_name=tag == _NAME) or b"")
        for tag, text in (wanted | keys).items()
    }
    if character_set:
        found[_CHARACTER_SET] = Value("CS", character_set)
    if sop_class == WORKLIST_FIND:
        step = {_STEP_MODALITY: Value("CS"), _STEP_DATE: found.pop(_STEP_DATE, Value("DA"))}
        return {**found, _STEPS: sequence([step])}
    level = b"PATIENT" if sop_class == PATIENT_ROOT_FIND else b"STUDY"
    if sop_class == PATIENT_ROOT_FIND:
        del found[_ACCESSION]
    else:
        found[_STUDY_UID] = Value("UI")
    return {**found, _LEVEL: Value("CS", level)}


def _patient(answer: DataSet, there: PatientThere, system: PatientSystem) -> LocalPatient | None:
    """The patient of an answer, if there is reason to propose him or her."""
    name, birth_date, patient_id = (_text(answer, one) for one in (_NAME, _BIRTH_DATE, _ID))
    is_named_so = bool(name) and same(name, there.name)
    is_born_then = bool(birth_date) and birth_date == there.birth_date
    if not patient_id or not ((is_born_then and is_named_so) or patient_id == there.patient_id):
        return None
    reasons = ["name" * is_named_so, "birth date" * is_born_then]
    reasons.append("Patient ID" * (patient_id == there.patient_id))
    same_in = ", ".join(filter(None, reasons))
    where = "planned in" if system.is_worklist else "known to"
    return LocalPatient(
        patient_id=patient_id,
        issuer=_text(answer, _ISSUER),
        name=name,
        birth_date=birth_date,
        sex=_text(answer, _SEX),
        accession_number=_text(answer, _ACCESSION) if system.is_worklist else "",
        why=f"same {same_in}; {where} {system.name}",
    )


def _text(answer: DataSet, tag: int) -> str:
    return dimse_find.text_of(answer, tag, is_name=tag == _NAME)


def _rank(local: LocalPatient, there: PatientThere) -> tuple[bool, bool, bool, str]:
    is_named_so = same(local.name, there.name) if local.name else False
    return (
        not (is_named_so and local.birth_date == there.birth_date),
        local.sex != there.sex,
        not local.accession_number,
        local.patient_id,
    )


def _refused(system: PatientSystem, what: str) -> NodeError:
    return NodeError(
        f"{system.name} {what}",
        hint="is it the right AE title, and does it let ours ask?",
        code=ExitCode.REFUSED,
    )


async def ask_all(
    systems: Sequence[PatientSystem], there: PatientThere
) -> tuple[list[LocalPatient], list[str]]:
    """The local patients of all systems, each once, and why a system could not be asked."""
    answers: list[list[LocalPatient]] = [[] for _ in systems]
    failed: list[str] = []

    async def one(index: int, system: PatientSystem) -> None:
        try:
            answers[index] = await ask(system, there)
        except NodeError as error:
            failed.append(error.message)

    async with trio.open_nursery() as nursery:
        for index, system in enumerate(systems):
            nursery.start_soon(one, index, system)
    found: dict[tuple[str, str], LocalPatient] = {}
    for each in answers:
        for local in each:
            found.setdefault((local.patient_id, local.issuer), local)
    return list(found.values()), sorted(failed)
