"""Storage commitment with Orthanc in both roles, and over kills of real nodes."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import trio
from commitment_made import asking, callee, peer, reference, report_as, store
from dimse_made import LOOPBACK, Listening, listening
from facilities import Facility, free_port, wait_until
from network_nodes import until
from orthanc_made import Orthanc, made_orthanc, with_orthanc
from pydicom.dataset import Dataset
from studies_made import make_instance

from edges.dimse.commitment import Reference
from node.edges import commitment_reports
from node.edges.commitment_transactions import Outcome
from node.edges.commitments import NotAsked

pytestmark = [pytest.mark.slow, pytest.mark.integration]

STUDY = "1.2.826.0.1.3680043.8.498.68"
INSTANCES = [make_instance(STUDY, number, rows=16) for number in (1, 2)]
REFERENCES = tuple(map(reference, INSTANCES))
NOBODY = Reference("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6")


def _file(instance: Dataset) -> bytes:
    buffer = BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# --- Orthanc -------------------------------------------------------------------------------


async def _ask(north: Listening, pacs: Orthanc, *references: Reference) -> str:
    scp = callee(pacs.port, calling="RADMESH", called="ORTHANC")
    return await north.node.commitments.ask(scp, STUDY, (), references)


@with_orthanc
async def test_orthanc_says_what_it_has_stored(tmp_path: Path) -> None:
    port = free_port()
    callers = {"ORTHANC": {"addresses": [LOOPBACK]}}
    entries = {"listen": [f"{LOOPBACK}:{port}"]}
    with made_orthanc(
        tmp_path / "pacs", "ORTHANC", calls={"radmesh": ("RADMESH", port)}
    ).running() as pacs:
        for one in INSTANCES:
            pacs.rest("POST", "/instances", _file(one))
        async with listening(tmp_path / "north", entries=entries, callers=callers) as north:
            told: list[Outcome] = []

            async def learn(outcome: Outcome) -> None:
                told.append(outcome)

            north.node.commitments.on_outcome = learn
            # Its report comes on an association of its own, and ends the wait for one on ours.
            with trio.fail_after(8):
                transaction = await _ask(north, pacs, *REFERENCES, NOBODY)
            await until(lambda: told)
            assert told == [Outcome(transaction, "ORTHANC", STUDY, REFERENCES, {NOBODY: 0x0112})]
            # It is away, and is asked again when it is back.
            await trio.to_thread.run_sync(pacs.kill)
            with pytest.raises(NotAsked, match="cannot be reached"):
                await _ask(north, pacs, *REFERENCES)
            await trio.to_thread.run_sync(pacs.start)
            transaction = await _ask(north, pacs, *REFERENCES)
            await until(lambda: len(told) == 2)
            assert told[1] == Outcome(transaction, "ORTHANC", STUDY, REFERENCES)
        assert len(told) == 2


@with_orthanc
async def test_orthanc_learns_what_is_stored_here(tmp_path: Path) -> None:
    port = free_port()
    with made_orthanc(
        tmp_path / "pacs", "ORTHANC", calls={"radmesh": ("RADMESH", port)}
    ).running() as pacs:
        callers: dict[str, object] = {
            "CT1": {"addresses": [LOOPBACK]},
            "ORTHANC": {"addresses": [LOOPBACK], "report_to": f"{LOOPBACK}:{pacs.port}"},
        }
        entries = {"listen": [f"{LOOPBACK}:{port}"]}
        async with listening(tmp_path / "north", entries=entries, callers=callers) as north:
            assert await store(port, *INSTANCES) == [0, 0]
            wanted = [list(one) for one in REFERENCES]

            def ask(*references: list[str]) -> str:
                body = {"DicomInstances": references, "Timeout": 10}
                answer = pacs.rest("POST", "/modalities/radmesh/storage-commitment", body)
                return str(answer["Path"])

            def status(path: str) -> str:
                found = pacs.rest("GET", path)
                return "" if found["Status"] == "Pending" else found["Status"]

            for references, expected in ((wanted, "Success"), ([*wanted, list(NOBODY)], "Failure")):
                path = await trio.to_thread.run_sync(ask, *references)
                await trio.to_thread.run_sync(
                    lambda path=path, expected=expected: wait_until(
                        lambda: status(path) == expected, what=expected
                    )
                )
            found = await trio.to_thread.run_sync(pacs.rest, "GET", path)
            assert [one["SOPInstanceUID"] for one in found["Success"]] == [
                one.sop_instance for one in REFERENCES
            ]
            assert [one["SOPInstanceUID"] for one in found["Failures"]] == [NOBODY.sop_instance]
            await until(lambda: north.reports.given == 2)


@with_orthanc
async def test_orthanc_starts_again_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment_reports, "FIRST_PAUSE", 0.2)
    port = free_port()
    with made_orthanc(
        tmp_path / "pacs", "ORTHANC", calls={"radmesh": ("RADMESH", port)}
    ).running() as pacs:
        callers: dict[str, object] = {
            "ORTHANC": {"addresses": [LOOPBACK], "report_to": f"{LOOPBACK}:{pacs.port}"},
        }
        async with listening(tmp_path / "north", callers=callers) as north:
            await trio.to_thread.run_sync(pacs.stop)
            async with asking(callee(north.port, calling="ORTHANC")) as asker:
                assert await asker.ask("1.2.3", [NOBODY]) == 0
            owner = north.node.commitment_requests
            await until(lambda: "reached" in owner.open()[0].why)
            await trio.to_thread.run_sync(pacs.start)
            # It takes reports about anything, and forgets what it asked when it ends.
            await until(lambda: north.reports.given == 1, seconds=20)
            assert owner.open() == []


# --- kills ---------------------------------------------------------------------------------


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Facility]:
    facility = Facility(tmp_path, "North General")
    try:
        yield facility
    finally:
        if facility.process is not None:
            facility.kill()


def _settings(facility: Facility, port: int, **report_to: int) -> None:
    with facility.home.config_path.open("a") as settings:
        settings.write(f'\n[dimse]\nlisten = ["{LOOPBACK}:{port}"]\n')
        for title in ("CT1", "PACS"):
            settings.write(f'[dimse.callers."{title}"]\naddresses = ["{LOOPBACK}"]\n')
            if title in report_to:
                settings.write(f'report_to = "{LOOPBACK}:{report_to[title]}"\n')


async def _sends_and_asks(port: int) -> None:
    assert await store(port, *INSTANCES) == [0, 0]
    async with asking(callee(port)) as asker:
        assert await asker.ask("1.2.3", [*REFERENCES, NOBODY]) == 0


def test_what_was_asked_before_a_kill_is_reported_after_it(north: Facility) -> None:
    port, report_to = free_port(), free_port()
    _settings(north, port, CT1=report_to)
    north.start()
    trio.run(_sends_and_asks, port)
    north.kill()
    with peer("CT1", port=report_to) as ct1:
        north.start()
        wait_until(lambda: ct1.reported, what="a report")
        uids = [one.sop_instance for one in REFERENCES]
        assert ct1.reported == [(2, "1.2.3", uids, {NOBODY.sop_instance: 0x0112})]
        wait_until(
            lambda: north.call("status")["commitment"] == {"waiting": 0, "awaited": 0, "given": 1},
            what="it is known as taken",
        )
    [entry] = [one for one in north.entries("commitment-given") if one["details"]["stored"]]
    assert (entry["details"]["stored"], entry["details"]["failed"]) == (2, 1)


_ASKS = """
    import os, signal, sys, trio
    from pathlib import Path
    from edges.dimse.commitment import Reference
    from node.app import Node
    from node.edges.dimse_client import Callee
    from node.home import Home

    async def main(node):
        callee = Callee(ae_title="PACS", calling="RADMESH", host="127.0.0.1", port=int(sys.argv[2]))
        reference = Reference("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6")
        print(await node.commitments.ask(callee, "1.2.3", (), [reference]), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    with Node.open(Home(Path(sys.argv[1]))) as node:
        trio.run(main, node)
"""


def test_a_report_after_a_kill_of_who_asked(north: Facility) -> None:
    port = free_port()
    _settings(north, port)
    with peer("PACS") as archive:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_ASKS), north.home.path, str(archive.port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == -9, done.stderr
    transaction = done.stdout.strip()
    assert archive.asked == [(transaction, [NOBODY.sop_instance])]
    north.start()
    assert report_as("CT1", port, transaction, [NOBODY]) == 0x0115
    assert report_as("PACS", port, transaction, [NOBODY]) == 0
    assert report_as("PACS", port, transaction, [NOBODY]) == 0
    [entry] = north.entries("commitment-heard")
    assert entry["details"]["stored"] == 1
