"""Syslog messages by the grammar of RFC 5424, and their frames by RFC 5425."""

import re
from pathlib import Path

import pytest
from logs_made import create
from reports_made import FACILITIES, ORIGIN, STUDY, event_of, log_of_everything

from node.reports.records import records
from node.reports.selection import Selection
from node.reports.syslog import framed, host_name, messages

_PRINTABLE = "[\\x21-\\x7e]"
_MESSAGE = re.compile(
    rf"<(?P<pri>[0-9]{{1,3}})>(?P<version>[1-9][0-9]{{0,2}})"
    r" (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d))"
    rf" (?P<host>-|{_PRINTABLE}{{1,255}})"
    rf" (?P<app>-|{_PRINTABLE}{{1,48}})"
    rf" (?P<process>-|{_PRINTABLE}{{1,128}})"
    rf" (?P<kind>-|{_PRINTABLE}{{1,32}})"
    r" (?P<data>-) \ufeff(?P<text>.*)",
    re.DOTALL,
)


@pytest.mark.parametrize("form", ["dicom", "json"])
def test_messages_of_every_type_are_of_the_grammar(tmp_path: Path, form: str) -> None:
    log = log_of_everything(tmp_path)
    raw = list(log.entries())
    count = 0
    for record in records(log, Selection()):
        for message in messages(record, form, FACILITIES, ORIGIN, "node.north.example"):
            found = _MESSAGE.fullmatch(message.decode())
            assert found is not None, message
            count += 1
            assert (found["version"], found["app"]) == ("1", "radmesh")
            assert found["time"] == record.time
            facility, severity = divmod(int(found["pri"]), 8)
            assert facility == 10
            if form == "json":
                assert severity == (5 if record.entry["outcome"] == "success" else 4)
                assert found["kind"] == record.type
                assert found["text"].encode() == raw[record.index]
                assert STUDY not in found["text"]
            else:
                assert found["kind"] == "DICOM+RFC3881"
                assert found["text"].startswith("<AuditMessage>")
                assert (severity == 5) == ('EventOutcomeIndicator="0"' in found["text"])
    assert count == len(raw) - (5 if form == "dicom" else 0)
    log.close()


def test_a_frame_counts_octets() -> None:
    message = "<85>1 Zürich".encode()
    assert framed(message) == b"13 " + message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("node", "node"),
        ("no de\nx", "nodex"),
        ("Zürich", "Zrich"),
        ("", "-"),
        ("x" * 300, "x" * 255),
    ],
)
def test_host_names_fit_the_header(name: str, expected: str) -> None:
    assert host_name(name) == expected


def test_a_type_of_a_newer_version_has_a_message_as_it_is(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append(event_of("start"))
    record = list(records(log, Selection()))[1]
    record.entry["type"] = "a" * 64
    [message] = messages(record, "json", FACILITIES, ORIGIN, "h")
    assert _MESSAGE.fullmatch(message.decode())["kind"] == "a" * 32
    assert list(messages(record, "dicom", FACILITIES, ORIGIN, "h")) == []
    log.close()
