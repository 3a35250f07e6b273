"""ZIP containers written by hand, so that headers can contradict each other; and a reader that
goes from one local header to the next, like tools that read from a pipe."""

import struct
import zlib
from dataclasses import dataclass, field, replace

_LOCAL = "<4s5H3L2H"
_LISTED = "<4s6H3L5H2L"
_END = "<4s4H2LH"


@dataclass(frozen=True)
class Part:
    """A file of a container, and the fields of its two headers; `before` and `after` are bytes
    before its local header and after its content."""

    name: bytes
    data: bytes
    deflated: bool = False
    before: bytes = b""
    after: bytes = b""
    hidden: bool = False
    local: dict = field(default_factory=dict)
    listed: dict = field(default_factory=dict)
    packed_as: bytes | None = None

    @property
    def packed(self):
        if self.packed_as is not None:
            return self.packed_as
        return deflate(self.data) if self.deflated else self.data


def deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def parts_of(members, **more):
    return [Part(name.encode(), data, **more) for name, data in members]


def changed(parts, name, **changes):
    """The parts, with the part of one name replaced."""
    return [replace(each, **changes) if each.name == name else each for each in parts]


def container(parts, *, prefix=b"", shift=0, gap=b"", end=None):
    """The container of these parts.

    `prefix` comes first, `gap` is between the list and its end; offsets count from the
    start less `shift`; `end` changes fields of the end.
    """
    body, listing, count = prefix, b"", 0
    for part in parts:
        body += part.before
        offset = len(body) - shift
        body += _local(part) + part.packed + part.after
        if not part.hidden:
            listing += _listed(part, offset)
            count += 1
    fields = {
        "signature": b"PK\5\6",
        "disk": 0,
        "first_disk": 0,
        "here": count,
        "count": count,
        "length": len(listing),
        "start": len(body) - shift,
        "comment": b"",
        **(end or {}),
    }
    comment = fields.pop("comment")
    return body + listing + gap + struct.pack(_END, *fields.values(), len(comment)) + comment


def _common(part, changes):
    return {
        "version": 20,
        "flags": 0,
        "method": 8 if part.deflated else 0,
        "time": 0,
        "date": 33,
        "crc": zlib.crc32(part.data),
        "packed": len(part.packed),
        "size": len(part.data),
        "name": part.name,
        "extra": b"",
        **changes,
    }


def _local(part):
    fields = _common(part, part.local)
    name, extra = fields.pop("name"), fields.pop("extra")
    header = struct.pack(_LOCAL, b"PK\3\4", *fields.values(), len(name), len(extra))
    return header + name + extra


def _listed(part, offset):
    more = {
        "made_by": 0x0314,
        "comment": b"",
        "disk": 0,
        "internal": 0,
        "external": 0o600 << 16,
        "offset": offset,
    }
    fields = {**_common(part, {}), **more, **part.listed}
    name, extra, comment = (fields.pop(key) for key in ("name", "extra", "comment"))
    made_by = fields.pop("made_by")
    tail = [fields.pop(key) for key in ("disk", "internal", "external", "offset")]
    lengths = len(name), len(extra), len(comment)
    header = struct.pack(_LISTED, b"PK\1\2", made_by, *fields.values(), *lengths, *tail)
    return header + name + extra + comment


def read_in_sequence(data):
    """Name and content of each file, by the local headers alone; sizes by ZIP64 where said."""
    found, at = [], 0
    while data[at : at + 4] == b"PK\3\4":
        header = struct.unpack_from(_LOCAL, data, at)
        flags, method, packed, size, name_length, extra_length = (
            header[place] for place in (2, 3, 7, 8, 9, 10)
        )
        at += struct.calcsize(_LOCAL)
        name = data[at : at + name_length].decode("utf-8" if flags & 0x800 else "cp437")
        extra = data[at + name_length : at + name_length + extra_length]
        if size == packed == 0xFFFFFFFF:
            size, packed = struct.unpack_from("<QQ", extra, 4)
        at += name_length + extra_length
        content = data[at : at + packed]
        if method == 8:
            content = zlib.decompressobj(-15).decompress(content)
        found.append((name, content[:size]))
        at += packed
    return found
