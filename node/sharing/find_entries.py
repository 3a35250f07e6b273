"""The entries of searches for a patient, on both sides.

A patient is named as in all other entries, by Patient ID and issuer. Where only the name was given,
the subject is `NAME^^^BIRTH_DATE SEX`, so that `--patient NAME` finds it, as `--patient ID` finds
`ID^^^ISSUER`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from node.dicom.headers import named_identity, patient_identity
from protocol.find_messages import Asked, ByNumber, Find
from protocol.log.entry import Event


@dataclass(frozen=True)
class Told:
    """A study that a peer is told of.

    Attributes:
        study: Study Instance UID.
        patients: the patients whom it names.
        rule: the rule that allows it.
    """

    study: str
    patients: tuple[str, ...]
    rule: str


@dataclass(frozen=True)
class Asker:
    """Who asked us.

    Attributes:
        peer: its facility key.
        person: the person who asked, "" if not known.
        rights: digest of all that decides about the peer now.
    """

    peer: bytes
    person: str
    rights: str


def identity_of(asked: Asked) -> str:
    """The patient of a question, as an entry commits to it."""
    if isinstance(asked, ByNumber):
        return patient_identity(asked.patient_id, asked.issuer)
    return named_identity(asked.name, asked.birth_date, asked.sex)


def asked_entry(peer: bytes, find: Find, asked: Asked) -> Event:
    """We are going to ask a peer (facility key) for a patient."""
    return _event("find-asked", peer, find, asked, ())


def found_entry(
    peer: bytes, find: Find, asked: Asked, studies: Sequence[str], why: str = ""
) -> Event:
    """What a peer answered: studies (UIDs), or why it did not."""
    return _event("found", peer, find, asked, tuple(("study", one) for one in studies), why)


def answered_entries(
    asker: Asker, find: Find, asked: Asked, studies: Sequence[Told], why: str = ""
) -> list[Event]:
    """What a peer that asked us is told: that these studies are here, or that none is.

    One entry for studies of the same patients that the same rule allows: what is selected or erased
    for one patient must not touch another. If no study is told of, the one entry names the patient
    who was asked for.

    Args:
        asker: who asked.
        find: its question.
        asked: the patient of the question.
        studies: the studies that it is told of, at most `FIND_STUDIES`, so that an entry has room.
        why: why it gets no answer, though there are studies.
    """
    groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for one in studies:
        groups.setdefault((one.patients, one.rule), []).append(one.study)
    if not groups:
        return [_event("find-answered", asker.peer, find, asked, (), why, asker)]
    return [
        _event(
            "find-answered",
            asker.peer,
            find,
            asked,
            (*(("study", one) for one in group), *(("patient", one) for one in patients)),
            why,
            asker,
            rule,
        )
        for (patients, rule), group in groups.items()
    ]


def refused_entry(asker: Asker, find: Find, asked: Asked, why: str, rule: str) -> Event:
    """A peer that asked us is refused, whoever the patient is; `rule` decides that, or ""."""
    return _event("refused", asker.peer, find, asked, (), why, asker, rule)


def _event(
    kind: str,
    peer: bytes,
    find: Find,
    asked: Asked,
    subjects: tuple[tuple[str, str], ...],
    why: str = "",
    asker: Asker | None = None,
    rule: str = "",
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
    if asker is not None:
        details |= {"rights": asker.rights, "rule": rule}
        subjects += (("person", asker.person),) if asker.person else ()
    return Event(
        type=kind,
        peer=peer,
        purpose=find.purpose,
        outcome="refused" if why else "success",
        subjects=subjects,
        details=details,
    )
