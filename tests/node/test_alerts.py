"""What stands: each of a subject of the table, with keys by which it is told once."""

import dataclasses
import datetime
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from certificates_made import Authority
from clocks_made import MadeClock
from facility_in_memory import Other, entries
from places import ROOT

from node.alerts import FORWARD_SECONDS, alerts_of, standing
from node.app import Node
from node.edges.dimse_settings import Address
from node.errors import ExitCode, NodeError
from node.home import Home
from node.images.store import RESERVE_BYTES
from node.notices.subjects import SUBJECTS, Alert, document
from node.reports.collector import Collector
from node.serving import Serving

DAY = 24 * 3600
SOUTH = Other("South Clinic", MadeClock().now())


@dataclasses.dataclass
class Asks:
    """What South asks for in an emergency."""

    transfer: bytes
    study: str = "1.2.3"
    purpose: str = "BTG"


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def node(tmp_path: Path, clock: MadeClock) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as opened:
        yield opened


def _of(found: list[Alert], subject: str) -> list[Alert]:
    return [one for one in found if one.subject == subject]


def test_each_subject_is_in_the_table_and_in_use() -> None:
    """Every one that the code names, and none that it does not."""
    text = "".join((ROOT / "node" / name).read_text() for name in ("alerts.py", "certificates.py"))
    assert set(re.findall(r'Alert\(\s*"([a-z-]+)"', text)) == SUBJECTS.keys()
    assert document() in (ROOT / "docs/operations.md").read_text()


def test_a_log_in_doubt_is_told_and_status_says_it_elsewhere(node: Node) -> None:
    node.audit.halt.reason = NodeError("a witness holds a later checkpoint")
    [found] = standing(node, None)
    assert (found.subject, found.keys) == ("in-doubt", ("",))
    assert "a later checkpoint" in found.text
    assert alerts_of(node, None) == []
    assert SUBJECTS["in-doubt"].goes_out


@pytest.mark.parametrize(
    ("free", "key"), [(0, "full"), (RESERVE_BYTES - 1, "nearly full"), (10**12, None)]
)
def test_the_disk(node: Node, monkeypatch: pytest.MonkeyPatch, free: int, key: str | None) -> None:
    monkeypatch.setattr(node, "free_bytes", lambda: free)
    assert [one.keys for one in _of(standing(node, None), "disk")] == ([(key,)] if key else [])


def test_a_log_that_fails_is_the_disk_or_the_log(node: Node) -> None:
    for code, subject in ((ExitCode.DISK, "disk"), (ExitCode.INTEGRITY, "log")):
        node.audit.failure = NodeError("x", code=code)
        assert [one.subject for one in standing(node, None)] == [subject]


def test_each_emergency_has_its_number_and_its_entry(node: Node, clock: MadeClock) -> None:
    peer = node.peers.add(SOUTH.card.encoded, SOUTH.card.fingerprint, [], "", clock.now())
    for number in range(1, 25):
        asks = Asks(bytes([number]) * 16, f"1.2.{number}")
        node.emergencies.begin("out", peer, asks, ("dr", "emergency", "coma"), ())
        clock.move(1)
    found = _of(standing(node, None), "break-glass")
    keys = {key for one in found for key in one.keys}
    assert keys == set(map(str, range(1, 25)))
    indices = {
        entry["details"]["number"]: entry["index"] for entry in entries(node, "emergency-begun")
    }
    assert found[0].entries(found[0].keys) == [indices[1]]
    assert found[-1].entries(("24", "23", "99")) == [indices[24], indices[23]]


def test_the_card_is_told_again_as_its_end_comes(node: Node, clock: MadeClock) -> None:
    clock.move(node.card.expires - clock.now() - 91 * DAY)
    told = []
    for _ in range(92):
        told += [one.keys[0] for one in _of(standing(node, None), "card")]
        clock.move(DAY)
    assert list(dict.fromkeys(told)) == [
        "90 days before its end",
        "30 days before its end",
        "7 days before its end",
        "at its end",
    ]


def test_a_certificate_that_ends(node: Node, clock: MadeClock, tmp_path: Path) -> None:
    now = datetime.datetime.fromtimestamp(clock.now(), datetime.UTC)
    authority = Authority(tmp_path)
    for days, key in (
        (31.5, None),
        (30.5, "dimse.certificate, 30 days before its end"),
        (7.5, "dimse.certificate, 7 days before its end"),
        (-1, "dimse.certificate, at its end"),
    ):
        pem = authority.issue("x", ends=now + datetime.timedelta(days=days))
        dimse = dataclasses.replace(
            node.settings.dimse,
            tls_listen=(Address(host="127.0.0.1", port=1),),
            certificate=str(pem),
        )
        node.settings = dataclasses.replace(node.settings, dimse=dimse)
        found = [one.keys[0] for one in _of(standing(node, None), "certificate")]
        assert found == ([key] if key else [])
    pem.write_text("nonsense")
    [found_] = _of(standing(node, None), "certificate")
    assert found_.keys == ("dimse.certificate, not readable",)


@pytest.mark.integration
async def test_forwarding_that_fails_is_told_after_an_hour(
    tmp_path: Path, clock: MadeClock
) -> None:
    ca = Authority(tmp_path).ca
    # Nothing listens at this port.
    collector = Collector(host="127.0.0.1", port=1, ca=ca)
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as node:
        audit = dataclasses.replace(node.settings.audit, syslog=collector)
        node.settings = dataclasses.replace(node.settings, audit=audit)
        serving = Serving(node)
        assert serving.forwarder is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving.forwarder.run)
            with trio.fail_after(20):
                while serving.forwarder.describe()["last_error"] is None:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            clock.move(FORWARD_SECONDS - 1)
            assert _of(standing(node, serving), "forward") == []
            clock.move(1)
            [found] = _of(standing(node, serving), "forward")
            assert "for 1 h 00 min" in found.text
            nursery.cancel_scope.cancel()
