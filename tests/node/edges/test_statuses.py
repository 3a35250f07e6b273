"""What a sender is told of each image: a row of the table each, told to a real sender."""

from pathlib import Path

import pytest
import trio
from arrivals_made import part10, pieces
from dimse_made import CALLERS, Listening, data_set, listening, send_all
from pydicom.dataset import Dataset
from studies_made import make_instance

from node.edges import statuses
from node.edges.statuses import STORE_STATUSES, StoreStatus, status_of
from node.errors import ExitCode, NodeError
from node.images import arrivals as arrivals_module
from node.images.arrival_work import Became, Outcome

STUDY = "1.2.826.0.1.3680043.8.498.5"
TAKEN, KNOWN, RETURNED, ASIDE, QUARANTINED, REFUSED, FULL = STORE_STATUSES


def instance(number: int = 1, *, seed: int = 0) -> Dataset:
    return make_instance(STUDY, number, rows=16, seed=seed)


def cut() -> Dataset:
    """An instance that says of which patient and study it is not."""
    found = instance(1)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "PatientID"):
        delattr(found, name)
    return found


async def sent(to: Listening, *instances: Dataset) -> list[tuple[int, str]]:
    return await trio.to_thread.run_sync(lambda: send_all(to.port, instances))


def told(*rows: StoreStatus) -> list[tuple[int, str]]:
    return [(one.status, one.comment) for one in rows]


async def test_new_known_and_other_bytes(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north:
        assert await sent(north, instance(1), instance(2)) == told(TAKEN, TAKEN)
        other = instance(1, seed=1)
        assert await sent(north, instance(1), other, instance(2)) == told(KNOWN, ASIDE, KNOWN)
        # Sent again, it is set aside again: nobody has decided about it.
        assert await sent(north, other) == told(ASIDE)
        assert north.server.counts.images == {"success": 4, "warning": 2}
        assert north.arrivals.describe()["instances"] >= 3
    assert [one.status for one in (TAKEN, KNOWN, ASIDE)] == [0, 0, 0xB007]


async def test_what_is_not_understood_is_in_quarantine(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north:
        assert await sent(north, instance(2), cut(), instance(3)) == told(TAKEN, QUARANTINED, TAKEN)
        [kept] = north.quarantined
        assert kept.endswith(data_set(cut()))
        assert QUARANTINED.status == 0xC000
        assert north.server.counts.images == {"success": 2, "failure": 1}


@pytest.mark.parametrize("rows", [16, 700])
async def test_what_is_sent_under_another_uid_is_in_quarantine(tmp_path: Path, rows: int) -> None:
    """Its sender would ask for it by a UID that is not here."""
    async with listening(tmp_path / "north") as north:
        content = part10(1, study=STUDY, rows=rows)
        async with north.arrivals.association("dimse:CT1") as association:
            became = await association.take(pieces(content, 100_000), named="1.2.3.4")
            assert (became.outcome, status_of(became)) == (Outcome.QUARANTINED, QUARANTINED)
            assert became.reason == "it was sent as another SOP Instance UID than it has"
            [kept] = north.quarantined
            assert kept == content
            name = make_instance(STUDY, 1, rows=16).SOPInstanceUID
            became = await association.take(pieces(content, 100_000), named=str(name))
            assert became.outcome is Outcome.TAKEN


async def test_what_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals_module, "SMALL_BYTES", 5000)
    monkeypatch.setattr(arrivals_module, "INSTANCE_BYTES", 50_000)
    async with listening(tmp_path / "north") as north:
        large = make_instance(STUDY, 2, rows=800)
        assert await sent(north, large, instance(3)) == told(REFUSED, TAKEN)
        assert len(north.spooled) == 1
        assert north.quarantined == []
    assert REFUSED.status == 0xC000


async def test_a_full_disk_is_told_and_sent_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(wanted: int) -> None:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    async with listening(tmp_path / "north") as north:
        assert await sent(north, instance(1)) == told(TAKEN)
        with monkeypatch.context() as patch:
            patch.setattr(north.node.store, "require_free", full)
            assert await sent(north, instance(2), instance(1)) == told(FULL, KNOWN)
        assert await sent(north, instance(2)) == told(TAKEN)
    assert FULL.status == 0xA700


async def test_a_log_that_takes_no_entry_is_told(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north:
        north.node.audit.halt.reason = NodeError("the log is damaged", code=ExitCode.INTEGRITY)
        assert await sent(north, instance(1), instance(2)) == told(FULL, FULL)
        north.node.audit.halt.reason = None
        assert await sent(north, instance(1)) == told(TAKEN)


async def test_too_many_at_once_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals_module, "TAKES", 0)
    async with listening(tmp_path / "north") as north:
        assert await sent(north, instance(1)) == told(FULL)


# --- who may call ----------------------------------------------------------------------

NO_CALLING, NO_CALLED = "1 1 3", "1 1 7"


@pytest.mark.parametrize(
    ("calling", "called", "numbers", "why"),
    [
        ("CT9", "RADMESH", NO_CALLING, "the caller's AE title is not in the settings"),
        ("ct1", "RADMESH", NO_CALLING, "the caller's AE title is not in the settings"),
        ("PACS", "RADMESH", NO_CALLING, "this caller calls from elsewhere than the settings say"),
        ("CT1", "RM_WEST", NO_CALLED, "there is no door of the called AE title"),
        ("CT1", "radmesh", NO_CALLED, "there is no door of the called AE title"),
        ("CT9", "RM_WEST", NO_CALLING, "the caller's AE title is not in the settings"),
    ],
)
async def test_who_may_not_call_is_rejected(
    tmp_path: Path, calling: str, called: str, numbers: str, why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def call() -> object:
        return send_all(north.port, [instance(1)], calling=calling, called=called)

    async with listening(tmp_path / "north") as north:
        with pytest.raises(ConnectionError, match=numbers):
            await trio.to_thread.run_sync(call)
        await north.quiet()
        assert north.server.counts.refused == {why: 1}
        assert north.server.counts.associations == 0
        assert f"an association from 127.0.0.1 is refused: {why}" in caplog.text
        assert not north.arrivals.describe()["instances"]


async def test_more_associations_than_may_be_are_refused_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node.edges import dimse_server

    monkeypatch.setattr(dimse_server, "ASSOCIATIONS", 0)
    async with listening(tmp_path / "north", callers=CALLERS) as north:
        with pytest.raises(ConnectionError, match="2 3 2"):
            await sent(north, instance(1))
        monkeypatch.setattr(dimse_server, "ASSOCIATIONS", 1)
        assert await sent(north, instance(1)) == told(TAKEN)


# --- the table -------------------------------------------------------------------------


def test_each_outcome_has_a_row_and_each_row_an_outcome() -> None:
    rows = [status_of(Became(one)) for one in Outcome]
    rows += [status_of(NodeError("", code=code)) for code in ExitCode]
    assert set(rows) == set(STORE_STATUSES)
    assert status_of(NodeError("", code=ExitCode.REFUSED)) is REFUSED
    assert status_of(NodeError("", code=ExitCode.DISK)) is FULL
    for one in STORE_STATUSES:
        # Classes of PS3.4 table B.2-1 and PS3.7 annex C.
        kind = {0x0: "success", 0xB: "warning", 0xA: "failure", 0xC: "failure"}
        assert one.kind == kind[one.status >> 12]
        assert len(one.comment) <= 64
        assert (one.comment == "") == (one.kind == "success")
    assert {one.kind for one in (TAKEN, KNOWN, RETURNED)} == {"success"}
    for one in STORE_STATUSES:
        assert f"| {one.status:04X} | {one.kind} | {one.when} |" in statuses.document()
