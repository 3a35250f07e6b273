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

from keys.grants import Yes
from keys.rules import EXAM
from node.app import Node
from node.network.network import Network, Unreachable
from node.sharing.announcer import Announcer
from node.sharing.feeds import Feeds
from node.sharing.policy import Sight
from node.transfer import right
from node.transfer.sending import Sender
from node.witness.store import WitnessStore

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


MISTAKES = {
    "lost-callback": Mistake(lost_callback, "which it may not know"),
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
