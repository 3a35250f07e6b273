"""Derives rights from the logs of a simulation, and compares what is sent with them.

This is an independent check: rights are derived from the entries alone, by code that shares
nothing with the node's own tables. The check is made at the moment of sending.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from simulated_rules import (
    BREAK_GLASS,
    Asked,
    Begun,
    Standing,
    Verdict,
    asker_in,
    used_of,
)

import protocol.messages
from node.app import Node
from node.audit.log import AuditLog
from node.transfer.sessions import StudyStream
from protocol.log.entry import Event, decode_entry_untrusted
from protocol.messages import Announcement
from protocol.source import SourceTransfer

Wall = Callable[[float], int]

GRACE_SECONDS = 1.0
"""Data may still be sent for this long after the entry that ends the right: the threat model
promises a second."""

NOTHING = Event(type="stop")
"""An entry that changes no right."""


class Rights:
    """The rights recorded in one log, entry by entry.

    Args:
        standing: the settings of the facility, without any entry.

    Attributes:
        standing: all that decides, up to the last entry.
        announced: how often a study was announced to a peer.
        begun: transfers (hex) whose disclosure has begun.
        disclosures: all disclosures that have begun, in their order.
        glass: direction and transfer (hex) of each emergency access that the log names.
        offered: peer to the studies (UIDs) that it was ever offered, and for which purpose.
        digests: peer to each digest of its rights so far.
        named: peer and digest of its rights, as a disclosure names it.
    """

    def __init__(self, standing: Standing) -> None:
        self.standing = standing.copy()
        self.announced: dict[tuple[bytes, str], int] = {}
        self.begun: set[str] = set()
        self.disclosures: list[Begun] = []
        self.glass: set[tuple[str, str]] = set()
        self.offered: dict[bytes, dict[str, str]] = {}
        self.digests: dict[bytes, set[str]] = {}
        self.named: list[tuple[bytes, str]] = []
        self._initial = standing
        self._askers: dict[str, str] = {}
        self._events: list[tuple[Event, int]] = []
        self._past: list[tuple[float, Standing]] = []

    @classmethod
    def of(cls, node: Node, standing: Standing) -> "Rights":
        """The rights recorded in a node's whole log; `standing` as above."""
        rights = cls(standing)
        for encoded in node.audit.entries():
            entry = decode_entry_untrusted(encoded)
            opened = [node.audit.opening_of(commitment) for _, commitment in entry.subjects]
            subjects = tuple((one.kind, one.value) for one in opened if one is not None)
            event = Event(
                type=entry.type,
                peer=entry.peer,
                purpose=entry.purpose,
                outcome=entry.outcome,
                subjects=subjects,
                details=entry.details,
            )
            rights.add(entry.index, event, entry.time_ms, None)
        return rights

    def add(self, index: int, event: Event, time_ms: int, now: float | None) -> None:
        """Take one more entry.

        Args:
            index: its place in the log.
            event: what it says.
            time_ms: its time by the wall clock.
            now: the time of the simulation if it is being written at this moment.
        """
        if index != len(self._events):
            # The missing entries were never acknowledged, since their writer was killed.
            self._events[index:] = [(NOTHING, 0)] * (index - len(self._events))
        self._events.append((event, time_ms))
        if now is not None:
            self._past = [one for one in self._past if one[0] > now - GRACE_SECONDS]
            self._past.append((now, self.standing.copy()))
        if event.outcome == "failed" and "of" in event.details:
            self._events[int(event.details["of"])] = self._events[-1] = (NOTHING, 0)
            self.standing = self._initial.copy()
            for one, time_then in self._events:
                self.standing.take(one, time_then)
            return
        self.standing.take(event, time_ms)
        self._note(event, time_ms)

    def _note(self, event: Event, time_ms: int) -> None:
        """Note what no later entry takes back."""
        peer, details = event.peer or b"", event.details
        studies = [value for kind, value in event.subjects if kind == "study"]
        for one in {peer, *self.standing.grants}:
            self.digests.setdefault(one, set()).add(self.standing.digest(one))
        match event.type:
            case "announced":
                for study in studies:
                    told = self.announced.get((peer, study), 0)
                    self.announced[peer, study] = told + 1
            case "requested" if details["direction"] == "out":
                self._askers[str(details["transfer"])] = asker_in(event)
            case "disclosure-begun":
                self.begun.add(str(details["transfer"]))
                self.named.append((peer, str(details.get("rights", ""))))
                size = int(details["bytes"])
                self.disclosures.append(Begun(time_ms, peer, studies[0], size, event.purpose))
            case "offered":
                self.offered.setdefault(peer, {})[studies[0]] = event.purpose
            case "emergency-begun":
                self.glass.add((str(details["direction"]), str(details["transfer"])))

    def beginning(self, event: Event, time_ms: int) -> Verdict:
        """The verdict on a disclosure whose first entry this is, at its place in the log.

        There is no grace: what ends a right is written after all that rests on it.
        """
        [study] = [value for kind, value in event.subjects if kind == "study"]
        transfer, now = str(event.details["transfer"]), time_ms // 1000
        assert event.peer is not None
        if event.purpose == BREAK_GLASS:
            if self.standing.rest_of(event.peer, transfer, now):
                return Verdict("no", "emergency access rests")
            if ("out", transfer) not in self.glass:
                return Verdict("no", "its log names no emergency")
        asked = Asked(study, event.purpose, transfer, self._askers.get(transfer, ""))
        return self.decide(event.peer, asked, int(event.details["bytes"]), now)

    def decide(self, peer: bytes, asked: Asked, size: int, now: int) -> Verdict:
        """Whether a peer may have a study of this size now (seconds since the epoch)."""
        used = used_of(self.disclosures, peer, asked, size, now)
        return self.standing.decide(peer, asked, used, now)

    def going_on(self, peer: bytes, asked: Asked, now: float, wall: Wall) -> Verdict:
        """Whether a peer may have what has begun, or might a moment ago.

        Args:
            peer: its facility key.
            asked: what it asked for.
            now: the time of the simulation.
            wall: gives the wall clock's seconds at a time of the simulation.
        """
        verdict = Verdict("no")
        for standing, then in self._lately(now):
            used = used_of(self.disclosures, peer, asked, 0, wall(then))
            verdict = standing.decide(peer, asked, used, wall(then))
            if verdict.kind == "yes":
                break
        return verdict

    def sees(self, peer: bytes, study: str, now: float, wall: Wall) -> bool:
        """Whether a peer may be told of a study, or might a moment ago; as `going_on`."""
        return any(standing.sees(peer, study, wall(then)) for standing, then in self._lately(now))

    def _lately(self, now: float) -> Iterator[tuple[Standing, float]]:
        """What decided in the last moment, and when; what decides now comes last."""
        yield from ((one, ended) for ended, one in self._past if ended > now - GRACE_SECONDS)
        yield self.standing, now - GRACE_SECONDS
        yield self.standing, now

    def visible(self, peer: bytes, now: int) -> set[str]:
        """The studies (UIDs) that a peer may know of now (seconds since the epoch)."""
        return {one for one in self.standing.shared if self.standing.sees(peer, one, now)}


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
