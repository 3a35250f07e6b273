"""The trusted peers: the trust store of `keys.trust`, kept in SQLite, every change audited.

The entry of a change is durable before the change is (`node/audit/effects.py`). A change that takes
rights away takes effect even before that: the right is removed from memory, connections and
transfers are cut, and then the change is written, so a full disk delays the writing and not the
cut. A failed write is tried again, and the peer stays cut meanwhile. Synchronous and thread-safe.
"""

import json
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from keys.canonical import canonical_json
from keys.card import check_card, parse_card_untrusted
from keys.errors import (
    BadCard,
    BadFingerprint,
    CardExpired,
    CardSuperseded,
    KeysError,
    TrustError,
)
from keys.fingerprint import matches
from keys.grants import gives, rules_of, takes
from keys.rules import Rule
from keys.trust import GRANTS, Contested, Peer, TrustStore
from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects
from node.database import Database
from node.errors import ExitCode, NodeError
from node.sharing.contests import CONTESTS_SCHEMA, Contests
from node.sharing.decisions import Decisions
from protocol.log.entry import Entry, Event

log = logging.getLogger("radmesh.peers")

CARDS_PER_HOUR = 30
"""Most newer cards that are accepted from one peer: each makes an entry, and has all disconnected
peers dialled again."""

PEERS_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS peers (
    facility_key BLOB PRIMARY KEY,
    state TEXT NOT NULL,        -- keys.trust.Peer as JSON
    last_seen INTEGER           -- seconds since the epoch, UTC
) STRICT;
{CONTESTS_SCHEMA}
"""


_CUTS = ("trust-ungranted", "trust-revoked")
_RULE_KINDS = ("rule-added", "rule-removed")


@dataclass(frozen=True)
class Terms:
    """On which terms a facility is trusted, besides its grants.

    Attributes:
        purposes: the only purposes that it may name; none allows all.
        expires: when trust ends, seconds since the epoch, UTC; None never.
        details: how it was confirmed, for the entry.
    """

    purposes: frozenset[str] = frozenset()
    expires: int | None = None
    details: Mapping[str, str | int | bool] = field(default_factory=dict)


UNBOUNDED = Terms()


class Peers:
    """The trusted peers and their grants.

    Args:
        database: where the peers are kept.
        own: our facility key (32 bytes).
        append: writes one audit entry durably.
        effects: ties entries to their effects.
        decisions: the decisions that rest on these rights.

    Attributes:
        in_change: called with the changed peer in the transaction of a change, after the store has
            changed.
        on_change: called with the peer after each change, and for a cut also before it is written;
            in the calling thread.
        before_giving: called before a right is given; raises NodeError where that may not be.
    """

    def __init__(
        self,
        database: Database,
        own: bytes,
        append: Callable[[Event], int],
        effects: Effects,
        decisions: Decisions,
    ) -> None:
        self._database = database
        self._own = own
        self._append = append
        self._effects = effects
        self.decisions = decisions
        self.in_change: Callable[[Peer], None] = lambda peer: None
        self.on_change: Callable[[Peer], None] = lambda peer: None
        self.before_giving: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._contests = Contests(database)
        self._cuts = Cuts(effects.append, decisions.wait_earlier)
        self._cards_taken: dict[bytes, deque[int]] = {}
        rows = database.query("SELECT state FROM peers")
        self._store = TrustStore([Peer.from_json(row["state"]) for row in rows], own)

    @property
    def store(self) -> TrustStore:
        """The trust store: a snapshot that is replaced as a whole at each change."""
        return self._store

    def find(self, text: str) -> Peer:
        """The peer with this petname or fingerprint.

        Raises:
            NodeError: there is none.
        """
        try:
            return self._store.find(text)
        except TrustError as error:
            raise NodeError(str(error), code=ExitCode.NOT_FOUND) from error

    def add(
        self,
        card_bytes: bytes,
        confirmed: str,
        grants: Iterable[str],
        petname: str,
        now: int,
        terms: Terms = UNBOUNDED,
    ) -> Peer:
        """Trust a facility by its card.

        Args:
            card_bytes: the card file as received.
            confirmed: the fingerprint that a person compared, or that a code confirmed.
            grants: what it may do.
            petname: our name for it; "" takes the card's.
            now: seconds since the epoch, UTC.
            terms: the purposes and the end, and what else the entry says.

        Raises:
            NodeError: the card is forged, expired or older than one that we have, or
                the fingerprint is another one.
        """
        try:
            card = parse_card_untrusted(card_bytes)
            if not matches(card.facility_key, confirmed):
                raise NodeError(
                    f"the card of {card.name} has the fingerprint {card.fingerprint}, "
                    "which is not the confirmed one",
                    hint="do not trust this card; ask the other admin for it again and compare "
                    "the fingerprint by phone",
                    code=ExitCode.INTEGRITY,
                )
            check_card(card, now)
        except KeysError as error:
            raise _card_refused(error) from error
        chosen = _checked(grants)
        details: dict[str, str | int | bool] = {
            "grants": ",".join(sorted(chosen)),
            "card": card.digest,
            "card_until": card.expires,
            "serial": card.serial,
            **terms.details,
        }
        if terms.purposes:
            details["purposes"] = ",".join(sorted(terms.purposes))
        if terms.expires is not None:
            details["expires"] = terms.expires
        return self._change(
            lambda store: store.add(
                card,
                petname=petname,
                grants=chosen,
                purposes=terms.purposes,
                expires=terms.expires,
                now=now,
            ),
            "trust-added",
            details,
            now=now,
        )

    def take_newer_card(
        self, card_bytes: bytes, facility_key: bytes, now: int, *, shown_by: bytes | None = None
    ) -> Peer | None:
        """Accept a newer card that a trusted peer sent of itself; None when it changes nothing.

        Args:
            card_bytes: the card file as received.
            facility_key: of the peer, 32 bytes.
            now: seconds since the epoch, UTC.
            shown_by: the node key that a handshake with this card in it proved.

        Raises:
            NodeError: it is not a valid card of this peer, or the peer sent too many.
        """
        known = next(
            (peer for peer in self._store.peers if peer.facility_key == facility_key), None
        )
        if known is None or known.card.encoded == card_bytes:
            return None
        try:
            card = parse_card_untrusted(card_bytes)
            check_card(card, now)
            if card.facility_key != facility_key:
                raise BadCard("the card is of another facility")
            if card.serial <= known.card.serial:
                return None
        except KeysError as error:
            raise _card_refused(error) from error
        taken = self._cards_taken.setdefault(facility_key, deque(maxlen=CARDS_PER_HOUR))
        if len(taken) == CARDS_PER_HOUR and now - taken[0] < 3600:
            raise NodeError(
                f"{known.petname} sends more than {CARDS_PER_HOUR} new cards an hour",
                hint="tell its admin: its node may be in wrong hands",
                code=ExitCode.REFUSED,
            )
        peer = self._change(
            lambda store: store.update_card(card, now, shown_by=shown_by),
            "card-updated",
            {"card": card.digest, "card_until": card.expires, "serial": card.serial},
            actor="node",
            now=now,
        )
        taken.append(now)
        return peer

    def grant(self, text: str, grants: Iterable[str]) -> Peer:
        """Give a peer more grants."""
        peer, chosen = self.find(text), _checked(grants)
        return self._change(
            lambda store: store.grant(peer.facility_key, chosen),
            "trust-granted",
            {"grants": ",".join(sorted(chosen))},
        )

    def revoke(self, text: str, grants: Iterable[str], now: int) -> Peer:
        """Take grants from a peer, or all trust if none are named."""
        peer, chosen = self.find(text), _checked(grants)
        if chosen:
            return self._change(
                lambda store: store.ungrant(peer.facility_key, chosen),
                "trust-ungranted",
                {"grants": ",".join(sorted(chosen))},
            )
        return self._change(
            lambda store: store.revoke(peer.facility_key, now), "trust-revoked", {}, now=now
        )

    def add_rule(
        self, text: str, words: Sequence[str], blind: Callable[[str, str], str]
    ) -> tuple[Peer, Rule]:
        """Give a peer a rule, see `TrustStore.add_rule`; returns the peer and the rule.

        Raises:
            NodeError: there is no such peer, or the rule cannot be read.
        """
        with self._lock:
            found, rule = self._read_rule(text, words, blind)
            if gives(rule, rules_of(found)):
                self.before_giving()
            peer = self._rule_change(
                lambda store: store.put_rule(found.facility_key, rule),
                "rule-added",
                rule,
                is_cut=takes(rule, rules_of(found)),
            )
        self.on_change(peer)
        return peer, rule

    def tried(self, text: str, words: Sequence[str], blind: Callable[[str, str], str]) -> Peer:
        """A peer as it would be with one more rule, the last of its rules; nothing is changed.

        Raises:
            NodeError: there is no such peer, or the rule cannot be read.
        """
        found, rule = self._read_rule(text, words, blind)
        return replace(found, rules=(*found.rules, rule))

    def _read_rule(
        self, text: str, words: Sequence[str], blind: Callable[[str, str], str]
    ) -> tuple[Peer, Rule]:
        found = self.find(text)
        trial = TrustStore(self._store.peers, self._own)
        try:
            return found, trial.add_rule(found.facility_key, words, blind).rules[-1]
        except TrustError as error:
            raise NodeError(
                str(error),
                hint="write it as `allow fetch modality=CT,MR purpose=TREAT`; see"
                " `radmesh trust rule add --help`",
                code=ExitCode.USAGE,
            ) from error

    def remove_rule(self, text: str, number: int) -> tuple[Peer, Rule]:
        """Take a rule from a peer; returns the peer and the rule.

        Raises:
            NodeError: there is no such peer, or no such rule.
        """
        found = self.find(text)
        with self._lock:
            known = next(
                (peer for peer in self._store.peers if peer.facility_key == found.facility_key),
                found,
            )
            rule = next((one for one in known.rules if one.number == number), None)
            if rule is None:
                raise NodeError(
                    f"{known.petname} has no rule {number}",
                    hint=f"see `radmesh trust rule list {known.petname}`",
                    code=ExitCode.NOT_FOUND,
                )
            peer = self._rule_change(
                lambda store: store.remove_rule(known.facility_key, number),
                "rule-removed",
                rule,
                is_cut=not takes(rule, rules_of(known)),
            )
        self.on_change(peer)
        return peer, rule

    def _rule_change(
        self, change: Callable[[TrustStore], Peer], kind: str, rule: Rule, *, is_cut: bool
    ) -> Peer:
        """Make a change of rules; a cut counts in memory at once."""
        if not is_cut:
            self._cuts.write()
        changed = TrustStore(self._store.peers, self._own)
        try:
            peer = change(changed)
        except KeysError as error:
            raise NodeError(str(error), code=ExitCode.REFUSED) from error
        # The log keeps the rule itself, so that each decision can be made again from it.
        details: dict[str, str | int | bool] = {
            "number": rule.number,
            "rule": canonical_json(rule.to_fields()).decode(),
            "rights": peer.rights_digest,
        }
        event = Event(type=kind, actor="operator", peer=peer.facility_key, details=details)
        if is_cut:
            self._cut(changed, peer, event)
        else:
            self._give(changed, peer, event)
        return peer

    def rights_digest(self, facility_key: bytes) -> str:
        """SHA-256 of what decides about a peer now, 64 hex digits; "" if it is none."""
        return next(
            (one.rights_digest for one in self._store.peers if one.facility_key == facility_key),
            "",
        )

    # --- keys that several facilities claim ------------------------------------------

    def contested(self, now: int) -> list[Contested]:
        """The keys that are contested now (seconds since the epoch, UTC); see `keys.claims`."""
        return self._contests.standing(self._store, now)

    def review_contests(self, now: int, changed: Peer | None = None) -> None:
        """Log contested keys that are not logged yet, and cut what rests on them.

        Args:
            now: seconds since the epoch, UTC.
            changed: the peer whose change led here; `on_change` was already called for it.
        """
        with self._lock:
            news = self._contests.untold(self._store, now)
            concerned = {key for contested, _ in news for key in contested.facilities}
            concerned -= {changed.facility_key} if changed is not None else set()
            # Cut first: that needs no disk.
            for peer in self._store.peers:
                if peer.facility_key in concerned:
                    self.on_change(peer)
            self._tell(news, now)

    def contest_shown(self, node_key: bytes, holder: bytes, stranger: bytes, now: int) -> None:
        """A node called with a peer's key, and with the card of another facility.

        Args:
            node_key: the key that the handshake proved, 32 bytes.
            holder: facility key of the peer.
            stranger: facility key of the facility on the card.
            now: seconds since the epoch, UTC.
        """
        with self._lock:
            found = self._contests.shown(node_key, holder, stranger)
            if found is not None:
                self._tell([found], now, shown=True)

    def _tell(self, news: list[tuple[Contested, Event]], now: int, *, shown: bool = False) -> None:
        try:
            for _, event in news:
                self._append(event)
            told = [contested for contested, _ in news]
            self._database.transact(
                lambda connection: self._contests.keep(
                    connection, told, self._store, now, shown=shown
                )
            )
        except NodeError as error:
            # The change that led here is kept; the next change, or the next start, logs the
            # contest.
            log.error("a contested key could not be logged: %s", error.message)

    def rename(self, text: str, petname: str) -> Peer:
        """Give a peer another petname; petnames are ours and not logged."""
        peer = self.find(text)
        return self._note(lambda store: store.rename(peer.facility_key, petname))

    def set_postal_address(self, text: str, address: str) -> Peer:
        """Note a peer's postal address, for accountings; ours, like petnames, and not logged."""
        peer = self.find(text)
        return self._note(lambda store: store.set_postal_address(peer.facility_key, address))

    def saw(self, facility_key: bytes, now: int) -> None:
        """Remember when a peer was last connected (seconds since the epoch, UTC)."""
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE peers SET last_seen=? WHERE facility_key=?", (now, facility_key)
            )
        )

    def last_seen(self) -> dict[bytes, int]:
        """When each peer was last connected, by facility key, seconds since the epoch, UTC.

        Peers that never were connected are left out.
        """
        rows = self._database.query(
            "SELECT facility_key, last_seen FROM peers WHERE last_seen IS NOT NULL"
        )
        return {row["facility_key"]: row["last_seen"] for row in rows}

    # --- changes ----------------------------------------------------------------------

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Petnames of peers whose cut could not be written yet."""
        return self._cuts.names

    def write_unwritten(self) -> None:
        """Try again to write these cuts.

        Raises:
            NodeError: it still cannot be written.
        """
        with self._lock:
            self._cuts.write()

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Take away the rights that an entry of the log says were taken; see `Effects.compare`."""
        with self._lock:
            # Read the table, as memory may hold the result of an earlier run of this transaction.
            rows = connection.execute("SELECT state FROM peers")
            changed = TrustStore([Peer.from_json(row["state"]) for row in rows], self._own)
            try:
                if entry.type == "trust-revoked":
                    peer = changed.revoke(entry.peer, entry.time_ms // 1000)
                elif entry.type in _RULE_KINDS:
                    rule = Rule.from_fields(json.loads(str(entry.details["rule"])))
                    if (entry.type == "rule-added") is not takes(rule, changed.rules(entry.peer)):
                        # It gives a right: without its effect it has failed.
                        return False
                    if entry.type == "rule-added":
                        peer = changed.put_rule(entry.peer, rule)
                    else:
                        peer = changed.remove_rule(entry.peer, rule.number)
                else:
                    taken = str(entry.details.get("grants", "")).split(",")
                    peer = changed.ungrant(entry.peer, taken)
            except (KeysError, ValueError, KeyError, TypeError, AttributeError):
                return False
            self._store = changed
            self._keep(connection, peer)
            return True

    def _change(
        self,
        change: Callable[[TrustStore], Peer],
        kind: str,
        details: dict[str, str | int | bool],
        actor: str = "operator",
        now: int | None = None,
    ) -> Peer:
        """Make a change; with `now` given, review which keys are contested after it."""
        with self._lock:
            if kind not in _CUTS:
                self._cuts.write()
            changed = TrustStore(self._store.peers, self._own)
            try:
                peer = change(changed)
            except CardSuperseded as error:
                raise _card_refused(error) from error
            except KeysError as error:
                raise NodeError(str(error), code=ExitCode.REFUSED) from error
            event = Event(type=kind, actor=actor, peer=peer.facility_key, details=details)
            if kind in _CUTS:
                self._cut(changed, peer, event)
            else:
                self._give(changed, peer, event)
        self.on_change(peer)
        if now is not None:
            self.review_contests(now, peer)
        return peer

    def _give(self, changed: TrustStore, peer: Peer, event: Event) -> None:
        """Make a change that takes no right away; it counts from its commit on."""
        if event.type != "card-updated":
            self.before_giving()
        before = self._store

        def give(connection: sqlite3.Connection) -> None:
            # Set it inside the transaction, so that the next transaction sees it.
            self._store = changed
            self._keep(connection, peer)

        try:
            self._effects.after_entry(event, give)
        except BaseException:
            self._store = before
            raise

    def _note(self, change: Callable[[TrustStore], Peer]) -> Peer:
        """Make a change of our own notes (petname, postal address), which are not logged."""
        with self._lock:
            self._cuts.write()
            changed = TrustStore(self._store.peers, self._own)
            try:
                noted = change(changed)
            except KeysError as error:
                raise NodeError(str(error), code=ExitCode.REFUSED) from error
            self._database.transact(lambda connection: self._keep(connection, noted))
            self._store = changed
        self.on_change(noted)
        return noted

    def _cut(self, changed: TrustStore, peer: Peer, event: Event) -> None:
        """Take rights away: this counts at once, even if the disk fails."""
        self._store = changed
        self.on_change(peer)
        cut = Cut(peer.petname, event, lambda entry: self._keep_cut(peer, entry))
        try:
            self._cuts.make(cut)
        except NodeError as error:
            raise self._unwritten_error(cut, error) from error

    @staticmethod
    def _unwritten_error(cut: Cut, error: NodeError) -> NodeError:
        name = cut.name
        if cut.entry is None:
            return NodeError(
                f"{name} is cut off by this process, but it could not be written: {error.message}",
                hint="make room on the disk: a running node then writes it by itself; after a "
                "restart the facility is trusted as before, so look with `radmesh trust list`",
                code=error.code,
            )
        return NodeError(
            f"{name} is cut off, and the log says so, but the database could not be written: "
            f"{error.message}",
            hint="make room on the disk: a running node then writes it by itself, and so does the "
            "next start",
            code=error.code,
        )

    def _keep_cut(self, peer: Peer, entry: Callable[[], int]) -> None:
        self._effects.of(entry(), lambda connection: self._keep(connection, peer))

    def _keep(self, connection: sqlite3.Connection, peer: Peer) -> None:
        connection.execute(
            "INSERT INTO peers (facility_key, state) VALUES (?, ?) "
            "ON CONFLICT (facility_key) DO UPDATE SET state=excluded.state",
            (peer.facility_key, peer.to_json()),
        )
        self.in_change(peer)


def _checked(grants: Iterable[str]) -> frozenset[str]:
    chosen = frozenset(grants)
    unknown = chosen - set(GRANTS)
    if unknown:
        raise NodeError(
            f"there is no grant {', '.join(sorted(unknown))}",
            hint=f"the grants are {', '.join(GRANTS)}",
            code=ExitCode.USAGE,
        )
    return chosen


def _card_refused(error: KeysError) -> NodeError:
    what = "the card is refused"
    if isinstance(error, CardExpired):
        hint = "ask the facility for its newest card (`radmesh card export`)"
    elif isinstance(error, CardSuperseded):
        hint = "a newer card of this facility is known already; nothing was changed"
    elif isinstance(error, BadFingerprint):
        what = "the fingerprint given cannot be right"
        hint = "type the fingerprint as the other admin reads it: 8 groups of 7 characters"
    else:
        hint = "do not trust this card; ask the facility for it again"
    return NodeError(f"{what}: {error}", hint=hint, code=ExitCode.INTEGRITY)
