"""Real nodes on loopback for the network tests, in this process and in another.

Run as a program it is a peer that can be stopped and killed: it prints its
address, and serves the handlers below until it is killed.
"""

import contextlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import trio
from places import ROOT

from keys.identity import KeyPair
from node.network.network import Network, NetworkLimits, PeerStream, StreamLost
from node.network.sockets import parse_address

ECHO = "/test/echo/1"
FLOOD = "/test/flood/1"
SINK = "/test/sink/1"
SILENT = "/test/silent/1"
CRASH = "/test/crash/1"
LAST_WORDS = "/test/last-words/1"

ALICE, BOB, CAROL, MALLORY = (KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 5))
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
FAST = NetworkLimits(
    upgrade_seconds=5.0,
    pulse_seconds=0.3,
    answer_seconds=1.0,
    stall_seconds=1.5,
    message_seconds=1.5,
    linger_seconds=1,
)
WAIT_SECONDS = 10.0


async def echo(stream: PeerStream) -> None:
    """Send back what comes."""
    with contextlib.suppress(StreamLost):
        while True:
            await stream.write(await stream.read(timeout_seconds=60), timeout_seconds=60)


async def flood(stream: PeerStream) -> None:
    """Send without end."""
    block = bytes(65_507)
    while True:
        await stream.write(block, timeout_seconds=60)


async def sink(stream: PeerStream) -> None:
    """Take everything, answer with its size."""
    size = 0
    with contextlib.suppress(StreamLost):
        while True:
            size += len(await stream.read(timeout_seconds=60))
    await stream.write(str(size).encode(), timeout_seconds=60)


async def silent(stream: PeerStream) -> None:
    """Neither read nor write."""
    await trio.sleep_forever()


async def crash(stream: PeerStream) -> None:
    """Fail as a bug of ours would."""
    raise ZeroDivisionError("patient DOE^JANE")


async def last_words(stream: PeerStream) -> None:
    """Write a lot and return at once."""
    await stream.write(bytes(200_000), timeout_seconds=60)


HANDLERS = {
    ECHO: echo,
    FLOOD: flood,
    SINK: sink,
    SILENT: silent,
    CRASH: crash,
    LAST_WORDS: last_words,
}


class Site:
    """A network in this process and what it has reported.

    Attributes:
        trusted: node public keys; change it as a trust store would change.
        came, went: how often each peer was reported as connected, disconnected.
    """

    def __init__(
        self,
        key: KeyPair,
        *trusted: KeyPair,
        listen: str = LOOPBACK,
        limits: NetworkLimits | None = None,
    ) -> None:
        self.key = key
        self.trusted = {other.public for other in trusted}
        self.came: Counter[bytes] = Counter()
        self.went: Counter[bytes] = Counter()
        self.network = Network(
            key,
            listen=[listen] if listen else [],
            is_trusted=lambda public: public in self.trusted,
            handlers=HANDLERS,
            on_connected=lambda public: self.came.update([public]),
            on_disconnected=lambda public: self.went.update([public]),
            limits=limits,
        )

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        return self.network.addresses

    @property
    def port(self) -> int:
        """The port it listens on."""
        return parse_address(self.addresses[0]).port


@contextlib.asynccontextmanager
async def two_sites(
    limits: NetworkLimits | None = None,
) -> AsyncIterator[tuple[Site, Site]]:
    """Alice, connected to Bob."""
    alice, bob = Site(ALICE, BOB, limits=limits), Site(BOB, ALICE, limits=limits)
    async with bob.network.running(), alice.network.running():
        await alice.network.connect(BOB.public, bob.addresses)
        yield alice, bob


async def until(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Wait until something holds."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (any condition, not an event)
            await trio.sleep(0.01)


async def read_on(stream: PeerStream) -> None:
    """Read until that fails."""
    while True:
        await stream.read(timeout_seconds=60)


async def write_on(stream: PeerStream) -> None:
    """Write until that fails."""
    while True:
        await stream.write(bytes(65_507), timeout_seconds=60)


async def serves(bob: Site, alice: Site) -> None:
    """Alice gets an answer from Bob within five seconds."""
    with trio.fail_after(5):
        await alice.network.connect(BOB.public, bob.addresses)
        async with await alice.network.open_stream(BOB.public, ECHO) as stream:
            await stream.write(b"here?", timeout_seconds=2)
            assert await stream.read(timeout_seconds=2) == b"here?"


@contextlib.asynccontextmanager
async def victim(limits: NetworkLimits | None = None) -> AsyncIterator[Site]:
    """Bob, who must serve Alice before and after whatever happens inside."""
    bob = Site(BOB, ALICE, MALLORY, limits=limits)
    alice = Site(ALICE, BOB, listen="")
    async with bob.network.running(), alice.network.running():
        await serves(bob, alice)
        yield bob
        await serves(bob, alice)
        assert bob.came[ALICE.public] == 1
        assert bob.went[ALICE.public] == 0


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class PeerProcess:
    """Bob as a process of his own.

    Attributes:
        address: where it listens.
    """

    def __init__(self, listen: str = LOOPBACK) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, listen],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def freeze(self) -> None:
        """Stop it as a hung machine stops: its sockets stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it without a goodbye."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def peer_process(listen: str = LOOPBACK) -> Iterator[PeerProcess]:
    """Bob as a process, killed in the end."""
    process = PeerProcess(listen)
    try:
        yield process
    finally:
        process.kill()


async def _serve(listen: str) -> None:
    bob = Site(BOB, ALICE, listen=listen)
    async with bob.network.running():
        print(bob.addresses[0], flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1])
