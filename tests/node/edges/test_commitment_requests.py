"""What others ask us to commit to: what counts as stored, and how it is reported."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from certificates_made import Authority
from clocks_made import MadeClock
from commitment_made import Asker, asking, callee, peer, reference, store
from dimse_made import CALLERS, LOOPBACK, Listening, calling, listening
from facilities import free_port
from facility_in_memory import Other, entries, publish_study
from network_nodes import until
from pdus_made import context, message, request, user
from pydicom.dataset import Dataset
from studies_made import make_instance

from edges.dimse import commitment
from edges.dimse.commands import Element, Field, encode_command
from edges.dimse.commitment import Reference, Request
from edges.dimse.negotiation import EXPLICIT, IMPLICIT
from node.app import Node
from node.catalog.sharing import received_from
from node.edges import commitment_reports, commitment_requests, dimse_wire
from node.edges.commitment_requests import TRIED_MS, TransactionTaken
from node.errors import NodeError
from node.home import Home
from node.operations.base import Call
from node.operations.doctor import doctor
from node.operations.parameters import Nothing
from protocol.recalls import QUALITY

# pynetdicom leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STUDY = "1.2.826.0.1.3680043.8.498.66"
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
NOBODY = Reference(CT, "1.2.3.4.5.6")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment_reports, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(commitment_reports, "FIRST_PAUSE", 0.1)


def reporting_to(port: int) -> dict[str, object]:
    return {**CALLERS, "CT1": {"addresses": [LOOPBACK], "report_to": f"{LOOPBACK}:{port}"}}


async def pack(north: Listening) -> None:
    """Have all that waits packed at once."""
    for group in north.arrivals._groups.waiting:
        group.stat = True
    north.arrivals._wake()
    with trio.fail_after(20):
        while north.arrivals.describe()["instances"]:
            await north.arrivals.next_packing()


@contextlib.asynccontextmanager
async def holding(path: Path, *instances: Dataset) -> AsyncIterator[tuple[Listening, Asker]]:
    """A node that took images, and somebody who asks it."""
    async with listening(path / "north") as north:
        assert await store(north.port, *instances) == [0] * len(instances)
        async with asking(callee(north.port)) as asker:
            yield north, asker


@pytest.mark.parametrize("packed", [False, True], ids=["in the spool", "in the catalog"])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
async def test_what_is_here_is_reported_on_the_same_association(
    tmp_path: Path, syntax: str, packed: bool
) -> None:
    instances = [make_instance(STUDY, number, rows=16) for number in (1, 2)]
    async with listening(tmp_path / "north") as north:
        await store(north.port, *instances)
        if packed:
            await pack(north)
        async with asking(callee(north.port), syntax=syntax) as asker:
            wanted = list(map(reference, instances))
            assert await asker.ask("1.2.3", wanted) == 0
            assert await asker.hear() == [(1, "1.2.3", [one.sop_instance for one in wanted], {})]
        [entry] = entries(north.node, "commitment-given")
        assert entry["details"] == {
            "system": "CT1", "stored": 2, "failed": 0, "studies": 1,
            "transaction": entry["details"]["transaction"],
        }  # fmt: skip
        assert len(entry["subjects"]) == 1
        await north.quiet()
        assert north.node.commitment_requests.open() == []
        assert north.reports.given == 1


async def test_the_entry_is_there_before_the_report_leaves(tmp_path: Path) -> None:
    async with holding(tmp_path, make_instance(STUDY, 1, rows=16)) as (north, asker):
        seen: list[int] = []
        heard = asker.on_request

        async def on_request(message: object) -> int:
            seen.append(len(entries(north.node, "commitment-given")))
            return await heard(message)  # type: ignore[arg-type]

        assert asker.calling is not None
        asker.calling._on_request = on_request
        await asker.ask("1.2.3", [NOBODY])
        await asker.hear()
        assert seen == [1]


async def test_what_failed_has_its_reason(tmp_path: Path) -> None:
    good, other, known = (make_instance(STUDY, number, rows=16) for number in (1, 2, 3))
    changed = make_instance(STUDY, 3, rows=16, seed=1)
    async with holding(tmp_path, good, other, known) as (north, asker):
        # Other bytes under a UID that waits: set aside. Another UID than was said: quarantined.
        assert await store(north.port, changed) == [0xB007]
        quarantined = make_instance(STUDY, 4, rows=16)
        assert await store(north.port, quarantined, named="1.2.3.99") == [0xC000]
        wanted = [
            reference(good),
            Reference(MR, other.SOPInstanceUID),
            reference(known),
            reference(quarantined),
            NOBODY,
        ]
        expected = {
            other.SOPInstanceUID: 0x0119,
            known.SOPInstanceUID: 0x0110,
            quarantined.SOPInstanceUID: 0x0112,
            NOBODY.sop_instance: 0x0112,
        }
        assert await asker.ask("1.2.3", wanted) == 0
        [(kind, _, stored, failed)] = await asker.hear()
        assert (kind, stored, failed) == (2, [good.SOPInstanceUID], expected)
        # The same when it is packed: it stands in the catalog, with another version aside.
        await pack(north)
        assert await asker.ask("1.2.4", wanted) == 0
        [_, (kind, _, stored, failed)] = await asker.hear(2)
        assert (kind, stored, failed) == (2, [good.SOPInstanceUID], expected)


async def test_what_was_discarded_and_what_only_others_sent_is_not_stored(tmp_path: Path) -> None:
    mine, sent_again = (make_instance(STUDY, number, rows=16) for number in (1, 2))
    async with holding(tmp_path, mine, sent_again) as (north, asker):
        await pack(north)
        discard = north.node.discards
        await trio.to_thread.run_sync(lambda: discard.discard(sent_again.SOPInstanceUID, QUALITY))
        assert await store(north.port, sent_again) == [0xB007]
        await trio.to_thread.run_sync(
            lambda: north.node.database.transact(
                lambda connection: connection.execute(
                    "UPDATE study_sources SET source = ?", (received_from("SOUTH"),)
                )
            )
        )
        await asker.ask("1.2.3", [reference(mine), reference(sent_again)])
        [(kind, _, stored, failed)] = await asker.hear()
        assert (kind, stored) == (2, [])
        assert failed == {mine.SOPInstanceUID: 0x0112, sent_again.SOPInstanceUID: 0x0110}
    [entry] = entries_of(tmp_path)
    assert entry["outcome"] == "failed"


def entries_of(path: Path) -> list[dict[str, object]]:
    with Node.open(Home(path / "north")) as node:
        return entries(node, "commitment-given")


@pytest.mark.slow
@pytest.mark.parametrize("roles", [True, False], ids=["with roles", "without an answer to roles"])
async def test_who_releases_is_called(tmp_path: Path, roles: bool) -> None:
    one = make_instance(STUDY, 1, rows=16)
    with peer("CT1", roles=roles) as ct1:
        callers = reporting_to(ct1.port)
        doors = {"RM_OTHER": {"stat": True}}
        async with listening(tmp_path / "north", callers=callers, doors=doors) as north:
            await store(north.port, one)
            async with asking(callee(north.port, called="RM_OTHER")) as asker:
                assert await asker.ask("1.2.3", [reference(one), NOBODY]) == 0
            await until(lambda: ct1.reported)
            expected = (2, "1.2.3", [one.SOPInstanceUID], {NOBODY.sop_instance: 0x0112})
            assert ct1.reported == [expected]
            # By the title of ours that it knows.
            assert ct1.callers == ["RM_OTHER"]
            await until(lambda: north.reports.given == 1)
            assert asker.reported == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["half-closed", "reset", "silent"])
async def test_however_the_association_ends_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(dimse_wire, "STALL_SECONDS", 0.3)
    with peer("CT1") as ct1:
        async with listening(tmp_path / "north", callers=reporting_to(ct1.port)) as north:
            for number in (1, 2):
                async with calling(north.port) as caller:
                    await caller.say(request(context(5, commitment.MODEL, EXPLICIT), user()))
                    assert (await caller.hear())[0] == 2
                    await caller.say(_asked(5, f"1.2.{number}"))
                    assert (await caller.answer())[1] == 0
                    if how == "half-closed":
                        await caller.stream.send_eof()
                    elif how == "reset":
                        await caller.reset()
                    elif number == 1:
                        # It takes no notice of the report, and is let go of.
                        assert (await caller.hear())[0] == 4
                        assert (await caller.hear())[0] == 4
                        assert (await caller.hear())[0] == 7
                    await until(lambda number=number: len(ct1.reported) == number)
                    if how == "silent" and number == 2:
                        # From then on it is called only, and may go on with its association.
                        await caller.release()
        assert [one[1] for one in ct1.reported] == ["1.2.1", "1.2.2"]


def _asked(number: int, transaction: str) -> bytes:
    values = {**commitment.action(), Element.MESSAGE_ID: 3, Element.DATA_SET_TYPE: 1}
    data = commitment.encode_request(Request(transaction, (NOBODY,)), EXPLICIT)
    return message(number, encode_command(values), data)


@pytest.mark.slow
async def test_over_tls_its_certificate_names_the_place(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    node, good = (authority.issue(LOOPBACK, name=name) for name in ("node", "ct1"))
    bad = other.issue(LOOPBACK, name="bad")
    elsewhere = authority.issue("192.0.2.1", name="elsewhere")
    port = free_port()
    callers = {
        "CT1": {"addresses": [LOOPBACK], "report_to": f"{LOOPBACK}:{port}", "report_tls": True}
    }
    tls = {"certificate": str(node), "key": str(node), "ca": str(authority.ca)}
    async with listening(tmp_path / "north", callers=callers, entries=tls) as north:
        async with asking(callee(north.port)) as asker:
            await asker.ask("1.2.3", [NOBODY])
        owner = north.node.commitment_requests
        with peer("CT1", port=port, tls=_server(bad, authority)) as ct1:
            await until(lambda: "issuer" in owner.open()[0].why)
            assert ct1.reported == []
        with peer("CT1", port=port, tls=_server(elsewhere, authority)) as ct1:
            await until(lambda: "mismatch" in owner.open()[0].why)
            assert ct1.reported == []
        assert north.server.describe()["plain"] == ["CT1 from 127.0.0.1"]
        with peer("CT1", port=port, tls=_server(good, authority)) as ct1:
            await until(lambda: ct1.reported)


def _server(files: Path, authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.slow
async def test_it_is_tried_again_until_it_is_taken_and_after_a_restart(tmp_path: Path) -> None:
    port = free_port()
    async with listening(tmp_path / "north", callers=reporting_to(port)) as north:
        async with asking(callee(north.port)) as asker:
            await asker.ask("1.2.3", [NOBODY])
        owner = north.node.commitment_requests
        await until(lambda: "reached" in owner.open()[0].why)
        with peer("CT1", port=port) as ct1:
            ct1.status = 0x0110
            await until(lambda: len(ct1.reported) >= 2)
        await until(lambda: "0110H" in owner.open()[0].why or "reached" in owner.open()[0].why)
        # The log has the answer once, however often it is given.
        assert len(entries(north.node, "commitment-given")) == 1
    with peer("CT1", port=port) as ct1:
        async with listening(tmp_path / "north", callers=reporting_to(port)) as north:
            await until(lambda: north.reports.given == 1)
            assert ct1.reported == [(2, "1.2.3", [], {NOBODY.sop_instance: 0x0112})]
            assert north.node.commitment_requests.open() == []
            assert len(entries(north.node, "commitment-given")) == 1


@pytest.mark.slow
async def test_a_report_that_breaks_the_association_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    with peer("CT1") as ct1:
        ct1.aborts = {"1.2.1"}
        async with listening(tmp_path / "north", callers=reporting_to(ct1.port)) as north:
            for number in (1, 2, 3):
                north.node.commitment_requests.take("CT1", "RADMESH", _request(number))
            north.reports._wake("CT1")
            await until(lambda: north.reports.given == 2)
            assert [one[1] for one in ct1.reported] == ["1.2.2", "1.2.3"]
            [left] = north.node.commitment_requests.open()
            assert left.transaction_uid == "1.2.1"


@pytest.mark.slow
async def test_what_came_meanwhile_is_stored_and_logged_anew(tmp_path: Path) -> None:
    one = make_instance(STUDY, 1, rows=16)
    port = free_port()
    async with listening(tmp_path / "north", callers=reporting_to(port)) as north:
        async with asking(callee(north.port)) as asker:
            await asker.ask("1.2.3", [reference(one)])
        async with asking(callee(north.port), answer=0x0110) as asker:
            await asker.ask("1.2.3", [reference(one)])
            assert [kind for kind, *_ in await asker.hear()] == [2]
        await store(north.port, one)
        with peer("CT1", port=port) as ct1:
            await until(lambda: ct1.reported)
            assert ct1.reported[0][0] == 1
        found = entries(north.node, "commitment-given")
        assert [entry["details"]["stored"] for entry in found] == [0, 1]


async def test_without_a_place_it_waits_for_the_next_association(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north:
        async with asking(callee(north.port)) as asker:
            await asker.ask("1.2.3", [NOBODY])
        await north.quiet()
        assert len(north.node.commitment_requests.open()) == 1
        async with asking(callee(north.port)) as asker:
            await asker.ask("1.2.4", [NOBODY])
            found = await asker.hear(2)
        assert [one[1] for one in found] == ["1.2.4", "1.2.3"]
        await north.quiet()
        assert north.node.commitment_requests.open() == []


async def test_many_at_once_on_one_association(tmp_path: Path) -> None:
    async with holding(tmp_path, make_instance(STUDY, 1, rows=16)) as (north, asker):
        for number in range(20):
            assert await asker.ask(f"1.2.{number}", [NOBODY]) == 0
        found = await asker.hear(20)
        assert {one[1] for one in found} == {f"1.2.{number}" for number in range(20)}
        # Images go on meanwhile.
        assert await store(north.port, make_instance(STUDY, 2, rows=16)) == [0]


@pytest.mark.parametrize(
    ("changed", "data", "status"),
    [
        ({"REQUESTED_SOP_INSTANCE_UID": "1.2.3"}, None, 0x0112),
        ({"ACTION_TYPE_ID": 2}, None, 0x0123),
        ({"COMMAND_FIELD": int(Field.C_FIND)}, None, 0x0211),
        ({}, b"", 0x0115),
        ({}, b"nothing that could be read", 0x0115),
        ({}, bytes(8 * 1024 * 1024 + 2), 0x0213),
    ],
)
async def test_what_is_no_request_is_answered_so(
    tmp_path: Path, changed: dict[str, int | str], data: bytes | None, status: int
) -> None:
    async with holding(tmp_path) as (north, asker):
        assert await asker.ask("1.2.3", [NOBODY], data=data, **changed) == status
        assert north.node.commitment_requests.open() == []
        assert entries(north.node, "commitment-given") == []


async def test_one_transaction_uid_means_one_thing(tmp_path: Path) -> None:
    async with listening(tmp_path / "north") as north:
        async with asking(callee(north.port)) as asker:
            assert await asker.ask("1.2.3", [NOBODY]) == 0
        async with asking(callee(north.port)) as asker:
            assert await asker.ask("1.2.3", [NOBODY, Reference(CT, "1.2.9")]) == 0x0115
            assert await asker.ask("1.2.3", [NOBODY]) == 0
            assert len(await asker.hear()) == 1


async def test_the_disk_is_full(tmp_path: Path) -> None:
    async with holding(tmp_path) as (north, asker):
        north.node.database.query("PRAGMA query_only=ON")
        assert await asker.ask("1.2.3", [NOBODY]) == 0x0110
        north.node.database.query("PRAGMA query_only=OFF")
        assert await asker.ask("1.2.3", [NOBODY]) == 0
        assert len(await asker.hear()) == 1


# --- what is kept ------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    home = Home.create(tmp_path / "north", name="North", clock=MadeClock())
    with Node.open(home) as opened:
        yield opened


def _request(number: int, *uids: str) -> Request:
    return Request(f"1.2.{number}", tuple(Reference(CT, uid) for uid in uids or ("1.2.3",)))


def test_open_transactions_of_a_caller_are_bounded(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = node.commitment_requests
    monkeypatch.setattr(commitment_requests, "OPEN_TRANSACTIONS", 2)
    monkeypatch.setattr(commitment_requests, "OPEN_INSTANCES", 5)
    owner.take("CT1", "RADMESH", _request(1))
    with pytest.raises(NodeError, match="wait for their reports"):
        owner.take("CT1", "RADMESH", _request(2, *map(str, range(5))))
    owner.take("CT1", "RADMESH", _request(2))
    with pytest.raises(NodeError, match="wait for their reports"):
        owner.take("CT1", "RADMESH", _request(3))
    # Another caller is not touched by it; what is open already may be asked again.
    owner.take("CT2", "RADMESH", _request(3))
    owner.take("CT1", "RADMESH", _request(2))
    with pytest.raises(TransactionTaken):
        owner.take("CT1", "RADMESH", _request(2, "1.2.9"))


def test_after_a_week_it_is_given_up(node: Node) -> None:
    owner, clock = node.commitment_requests, node.clock
    assert isinstance(clock, MadeClock)
    owner.take("CT1", "RADMESH", _request(1))
    clock.move(TRIED_MS / 1000 - 1)
    owner.give_up()
    assert len(owner.open()) == 1
    clock.move(1)
    owner.give_up()
    assert owner.open() == []


def test_it_goes_with_the_openings_of_its_study(node: Node) -> None:
    study = publish_study(node)
    Other("South Clinic", MadeClock().now()).pair(node)
    [first, *_] = node.catalog.instances(study)
    owner = node.commitment_requests
    owner.take("CT1", "RADMESH", Request("1.2.1", (Reference(CT, first.sop_uid),)))
    owner.take("CT1", "RADMESH", _request(2, "1.2.99"))
    node.forget([study])
    assert [one.transaction_uid for one in owner.open()] == ["1.2.2"]


def _doctor(node: Node) -> dict[str, str]:
    found = trio.run(doctor, Call(node), Nothing())
    assert isinstance(found, dict)
    return {one["about"]: one["found"] for one in found["findings"] if "commitment" in one["found"]}


def test_doctor_names_who_does_not_take_reports_and_who_may_not_give_them(node: Node) -> None:
    clock, owner = node.clock, node.commitment_requests
    assert isinstance(clock, MadeClock)
    owner.take("CT1", "RADMESH", _request(1))
    tried = owner.take("CT2", "RADMESH", _request(2))
    node.commitments.kept.put_down("PACS", "1.2.3", (), _request(3))
    assert _doctor(node) == {}
    owner.not_reported(tried, "it cannot be reached")
    assert _doctor(node) == {
        "caller CT2": "a report of storage commitment waits: it cannot be reached"
    }
    clock.move(60)
    assert _doctor(node) == {
        "caller CT1": "it asks for storage commitment, and does not wait for the report",
        "caller CT2": "a report of storage commitment waits: it cannot be reached",
        "archive PACS": "it is to report on storage commitment, and may not call this node",
    }


@pytest.mark.slow
def test_many_thousand_instances_are_judged_in_seconds(node: Node) -> None:
    study = publish_study(node)
    uids = [one.sop_uid for one in node.catalog.instances(study)]
    many = tuple(Reference(CT, uid) for uid in [*uids, *(f"1.2.{n}" for n in range(20_000))])
    one = node.commitment_requests.take("CT1", "RADMESH", Request("1.2.1", many))
    report = node.commitment_requests.judge(one, many, [])
    assert report is not None
    assert len(report.stored) == len(uids)
    assert set(report.failed.values()) == {commitment.Reason.NO_SUCH_OBJECT}


def test_nothing_is_said_of_a_request_that_is_gone(node: Node) -> None:
    many = (Reference(CT, "1.2.3"),)
    one = node.commitment_requests.take("CT1", "RADMESH", Request("1.2.1", many))
    assert node.commitment_requests.judge(one, many, []) is not None
    node.commitment_requests.reported(one)
    assert node.commitment_requests.judge(one, many, []) is None
