"""What a peer was allowed at a time, read from the log.

The entries of trust hold each grant and each rule, so that a decision can be made again years
later.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from keys.peer import Peer
from keys.rules import Rule
from node.audit.log import AuditLog
from node.errors import ExitCode, NodeError
from protocol.log.entry import Entry, decode_entry_untrusted

_OF_TRUST = (
    "trust-added",
    "trust-granted",
    "trust-ungranted",
    "trust-revoked",
    "rule-added",
    "rule-removed",
)
_MARKS = tuple(f'"type":"{kind}"'.encode() for kind in _OF_TRUST)


def rights_then(audit: AuditLog, peer: Peer, time_ms: int) -> Peer:
    """The peer with the grants and rules that it had at a time.

    Args:
        audit: the log.
        peer: as it is known today.
        time_ms: milliseconds since the epoch, UTC.

    Raises:
        NodeError: the facility was not trusted before that time, or the log is damaged.
    """
    found: Peer | None = None
    for entry in _entries(audit, peer.facility_key, time_ms):
        found = _after(entry, found or _afresh(peer))
    if found is None:
        raise NodeError(f"{peer.petname} was not trusted at that time", code=ExitCode.NOT_FOUND)
    return found


def _entries(audit: AuditLog, facility_key: bytes, time_ms: int) -> Iterator[Entry]:
    """The changes of trust in a facility up to a time that took effect, in order."""
    found, failed = [], set()
    for encoded in audit.entries():
        if not any(mark in encoded for mark in _MARKS):
            continue
        entry = decode_entry_untrusted(encoded)
        if entry.peer != facility_key:
            continue
        if entry.outcome == "failed":
            failed.add(entry.details.get("of"))
        elif entry.time_ms <= time_ms:
            found.append(entry)
    return (entry for entry in found if entry.index not in failed)


def _afresh(peer: Peer) -> Peer:
    """A peer that nothing was given to yet."""
    return replace(
        peer, grants=frozenset(), purposes=frozenset(), rules=(), expires=None, revoked=None
    )


def _after(entry: Entry, peer: Peer) -> Peer:
    named = frozenset(filter(None, str(entry.details.get("grants", "")).split(",")))
    match entry.type:
        case "trust-added":
            known = peer if peer.revoked is None else _afresh(peer)
            purposes = frozenset(filter(None, str(entry.details.get("purposes", "")).split(",")))
            expires = entry.details.get("expires")
            return replace(
                known,
                grants=known.grants | named,
                purposes=purposes or known.purposes,
                expires=known.expires if expires is None else int(expires),
            )
        case "trust-granted":
            return replace(peer, grants=peer.grants | named)
        case "trust-ungranted":
            return replace(peer, grants=peer.grants - named)
        case "trust-revoked":
            revoked = entry.time_ms // 1000
            return replace(peer, grants=frozenset(), rules=(), revoked=revoked)
    rule = Rule.from_fields(json.loads(str(entry.details["rule"])))
    others = tuple(one for one in peer.rules if one.number != rule.number)
    return replace(peer, rules=(*others, rule) if entry.type == "rule-added" else others)
