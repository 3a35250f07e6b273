"""Derives rights from the logs of a simulation, and compares what is sent with them.

This is an independent check: rights are derived from the entries alone, by code that shares
nothing with the node's own tables. The check is made at the moment of sending.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import protocol.messages
from node.app import Node
from node.audit.log import AuditLog
from node.transfer.sessions import StudyStream
from protocol.log.entry import Event, decode_entry_untrusted
from protocol.messages import Announcement
from protocol.source import SourceTransfer

GRACE_SECONDS = 1.0
"""Data may still be sent for this long after the entry that ends the right: the threat model
promises a second."""

NOTHING = Event(type="stop")
"""An entry that changes no right."""


@dataclass
class Rights:
    """The rights recorded in one log, entry by entry.

    Attributes:
        grants: peer (facility key) to its grants; only trusted peers are in it.
        shared: study (UID) that was here to whether it is shared.
        announced: how often a study was announced to a peer.
        begun: transfers (hex) whose disclosure has begun.
        denied: peer to the number and action of each rule that denies it something.
        objections: number to the peer that an objection is against, b"" for all.
        lost: when a peer lost a right, or all peers a study, seconds of the simulation.
    """

    grants: dict[bytes, set[str]] = field(default_factory=dict)
    shared: dict[str, bool] = field(default_factory=dict)
    announced: dict[tuple[bytes, str], int] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    denied: dict[bytes, dict[int, str]] = field(default_factory=dict)
    objections: dict[int, bytes] = field(default_factory=dict)
    lost: dict[Any, float] = field(default_factory=dict)
    _events: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, node: Node, lost: dict[Any, float]) -> "Rights":
        """The rights recorded in a node's whole log."""
        rights = cls(lost=lost)
        for encoded in node.audit.entries():
            entry = decode_entry_untrusted(encoded)
            opened = [node.audit.opening_of(commitment) for _, commitment in entry.subjects]
            subjects = tuple((one.kind, one.value) for one in opened if one is not None)
            event = Event(
                type=entry.type,
                peer=entry.peer,
                outcome=entry.outcome,
                subjects=subjects,
                details=entry.details,
            )
            rights.add(entry.index, event, None)
        return rights

    def add(self, index: int, event: Event, now: float | None) -> None:
        """Take one more entry; `now` is the time if it is being written at this moment."""
        if index != len(self._events):
            # The missing entries were never acknowledged, since their writer was killed.
            self._events[index:] = [NOTHING] * (index - len(self._events))
        self._events.append(event)
        if event.outcome == "failed" and "of" in event.details:
            failed = int(event.details["of"])
            self._events[failed] = NOTHING
            again = Rights(lost=self.lost)
            for at, one in enumerate(self._events[:-1]):
                again.add(at, one, None)
            self.grants, self.shared = again.grants, again.shared
            self.denied, self.objections = again.denied, again.objections
            return
        self._fold(event, now)

    def _fold(self, event: Event, now: float | None) -> None:
        peer = event.peer or b""
        named = set(filter(None, str(event.details.get("grants", "")).split(",")))
        studies = [value for kind, value in event.subjects if kind == "study"]
        match event.type:
            case "trust-added" | "trust-granted":
                self.grants.setdefault(peer, set()).update(named)
            case "trust-ungranted":
                self.grants.get(peer, set()).difference_update(named)
                self._lose(now, *((peer, grant) for grant in named))
            case "trust-revoked":
                self.grants.pop(peer, None)
                self.denied.pop(peer, None)
                self._lose(now, (peer, "see"), (peer, "fetch"))
            case "rule-added":
                denied = json.loads(str(event.details["rule"]))
                self.denied.setdefault(peer, {})[denied["number"]] = denied["action"]
                self._lose(now, (peer, denied["action"]))
            case "rule-removed":
                self.denied.get(peer, {}).pop(int(event.details["number"]), None)
            case "objection-added":
                self.objections[int(event.details["number"])] = peer
                self._lose(now, ("objection", peer))
            case "objection-ended":
                self.objections.pop(int(event.details["number"]), None)
            case "ingest":
                for study in studies:
                    self.shared.setdefault(study, True)
            case "received":
                for study in studies:
                    self.shared.setdefault(study, False)
            case "shared" | "withdrawn":
                for study in studies:
                    self.shared[study] = event.type == "shared"
                    if event.type == "withdrawn":
                        self._lose(now, study)
            case "discarded":
                for study in studies:
                    self.shared.pop(study, None)
                    self._lose(now, study)
            case "announced":
                for study in studies:
                    told = self.announced.get((peer, study), 0)
                    self.announced[peer, study] = told + 1
            case "disclosure-begun":
                self.begun.add(str(event.details["transfer"]))

    def _lose(self, now: float | None, *what: Any) -> None:
        if now is not None:
            self.lost.update(dict.fromkeys(what, now))

    def may(self, peer: bytes, grant: str, study: str, now: float) -> bool:
        """Whether the grant lets a peer have a study now, or did a moment ago."""
        since = now - GRACE_SECONDS

        def held(*what: Any) -> bool:
            return any(self.lost.get(one, -1e9) > since for one in what)

        holds = self._has(peer, grant) or held((peer, grant), (peer, "see"))
        if self._is_objected(peer) and not held(("objection", peer), ("objection", b"")):
            return False
        return holds and (self.shared.get(study, False) or self.lost.get(study, -1e9) > since)

    def _has(self, peer: bytes, grant: str) -> bool:
        needed = {"see", "fetch"} if grant == "fetch" else {grant}
        denied = set(self.denied.get(peer, {}).values())
        return grant in self.grants.get(peer, ()) and not needed & denied

    def _is_objected(self, peer: bytes) -> bool:
        return any(one in (b"", peer) for one in self.objections.values())

    def visible(self, peer: bytes) -> set[str]:
        """The studies (UIDs) that a peer may know of."""
        if not self._has(peer, "see") or self._is_objected(peer):
            return set()
        return {study for study, shared in self.shared.items() if shared}


@dataclass(frozen=True)
class Watch:
    """Callbacks for entries and for what is sent.

    Attributes:
        entries: called with the path of the log's home, the first index, and the events.
        announced: called with the signing key and the announcement.
        offered: called with the sending end, at each offer and batch.
    """

    entries: Callable[[AuditLog, int, list[Event]], None]
    announced: Callable[[Any, Announcement], None]
    sent: Callable[[SourceTransfer, str], None]

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Watch the product's calls inside this block."""
        append_many, sign = AuditLog.append_many, protocol.messages.sign
        offer, bulk = SourceTransfer.offer_manifest, StudyStream.send_bulk
        watch = self

        def append(log: AuditLog, events: Any) -> range:
            indexes = append_many(log, events)
            watch.entries(log, indexes[0], list(events))
            return indexes

        def signed(message: Any, key: Any) -> Any:
            if isinstance(message, Announcement):
                watch.announced(key, message)
            return sign(message, key)

        def offered(end: SourceTransfer, *arguments: Any, **named: Any) -> Any:
            watch.sent(end, "offer")
            return offer(end, *arguments, **named)

        async def sending(stream: StudyStream, make_frame: Any, place: Any) -> None:
            def made() -> bytes:
                watch.sent(stream._end, "batch")  # type: ignore[arg-type]
                return make_frame()  # type: ignore[no-any-return]

            await bulk(stream, made, place)

        AuditLog.append_many = append  # type: ignore[method-assign]
        protocol.messages.sign = signed
        SourceTransfer.offer_manifest = offered  # type: ignore[method-assign]
        StudyStream.send_bulk = sending  # type: ignore[method-assign]
        try:
            yield
        finally:
            AuditLog.append_many = append_many  # type: ignore[method-assign]
            protocol.messages.sign = sign
            SourceTransfer.offer_manifest = offer  # type: ignore[method-assign]
            StudyStream.send_bulk = bulk  # type: ignore[method-assign]
