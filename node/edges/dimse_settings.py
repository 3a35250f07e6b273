"""The table `dimse` of `config.toml`: where DICOM associations are taken, of whom, at which doors.

A caller is known by its AE title *and* by where it calls from: a title is a word that anybody can
say. A door is an AE title of ours, with what becomes of the images that come in by it.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keys.purposes import BREAK_GLASS, is_purpose
from keys.trust import PURPOSES
from node.edges.door_settings import ENTRIES, BadEdge, Door, read_door, require_known

OUR_DOOR = "RADMESH"
"""The door that there is by itself: it takes images, and the sharing rules decide about them."""

DEFAULT_IDLE_SECONDS = 600
DEFAULT_STUDIES_A_DAY = 200

_CALLER = ("addresses", "certificates", "query", "purpose", "studies_a_day", "receives_at")

_AE_TITLE = re.compile(r"[!#-\[\]-~]([ !#-\[\]-~]{0,14}[!#-\[\]-~])?")
_DOOR = re.compile(r"[A-Z0-9_-]{1,16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A system that may call.

    Attributes:
        ae_title: the title by which it calls.
        addresses: IP addresses from which it may call, also without TLS.
        certificates: SHA-256 of certificates by which it may call over TLS, lower-case hex.
        query: whether it may query and retrieve.
        purpose: why, for the log and for facilities that are asked on its behalf.
        studies_a_day: most studies that it gets in 24 hours.
        receives_at: where it takes the images of a C-MOVE; None if it takes none.
    """

    ae_title: str
    addresses: frozenset[str] = frozenset()
    certificates: frozenset[str] = frozenset()
    query: bool = False
    purpose: str = PURPOSES[0]
    studies_a_day: int = DEFAULT_STUDIES_A_DAY
    receives_at: "Address | None" = None

    def may_call(self, address: str, certificate: str | None) -> bool:
        """Whether it may call from an address, with a certificate (digest) or without TLS."""
        return address in self.addresses or certificate in self.certificates


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen: an IP address, and a port."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class DimseSettings:
    """What the table says; nothing listens without `listen` or `tls_listen`.

    Attributes:
        listen: where associations are taken without TLS, from addresses of callers alone.
        tls_listen: where they are taken over TLS.
        certificate, key, ca: files for TLS: ours, and who signs the certificates of callers.
        idle_seconds: after so long without a word an association is ended.
        callers, doors: by AE title.
    """

    listen: tuple[Address, ...] = ()
    tls_listen: tuple[Address, ...] = ()
    certificate: str = ""
    key: str = ""
    ca: str = ""
    idle_seconds: int = DEFAULT_IDLE_SECONDS
    callers: Mapping[str, Caller] = field(default_factory=dict)
    doors: Mapping[str, Door] = field(default_factory=lambda: {OUR_DOOR: Door(name=OUR_DOOR)})

    @property
    def is_on(self) -> bool:
        """Whether anything listens."""
        return bool(self.listen or self.tls_listen)

    @property
    def plain_links(self) -> tuple[tuple[str, str], ...]:
        """AE title and address of each caller that may call without TLS."""
        if not self.listen:
            return ()
        return tuple(
            (caller.ae_title, address)
            for caller in self.callers.values()
            for address in sorted(caller.addresses)
        )


def read_dimse(entries: Mapping[str, Any], callers: Any, doors: Any) -> DimseSettings:
    """The settings for DIMSE.

    Args:
        entries: the entries of `[dimse]`, checked by their rows; files as full paths.
        callers: the tables `[dimse.callers."AE"]`.
        doors: the tables `[dimse.doors."AE"]`.

    Raises:
        BadEdge: a value is wrong, or lacks another one.
    """
    found = {name: value for name, value in entries.items() if name not in ("listen", "tls_listen")}
    known = _tables("callers", callers)
    ours = {OUR_DOOR: {}, **_tables("doors", doors)}
    settings = DimseSettings(
        **found,
        listen=tuple(map(_address, entries.get("listen", ()))),
        tls_listen=tuple(map(_address, entries.get("tls_listen", ()))),
        callers={title: _caller(title, entry) for title, entry in known.items()},
        doors={title: _door(title, entry) for title, entry in ours.items()},
    )
    if settings.tls_listen and not (settings.certificate and settings.key and settings.ca):
        raise BadEdge("has tls_listen, and lacks one of certificate, key and ca")
    return settings


def _tables(name: str, tables: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
        raise BadEdge(f'has {name} that are no tables, each written [dimse.{name}."AE_TITLE"]')
    return tables


def is_place(text: str) -> bool:
    """Whether a text is IP address and port, such as `10.1.2.3:11112` or `[fd00::1]:11112`."""
    try:
        _address(text)
    except ValueError:
        return False
    return True


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    number = int(port)
    if not 0 <= number < 65536:
        raise ValueError("there is no such port")
    found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    return Address(host=str(found), port=number)


def _caller(title: str, entry: dict[str, Any]) -> Caller:
    where = f'has for callers."{title}"'
    if _AE_TITLE.fullmatch(title) is None:
        raise BadEdge(f"{where} a name that is no AE title: 1 to 16 printable characters")
    require_known(where, entry, _CALLER)
    lists = {name: entry.get(name, []) for name in ("addresses", "certificates")}
    for name, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise BadEdge(f"{where} {name} that are no list of texts")
    if not any(lists.values()) and (entry.get("query") or "receives_at" not in entry):
        raise BadEdge(f"{where} neither addresses nor certificates: a title alone admits nobody")
    try:
        addresses = frozenset(str(ipaddress.ip_address(one)) for one in lists["addresses"])
    except ValueError:
        raise BadEdge(f"{where} addresses that are no IP addresses, one by one") from None
    certificates = frozenset(one.lower().replace(":", "") for one in lists["certificates"])
    if not all(map(_DIGEST.fullmatch, certificates)):
        raise BadEdge(f"{where} certificates that are no SHA-256 digests (64 hex digits)")
    return Caller(
        ae_title=title,
        addresses=addresses,
        certificates=certificates,
        **_querying(where, entry),
    )


def _querying(where: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What a caller may query and retrieve."""
    names = ("query", "purpose", "studies_a_day")
    found: dict[str, Any] = {name: entry[name] for name in names if name in entry}
    if type(found.get("query", False)) is not bool:
        raise BadEdge(f"{where} a `query` that is not true or false")
    if not found.get("query") and len(found) > ("query" in found):
        raise BadEdge(f"{where} purpose or studies_a_day without `query = true`")
    purpose = found.get("purpose", PURPOSES[0])
    if type(purpose) is not str or not is_purpose(purpose) or purpose == BREAK_GLASS:
        raise BadEdge(f"{where} a purpose that there is not, or that only a person can have")
    most = found.get("studies_a_day", DEFAULT_STUDIES_A_DAY)
    if type(most) is not int or not 1 <= most <= 1_000_000:
        raise BadEdge(f"{where} a studies_a_day that is no number from 1 to 1000000")
    place = entry.get("receives_at")
    if place is not None:
        if type(place) is not str or not is_place(place):
            raise BadEdge(f'{where} a receives_at that is no place such as "10.1.2.9:11112"')
        found["receives_at"] = _address(place)
    return found


def _door(title: str, entry: dict[str, Any]) -> Door:
    where = f'has for doors."{title}"'
    if _DOOR.fullmatch(title) is None:
        raise BadEdge(f"{where} a name that is none: up to 16 of A to Z, 0 to 9, _ and -")
    require_known(where, entry, (*ENTRIES, "partners"))
    partners = entry.get("partners", False)
    if type(partners) is not bool:
        raise BadEdge(f"{where} a `partners` that is not true or false")
    if partners and entry.get("to"):
        raise BadEdge(f"{where} both `to` and `partners`: it is for one facility, or for all")
    return replace(read_door(where, title, entry), partners=partners)
