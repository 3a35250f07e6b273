"""The tables `webhook` and `mail` of `config.toml`: to whom notices go."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECURITIES = ("starttls", "tls", "none")
"""How the line to the relay is protected: by STARTTLS before anything is said, by TLS from the
first byte, or not at all, for a relay on the same machine."""

DEFAULT_PORTS = {"starttls": 25, "tls": 465, "none": 25}

RECIPIENTS = 20

# Nothing that could begin another line, another address or another command.
_ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,190}")
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}")


class BadNotices(Exception):
    """A table is wrong; the text completes a sentence that begins with its place."""


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """Where notices are posted.

    Attributes:
        url: https alone.
        secret: file with the secret that signs each body.
        ca: file (PEM) of who signed the server's certificate; None for those of the system.
    """

    url: str
    secret: Path
    ca: Path | None = None

    @property
    def place(self) -> str:
        """Host and port, for people: a path may hold a token."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


@dataclass(frozen=True, kw_only=True)
class MailSettings:
    """Which relay carries notices, and to whom.

    Attributes:
        host, port: the relay; its certificate must be for the host.
        sender, to: addresses.
        security: one of `SECURITIES`.
        ca: file (PEM) of who signed the relay's certificate; None for those of the system.
        user, password: how to log in, with the password in a file; "" and None for no login.
    """

    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    security: str = "starttls"
    ca: Path | None = None
    user: str = ""
    password: Path | None = None

    @property
    def place(self) -> str:
        """Host and port, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_url(text: str) -> bool:
    """Whether a text is an https URL without a user."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    is_plain = text.isascii() and text.isprintable() and " " not in text
    is_bare = parts.username is None and not parts.fragment
    return parts.scheme == "https" and bool(host) and is_plain and is_bare


def is_relay(text: str) -> bool:
    """Whether a text is HOST, HOST:PORT or [IPV6]:PORT."""
    host, port = _place(text, 25)
    return _HOST.fullmatch(host) is not None and 0 < port < 65536


def is_address(text: str) -> bool:
    """Whether a text is a mail address of ASCII, and nothing besides."""
    return _ADDRESS.fullmatch(text) is not None


def read_webhook(entries: Mapping[str, Any], home: Path) -> WebhookSettings | None:
    """The table `webhook`; None where it names no URL.

    Args:
        entries: checked by their rows.
        home: where relative paths start.

    Raises:
        BadNotices: a value lacks another one.
    """
    if not entries.get("url"):
        return None
    if not entries.get("secret"):
        raise BadNotices("has no `secret`: the file by which the other side knows what is ours")
    return WebhookSettings(
        url=entries["url"], secret=home / entries["secret"], ca=_file(entries, "ca", home)
    )


def read_mail(entries: Mapping[str, Any], home: Path) -> MailSettings | None:
    """The table `mail`; None where it names no relay.

    Args:
        entries: checked by their rows.
        home: where relative paths start.

    Raises:
        BadNotices: a value lacks another one, or a password would go over an open line.
    """
    if not entries.get("relay"):
        return None
    security = entries.get("security", "starttls")
    host, port = _place(entries["relay"], DEFAULT_PORTS[security])
    if not entries.get("from") or not entries.get("to"):
        raise BadNotices("has a `relay`, and lacks one of `from` and `to`")
    user, password = entries.get("user", ""), _file(entries, "password", home)
    if bool(user) != (password is not None):
        raise BadNotices("has one of `user` and `password` without the other")
    if not user.isascii():
        raise BadNotices("has a `user` with other characters than those of ASCII")
    if user and security == "none":
        raise BadNotices("would send a password over a line that all can read")
    return MailSettings(
        host=host,
        port=port,
        sender=entries["from"],
        to=tuple(entries["to"]),
        security=security,
        ca=_file(entries, "ca", home),
        user=user,
        password=password,
    )


def _place(relay: str, default_port: int) -> tuple[str, int]:
    """Host and port; port 0 where it is no number."""
    host, separator, port = relay.rpartition(":")
    if not separator or (relay.count(":") > 1 and not relay.startswith("[")):
        host, port = relay, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    return host, int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0


def _file(entries: Mapping[str, Any], name: str, home: Path) -> Path | None:
    return home / entries[name] if entries.get(name) else None
