"""PDUs and command sets by hand, for tests of edges/dimse; PS3.7 and PS3.8 read anew."""

import struct
from collections.abc import Iterable, Mapping

APPLICATION = b"1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

C_STORE, C_ECHO = 0x0001, 0x0030
NO_DATA, DATA = 0x0101, 0x0000


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def context(number: int, abstract: str | bytes, *transfer: str | bytes) -> bytes:
    """A presentation context of a request."""
    body = bytes((number, 0, 0, 0)) + item(0x30, _bytes(abstract))
    return item(0x20, body + b"".join(item(0x40, _bytes(one)) for one in transfer))


def user(*more: bytes, most: int = 16_384) -> bytes:
    """A user information item."""
    return item(0x50, item(0x51, struct.pack(">L", most)) + b"".join(more))


def window(invoked: int, performed: int = 1) -> bytes:
    """An asynchronous operations window."""
    return item(0x53, struct.pack(">HH", invoked, performed))


def role(sop_class: str, scu: int, scp: int) -> bytes:
    uid = sop_class.encode()
    return item(0x54, struct.pack(">H", len(uid)) + uid + bytes((scu, scp)))


def request(
    *items: bytes, calling: bytes = b"CT1", called: bytes = b"RADMESH", version: int = 1
) -> bytes:
    """An A-ASSOCIATE-RQ with these items after the application context."""
    head = struct.pack(">HH16s16s32x", version, 0, called.ljust(16), calling.ljust(16))
    return pdu(1, head + item(0x10, APPLICATION) + b"".join(items))


def usual_request(*more: bytes, calling: bytes = b"CT1", called: bytes = b"RADMESH") -> bytes:
    """Context 1 for CT in Explicit VR, context 3 for C-ECHO."""
    contexts = context(1, CT, EXPLICIT), context(3, VERIFICATION, IMPLICIT)
    return request(*contexts, user(*more), calling=calling, called=called)


def pdv(number: int, flags: int, fragment: bytes) -> bytes:
    """One item of a P-DATA-TF; flag 1 for a command, flag 2 for the last fragment."""
    return struct.pack(">LBB", len(fragment) + 2, number, flags) + fragment


def p_data(*items: bytes) -> bytes:
    return pdu(4, b"".join(items))


def command(values: Mapping[int, int | str | bytes]) -> bytes:
    """A command set: Implicit VR Little Endian."""
    body = b""
    for element in sorted(values):
        value = values[element]
        if isinstance(value, int):
            data = struct.pack("<H", value)
        else:
            data = _bytes(value)
            data += b"\0" * (len(data) % 2)
        body += struct.pack("<HHL", 0, element, len(data)) + data
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def echo(message: int = 1) -> bytes:
    """The command set of a C-ECHO-RQ."""
    return command({0x0002: VERIFICATION, 0x0100: C_ECHO, 0x0110: message, 0x0800: NO_DATA})


def store(message: int, instance: str, sop_class: str = CT) -> bytes:
    """The command set of a C-STORE-RQ."""
    return command(
        {
            0x0002: sop_class,
            0x0100: C_STORE,
            0x0110: message,
            0x0700: 0,
            0x0800: DATA,
            0x1000: instance,
        }
    )


def message(number: int, command_set: bytes, data: bytes | None, *, size: int = 16_000) -> bytes:
    """The P-DATA-TFs of a message."""
    found = p_data(pdv(number, 3, command_set))
    if data is not None:
        for start in range(0, len(data), size):
            is_last = start + size >= len(data)
            found += p_data(pdv(number, 2 * is_last, data[start : start + size]))
    return found


RELEASE_RQ, RELEASE_RP = pdu(5, bytes(4)), pdu(6, bytes(4))
ABORT = pdu(7, bytes(4))
ACCEPT = pdu(2, request()[6:])
REJECT = pdu(3, bytes((0, 1, 1, 1)))


def split(data: bytes) -> list[tuple[int, bytes]]:
    """The PDUs of bytes that are whole PDUs: type and variable field of each."""
    found, place = [], 0
    while place < len(data):
        kind, length = struct.unpack_from(">BxL", data, place)
        place += 6
        assert place + length <= len(data)
        found.append((kind, data[place : place + length]))
        place += length
    return found


def elements(command_set: bytes) -> dict[int, bytes]:
    """The elements of a command set, without the group length."""
    found, place = {}, 0
    while place < len(command_set):
        group, element, length = struct.unpack_from("<HHL", command_set, place)
        assert group == 0
        place += 8
        found[element] = command_set[place : place + length]
        place += length
    (total,) = struct.unpack("<L", found.pop(0))
    assert total == len(command_set) - 12
    return found


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def joined(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)
