"""What has arrived, compared with its manifest."""

import dataclasses
import struct
import threading
from io import BytesIO
from pathlib import Path

import exchange_pair
import numpy as np
import pytest
from download_made import part10
from exchange_pair import SmallStudy
from part10_made import element
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from studies_made import make_instance

from node.catalog.patients import Described
from node.dicom import studies
from node.dicom.headers import InstanceHeader
from node.dicom.studies import read_header
from node.images.store import BatchStore
from node.transfer import checking
from node.transfer.checking import Cut, LargeInstances, StudyCheck, is_split
from node.transfer.incoming import Incoming
from protocol import encoding
from protocol.errors import DigestMismatch, RemoteProtocolError
from protocol.pixels import PixelRun, Workspace

STUDY = exchange_pair.STUDY


CONTENTS = [part10(number + 1, rows) for number, rows in enumerate((8, 8, 104, 8))]


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    return exchange_pair.make_study(CONTENTS, batch_bytes=3000)


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    (tmp_path / "incoming").mkdir()
    return Incoming(tmp_path / "incoming", BatchStore(tmp_path / "store"))


def _whole(original: bytes) -> Cut:
    return lambda offset, length: [memoryview(original)[offset : offset + length]]


def _large(study: SmallStudy) -> tuple[int, list[tuple[int, bytes]]]:
    """The large instance, and the batches that hold it with their original bytes."""
    [index] = [one for one in range(len(CONTENTS)) if is_split(study.manifest, one)]
    batches = [batch for batch, _ in study.manifest.places(index)]
    assert len(batches) >= 4
    return index, [(batch, encoding.decode_untrusted(study.encoded[batch])) for batch in batches]


def _check(study: SmallStudy) -> StudyCheck:
    return StudyCheck(study.manifest, range(len(study.encoded)))


def test_a_study_in_order_needs_nothing_from_disk(study: SmallStudy, incoming: Incoming) -> None:
    check = _check(study)
    for index, encoded in enumerate(study.encoded):
        check.check(index, encoded)
    check.check_rest(incoming)
    assert check.headers == {0: read_header(CONTENTS[0])}


def test_the_header_is_that_of_the_first_new_instance(study: SmallStudy) -> None:
    last = len(study.encoded) - 1
    check = StudyCheck(study.manifest, [last])
    check.check(last, study.encoded[last])
    assert check.headers == {0: read_header(CONTENTS[3])}


def test_batches_in_any_order_are_compared_in_the_end(
    study: SmallStudy, incoming: Incoming
) -> None:
    check = _check(study)
    for index in reversed(range(len(study.encoded))):
        check.check(index, study.encoded[index])
        incoming.write(study.manifest.batches[index].digest, study.encoded[index])
    check.check_rest(incoming)


def test_a_large_instance_that_differs_is_found_on_disk(
    study: SmallStudy, incoming: Incoming
) -> None:
    index, parts = _large(study)
    liar = study.manifest.instances[index]._replace(digest=bytes(32))
    instances = list(study.manifest.instances)
    instances[index] = liar
    other = SmallStudy(
        type(study.manifest)(
            study.manifest.study_instance_uid,
            study.manifest.series,
            tuple(instances),
            study.manifest.batches,
        ),
        study.encoded,
    )
    check = _check(other)
    for batch, _ in parts[1:]:
        check.check(batch, study.encoded[batch])
    for batch, _ in parts:
        incoming.write(study.manifest.batches[batch].digest, study.encoded[batch])
    with pytest.raises(DigestMismatch):
        check.check_rest(incoming)


def test_other_bytes_in_an_instance_are_found(study: SmallStudy) -> None:
    original = bytearray(encoding.decode_untrusted(study.encoded[0]))
    original[-1] ^= 1
    with pytest.raises(DigestMismatch):
        _check(study).check(0, encoding.encode(original))


def test_other_uids_in_an_instance_are_found(study: SmallStudy) -> None:
    original = encoding.decode_untrusted(study.encoded[0])
    other = original.replace(STUDY.encode(), STUDY[:-1].encode() + b"2")
    with pytest.raises(RemoteProtocolError, match="other UIDs"):
        _check(study).check(0, encoding.encode(other))


def test_a_batch_of_another_size_is_found(study: SmallStudy) -> None:
    original = encoding.decode_untrusted(study.encoded[0])
    with pytest.raises(RemoteProtocolError, match="original size"):
        _check(study).check(0, encoding.encode(original[:-1]))


def test_an_instance_without_what_the_catalog_needs_is_refused() -> None:
    # The three UIDs are right; the SOP Class UID is no UID.
    content = CONTENTS[0].replace(b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.x")
    assert content != CONTENTS[0]
    study = exchange_pair.make_study([content], batch_bytes=100_000)
    with pytest.raises(RemoteProtocolError, match="header"):
        _check(study).check(0, study.encoded[0])


def _smooth(number: int) -> bytes:
    """An instance whose pixels are predicted, of 128 KiB."""
    instance = make_instance(STUDY, number, rows=256)
    y, x = np.mgrid[0:256, 0:256]
    instance.PixelData = (1000 + 3 * x + 2 * y + (x * y) % 5).astype("<u2").tobytes()
    buffer = BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("early", [0, 200, 600])
def test_instances_of_which_headers_and_pixels_are_apart(early: int, incoming: Incoming) -> None:
    """Also where pixels are said to begin `early` bytes before they do, within the header."""
    contents = [_smooth(1), _smooth(2)]
    study = exchange_pair.make_study(contents, batch_bytes=1_000_000)
    size = 2 * 256 * 256
    runs = [
        PixelRun(end - size - early, 256, 256, 1)
        for end in (len(contents[0]), sum(map(len, contents)))
    ]
    encoded = encoding.encode(b"".join(contents), runs=runs)
    assert encoding.encoding_of(encoded) is encoding.Encoding.PIXELS
    [batch] = study.manifest.batches
    promised = (batch._replace(encoding=encoding.Encoding.PIXELS),)
    study = SmallStudy(dataclasses.replace(study.manifest, batches=promised), (encoded,))
    check = _check(study)
    check.check(0, encoded, Workspace())
    # All is in this batch, so that nothing is looked for on disk.
    check.check_rest(incoming)
    assert check.headers == {0: read_header(contents[0])}
    for place in (40, len(contents[0]) - size - 10, len(contents[0]) - 10, len(contents[0]) + 300):
        damaged = bytearray(b"".join(contents))
        damaged[place] ^= 1
        with pytest.raises(RemoteProtocolError):
            _check(study).check(0, encoding.encode(damaged, runs=runs), Workspace())


# --- large instances --------------------------------------------------------------


def test_parts_of_a_large_instance_are_hashed_in_order(study: SmallStudy) -> None:
    index, parts = _large(study)
    large = LargeInstances(study.manifest)
    for batch, original in parts:
        assert large.unverified({index}) == [index]
        large.add(batch, _whole(original))
    assert large.unverified({index}) == []


def test_parts_a_little_early_wait(study: SmallStudy) -> None:
    index, (first, second, third, *others) = _large(study)
    large = LargeInstances(study.manifest)
    for batch, original in (third, second, first, *others):
        large.add(batch, _whole(original))
    assert large.unverified({index}) == []


def test_parts_far_too_early_and_parts_that_come_twice(study: SmallStudy) -> None:
    index, parts = _large(study)
    large = LargeInstances(study.manifest)
    for batch, original in reversed(parts):
        large.add(batch, _whole(original))
    assert large.unverified({index}) == [index]
    # The hash goes on where it stood.
    for batch, original in (*parts, *parts):
        large.add(batch, _whole(original))
    assert large.unverified({index}) == []


def test_a_part_waits_for_the_thread_that_has_what_comes_before(study: SmallStudy) -> None:
    index, parts = _large(study)
    large = LargeInstances(study.manifest)
    first, *others = parts
    waiting = threading.Thread(
        target=lambda: [large.add(batch, _whole(original)) for batch, original in others]
    )
    with large.under_way(first[0]):
        waiting.start()
        while len(large._early) < 2:
            waiting.join(0.01)
        assert waiting.is_alive()
        large.add(first[0], _whole(first[1]))
    waiting.join()
    assert large.unverified({index}) == []


def test_two_threads_that_wait_for_each_other_go_on(
    study: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_WAIT_SECONDS", 0.01)
    index, parts = _large(study)
    large = LargeInstances(study.manifest)
    with large.under_way(parts[0][0]):
        for batch, original in parts[1:]:
            large.add(batch, _whole(original))
    assert large.unverified({index}) == [index]


def test_threads_may_bring_neighbouring_parts_at_once(study: SmallStudy) -> None:
    index, parts = _large(study)
    large = LargeInstances(study.manifest)
    together = threading.Barrier(2)

    def bring(own: list[tuple[int, bytes]]) -> None:
        for batch, original in own:
            together.wait()
            large.add(batch, _whole(original))

    even = len(parts) // 2 * 2
    threads = [threading.Thread(target=bring, args=(parts[start:even:2],)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for batch, original in parts[even:]:
        large.add(batch, _whole(original))
    assert large.unverified({index}) == []


def test_other_bytes_in_a_large_instance_are_found(study: SmallStudy) -> None:
    _, parts = _large(study)
    large = LargeInstances(study.manifest)
    damaged = bytearray(parts[1][1])
    damaged[5] ^= 1
    for batch, original in (parts[0], (parts[1][0], bytes(damaged)), *parts[2:-1]):
        large.add(batch, _whole(original))
    with pytest.raises(DigestMismatch):
        large.add(parts[-1][0], _whole(parts[-1][1]))


def test_an_instance_that_calls_itself_a_media_directory_is_the_fault_of_its_source() -> None:
    named, other = b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.1.3.10"
    content = CONTENTS[0].replace(named, other.ljust(len(named), b"\0"), 1)
    assert content != CONTENTS[0]
    odd = exchange_pair.make_study([content])
    with pytest.raises(RemoteProtocolError, match="header"):
        _check(odd).check(0, odd.encoded[0])


def test_a_batch_of_another_encoding_than_promised_is_refused(study: SmallStudy) -> None:
    first, *rest = study.manifest.batches
    other = next(one for one in encoding.Encoding if one is not first.encoding)
    promised = dataclasses.replace(study.manifest, batches=(first._replace(encoding=other), *rest))
    with pytest.raises(RemoteProtocolError, match="encoding"):
        StudyCheck(promised, [0]).check(0, study.encoded[0])


def _of_patient(number: int, patient: str, issuer: str = "", series: str = "") -> Dataset:
    dataset = make_instance(exchange_pair.STUDY, number, rows=16, series=series)
    dataset.PatientID = patient
    if issuer:
        dataset.IssuerOfPatientID = issuer
    return dataset


def _saved(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    is_implicit = syntax == ImplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = syntax if is_implicit else ExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    # Headers are written alike in all others; what the pixels are is not looked at.
    return buffer.getvalue().replace(
        ExplicitVRLittleEndian.encode() + b"\0", syntax.encode() + b"\0"
    )


def _described(contents: list[bytes]) -> tuple[Described, list[int]]:
    """What a recipient's check finds, and how many headers it read."""
    reads: list[int] = []
    read_header = studies.read_header

    def counted(original: bytes, size: int | None = None) -> InstanceHeader | None:
        reads.append(len(original))
        return read_header(original, size)

    study = exchange_pair.make_study(contents, batch_bytes=64 * 1024)
    check = StudyCheck(study.manifest, range(len(study.encoded)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(studies, "read_header", counted)
        for index, encoded in enumerate(study.encoded):
            check.check(index, encoded)
    return check.described, reads


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_only_headers_that_say_something_new_are_read(syntax: str) -> None:
    contents = [
        _saved(_of_patient(number, "A" if number != 100 else "B"), syntax)
        for number in range(1, 201)
    ]
    described, reads = _described(contents)
    assert described.patients == {("A", ""), ("B", "")}
    # Instance Number has one, two or three digits: a layout each.
    assert len(reads) <= 6


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_every_instance_is_asked_for_its_patient(syntax: str) -> None:
    contents = [
        _saved(_of_patient(1, "A"), syntax),
        _saved(_of_patient(2, ""), syntax),
        _saved(_of_patient(3, "A", "ISSUER"), syntax),
        _saved(_of_patient(4, "B"), syntax),
    ]
    described, _ = _described(contents)
    assert described.patients == {("A", ""), ("A", "ISSUER"), ("B", "")}


def test_an_issuer_out_of_order_is_found() -> None:
    """A file that begins like the one before it, and says who issued the ID behind."""
    first, second = _saved(_of_patient(1, "A")), _saved(_of_patient(2, "A"))
    begin = second.index(struct.pack("<HH2s", 0x0028, 0x0002, b"US"))
    issuer = element(0x00100021, b"LO", b"ISSUER")
    described, _ = _described([first, second[:begin] + issuer + second[begin:]])
    assert described.patients == {("A", ""), ("A", "ISSUER")}


def test_a_patient_behind_what_is_alike_is_found() -> None:
    """Two files that begin alike, without a patient; the second names one behind."""
    named = _saved(_of_patient(1, "A"))
    at = named.index(element(0x00100020, b"LO", b"A "))
    without = named[:at] + named[at + 10 :]
    begin = without.index(struct.pack("<HH2s", 0x0028, 0x0002, b"US"))
    behind = without[:begin] + named[at : at + 10] + without[begin:]
    uid = f"{STUDY}.1.".encode()
    second = behind.replace(uid + b"1", uid + b"2")
    described, _ = _described([without, second])
    assert described.patients == {("A", "")}
