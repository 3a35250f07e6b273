"""Who may be meant here, asked of the systems of the facility: pynetdicom and Orthanc answer."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import trio
from checked_home import take
from dimse_made import LOOPBACK
from facilities import free_port
from orthanc_made import made_orthanc, with_orthanc
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from studies_made import make_instance

from node.app import Node
from node.edges import patient_query
from node.edges.dimse_client import Callee, NoAssociation
from node.edges.patient_query import (
    PATIENT_ROOT_FIND,
    STUDY_ROOT_FIND,
    WORKLIST_FIND,
    PatientSystem,
    ask,
    ask_all,
    questions,
)
from node.edges.unmatched import PatientThere
from node.errors import NodeError
from node.home import Home
from node.operations import OPERATIONS, Call

THERE = PatientThere(
    patient_id="S-1", issuer="SOUTH", name="Müller^Anna", birth_date="19700203", sex="F"
)


def known(name: str, patient_id: str, born: str = "19700203", **more: str) -> Dataset:
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 100"
    found.PatientName, found.PatientID = name, patient_id
    found.PatientBirthDate, found.PatientSex = born, more.pop("sex", "F")
    for keyword, value in more.items():
        setattr(found, keyword, value)
    return found


class Pacs:
    """A system that answers queries from a list, as pynetdicom does."""

    def __init__(self, sop_class: str, patients: list[Dataset], status: int = 0) -> None:
        self.asked: list[Dataset] = []
        self._patients = patients
        self._status = status
        self._ae = AE(ae_title="PACS")
        self._ae.add_supported_context(sop_class)
        self.port = free_port()

    def _answer(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        if self._status:
            yield self._status, None
            return
        for one in self._patients:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, one

    @contextlib.contextmanager
    def running(self) -> Iterator[PatientSystem]:
        server = self._ae.start_server(
            (LOOPBACK, self.port), block=False, evt_handlers=[(evt.EVT_C_FIND, self._answer)]
        )
        try:
            yield PatientSystem(name="PACS", callee=callee(self.port))
        finally:
            server.shutdown()
            for thread in threading.enumerate():
                if thread.name.startswith(("AcceptorThread", "AcceptorServer")):
                    thread.join(5)


def callee(port: int) -> Callee:
    return Callee(ae_title="PACS", calling="RADMESH", host=LOOPBACK, port=port)


LISTED = [
    known("Müller^Anna", "H-1"),
    known("Mueller^Anna", "H-2", IssuerOfPatientID="HOSP"),
    known("Müller^Anna", "H-3", born="19700204"),
    known("Müller^Berta", "H-4"),
    known("Müller^Anna", "H-5", sex="M"),
    known("Müller^Anna", ""),
    known("Somebody^Else", "S-1", born="19110101"),
]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("sop_class", [STUDY_ROOT_FIND, PATIENT_ROOT_FIND])
async def test_who_may_be_meant(sop_class: str) -> None:
    pacs = Pacs(sop_class, LISTED)
    with pacs.running() as system:
        found = await ask(system, THERE)
    assert [(one.patient_id, one.issuer, one.why) for one in found] == [
        ("H-1", "", "same name, birth date; known to PACS"),
        ("H-2", "HOSP", "same name, birth date; known to PACS"),
        ("H-5", "", "same name, birth date; known to PACS"),
        # An equal ID of another facility is another person more often than not: it comes last.
        ("S-1", "", "same Patient ID; known to PACS"),
    ]
    by_id, by_name = pacs.asked
    assert (by_id.PatientID, by_id.PatientName) == ("S-1", "")
    assert (by_name.PatientID, str(by_name.PatientName)) == ("", "Müller*")
    assert by_name.PatientBirthDate == "19700203"
    assert by_name.QueryRetrieveLevel == ("PATIENT" if sop_class == PATIENT_ROOT_FIND else "STUDY")


@pytest.mark.slow
@pytest.mark.integration
@with_orthanc
async def test_orthanc_knows_who_is_meant(tmp_path: Path) -> None:
    """Names are compared as they are read, with what a real archive makes of `*`."""
    pacs = made_orthanc(tmp_path / "pacs")
    with pacs.running():
        for number, (name, born) in enumerate(
            [
                ("Müller^Anna", "19700203"),
                ("Müllerin^Anna", "19700203"),
                ("Müller^Anna", "19110101"),
            ]
        ):
            dataset = make_instance(f"1.2.826.0.1.3680043.8.498.72.{number}", 1, rows=4)
            dataset.SpecificCharacterSet = "ISO_IR 100"
            dataset.PatientName, dataset.PatientBirthDate = name, born
            dataset.PatientID, dataset.PatientSex = f"H-{number}", "F"
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            await trio.to_thread.run_sync(pacs.rest, "POST", "/instances", buffer.getvalue())
        system = PatientSystem(name="PACS", callee=callee(pacs.port))
        [found] = await ask(system, THERE)
    assert (found.patient_id, found.why) == ("H-0", "same name, birth date; known to PACS")


@pytest.mark.slow
@pytest.mark.integration
async def test_a_worklist_tells_the_order() -> None:
    pacs = Pacs(WORKLIST_FIND, [known("Müller^Anna", "H-1", AccessionNumber="A-9")])
    with pacs.running() as system:
        [found] = await ask(replace(system, is_worklist=True), THERE)
    assert (found.patient_id, found.accession_number) == ("H-1", "A-9")
    assert found.why == "same name, birth date; planned in PACS"
    assert "ScheduledProcedureStepSequence" in pacs.asked[0]


@pytest.mark.slow
@pytest.mark.integration
async def test_a_system_without_end_is_asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_query, "ANSWERS", 5)
    pacs = Pacs(STUDY_ROOT_FIND, [known("Müller^Anna", f"H-{n}") for n in range(5000)])
    with trio.fail_after(30), pacs.running() as system:
        found = await ask(system, replace(THERE, patient_id=""))
    assert len(found) == 5


@pytest.mark.slow
@pytest.mark.integration
async def test_who_cannot_be_asked_is_named_and_the_others_are_asked() -> None:
    pacs = Pacs(STUDY_ROOT_FIND, LISTED[:1])
    refusing = Pacs(STUDY_ROOT_FIND, [], status=0xA900)
    other = Pacs(WORKLIST_FIND, [])
    away = PatientSystem(name="RIS", callee=callee(free_port()))
    with pacs.running() as first, refusing.running() as second, other.running() as third:
        found, failed = await ask_all([away, second, third, first], THERE)
        with pytest.raises(NodeError, match="PACS answers a query with status A900H"):
            await ask(second, THERE)
    assert [one.patient_id for one in found] == ["H-1"]
    assert len(failed) == 3
    with pytest.raises(NoAssociation):
        await ask(away, THERE)


@pytest.mark.parametrize(
    "there",
    [
        replace(THERE, patient_id="", birth_date=""),
        replace(THERE, patient_id="*", name="*^A"),
        replace(THERE, patient_id=" ", name="^Anna"),
        replace(THERE, patient_id="?", name="M?ller^A"),
        PatientThere(patient_id="", issuer="", name="", birth_date="", sex=""),
    ],
)
def test_nobody_is_fished_for(there: PatientThere) -> None:
    assert questions(there) == []


@pytest.mark.slow
@pytest.mark.integration
async def test_a_person_sees_whom_the_systems_propose(tmp_path: Path) -> None:
    """`radmesh match STUDY` asks the archives and worklists of the settings."""
    pacs = Pacs(STUDY_ROOT_FIND, [known("Müller^Anna", "H-1")])
    home = Home.create(tmp_path / "south", name="South")
    with home.config_path.open("a") as settings:
        settings.write(f"""
[archives."MAIN"]
ae_title = "PACS"
host = "{LOOPBACK}"
port = {pacs.port}
[worklists."RIS"]
ae_title = "RIS"
host = "{LOOPBACK}"
port = {free_port()}
""")
    dataset = make_instance("1.2.826.0.1.3680043.8.498.71", 1, rows=4)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.PatientID = "Müller^Anna", "S-1"
    dataset.PatientBirthDate = "19700203"
    (tmp_path / "in").mkdir()
    dataset.save_as(tmp_path / "in" / "one.dcm", enforce_file_format=True)
    with Node.open(home) as node, pacs.running():
        await trio.to_thread.run_sync(take, node, tmp_path / "in")
        origin = "UPDATE studies SET origin = ?"
        await trio.to_thread.run_sync(
            node.database.transact, lambda connection: connection.execute(origin, ("ab" * 32,))
        )
        run = OPERATIONS["match.list"].answer
        [one] = (await run(Call(node), {"study": str(dataset.StudyInstanceUID)}))["studies"]
        assert [each["patient_id"] for each in one["proposals"]] == ["H-1"]
        assert len(one["not_asked"]) == 1
        assert "'RIS' at 127.0.0.1" in one["not_asked"][0]
        # The list of all that wait asks nobody.
        asked = len(pacs.asked)
        await run(Call(node), {})
        assert len(pacs.asked) == asked
