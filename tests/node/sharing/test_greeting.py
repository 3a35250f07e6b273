"""The hello with a peer that does not keep to it."""

from pathlib import Path

import pytest
import trio
from network_nodes import ALICE, BOB, LOOPBACK, until

from keys.fingerprint import fingerprint
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.home import Home
from node.network.bounds import NetworkLimits
from node.network.messaging import MessageStream
from node.network.network import Network
from node.network.streams import PeerStream
from node.sharing.greeting import Greeting
from protocol import messages
from protocol.messages import Hello

pytestmark = pytest.mark.integration


async def test_a_peer_that_does_not_end_its_half_keeps_no_stream(tmp_path: Path) -> None:
    with (
        Node.open(Home.create(tmp_path / "north", name="North")) as north,
        Node.open(Home.create(tmp_path / "south", name="South")) as south,
    ):
        card = south.card
        peer = north.peers.add(
            card.encoded, fingerprint(card.facility_key), [], "", SYSTEM_CLOCK.now()
        )

        async def answer_and_stay(stream: PeerStream) -> None:
            channel = MessageStream(stream)
            await channel.receive_untrusted()
            await channel.send(
                Hello(versions=(messages.PROTOCOL_VERSION,), software="x", card=card.encoded)
            )
            await trio.sleep_forever()

        bad = Network(
            BOB,
            listen=[LOOPBACK],
            is_trusted=lambda _: True,
            handlers={messages.HELLO_PROTOCOL: answer_and_stay},
        )
        good = Network(
            ALICE,
            listen=[],
            is_trusted=lambda _: True,
            handlers={},
            limits=NetworkLimits(linger_seconds=0.1),
        )
        greeting = Greeting(
            north.peers,
            lambda: north.card,
            lambda key: good.open_stream(key, messages.HELLO_PROTOCOL),
            clock=SYSTEM_CLOCK,
            budgets=north.budgets,
        )
        async with bad.running(), good.running():
            await good.connect(BOB.public, bad.addresses)
            streams = good._connections[BOB.public][0]._muxer.streams
            for _ in range(3):
                await greeting.greet(BOB.public, peer)
            await until(lambda: not streams, seconds=3)
