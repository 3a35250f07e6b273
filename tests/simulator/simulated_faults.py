"""Mistakes that a simulation must find, put into the product on purpose.

Each shows that a promise is checked: with the mistake, some seed reports it as broken.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import simulated_disk
import simulated_site
from simulated_disk import Disk

from keys import grants
from keys.grants import Approval, Yes
from keys.purposes import BREAK_GLASS
from keys.rules import EXAM
from node.app import Node
from node.audit.of_day import EntriesOfDay
from node.network.network import Network, Unreachable
from node.sharing.announcer import Announcer
from node.sharing.emergencies import IN, OUT, Emergencies
from node.sharing.feeds import Feeds
from node.sharing.offered import rules_of
from node.sharing.offers import Offers
from node.sharing.policy import Refusal, Sight
from node.sharing.requests import Requests
from node.transfer import right
from node.transfer.disclosure import Disclosure
from node.transfer.lately import DisclosedLately
from node.transfer.right import Right
from node.transfer.sending import Sender
from node.witness.store import WitnessStore
from protocol.errors import WireCode
from protocol.log.entry import Entry
from protocol.messages import Request

Fault = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        made: makes the mistake inside a block.
        found: text of a violation to which it leads.
    """

    made: Fault
    found: str


@contextlib.contextmanager
def lost_callback() -> Iterator[None]:
    """The former design: feeds follow grants and catalog by a callback after the commit, which
    a kill loses. The start does not derive feeds, and the announcer does not check again."""
    opened = Node.__init__

    def made(node: Node, *arguments, **named) -> None:  # type: ignore[no-untyped-def]
        opened(node, *arguments, **named)
        changed, peer_changed = node.catalog.in_change, node.peers.in_change
        later = node.database.after_commit
        node.catalog.in_change = lambda study: later(lambda: changed(study))
        node.peers.in_change = lambda peer: later(lambda: peer_changed(peer))

    with (
        patch.object(Node, "__init__", made),
        patch.object(Feeds, "derive", lambda feeds, peers: None),
        patch.object(Feeds, "may_tell", lambda feeds, peer, records: tuple(records)),
    ):
        yield


@contextlib.contextmanager
def _everybody_sees() -> Iterator[None]:
    def peers(sight: Sight) -> frozenset[bytes]:
        return frozenset(peer.facility_key for peer in sight._store().peers)

    with (
        patch.object(Sight, "peers", peers),
        patch.object(Sight, "shows_each", lambda sight, peer, studies: (EXAM for _ in studies)),
    ):
        yield


def _announced_unsaid() -> AbstractContextManager[object]:
    def untold(announcer: Announcer, peer, records) -> None:  # type: ignore[no-untyped-def]
        announcer._feeds.mark_told(peer.facility_key, records)

    return patch.object(Announcer, "_log_announced", untold)


@contextlib.contextmanager
def _everybody_fetches() -> Iterator[None]:
    with patch.object(right, "decide_fetch", lambda *_, **__: Yes("no rule at all")):
        yield


@contextlib.contextmanager
def _sends_without(*kinds: str) -> Iterator[None]:
    """Make the sender omit some types of entries."""
    made = Sender.__init__

    def without(sender: Sender, *, append, **more) -> None:  # type: ignore[no-untyped-def]
        def some(events):  # type: ignore[no-untyped-def]
            return append([event for event in events if event.type not in kinds])

        made(sender, append=some, **more)

    with patch.object(Sender, "__init__", without):
        yield


def _without_wal() -> AbstractContextManager[object]:
    """Make a killed process lose its last commits."""
    return patch.object(simulated_disk, "NOT_COPIED", (*simulated_disk.NOT_COPIED, "node.db-wal"))


@contextlib.contextmanager
def _older_backup() -> Iterator[None]:
    """After a kill, restore the home as it was when its node first started."""
    made = Disk.__init__

    def begun(disk: Disk, path: Path, killed) -> None:  # type: ignore[no-untyped-def]
        made(disk, path, killed)
        if not path.with_name("older").exists():
            shutil.copytree(path, path.with_name("older"))

    def copy(disk: Disk, target: Path) -> None:
        shutil.copytree(disk.path.with_name("older"), target)

    def tear(disk: Disk, copied: Path, rng: object) -> None:
        """Tear nothing: nothing was being written at the first start."""

    with (
        patch.object(Disk, "__init__", begun),
        patch.object(Disk, "copy", copy),
        patch.object(simulated_site, "tear", tear),
    ):
        yield


@contextlib.contextmanager
def _changed_bundle() -> Iterator[None]:
    export = simulated_site.Site._export

    def changed(site, node) -> None:  # type: ignore[no-untyped-def]
        export(site, node)
        site.bundle.getbuffer()[len(site.bundle.getbuffer()) // 2] ^= 1

    with patch.object(simulated_site.Site, "_export", changed):
        yield


@contextlib.contextmanager
def _other_root() -> Iterator[None]:
    held = WitnessStore.held

    def other(store, facility):  # type: ignore[no-untyped-def]
        found, note = held(store, facility)
        return (replace(found, root=bytes(32)) if found.size else found), note

    with patch.object(WitnessStore, "held", other):
        yield


def _nobody_dials() -> AbstractContextManager[object]:
    async def connect(network, node_public, addresses) -> None:  # type: ignore[no-untyped-def]
        raise Unreachable("a mistake on purpose")

    return patch.object(Network, "connect", connect)


# --- mistakes about rights ------------------------------------------------------------


def _limits_forgotten() -> AbstractContextManager[object]:
    nothing = {"studies-a-day": 0, "bytes-a-day": 0}
    return patch.object(DisclosedLately, "with_this", lambda *_: nothing)


def _limits_begin_anew() -> AbstractContextManager[object]:
    """A restart forgets what went out before."""
    return patch.object(EntriesOfDay, "_first_of_day", lambda of_day, size: size)


def _glass_unlimited() -> AbstractContextManager[object]:
    """Emergencies do not count."""
    take = DisclosedLately._take

    def without(lately: DisclosedLately, entry: Entry) -> None:
        if entry.purpose != BREAK_GLASS:
            take(lately, entry)

    return patch.object(DisclosedLately, "_take", without)


def _ends_forgotten() -> AbstractContextManager[object]:
    return patch.object(grants, "has_ended", lambda rule, now: False)


def _conditions_forgotten() -> AbstractContextManager[object]:
    return patch.object(grants, "failure", lambda *_: None)


@contextlib.contextmanager
def _approved_for_ever() -> Iterator[None]:
    """An approval lets the study out as often, and for whatever purpose, as it is asked for."""

    def approval(requests: Requests, peer: bytes, request: Request) -> Approval | None:
        for one in requests.all():
            if (one.peer, one.study, one.state) == (peer, request.study, "approved"):
                return Approval(one.rule, one.study, one.until)
        return None

    with (
        patch.object(Requests, "approval", approval),
        patch.object(Requests, "used", lambda *_: None),
    ):
        yield


@contextlib.contextmanager
def _denial_forgotten() -> Iterator[None]:
    """What was denied counts as approved."""

    def approval(requests: Requests, peer: bytes, request: Request) -> Approval | None:
        found = requests.of(peer, request.transfer)
        if found is None or found.state not in ("approved", "denied"):
            return None
        return Approval(found.rule, found.study, found.until or 1 << 40)

    with (
        patch.object(Right, "_denied", lambda right, request: None),
        patch.object(Requests, "approval", approval),
    ):
        yield


def _nobody_is_asked() -> AbstractContextManager[object]:
    """People are not told of what waits."""
    return patch.object(Requests, "waiting", lambda requests: [])


@contextlib.contextmanager
def _glass_unsaid(direction: str) -> Iterator[None]:
    """One side does not note that the glass was broken."""
    begin = Emergencies.begin

    def unsaid(emergencies: Emergencies, side: str, *more) -> None:  # type: ignore[no-untyped-def]
        if side != direction:
            begin(emergencies, side, *more)

    with patch.object(Emergencies, "begin", unsaid):
        yield


def _glass_over_objections() -> AbstractContextManager[object]:
    """Emergencies go over objections, whatever the facility has decided."""
    decide = right.decide_fetch

    def over(*given, **more):  # type: ignore[no-untyped-def]
        return decide(*given, **more | {"over_objections": True})

    return patch.object(right, "decide_fetch", over)


def _never_rests() -> AbstractContextManager[object]:
    return patch.object(Emergencies, "why_rests", lambda *_: "")


@contextlib.contextmanager
def _reviewed_by_itself() -> Iterator[None]:
    """An emergency that has ended waits for nobody."""
    change = Emergencies._change

    def made(emergencies, one, kind, **more):  # type: ignore[no-untyped-def]
        changed = change(emergencies, one, kind, **more)
        if kind == "emergency-ended":
            emergencies._database.transact(
                lambda connection: connection.execute(
                    "UPDATE emergencies SET outcome = 'justified' WHERE number = ?", (one.number,)
                )
            )
        return changed

    with patch.object(Emergencies, "_change", made):
        yield


def _offers_stand() -> AbstractContextManager[object]:
    """An offer that was declined or taken back still counts."""

    def stand(offers: Offers, peer: bytes) -> None:
        rules = tuple(
            (one.purpose, rules_of(one, offers._facts.blind))
            for one in offers._all.values()
            if (one.direction, one.peer) == (OUT, peer)
        )
        offers._rules = {**offers._rules, peer: rules}

    return patch.object(Offers, "_find_rules", stand)


def _offers_outlive_trust() -> AbstractContextManager[object]:
    return patch.object(Offers, "end_peer", lambda offers, facility_key: None)


def _objections_unheard() -> AbstractContextManager[object]:
    return patch.object(grants, "objects", lambda *_: False)


@contextlib.contextmanager
def _entries_without(*named: str) -> Iterator[None]:
    """The entries of a disclosure do not say by what it was decided."""
    entry = Disclosure._entry

    def without(disclosure, kind, *more, **named_more):  # type: ignore[no-untyped-def]
        made = entry(disclosure, kind, *more, **named_more)
        details = {name: value for name, value in made.details.items() if name not in named}
        return replace(made, details=details)

    with patch.object(Disclosure, "_entry", without):
        yield


def _research_refused() -> AbstractContextManager[object]:
    decide = right.decide_fetch

    def refuse(store, peer, asked, facts, **more):  # type: ignore[no-untyped-def]
        if asked.purpose == "research":
            return Refusal(WireCode.NOT_GRANTED, "a mistake on purpose")
        return decide(store, peer, asked, facts, **more)

    return patch.object(right, "decide_fetch", refuse)


ABOUT_RIGHTS = {
    "limits-forgotten": Mistake(_limits_forgotten, "the limit is used up"),
    "limits-begin-anew": Mistake(_limits_begin_anew, "the limit is used up"),
    "glass-unlimited": Mistake(_glass_unlimited, "the limit is used up"),
    "ends-forgotten": Mistake(_ends_forgotten, "without the right"),
    "conditions-forgotten": Mistake(_conditions_forgotten, "without the right"),
    "approved-for-ever": Mistake(_approved_for_ever, "nobody has approved it"),
    "denial-forgotten": Mistake(_denial_forgotten, "it was denied"),
    "nobody-is-asked": Mistake(_nobody_is_asked, "nobody has answered request"),
    "glass-unsaid-there": Mistake(lambda: _glass_unsaid(OUT), "its log names no emergency"),
    "glass-unsaid-here": Mistake(lambda: _glass_unsaid(IN), "names the emergency"),
    "glass-over-objections": Mistake(_glass_over_objections, "the patient objects"),
    "never-rests": Mistake(_never_rests, "emergency access rests"),
    "reviewed-by-itself": Mistake(_reviewed_by_itself, "has the emergencies"),
    "offers-stand": Mistake(_offers_stand, "without the right"),
    "offers-outlive-trust": Mistake(_offers_outlive_trust, "has the offers"),
    "objections-unheard": Mistake(_objections_unheard, "without the right"),
    "rule-unnamed": Mistake(lambda: _entries_without("rule"), "by None"),
    "rights-unnamed": Mistake(lambda: _entries_without("rights"), "by rights"),
    "research-refused": Mistake(_research_refused, "although the rules say"),
}
"""Mistakes about who may have what, each found where most that happens is about rights."""

MISTAKES = ABOUT_RIGHTS | {
    # It knows of what it may not, or does not of what it may.
    "lost-callback": Mistake(lost_callback, "which it may"),
    "everybody-sees": Mistake(_everybody_sees, "without the right"),
    "announced-unsaid": Mistake(_announced_unsaid, "without an entry"),
    "everybody-fetches": Mistake(_everybody_fetches, "without the right"),
    "sent-unsaid": Mistake(lambda: _sends_without("disclosure-begun"), "without an entry"),
    "disclosure-unsaid": Mistake(
        lambda: _sends_without("disclosure-begun", "disclosed", "receipt"), "differ"
    ),
    "lost-commit": Mistake(_without_wal, "not one of"),
    "older-backup": Mistake(_older_backup, "has lost entries"),
    "changed-log": Mistake(_changed_bundle, "does not verify"),
    "other-root": Mistake(_other_root, "has cosigned another log"),
    "nobody-dials": Mistake(_nobody_dials, "no rest"),
}
