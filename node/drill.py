"""Plays the theft of the node key on a copy of a home, and reports what it would mean.

The home is only read: nothing in it changes, no entry is written, no peer is told. The copy
has the private keys, so it lies in a folder of its own beside the home and is removed at the
end, its keys overwritten.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from keys.identity import KeyPair, peer_id
from keys.trust import Peer
from node.app import Node
from node.database import copy_database
from node.drill_copies import new_copy
from node.durable import disk_error
from node.errors import ExitCode, NodeError
from node.facility_key import require_here
from node.home import Home
from node.rotation import Request
from protocol.log.entry import parse_time_untrusted

RECENT_SECONDS = 24 * 3600
"""A peer seen so shortly before the last entry counts as one that would be told at once, where
no running node can say who is connected."""

_COPIED = ("card", "config.toml", "rotation", "sealing")
_EMPTY = ("store", "incoming", "arrivals", "quarantine")


@dataclass(frozen=True)
class PeerReport:
    """What the theft means for one trusted peer.

    Attributes:
        petname, fingerprint: who it is.
        is_told: whether it would have the newer card at once.
        last_seen: when it was connected last, seconds since the epoch, UTC; None: never.
        has_address: whether our node can call it.
        grants: what it may do here; the thief has none of it.
        studies, instances, bytes: what it announces to us now, and we could fetch: so could
            the thief.
        fetched: how many fetches from it our log has in the time in question.
    """

    petname: str
    fingerprint: str
    is_told: bool
    last_seen: int | None
    has_address: bool
    grants: tuple[str, ...]
    studies: int
    instances: int
    bytes: int
    fetched: int


@dataclass(frozen=True)
class Report:
    """The outcome of the drill.

    Attributes:
        name, fingerprint: our facility.
        time: when it was played, seconds since the epoch, UTC.
        since: beginning of the time in question, likewise.
        old_peer_id, new_peer_id: the node's name on the network before and after.
        serial: serial of the newer card.
        has_ended: whether the old key counts no more by the newer card.
        seconds: how long the change took.
        log_size: entries of the log that were copied.
        peers: the trusted peers, by petname.
    """

    name: str
    fingerprint: str
    time: int
    since: int
    old_peer_id: str
    new_peer_id: str
    serial: int
    has_ended: bool
    seconds: float
    log_size: int
    peers: tuple[PeerReport, ...]


def stolen_node_key(
    home: Home,
    *,
    connected: Collection[bytes] | None = None,
    facility: KeyPair | None = None,
    since: int | None = None,
    folder: Path | None = None,
) -> Report:
    """Replace the node key of a copy of a home, as after a theft.

    Args:
        home: the home, whose node may run. Its `ask` gives the passphrase of sealed keys.
        connected: facility keys of the peers that are connected; None: no node runs.
        facility: the facility key; that of the home by default.
        since: when the key may have been stolen, seconds since the epoch, UTC; by default
            since it is in force.
        folder: where the copy is made; by default beside the home.

    Raises:
        NodeError: the facility key or the passphrase is missing, or the copy cannot be made.
    """
    home.require()
    with _copied(home, home.path.parent if folder is None else folder) as path:
        copy = Home(path, clock=home.clock, ask=home.ask)
        with Node.open(copy) as node:
            return _play(node, connected, facility, since)


def _play(
    node: Node, connected: Collection[bytes] | None, facility: KeyPair | None, since: int | None
) -> Report:
    old = node.keys.node.public
    in_force = node.card.node_keys[-1].since
    begin = in_force if since is None else since
    size = node.audit.size
    fetched, last = _fetches(node, begin * 1000)
    peers = tuple(
        _peer(node, peer, connected, fetched.get(peer.facility_key, 0), last)
        for peer in sorted(node.peers.store.peers, key=lambda one: one.petname.casefold())
        if peer.is_trusted(node.clock.now())
    )
    began = node.clock.running()
    request = Request(
        role="node",
        facility=require_here(node.home, node.keys) if facility is None else facility,
        compromised=True,
    )
    changed = node.rotator.change(request)
    now = node.clock.now()
    return Report(
        name=node.card.name,
        fingerprint=node.card.fingerprint,
        time=now,
        since=begin,
        old_peer_id=peer_id(old),
        new_peer_id=peer_id(node.keys.node.public),
        serial=changed.card.serial,
        has_ended=not changed.card.is_current_node_key(old, now),
        seconds=round(node.clock.running() - began, 3),
        log_size=size,
        peers=peers,
    )


def _peer(
    node: Node, peer: Peer, connected: Collection[bytes] | None, fetched: int, last: int
) -> PeerReport:
    seen = node.peers.last_seen().get(peer.facility_key)
    if connected is None:
        is_told = seen is not None and seen >= last - RECENT_SECONDS
    else:
        is_told = peer.facility_key in connected
    records = [record for _, record in node.feeds.announced(peer=peer.facility_key)]
    offered = [record for record in records if record.kind != "withdrawn"]
    return PeerReport(
        petname=peer.petname,
        fingerprint=peer.fingerprint,
        is_told=is_told,
        last_seen=seen,
        has_address=bool(peer.card.addresses),
        grants=tuple(sorted(peer.grants)),
        studies=len(offered),
        instances=sum(record.instances for record in offered),
        bytes=sum(record.bytes for record in offered),
        fetched=fetched,
    )


def _fetches(node: Node, since_ms: int) -> tuple[dict[bytes, int], int]:
    """How many studies came from each peer since a time, and the time of the last entry
    (seconds)."""
    counts: dict[bytes, int] = {}
    last = 0
    for line in node.audit.entries():
        # Fields are read for their times alone: a log may have millions of entries.
        entry = json.loads(line)
        time_ms = parse_time_untrusted(entry["time"])
        last = time_ms // 1000
        if entry["type"] == "received" and time_ms >= since_ms:
            peer = bytes.fromhex(entry["peer"])
            counts[peer] = counts.get(peer, 0) + 1
    return counts, last


@contextlib.contextmanager
def _copied(home: Home, folder: Path) -> Iterator[Path]:
    """A copy of a home without its images; removed at the end of the block."""
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(new_copy(folder))
            _copy(home, made)
        except OSError as error:
            raise disk_error(f"the copy for the drill cannot be made in {folder}", error) from error
        yield made


def _copy(home: Home, target: Path) -> None:
    with _kept_from_starting(home) as is_stopped:
        for name in _EMPTY:
            (target / name).mkdir(mode=0o700)
        # The database first: then the log has an entry for each change in it.
        _copy_database(home.database_path, target / home.database_path.name, is_stopped)
        for name in _COPIED:
            path = home.path / name
            if path.is_dir():
                shutil.copytree(path, target / name)
            elif path.exists():
                shutil.copyfile(path, target / name)
        shutil.copytree(home.keys_path, target / home.keys_path.name)
        audit = target / home.audit_path.name
        audit.mkdir(mode=0o700)
        # The checkpoint before the log: it never signs more than is copied.
        shutil.copyfile(home.audit_path / "checkpoint", audit / "checkpoint")
        shutil.copyfile(home.audit_path / "log", audit / "log")
        _copy_database(home.audit_path / "evidence.db", audit / "evidence.db", is_stopped)


def _copy_database(path: Path, target: Path, is_stopped: bool) -> None:
    if not is_stopped:
        copy_database(path, target)
        return
    # As files: opening a database, even to read it, may change what lies beside it.
    for suffix in ("", "-wal"):
        if path.with_name(path.name + suffix).exists():
            shutil.copyfile(
                path.with_name(path.name + suffix), target.with_name(target.name + suffix)
            )


@contextlib.contextmanager
def _kept_from_starting(home: Home) -> Iterator[bool]:
    """Keep a node from starting meanwhile, without changing the lock file; False when one runs."""
    try:
        descriptor = os.open(home.lock_path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Nothing ever opened this home.
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            is_stopped = True
        except OSError:
            if not home.is_locked_by_node():
                raise NodeError(
                    f"another radmesh process is using {home.path}",
                    hint="wait until it is done",
                    code=ExitCode.BUSY,
                ) from None
            is_stopped = False
        yield is_stopped
    finally:
        os.close(descriptor)
