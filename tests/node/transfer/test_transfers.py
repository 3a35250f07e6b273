"""The register of transfers: a peer's choice of an id touches no row but its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from clocks_made import MadeClock
from hypothesis import given
from hypothesis import strategies as st

from node.blocking import in_thread
from node.callers import SERVICE, Caller, asked_by, caller_from
from node.database import Database
from node.transfer.transfers import (
    TRANSFERS_SCHEMA,
    Transfer,
    TransferKey,
    Transfers,
    TransferState,
)

STUDY = "1.2.3"
NORTH, SOUTH = b"N" * 32, b"S" * 32
SAME = b"t" * 16


@pytest.fixture
def transfers(tmp_path: Path) -> Transfers:
    return Transfers(Database(tmp_path / "node.db", (TRANSFERS_SCHEMA,)), clock=MadeClock())


async def test_a_source_cannot_end_our_fetch_by_asking_under_its_id(transfers: Transfers) -> None:
    fetch = transfers.begin_incoming(STUDY, NORTH, "treatment", only_peer=False, stat=False)
    await transfers.enter(fetch, TransferState.RECEIVING)
    # North knows the id, since we named it, and now asks us for something under the same.
    asked = Transfer(fetch.transfer, "out", "9.9.9", NORTH, "treatment")
    await transfers.enter(asked, TransferState.REFUSED, "no grant")
    assert transfers.find_incoming(STUDY, NORTH, only_peer=False) is fetch
    assert [one.transfer for one in transfers.unfinished_incoming()] == [fetch.transfer]
    assert transfers.is_under_way(NORTH, fetch.transfer, outgoing=False)
    assert not transfers.is_under_way(NORTH, fetch.transfer, outgoing=True)
    assert {one.direction for one in transfers.recent()} == {"in", "out"}


async def test_two_peers_may_choose_one_id(transfers: Transfers) -> None:
    first, second = (Transfer(SAME, "out", STUDY, peer, "treatment") for peer in (NORTH, SOUTH))
    await transfers.enter(first, TransferState.SENDING)
    await transfers.enter(second, TransferState.SENDING)
    transfers.serve(NORTH, SAME, begins=True)
    await transfers.enter(second, TransferState.COMPLETE)
    assert transfers.is_under_way(NORTH, SAME, outgoing=True)
    assert not transfers.is_under_way(SOUTH, SAME, outgoing=True)


def _kept(transfers: Transfers) -> list[str]:
    rows = transfers._database.query("SELECT asked_by FROM transfers ORDER BY study")
    return [row["asked_by"] for row in rows]


def _bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.glob("node.db*"))


def _begin(transfers: Transfers, study: str, *, follow_up: bool = False) -> Transfer:
    return transfers.begin_incoming(
        study, NORTH, "treatment", only_peer=False, stat=False, follow_up=follow_up
    )


async def test_who_asked_is_kept_until_the_fetch_is_over(transfers: Transfers) -> None:
    anna = Caller("person", "anna", role="send", display="Dr. Anna", person="01")
    with asked_by(anna):
        hers, followed = _begin(transfers, "1"), _begin(transfers, "3", follow_up=True)
    service = _begin(transfers, "2")
    for fetch in (hers, service, followed):
        await transfers.enter(fetch, TransferState.WAITING)
    assert _kept(transfers) == ["anna^^^send^^^Dr. Anna", "", ""]
    again = {one.study: caller_from(one.asked_by) for one in transfers.unfinished_incoming()}
    assert again == {"1": replace(anna, person=""), "2": SERVICE, "3": SERVICE}
    await transfers.enter(hers, TransferState.COMPLETE)
    assert _kept(transfers) == ["", "", ""]


async def test_a_person_is_forgotten_and_the_fetch_goes_on(
    transfers: Transfers, tmp_path: Path
) -> None:
    for study, caller in (
        ("1", Caller("person", "anna", role="send", display="Dr. Anna")),
        ("2", Caller("person", "anna")),
        ("3", Caller("person", "anna.b", role="send")),
    ):
        with asked_by(caller):
            await transfers.enter(_begin(transfers, study), TransferState.WAITING)
    await in_thread(transfers.forget_persons, ["anna"])
    assert _kept(transfers) == ["", "", "anna.b^^^send^^^"]
    for one in list(transfers.active.values()):
        await transfers.enter(one, TransferState.REQUESTING)
    assert _kept(transfers) == ["", "", "anna.b^^^send^^^"], "nor does it come back"
    assert len(transfers.unfinished_incoming()) == 3
    assert b"Dr. Anna" not in _bytes(tmp_path)


ACTS = st.tuples(
    st.sampled_from(["in", "out"]),
    st.sampled_from([NORTH, SOUTH]),
    st.sampled_from([SAME, b"u" * 16]),
    st.sampled_from(list(TransferState)),
)


@given(acts=st.lists(ACTS, max_size=20))
def test_no_message_changes_a_row_of_another_direction_or_peer(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, bytes, bytes, TransferState]]
) -> None:
    database = Database(tmp_path_factory.mktemp("acts") / "node.db", (TRANSFERS_SCHEMA,))
    transfers = Transfers(database, clock=MadeClock())

    known: dict[TransferKey, Transfer] = {}

    async def run() -> None:
        for direction, peer, name, state in acts:
            before = {one.key: one.state for one in transfers.recent()}
            new = Transfer(name, direction, STUDY, peer, "treatment")
            one = known.setdefault(new.key, new)
            await transfers.enter(one, state)
            after = {one.key: one.state for one in transfers.recent()}
            before.pop(one.key, None)
            assert after.pop(one.key) is state
            assert after == before

    trio.run(run)
    database.close()
