"""Images that are sent by DICOMweb: one sender does not keep out another."""

import contextlib
from collections.abc import AsyncIterator
from typing import cast

import pytest
import trio

from node.edges import dicomweb_store
from node.edges.dicomweb_settings import WebCaller
from node.edges.dicomweb_store import Storing
from node.errors import ExitCode, NodeError
from node.images.arrivals import Arrivals
from node.web_server import Asked


class Sides:
    """Takes images of SLOW never, and those of others at once."""

    def __init__(self) -> None:
        self.is_waiting = trio.Event()

    @contextlib.asynccontextmanager
    async def association(self, source: str) -> AsyncIterator["_Association"]:
        yield _Association(self, source)


class _Association:
    def __init__(self, sides: Sides, source: str) -> None:
        self._sides, self._source = sides, source

    async def take(self, pieces: object, *, named: str) -> None:
        if self._source == "dicomweb:SLOW":
            self._sides.is_waiting.set()
            await trio.sleep_forever()
        raise NodeError("the disk is full", code=ExitCode.DISK)


async def _body() -> AsyncIterator[bytes]:
    yield b"an image"


async def test_a_slow_sender_does_not_keep_out_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb_store, "STORING", 1)
    sides = Sides()
    storing = Storing(cast(Arrivals, sides))

    async def send(name: str) -> int:
        headers = {"content-type": "application/dicom"}
        asked = Asked(method="POST", path="", query="", headers=headers, body=_body())
        caller = WebCaller(name=name, token_digest="", store=True)
        return (await storing.store(asked, caller, "")).status

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, "SLOW")
            await sides.is_waiting.wait()
            assert await send("OTHER") >= 400
            nursery.cancel_scope.cancel()
