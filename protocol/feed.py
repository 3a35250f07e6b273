"""Announcements: what to tell a peer next, and how a subscriber checks it.

A feed belongs to one peer. Each study that the peer may know of, or was told of, has one
place in the feed, which moves to the end when there is news. So catching up costs as much
as has changed, whatever the size of the catalog.

`next_change` decides for one study; `Subscription` checks the announcements that arrive.
Neither knows where feeds are stored.
"""

import enum
from dataclasses import dataclass, field

from protocol.errors import RemoteProtocolError
from protocol.messages import Announcement, Offer, Record

NO_EPOCH = bytes(16)


class Told(enum.Enum):
    """What one peer's feed holds about one study."""

    NOTHING = "nothing"
    """The study is not in the feed."""
    PENDING = "pending"
    """The study is in the feed, but the peer has not been told yet."""
    TOLD = "told"
    WITHDRAWN = "withdrawn"


class Change(enum.Enum):
    """What happens to a study's place in a feed."""

    NONE = "none"
    AVAILABLE = "available"
    CHANGED = "changed"
    WITHDRAWN = "withdrawn"
    FORGET = "forget"
    """Remove it: the peer never learned of the study, and must not learn of it now."""


def next_change(told: Told, *, visible: bool, same_content: bool, recalled: bool = False) -> Change:
    """The change to a peer's feed that a study's present state requires.

    Args:
        told: what the feed holds about the study.
        visible: whether the peer may know of the study now.
        same_content: whether the feed's record still describes the study.
        recalled: whether any part of it was recalled since that record.
    """
    if visible:
        if told in (Told.NOTHING, Told.WITHDRAWN):
            return Change.AVAILABLE
        if same_content:
            return Change.NONE
        return Change.CHANGED if told is Told.TOLD else Change.AVAILABLE
    if told is Told.TOLD or (told is Told.WITHDRAWN and recalled):
        return Change.WITHDRAWN
    return Change.FORGET if told is Told.PENDING else Change.NONE


def is_announced_untrusted(offer: Offer, record: Record) -> bool:
    """Whether an offer stays within what its source announced about the study.

    If the study has grown since, the offer has more, and the next announcement is on its way. Of a
    study that is indexed nothing is promised: what is in it is known when it comes.

    Raises:
        RemoteProtocolError: the content is the same, but its size differs from the announced.
    """
    if record.indexed:
        return True
    offered = (offer.series, offer.instances, offer.bytes)
    announced = (record.series, record.instances, record.bytes)
    if offer.content_root == record.content_root:
        if offered != announced:
            raise RemoteProtocolError("the offer has other counts than were announced")
        return True
    return all(one <= most for one, most in zip(offered, announced, strict=True))


@dataclass
class Subscription:
    """The subscriber's end: its position in a peer's feed.

    Attributes:
        own_node: our node key; announcements for others are refused.
        epoch: the feed's epoch; a feed with another epoch starts anew.
        cursor: the last sequence number that was taken.
    """

    own_node: bytes
    epoch: bytes = field(default=NO_EPOCH)
    cursor: int = 0

    def take_untrusted(self, announcement: Announcement) -> None:
        """Check an announcement and advance the cursor.

        Raises:
            RemoteProtocolError: it is for another node, of another epoch without a
                reset, or not in order.
        """
        if announcement.recipient != self.own_node:
            raise RemoteProtocolError("the announcement is for another node")
        if announcement.reset:
            self.epoch = announcement.epoch
            self.cursor = 0
        elif announcement.epoch != self.epoch:
            raise RemoteProtocolError("the announcement is of another feed")
        last = self.cursor
        for record in announcement.records:
            if record.sequence <= last:
                raise RemoteProtocolError("the records are not in order")
            last = record.sequence
        if announcement.cursor < last:
            raise RemoteProtocolError("the cursor is before the records")
        self.cursor = announcement.cursor
