"""Long lists come in pages: together they are the list, whatever the size of a page."""

import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from catalogs_made import fill
from facility_in_memory import Other
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.api.client import call
from node.api.server import serve_api
from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import Home
from node.operations import OPERATIONS, TABLE, Call, images, log, transfer
from node.operations.paging import cursor, place_of
from node.operations.parameters import kinds
from node.sharing.feed_words import keep_words, record_to_json
from node.transfer.transfers import TransferState
from protocol.log.entry import Event
from protocol.messages import Record

OWN, ANNOUNCED, TRANSFERS = 7, 9, 25


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with some of everything, in which keys of the order repeat."""
    with Node.open(Home.create(tmp_path_factory.mktemp("pages") / "home", name="North")) as opened:
        _fill(opened)
        yield opened


def _fill(node: Node) -> None:
    fill(node, OWN, 1)
    others = [Other(f"Clinic {number}", node.clock.now()) for number in range(3)]
    for other in others:
        other.pair(node, "see")
        records = [
            Record(
                sequence=number + 1,
                kind="available",
                study=f"1.2.{number}",
                content_root=bytes(32),
                study_date=f"2026010{number % 2}",
                modalities=("CT",),
                series=1,
                instances=1,
                bytes=1,
                encoded_bytes=1,
            )
            for number in range(ANNOUNCED // 3)
        ]
        _announce(node, other, records)
    trio.run(_begin_transfers, node, others)
    for number in range(40):
        node.audit.append(Event(type="shared", subjects=(("study", f"1.9.{number % 3}"),)))


def _announce(node: Node, other: Other, records: list[Record]) -> None:
    def change(connection: sqlite3.Connection) -> None:
        for record in records:
            connection.execute(
                "INSERT INTO remote_studies (peer, study, record, study_date) VALUES (?, ?, ?, ?)",
                (other.key, record.study, record_to_json(record), record.study_date),
            )
            keep_words(connection, other.key, record)

    node.database.transact(change)


async def _begin_transfers(node: Node, others: list[Other]) -> None:
    for number in range(TRANSFERS):
        begun = node.transfers.begin_incoming(
            f"1.3.{number}", others[number % 3].key, "treatment", only_peer=False, stat=False
        )
        await node.transfers.enter(begun, TransferState.WAITING)

    def change(connection: sqlite3.Connection) -> None:
        # Many began in the same moment; every third is a request of a peer that was refused.
        connection.execute("UPDATE transfers SET started = started / 4 * 4")
        connection.execute(
            "UPDATE transfers SET direction = 'out', state = 'refused', ended = 1 "
            "WHERE rowid % 3 = 0"
        )

    node.database.transact(change)
    node.transfers.active.clear()


def _ask(node: Node, operation: str, **parameters: Any) -> dict[str, Any]:
    return trio.run(functools.partial(OPERATIONS[operation].answer, Call(node)), parameters)


def _pages(node: Node, operation: str, **parameters: Any) -> list[dict[str, Any]]:
    pages = [_ask(node, operation, **parameters)]
    while pages[-1]["next"] is not None:
        assert len(pages) < 200, "it never ends"
        pages.append(_ask(node, operation, **parameters, after=pages[-1]["next"]))
    return pages


def _names(pages: list[dict[str, Any]], listed: str, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for page in pages for row in page[listed]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.integers(1, 12),
    st.none() | st.integers(1, 12),
    st.sampled_from([{}, {"all": True}, {"peer": "Clinic 1"}, {"to_check": True}]),
)
def test_pages_of_studies_are_the_list(
    node: Node, size: int, limit: int | None, chosen: dict[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        whole = _names(_pages(node, "studies", limit=limit, **chosen), "studies", "where", "study")
        patched.setattr(images, "PAGE_STUDIES", size)
        pages = _pages(node, "studies", limit=limit, **chosen)
        found = _names(pages, "studies", "where", "study")
    assert found == whole
    assert len(set(found)) == len(found)
    assert all(len(page["studies"]) <= size for page in pages)
    most = 100 if limit is None else limit
    own, others = min(OWN, most), min(ANNOUNCED, most)
    expected = {(): own, ("all",): own + others, ("peer",): min(3, most), ("to_check",): 0}
    assert len(found) == expected[tuple(chosen)]


@pytest.mark.parametrize(
    ("sought", "own", "others"),
    [
        ({"name": "pat made"}, OWN, 0),
        ({"name": "MADE^1"}, 1, 0),
        ({"modality": "ct"}, OWN, ANNOUNCED),
        ({"modality": "MR"}, 0, 0),
        ({"patient_id": "PID0000003"}, 1, 0),
        ({"patient_id": "PID0000003", "issuer": "NORTH"}, 0, 0),
        ({"birth_date": "1960-01-01", "accession_number": "ACC0000002"}, 1, 0),
        ({"study_date": "2026-01-01"}, 0, 3),
        ({"study_date": "20251231..2026-01-02"}, 0, ANNOUNCED),
        ({"study_date": "..20251231"}, OWN, 0),
    ],
)
def test_pages_of_a_search_are_what_it_finds(
    node: Node, monkeypatch: pytest.MonkeyPatch, sought: dict[str, Any], own: int, others: int
) -> None:
    monkeypatch.setattr(images, "PAGE_STUDIES", 4)
    pages = _pages(node, "studies", all=True, **sought)
    found = _names(pages, "studies", "where", "study")
    assert len(set(found)) == len(found)
    assert [sum(where == "own" for where, _ in found), len(found)] == [own, own + others]
    assert {page["total"] for page in pages} == {own + others}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"issuer": "NORTH"}, "issuer"),
        ({"name": "^"}, "letter"),
        ({"name": "ʹ"}, "letter"),
        ({"birth_date": "2026-02-30"}, "birth date"),
        ({"birth_date": "1.2.1970"}, "birth date"),
        ({"birth_date": "20-260101"}, "birth date"),
        ({"study_date": ".."}, "study date"),
        ({"study_date": "20260102..20260101"}, "before"),
        ({"study_date": "²0260101"}, "study date"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    node: Node, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(NodeError, match=message) as caught:
        _ask(node, "studies", **wrong)
    assert caught.value.code is ExitCode.USAGE
    assert not any(value in caught.value.message for value in wrong.values())


@pytest.mark.parametrize("size", range(1, 30))
def test_pages_of_transfers_are_the_list(
    node: Node, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    rows = node.database.query("SELECT transfer, started FROM transfers WHERE direction = 'in'")
    wanted = {row["transfer"].hex() for row in rows}
    monkeypatch.setattr(transfer, "PAGE_TRANSFERS", size)
    pages = _pages(node, "transfers")
    found = _names(pages, "transfers", "started", "direction", "transfer")
    assert len(set(found)) == len(found)
    assert [one[0] for one in found] == sorted((one[0] for one in found), reverse=True)
    assert {name for _, direction, name in found if direction == "in"} == wanted
    for page in pages:
        refused = [one for one in page["transfers"] if one["direction"] == "out"]
        assert len(refused) <= size // 10


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.integers(1, 30),
    st.none() | st.integers(0, 60),
    st.sampled_from([{}, {"type": "shared"}, {"study": "1.9.1"}, {"peer": "Clinic 1"}]),
)
def test_pages_of_the_log_are_the_log(
    node: Node, size: int, last: int | None, chosen: dict[str, Any]
) -> None:
    every = _names(_pages(node, "audit.show", **chosen), "entries", "index")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(log, "PAGE_ENTRIES", size)
        pages = _pages(node, "audit.show", last=last, **chosen)
    found = _names(pages, "entries", "index")
    assert found == (every if last is None else every[len(every) - min(last, len(every)) :])
    assert all(len(page["entries"]) <= size for page in pages)
    assert {page["size"] for page in pages} == {node.audit.size}


def test_a_page_of_the_log_has_few_bytes_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _names(_pages(node, "audit.show"), "entries", "index")
    monkeypatch.setattr(log, "PAGE_BYTES", 1000)
    pages = _pages(node, "audit.show")
    assert len(pages) > 5
    assert _names(pages, "entries", "index") == whole


def test_what_comes_between_two_pages_of_the_log_is_for_the_next_question(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PAGE_ENTRIES", 10)
    first = _ask(node, "audit.show", last=12)
    node.audit.append(Event(type="shared"))
    second = _ask(node, "audit.show", last=12, after=first["next"])
    assert (len(first["entries"]), len(second["entries"]), second["next"]) == (10, 2, None)


@pytest.mark.slow
@given(st.lists(st.text(max_size=5) | st.integers(0, 2**63 - 1), max_size=5))
def test_a_cursor_is_read_as_it_was_written(place: list[str | int]) -> None:
    kinds_ = [type(part) for part in place]
    assert place_of(cursor(*place), *kinds_) == place
    with pytest.raises(NodeError, match="after") as caught:
        place_of(cursor(*place), *kinds_, str)
    assert caught.value.code is ExitCode.USAGE


@given(st.sampled_from(["studies", "transfers", "audit.show", "match.list"]), st.text(max_size=60))
def test_what_is_no_cursor_is_an_error(node: Node, operation: str, after: str) -> None:
    with pytest.raises(NodeError) as caught:
        _ask(node, operation, after=after)
    assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize("bad", [cursor(1, "in", "zz", "00"), cursor(2**63, "in", "", "")])
def test_a_cursor_that_was_tampered_with_is_an_error(node: Node, bad: str) -> None:
    with pytest.raises(NodeError, match="the parameter after"):
        _ask(node, "transfers", after=bad)


def test_each_operation_with_a_cursor_is_here() -> None:
    paged = {one.name for one in TABLE if "after" in kinds(one.parameters)}
    assert paged == {"studies", "transfers", "audit.show", "match.list"}


# --- who gathers them -----------------------------------------------------------------------


def _gather(home: Home) -> dict[str, Any]:
    return call(home, "audit.show", {"type": "checkpoint-heartbeat"}, listed="entries")


async def _gather_from_node(node: Node) -> dict[str, Any]:
    async with trio.open_nursery() as nursery:
        ready = trio.Event()
        nursery.start_soon(serve_api, node, None, node.home.socket_path, ready.set)
        await ready.wait()
        found = await trio.to_thread.run_sync(_gather, node.home)
        nursery.cancel_scope.cancel()
    return found


def test_a_client_gathers_pages_with_and_without_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.create(tmp_path / "home", name="North")
    monkeypatch.setattr(log, "PAGE_ENTRIES", 3)
    with Node.open(home) as node:
        for _ in range(11):
            node.audit.append(Event(type="checkpoint-heartbeat"))
        with_node = trio.run(_gather_from_node, node)
    for found in (with_node, _gather(home)):
        assert [entry["index"] for entry in found["entries"]] == list(range(1, 12))
        assert "next" not in found
