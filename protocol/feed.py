"""Announcements: what a peer is told next, and what a subscriber makes of it.

A feed belongs to one peer. Each study that the peer may know of, or was told
of, has one place in it, which moves to the end when there is news; so catching
up costs as much as has changed, whatever the size of the catalog.

`next_state` decides for one study; `Subscription` checks what arrives. Neither
knows where feeds are stored.
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
    """It is, but the peer has not been told yet."""
    TOLD = "told"
    WITHDRAWN = "withdrawn"


class Change(enum.Enum):
    """What happens to a study's place in a feed."""

    NONE = "none"
    AVAILABLE = "available"
    CHANGED = "changed"
    WITHDRAWN = "withdrawn"
    FORGET = "forget"
    """Drop it: the peer never learned of the study, and now must not."""


def next_change(told: Told, *, visible: bool, same_content: bool, recalled: bool = False) -> Change:
    """What a study's present state means for a peer's feed.

    Args:
        told: what the feed holds.
        visible: whether the peer may know of the study now.
        same_content: whether the feed's record still describes the study.
        recalled: whether something of it was recalled since that record.
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
    """Whether an offer keeps to what its source announced of the study.

    A study may have grown since: then it offers more, and the news is on its way.

    Raises:
        RemoteProtocolError: the same content is of another size than was announced.
    """
    offered = (offer.series, offer.instances, offer.bytes)
    announced = (record.series, record.instances, record.bytes)
    if offer.content_root == record.content_root:
        if offered != announced:
            raise RemoteProtocolError("the offer has other counts than were announced")
        return True
    return all(one <= most for one, most in zip(offered, announced, strict=True))


@dataclass
class Subscription:
    """The subscriber's end: where it stands in a peer's feed.

    Attributes:
        own_node: our node key; announcements for others are refused.
        epoch: of the feed; a feed with another epoch starts anew.
        cursor: the last sequence that was taken.
    """

    own_node: bytes
    epoch: bytes = field(default=NO_EPOCH)
    cursor: int = 0

    def take_untrusted(self, announcement: Announcement) -> None:
        """Check an announcement and move on.

        Raises:
            RemoteProtocolError: it is for somebody else, of another epoch without a
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
