"""A session of the source, with a recipient that the test plays over a stream in memory."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import exchange_pair
import pytest
import trio
from facility_in_memory import sender_of
from streams_made import stream_pair
from studies_made import make_instance

from node.app import Node
from node.catalog.catalog import LOCAL
from node.clock import SYSTEM_CLOCK
from node.dicom.studies import read_header
from node.home import Home
from protocol import encoding
from protocol.recipient import RecipientTransfer
from protocol.transfer import BatchArrived, ManifestArrived

TRANSFER = exchange_pair.TRANSFER


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    """A node with one shared study."""
    contents = []
    for number in (1, 2, 3):
        buffer = BytesIO()
        instance = make_instance(exchange_pair.STUDY, number, rows=16)
        instance.save_as(buffer, enforce_file_format=True)
        contents.append(buffer.getvalue())
    study = exchange_pair.make_study(contents, batch_bytes=len(contents[0]))
    with Node.open(Home.create(tmp_path / "north", name="North")) as node:
        node.store.put_many(study.encoded)
        header = read_header(encoding.decode_untrusted(study.encoded[0]))
        node.catalog.publish(study.manifest, {0: header}, origin=LOCAL, shared=True)
        yield node


def _types(node: Node) -> list[str]:
    return [json.loads(entry)["type"] for entry in node.audit.entries()]


async def test_a_session_is_under_way_from_before_its_beginning_is_logged_to_its_logged_end(
    north: Node, tmp_path: Path
) -> None:
    south = Home.create(tmp_path / "south", name="South")
    card, key = south.read_card(), south.read_keys().node
    peer = north.peers.add(
        card.encoded,
        confirmed=card.fingerprint,
        grants=("see", "fetch"),
        petname="",
        now=SYSTEM_CLOCK.now(),
    )
    under_way: list[tuple[str, bool]] = []

    def append(events: object) -> object:
        written = north.audit.append_many(events)  # type: ignore[arg-type]
        is_under_way = north.transfers.is_under_way(peer.facility_key, TRANSFER, outgoing=True)
        under_way.extend((event.type, is_under_way) for event in events)  # type: ignore[attr-defined]
        return written

    sender = sender_of(north)
    sender.append = append
    ours, theirs = stream_pair(north.keys.node.public, key.public)
    end = RecipientTransfer(key, north.keys.node.public, TRANSFER)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.serve, ours)
            asked = end.ask(
                exchange_pair.STUDY, "treatment", time_ms=SYSTEM_CLOCK.now_ms(), whole=True
            )
            await theirs.write(asked, timeout_seconds=20)
            data = await theirs.read(timeout_seconds=20)
            # Not a byte came before the entry.
            assert _types(north)[-1] == "disclosure-begun"
            events = end.receive_untrusted(data)
            while not any(isinstance(event, ManifestArrived) for event in events):
                events += end.receive_untrusted(await theirs.read(timeout_seconds=20))
            end.open_manifest()
            while not any(isinstance(event, BatchArrived) for event in events):
                events += end.receive_untrusted(await theirs.read(timeout_seconds=20))
            await theirs.reset()
    assert under_way == [
        ("requested", True),
        ("disclosure-begun", True),
        ("disclosure-failed", True),
    ]
    assert not north.transfers.is_under_way(peer.facility_key, TRANSFER, outgoing=True)
