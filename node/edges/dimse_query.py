"""Answers C-FIND: from our studies, and from those of facilities that the door lets be seen.

Before an answer leaves, the log says so. Another facility is asked only for one patient who is
named wholly, by number and issuer or by name, birth date and sex; never with a wildcard.
"""

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import trio

from edges.dimse import querying as q
from edges.dimse.querying import MODELS, BadQuery, Level
from edges.matching import has_wildcard
from keys.trust import Peer
from node.blocking import in_thread
from node.edges.dimse_operation import Operation
from node.edges.dimse_settings import Caller
from node.edges.fetched_first import FetchedFirst
from node.edges.identifiers import Query, Values, read_query, write_answer
from node.edges.query_studies import Scope, StudyQueries
from node.edges.query_values import NEARLINE, ONLINE, SeenStudy
from node.edges.told import CallersLately
from node.errors import ExitCode, NodeError
from protocol import limits
from protocol.find_messages import Asked, ByNumber, ByPerson, why_not_whole

log = logging.getLogger("radmesh.dimse")

ANSWERS = {Level.PATIENT: 1000, Level.STUDY: 1000, Level.SERIES: 100_000, Level.IMAGE: 100_000}
"""Most answers to one query: a list that a person can read, or all of a large study."""

ASK_SECONDS = 10.0
"""Longest time that a query waits for other facilities."""

QUERIES = 2
"""Queries of one caller that are worked on at one time; its others wait."""

ASKED_AGAIN_SECONDS = 600.0
"""A facility is not asked for the same patient again within this time: workstations ask at each
level, and the facility answers some thirty questions an hour."""

_REMEMBERED = 1000

Ask = Callable[[Peer, Asked, str], Awaitable[object]]
"""Asks a facility for a patient, with a purpose, and keeps what it has."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer, and the study of which it tells."""

    values: Values
    study: SeenStudy


class QueryService:
    """The service of C-FIND.

    Args:
        studies: finds them.
        told: logs what callers are told of.
        ask: asks a facility.
        is_connected: whether a facility (node key) is connected.
        first: fetches what is elsewhere.
    """

    def __init__(
        self,
        studies: StudyQueries,
        told: CallersLately,
        ask: Ask,
        is_connected: Callable[[bytes], bool],
        first: FetchedFirst,
    ) -> None:
        self._studies = studies
        self._told = told
        self._ask = ask
        self._is_connected = is_connected
        self._first = first
        self._at_once: dict[str, trio.CapacityLimiter] = {}
        self._asked: dict[tuple[bytes, Asked], float] = {}
        # When each caller had others asked last, the oldest first.
        self._asking: dict[str, deque[float]] = {}

    async def serve(self, operation: Operation) -> None:
        """Answer one query.

        Raises:
            Lost: the association is over.
        """
        model = MODELS[operation.context.abstract_syntax]
        try:
            if operation.is_too_long:
                raise BadQuery("the identifier is too long")
            syntax = operation.context.transfer_syntax
            query = await in_thread(read_query, operation.take_data(), syntax, model)
            _require_unique(query)
            scope = await in_thread(self._studies.scope, operation.door)
        except BadQuery as error:
            await operation.answer(q.BAD_IDENTIFIER, comment=str(error))
            return
        except NodeError as error:
            log.warning("a query of %s is refused: %s", operation.caller.ae_title, error.message)
            await operation.answer(q.CANNOT_PROCESS, comment=error.message)
            return
        if query.level <= Level.STUDY:
            await self._ask_partners(operation, query, scope)
        elif not await self._bring(operation, query, scope):
            return
        title = operation.caller.ae_title
        async with self._at_once.setdefault(title, trio.CapacityLimiter(QUERIES)):
            await self._answer(operation, query, scope)

    async def _bring(self, operation: Operation, query: Query, scope: Scope) -> bool:
        """Have the one study here whose series or images are asked for; whether to go on.

        A workstation asks so when a person opens a study. Only its images tell which series it has.
        """
        key = query.keys[q.STUDY].strip()
        if "\\" in key:
            # Of a list of studies, those are answered that are here.
            return True
        found = await in_thread(self._elsewhere, key, scope)
        if found is None:
            return True
        why = await self._first.bring(operation, query.keys, scope, found)
        if why:
            await operation.answer(q.OUT_OF_RESOURCES, comment=why)
        elif operation.is_cancelled:
            await operation.answer(q.CANCELLED)
        return not (why or operation.is_cancelled)

    def _elsewhere(self, study: str, scope: Scope) -> SeenStudy | None:
        """A study that a caller may see and that is not here."""
        pages = self._studies.studies({q.STUDY: study}, scope)
        return next((one for page in pages for one in page if not one.is_here), None)

    async def _answer(self, operation: Operation, query: Query, scope: Scope) -> None:
        pages, count, most = self._pages(query, scope), 0, ANSWERS[query.level]
        status = q.PENDING_WITHOUT_SOME if query.is_in_part else q.PENDING
        try:
            while not operation.is_cancelled:
                page = await in_thread(next, pages, None)
                if page is None:
                    await operation.answer(q.SUCCESS)
                    return
                is_too_much = count + len(page) > most
                page = page[: most - count]
                count += len(page)
                await in_thread(self._log, operation, page)
                for one in page:
                    if operation.is_cancelled:
                        break
                    data = self._written(operation, query, one)
                    await operation.answer(status, data)
                if is_too_much:
                    comment = f"more than {most} match: narrow the search"
                    await operation.answer(q.OUT_OF_RESOURCES, comment=comment)
                    return
        except NodeError as error:
            title = operation.caller.ae_title
            log.error("a query of %s cannot be answered: %s", title, error.message)
            await operation.answer(q.CANNOT_PROCESS, comment="see the log of the node")
            return
        await operation.answer(q.CANCELLED)

    def _log(self, operation: Operation, page: Sequence[_Answer]) -> None:
        studies = {one.study.study: one.study for one in page}
        caller, door = operation.caller, operation.door
        self._told.tell(caller.ae_title, caller.purpose, door.name, list(studies.values()))

    def _written(self, operation: Operation, query: Query, one: _Answer) -> bytes:
        own: dict[int, tuple[str, ...]] = {
            q.QUERY_LEVEL: (query.level.name,),
            q.RETRIEVE_AE_TITLE: (operation.door.name,),
            q.AVAILABILITY: (ONLINE if one.study.is_here else NEARLINE,),
        }
        for level in Level:
            if level is query.level or Level.STUDY <= level < query.level:
                unique = q.UNIQUE[level]
                own[unique] = one.values.get(unique, ())
        asked = {tag: one.values.get(tag, ()) for tag in query.keys}
        return write_answer(
            {**asked, **own}, query.character_set, operation.context.transfer_syntax
        )

    # --- what is found -----------------------------------------------------------------

    def _pages(self, query: Query, scope: Scope) -> Iterator[list[_Answer]]:
        keys = query.keys
        if query.level is Level.PATIENT:
            yield from self._patients(keys, scope)
            return
        for page in self._studies.studies(keys, scope):
            if query.level is Level.STUDY:
                yield [_Answer(_said(one), one) for one in page]
                continue
            for one in page:
                # Which series a study of others has is known when it is here.
                if one.is_here:
                    is_series = query.level is Level.SERIES
                    look = self._studies.series if is_series else self._studies.instances
                    for below in look(one.study, keys):
                        yield [_Answer({**_said(one), **each}, one) for each in below]

    def _patients(self, keys: Mapping[int, str], scope: Scope) -> Iterator[list[_Answer]]:
        """Each patient once, with the counts of their studies that the caller may see."""
        found: dict[tuple[tuple[str, ...], ...], list[SeenStudy]] = {}
        for page in self._studies.studies(keys, scope):
            for one in page:
                who = (q.PATIENT_ID, q.ISSUER) if one.said(q.PATIENT_ID) else _BY_NAME
                # Of one whom nobody names there is no patient to tell of.
                if one.said(who[0]):
                    found.setdefault(tuple(one.said(tag) for tag in who), []).append(one)
            if len(found) > ANSWERS[Level.PATIENT]:
                break
            yield []
        yield [_patient_of(studies) for studies in found.values()]

    # --- asking others -----------------------------------------------------------------

    async def _ask_partners(self, operation: Operation, query: Query, scope: Scope) -> None:
        """Ask the facilities of the scope, if the query names one patient wholly."""
        asked = whole_patient(query.keys)
        due = [peer for peer in scope.peers if asked is not None and self._is_due(peer, asked)]
        if asked is None or not due or not self._may_ask(operation.caller):
            return
        for peer in due:
            self._remember(peer, asked)
        with trio.move_on_after(ASK_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_leave_when_cancelled, operation, nursery.cancel_scope)
                async with trio.open_nursery() as asking:
                    for peer in due:
                        asking.start_soon(self._ask_one, operation.caller, peer, asked)
                nursery.cancel_scope.cancel()

    def _is_due(self, peer: Peer, asked: Asked) -> bool:
        last = self._asked.get((peer.facility_key, asked), -math.inf)
        is_due = trio.current_time() - last >= ASKED_AGAIN_SECONDS
        return is_due and self._is_connected(peer.card.node_key)

    def _remember(self, peer: Peer, asked: Asked) -> None:
        while len(self._asked) >= _REMEMBERED:
            del self._asked[next(iter(self._asked))]
        self._asked[peer.facility_key, asked] = trio.current_time()

    def _may_ask(self, caller: Caller) -> bool:
        """Whether a caller may have others asked for one more patient, which then counts."""
        asking = self._asking.setdefault(caller.ae_title, deque())
        now = trio.current_time()
        while asking and now - asking[0] >= limits.FIND_HOUR_SECONDS:
            asking.popleft()
        if len(asking) >= limits.FINDS_AN_HOUR:
            log.warning("%s looks for more patients at partners than it may in an hour",
                        caller.ae_title)  # fmt: skip
            return False
        asking.append(now)
        return True

    async def _ask_one(self, caller: Caller, peer: Peer, asked: Asked) -> None:
        try:
            await self._ask(peer, asked, caller.purpose)
        except NodeError as error:
            log.info("%s was asked for %s: %s", peer.petname, caller.ae_title, error.message)
            if error.code is ExitCode.UNREACHABLE:
                self._asked.pop((peer.facility_key, asked), None)


_BY_NAME = (q.PATIENT_NAME, q.BIRTH_DATE)


async def _leave_when_cancelled(operation: Operation, scope: trio.CancelScope) -> None:
    await operation.cancelled.wait()
    scope.cancel()


def whole_patient(keys: Mapping[int, str]) -> Asked | None:
    """The one patient whom keys name wholly, as another facility may be asked; None if not."""
    patient_id, issuer = keys.get(q.PATIENT_ID, ""), keys.get(q.ISSUER, "")
    person = [keys.get(tag, "").strip() for tag in (q.PATIENT_NAME, q.BIRTH_DATE, q.SEX)]
    if any(map(has_wildcard, (patient_id, issuer, *person))):
        return None
    asked: Asked
    if patient_id.strip() and issuer.strip():
        asked = ByNumber(patient_id.strip(), issuer.strip())
    elif all(person) and not patient_id.strip():
        asked = ByPerson(person[0].rstrip("^"), person[1], person[2].upper())
    else:
        return None
    is_too_long = any(len(one) > limits.FIND_CHARACTERS for one in vars(asked).values())
    return None if is_too_long or why_not_whole(asked) else asked


def _require_unique(query: Query) -> None:
    """Check that the keys above the level say of which study, and of which series."""
    wanted = [q.STUDY] if query.level >= Level.SERIES else []
    wanted += [q.SERIES] if query.level is Level.IMAGE else []
    for tag in wanted:
        key = query.keys.get(tag, "").strip()
        if not key or "*" in key or "?" in key:
            raise BadQuery("a unique key above the query level is missing")


def _said(one: SeenStudy) -> Values:
    return {tag: one.said(tag) for tag in one.values}


def _patient_of(studies: Sequence[SeenStudy]) -> _Answer:
    first = studies[0]
    counts = {
        q.PATIENT_STUDIES: (str(len(studies)),),
        q.PATIENT_SERIES: (_sum(studies, q.STUDY_SERIES),),
        q.PATIENT_INSTANCES: (_sum(studies, q.STUDY_INSTANCES),),
    }
    return _Answer({**_said(first), **counts}, first)


def _sum(studies: Sequence[SeenStudy], tag: int) -> str:
    return str(sum(int(one.said(tag)[0]) for one in studies if one.said(tag)))
