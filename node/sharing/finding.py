"""Asking a peer for the studies of a patient: logged before the question leaves, kept for a day.

A question tells the peer that we look for this patient. So an operator asks it, of one facility and
with a purpose, and nothing asks by itself.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import blake3
import nacl.utils
import trio

from keys.identity import KeyPair
from keys.trust import Peer
from node.blocking import in_thread
from node.callers import asking
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.network.messaging import MessageStream
from node.network.network import PeerStream, StreamLost
from node.phrases import duration
from node.sharing.feeds import without_patient
from node.sharing.find_entries import asked_entry, found_entry
from node.sharing.found import FoundStudies, FoundStudy
from node.sharing.peers import Peers
from protocol import limits, messages
from protocol.errors import RemoteProtocolError, WireCode
from protocol.find_messages import (
    Asked,
    Find,
    FindRefused,
    Found,
    check_found_untrusted,
)
from protocol.log.entry import Event
from protocol.messages import Message, Record, Signed

log = logging.getLogger("radmesh.find")

SWEEP_SECONDS = 600.0
"""Time between two looks for what is to be forgotten."""

_KNOWN: dict[str, type[Message]] = {Signed.TYPE: Signed, FindRefused.TYPE: FindRefused}

_SENTENCES: dict[WireCode, tuple[str, str]] = {
    WireCode.NOT_GRANTED: (
        "{peer} does not let us search for patients",
        "ask its admin for the grant `find` (`radmesh trust grant`)",
    ),
    WireCode.PURPOSE_NOT_ALLOWED: (
        "{peer} does not let us search for patients for this purpose",
        "name another purpose with --purpose, or ask its admin",
    ),
    WireCode.BUSY: (
        "{peer} has answered as many searches of ours as it answers in an hour, or in a day",
        "search again in {wait}",
    ),
    WireCode.TOO_LARGE: (
        f"{{peer}} has more than {limits.FIND_STUDIES} studies of this patient, and tells of none",
        "ask its admin which of them is meant",
    ),
    WireCode.CLOCK_SKEW: (
        "{peer} refused since the clocks of the two nodes differ by more than a day",
        "set the clock of the node that is wrong",
    ),
    WireCode.LOG_IN_DOUBT: (
        "{peer} answers no search now, since its own audit log is in doubt",
        "tell its admin, who sees why with `radmesh status`; it is no fault of this node",
    ),
    WireCode.SOURCE_DISK: ("the disk of {peer} is full or damaged", "tell its admin"),
}
"""For each code of a refusal, the sentence and the hint for people."""


@dataclass(frozen=True)
class Answer:
    """What a peer has of a patient.

    Attributes:
        find: the question's name, 16 bytes; it is in both logs.
        studies: all that it tells of.
    """

    find: bytes
    studies: tuple[FoundStudy, ...]


class Finder:
    """Asks peers.

    Args:
        key: gives our node key.
        peers: who is trusted.
        open_stream: opens a stream of the protocol to a connected peer (node key, 32 bytes).
        found: keeps what was found.
        append: writes one audit entry durably (synchronous).
        clock: dates questions.
    """

    def __init__(
        self,
        *,
        key: Callable[[], KeyPair],
        peers: Peers,
        open_stream: Callable[[bytes], Awaitable[PeerStream]],
        found: FoundStudies,
        append: Callable[[Event], int],
        clock: Clock,
    ) -> None:
        self._key = key
        self._peers = peers
        self._open_stream = open_stream
        self._found = found
        self._append = append
        self._clock = clock

    async def run(self) -> None:
        """Forget what was found a day ago, until cancelled."""
        while True:
            try:
                await in_thread(self._found.sweep)
            except NodeError as error:
                log.error("what was found cannot be forgotten now: %s", error.message)
            await trio.sleep(SWEEP_SECONDS)

    async def ask(self, peer: Peer, asked: Asked, purpose: str) -> Answer:
        """Ask a connected peer for a patient's studies, and keep them for a day.

        Args:
            peer: the peer.
            asked: the patient, named wholly.
            purpose: why, for both logs.

        Raises:
            NodeError: the peer refused, is away or broke a rule, or nothing can be logged here.
        """
        if not self._peers.store.speaks_for(peer.card.node_key, peer, self._clock.now()):
            raise NodeError(
                f"{peer.petname} is not trusted, or its node key is contested",
                hint="see `radmesh trust list`",
                code=ExitCode.REFUSED,
            )
        key = self._key()
        find = _question(asked, peer, purpose, self._clock.now_ms())
        await in_thread(self._append, asked_entry(peer.facility_key, find, asked))
        signed = messages.sign(find, key)
        failure: NodeError | None = None
        answer: Found | FindRefused | None = None
        try:
            answer = await self._exchange(peer, find, signed, key.public)
        except StreamLost as error:
            log.info("the search at %s was not answered: %s", peer.petname, error)
            failure = NodeError(
                f"{peer.petname} did not answer the search",
                hint="see `radmesh status` whether it is connected; a node of an earlier release"
                " answers none",
                code=ExitCode.UNREACHABLE,
            )
        except RemoteProtocolError as error:
            failure = NodeError(
                f"{peer.petname} answered the search wrongly: {error}",
                hint="see the log of both nodes; it may run another version",
                code=ExitCode.INTEGRITY,
            )
        if isinstance(answer, FindRefused):
            failure = _refusal(answer, peer.petname)
        return await in_thread(self._keep, peer, find, asked, answer, failure)

    async def _exchange(
        self, peer: Peer, find: Find, signed: Signed, own_key: bytes
    ) -> Found | FindRefused:
        with trio.move_on_after(limits.PEER_REPLY_SECONDS):
            stream = await self._open_stream(peer.card.node_key)
            async with stream:
                channel = MessageStream(stream)
                await channel.send(signed)
                answer = await channel.receive_untrusted(_KNOWN)
            if isinstance(answer, FindRefused):
                return answer
            assert isinstance(answer, Signed)
            found = messages.open_signed_untrusted(answer, Found, peer.card.node_key)
            check_found_untrusted(
                found,
                find=find.find,
                recipient=own_key,
                question=blake3.blake3(signed.body).digest(),
            )
            return found
        raise StreamLost(f"nothing from the peer for {limits.PEER_REPLY_SECONDS:g} s")

    def _keep(
        self,
        peer: Peer,
        find: Find,
        asked: Asked,
        answer: Found | FindRefused | None,
        failure: NodeError | None,
    ) -> Answer:
        """Log what came, and keep it; nothing of it is shown before."""
        records: Sequence[Record] = answer.records if isinstance(answer, Found) else ()
        studies = [record.study for record in records]
        why = "" if failure is None else failure.message
        self._append(found_entry(peer.facility_key, find, asked, studies, why))
        if failure is not None:
            raise failure
        # A release that told of the patient would tell more than we asked for.
        bare = tuple(map(without_patient, records))
        return Answer(find.find, self._found.keep(peer.facility_key, asked, bare))


def _question(asked: Asked, peer: Peer, purpose: str, now_ms: int) -> Find:
    named: dict[str, Any] = asdict(asked)
    return Find(
        find=nacl.utils.random(16),
        source=peer.card.node_key,
        purpose=purpose,
        person=(asking().display or asking().name)[: limits.NAME_CHARACTERS],
        time=now_ms,
        **named,
    )


def _refusal(answer: FindRefused, peer: str) -> NodeError:
    code = WireCode.from_wire(answer.code)
    what, hint = _SENTENCES.get(
        code, ("{peer} refused the search " + f"(code {code.value})", "see the log of both nodes")
    )
    return NodeError(
        what.format(peer=peer), hint=hint.format(wait=duration(answer.wait)), code=ExitCode.REFUSED
    )
