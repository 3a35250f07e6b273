"""Many facilities in one process, each with its own network, connected to one node.

Run as a program it takes the node's address, its node key and a number of peers,
connects them all, and subscribes each to the node's announcements. It prints
"connected" when each of them stands at the end of its feed, and "told N" when each
has been told of N records since.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import trio
from places import ROOT

from keys.card import Card, issue_card
from keys.identity import KeyPair
from node.network.messaging import MessageStream
from node.network.network import Network, NetworkLimits, PeerStream, StreamLost
from protocol import limits, messages
from protocol.messages import Announcement, Heartbeat, Hello, Signed, Subscribe

_DIALLING = 4


def _key(number: int, role: str) -> KeyPair:
    return KeyPair.from_seed(f"{role} of peer {number}".encode().ljust(32)[:32])


def card(number: int) -> Card:
    """The card of peer `number`."""
    now = int(time.time())
    return issue_card(
        _key(number, "facility"),
        name=f"Peer {number}",
        node_key=_key(number, "node").public,
        log_key=_key(number, "log").public,
        witness_key=_key(number, "witness").public,
        addresses=(),
        serial=1,
        issued=now - 60,
        expires=now + 86_400,
    )


class _Peer:
    """One simulated facility."""

    def __init__(self, number: int, node_key: bytes, crowd: "_Crowd") -> None:
        self._card = card(number).encoded
        self._node_key = node_key
        self._crowd = crowd
        self.network = Network(
            _key(number, "node"),
            listen=(),
            is_trusted=lambda public: public == node_key,
            handlers={messages.HELLO_PROTOCOL: self._hello, messages.CATALOG_PROTOCOL: self._feed},
            limits=NetworkLimits(),
        )

    async def _hello(self, stream: PeerStream) -> None:
        channel = MessageStream(stream)
        await channel.receive_untrusted()
        await channel.send(Hello(versions=(1,), software="simulated", card=self._card))

    async def _feed(self, stream: PeerStream) -> None:
        """We announce nothing."""
        channel = MessageStream(stream)
        await channel.receive_untrusted()
        while True:
            await trio.sleep(limits.HEARTBEAT_SECONDS)
            await channel.send(Heartbeat())

    async def run(self, address: str, dialling: trio.CapacityLimiter) -> None:
        async with self.network.running():
            async with dialling:
                await self.network.connect(self._node_key, [address])
            stream = await self.network.open_stream(self._node_key, messages.CATALOG_PROTOCOL)
            channel = MessageStream(stream)
            await channel.send(Subscribe(epoch=bytes(16), cursor=0))
            told = -1
            while True:
                message = await channel.receive_untrusted(timeout_seconds=120)
                if isinstance(message, Signed):
                    news = messages.open_signed_untrusted(message, Announcement, self._node_key)
                    if told >= 0 or len(news.records) < limits.ANNOUNCE_RECORDS:
                        told = 0 if told < 0 else told + len(news.records)
                        self._crowd.told(told)


class _Crowd:
    """Counts how many peers have been told of how many records."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._reached: dict[int, int] = {}
        self._most = -1

    def told(self, records: int) -> None:
        for number in range(records + 1):
            self._reached.setdefault(number, 0)
        self._reached[records] += 1
        if self._reached[records] == self._count:
            print("connected" if records == 0 else f"told {records}", flush=True)


async def _run(address: str, node_key: bytes, count: int) -> None:
    crowd, dialling = _Crowd(count), trio.CapacityLimiter(_DIALLING)
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(_Peer(number, node_key, crowd).run, address, dialling)


class Crowd:
    """The process of the simulated peers, as a test sees it."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines

    def wait(self, line: str) -> None:
        """Wait until it says so."""
        said = self._lines.readline().strip()
        if said != line:
            raise AssertionError(f"the simulated peers said {said!r}, not {line!r}")


@contextmanager
def crowd(address: str, node_key: bytes, count: int) -> Iterator[Crowd]:
    """Run `count` peers that connect to a node, which trusts them by their `card`."""
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps([address, node_key.hex(), count])],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        yield Crowd(process.stdout)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    where, key, how_many = json.loads(sys.argv[1])
    try:
        trio.run(_run, where, bytes.fromhex(key), how_many)
    except* (StreamLost, trio.Cancelled):
        sys.exit(1)
