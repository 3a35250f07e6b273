"""Large instances that arrive: what is looked for on disk, and which threads wait."""

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import blake3
import exchange_pair
import pytest
from download_made import part10
from exchange_pair import SmallStudy
from hypothesis import given
from hypothesis import strategies as st
from part10_made import CT_IMAGE, element, meta

from node.dicom.studies import read_header
from node.images.store import BatchStore
from node.transfer import checking
from node.transfer.checking import Cut, LargeInstances, StudyCheck, _reader_on_disk, is_split
from node.transfer.incoming import Incoming
from protocol import encoding
from protocol.errors import DigestMismatch, RemoteProtocolError
from protocol.manifest import BatchEntry, SeriesEntry

STUDY = exchange_pair.STUDY
BATCH_BYTES = 3000


def without_gaps(contents: Sequence[bytes], batch_bytes: int = BATCH_BYTES) -> SmallStudy:
    """A study whose instances follow one another, and go on in the next batch where one ends.

    No ingest of ours packs so, and any manifest may.
    """
    whole = b"".join(contents)
    pieces = [whole[at : at + batch_bytes] for at in range(0, len(whole), batch_bytes)]
    encoded = tuple(encoding.encode(piece) for piece in pieces)
    begins = [len(b"".join(contents[:number])) for number in range(len(contents))]
    manifest = dataclasses.replace(
        exchange_pair.make_study(contents).manifest,
        batches=tuple(
            BatchEntry(blake3.blake3(one).digest(), len(one), len(piece), encoding.encoding_of(one))
            for one, piece in zip(encoded, pieces, strict=True)
        ),
    )
    instances = tuple(
        one._replace(first_batch=at // batch_bytes, offset=at % batch_bytes)
        for one, at in zip(manifest.instances, begins, strict=True)
    )
    manifest = dataclasses.replace(manifest, instances=instances)
    manifest._check_places_untrusted()
    return SmallStudy(manifest, encoded)


CONTENTS = [part10(number + 1, rows) for number, rows in enumerate((8, 60, 8, 70))]
LARGE = 1


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    """Its second instance begins in the batch of the first and ends in that of the third."""
    made = without_gaps(CONTENTS)
    assert made.manifest.instances[LARGE].first_batch == 0
    assert made.manifest.instances[LARGE].offset > 0
    return made


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    return Incoming(tmp_path / "incoming", BatchStore(tmp_path / "store"))


def write(incoming: Incoming, study: SmallStudy) -> None:
    for entry, encoded in zip(study.manifest.batches, study.encoded, strict=True):
        incoming.write(entry.digest, encoded)


def changed(study: SmallStudy, index: int, **changes: object) -> SmallStudy:
    """The study with another entry of one instance in its manifest."""
    instances = list(study.manifest.instances)
    instances[index] = instances[index]._replace(**changes)
    manifest = dataclasses.replace(study.manifest, instances=tuple(instances))
    return SmallStudy(manifest, study.encoded)


def checked(study: SmallStudy, incoming: Incoming, order: Sequence[int]) -> StudyCheck:
    """The check of a study whose batches came in this order, done."""
    write(incoming, study)
    check = StudyCheck(study.manifest, range(len(study.encoded)))
    for index in order:
        check.check(index, study.encoded[index])
    check.check_rest(incoming)
    return check


# --- what is looked for on disk ----------------------------------------------------


def orders(study: SmallStudy) -> tuple[Sequence[int], Sequence[int]]:
    forwards = range(len(study.encoded))
    return forwards, forwards[::-1]


@pytest.mark.parametrize("direction", [0, 1])
def test_instances_that_share_batches_with_large_ones_are_compared(
    study: SmallStudy, incoming: Incoming, direction: int
) -> None:
    order = orders(study)[direction]
    check = checked(study, incoming, order)
    assert check.headers == {0: read_header(CONTENTS[0])}
    for index in range(len(CONTENTS)):
        with pytest.raises(DigestMismatch):
            checked(changed(study, index, digest=bytes(32)), incoming, order)


@pytest.mark.parametrize("direction", [0, 1])
def test_a_part_of_a_large_instance_at_another_place_is_found(
    study: SmallStudy, incoming: Incoming, direction: int
) -> None:
    wrong = changed(study, LARGE, size=study.manifest.instances[LARGE].size - 1)
    with pytest.raises(DigestMismatch):
        checked(wrong, incoming, orders(study)[direction])


def test_what_was_compared_on_disk_is_not_compared_again(
    study: SmallStudy, incoming: Incoming
) -> None:
    write(incoming, study)
    large = LargeInstances(study.manifest)
    everything = set(range(len(CONTENTS)))
    split = [index for index in everything if is_split(study.manifest, index)]
    assert LARGE in split
    assert large.unverified(everything) == split
    large.verify_from_disk(LARGE, incoming)
    assert large.unverified(everything) == [index for index in split if index != LARGE]
    assert large.unverified({LARGE}) == []


def test_what_is_not_needed_is_not_read(study: SmallStudy, incoming: Incoming) -> None:
    """A study of which the large instances are here already, and nothing lies in `incoming`."""
    apart = exchange_pair.make_study(CONTENTS, BATCH_BYTES)
    first = apart.manifest.instances[0].first_batch
    check = StudyCheck(apart.manifest, [first])
    check.check(first, apart.encoded[first])
    check.check_rest(incoming)
    # Nor is one that is needed taken for compared.
    check = StudyCheck(apart.manifest, [apart.manifest.instances[LARGE].first_batch])
    with pytest.raises(DigestMismatch):
        check.check_rest(incoming)


@given(data=st.data())
def test_an_instance_is_read_from_its_batches_as_from_a_file(
    data: st.DataObject, study: SmallStudy
) -> None:
    class Held:
        """Each batch, and how often it was read."""

        def __init__(self) -> None:
            self.reads: list[bytes] = []

        def read(self, digest: bytes, /) -> bytes:
            self.reads.append(digest)
            digests = [one.digest for one in study.manifest.batches]
            return study.encoded[digests.index(digest)]

    index = data.draw(st.integers(0, len(CONTENTS) - 1))
    content, held = CONTENTS[index], Held()
    read = _reader_on_disk(study.manifest, index, held)
    offset = data.draw(st.integers(0, len(content) + 10))
    length = data.draw(st.integers(0, len(content) + 10))
    assert read(offset, length) == content[offset : offset + length]
    # No batch is decoded of which nothing is wanted.
    spanned = -(-length // BATCH_BYTES) + 1
    assert len(held.reads) <= spanned


# --- headers that the first batch does not tell -------------------------------------


def _padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def _out_of_order(*, series: str = f"{STUDY}.1", sop_class: bytes = CT_IMAGE) -> bytes:
    """A large file in which study, series and patient stand behind 5000 other bytes."""
    return b"".join(
        (
            meta(),
            element(0x00080016, b"UI", sop_class),
            element(0x00080018, b"UI", _padded(f"{STUDY}.1.1")),
            element(0x00091010, b"OB", bytes(5000)),
            element(0x00100020, b"LO", b"A "),
            element(0x0020000D, b"UI", _padded(STUDY)),
            element(0x0020000E, b"UI", _padded(series)),
            element(0x00280010, b"US", b"\x10\0"),
            element(0x00280011, b"US", b"\x10\0"),
            element(0x7FE00010, b"OW", bytes(4000)),
        )
    )


def test_a_header_behind_the_first_batch_is_read_from_disk(incoming: Incoming) -> None:
    content = _out_of_order()
    study = exchange_pair.make_study([content], BATCH_BYTES)
    check = checked(study, incoming, range(len(study.encoded)))
    assert check.headers == {0: read_header(content)}
    assert check.described.patients == {("A", "")}


def test_other_uids_behind_the_first_batch_are_found(incoming: Incoming) -> None:
    study = exchange_pair.make_study([_out_of_order(series=f"{STUDY}.2")], BATCH_BYTES)
    with pytest.raises(RemoteProtocolError, match="other UIDs"):
        checked(study, incoming, range(len(study.encoded)))


def test_a_bad_header_behind_the_first_batch_is_the_fault_of_its_source(
    incoming: Incoming,
) -> None:
    content = _out_of_order(sop_class=b"1.2.840.10008.5.1.4.1.1.x\0")
    study = exchange_pair.make_study([content], BATCH_BYTES)
    with pytest.raises(RemoteProtocolError, match="header"):
        checked(study, incoming, range(len(study.encoded)))


def test_the_patient_of_a_later_instance_is_read_from_disk(incoming: Incoming) -> None:
    """It is no first of its series, and its header stands for nothing but what it describes."""
    second = _out_of_order().replace(_padded(f"{STUDY}.1.1"), _padded(f"{STUDY}.1.2"))
    study = exchange_pair.make_study([CONTENTS[0], second], BATCH_BYTES)
    check = checked(study, incoming, range(len(study.encoded)))
    assert check.headers == {0: read_header(CONTENTS[0])}
    assert check.described.patients == {("A", ""), ("MARKER-PATIENT-ID", "")}


def test_each_series_has_the_header_of_its_first_new_instance() -> None:
    contents = [
        part10(1, 8),
        part10(2, 8),
        part10(1, 8, f"{STUDY}.2"),
        part10(2, 8, f"{STUDY}.2"),
    ]
    made = exchange_pair.make_study(contents, max(map(len, contents)))
    instances = tuple(
        one._replace(
            series_index=number // 2,
            sop_instance_uid=f"{STUDY}.{number // 2 + 1}.{number % 2 + 1}",
        )
        for number, one in enumerate(made.manifest.instances)
    )
    series = tuple(SeriesEntry(f"{STUDY}.{number}", "CT") for number in (1, 2))
    manifest = dataclasses.replace(made.manifest, series=series, instances=instances)
    for needed, firsts in ((range(4), (0, 2)), (range(1, 4), (1, 2)), ((3,), (None, 3))):
        check = StudyCheck(manifest, needed)
        for index in needed:
            check.check(index, made.encoded[index])
        assert check.headers == {
            number: read_header(contents[first])
            for number, first in enumerate(firsts)
            if first is not None
        }


# --- threads that wait --------------------------------------------------------------


def _whole(original: bytes) -> Cut:
    return lambda offset, length: [memoryview(original)[offset : offset + length]]


def test_nobody_waits_for_a_part_that_no_thread_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that had the first part is done, and has failed."""
    monkeypatch.setattr(checking, "_WAIT_SECONDS", 60.0)
    study = exchange_pair.make_study([CONTENTS[3]], 1000)
    originals = [encoding.decode_untrusted(one) for one in study.encoded]
    assert len(originals) > 4
    large = LargeInstances(study.manifest)
    with pytest.raises(RemoteProtocolError), large.under_way(0):
        raise RemoteProtocolError("it does not hold")

    def bring() -> None:
        for batch in range(1, len(originals)):
            with large.under_way(batch):
                large.add(batch, _whole(originals[batch]))

    bringing = threading.Thread(target=bring, daemon=True)
    bringing.start()
    bringing.join(10)
    assert not bringing.is_alive()
    assert large.unverified({0}) == [0]
