"""A notice by mail, through the SMTP relay of the hospital.

The standard library speaks SMTP in a worker thread. Its own limits are for single reads, so a
relay that sends a byte now and then could hold the thread for ever: here the connection is made by
trio, and cut when the caller's time is over.
"""

import contextlib
import email.policy
import email.utils
import hashlib
import logging
import smtplib
import socket
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from typing import BinaryIO, TypeVarTuple

import trio

from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.failures import os_reason
from node.notices.files import read_secret, tls_context
from node.notices.message import Message
from node.notices.settings import MailSettings
from node.phrases import clean

log = logging.getLogger("radmesh.notices")

Arguments = TypeVarTuple("Arguments")

READ_SECONDS = 15.0
"""Longest wait for one answer of the relay."""


ANSWER_BYTES = 256 * 1024
"""Most bytes of all answers of a relay in one connection; `smtplib` keeps whole answers."""

# Short enough for any relay (RFC 5322 section 2.1.1), and so long that a subject is one line.
_POLICY = email.policy.SMTP.clone(max_line_length=500)


class Mail:
    """One relay.

    Args:
        settings: the table `mail`.
        facility: name of our facility.
    """

    kind = "mail"

    def __init__(self, settings: MailSettings, facility: str) -> None:
        self._settings = settings
        self._facility = facility

    @property
    def place(self) -> str:
        """The relay, for people."""
        return self._settings.place

    @property
    def name(self) -> str:
        """Tells it from another relay and other recipients in what was told."""
        of = "\n".join((self.place, *self._settings.to))
        return f"mail {hashlib.sha256(of.encode()).hexdigest()[:16]}"

    async def send(self, told: Message) -> None:
        """Mail what is told; the caller limits the time.

        Raises:
            NodeError: the relay did not take it for any of the recipients.
        """
        context, password = await in_thread(self._read)
        settings = self._settings
        try:
            stream = await trio.open_tcp_stream(settings.host, settings.port)
        except OSError as error:
            raise self._failed(f"it cannot be reached: {os_reason(error)}") from error
        with (
            socket.socket(fileno=stream.socket.detach()) as own,
            # TLS takes the first away; this one remains, to cut the connection.
            own.dup() as handle,
        ):
            own.settimeout(READ_SECONDS)
            await _cut_at_end(handle, self._talk, own, context, password, told)

    def message(self, told: Message) -> EmailMessage:
        """The mail of what is told."""
        # `clean` leaves no line break, so nothing can begin another header.
        facility = clean(self._facility)
        message = EmailMessage(policy=_POLICY)
        message["From"] = self._settings.sender
        message["To"] = ", ".join(self._settings.to)
        message["Subject"] = f"Radmesh at {facility}: {told.text}"
        message["Date"] = email.utils.format_datetime(told.time)
        message["Message-ID"] = f"<{told.id}@{self._settings.sender.rpartition('@')[2]}>"
        # Out-of-office replies would go to the node's address.
        message["Auto-Submitted"] = "auto-generated"
        lines = [f"{told.text[0].upper()}{told.text[1:]}.", "", f"Next: {told.next}.", ""]
        lines += [f"Severity: {told.severity}"]
        if told.about:
            lines.append(f"About: {', '.join(told.about)}")
        if told.entries:
            lines.append(f"Entries of the log: {', '.join(map(str, told.entries))}")
        lines += [f"Node: {facility}, {told.facility}", f"Notice: {told.id}"]
        message.set_content("\n".join(lines) + "\n")
        return message

    def _read(self) -> tuple[ssl.SSLContext | None, str]:
        settings = self._settings
        context = None if settings.security == "none" else tls_context(settings.ca, "mail.ca")
        if settings.password is None:
            return context, ""
        try:
            return context, read_secret(settings.password, "mail.password").decode("ascii")
        except UnicodeDecodeError:
            raise NodeError(
                "the password of mail.password has other characters than those of ASCII",
                hint="relays differ in how they read others: give it another password",
                code=ExitCode.USAGE,
            ) from None

    def _talk(
        self,
        raw: socket.socket,
        context: ssl.SSLContext | None,
        password: str,
        told: Message,
    ) -> None:
        settings = self._settings
        try:
            if settings.security == "tls":
                assert context is not None
                raw = context.wrap_socket(raw, server_hostname=settings.host)
            relay = _Relay(raw, settings.host)
            try:
                if settings.security == "starttls":
                    # Raises if the relay does not offer it: nothing goes out in the open.
                    relay.starttls(context=context)
                if settings.user:
                    relay.login(settings.user, password)
                refused = relay.send_message(self.message(told), settings.sender, settings.to)
                if refused:
                    log.warning(
                        "the mail relay does not carry to %d of %d addresses of `mail.to`",
                        len(refused), len(settings.to),
                    )  # fmt: skip
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    # It has taken the mail, whatever it says to the goodbye.
                    relay.quit()
            finally:
                relay.close()
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not trusted: {error.verify_message}"
            raise self._failed(why) from error
        except ssl.SSLError as error:
            raise self._failed(f"TLS failed: {error.reason}") from error
        except smtplib.SMTPException as error:
            raise self._failed(_said(error)) from error
        except OSError as error:
            raise self._failed(os_reason(error)) from error

    def _failed(self, why: str) -> NodeError:
        return NodeError(
            f"the mail relay {self.place} did not take it: {why}",
            hint="see `mail` in config.toml, and the log of the relay",
            code=ExitCode.UNREACHABLE,
        )


class _Relay(smtplib.SMTP):
    """SMTP over a connection that is there already."""

    def __init__(self, raw: socket.socket, host: str) -> None:
        self._raw = raw
        self._left = ANSWER_BYTES
        own = raw.getsockname()[0]
        # A literal needs no name of this machine to be right (RFC 5321 section 4.1.3).
        super().__init__(host, local_hostname=f"[IPv6:{own}]" if ":" in own else f"[{own}]")

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._raw

    def getreply(self) -> tuple[int, bytes]:
        """See `smtplib.SMTP.getreply`, which reads from `file` if there is one."""
        if self.file is None:
            assert self.sock is not None
            self.file = _Counted(self.sock.makefile("rb"), self._take)
        return super().getreply()

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise OSError(0, "it answers too much")


class _Counted:
    """A file that tells how much was read from it."""

    def __init__(self, file: BinaryIO, take: Callable[[int], None]) -> None:
        self._file, self._take = file, take
        self.close = file.close

    def readline(self, size: int) -> bytes:
        """A line, or as much of it."""
        found = self._file.readline(size)
        self._take(len(found))
        return found


async def _cut_at_end(
    handle: socket.socket, work: Callable[[*Arguments], None], *arguments: *Arguments
) -> None:
    """Run work on a connection in a thread; when cancelled, cut the connection, so that it ends."""

    async def cut() -> None:
        try:
            await trio.sleep_forever()
        finally:
            # It may have ended by itself.
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut)
        try:
            await in_thread(work, *arguments)
        except NodeError:
            # What a cut connection says is not the reason.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise
        nursery.cancel_scope.cancel()


def _said(error: smtplib.SMTPException) -> str:
    """What a relay answered, short and safe for a log line."""
    code: int
    said: bytes | str
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, said = next(iter(error.recipients.values()))
    elif isinstance(error, smtplib.SMTPResponseException):
        code, said = error.smtp_code, error.smtp_error
    elif isinstance(error, smtplib.SMTPNotSupportedError):
        return "it offers no STARTTLS, or no way to log in that is known here"
    else:
        return clean(error)[:200] or type(error).__name__
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else said
    return f"it answers {code} {clean(text)[:200]}"
