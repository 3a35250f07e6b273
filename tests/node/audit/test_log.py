"""The audit log on a real disk: what it keeps, shows and exports; threads."""

import errno
import io
import json
import os
import struct
import threading
import zipfile

import pytest
from logs_made import (
    CARD,
    FACILITY,
    LOG,
    NODE,
    ORIGIN,
    START_MS,
    WITNESS,
    Clock,
    create,
    entries_of,
    event,
    reopen,
    verified,
)

from keys.fingerprint import fingerprint, parse_fingerprint
from node.audit.files import FRAME_HEADER, frame
from node.errors import ExitCode, NodeError
from protocol.errors import LocalProtocolError
from protocol.log.checkpoint import open_checkpoint_untrusted
from protocol.log.entry import ENTRY_BYTES, Event, decode_entry_untrusted
from protocol.receipt import Receipt, SignedReceipt, sign_receipt
from protocol.verify import verify_bundle


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "audit"


def test_entries_survive_closing(directory, clock):
    log = create(directory, clock)
    assert log.append(event(1)) == 1
    assert log.append_many([event(2), event(3)]) == range(2, 4)
    root, size = log.root(), log.size
    log.close()
    log = reopen(directory, clock)
    assert (log.root(), log.size) == (root, size) == (log.root(), 4)
    assert [entry.index for entry in entries_of(log)] == [0, 1, 2, 3]
    assert [entry.details.get("n") for entry in entries_of(log)] == [None, 1, 2, 3]
    assert [decode_entry_untrusted(data).index for data in log.entries(1, 3)] == [1, 2]
    log.close()


def test_frames_on_disk_are_as_documented(directory):
    log = create(directory)
    log.append(event(1))
    expected = b"".join(frame(entry) for entry in log.entries())
    open_log = (directory / "log").read_bytes()
    log.close()
    data = (directory / "log").read_bytes()
    assert data == expected
    assert open_log.startswith(expected)
    assert set(open_log[len(expected) :]) == {0}
    length, _ = FRAME_HEADER.unpack(data[:8])
    assert json.loads(data[8 : 8 + length])["type"] == "init"


def test_the_checkpoint_covers_all_and_is_on_disk(directory):
    log = create(directory)
    for number in range(5):
        log.append(event(number))
    text = log.latest_checkpoint()
    assert (directory / "checkpoint").read_text() == text
    checkpoint = open_checkpoint_untrusted(text.encode(), ORIGIN, LOG.public)
    assert (checkpoint.size, checkpoint.root) == (6, log.root())
    log.close()


def test_the_checkpoint_follows_by_itself(directory):
    log = create(directory)
    log.append(event(1))
    path = directory / "checkpoint"
    for _ in range(500):
        if path.read_text().split("\n")[1] == "2":
            break
        threading.Event().wait(0.01)
    assert path.read_text().split("\n")[1] == "2"
    log.close()


def test_time_never_goes_backwards(directory, clock):
    log = create(directory, clock)
    clock.now = START_MS + 5000
    log.append(event(1))
    clock.now = START_MS - 5000
    log.append(event(2))
    log.close()
    log = reopen(directory, clock)
    log.append(event(3))
    times = [entry.time_ms - START_MS for entry in entries_of(log)]
    log.close()
    assert times == [0, 5000, 5000, 5000]


def test_openings_stay_beside_the_log(directory):
    log = create(directory)
    secret = Event(type="ingest", subjects=(("study", "1.2.99"), ("patient", "DOE^JANE")))
    log.append(secret)
    ((_, study), (_, patient)) = entries_of(log)[1].subjects
    assert log.opening_of(study).value == "1.2.99"
    assert log.opening_of(patient).value == "DOE^JANE"
    assert log.opening_of("00" * 32) is None
    log.append(secret)
    assert entries_of(log)[2].subjects[0][1] != study
    log.close()
    assert b"DOE" not in (directory / "log").read_bytes()


def test_receipts_are_kept(directory):
    log = create(directory)
    digest = log.add_receipt(b"a receipt")
    assert log.add_receipt(b"a receipt") == digest
    log.append(Event(type="receipt", details={"receipt": digest}))
    log.close()
    log = reopen(directory)
    assert log.receipt(digest) == b"a receipt"
    assert log.receipt("00" * 32) is None
    log.close()


def test_export_is_sound_and_openings_can_be_left_out(directory):
    log = create(directory)
    for number in range(700):
        log.append(Event(type="start", details={"n": number}))
    log.append(event(1))
    log.export(directory / "with.zip", card=CARD.encoded)
    log.export(directory / "without.zip", card=CARD.encoded, include_openings=False)
    log.close()
    for name, hidden in (("with.zip", False), ("without.zip", True)):
        with (directory / name).open("rb") as file:
            verdict = verify_bundle(
                file, facility_fingerprint=parse_fingerprint(fingerprint(FACILITY.public))
            )
        assert (verdict.sound, verdict.size, verdict.findings) == (True, 702, ())
        assert any("commitments only" in note for note in verdict.notes) is hidden
        assert ("openings.jsonl" not in zipfile.ZipFile(directory / name).namelist()) is hidden
    assert not list(directory.glob("*.new"))


def test_receipts_are_exported_and_verified(directory):
    body = Receipt(
        transfer=b"t" * 16,
        source_facility=FACILITY.public,
        recipient_facility=WITNESS.public,
        source_node=NODE.public,
        recipient_node=WITNESS.public,
        manifest=b"m" * 32,
        content_root=b"c" * 32,
        instances=3,
        bytes=70_000,
        batches=2,
        encoded_bytes=30_000,
        purpose="treatment",
        time=START_MS,
        status="received",
    ).encode()
    receipt = SignedReceipt(
        body=body,
        recipient_signature=sign_receipt(body, WITNESS),
        source_signature=sign_receipt(body, NODE),
    )
    log = create(directory)
    log.append(Event(type="receipt", details={"receipt": "of another kind"}))
    log.append(Event(type="receipt", details={"receipt": "00" * 32}))
    details = {"receipt": log.add_receipt(receipt.encode()), "instances": 3}
    log.append(Event(type="receipt", purpose="treatment", peer=WITNESS.public, details=details))
    verdict = verified(log)
    log.close()
    assert verdict.sound is True
    assert any("of 3 receipts named in the log, 2 not" in note for note in verdict.notes)


def test_export_to_where_nothing_can_be_written(directory):
    log = create(directory)
    with pytest.raises(NodeError) as caught:
        log.export(directory / "missing" / "b.zip", card=CARD.encoded)
    log.close()
    assert caught.value.code == ExitCode.DISK


def test_a_second_writer_is_refused(directory):
    log = create(directory)
    with pytest.raises(NodeError) as caught:
        reopen(directory)
    assert caught.value.code == ExitCode.BUSY
    log.append(event(1))
    log.close()
    with pytest.raises(NodeError):
        create(directory)


def test_a_closed_log_takes_nothing(directory):
    log = create(directory)
    log.close()
    log.close()
    with pytest.raises(NodeError):
        log.append(event(1))


def test_an_entry_that_is_too_large_spoils_no_other(directory):
    log = create(directory)
    with pytest.raises(LocalProtocolError):
        log.append(Event(type="start", details={"x": "y" * ENTRY_BYTES}))
    with pytest.raises(LocalProtocolError):
        log.append_many([event(1), Event(type="start", details={"x": "y" * ENTRY_BYTES})])
    assert log.append(event(2)) == 1
    assert verified(log).sound is True
    log.close()


def test_threads_share_the_log(directory):
    log = create(directory)
    indexes = [[], [], []]

    def append(thread):
        for number in range(60):
            indexes[thread].append(log.append(event(1000 * thread + number)))

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(index for each in indexes for index in each) == list(range(1, 181))
    assert all(each == sorted(each) for each in indexes)
    numbers = {entry.index: entry.details.get("n") for entry in entries_of(log)}
    for thread in range(3):
        assert [numbers[index] for index in indexes[thread]] == [
            1000 * thread + number for number in range(60)
        ]
    assert verified(log).sound is True
    log.close()


def test_a_failed_flush_of_zeros_is_a_failed_flush(directory, monkeypatch):
    log = create(directory)
    flush, descriptor = os.fsync, log._file._descriptor
    failures = [errno.EIO]

    def once(at):
        if at == descriptor and failures:
            raise OSError(failures.pop(), "no")
        flush(at)

    monkeypatch.setattr(os, "fsync", once)
    log._file._reserved = log._file._end
    with pytest.raises(NodeError):
        log.append(event(1))
    assert (failures, log._file.is_broken) == ([], True)
    assert log.append(event(2)) == 1
    log.close()
    log = reopen(directory)
    assert [entry.details.get("n") for entry in entries_of(log)] == [None, 2]
    log.close()


@pytest.mark.parametrize("large", [False, True])
def test_a_bundle_has_zip64_fields_only_where_a_file_may_be_larger_than_2_gib(
    directory, clock, monkeypatch, large
):
    log = create(directory, clock)
    log.append(Event(type="ingest", subjects=(("study", "1.2.3"),)))
    if large:
        monkeypatch.setattr("node.audit.bundle._LARGE_BYTES", 0)
    log.export(directory / "bundle.zip", card=CARD.encoded, further={"policy": b"x"})
    log.close()
    data = (directory / "bundle.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        extras = {}
        for each in archive.infolist():
            assert (each.extra, each.flag_bits, each.comment) == (b"", 0, b"")
            name_length, extra_length = struct.unpack_from("<2H", data, each.header_offset + 26)
            start = each.header_offset + 30 + name_length
            extras[each.filename] = data[start : start + extra_length]
    streamed = {"entries.jsonl", "leaves", "openings.jsonl", "receipts.jsonl"}
    assert {name for name, extra in extras.items() if extra} == (streamed if large else set())
    with (directory / "bundle.zip").open("rb") as file:
        digest = parse_fingerprint(fingerprint(FACILITY.public))
        assert verify_bundle(file, facility_fingerprint=digest).sound is True


@pytest.mark.parametrize("change", [{"outcome": "maybe"}, {"actor": "somebody"}, {"actor": ""}])
def test_what_has_a_closed_list_is_not_logged_otherwise(change):
    """A verifier would refuse the log that holds it."""
    with pytest.raises(LocalProtocolError):
        Event(type="start", **change)
    assert Event(type="start", actor=fingerprint(FACILITY.public)).outcome == "success"
