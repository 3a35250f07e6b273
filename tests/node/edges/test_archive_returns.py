"""What an archive sends back to us: known by its UIDs and its pixels, whatever else it changed."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
import trio
from archives_made import ALL, LOOPBACK, OddArchive, read_archives, states, until
from dimse_made import data_set, send_all, take_in
from facility_in_memory import entries
from studies_made import make_instance, make_study

from node import edge_parts, parts
from node.app import Node
from node.edges.archive_queue import DONE, STORED
from node.edges.archiving import Archiving
from node.edges.dimse_server import DimseServer
from node.edges.dimse_settings import read_dimse
from node.home import Home
from node.images.spool import Spool

pytestmark = [pytest.mark.slow, pytest.mark.integration]

BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
NAMES = ("PACS", "CT1")


@contextlib.asynccontextmanager
async def _north(path: Path, odd: OddArchive) -> AsyncIterator[tuple[Node, Archiving, DimseServer]]:
    """A node that sends to an archive, and takes images."""
    home = Home.create(path, name="North", listen=(), addresses=())
    with Node.open(home) as node, contextlib.closing(
        Spool(home.arrivals_path, node.store.require_free)
    ) as spool:  # fmt: skip
        at = {"ae_title": "PACS", "host": LOOPBACK, "port": odd.port}
        node.archive_queue.archives = read_archives(
            {"PACS": {**at, "proof": "none", "rules": ALL}}, path
        )
        archiving = edge_parts.archiving_of(node)
        arrivals = parts.arrivals_of(node, spool, archiving)
        settings = read_dimse(
            {"listen": [f"{LOOPBACK}:0"]}, {one: {"addresses": [LOOPBACK]} for one in NAMES}, {}
        )
        server = DimseServer(settings, arrivals, node.doors, {})
        await server.open()
        async with trio.open_nursery() as nursery:
            for run in (arrivals.run, archiving.run, server.run):
                nursery.start_soon(run)
            yield node, archiving, server
            nursery.cancel_scope.cancel()


async def test_what_comes_back_is_counted_and_proves_that_it_is_stored(tmp_path: Path) -> None:
    study = make_study(tmp_path / "in", 4)
    odd = OddArchive()
    with odd.running():
        async with _north(tmp_path / "north", odd) as (node, archiving, server):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            archiving.poke()
            await until(lambda: states(node) == [DONE])
            port = int(server.addresses[0][1])
            images = [make_instance(study, number) for number in (1, 2, 3, 4)]
            for one in images[1:]:
                # As an archive here names it.
                one.PatientID, one.AccessionNumber, one.InstitutionName = "LOCAL", "7", "North"
            answers = await trio.to_thread.run_sync(lambda: send_all(port, images, calling="PACS"))
            assert [status for status, _ in answers] == [0, 0, 0, 0]
            assert archiving.describe()[0]["returned"] == 4
            await until(lambda: states(node) == [STORED])
            [entry] = entries(node, "stored")
            assert entry["details"]["proven_by"] == "returned"
            # It is what it was: nothing set aside, nothing taken in, nothing new for anybody.
            assert not node.catalog.conflicts()
            assert len(entries(node, "ingest")) == 1
            assert list(node.home.quarantine_path.iterdir()) == []
            row = node.catalog.study(study)
            assert row is not None
            assert (row.patient_id, row.revision) == ("MARKER-PATIENT-ID", row.revision)


@pytest.mark.parametrize("case", ["other pixels", "another caller", "never sent"])
async def test_what_is_not_ours_is_set_aside_as_before(tmp_path: Path, case: str) -> None:
    study = make_study(tmp_path / "in", 1)
    odd = OddArchive()
    with odd.running():
        async with _north(tmp_path / "north", odd) as (node, archiving, server):
            if case == "never sent":
                archive = node.archive_queue.archives["PACS"]
                node.archive_queue.archives = {"PACS": replace(archive, rules=())}
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            archiving.poke()
            if case != "never sent":
                await until(lambda: states(node) == [DONE])
            one = make_instance(study, 1, seed=9 if case == "other pixels" else 0)
            one.PatientID = "LOCAL"
            caller = "CT1" if case == "another caller" else "PACS"
            [(status, _)] = await trio.to_thread.run_sync(
                lambda: send_all(int(server.addresses[0][1]), [one], calling=caller)
            )
            assert status == 0xB007
            assert states(node) in ([DONE], [])


async def test_an_object_without_pixels_is_known_by_the_whole_of_its_data_set(
    tmp_path: Path,
) -> None:
    study = "1.2.826.0.1.3680043.8.498.77"
    report = make_instance(study, 1)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BASIC_TEXT_SR
    for name in (
        "Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation",
    ):  # fmt: skip
        delattr(report, name)
    (tmp_path / "in").mkdir()
    report.save_as(tmp_path / "in/1.dcm", enforce_file_format=True)
    odd = OddArchive()
    with odd.running():
        async with _north(tmp_path / "north", odd) as (node, archiving, server):
            await trio.to_thread.run_sync(take_in, node, tmp_path / "in")
            archiving.poke()
            await until(lambda: states(node) == [DONE])
            [(_, went)] = odd.got
            assert went == data_set(report)
            other = pydicom.dcmread(BytesIO((tmp_path / "in/1.dcm").read_bytes()))
            other.PatientID = "LOCAL"
            answers = await trio.to_thread.run_sync(
                lambda: [
                    send_all(int(server.addresses[0][1]), [one], calling="PACS")[0][0]
                    for one in (report, other)
                ]
            )
            assert answers == [0, 0xB007]
            assert archiving.describe()[0]["returned"] == 1
