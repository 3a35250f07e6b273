"""The right of one peer to one study, asked at its request and again before each batch.

What ends a right is also told to the sessions at once (`node/transfer/sending.py`). This is for
what no message tells: a date that has come, and a message that was lost with a crash.
"""

import contextlib
from contextlib import AbstractContextManager

from keys import grants
from keys.grants import NO_USAGE, Usage
from keys.purposes import BREAK_GLASS
from keys.trust import Peer, TrustStore
from node.catalog.catalog import Catalog
from node.clock import Clock, local_time
from node.sharing.emergencies import OUT, Emergencies
from node.sharing.facts import StudyFacts, facts_read
from node.sharing.offers import Offers
from node.sharing.peers import Peers
from node.sharing.policy import Refusal, decide_fetch
from node.sharing.requests import Requests
from node.transfer.lately import DisclosedLately
from protocol import limits
from protocol.errors import WireCode
from protocol.messages import Request

DISCARDED = "something of the study was discarded"


class RightEnded(Exception):
    """The peer is not allowed to have the study any more.

    Attributes:
        refusal: what the peer is told, and why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Right:
    """Whether a peer may have what it asks for. All methods block.

    Args:
        catalog: the studies of this node.
        facts: gives the facts about them.
        peers: the trusted peers and their rules.
        lately: what each peer began to receive in the last day.
        requests: what people here have approved.
        emergencies: what waits for a review.
        clock: tells which rights count now.
        peer: who asks.
        node_key: of its node, 32 bytes, proven by the connection.
        offers: the studies that it was offered.

    Attributes:
        rule: the name of the rule that decided last; "" for none.
    """

    def __init__(
        self,
        catalog: Catalog,
        facts: StudyFacts,
        peers: Peers,
        lately: DisclosedLately,
        requests: Requests,
        emergencies: Emergencies,
        clock: Clock,
        peer: Peer,
        node_key: bytes,
        offers: Offers,
    ) -> None:
        self._catalog = catalog
        self._facts = facts
        self._peers = peers
        self._lately = lately
        self._requests = requests
        self._emergencies = emergencies
        self._offers = offers
        self._clock = clock
        self._peer = peer
        self._node_key = node_key
        self._discard = -1
        self._held: tuple[object, ...] = ()
        self.rule = ""

    def begin(self, study: str) -> None:
        """Note what has been discarded of a study (UID) so far.

        Call it before the manifest is read, so that no discard is missed.
        """
        self._discard = self._catalog.last_discard(study)

    def refusal(self, request: Request) -> Refusal | None:
        """Why the peer does not get what it asks for; None if it does."""
        skew = abs(request.time - self._clock.now_ms())
        if skew > limits.CLOCK_SKEW_SECONDS * 1000:
            return Refusal(
                WireCode.CLOCK_SKEW, "the clocks of the two nodes differ by more than a day"
            )
        refusal = self._decide(self._peers.store, request, self._clock.now())
        # While it rests, a study that is not there is told like one that is.
        is_told = refusal is None or refusal.code is WireCode.NOT_AVAILABLE
        if request.purpose == BREAK_GLASS and is_told:
            why = self._emergencies.why_rests(OUT, self._peer.facility_key, request)
            if why:
                return Refusal(WireCode.NOT_GRANTED, why, self.rule)
        return refusal

    def require(self, request: Request) -> None:
        """Check that the peer may still have what it was offered.

        Raises:
            RightEnded: it may not.
        """
        now = self._clock.now()
        version, store = self._catalog.version, self._peers.store
        held = (version, store, self._offers.version, now)
        if self._held == held:
            return
        refusal = self._decide(store, request, now) or self.discarded(request.study)
        if refusal is not None:
            raise RightEnded(refusal)
        # The same answer until something changes, or the second is over.
        self._held = held

    def alone(self) -> AbstractContextManager[object]:
        """Decide and log inside this block: no other request takes what is left of a limit."""
        return (
            self._lately.deciding
            if _is_limited(self._peers.store, self._peer)
            else contextlib.nullcontext()
        )

    def facts(self, study: str) -> str:
        """The facts about a study (UID) that the peer's rules read, as JSON; "" if they read none.

        They name persons: for an opening only.
        """
        rules = self._peers.store.rules(self._peer.facility_key)
        found = self._facts.of(self._catalog.study(study), self._peer.facility_key)
        return facts_read(rules, found)

    def _decide(self, store: TrustStore, request: Request, now: int) -> Refusal | None:
        peer = self._peer
        study = self._catalog.study(request.study)
        minute, weekday = local_time(now)
        asked = grants.Request(
            speaks=store.speaks_for(self._node_key, peer, now),
            purpose=request.purpose,
            person=request.person or "",
            role=request.role or "",
            reason=request.reason or "",
            approval=self._requests.approval(peer.facility_key, request),
            is_stat=request.stat,
            minute=minute,
            weekday=weekday,
        )
        usage = unseen = NO_USAGE
        if _is_limited(store, peer):
            size = 0 if study is None else study.original_bytes
            key, action = peer.facility_key, grants.study_action(request.purpose)
            usage = Usage(self._lately.with_this(key, request.study, size, action))
            unseen = Usage(self._lately.with_this(key, request.study, 0, action))
        decided = decide_fetch(
            store,
            peer,
            asked,
            self._facts.of(study, peer.facility_key),
            now=now,
            usage=usage,
            unseen=unseen,
            over_objections=self._emergencies.settings.over_objections,
            extra=self._offers.rules(peer.facility_key),
        )
        self.rule = decided.rule
        if not isinstance(decided, Refusal):
            return self._denied(request)
        if decided.code is WireCode.WAITING:
            why = self._requests.why_refused(peer.facility_key, request, decided.rule)
            if why:
                return Refusal(WireCode.NOT_GRANTED, why, decided.rule)
        return decided

    def _denied(self, request: Request) -> Refusal | None:
        """A refusal if a person has denied this request, also where no rule asks any more.

        The peer asks again until it is told, and the rule may be gone by then.
        """
        found = self._requests.of(self._peer.facility_key, request.transfer)
        if found is None or found.state != "denied":
            return None
        return Refusal(WireCode.NOT_GRANTED, f"request {found.number} was denied", self.rule)

    def discarded(self, study: str) -> Refusal | None:
        """A refusal if an operator has discarded some of the study since `begin`."""
        if self._catalog.last_discard(study) == self._discard:
            return None
        return Refusal(WireCode.NOT_AVAILABLE, DISCARDED)


def _is_limited(store: TrustStore, peer: Peer) -> bool:
    return any(rule.limits for rule in store.rules(peer.facility_key))
