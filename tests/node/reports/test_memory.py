"""Reports are streamed: what they take does not grow with the log."""

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from logs_made import create
from reports_made import FACILITIES, ORIGIN, event_of

from node.audit.log import AuditLog
from node.reports import dicom, fhir
from node.reports.accounting import Accounting
from node.reports.audit_messages import AuditMessage, audit_messages
from node.reports.facilities import Facility
from node.reports.records import records
from node.reports.selection import Selection
from protocol.log.entry import subjects_of

ENTRIES = 10_000
MOST_BYTES = 8 * 1024 * 1024
"""A page of openings and a block of entries take 3 MB; all entries as records take 30."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditLog]:
    """A log of many disclosures."""
    made = create(tmp_path_factory.mktemp("log"))
    for start in range(0, ENTRIES, 1000):
        made.append_many(
            [
                event_of(
                    kind,
                    details={"transfer": f"{number:032x}", "instances": 3},
                    subjects=subjects_of(f"1.2.826.{number}", (f"P{number}",)),
                )
                for number in range(start, start + 1000, 2)
                for kind in ("disclosure-begun", "disclosed")
            ]
        )
    yield made
    made.close()


def _audit_messages(log: AuditLog) -> Iterator[AuditMessage]:
    for record in records(log, Selection()):
        yield from audit_messages(record, FACILITIES, ORIGIN)


@pytest.mark.parametrize(
    "parts",
    [
        lambda log: dicom.document(_audit_messages(log)),
        lambda log: fhir.lines(_audit_messages(log)),
        lambda log: Accounting(log, Selection(), FACILITIES, with_exempt=True).lines(),
    ],
    ids=["dicom", "fhir", "accounting"],
)
def test_memory_does_not_grow(log: AuditLog, parts: Callable[[AuditLog], Iterator[bytes]]) -> None:
    tracemalloc.start()
    try:
        size = sum(len(part) for part in parts(log))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 1_000_000
    assert peak < MOST_BYTES


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (("/dns4/a.example/tcp/1", "/ip4/192.0.2.1/tcp/1"), ("a.example", "1")),
        (("/ip4/192.0.2.1/tcp/1",), ("192.0.2.1", "2")),
        (("/ip6/2001:db8::1/tcp/1",), ("2001:db8::1", "2")),
        ((), ("12D3", "1")),
    ],
)
def test_where_a_facility_is(addresses: tuple[str, ...], expected: tuple[str, str]) -> None:
    assert Facility("A", "FP", "12D3", addresses).access_point == expected
