"""Tells connected peers of our offers, hears theirs, and fetches what was accepted.

One message and its answer a stream. A release that does not know the protocol answers `na`; the
offer then waits until the peer has a newer one, or ends.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from keys.grants import Request, Yes
from keys.identity import KeyPair
from keys.purposes import BREAK_GLASS
from keys.rules import ALLOW, ASK
from keys.trust import Peer
from node.blocking import in_thread
from node.clock import Clock, local_time
from node.errors import ExitCode, NodeError
from node.network.messaging import MessageStream
from node.network.network import PeerStream, StreamLost
from node.sharing.budgets import Budgets
from node.sharing.offered import OFFERED, OUT, StudyOffered
from node.sharing.offers import Offers
from node.sharing.peers import Peers
from protocol import limits, messages
from protocol.errors import RemoteProtocolError, WireCode
from protocol.messages import Message, Refusal, Signed
from protocol.offers import (
    ACCEPTED,
    ANSWERS,
    DECLINED,
    KNOWN,
    OfferAnswer,
    OfferEnd,
    OfferNoted,
    StudyOffer,
    open_word_untrusted,
)

log = logging.getLogger("radmesh.offering")

AGAIN_SECONDS = 60.0
"""Time until what could not be told or fetched is tried again."""

LOOK_SECONDS = 5.0
"""Time between two looks for offers whose time is over."""


class Offering:
    """Both directions of the offers protocol.

    Args:
        offers: the offers.
        peers: who is trusted.
        key: gives our node key.
        open_stream: opens an offers stream to a connected node key (32 bytes).
        fetch: begins to fetch an accepted study from the peer that offered it.
        clock: tells which rules count now.
        budgets: limits what a facility may offer.
    """

    def __init__(
        self,
        offers: Offers,
        peers: Peers,
        key: Callable[[], KeyPair],
        open_stream: Callable[[bytes], Awaitable[PeerStream]],
        fetch: Callable[[StudyOffered], Awaitable[None]],
        *,
        clock: Clock,
        budgets: Budgets,
    ) -> None:
        self._offers = offers
        self._peers = peers
        self._key = key
        self._open_stream = open_stream
        self._fetch = fetch
        self._clock = clock
        self._budgets = budgets
        self._changed = trio.Event()
        self._fetching = trio.Lock()
        self._serving: Counter[bytes] = Counter()

    def poke(self) -> None:
        """Offers have changed: look what has to be told or fetched."""
        event, self._changed = self._changed, trio.Event()
        event.set()

    async def run(self) -> None:
        """End offers at their dates, answer by rules, fetch what was accepted, until cancelled."""
        again = 0.0
        while True:
            changed = self._changed
            try:
                await in_thread(self._offers.end_due)
                await in_thread(self._answer_waiting)
                if trio.current_time() >= again:
                    await self._fetch_accepted()
            except NodeError as error:
                again = trio.current_time() + LOOK_SECONDS
                log.error("offers cannot be followed now: %s", error.message)
            with trio.move_on_after(LOOK_SECONDS):
                await changed.wait()

    async def accept(self, number: int) -> StudyOffered:
        """Accept an offer of a peer for a person, and begin to fetch it.

        Raises:
            NodeError: it does not wait for an answer, a rule denies it, or it cannot be written.
        """
        await in_thread(self._require_not_denied, number)
        async with self._fetching:
            offered = await in_thread(self._offers.answer, number, ACCEPTED)
            await self._begin(offered)
        return offered

    def _require_not_denied(self, number: int) -> None:
        offered, now = self._offers.find(number), self._clock.now()
        for peer in self._peers.store.peers:
            if peer.facility_key != offered.peer:
                continue
            answer, rule = decide_send(self._peers, peer, offered.purpose, now)
            if answer == DECLINED:
                raise NodeError(
                    f"{rule} denies what {peer.petname} sends for this purpose",
                    hint=f"decline it (`radmesh offers decline {number}`), or remove the rule",
                    code=ExitCode.REFUSED,
                )

    async def _fetch_accepted(self) -> None:
        async with self._fetching:
            for offered in await in_thread(self._offers.to_fetch):
                await self._begin(offered)

    async def _begin(self, offered: StudyOffered) -> None:
        await self._fetch(offered)
        await in_thread(self._offers.fetch_begins, offered.number)

    # --- telling -----------------------------------------------------------------------

    async def keep_told(self, node_key: bytes) -> None:
        """Tell a connected peer how its offers and ours stand, until cancelled."""
        said: set[tuple[bytes, str]] = set()
        while True:
            changed = self._changed
            peer = self._peers.store.by_node_key(node_key, self._clock.now())
            if peer is not None:
                try:
                    await self._tell(node_key, peer, said)
                except StreamLost as error:
                    log.debug("%s was not told of offers: %s", peer.petname, error)
                except (RemoteProtocolError, NodeError) as error:
                    log.info("%s cannot be told of offers: %s", peer.petname, error)
            with trio.move_on_after(AGAIN_SECONDS):
                await changed.wait()

    async def _tell(self, node_key: bytes, peer: Peer, said: set[tuple[bytes, str]]) -> None:
        """Say what this peer has not heard on this connection; `said` grows by it."""
        for offered in await in_thread(self._offers.to_tell, peer.facility_key):
            what = (offered.offer, offered.state)
            # An answer that the peer has asked for again is said again.
            if what in said and (offered.direction == OUT or offered.told):
                continue
            word = messages.sign(self._word(offered, node_key), self._key())
            async with await self._open_stream(node_key) as stream:
                channel = MessageStream(stream)
                await channel.send(word)
                answer = await channel.receive_untrusted(ANSWERS)
            if isinstance(answer, Refusal):
                code = WireCode.from_wire(answer.code)
                log.info("%s does not take an offer: %s", peer.petname, code.name.lower())
                if code is WireCode.BUSY:
                    return
            said.add(what)
            if isinstance(answer, OfferNoted):
                await in_thread(self._offers.told, offered.number, offered.state)

    def _word(self, offered: StudyOffered, node_key: bytes) -> Message:
        time_ms = self._clock.now_ms()
        if offered.direction != OUT:
            return OfferAnswer(
                recipient=node_key, offer=offered.offer, time=time_ms, answer=offered.state
            )
        if offered.state != OFFERED:
            return OfferEnd(recipient=node_key, offer=offered.offer, time=time_ms)
        return StudyOffer(
            recipient=node_key,
            offer=offered.offer,
            time=time_ms,
            until=offered.until * 1000,
            study=offered.study,
            purpose=offered.purpose,
            message=offered.message,
            series=offered.series,
            instances=offered.instances,
            bytes=offered.bytes,
            modalities=tuple(filter(None, offered.modalities.split("\n")))[: limits.MODALITIES],
            study_date=offered.study_date,
            person=offered.person or None,
            role=offered.role or None,
        )

    # --- hearing -----------------------------------------------------------------------

    async def serve(self, stream: PeerStream) -> None:
        """Take one message about an offer; never raises for a peer's doing."""
        peer = self._peers.store.by_node_key(stream.peer, self._clock.now())
        if peer is None:
            await stream.reset()
            return
        self._serving[peer.facility_key] += 1
        try:
            channel = MessageStream(stream)
            await channel.send(await self._answer(peer, channel))
            await stream.close()
        except StreamLost as error:
            log.debug("a message of %s about an offer was cut off: %s", peer.petname, error)
        finally:
            self._serving[peer.facility_key] -= 1
            if not self._serving[peer.facility_key]:
                del self._serving[peer.facility_key]

    async def _answer(self, peer: Peer, channel: MessageStream) -> Message:
        try:
            signed = await channel.receive_untrusted(KNOWN)
            if self._serving[peer.facility_key] > limits.OFFER_STREAMS_PER_PEER:
                raise RemoteProtocolError("too many messages about offers", WireCode.BUSY)
            if not self._budgets.take(peer.facility_key, "offer-message"):
                raise RemoteProtocolError("more about offers than its budget", WireCode.BUSY)
            assert isinstance(signed, Signed)
            word = open_word_untrusted(signed, channel.peer, self._key().public)
            skew = abs(word.time - self._clock.now_ms())
            if skew > limits.CLOCK_SKEW_SECONDS * 1000:
                raise RemoteProtocolError("the clocks differ by a day", WireCode.CLOCK_SKEW)
            await in_thread(self._take, peer, word)
            self.poke()
            return OfferNoted()
        except RemoteProtocolError as error:
            log.info("a message of %s about an offer is refused: %s", peer.petname, error)
            return Refusal(code=error.code)
        except NodeError as error:
            log.error("an offer of %s cannot be kept: %s", peer.petname, error.message)
            return Refusal(code=WireCode.BUSY)

    def _take(self, peer: Peer, word: Message) -> None:
        if isinstance(word, OfferAnswer):
            self._offers.heard_answer(peer.facility_key, word.offer, word.answer)
        elif isinstance(word, OfferEnd):
            self._offers.heard_end(peer.facility_key, word.offer)
        elif isinstance(word, StudyOffer) and not self._offers.is_known(
            peer.facility_key, word.offer
        ):
            if not self._budgets.take(peer.facility_key, "offer"):
                raise RemoteProtocolError("more offers than its budget", WireCode.BUSY)
            if not self._budgets.has_room():
                raise RemoteProtocolError("the disk is full", WireCode.STORAGE_FULL)
            self._answer_by_rule(peer, self._offers.take_untrusted(peer, word))

    def _answer_waiting(self) -> None:
        """Do for offers that wait what a rule says by now: it may be new, or its hour has come."""
        peers = {peer.facility_key: peer for peer in self._peers.store.peers}
        for offered in self._offers.waiting():
            if offered.peer in peers:
                self._answer_by_rule(peers[offered.peer], offered)

    def _answer_by_rule(self, peer: Peer, offered: StudyOffered) -> None:
        """Accept or decline at once where a rule of ours says so; else a person is asked."""
        answer, rule = decide_send(self._peers, peer, offered.purpose, self._clock.now())
        if answer == OFFERED:
            return
        try:
            self._offers.answer(offered.number, answer, rule=rule)
        except NodeError as error:
            # A person, or its end, was faster.
            if error.code is not ExitCode.NOT_FOUND:
                raise


def decide_send(peers: Peers, peer: Peer, purpose: str, now: int) -> tuple[str, str]:
    """What becomes of an offer of a peer by our rules for the action `send`.

    Returns:
        `ACCEPTED`, `DECLINED`, or `OFFERED` where a person has to say; and the rule that decides.
    """
    if purpose == BREAK_GLASS:
        # Whoever accepts it would break the glass, without being asked for a reason.
        return DECLINED, "break-glass"
    minute, weekday = local_time(now)
    request = Request(
        speaks=True,
        purpose=purpose,
        minute=minute,
        weekday=weekday,
    )
    answer = peers.store.may("send", peer.facility_key, now, request=request)
    if isinstance(answer, Yes):
        return ACCEPTED, answer.rule
    effects = {rule.name: rule.effect for rule in peers.store.rules(peer.facility_key)}
    if effects.get(answer.rule, ASK) not in (ALLOW, ASK):
        return DECLINED, answer.rule
    return OFFERED, answer.rule
