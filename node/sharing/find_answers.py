"""Answering searches for a patient: whom a peer may find, decided and logged before it is told.

The answer names studies that the peer may find and nothing else, so a patient who is not here and
one whose studies the peer may not find are the same to it. Both take the same way through this file
and the same time: an answer leaves at a whole multiple of `FIND_STEP_SECONDS` after the question.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import blake3
import trio

from keys import grants
from keys.conditions import Facts
from keys.grants import No, Why, Yes, explain
from keys.identity import KeyPair
from keys.trust import Peer, TrustStore
from node.blocking import in_thread
from node.catalog.catalog import Catalog, StudyRow
from node.catalog.discards import Recall
from node.catalog.names import is_whole, same
from node.catalog.words import Search
from node.clock import Clock, local_time
from node.errors import ExitCode, NodeError
from node.network.messaging import MessageStream
from node.network.network import PeerStream, StreamLost
from node.sharing.budgets import Budgets
from node.sharing.facts import StudyFacts
from node.sharing.find_entries import (
    Asker,
    Told,
    answered_entries,
    identity_of,
    refused_entry,
)
from node.sharing.found import Questions
from node.sharing.peers import Peers
from node.sharing.policy import Refusal
from node.sharing.refusals import Refusals
from protocol import limits, messages, modalities
from protocol.errors import RemoteProtocolError, WireCode
from protocol.fields import from_map_untrusted, to_map
from protocol.find_messages import Asked, ByNumber, Find, FindRefused, Found, asked_untrusted
from protocol.log.entry import Event
from protocol.messages import Message, Record, Signed

log = logging.getLogger("radmesh.find")

KNOWN: dict[str, type[Message]] = {Signed.TYPE: Signed}

_TOO_MANY = f"more than {limits.FIND_STUDIES} studies"


Allowed = tuple[StudyRow, str]
"""A study, and the rule by which a peer may find it."""


def decide_find(
    store: TrustStore,
    peer: Peer,
    asked: grants.Request,
    studies: Iterable[tuple[StudyRow, Facts]],
    *,
    now: int,
) -> Refusal | list[Allowed]:
    """Which of a patient's studies a peer may find; a refusal does not depend on them.

    Args:
        store: the trust store.
        peer: the peer that asks.
        asked: what it asks.
        studies: all studies of the patient that are here, with the facts about them.
        now: seconds since the epoch, UTC.
    """
    key = peer.facility_key
    no = store.why_never("find", key, now)
    if no is None and not store.tells_apart("find", key):
        # What holds for a study that is not there holds for each.
        answer = store.may("find", key, now, request=asked)
        no = answer if isinstance(answer, No) and answer.why is not Why.NOT_SHARED else None
    if no is not None:
        code = WireCode.PURPOSE_NOT_ALLOWED if no.why is Why.PURPOSE else WireCode.NOT_GRANTED
        return Refusal(code, explain(no), no.rule)
    answers = (
        (row, store.may("find", key, now, facts=facts, request=asked)) for row, facts in studies
    )
    return [(row, answer.rule) for row, answer in answers if isinstance(answer, Yes)]


class FindAnswers:
    """Answers questions of peers.

    Args:
        key: gives our node key.
        peers: who may find what.
        catalog: the studies of this node.
        facts: gives the facts about them.
        recall_of: the recall that peers get for a study (UID).
        questions: counts the questions of each peer.
        append: writes audit entries durably with one flush (synchronous).
        in_doubt: whether our own log differs from what we signed.
        clock: tells whether a peer's rights count now.
        budgets: tells whether the disk has room.
        refusals: logs what was refused.
    """

    def __init__(
        self,
        *,
        key: Callable[[], KeyPair],
        peers: Peers,
        catalog: Catalog,
        facts: StudyFacts,
        recall_of: Callable[[str], Recall],
        questions: Questions,
        append: Callable[[Sequence[Event]], object],
        in_doubt: Callable[[], bool],
        clock: Clock,
        budgets: Budgets,
        refusals: Refusals,
    ) -> None:
        self._key = key
        self._peers = peers
        self._catalog = catalog
        self._facts = facts
        self._recall_of = recall_of
        self._questions = questions
        self._append = append
        self._in_doubt = in_doubt
        self._clock = clock
        self._budgets = budgets
        self._refusals = refusals
        self._answering: Counter[bytes] = Counter()

    async def serve(self, stream: PeerStream) -> None:
        """Answer the one question of an inbound stream; never raises for a peer's doing."""
        peer = self._peers.store.by_node_key(stream.peer, self._clock.now())
        if peer is None:
            await stream.reset()
            return
        self._answering[peer.facility_key] += 1
        try:
            channel = MessageStream(stream)
            await channel.send(await self._answer(peer, channel))
            await stream.finish()
        except StreamLost as error:
            log.debug("a question of %s was cut off: %s", peer.petname, error)
        finally:
            self._answering[peer.facility_key] -= 1
            if not self._answering[peer.facility_key]:
                del self._answering[peer.facility_key]

    async def _answer(self, peer: Peer, channel: MessageStream) -> Message:
        came = trio.current_time()
        try:
            signed = await channel.receive_untrusted(KNOWN)
            assert isinstance(signed, Signed)
            came = trio.current_time()
            find = messages.open_signed_untrusted(signed, Find, channel.peer)
            if find.source != self._key().public:
                raise RemoteProtocolError("the question is for another node")
            asked = asked_untrusted(find)
            if self._answering[peer.facility_key] > limits.FINDS_AT_ONCE:
                return FindRefused(code=WireCode.BUSY, wait=1)
            question = blake3.blake3(signed.body).digest()
            answer = await in_thread(self._decide, channel.peer, find, asked, question)
        except RemoteProtocolError as error:
            log.info("a question of %s is refused: %s", peer.petname, error)
            answer = FindRefused(code=error.code, wait=0)
        except NodeError as error:
            log.error("a question of %s cannot be answered: %s", peer.petname, error.message)
            disk = error.code in (ExitCode.INTEGRITY, ExitCode.DISK)
            code = WireCode.SOURCE_DISK if disk else WireCode.OTHER
            answer = FindRefused(code=WireCode.LOG_IN_DOUBT if self._in_doubt() else code, wait=0)
        await trio.sleep_until(came + _steps(trio.current_time() - came))
        return answer

    def _decide(self, node_key: bytes, find: Find, asked: Asked, question: bytes) -> Message:
        """The answer; on return the log says what the peer gets."""
        if not self._budgets.has_room():
            return FindRefused(code=WireCode.SOURCE_DISK, wait=0)
        with self._peers.decisions.made():
            peer = self._peers.store.by_node_key(node_key, self._clock.now())
            if peer is None:
                return FindRefused(code=WireCode.NOT_GRANTED, wait=0)
            person = find.person.strip()
            asker = Asker(
                peer.facility_key,
                f"{person} at {peer.petname}" if person else "",
                self._peers.rights_digest(peer.facility_key),
            )
            allowed, wait = self._found(peer, find, asked, node_key)
            if isinstance(allowed, Refusal):
                entry = refused_entry(asker, find, asked, allowed.reason, allowed.rule)
                self._refusals.log(peer.facility_key, "find", [entry])
                return FindRefused(code=allowed.code, wait=wait)
            records = tuple(self._record(number, row) for number, (row, _) in enumerate(allowed, 1))
            told = [
                # Where the images have no Patient ID, the question has told who it is.
                Told(
                    row.study_uid,
                    self._catalog.patients(row.study_uid) or (identity_of(asked),),
                    rule,
                )
                for row, rule in allowed
            ]
            is_too_much = len(told) > limits.FIND_STUDIES
            why = _TOO_MANY if is_too_much else ""
            self._append(answered_entries(asker, find, asked, [] if is_too_much else told, why))
        if is_too_much:
            return FindRefused(code=WireCode.TOO_LARGE, wait=0)
        found = Found(
            find=find.find,
            recipient=node_key,
            question=question,
            time=self._clock.now_ms(),
            records=records,
        )
        return messages.sign(found, self._key())

    def _found(
        self, peer: Peer, find: Find, asked: Asked, node_key: bytes
    ) -> tuple[Refusal | list[Allowed], int]:
        """The studies that a peer is told of; or a refusal, and the seconds that it has to wait."""

        def may_find(studies: Sequence[StudyRow]) -> Refusal | list[Allowed]:
            store, now = self._peers.store, self._clock.now()
            minute, weekday = local_time(now)
            request = grants.Request(
                speaks=store.speaks_for(node_key, peer, now),
                purpose=find.purpose,
                person=find.person,
                minute=minute,
                weekday=weekday,
            )
            facts = self._facts.of_each(studies, peer.facility_key)
            return decide_find(store, peer, request, zip(studies, facts, strict=True), now=now)

        if abs(find.time - self._clock.now_ms()) > limits.CLOCK_SKEW_SECONDS * 1000:
            return Refusal(WireCode.CLOCK_SKEW, "the clocks differ by more than a day"), 0
        # Without studies first: what refuses the peer whoever the patient is needs none.
        allowed = may_find(())
        if isinstance(allowed, Refusal):
            return allowed, 0
        wait = self._questions.take(peer.facility_key)
        if wait:
            return Refusal(WireCode.BUSY, "more questions than its budget"), wait
        # The right may have ended meanwhile: decide once more.
        return may_find(self._studies_of(asked)), 0

    def _studies_of(self, asked: Asked) -> list[StudyRow]:
        """All studies here of exactly this patient, shared or not."""
        if isinstance(asked, ByNumber):
            search = Search(patient_id=asked.patient_id, issuer=asked.issuer)
            return self._catalog.studies(search=search)
        if not is_whole(asked.name):
            return []
        # The search finds beginnings of names; of these, the whole names.
        search = Search(name=asked.name, birth_date=asked.birth_date)
        return [
            row
            for row in self._catalog.studies(search=search)
            if row.patient_sex == asked.sex and same(row.patient_name, asked.name)
        ]

    def _record(self, number: int, row: StudyRow) -> Record:
        """A study as it is announced: nothing of its patient."""
        recall = self._recall_of(row.study_uid)
        fields: dict[str, Any] = {"recall": recall.code, "recalls": recall.count}
        record = Record(
            sequence=number,
            kind="available",
            study=row.study_uid,
            content_root=row.content_root,
            series=row.series_count,
            instances=row.instance_count,
            bytes=row.original_bytes,
            encoded_bytes=row.encoded_bytes,
            modalities=modalities.of_study(row.modalities),
            study_date=row.study_date,
            indexed=True if row.indexed_in else None,
            **(fields if recall.code else {}),
        )
        try:
            from_map_untrusted(Record, to_map(record))
        except RemoteProtocolError as error:
            raise NodeError(f"no peer could read that study {row.study_uid}: {error}") from None
        return record


def _steps(seconds: float) -> float:
    """The next whole multiple of `FIND_STEP_SECONDS`, at least one."""
    return max(1, math.ceil(seconds / limits.FIND_STEP_SECONDS)) * limits.FIND_STEP_SECONDS
