"""What a notice says to others: numbers, words of the table, and entries of the log by index."""

import datetime
from dataclasses import dataclass
from typing import Any

from node.notices.subjects import SUBJECTS
from node.notices.told import Notice

KEYS_SHOWN = 50
"""Most keys and entries that one message lists; the number is that of all."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message, the same by mail and webhook.

    Attributes:
        id: 32 hex digits; the same when it is sent again.
        made: seconds since the epoch, UTC.
        facility: fingerprint of our facility.
        subject: name of the subject.
        severity: of `node.notices.subjects.SEVERITIES`.
        count: of how many it tells.
        text: one sentence, lower case, without a full stop.
        next: what to do.
        about: which of the subject, such as numbers of requests.
        entries: indices of the log's entries that it comes from.
    """

    id: str
    made: int
    facility: str
    subject: str
    severity: str
    count: int
    text: str
    next: str
    about: tuple[str, ...] = ()
    entries: tuple[int, ...] = ()

    @property
    def time(self) -> datetime.datetime:
        """When it was made, UTC."""
        return datetime.datetime.fromtimestamp(self.made, datetime.UTC)

    def to_json(self) -> dict[str, Any]:
        """The body of a webhook."""
        return {
            "id": self.id,
            "time": self.time.isoformat().replace("+00:00", "Z"),
            "facility": self.facility,
            "subject": self.subject,
            "severity": self.severity,
            "count": self.count,
            "text": self.text,
            "next": self.next,
            "about": list(self.about),
            "entries": list(self.entries),
        }


def message_of(notice: Notice, facility: str) -> Message:
    """The message of a notice, from the facility with this fingerprint."""
    row, about = SUBJECTS[notice.subject], tuple(filter(None, notice.keys))
    return Message(
        id=notice.id,
        made=notice.made,
        facility=facility,
        subject=notice.subject,
        severity=row.severity,
        count=len(notice.keys),
        text=row.outside(len(notice.keys)),
        next=row.todo,
        about=about[:KEYS_SHOWN],
        entries=notice.entries[:KEYS_SHOWN],
    )
