"""The log goes on to a collector: all of it, in order, across failures and restarts."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from certificates_made import Authority, collector
from logs_made import create, entries_of, event
from reports_made import FACILITIES, ORIGIN, STUDY, log_of_everything

from node.audit.log import AuditLog
from node.callers import Caller, asked_by
from node.database import Database
from node.errors import NodeError
from node.reports import forwarding
from node.reports.collector import Collector
from node.reports.forwarding import FORWARDING_SCHEMA, Forwarder


def _forwarder(
    log: AuditLog,
    directory: Path,
    port: int,
    ca: Path,
    form: str = "json",
    *,
    persons: bool = False,
) -> Forwarder:
    return Forwarder(
        log,
        Database(directory / "node.db", (FORWARDING_SCHEMA,)),
        Collector(host="localhost", port=port, ca=ca, form=form),
        lambda: FACILITIES,
        ORIGIN,
        persons=persons,
        idle_seconds=0.05,
        retry_seconds=(0.01, 0.05),
    )


@asynccontextmanager
async def _running(forwarder: Forwarder) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forwarder.run)
        yield
        nursery.cancel_scope.cancel()


async def _delivered(forwarder: Forwarder, count: int) -> None:
    with trio.fail_after(20):
        while forwarder.describe()["delivered"] < count:  # noqa: ASYNC110
            await trio.sleep(0.01)


def _indexes(messages: list[bytes]) -> list[int]:
    return [json.loads(one.partition(b"\xef\xbb\xbf")[2])["index"] for one in messages]


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "POLL_SECONDS", 0.01)


async def test_what_is_there_and_what_comes_is_forwarded_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    log = create(tmp_path / "audit")
    with collector(authority.issue("localhost")) as server:
        forwarder = _forwarder(log, tmp_path, server.port, authority.ca)
        async with _running(forwarder):
            await _delivered(forwarder, 2)
            for number in range(5):
                await trio.to_thread.run_sync(log.append, event(number))
            await _delivered(forwarder, log.size)
        assert _indexes(server.messages) == list(range(log.size))
    entries = entries_of(log)
    assert [one.type for one in entries[:2]] == ["init", "log-exported"]
    assert dict(entries[1].details) == {
        "continuous": True,
        "first": 0,
        "format": "syslog",
        "messages": "json",
        "to": f"localhost:{server.port}",
    }
    raw = [one.partition(b"\xef\xbb\xbf")[2] for one in server.messages]
    assert raw == list(log.entries())
    log.close()


async def test_a_restart_goes_on_behind_what_was_delivered(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    log = create(tmp_path / "audit")
    with collector(authority.issue("localhost")) as server:
        for _ in range(2):
            forwarder = _forwarder(log, tmp_path, server.port, authority.ca)
            async with _running(forwarder):
                await trio.to_thread.run_sync(log.append, event(1))
                await _delivered(forwarder, log.size)
        assert _indexes(server.messages) == list(range(log.size))
    assert [one.type for one in entries_of(log)].count("log-exported") == 1
    log.close()


async def test_a_connection_that_breaks_loses_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    log = create(tmp_path / "audit")
    log.append_many([event(number) for number in range(20)])
    with collector(authority.issue("localhost")) as server:
        server.reset_after = 7
        forwarder = _forwarder(log, tmp_path, server.port, authority.ca)
        async with _running(forwarder):
            await _delivered(forwarder, log.size)
        indexes = _indexes(server.messages)
        assert indexes == [*range(7), *range(log.size)]
    log.close()


async def test_a_collector_that_is_away_is_waited_for_and_holds_up_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    identity = authority.issue("localhost")
    with collector(identity) as server:
        port = server.port
    log = create(tmp_path / "audit")
    forwarder = _forwarder(log, tmp_path, port, authority.ca)
    async with _running(forwarder):
        with trio.fail_after(20):
            while forwarder.describe()["last_error"] is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await trio.to_thread.run_sync(log.append, event(1))
        with collector(identity, port=port) as server:
            await _delivered(forwarder, log.size)
            assert _indexes(server.messages) == list(range(log.size))
        assert forwarder.describe()["last_error"] is None
    log.close()


async def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    log = create(tmp_path / "audit")
    append, failures = log.append, iter([NodeError("the disk is full")])

    def failing(one: object) -> int:
        for failure in failures:
            raise failure
        return append(one)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "append", failing)
    with collector(authority.issue("localhost")) as server:
        forwarder = _forwarder(log, tmp_path, server.port, authority.ca)
        async with _running(forwarder):
            await _delivered(forwarder, 2)
        assert _indexes(server.messages) == [0, 1]
    log.close()


async def test_a_fault_of_ours_does_not_end_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    log = create(tmp_path / "audit")
    faults = iter([KeyError("patient DOE^JANE")])

    def faulty(*arguments: object, **named: object) -> object:
        for fault in faults:
            raise fault
        return original(*arguments, **named)

    original = forwarding.messages
    monkeypatch.setattr(forwarding, "messages", faulty)
    with collector(authority.issue("localhost")) as server:
        forwarder = _forwarder(log, tmp_path, server.port, authority.ca)
        async with _running(forwarder):
            await _delivered(forwarder, 2)
        assert _indexes(server.messages) == [0, 1]
    assert "KeyError" in caplog.text
    assert "DOE" not in caplog.text
    log.close()


async def test_dicom_messages_name_the_study_and_are_in_the_order_of_the_log(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    log = log_of_everything(tmp_path / "audit")
    with collector(authority.issue("localhost")) as server:
        forwarder = _forwarder(log, tmp_path, server.port, authority.ca, "dicom")
        async with _running(forwarder):
            await _delivered(forwarder, log.size)
        assert all(one.startswith((b"<84>1 ", b"<85>1 ")) for one in server.messages)
        assert sum(STUDY.encode() in one for one in server.messages) == 11
        times = [one.split(b" ")[1] for one in server.messages]
        assert times == sorted(times)
    log.close()


@pytest.mark.parametrize("form", ["dicom", "json"])
@pytest.mark.parametrize("persons", [False, True])
async def test_a_collector_learns_of_our_people_only_where_the_setting_says_so(
    tmp_path: Path, form: str, persons: bool
) -> None:
    authority = Authority(tmp_path)
    with collector(authority.issue("localhost")) as server:
        log = create(tmp_path)
        with asked_by(Caller("person", "j.doe", role="admin", display="Dr. J. Doe")):
            log.append(event("withdrawn"))
        forwarder = _forwarder(log, tmp_path, server.port, authority.ca, form, persons=persons)
        async with _running(forwarder):
            await _delivered(forwarder, log.size)
        sent = b"".join(server.messages)
        named = persons and form == "dicom"
        assert (b"j.doe" in sent) is (b"Dr. J. Doe" in sent) is named
        assert b"withdrawn" in sent
        log.close()
