"""A bare stream of the node's network layer: what the wire alone can do.

Without arguments: serve, printing "ADDRESS KEY". With ADDRESS,KEY and a count:
fetch as many bytes and print the seconds.
"""

import sys
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from keys.identity import KeyPair
from node.network.network import Network, PeerStream

PROTOCOL = "/radmesh/bench/1"
SERVER, CLIENT = KeyPair.from_seed(b"a" * 32), KeyPair.from_seed(b"b" * 32)
BLOCK = bytes(4 * 1024 * 1024)


async def _serve_stream(stream: PeerStream) -> None:
    count = int.from_bytes(await stream.read(8, timeout_seconds=10), "big")
    for start in range(0, count, len(BLOCK)):
        await stream.write(BLOCK[: count - start], timeout_seconds=30)


def _network(key: KeyPair) -> Network:
    return Network(
        key,
        listen=["/ip4/127.0.0.1/tcp/0"],
        is_trusted=lambda _: True,
        handlers={PROTOCOL: _serve_stream},
    )


async def _serve() -> None:
    network = _network(SERVER)
    async with network.running():
        print(network.addresses[0], flush=True)
        await trio.sleep_forever()


async def _fetch(address: str, count: int) -> None:
    network = _network(CLIENT)
    async with network.running():
        await network.connect(SERVER.public, [address])
        stream = await network.open_stream(SERVER.public, PROTOCOL)
        began = time.monotonic()
        await stream.write(count.to_bytes(8, "big"), timeout_seconds=10)
        received = 0
        while received < count:
            received += len(await stream.read(timeout_seconds=30))
        print(time.monotonic() - began)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        trio.run(_serve)
    else:
        trio.run(_fetch, sys.argv[1], int(sys.argv[2]))
