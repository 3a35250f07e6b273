"""Syslog messages: RFC 5424, framed for TLS by RFC 5425, content by PS3.15 section A.6."""

from collections.abc import Iterator

from keys.canonical import canonical_json
from node.reports.audit_messages import SUCCESS, audit_messages
from node.reports.dicom import audit_message
from node.reports.facilities import Facilities
from node.reports.records import Record

_SECURITY = 10
"""Syslog facility: security and authorization messages (PS3.15 section A.6)."""

_WARNING, _NOTICE = 4, 5

_DICOM_MESSAGE_ID = "DICOM+RFC3881"
_APPLICATION = "radmesh"
_BOM = b"\xef\xbb\xbf"
_HOST_CHARACTERS = 255


def messages(
    record: Record,
    form: str,
    facilities: Facilities,
    origin: str,
    host: str,
    *,
    persons: bool = False,
) -> Iterator[bytes]:
    """The syslog messages of one entry; none where DICOM has no event for it.

    Args:
        record: the entry.
        form: `dicom` or `json`.
        facilities: the facilities by their keys.
        origin: the name of the log.
        host: name of this machine.
        persons: whether our people are named.
    """
    if form == "json":
        severity = _NOTICE if record.entry["outcome"] == "success" else _WARNING
        yield _message(record, severity, host, record.type, canonical_json(record.entry))
        return
    for message in audit_messages(record, facilities, origin, persons=persons):
        severity = _NOTICE if message.outcome == SUCCESS else _WARNING
        yield _message(record, severity, host, _DICOM_MESSAGE_ID, audit_message(message))


def _message(record: Record, severity: int, host: str, kind: str, content: bytes) -> bytes:
    """HEADER, no STRUCTURED-DATA, MSG (RFC 5424 section 6); `kind` has at most 32 characters."""
    priority = _SECURITY * 8 + severity
    header = f"<{priority}>1 {record.time} {host_name(host)} {_APPLICATION} - {kind[:32]} - "
    return header.encode("ascii") + _BOM + content


def host_name(text: str) -> str:
    """A name in the form that a header allows: printable ASCII without spaces, or `-`."""
    kept = "".join(character for character in text if "!" <= character <= "~")
    return kept[:_HOST_CHARACTERS] or "-"


def framed(message: bytes) -> bytes:
    """A message framed for TLS: its length in octets, a space, the message (RFC 5425 4.3)."""
    return b"%d %s" % (len(message), message)
