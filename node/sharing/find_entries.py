"""The entries of searches for a patient, on both sides.

A patient is named as in all other entries, by Patient ID and issuer. Where only the name was given,
the subject is `NAME^^^BIRTH_DATE SEX`, so that `--patient NAME` finds it, as `--patient ID` finds
`ID^^^ISSUER`.
"""

from collections.abc import Sequence

from node.dicom.headers import patient_identity
from protocol.find_messages import Asked, ByNumber, Find
from protocol.log.entry import Event

Studies = Sequence[tuple[str, tuple[str, ...]]]
"""Study Instance UIDs, each with the patients whom the study names."""


def identity_of(asked: Asked) -> str:
    """The patient of a question, as an entry commits to it."""
    if isinstance(asked, ByNumber):
        return patient_identity(asked.patient_id, asked.issuer)
    return f"{asked.name}^^^{asked.birth_date} {asked.sex}"


def asked_entry(peer: bytes, find: Find, asked: Asked) -> Event:
    """We are going to ask a peer (facility key) for a patient."""
    return _event("find-asked", peer, find, asked, ())


def found_entry(
    peer: bytes, find: Find, asked: Asked, studies: Sequence[str], why: str = ""
) -> Event:
    """What a peer answered: studies (UIDs), or why it did not."""
    return _event("found", peer, find, asked, tuple(("study", one) for one in studies), why)


def answered_entries(
    peer: bytes, person: str, find: Find, asked: Asked, studies: Studies, why: str = ""
) -> list[Event]:
    """What a peer that asked us is told: that these studies are here, or that none is.

    One entry for studies of the same patients: what is selected or erased for one patient must not
    touch another. If no study is told of, the one entry names the patient who was asked for.

    Args:
        peer: facility key of the peer.
        person: the person who asked, "" if not known.
        find: its question.
        asked: the patient of the question.
        studies: the studies that it is told of, at most `FIND_STUDIES`, so that an entry has room.
        why: why it gets no answer, though there are studies.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for study, patients in studies:
        groups.setdefault(patients, []).append(study)
    subjects = [
        (*(("study", one) for one in group), *(("patient", one) for one in patients))
        for patients, group in groups.items()
    ]
    return [
        _event("find-answered", peer, find, asked, one, why, person) for one in subjects or [()]
    ]


def refused_entry(peer: bytes, person: str, find: Find, asked: Asked, why: str) -> Event:
    """A peer that asked us is refused, whoever the patient is."""
    return _event("refused", peer, find, asked, (), why, person)


def _event(
    kind: str,
    peer: bytes,
    find: Find,
    asked: Asked,
    subjects: tuple[tuple[str, str], ...],
    why: str = "",
    person: str = "",
) -> Event:
    details: dict[str, str | int | bool] = {
        "find": find.find.hex(),
        "by": "number" if isinstance(asked, ByNumber) else "person",
    }
    if kind in ("found", "find-answered"):
        details["studies"] = sum(kind == "study" for kind, _ in subjects)
    if kind == "refused":
        details["what"] = "find"
    if why:
        details["why"] = why
    # An entry names the patient in one way: those of the studies, if there are any.
    if kind != "find-answered" or not subjects:
        subjects = (("patient", identity_of(asked)), *subjects)
    if person:
        subjects = (*subjects, ("person", person))
    return Event(
        type=kind,
        peer=peer,
        purpose=find.purpose,
        outcome="refused" if why else "success",
        subjects=subjects,
        details=details,
    )
