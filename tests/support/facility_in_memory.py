"""A node without its network, with peers whose keys the test has, for in-process tests."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import exchange_pair
import trio
from clocks_made import jumps_when_idle
from streams_made import stream_pair
from studies_made import make_instance

from keys.card import Card, issue_card
from keys.identity import KeyPair
from keys.trust import Peer
from node import parts
from node.app import Node
from node.catalog.catalog import LOCAL
from node.clock import Clock
from node.dicom.studies import read_header
from node.network.messaging import MessageStream
from node.network.network import StreamLost
from node.sharing.announcer import Announcer
from node.transfer.fetching import Fetcher
from node.transfer.sending import Sender
from node.transfer.source_worker import Reach
from node.transfer.uplink import Uplink
from protocol import encoding, messages
from protocol.messages import Announcement, Record, Signed, Subscribe

YEAR = 365 * 24 * 3600


class Other:
    """Another facility that consists only of keys and a card."""

    def __init__(self, name: str, now: int, *, expires: int | None = None) -> None:
        self.name = name
        self.facility, self.node, self.log, self.witness = (
            KeyPair.from_seed(f"{role} of {name}".encode().ljust(32)[:32])
            for role in ("facility", "node", "log", "witness")
        )
        self.card: Card = issue_card(
            self.facility,
            name=name,
            node_key=self.node.public,
            log_key=self.log.public,
            witness_key=self.witness.public,
            addresses=(),
            serial=1,
            issued=now - 60,
            expires=now + YEAR if expires is None else expires,
        )

    @property
    def key(self) -> bytes:
        """Its facility key."""
        return self.facility.public

    def pair(self, node: Node, *grants: str) -> Peer:
        """Have a node trust it."""
        return node.peers.add(
            self.card.encoded, self.card.fingerprint, grants, "", node.clock.now()
        )


def publish_study(node: Node, study: str = exchange_pair.STUDY, instances: int = 12) -> str:
    """A shared study of small instances, one batch each; its UID."""
    contents = []
    for number in range(1, instances + 1):
        buffer = BytesIO()
        make_instance(exchange_pair.STUDY, number, rows=16).save_as(
            buffer, enforce_file_format=True
        )
        contents.append(buffer.getvalue())
    made = exchange_pair.make_study(contents, batch_bytes=len(contents[0]))
    node.store.put_many(made.encoded)
    header = read_header(encoding.decode_untrusted(made.encoded[0]))
    node.catalog.publish(made.manifest, {0: header}, origin=LOCAL, shared=True)
    return exchange_pair.STUDY


def share_row(node: Node, study: str, date: str = "") -> None:
    """A shared study as an ingest of an older release may have left it."""
    node.database.transact(
        lambda connection: connection.execute(
            "INSERT INTO studies VALUES (?,'','','','','','',?,'','','','',1,'local',0,1,"
            "zeroblob(32),1,1,10,10,'CT','','','')",
            (study, date),
        )
    )
    node.feeds.study_changed(study)


def entries(node: Node, *kinds: str) -> list[dict[str, Any]]:
    """Entries of the log of these types, or all."""
    found = [json.loads(entry) for entry in node.audit.entries()]
    return [entry for entry in found if not kinds or entry["type"] in kinds]


def sender_of(node: Node) -> Sender:
    """The sender as a serving node has it."""
    return parts.sender_of(node, Uplink(), node.audit.add_receipt)


async def _never(_: bytes) -> Any:
    await trio.sleep_forever()


def waiting_fetcher(node: Node) -> Fetcher:
    """A fetcher whose peers never come."""
    receiver: Any = None
    return parts.fetcher_of(
        node,
        receiver,
        Reach(
            find=node.find_peer,
            open_stream=_never,
            wait_connected=_never,
            is_connected=lambda key: False,
            why_away=lambda peer: "the peer hung up: it may not trust this node yet",
        ),
    )


def told_to(node: Node, other: Other, announcer: Announcer | None = None) -> list[Record]:
    """What the real announcer tells a new subscriber until it has nothing more to say."""
    found: list[Record] = []
    speaker = announcer or parts.announcer_of(node)

    async def main() -> None:
        ours, theirs = stream_pair(node.keys.node.public, other.node.public)
        channel = MessageStream(theirs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speaker.serve, ours)
            await channel.send(Subscribe(epoch=bytes(16), cursor=0))
            while True:
                try:
                    message = await channel.receive_untrusted(timeout_seconds=60)
                except StreamLost:
                    break
                if not isinstance(message, Signed):
                    break
                announcement = messages.open_signed_untrusted(
                    message, Announcement, node.keys.node.public
                )
                found.extend(announcement.records)
            nursery.cancel_scope.cancel()

    # All announcements come at once; the heartbeat shows that there are no more.
    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        trio.run(main, clock=clock)
    return found


def available(records: list[Record]) -> set[str]:
    """The studies (UIDs) that records announce as available."""
    return {record.study for record in records if record.kind != "withdrawn"}


def clock_of(node: Node) -> Clock:
    """The clock of a node."""
    return node.clock


def open_node(path: Path) -> Node:
    """Open a home and do what a serving node does at its start."""
    from node.home import Home

    node = Node.open(Home(path))
    node.clean_up()
    return node
