"""What decided about a peer and a study at a time, read from the log.

The entries of trust hold each grant, rule, purpose and end, those of a study how it was shared,
offered and approved; so a decision can be made again years later. What was erased since cannot be
known, and is said.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from keys.conditions import NOT_TO_PEER
from keys.grants import Approval
from keys.peer import Peer
from keys.purposes import covered_by
from keys.rules import Rule
from node.audit.log import AuditLog
from node.catalog.catalog import StudyRow
from node.catalog.rows import SHARED, WITHHELD, state_for_peers
from node.errors import ExitCode, NodeError
from node.sharing.offered import OUT, StudyOffered, rules_of
from protocol.log.entry import Entry, decode_entry_untrusted
from protocol.offers import DECLINED

_TRUST = frozenset(
    {
        "trust-added",
        "trust-granted",
        "trust-ungranted",
        "trust-revoked",
        "rule-added",
        "rule-removed",
        "card-updated",
    }
)
_CAME = frozenset({"ingest", "received", "indexed"})
_SHARING = frozenset({"shared", "withdrawn", "shared-to", "withdrawn-from", "discarded"})
_CHANGED = _CAME | {"discarded", "quarantine-taken"}
_OF_STUDY = _SHARING | _CHANGED
_OFFERS = frozenset({"offered", "offer-answered", "offer-ended"})
_APPROVALS = frozenset({"approval-asked", "approved", "denied", "disclosed"})
_OF_PEER = _TRUST | _OFFERS | _APPROVALS | {"shared-to", "withdrawn-from"}
_ALWAYS = frozenset({"start", "erased"})
_READ = _OF_PEER | _OF_STUDY | _ALWAYS
_MARK = re.compile(rb'"type":"(' + "|".join(sorted(_READ)).encode() + rb')"')

_MAY_HIDE = _SHARING | {"offered", "approved"}


@dataclass(frozen=True)
class Approved:
    """An approval of a request for the study that stood: for one purpose."""

    number: int
    purpose: str
    approval: Approval


@dataclass(kw_only=True)
class Then:
    """What decided at a time.

    Attributes:
        peer: the peer with the grants, rules, purposes and end of trust that it had.
        state: of the study for this peer, as in `keys.conditions.Facts`; "" if it was not here.
        patients: identities of the patients whom its images named; None if that is not known.
        offered: what open offers of the study let the peer do.
        approved: the approvals of its requests for the study.
        over_objections: whether an emergency went over objections; None if that is not in the log.
        unknown: what cannot be known any more, as sentences for people.
    """

    peer: Peer
    state: str = ""
    patients: tuple[str, ...] | None = None
    offered: tuple[Rule, ...] = ()
    approved: tuple[Approved, ...] = ()
    over_objections: bool | None = None
    unknown: tuple[str, ...] = ()


def rights_then(
    audit: AuditLog,
    peer: Peer,
    study: StudyRow,
    time_ms: int,
    blind: Callable[[str, str], str],
) -> Then:
    """What decided about a peer and a study at a time.

    Args:
        audit: the log.
        peer: as it is known today.
        study: as it is today.
        time_ms: milliseconds since the epoch, UTC; what was logged in this millisecond counts.
        blind: see `keys.conditions.Facts`.

    Raises:
        NodeError: the facility was not trusted before that time, or the log is damaged.
    """
    read = _Read(audit, peer.facility_key, study.study_uid, time_ms)
    known = _peer(read, peer)
    state, unknown = _state(read, study)
    starts = [one for one in read.before if one.type == "start"]
    over = starts[-1].details.get("over_objections") if starts else None
    return Then(
        peer=known,
        state=state,
        patients=_patients(audit, read),
        offered=_offered(read, known, blind),
        approved=_approved(read),
        over_objections=None if over is None else bool(over),
        unknown=(*unknown, *(_grown(read) if state else ()), *_erased(audit, read)),
    )


class _Read:
    """The entries that took effect and decide, in order.

    Attributes:
        before, later: those up to the time, and those behind it.
        about: indices of the entries whose openings name the study.
        is_erased: whether openings were erased.
    """

    def __init__(self, audit: AuditLog, key: bytes, study: str, time_ms: int) -> None:
        self.key, self.study, self.time_ms = key, study, time_ms
        self.about = frozenset(audit.evidence.entries_about(study=study))
        self.before: list[Entry] = []
        self.later: list[Entry] = []
        self.is_erased = False
        found = list(self._found(audit))
        failed = {one.details.get("of") for one in found if one.outcome == "failed"}
        for one in found:
            self.is_erased |= one.type == "erased"
            if one.outcome != "failed" and one.index not in failed:
                (self.before if one.time_ms <= time_ms else self.later).append(one)

    def _found(self, audit: AuditLog) -> Iterator[Entry]:
        of_peer = f'"peer":"{self.key.hex()}"'.encode()
        for index, encoded in enumerate(audit.entries()):
            mark = _MARK.search(encoded)
            if mark is None:
                continue
            kind = mark[1].decode()
            # There may be millions of others, and reading one takes time.
            if (
                index in self.about
                or kind in _ALWAYS
                or (kind in _OF_PEER and of_peer in encoded)
                or b'"outcome":"failed"' in encoded
            ):
                yield decode_entry_untrusted(encoded)

    def of_peer(self, kinds: frozenset[str]) -> list[Entry]:
        """Entries of these types with the peer, up to the time."""
        return [one for one in self.before if one.type in kinds and one.peer == self.key]

    def of_study(self, kinds: frozenset[str], entries: Iterable[Entry]) -> list[Entry]:
        """Those of the entries that have these types and are about the study."""
        return [one for one in entries if one.type in kinds and one.index in self.about]


def _state(read: _Read, study: StudyRow) -> tuple[str, list[str]]:
    """The state of the study for the peer, and what is not known of it."""
    state, effect, unknown = _unlogged(read, study)
    for one in read.before:
        if one.type == "trust-revoked" and one.peer == read.key and effect == SHARED:
            effect = ""
        if one.index not in read.about or one.type not in _OF_STUDY:
            continue
        match one.type:
            case "ingest" | "received":
                state = str(one.details.get("state", state))
            case "indexed":
                state = str(one.details.get("state", state))
                state = "" if state == "gone" else state
            case "shared":
                state = SHARED
            case "withdrawn":
                state, effect = WITHHELD, "" if effect == SHARED else effect
            case "shared-to":
                if one.peer == read.key:
                    effect = "" if state == SHARED else SHARED
                # This settles what had to be checked.
                state = state if state == SHARED else WITHHELD
            case "withdrawn-from" if one.peer == read.key:
                effect = WITHHELD
            case "discarded" if one.details.get("level") == "study":
                state, effect = "", "" if effect == SHARED else effect
            case "quarantine-taken" if SHARED in (state, effect):
                unknown.append(
                    "images were taken from the quarantine then: whether the study had to be looked"
                    " at again is not in the log"
                )
    if state and effect == WITHHELD:
        return NOT_TO_PEER, unknown
    if effect == SHARED and state == WITHHELD:
        return SHARED, unknown
    return state, unknown


def _unlogged(read: _Read, study: StudyRow) -> tuple[str, str, list[str]]:
    """The state before the first entry about the study, as far as can be told."""
    known = _CAME | {"shared", "withdrawn"}
    if read.of_study(known, read.before):
        return "", "", []
    first = next(iter(read.of_study(known, read.later)), None)
    if first is not None and first.type in _CAME and not read.is_erased:
        return "", "", []
    if first is None or first.type in _CAME:
        state = state_for_peers(study)
    else:
        state = WITHHELD if first.type == "shared" else SHARED
    return (
        state,
        "",
        [f"how the study came here is not in the log (any more); it is taken to have been {state}"],
    )


def _offered(read: _Read, peer: Peer, blind: Callable[[str, str], str]) -> tuple[Rule, ...]:
    """What the offers of the study that were open let the peer do."""
    found: dict[object, StudyOffered] = {}
    for one in read.of_peer(_OFFERS | {"trust-revoked"}):
        offer = one.details.get("offer")
        if one.type == "trust-revoked":
            found.clear()
        elif one.type == "offered" and one.index in read.about:
            found[offer] = StudyOffered(
                number=int(one.details["number"]),
                direction=OUT,
                peer=read.key,
                offer=bytes.fromhex(str(offer)),
                study=read.study,
                purpose=one.purpose,
                message="",
                made=one.time_ms // 1000,
                until=int(one.details["until"]),
            )
        elif one.type == "offer-ended" or one.details.get("answer") == DECLINED:
            found.pop(offer, None)
    return tuple(
        rule
        for one in found.values()
        if not peer.purposes or covered_by(peer.purposes, one.purpose)
        for rule in rules_of(one, blind)
    )


def _approved(read: _Read) -> tuple[Approved, ...]:
    """The approvals of requests for the study that stood: given, not used, not taken back."""
    found: dict[object, Approved] = {}
    for one in read.of_peer(_APPROVALS):
        transfer = one.details.get("transfer")
        if one.type != "approved":
            found.pop(transfer, None)
        elif one.index in read.about:
            until, rule = int(one.details["until"]), str(one.details["rule"])
            found[transfer] = Approved(
                int(one.details["number"]), one.purpose, Approval(rule, read.study, until)
            )
    return tuple(one for one in found.values() if read.time_ms // 1000 < one.approval.until)


def _patients(audit: AuditLog, read: _Read) -> tuple[str, ...] | None:
    """The patients of the study, as the last entry of images that came named them all."""
    came = read.of_study(_CAME, read.before)
    if not came:
        return None
    named = [commitment for kind, commitment in came[-1].subjects if kind == "patient"]
    found = [audit.opening_of(commitment) for commitment in named]
    known = [one.value for one in found if one is not None]
    return tuple(known) if len(known) == len(named) else None


def _grown(read: _Read) -> list[str]:
    if not read.of_study(_CHANGED, read.later):
        return []
    return ["images of the study came or went since: what they say beside the patient is of today"]


def _erased(audit: AuditLog, read: _Read) -> list[str]:
    """What erased openings hide: entries that may have been about the study."""
    if not read.is_erased:
        return []
    count = 0
    for index, encoded in enumerate(audit.entries()):
        mark = _MARK.search(encoded)
        if mark is None or mark[1].decode() not in _MAY_HIDE or index in read.about:
            continue
        one = decode_entry_untrusted(encoded)
        if one.time_ms > read.time_ms:
            break
        if one.peer in (b"", read.key):
            named = [commitment for kind, commitment in one.subjects if kind == "study"]
            count += any(audit.opening_of(each) is None for each in named)
    if not count:
        return []
    what = "1 entry" if count == 1 else f"{count} entries"
    return [
        f"openings of {what} from before are erased: whether they shared, withdrew, offered or"
        " approved this study is not known"
    ]


def _peer(read: _Read, today: Peer) -> Peer:
    """The peer as it was.

    Raises:
        NodeError: it was not trusted before.
    """
    found: Peer | None = None
    nothing = replace(
        today, grants=frozenset(), rules=(), purposes=frozenset(), expires=None, revoked=None
    )
    for entry in read.of_peer(_TRUST):
        found = _after(entry, found or nothing)
    if found is None:
        raise NodeError(f"{today.petname} was not trusted at that time", code=ExitCode.NOT_FOUND)
    return found


def _after(entry: Entry, peer: Peer) -> Peer:
    details = entry.details
    named = frozenset(filter(None, str(details.get("grants", "")).split(",")))
    if "card_until" in details:
        peer = replace(peer, card=replace(peer.card, expires=int(details["card_until"])))
    match entry.type:
        case "trust-added":
            if peer.revoked is not None:
                peer = replace(peer, rules=(), purposes=frozenset(), expires=None, revoked=None)
            purposes = frozenset(filter(None, str(details.get("purposes", "")).split(",")))
            expires = int(details["expires"]) if "expires" in details else peer.expires
            return replace(
                peer,
                grants=peer.grants | named,
                purposes=purposes or peer.purposes,
                expires=expires,
            )
        case "trust-granted":
            return replace(peer, grants=peer.grants | named)
        case "trust-ungranted":
            return replace(peer, grants=peer.grants - named)
        case "trust-revoked":
            revoked = entry.time_ms // 1000
            return replace(peer, grants=frozenset(), rules=(), revoked=revoked)
        case "card-updated":
            return peer
    rule = Rule.from_fields(json.loads(str(details["rule"])))
    others = tuple(one for one in peer.rules if one.number != rule.number)
    return replace(peer, rules=(*others, rule) if entry.type == "rule-added" else others)
