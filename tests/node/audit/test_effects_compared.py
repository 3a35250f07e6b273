"""Entries and their effects compared at a start: exactly what has none is mended or said."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from clocks_made import MadeClock
from facility_in_memory import entries

from node.app import Node
from node.audit.effects import Effects, once
from node.errors import NodeError
from node.home import Home
from protocol.log.entry import Entry, Event, decode_entry_untrusted

PEER = b"p" * 32
GIVEN = Event(
    type="shared", actor="operator", peer=PEER, purpose="treatment", subjects=(("study", "1.2.3"),)
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as opened:
        opened.effects.compare({})
        yield opened


def _compared(node: Node, **handlers: object) -> list[dict[str, object]]:
    """What a comparison adds to the log."""
    size = node.audit.size
    Effects(node.database, node.audit).compare(handlers)  # type: ignore[arg-type]
    return entries(node)[size:]


def test_an_entry_without_effect_is_said_to_have_failed_once(node: Node) -> None:
    index = node.audit.append(GIVEN)
    [failed] = _compared(node)
    assert (failed["type"], failed["outcome"]) == ("shared", "failed")
    assert failed["details"] == {"of": index, "why": "the node ended before it took effect"}
    assert (failed["actor"], failed["peer"]) == ("operator", PEER.hex())
    assert failed["purpose"] == "treatment"
    [encoded] = node.audit.entries(index + 1)
    [(_, commitment)] = decode_entry_untrusted(encoded).subjects
    opened = node.audit.opening_of(commitment)
    assert opened is not None
    assert (opened.kind, opened.value) == ("study", "1.2.3")
    assert _compared(node) == []


def test_only_changes_that_have_an_entry_first_are_compared(node: Node) -> None:
    for kind in ("requested", "disclosed", "received", "announced"):
        node.audit.append(Event(type=kind, peer=PEER))
    assert _compared(node) == []


def _nothing(connection: sqlite3.Connection) -> None:
    assert connection.in_transaction


def _full(connection: sqlite3.Connection) -> None:
    raise NodeError("the disk is full")


@pytest.mark.parametrize("outcome", ["refused", "failed"])
def test_what_did_not_succeed_needs_no_effect(node: Node, outcome: str) -> None:
    node.audit.append(Event(type="ingest", outcome=outcome))
    assert _compared(node) == []


def test_what_took_effect_or_was_said_to_have_failed_is_left_alone(node: Node) -> None:
    node.effects.after_entry(GIVEN, _nothing)
    with pytest.raises(NodeError):
        node.effects.after_entry(GIVEN, _full)
    assert entries(node)[-1]["details"]["why"] == "the disk is full"
    assert _compared(node) == []


def test_an_entry_inside_a_transaction_is_written_once_unless_it_becomes_another(
    node: Node,
) -> None:
    size, entry_of = node.audit.size, once(node.audit.append)
    for _ in range(2):
        node.database.transact(lambda connection: node.effects.mark(connection, entry_of(GIVEN)))
    assert node.audit.size == size + 1
    assert _compared(node) == []
    # It says something else at the second run: what was said first has no effect.
    events, entry_of = [GIVEN, Event(type="shared")], once(node.audit.append)
    indexes = [entry_of(event) for event in (*events, events[1])]
    assert indexes[1] == indexes[2]
    node.database.transact(lambda connection: node.effects.mark(connection, indexes[1]))
    [failed] = _compared(node)
    assert failed["details"]["of"] == indexes[0]  # type: ignore[index]


def test_what_failed_is_of_one_entry_and_no_other(node: Node) -> None:
    first, second = node.audit.append(GIVEN), node.audit.append(GIVEN)
    node.audit.append(Event(type="shared", outcome="failed", details={"of": first}))
    node.audit.append(Event(type="shared", outcome="failed", details={"of": "nonsense"}))
    [failed] = _compared(node)
    assert failed["details"]["of"] == second  # type: ignore[index]


@pytest.mark.parametrize("done", [True, False])
def test_a_handler_makes_it_true_or_it_has_failed(node: Node, done: bool) -> None:
    index, asked = node.audit.append(GIVEN), []

    def handler(entry: Entry, connection: sqlite3.Connection) -> bool:
        assert connection.in_transaction
        asked.append(entry.index)
        return done

    told = _compared(node, shared=handler)
    assert set(asked) == {index}
    asked.clear()
    assert [entry["outcome"] for entry in told] == ([] if done else ["failed"])
    assert _compared(node, shared=handler) == []
    assert asked == []


def test_a_home_without_the_register_is_taken_as_it_is(node: Node) -> None:
    node.audit.append(GIVEN)
    node.database.transact(lambda connection: connection.execute("DELETE FROM effects_compared"))
    assert _compared(node) == []
    node.audit.append(GIVEN)
    assert len(_compared(node)) == 1, "from then on it is"


def test_what_is_no_entry_is_passed_over(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    index, read = node.audit.append(GIVEN), node.audit.entries

    def damaged(start: int, end: int) -> Iterator[bytes]:
        yield b'{"type":"shared"'
        yield from read(start, end)

    monkeypatch.setattr(node.audit, "entries", damaged)
    size = node.audit.size
    Effects(node.database, node.audit).compare({})
    monkeypatch.undo()
    assert [entry["details"].get("of") for entry in entries(node)[size:]] == [index]


def test_the_register_keeps_nothing_that_was_compared(node: Node) -> None:
    node.effects.after_entry(GIVEN, _nothing)
    assert node.database.query("SELECT * FROM effects")
    _compared(node)
    assert not node.database.query("SELECT * FROM effects")
    [row] = node.database.query("SELECT size FROM effects_compared")
    assert row["size"] == node.audit.size
