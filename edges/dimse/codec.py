"""A-ASSOCIATE-RQ and -AC as bytes; PS3.8 sections 9.3.2, 9.3.3, and PS3.7 annex D.3.3.

Own code, since anybody may send a request: pynetdicom's codec takes up to two seconds for one of
256 KiB, and logs what it holds. The tests compare the two.
"""

import struct
from collections.abc import Iterator, Mapping

from edges.dimse import limits
from edges.dimse.negotiation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    Accepted,
    AssociateAnswer,
    AssociateRequest,
    Proposed,
    Result,
)


class BadAssociate(ValueError):
    """Bytes that are no A-ASSOCIATE-RQ, or no A-ASSOCIATE-AC."""


# Types of items and sub-items.
_APPLICATION = 0x10
_CONTEXT_RQ, _CONTEXT_AC = 0x20, 0x21
_ABSTRACT, _TRANSFER = 0x30, 0x40
_USER = 0x50
_LONGEST, _CLASS_UID, _WINDOW, _ROLE, _VERSION, _IDENTITY = 0x51, 0x52, 0x53, 0x54, 0x55, 0x58

_HEAD = struct.Struct(">BxH")
_FIXED = struct.Struct(">BxLH2x16s16s32x")
_LONG = struct.Struct(">L")
_TWO = struct.Struct(">HH")

_RQ, _AC = 1, 2
_VERSION_BIT = 1


def decode_request(pdu: bytes) -> AssociateRequest:
    """Read an A-ASSOCIATE-RQ, head included. Items that are not known are left out.

    Raises:
        BadAssociate: it is none.
    """
    if len(pdu) < _FIXED.size:
        raise BadAssociate("the A-ASSOCIATE is too short")
    _, _, version, called, calling = _FIXED.unpack_from(pdu)
    if not version & _VERSION_BIT:
        raise BadAssociate("the A-ASSOCIATE is for another version of the protocol")
    application = ""
    contexts: list[Proposed] = []
    user: list[tuple[int, bytes]] = []
    for kind, body in _items(pdu[_FIXED.size :]):
        if kind == _APPLICATION:
            application = _uid(body)
        elif kind == _CONTEXT_RQ:
            if len(contexts) == limits.CONTEXTS:
                raise BadAssociate("the A-ASSOCIATE has too many presentation contexts")
            contexts.append(_proposed(body))
        elif kind == _USER:
            user += _items(body)
    ids = {one.context_id for one in contexts}
    if len(ids) != len(contexts) or any(one % 2 == 0 for one in ids):
        raise BadAssociate("the A-ASSOCIATE numbers its presentation contexts wrongly")
    # What is said twice counts as it was said first.
    first = dict(reversed(user))
    return AssociateRequest(
        calling=_text(calling),
        called=_text(called),
        application_context=application,
        contexts=tuple(contexts),
        most=_number(_LONG, first[_LONGEST])[0] if _LONGEST in first else 0,
        roles=dict(_role(body) for kind, body in user if kind == _ROLE),
        operations=_number(_TWO, first[_WINDOW])[0] if _WINDOW in first else None,
        implementation=(_uid(first.get(_CLASS_UID, b"")), _text(first.get(_VERSION, b""))),
        user=_user(first[_IDENTITY]) if _IDENTITY in first else "",
    )


def decode_answer(pdu: bytes, request: AssociateRequest) -> AssociateAnswer:
    """Read an A-ASSOCIATE-AC, head included. What was not asked for is left out.

    Raises:
        BadAssociate: it is none, or accepts a transfer syntax that was not proposed.
    """
    if len(pdu) < _FIXED.size:
        raise BadAssociate("the A-ASSOCIATE is too short")
    proposed = {one.context_id: one for one in request.contexts}
    contexts: dict[int, Accepted] = {}
    user: list[tuple[int, bytes]] = []
    for kind, body in _items(pdu[_FIXED.size :]):
        if kind == _CONTEXT_AC:
            if len(body) < 4:
                raise BadAssociate("a presentation context of the A-ASSOCIATE is too short")
            one = proposed.get(body[0])
            if one is not None:
                contexts.setdefault(one.context_id, _accepted(one, body))
        elif kind == _USER:
            user += _items(body)
    first = dict(reversed(user))
    roles = dict(_role(body) for kind, body in user if kind == _ROLE)
    return AssociateAnswer(
        contexts=tuple(contexts.values()),
        operations=_number(_TWO, first[_WINDOW])[0] if _WINDOW in first else None,
        roles={
            sop_class: (may_scu and asked_scu, may_scp and asked_scp)
            for sop_class, (may_scu, may_scp) in roles.items()
            for asked_scu, asked_scp in [request.roles.get(sop_class, (False, False))]
            if sop_class in request.roles
        },
        most=_number(_LONG, first[_LONGEST])[0] if _LONGEST in first else 0,
        implementation=(_uid(first.get(_CLASS_UID, b"")), _text(first.get(_VERSION, b""))),
    )


def _accepted(proposed: Proposed, body: bytes) -> Accepted:
    try:
        result = Result(body[2])
    except ValueError:
        result = Result.NO_REASON
    syntax = ""
    if result is Result.ACCEPTED:
        # Of what is not accepted, the syntax says nothing; PS3.8 section 9.3.3.2.
        syntax = next((_uid(value) for kind, value in _items(body[4:]) if kind == _TRANSFER), "")
        if syntax not in proposed.transfer_syntaxes:
            raise BadAssociate("the A-ASSOCIATE accepts a transfer syntax that was not proposed")
    return Accepted(proposed.context_id, proposed.abstract_syntax, syntax, result)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    place, end = 0, len(data)
    while place < end:
        if end - place < _HEAD.size:
            raise BadAssociate("the A-ASSOCIATE ends within an item")
        kind, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        if length > end - place:
            raise BadAssociate("an item of the A-ASSOCIATE is longer than what holds it")
        yield kind, data[place : place + length]
        place += length


def _proposed(body: bytes) -> Proposed:
    if len(body) < 4:
        raise BadAssociate("a presentation context of the A-ASSOCIATE is too short")
    abstract, transfer = "", []
    for kind, value in _items(body[4:]):
        if kind == _ABSTRACT:
            abstract = _uid(value)
        elif kind == _TRANSFER and value:
            transfer.append(_uid(value))
    if not abstract:
        raise BadAssociate("a presentation context of the A-ASSOCIATE has no abstract syntax")
    return Proposed(body[0], abstract, tuple(filter(None, transfer)))


def _role(body: bytes) -> tuple[str, tuple[bool, bool]]:
    length = int.from_bytes(body[:2], "big")
    if len(body) != 2 + length + 2:
        raise BadAssociate("a role selection of the A-ASSOCIATE has a wrong length")
    return _uid(body[2:-2]), (bool(body[-2]), bool(body[-1]))


def _user(body: bytes) -> str:
    """The primary field of a User Identity: for people, so a broken one is none."""
    length = int.from_bytes(body[2:4], "big")
    return body[4 : 4 + length].decode("utf-8", "replace")


def _number(form: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) != form.size:
        raise BadAssociate("an item of the A-ASSOCIATE has a wrong length")
    return form.unpack(body)


def _uid(value: bytes) -> str:
    """A UID without padding; some write spaces."""
    found = value.strip(b"\0 ")
    if len(found) > limits.UID_CHARACTERS or not found.isascii():
        raise BadAssociate("the A-ASSOCIATE has a UID that is none")
    return found.decode("ascii")


def _text(value: bytes) -> str:
    return value.strip(b"\0 ").decode("ascii", "replace")


def encode_request(request: AssociateRequest) -> bytes:
    """Write an A-ASSOCIATE-RQ; a user and an implementation of others are not written."""
    parts = [_item(_APPLICATION, request.application_context.encode("ascii"))]
    for one in request.contexts:
        syntaxes = [_item(_TRANSFER, uid.encode("ascii")) for uid in one.transfer_syntaxes]
        abstract = _item(_ABSTRACT, one.abstract_syntax.encode("ascii"))
        head = bytes((one.context_id, 0, 0, 0))
        parts.append(_item(_CONTEXT_RQ, head + abstract + b"".join(syntaxes)))
    told = _told(request.most, request.operations, request.roles)
    return _associate(_RQ, request, [*parts, told])


def encode_answer(request: AssociateRequest, answer: AssociateAnswer) -> bytes:
    """Write an A-ASSOCIATE-AC."""
    parts = [_item(_APPLICATION, request.application_context.encode("ascii"))]
    for one in answer.contexts:
        syntax = _item(_TRANSFER, one.transfer_syntax.encode("ascii"))
        parts.append(_item(_CONTEXT_AC, bytes((one.context_id, 0, one.result, 0)) + syntax))
    told = _told(answer.most, answer.operations, answer.roles)
    return _associate(_AC, request, [*parts, told])


def _told(most: int, operations: int | None, roles: Mapping[str, tuple[bool, bool]]) -> bytes:
    told = [
        _item(_LONGEST, _LONG.pack(most)),
        _item(_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode("ascii")),
    ]
    if operations is not None:
        told.append(_item(_WINDOW, _TWO.pack(operations, 1)))
    for sop_class, (as_scu, as_scp) in roles.items():
        uid = sop_class.encode("ascii")
        told.append(_item(_ROLE, len(uid).to_bytes(2, "big") + uid + bytes((as_scu, as_scp))))
    told.append(_item(_VERSION, IMPLEMENTATION_VERSION.encode("ascii")))
    return _item(_USER, b"".join(told))


def _associate(kind: int, request: AssociateRequest, parts: list[bytes]) -> bytes:
    body = b"".join(parts)
    called, calling = (one.encode("ascii", "replace") for one in (request.called, request.calling))
    length = _FIXED.size - 6 + len(body)
    return _FIXED.pack(kind, length, _VERSION_BIT, called.ljust(16), calling.ljust(16)) + body


def _item(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(kind, len(body)) + body
