"""Two nodes in this process that trust each other; one fetches from the other in memory."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import trio
from facility_in_memory import sender_of
from streams_made import stream_pair

from node.app import Node
from node.errors import NodeError
from node.home import Home
from node.transfer.receiving import Receiver
from node.transfer.sessions import TransferRefused
from node.transfer.study_download import Destination, StudyDownload


class TwoNodes:
    """North, whose studies South may see and fetch."""

    def __init__(self, north: Node, south: Node) -> None:
        self.north = north
        self.south = south
        now = north.clock.now()
        self._source = south.peers.add(north.card.encoded, north.card.fingerprint, (), "", now)
        north.peers.add(south.card.encoded, south.card.fingerprint, ("see", "fetch"), "", now)

    def fetch(self, study: str, purpose: str = "research", reason: str = "") -> bool:
        """Have South fetch a study (UID) with the real sender and receiver; whether it came."""
        error = trio.run(self._fetch, study, purpose, None, reason)
        if isinstance(error, NodeError):
            raise error
        return error is None

    def follow_up(self, study: str, is_followed: Callable[[str, bytes], bool]) -> NodeError | None:
        """Have South fetch by itself what has grown at North; why that ended, if it did.

        Args:
            study: its UID.
            is_followed: whether it still is, each time that South looks.
        """
        error = trio.run(self._fetch, study, "research", is_followed)
        if isinstance(error, TransferRefused):
            raise error
        return error

    async def _fetch(
        self,
        study: str,
        purpose: str,
        is_followed: Callable[[str, bytes], bool] | None = None,
        reason: str = "",
    ) -> NodeError | TransferRefused | None:
        south, north = self.south, self.north
        transfer = south.transfers.begin_incoming(
            study,
            self._source.facility_key,
            purpose,
            only_peer=True,
            stat=False,
            follow_up=is_followed is not None,
            reason=reason,
        )
        destination = Destination(
            catalog=south.catalog,
            incoming=south.incoming,
            append=south.audit.append_many,
            transfers=south.transfers,
            free_bytes=south.free_bytes,
            require_room=lambda: None,
            is_followed=is_followed or (lambda study, peer: True),
        )
        receiver = Receiver(
            key=south.keys.node,
            facility_key=south.card.facility_key,
            append=south.audit.append_many,
            add_receipt=south.audit.add_receipt,
            exchanging=lambda receipt: contextlib.nullcontext(),
            announced=lambda peer, study: None,
            clock=south.clock,
            emergencies=south.emergencies,
        )
        ours, theirs = stream_pair(south.keys.node.public, north.keys.node.public)
        download = StudyDownload(destination, transfer, several=False)
        contribution = south.transfers.contribution(transfer, self._source.facility_key)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender_of(north).serve, theirs)
                try:
                    await receiver.receive(ours, download, contribution, self._source)
                except (NodeError, TransferRefused) as error:
                    await ours.reset()
                    return error
        return None


@contextlib.contextmanager
def two_nodes(directory: Path) -> Iterator[TwoNodes]:
    """North and South, with homes in a directory."""
    homes = [Home.create(directory / name.lower(), name=name) for name in ("North", "South")]
    with Node.open(homes[0]) as north, Node.open(homes[1]) as south:
        yield TwoNodes(north, south)
