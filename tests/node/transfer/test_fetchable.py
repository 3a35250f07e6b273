"""Whatever an ingest takes, a recipient's check and the decoders of a peer take."""

import dataclasses
import itertools
import struct
from pathlib import Path

import exchange_pair
import pytest
from exchange_pair import SmallStudy
from facilities import two_facilities, wait_until
from hypothesis import event, given
from hypothesis import strategies as st
from part10_made import (
    END_ITEM,
    END_SEQUENCE,
    OPEN_ITEM,
    RAW_DATA,
    deflated,
    element,
    implicit_element,
    meta,
    open_sequence,
    read,
)
from studies_made import contents

from node.catalog.patients import Described
from node.dicom.headers import InstanceHeader
from node.dicom.studies import BadInstance, NotDicom
from node.images.store import BatchStore
from node.transfer.checking import StudyCheck
from node.transfer.incoming import Incoming
from protocol import limits, modalities
from protocol.errors import RemoteProtocolError
from protocol.fields import from_map_untrusted, to_map
from protocol.manifest import Manifest, SeriesEntry
from protocol.messages import Record

STUDY = exchange_pair.STUDY
UIDS = (STUDY, f"{STUDY}.1", f"{STUDY}.1.1")
CT = b"1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Incoming:
    root = tmp_path_factory.mktemp("recipient")
    (root / "incoming").mkdir()
    return Incoming(root / "incoming", BatchStore(root / "store", reserve_bytes=0))


def _uid(tag: int, uid: str) -> tuple[int, bytes, bytes]:
    return tag, b"UI", uid.encode() + b"\0" * (len(uid) % 2)


def _identity(sop_class: bytes = RAW_DATA) -> list[tuple[int, bytes, bytes]]:
    return [
        _uid(0x00080016, sop_class.decode()),
        _uid(0x00080018, UIDS[2]),
        (0x00080060, b"CS", b"CT"),
        (0x00100020, b"LO", b"SYN-1 "),
        _uid(0x0020000D, UIDS[0]),
        _uid(0x0020000E, UIDS[1]),
    ]


PIXELS = [
    (0x00280010, b"US", b"\4\0"),
    (0x00280011, b"US", b"\4\0"),
    (0x7FE00010, b"OW", bytes(range(32))),
]


def _explicit(elements: list[tuple[int, bytes, bytes]]) -> bytes:
    return b"".join(itertools.starmap(element, elements))


def _promised(study: SmallStudy, header: InstanceHeader) -> SmallStudy:
    """The study with what its source says of the instance, as it arrives at a peer."""
    [entry] = study.manifest.instances
    manifest = Manifest(
        header.study.study_uid,
        (SeriesEntry(header.series.series_uid, header.series.modality),),
        (
            entry._replace(
                sop_instance_uid=header.sop_instance_uid,
                sop_class_uid=header.sop_class_uid,
                transfer_syntax_uid=header.transfer_syntax_uid,
                number=-1 if header.number is None else header.number,
                rows=header.rows,
                columns=header.columns,
                frames=header.frames,
            ),
        ),
        study.manifest.batches,
    )
    return SmallStudy(manifest, study.encoded)


def _arrive(data: bytes, header: InstanceHeader, batch_bytes: int, incoming: Incoming) -> None:
    """Bring a file that was taken to a recipient, which must take it and read it alike."""
    sent = _promised(exchange_pair.make_study([data], limits.BATCH_BYTES), header).manifest
    assert Manifest.decode_untrusted(sent.encode()) == sent
    # The same in batches that are smaller than real ones, as if the file were larger.
    study = _promised(exchange_pair.make_study([data], batch_bytes), header)
    check = StudyCheck(study.manifest, range(len(study.encoded)))
    for index, encoded in enumerate(study.encoded):
        check.check(index, encoded)
        incoming.write(study.manifest.batches[index].digest, encoded)
    check.check_rest(incoming)
    assert dataclasses.replace(check.headers[0], notes=()) == dataclasses.replace(header, notes=())
    assert check.described.patients == Described([header.study]).patients
    record = Record(
        sequence=1,
        kind="available",
        study=header.study.study_uid,
        content_root=study.manifest.content_root,
        series=1,
        instances=1,
        bytes=len(data),
        encoded_bytes=study.manifest.total_encoded_bytes,
        modalities=modalities.of_study([header.series.modality]),
        study_date=header.study.study_date,
    )
    assert from_map_untrusted(Record, to_map(record)) == record


BATCHES = (100_000, 1000, 301, 64)
"""Original bytes of a batch: the whole file, its header, a part of it, a few elements."""


# --- elements out of order, and far behind ------------------------------------------------


@pytest.mark.parametrize("batch_bytes", BATCHES)
@pytest.mark.parametrize("moved", [0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200013])
@pytest.mark.parametrize("place", [0, 3, -1])
def test_elements_out_of_order(
    moved: int, place: int, batch_bytes: int, incoming: Incoming
) -> None:
    elements = [*_identity(), (0x00200013, b"IS", b"7 "), *PIXELS]
    [one] = [one for one in elements if one[0] == moved]
    elements.remove(one)
    elements.insert(place % (len(elements) + 1), one)
    data = meta() + _explicit(elements)
    header = read(data)
    assert header.number == 7
    _arrive(data, header, batch_bytes, incoming)


@pytest.mark.parametrize("bulk", [1000, 70_000, 5 << 20])
def test_uids_behind_a_large_element(bulk: int, incoming: Incoming) -> None:
    first, behind = _identity()[:4], _identity()[4:]
    large = [(0x00190010, b"LO", b"CREATOR "), (0x00191010, b"OB", bytes(bulk))]
    data = meta() + _explicit([*first, *large, *behind, *PIXELS])
    _arrive(data, read(data), limits.BATCH_BYTES, incoming)
    _arrive(data, read(data), len(data) // 3, incoming)


def test_the_patient_behind_encapsulated_pixels_is_the_same_on_both_sides(
    incoming: Incoming,
) -> None:
    fragments = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, 500) + bytes([number]) * 500 for number in range(20)
    )
    pixels = open_sequence(0x7FE00010, b"OB") + fragments + END_SEQUENCE
    [patient] = [one for one in _identity() if one[0] == 0x00100020]
    others = [one for one in _identity() if one != patient]
    data = meta() + _explicit(others) + pixels + element(*patient)
    header = read(data)
    assert header.study.patient_id == "SYN-1"
    for batch_bytes in BATCHES:
        _arrive(data, header, batch_bytes, incoming)


@pytest.mark.parametrize("batch_bytes", [100_000, 301])
def test_another_uid_behind_the_pixels_is_still_found(batch_bytes: int, incoming: Incoming) -> None:
    elements = _identity()
    behind = elements.pop()
    data = meta() + _explicit([*elements, *PIXELS, behind])
    header = read(data)
    other = dataclasses.replace(
        header, series=dataclasses.replace(header.series, series_uid=f"{STUDY}.2")
    )
    with pytest.raises(RemoteProtocolError, match="other UIDs"):
        _arrive(data, other, batch_bytes, incoming)
    # And one that is nowhere.
    data = meta() + _explicit([*elements, *PIXELS])
    with pytest.raises(RemoteProtocolError, match="other UIDs"):
        _arrive(data, header, batch_bytes, incoming)


def test_a_header_that_is_nowhere_is_refused(incoming: Incoming) -> None:
    without_class = meta() + _explicit(_identity()[1:] + PIXELS)
    header = read(meta() + _explicit(_identity() + PIXELS))
    for batch_bytes in (100_000, 301):
        with pytest.raises(RemoteProtocolError, match="header"):
            _arrive(without_class, header, batch_bytes, incoming)


# --- texts that go to peers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("CT\N{NO-BREAK SPACE}PT", "CT PT"),
        ("C\N{SOFT HYPHEN}T", "C T"),
        ("CT\N{ZERO WIDTH SPACE}", "CT"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}CT", "CT"),
        ("РТ", ""),
        ("ct_1/x", "ct_1/x"),
        ("M" * 40, "M" * 16),
        ("ABCDEFGHIJKLMNO PQ", "ABCDEFGHIJKLMNO"),
    ],
)
def test_modalities_are_what_a_peer_takes(raw: str, told: str, incoming: Incoming) -> None:
    value = raw.encode() + b" " * (len(raw.encode()) % 2)
    elements = [one for one in _identity() if one[0] != 0x00080060]
    elements += [(0x00080005, b"CS", b"ISO_IR 192"), (0x00080060, b"CS", value), *PIXELS]
    data = meta() + _explicit(sorted(elements))
    header = read(data)
    assert header.series.modality == told
    _arrive(data, header, 301, incoming)


@given(st.lists(st.text(max_size=30)))
def test_modalities_of_a_study_property(found: list[str]) -> None:
    told = modalities.of_study(found)
    assert len(told) <= limits.MODALITIES
    assert list(told) == sorted(set(told))
    for one in told:
        assert modalities.clean(one) == one
        assert 0 < len(one) <= limits.MODALITY_CHARACTERS
        assert one.isprintable()


# --- whatever is taken ----------------------------------------------------------------------


ODD_VRS = [b"LO", b"XX", b"  ", b"\0\0", b"un", b"UN", b"OB"]
PARTS = [
    open_sequence(0x00091001, b"UN")
    + OPEN_ITEM
    + element(0x00100020, b"LO", b"A ")
    + element(0x00102202, b"UL", b"\1\0\0\0")
    + END_ITEM
    + END_SEQUENCE,
    open_sequence(0x00091002) + OPEN_ITEM + element(0x00080018, b"UI", b"9.9\0") + END_ITEM
    + END_SEQUENCE,
    element(0x00091003, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0)) + END_SEQUENCE,
    implicit_element(0x00091004, b"mixed "),
    element(0x00081030, b"LO", b"DESCRIPTION "),
    element(0x00081030, b"LO", b"ANOTHER "),
    element(0x00020010, b"UI", b"1.2.840.10008.1.2\0"),
    element(0x07A10010, b"LO", b"ELSCINT1"),
    element(0x07A1100A, b"OB", bytes(64)),
]  # fmt: skip
PADDING = element(0xFFFCFFFC, b"OB", bytes(9))
TAILS = [b"", bytes(1), bytes(300), END_ITEM, END_SEQUENCE * 3, PADDING, b"\r\n"]


@st.composite
def data_sets(draw: st.DrawFn) -> bytes:
    """Files with an identity, in odd forms and orders; most can be taken."""
    identity = _identity(draw(st.sampled_from([CT, RAW_DATA, b"1.3.12.2.1107.5.9.1"])))
    modality = draw(st.text("CTMR \xa0\xad\u200b\u202e\u3000Ж\x1b\n", max_size=9)).encode()
    identity[2] = (0x00080060, b"CS", modality + b" " * (len(modality) % 2))
    identity.append((0x00080005, b"CS", draw(st.sampled_from([b"ISO_IR 192", b"iso-ir 144"]))))
    pixels = draw(st.sampled_from([PIXELS, PIXELS[:2], []]))
    if draw(st.booleans()):
        body = b"".join(implicit_element(tag, value) for tag, _, value in sorted(identity + pixels))
        return meta(b"1.2.840.10008.1.2\0") + body + draw(st.sampled_from(TAILS))
    odd = [
        element(0x00110010 + number, vr, bytes(draw(st.integers(0, 5)) * 2))
        for number, vr in enumerate(draw(st.lists(st.sampled_from(ODD_VRS), max_size=3)))
    ]
    parts = [element(*one) for one in sorted(identity + pixels)]
    parts += odd + draw(st.lists(st.sampled_from(PARTS), max_size=4))
    if draw(st.booleans()):
        parts.append(element(0x00190010, b"OB", bytes(draw(st.integers(0, 400)) * 2)))
    order = draw(st.sampled_from(["ascending", "moved", "any"]))
    if order == "ascending":
        parts.sort(key=lambda part: struct.unpack_from("<HH", part))
    elif order == "moved":
        parts.append(parts.pop(draw(st.integers(0, len(parts) - 1))))
    else:
        parts = draw(st.permutations(parts))
    tail = draw(st.sampled_from(TAILS))
    body = b"".join(parts)
    return deflated(body) if draw(st.booleans()) and not tail else meta() + body + tail


@given(data_sets(), st.sampled_from(BATCHES))
def test_whatever_is_taken_arrives_property(incoming: Incoming, data: bytes, batch: int) -> None:
    try:
        header = read(data)
    except BadInstance:
        event("refused")
        return
    event("taken")
    _arrive(data, header, batch, incoming)


@given(st.integers(0), st.binary(min_size=1, max_size=4), st.sampled_from(BATCHES))
def test_whatever_is_taken_of_changed_bytes_arrives_property(
    incoming: Incoming, place: int, change: bytes, batch: int
) -> None:
    data = bytearray(meta() + _explicit(_identity(CT) + PIXELS) + PARTS[1])
    place = 132 + place % (len(data) - 136)
    data[place : place + len(change)] = change
    try:
        header = read(bytes(data))
    except (BadInstance, NotDicom):
        return
    _arrive(bytes(data), header, batch, incoming)


# --- two nodes ------------------------------------------------------------------------------


def _odd_studies(folder: Path) -> dict[str, list[bytes]]:
    """Studies that are odd in one way each: Study Instance UID and files."""

    def one(
        number: int, series: int = 1, *, modality: bytes = b"CT"
    ) -> list[tuple[int, bytes, bytes]]:
        study = f"2.25.{number}"
        return [
            _uid(0x00080016, CT.decode()),
            _uid(0x00080018, f"{study}.{series}.1"),
            (0x00080060, b"CS", modality + b" " * (len(modality) % 2)),
            (0x00100020, b"LO", b"SYN-1 "),
            _uid(0x0020000D, study),
            _uid(0x0020000E, f"{study}.{series}"),
            *PIXELS,
        ]

    behind = one(1)
    behind.append(behind.pop(4))
    large = one(2)
    large[4:4] = [(0x00190010, b"LO", b"CREATOR "), (0x00191010, b"OB", bytes(5 << 20))]
    found = {
        "2.25.1": [behind],
        "2.25.2": [large],
        "2.25.3": [one(3, modality=b"CT\xa0PT")],
        "2.25.4": [one(4, series + 1, modality=b"M%d" % series) for series in range(70)],
        "2.25.5": [one(5)],
    }
    files = {study: [meta() + _explicit(one) for one in all_of] for study, all_of in found.items()}
    for study, made in files.items():
        (folder / study).mkdir(parents=True)
        for number, content in enumerate(made):
            (folder / study / f"{number}.dcm").write_bytes(content)
    return files


@pytest.mark.slow
@pytest.mark.integration
def test_odd_studies_are_announced_and_fetched(tmp_path: Path) -> None:
    files = _odd_studies(tmp_path / "in")
    with two_facilities(tmp_path) as (north, south):
        for study in files:
            report = north.call("ingest", paths=[str(tmp_path / "in" / study)])
            assert report["instances_new"] == len(files[study])
        wait_until(lambda: set(files) <= set(south.announced(north)), what="announcements")
        assert len(south.announced(north)["2.25.4"]["modalities"]) == limits.MODALITIES
        for study, contents_in in files.items():
            assert south.call("fetch", study=study)["state"] == "complete"
            south.call("export", study=study, directory=str(tmp_path / "out" / study))
            assert contents(tmp_path / "out" / study) == set(contents_in)
        assert south.entries("receive-failed") == north.entries("disclosure-failed") == []


@pytest.mark.slow
def test_every_shared_file_that_is_taken_arrives(shared: Path, incoming: Incoming) -> None:
    count = 0
    for path in sorted((shared / "data").rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        try:
            header = read(data, path.name)
        except (BadInstance, NotDicom):
            continue
        _arrive(data, header, 64 * 1024, incoming)
        count += 1
    assert count > 750
