"""Listens for DICOMweb: who asks, what for, and the answer; PS3.18.

Each request is by a caller with a token. Of connections without one the oldest give way when there
are too many.
"""

import base64
import binascii
import contextlib
import logging
import ssl
from collections import Counter
from functools import partial
from typing import Any

import trio

from edges.dicomweb import media
from edges.dicomweb.paths import Level, NotFound, Resource, What, read_path
from edges.dicomweb.query import BadQuery, accept_of, read_query
from node.blocking import in_thread
from node.edges.dicomweb_answers import Refused, json_answer, later, refusal, require_json
from node.edges.dicomweb_queries import Queries
from node.edges.dicomweb_reads import Reads
from node.edges.dicomweb_retrieve import Retrieving
from node.edges.dicomweb_settings import DicomWebSettings, WebCaller
from node.edges.dicomweb_store import Storing
from node.edges.guests import Guest, Guests
from node.edges.tls import server_context
from node.errors import ExitCode, NodeError
from node.failures import describe_unexpected
from node.web_server import Answer, Asked, Gone, PatientStream, quickly, serve_requests

log = logging.getLogger("radmesh.dicomweb")

CONNECTIONS = 128
"""Most connections of callers at one time."""

SEARCHING = 4
"""Most searches at one time. One that nobody waits for any more goes on to its end, and must not
take the threads of all else."""

LOGGED = 20
"""Refusals of one kind that are logged as warnings; a scan does not fill the log."""

_CORS = (
    ("access-control-allow-methods", "GET, HEAD, POST, OPTIONS"),
    ("access-control-allow-headers", "authorization, accept, content-type"),
    ("access-control-max-age", "600"),
)


class DicomWebServer:
    """The listener of a node for DICOMweb.

    Args:
        settings: the table `dicomweb`.
        queries: answers searches.
        reads: writes who reads what.
        retrieving: gives what is read.
        storing: takes what is sent.

    Attributes:
        addresses: where it listens.
        requests: how many were answered since the start, by the name of the caller.
        refused: how many were refused, by the reason.
    """

    def __init__(
        self,
        settings: DicomWebSettings,
        queries: Queries,
        reads: Reads,
        retrieving: Retrieving,
        storing: Storing,
    ) -> None:
        self._settings = settings
        self._queries = queries
        self._reads = reads
        self._retrieving = retrieving
        self._storing = storing
        self._searching = trio.CapacityLimiter(SEARCHING)
        self._guests = Guests()
        self._listeners: list[trio.SocketListener] = []
        self._tls: ssl.SSLContext | None = None
        self.addresses: tuple[tuple[str, int], ...] = ()
        self.requests: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def describe(self) -> dict[str, Any]:
        """Where it listens and what has happened since the start, as JSON."""
        scheme = "https" if self._tls is not None else "http"
        return {
            "addresses": [f"{scheme}://{host}:{port}/dicom-web" for host, port in self.addresses],
            "connections": len(self._guests),
            "requests": dict(self.requests),
            "refused": dict(self.refused),
            "images": dict(self._storing.images),
        }

    async def open(self) -> None:
        """Open the listeners.

        Raises:
            NodeError: an address is not ours or taken, or the files for TLS cannot be used.
        """
        settings = self._settings
        if settings.is_secure:
            self._tls = server_context("dicomweb", settings.certificate, settings.key)
        for address in settings.listen:
            try:
                self._listeners += await trio.open_tcp_listeners(address.port, host=address.host)
            except OSError as error:
                raise NodeError(
                    f"the node cannot serve DICOMweb at {address.host} port {address.port}:"
                    f" {error.strerror}",
                    hint="see `dicomweb` in config.toml; is another program using the port?",
                    code=ExitCode.BUSY,
                ) from error
        self.addresses = tuple(one.socket.getsockname()[:2] for one in self._listeners)

    async def run(self) -> None:
        """Answer until cancelled."""
        await trio.serve_listeners(self._serve, self._listeners)

    async def _serve(self, raw: trio.SocketStream) -> None:
        try:
            with self._guests.entered() as guest:
                quickly(raw)
                patient = PatientStream(raw)
                stream: Any = patient
                if self._tls is not None:
                    stream = trio.SSLStream(
                        patient, self._tls, server_side=True, https_compatible=True
                    )
                await serve_requests(stream, partial(self._respond, guest), guest.scope.cancel)
        except OSError:
            # It has gone already.
            pass
        except Exception as error:
            # A fault of ours in one connection is not the end of the others.
            log.error("a connection ended by a fault: %s", describe_unexpected(error))
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(raw)

    async def _respond(self, guest: Guest, asked: Asked) -> Answer:
        """The answer to a request, whatever happens."""
        origin = asked.headers.get("origin", "")
        try:
            if origin and origin not in self._settings.origins:
                raise Refused(403, "pages of this origin may not ask: see dicomweb.origins")
            if asked.method == "OPTIONS":
                answer = Answer(status=204, headers=_CORS if origin else ())
            else:
                answer = await self._answer(guest, asked)
        except (Refused, NodeError) as error:
            self._count_refusal(error)
            answer = refusal(error)
        except Gone:
            raise
        except Exception as error:
            known = _known(error)
            if known is None:
                log.error("a request failed: %s", describe_unexpected(error))
                known = Refused(500, "the node met an error that it did not expect: see its log")
            answer = refusal(known)
        if origin not in self._settings.origins:
            return answer
        allowed = (("access-control-allow-origin", origin), ("vary", "Origin"))
        shown = ("access-control-expose-headers", "content-location, retry-after, warning")
        return Answer(
            status=answer.status, headers=(*answer.headers, *allowed, shown), body=answer.body
        )

    def _count_refusal(self, error: Refused | NodeError) -> None:
        why = error.sentence if isinstance(error, Refused) else error.message
        status = error.status if isinstance(error, Refused) else 503
        if status in (401, 403):
            self.refused[why] += 1
            level = logging.WARNING if self.refused[why] <= LOGGED else logging.DEBUG
            log.log(level, "a request is refused: %s", why)

    async def _answer(self, guest: Guest, asked: Asked) -> Answer:
        caller = self._settings.caller_of(_token(asked.headers.get("authorization", "")))
        if caller is None:
            raise Refused(
                401,
                "a token of a caller of dicomweb.callers is needed",
                ("www-authenticate", 'Bearer realm="radmesh"'),
                ("www-authenticate", 'Basic realm="radmesh"'),
            )
        if not self._guests.admit(guest, CONNECTIONS):
            raise later("too many connections are open")
        self.requests[caller.name] += 1
        try:
            resource = read_path(asked.path)
        except NotFound:
            raise Refused(404, "there is nothing of this name in DICOMweb") from None
        if asked.method == "POST":
            return await self._store(asked, caller, resource)
        if asked.method not in ("GET", "HEAD"):
            raise Refused(405, "this cannot be done here", ("allow", "GET, HEAD, POST, OPTIONS"))
        if not caller.read:
            raise Refused(403, "this caller may not read: see dicomweb.callers")
        accept = accept_of(asked.query) or asked.headers.get("accept", "")
        accepted = media.read_media(accept)
        if resource.what is What.SEARCH:
            return await self._search(asked, caller, resource, accepted)
        await self._reads.begin(caller, resource.study)
        return await self._retrieving.answer(resource, asked.query, accepted)

    async def _store(self, asked: Asked, caller: WebCaller, resource: Resource) -> Answer:
        if not caller.store:
            raise Refused(403, "this caller may not send images: see dicomweb.callers")
        is_list = resource.what is What.SEARCH and not resource.study
        if resource.level is not Level.STUDY or not (is_list or resource.what is What.OBJECTS):
            raise Refused(405, "images are sent to studies, or to one study")
        return await self._storing.store(asked, caller, resource.study)

    async def _search(
        self,
        asked: Asked,
        caller: WebCaller,
        resource: Resource,
        accepted: list[media.MediaRange],
    ) -> Answer:
        require_json(accepted)
        try:
            query = read_query(asked.query)
        except BadQuery as error:
            raise Refused(400, str(error)) from None
        if resource.study:
            # A viewer that opens a study of a partner asks for its series first.
            await self._reads.require(caller, resource.study)
        rows, has_more = await in_thread(
            self._queries.search, resource, query, caller, limiter=self._searching
        )
        warnings = []
        if query.unknown:
            warnings.append("some parameters cannot be searched by, and were ignored")
        if has_more:
            warnings.append("there are more: ask with offset and limit, or for less")
        headers = [("warning", f'299 radmesh "{text}"') for text in warnings]
        return json_answer(rows, *headers)


def _token(authorization: str) -> str:
    """The token of a request: a bearer's, or the password of Basic, which more clients know."""
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[2]
    return ""


def _known(error: Exception) -> Refused | NodeError | None:
    """The one refusal in a group of errors of tasks; None if there is another error."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Refused | NodeError) else None
