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
DEFAULT_COMMITMENT_HOURS = 24
DEFAULT_STUDIES_A_DAY = 200

BCP_195_CIPHERS = "ECDHE+AESGCM:DHE+AESGCM:ECDHE+CHACHA20"
"""The Non-Downgrading BCP 195 profile of PS3.15 annex B.10."""

_CALLER = (
    "addresses", "certificates", "report_to", "report_tls",
    "query", "purpose", "studies_a_day", "receives_at", "receives_tls",
)  # fmt: skip

_AE_TITLE = re.compile(r"[!#-\[\]-~]([ !#-\[\]-~]{0,14}[!#-\[\]-~])?")
_DOOR = re.compile(r"[A-Z0-9_-]{1,16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]")


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
        receives_tls: whether over TLS.
        report_to: where it takes reports of storage commitment; None if it says nothing.
        report_tls: whether over TLS.
    """

    ae_title: str
    addresses: frozenset[str] = frozenset()
    certificates: frozenset[str] = frozenset()
    query: bool = False
    purpose: str = PURPOSES[0]
    studies_a_day: int = DEFAULT_STUDIES_A_DAY
    receives_at: "Address | None" = None
    receives_tls: bool = False
    report_to: "Address | None" = None
    report_tls: bool = False

    def may_call(self, address: str, certificate: str | None) -> bool:
        """Whether it may call from an address, with a certificate (digest) or without TLS."""
        return address in self.addresses or certificate in self.certificates


@dataclass(frozen=True, kw_only=True)
class Address:
    """A place: an IP address, or a name where the node calls; and a port."""

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
        commitment_hours: after so many an archive's report of storage commitment is not waited for.
        callers, doors: by AE title.
    """

    listen: tuple[Address, ...] = ()
    tls_listen: tuple[Address, ...] = ()
    certificate: str = ""
    key: str = ""
    ca: str = ""
    idle_seconds: int = DEFAULT_IDLE_SECONDS
    commitment_hours: int = DEFAULT_COMMITMENT_HOURS
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

    @property
    def plain_calls(self) -> tuple[tuple[str, str, str], ...]:
        """What is sent without TLS to whom and where, of what the node sends by itself."""
        return tuple(
            (what, caller.ae_title, f"{place.host}:{place.port}")
            for caller in self.callers.values()
            for what, place, is_tls in (
                ("reports", caller.report_to, caller.report_tls),
                ("images", caller.receives_at, caller.receives_tls),
            )
            if place is not None and not is_tls
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
        listen=tuple(map(read_address, entries.get("listen", ()))),
        tls_listen=tuple(map(read_address, entries.get("tls_listen", ()))),
        callers={title: _caller(title, entry) for title, entry in known.items()},
        doors={title: _door(title, entry) for title, entry in ours.items()},
    )
    uses_tls = settings.tls_listen or any(
        one.report_tls or one.receives_tls for one in settings.callers.values()
    )
    if uses_tls and not (settings.certificate and settings.key and settings.ca):
        raise BadEdge(
            "has tls_listen, receives_tls or report_tls, and lacks one of certificate, key and ca"
        )
    return settings


def _tables(name: str, tables: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
        raise BadEdge(f'has {name} that are no tables, each written [dimse.{name}."AE_TITLE"]')
    return tables


def is_ae_title(text: str) -> bool:
    """Whether a text is an AE title: up to 16 printable characters, no backslash, no quotes."""
    return _AE_TITLE.fullmatch(text) is not None


def is_place(text: str) -> bool:
    """Whether a text is IP address and port, such as `10.1.2.3:11112` or `[fd00::1]:11112`."""
    try:
        read_address(text)
    except ValueError:
        return False
    return True


def is_local(text: str) -> bool:
    """Whether a text is such a place of the loopback address, which no other machine reaches."""
    return is_place(text) and ipaddress.ip_address(read_address(text).host).is_loopback


def read_address(text: str) -> Address:
    """An IP address and a port, such as `10.1.2.3:11112` or `[fd00::1]:11112`.

    Raises:
        ValueError: the text is something else.
    """
    host, _, port = text.rpartition(":")
    number = int(port)
    if not 0 <= number < 65536:
        raise ValueError("there is no such port")
    found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    return Address(host=str(found), port=number)


def _caller(title: str, entry: dict[str, Any]) -> Caller:
    where = f'has for callers."{title}"'
    if not is_ae_title(title):
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
        **_called_at(where, entry, "report_to", "report_tls"),
        **_called_at(where, entry, "receives_at", "receives_tls"),
        **_querying(where, entry),
    )


def _called_at(where: str, entry: dict[str, Any], place: str, tls: str) -> dict[str, Any]:
    """Where a system is called for something, and whether over TLS."""
    found: dict[str, Any] = {}
    if place in entry:
        found[place] = _place(f"{where} a {place}", entry[place])
    if tls in entry:
        found[tls] = entry[tls]
    if type(found.get(tls, False)) is not bool or (found.get(tls) and place not in entry):
        raise BadEdge(f"{where} a {tls} that is not true or false, or is without {place}")
    return found


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
    return found


def _place(where: str, text: Any) -> Address:
    """Where a system is called: a name or an IP address, and a port."""
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if _HOST.fullmatch(host) is None or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadEdge(f'{where} that is no place such as "10.1.2.4:104"')
    return Address(host=host.strip("[]"), port=int(port))


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
