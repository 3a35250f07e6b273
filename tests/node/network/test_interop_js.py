"""With js-libp2p, which others wrote, at the other end: Noise, multistream, yamux, the hello."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from facilities import Facility, free_port
from network_nodes import ALICE, BOB, ECHO, FLOOD, SINK, Site, until
from places import TESTS

from keys.card import Card, issue_card, parse_card_untrusted
from keys.identity import KeyPair, peer_id
from node.clock import SYSTEM_CLOCK
from node.network.network import StreamLost
from protocol import messages
from protocol.frames import FrameKind, FrameReader, frame_header
from protocol.messages import Hello, Message, Subscribe

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HERE = TESTS / "interop"
PACKAGES = Path(sys.prefix) / "interop"
JS = KeyPair.from_seed(b"j" * 32)
MIB = 1024 * 1024
WAIT_SECONDS = 20


def _node_program() -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("needs Node.js (the program 'node')")
    lock = PACKAGES / "package-lock.json"
    wanted = (HERE / "package-lock.json").read_bytes()
    if not lock.exists() or lock.read_bytes() != wanted or not (PACKAGES / "node_modules").exists():
        pytest.skip("needs js-libp2p as tests/interop pins it: `make interop` installs it")
    return program


class JsPeer:
    """js-libp2p in a process of its own, with the node key `JS`.

    Attributes:
        address: where it listens.
        events: what happened to it, in order.
    """

    def __init__(self, process: trio.Process) -> None:
        self.address = ""
        self.events: list[dict[str, Any]] = []
        self._process = process
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._came = trio.lowlevel.ParkingLot()
        self._telling = trio.Lock()

    async def listen(self) -> None:
        """Take what it says until it ends."""
        assert self._process.stdout is not None
        rest = b""
        async for some in self._process.stdout:
            *lines, rest = (rest + some).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "id" in said:
                    self._answers[said.pop("id")] = said
                else:
                    self.events.append(said)
            self._came.unpark_all()

    async def wait_event(self, **wanted: str) -> dict[str, Any]:
        """The first event with these values."""
        with trio.fail_after(WAIT_SECONDS):
            while True:
                for event in self.events:
                    if wanted.items() <= event.items():
                        return event
                await self._came.park()

    async def do(self, what: str, **job: Any) -> dict[str, Any]:
        """Have it do something; its answer, which may have an `error`."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        line = json.dumps({"id": number, "do": what, **job}) + "\n"
        async with self._telling:
            await self._process.stdin.send_all(line.encode())
        with trio.fail_after(WAIT_SECONDS):
            while number not in self._answers:
                await self._came.park()
        return self._answers.pop(number)

    async def ask(self, content: bytes, *protocols: str) -> bytes:
        """What comes back on a stream."""
        answer = await self.do("open", protocols=protocols, send=base64.b64encode(content).decode())
        assert "error" not in answer, answer
        return base64.b64decode(answer["received"])


@contextlib.asynccontextmanager
async def js_peer(port: int = 0, **answers: bytes) -> AsyncIterator[JsPeer]:
    """js-libp2p, started; it answers with these on streams of these protocols.

    Args:
        port: where it listens; 0 lets the system pick.
        answers: by protocol; after an empty one its end of the stream stays open.
    """
    program = _node_program()
    said = {name: base64.b64encode(answer).decode() for name, answer in answers.items()}
    script = (HERE / "js_peer.mjs").read_text()
    command = [program, "--input-type=module", "--eval", script]
    command += [JS.seed.hex(), str(port), json.dumps(said)]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PACKAGES
        )
        try:
            peer = JsPeer(process)
            nursery.start_soon(peer.listen)
            peer.address = (await peer.wait_event(event="ready"))["address"]
            yield peer
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                assert process.stdin is not None
                assert process.stdout is not None
                await process.stdin.aclose()
                await process.stdout.aclose()
            nursery.cancel_scope.cancel()


async def test_js_calls_asks_and_moves_bulk() -> None:
    async with js_peer() as js:
        alice = Site(ALICE, JS)
        async with alice.network.running():
            await js.do("dial", address=f"{alice.addresses[0]}/p2p/{peer_id(ALICE.public)}")
            connected = await js.wait_event(event="connected")
            assert (connected["security"], connected["muxer"]) == ("/noise", "/yamux/1.0.0")
            await until(lambda: alice.network.connected() == {JS.public})

            answers: dict[int, bytes] = {}

            async def ask(number: int) -> None:
                answers[number] = await js.ask(b"%d" % number, ECHO)

            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(ask, number)
            assert answers == {number: b"%d" % number for number in range(30)}
            # An unknown protocol is declined, and the next one taken on the same stream.
            assert await js.ask(b"x", "/none/1", ECHO) == b"x"
            refused = await js.do("open", protocols=["/none/1"], send="")
            assert "UnsupportedProtocolError" in refused["error"]

            pushed = await js.do("push", protocol=SINK, bytes=32 * MIB)
            assert base64.b64decode(pushed["received"]) == str(32 * MIB).encode()
            pulled = await js.do("pull", protocol=FLOOD, bytes=32 * MIB)
            assert pulled["read"] >= 32 * MIB
            assert alice.went == {}
            await js.do("hang up")
            await until(lambda: alice.went == {JS.public: 1})


async def test_js_is_called_and_answers() -> None:
    async with js_peer(**{ECHO: b"from js"}) as js:
        alice = Site(ALICE, JS, listen="")
        async with alice.network.running():
            await alice.network.connect(JS.public, [js.address])
            for _ in range(30):
                async with await alice.network.open_stream(JS.public, ECHO) as stream:
                    await stream.write(b"x", timeout_seconds=5)
                    answer = b""
                    while len(answer) < len(b"from js"):
                        answer += await stream.read(timeout_seconds=5)
                    assert answer == b"from js"
            stream = await alice.network.open_stream(JS.public, SINK)
            with pytest.raises(StreamLost, match="does not take"):
                await stream.read(timeout_seconds=5)
            await alice.network.close_peer(JS.public)
            await js.wait_event(event="disconnected")


async def test_js_without_trust_gets_nowhere() -> None:
    async with js_peer() as js:
        alice = Site(ALICE, BOB)
        async with alice.network.running():
            answer = await js.do("dial", address=alice.addresses[0])
            assert "error" in answer
            assert alice.came == {}


async def test_a_node_and_js_say_hello_both_ways(tmp_path: Path) -> None:
    port = free_port()
    js_card = _card(f"/ip4/127.0.0.1/tcp/{port}")
    hello = _frame(
        Hello(versions=(messages.PROTOCOL_VERSION,), software="js", card=js_card.encoded)
    )
    north = Facility(tmp_path, "North General")
    # As many hellos as below are more than the budget of a facility lets through at once.
    with north.home.config_path.open("a") as settings:
        settings.write('\n[limits."*"]\nhello = [360000, 100]\n')
    own_card = north.home.read_card()
    answers = {messages.HELLO_PROTOCOL: hello, messages.CATALOG_PROTOCOL: b""}
    async with js_peer(port, **answers) as js:
        try:
            await trio.to_thread.run_sync(north.start)
            north.trust_card(js_card, "js")
            # The node calls, says hello, and asks for the feed.
            event = await js.wait_event(event="stream", protocol=messages.HELLO_PROTOCOL)
            said = _message(base64.b64decode(event["received"]))
            assert isinstance(said, Hello)
            assert parse_card_untrusted(said.card).facility_key == own_card.facility_key
            event = await js.wait_event(event="stream", protocol=messages.CATALOG_PROTOCOL)
            assert isinstance(_message(base64.b64decode(event["received"])), Subscribe)
            # And the other way: js calls, on a second connection.
            address = f"{north.address}/p2p/{peer_id(own_card.node_key)}"
            assert "error" not in await js.do("dial", address=address)
            for _ in range(30):
                said = _message(await js.ask(hello, messages.HELLO_PROTOCOL))
                assert isinstance(said, Hello)
                assert parse_card_untrusted(said.card).node_key == own_card.node_key
            assert north.call("trust.show", peer="js")["connected"]
            assert "is not taken" not in north.stderr()
        finally:
            if north.process is not None:
                north.kill()


def _card(address: str) -> Card:
    facility, log_key, witness_key = (KeyPair.from_seed(bytes([n]) * 32) for n in (71, 72, 73))
    return issue_card(
        facility,
        name="Js Clinic",
        node_key=JS.public,
        log_key=log_key.public,
        witness_key=witness_key.public,
        addresses=(address,),
        serial=1,
        issued=SYSTEM_CLOCK.now(),
        expires=SYSTEM_CLOCK.now() + 1000,
    )


def _frame(message: Message) -> bytes:
    payload = messages.encode(message)
    return frame_header(FrameKind.MESSAGE, len(payload)) + payload


def _message(data: bytes) -> Message:
    frame, _ = FrameReader().receive_untrusted(data)
    assert frame is not None
    return messages.decode_untrusted(frame.payload)
