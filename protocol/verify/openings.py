"""Reading openings of commitments strictly (docs/protocol-log.md section 3)."""

import hashlib
import re
from typing import Any, NamedTuple

from protocol.verify.entries import NUMBER, PLAIN, EntryProblem, canonical, is_count, parse_object
from protocol.verify.verdict import Code

OPENING_BYTES = 4096
"""Most bytes of an opening's line: two hashes and a UID or identity."""

_DOMAIN = b"radmesh-commitment-v1\0"
_SALT = re.compile(r"[0-9a-f]{32}")
_TEXTS = ("commitment", "kind", "salt", "value")

# Most openings are plain, as most entries are.
_PLAIN_OPENING = re.compile(
    (
        rf'\{{"commitment":"({PLAIN})","index":({NUMBER}),"kind":"({PLAIN})",'
        rf'"salt":"([0-9a-f]{{32}})","value":"({PLAIN})"\}}\n'
    ).encode()
)


class Opening(NamedTuple):
    """An opening.

    Attributes:
        place: index of the entry to which it claims to belong.
        subject: the subject of that entry that it opens, in canonical JSON.
        holds: whether its commitment commits to its kind and value.
    """

    place: int
    subject: bytes
    holds: bool


def parse_opening(data: bytes) -> Opening:
    """Read a line of openings.jsonl.

    Raises:
        EntryProblem: malformed.
    """
    found = _PLAIN_OPENING.fullmatch(data)
    if found is None:
        return parse_any_opening(data)
    commitment, index, kind, salt, value = found.groups()
    opened = b'{"kind":"%b","value":"%b"}' % (kind, value)
    digest = hashlib.sha256(_DOMAIN + bytes.fromhex(salt.decode()) + opened).hexdigest()
    return Opening(
        int(index),
        b'{"commitment":"%b","kind":"%b"}' % (commitment, kind),
        digest.encode() == commitment,
    )


def parse_any_opening(data: bytes) -> Opening:
    """`parse_opening` for lines that need not be plain.

    Raises:
        EntryProblem: malformed.
    """
    if not data.endswith(b"\n"):
        raise EntryProblem(Code.OPENING_BAD, "is torn or too large")
    return read_opening(parse_object(data[:-1]))


def read_opening(value: Any) -> Opening:
    """An opening from its decoded form.

    Raises:
        EntryProblem: OPENING_BAD.
    """
    if (
        not isinstance(value, dict)
        or not is_count(value.get("index"))
        or not all(isinstance(value.get(name), str) for name in _TEXTS)
        or _SALT.fullmatch(value["salt"]) is None
    ):
        raise EntryProblem(Code.OPENING_BAD, "is malformed")
    commitment, kind = value["commitment"], value["kind"]
    opened = canonical({"kind": kind, "value": value["value"]})
    digest = hashlib.sha256(_DOMAIN + bytes.fromhex(value["salt"]) + opened).hexdigest()
    return Opening(
        value["index"],
        canonical({"commitment": commitment, "kind": kind}),
        digest == commitment,
    )
