"""C-FIND of a node's own studies: pynetdicom asks, and strangers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from dimse_made import LOOPBACK, Listening, calling, listening, take_in
from pdus_made import IMPLICIT, command, context, elements, message, request, user
from pydicom.dataset import Dataset
from pynetdicom import AE
from studies_made import make_instance

from edges.dimse import querying as q
from edges.dimse.data_sets import Value, encode_data_set
from edges.dimse.querying import Level
from node.edges import dimse_query
from node.edges.dimse_query import whole_patient
from node.errors import ExitCode, NodeError
from protocol.find_messages import Asked, ByNumber, ByPerson

# pydicom warns of keys with wildcards, which are no values.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

ROOT = "1.2.826.0.1.3680043.8.498"
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
WS1 = {"WS1": {"addresses": [LOOPBACK], "query": True}, "CT1": {"addresses": [LOOPBACK]}}
PENDING, IN_PART, SUCCESS = 0xFF00, 0xFF01, 0x0000


def instance(study: int, number: int = 1, series: int = 1, **values: Any) -> Dataset:
    made = make_instance(f"{ROOT}.{study}", number, rows=4, series=f"{ROOT}.{study}.{series}")
    for name, value in values.items():
        setattr(made, name, value)
    return made


STUDIES = (
    instance(1, PatientName="Müller^Anna", PatientID="P1", IssuerOfPatientID="NORTH",
             PatientBirthDate="19700131", PatientSex="F", StudyTime="101500", AccessionNumber="A1",
             ReferringPhysicianName="Kurz^Ida"),
    instance(1, 2, PatientName="Müller^Anna", PatientID="P1", IssuerOfPatientID="NORTH"),
    instance(1, 1, 2, PatientName="Müller^Anna", PatientID="P1", IssuerOfPatientID="NORTH",
             Modality="SR", SeriesNumber=7, SeriesDescription="Report"),
    instance(2, PatientName="Müller^Anna", PatientID="P1", IssuerOfPatientID="NORTH",
             StudyDate="20250101", Modality="MR"),
    instance(3, PatientName="Yamada^Taro=山田^太郎", PatientID="P2", StudyDate="20240101"),
    instance(4, PatientName="Meier^Eva", PatientID="P12", StudyDate=""),
)  # fmt: skip


def find(
    port: int, level: str, *, root: str = STUDY_FIND, calling: str = "WS1", called: str = "RADMESH",
    character_set: str = "ISO_IR 192", **keys: str,
) -> list[tuple[int, Dataset | None]]:  # fmt: skip
    """The statuses and identifiers that answer a C-FIND; in a thread of its own."""
    asking = AE(ae_title=calling)
    asking.acse_timeout = asking.dimse_timeout = asking.network_timeout = 20
    asking.add_requested_context(root)
    association = asking.associate(LOOPBACK, port, ae_title=called)
    assert association.is_established
    identifier = Dataset()
    identifier.SpecificCharacterSet = character_set
    identifier.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(identifier, name, value)
    try:
        answers = list(association.send_c_find(identifier, root))
    finally:
        association.release()
    return [(one.Status, identifier) for one, identifier in answers]


Found = list[tuple[int, Dataset | None]]


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Found]:
    """Takes the studies in and asks once."""

    def ask(*arguments: Any, **keys: Any) -> Found:
        async def main() -> Found:
            async with listening(tmp_path / "north", callers=WS1) as north:
                take_in(north.node, tmp_path / "in", *STUDIES)
                found: Found = await trio.to_thread.run_sync(
                    partial(find, north.port, *arguments, **keys)
                )
                return found

        return trio.run(main)

    return ask


def numbers(found: Found) -> list[int]:
    """The last numbers of the studies that were answered."""
    assert found[-1][0] == SUCCESS
    uids = [one.StudyInstanceUID for status, one in found[:-1] if one is not None]
    return sorted(int(uid.rpartition(".")[2]) for uid in uids)


async def test_which_studies_match(tmp_path: Path) -> None:
    async with listening(tmp_path / "north", callers=WS1) as north:
        take_in(north.node, tmp_path / "in", *STUDIES)
        for keys, expected in (
            ({}, [1, 2, 3, 4]),
            ({"PatientName": "MULLER*"}, [1, 2]),
            ({"PatientName": "Müller^Anna"}, [1, 2]),
            ({"PatientName": "Müller"}, []),
            ({"PatientName": "*anna"}, [1, 2]),
            ({"PatientName": "山田*"}, [3]),
            ({"PatientID": "P1"}, [1, 2]),
            ({"PatientID": "P1*"}, [1, 2, 4]),
            ({"PatientID": "P1", "IssuerOfPatientID": "SOUTH"}, []),
            ({"PatientBirthDate": "19700131"}, [1]),
            ({"StudyDate": "20250101-20261231"}, [1, 2]),
            ({"StudyDate": "-20250101"}, [2, 3]),
            ({"StudyTime": "1000-1100"}, [1]),
            ({"ModalitiesInStudy": "SR"}, [1]),
            ({"ModalitiesInStudy": "SR\\MR"}, [1, 2]),
            ({"AccessionNumber": "A1"}, [1]),
            ({"AccessionNumber": "A?"}, [1]),
            ({"ReferringPhysicianName": "kurz*"}, [1]),
            ({"StudyInstanceUID": f"{ROOT}.2\\{ROOT}.4\\{ROOT}.99"}, [2, 4]),
            ({"StudyInstanceUID": f"{ROOT}.2", "PatientID": "P12"}, []),
        ):
            found = await trio.to_thread.run_sync(partial(find, north.port, "STUDY", **keys))
            assert numbers(found) == expected, keys
        entries = [one for one in _entries(north) if one["type"] == "queried"]
        # Each patient of whom it was told, once.
        assert [one["details"]["studies"] for one in entries] == [2, 1, 1]
        assert {one["details"]["caller"] for one in entries} == {"WS1"}


def _entries(north: Listening) -> list[dict[str, Any]]:
    return [json.loads(one) for one in north.node.audit.entries()]


def test_what_a_study_is_told_with(asked: Callable[..., Found]) -> None:
    (status, one), last = asked(
        "STUDY", StudyInstanceUID=f"{ROOT}.1", PatientName="", ModalitiesInStudy="",
        NumberOfStudyRelatedSeries="", NumberOfStudyRelatedInstances="", PatientSex="",
        ReferringPhysicianName="", StudyID="", ProtocolName="",
    )  # fmt: skip
    assert last == (SUCCESS, None)
    assert one is not None
    # The protocol's name belongs to series, and is not known here.
    assert status == IN_PART
    assert str(one.PatientName) == "Müller^Anna"
    assert one.ModalitiesInStudy == ["CT", "SR"]
    assert (one.NumberOfStudyRelatedSeries, one.NumberOfStudyRelatedInstances) == (2, 3)
    assert (one.RetrieveAETitle, one.InstanceAvailability) == ("RADMESH", "ONLINE")
    assert (one.QueryRetrieveLevel, one.StudyID, one.PatientSex) == ("STUDY", "", "F")
    assert "ProtocolName" not in one
    # What was not asked for is not told.
    assert "StudyDate" not in one
    assert "PatientID" not in one


def test_series_and_images(asked: Callable[..., Found]) -> None:
    found = asked("SERIES", StudyInstanceUID=f"{ROOT}.1", Modality="SR", SeriesNumber="",
                  SeriesDescription="", NumberOfSeriesRelatedInstances="")  # fmt: skip
    (status, one), _ = found
    assert one is not None
    assert status == PENDING
    assert (one.SeriesNumber, one.SeriesDescription, one.NumberOfSeriesRelatedInstances) == (
        7, "Report", 1,
    )  # fmt: skip


def test_images(asked: Callable[..., Found]) -> None:
    *found, _ = asked("IMAGE", StudyInstanceUID=f"{ROOT}.1", SeriesInstanceUID=f"{ROOT}.1.1",
                      SOPInstanceUID="", InstanceNumber="", Rows="")  # fmt: skip
    images = [(one.SOPInstanceUID, one.InstanceNumber, one.Rows) for _, one in found if one]
    assert images == [(f"{ROOT}.1.1.1", 1, 4), (f"{ROOT}.1.1.2", 2, 4)]


def test_patients(asked: Callable[..., Found]) -> None:
    *found, _ = asked("PATIENT", root=PATIENT_FIND, PatientID="P1*", PatientName="",
                      NumberOfPatientRelatedStudies="")  # fmt: skip
    patients = {one.PatientID: one for _, one in found if one is not None}
    assert patients.keys() == {"P1", "P12"}
    assert patients["P1"].NumberOfPatientRelatedStudies == 2
    assert patients["P1"].PatientName == "Müller^Anna"


@pytest.mark.parametrize(
    ("character_set", "answered"),
    [
        ("ISO_IR 192", ["ISO_IR 192", "ISO_IR 192", None]),
        ("ISO_IR 100", ["ISO_IR 100", "ISO_IR 192", None]),
        ("ISO_IR 144", ["ISO_IR 192", "ISO_IR 192", None]),
        ("", ["ISO_IR 192", "ISO_IR 192", None]),
    ],
)
def test_in_which_character_set(
    asked: Callable[..., Found], character_set: str, answered: list[str | None]
) -> None:
    *found, _ = asked("STUDY", PatientName="", StudyDate="", character_set=character_set)
    by_name = {str(one.PatientName): one.get("SpecificCharacterSet") for _, one in found if one}
    names = ["Müller^Anna", "Yamada^Taro=山田^太郎", "Meier^Eva"]
    assert [by_name[name] for name in names] == answered


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("PATIENT", {}),
        ("STUDIES", {}),
        ("SERIES", {}),
        ("SERIES", {"StudyInstanceUID": "*"}),
        ("IMAGE", {"StudyInstanceUID": f"{ROOT}.1"}),
        ("STUDY", {"PatientID": "x" * 1025}),
    ],
)
def test_what_does_not_fit_is_refused(
    asked: Callable[..., Found], level: str, keys: dict[str, str]
) -> None:
    assert asked(level, **keys) == [(0xA900, None)]


def test_more_than_a_person_can_read(
    asked: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dimse_query.ANSWERS, Level.STUDY, 3)
    found = asked("STUDY", PatientName="")
    assert [status for status, _ in found] == [PENDING] * 3 + [0xA700]


async def test_who_may_not_query_is_not_heard(tmp_path: Path) -> None:
    async with listening(tmp_path / "north", callers=WS1) as north:
        async with calling(north.port) as ct:
            await ct.say(request(context(1, STUDY_FIND, IMPLICIT), user(), calling=b"CT1"))
            kind, body = await ct.hear()
            assert kind == 2
            # Context 1: the abstract syntax is not supported.
            assert bytes((1, 0, 3, 0)) in body


async def test_without_the_log_nobody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path / "north", callers=WS1) as north:
        take_in(north.node, tmp_path / "in", *STUDIES)

        def full(events: object) -> None:
            raise NodeError("the disk is full", code=ExitCode.DISK)

        monkeypatch.setattr(north.node.audit, "append_many", full)
        found = await trio.to_thread.run_sync(partial(find, north.port, "STUDY"))
        assert found == [(0xC000, None)]


def identifier(**keys: str) -> bytes:
    tags = {"level": (0x00080052, "CS"), "study": (0x0020000D, "UI"), "patient": (0x00100020, "LO")}
    values = {tags[name][0]: Value(tags[name][1], text.encode()) for name, text in keys.items()}
    return encode_data_set(values, IMPLICIT)


def c_find(number: int, data: bytes) -> bytes:
    return message(1, command({2: STUDY_FIND, 0x0100: 0x20, 0x0110: number, 0x0800: 0, 0x0700: 0}),
                   data)  # fmt: skip


def c_cancel(number: int) -> bytes:
    return message(1, command({0x0100: 0x0FFF, 0x0120: number, 0x0800: 0x0101}), None)


async def statuses(caller: Any) -> list[int]:
    """The statuses of the answers up to the last one."""
    found = []
    while True:
        kind, body = await caller.hear()
        assert kind == 4, kind
        if body[5] & 1:
            size = int.from_bytes(body[:4], "big")
            values = elements(body[6 : 4 + size])
            found.append(int.from_bytes(values[0x0900], "little"))
            if found[-1] not in (PENDING, IN_PART):
                return found


async def test_cancelled_at_once(tmp_path: Path) -> None:
    async with listening(tmp_path / "north", callers=WS1) as north:
        take_in(north.node, tmp_path / "in", *STUDIES)
        async with calling(north.port) as ws:
            await ws.say(request(context(1, STUDY_FIND, IMPLICIT), user(), calling=b"WS1"))
            assert (await ws.hear())[0] == 2
            await ws.say(c_find(1, identifier(level="STUDY", study="")) + c_cancel(1))
            assert (await statuses(ws))[-1] == 0xFE00
            # A cancel of nothing is read over, and the next query is answered.
            await ws.say(c_cancel(9) + c_find(2, identifier(level="STUDY", study="")))
            assert await statuses(ws) == [PENDING] * 4 + [SUCCESS]
            await ws.release()


@pytest.mark.parametrize("data", [b"\xff" * 40, b"\x08\x00\x52\x00\xff\xff\xff\xff"])
async def test_what_is_no_identifier(tmp_path: Path, data: bytes) -> None:
    async with listening(tmp_path / "north", callers=WS1) as north, calling(north.port) as ws:
        await ws.say(request(context(1, STUDY_FIND, IMPLICIT), user(), calling=b"WS1"))
        assert (await ws.hear())[0] == 2
        await ws.say(c_find(1, data))
        assert await statuses(ws) == [0xA900]


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        ({q.PATIENT_ID: "P1", q.ISSUER: "NORTH"}, ByNumber("P1", "NORTH")),
        ({q.PATIENT_ID: "P1"}, None),
        ({q.PATIENT_ID: "P1*", q.ISSUER: "NORTH"}, None),
        ({q.PATIENT_ID: "P1", q.ISSUER: "*"}, None),
        ({q.PATIENT_ID: "P1\\P2", q.ISSUER: "NORTH"}, None),
        ({q.PATIENT_ID: "P1" * 100, q.ISSUER: "NORTH"}, None),
        ({q.PATIENT_NAME: "Kurz^Ida^", q.BIRTH_DATE: "19700131", q.SEX: "f"},
         ByPerson("Kurz^Ida", "19700131", "F")),
        ({q.PATIENT_NAME: "Kurz^Ida", q.BIRTH_DATE: "19700131"}, None),
        ({q.PATIENT_NAME: "Kurz*", q.BIRTH_DATE: "19700131", q.SEX: "F"}, None),
        ({q.PATIENT_NAME: "Kurz^Ida", q.BIRTH_DATE: "1970-", q.SEX: "F"}, None),
        ({q.PATIENT_NAME: "Kurz", q.BIRTH_DATE: "19700131", q.SEX: "F"}, None),
        ({q.PATIENT_NAME: "Kurz^Ida", q.BIRTH_DATE: "19700131", q.SEX: "F", q.PATIENT_ID: "P*"},
         None),
    ],
)  # fmt: skip
def test_for_whom_a_partner_is_asked(keys: dict[int, str], asked: Asked | None) -> None:
    assert whole_patient(keys) == asked


async def test_a_caller_looks_for_so_many_patients_in_an_hour(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with listening(tmp_path / "north", callers=WS1) as north:
        service = north.server._services[STUDY_FIND].serve.__self__  # type: ignore[attr-defined]
        ws1, ct1 = (north.server._settings.callers[title] for title in ("WS1", "CT1"))
        assert [service._may_ask(ws1) for _ in range(31)] == [True] * 30 + [False]
        assert service._may_ask(ct1)
        await trio.sleep(3600)
        assert service._may_ask(ws1)
