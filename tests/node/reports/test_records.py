"""Which entries are selected, and what a person may write to select them."""

from pathlib import Path

import pytest
from logs_made import START_MS, Clock, create, entries_of
from reports_made import (
    OTHER_STUDY,
    PATIENT,
    SOUTH_KEY,
    STEP_MS,
    STUDY,
    event_of,
    log_of_everything,
)

from node.audit.log import AuditLog
from node.errors import ExitCode, NodeError
from node.reports.records import records, records_between, span
from node.reports.selection import Selection, parse_moment
from protocol.log.entry import ABOUT_PERSONS, TYPES, parse_time_untrusted


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory):
    """One entry of each type, an hour apart."""
    made = log_of_everything(tmp_path_factory.mktemp("log"))
    yield made
    made.close()


def _types(log: AuditLog, selection: Selection) -> list[str]:
    return [record.type for record in records(log, selection)]


def test_everything(log: AuditLog) -> None:
    assert _types(log, Selection()) == list(TYPES)
    assert [record.index for record in records_between(log, 3, 6)] == [3, 4, 5]


def test_by_time_is_the_slow_search(log: AuditLog) -> None:
    times = [entry.time_ms for entry in entries_of(log)]
    for since in (None, 0, times[0], times[3], times[3] + 1, times[-1], times[-1] + 1):
        for until in (None, 0, times[0], times[5], times[5] + 1, times[-1] + 1):
            expected = [
                index
                for index, time in enumerate(times)
                if (since is None or time >= since) and (until is None or time < until)
            ]
            chosen = Selection(since=since, until=until)
            assert [record.index for record in records(log, chosen)] == expected
            first, last = span(log, chosen, log.size)
            assert list(range(first, last)) == expected


def test_many_entries_of_one_moment(tmp_path: Path) -> None:
    clock = Clock()
    made = create(tmp_path, clock)
    made.append_many([event_of("start")] * 5)
    clock.now += 1
    made.append_many([event_of("stop")] * 5)
    assert _types(made, Selection(since=START_MS + 1)) == ["stop"] * 5
    assert len(_types(made, Selection(until=START_MS + 1))) == 6
    made.close()


def test_by_peer_study_patient_and_type(log: AuditLog) -> None:
    south = SOUTH_KEY.public.hex()
    by_peer = _types(log, Selection(peer=south))
    assert by_peer == [entry.type for entry in entries_of(log) if entry.peer.hex() == south]
    assert "disclosed" in by_peer
    about = [
        entry.type for entry in entries_of(log) if "study" in [kind for kind, _ in entry.subjects]
    ]
    assert _types(log, Selection(study=STUDY)) == about
    assert _types(log, Selection(patient=PATIENT)) == about
    assert _types(log, Selection(study=STUDY, patient="PID-1001", peer=south)) == [
        kind for kind in about if kind in by_peer
    ]
    assert _types(log, Selection(study=OTHER_STUDY)) == []
    assert _types(log, Selection(study=STUDY, types=frozenset(("ingest",)))) == ["ingest"]
    hour = START_MS + 4 * STEP_MS
    assert _types(log, Selection(study=STUDY, since=hour)) == about[1:]


REQUESTED = TYPES.index("requested")


def test_openings_go_with_their_entries(log: AuditLog) -> None:
    for record in records(log, Selection()):
        opened = [(subject.kind, subject.value) for subject in record.subjects]
        if record.type in ABOUT_PERSONS:
            assert opened == [("person", "anna^^^look^^^Dr. Anna^^^anna1")]
        else:
            assert opened == ([("study", STUDY), ("patient", PATIENT)] if opened else [])
    for record in records_between(log, REQUESTED, REQUESTED + 2):
        assert record.first("study").value == STUDY


@pytest.mark.parametrize(
    ("text", "end", "expected"),
    [
        ("2026-11-24", False, "2026-11-24T00:00:00.000Z"),
        ("2026-11-24", True, "2026-11-25T00:00:00.000Z"),
        ("2026-11-24T09:30Z", True, "2026-11-24T09:30:00.000Z"),
        ("2026-11-24T10:30:15+01:00", False, "2026-11-24T09:30:15.000Z"),
        (" 2026-11-24 09:30:15.5Z ", False, "2026-11-24T09:30:15.500Z"),
    ],
)
def test_moments(text: str, end: bool, expected: str) -> None:
    assert parse_moment(text, end=end) == parse_time_untrusted(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-13-01",
        "2026-11-24T09:30",
        "24.11.2026",
        "2026-11-24T25:00Z",
        "9999-12-31",
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(NodeError) as raised:
        parse_moment(text, end=True)
    assert raised.value.code is ExitCode.USAGE
