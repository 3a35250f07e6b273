"""What is kept about people is in one table, and goes by age only where a setting says so."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other
from places import ROOT

from keys.fingerprint import parse_fingerprint
from node.app import Node
from node.fsck.check import check_home
from node.home import Home
from node.images.quarantine import Quarantine
from node.operations import OPERATIONS, Call
from node.retention import RETENTION, WITHOUT_PEOPLE, Kept
from node.setting_rows import SETTINGS
from node.transfer.transfers import TransferState
from protocol.log.entry import Entry, Event, decode_entry_untrusted
from protocol.verify import Code, verify_bundle

DAY = 24 * 3600
OLD, YOUNG = "1.2.3.1", "1.2.3.2"


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def node(tmp_path: Path, clock: MadeClock) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as opened:
        yield opened


def _set(node: Node, **days: int) -> None:
    kept = dataclasses.replace(node.settings.retention, **days)
    node.settings = dataclasses.replace(node.settings, retention=kept)


def _run(node: Node, *, apply: bool) -> dict[str, dict[str, Any]]:
    answer = trio.run(OPERATIONS["retention"].answer, Call(node), {"apply": apply})
    assert answer["applied"] is apply
    return {one["name"]: one for one in answer["kept"]}


def _entries(node: Node, kind: str) -> list[Entry]:
    found = [decode_entry_untrusted(data) for data in node.audit.entries()]
    return [entry for entry in found if entry.type == kind]


def _act(node: Node, clock: MadeClock, study: str) -> None:
    """An exchange of a study now: its entry, a transfer that ends, a file that is set aside."""
    peer = Other("South", clock.now()).key
    subjects = (("study", study), ("patient", "4711"))
    node.audit.append(Event(type="requested", peer=peer, subjects=subjects))
    trio.run(_transfer, node, study, peer)
    path = node.home.path / study
    path.write_bytes(study.encode())
    kept = Quarantine(node.home.quarantine_path, now=clock.now())
    assert kept.keep(path, "no DICOM", free_bytes=1 << 30)


async def _transfer(node: Node, study: str, peer: bytes) -> None:
    transfer = node.transfers.begin_incoming(study, peer, "treatment", only_peer=True, stat=False)
    await node.transfers.enter(transfer, TransferState.CANCELLED)


def _opened(node: Node) -> set[str]:
    return {opening.value for _, opening in node.audit.evidence.openings(node.audit.size)}


def _left(node: Node) -> tuple[set[str], set[str], int]:
    transfers = {one.study for one in node.transfers.recent()}
    return _opened(node) & {OLD, YOUNG}, transfers, len(node.set_aside.all())


@pytest.fixture
def aged(node: Node, clock: MadeClock) -> Node:
    """A node with something that is a hundred days old, and something of today."""
    _act(node, clock, OLD)
    clock.move(100 * DAY)
    _act(node, clock, YOUNG)
    return node


def test_without_a_setting_nothing_goes(aged: Node) -> None:
    before, size = _left(aged), aged.audit.size
    assert all(not one["due"] and not one["entries"] for one in _run(aged, apply=True).values())
    assert _left(aged) == before == ({OLD, YOUNG}, {OLD, YOUNG}, 2)
    assert aged.audit.size == size


def test_a_dry_run_says_what_would_go_and_changes_nothing(aged: Node) -> None:
    _set(aged, openings_days=90, transfers_days=90, quarantine_days=90)
    before, size = _left(aged), aged.audit.size
    kept = _run(aged, apply=False)
    assert {name: one["due"] for name, one in kept.items() if one["due"]} == {
        "openings": 2,
        "transfers": 1,
        "quarantine": 1,
    }
    assert (_left(aged), aged.audit.size) == (before, size)


def test_what_is_old_goes_behind_its_entry_and_what_is_young_stays(aged: Node) -> None:
    _set(aged, openings_days=90, transfers_days=90, quarantine_days=90)
    kept = _run(aged, apply=True)
    assert _left(aged) == ({YOUNG}, {YOUNG}, 1)
    [erased] = _entries(aged, "erased")
    assert (erased.details["kind"], erased.details["openings"]) == ("before", 2)
    [applied] = _entries(aged, "retention-applied")
    assert (applied.details["what"], applied.details["count"]) == ("transfers", 1)
    [dropped] = _entries(aged, "quarantine-dropped")
    assert dropped.details["reason"] == "retention"
    assert kept["openings"]["entries"] == [erased.index]
    assert kept["transfers"]["entries"] == [applied.index]
    assert kept["quarantine"]["entries"] == [dropped.index]
    # Nothing is left to go, so nothing more is logged.
    size = aged.audit.size
    assert not any(one["due"] for one in _run(aged, apply=True).values())
    assert aged.audit.size == size


def test_the_list_of_transfers_never_says_what_an_old_entry_was_about(aged: Node) -> None:
    """The log names transfers, so the list goes with the openings, whatever its own setting."""
    for days in (0, 1000):
        _set(aged, openings_days=90, transfers_days=days)
        assert _run(aged, apply=False)["transfers"]["due"] == 1
    _run(aged, apply=True)
    assert _left(aged)[1] == {YOUNG}


def test_the_edge_of_a_day(node: Node, clock: MadeClock) -> None:
    _act(node, clock, OLD)
    _set(node, openings_days=1, transfers_days=1, quarantine_days=1)
    clock.move(DAY)
    assert not any(one["due"] for one in _run(node, apply=False).values())
    clock.move(1)
    kept = _run(node, apply=False)
    assert [kept[name]["due"] for name in ("openings", "transfers", "quarantine")] == [2, 1, 1]


def test_an_erasure_by_age_that_a_crash_cut_short_is_finished(
    aged: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(aged, openings_days=90)

    class Killed(Exception):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("node.audit.erasing._finish", die)
    with pytest.raises(Killed):
        _run(aged, apply=True)
    monkeypatch.undo()
    assert OLD in _opened(aged)
    home, clock = aged.home, aged.clock
    aged.close()
    with Node.open(Home(home.path, clock=clock)) as again:
        assert _opened(again) & {OLD, YOUNG} == {YOUNG}
        assert len(_entries(again, "erased")) == 1


def test_the_log_verifies_afterwards_and_the_home_is_sound(aged: Node, tmp_path: Path) -> None:
    _set(aged, openings_days=90, transfers_days=90, quarantine_days=90)
    _run(aged, apply=True)
    bundle = tmp_path / "log.zip"
    trio.run(OPERATIONS["audit.export"].answer, Call(aged), {"path": str(bundle)})
    with bundle.open("rb") as file:
        verdict = verify_bundle(file, facility_fingerprint=parse_fingerprint(aged.card.fingerprint))
    assert verdict.code == Code.OK
    home, now = aged.home.path, aged.clock.now()
    aged.close()
    report = check_home(home, now=now, fast=False)
    assert [one.kind for one in report.findings] == []


# --- the table -------------------------------------------------------------------------


def test_each_table_of_the_databases_has_its_row() -> None:
    """One that holds something about people, or none; the owners are those of test_sql.py."""
    text = (ROOT / "tests/project/test_sql.py").read_text()
    owners = text[text.index("OWNERS = {") : text.index('"""Who owns which tables')]
    owned = set(re.findall(r'"([a-z_]+)"(?=[,}\s])', owners))
    rows = [table for row in RETENTION for table in row.tables]
    assert len(rows) == len(set(rows))
    assert not set(rows) & WITHOUT_PEOPLE.keys()
    assert {*rows, *WITHOUT_PEOPLE} == owned


def test_each_setting_belongs_to_a_row_and_keeps_all_unless_somebody_sets_it() -> None:
    settings = {row.name: row.default for row in SETTINGS if row.table == "retention"}
    named = {row.setting for row in RETENTION if row.setting}
    assert named == settings.keys()
    assert set(settings.values()) == {0}
    assert all((row.ageing is not None) == bool(row.setting) for row in RETENTION)


def _inventory() -> list[list[str]]:
    text = (ROOT / "docs/data-protection.md").read_text()
    part = text[text.index("| what | holds |") :].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_inventory_is_this_table() -> None:
    assert _inventory() == [
        [f"`{row.name}`", row.holds, row.place, row.purpose, row.readers, _kept(row)]
        for row in RETENTION
    ]


def _kept(row: Kept) -> str:
    return f"{row.kept} (`{row.setting}`)" if row.setting else row.kept
