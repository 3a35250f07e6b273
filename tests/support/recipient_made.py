"""A recipient played by the test, against the real sender, over a stream in memory."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import exchange_pair
import trio
from facility_in_memory import Other, sender_of
from streams_made import stream_pair

from node.app import Node
from node.network.streams import PeerStream, StreamLost
from node.transfer.sending import Sender
from protocol.errors import WireCode
from protocol.receipt import Receipt
from protocol.recipient import RecipientTransfer
from protocol.transfer import BatchArrived, Ended, Event, ManifestArrived, Refused

Step = Callable[[RecipientTransfer, PeerStream], Awaitable[None]]


class RecipientMade:
    """Requests the study of `exchange_pair` and receives it.

    Args:
        node: the source.
        other: the requesting facility.
        at: event type to an additional action on that event, before it continues.
        receipt: changed fields of its receipt.
        ask: further fields of its request.
        purpose: the purpose of the request.
        transfer: the name of the transfer.

    Attributes:
        told: events from the source.
        end: the recipient's end of the transfer.
    """

    def __init__(
        self,
        node: Node,
        other: Other,
        *,
        at: Mapping[type[Event], Step] | None = None,
        receipt: Mapping[str, Any] | None = None,
        ask: Mapping[str, Any] | None = None,
        purpose: str = "treatment",
        transfer: bytes = exchange_pair.TRANSFER,
    ) -> None:
        self._node, self._other = node, other
        self._at, self._changes, self._ask = at or {}, receipt or {}, ask or {}
        self._purpose = purpose
        self.told: list[Event] = []
        self.end = RecipientTransfer(other.node, node.keys.node.public, transfer)
        self.ours, self.theirs = stream_pair(node.keys.node.public, other.node.public)

    @property
    def refused(self) -> WireCode | None:
        """The code with which the source ended the transfer."""
        codes = [event.code for event in self.told if isinstance(event, Refused)]
        return codes[0] if codes else None

    def heard(self, kind: type[Event]) -> bool:
        """Whether the source sent an event of this kind."""
        return any(isinstance(event, kind) for event in self.told)

    async def fetch(self, sender: Sender | None = None) -> None:
        """Run one session until both ends have finished it."""
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon((sender or sender_of(self._node)).serve, self.ours)
                try:
                    await self._fetch()
                except StreamLost:
                    await self.theirs.reset()

    async def _fetch(self) -> None:
        request = {"whole": True, "time_ms": self._node.clock.now_ms()} | dict(self._ask)
        asked = self.end.ask(exchange_pair.STUDY, self._purpose, **request)
        await self.theirs.write(asked, timeout_seconds=20)
        while True:
            data = await self.theirs.read(timeout_seconds=20)
            for event in self.end.receive_untrusted(data):
                self.told.append(event)
                await self._take(event)

    async def _take(self, event: Event) -> None:
        if isinstance(event, ManifestArrived):
            self.end.open_manifest()
        if type(event) in self._at:
            await self._at[type(event)](self.end, self.theirs)
        if isinstance(event, BatchArrived):
            self.end.open_batch(event)
            credit = self.end.credit(len(event.sealed))
            await self.theirs.write(credit, timeout_seconds=20)
        elif isinstance(event, Ended):
            signed = self.end.sign_receipt(self.receipt())
            await self.theirs.write(signed, timeout_seconds=20)
        elif isinstance(event, Refused):
            await self.theirs.close()

    def receipt(self) -> Receipt:
        """The receipt for what has come."""
        assert self.end.offer is not None
        assert self.end.manifest is not None
        fields: dict[str, Any] = {
            "transfer": exchange_pair.TRANSFER,
            "source_facility": self._node.card.facility_key,
            "recipient_facility": self._other.key,
            "source_node": self._node.keys.node.public,
            "recipient_node": self._other.node.public,
            "manifest": self.end.offer.manifest,
            "content_root": self.end.manifest.content_root,
            "instances": len(self.end.manifest.instances),
            "bytes": self.end.manifest.total_original_bytes,
            "batches": len(self.end.asked),
            "encoded_bytes": self.end.asked_encoded_bytes,
            "purpose": self._purpose,
            "time": self._node.clock.now_ms(),
            "status": "received",
        }
        return Receipt(**{**fields, **self._changes})
