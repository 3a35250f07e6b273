"""Operations on which local patient a study from elsewhere is of."""

from dataclasses import asdict, dataclass
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.edges.match_rows import TEMPORARY, UNDONE, LocalPatient, Match
from node.edges.unmatched import PatientThere, Waiting
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.paging import cursor, place_of
from node.operations.searching import read_date, with_components

PAGE_MATCHES = 50
"""Most studies of a page: for each, other systems may be asked who is meant."""


@dataclass(frozen=True)
class Listed:
    """Parameters of `match.list`: one study, or a page of all that wait."""

    study: str = ""
    after: str | None = None


@dataclass(frozen=True)
class Matched:
    """Parameters of `match.set`: a local patient, or `temporary`.

    `several` says that a person has looked, and the patients that the images name are one.
    """

    study: str
    patient_id: str = ""
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""
    temporary: bool = False
    several: bool = False


@dataclass(frozen=True)
class OfStudy:
    """Parameters of `match.undo`."""

    study: str


def _describe_match(match: Match | None) -> dict[str, Any] | None:
    if match is None or match.state == UNDONE:
        return None
    return {
        "patient_id": match.patient_id,
        "issuer": match.issuer,
        "name": match.name,
        "birth_date": match.birth_date,
        "sex": match.sex,
        "accession_number": match.accession_number,
        "temporary": match.state == TEMPORARY,
        "rule": match.rule,
        "made": match.made,
    }


def _describe(node: Node, one: Waiting) -> dict[str, Any]:
    """A study that waits as JSON; reads the database."""
    row = one.row
    return {
        "study": row.study_uid,
        "origin": node.matches.petname_of(row) or row.origin,
        "modalities": list(row.modalities),
        "study_date": row.study_date,
        "description": row.description,
        "accession_number": row.accession_number,
        "patient": asdict(one.there),
        "patients": [{"patient_id": each, "issuer": issuer} for each, issuer in one.patients],
        "why": one.why,
        "match": _describe_match(one.match),
        "proposals": [asdict(each) for each in node.unmatched.proposals(one)],
        "not_asked": [],
    }


def _list(node: Node, asked: Listed) -> Result:
    if asked.study:
        study = node.catalog.find_study(asked.study).study_uid
        waiting = node.unmatched.one(study)
        found = [] if waiting is None else [_describe(node, waiting)]
        match = _describe_match(node.matches.of(study))
        return {"studies": found, "next": None, "study": study, "match": match}
    after = None if asked.after is None else place_of(asked.after, str, str)
    begin = None if after is None else (after[0], after[1])
    page, end = node.unmatched.page(PAGE_MATCHES, begin)
    return {
        "studies": [_describe(node, one) for one in page],
        "next": None if end is None else cursor(*end),
    }


async def match_list(call: Call, asked: Listed) -> Result:
    """The studies that wait for a person, with the local patients who may be meant.

    For one study the archives and worklists of the facility are asked, too.
    """
    result = await in_thread(_list, call.node, asked)
    if asked.study:
        # Loads what reads DICOM texts: small commands need none of it.
        from node.edges.patient_query import ask_all, systems_of

        systems = await in_thread(systems_of, call.node.settings)
        for one in result["studies"]:
            found, failed = await ask_all(systems, PatientThere(**one["patient"]))
            known = {(each["patient_id"], each["issuer"]) for each in one["proposals"]}
            one["proposals"] += [
                asdict(each) for each in found if (each.patient_id, each.issuer) not in known
            ]
            one["not_asked"] += failed
    return result


def _set(node: Node, asked: Matched) -> Match:
    study = node.catalog.find_study(asked.study).study_uid
    said = (asked.patient_id, asked.issuer, asked.name, asked.birth_date, asked.sex)
    if asked.temporary:
        if any((*said, asked.accession_number)):
            raise NodeError(
                "a temporary Patient ID is made by the node, and says nothing of the patient",
                hint="give --temporary alone, or --patient-id and what is known",
                code=ExitCode.USAGE,
            )
        return node.matches.match_for_now(study, several=asked.several)
    local = LocalPatient(
        patient_id=asked.patient_id.strip(),
        issuer=asked.issuer.strip(),
        name=with_components(asked.name) if asked.name else "",
        birth_date=read_date(asked.birth_date, "birth date"),
        sex=asked.sex.strip().upper(),
        accession_number=asked.accession_number.strip(),
    )
    return node.matches.match(study, local, several=asked.several)


async def match_set(call: Call, asked: Matched) -> Result:
    """Say which local patient a study is of, or let it go under a temporary Patient ID."""
    match = await in_thread(_set, call.node, asked)
    return {"study": match.study_uid, "match": _describe_match(match)}


async def match_undo(call: Call, asked: OfStudy) -> Result:
    """Take the match of a study back."""
    node = call.node
    row = await in_thread(node.catalog.find_study, asked.study)
    await in_thread(node.matches.undo, row.study_uid)
    return {"study": row.study_uid}


_CHANGE = ("send", "admin")

OPERATIONS = (
    Operation("match.list", Listed, match_list, writes=False, roles=("look", *_CHANGE)),
    Operation("match.set", Matched, match_set, writes=True, roles=_CHANGE),
    Operation("match.undo", OfStudy, match_undo, writes=True, roles=_CHANGE),
)
