"""Carries out C-MOVE and C-GET: fetches what is not here, logs it, and sends the originals.

While it works, the caller is told each second how far it is.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from edges.dimse import querying as q
from edges.dimse.commands import Element
from edges.dimse.querying import ATTRIBUTES, MODELS, UNIQUE, BadQuery, Level, Model
from edges.matching import has_wildcard, is_universal, matcher
from node.blocking import in_thread
from node.catalog.catalog import Catalog
from node.edges.dimse_client import Callee
from node.edges.dimse_operation import Lost, Operation
from node.edges.dimse_settings import DimseSettings
from node.edges.fetched_first import FetchedFirst
from node.edges.identifiers import STUDIES, Query, read_query, write_failed
from node.edges.query_studies import Scope, StudyQueries
from node.edges.query_values import SeenStudy
from node.edges.sub_operations import BackToCaller, Tally, ToDestination, Way, send_study
from node.edges.tls import tls_to_call
from node.edges.told import CallersLately
from node.errors import NodeError
from node.images.store import BatchStore
from protocol.manifest import Manifest

log = logging.getLogger("radmesh.dimse")

PENDING_SECONDS = 1.0
"""Time between two words to a caller who waits."""

RETRIEVES = 2
"""Retrieves of one caller that send at one time; its others wait. Callers do not wait for each
other: whoever receives for one may be slow."""

LOOKING = 4
"""Retrieves of all callers whose studies are looked for at one time."""

GRACE_SECONDS = 5.0
"""Time for the image under way when a caller cancels."""


@dataclass
class _Job:
    """One retrieve: what is wanted, and what has become of it."""

    operation: Operation
    way: Way
    query: Query
    scope: Scope
    tally: Tally = field(default_factory=Tally)


class RetrieveService:
    """The service of C-MOVE and C-GET.

    Args:
        studies: finds what is meant.
        told: logs what callers get.
        first: fetches what is elsewhere.
        catalog, store: have the originals.
        settings: has the callers, with where they take images.
        kept_out: why a study (UID) may not go to who is named by this AE title, or "".
    """

    def __init__(
        self,
        studies: StudyQueries,
        told: CallersLately,
        first: FetchedFirst,
        catalog: Catalog,
        store: BatchStore,
        settings: DimseSettings,
        kept_out: Callable[[str, str], str] = lambda study, title: "",
    ) -> None:
        self._kept_out = kept_out
        self._studies = studies
        self._told = told
        self._first = first
        self._catalog = catalog
        self._store = store
        self._settings = settings
        # So that none of them has the threads of the whole node.
        self._looking = trio.CapacityLimiter(LOOKING)
        self._sending: dict[str, trio.CapacityLimiter] = {}

    async def serve(self, operation: Operation) -> None:
        """Carry out one retrieve.

        Raises:
            Lost: the association is over.
        """
        model = MODELS[operation.context.abstract_syntax]
        try:
            query = await in_thread(_read, operation, model, limiter=self._looking)
        except BadQuery as error:
            await operation.answer(q.BAD_IDENTIFIER, comment=str(error))
            return
        try:
            way = await in_thread(self._way, operation, model)
            if way is None:
                comment = "the move destination is not in the settings"
                await operation.answer(q.UNKNOWN_DESTINATION, comment=comment)
                return
            scope = await in_thread(self._studies.scope, operation.door)
            job = _Job(operation, way, query, scope)
            wanted = await in_thread(self._wanted, job, limiter=self._looking)
        except BadQuery as error:
            await operation.answer(q.CANNOT_COUNT, comment=str(error))
            return
        except NodeError as error:
            log.warning("a retrieve of %s is refused: %s", operation.caller.ae_title, error.message)
            await operation.answer(q.CANNOT_SEND, comment=error.message)
            return
        job.tally.remaining = sum(_foreseen(query, one) for one in wanted)
        await _with_pending(job, lambda: self._work(job, wanted))
        await _finish(job)

    def _way(self, operation: Operation, model: Model) -> Way | None:
        if model.does == "get":
            return BackToCaller(operation)
        title = operation.command.text(Element.MOVE_DESTINATION)
        caller = self._settings.callers.get(title)
        if caller is None or caller.receives_at is None:
            log.warning("%s wants to move to %a, which is not in the settings",
                        operation.caller.ae_title, title)  # fmt: skip
            return None
        place = caller.receives_at
        callee = Callee(
            ae_title=title,
            calling=operation.door.name,
            host=place.host,
            port=place.port,
            tls=tls_to_call(self._settings) if caller.receives_tls else None,
        )
        return ToDestination(callee, operation.caller.ae_title, operation.command.message_id)

    def _wanted(self, job: _Job) -> list[SeenStudy]:
        """The studies that are meant, those that are here first.

        Raises:
            BadQuery: there are too many.
            NodeError: the caller may not get so many today.
        """
        level, keys = job.query.level, job.query.keys
        by = q.PATIENT_ID if level is Level.PATIENT else q.STUDY
        fits = matcher("LO", keys.get(q.PATIENT_ID, ""))
        found: list[SeenStudy] = []
        named = {tag: keys[tag] for tag in (by, q.ISSUER) if keys.get(tag)}
        for page in self._studies.studies(named, job.scope):
            # Of a study of others the patient may not be known.
            found += [
                one for one in page
                if not one.values[q.PATIENT_ID] or fits(one.values[q.PATIENT_ID])
            ]  # fmt: skip
            if len(found) > STUDIES:
                raise BadQuery(f"more than {STUDIES} studies are meant")
        if level is Level.PATIENT and len({one.said(q.ISSUER) for one in found}) > 1:
            raise BadQuery("several patients have this Patient ID: name its issuer")
        self._told.require_room(job.operation.caller, [one.study for one in found])
        return sorted(found, key=lambda one: not one.is_here)

    async def _work(self, job: _Job, wanted: Sequence[SeenStudy]) -> None:
        operation, left = job.operation, list(wanted)
        is_reachable = True
        while left and is_reachable and not operation.is_cancelled:
            is_reachable = await self._retrieve(job, left.pop(0))
        if not operation.is_cancelled:
            job.tally.fail([], "", sum(_foreseen(job.query, one) for one in left))

    async def _retrieve(self, job: _Job, one: SeenStudy) -> bool:
        """Get one study to its receiver; returns whether that can be reached."""
        operation, tally = job.operation, job.tally
        if not one.is_here:
            why = await self._first.bring(operation, job.query.keys, job.scope, one)
            if why:
                tally.fail([], why, _foreseen(job.query, one))
                return True
        if operation.is_cancelled:
            return True
        async with self._place(operation):
            foreseen = _foreseen(job.query, one)
            try:
                why = await in_thread(self._kept_out, one.study, job.way.destination)
                if why:
                    tally.fail([], why, foreseen)
                    return True
                manifest, chosen, patients = await in_thread(self._chosen, job.query, one.study)
                # What was foreseen is replaced by what there is.
                tally.remaining += len(chosen) - foreseen
                foreseen = len(chosen)
                if not chosen:
                    return True
                give = partial(self._told.give, operation.caller, operation.door)
                await in_thread(give, job.way.destination, one.study, patients, foreseen)
            except NodeError as error:
                log.error("a retrieve of %s: %s", operation.caller.ae_title, error.message)
                tally.fail([], error.message, foreseen)
                return True
            return await send_study(
                job.way, manifest, chosen, self._store, tally, lambda: operation.is_cancelled
            )

    def _place(self, operation: Operation) -> trio.CapacityLimiter:
        title = operation.caller.ae_title
        return self._sending.setdefault(title, trio.CapacityLimiter(RETRIEVES))

    def _chosen(self, query: Query, study: str) -> tuple[Manifest, list[int], tuple[str, ...]]:
        """A study that is here: which of its instances are meant, and its patients."""
        manifest = self._catalog.manifest(study)
        series = matcher("UI", query.keys.get(q.SERIES, ""))
        instances = matcher("UI", query.keys.get(q.SOP_INSTANCE, ""))
        meant = [series([one.series_instance_uid]) for one in manifest.series]
        chosen = [
            index
            for index, one in enumerate(manifest.instances)
            if meant[one.series_index] and instances([one.sop_instance_uid])
        ]
        return manifest, chosen, self._catalog.patients(study)


def _foreseen(query: Query, one: SeenStudy) -> int:
    """How many images are meant of a study, as far as can be told before it is here."""
    if query.level is Level.IMAGE:
        return min(one.instances, query.keys[q.SOP_INSTANCE].count("\\") + 1)
    return one.instances


def _read(operation: Operation, model: Model) -> Query:
    if operation.is_too_long:
        raise BadQuery("the identifier is too long")
    query = read_query(operation.take_data(), operation.context.transfer_syntax, model)
    needed = {UNIQUE[query.level]} | ({q.STUDY} if query.level > Level.STUDY else set())
    for tag in (q.PATIENT_ID, q.STUDY, q.SERIES, q.SOP_INSTANCE):
        key = query.keys.get(tag, "")
        is_list = ATTRIBUTES[tag].vr == "UI"
        if (tag in needed and is_universal(key)) or has_wildcard(
            key.replace("\\", "") if is_list else key
        ):
            raise BadQuery("a retrieve names by unique keys, without wildcards, what it wants")
    return query


async def _with_pending(job: _Job, work: Callable[[], Awaitable[None]]) -> None:
    """Work, and tell the caller each second how far it is.

    Raises:
        Lost: the association is over.
    """
    operation, lost = job.operation, False

    async def tell(scope: trio.CancelScope) -> None:
        nonlocal lost
        while True:
            await trio.sleep(PENDING_SECONDS)
            try:
                # Whole, or what follows could not be understood.
                with trio.CancelScope(shield=True):
                    await operation.answer(q.PENDING, more=job.tally.values(with_remaining=True))
            except Lost:
                lost = True
                scope.cancel()

    async def hurry(scope: trio.CancelScope) -> None:
        if isinstance(job.way, BackToCaller):
            # The rest of an image on the caller's own association cannot be left out.
            return
        await operation.cancelled.wait()
        await trio.sleep(GRACE_SECONDS)
        scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell, nursery.cancel_scope)
            nursery.start_soon(hurry, nursery.cancel_scope)
            await work()
            nursery.cancel_scope.cancel()
    except* Lost:
        lost = True
    if lost:
        raise Lost


async def _finish(job: _Job) -> None:
    operation, tally = job.operation, job.tally
    is_cancelled = operation.is_cancelled and tally.remaining > 0
    status, comment = q.SUCCESS, ""
    if is_cancelled:
        status = q.CANCELLED
    elif tally.failed or tally.warning:
        status = q.SOME_FAILED if tally.completed or tally.warning else q.CANNOT_SEND
        comment = tally.why
        log.warning("a retrieve of %s: %d sent, %d failed: %s", operation.caller.ae_title,
                    tally.completed + tally.warning, tally.failed, tally.why)  # fmt: skip
    elif not tally.completed:
        comment = "nothing here is meant by it"
    failed = None
    if tally.failed_uids:
        failed = write_failed(tally.failed_uids, operation.context.transfer_syntax)
    counts = tally.values(with_remaining=is_cancelled)
    await operation.answer(status, failed, comment=comment, more=counts)
