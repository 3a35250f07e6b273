"""What a trusted peer that sends tiny frames costs the transfers of others.

    python tests/bench/tiny_frames.py [KIND ...]

A node serves an honest peer 100 MB, alone and while another trusted peer sends frames
with little or nothing in them as fast as it can. Three processes; prints seconds.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from tiny_frames_peer import KINDS, attack

from keys.identity import KeyPair
from node.network.network import Network, PeerStream, StreamLost

PROTOCOL = "/radmesh/bench/1"
SERVER, CLIENT, ATTACKER = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
BLOCK = bytes(4 * 1024 * 1024)
BYTES = 100_000_000
ROUNDS = 5
ATTACK_SECONDS = 300


async def _serve_stream(stream: PeerStream) -> None:
    count = int.from_bytes(await stream.read(8, timeout_seconds=10), "big")
    for start in range(0, count, len(BLOCK)):
        await stream.write(BLOCK[: count - start], timeout_seconds=60)


def _network(key: KeyPair, listen: list[str]) -> Network:
    return Network(
        key, listen=listen, is_trusted=lambda _: True, handlers={PROTOCOL: _serve_stream}
    )


async def _serve() -> None:
    network = _network(SERVER, ["/ip4/127.0.0.1/tcp/0"])
    async with network.running():
        print(network.addresses[0], flush=True)
        await trio.sleep_forever()


async def _fetch(address: str) -> None:
    network = _network(CLIENT, [])
    async with network.running():
        for _ in range(ROUNDS):
            await network.connect(SERVER.public, [address])
            began = time.monotonic()
            try:
                with trio.fail_after(60):
                    stream = await network.open_stream(SERVER.public, PROTOCOL)
                    await stream.write(BYTES.to_bytes(8, "big"), timeout_seconds=10)
                    received = 0
                    while received < BYTES:
                        received += len(await stream.read(timeout_seconds=60))
            except (StreamLost, trio.TooSlowError) as error:
                print(repr(error), end=" ", flush=True)
            else:
                print(f"{time.monotonic() - began:.2f}", end=" ", flush=True)
    print()


def _run(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def _measure(kinds: list[str]) -> None:
    for kind in ["", *kinds]:
        server = _run("serve")
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        attacker = _run("attack", address, kind) if kind else None
        time.sleep(1.5)
        print(f"{kind or 'nobody':16}", end=" ", flush=True)
        fetch = _run("fetch", address)
        assert fetch.stdout is not None
        print(fetch.stdout.read().strip(), end=" ")
        fetch.wait()
        if attacker is not None:
            print("attacker was cut" if attacker.poll() is not None else "attacker goes on", end="")
            attacker.kill()
        print()
        server.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        trio.run(_serve)
    elif sys.argv[1:2] == ["fetch"]:
        trio.run(_fetch, sys.argv[2])
    elif sys.argv[1:2] == ["attack"]:
        port = int(sys.argv[2].rpartition("/")[2])
        trio.run(attack, ATTACKER.seed, SERVER.public, port, sys.argv[3], ATTACK_SECONDS)
    else:
        _measure(sys.argv[1:] or list(KINDS))
