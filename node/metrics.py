"""What Prometheus reads of a node: numbers alone, of no patient, study or person.

Each metric is one line of a function here, and its labels have few values: peers by the beginning
of their fingerprints, and words of this program. All is read anew at each request.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from node import VERSION
from node.alerts import standing, waiting_persons
from node.blocking import in_thread
from node.certificates import certificate_ends
from node.failures import describe_unexpected
from node.notices.subjects import SUBJECTS
from node.sharing.policy import witnesses

if TYPE_CHECKING:
    from node.app import Node
    from node.serving import Serving

Send = Callable[[Mapping[str, Any]], Awaitable[None]]

FINGERPRINT_CHARACTERS = 15
"""So much of a fingerprint names a peer: its first two groups."""

_DAY_SECONDS = 24 * 3600


class Metrics:
    """The metrics of a serving node, as an ASGI application.

    Args:
        node: the node.
        serving: its network parts.
    """

    def __init__(self, node: "Node", serving: "Serving") -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(node, serving))

    async def __call__(self, scope: Mapping[str, Any], _: object, send: Send) -> None:
        """Answer `GET /metrics`."""
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        status, kind, body = 404, "text/plain", b"see /metrics\n"
        if not _is_of_this_machine(headers.get(b"host", "")):
            # A web page cannot read it through a name of its own that leads here.
            status, body = 403, b"ask for this machine by its address\n"
        elif scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
            encode, kind = choose_encoder(headers.get(b"accept", ""))
            try:
                status, body = 200, await in_thread(encode, self._registry)
            except Exception as error:
                status, kind = 500, "text/plain"
                body = f"the metrics cannot be read: {describe_unexpected(error)}\n".encode()
        start = {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", kind.encode()), (b"connection", b"close")],
        }
        await send(start)
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )


def _is_of_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name in ("localhost", "[::1]") or (
        name.startswith("127.") and name.replace(".", "").isdigit()
    )


class _Collector(Collector):
    def __init__(self, node: "Node", serving: "Serving") -> None:
        self._node = node
        self._serving = serving

    def collect(self) -> Iterable[Metric]:
        """All metrics now; blocks."""
        node, serving = self._node, self._serving
        yield from _node(node)
        yield from _peers(node, serving)
        yield from _transfers(node)
        yield from _queues(node, serving)
        yield from _log(node, serving)
        yield from _dicom(serving)
        yield from _notices(node, serving)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"radmesh_{name}", what, value=value)


def _labelled(
    made: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    what: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    found = made(f"radmesh_{name}", what, labels=[label])
    for key, value in sorted(values.items()):
        found.add_metric([key], value)
    return found


def _node(node: "Node") -> Iterator[Metric]:
    info = GaugeMetricFamily("radmesh_info", "The release of the node", labels=["version"])
    info.add_metric([VERSION], 1)
    yield info
    yield _gauge("start_time_seconds", "When the node started", (node.started_ms or 0) / 1000)
    yield _gauge("disk_free_bytes", "Free space of the home's disk", node.free_bytes())
    totals = node.catalog.totals()
    yield _gauge("studies", "Studies that are here", totals.studies)
    yield _gauge("store_bytes", "Their size on the disk", totals.encoded_bytes)
    ends = {"card": float(node.card.expires), **certificate_ends(node.settings)}
    left = {
        name: (end - node.clock.now()) / _DAY_SECONDS
        for name, end in ends.items()
        if end is not None
    }
    yield _labelled(
        GaugeMetricFamily,
        "days_left",
        "Days until our card or a certificate of the settings ends",
        "what",
        left,
    )


def _peers(node: "Node", serving: "Serving") -> Iterator[Metric]:
    now = node.clock.now()
    trusted = [peer for peer in node.peers.store.peers if peer.is_trusted(now)]
    connected = {
        peer.fingerprint[:FINGERPRINT_CHARACTERS]: float(serving.presence.is_peer_connected(peer))
        for peer in trusted
    }
    yield _gauge("peers", "Facilities that are trusted", len(trusted))
    yield _gauge("peers_connected", "Those that are connected", sum(connected.values()))
    yield _labelled(
        GaugeMetricFamily,
        "peer_connected",
        "Whether a facility is connected, by the beginning of its fingerprint",
        "peer",
        connected,
    )


def _transfers(node: "Node") -> Iterator[Metric]:
    active = [one.direction for one in list(node.transfers.active.values())]
    yield _labelled(
        GaugeMetricFamily,
        "transfers_active",
        "Transfers that have not ended",
        "direction",
        {way: active.count(way) for way in ("in", "out")},
    )
    ended = CounterMetricFamily(
        "radmesh_transfers_ended",
        "Transfers that have ended since the start",
        labels=["direction", "state"],
    )
    for (way, state), number in sorted(dict(node.transfers.ended).items()):
        ended.add_metric([way, state], number)
    yield ended
    yield _labelled(
        CounterMetricFamily,
        "transfer_bytes",
        "Encoded bytes of studies that were received and sent since the start",
        "direction",
        {way: node.transfers.carried[way] for way in ("in", "out")},
    )


def _queues(node: "Node", serving: "Serving") -> Iterator[Metric]:
    arrivals = serving.arrivals.trouble()[0]
    yield _gauge("arrivals_waiting", "Images that came in and are not packed yet", arrivals)
    kinds = {"requests": 0, "reviews": 0, "proposals": 0, "offers": 0, **waiting_persons(node)}
    yield _labelled(
        GaugeMetricFamily,
        "waiting_for_person",
        "What waits for a person",
        "kind",
        {kind: float(number) for kind, number in kinds.items()},
    )
    yield _gauge("studies_to_check", "Studies to check", sum(node.catalog.waiting_count()))
    yield _gauge(
        "door_studies_waiting", "Studies that came in to be offered", len(node.doors.waiting())
    )


def _log(node: "Node", serving: "Serving") -> Iterator[Metric]:
    audit, now = node.audit, node.clock.now()
    yield _gauge("log_entries", "Entries of the audit log", audit.size)
    yield _gauge("log_in_doubt", "1 if the log is halted", float(audit.halt.reason is not None))
    yield _gauge("log_failed", "1 if the log cannot be written", float(audit.failure is not None))
    by_witness = (
        node.witness_store.newest_by(peer.facility_key) for peer in witnesses(node.peers.store, now)
    )
    newest = [one for one in by_witness if one is not None]
    yield _gauge(
        "log_entries_cosigned",
        "Entries that at least one witness has cosigned",
        max((size for size, _ in newest), default=0),
    )
    if newest:
        age = now - max(time for _, time in newest)
        yield _gauge("log_cosigned_age_seconds", "Since the newest cosignature", age)
    if serving.forwarder is not None:
        delivered = serving.forwarder.describe()["delivered"]
        behind = audit.size - int(delivered)
        yield _gauge("collector_entries_behind", "Entries the collector lacks", behind)
        yield _gauge(
            "collector_failing_seconds",
            "For how long forwarding to the collector has failed",
            serving.forwarder.failing_seconds,
        )


def _dicom(serving: "Serving") -> Iterator[Metric]:
    if serving.dimse is None:
        return
    counts = serving.dimse.counts
    yield _gauge("dicom_associations", "Associations that are open", serving.dimse.associations)
    yield CounterMetricFamily(
        "radmesh_dicom_associations_taken",
        "Associations since the start",
        value=counts.associations,
    )
    yield _labelled(
        CounterMetricFamily,
        "dicom_associations_refused",
        "Those that were refused, by the reason",
        "reason",
        dict(counts.refused),
    )
    yield _labelled(
        CounterMetricFamily,
        "dicom_images",
        "Images that came by associations, by what became of them",
        "became",
        dict(counts.images),
    )


def _notices(node: "Node", serving: "Serving") -> Iterator[Metric]:
    alerts = GaugeMetricFamily(
        "radmesh_alerts", "What stands now, by subject", labels=["subject", "severity"]
    )
    found = standing(node, serving)
    for name, subject in SUBJECTS.items():
        number = sum(len(one.keys) for one in found if one.subject == name)
        alerts.add_metric([name, subject.severity], number)
    yield alerts
    if serving.notices is not None:
        yield _labelled(
            GaugeMetricFamily,
            "notices_unsent",
            "Notices that are to be sent",
            "channel",
            {one["kind"]: one["unsent"] for one in serving.notices.describe()},
        )
