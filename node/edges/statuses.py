"""What a sender is told of each image: the table of C-STORE statuses, PS3.4 annex B.2.3.

docs/edges.md has the table as it is made from the rows.
"""

from dataclasses import dataclass

from node.errors import ExitCode, NodeError
from node.images.arrival_work import Became, Outcome

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
SET_ASIDE = 0xB007
UNRECOGNIZED_OPERATION = 0x0211


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """One row.

    Attributes:
        status: the number.
        kind: what it is to the sender: success, warning, failure.
        when: what became of the image here.
        comment: (0000,0902) for people at the sender; no patient data.
    """

    status: int
    kind: str
    when: str
    comment: str


_TAKEN = StoreStatus(SUCCESS, "success", "it is durable here", "")
_KNOWN = StoreStatus(SUCCESS, "success", "the same bytes were here already", "")
_RETURNED = StoreStatus(
    SUCCESS, "success", "it is here, and an archive that has it from this node sent it back", ""
)
_ASIDE = StoreStatus(
    SET_ASIDE,
    "warning",
    "it is durable here, and set aside: its SOP Instance UID is here with other bytes, or was "
    "discarded; an alert asks a person to look",
    "set aside: this UID is here with other bytes, or was discarded",
)
_QUARANTINED = StoreStatus(
    CANNOT_UNDERSTAND,
    "failure",
    "it cannot be read as an image, or has another SOP Instance UID than its sender said, and is "
    "kept in the quarantine",
    "cannot be read as an image; kept in quarantine",
)
_REFUSED = StoreStatus(
    CANNOT_UNDERSTAND,
    "failure",
    "it cannot be taken, for example as it is larger than any image may be; nothing is kept",
    "cannot be taken",
)
_FULL = StoreStatus(
    OUT_OF_RESOURCES,
    "failure",
    "the disk is full, the log cannot be written, or too much comes at once; nothing is kept, and "
    "the sender should send it again",
    "cannot be taken now: send it again later",
)

STORE_STATUSES = (_TAKEN, _KNOWN, _RETURNED, _ASIDE, _QUARANTINED, _REFUSED, _FULL)

_OF_OUTCOME = {
    Outcome.TAKEN: _TAKEN,
    Outcome.KNOWN: _KNOWN,
    Outcome.RETURNED: _RETURNED,
    Outcome.SET_ASIDE: _ASIDE,
    Outcome.QUARANTINED: _QUARANTINED,
    Outcome.REFUSED: _REFUSED,
}


def status_of(became: Became | NodeError) -> StoreStatus:
    """What the sender of an image is told."""
    if isinstance(became, Became):
        return _OF_OUTCOME[became.outcome]
    return _REFUSED if became.code is ExitCode.REFUSED else _FULL


def document() -> str:
    """The table of docs/edges.md."""
    lines = ["| status | for the sender | what became of the image |", "|---|---|---|"]
    for one in STORE_STATUSES:
        lines.append(f"| {one.status:04X} | {one.kind} | {one.when} |")
    return "\n".join(lines)
