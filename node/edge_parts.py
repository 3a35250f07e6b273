"""Makes the parts that talk to the systems of the hospital; see `node.parts`."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import trio

from edges.dimse import commitment
from edges.dimse.commands import Field
from edges.dimse.querying import MODELS
from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.clock import local_date
from node.edges.archive_retrieval import HERE, UNDER_WAY, Retrievals
from node.edges.archive_settings import COMMITMENT, ArchiveSettings
from node.edges.archiving import Archiving
from node.edges.commitment_reports import CommitmentReports
from node.edges.commitment_service import CommitmentService
from node.edges.commitment_transactions import Outcome
from node.edges.dicomweb_answers import Threads
from node.edges.dicomweb_metadata import Metadata
from node.edges.dicomweb_queries import Queries
from node.edges.dicomweb_reads import Fetching, Reads
from node.edges.dicomweb_retrieve import Retrieving
from node.edges.dicomweb_server import DicomWebServer
from node.edges.dicomweb_store import Storing
from node.edges.dimse_operation import Offered, Services
from node.edges.dimse_query import Ask, QueryService
from node.edges.dimse_retrieve import RetrieveService
from node.edges.dimse_server import DimseServer
from node.edges.dimse_settings import DimseSettings
from node.edges.fetched_first import Fetch, FetchedFirst
from node.edges.folders import Folder
from node.edges.indexed_dimse import IndexedDimse
from node.edges.indexed_web import IndexedWeb
from node.edges.indexing import IndexedArchive
from node.edges.match_rows import LocalPatient
from node.edges.outgoing import Outgoing
from node.edges.patient_query import PatientSystem, planned
from node.edges.prefetch import Prefetch
from node.edges.query_studies import StudyQueries
from node.edges.told import CallersLately
from node.errors import NodeError
from node.images.arrivals import Arrivals
from node.sharing.finding import Finder
from node.transfer.disclosure import NO_BRING, Bring
from node.transfer.fetching import Fetcher
from protocol.errors import WireCode
from protocol.find_messages import ByNumber
from protocol.messages import Record

log = logging.getLogger("radmesh.edges")

IndexedArchives = Mapping[str, tuple[ArchiveSettings, Callable[[], IndexedArchive]]]
"""The archives that are indexed, by name, each with how it is asked."""

PREFETCH_SECONDS = 900.0
"""Longest wait for one study that is fetched ahead; it goes on behind the next one."""


def archiving_of(node: Node) -> Archiving:
    """Sends studies to the archives of the settings."""
    archiving = Archiving(
        node.archive_queue,
        node.catalog,
        node.store,
        node.matches.ready,
        require_sound=node.audit.halt.require_none,
        clock=node.clock,
    )

    async def commit(to: ArchiveSettings, study: str, images: Sequence[Outgoing]) -> None:
        callee = await in_thread(to.callee)
        patients = await in_thread(node.catalog.patients, study)
        asked = [commitment.Reference(one.sop_class, one.sop_uid) for one in images]
        for start in range(0, len(asked), commitment.REFERENCES):
            some = asked[start : start + commitment.REFERENCES]
            await node.commitments.ask(callee, study, patients, some)

    async def learn(outcome: Outcome) -> None:
        done = frozenset(one.sop_instance for one in outcome.stored)
        failed = frozenset(one.sop_instance for one in outcome.failed)
        for one in node.settings.archives.values():
            if one.ae_title == outcome.archive and one.proof == COMMITMENT:
                await archiving.committed(
                    one.name, outcome.study, done, failed, asked=outcome.asked
                )

    archiving.commit = commit
    node.commitments.on_outcome = learn
    return archiving


def indexed_archives_of(node: Node, arrivals: Arrivals) -> IndexedArchives:
    """The archives that are indexed, by name, each with how it is asked."""

    def made(settings: ArchiveSettings) -> Callable[[], IndexedArchive]:
        if settings.stow:
            return lambda: IndexedWeb(settings, Storing(arrivals))
        return lambda: IndexedDimse(settings)

    return {
        name: (settings, made(settings))
        for name, settings in node.settings.archives.items()
        if settings.index_days
    }


def retrievals_of(node: Node, arrivals: Arrivals, archives: IndexedArchives) -> Retrievals:
    """Brings studies from the archives that are indexed."""
    return Retrievals(
        archives,
        node.indexed,
        node.catalog,
        arrivals.pack_now,
        node.audit.append,
        node.clock,
    )


def bring_of(node: Node, retrievals: Callable[[], Retrievals]) -> Bring:
    """Brings a study that a peer may have from an archive."""

    async def bring(study: str, peer: bytes, stat: bool, seconds: float) -> WireCode | None:
        try:
            found = await retrievals().bring(study, peer=peer, stat=stat, seconds=seconds)
        except NodeError as error:
            log.info("a study is not taken out of an archive now: %s", error.message)
            return WireCode.BUSY
        if found is None or found.state == HERE:
            return None
        return WireCode.RETRIEVING if found.state == UNDER_WAY else WireCode.NOT_RETRIEVED

    return bring if any(one.index_days for one in node.settings.archives.values()) else NO_BRING


def prefetch_of(node: Node, fetcher: Fetcher, finder: Finder) -> Prefetch:
    """Fetches priors of patients who come here."""

    async def fetch(study: str, peer: Peer, purpose: str) -> None:
        transfer = await fetcher.start(study, peer, purpose, only_peer=True, follow=False)
        # One that waits for a person over there does not hold up the others.
        with trio.move_on_after(PREFETCH_SECONDS):
            await transfer.over.wait()

    async def find(peer: Peer, patient: ByNumber, purpose: str) -> list[Record]:
        return [one.record for one in (await finder.ask(peer, patient, purpose)).studies]

    async def looked() -> list[LocalPatient]:
        found = node.settings.worklists[node.settings.prefetch.worklist]
        callee = await in_thread(found.callee)
        system = PatientSystem(name=found.name, callee=callee, is_worklist=True)
        return await planned(system, local_date(node.clock.now()))

    return Prefetch(
        node.settings.prefetch,
        node.database,
        node.catalog,
        node.matches,
        node.peers,
        node.feeds,
        fetch,
        find,
        looked if node.settings.prefetch.worklist else None,
        node.clock,
    )


def dimse_of(node: Node, arrivals: Arrivals, services: Services) -> DimseServer | None:
    """Takes DICOM associations; None where the settings have it listen nowhere."""
    if not node.settings.dimse.is_on:
        return None
    return DimseServer(node.settings.dimse, arrivals, node.doors, services)


def commitment_reports_of(node: Node, arrivals: Arrivals) -> CommitmentReports:
    """Takes storage commitments that others ask for, and reports on them."""
    return CommitmentReports(node.commitment_requests, arrivals, node.settings.dimse)


def commitment_services_of(node: Node, reports: CommitmentReports) -> Services:
    """What is done for storage commitment on associations of others."""
    service = CommitmentService(reports, node.commitments)
    fields = (Field.N_ACTION, Field.N_EVENT_REPORT)
    return {commitment.MODEL: Offered(fields, service.serve, to_all=True)}


def told_of(node: Node) -> CallersLately:
    """Logs what systems of the hospital are told, by whatever protocol."""
    return CallersLately(node.audit, node.clock.now)


def dicomweb_of(
    node: Node, arrivals: Arrivals, fetcher: Fetcher, told: CallersLately
) -> DicomWebServer | None:
    """Serves DICOMweb; None where the settings have it listen nowhere."""
    if not node.settings.dicomweb.is_on:
        return None

    async def fetch(study: str, purpose: str) -> Fetching | None:
        if not await in_thread(functools.partial(node.feeds.announced, study=study)):
            return None
        _, peer = await in_thread(fetcher.choose, study, None)
        return await fetcher.start(study, peer, purpose, only_peer=False)

    threads = Threads()
    metadata = Metadata(node.catalog, node.store, node.metadata_cache, threads)
    return DicomWebServer(
        node.settings.dicomweb,
        Queries(node.database, node.catalog, node.feeds, node.petname, told),
        Reads(node.catalog, node.audit.append, fetch, node.clock),
        Retrieving(node.catalog, node.store, metadata, threads),
        Storing(arrivals),
    )


def query_services_of(
    node: Node,
    settings: DimseSettings,
    told: CallersLately,
    ask: Ask,
    fetch: Fetch,
    is_connected: Callable[[bytes], bool],
) -> Services:
    """Answers queries and retrieves of workstations."""
    studies = StudyQueries(
        node.database, node.catalog, node.feeds, node.found, node.peers, node.clock
    )
    first = FetchedFirst(studies, told, fetch)
    query = QueryService(studies, told, ask, is_connected, first)

    def kept_out(study: str, title: str) -> str:
        """An archive gets what is from elsewhere under its patient here, and not by a retrieve."""
        if all(one.ae_title != title for one in node.settings.archives.values()):
            return ""
        identity = node.matches.ready(study)
        if identity is not None and identity.unchanged:
            return ""
        return "it is from elsewhere: an archive gets it by `radmesh archive send`"

    retrieve = RetrieveService(studies, told, first, node.catalog, node.store, settings, kept_out)
    serve = {
        "find": Offered((Field.C_FIND,), query.serve),
        "move": Offered((Field.C_MOVE,), retrieve.serve),
        "get": Offered((Field.C_GET,), retrieve.serve),
    }
    return {sop_class: serve[model.does] for sop_class, model in MODELS.items()}


def folders_of(node: Node, arrivals: Arrivals) -> list[Folder]:
    """Watch the folders of the settings."""
    return [Folder(one, arrivals, node.doors) for one in node.settings.folders.values()]
