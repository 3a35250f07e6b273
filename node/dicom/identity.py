"""How a study from elsewhere is named in an archive of this facility."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple


class Code(NamedTuple):
    """A procedure code: value, coding scheme, meaning (PS3.3 section 8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Words of other facilities, and ours for them, by which workstations choose a layout.

    Attributes:
        descriptions: study descriptions, by the other one folded as by `keys.written.folded`.
        body_parts: values of Body Part Examined, by the other one in upper case.
        procedures: procedure codes, by scheme and value of the other one.
    """

    descriptions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body_parts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    procedures: Mapping[tuple[str, str], Code] = field(default_factory=lambda: MappingProxyType({}))


NO_MAPS = Maps()


@dataclass(frozen=True, kw_only=True)
class Identity:
    """How a study goes to an archive of the facility.

    Attributes:
        patient_id: the local Patient ID; "" where the study goes as it is, see `unchanged`.
        issuer: its issuer; "" where the facility names none.
        name, birth_date, sex: the patient as the local systems have them (birth date YYYYMMDD);
            "" leaves what the images say.
        accession_number: of the local order; "" where there is none.
        prefix: put before accession number, Study ID, admission ID and the other numbers of the
            other facility's requests; "" empties them.
        source: who gave us the images, for Source of Previous Values; may be "".
        maps: our words in place of the other facility's.
        patients: Patient ID and issuer of those that images of the study may name: an image of
            another one is refused. None for any.
        is_temporary: whether the Patient ID stands for a patient who is still to be found.
    """

    patient_id: str
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""
    prefix: str = ""
    source: str = ""
    maps: Maps = NO_MAPS
    patients: frozenset[tuple[str, str]] | None = None
    is_temporary: bool = False

    @property
    def unchanged(self) -> bool:
        """Whether the study goes byte for byte as it is here."""
        return not self.patient_id

    @property
    def mark(self) -> str:
        """Differs when the study has to be sent again; "" for a study that goes as it is.

        It grows with neither the study nor the settings, so what has gone out under it stays.
        """
        if self.unchanged:
            return ""
        named = (
            self.patient_id, self.issuer, self.name, self.birth_date, self.sex,
            self.accession_number, self.prefix,
        )  # fmt: skip
        return hashlib.sha256("\0".join(named).encode()).hexdigest()[:32]


UNCHANGED = Identity(patient_id="")
"""The identity of a study that was made here."""


def is_among(patient_id: str, issuer: str, patients: Collection[tuple[str, str]]) -> bool:
    """Whether a patient may be one of these; an issuer that is not given agrees with any."""
    return any(
        patient_id.strip() == known.strip() and ("" in (issuer, other) or issuer == other)
        for known, other in patients
    )
