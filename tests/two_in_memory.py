"""Two nodes in this process that trust each other; one fetches from the other in memory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import trio
from facility_in_memory import sender_of
from streams_made import stream_pair

from node.app import Node
from node.home import Home
from node.transfer.gathering import Gathering, Shelves
from node.transfer.receiving import Receiver
from node.transfer.sessions import TransferRefused


class TwoNodes:
    """North, whose studies South may see and fetch."""

    def __init__(self, north: Node, south: Node) -> None:
        self.north = north
        self.south = south
        now = north.clock.now()
        self._source = south.peers.add(north.card.encoded, north.card.fingerprint, (), "", now)
        north.peers.add(south.card.encoded, south.card.fingerprint, ("see", "fetch"), "", now)

    def fetch(self, study: str, purpose: str = "research") -> bool:
        """Have South fetch a study (UID) with the real sender and receiver; whether it came."""
        return trio.run(self._fetch, study, purpose)

    async def _fetch(self, study: str, purpose: str) -> bool:
        south, north = self.south, self.north
        transfer = south.transfers.begin_incoming(
            study, self._source.facility_key, purpose, only_peer=True, stat=False
        )
        shelves = Shelves(
            catalog=south.catalog,
            incoming=south.incoming,
            append=south.audit.append_many,
            transfers=south.transfers,
            free_bytes=south.free_bytes,
        )
        receiver = Receiver(
            key=south.keys.node,
            facility_key=south.card.facility_key,
            append=south.audit.append_many,
            add_receipt=south.audit.add_receipt,
            exchanging=lambda receipt: contextlib.nullcontext(),
            announced=lambda peer, study: None,
            clock=south.clock,
        )
        ours, theirs = stream_pair(south.keys.node.public, north.keys.node.public)
        gathering = Gathering(shelves, transfer, several=False)
        contribution = south.transfers.contribution(transfer, self._source.facility_key)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender_of(north).serve, theirs)
                try:
                    await receiver.receive(ours, gathering, contribution, self._source)
                except TransferRefused:
                    return False
        return True


@contextlib.contextmanager
def two_nodes(directory: Path) -> Iterator[TwoNodes]:
    """North and South, with homes in a directory."""
    homes = [Home.create(directory / name.lower(), name=name) for name in ("North", "South")]
    with Node.open(homes[0]) as north, Node.open(homes[1]) as south:
        yield TwoNodes(north, south)
