"""A notice posted to a server of the hospital over https, with a signature of its body.

The header `Radmesh-Signature` is `t=SECONDS,v1=HEX`: HMAC-SHA-256 by the secret over the seconds
(since the epoch, UTC), a point, and the body as sent. A server compares it, refuses what is some
minutes old, and drops an `id` that it had already.
"""

import hashlib
import hmac
import json
import ssl

import httpx

from node.blocking import in_thread
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.failures import os_reason
from node.notices.files import read_secret, tls_context
from node.notices.message import Message
from node.notices.settings import WebhookSettings

SECRET_CHARACTERS = 16


class Webhook:
    """One server.

    Args:
        settings: the table `webhook`.
        clock: dates the signature.
    """

    kind = "webhook"

    def __init__(self, settings: WebhookSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    @property
    def place(self) -> str:
        """Where it posts, for people."""
        return self._settings.place

    @property
    def name(self) -> str:
        """Tells it from another server in what was told; no secret of the URL is in it."""
        return f"webhook {hashlib.sha256(self._settings.url.encode()).hexdigest()[:16]}"

    async def send(self, told: Message) -> None:
        """Post what is told, as JSON; the caller limits the time.

        Raises:
            NodeError: it was not taken.
        """
        secret, context = await in_thread(self._read)
        body = json.dumps(told.to_json(), separators=(",", ":"), sort_keys=True).encode()
        headers = {
            "Content-Type": "application/json",
            "Radmesh-Signature": signature(secret, body, self._clock.now()),
            "User-Agent": "radmesh",
        }
        try:
            async with (
                httpx.AsyncClient(
                    verify=context, trust_env=False, follow_redirects=False, timeout=None
                ) as client,
                # The answer's body is not read, however long it is.
                client.stream(
                    "POST", self._settings.url, content=body, headers=headers
                ) as response,
            ):
                status = response.status_code
        except httpx.HTTPError as error:
            raise self._failed(_reason(error)) from error
        if 300 <= status < 400:
            raise self._failed(f"it answers with a redirect ({status}), which is not followed")
        if not 200 <= status < 300:
            raise self._failed(f"it answers {status}")

    def _read(self) -> tuple[bytes, ssl.SSLContext]:
        secret = read_secret(self._settings.secret, "webhook.secret")
        if len(secret) < SECRET_CHARACTERS:
            raise NodeError(
                f"webhook.secret has less than {SECRET_CHARACTERS} characters",
                hint="`openssl rand -hex 32` makes a good one",
                code=ExitCode.USAGE,
            )
        return secret, tls_context(self._settings.ca, "webhook.ca")

    def _failed(self, why: str) -> NodeError:
        return NodeError(
            f"the webhook {self.place} did not take it: {why}",
            hint="see `webhook` in config.toml, and the log of that server",
            code=ExitCode.UNREACHABLE,
        )


def signature(secret: bytes, body: bytes, now: int) -> str:
    """The value of the header for a body at a time (seconds since the epoch, UTC)."""
    digest = hmac.new(secret, b"%d." % now + body, hashlib.sha256).hexdigest()
    return f"t={now},v1={digest}"


def _reason(error: httpx.HTTPError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason}"
        if isinstance(cause, OSError):
            return os_reason(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error)[:200] or type(error).__name__
