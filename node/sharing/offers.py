"""The offers of studies to and from peers, kept in SQLite, every change logged.

An offer of ours that is open counts as a rule of that peer for that study alone (`rules`), which
`keys.grants.may` reads beside its own: what denies goes before it. It counts no more as soon as it
is ended, before that is written (`node/audit/cuts.py`). Synchronous and thread-safe.
"""

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from keys.grants import No, Request
from keys.purposes import covered_by, is_purpose
from keys.rules import Rule
from keys.trust import Peer
from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects
from node.callers import asking, told_of
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from node.sharing.facts import StudyFacts
from node.sharing.offered import (
    DAY_SECONDS,
    DEFAULT_DAYS,
    ENDED,
    IN,
    KEPT_SECONDS,
    OFFERED,
    OFFERS_KEPT,
    OPEN,
    OUT,
    StudyOffered,
    answered_event,
    ended_event,
    heard_event,
    is_due,
    made_event,
    require_fit,
    rules_of,
)
from node.sharing.peers import Peers
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Entry, Event
from protocol.offers import ACCEPTED, DECLINED, StudyOffer

OFFERS_SCHEMA = """
CREATE TABLE IF NOT EXISTS offers (
    number INTEGER PRIMARY KEY,
    direction TEXT NOT NULL,        -- out, in
    peer BLOB NOT NULL,             -- facility key
    offer BLOB NOT NULL,            -- its name for both sides, 16 random bytes
    study TEXT NOT NULL,
    purpose TEXT NOT NULL,
    message TEXT NOT NULL,          -- of a person; empty when the offer is over
    made INTEGER NOT NULL,          -- seconds since the epoch, UTC
    until INTEGER NOT NULL,         -- the same
    state TEXT NOT NULL,            -- offered, accepted, declined, ended
    told TEXT NOT NULL,             -- the last state of which the other side was told
    fetched INTEGER NOT NULL,       -- whether a fetch was begun
    series INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    modalities TEXT NOT NULL,       -- with newlines between
    study_date TEXT NOT NULL,
    person TEXT NOT NULL,           -- who offers it; empty when the offer is over
    role TEXT NOT NULL              -- likewise
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS offers_by_name ON offers (direction, peer, offer);
"""


class Offers:
    """The offers of both directions.

    Args:
        database: holds them.
        effects: ties entries to their effects.
        peers: who is trusted, and the decisions that rest on it.
        catalog: the studies of this node.
        facts: gives the facts about them.
        clock: dates them.

    Attributes:
        version: differs after each change.
        on_change: called with the facility key of a peer after a change, and for an offer that ends
            also before that is written; in the calling thread.
    """

    def __init__(
        self,
        database: Database,
        effects: Effects,
        peers: Peers,
        catalog: Catalog,
        facts: StudyFacts,
        clock: Clock,
    ) -> None:
        self._database = database
        self._effects = effects
        self._peers = peers
        self._catalog = catalog
        self._facts = facts
        self._clock = clock
        self._lock = threading.RLock()
        self._cuts = Cuts(effects.append, peers.decisions.wait_earlier)
        self.version = 0
        self.on_change: Callable[[bytes], None] = lambda facility_key: None
        self._all: dict[int, StudyOffered] = {}
        self._rules: dict[bytes, tuple[tuple[str, tuple[Rule, ...]], ...]] = {}
        self._load()

    # --- reading -----------------------------------------------------------------------

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Offers that have ended, which could not be written yet; for people."""
        return self._cuts.names

    def all(self) -> list[StudyOffered]:
        """All offers that are kept, in the order in which they were made or came."""
        return list(self._all.values())

    def find(self, number: int) -> StudyOffered:
        """The offer with this number.

        Raises:
            NodeError: there is none.
        """
        found = self._all.get(number)
        if found is None:
            raise NodeError(
                f"there is no offer {number}",
                hint="see `radmesh offers`",
                code=ExitCode.NOT_FOUND,
            )
        return found

    def waiting(self) -> list[StudyOffered]:
        """The offers of peers that wait for a person here."""
        now = self._clock.now()
        return [
            one
            for one in self.all()
            if one.direction == IN and one.state == OFFERED and now < one.until
        ]

    def rules(self, facility_key: bytes) -> tuple[Rule, ...]:
        """What the open offers to a peer (facility key) let it do; reads no disk."""
        offered = self._rules.get(facility_key)
        if offered is None:
            return ()
        only = next(
            (one.purposes for one in self._peers.store.peers if one.facility_key == facility_key),
            frozenset(),
        )
        # The peer may have been confined to some purposes since.
        return tuple(
            rule
            for purpose, rules in offered
            if not only or covered_by(only, purpose)
            for rule in rules
        )

    # --- ours --------------------------------------------------------------------------

    def open_to(self, facility_key: bytes) -> list[StudyOffered]:
        """Our offers to a peer (facility key) that it may fetch by."""
        now = self._clock.now()
        return [
            one
            for one in self.all()
            if one.direction == OUT and one.peer == facility_key and one.is_open and now < one.until
        ]

    def make(
        self,
        study_text: str,
        peer_text: str,
        purpose: str,
        message: str,
        until: int | None,
        *,
        door: str = "",
    ) -> StudyOffered:
        """Offer a study to a peer; logged before it counts.

        Args:
            study_text: as for `Catalog.find_study`.
            peer_text: the petname or the fingerprint of the peer.
            purpose: one of `keys.purposes`.
            message: what the person over there should know.
            until: when the offer ends, seconds since the epoch, UTC; None after a week.
            door: the AE title of ours that makes it; "" for a person.

        Raises:
            NodeError: there is no such study or peer, the offer cannot be made, or not be written.
        """
        peer, row = self._peers.find(peer_text), self._catalog.find_study(study_text)
        now = self._clock.now()
        end = now + DEFAULT_DAYS * DAY_SECONDS if until is None else until
        require_fit(purpose, message, now, end)
        with self._lock:
            self._cuts.write()
            known = self.open_to(peer.facility_key)
            for one in known:
                if one.study == row.study_uid:
                    raise NodeError(
                        f"the study is offered to {peer.petname} already, as offer {one.number}",
                        hint=f"`radmesh offers end {one.number}` ends it",
                        code=ExitCode.REFUSED,
                    )
            if len(known) >= limits.OFFERS_OPEN:
                raise NodeError(
                    f"{limits.OFFERS_OPEN} offers to {peer.petname} are open, and no more are kept",
                    hint="end some; or give the peer a rule (`radmesh trust rule add`)",
                    code=ExitCode.REFUSED,
                )
            person, role = told_of(asking().opening)
            offered = StudyOffered(
                number=self._next_number(),
                direction=OUT,
                peer=peer.facility_key,
                offer=secrets.token_bytes(16),
                study=row.study_uid,
                purpose=purpose,
                message=message,
                made=now,
                until=end,
                series=row.series_count,
                instances=row.instance_count,
                bytes=row.original_bytes,
                modalities="\n".join(row.modalities),
                study_date=row.study_date,
                person=person,
                role=role,
            )
            event = made_event(offered, peer, self._catalog.patients(row.study_uid), door)
            with self._peers.decisions.made():
                self._require_possible(offered, peer)
                self._effects.after_entry(event, lambda connection: _keep(connection, offered))
            self._reread(offered.number)
        self.on_change(peer.facility_key)
        return offered

    def _require_possible(self, offered: StudyOffered, peer: Peer) -> None:
        facts = self._facts.of(self._catalog.study(offered.study), peer.facility_key)
        if facts is None or facts.state != "shared":
            state = "not here any more" if facts is None else facts.state
            raise NodeError(
                f"study {offered.study} is {state}, and cannot be offered",
                hint=f"`radmesh share {offered.study} --to {peer.petname}` is for them alone",
                code=ExitCode.REFUSED,
            )
        if peer.purposes and not covered_by(peer.purposes, offered.purpose):
            raise NodeError(
                f"{peer.petname} is not trusted for the purpose {offered.purpose}",
                hint=f"name one of {', '.join(sorted(peer.purposes))}",
                code=ExitCode.REFUSED,
            )
        answer = self._peers.store.may(
            "fetch",
            peer.facility_key,
            self._clock.now(),
            facts=facts,
            request=Request(speaks=True, purpose=offered.purpose),
            extra=rules_of(offered, self._facts.blind),
        )
        if isinstance(answer, No):
            raise NodeError(
                f"study {offered.study} cannot be offered to {peer.petname}: {answer.sentence}",
                hint=f"see `radmesh trust explain {peer.petname} {offered.study}`",
                code=ExitCode.REFUSED,
            )

    def heard_answer(self, facility_key: bytes, offer: bytes, answer: str) -> None:
        """Note what a peer says to an offer of ours; the first answer counts.

        Raises:
            NodeError: it could not be written.
        """
        with self._lock:
            known = self._named(OUT, facility_key, offer)
            if known is None or known.state != OFFERED:
                return
            changed = replace(known, state=answer)
            self._change(changed, answered_event(changed, "", "node"), is_cut=answer == DECLINED)
        self.on_change(facility_key)

    def end(self, number: int) -> StudyOffered:
        """Take an offer of ours back, at once.

        Raises:
            NodeError: there is none of ours that is open, or it could not be written; even then it
                does not count any more, while this process runs.
        """
        with self._lock:
            known = self.find(number)
            if known.direction != OUT or not known.is_open:
                raise NodeError(
                    f"offer {number} is not an open one of ours",
                    hint="see `radmesh offers`",
                    code=ExitCode.NOT_FOUND,
                )
            return self._end(known, "person")

    # --- those of peers ----------------------------------------------------------------

    def is_known(self, facility_key: bytes, offer: bytes) -> bool:
        """Whether an offer of a peer is kept; that the peer asks again says it needs an answer."""
        with self._lock:
            known = self._named(IN, facility_key, offer)
            if known is None:
                return False
            if known.state in (ACCEPTED, DECLINED) and known.told:
                self._note(replace(known, told=""))
            return True

    def take_untrusted(self, peer: Peer, said: StudyOffer) -> StudyOffered:
        """Keep a new offer of a peer; logged before it is kept.

        Raises:
            RemoteProtocolError: it makes no sense, or too many of the peer are open.
            NodeError: it could not be written.
        """
        now = self._clock.now()
        until = said.until // 1000
        if not is_purpose(said.purpose):
            raise RemoteProtocolError("the offer has no known purpose")
        if until <= now:
            raise RemoteProtocolError("the offer has ended already", WireCode.NOT_AVAILABLE)
        with self._lock:
            known = self._named(IN, peer.facility_key, said.offer)
            if known is not None:
                return known
            of_peer = [
                one
                for one in self.all()
                if one.direction == IN and one.peer == peer.facility_key
            ]  # fmt: skip
            if sum(one.is_open for one in of_peer) >= limits.OFFERS_OPEN:
                raise RemoteProtocolError("too many offers are open", WireCode.BUSY)
            over = [one.number for one in of_peer if not one.is_open]
            # Else a peer that makes and ends offers fills the list. The log has them all.
            self._delete(over[: max(0, len(of_peer) + 1 - OFFERS_KEPT)])
            offered = StudyOffered(
                number=self._next_number(),
                direction=IN,
                peer=peer.facility_key,
                offer=said.offer,
                study=said.study,
                purpose=said.purpose,
                message=said.message,
                made=now,
                # Later than it may be, it is one that we forget sooner than they.
                until=min(until, now + limits.OFFER_DAYS * DAY_SECONDS),
                series=said.series,
                instances=said.instances,
                bytes=said.bytes,
                modalities="\n".join(said.modalities),
                study_date=said.study_date,
                person=said.person or "",
                role=said.role or "",
            )
            self._change(offered, heard_event(offered, peer))
        self.on_change(peer.facility_key)
        return offered

    def answer(self, number: int, answer: str, *, rule: str = "") -> StudyOffered:
        """Accept or decline an offer of a peer.

        Args:
            number: its number here.
            answer: `ACCEPTED` or `DECLINED`.
            rule: the rule that answered; "" for a person.

        Raises:
            NodeError: there is none that waits, or it could not be written.
        """
        with self._lock:
            known = self.find(number)
            if known.direction != IN or known.state != OFFERED or known.until <= self._clock.now():
                raise NodeError(
                    f"offer {number} does not wait for an answer",
                    hint="see `radmesh offers`",
                    code=ExitCode.NOT_FOUND,
                )
            changed = replace(known, state=answer)
            self._change(changed, answered_event(changed, rule, "node" if rule else "operator"))
        self.on_change(known.peer)
        return changed

    def heard_end(self, facility_key: bytes, offer: bytes) -> None:
        """A peer takes its offer back.

        Raises:
            NodeError: it could not be written.
        """
        with self._lock:
            known = self._named(IN, facility_key, offer)
            if known is not None and known.is_open:
                self._end(known, "peer")

    def to_fetch(self) -> list[StudyOffered]:
        """Offers that were accepted, and whose fetch has not begun."""
        return [
            one
            for one in self.all()
            if one.direction == IN and one.state == ACCEPTED and not one.fetched
        ]

    def fetch_begins(self, number: int) -> None:
        """The fetch of an accepted offer has begun; from here on it goes on by itself."""
        with self._lock:
            # Its study may have been erased meanwhile.
            if number in self._all:
                self._note(replace(self._all[number], fetched=1))

    # --- both --------------------------------------------------------------------------

    def to_tell(self, facility_key: bytes) -> list[StudyOffered]:
        """Of which offers a peer (facility key) should be told how they stand."""
        now = self._clock.now()
        return [
            one
            for one in self.all()
            if one.peer == facility_key and now < one.until and is_due(one)
        ]

    def told(self, number: int, state: str) -> None:
        """The other side has noted that an offer stands like this."""
        with self._lock:
            if number in self._all and self._all[number].told != state:
                self._note(replace(self._all[number], told=state))

    def end_due(self) -> None:
        """End the offers whose time is over, and forget those that were over long ago.

        Raises:
            NodeError: it could not be written.
        """
        with self._lock:
            self._cuts.write()
            now = self._clock.now()
            for one in self.all():
                if one.is_open and one.until <= now:
                    self._end(one, "date")
            old = [one.number for one in self.all() if one.until + KEPT_SECONDS <= now]
            if old:
                self._delete(old)

    def end_peer(self, facility_key: bytes) -> None:
        """End all offers of a peer whose trust was revoked; in the transaction at hand."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE offers SET state = ?, message = '', person = '', role = '', told = ?"
                " WHERE peer = ?"
                " AND state IN (?, ?)",
                (ENDED, ENDED, facility_key, *OPEN),
            )
            self._database.after_commit(self._load)

        self._database.transact(work)

    def forget(self, studies: Iterable[str]) -> None:
        """Forget all offers of studies (UIDs), as openings of them are erased."""
        gone = set(studies)
        with self._lock:
            self._delete([one.number for one in self.all() if one.study in gone])

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """End the offer that an entry says has ended; see `Effects.compare`."""
        direction, name = str(entry.details.get("direction")), str(entry.details.get("offer"))
        connection.execute(
            "UPDATE offers SET state = ?, message = '', person = '', role = ''"
            " WHERE direction = ? AND peer = ? AND offer = ?",
            (ENDED, direction, entry.peer, bytes.fromhex(name)),
        )
        self._database.after_commit(self._load)
        return True

    # --- how they change ---------------------------------------------------------------

    def _end(self, known: StudyOffered, why: str) -> StudyOffered:
        # The other side knows the date itself, and its own word.
        ended = replace(known, state=ENDED, told=known.told if why == "person" else ENDED)
        self._change(ended, ended_event(known, why), is_cut=True)
        self.on_change(known.peer)
        return ended

    def _change(self, offered: StudyOffered, event: Event, *, is_cut: bool = False) -> None:
        if not offered.is_open:
            offered = replace(offered, message="", person="", role="")
        if not is_cut:
            self._cuts.write()
            self._effects.after_entry(event, lambda connection: _keep(connection, offered))
            self._reread(offered.number)
            return
        # In memory first: that needs no disk.
        self._put(offered)
        self.on_change(offered.peer)

        def effect(entry: Callable[[], int]) -> None:
            self._effects.of(entry(), lambda connection: _keep(connection, offered))

        try:
            self._cuts.make(Cut(f"offer {offered.number}", event, effect))
        except NodeError as error:
            raise NodeError(
                f"offer {offered.number} does not count any more in this process, but that could"
                f" not be written: {error.message}",
                hint="make room on the disk: a running node then writes it by itself; after a"
                " restart look with `radmesh offers`",
                code=error.code,
            ) from error

    def _note(self, changed: StudyOffered) -> None:
        """Keep what the other side knows and whether a fetch began; nothing that has an entry."""
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE offers SET told = ?, fetched = ? WHERE number = ?",
                (changed.told, changed.fetched, changed.number),
            )
        )
        self._put(changed)

    def _delete(self, numbers: list[int]) -> None:
        if not numbers:
            return
        self._database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM offers WHERE number = ?", [(one,) for one in numbers]
            )
        )
        self._load()

    def _load(self) -> None:
        with self._lock:
            rows = self._database.query("SELECT * FROM offers ORDER BY number")
            read = {row["number"]: _from_row(row) for row in rows}
            unwritten = {
                one.number: one for one in self._all.values() if f"offer {one.number}" in
                self._cuts.names
            }  # fmt: skip
            self._all = read | unwritten
            self._rules = {}
            for peer in {one.peer for one in self._all.values() if one.direction == OUT}:
                self._find_rules(peer)
            self.version += 1

    def _reread(self, number: int) -> None:
        """Take over what is kept of an offer: the end of trust may have ended it meanwhile."""
        row = self._database.query_one("SELECT * FROM offers WHERE number = ?", (number,))
        if row is not None:
            self._put(_from_row(row))

    def _put(self, offered: StudyOffered) -> None:
        # Replaced as a whole, so that readers need no lock.
        self._all = {**self._all, offered.number: offered}
        self._find_rules(offered.peer)
        self.version += 1

    def _find_rules(self, peer: bytes) -> None:
        rules = tuple(
            (one.purpose, rules_of(one, self._facts.blind))
            for one in self._all.values()
            if one.direction == OUT and one.peer == peer and one.is_open
        )
        self._rules = {**self._rules, peer: rules}

    def _named(self, direction: str, peer: bytes, offer: bytes) -> StudyOffered | None:
        for one in self._all.values():
            if (one.direction, one.peer, one.offer) == (direction, peer, offer):
                return one
        return None

    def _next_number(self) -> int:
        return max(self._all, default=0) + 1


_COLUMNS = tuple(StudyOffered.__dataclass_fields__)


def _from_row(row: sqlite3.Row) -> StudyOffered:
    return StudyOffered(**{name: row[name] for name in _COLUMNS})


def _keep(connection: sqlite3.Connection, offered: StudyOffered) -> None:
    """Keep an offer as it is now; what is over stays over, whoever read it before."""
    connection.execute(
        "INSERT INTO offers (number, direction, peer, offer, study, purpose, message, made, until,"
        " state, told, fetched, series, instances, bytes, modalities, study_date, person, role)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (number) DO UPDATE SET state=excluded.state, told=excluded.told,"
        " message=excluded.message, person=excluded.person, role=excluded.role"
        " WHERE offers.state NOT IN ('ended', 'declined') OR offers.state = excluded.state",
        tuple(getattr(offered, name) for name in _COLUMNS),
    )
