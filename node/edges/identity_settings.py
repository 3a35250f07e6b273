"""The table `identity` of `config.toml`: whose Patient IDs count here, and our words for others."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keys.written import folded
from node.dicom.identity import NO_MAPS, Code, Maps
from node.edges.door_settings import BadEdge, require_known

NUMBER = "{number}"
"""Stands in the pattern of temporary Patient IDs for a number that is never given twice; in one
without it the number comes at the end."""

DEFAULT_TEMPORARY = f"TEMP-{NUMBER}"

ID_CHARACTERS = 64
"""Most characters of a Patient ID, an issuer or a description (PS3.5 section 6.2, LO)."""

_NUMBER_DIGITS = 12
ACCESSION_CHARACTERS = 16
"""Most of an accession number or a code (SH)."""

_PREFIX_CHARACTERS = 8
_BODY_PART = re.compile(r"[A-Z0-9_ ]{1,16}")
_PEER_ENTRIES = ("issuer", "prefix")
_CODE_ENTRIES = ("value", "scheme", "meaning")


def is_text(text: Any, most: int) -> bool:
    """Whether this is one value of a text in DICOM of at most so many characters."""
    return type(text) is str and len(text) <= most and text.isprintable() and "\\" not in text


@dataclass(frozen=True, kw_only=True)
class FromPeer:
    """What is known of the numbers of one facility.

    Attributes:
        issuer: of its Patient IDs, where its images name none; "" for not known.
        prefix: put before its accession numbers, Study IDs and admission IDs; "" empties them.
    """

    issuer: str = ""
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class IdentitySettings:
    """What the table says.

    Attributes:
        issuer: of our own Patient IDs; "" where it is not set.
        ours: further issuers whose Patient IDs are ours.
        temporary: the pattern of temporary Patient IDs.
        elsewhere: sources here whose images were made elsewhere, such as imported discs; with a
            `*` at its end the beginning of a source.
        peers: what is known of the numbers of facilities, by petname or fingerprint.
        maps: our words for those of others.
    """

    issuer: str = ""
    ours: tuple[str, ...] = ()
    temporary: str = DEFAULT_TEMPORARY
    elsewhere: tuple[str, ...] = ()
    peers: Mapping[str, FromPeer] = field(default_factory=dict)
    maps: Maps = NO_MAPS

    def is_ours(self, issuer: str) -> bool:
        """Whether the Patient IDs of an issuer are those of our own systems."""
        return issuer != "" and issuer in (self.issuer, *self.ours)

    def temporary_id(self, number: int) -> str:
        """The temporary Patient ID with a number."""
        pattern = self.temporary if NUMBER in self.temporary else self.temporary + NUMBER
        return pattern.replace(NUMBER, str(number))

    def is_from_elsewhere(self, source: str) -> bool:
        """Whether what a source of this node brings was made elsewhere."""
        return any(
            source.startswith(one[:-1]) if one.endswith("*") else source == one
            for one in self.elsewhere
        )


def read_identity(table: Mapping[str, Any], tables: Mapping[str, Any]) -> IdentitySettings:
    """The settings of the table.

    Args:
        table: its own entries, each of the right kind.
        tables: the tables in it, by their names.

    Raises:
        BadEdge: a value is wrong.
    """
    issuer, ours = table.get("issuer", ""), tuple(table.get("ours", ()))
    if not all(is_text(one, ID_CHARACTERS) for one in (issuer, *ours)) or "" in ours:
        raise BadEdge(f"have an issuer that is none: at most {ID_CHARACTERS} characters, no \\")
    temporary = table.get("temporary", DEFAULT_TEMPORARY)
    longest = len(temporary.replace(NUMBER, "")) + _NUMBER_DIGITS
    if not is_text(temporary, longest) or not temporary.isascii() or longest > ID_CHARACTERS:
        raise BadEdge(f"have as `temporary` no text of ASCII for {ID_CHARACTERS} characters, no \\")
    if temporary.count(NUMBER) > 1:
        raise BadEdge(f"have {NUMBER} more than once in `temporary`")
    return IdentitySettings(
        issuer=issuer,
        ours=ours,
        temporary=temporary,
        elsewhere=tuple(table.get("elsewhere", ())),
        peers={name: _peer(name, one) for name, one in _named(tables, "peers").items()},
        maps=Maps(
            descriptions=_descriptions(_named(tables, "descriptions")),
            body_parts=_body_parts(_named(tables, "body_parts")),
            procedures=_procedures(_named(tables, "procedures")),
        ),
    )


def _named(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tables.get(name, {})
    if not isinstance(found, dict):
        raise BadEdge(f"have {name} that are no table")
    return found


def _peer(name: str, entry: Any) -> FromPeer:
    where = f'have for "{name}"'
    if not isinstance(entry, dict):
        raise BadEdge(f"{where} no table")
    require_known(where, entry, _PEER_ENTRIES)
    issuer, prefix = entry.get("issuer", ""), entry.get("prefix", "")
    if not is_text(issuer, ID_CHARACTERS):
        raise BadEdge(f"{where} an issuer that is none: at most {ID_CHARACTERS} characters, no \\")
    if not is_text(prefix, _PREFIX_CHARACTERS) or not prefix.isascii():
        raise BadEdge(
            f"{where} a prefix that is none: at most {_PREFIX_CHARACTERS} letters of ASCII, no \\"
        )
    return FromPeer(issuer=issuer, prefix=prefix)


def _descriptions(table: Mapping[str, Any]) -> dict[str, str]:
    for there, here in table.items():
        if not is_text(here, ID_CHARACTERS) or not here:
            raise BadEdge(f'have for "{there}" a description that is none')
    return {folded(there): here for there, here in table.items()}


def _body_parts(table: Mapping[str, Any]) -> dict[str, str]:
    for there, here in table.items():
        if type(here) is not str or _BODY_PART.fullmatch(here) is None:
            raise BadEdge(
                f'have for "{there}" a body part that is none: up to 16 capitals, digits, _ and'
                " blanks"
            )
    return {there.strip().upper(): here for there, here in table.items()}


def _procedures(table: Mapping[str, Any]) -> dict[tuple[str, str], Code]:
    found = {}
    for there, entry in table.items():
        where = f'have for "{there}"'
        scheme, colon, value = there.rpartition(":")
        if not (colon and scheme and value):
            raise BadEdge(f'{where} a code that is none: it is written "SCHEME:VALUE"')
        if not isinstance(entry, dict):
            raise BadEdge(f"{where} no table")
        require_known(where, entry, _CODE_ENTRIES)
        if not all(entry.get(name) for name in _CODE_ENTRIES) or not (
            is_text(entry["value"], ACCESSION_CHARACTERS)
            and is_text(entry["scheme"], ACCESSION_CHARACTERS)
            and is_text(entry["meaning"], ID_CHARACTERS)
        ):
            raise BadEdge(f"{where} no whole code: value, scheme and meaning")
        found[scheme, value] = Code(entry["value"], entry["scheme"], entry["meaning"])
    return found
