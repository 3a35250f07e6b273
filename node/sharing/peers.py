"""The trusted peers: the trust store of `keys.trust`, kept in SQLite, every change audited.

The entry of a change is durable before the change is: a crash in between leaves
an entry without effect, never an effect without entry. Synchronous and
thread-safe; `on_change` is called after each change, in the calling thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

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
from keys.trust import GRANTS, Peer, TrustStore
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event

CARDS_PER_HOUR = 30
"""Most newer cards that are taken of one peer: each is an entry, and has all peers that are
away dialled anew."""

PEERS_SCHEMA = """
CREATE TABLE IF NOT EXISTS peers (
    facility_key BLOB PRIMARY KEY,
    state TEXT NOT NULL,        -- keys.trust.Peer as JSON
    last_seen INTEGER           -- seconds since the epoch, UTC
) STRICT;
"""


class Peers:
    """Who is trusted, and with what.

    Args:
        database: where the peers are kept.
        own: our facility key (32 bytes).
        append: writes one audit entry durably.
        on_change: called with the peer after each change.
    """

    def __init__(
        self,
        database: Database,
        own: bytes,
        append: Callable[[Event], int],
        on_change: Callable[[Peer], None],
    ) -> None:
        self._database = database
        self._own = own
        self._append = append
        self._on_change = on_change
        self._lock = threading.Lock()
        self._cards_taken: dict[bytes, deque[int]] = {}
        rows = database.query("SELECT state FROM peers")
        self._store = TrustStore([Peer.from_json(row["state"]) for row in rows], own)

    @property
    def store(self) -> TrustStore:
        """The decisions; a snapshot that is replaced whole at each change."""
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
        self, card_bytes: bytes, confirmed: str, grants: Iterable[str], petname: str, now: int
    ) -> Peer:
        """Trust a facility by its card.

        Args:
            card_bytes: the card file as received.
            confirmed: the fingerprint that a person compared.
            grants: what it may do.
            petname: our name for it; "" takes the card's.
            now: seconds since the epoch, UTC.

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
        return self._change(
            lambda store: store.add(card, petname=petname, grants=chosen, now=now),
            "trust-added",
            {"grants": ",".join(sorted(chosen)), "card": card.digest, "serial": card.serial},
        )

    def take_newer_card(self, card_bytes: bytes, facility_key: bytes, now: int) -> Peer | None:
        """A card that a trusted peer sent of itself; None when it changes nothing.

        Raises:
            NodeError: it is not a valid card of this peer, or one of too many.
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
            lambda store: store.update_card(card, now),
            "card-updated",
            {"card": card.digest, "serial": card.serial},
            actor="node",
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
        """Take grants from a peer, or with none named, all trust."""
        peer, chosen = self.find(text), _checked(grants)
        if chosen:
            return self._change(
                lambda store: store.ungrant(peer.facility_key, chosen),
                "trust-ungranted",
                {"grants": ",".join(sorted(chosen))},
            )
        return self._change(lambda store: store.revoke(peer.facility_key, now), "trust-revoked", {})

    def rename(self, text: str, petname: str) -> Peer:
        """Give a peer another petname; petnames are ours and not logged."""
        peer = self.find(text)
        return self._change(lambda store: store.rename(peer.facility_key, petname), "", {})

    def set_postal_address(self, text: str, address: str) -> Peer:
        """Note where letters reach a peer, for accountings; ours as petnames, and not logged."""
        peer = self.find(text)
        return self._change(
            lambda store: store.set_postal_address(peer.facility_key, address), "", {}
        )

    def saw(self, facility_key: bytes, now: int) -> None:
        """Remember when a peer was last connected (seconds since the epoch, UTC)."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE peers SET last_seen=? WHERE facility_key=?", (now, facility_key)
            )

    def last_seen(self) -> dict[bytes, int]:
        """When each peer was last here, by facility key, seconds since the epoch, UTC.

        Who never was is left out.
        """
        rows = self._database.query(
            "SELECT facility_key, last_seen FROM peers WHERE last_seen IS NOT NULL"
        )
        return {row["facility_key"]: row["last_seen"] for row in rows}

    def _change(
        self,
        change: Callable[[TrustStore], Peer],
        kind: str,
        details: dict[str, str | int | bool],
        actor: str = "operator",
    ) -> Peer:
        with self._lock:
            changed = TrustStore(self._store.peers, self._own)
            try:
                peer = change(changed)
            except CardSuperseded as error:
                raise _card_refused(error) from error
            except KeysError as error:
                raise NodeError(str(error), code=ExitCode.REFUSED) from error
            if kind:
                self._append(Event(type=kind, actor=actor, peer=peer.facility_key, details=details))
            with self._database.transaction() as connection:
                connection.execute(
                    "INSERT INTO peers (facility_key, state) VALUES (?, ?) "
                    "ON CONFLICT (facility_key) DO UPDATE SET state=excluded.state",
                    (peer.facility_key, peer.to_json()),
                )
            self._store = changed
        self._on_change(peer)
        return peer


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
