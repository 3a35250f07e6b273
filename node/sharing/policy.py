"""Asks `keys.grants.may` for the node: from what the catalog knows to what a peer is told.

A peer that may not see a study is told what it would be told if there were no such study.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from keys import grants
from keys.conditions import Facts
from keys.grants import NO_USAGE, Answer, No, Usage, Why, Yes, explain
from keys.rules import ON_REQUEST, Rule
from keys.trust import Peer, TrustStore
from node.catalog.catalog import StudyRow
from node.sharing.facts import StudyFacts
from protocol.errors import WireCode

_CODES = {
    Why.NOT_TRUSTED: WireCode.NOT_GRANTED,
    Why.NOT_GRANTED: WireCode.NOT_GRANTED,
    Why.PURPOSE: WireCode.PURPOSE_NOT_ALLOWED,
    Why.LIMIT: WireCode.NOT_GRANTED,
    Why.NOT_SHARED: WireCode.NOT_AVAILABLE,
}
"""The code that a peer is told for each reason to refuse."""

_TO_APPROVE = WireCode.WAITING
"""The code for a request that a person has to approve first."""


_ANY_SHARED = Facts(study_uid="", state="shared")


@dataclass(frozen=True)
class Refusal:
    """A refusal: the code that the peer is told, and the sentence for our own log and operators.

    `rule` is the name of the rule that decided, or "".
    """

    code: WireCode
    reason: str
    rule: str = ""


def decide_fetch(
    store: TrustStore,
    peer: Peer,
    asked: grants.Request,
    facts: Facts | None,
    *,
    now: int,
    usage: Usage = NO_USAGE,
    unseen: Usage | None = None,
    over_objections: bool = False,
    extra: Sequence[Rule] = (),
) -> Refusal | Yes:
    """Decide whether a peer may have a study, or go on receiving it.

    Asked at the request, and again at each batch.

    Args:
        store: the trust store.
        peer: the peer that asks.
        asked: what it asks.
        facts: about the study; None if there is none.
        now: seconds since the epoch, UTC.
        usage: what it would have used of its limits.
        unseen: the same if there were no such study; `usage` if not given. A study that the peer
            may not see would otherwise be known by its size, from what is left of a limit.
        over_objections: whether an emergency goes over a patient's objection.
        extra: rules besides its own: what it was offered.
    """
    key = peer.facility_key
    action = grants.study_action(asked.purpose)
    wanted = facts
    if action == "emergency" and over_objections and facts is not None:
        wanted = replace(facts, objections=frozenset())
    answer = store.may(action, key, now, facts=wanted, request=asked, usage=usage, extra=extra)
    if isinstance(answer, Yes):
        return answer
    told: Answer = answer
    if not isinstance(store.may("see", key, now, facts=facts, extra=extra), Yes):
        absent = usage if unseen is None else unseen
        told = store.may(action, key, now, facts=None, request=asked, usage=absent)
    rule = answer.rule
    return Refusal(_code(told), explain(answer), rule)


def _code(answer: Answer) -> WireCode:
    return _CODES[answer.why] if isinstance(answer, No) else _TO_APPROVE


class Sight:
    """Decides which peer may be told of which study now.

    Args:
        store: gives the trust store as it is now.
        now: gives seconds since the epoch, UTC.
        facts: gives the facts about studies.
    """

    def __init__(
        self, store: Callable[[], TrustStore], now: Callable[[], int], facts: StudyFacts
    ) -> None:
        self._store = store
        self._now = now
        self._facts = facts

    def shows(self, facility_key: bytes, study: StudyRow) -> str:
        """What a facility is told of a study: `EXAM`, `PATIENT`, or "" for nothing."""
        return next(self.shows_each(facility_key, [study]))

    def shows_each(self, facility_key: bytes, studies: Iterable[StudyRow]) -> Iterator[str]:
        """What a facility is told of each of these studies, as `shows`."""
        store, now = self._store(), self._now()
        for facts in self._facts.of_each(studies, facility_key):
            yield _announced(store.may("see", facility_key, now, facts=facts))

    def rules_each(self, facility_key: bytes, studies: Iterable[StudyRow]) -> Iterator[str]:
        """The name of the rule by which a facility is told of each of these studies, or not."""
        store, now = self._store(), self._now()
        for facts in self._facts.of_each(studies, facility_key):
            yield store.may("see", facility_key, now, facts=facts).rule

    def shows_alike(self, facility_key: bytes) -> str:
        """What a facility is told of any shared study, if its rules tell none apart."""
        return _announced(self._store().may("see", facility_key, self._now(), facts=_ANY_SHARED))

    def peers(self) -> frozenset[bytes]:
        """Facility keys of the peers that may be told of shared studies, of all or of some."""
        store = self._store()
        return frozenset(
            peer.facility_key for peer in store.peers if self._sees_any(store, peer.facility_key)
        )

    def tells_apart(self, facility_key: bytes) -> bool:
        """Whether a facility of `peers` may be told of some shared studies and not of others."""
        return self._facts.has_wishes or self._store().tells_apart("see", facility_key)

    def _sees_any(self, store: TrustStore, facility_key: bytes) -> bool:
        now = self._now()
        if store.why_never("see", facility_key, now) is not None:
            return False
        return store.tells_apart("see", facility_key) or bool(self.shows_alike(facility_key))


def _announced(answer: Answer) -> str:
    return answer.shows if isinstance(answer, Yes) and answer.shows != ON_REQUEST else ""


def witnesses(store: TrustStore, now: int) -> list[Peer]:
    """Peers whose cosignatures count for our log now."""
    return [peer for peer in store.peers if _may_witness(store, peer, now)]


def _may_witness(store: TrustStore, peer: Peer, now: int) -> bool:
    return isinstance(store.may("witness", peer.facility_key, now), Yes)


SENTENCES: dict[WireCode, tuple[str, str]] = {
    WireCode.NOT_GRANTED: (
        "{peer} does not allow us to fetch its studies",
        "ask its admin for the grant `fetch` (`radmesh trust grant`)",
    ),
    WireCode.NOT_AVAILABLE: (
        "{peer} does not share this study (any more)",
        "look with `radmesh studies --peer` at what it shares now",
    ),
    WireCode.PURPOSE_NOT_ALLOWED: (
        "{peer} does not give studies to us for this purpose",
        "name another purpose with --purpose, or ask its admin",
    ),
    WireCode.CLOCK_SKEW: (
        "{peer} refused since the clocks of the two nodes differ by more than a day",
        "set the clock of the node that is wrong",
    ),
    WireCode.BUSY: ("{peer} is busy with other transfers", "it is tried again"),
    WireCode.SHUTTING_DOWN: ("{peer} is shutting down", "it is tried again when it is back"),
    WireCode.BAD_DIGEST: (
        "{peer} found that the study is not what it promised",
        "tell its admin to look at its log: its copy may be damaged",
    ),
    WireCode.STORAGE_FULL: ("the disk of {peer} is full", "tell its admin"),
    WireCode.WAITING: (
        "waiting for approval at {peer}",
        "a person there has to approve it; it goes on by itself, also after a restart",
    ),
    WireCode.RETRIEVING: (
        "{peer} is bringing the study from its archive",
        "it goes on by itself, also after a restart",
    ),
    WireCode.NOT_RETRIEVED: (
        "the archive of {peer} does not give the study now",
        "it is tried again; its admin sees why with `radmesh archive`",
    ),
    WireCode.LOG_IN_DOUBT: (
        "{peer} sends nothing now, since its own audit log is in doubt",
        "tell its admin, who sees why with `radmesh status`; it is no fault of this node",
    ),
    WireCode.SOURCE_DISK: (
        "{peer} cannot send the study: it is damaged there, or the disk is full",
        "tell its admin, then fetch it again; what was received is kept",
    ),
}
"""For each code of a refusal, the sentence and the hint for people."""


def sentence(code: WireCode, peer: str) -> tuple[str, str]:
    """A refusal for people: what happened, and what to do next.

    Args:
        code: the code that the peer sent.
        peer: the petname of the peer.
    """
    what, hint = SENTENCES.get(
        code,
        (
            "{peer} ended the transfer since something did not fit the protocol (code "
            + f"{code.value})",
            "see the log of both nodes; it may run another version",
        ),
    )
    return what.format(peer=peer), hint
