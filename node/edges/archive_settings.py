"""The tables `archives` of `config.toml`: the archives of this facility, and what goes to each.

An archive takes images by C-STORE, or by STOW-RS where `stow` has its address.
"""

import ipaddress
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from keys.sharing import FROM_ARCHIVE
from node.day_windows import BadWindow, in_window, read_window
from node.edges.dimse_client import Callee
from node.edges.dimse_settings import OUR_DOOR, is_ae_title
from node.edges.door_settings import BadEdge, require_known
from node.edges.tls import client_context

COMMITMENT, QUERY, NONE = "commitment", "query", "none"
PROOFS = (COMMITMENT, QUERY, NONE)
"""How the node finds out that an archive has stored what it took."""

INDEX_DAYS = 36_600
"""Most days of which an archive is indexed: a century."""

RETURNED = "returned"
"""The proof of what an archive has sent back."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_FILES = ("ca", "certificate", "key", "token")
_TITLES = ("ae_title", "calling", "sends_as", "moves_to")
_TEXTS = (*_TITLES, "host", "stow", *_FILES, "proof")
_ENTRIES = (*_TEXTS, "port", "rules", "from", "to", "index_days")
_RULE = ("modality", "source", "stat")
_OF_DIMSE = ("ae_title", "host", "port")
_OF_WORKLIST = (*_OF_DIMSE, "calling", "ca", "certificate", "key")


@dataclass(frozen=True, kw_only=True)
class ArchiveRule:
    """Which studies go to an archive by themselves: those for which all of this holds.

    Attributes:
        modalities: the study has an image of one of them; none for any.
        sources: one of them brought images of it, `*` for any characters; none for any.
        stat: it is urgent.
    """

    modalities: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    stat: bool = False

    def holds(self, modalities: Iterable[str], sources: Iterable[str], stat: bool) -> bool:
        """Whether it holds for a study.

        Args:
            modalities: of its images.
            sources: who brought images of it: an edge of this node (`dimse:CT1`), or a facility,
                as `peer:` and its petname.
            stat: whether it is urgent.
        """
        return (
            (stat or not self.stat)
            and (not self.modalities or not {*self.modalities}.isdisjoint(modalities))
            and (
                not self.sources
                or any(fnmatchcase(one, each) for one in sources for each in self.sources)
            )
        )


@dataclass(frozen=True, kw_only=True)
class ArchiveSettings:
    """One archive.

    Attributes:
        name: ours for it.
        ae_title, host, port: where it takes associations; "" and 0 for one with `stow`.
        calling: our AE title.
        stow: address of its STOW-RS service, without `/studies`; "" for one that takes C-STORE.
        token: file with what goes into the header `Authorization`, or "".
        ca: file with the certificates of who signs that of the archive. For DICOM, TLS is used if
            it is given; for STOW-RS, "" stands for those of the machine.
        certificate, key: files of ours for TLS, or "".
        sends_as: AE title by which the archive itself sends to this node, or "".
        rules: which studies go there by themselves.
        from_minute, to_minute: when those go that are not urgent, as for `day_windows.in_window`.
        proof: one of `PROOFS`.
        index_days: its studies of so many days are indexed; 0 for none.
        moves_to: AE title of ours to which it sends what it is asked for by C-MOVE.
    """

    name: str
    ae_title: str = ""
    host: str = ""
    port: int = 0
    calling: str = OUR_DOOR
    stow: str = ""
    token: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    sends_as: str = ""
    rules: tuple[ArchiveRule, ...] = ()
    from_minute: int = 0
    to_minute: int = 0
    proof: str = QUERY
    index_days: int = 0
    moves_to: str = OUR_DOOR

    @property
    def source(self) -> str:
        """The source of what the archive itself brings; "" where it brings nothing."""
        return f"dimse:{self.sends_as}" if self.sends_as else ""

    @property
    def brings(self) -> str:
        """The source of what it gives when it is asked: its own one, or that of its index."""
        return self.index_source if self.stow else self.source

    @property
    def index_source(self) -> str:
        """The source of studies that were indexed before they came."""
        return f"{FROM_ARCHIVE}:{self.name}"

    def is_from_there(self, sources: Iterable[str]) -> bool:
        """Whether nobody but the archive has brought images of a study."""
        own = {self.index_source, self.source} - {""}
        brought = set(sources)
        return bool(brought) and brought <= own

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.stow or f"{self.ae_title} at {self.host} port {self.port}"

    @property
    def is_plain(self) -> bool:
        """Whether images go there without TLS."""
        return not self.ca if not self.stow else self.stow.startswith("http:")

    def takes_at(self, minute: int) -> bool:
        """Whether what is not urgent goes at this time of day, minutes since local midnight."""
        return in_window(self.from_minute, self.to_minute, minute)

    def wants(self, modalities: Iterable[str], sources: Iterable[str], stat: bool) -> bool:
        """Whether a study goes there by a rule; as for `ArchiveRule.holds`."""
        modalities, sources = list(modalities), list(sources)
        if self.is_from_there(sources):
            return False
        return any(rule.holds(modalities, sources, stat) for rule in self.rules)

    def tls(self) -> ssl.SSLContext | None:
        """What TLS is used with, BCP 195 (PS3.15 annex B); None without TLS.

        Raises:
            NodeError: a file cannot be used.
        """
        if self.is_plain:
            return None
        return client_context(f"the archive {self.name}", self.ca, self.certificate, self.key)

    def callee(self) -> Callee:
        """Whom an association is asked of; only without `stow`.

        Raises:
            NodeError: a file for TLS cannot be used.
        """
        return Callee(
            ae_title=self.ae_title,
            calling=self.calling,
            host=self.host,
            port=self.port,
            tls=self.tls(),
        )


def _require_tables(name: str, tables: Any) -> None:
    if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
        raise BadEdge(f'must be tables, each written [{name}."NAME"]')


def read_archives(tables: Any, home: Path) -> dict[str, ArchiveSettings]:
    """The archives by their names.

    Args:
        tables: the tables `[archives."NAME"]`.
        home: the folder to which paths of files are relative.

    Raises:
        BadEdge: they have another form.
    """
    _require_tables("archives", tables)
    found = {name: _archive(name, entry, home) for name, entry in tables.items()}
    titles = [one.ae_title for one in found.values() if one.proof == COMMITMENT]
    if len(set(titles)) < len(titles):
        # Who reports is known by it alone.
        raise BadEdge('have one ae_title twice, each with proof = "commitment"')
    return found


def read_worklists(tables: Any, home: Path) -> dict[str, ArchiveSettings]:
    """The worklists by their names, as archives to which nothing is sent.

    Args:
        tables: the tables `[worklists."NAME"]`.
        home: the folder to which paths of files are relative.

    Raises:
        BadEdge: they have another form.
    """
    _require_tables("worklists", tables)
    for name, entry in tables.items():
        require_known(f'have for "{name}"', entry, _OF_WORKLIST)
    return {name: _archive(name, entry, home) for name, entry in tables.items()}


def _archive(name: str, entry: dict[str, Any], home: Path) -> ArchiveSettings:
    where = f'have for "{name}"'
    if _NAME.fullmatch(name) is None:
        raise BadEdge(f"{where} a name that is none: up to 32 letters, digits, _ and -")
    require_known(where, entry, _ENTRIES)
    texts = {one: entry[one] for one in _TEXTS if one in entry}
    for key, value in texts.items():
        if not isinstance(value, str) or not value:
            raise BadEdge(f"{where} for {key} no text")
    for key in _TITLES:
        if key in texts and not is_ae_title(texts[key]):
            raise BadEdge(f"{where} for {key} no AE title: 1 to 16 printable characters")
    port = entry.get("port", 0)
    if "stow" in texts:
        _require_stow(where, entry, texts["stow"])
    elif not all(one in entry for one in _OF_DIMSE):
        raise BadEdge(f"{where} neither `stow` nor all of ae_title, host and port")
    elif type(port) is not int or not 0 < port < 65536 or not texts["host"].isprintable():
        raise BadEdge(f"{where} a port or a host that is none")
    elif "token" in texts:
        raise BadEdge(f"{where} a `token` without `stow`")
    if texts.get("proof", QUERY) not in PROOFS:
        raise BadEdge(f"{where} a proof that is not one of {', '.join(PROOFS)}")
    if ("key" in texts) != ("certificate" in texts):
        raise BadEdge(f"{where} one of `certificate` and `key` without the other")
    try:
        begin, end = read_window(entry)
    except BadWindow as error:
        raise BadEdge(f"{where} a time window that is none: it {error}") from None
    days = entry.get("index_days", 0)
    if type(days) is not int or not 0 <= days <= INDEX_DAYS:
        raise BadEdge(f"{where} for index_days no number from 0 to {INDEX_DAYS}")
    rules = entry.get("rules", [])
    if not isinstance(rules, list):
        raise BadEdge(f"{where} rules that are no list")
    return ArchiveSettings(
        name=name,
        **{
            "sends_as": texts.get("ae_title", ""),
            **texts,
            **{one: str(home / texts[one]) for one in _FILES if one in texts},
        },
        port=port,
        rules=tuple(_rule(where, one) for one in rules),
        from_minute=begin,
        to_minute=end,
        index_days=days,
    )


def _require_stow(where: str, entry: Mapping[str, Any], address: str) -> None:
    if any(one in entry for one in (*_OF_DIMSE, "calling", "moves_to")):
        raise BadEdge(f"{where} `stow`, and beside it what is for C-STORE")
    if entry.get("proof") == COMMITMENT:
        raise BadEdge(f"{where} `stow` with a proof that there is for C-STORE alone: say query")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", 0
    if not host or port == 0 or parts.query or parts.fragment or parts.username is not None:
        raise BadEdge(f"{where} for stow no address such as https://pacs.example/dicom-web")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise BadEdge(f"{where} for stow an address that is not https")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _rule(where: str, entry: Any) -> ArchiveRule:
    if not isinstance(entry, dict):
        raise BadEdge(f'{where} a rule that is no table, such as {{ source = ["peer:*"] }}')
    require_known(f"{where} in a rule", entry, _RULE)
    lists = {one: entry.get(one, []) for one in ("modality", "source")}
    for key, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(one, str) and one for one in values):
            raise BadEdge(f"{where} in a rule a {key} that is no list of texts")
    stat = entry.get("stat", False)
    if not isinstance(stat, bool):
        raise BadEdge(f"{where} in a rule a `stat` that is not true or false")
    return ArchiveRule(
        modalities=tuple(lists["modality"]), sources=tuple(lists["source"]), stat=stat
    )
