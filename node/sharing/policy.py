"""Asks `keys.grants.may` for the node: from what the catalog knows to what a peer is told.

Only a peer that may fetch learns whether a study exists: without the grant the answer is the same
for every study.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keys import grants
from keys.grants import Facts, No, Why, Yes, explain
from keys.trust import Peer, TrustStore
from node.catalog.catalog import StudyRow
from protocol import limits
from protocol.errors import WireCode
from protocol.messages import Request

_CODES = {
    Why.NOT_TRUSTED: WireCode.NOT_GRANTED,
    Why.NOT_GRANTED: WireCode.NOT_GRANTED,
    Why.PURPOSE: WireCode.PURPOSE_NOT_ALLOWED,
    Why.LIMIT: WireCode.NOT_GRANTED,
    Why.NOT_SHARED: WireCode.NOT_AVAILABLE,
}
"""The code that a peer is told for each reason to refuse."""

_TO_APPROVE = WireCode.NOT_GRANTED
"""This release cannot ask a person, so a request that needs approval is refused."""


_ANY_SHARED = Facts(study_uid="", state="shared")


@dataclass(frozen=True)
class Refusal:
    """A refusal: the code that the peer is told, and the sentence for our own log and operators."""

    code: WireCode
    reason: str


def facts_of(study: StudyRow) -> Facts:
    """What the catalog knows of a study."""
    return Facts(
        study_uid=study.study_uid,
        state=study.state,
        modalities=study.modalities,
        study_date=study.study_date,
    )


def decide_fetch(
    store: TrustStore,
    peer: Peer,
    request: Request,
    study: StudyRow | None,
    *,
    node_key: bytes,
    now_ms: int,
    now: int,
) -> Refusal | None:
    """Decide a request for a study; None allows it.

    Args:
        store: the trust store.
        peer: the peer that asks.
        request: the request, its signature checked.
        study: the catalog's row of the study, None when there is none.
        node_key: of the node that asks, 32 bytes, proven by the connection.
        now_ms: milliseconds since the epoch, UTC, for comparing clocks.
        now: seconds since the epoch, UTC, for what ends by a date.
    """
    if abs(request.time - now_ms) > limits.CLOCK_SKEW_SECONDS * 1000:
        return Refusal(WireCode.CLOCK_SKEW, "the clocks of the two nodes differ by more than a day")
    return decide_having(store, peer, request.purpose, study, node_key=node_key, now=now)


def decide_having(
    store: TrustStore,
    peer: Peer,
    purpose: str,
    study: StudyRow | None,
    *,
    node_key: bytes,
    now: int,
) -> Refusal | None:
    """Decide whether a peer may have a study, or go on receiving it; None allows it.

    Asked at the request, and again at each batch.

    Args:
        store: the trust store.
        peer: the peer that asks.
        purpose: the purpose of the request.
        study: the catalog's row of the study, None when there is none.
        node_key: of the node that asks, 32 bytes, proven by the connection.
        now: seconds since the epoch, UTC.
    """
    answer = store.may(
        "fetch",
        peer.facility_key,
        now,
        facts=None if study is None else facts_of(study),
        request=grants.Request(speaks=store.speaks_for(node_key, peer, now), purpose=purpose),
    )
    if isinstance(answer, Yes):
        return None
    code = _CODES[answer.why] if isinstance(answer, No) else _TO_APPROVE
    return Refusal(code, explain(answer))


class Sight:
    """Decides which peer may be told of which study now.

    Args:
        store: gives the trust store as it is now.
        now: gives seconds since the epoch, UTC.
    """

    def __init__(self, store: Callable[[], TrustStore], now: Callable[[], int]) -> None:
        self._store = store
        self._now = now

    def may_see(self, facility_key: bytes, study: Facts) -> bool:
        """Whether a facility may be told of a study."""
        answer = self._store().may("see", facility_key, self._now(), facts=study)
        return isinstance(answer, Yes)

    def peers(self) -> frozenset[bytes]:
        """Facility keys of the peers that may be told of shared studies, of all or of some."""
        store = self._store()
        return frozenset(
            peer.facility_key for peer in store.peers if self._sees_any(store, peer.facility_key)
        )

    def tells_apart(self, facility_key: bytes) -> bool:
        """Whether a facility of `peers` may be told of some shared studies and not of others."""
        return self._store().tells_apart("see", facility_key)

    def _sees_any(self, store: TrustStore, facility_key: bytes) -> bool:
        if store.why_never("see", facility_key, self._now()) is not None:
            return False
        return store.tells_apart("see", facility_key) or self.may_see(facility_key, _ANY_SHARED)


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
