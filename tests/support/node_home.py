"""The parts of a node that keep images, in a directory of a test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from node.catalog.catalog import CATALOG_SCHEMA, Catalog
from node.database import Database
from node.images.ingest import IngestReport, ingest
from node.images.store import BatchStore
from protocol.log.entry import Event

NOW = 1_790_000_000


@dataclass
class ImageHome:
    """Catalog, store and quarantine; `events` is what the audit log would hold."""

    path: Path
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.database = Database(self.path / "node.db", (CATALOG_SCHEMA,))
        self.catalog = Catalog(self.database, clock=lambda: NOW)
        self.store = BatchStore(self.path / "store", reserve_bytes=0)
        self.quarantine = self.path / "quarantine"

    def ingest(self, *paths: Path, **kwargs: object) -> IngestReport:
        arguments: dict[str, object] = {
            "catalog": self.catalog,
            "store": self.store,
            "quarantine": self.quarantine,
            "audit": self.audit,
            "now": lambda: NOW,
            **kwargs,
        }
        run: Callable[..., IngestReport] = ingest
        return run(paths, **arguments)

    def audit(self, event: Event) -> int:
        self.events.append(event)
        return len(self.events)

    def audit_many(self, events: Sequence[Event]) -> None:
        """As `AuditLog.append_many`."""
        self.events += events

    def close(self) -> None:
        self.database.close()
