"""Studies of two facilities that come to a third one, which says whose they are."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio
from studies_made import make_instance
from two_in_memory import TwoNodes

from node.app import Node
from node.dicom.identity import Identity
from node.edges.identity_settings import IdentitySettings
from node.edges.match_rows import LocalPatient
from node.home import Home
from node.operations import OPERATIONS, Call

STUDY = "1.2.826.0.1.3680043.8.498.31"
OTHER = "1.2.826.0.1.3680043.8.498.32"
OWN = "1.2.826.0.1.3680043.8.498.33"
HERE = LocalPatient(patient_id="H-77", name="Müller^Anna", birth_date="19700131", sex="F")
SETTINGS = IdentitySettings(issuer="HOSP-A", ours=("REGION",))


def ingest(node: Node, folder: Path, study: str, first: int = 1, **said: str) -> None:
    """Take in one image of a study of which a command says that it was made here."""
    folder = folder / f"{study}.{first}"
    folder.mkdir(parents=True)
    dataset = make_instance(study, first, rows=4)
    values = {"PatientID": "P1", "PatientName": "Mueller^Anna", "PatientBirthDate": "19700131",
              "PatientSex": "F", "AccessionNumber": "ACC1", "StudyID": "S1"} | said  # fmt: skip
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.save_as(folder / "one.dcm", enforce_file_format=True)
    trio.run(OPERATIONS["ingest"].answer, Call(node), {"paths": [str(folder)]})


def told(node: Node, operation: str, **asked: Any) -> dict[str, Any]:
    """What an operation answers."""
    result = trio.run(OPERATIONS[operation].answer, Call(node), asked)
    assert isinstance(result, dict)
    return result


class Three:
    """North and East, from which South fetches; matches are made at South."""

    def __init__(self, folder: Path, north: Node, east: Node, south: Node) -> None:
        self.folder, self.north, self.east, self.south = folder, north, east, south
        self.ways = {"North": TwoNodes(north, south), "East": TwoNodes(east, south)}
        self._count = 0

    def come(self, study: str = STUDY, of: str = "North", **said: str) -> None:
        """One more image of a study comes from a facility."""
        source = self.north if of == "North" else self.east
        self._count += 1
        ingest(source, self.folder / of, study, self._count, **said)
        source.shared_studies.share(study)
        assert self.ways[of].fetch(study)

    def place(self, study: str = STUDY, **said: str) -> None:
        """A study is at South as if it had come from North, without a transfer."""
        self._count += 1
        ingest(self.south, self.folder / "placed", study, self._count, **said)
        origin = self.south.peers.find("North").facility_key.hex()

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE studies SET origin = ? WHERE study_uid = ?", (origin, study))
            connection.execute("DELETE FROM study_sources WHERE study_uid = ?", (study,))

        self.south.database.transact(change)

    def images(self, study: str = STUDY) -> list[bytes]:
        """The originals of a study at South."""
        found = self.folder / "out" / str(self._count)
        told(self.south, "export", study=study, directory=str(found))
        return [path.read_bytes() for path in found.rglob("*") if path.is_file()]


@contextmanager
def three_nodes(folder: Path) -> Iterator[Three]:
    """North, East and South, with homes in a folder."""
    with ExitStack() as stack:
        north, east, south = (
            stack.enter_context(Node.open(Home.create(folder / name.lower(), name=name)))
            for name in ("North", "East", "South")
        )
        south.matches.settings = SETTINGS
        yield Three(folder, north, east, south)


def waiting(node: Node) -> list[tuple[str, str]]:
    """UIDs and reasons of what waits."""
    return [(one.row.study_uid, one.why) for one in node.unmatched.page(50)[0]]


def ready(node: Node, study: str = STUDY) -> Identity:
    """How a study goes to an archive; it must not wait."""
    found = node.matches.ready(study)
    assert found is not None
    return found
