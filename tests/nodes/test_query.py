"""A workstation queries and retrieves what lies at the partner: dcmtk with real nodes."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from facilities import Facility, free_port, wait_until
from relay import Fault, Relay
from studies_made import make_study

pytestmark = [pytest.mark.slow, pytest.mark.integration]

ABSENT = "needs Debian's dcmtk: make dicom-peers (or: apt install dcmtk)"
with_dcmtk = pytest.mark.skipif(shutil.which("movescu") is None, reason=ABSENT)

SETTINGS = """
[dimse]
listen = ["127.0.0.1:{port}"]

[dimse.callers."WS1"]
addresses = ["127.0.0.1"]
query = true
receives_at = "127.0.0.1:{receives}"

[dimse.callers."WS2"]
addresses = ["127.0.0.1"]
query = true
purpose = "second-opinion"
studies_a_day = 1
receives_at = "127.0.0.1:1"

[dimse.doors."RADMESH"]
partners = true

[dimse.doors."RM_NORTH"]
to = "North General"
purpose = "treatment"
"""


class Station:
    """A workstation: dcmtk's programs.

    Attributes:
        port: of the node.
        receives: where its storescp listens.
        folder: where that puts what it gets.
    """

    def __init__(self, port: int, receives: int, folder: Path) -> None:
        self.port, self.receives, self.folder = port, receives, folder
        folder.mkdir()
        self._storescp = subprocess.Popen(
            ["storescp", "+xa", "-aet", "WS1", "-od", folder, "+B", str(receives)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        self._storescp.kill()
        self._storescp.wait()

    def words(
        self, program: str, *keys: str, called: str, calling: str, more: tuple[str, ...]
    ) -> list[str]:
        pairs = [word for key in keys for word in ("-k", key)]
        return [program, "-v", "-S", "-aet", calling, "-aec", called, *more, *pairs,
                "127.0.0.1", str(self.port)]  # fmt: skip

    def run(
        self, program: str, *keys: str, called: str = "RADMESH", calling: str = "WS1",
        more: tuple[str, ...] = (),
    ) -> str:  # fmt: skip
        """Run one of dcmtk's programs; returns what it printed."""
        words = self.words(program, *keys, called=called, calling=calling, more=more)
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def find(self, *keys: str, **named: Any) -> list[dict[str, str]]:
        """The answers to a C-FIND, by attribute."""
        text = self.run("findscu", *keys, **named)
        assert "Received Final Find Response (Success)" in text, text
        answers = text.split("Find Response:")[1:]
        return [
            {tag: value.strip(" \0") for tag, value in
             re.findall(r"\(([0-9a-f,]{9})\) .. (?:\[(.*?)\]|.*?) *#", one)}
            for one in answers
        ]  # fmt: skip

    def received(self) -> list[bytes]:
        return sorted(_data_set(one) for one in self.folder.iterdir())


def _data_set(path: Path) -> bytes:
    """What follows the file meta."""
    data = path.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]


Pair = tuple[Facility, Facility, Station, Relay]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """North announces its studies; South has a workstation, and reaches North by a relay alone."""
    tmp_path = tmp_path_factory.mktemp("query")
    north = Facility(tmp_path, "North General")
    relay = Relay(north.port)
    north.set_address(relay.address)
    south = Facility(tmp_path, "South Clinic", only_calls=True)
    port, receives = free_port(), free_port()
    with south.home.config_path.open("a") as settings:
        settings.write(SETTINGS.format(port=port, receives=receives))
    station = Station(port, receives, tmp_path / "received")
    try:
        north.start()
        north.trust(south, "see", "fetch", "find")
        south.trust(north)
        south.start()
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        yield north, south, station, relay
    finally:
        station.close()
        relay.lift()
        for facility in (north, south):
            if facility.process is not None:
                facility.kill()
        relay.close()


@pytest.fixture
def pair(once: Pair) -> Pair:
    """The same, with a workstation that has received nothing, and what North gives."""
    north, south, station, _ = once
    for path in station.folder.iterdir():
        path.unlink()
    north.call("trust.grant", peer=south.name, grants=["see", "fetch", "find"])
    return once


def _at_north(north: Facility, south: Facility, folder: Path, count: int, **more: Any) -> str:
    """A study that lies at North alone, and that South has heard of."""
    study = make_study(folder, count, **more)
    north.call("ingest", paths=[str(folder)])
    wait_until(lambda: study in south.announced(north), what="South hears of the study")
    return study


def _about(facility: Facility, kind: str, study: str) -> list[dict[str, Any]]:
    return [one for one in facility.entries(kind) if _names(one, study)]


def _names(entry: dict[str, Any], study: str) -> bool:
    return study in [one["value"] for one in entry["opened"]]


def _sent(folder: Path) -> list[bytes]:
    return sorted(map(_data_set, folder.rglob("*.dcm")))


MOVE = ("-aem", "WS1")
STUDY_LEVEL = "QueryRetrieveLevel=STUDY"


@pytest.mark.alone
@with_dcmtk
def test_a_prior_of_the_partner_from_the_workstation(pair: Pair, tmp_path: Path) -> None:
    north, south, station, relay = pair
    study = _at_north(north, south, tmp_path / "in", 5)
    asked = (STUDY_LEVEL, "StudyInstanceUID", "PatientName", "ModalitiesInStudy",
             "NumberOfStudyRelatedInstances")  # fmt: skip
    [found] = station.find(*asked, called="RM_NORTH")
    assert found["0020,000d"] == study
    assert found["0008,0056"] == "NEARLINE"
    assert found["0008,0054"] == "RM_NORTH"
    assert found["0020,1208"] == "5"
    # The fetch takes 8 s, and the workstation waits for 4 s.
    relay.strike(Fault.FREEZE)
    words = station.words("movescu", STUDY_LEVEL, f"StudyInstanceUID={study}", called="RM_NORTH",
                          calling="WS1", more=("-d", "-td", "4", *MOVE))  # fmt: skip
    begun = time.monotonic()
    moving = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(8)
    relay.heal()
    text, _ = moving.communicate(timeout=60)
    assert moving.returncode == 0, text
    assert time.monotonic() - begun > 8
    assert text.count("Received Move Response") > 5
    assert station.received() == _sent(tmp_path / "in")
    answers = {one["ae_title"]: one["answers"] for one in south.call("doctor")["doors"]}
    assert answers == {
        "RADMESH": "ours and those of all partners", "RM_NORTH": "those of North General",
    }  # fmt: skip
    # From now on it is here.
    for called in ("RM_NORTH", "RADMESH"):
        [found] = station.find(*asked, called=called)
        assert found["0008,0056"] == "ONLINE"
        assert found["0010,0010"]
    [entry] = _about(south, "retrieved", study)
    assert entry["details"] == {
        "caller": "WS1", "destination": "WS1", "door": "RM_NORTH", "instances": 5,
    }  # fmt: skip
    assert entry["purpose"] == "treatment"
    # Told of the study without its patient, and then with: two entries, however often it asked.
    named = [one for one in south.entries("queried") if _names(one, study)]
    assert 1 <= len(named) <= 2
    south.check_log(tmp_path)


@with_dcmtk
def test_two_workstations_at_once_fetch_once(pair: Pair, tmp_path: Path) -> None:
    north, south, station, relay = pair
    study = _at_north(north, south, tmp_path / "in", 4)
    relay.strike(Fault.FREEZE)
    (tmp_path / "got").mkdir()
    key = f"StudyInstanceUID={study}"
    moving = _begun(station, "movescu", STUDY_LEVEL, key, called="RM_NORTH", more=MOVE)
    getting = _begun(station, "getscu", STUDY_LEVEL, key, called="RADMESH", calling="WS2",
                     more=("-od", str(tmp_path / "got")))  # fmt: skip
    wait_until(lambda: _active(south), what="the study is being fetched")
    wait_until(lambda: south.call("status")["dicom"]["associations"] == 2, what="both ask")
    relay.heal()
    for one in (moving, getting):
        text, _ = one.communicate(timeout=60)
        assert one.returncode == 0, text
    assert station.received() == _sent(tmp_path / "in")
    assert sorted(map(_data_set, (tmp_path / "got").iterdir())) == _sent(tmp_path / "in")
    assert len(_about(south, "received", study)) == 1
    assert len(_about(north, "disclosure-begun", study)) == 1
    callers = [one["details"]["caller"] for one in _about(south, "retrieved", study)]
    assert sorted(callers) == ["WS1", "WS2"]
    # A second study is more than WS2 may get today.
    other = _at_north(north, south, tmp_path / "other", 1)
    station.run("getscu", STUDY_LEVEL, f"StudyInstanceUID={other}", calling="WS2",
                more=("-od", str(tmp_path / "got")))  # fmt: skip
    assert "a retrieve of WS2 is refused: WS2 may get 1 studies a day" in south.stderr()
    assert not _about(south, "received", other)


def _begun(station: Station, program: str, *keys: str, **named: Any) -> subprocess.Popen[str]:
    words = station.words(program, *keys, **{"calling": "WS1", "more": (), **named})
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _active(south: Facility) -> list[dict[str, Any]]:
    ended = ("complete", "cancelled", "failed", "refused")
    found = south.call("transfers")["transfers"]
    return [one for one in found if one["direction"] == "in" and one["state"] not in ended]


@with_dcmtk
def test_a_cancel_ends_the_fetch_only_if_nobody_else_waits(pair: Pair, tmp_path: Path) -> None:
    north, south, station, relay = pair
    first = _at_north(north, south, tmp_path / "first", 3)
    second = _at_north(north, south, tmp_path / "second", 3)
    relay.strike(Fault.FREEZE)
    # dcmtk cancels after so many pending answers.
    cancel = ("-d", "--cancel", "2", *MOVE)
    texts = []
    for study, is_shared in ((first, False), (second, True)):
        other = None
        if is_shared:
            other = _begun(station, "movescu", STUDY_LEVEL, f"StudyInstanceUID={study}", more=MOVE,
                           called="RADMESH")  # fmt: skip
            wait_until(lambda: _active(south), what="the study is being fetched")
        texts.append(
            station.run("movescu", STUDY_LEVEL, f"StudyInstanceUID={study}", called="RADMESH",
                        more=cancel)
        )  # fmt: skip
        assert "0xfe00" in texts[-1], texts[-1]
        assert bool(_active(south)) == is_shared
        if other is not None:
            relay.heal()
            text, _ = other.communicate(timeout=60)
            assert other.returncode == 0, text
    assert station.received() == _sent(tmp_path / "second")
    assert len(_about(south, "retrieved", second)) == 1
    assert not _about(south, "retrieved", first)


@with_dcmtk
def test_the_series_of_a_partners_study_are_known_when_it_is_opened(
    pair: Pair, tmp_path: Path
) -> None:
    """Only its images tell: so they are fetched, once for all who open it."""
    north, south, station, _ = pair
    study = _at_north(north, south, tmp_path / "in", 3)
    series = ("QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study}", "SeriesInstanceUID",
              "NumberOfSeriesRelatedInstances")  # fmt: skip
    # A list of studies fetches none of them, neither does the list of studies itself.
    listed = (series[0], f"StudyInstanceUID={study}\\1.2.3", "SeriesInstanceUID")
    assert station.find(*listed, called="RM_NORTH") == []
    assert station.find(STUDY_LEVEL, f"StudyInstanceUID={study}", called="RM_NORTH")
    assert not _about(south, "received", study)
    for _ in range(2):
        [found] = station.find(*series, called="RM_NORTH")
        assert found["0020,000e"] == f"{study}.1"
        assert (found["0020,1209"], found["0008,0056"]) == ("3", "ONLINE")
    images = ("QueryRetrieveLevel=IMAGE", *series[1:2], f"SeriesInstanceUID={study}.1",
              "SOPInstanceUID", "InstanceNumber")  # fmt: skip
    found = station.find(*images, called="RM_NORTH")
    assert sorted(one["0020,0013"] for one in found) == ["1", "2", "3"]
    [received] = _about(south, "received", study)
    assert received["purpose"] == "treatment"
    # What does not come is said.
    north.call("trust.revoke", peer=south.name, grants=["fetch"])
    other = _at_north(north, south, tmp_path / "other", 1)
    text = station.run("findscu", series[0], f"StudyInstanceUID={other}", "SeriesInstanceUID",
                       called="RM_NORTH")  # fmt: skip
    assert "Refused: OutOfResources" in text
    assert not _about(south, "received", other)


@with_dcmtk
def test_a_patient_is_sought_at_the_partner_by_a_whole_name_alone(
    pair: Pair, tmp_path: Path
) -> None:
    north, south, station, _ = pair
    # It tells South of no study, unless asked.
    north.call("trust.revoke", peer=south.name, grants=["see"])
    north.call("rules.add", peer=south.name, rule=["allow", "see", "shows=on-request"])
    study = make_study(tmp_path / "in", 1)
    for path in (tmp_path / "in").iterdir():
        made = pydicom.dcmread(path)
        made.PatientID, made.IssuerOfPatientID = "P1", "NORTH"
        made.save_as(path)
    north.call("ingest", paths=[str(tmp_path / "in")])
    for keys in (("PatientID=P1",), ("PatientID=P*", "IssuerOfPatientID=NORTH"),
                 ("PatientName=Marker*", "PatientBirthDate=19700101", "PatientSex=F")):  # fmt: skip
        assert station.find(STUDY_LEVEL, "StudyInstanceUID", *keys, called="RM_NORTH") == []
    assert not south.entries("find-asked")
    whole = ("PatientID=P1", "IssuerOfPatientID=NORTH")
    for _ in range(2):
        [found] = station.find(STUDY_LEVEL, "StudyInstanceUID", *whole, called="RM_NORTH")
        assert (found["0020,000d"], found["0008,0056"]) == (study, "NEARLINE")
        assert found["0010,0020"] == "P1"
    # Asked once, for the purpose of the workstation, and in both logs.
    [asked] = south.entries("find-asked")
    assert asked["purpose"] == "treatment"
    assert len(north.entries("find-answered")) == 1
    text = station.run("movescu", STUDY_LEVEL, f"StudyInstanceUID={study}", called="RM_NORTH",
                       more=MOVE)  # fmt: skip
    assert station.received() == _sent(tmp_path / "in"), text


@with_dcmtk
def test_what_rules_demand_a_workstation_cannot_give(pair: Pair, tmp_path: Path) -> None:
    north, south, station, _ = pair
    study = _at_north(north, south, tmp_path / "in", 2)
    north.call("trust.revoke", peer=south.name, grants=["fetch"])
    key = f"StudyInstanceUID={study}"
    # One demands a person in a role, and by the other a person there has to approve it.
    for rule, why in (
        (["allow", "fetch", "role=radiologist"], "does not"),
        (["ask", "fetch"], "a person at North General has to approve it"),
    ):
        north.call("rules.add", peer=south.name, rule=rule)
        text = station.run("movescu", STUDY_LEVEL, key, called="RM_NORTH", more=("-d", *MOVE))
        assert "0xa702" in text.lower(), text
        assert why in text, text
    assert not station.received()
    assert not _about(south, "retrieved", study)
