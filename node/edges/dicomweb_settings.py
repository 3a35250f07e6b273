"""The table `dicomweb` of `config.toml`: where DICOMweb is served, and who may ask for what.

A caller is known by its token, of which the file holds the SHA-256 alone. Without TLS only this
machine can connect.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keys.purposes import BREAK_GLASS, is_purpose
from node.edges.dimse_settings import Address, read_address
from node.edges.door_settings import BadEdge, require_known

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_ENTRIES = ("token_digest", "read", "store", "purpose")


@dataclass(frozen=True, kw_only=True)
class WebCaller:
    """A system that may ask.

    Attributes:
        name: its name for the log.
        token_digest: of its token, lower-case hex.
        read: whether it may search and read.
        store: whether it may send images.
        purpose: for which studies of partners are fetched when it asks for them; "" lets it see and
            read our own studies alone.
    """

    name: str
    token_digest: str
    read: bool = True
    store: bool = False
    purpose: str = ""


@dataclass(frozen=True, kw_only=True)
class DicomWebSettings:
    """What the table says; nothing listens without `listen`.

    Attributes:
        listen: where it is served; over TLS if there is a certificate.
        certificate, key: files for TLS.
        origins: web pages of these origins may ask (CORS), such as `https://viewer.hospital`.
        callers: by name.
    """

    listen: tuple[Address, ...] = ()
    certificate: str = ""
    key: str = ""
    origins: tuple[str, ...] = ()
    callers: Mapping[str, WebCaller] = field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        """Whether anything listens."""
        return bool(self.listen)

    @property
    def is_secure(self) -> bool:
        """Whether it is served over TLS."""
        return bool(self.certificate)

    def caller_of(self, token: str) -> WebCaller | None:
        """The caller with a token; None if nobody has it."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for one in self.callers.values():
            if hmac.compare_digest(one.token_digest, digest):
                found = one
        return found


def read_dicomweb(entries: Mapping[str, Any], callers: Any) -> DicomWebSettings:
    """The settings for DICOMweb.

    Args:
        entries: the entries of `[dicomweb]`, checked by their rows; files as full paths.
        callers: the tables `[dicomweb.callers."NAME"]`.

    Raises:
        BadEdge: a value is wrong, or lacks another one.
    """
    if not isinstance(callers, dict) or not all(isinstance(one, dict) for one in callers.values()):
        raise BadEdge('has callers that are no tables, each written [dicomweb.callers."NAME"]')
    settings = DicomWebSettings(
        listen=tuple(map(read_address, entries.get("listen", ()))),
        certificate=entries.get("certificate", ""),
        key=entries.get("key", ""),
        origins=tuple(one.rstrip("/") for one in entries.get("origins", ())),
        callers={name: _caller(name, entry) for name, entry in callers.items()},
    )
    if bool(settings.certificate) != bool(settings.key):
        raise BadEdge("has one of certificate and key without the other")
    outside = [one for one in settings.listen if not ipaddress.ip_address(one.host).is_loopback]
    if outside and not settings.is_secure:
        raise BadEdge(
            f"listens at {outside[0].host}, where others can connect, without certificate and key"
        )
    if not all(map(_ORIGIN.fullmatch, settings.origins)):
        raise BadEdge("has origins that are none, each such as https://viewer.hospital")
    digests = [one.token_digest for one in settings.callers.values()]
    if len(set(digests)) < len(digests):
        raise BadEdge("has two callers with one token")
    return settings


def _caller(name: str, entry: dict[str, Any]) -> WebCaller:
    where = f'has for callers."{name}"'
    if _NAME.fullmatch(name) is None:
        raise BadEdge(f"{where} a name that is none: up to 32 letters, digits, _ and -")
    require_known(where, entry, _ENTRIES)
    digest, purpose = entry.get("token_digest", ""), entry.get("purpose", "")
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest.lower()) is None:
        raise BadEdge(f"{where} no token_digest of 64 hex digits")
    flags = {word: entry.get(word, word == "read") for word in ("read", "store")}
    if not all(isinstance(one, bool) for one in flags.values()):
        raise BadEdge(f"{where} a `read` or `store` that is not true or false")
    if not isinstance(purpose, str) or (purpose and not is_purpose(purpose)):
        raise BadEdge(f"{where} a purpose that there is not")
    if purpose == BREAK_GLASS:
        raise BadEdge(f"{where} a purpose for emergencies, which are for persons")
    return WebCaller(name=name, token_digest=digest.lower(), purpose=purpose, **flags)
