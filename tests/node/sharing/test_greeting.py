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


@pytest.mark.parametrize("ahead_seconds", [None, 0, 90, -400])
async def test_a_peer_tells_its_release_and_its_clock(
    tmp_path: Path, ahead_seconds: int | None
) -> None:
    with (
        Node.open(Home.create(tmp_path / "north", name="North")) as north,
        Node.open(Home.create(tmp_path / "south", name="South")) as south,
    ):
        card = south.card
        peer = north.peers.add(
            card.encoded, fingerprint(card.facility_key), [], "", SYSTEM_CLOCK.now()
        )

        async def answer(stream: PeerStream) -> None:
            channel = MessageStream(stream)
            await channel.receive_untrusted()
            time = None
            if ahead_seconds is not None:
                time = SYSTEM_CLOCK.now_ms() + 1000 * ahead_seconds
            hello = Hello(
                versions=(messages.PROTOCOL_VERSION,), software="x 1", card=card.encoded, time=time
            )
            await channel.send(hello)
            await stream.close()

        bad = Network(
            BOB,
            listen=[LOOPBACK],
            is_trusted=lambda _: True,
            handlers={messages.HELLO_PROTOCOL: answer},
        )
        good = Network(ALICE, listen=[], is_trusted=lambda _: True, handlers={})
        greeting = Greeting(
            north.peers,
            lambda: north.card,
            lambda key: good.open_stream(key, messages.HELLO_PROTOCOL),
            clock=SYSTEM_CLOCK,
            budgets=north.budgets,
        )
        async with bad.running(), good.running():
            await good.connect(BOB.public, bad.addresses)
            said = await greeting.greet(BOB.public, peer)
            assert said.software == "x 1"
            if ahead_seconds is None:
                assert said.ahead_seconds is None
            else:
                assert said.ahead_seconds is not None
                # As exact as the round trip allows.
                off = abs(said.ahead_seconds - ahead_seconds)
                assert off <= said.round_trip_seconds / 2 + 0.01
            [address] = bad.addresses
            gone = address.rsplit("/", 1)[0] + "/1"
            assert await good.probe([address, gone]) == {
                address: "",
                gone: "127.0.0.1 port 1: connection refused",
            }
