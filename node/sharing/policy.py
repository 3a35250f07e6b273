"""Who may receive what: a pure decision with its reason.

Whether a study exists is told only to those who may fetch: without the grant
the answer is the same for every study. Who may not see our studies may not fetch them
either, or taking `see` would leave a peer with what it was told before.
"""

from dataclasses import dataclass

from keys.trust import Peer, TrustStore
from node.catalog.catalog import StudyRow
from protocol import limits
from protocol.errors import WireCode
from protocol.messages import Request


@dataclass(frozen=True)
class Refusal:
    """A no: what the peer is told, and the sentence for our own log and eyes."""

    code: WireCode
    reason: str


def decide_fetch(
    store: TrustStore, peer: Peer, request: Request, study: StudyRow | None, *, now_ms: int
) -> Refusal | None:
    """Decide a request for a study; None allows it.

    Args:
        store: the trust store.
        peer: who asks.
        request: what is asked, signature checked.
        study: the catalog's row of the study, None when there is none.
        now_ms: milliseconds since the epoch, UTC.
    """
    if abs(request.time - now_ms) > limits.CLOCK_SKEW_SECONDS * 1000:
        return Refusal(WireCode.CLOCK_SKEW, "the clocks of the two nodes differ by more than a day")
    return decide_having(store, peer, request.purpose, study, now=now_ms // 1000)


def decide_having(
    store: TrustStore, peer: Peer, purpose: str, study: StudyRow | None, *, now: int
) -> Refusal | None:
    """Decide whether a peer may have a study, or go on to get it; None allows it.

    Asked at the request, and again at each batch.

    Args:
        store: the trust store.
        peer: who.
        purpose: what for.
        study: the catalog's row of the study, None when there is none.
        now: seconds since the epoch, UTC.
    """
    why = store.why_not(peer, "fetch", now) or store.why_not(peer, "see", now)
    if why is not None:
        return Refusal(WireCode.NOT_GRANTED, why)
    why = store.why_not(peer, "fetch", now, purpose)
    if why is not None:
        return Refusal(WireCode.PURPOSE_NOT_ALLOWED, why)
    if study is None or study.state != "shared":
        return Refusal(WireCode.NOT_AVAILABLE, "the study is not shared")
    return None


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
"""What a person is told of a refusal: sentence and hint."""


def sentence(code: WireCode, peer: str) -> tuple[str, str]:
    """A refusal for people: what happened, and what to do next.

    Args:
        code: as received.
        peer: the petname.
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
