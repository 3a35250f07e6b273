"""Priors of a patient who comes here, from the facilities that have them."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from checked_home import take
from clocks_made import MadeClock
from facility_in_memory import Other
from studies_made import make_instance

from keys.trust import Peer
from node.app import Node
from node.catalog.catalog import StudyRow
from node.clock import local_date
from node.edges.door_settings import BadEdge
from node.edges.identity_settings import IdentitySettings
from node.edges.match_rows import LocalPatient
from node.edges.prefetch import DAY_SECONDS, Prefetch, PrefetchSettings, read_prefetch
from node.errors import NodeError
from node.home import Home
from node.parts import announcer_of
from protocol.feed import Subscription
from protocol.find_messages import ByNumber
from protocol.messages import Announcement, Record

BEFORE, HERE = "1.2.826.0.1.3680043.8.498.61", "1.2.826.0.1.3680043.8.498.62"
PRIOR, OLDER, CR = (f"1.2.826.0.1.3680043.8.498.63.{number}" for number in range(3))


def instance(study: str, folder: Path, **said: str) -> Path:
    dataset = make_instance(study, 1, rows=4)
    for name, value in said.items():
        setattr(dataset, name, value)
    folder.mkdir()
    dataset.save_as(folder / "one.dcm", enforce_file_format=True)
    return folder


@dataclass
class South:
    """A facility at which a patient of North was matched to one of its own.

    Attributes:
        fetched: studies whose fetch was begun, and from whom.
        asked: questions, and to whom.
        found: what North has beside what it announced.
        planned: who stands in the worklist.
    """

    node: Node
    north: Other
    folder: Path
    clock: MadeClock
    fetched: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, ByNumber]] = field(default_factory=list)
    found: list[Record] = field(default_factory=list)
    planned: list[LocalPatient] = field(default_factory=list)
    is_away: bool = False

    def announced(self, *records: Record) -> None:
        """North announces these."""
        own, epoch = self.node.keys.node.public, bytes([1]) * 16
        announcement = Announcement(
            recipient=own, epoch=epoch, reset=True, cursor=len(records), time=0, records=records
        )
        announcer_of(self.node)._keep(
            self.north.key, announcement, Subscription(own, epoch, announcement.cursor)
        )

    def comes(self, study: str = HERE, patient: str = "H-77") -> None:
        """Images of a patient are made here."""
        take(self.node, instance(study, self.folder / study, PatientID=patient))

    @contextlib.asynccontextmanager
    async def prefetching(
        self, *, worklist: bool = False, **said: object
    ) -> AsyncIterator[Prefetch]:
        async def fetch(study: str, peer: Peer, purpose: str) -> None:
            self.fetched.append((study, peer.petname))

        async def find(peer: Peer, patient: ByNumber, purpose: str) -> Sequence[Record]:
            self.asked.append((peer.petname, patient))
            if self.is_away:
                raise NodeError("it is away")
            return self.found

        async def planned() -> Iterable[LocalPatient]:
            return self.planned

        node = self.node
        prefetch = Prefetch(
            PrefetchSettings(**{"peers": ("North General",), **said}),  # type: ignore[arg-type]
            node.database,
            node.catalog,
            node.matches,
            node.peers,
            node.feeds,
            fetch,
            find,
            planned if worklist else None,
            node.clock,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prefetch.run)
            yield prefetch
            nursery.cancel_scope.cancel()


@pytest.fixture
def south(tmp_path: Path) -> Iterator[South]:
    clock = MadeClock()
    home = Home.create(tmp_path / "south", name="South", clock=clock)
    north = Other("North General", clock.now())
    with Node.open(home) as node:
        north.pair(node, "see", "fetch")
        node.matches.settings = IdentitySettings(issuer="HOSP")
        take(node, instance(BEFORE, tmp_path / "in", PatientID="N-1", IssuerOfPatientID="NORTH"))
        node.database.transact(
            lambda connection: connection.execute("UPDATE studies SET origin=?", (north.key.hex(),))
        )
        node.matches.match(BEFORE, LocalPatient(patient_id="H-77"))
        yield South(node, north, tmp_path, clock)


def record(number: int, study: str, *, date: str = "20260101", modality: str = "MR",
           patient: str = "N-1", issuer: str | None = "NORTH") -> Record:  # fmt: skip
    return Record(
        sequence=number,
        kind="available",
        study=study,
        content_root=bytes([number]) * 32,
        series=1,
        instances=1,
        bytes=1000,
        encoded_bytes=100,
        modalities=(modality,),
        study_date=date,
        patient_id=patient,
        patient_name="X^Y",
        issuer=issuer,
    )


async def quiet() -> None:
    """Wait until nothing happens by itself any more; threads answer in a moment."""
    for _ in range(20):
        await trio.testing.wait_all_tasks_blocked(0.02)


async def test_priors_are_fetched_the_newest_first(south: South) -> None:
    south.announced(record(1, OLDER, date="20250101"), record(2, PRIOR))
    async with south.prefetching() as prefetch:
        south.comes()
        prefetch.study_came(HERE)
        await quiet()
    assert south.fetched == [(PRIOR, "North General"), (OLDER, "North General")]
    assert south.asked == []


async def test_a_database_that_fails_once_ends_nothing(
    south: South, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def fails_once(row: StudyRow) -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise NodeError("the disk is full")
        return True

    monkeypatch.setattr(south.node.matches, "is_made_here", fails_once)
    south.announced(record(1, PRIOR))
    async with south.prefetching() as prefetch:
        south.comes()
        for _ in range(2):
            prefetch.study_came(HERE)
        await quiet()
    assert (tries, south.fetched) == (2, [(PRIOR, "North General")])


async def test_who_stands_in_the_worklist_comes_today(south: South) -> None:
    south.announced(record(1, PRIOR))
    south.planned = [LocalPatient(patient_id="H-77", issuer="HOSP"), LocalPatient(patient_id="H-1")]
    async with south.prefetching(worklist=True):
        await quiet()
    assert [study for study, _ in south.fetched] == [PRIOR]


async def test_what_they_have_not_announced_is_asked_for_once_a_day(south: South) -> None:
    south.announced(record(1, OLDER))
    south.found = [record(1, PRIOR), record(2, OLDER)]
    async with south.prefetching(find=True) as prefetch:
        south.comes()
        prefetch.study_came(HERE)
        await quiet()
        prefetch.study_came(HERE)
        await quiet()
        assert south.asked == [("North General", ByNumber("N-1", "NORTH"))]
        assert sorted(study for study, _ in south.fetched) == [PRIOR, OLDER]
        south.clock.move(DAY_SECONDS)
        prefetch.study_came(HERE)
        await quiet()
        assert len(south.asked) == 2


async def test_who_is_away_takes_nothing_from_what_it_announced(south: South) -> None:
    south.announced(record(1, PRIOR))
    south.is_away = True
    async with south.prefetching(find=True) as prefetch:
        south.comes()
        prefetch.study_came(HERE)
        await quiet()
    assert [study for study, _ in south.fetched] == [PRIOR]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, [PRIOR, CR, OLDER]),
        ({"modalities": ("CR",)}, [CR]),
        ({"years": 3}, [PRIOR, CR]),
        ({"most_a_day": 1}, [PRIOR]),
        ({"peers": ("Somebody",)}, []),
        ({"peers": ()}, []),
    ],
)
async def test_what_the_settings_want(
    south: South, said: dict[str, object], expected: list[str]
) -> None:
    now = south.clock.now()
    south.announced(
        record(1, PRIOR, date=local_date(now)),
        record(2, CR, date=local_date(now - 365 * DAY_SECONDS), modality="CR"),
        record(3, OLDER, date=local_date(now - 5 * 365 * DAY_SECONDS)),
    )
    async with south.prefetching(**said) as prefetch:
        south.comes()
        prefetch.study_came(HERE)
        await quiet()
    assert [study for study, _ in south.fetched] == expected


async def test_nobody_elses_studies_come(south: South) -> None:
    """Of another patient there; of the same number by another issuer; for another patient here."""
    south.announced(
        record(1, PRIOR, patient="N-2"),
        record(2, OLDER, issuer="ELSEWHERE"),
        record(3, CR, issuer=None),
    )
    async with south.prefetching() as prefetch:
        south.comes()
        prefetch.study_came(HERE)
        south.comes("1.2.826.0.1.3680043.8.498.64", patient="H-78")
        prefetch.study_came("1.2.826.0.1.3680043.8.498.64")
        await quiet()
    assert south.fetched == []


async def test_what_came_from_there_fetches_nothing(south: South) -> None:
    south.announced(record(1, PRIOR))
    async with south.prefetching() as prefetch:
        prefetch.study_came(BEFORE)
        prefetch.study_came("1.2.3")
        await quiet()
    assert south.fetched == []


@pytest.mark.parametrize("how", ["match", "trust", "temporary"])
async def test_what_has_ended_fetches_nothing(south: South, how: str) -> None:
    south.announced(record(1, PRIOR))
    if how == "match":
        south.node.matches.undo(BEFORE)
    elif how == "temporary":
        south.node.matches.match_for_now(BEFORE)
    else:
        south.node.peers.revoke("North General", [], south.clock.now())
    async with south.prefetching(find=True) as prefetch:
        south.comes()
        prefetch.study_came(HERE)
        await quiet()
    assert (south.fetched, south.asked) == ([], [])


def test_settings() -> None:
    found = read_prefetch({"peers": ["North"], "years": 3, "purpose": "treatment"})
    assert (found.peers, found.years, found.modalities) == (("North",), 3, ())
    with pytest.raises(BadEdge, match="a purpose"):
        read_prefetch({"purpose": "curiosity"})
