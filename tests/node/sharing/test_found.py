"""What a search found is kept for a day, and listed and searched like what was announced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clocks_made import MadeClock

from node.catalog.words import ANY, Search
from node.database import Database
from node.sharing.found import FOUND_SCHEMA, FoundStudies, Questions
from protocol import limits
from protocol.find_messages import ByNumber, ByPerson
from protocol.messages import Record

NORTH, EAST = bytes([1]) * 32, bytes([2]) * 32
ANNA, NUMBER = ByPerson("Müller^Anna", "19700131", "F"), ByNumber("P1", "NORTH")


def record(number: int, date: str = "20260101", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "sequence": number + 1, "kind": "available", "study": f"1.2.{number}",
        "content_root": bytes(32), "series": 1, "instances": 1, "bytes": 1, "encoded_bytes": 1,
        "modalities": ("CT",), "study_date": date,
    }  # fmt: skip
    return Record(**{**values, **changes})


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def found(tmp_path: Path, clock: MadeClock) -> Iterator[FoundStudies]:
    database = Database(tmp_path / "node.db", (FOUND_SCHEMA,))
    yield FoundStudies(database, clock)
    database.close()


def listed(
    found: FoundStudies, peer: bytes | None = None, search: Search = ANY
) -> list[tuple[bytes, str]]:
    return [(one.peer, one.record.study) for one in found.all(peer, search)]


def test_what_was_found_is_listed_newest_first_and_searched(found: FoundStudies) -> None:
    found.keep(NORTH, ANNA, [record(1, "20260101"), record(2, "20260301")])
    found.keep(EAST, NUMBER, [record(1, "20260201", modalities=("MR",))])
    everything = [(NORTH, "1.2.2"), (EAST, "1.2.1"), (NORTH, "1.2.1")]
    assert listed(found) == everything
    assert listed(found, EAST) == [(EAST, "1.2.1")]
    for search, expected in (
        (Search(name="mueller"), [(NORTH, "1.2.2"), (NORTH, "1.2.1")]),
        (Search(name="muller^an", first_date="20260202"), [(NORTH, "1.2.2")]),
        (Search(name="anna^muller"), []),
        (Search(patient_id="P1", issuer="NORTH"), [(EAST, "1.2.1")]),
        (Search(patient_id="P1", issuer="EAST"), []),
        (Search(birth_date="19700131", last_date="20260201"), [(NORTH, "1.2.1")]),
        (Search(modality="MR"), [(EAST, "1.2.1")]),
    ):
        assert listed(found, search=search) == expected


def test_found_again_it_is_kept_anew(found: FoundStudies, clock: MadeClock) -> None:
    found.keep(NORTH, ANNA, [record(1)])
    clock.move(limits.FOUND_SECONDS - 1)
    [kept] = found.keep(NORTH, NUMBER, [record(1, instances=7)])
    clock.move(2)
    assert found.all() == [kept]
    assert (kept.patient_id, kept.patient_name, kept.record.instances) == ("P1", "", 7)


def test_after_a_day_it_is_forgotten(found: FoundStudies, clock: MadeClock) -> None:
    found.keep(NORTH, ANNA, [record(1)])
    clock.move(limits.FOUND_SECONDS - 1)
    found.sweep()
    assert found.of_study("1.2") == [(NORTH, "1.2.1")]
    clock.move(1)
    assert (listed(found), found.of_study("1.2")) == ([], [])
    found.sweep()
    assert found._database.query("SELECT * FROM found_studies") == []


def test_a_peer_that_is_not_trusted_any_more_and_an_erased_study_are_forgotten(
    found: FoundStudies,
) -> None:
    found.keep(NORTH, ANNA, [record(1), record(2)])
    found.keep(EAST, ANNA, [record(1)])
    found.forget(["1.2.2", "1.2.9"])
    assert listed(found) == [(NORTH, "1.2.1"), (EAST, "1.2.1")][::-1]
    found.forget_peer(NORTH)
    assert listed(found) == [(EAST, "1.2.1")]


def test_no_window_of_an_hour_or_a_day_has_more_questions(tmp_path: Path, clock: MadeClock) -> None:
    database = Database(tmp_path / "q.db", (FOUND_SCHEMA,))
    questions, taken = Questions(database, clock), []
    for second in range(0, 30 * 3600, 60):
        if questions.take(NORTH) == 0:
            taken.append(second)
        clock.move(60)
    for most, seconds in ((limits.FINDS_AN_HOUR, 3600), (limits.FINDS_A_DAY, 24 * 3600)):
        assert max(sum(a <= one < a + seconds for one in taken) for a in taken) == most
    assert database.query("SELECT count(*) FROM find_questions")[0][0] <= limits.FINDS_A_DAY
    database.close()
