"""Sharing and withdrawing: one entry each, its effect, and what a start makes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clocks_made import MadeClock
from facility_in_memory import entries, publish_study

from node.app import Node
from node.catalog.catalog import CATALOG_SCHEMA, Catalog
from node.database import Database
from node.errors import ExitCode, NodeError
from node.home import Home
from protocol.log.entry import Entry, Event, decode_entry_untrusted
from protocol.recalls import RETENTION


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North", clock=MadeClock())


@pytest.fixture
def north(home: Home) -> Iterator[Node]:
    with Node.open(home) as node:
        yield node


def _state(node: Node, study: str) -> str:
    row = node.catalog.study(study)
    assert row is not None
    return row.state


def _full(event: Event) -> int:
    raise NodeError("the disk is full", code=ExitCode.DISK)


def _last(node: Node) -> Entry:
    [encoded] = node.audit.entries(node.audit.size - 1)
    return decode_entry_untrusted(encoded)


def test_a_study_is_withdrawn_and_shared_again_with_an_entry_each(north: Node) -> None:
    study = publish_study(north, instances=1)
    root = north.catalog.find_study(study).content_root.hex()
    details = {"reason": "113037", "text": "wrong patient"}
    withdrawn = north.shared_studies.withdraw(study, details)
    assert (withdrawn.study_uid, withdrawn.state) == (study, "withheld")
    assert _state(north, study) == "withheld"
    shared = north.shared_studies.share(study)
    assert (shared.study_uid, shared.state) == (study, "shared")
    assert _state(north, study) == "shared"
    told = entries(north, "withdrawn", "shared")
    assert [entry["type"] for entry in told] == ["withdrawn", "shared"]
    assert told[0]["details"] == {"content_root": root, **details}
    assert told[1]["details"] == {"content_root": root}
    assert {entry["actor"] for entry in told} == {"operator"}
    openings = [north.audit.opening_of(commitment) for _, commitment in _last(north).subjects]
    assert {(one.kind, one.value) for one in openings if one is not None} == {
        ("study", study),
        *(("patient", one) for one in north.catalog.patients(study)),
    }


def test_what_is_so_already_is_no_entry(north: Node) -> None:
    study = publish_study(north, instances=1)
    size = north.audit.size
    assert north.shared_studies.share(study).state == "shared"
    assert north.audit.size == size
    north.shared_studies.withdraw(study)
    assert north.shared_studies.withdraw(study).state == "withheld"
    assert north.audit.size == size + 1
    assert north.shared_studies.unwritten == ()


def test_a_withdrawal_holds_back_no_longer_than_it_must(north: Node) -> None:
    """Once it is written the table decides: what is shared again is had again."""
    study = publish_study(north, instances=1)
    north.shared_studies.withdraw(study)
    north.shared_studies.share(study)
    assert not north.catalog.is_held_back(study)
    assert _state(north, study) == "shared"


def test_what_had_its_effect_is_left_alone_by_the_next_start(home: Home) -> None:
    with Node.open(home) as node:
        study = publish_study(node, instances=1)
        node.shared_studies.withdraw(study)
        node.shared_studies.share(study)
        size = node.audit.size
    with Node.open(home) as again:
        # The withdrawal has its mark, so that it is not made true a second time.
        assert _state(again, study) == "shared"
        assert not [
            entry for entry in entries(again)[size:] if entry["type"] in ("withdrawn", "shared")
        ]


def _made_true(node: Node, entry: Entry) -> bool:
    return node.database.transact(
        lambda connection: node.shared_studies.make_true(entry, connection)
    )


def test_a_withdrawal_of_a_study_that_is_unknown_here_cannot_be_made_true(
    north: Node, tmp_path: Path
) -> None:
    study = publish_study(north, instances=1)
    north.shared_studies.withdraw(study)
    entry = _last(north)
    north.shared_studies.share(study)
    assert _made_true(north, entry)
    assert _state(north, study) == "withheld"
    catalog = north.shared_studies._catalog
    north.shared_studies._catalog = Catalog(
        Database(tmp_path / "empty.db", (CATALOG_SCHEMA,)), clock=north.clock.now
    )
    assert not _made_true(north, entry)
    north.shared_studies._catalog = catalog
    # After an erasure nothing says which study it was.
    nameless = Entry(**{**entry.__dict__, "subjects": ()})
    assert not _made_true(north, nameless)


def test_a_withdrawal_that_was_not_written_does_not_outlive_its_study(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Discarded meanwhile, there is nothing left to withhold: others can be shared again."""
    study = publish_study(north, instances=1)
    with monkeypatch.context() as full:
        full.setattr(north.audit, "append", _full)
        with pytest.raises(NodeError, match="held back"):
            north.shared_studies.withdraw(study)
    north.discards.discard(study, RETENTION)
    assert north.catalog.is_held_back(study), "by the withdrawal, which is not written"
    north.shared_studies.write_unwritten()
    assert north.shared_studies.unwritten == ()
    assert [entry["type"] for entry in entries(north)][-2:] == ["discarded", "withdrawn"]
    assert not north.catalog.is_held_back(study)
