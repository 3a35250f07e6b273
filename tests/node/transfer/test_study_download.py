"""A study from scripted sources over streams in memory, into a real node's home."""

import dataclasses
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
import trio.testing
from download_made import part10
from exchange_pair import SmallStudy
from sources_made import Source, World

from node.app import Node
from node.dicom.part10 import HeaderMatcher
from node.errors import ExitCode
from node.home import Home
from node.transfer import source_worker
from node.transfer.study_download import _same_batches
from node.transfer.transfers import TransferState
from protocol import encoding
from protocol.errors import WireCode
from protocol.manifest import Manifest
from protocol.messages import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "south", name="South")) as opened:
        yield opened


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    return exchange_pair.make_study([part10(number + 1) for number in range(40)], 3000)


@pytest.fixture(scope="module")
def packed_otherwise() -> SmallStudy:
    return exchange_pair.make_study([part10(number + 1) for number in range(40)], 5000)


def _shuffled(study: SmallStudy) -> SmallStudy:
    """The same batches in another order: what a holder may have that got them in several goes."""
    last = len(study.encoded) - 1
    manifest = dataclasses.replace(
        study.manifest,
        batches=study.manifest.batches[::-1],
        instances=tuple(
            one._replace(first_batch=last - one.first_batch) for one in study.manifest.instances
        ),
    )
    return SmallStudy(manifest, study.encoded[::-1])


def _originals(node: Node, study: SmallStudy) -> bool:
    """Whether a node has the study, and its batches are undamaged."""
    manifest: Manifest = node.catalog.manifest(exchange_pair.STUDY)
    return manifest.content_root == study.manifest.content_root and all(
        encoding.decode_untrusted(node.store.read(batch.digest)) for batch in manifest.batches
    )


async def test_a_lying_source_is_named_and_dropped(
    node: Node, tmp_path: Path, study: SmallStudy, caplog: pytest.LogCaptureFixture
) -> None:
    liar, honest = Source(tmp_path, "Liar", study), Source(tmp_path, "Honest", study)
    liar.lies = {1}
    with caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            world = World(node, nursery, liar, honest)
            nursery.start_soon(world.run, 0)
            nursery.start_soon(partial(world.run, 1, behind=liar))
    outcome = world.attempts[0].outcome
    assert outcome is not None
    assert (outcome.state, outcome.code) == (TransferState.FAILED, ExitCode.INTEGRITY)
    assert liar.refused == [WireCode.BAD_DIGEST]
    [entry] = world.entries("receive-failed")
    assert entry["peer"] == liar.peer.facility_key.hex()
    assert "from Liar: batch 1 does not have its promised digest" in caplog.text
    assert world.attempts[1].outcome is None
    assert len(honest.receipts) == world.download.receipts == 1
    assert _originals(node, study)


async def test_the_only_source_is_given_up_after_three_lies(
    node: Node, tmp_path: Path, study: SmallStudy
) -> None:
    liar = Source(tmp_path, "Liar", study)
    liar.lies = {len(study.encoded) - 1}
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, liar)
        nursery.start_soon(world.run, 0)
    assert liar.refused == [WireCode.BAD_DIGEST] * 3
    # What was good is not sent again.
    assert liar.sent == len(study.encoded) + 2
    assert node.catalog.study(exchange_pair.STUDY) is None


async def test_a_fault_of_ours_ends_the_source_and_not_the_node(
    node: Node,
    tmp_path: Path,
    study: SmallStudy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise KeyError("DOE^JANE")

    monkeypatch.setattr(HeaderMatcher, "matches", stumble)
    source = Source(tmp_path, "North", study)
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, source)
        nursery.start_soon(world.run, 0)
    outcome = world.attempts[0].outcome
    assert outcome is not None
    assert (outcome.state, outcome.code) == (TransferState.FAILED, ExitCode.FAILED)
    [entry] = world.entries("receive-failed")
    assert entry["details"]["why"] == "an error of this node"
    assert "KeyError in test_study_download.py" in caplog.text
    assert "DOE" not in caplog.text + outcome.why
    assert node.catalog.study(exchange_pair.STUDY) is None


async def test_a_silent_source_is_not_waited_for_and_its_part_comes_from_the_other(
    node: Node, tmp_path: Path, study: SmallStudy
) -> None:
    silent = Source(tmp_path, "Silent", study)
    silent.silent_after = 1
    other = Source(tmp_path, "Other", _shuffled(study))
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, silent, other)
        with trio.fail_after(10):
            async with trio.open_nursery() as fetch:
                fetch.start_soon(world.run, 0)
                fetch.start_soon(partial(world.run, 1, behind=silent))
                while not world.download.receipts:
                    await world.download.wait_change()
                fetch.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    # Its two batches: one came, the other was late and asked of the other.
    assert (silent.sent, other.sent) == (1, len(study.encoded) - 1)
    [receipted] = other.receipts
    assert receipted.receipt.batches == other.sent
    received = {entry["peer"]: entry["details"]["batches"] for entry in world.entries("received")}
    assert received == {
        silent.peer.facility_key.hex(): 1,
        other.peer.facility_key.hex(): other.sent,
    }
    assert _originals(node, study)


@pytest.mark.parametrize("end", ["revoked", "away"])
async def test_a_source_with_other_batches_stands_in_when_the_first_is_gone(
    node: Node,
    tmp_path: Path,
    study: SmallStudy,
    packed_otherwise: SmallStudy,
    end: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source_worker, "STAND_IN_SECONDS", 1.0 if end == "away" else 60.0)
    silent = Source(tmp_path, "Silent", study)
    silent.silent_after = 1
    other = Source(tmp_path, "Other", packed_otherwise)
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, silent, other)
        with trio.fail_after(20):
            async with trio.open_nursery() as fetch:
                fetch.start_soon(world.run, 0)
                fetch.start_soon(partial(world.run, 1, behind=silent))
                while not other.refused:
                    await world.download.wait_change(0.1)
                assert other.sent == 0
                if end == "away":
                    silent.gone.set()
                else:
                    world.attempts[0].cancel("its trust was revoked")
                while not world.download.receipts:
                    await world.download.wait_change()
                fetch.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    assert other.refused == [WireCode.NOT_NEEDED]
    assert other.sent == len(packed_otherwise.encoded)
    assert other.receipts[0].receipt.batches == other.sent
    assert _originals(node, packed_otherwise)


def test_batches_are_the_same_only_with_the_same_instances_at_the_same_places(
    study: SmallStudy, packed_otherwise: SmallStudy
) -> None:
    ours, count = study.manifest, len(study.encoded)
    everything = frozenset(range(count))
    assert _same_batches(ours, ours, everything) == {index: index for index in range(count)}
    reversed_order = {index: count - 1 - index for index in range(count)}
    assert _same_batches(ours, _shuffled(study).manifest, everything) == reversed_order
    assert _same_batches(ours, packed_otherwise.manifest, everything) is None
    # Two instances of one size have changed places: the batch cannot hold both ways.
    first, second, *rest = ours.instances
    assert (first.first_batch, first.size) == (second.first_batch, second.size)
    swapped = (
        first._replace(offset=second.offset),
        second._replace(offset=first.offset),
        *rest,
    )
    liar = dataclasses.replace(ours, instances=swapped)
    assert liar.content_root == ours.content_root
    assert _same_batches(ours, liar, everything) is None
    assert _same_batches(ours, liar, everything - {0}) is not None
    smaller = dataclasses.replace(ours, instances=ours.instances[:-1])
    assert _same_batches(ours, smaller, frozenset()) is None


def _announced(study: SmallStudy, **changes: Any) -> Record:
    counts = study.manifest.counts
    fields = {
        "sequence": 1, "kind": "available", "study": exchange_pair.STUDY,
        "content_root": study.manifest.content_root, "series": counts.series,
        "instances": counts.instances, "bytes": counts.bytes, "encoded_bytes": 1,
        "modalities": ("CT",), "study_date": "", **changes,
    }  # fmt: skip
    return Record(**fields)


async def test_a_source_that_offers_more_than_it_announced_is_given_up(
    node: Node, tmp_path: Path, study: SmallStudy
) -> None:
    source = Source(tmp_path, "North", study)
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, source)
        world.announced = _announced(study, instances=39)
        nursery.start_soon(world.run, 0)
    outcome = world.attempts[0].outcome
    assert outcome is not None
    assert (outcome.state, outcome.code) == (TransferState.FAILED, ExitCode.INTEGRITY)
    assert source.refused == [WireCode.MALFORMED] * 3
    # All batches were on their way; none was taken.
    assert node.incoming.is_empty()


async def test_a_study_that_has_grown_is_fetched_once_its_news_is_here(
    node: Node, tmp_path: Path, study: SmallStudy
) -> None:
    source = Source(tmp_path, "North", study)
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, source)
        world.announced = _announced(study, content_root=bytes(32), instances=39)
        with trio.fail_after(20):
            async with trio.open_nursery() as fetch:
                fetch.start_soon(world.run, 0)
                while not source.refused:
                    await world.download.wait_change(0.1)
                assert node.incoming.is_empty()
                world.announced = _announced(study)
                while not world.download.receipts:
                    await world.download.wait_change()
        nursery.cancel_scope.cancel()
    # It is not blamed, and nothing was given up.
    assert source.refused[0] is WireCode.OTHER
    assert world.entries("receive-failed") == []
    assert _originals(node, study)
