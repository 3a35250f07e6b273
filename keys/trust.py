"""The trust store: which facilities are trusted, and what they were granted.

In memory and without effects: every change returns the changed peer, and the caller
stores it. `keys.grants` decides what a peer may do, from the peer as it is stored now. A
facility key is pinned when a person pairs; a card may replace all other keys, but never
the facility key. A key on several cards counts for the facility that proves it
(`keys.claims`); the cards themselves are accepted in any case.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from keys.card import Card, check_card, check_newer
from keys.card_fields import SizedKey, TimedKey
from keys.claims import Claims, Contested
from keys.conditions import DAY_SECONDS, KINDS
from keys.errors import BadFingerprint, TrustError
from keys.fingerprint import matches, parse_fingerprint
from keys.grants import (
    ACTIONS,
    NO_REQUEST,
    NO_USAGE,
    Answer,
    Facts,
    No,
    Request,
    Usage,
    has_ended,
    may,
    rules_of,
    tells_apart,
    why_never,
    why_not_trusted,
)
from keys.peer import ADDRESS_CHARACTERS, GRANTS, PURPOSES, SHOWN, Peer, is_postal_address
from keys.petname import folded, is_petname, look_alike
from keys.purposes import is_purpose
from keys.rules import RULES, BadRule, Rule, read_rule

__all__ = ["GRANTS", "PURPOSES", "Contested", "Peer", "TrustStore"]

_Listed = TypeVar("_Listed", TimedKey, SizedKey)


class TrustStore:
    """The peers of one facility.

    Args:
        peers: the stored peers.
        own_facility_key: our own facility key, 32 bytes; never a peer.
    """

    def __init__(self, peers: Iterable[Peer], own_facility_key: bytes) -> None:
        self._peers = {peer.facility_key: peer for peer in peers}
        self._own = own_facility_key
        self._claims = Claims(self._peers.values())
        self._rules = {peer.facility_key: rules_of(peer) for peer in self._peers.values()}

    @property
    def peers(self) -> tuple[Peer, ...]:
        """All peers, including revoked ones, in the order in which they were first paired."""
        return tuple(self._peers.values())

    def add(
        self,
        card: Card,
        *,
        petname: str = "",
        grants: Iterable[str] = (),
        purposes: Iterable[str] = (),
        expires: int | None = None,
        now: int,
    ) -> Peer:
        """Pair with a facility that a person has confirmed, by its fingerprint or by a code.

        A known peer keeps its grants and gets the new grants and the newer card. A revoked
        peer is paired afresh and has only the grants given now.

        Args:
            card: the facility's card.
            petname: our name for it; "" keeps the known petname, or else uses the card's name.
            grants: the grants to give.
            purposes: the only purposes that it may name; none leaves a known peer's as they are,
                and allows another all.
            expires: when trust ends, seconds since the epoch, UTC; None leaves a known peer's
                end as it is, and gives another none.
            now: seconds since the epoch, UTC.

        Raises:
            CardExpired, CardSuperseded, BadCard: the card does not count.
            TrustError: it is our own card, the petname is blank, in use, or looks like one
                in use, a grant or a purpose is unknown, or trust would have ended already: its end
                is in the past, or that of a known peer is, and stays.
        """
        chosen, only = _checked_grants(grants), _checked_purposes(purposes)
        if expires is not None and expires <= now:
            raise TrustError("the end of trust is in the past")
        if card.facility_key == self._own:
            raise TrustError("this is our own card")
        check_card(card, now)
        known = self._peers.get(card.facility_key)
        if known is not None:
            check_newer(known.card, card)
        if known is not None and known.revoked is None and expires is None and known.has_ended(now):
            raise TrustError(
                f"trust in {known.petname} has ended; give it a new end, or revoke it before you "
                "trust the facility anew"
            )
        name = petname or (known.petname if known else card.name)
        self._require_free_petname(name, card.facility_key)
        if known is None or known.revoked is not None:
            peer = Peer(
                card.facility_key,
                name,
                card,
                grants=chosen,
                purposes=only,
                expires=expires,
                added=now,
                postal_address="" if known is None else known.postal_address,
                rules_made=0 if known is None else known.rules_made,
            )
            return self._put(replace(peer, claimed=self._claimed(card, None)))
        return self._put(
            replace(
                known,
                petname=name,
                card=card,
                grants=known.grants | chosen,
                purposes=only or known.purposes,
                expires=known.expires if expires is None else expires,
                claimed=self._claimed(card, known),
            )
        )

    def update_card(self, card: Card, now: int, *, shown_by: bytes | None = None) -> Peer:
        """Take a newer card of a trusted peer, or check the known card again.

        Args:
            card: the card.
            now: seconds since the epoch, UTC.
            shown_by: the node key (32 bytes) of a handshake in which the card was shown.
                The key's holder there names its facility, which beats other unproven
                claims to the key.

        Raises:
            CardExpired, CardSuperseded, BadCard: the card does not count.
            TrustError: the facility is not trusted.
        """
        known = self._trusted(card.facility_key)
        check_newer(known.card, card)
        check_card(card, now)
        claimed = self._claimed(card, known)
        if shown_by in claimed and any(key.key == shown_by for key in card.node_keys):
            claimed[shown_by] = SHOWN
        return self._put(replace(known, card=card, claimed=claimed))

    def grant(self, facility_key: bytes, grants: Iterable[str]) -> Peer:
        """Give a trusted peer more grants.

        Raises:
            TrustError: it is not trusted, or there is no such grant.
        """
        known = self._trusted(facility_key)
        return self._put(replace(known, grants=known.grants | _checked_grants(grants)))

    def ungrant(self, facility_key: bytes, grants: Iterable[str]) -> Peer:
        """Take grants from a trusted peer.

        Raises:
            TrustError: it is not trusted, or there is no such grant.
        """
        known = self._trusted(facility_key)
        return self._put(replace(known, grants=known.grants - _checked_grants(grants)))

    def add_rule(
        self, facility_key: bytes, words: Sequence[str], blind: Callable[[str, str], str]
    ) -> Peer:
        """Give a trusted peer one more rule, the last of its rules.

        Args:
            facility_key: 32 bytes.
            words: the rule in words, see `keys.rules.read_rule`.
            blind: makes the form in which values of lists are kept.

        Raises:
            TrustError: it is not trusted, the rule cannot be read, or it has too many.
        """
        known = self._trusted(facility_key)
        if len(known.rules) >= RULES:
            raise TrustError(f"{known.petname} has {RULES} rules, and no more are kept")
        number = known.rules_made + 1
        try:
            rule = read_rule(words, number, actions=tuple(ACTIONS), blind=blind)
        except BadRule as error:
            raise TrustError(str(error)) from None
        return self.put_rule(facility_key, rule)

    def put_rule(self, facility_key: bytes, rule: Rule) -> Peer:
        """As `add_rule`, for a rule that has its number; one with the same number is replaced."""
        known = self._trusted(facility_key)
        rules = (*(one for one in known.rules if one.number != rule.number), rule)
        made = max(known.rules_made, rule.number)
        return self._put(replace(known, rules=rules, rules_made=made))

    def remove_rule(self, facility_key: bytes, number: int) -> Peer:
        """Take a rule from a trusted peer.

        Raises:
            TrustError: it is not trusted, or has no rule of this number.
        """
        known = self._trusted(facility_key)
        left = tuple(rule for rule in known.rules if rule.number != number)
        if len(left) == len(known.rules):
            raise TrustError(f"{known.petname} has no rule {number}")
        return self._put(replace(known, rules=left))

    def revoke(self, facility_key: bytes, now: int) -> Peer:
        """Withdraw all trust from a peer (seconds since the epoch, UTC).

        Raises:
            TrustError: it is not trusted.
        """
        known = self._trusted(facility_key)
        return self._put(replace(known, grants=frozenset(), rules=(), revoked=now))

    def rename(self, facility_key: bytes, petname: str) -> Peer:
        """Give a trusted peer another petname.

        Raises:
            TrustError: it is not trusted, or the petname is unfit, in use, or looks like
                one in use.
        """
        known = self._trusted(facility_key)
        self._require_free_petname(petname, facility_key)
        return self._put(replace(known, petname=petname))

    def set_postal_address(self, facility_key: bytes, address: str) -> Peer:
        """Set a peer's address for letters, even if trust in it was revoked; "" if not known.

        Raises:
            TrustError: it is not a peer, or the text cannot be a postal address.
        """
        known = self._peers.get(facility_key)
        if known is None:
            raise TrustError("no such facility is known")
        if not is_postal_address(address):
            raise TrustError(
                f"a postal address is at most {ADDRESS_CHARACTERS} printable characters on one line"
            )
        return self._put(replace(known, postal_address=address))

    def find(self, text: str) -> Peer:
        """The peer with this petname or fingerprint; for a petname, a trusted peer comes first.

        Raises:
            TrustError: there is no such peer, or there are several revoked ones.
        """
        if _is_fingerprint(text):
            # Do not match petnames: a facility may have named itself another's fingerprint.
            found = [peer for peer in self.peers if matches(peer.facility_key, text)]
        else:
            named = [peer for peer in self.peers if folded(peer.petname) == folded(text)]
            found = [peer for peer in named if peer.revoked is None] or named
        if len(found) > 1:
            raise TrustError("several revoked peers have this petname; name the fingerprint")
        if not found:
            names = sorted(peer.petname for peer in self.peers)
            known = f"known are {', '.join(names)}" if names else "no peer is known"
            raise TrustError(f"there is no peer of this name; {known}")
        return found[0]

    def by_node_key(self, node_public: bytes, now: int) -> Peer | None:
        """The peer for which a node with this key speaks.

        Args:
            node_public: 32 bytes, proven by the connection.
            now: seconds since the epoch, UTC.

        Returns:
            None if there is no such peer, its trust was revoked or has ended, its card has
            expired, or the key is not current or does not count for it (`keys.claims`).
        """
        # Called for each batch, and each second for each connection: so look up by key.
        for peer in self._claims.naming(node_public):
            speaks = peer.card.is_current_node_key(node_public, now)
            if not speaks or why_not_trusted(peer, now) is not None:
                continue
            if self._claims.holds(peer.facility_key, node_public, now):
                return peer
        return None

    def speaks_for(self, node_public: bytes, peer: Peer, now: int) -> bool:
        """Whether a node with this key (32 bytes) speaks for this peer now; see `by_node_key`."""
        found = self.by_node_key(node_public, now)
        return found is not None and found.facility_key == peer.facility_key

    def held(self, peer: Peer, keys: Iterable[_Listed], now: int) -> tuple[_Listed, ...]:
        """Filter keys on a peer's card: only keys that count for it, and for nobody else.

        Args:
            peer: the peer.
            keys: some keys from its card.
            now: seconds since the epoch, UTC.
        """
        holds = self._claims.holds
        return tuple(key for key in keys if holds(peer.facility_key, key.key, now))

    def contested(self, now: int) -> tuple[Contested, ...]:
        """Keys in force on several cards, which therefore do not count for one or both.

        Args:
            now: seconds since the epoch, UTC.
        """
        return self._claims.contested(now)

    def may(
        self,
        action: str,
        facility_key: bytes,
        now: int,
        *,
        facts: Facts | None = None,
        request: Request = NO_REQUEST,
        usage: Usage = NO_USAGE,
        extra: Sequence[Rule] = (),
    ) -> Answer:
        """Whether a facility (key of 32 bytes) may do something now; see `keys.grants.may`.

        `extra` are rules besides its own, such as those of an offer.
        """
        peer, rules = self._peers.get(facility_key), self._rules.get(facility_key, ())
        return may(action, peer, (*rules, *extra), facts, request, usage, now)

    def rules(self, facility_key: bytes) -> tuple[Rule, ...]:
        """The rules of a facility (key of 32 bytes), those of its grants first."""
        return self._rules.get(facility_key, ())

    def times(self, facility_key: bytes, now: int) -> tuple[object, ...]:
        """Differs when rules of a facility count, or read a study, in another way than before.

        Args:
            facility_key: 32 bytes.
            now: seconds since the epoch, UTC.
        """
        rules = self.rules(facility_key)
        kinds = {kind for rule in rules for kind in rule.conditions}
        ages = any(kind in KINDS and KINDS[kind].changes_with_time for kind in kinds)
        return (sum(has_ended(rule, now) for rule in rules), now // DAY_SECONDS if ages else 0)

    def why_never(
        self, action: str, facility_key: bytes, now: int, extra: Sequence[Rule] = ()
    ) -> No | None:
        """The refusal of an action for a facility, for any study; see `keys.grants` and `may`."""
        peer, rules = self._peers.get(facility_key), self._rules.get(facility_key, ())
        return why_never(action, peer, (*rules, *extra), now)

    def tells_apart(self, action: str, facility_key: bytes) -> bool:
        """Whether the answer for a facility can differ by study; see `keys.grants`."""
        return tells_apart(action, self._rules.get(facility_key, ()))

    def _put(self, peer: Peer) -> Peer:
        self._peers[peer.facility_key] = peer
        self._claims = Claims(self._peers.values())
        self._rules[peer.facility_key] = rules_of(peer)
        return peer

    def _claimed(self, card: Card, known: Peer | None) -> dict[bytes, int]:
        """The places of the unproven claims on a card.

        A claim keeps its place from the previous card; a new claim comes last. Claims in a
        record of the first releases, which has no places, come first.
        """
        before: dict[bytes, int] = {}
        if known is not None:
            before = {key.key: 0 for _, key in known.card.listed if key.proof is None}
            before |= known.claimed
        places = (place for peer in self._peers.values() for place in peer.claimed.values())
        last = 1 + max(places, default=0)
        unproven = (key.key for _, key in card.listed if key.proof is None)
        return {key: before.get(key, last) for key in unproven}

    def _trusted(self, facility_key: bytes) -> Peer:
        known = self._peers.get(facility_key)
        if known is None:
            raise TrustError("the facility is not known")
        if known.revoked is not None:
            raise TrustError(f"trust in {known.petname} was revoked; pair again")
        return known

    def namesake(self, card: Card) -> Peer | None:
        """A trusted peer with another facility key whose name is, or looks like, a card's name."""
        for peer in self._peers.values():
            if peer.revoked is not None or peer.facility_key == card.facility_key:
                continue
            for name in (peer.petname, peer.card.name):
                if folded(name) == folded(card.name) or look_alike(name, card.name):
                    return peer
        return None

    def _require_free_petname(self, petname: str, facility_key: bytes) -> None:
        if not is_petname(petname):
            raise TrustError(
                "a petname is 1 to 128 printable characters on one line, "
                "with a letter or digit among them"
            )
        for peer in self._peers.values():
            if peer.revoked is not None or peer.facility_key == facility_key:
                continue
            if folded(peer.petname) == folded(petname):
                raise TrustError(f"the petname {peer.petname} is taken; choose another")
            if look_alike(peer.petname, petname):
                raise TrustError(
                    f"the petname looks like {peer.petname}, which is taken; choose another"
                )


def _checked_grants(grants: Iterable[str]) -> frozenset[str]:
    chosen = frozenset(grants)
    unknown = sorted(chosen - set(GRANTS))
    if unknown:
        raise TrustError(f"there is no grant {unknown[0]}; the grants are {', '.join(GRANTS)}")
    return chosen


def _checked_purposes(purposes: Iterable[str]) -> frozenset[str]:
    chosen = frozenset(purposes)
    unknown = sorted(one for one in chosen if not is_purpose(one))
    if unknown:
        raise TrustError(
            f"there is no purpose {unknown[0]}; the purposes are {', '.join(PURPOSES)} and the"
            " codes of HL7, such as TREAT"
        )
    return chosen


def _is_fingerprint(text: str) -> bool:
    try:
        parse_fingerprint(text)
    except BadFingerprint:
        return False
    return True
