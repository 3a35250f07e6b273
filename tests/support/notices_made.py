"""Servers that notices go to: one over https and a mail relay, each of which can misbehave."""

import contextlib
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import threads_made
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

SECRET = "a secret of more than sixteen characters"


@dataclass
class Hook:
    """What an https server got, and what it answers.

    Attributes:
        port: where it listens.
        answer: gives the bytes of an answer for a path; it may yield them as slowly as it likes.
        got: the bodies, as JSON, in order.
        heads: the headers of each, by lower-case name.
        paths: what was asked for.
    """

    port: int = 0
    answer: Callable[[str], Iterator[bytes]] = lambda path: iter(
        [b"HTTP/1.1 204 No Content\r\n\r\n"]
    )
    got: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def _serve(self, secured: ssl.SSLSocket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            part = secured.recv(65_536)
            if not part:
                return
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
        while len(body) < int(headers["content-length"]):
            body += secured.recv(65_536)
        self.check(headers["radmesh-signature"], body)
        path = first.split()[1]
        self.paths.append(path)
        self.heads.append(headers)
        self.got.append(json.loads(body))
        for part in self.answer(path):
            secured.sendall(part)

    @staticmethod
    def check(signature: str, body: bytes) -> None:
        """What a server does that wants to know that a body is ours: written anew."""
        fields = dict(one.split("=", 1) for one in signature.split(","))
        digest = hmac.new(SECRET.encode(), f"{fields['t']}.".encode() + body, hashlib.sha256)
        assert hmac.compare_digest(digest.hexdigest(), fields["v1"])


@contextlib.contextmanager
def hook(identity: Path, *, port: int = 0) -> Iterator[Hook]:
    """An https server on 127.0.0.1 with this key and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    found = Hook()

    def serve(raw: socket.socket) -> None:
        raw.settimeout(20)
        try:
            with context.wrap_socket(raw, server_side=True) as secured:
                found._serve(secured)
        except OSError:
            raw.close()

    with threads_made.listening(serve, port) as found.port:
        yield found


@dataclass
class Relay:
    """What a mail relay got, and what it answers.

    Attributes:
        port: where it listens.
        is_tls: whether it speaks TLS from the first byte.
        refuses: answers to a command in place of its own, such as `{"DATA": "451 later"}`.
        mails: what it took, in order.
        recipients: to whom each went.
        secured: whether each came over TLS.
        logins: user and password of each login.
    """

    port: int = 0
    is_tls: bool = False
    refuses: dict[str, str] = field(default_factory=dict)
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    secured: list[bool] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    async def handle_RCPT(self, server, session, envelope, address, options):
        """Take a recipient, or not."""
        if "RCPT" in self.refuses:
            return self.refuses["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        """Take a mail, or not."""
        if "DATA" in self.refuses:
            return self.refuses["DATA"]
        self.recipients.append(list(envelope.rcpt_tos))
        self.secured.append(self.is_tls or session.ssl is not None)
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 taken"

    def authenticate(self, server, session, envelope, mechanism, data):
        """Take any login."""
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=True)


@contextlib.contextmanager
def relay(
    identity: Path | None, *, port: int = 0, security: str = "starttls", login: bool = False
) -> Iterator[Relay]:
    """A real mail relay on 127.0.0.1.

    Args:
        identity: its key and certificate; None for one without TLS.
        port: where it listens; a free one unless given.
        security: `starttls` or `tls`.
        login: whether it asks for one.
    """
    found = Relay(is_tls=security == "tls")
    context = None
    if identity is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity)
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    options: dict[str, Any] = {}
    if security == "starttls" and context is not None:
        options = {"tls_context": context, "require_starttls": True}
    if login:
        options |= {"authenticator": found.authenticate, "auth_required": True}
    controller = Controller(
        found,
        hostname="127.0.0.1",
        port=port,
        ssl_context=context if security == "tls" else None,
        **options,
    )
    found.port = port
    controller.start()
    try:
        yield found
    finally:
        controller.stop(no_assert=True)


@contextlib.contextmanager
def dripping(line: bytes, seconds: float) -> Iterator[int]:
    """A server that says a line again and again, with a pause before each; gives its port."""
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                raw, _ = listener.accept()
                with raw:
                    while not stopping.wait(seconds):
                        raw.sendall(line)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopping.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def slowly(parts: list[bytes], seconds: float) -> Iterator[bytes]:
    """The parts, with a pause before each."""
    for part in parts:
        time.sleep(seconds)
        yield part
