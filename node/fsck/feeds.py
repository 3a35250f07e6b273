"""Checks whether each peer's feed has all studies that the peer may see, and no others.

Reads only the tables. When a card or a trust ends by its date, the feed stays until the
node has noticed, so a feed is no finding when the card or trust of its peer has ended.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from keys.card import parse_card_untrusted
from keys.errors import KeysError
from node.fsck.findings import Finding


@dataclass(frozen=True)
class _Peer:
    name: str
    sees: bool
    is_dated_out: bool
    is_narrowed: bool


def check_feeds(connection: sqlite3.Connection, now: float) -> Iterator[Finding]:
    """Find what is wrong in the feeds; `now` in seconds since the epoch, UTC."""
    peers = {key: _peer(text, now) for key, text in connection.execute(
        "SELECT facility_key, state FROM peers"
    )}  # fmt: skip
    roots = dict(connection.execute("SELECT study_uid, content_root FROM studies"))
    shared = _shared_to(connection, peers)
    heads = dict(connection.execute("SELECT peer, last_sequence FROM feed_heads"))
    told: dict[bytes, set[str]] = {key: set() for key in peers}
    disordered = set()
    for key, study, sequence, kind, root in connection.execute(
        "SELECT peer, study, sequence, kind, content_root FROM feed ORDER BY peer, study"
    ):
        peer = peers.get(key)
        name = peer.name if peer is not None else key.hex()[:16]
        where = f"{name}: {study}"
        if sequence > heads.get(key, 0):
            disordered.add((key, name))
        if kind == "withdrawn":
            continue
        told.setdefault(key, set()).add(study)
        if peer is None or not (peer.sees or peer.is_dated_out):
            what = f"the feed of {name}, who may not see our studies, tells of study {study}"
            yield Finding("feed-not-allowed", where, what)
        elif study not in shared[key]:
            what = f"the feed of {name} tells of study {study}, which is not shared"
            yield Finding("feed-not-shared", where, what)
        elif root != roots[study]:
            what = f"the feed of {name} tells of an older content of study {study}"
            yield Finding("feed-outdated", where, what)
    for _, name in sorted(disordered):
        what = f"the feed of {name} has records behind its end"
        yield Finding("feed-order", name, what)
    objections = _has_objections(connection)
    for key, peer in peers.items():
        if peer.sees and not peer.is_dated_out and not peer.is_narrowed and not objections:
            for study in sorted(shared[key] - told[key]):
                what = f"the feed of {peer.name}, who may see, does not tell of study {study}"
                yield Finding("feed-missing", f"{peer.name}: {study}", what)


def _has_objections(connection: sqlite3.Connection) -> bool:
    """Whether any objection holds; a home of an earlier release has no table of them."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name='patient_wishes'").fetchall():
        return False
    wanted = "SELECT 1 FROM patient_wishes WHERE kind = 'objection' AND ended = 0 LIMIT 1"
    return bool(connection.execute(wanted).fetchall())


def _shared_to(connection: sqlite3.Connection, peers: Iterable[bytes]) -> dict[bytes, set[str]]:
    """The studies that are shared to each of these peers: to all, but for what holds for one."""
    to_all = {
        study for (study,) in connection.execute("SELECT study_uid FROM studies WHERE shared")
    }
    found = {key: set(to_all) for key in peers}
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'peer_sharing'"
    if connection.execute(known).fetchone() is None:
        # A home that this release has not opened yet.
        return found
    for study, key, effect, to_check in connection.execute(
        "SELECT study_uid, peer, effect, to_check FROM peer_sharing JOIN studies USING (study_uid)"
    ):
        if key not in found:
            continue
        if effect != "shared":
            found[key].discard(study)
        elif not to_check:
            found[key].add(study)
    return found


def _peer(text: str, now: float) -> _Peer:
    state = json.loads(text)
    expires = state["expires"]
    try:
        over = parse_card_untrusted(state["card"].encode()).expires <= now
    except KeysError:
        over = True
    rules = [rule for rule in state.get("rules", ()) if rule["action"] == "see"]
    allowing = any(rule["effect"] == "allow" for rule in rules)
    return _Peer(
        name=str(state["petname"]),
        sees=state["revoked"] is None and ("see" in state["grants"] or allowing),
        is_dated_out=over or (expires is not None and expires <= now),
        # What the rules decide for each study is not decided here again.
        is_narrowed=bool(state["filters"] or rules),
    )
