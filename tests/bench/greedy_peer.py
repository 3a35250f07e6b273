"""What a trusted peer without any right costs a node, and what an honest one notices of it.

python tests/bench/greedy_peer.py [--seconds 15]

A peer floods a real node in three ways: announcements, the whole feed anew, requests that
are refused. Meanwhile an honest facility fetches a study. Printed are what the home grew
by, the entries of the log, the node's processor time, and the seconds of the honest fetch.
"""

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import trio
from catalogs_made import fill
from facilities import Facility, wait_until
from peers_simulated import _key, card
from studies_made import make_study

from node.app import Node
from node.network.messaging import MessageStream
from node.network.network import Network, NetworkLimits, StreamLost
from protocol import limits, messages
from protocol.errors import RemoteProtocolError
from protocol.messages import Announcement, Heartbeat, Hello, Record, Request, Signed, Subscribe

STUDIES = 2000
PEER = 1


class Greedy:
    """The peer that floods."""

    def __init__(self, node_key: bytes) -> None:
        self._node_key = node_key
        self._key = _key(PEER, "node")
        self._floods_feed = False
        self.did = 0

    async def run(self, address: str, kind: str, seconds: float) -> None:
        network = Network(
            self._key,
            listen=(),
            is_trusted=lambda key: key == self._node_key,
            handlers={messages.HELLO_PROTOCOL: self._hello, messages.CATALOG_PROTOCOL: self._feed},
            limits=NetworkLimits(),
        )
        self._floods_feed = kind == "announcements"
        async with network.running():
            await network.connect(self._node_key, [address])
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    for _ in range({"announcements": 0, "feeds": 8, "requests": 8}[kind]):
                        nursery.start_soon(self._again_and_again, network, kind)

    async def _hello(self, stream) -> None:
        channel = MessageStream(stream)
        await channel.receive_untrusted()
        await channel.send(Hello(versions=(1,), software="x", card=card(PEER).encoded))

    async def _feed(self, stream) -> None:
        channel = MessageStream(stream)
        await channel.receive_untrusted()
        epoch, sequence = secrets.token_bytes(16), 0
        while True:
            if not self._floods_feed:
                await trio.sleep(limits.HEARTBEAT_SECONDS)
                await channel.send(Heartbeat())
                continue
            records = tuple(self._record(sequence + number + 1) for number in range(256))
            announcement = Announcement(
                recipient=self._node_key,
                epoch=epoch,
                reset=sequence == 0,
                cursor=sequence + 256,
                time=int(time.time() * 1000),
                records=records,
            )
            await channel.send(messages.sign(announcement, self._key))
            sequence += 256
            self.did += 256

    @staticmethod
    def _record(sequence: int) -> Record:
        return Record(
            sequence=sequence,
            kind="available",
            study=f"1.2.{sequence}",
            content_root=bytes(32),
            series=1,
            instances=1,
            bytes=1,
            encoded_bytes=1,
            modalities=("CT",),
            study_date="20260301",
            description="x" * 1000,
        )

    async def _again_and_again(self, network, kind: str) -> None:
        one = self._subscribe if kind == "feeds" else self._request
        while True:
            try:
                await one(network)
                self.did += 1
            except (StreamLost, RemoteProtocolError):
                await trio.sleep(0.01)

    async def _subscribe(self, network) -> None:
        stream = await network.open_stream(self._node_key, messages.CATALOG_PROTOCOL)
        try:
            channel = MessageStream(stream)
            await channel.send(Subscribe(epoch=bytes(16), cursor=0))
            told = 0
            while told < STUDIES:
                message = await channel.receive_untrusted(timeout_seconds=60)
                if isinstance(message, Signed):
                    said = messages.open_signed_untrusted(message, Announcement, self._node_key)
                    told += len(said.records)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()

    async def _request(self, network) -> None:
        stream = await network.open_stream(self._node_key, messages.STUDY_PROTOCOL)
        try:
            channel = MessageStream(stream)
            request = Request(
                transfer=secrets.token_bytes(16),
                source=self._node_key,
                study="1.2.3",
                purpose="treatment",
                ephemeral=os.urandom(32),
                time=int(time.time() * 1000),
                stat=False,
                whole=False,
            )
            await channel.send(messages.sign(request, self._key))
            await channel.receive_untrusted()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()


def _bytes_of(facility: Facility) -> int:
    home = facility.home.path
    files = [*home.glob("node.db*"), *(home / "audit").rglob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def _cpu_seconds(facility: Facility) -> float:
    assert facility.process is not None
    fields = Path(f"/proc/{facility.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _fetch_seconds(south: Facility, north: Facility, directory: Path, number: int) -> float:
    study = make_study(directory / f"in{number}", 40, rows=512)
    north.call("ingest", paths=[str(directory / f"in{number}")])
    wait_until(lambda: study in south.announced(north), 120.0, "the announcement")
    began = time.monotonic()
    south.call("fetch", study=study)
    return time.monotonic() - began


def main() -> None:
    """Run the three floods against one node."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=15.0)
    seconds = parser.parse_args().seconds
    directory = Path(tempfile.mkdtemp(prefix="radmesh-greedy-"))
    north, south = Facility(directory, "North General"), Facility(directory, "South Clinic")
    try:
        with Node.open(north.home) as node:
            fill(node, STUDIES, 1)
        north.trust(south, "see", "fetch")
        south.trust(north)
        north.trust_card(card(PEER), "Greedy", "see")
        north.start()
        south.start()
        wait_until(lambda: len(south.announced(north)) == STUDIES, 60.0, "the feed")
        print(f"honest fetch alone: {_fetch_seconds(south, north, directory, 0):.2f} s")
        node_key = north.home.read_keys().node.public
        for number, kind in enumerate(("announcements", "feeds", "requests"), 1):
            greedy = Greedy(node_key)
            size, cpu, entries = _bytes_of(north), _cpu_seconds(north), north.call("status")
            began = time.monotonic()
            fetched: list[float] = []

            async def flood(greedy=greedy, kind=kind, number=number, fetched=fetched) -> None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(greedy.run, north.address, kind, seconds)
                    await trio.sleep(1)
                    fetched.append(
                        await trio.to_thread.run_sync(
                            _fetch_seconds, south, north, directory, number
                        )
                    )

            trio.run(flood)
            took = time.monotonic() - began
            grown = _bytes_of(north) - size
            more = north.call("status")["log_size"] - entries["log_size"]
            print(
                f"{kind}: {greedy.did} in {took:.0f} s; the home grew {grown / 1e6:.2f} MB "
                f"({grown / took / 1e3:.1f} kB/s), {more} entries, node CPU "
                f"{_cpu_seconds(north) - cpu:.1f} s; honest fetch {fetched[0]:.2f} s"
            )
    finally:
        for facility in (north, south):
            if facility.process is not None:
                facility.kill()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
