"""A node logs its start in front of all that it does with others."""

from pathlib import Path

import pytest
import trio
from facilities import Facility
from relayed import Fetch

from node import blocking
from node.app import Node
from node.serving import serving
from node.witness.rounds import Witnessing
from protocol.log.entry import decode_entry_untrusted
from protocol.reconcile import TYPES

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EARLY_SECONDS = 2.0
"""How long an answer that comes too early has to show itself; it takes some hundredths."""


def _types(node: Node) -> list[str]:
    return [decode_entry_untrusted(entry).type for entry in node.audit.entries()]


def test_no_entry_of_a_transfer_stands_before_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer asks while the node still waits for who may know more of its log."""
    north, south = Facility(tmp_path, "North General"), Facility(tmp_path, "South Clinic")
    north.trust(south, "see", "fetch")
    south.trust(north, "see", "fetch")
    south.start()
    waits = trio.Event()

    async def wait(_: Witnessing) -> None:
        await waits.wait()

    monkeypatch.setattr(Witnessing, "wait_started", wait)
    # The node marks this thread as its loop's; afterwards it is that of the tests again.
    monkeypatch.setattr(blocking, "_loop", None)

    async def run() -> list[str]:
        with Node.open(north.home) as node:
            before = len(_types(node))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_release, node, waits)
                async with serving(node):
                    while not {"requested", "refused"} <= set(_types(node)[before:]):  # noqa: ASYNC110
                        await trio.sleep(0.02)
            return _types(node)[before:]

    async def _release(node: Node, waits: trio.Event) -> None:
        with trio.move_on_after(EARLY_SECONDS):
            while not TYPES & set(_types(node)):  # noqa: ASYNC110
                await trio.sleep(0.02)
        waits.set()

    Fetch(south, north, "1.2.3.4")
    try:
        types = trio.run(run)
    finally:
        south.stop()
    assert types[0] == "start", types
