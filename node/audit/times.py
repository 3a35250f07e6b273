"""Finding entries of the log by when they were made."""

from node.audit.log import AuditLog
from protocol.log.entry import decode_entry_untrusted


def first_since(audit: AuditLog, time_ms: int) -> int:
    """Index of the first entry that is not older than a time; the size if all are.

    Args:
        audit: the log.
        time_ms: milliseconds since the epoch, UTC.
    """
    low, high = 0, audit.size
    while low < high:
        middle = (low + high) // 2
        [data] = audit.entries(middle, middle + 1)
        # Times never go back in a log.
        if decode_entry_untrusted(data).time_ms < time_ms:
            low = middle + 1
        else:
            high = middle
    return low


def numbered_entry(audit: AuditLog, kind: str, number: int, since: int, most: int) -> int | None:
    """Index of the entry of a type whose detail `number` has this value.

    Args:
        audit: the log.
        kind: the type.
        number: the value.
        since: when it was made at the earliest, seconds since the epoch, UTC.
        most: how many entries from there are read; beyond them the answer is None.
    """
    start = first_since(audit, since * 1000)
    for data in audit.entries(start, min(audit.size, start + most)):
        entry = decode_entry_untrusted(data)
        if entry.type == kind and entry.details.get("number") == number:
            return entry.index
    return None
