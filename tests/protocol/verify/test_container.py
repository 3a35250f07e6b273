"""The container of a bundle: what the verifier takes, every reader of ZIP files reads alike."""

import io
import struct
import zipfile
import zlib

import pytest
from bundles_made import honest, verify
from containers_made import Part, changed, container, deflate, parts_of, read_in_sequence
from hypothesis import given
from hypothesis import strategies as st
from places import TESTS

from protocol.verify import Code
from protocol.verify import container as reader
from protocol.verify.bundle import Bundle, BundleDamaged

FIRST_RELEASE = (TESTS / "bundles" / "bundle-8dfb4af.zip").read_bytes()
"""Written by the node at commit 8dfb4af: ZIP64 fields in every local header."""

MEMBERS = honest().members()
STORED = container(parts_of(MEMBERS))
PACKED = container(parts_of(MEMBERS, deflated=True))
FORGED = dict(MEMBERS)["entries.jsonl"].replace(b"ingest", b"egress")


def taken(data):
    """What our reader takes, or None."""
    try:
        with Bundle(io.BytesIO(data)) as bundle:
            bundle.read_rest()
            return [(name, bundle.stream(name).read()) for name in bundle.names]
    except BundleDamaged:
        return None


def listed(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def is_safe(data):
    """Whether it is refused, or read alike by the list and in sequence."""
    ours = taken(data)
    return ours is None or ours == listed(data) == read_in_sequence(data)


@pytest.mark.parametrize("data", [FIRST_RELEASE, STORED, PACKED], ids=["first", "stored", "packed"])
def test_honest_bundles_are_read_alike_by_all(data):
    assert taken(data) == listed(data) == read_in_sequence(data)
    assert verify(data).sound is True
    assert verify(data).size == 12


@pytest.mark.slow
@pytest.mark.parametrize("data", [FIRST_RELEASE, PACKED], ids=["first", "packed"])
def test_a_byte_that_is_changed_put_in_or_taken_out_changes_nothing_or_is_refused(data):
    original = listed(data)
    for at in range(len(data)):
        for other in (data[at] ^ 1, data[at] ^ 0x80, data[at] ^ 0xFF):
            here = data[:at] + bytes([other]) + data[at + 1 :]
            assert taken(here) in (None, original), at
            if taken(here) is not None:
                assert listed(here) == read_in_sequence(here) == original, at
        assert taken(data[:at] + data[at + 1 :]) is None
        for more in (b"\0", b"P", data[at : at + 1]):
            assert taken(data[:at] + more + data[at:]) is None, at
    assert taken(data + b"\0") is None


HIDDEN = Part(b"entries.jsonl", FORGED, hidden=True)
EXTRA = struct.pack("<2HB", 0x7075, 5 + len(b"old.txt"), 1) + struct.pack(
    "<L", zlib.crc32(b"entries.jsonl")
)
UNICODE_PATH = EXTRA + b"old.txt"
REPLACED = EXTRA.replace(
    struct.pack("<L", zlib.crc32(b"entries.jsonl")), struct.pack("<L", zlib.crc32(b"notes"))
)

PARTS = parts_of(MEMBERS)


def of_entries(**changes):
    return container(changed(PARTS, b"entries.jsonl", **changes))


def with_extra_file(name, **changes):
    return container([*PARTS, Part(name, b"x", **changes)])


SIZES = len(dict(MEMBERS)["entries.jsonl"])
ZIP64 = struct.pack("<2H2Q", 1, 16, SIZES, SIZES)

TRICKS = {
    "hidden first": container([HIDDEN, *PARTS]),
    "hidden between": container([*PARTS[:3], HIDDEN, *PARTS[3:]]),
    "hidden last": container([*PARTS, HIDDEN]),
    "prefix": container(PARTS, prefix=b"#!/bin/sh\n"),
    "prefix not counted": container(PARTS, prefix=b"#!/bin/sh\n", shift=10),
    "behind a file": of_entries(after=b"\0"),
    "in front of a file": of_entries(before=b"\0"),
    "behind the list": container(PARTS, gap=b"\0"),
    "behind the end": container(PARTS) + b"\0",
    "comment": container(PARTS, end={"comment": b"x"}),
    "one file more than listed": container(PARTS, end={"here": 9, "count": 9}),
    "another disk": container(PARTS, end={"disk": 1}),
    "not all here": container(PARTS, end={"here": 1}),
    "list elsewhere": container(PARTS, end={"start": 0}),
    "list in another order": container([*PARTS[1:], PARTS[0]], end={"length": 5}),
    "one place twice": container([*PARTS, Part(b"later", b"x", listed={"offset": 0})]),
    "unicode path": of_entries(listed={"extra": UNICODE_PATH}),
    "unicode path in both": of_entries(
        local={"extra": UNICODE_PATH}, listed={"extra": UNICODE_PATH}
    ),
    "a time in an extra field": of_entries(local={"extra": struct.pack("<2HBL", 0x5455, 5, 1, 0)}),
    "ZIP64 with plain sizes": of_entries(local={"extra": ZIP64}),
    "ZIP64 of other sizes": of_entries(
        local={"extra": ZIP64[:-1] + b"\1", "size": 2**32 - 1, "packed": 2**32 - 1}
    ),
    "ZIP64 in the list": of_entries(
        listed={"extra": ZIP64, "size": 2**32 - 1, "packed": 2**32 - 1}
    ),
    "ZIP64 sizes missing": of_entries(local={"size": 2**32 - 1, "packed": 2**32 - 1}),
    "another name in front": of_entries(local={"name": b"notes"}),
    "another CRC in front": of_entries(local={"crc": 0}),
    "another method in front": of_entries(local={"method": 8}),
    "another size in front": of_entries(local={"size": 1}),
    "a size that is not": of_entries(listed={"size": 1}, local={"size": 1}),
    "sizes behind": of_entries(
        local={"flags": 8, "crc": 0, "size": 0, "packed": 0}, listed={"flags": 8}
    ),
    "encrypted": of_entries(local={"flags": 1}, listed={"flags": 1}),
    "UTF-8": of_entries(local={"flags": 0x800}, listed={"flags": 0x800}),
    "bzip2": of_entries(local={"method": 12}, listed={"method": 12}),
    "needs a later version": of_entries(local={"version": 63}, listed={"version": 63}),
    "made elsewhere": of_entries(listed={"made_by": 0x0714}),
    "made by a later version": of_entries(listed={"made_by": 0x033F}),
    "text": of_entries(listed={"internal": 1}),
    "a link": of_entries(listed={"external": 0o120777 << 16}),
    "a folder": of_entries(listed={"external": 0x10}),
    "on disk 1": of_entries(listed={"disk": 1}),
    "file comment": of_entries(listed={"comment": b"x"}),
    "bytes behind what is packed": of_entries(
        deflated=True, packed_as=deflate(dict(MEMBERS)["entries.jsonl"]) + b"\0"
    ),
    "two packed one behind the other": of_entries(
        deflated=True, packed_as=deflate(dict(MEMBERS)["entries.jsonl"]) + deflate(FORGED)
    ),
    "packed and cut": of_entries(
        deflated=True, packed_as=deflate(dict(MEMBERS)["entries.jsonl"])[:-3]
    ),
    "an unknown file with bytes behind": with_extra_file(
        b"later", deflated=True, packed_as=deflate(b"x") + container(parts_of(MEMBERS))
    ),
    "an unknown file of another CRC": with_extra_file(
        b"later", local={"crc": 1}, listed={"crc": 1}
    ),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_what_readers_could_take_in_two_ways_is_refused(trick):
    data = TRICKS[trick]
    assert taken(data) is None
    verdict = verify(data)
    assert (verdict.sound, verdict.code) == (None, Code.BUNDLE)


@pytest.mark.parametrize(
    "name",
    [
        *(b"./card", b"card/", b"card/x", b"CARD", b"card.", b".", b"..", b"", b"a//b", b"/a"),
        *(b"a\\b", b"C:x", b"a\0b", b"a\nb", b"a b", "é".encode(), "é".encode("cp437"), b"x" * 201),
        *(b"witnesses/./1", b"Checkpoints/12", b"checkpoints", b"checkpoints/12/1", b"a/../card"),
    ],
)
def test_names_that_are_another_on_some_system_are_refused(name):
    data = with_extra_file(name)
    assert verify(data).sound is None
    assert is_safe(data)


@pytest.mark.parametrize("name", [b"later", b"x/y.z", b"a" * 100, b"card-2", b"witnessed/x"])
def test_other_names_are_let_through(name):
    data = with_extra_file(name)
    assert verify(data).sound is True
    assert listed(data) == read_in_sequence(data) == taken(data)


_NUMBERS = st.sampled_from([0, 1, 8, 0x10, 20, 45, 0x800, 0xFFFF])
_CHANGES = st.dictionaries(
    st.sampled_from(["version", "flags", "method", "time", "date"]), _NUMBERS, max_size=2
)
_NAMES = st.sampled_from([b"entries.jsonl", b"entries.json", b"ENTRIES.JSONL", b"later", b"x/y"])


@pytest.mark.slow
@given(st.data())
def test_whatever_is_put_together_is_read_alike_or_refused(data):
    """Parts hidden or listed, with headers that say more or less the same."""
    parts = list(PARTS)
    for _ in range(data.draw(st.integers(1, 3))):
        changes = data.draw(_CHANGES)
        part = Part(
            data.draw(_NAMES),
            data.draw(st.sampled_from([FORGED, b"", b"PK\3\4"])),
            deflated=data.draw(st.booleans()),
            hidden=data.draw(st.booleans()),
            before=data.draw(st.sampled_from([b"", b"", b"\0"])),
            after=data.draw(st.sampled_from([b"", b"", b"PK\7\x08"])),
            local=changes,
            listed=data.draw(st.sampled_from([changes, {}, {**changes, "extra": b"\0" * 4}])),
        )
        parts.insert(data.draw(st.integers(0, len(parts))), part)
    assert is_safe(container(parts))


def test_a_container_of_many_gigabytes_has_its_numbers_in_zip64_fields(monkeypatch):
    """What Python writes above 2 GiB, with that limit set lower, is read with it set lower."""
    buffer = io.BytesIO()
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in MEMBERS:
            member = zipfile.ZipInfo(name)
            with archive.open(member, "w", force_zip64=True) as stream:
                stream.write(data)
    data = buffer.getvalue()
    assert b"PK\6\6" in data
    assert b"PK\6\7" in data
    assert verify(data).sound is None
    monkeypatch.setattr(reader, "_SMALL", 1000)
    assert verify(data).sound is True
    assert taken(data) == listed(data) == read_in_sequence(data)
    for at in range(data.index(b"PK\1\2"), len(data)):
        here = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert taken(here) in (None, taken(data))
        # What old readers look at says the same as what new ones do, or too much for its place.
        if at >= len(data) - 22:
            assert taken(here) is None


def test_the_list_is_bounded_before_it_is_read():
    many = container([Part(f"{at:05}".encode(), b"") for at in range(10_001)])
    with pytest.raises(BundleDamaged, match="more than 10000 files"):
        Bundle(io.BytesIO(many))
    most = container([Part(f"{at:05}".encode(), b"") for at in range(10_000)])
    assert len(Bundle(io.BytesIO(most)).names) == 10_000


def test_a_list_of_as_many_bytes_as_it_may_have_is_read(monkeypatch):
    length = len(STORED) - STORED.index(b"PK\1\2") - 22
    for most, is_read in ((length, True), (length - 1, False)):
        monkeypatch.setattr(reader, "DIRECTORY_BYTES", most)
        assert (taken(STORED) is not None) == is_read


def test_a_file_that_is_longer_than_it_says_is_refused_where_it_is():
    """And not at its end, which may be far."""
    says = {"size": 10}
    data = container([Part(b"x", bytes(10**6), deflated=True, local=says, listed=says)])
    file = io.BytesIO(data)
    [member], _ = reader.read_members(file)
    content = reader.Content(file, member)
    assert content.next_block(10) == bytes(10)
    with pytest.raises(BundleDamaged, match="the file x of the bundle is damaged"):
        content.next_block(10)
