"""The node: builds and connects its parts; `node.serving` puts it on the network.

A node that is opened offline offers a command the catalog, the store, the trust and the
log. Only one process at a time can have a home.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from keys.card import Card
from keys.card_fields import SizedKey
from keys.identity import KeyPair
from keys.passphrase import Wrapping
from keys.purposes import BREAK_GLASS
from keys.trust import Peer
from node import VERSION, drill_copies, facility_key, rotation, sealing
from node.audit.effects import EFFECTS_SCHEMA, Effects
from node.audit.erasing import go_on_erasing
from node.audit.exchanges import EXCHANGES_SCHEMA, ExchangeIndex
from node.audit.log import AuditLog
from node.catalog.archive_index import IndexedStudies
from node.catalog.attributes import studies_of_patient
from node.catalog.catalog import CATALOG_SCHEMA, Catalog
from node.config import read_settings
from node.database import Database
from node.durable import disk_error
from node.edges.archive_queue import ARCHIVES_SCHEMA, ArchiveQueue
from node.edges.commitment_requests import COMMITMENT_REQUESTS_SCHEMA, CommitmentRequests
from node.edges.commitment_transactions import COMMITMENTS_SCHEMA
from node.edges.commitments import Commitments
from node.edges.dicomweb_cache import MetadataCache
from node.edges.doors import DOORS_SCHEMA, Doors
from node.edges.match_rows import MATCHES_SCHEMA
from node.edges.matches import Matches
from node.edges.unmatched import Unmatched
from node.errors import ExitCode, NodeError
from node.facility_key import require_of
from node.home import Home, Keys
from node.images.discard import Discards
from node.images.holds import HOLDS_SCHEMA, Holds
from node.images.keeping import Keeping, Stored
from node.images.set_aside import SetAside
from node.images.store import BatchStore
from node.migrations import NODE_MIGRATIONS
from node.notices.told import NOTICES_SCHEMA
from node.people.persons import PEOPLE_SCHEMA, Persons
from node.people.proposals import PROPOSALS_SCHEMA, Proposals
from node.people.rules import RULES_SCHEMA, Rules
from node.receipts.pending import PENDING_SCHEMA, PendingReceipts
from node.receipts.stored import STORED_SCHEMA, StoredStudies
from node.reports.forwarding import FORWARDING_SCHEMA
from node.rotation import Rotator
from node.sharing.budgets import Budgets
from node.sharing.decisions import Decisions
from node.sharing.emergencies import EMERGENCIES_SCHEMA, Emergencies
from node.sharing.facts import FACTS_SCHEMA, StudyFacts
from node.sharing.feeds import FEEDS_SCHEMA, Feeds
from node.sharing.found import FOUND_SCHEMA, FoundStudies, Questions
from node.sharing.granted import GRANTED_SCHEMA, Granted
from node.sharing.offers import OFFERS_SCHEMA, Offers
from node.sharing.peers import PEERS_SCHEMA, Peers
from node.sharing.policy import Sight
from node.sharing.recalls import RECALLS_SCHEMA, Recalls
from node.sharing.refusals import Refusals
from node.sharing.requests import REQUESTS_SCHEMA, Requests
from node.sharing.sharing_rules import SHARING_RULES_SCHEMA, SharingRules
from node.sharing.studies import SharedStudies
from node.sharing.wishes import WISHES_SCHEMA, Wishes
from node.transfer.followed import FOLLOWED_SCHEMA, Followed
from node.transfer.incoming import Incoming
from node.transfer.lately import DisclosedLately
from node.transfer.needed import reasons_of
from node.transfer.transfers import TRANSFERS_SCHEMA, Transfer, Transfers, TransferState
from node.witness.fork_detector import ForkDetector
from node.witness.store import WITNESS_SCHEMA, WitnessStore
from protocol.log.checkpoint import log_origin
from protocol.log.entry import Event


class Node:
    """One node on one home.

    Use `Node.open`.

    Attributes:
        started_ms: when it began to serve, milliseconds since the epoch, UTC; None offline.
        on_study_change: called when a study came, was shared, or withdrawn; in any thread.
        on_peer_change: called when a peer's card or grants have changed; in any thread.
    """

    def __init__(
        self,
        home: Home,
        held: contextlib.ExitStack,
        log_key_may_be_lost: bool = False,
        to_serve: bool = False,
        keys_may_stay_sealed: bool = False,
    ) -> None:
        self.home = home
        self.clock = home.clock
        self.started_ms: int | None = None
        self.on_study_change: Callable[[str], None] = lambda study: None
        self.on_peer_change: Callable[[Peer], None] = lambda peer: None
        self._held = held
        self.settings = read_settings(home.config_path)
        self._finish_sealing()
        # A drill that was killed has left keys beside the home.
        drill_copies.sweep(home.path.parent)
        is_lost = log_key_may_be_lost and not home.has_key("log")
        self.keys = home.read_keys(log_may_be_lost=is_lost, may_stay_sealed=keys_may_stay_sealed)
        self.card = home.read_card()
        self.audit = self._open_log(is_lost)
        held.callback(self.audit.close)
        self.rotator = Rotator(home, self.audit, lambda: (self.keys, self.card), self._take_keys)
        self.database = Database(
            home.database_path,
            (
                CATALOG_SCHEMA,
                FACTS_SCHEMA,
                WISHES_SCHEMA,
                REQUESTS_SCHEMA,
                EMERGENCIES_SCHEMA,
                PEERS_SCHEMA,
                FEEDS_SCHEMA,
                TRANSFERS_SCHEMA,
                WITNESS_SCHEMA,
                FORWARDING_SCHEMA,
                EXCHANGES_SCHEMA,
                PENDING_SCHEMA,
                EFFECTS_SCHEMA,
                RECALLS_SCHEMA,
                SHARING_RULES_SCHEMA,
                FOLLOWED_SCHEMA,
                FOUND_SCHEMA,
                GRANTED_SCHEMA,
                OFFERS_SCHEMA,
                PEOPLE_SCHEMA,
                RULES_SCHEMA,
                PROPOSALS_SCHEMA,
                DOORS_SCHEMA,
                ARCHIVES_SCHEMA,
                STORED_SCHEMA,
                COMMITMENT_REQUESTS_SCHEMA,
                COMMITMENTS_SCHEMA,
                NOTICES_SCHEMA,
                HOLDS_SCHEMA,
                MATCHES_SCHEMA,
            ),
            NODE_MIGRATIONS,
        )
        held.callback(self.database.close)
        self.catalog = Catalog(self.database, clock=lambda: self.clock.now_ms() / 1000)
        self.store = BatchStore(home.store_path)
        self.metadata_cache = MetadataCache(home.dicomweb_path, self.catalog)
        self.incoming = Incoming(home.incoming_path, self.store)
        self.transfers = Transfers(self.database, clock=self.clock)
        self.followed = Followed(self.database, self.clock)
        self.exchanges = ExchangeIndex(self.database, self.audit)
        self.pending = PendingReceipts(self.database, self.audit, self.exchanges, clock=self.clock)
        self.effects = Effects(self.database, self.audit)
        self.stored = StoredStudies(
            self.database, self.audit, self.effects, self.exchanges, self.catalog, self.clock
        )
        self.persons = Persons(self.database, self.audit, self.effects, self.clock)
        self.rules = Rules(self.database, self.effects, self.persons, self.clock)
        self.proposals = Proposals(
            self.database, self.audit, self.effects, self.persons, self.clock
        )
        self.decisions = Decisions()
        self.peers = Peers(
            self.database, self.card.facility_key, self.audit.append, self.effects, self.decisions
        )
        self.granted = Granted(
            self.database,
            self.card.facility_key,
            lambda: self.keys.node,
            self.audit.append,
            self.clock,
        )
        self.wishes = Wishes(self.database, self.audit, self.effects, self.decisions, self.clock)
        self.facts = StudyFacts(self.database, self.wishes, is_held_back=self.catalog.is_held_back)
        self.sharing_rules = SharingRules(
            self.database, self.effects, self.peers.find, self.facts.blind
        )
        self.catalog.deciding.rules = self.sharing_rules.all
        self.catalog.deciding.blind = self.facts.blind
        self.offers = Offers(
            self.database, self.effects, self.peers, self.catalog, self.facts, self.clock
        )
        self.lately = DisclosedLately(self.audit, self.clock.now)
        self.requests = Requests(
            self.database, self.effects, self.decisions, self.clock, self.catalog.patients
        )
        self.emergencies = Emergencies(
            self.database,
            self.effects,
            self.clock,
            self.settings.emergency,
            self.catalog.patients,
        )
        sight = Sight(lambda: self.peers.store, self.clock.now, self.facts)
        self.feeds = Feeds(self.database, self.catalog, sight)
        self.feeds.has_ended = self._trust_has_ended
        self.feeds.in_end = self._trust_in_end
        self.feeds.in_withdrawal = lambda peer, studies: self.found.forget_of(peer, studies)
        self.shared_studies = SharedStudies(
            self.catalog, self.audit, self.effects, self.decisions, self.database
        )
        self.doors = Doors(
            self.settings.doors,
            self.database,
            self.catalog,
            self.peers,
            self.shared_studies,
            self.offers,
            self.clock,
        )
        self.commitment_requests = CommitmentRequests(
            self.database, self.catalog, self.audit.append, self.clock
        )
        self.commitments = Commitments(
            self.database, self.effects, self.clock, self.settings.dimse.commitment_hours
        )
        self.matches = Matches(
            self.settings.identity,
            self.database,
            self.catalog,
            self.audit,
            self.effects,
            self.peers,
            self.decisions,
            self.clock,
        )
        self.archive_queue = ArchiveQueue(
            self.settings.archives,
            self.database,
            self.catalog,
            self.effects,
            self._petname_of_fingerprint,
            self.clock,
        )
        self.indexed = IndexedStudies(self.database, self.catalog, self.audit.append_many)
        self.catalog.in_indexing = self.indexed.became_indexed
        self.indexed.recounted = self.feeds.recounted
        self.catalog.in_publish = self.archive_queue.published
        self.archive_queue.note_stored = self.stored.note
        self.matches.in_match = self.matches.on_change = self.archive_queue.matched
        self.unmatched = Unmatched(self.matches, self.database, self.catalog)
        self.found, self.questions = (
            FoundStudies(self.database, self.clock),
            Questions(self.database, self.clock),
        )
        self.recalls = Recalls(self.database, self.catalog, self.effects, self.clock)
        self.discards = Discards(
            self.database, self.catalog, self.store, self.audit, self.effects, self.decisions
        )
        self.holds = Holds(self.database, self.catalog, self.effects, self.clock)
        self.discards.require_free_to_go = self.holds.require_none
        self.proven_stored: Callable[[], Iterable[Stored]] = self.stored.present
        self.keeping = Keeping(
            self.settings.keeping,
            self.catalog,
            self.discards,
            lambda: self.proven_stored(),
            (
                *reasons_of(
                    self.holds,
                    self.transfers,
                    self.offers,
                    self.requests,
                    lambda: (one.study_uid for one in self.doors.waiting()),
                ),
                self.archive_queue.why_stays,
                self.matches.why_stays,
            ),
            self.clock,
        )
        self.set_aside = SetAside(
            home.quarantine_path,
            self.database,
            self.catalog,
            self.store,
            self.effects,
            self.discards,
            self.clock,
        )
        self.budgets = Budgets(
            self.find_peer, self.settings.limits, self.clock, self.clock.running, self.free_bytes
        )
        self.refusals = Refusals(self.audit.append_many, self.budgets, self.clock)
        self.catalog.mark = self.effects.mark
        self.catalog.in_change = self._study_in_change
        self.transfers.in_change = self.followed.transfer_changed
        self.transfers.at_end = self._transfer_at_end
        self.shared_studies.in_withdrawal = self.followed.end
        self.shared_studies.is_trusted = self._is_trusted
        self.catalog.on_change = self._study_changed
        self.peers.in_change = self._peer_in_change
        self.wishes.in_change = self._wishes_in_change
        self.wishes.on_change = self._wishes_changed
        self.peers.before_giving = self.rules.require_two("trust")
        self.peers.on_change = lambda peer: self.on_peer_change(peer)
        self.offers.on_change = self._offers_changed
        self.witness_store = WitnessStore(self.database)
        self.fork_detector = ForkDetector(
            self.witness_store,
            self.audit,
            card=lambda: self.card,
            petname=self.petname,
            now=self.clock.now,
        )
        self.fork_detector.check_kept()
        if self.audit.halt.reason is None:
            self._compare_effects(say=not to_serve)
            go_on_erasing(self.audit, self.forget, self.transfers.forget_persons)

    def _open_log(self, log_key_is_lost: bool) -> AuditLog:
        """Open the log, and finish or undo a change of keys that a crash cut short."""
        rotation.sweep(self.home)
        if self.keys.log.is_sealed and self.home.rotation_path.is_dir():
            raise NodeError(
                "a change of keys was cut short, and finishing it needs the passphrase of the keys",
                hint="start the node, which finishes or undoes it",
                code=ExitCode.PASSPHRASE,
            )
        staged = rotation.read_staged(self.home)
        audit = AuditLog.open(
            self.home.audit_path,
            log_key=self.keys.log,
            origin=log_origin(self.card.facility_key),
            clock_ms=self.clock.now_ms,
            running=self.clock.running,
            log_keys=self.card.log_keys + (staged.card.log_keys if staged else ()),
            successor=staged.key if staged and staged.role == "log" else None,
            is_lost=log_key_is_lost,
        )
        try:
            if staged is not None:
                rotation.settle(self.home, audit, staged)
                log_key_is_lost = log_key_is_lost and not self.home.has_key("log")
                keys = self.home.read_keys(log_may_be_lost=log_key_is_lost)
                self._take_keys(keys, self.home.read_card())
            rotation.require_agreement(self.keys, self.card, audit, log_key_is_lost=log_key_is_lost)
        except BaseException:
            audit.close()
            raise
        return audit

    def _finish_sealing(self) -> None:
        """Put the key files of a change of the passphrase into their places."""
        try:
            sealing.finish(self.home)
        except OSError as error:
            raise disk_error("a change of the passphrase cannot be finished", error) from error

    def _take_keys(self, keys: Keys, card: Card) -> None:
        self.keys, self.card = keys, card

    def reseal_keys(self, wrapping: Wrapping | None) -> None:
        """Put the key files under another passphrase, or in the open; see `node.sealing`."""
        with self.rotator.lock:
            sealing.reseal(self.home, self.audit, self.keys, wrapping)

    def move_facility_key_out(self, path: Path, wrapping: Wrapping) -> None:
        """Move the facility key to a sealed file; see `node.facility_key`."""
        with self.rotator.lock:
            self._finish_sealing()
            self.keys = facility_key.move_out(self.home, self.audit, self.keys, path, wrapping)

    def take_facility_key_in(self, facility: KeyPair) -> None:
        """Put the facility key back into the home; see `node.facility_key`."""
        require_of(facility, self.card)
        with self.rotator.lock:
            self._finish_sealing()
            self.keys = facility_key.take_in(self.home, self.audit, self.keys, facility)

    @classmethod
    def open(
        cls,
        home: Home,
        *,
        log_key_may_be_lost: bool = False,
        to_serve: bool = False,
        keys_may_stay_sealed: bool = False,
    ) -> "Node":
        """Take the home for this process.

        Args:
            home: the home.
            to_serve: the node is going to serve, so commands wait for it meanwhile.
            log_key_may_be_lost: open the home even without its log key, so that the key can
                be revoked; nothing is signed before that.
            keys_may_stay_sealed: ask for no passphrase, and sign nothing if one is needed.

        Raises:
            NodeError: there is no home, another process has it, or it is damaged.
        """
        with contextlib.ExitStack() as held:
            held.callback(home.lock(for_node=to_serve))
            node = cls(home, held, log_key_may_be_lost, to_serve, keys_may_stay_sealed)
            # If a later part cannot be opened, the stack closes the parts opened before.
            node._held = held.pop_all()
        return node

    def close(self) -> None:
        """Close all parts and release the home."""
        self._held.close()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def free_bytes(self) -> int:
        """Free space on the home's disk, bytes."""
        return shutil.disk_usage(self.home.path).free

    def find_peer(self, facility_key: bytes) -> Peer | None:
        """The peer with a facility key, trusted or not; None when it was never paired."""
        for peer in self.peers.store.peers:
            if peer.facility_key == facility_key:
                return peer
        return None

    def _is_trusted(self, facility_key: bytes) -> bool:
        peer = self.find_peer(facility_key)
        return peer is not None and peer.revoked is None

    def petname(self, facility_key: bytes) -> str:
        """A peer's petname; the beginning of its key when it is unknown."""
        peer = self.find_peer(facility_key)
        return facility_key.hex()[:16] if peer is None else peer.petname

    def _petname_of_fingerprint(self, fingerprint: str) -> str:
        found = (peer.petname for peer in self.peers.store.peers if peer.fingerprint == fingerprint)
        return next(found, "")

    def log_keys_of(self, peer: Peer) -> Sequence[SizedKey]:
        """The log keys on a peer's card that count for it; see `keys.claims`."""
        return self.peers.store.held(peer, peer.card.log_keys, self.clock.now())

    def _study_in_change(self, study: str) -> None:
        """Derive the consequences of a change of a study, in its transaction."""
        self.feeds.study_changed(study)
        self.followed.study_changed(study)
        self.archive_queue.study_changed(study)
        self.matches.study_changed(study)

    def _study_changed(self, study: str) -> None:
        self.metadata_cache.forget(study)
        self.on_study_change(study)

    def _transfer_at_end(self, transfer: Transfer) -> None:
        """End the emergency access that a transfer was."""
        if transfer.purpose == BREAK_GLASS:
            self.emergencies.end(
                transfer.direction,
                transfer.peer,
                transfer.transfer,
                is_complete=transfer.state is TransferState.COMPLETE,
            )

    def _peer_in_change(self, peer: Peer) -> None:
        """Derive the consequences of a change of trust, in its transaction."""
        if peer.revoked is not None:
            self.shared_studies.end_peer(peer.facility_key)
            self.offers.end_peer(peer.facility_key)
            self.requests.end_peer(peer.facility_key)
        self.feeds.peer_changed(peer.facility_key)

    def _trust_has_ended(self, facility_key: bytes) -> bool:
        peer = self.find_peer(facility_key)
        return peer is None or not peer.is_trusted(self.clock.now())

    def _trust_in_end(self, facility_key: bytes) -> None:
        """Forget what a peer told, as trust in it was revoked, or its date has come."""
        self.feeds.forget_peer(facility_key)
        self.found.forget_peer(facility_key)
        self.followed.end_peer(facility_key)
        self.granted.forget(facility_key)

    def _offers_changed(self, facility_key: bytes) -> None:
        peer = self.find_peer(facility_key)
        if peer is not None:
            self.on_peer_change(peer)

    def _wishes_in_change(self, patient_id: str) -> None:
        """Derive the consequences of an objection or a consent, in its transaction."""
        for study in studies_of_patient(self.database, patient_id):
            self.feeds.study_changed(study)
        self.database.after_commit(lambda: self._wishes_changed(patient_id))

    def _wishes_changed(self, patient_id: str) -> None:
        for study in studies_of_patient(self.database, patient_id):
            self.on_study_change(study)

    def _compare_effects(self, *, say: bool) -> None:
        self.effects.compare(
            {
                "trust-revoked": self.peers.make_true,
                "trust-ungranted": self.peers.make_true,
                "rule-added": self.peers.make_true,
                "objection-added": self.wishes.make_true,
                "consent-ended": self.wishes.make_true,
                "rule-removed": self.peers.make_true,
                "withdrawn": self.shared_studies.make_true,
                "withdrawn-from": self.shared_studies.make_true,
                "discarded": self.discards.make_true,
                "offer-ended": self.offers.make_true,
                "match-undone": self.matches.make_true,
                "denied": self.requests.make_true,
                "confirmed": self.proposals.make_true,
                "person-changed": self.persons.make_true,
                "person-removed": self.persons.make_true,
                "stored": self.stored.make_true,
                "stored-told": self.stored.make_true,
                "stored-heard": self.stored.make_true,
                # The card is a file, which shows whether the change took effect.
                "card-updated": lambda entry, _: entry.details.get("card") == self.card.digest,
            },
            say=say,
        )

    def forget(self, studies: Sequence[str]) -> None:
        """Delete records outside the log that show which entries are about studies (UIDs).

        Raises:
            NodeError: the disk is full or failing, or another process reads the database.
        """
        self.recalls.forget(studies)
        self.followed.forget(studies)
        self.found.forget(studies)
        self.offers.forget(studies)
        self.transfers.forget(studies)
        self.requests.forget(studies)
        self.emergencies.forget(studies)
        self.doors.forget(studies)
        self.commitments.kept.forget(studies)
        self.commitment_requests.forget(studies)
        self.matches.forget(studies)
        self.archive_queue.forget(studies)
        self.indexed.forget(studies)

    def require_intake(self) -> None:
        """Check that images may come in.

        Raises:
            NodeError: our log is in doubt, or the quota is used up.
        """
        self.audit.halt.require_none()
        self.keeping.require_room()

    def record_start(self) -> None:
        """Log that the node has started, before it does anything with peers."""
        if self.audit.halt.reason is None:
            self.effects.say_failed()
        details: dict[str, str | int | bool] = {
            "version": VERSION,
            # It decides, and no other entry tells it.
            "over_objections": self.settings.emergency.over_objections,
        }
        self._record(Event(type="start", details=details))

    def _record(self, event: Event) -> None:
        """Log an event, unless our log is in doubt: the event happens even without an entry."""
        if self.audit.halt.reason is None:
            self.audit.append(event)

    def record_stop(self) -> None:
        """Log that the node stops, and the refusals that are not logged yet."""
        self.refusals.write(all_of_it=True)
        self._record(Event(type="stop"))

    def clean_up(self) -> None:
        """Remove what a crash left, before the node does anything with peers."""
        self.transfers.close_interrupted_outgoing()
        going_on = {one.transfer for one in self.transfers.unfinished_incoming()}
        if self.audit.halt.reason is None:
            self.emergencies.end_interrupted(going_on)
        self.found.sweep()
        self.requests.sweep()
        # Correct the feeds after a crash, an older release, or grants that have expired.
        self.feeds.derive(peer.facility_key for peer in self.peers.store.peers)
        self.granted.sweep(self.peers.store.peers)
        self.incoming.sweep(unfinished=bool(going_on), now=self.clock.now())
        self.store.sweep()
        self.metadata_cache.sweep()
        self.discards.sweep()

    def publish_addresses(self, addresses: tuple[str, ...]) -> None:
        """Put these addresses into the card, with a new serial, if they differ."""
        if self.audit.halt.reason is None:
            self._renew_card(addresses, self.keys)

    def renew_card(self, facility: KeyPair) -> Card:
        """Make a new card with the facility key, of the same content, valid from now on.

        Raises:
            NodeError: it is the key of another facility, or the card cannot be logged or written.
        """
        require_of(facility, self.card)
        addresses = self.settings.addresses or self.card.addresses
        self._renew_card(addresses, replace(self.keys, facility=facility), always=True)
        return self.card

    def _renew_card(self, addresses: tuple[str, ...], keys: Keys, *, always: bool = False) -> None:
        with self.rotator.lock:
            renewed = self.home.renew_card(self.card, keys, addresses, always=always)
            if renewed is self.card:
                return
            event = Event(
                type="card-updated",
                actor="node",
                details={"card": renewed.digest, "serial": renewed.serial},
            )
            self.effects.file_after_entry(event, lambda: self.home.write_card(renewed))
            self.card = renewed
