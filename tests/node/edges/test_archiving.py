"""Studies go to archives: with dcmtk, Orthanc, our own listener and archives that misbehave."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
import trio
import trio.testing
from archives_made import (
    LOOPBACK,
    OddArchive,
    archive,
    data_set_of,
    receive_study,
    sending,
    states,
    storescp,
    until,
    with_dcmtk,
)
from certificates_made import Authority
from clocks_made import MadeClock
from dimse_made import identity_files, take_in
from facilities import free_port
from facility_in_memory import Other, entries
from orthanc_made import made_orthanc, with_orthanc
from studies_made import make_study

from node.alerts import alerts_of
from node.clock import local_time
from node.dicom.identity import Identity
from node.edges import archiving as archiving_module
from node.edges import dimse_client
from node.edges.archive_queue import (
    DONE,
    DROPPED,
    FAILED,
    SENT,
    STORED,
    TAKEN,
    UNMATCHED,
    WAITS,
    ArchiveStudy,
)
from node.edges.archive_settings import ArchiveSettings
from node.edges.archiving import Archiving
from node.edges.dimse_client import Callee
from node.edges.match_rows import LocalPatient
from node.edges.outgoing import Outgoing
from node.errors import NodeError
from node.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North", listen=(), addresses=())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving_module, "FIRST_PAUSE_SECONDS", 0.05)


def hold(let_go: threading.Event) -> None:
    """Keep an archive from answering, for a time."""
    let_go.wait(20)


def _files(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@with_dcmtk
async def test_a_study_goes_byte_for_byte_and_what_grows_alone_follows(
    home: Home, tmp_path: Path
) -> None:
    port = free_port()
    study = make_study(tmp_path / "in", 5, rows=200)
    with storescp(tmp_path / "scp", port) as landed:
        async with sending(home, archive(port, proof="none")) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [DONE], "it is sent")
            got = _files(landed)
            assert sorted(map(data_set_of, got)) == sorted(
                map(data_set_of, _files(tmp_path / "in"))
            )
            make_study(tmp_path / "more", 2, study=study, first=6)
            for path in landed.iterdir():
                path.unlink()
            await trio.to_thread.run_sync(take_in, node, tmp_path / "more")
            await until(lambda: len(_files(landed)) == 2, "what is new is sent")
            await until(lambda: states(node) == [DONE])
            kinds = [one["type"] for one in entries(node)][-5:]
            assert kinds == ["forward-begun", "forwarded", "ingest", "forward-begun", "forwarded"]
            [first, second] = entries(node, "forward-begun")
            assert (first["details"]["instances"], second["details"]["instances"]) == (5, 2)
            assert first["details"]["archive"] == "PACS"


@with_orthanc
async def test_orthanc_is_asked_and_says_that_all_is_stored(home: Home, tmp_path: Path) -> None:
    orthanc = made_orthanc(tmp_path / "pacs")
    study = make_study(tmp_path / "in", 4)
    with orthanc.running():
        async with sending(home, archive(orthanc.port)) as (node, archiving):
            await archiving.check("PACS")
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [STORED], "it is stored")
            [entry] = entries(node, "stored")
            assert entry["details"]["proven_by"] == "query"
            assert entry["details"]["instances"] == 4
            assert [one.study for one in node.proven_stored()] == [study]
        assert sorted(map(data_set_of, orthanc.files())) == sorted(
            map(data_set_of, _files(tmp_path / "in"))
        )


@with_orthanc
async def test_by_stow_with_a_token_and_qido(home: Home, tmp_path: Path) -> None:
    orthanc = made_orthanc(tmp_path / "pacs")
    make_study(tmp_path / "in", 40, rows=32)
    make_study(tmp_path / "large", 1, rows=2048, frames=3)
    token = tmp_path / "token"
    token.write_text("Basic cmFkbWVzaDpzZWNyZXQ=\n")
    stow = f"http://{LOOPBACK}:{orthanc.http_port}/dicom-web"
    with orthanc.running():
        async with sending(home, archive(stow=stow, token=str(token))) as (node, archiving):
            await archiving.check("PACS")
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await trio.to_thread.run_sync(take_in, node, tmp_path / "large")
            await until(lambda: states(node) == [STORED, STORED], "both are stored")
        assert sorted(map(data_set_of, orthanc.files())) == sorted(
            map(data_set_of, [*_files(tmp_path / "in"), *_files(tmp_path / "large")])
        )


# --- an archive that is not well ----------------------------------------------------------


@with_dcmtk
async def test_an_archive_that_is_down_gets_all_when_it_is_back(home: Home, tmp_path: Path) -> None:
    port = free_port()
    make_study(tmp_path / "one", 3)
    make_study(tmp_path / "two", 2)
    async with sending(home, archive(port, proof="none")) as (node, archiving):
        for folder in ("one", "two"):
            await trio.to_thread.run_sync(take_in, node, tmp_path / folder)
        await until(lambda: archiving.describe()[0]["trouble"], "it is known to be down")
        assert "cannot be reached" in archiving.describe()[0]["trouble"]
        assert states(node) == [WAITS, WAITS]
        # What does not leave is no entry.
        assert not entries(node, "forward-begun", "forward-failed")
        with storescp(tmp_path / "scp", port) as landed:
            archiving.try_now()
            await until(lambda: states(node) == [DONE, DONE], "both are sent")
            assert len(_files(landed)) == 5
        assert archiving.describe()[0]["trouble"] == ""


async def test_one_bad_image_does_not_hold_up_the_others(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 5)
    odd = OddArchive()
    bad = {3: 0xC000, 4: 0xA900}
    odd.answer = lambda uid, _: bad.get(int(uid.rpartition(".")[2]), 0)
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [FAILED], "it is given up")
            assert len(odd.got) == len(set(odd.uids)) == 3
            [failed] = entries(node, "forward-failed")
            assert failed["details"] == {"archive": "PACS", "why": "refused", "refused": 2}
            assert [one["kind"] for one in failed["subjects"]].count("instance") == 2
            assert any("see `radmesh archive`" in one for one in alerts_of(node, None))
            refused = node.archive_queue.refused()
            assert [(one.status, one.tries) for _, _, one in refused] == [(0xC000, 3), (0xA900, 3)]
            assert "status C000H" in refused[0][2].why
            # The archive was repaired.
            odd.answer = lambda uid, _: 0
            assert await trio.to_thread.run_sync(node.archive_queue.retry) == 1
            await until(lambda: states(node) == [STORED], "it is stored")
            assert len(odd.got) == len(set(odd.uids)) == 5


async def test_a_warning_counts_as_sent(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 2)
    odd = OddArchive()
    odd.answer = lambda uid, _: 0xB000
    with odd.running():
        async with sending(home, archive(odd.port, proof="none")) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [DONE])
            [entry] = entries(node, "forwarded")
            assert entry["details"] == {
                "archive": "PACS", "instances": 2, "sent": 2, "warnings": 2,
            }  # fmt: skip


async def test_another_version_goes_too_before_the_study_counts_as_stored(
    home: Home, tmp_path: Path
) -> None:
    """The archive has an image of that UID: not of these bytes, which retention may then remove."""
    study = make_study(tmp_path / "in", 2, rows=16)
    [changed, _] = sorted((tmp_path / "in").iterdir())
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, _archiving):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [STORED], "it is stored")
            (tmp_path / "again").mkdir()
            dataset = pydicom.dcmread(changed)
            dataset.PatientComments = "corrected"
            dataset.save_as(tmp_path / "again" / changed.name)
            await trio.to_thread.run_sync(take_in, node, tmp_path / "again")
            [aside] = await trio.to_thread.run_sync(node.set_aside.all)
            await trio.to_thread.run_sync(node.set_aside.take, aside.name, "corrected")
            await until(lambda: len(odd.got) == 3, "the other version went")
            await until(lambda: states(node) == [STORED], "it is stored again")
            uid, data = odd.got[2]
            assert uid == dataset.SOPInstanceUID
            assert b"corrected" in data
            root = node.catalog.study(study).content_root  # type: ignore[union-attr]
            stored = await trio.to_thread.run_sync(lambda: list(node.stored.present()))
            assert [one.content_root for one in stored] == [root]


async def test_what_is_undone_while_the_archive_is_called_does_not_begin(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the plan and the first image: no entry says that it went, behind the undoing."""
    south = Other("South Clinic", 1_800_000_000)
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, _):
            connected = dimse_client._connected

            async def undone(callee: Callee) -> trio.abc.Stream:
                await trio.to_thread.run_sync(node.matches.undo, study)
                monkeypatch.setattr(dimse_client, "_connected", connected)
                return await connected(callee)

            study = await trio.to_thread.run_sync(receive_study, node, south.key)
            await until(lambda: states(node) == [UNMATCHED])
            monkeypatch.setattr(dimse_client, "_connected", undone)
            local = LocalPatient(patient_id="H-1")
            await trio.to_thread.run_sync(node.matches.match, study, local)
            await until(lambda: dimse_client._connected is connected)
            await until(lambda: states(node) == [UNMATCHED])
            assert odd.got == []
            assert entries(node, "forward-begun") == []


async def test_a_full_archive_is_tried_again_with_what_is_missing(
    home: Home, tmp_path: Path
) -> None:
    make_study(tmp_path / "in", 6)
    odd = OddArchive()
    is_full = True
    odd.answer = lambda uid, before: 0xA700 if is_full and before >= 2 else 0
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, archiving):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: "A700" in archiving.describe()[0]["trouble"])
            assert states(node) == [WAITS]
            is_full = False
            await until(lambda: states(node) == [STORED])
            assert len(odd.got) == len(set(odd.uids)) == 6
            assert not node.archive_queue.refused()


async def test_an_association_that_is_aborted_in_the_middle(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 8)
    odd = OddArchive()
    aborted: list[int] = []

    def answer(uid: str, before: int) -> int | str:
        if before in (2, 5) and before not in aborted:
            aborted.append(before)
            return "abort"
        return 0

    odd.answer = answer
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [STORED])
            assert len(odd.got) == len(set(odd.uids)) == 8
            # Each try that sent a byte has its entry.
            assert len(entries(node, "forward-begun")) == 3


async def test_an_archive_that_is_slow_is_waited_for_and_holds_up_no_other(
    home: Home, tmp_path: Path
) -> None:
    make_study(tmp_path / "in", 2)
    slow, quick = OddArchive(), OddArchive()
    let_go = threading.Event()
    slow.before = lambda uid: hold(let_go)
    both = {
        name: replace(archive(odd.port)["PACS"], name=name)
        for name, odd in (("SLOW", slow), ("QUICK", quick))
    }
    with slow.running(), quick.running():
        async with sending(home, both) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: sorted(states(node)) == [STORED, WAITS])
            let_go.set()
            await until(lambda: states(node) == [STORED, STORED])


@with_dcmtk
async def test_what_the_archive_does_not_take_is_said_and_not_converted(
    home: Home, tmp_path: Path
) -> None:
    port = free_port()
    make_study(tmp_path / "in", 2)
    with storescp(tmp_path / "scp", port, "+xi") as landed:
        async with sending(home, archive(port, proof="none")) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [FAILED])
            why = node.archive_queue.refused()[0][2].why
            assert "CT Image Storage (1.2.840.10008.5.1.4.1.1.2)" in why
            assert "Explicit VR Little Endian (1.2.840.10008.1.2.1)" in why
            assert not _files(landed)
            assert not entries(node, "forward-begun")


async def test_what_the_archive_took_and_has_not_is_sent_again(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving_module, "TRIES", 2)
    make_study(tmp_path / "in", 3)
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, _):
            odd.before = lambda uid: odd.forgets.update({uid} if uid.endswith(".2") else ())
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [FAILED], "it is given up")
            assert not entries(node, "stored")
            # Only what is missing, and not for ever.
            numbers = [uid.rpartition(".")[2] for uid in odd.uids]
            assert sorted(numbers) == ["1", "2", "2", "3"]
            assert len({data for uid, data in odd.got if uid.endswith(".2")}) == 1


async def test_an_archive_that_does_not_know_us_is_named(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 1)
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port, ae_title="OTHER")) as (node, archiving):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            trouble = await until(lambda: archiving.describe()[0]["trouble"])
            assert "it has no such AE title" in trouble
            with pytest.raises(NodeError, match="no such AE title"):
                await archiving.check("PACS")


# --- what is urgent, and when ------------------------------------------------------------------


async def test_what_is_urgent_goes_beside_what_is_not(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "routine", 3)
    urgent = make_study(tmp_path / "urgent", 2)
    odd = OddArchive()
    let_go = threading.Event()
    odd.before = lambda uid: None if uid.startswith(urgent) else hold(let_go)
    settings = archive(odd.port, proof="none")
    with odd.running():
        async with sending(home, settings) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "routine")
            await until(lambda: odd.open == 1)
            node.archive_queue.archives = {}
            await trio.to_thread.run_sync(take_in, node, tmp_path / "urgent")
            node.archive_queue.archives = settings
            await trio.to_thread.run_sync(lambda: node.archive_queue.ask(urgent, "", stat=True))
            await until(lambda: sorted(states(node)) == [DONE, WAITS])
            assert [uid for uid in odd.uids if not uid.startswith(urgent)] == []
            let_go.set()
            await until(lambda: states(node) == [DONE, DONE])
            assert odd.most == 2


async def test_what_becomes_urgent_while_it_is_sent_does_not_hold_up_what_is_behind_it(
    home: Home, tmp_path: Path
) -> None:
    slow = make_study(tmp_path / "slow", 1)
    quick = make_study(tmp_path / "quick", 1)
    odd = OddArchive()
    let_go = threading.Event()
    odd.before = lambda uid: hold(let_go) if uid.startswith(slow) else None
    with odd.running():
        async with sending(home, archive(odd.port, proof="none")) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "slow")
            await until(lambda: odd.open == 1)
            await trio.to_thread.run_sync(node.archive_queue.hurry, slow)
            await trio.to_thread.run_sync(take_in, node, tmp_path / "quick")
            await trio.to_thread.run_sync(node.archive_queue.hurry, quick)
            try:
                await until(lambda: odd.uids == [f"{quick}.1.1"], seconds=5)
            finally:
                let_go.set()
            await until(lambda: states(node) == [DONE, DONE])


async def test_what_is_not_urgent_waits_for_its_time_of_day(tmp_path: Path) -> None:
    clock = MadeClock()
    home = Home.create(tmp_path / "north", name="North", clock=clock)
    make_study(tmp_path / "in", 1)
    begin = (local_time(clock.now())[0] + 60) % 1440
    written = {"from": f"{begin // 60:02}:{begin % 60:02}", "to": "24:00"}
    if begin == 0:
        written = {"from": "00:00", "to": "12:00"}
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port, proof="none", **written)) as (node, archiving):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [WAITS])
            await trio.testing.wait_all_tasks_blocked()
            assert odd.most == 0
            clock.move(61 * 60)
            archiving.poke()
            await until(lambda: states(node) == [DONE])


# --- whose it is ---------------------------------------------------------------------------------


async def test_nothing_from_a_facility_goes_before_its_patient_is_known_here(
    home: Home, tmp_path: Path
) -> None:
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, _):
            south = Other("South Clinic", node.clock.now())
            study = await trio.to_thread.run_sync(receive_study, node, south.key)
            await until(lambda: states(node) == [UNMATCHED])
            assert odd.most == 0
            local = LocalPatient(patient_id="LOCAL-7", name="Local^Name")
            await trio.to_thread.run_sync(node.matches.match, study, local)
            await until(lambda: states(node) == [STORED])
            first = dict(odd.got)
            assert len(first) == 3
            for data in first.values():
                found = pydicom.dcmread(BytesIO(data), force=True)
                assert found.PatientID == "LOCAL-7"
            # Known better: all goes again, under the other identity. And once more, the same bytes.
            other = replace(local, patient_id="LOCAL-8")
            await trio.to_thread.run_sync(node.matches.match, study, other)
            await until(lambda: len(odd.got) == 6 and states(node) == [STORED])
            await trio.to_thread.run_sync(node.archive_queue.ask, study, "PACS")
            await until(lambda: len(odd.got) == 9 and states(node) == [STORED])
            assert sorted(odd.got[3:6]) == sorted(odd.got[6:9])
            [begun, *_] = entries(node, "forward-begun")
            assert begun["details"]["identity"] == "matched"


async def test_a_match_that_is_undone_stops_what_is_under_way(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving_module, "NOTED", 1)
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, archiving):
            south = Other("South Clinic", node.clock.now())
            local: list[Identity | None] = [Identity(patient_id="LOCAL-7")]
            archiving._identify = lambda uid: local[0]
            odd.before = lambda uid: local.__setitem__(0, None)
            await trio.to_thread.run_sync(receive_study, node, south.key)
            await until(lambda: states(node) == [UNMATCHED])
            assert len(odd.got) == 1


async def test_what_is_dropped_or_discarded_stops_on_the_way(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving_module, "NOTED", 1)
    study = make_study(tmp_path / "in", 5)
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port)) as (node, _):
            odd.before = lambda uid: len(odd.got) == 1 and node.archive_queue.drop(study) and None
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [DROPPED])
            await until(lambda: odd.open == 0)
            assert len(odd.got) == 2
            assert not entries(node, "forwarded")


async def test_a_fault_of_ours_with_one_study_holds_up_no_other(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = make_study(tmp_path / "bad", 1), make_study(tmp_path / "good", 1)
    odd = OddArchive()
    plan, tries = Archiving._plan, 0

    def planned(self: Archiving, one: ArchiveStudy, identity: Identity) -> object:
        nonlocal tries
        if one.study_uid == bad:
            tries += 1
            raise RuntimeError("a fault")
        return plan(self, one, identity)

    monkeypatch.setattr(Archiving, "_plan", planned)
    with odd.running():
        async with sending(home, archive(odd.port, proof="none")) as (node, _):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "bad")
            await until(lambda: tries)
            await trio.to_thread.run_sync(take_in, node, tmp_path / "good")
            await until(lambda: DONE in states(node))
            [one] = [each for each in node.archive_queue.all() if each.study_uid == bad]
            assert (one.state, "fault" in one.why) == (WAITS, True)
            assert odd.uids == [f"{good}.1.1"]


# --- proof, and persons --------------------------------------------------------------------------


async def test_a_commitment_is_asked_for_and_its_report_proves_it(
    home: Home, tmp_path: Path
) -> None:
    study = make_study(tmp_path / "in", 3)
    asked: list[tuple[str, str, set[str]]] = []
    odd = OddArchive()
    with odd.running():
        async with sending(home, archive(odd.port, proof="commitment")) as (node, archiving):

            async def commit(to: ArchiveSettings, uid: str, images: Sequence[Outgoing]) -> None:
                asked.append((to.name, uid, {one.sop_uid for one in images}))

            archiving.commit = commit
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: asked)
            [(name, uid, images)] = asked
            assert (name, uid, len(images)) == ("PACS", study, 3)
            one = sorted(images)[0]
            now = node.clock.now_ms
            some, rest = frozenset(images - {one}), frozenset({one})
            await archiving.committed("PACS", study, some, rest, asked=now())
            await until(lambda: len(asked) == 2, "the one that failed went again")
            assert odd.uids.count(one) == 2
            assert len(odd.got) == 4
            # Asked before the study was put down as it is now: about other bytes, perhaps.
            [put_down] = [each.since for each in node.archive_queue.all()]
            every = frozenset(images)
            await archiving.committed("PACS", study, every, frozenset(), asked=put_down - 1)
            assert states(node) == [SENT]
            known = node.archive_queue.instances(study, "PACS").values()
            assert {each.state for each in known} == {STORED, TAKEN}
            await archiving.committed("PACS", study, every, frozenset(), asked=now())
            assert states(node) == [STORED]
            [entry] = entries(node, "stored")
            assert entry["details"]["proven_by"] == "commitment"


async def test_persons_send_again_and_drop(home: Home, tmp_path: Path) -> None:
    study = make_study(tmp_path / "in", 2)
    odd = OddArchive()
    async with sending(home, archive(odd.port, rules=[])) as (node, _):
        queue = node.archive_queue
        await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
        assert states(node) == []
        await trio.to_thread.run_sync(queue.ask, study[:20], "")
        assert states(node) == [WAITS]
        await trio.to_thread.run_sync(queue.drop, study, "PACS")
        assert states(node) == [DROPPED]
        # What comes of it later does not go by itself.
        make_study(tmp_path / "more", 1, study=study, first=3)
        await trio.to_thread.run_sync(take_in, node, tmp_path / "more")
        assert states(node) == [DROPPED]
        with odd.running():
            await trio.to_thread.run_sync(queue.ask, study, "PACS")
            await until(lambda: states(node) == [STORED])
            assert len(odd.got) == 3
            await trio.to_thread.run_sync(queue.ask, study, "PACS")
            await until(lambda: len(odd.got) == 6 and states(node) == [STORED])
        for words, error in (
            ((study, "OTHER"), "there is no archive OTHER"),
            (("1.2.3.4.5.6", ""), "no study"),
        ):
            with pytest.raises(NodeError, match=error):
                await trio.to_thread.run_sync(queue.ask, *words)
        with pytest.raises(NodeError, match="not on its way"):
            await trio.to_thread.run_sync(queue.drop, study, "PACS")
        kinds = [one["type"] for one in entries(node, "forward-asked", "forward-dropped")]
        assert kinds == ["forward-asked", "forward-dropped", "forward-asked", "forward-asked"]


@with_dcmtk
async def test_over_tls_with_certificates_on_both_sides(home: Home, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 2)
    port, authority = free_port(), Authority(tmp_path)
    key, certificate = identity_files(authority.issue(LOOPBACK, name="storescp"))
    ours, ours_too = identity_files(authority.issue(LOOPBACK, name="north"))
    words = ["+tls", str(key), str(certificate), "+cf", str(authority.ca)]
    files = {"ca": str(authority.ca), "certificate": str(ours_too), "key": str(ours)}
    with storescp(tmp_path / "scp", port, *words) as landed:
        async with sending(home, archive(port, proof="none", **files)) as (node, archiving):
            await archiving.check("PACS")
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            await until(lambda: states(node) == [DONE])
            assert len(_files(landed)) == 2
        async with sending(home, archive(port, host="localhost", **files)) as (_, archiving):
            # The certificate is for another name.
            with pytest.raises(NodeError, match="certificate is not accepted"):
                await archiving.check("PACS")
