"""What became of instances that were sent: the answer to a store request (PS3.18 10.5.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NOT_OF_STUDY = 0xA900
"""The instance is of another study than the request names: it does not match (PS3.4 B.2.3)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One instance.

    Attributes:
        sop_class, sop_instance: its UIDs; "" if they could not be read.
        study, series: UIDs of what it is of.
        status: as for C-STORE: 0 success, Bxxx a warning, others a failure.
    """

    sop_class: str
    sop_instance: str
    study: str
    series: str
    status: int

    @property
    def is_here(self) -> bool:
        """Whether it is durable here."""
        return self.status == 0 or self.status >> 12 == 0xB


def http_status(stored: Sequence[Stored]) -> int:
    """The status of the answer: 200 all, 202 some or with warnings, 409 none."""
    if not any(one.is_here for one in stored):
        return 409
    return 200 if all(one.status == 0 for one in stored) else 202


def answer(stored: Sequence[Stored], url_of_study: str) -> dict[str, Any]:
    """The answer as DICOM JSON.

    Args:
        stored: all that was sent, in order.
        url_of_study: before the UID of a study, for its Retrieve URL.
    """
    taken = [one for one in stored if one.is_here]
    failed = [one for one in stored if not one.is_here]
    found: dict[str, Any] = {}
    studies = {one.study for one in taken}
    if len(studies) == 1:
        found["00081190"] = _of("UR", f"{url_of_study}{studies.pop()}")
    if failed:
        found["00081198"] = _of("SQ", *(_failed(one) for one in failed))
    if taken:
        found["00081199"] = _of("SQ", *(_taken(one, url_of_study) for one in taken))
    return found


def _named(one: Stored) -> dict[str, Any]:
    return {"00081150": _of("UI", one.sop_class), "00081155": _of("UI", one.sop_instance)}


def _failed(one: Stored) -> dict[str, Any]:
    return _named(one) | {"00081197": _of("US", one.status)}


def _taken(one: Stored, url_of_study: str) -> dict[str, Any]:
    url = f"{url_of_study}{one.study}/series/{one.series}/instances/{one.sop_instance}"
    found = _named(one) | {"00081190": _of("UR", url)}
    return found | {"00081196": _of("US", one.status)} if one.status else found


def _of(vr: str, *values: Any) -> dict[str, Any]:
    listed = [one for one in values if one != ""]
    return {"vr": vr, "Value": listed} if listed else {"vr": vr}
