"""Identifiers of queries: their bytes, and the texts that they mean; PS3.4 section C.2.2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edges.dimse.data_sets import BadDataSet, Value, decode_data_set, encode_data_set
from edges.dimse.negotiation import EXPLICIT
from edges.dimse.querying import (
    ATTRIBUTES,
    CHARACTER_SET,
    FAILED_INSTANCES,
    QUERY_LEVEL,
    STUDY,
    VRS,
    BadQuery,
    Level,
    Model,
    read_level,
)
from node.dicom.texts import decoded, encoded, encodings_of

Values = Mapping[int, tuple[str, ...]]
"""The values of attributes, by tag."""

_UTF_8 = b"ISO_IR 192"
_KEY_CHARACTERS = 1024
_UIDS_CHARACTERS = 4 * 1024 * 1024
_EXPLICIT_BYTES = 65_534
"""Longest value with a length of 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What an identifier asks for.

    Attributes:
        level: at which level.
        keys: the keys that the node knows at this level and above, by tag; "" only asks for the
            value.
        character_set: the Specific Character Set of the identifier.
        is_in_part: whether it asks for something that the node does not know.
    """

    level: Level
    keys: Mapping[int, str]
    character_set: bytes
    is_in_part: bool


STUDIES = 1000
"""Most studies that one identifier names."""


def read_query(data: bytes, transfer_syntax: str, model: Model) -> Query:
    """Read an identifier.

    Raises:
        BadQuery: it is none, or does not fit the model.
    """
    try:
        values = decode_data_set(data, transfer_syntax, VRS)
    except BadDataSet as error:
        raise BadQuery(f"the identifier cannot be read: {error}") from None
    character_set = values[CHARACTER_SET].data.strip(b"\0 ") if CHARACTER_SET in values else b""
    if QUERY_LEVEL not in values:
        raise BadQuery("the identifier has no query level")
    level = read_level(values[QUERY_LEVEL].text, model)
    keys, is_in_part = {}, False
    for tag, value in values.items():
        known = ATTRIBUTES.get(tag)
        if known is None or (known.level is not None and known.level > level):
            # Lengths of groups, and the offset of the time zone, ask for nothing.
            is_in_part |= tag & 0xFFFF != 0 and tag != 0x00080201
        elif tag not in (CHARACTER_SET, QUERY_LEVEL):
            keys[tag] = _text(value, known.vr, character_set)
    if keys.get(STUDY, "").count("\\") >= STUDIES:
        # Each is looked for at each partner.
        raise BadQuery(f"more than {STUDIES} studies are named")
    return Query(level=level, keys=keys, character_set=character_set, is_in_part=is_in_part)


def _text(value: Value, vr: str, character_set: bytes) -> str:
    if vr == "US":
        return "" if value.number is None else str(value.number)
    text = decoded(value.data, encodings_of(character_set), is_name=vr == "PN").strip("\0 ")
    if len(text) > (_UIDS_CHARACTERS if vr == "UI" else _KEY_CHARACTERS):
        raise BadQuery("a key of the identifier is too long")
    return text


def write_answer(values: Values, character_set: bytes, transfer_syntax: str) -> bytes:
    """An identifier as an answer.

    In the character set of the query if all texts can be said in it, else in UTF-8.

    Args:
        values: the values, by tag.
        character_set: of the query.
        transfer_syntax: in which it is written.
    """
    texts = {tag: (ATTRIBUTES[tag].vr, "\\".join(each)) for tag, each in values.items()}
    found: dict[int, Value] = {}
    if all(text.isascii() for _, text in texts.values()):
        found = {tag: _value(vr, text.encode("ascii")) for tag, (vr, text) in texts.items()}
    else:
        for chosen in (character_set, _UTF_8):
            found = {CHARACTER_SET: Value("CS", chosen)}
            for tag, (vr, text) in texts.items():
                data = encoded(text, chosen, is_name=vr == "PN")
                if data is None:
                    break
                found[tag] = _value(vr, data)
            else:
                break
    return encode_data_set(found, transfer_syntax)


def _value(vr: str, data: bytes) -> Value:
    if vr == "US":
        return Value(vr, (int(data) & 0xFFFF).to_bytes(2, "little") if data else b"")
    return Value(vr, data[:_EXPLICIT_BYTES])


def write_failed(instances: Sequence[str], transfer_syntax: str) -> bytes:
    """The identifier that lists the SOP Instance UIDs that could not be sent.

    In explicit form a list has room for some thousand; then the first of them are listed.
    """
    text = "\\".join(instances).encode("ascii")
    if transfer_syntax == EXPLICIT and len(text) > _EXPLICIT_BYTES:
        text = text[:_EXPLICIT_BYTES].rpartition(b"\\")[0]
    return encode_data_set({FAILED_INSTANCES: Value("UI", text)}, transfer_syntax)
