"""Certificates of a test authority, and a syslog collector that has one."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import threads_made
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_LATER = datetime.datetime(2126, 1, 1, tzinfo=datetime.UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs certificates; `ca` is its own."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        certificate = self._sign(self._name, self._key, [], is_authority=True)
        self.ca = directory / f"{name}.pem"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, *hosts: str, name: str = "collector", ends: datetime.datetime = _LATER) -> Path:
        """A file with a key and a certificate for these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(name), key, hosts, ends=ends)
        path = self._directory / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def _sign(self, name, key, hosts, *, is_authority=False, ends=_LATER) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if hosts:
            names = [_general_name(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass
class SyslogCollector:
    """A TLS server that reads messages framed by octet counting (RFC 5425 section 4.3).

    Attributes:
        port: the port on which it listens.
        messages: the received messages, in order.
        peers: subjects of the clients' certificates.
        reset_after: reset the next connection after it has read this many messages.
        orderly: answer close_notify with close_notify; otherwise just end the TCP connection.
    """

    port: int = 0
    messages: list[bytes] = field(default_factory=list)
    peers: list[object] = field(default_factory=list)
    reset_after: int | None = None
    orderly: bool = True
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, count: int, seconds: float = 20.0) -> list[bytes]:
        """Wait until this many messages have come; returns them."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages) >= count, seconds)
            return list(self.messages)

    def serve(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        raw.settimeout(20)
        try:
            with context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=False) as secured:
                self.peers.append(secured.getpeercert())
                self._read(secured)
        except (ssl.SSLError, OSError):
            raw.close()

    def _read(self, secured: ssl.SSLSocket) -> None:
        buffer, count = b"", 0
        while data := secured.recv(65_536):
            buffer += data
            while (space := buffer.find(b" ")) > 0:
                length = int(buffer[:space])
                if len(buffer) < space + 1 + length:
                    break
                if count == self.reset_after:
                    self.reset_after = None
                    secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    secured.close()
                    return
                with self.changed:
                    self.messages.append(buffer[space + 1 : space + 1 + length])
                    self.changed.notify_all()
                buffer = buffer[space + 1 + length :]
                count += 1
        if self.orderly:
            secured.unwrap()


@contextlib.contextmanager
def collector(
    identity: Path, *, clients: Path | None = None, port: int = 0
) -> Iterator[SyslogCollector]:
    """A collector on 127.0.0.1.

    Args:
        identity: its key and certificate.
        clients: authority of the certificates that clients must have; None asks for none.
        port: where it listens; a free one unless given.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    found = SyslogCollector()

    def serve(raw: socket.socket) -> None:
        found.serve(raw, context)

    with threads_made.listening(serve, port) as found.port:
        yield found
