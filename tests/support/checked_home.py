"""A home with something in each of its parts, made by a real node, for tests that damage it."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from studies_made import make_study

from node.app import Node
from node.fsck.check import Report
from node.home import Home
from node.images.ingest import ingest
from node.images.ingest_report import IngestReport
from protocol.log.entry import Event

RECEIPT = b"a receipt that both have signed"


@dataclass(frozen=True)
class Made:
    """A home and what is in it.

    Attributes:
        path: of the home.
        shared, withheld: Study Instance UIDs.
        sees: facility key of the peer that may see.
        older_audit: the folder `audit` as it was before the withheld study came.
    """

    path: Path
    shared: str
    withheld: str
    sees: bytes
    older_audit: Path

    def copied(self, directory: Path) -> "Made":
        """The same in another folder."""
        shutil.copytree(self.path, directory / "home")
        return replace(self, path=directory / "home")

    def sql(self, statement: str, *parameters: object, name: str = "node.db") -> None:
        """Change a database of the home by hand."""
        connection = sqlite3.connect(self.path / name)
        connection.execute(statement, parameters)
        connection.commit()
        connection.close()

    def rows(self, query: str, *parameters: object, name: str = "node.db") -> list[tuple]:
        """Read a database of the home."""
        connection = sqlite3.connect(self.path / name)
        found = connection.execute(query, parameters).fetchall()
        connection.close()
        return found

    def batches(self, study: str) -> list[Path]:
        """The files of a study's batches."""
        digests = self.rows(
            "SELECT digest FROM study_batches WHERE study_uid = ? ORDER BY position", study
        )
        return [self.path / "store" / d.hex()[:2] / d.hex() for (d,) in digests]


def take(node: Node, *paths: Path, shared: bool = True) -> IngestReport:
    """Take images into a node that does not run."""
    return ingest(
        paths,
        catalog=node.catalog,
        store=node.store,
        quarantine=node.home.quarantine_path,
        audit=node.audit.append,
        now=node.clock.now,
        shared=shared,
    )


def kinds(report: Report) -> set[str]:
    """The kinds of a check's findings."""
    return {one.kind for one in report.findings}


def make_home(directory: Path) -> Made:
    """Two studies, one grown in two ingests; two peers, one of which may see; a receipt."""
    home = Home.create(directory / "home", name="North General")
    others = [Home.create(directory / name, name=name) for name in ("South", "West")]
    shared = make_study(directory / "in", 3, rows=32)
    withheld = make_study(directory / "aside", 2, rows=32)
    with Node.open(home) as node:
        for other, grants in zip(others, (["see", "fetch"], ["fetch"]), strict=True):
            card = other.read_card()
            node.peers.add(card.encoded, card.fingerprint, grants, "", node.clock.now())
        take(node, directory / "in")
        make_study(directory / "later", 2, study=shared, first=9, rows=32)
        take(node, directory / "later")
    shutil.copytree(home.audit_path, directory / "audit-before")
    with Node.open(home) as node:
        take(node, directory / "aside", shared=False)
        digest = node.audit.add_receipt(RECEIPT)
        node.audit.append(
            Event(
                type="receipt",
                subjects=(("study", shared),),
                details={"receipt": digest, "transfer": "00" * 16},
            )
        )
    sees = others[0].read_card().facility_key
    return Made(home.path, shared, withheld, sees, directory / "audit-before")


Damage = Callable[[Made], None]
