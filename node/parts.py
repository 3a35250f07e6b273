"""Makes the parts of a serving node from the objects that the node owns.

The signature of each part declares its dependencies; only this file connects them. A part
gets its access to the network as a function, since the network is made last.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from keys.trust import Peer
from node.app import Node
from node.catalog.discards import recall_of
from node.edges.archive_returns import ArchiveReturns
from node.edges.archiving import Archiving
from node.images.arrival_windows import windows_by
from node.images.arrivals import Arrivals
from node.images.spool import Spool
from node.network.network import NetworkLimits, PeerStream
from node.network.pairing_line import call
from node.network.transport import Transport
from node.notices.mail import Mail
from node.notices.notices import Channel, Notices
from node.notices.webhook import Webhook
from node.receipts.reconciling import Reconciling
from node.receipts.settling import Settling
from node.receipts.stating import Stating
from node.reports.facilities import Facilities
from node.reports.forwarding import Forwarder
from node.sharing.announcer import Announcer
from node.sharing.endings import Endings
from node.sharing.find_answers import FindAnswers
from node.sharing.finding import Finder
from node.sharing.granting import Granting
from node.sharing.greeting import Greeting
from node.sharing.log_queries import Answer, LogQueries
from node.sharing.offered import StudyOffered
from node.sharing.offering import Offering
from node.sharing.pairing import Pairings
from node.transfer.disclosure import NO_BRING, Bring
from node.transfer.fetching import Fetcher
from node.transfer.following import Follower
from node.transfer.receiving import Receiver
from node.transfer.sending import Sender
from node.transfer.source_worker import Reach
from node.transfer.study_download import Destination
from node.transfer.uplink import Uplink
from node.witness.rounds import Witnessing
from node.witness.witness import Witness
from protocol.log.checkpoint import log_origin
from protocol.messages import Message

OpenStream = Callable[[bytes], Awaitable[PeerStream]]
"""Opens a stream to a connected peer, by its node key (32 bytes)."""


def announcer_of(node: Node) -> Announcer:
    """Announces our studies to peers, and listens to their announcements."""
    return Announcer(
        budgets=node.budgets,
        key=node.keys.node,
        peers=node.peers,
        feeds=node.feeds,
        recalls=node.recalls,
        append=node.audit.append,
        clock=node.clock,
    )


def greeting_of(node: Node, open_stream: OpenStream) -> Greeting:
    """Exchanges cards."""
    return Greeting(
        node.peers,
        lambda: node.card,
        open_stream,
        clock=node.clock,
        budgets=node.budgets,
    )


def granting_of(node: Node, open_stream: OpenStream) -> Granting:
    """Tells peers what they may do, and hears what they let us do."""
    return Granting(node.granted, node.peers, open_stream, clock=node.clock, budgets=node.budgets)


def offering_of(node: Node, open_stream: OpenStream, fetcher: Fetcher) -> Offering:
    """Tells peers of our offers, hears theirs, and fetches what was accepted."""

    async def fetch(offered: StudyOffered) -> None:
        peer = node.find_peer(offered.peer)
        if peer is not None:
            await fetcher.start(offered.study, peer, offered.purpose, only_peer=True, follow=False)

    return Offering(
        node.offers,
        node.peers,
        lambda: node.keys.node,
        open_stream,
        fetch,
        clock=node.clock,
        budgets=node.budgets,
    )


def pairings_of(node: Node, transport: Transport) -> Pairings:
    """Pairs with a facility by a code."""
    bounds = NetworkLimits()
    return Pairings(
        peers=node.peers,
        card=lambda: node.card,
        key=lambda: node.keys.node,
        append=node.audit.append,
        call=lambda address: call(transport, address, bounds),
        clock=node.clock,
    )


def sender_of(
    node: Node, line: Uplink, take_receipt: Callable[[bytes], str], bring: Bring = NO_BRING
) -> Sender:
    """Discloses studies."""
    return Sender(
        key=node.keys.node,
        own_facility=node.card.facility_key,
        peers=node.peers,
        catalog=node.catalog,
        facts=node.facts,
        lately=node.lately,
        requests=node.requests,
        emergencies=node.emergencies,
        offers=node.offers,
        store=node.store,
        append=node.audit.append_many,
        add_receipt=take_receipt,
        transfers=node.transfers,
        line=line,
        in_doubt=lambda: node.audit.halt.reason is not None,
        clock=node.clock,
        budgets=node.budgets,
        refusals=node.refusals,
        bring=bring,
    )


def receiver_of(node: Node, settling: Settling) -> Receiver:
    """Receives one study over one stream."""
    return Receiver(
        key=node.keys.node,
        facility_key=node.card.facility_key,
        append=node.audit.append_many,
        add_receipt=node.audit.add_receipt,
        exchanging=settling.exchanging,
        announced=node.feeds.announced_by,
        clock=node.clock,
        emergencies=node.emergencies,
    )


def fetcher_of(node: Node, receiver: Receiver, reach: Reach) -> Fetcher:
    """Fetches studies, each from all peers that have it."""
    return Fetcher(
        receiver=receiver,
        destination=Destination(
            catalog=node.catalog,
            incoming=node.incoming,
            append=node.audit.append_many,
            transfers=node.transfers,
            free_bytes=node.free_bytes,
            require_room=node.keeping.require_room,
            is_followed=node.followed.is_followed,
        ),
        peers=node.peers,
        feeds=node.feeds,
        found=node.found,
        reach=reach,
        clock=node.clock,
        index=node.exchanges,
    )


def arrivals_of(node: Node, spool: Spool, archiving: Archiving | None = None) -> Arrivals:
    """Takes instances that come one by one, and packs them into batches."""
    returns = ArchiveReturns(
        node.archive_queue,
        node.catalog,
        node.store,
        on_return=lambda *image: None if archiving is None else archiving.came_back(*image),
    )
    return Arrivals(
        spool=spool,
        catalog=node.catalog,
        store=node.store,
        quarantine=node.home.quarantine_path,
        append=node.audit.append,
        require_sound=node.require_intake,
        clock=node.clock,
        windows=windows_by(node.settings.arrivals),
        came_back=returns.is_ours,
        urgent=node.archive_queue.hurry,
    )


def follower_of(node: Node, fetcher: Fetcher, find: Callable[[bytes], Peer | None]) -> Follower:
    """Fetches the growth of studies at their sources."""
    return Follower(
        followed=node.followed,
        fetcher=fetcher,
        transfers=node.transfers,
        find=find,
        free_bytes=node.free_bytes,
        in_doubt=lambda: node.audit.halt.reason is not None,
    )


def settling_of(node: Node, connected: Callable[[bytes], Peer | None]) -> Settling:
    """Gets receipts signed that a transfer left open."""
    return Settling(
        key=lambda: node.keys.node,
        own_facility=node.card.facility_key,
        pending=node.pending,
        audit=node.audit,
        transfers=node.transfers,
        connected=connected,
        clock=node.clock,
        refusals=node.refusals,
        went_out=node.requests.used,
    )


def stating_of(
    node: Node, find: Callable[[bytes], Peer | None], log_queries: Callable[[], LogQueries]
) -> Stating:
    """Tells sources that a study is stored here, and hears it of recipients."""
    return Stating(
        node.stored,
        node.pending,
        node.audit,
        find=find,
        key=lambda: node.keys.node,
        own_facility=node.card.facility_key,
        log_queries=log_queries,
        clock=node.clock,
        refusals=node.refusals,
    )


def reconciling_of(node: Node, log_queries: Callable[[], LogQueries]) -> Reconciling:
    """Compares our log with that of a peer."""
    return Reconciling(
        key=lambda: node.keys.node,
        own_facility=node.card.facility_key,
        audit=node.audit,
        index=node.exchanges,
        log_queries=log_queries,
        clock=node.clock,
        log_keys=node.log_keys_of,
    )


def witness_of(node: Node) -> Witness:
    """Cosigns the logs of peers."""
    return Witness(
        node.witness_store,
        own_facility=node.card.facility_key,
        key=lambda: node.keys.witness,
        append=node.audit.append,
        now=node.clock.now,
        log_keys=node.log_keys_of,
    )


def finder_of(node: Node, open_stream: OpenStream) -> Finder:
    """Asks peers for the studies of a patient."""
    return Finder(
        key=lambda: node.keys.node,
        peers=node.peers,
        open_stream=open_stream,
        found=node.found,
        append=node.audit.append,
        clock=node.clock,
    )


def find_answers_of(node: Node) -> FindAnswers:
    """Answers peers that ask for the studies of a patient."""
    return FindAnswers(
        key=lambda: node.keys.node,
        peers=node.peers,
        catalog=node.catalog,
        facts=node.facts,
        recall_of=lambda study: recall_of(node.database, study),
        questions=node.questions,
        append=node.audit.append_many,
        in_doubt=lambda: node.audit.halt.reason is not None,
        clock=node.clock,
        budgets=node.budgets,
        refusals=node.refusals,
    )


def log_queries_of(
    node: Node, open_stream: OpenStream, answers: Mapping[type[Message], Answer]
) -> LogQueries:
    """Asks and answers questions about logs."""
    return LogQueries(
        node.peers, open_stream, answers=answers, clock=node.clock, budgets=node.budgets
    )


def witnessing_of(
    node: Node,
    log_queries: LogQueries,
    *,
    is_connected: Callable[[bytes], bool],
    is_unreachable: Callable[[bytes], bool],
    on_doubt: Callable[[], None],
) -> Witnessing:
    """Has our log cosigned, and learns whether a peer holds a later checkpoint of it."""
    return Witnessing(
        audit=node.audit,
        store=node.witness_store,
        fork_detector=node.fork_detector,
        peers=node.peers,
        log_queries=log_queries,
        settings=node.settings.audit,
        is_connected=is_connected,
        is_unreachable=is_unreachable,
        on_doubt=on_doubt,
        now=node.clock.now,
    )


def endings_of(
    node: Node,
    *,
    connected: Callable[[], Iterable[bytes]],
    peer_changed: Callable[[Peer], None],
    node_key_ended: Callable[[bytes], None],
) -> Endings:
    """Ends cards, trust and node keys at their dates, and retries unwritten changes."""
    return Endings(
        peers=node.peers,
        studies=node.shared_studies,
        wishes=node.wishes,
        discards=node.discards,
        feeds=node.feeds,
        connected=connected,
        peer_changed=peer_changed,
        node_key_ended=node_key_ended,
        clock=node.clock,
        refusals=node.refusals,
        more=(node.persons, node.requests, node.matches),
        emergencies=node.emergencies,
        log_failed=lambda: node.audit.failure is not None,
        try_log=node.audit.try_again,
    )


def forwarder_of(node: Node) -> Forwarder | None:
    """Forwards entries to the collector of `config.toml`; None when it names none."""
    collector = node.settings.audit.syslog
    if collector is None:
        return None
    return Forwarder(
        node.audit,
        node.database,
        collector,
        lambda: Facilities(node.card, node.peers.store.peers),
        log_origin(node.card.facility_key),
        persons=node.settings.audit.persons,
        clock=node.clock,
    )


def notices_of(node: Node) -> Notices | None:
    """Tells others of what stands; None when `config.toml` names neither relay nor webhook."""
    settings, channels = node.settings, list[Channel]()
    if settings.mail is not None:
        channels.append(Mail(settings.mail, node.card.name))
    if settings.webhook is not None:
        channels.append(Webhook(settings.webhook, node.clock))
    if not channels:
        return None
    return Notices(node.database, channels, node.card.fingerprint, node.clock)
