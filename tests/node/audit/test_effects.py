"""Entry first, then the change: at each point of failure the log and the database agree.

One row for every change that is logged before it takes effect. What takes rights away is
made true by the next start; of all else an entry says that it failed.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study
from people_made import ask, list_people, proposed
from studies_made import make_instance, make_study

import node.home as home_module
from edges.dimse import commitment
from keys.card import issue_card
from node.alerts import alerts_of
from node.app import Node
from node.audit.appending import Appender
from node.audit.effects import ENTRY_FIRST
from node.callers import SERVICE
from node.clock import SYSTEM_CLOCK
from node.edges.archive_settings import ArchiveSettings
from node.edges.match_rows import LocalPatient
from node.errors import ExitCode, NodeError
from node.failures import error_from
from node.home import Home
from node.operations import OPERATIONS, Call
from node.parts import stating_of
from node.people.acts import LIFE_MS
from node.receipts.stating import Stating
from node.sharing.emergencies import OUT
from node.sharing.endings import Endings
from protocol.log.entry import Event
from protocol.messages import Record, Request
from protocol.offers import StudyOffer
from protocol.recalls import WRONG_WORKLIST
from protocol.stored import Stored, sign_stored

NOW = SYSTEM_CLOCK.now()
SOUTH, EAST = Other("South Clinic", NOW), Other("East Imaging", NOW)
STUDY = exchange_pair.STUDY
REFERENCE = commitment.Reference("1.2.840.10008.5.1.4.1.1.2", "1.2.3")


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        kind: the type of its entry.
        make: makes it, on a node where South has `see` and `fetch` and a study is shared.
        state: what it changes, as a value that can be compared.
        cuts: whether it takes rights away.
        resumed: whether the next start makes it true, though it takes nothing away.
    """

    kind: str
    make: Callable[[Node], object]
    state: Callable[[Node], object]
    cuts: bool = False
    resumed: bool = False


def _grants(node: Node) -> object:
    return sorted(node.peers.find("South Clinic").grants)


def _newer_card(node: Node) -> object:
    card = issue_card(
        SOUTH.facility,
        name=SOUTH.name,
        node_key=SOUTH.node.public,
        log_key=SOUTH.log.public,
        witness_key=SOUTH.witness.public,
        addresses=(),
        serial=2,
        issued=NOW,
        expires=NOW + 10**7,
    )
    return node.peers.take_newer_card(card.encoded, SOUTH.key, NOW)


def _state_of_study(node: Node) -> object:
    row = node.catalog.study(STUDY)
    return None if row is None else row.state


def _state_for_south(node: Node) -> object:
    facts = node.facts.of(node.catalog.study(STUDY), SOUTH.key)
    return None if facts is None else facts.state


def _share_again(node: Node) -> object:
    return node.shared_studies.share(STUDY)


def _ingest(node: Node) -> object:
    folder = node.home.path.parent / "in"
    if not folder.exists():
        make_study(folder, 2, study="1.2.826.0.1.3680043.8.498.77", rows=8)
    parameters = {"paths": [str(folder)]}
    return trio.run(OPERATIONS["ingest"].answer, Call(node), parameters)


def _add_rule(node: Node, words: str) -> object:
    return node.peers.add_rule("South Clinic", words.split(), node.facts.blind)


def _remove_rule(node: Node, number: int) -> object:
    return node.peers.remove_rule("South Clinic", number)


def _rules(node: Node) -> object:
    return [(rule.number, str(rule)) for rule in node.peers.find("South Clinic").rules]


def _wishes(node: Node, kind: str) -> object:
    return [(one.number, one.identity, one.uses, bool(one.ended)) for one in node.wishes.all(kind)]


def _ask(node: Node, transfer: bytes = bytes(16)) -> object:
    request = Request(
        transfer=transfer,
        source=node.keys.node.public,
        study=STUDY,
        purpose="treatment",
        ephemeral=bytes(32),
        time=node.clock.now_ms(),
        person="Dr. B. Beispiel",
    )
    return node.requests.note(SOUTH.key, request, "rule 1")


def _break_glass(node: Node) -> object:
    request = Request(
        transfer=bytes(16),
        source=node.keys.node.public,
        study=STUDY,
        purpose="BTG",
        ephemeral=bytes(32),
        time=node.clock.now_ms(),
    )
    peer = node.peers.find("South Clinic")
    return node.emergencies.begin(OUT, peer, request, ("Dr. B.", "emergency", "unconscious"), ())


def _broken_days_ago(node: Node) -> None:
    node.emergencies._clock = MadeClock((NOW - 4 * 86_400) * 1000)
    _break_glass(node)
    node.emergencies._clock = node.clock


def _emergencies(node: Node) -> object:
    return [(one.number, one.ended, one.overdue, one.outcome) for one in node.emergencies.all()]


def _states(node: Node) -> object:
    return [(one.number, one.state) for one in node.requests.all()]


def _hear_offer(node: Node) -> object:
    said = StudyOffer(
        recipient=node.keys.node.public, offer=bytes(16), time=node.clock.now_ms(),
        until=node.clock.now_ms() + 86_400_000, study=STUDY, purpose="treatment", message="look",
        series=1, instances=1, bytes=1, modalities=("CT",), study_date="",
    )  # fmt: skip
    return node.offers.take_untrusted(node.peers.find("South Clinic"), said)


def _ask_archive(node: Node) -> None:
    node.commitments.kept.put_down("PACS", STUDY, (), commitment.Request("2.25.7", (REFERENCE,)))


def _commitments(node: Node) -> object:
    return node.commitments.kept.open()


def _offers(node: Node) -> object:
    return [(one.number, one.state) for one in node.offers.all()]


def _to_archive(node: Node) -> object:
    one = ArchiveSettings(name="PACS", ae_title="PACS", host="127.0.0.1", port=104)
    node.archive_queue.archives = {"PACS": one}
    return node.archive_queue.ask(STUDY, "PACS")


def _on_its_way(node: Node) -> object:
    return [(one.archive, one.state) for one in node.archive_queue.of_study(STUDY)]


def _root(node: Node) -> bytes:
    row = node.catalog.study(STUDY)
    assert row is not None
    return row.content_root


def _prepare_receipt(node: Node, direction: str) -> None:
    """We have a receipt of the study with South, in a direction."""
    details = {
        "transfer": bytes(16).hex(),
        "direction": direction,
        "content_root": _root(node).hex(),
        "instances": 12,
        "receipt": bytes(32).hex(),
    }
    node.audit.append(Event(type="receipt", peer=SOUTH.key, details=details))
    # What is read of the log is kept, and that is no part of the change.
    node.exchanges.catch_up()


def _stating(node: Node) -> Stating:
    log_queries: Any = None
    return stating_of(node, lambda key: node.peers.find("South Clinic"), lambda: log_queries)


def _hear_stored(node: Node) -> object:
    stored = Stored(
        transfer=bytes(16), source_facility=node.card.facility_key, recipient_facility=SOUTH.key,
        recipient_node=SOUTH.node.public, content_root=_root(node), instances=12,
        proven_by="query", proven_at=NOW, time=NOW * 1000,
    )  # fmt: skip
    signed = sign_stored(stored, SOUTH.node)
    peer = node.peers.find("South Clinic")
    return _stating(node).take_untrusted(peer, signed.body, signed.signature)


def _told(node: Node) -> object:
    return node.stored.statement(SOUTH.key, bytes(16), outgoing=False)


def _heard(node: Node) -> object:
    return node.stored.statement(SOUTH.key, bytes(16), outgoing=True)


def _match(node: Node) -> object:
    return node.matches.match(STUDY, LocalPatient(patient_id="H-77", issuer="HOSP-A"))


def _ready(node: Node) -> object:
    return node.matches.ready(STUDY)


def _came_from_south(node: Node) -> None:
    node.database.transact(
        lambda connection: connection.execute("UPDATE studies SET origin = ?", (SOUTH.key.hex(),))
    )


def _holds(node: Node) -> object:
    return [one.study for one in node.holds.all()]


def _prepare_aside(node: Node) -> None:
    """Another version of an instance of the study lies aside."""
    folder = node.home.path.parent / "aside"
    folder.mkdir()
    made = make_instance(STUDY, 1, rows=16, seed=5)
    made.save_as(folder / "other.dcm", enforce_file_format=True)
    parameters = {"paths": [str(folder)]}
    trio.run(OPERATIONS["ingest"].answer, Call(node), parameters)


def _set_aside(node: Node) -> str:
    return node.set_aside.all()[0].name


def _prepare_recall(node: Node) -> None:
    """South has recalled the study."""
    record = Record(
        sequence=1, kind="withdrawn", study=STUDY, content_root=bytes(32), series=0, instances=0,
        bytes=0, encoded_bytes=0, modalities=(), study_date="", recall=WRONG_WORKLIST, recalls=1,
    )  # fmt: skip
    node.database.transact(lambda connection: node.recalls.keep(connection, SOUTH.key, [record]))


def _propose(node: Node) -> int:
    """Anna proposes to give South something, under a rule that is made for it."""
    if not node.rules.holding(["trust"]):
        node.rules.set("trust", 2)
    answer = ask(node, "anna", "trust.grant", peer="South Clinic", grants=["witness"])
    if "error" in answer:
        raise error_from(answer["error"])
    return proposed(answer)


def _proposals(node: Node) -> list[int]:
    return [one.number for one in node.proposals.open()]


def _kept_proposals(node: Node) -> list[str]:
    return [one.state for one in node.proposals.all()]


def _confirm(node: Node) -> None:
    answer = ask(node, "dora", "confirm", number=_proposals(node)[0])
    if "error" in answer:
        raise error_from(answer["error"])


def _lapse(node: Node) -> None:
    """A week later; only the proposals have this clock."""
    later = node.clock.now_ms() + LIFE_MS + 1000
    node.proposals._clock = MadeClock(later)
    node.proposals.lapse()


CHANGES = [
    Change(
        "trust-added",
        lambda node: EAST.pair(node, "see"),
        lambda node: [peer.petname for peer in node.peers.store.peers],
    ),
    Change("trust-granted", lambda node: node.peers.grant("South Clinic", ["witness"]), _grants),
    Change(
        "trust-ungranted",
        lambda node: node.peers.revoke("South Clinic", ["see"], NOW),
        _grants,
        cuts=True,
    ),
    Change("rule-added", lambda node: _add_rule(node, "allow see modality=CT"), _rules),
    Change("rule-added", lambda node: _add_rule(node, "deny fetch max-age=1d"), _rules, cuts=True),
    # It holds back what the grant allows; and it gives what nothing allows.
    Change("rule-added", lambda node: _add_rule(node, "ask fetch stat=yes"), _rules, cuts=True),
    Change("rule-added", lambda node: _add_rule(node, "ask send"), _rules),
    Change("rule-removed", lambda node: _remove_rule(node, 1), _rules, cuts=True),
    Change("rule-removed", lambda node: _remove_rule(node, 2), _rules),
    Change(
        "objection-added",
        lambda node: node.wishes.add("objection", "PAT1", "", b"", "all"),
        lambda node: _wishes(node, "objection"),
        cuts=True,
    ),
    Change(
        "objection-ended",
        lambda node: node.wishes.end("objection", 1),
        lambda node: _wishes(node, "objection"),
    ),
    Change(
        "consent-added",
        lambda node: node.wishes.add("consent", "PAT1", "NORTH", b"", "care"),
        lambda node: _wishes(node, "consent"),
    ),
    Change(
        "consent-ended",
        lambda node: node.wishes.end("consent", 1),
        lambda node: _wishes(node, "consent"),
        cuts=True,
    ),
    Change("approval-asked", lambda node: _ask(node), _states),
    Change("approved", lambda node: node.requests.approve(1), _states),
    Change("denied", lambda node: node.requests.deny(1, "no"), _states, cuts=True),
    Change("denied", lambda node: node.requests.deny(2, "no"), _states, cuts=True),
    Change("emergency-begun", lambda node: _break_glass(node), _emergencies),
    Change(
        "emergency-ended",
        lambda node: node.emergencies.end(OUT, SOUTH.key, bytes(16), is_complete=True),
        _emergencies,
    ),
    Change("emergency-overdue", lambda node: node.emergencies.say_overdue(), _emergencies),
    Change(
        "emergency-reviewed",
        lambda node: node.emergencies.review(1, "justified", "seen", SERVICE),
        _emergencies,
    ),
    Change(
        "offered",
        lambda node: node.offers.make(STUDY, "South Clinic", "treatment", "look", None),
        _offers,
    ),
    Change("offer-heard", lambda node: _hear_offer(node), _offers),
    Change("offer-answered", lambda node: node.offers.answer(1, "accepted"), _offers),
    Change("offer-ended", lambda node: node.offers.end(1), _offers, cuts=True),
    Change("commitment-asked", lambda node: _ask_archive(node), _commitments),
    Change(
        "commitment-heard",
        lambda node: node.commitments.kept.take("PACS", commitment.Report("2.25.7", (REFERENCE,))),
        _commitments,
    ),
    Change(
        "stored",
        lambda node: node.stored.note(STUDY, "commitment", 12),
        lambda node: node.stored.content(_root(node)),
        resumed=True,
    ),
    Change("stored-told", lambda node: _stating(node).next_for(SOUTH.key), _told, resumed=True),
    Change("stored-heard", lambda node: _hear_stored(node), _heard, resumed=True),
    Change("matched", lambda node: _match(node), lambda node: node.matches.of(STUDY)),
    Change("matched", lambda node: node.matches.match_for_now(STUDY), _ready),
    Change("match-undone", lambda node: node.matches.undo(STUDY), _ready, cuts=True),
    Change(
        "trust-revoked",
        lambda node: node.peers.revoke("South Clinic", [], NOW),
        lambda node: node.peers.find("South Clinic").revoked is not None,
        cuts=True,
    ),
    Change("card-updated", _newer_card, lambda node: node.peers.find("South Clinic").card.serial),
    Change(
        "withdrawn",
        lambda node: node.shared_studies.withdraw(STUDY),
        _state_of_study,
        cuts=True,
    ),
    Change("shared", _share_again, _state_of_study),
    Change(
        "withdrawn-from",
        lambda node: node.shared_studies.withdraw_from(STUDY, node.peers.find("South Clinic")),
        _state_for_south,
        cuts=True,
    ),
    Change(
        "shared-to",
        lambda node: node.shared_studies.share_to(STUDY, node.peers.find("South Clinic")),
        _state_for_south,
    ),
    Change(
        "sharing-rule-added",
        lambda node: node.sharing_rules.add(["withhold", "modality=SR"]),
        lambda node: node.sharing_rules.all(),
    ),
    Change(
        "sharing-rule-removed",
        lambda node: node.sharing_rules.remove(1),
        lambda node: node.sharing_rules.all(),
    ),
    Change("ingest", _ingest, lambda node: node.catalog.study_count()),
    Change(
        "discarded",
        lambda node: node.discards.discard(STUDY, WRONG_WORKLIST),
        _state_of_study,
        cuts=True,
    ),
    Change("forward-asked", lambda node: _to_archive(node), _on_its_way),
    Change("forward-dropped", lambda node: node.archive_queue.drop(STUDY), _on_its_way),
    Change("hold-placed", lambda node: node.holds.place(STUDY, "file 1"), _holds),
    Change("hold-lifted", lambda node: node.holds.lift(STUDY), _holds),
    Change(
        "quarantine-taken",
        lambda node: node.set_aside.take(_set_aside(node), "corrected"),
        lambda node: node.catalog.held_instances(STUDY),
    ),
    Change(
        "quarantine-dropped",
        lambda node: node.set_aside.drop(_set_aside(node), "damaged"),
        lambda node: [row.digest for row in node.catalog.conflicts()],
    ),
    Change(
        "recall-settled",
        lambda node: node.recalls.settle(STUDY, None),
        lambda node: [one.settled for one in node.recalls.all()],
    ),
    Change(
        "person-added",
        lambda node: node.persons.add("eve", ["eve1"], ["look"], ""),
        lambda node: [one.name for one in node.persons.all()],
    ),
    Change(
        "person-changed",
        lambda node: node.persons.change("anna", [], ["look"]),
        lambda node: [one.roles for one in node.persons.all()],
        cuts=True,
    ),
    Change(
        "person-removed",
        lambda node: node.persons.remove("anna"),
        lambda node: [one.name for one in node.persons.all()],
        cuts=True,
    ),
    Change(
        "two-person-rule",
        lambda node: node.rules.set("erasure", 2),
        lambda node: node.rules.holding(["erasure"]),
    ),
    Change("proposed", lambda node: _propose(node), _proposals),
    Change("confirmed", lambda node: _confirm(node), _grants),
    Change(
        "declined",
        lambda node: node.proposals.decline(_proposals(node)[0], SERVICE, "no"),
        lambda node: _proposals(node),
    ),
    Change("proposal-ended", lambda node: _lapse(node), _kept_proposals),
]


def test_every_change_that_has_an_entry_first_is_in_the_table() -> None:
    assert {change.kind for change in CHANGES} == set(ENTRY_FIRST)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.create(tmp_path / "north", name="North")
    with Node.open(made) as node:
        publish_study(node)
        SOUTH.pair(node, "see", "fetch")
        list_people(node)
    return made


def _prepared(home: Home, change: Change) -> Iterator[Node]:
    with Node.open(home) as node:
        if change.kind == "shared":
            node.shared_studies.withdraw(STUDY)
        elif change.kind in ("quarantine-taken", "quarantine-dropped"):
            _prepare_aside(node)
        elif change.kind == "recall-settled":
            _prepare_recall(node)
        elif change.kind == "hold-lifted":
            node.holds.place(STUDY, "file 1")
        if change.kind == "forward-dropped":
            _to_archive(node)
        elif change.kind in ("objection-ended", "consent-ended"):
            node.wishes.add(change.kind.partition("-")[0], "PAT1", "", b"", "all")
        elif change.kind == "offered":
            # Its key is made at the first use, before anything has an entry.
            node.facts.blind("study", STUDY)
        elif change.kind == "offer-answered":
            _hear_offer(node)
        elif change.kind == "commitment-heard":
            _ask_archive(node)
        elif change.kind == "offer-ended":
            node.offers.make(STUDY, "South Clinic", "treatment", "look", None)
        elif change.kind in ("approved", "denied"):
            _ask(node)
            if change.kind == "denied":
                _ask(node, bytes(15) + b"2")
                node.requests.approve(2)
        elif change.kind in ("emergency-ended", "emergency-overdue", "emergency-reviewed"):
            _broken_days_ago(node)
        elif change.kind in ("matched", "match-undone"):
            _came_from_south(node)
            if change.kind == "match-undone":
                _match(node)
        elif change.kind == "shared-to":
            node.shared_studies.withdraw(STUDY)
        elif change.kind == "sharing-rule-removed":
            node.sharing_rules.add(["share", "source=dimse:*"])
        elif change.kind == "rule-removed":
            _add_rule(node, "allow fetch modality=CT")
            _add_rule(node, "deny fetch modality=MG")
        elif change.kind == "stored-told":
            _prepare_receipt(node, "in")
            node.stored.note(STUDY, "commitment", 12)
            node.exchanges.catch_up()
        elif change.kind == "stored-heard":
            _prepare_receipt(node, "out")
        elif change.kind == "proposed":
            node.rules.set("trust", 2)
        elif change.kind in ("confirmed", "declined", "proposal-ended"):
            _propose(node)
        yield node


@pytest.fixture(params=CHANGES, ids=lambda change: change.kind)
def change(request: pytest.FixtureRequest) -> Change:
    found: Change = request.param
    return found


def _fail_entry(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise NodeError("the audit log cannot be written", code=ExitCode.DISK)

    monkeypatch.setattr(Appender, "append_many", full)


def _fail_database(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.database.query("PRAGMA query_only=ON")


def _let_write(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    node.database.query("PRAGMA query_only=OFF")


@pytest.mark.parametrize("fail", [_fail_entry, _fail_database])
def test_a_change_that_cannot_be_written(
    home: Home, change: Change, fail: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in _prepared(home, change):
        before, size = change.state(node), node.audit.size
        fail(node, monkeypatch)
        with pytest.raises(NodeError) as caught:
            change.make(node)
        assert caught.value.code is ExitCode.DISK
        # What cuts is cut; what gives is not given.
        assert (change.state(node) != before) is change.cuts
        _let_write(node, monkeypatch)
        tail = [entry for entry in entries(node)[size:] if entry["type"] == change.kind]
        if fail is _fail_entry:
            assert tail == []
        elif change.cuts:
            assert [entry["outcome"] for entry in tail] == ["success"]
        elif change.kind == "quarantine-taken":
            assert tail == [], "nothing is said before it is known that it can be done"
        elif change.kind != "ingest":
            assert [entry["outcome"] for entry in tail] == ["success", "failed"]
            assert tail[1]["details"]["of"] == tail[0]["index"]
    with Node.open(home) as node:
        written = fail is _fail_database
        assert (change.state(node) != before) is (change.cuts and written)
        _check_told(node, change, size)


@pytest.mark.parametrize("at", ["entry", "commit"])
def test_killed_between_entry_and_effect(home: Home, change: Change, at: str) -> None:
    for node in _prepared(home, change):
        before, size = change.state(node), node.audit.size
    child = os.fork()
    if child == 0:
        _make_and_die(home, change, at)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    with Node.open(home) as node:
        done = change.cuts or change.resumed or at == "commit"
        assert (change.state(node) != before) is done
        _check_told(node, change, size)
    with Node.open(home) as node:
        assert node.audit.size == len(entries(node))
        count = len(entries(node, change.kind))
    with Node.open(home) as node:
        assert len(entries(node, change.kind)) == count, "told once"


def _make_and_die(home: Home, change: Change, at: str) -> None:
    try:
        with Node.open(home) as node:
            if at == "entry":
                _die_after_entry(change.kind)
            else:
                node.effects.mark = _mark_and_die(node)  # type: ignore[method-assign]
                node.catalog.mark = node.effects.mark
            change.make(node)
    finally:
        os._exit(1)


def _die_after_entry(kind: str) -> None:
    original = Appender.append_many

    def append_and_die(self: Appender, events: Any) -> Any:
        written = original(self, events)
        if any(event.type == kind for event in events):
            os._exit(9)
        return written

    Appender.append_many = append_and_die  # type: ignore[method-assign]


def _mark_and_die(node: Node) -> Callable[[sqlite3.Connection, int], None]:
    mark = node.effects.mark

    def both(connection: sqlite3.Connection, index: int) -> None:
        mark(connection, index)
        node.database.after_commit(lambda: os._exit(9))

    return both


def _check_told(node: Node, change: Change, size: int) -> None:
    """Each entry of the change has its effect, or one that says that it failed."""
    tail = [entry for entry in entries(node)[size:] if entry["type"] == change.kind]
    failed = {entry["details"]["of"] for entry in tail if entry["outcome"] == "failed"}
    standing = [e for e in tail if e["outcome"] == "success" and e["index"] not in failed]
    if change.cuts:
        assert not failed
    assert len(standing) <= 1


@pytest.mark.parametrize("at", ["entry", "card", "commit"])
def test_killed_as_our_own_card_is_renewed(home: Home, at: str) -> None:
    before = home.read_card()
    child = os.fork()
    if child == 0:
        try:
            with Node.open(home) as node:
                if at == "entry":
                    _die_after_entry("card-updated")
                elif at == "card":
                    write = home.write_card
                    home.write_card = lambda card: (write(card), os._exit(9))  # type: ignore[method-assign, assignment, return-value]
                else:
                    node.effects.mark = _mark_and_die(node)  # type: ignore[method-assign]
                node.publish_addresses(("/ip4/192.0.2.9/tcp/4101",))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    with Node.open(home) as node:
        assert (node.card.serial > before.serial) is (at != "entry")
        told = [entry["outcome"] for entry in entries(node, "card-updated")]
        assert told == (["success", "failed"] if at == "entry" else ["success"])


def test_a_card_that_cannot_be_written_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with Node.open(home) as node:
        before = node.card
        monkeypatch.setattr(home_module, "write_whole", _no_space)
        with pytest.raises(NodeError) as caught:
            node.publish_addresses(("/ip4/192.0.2.9/tcp/4101",))
        assert caught.value.code is ExitCode.DISK
        assert node.card is before
        assert [e["outcome"] for e in entries(node, "card-updated")] == ["success", "failed"]
        monkeypatch.undo()
        node.publish_addresses(("/ip4/192.0.2.9/tcp/4101",))
        node.publish_addresses(("/ip4/192.0.2.8/tcp/4101",))
    with Node.open(home) as node:
        assert node.card.addresses == ("/ip4/192.0.2.8/tcp/4101",)
        outcomes = [entry["outcome"] for entry in entries(node, "card-updated")]
        assert outcomes == ["success", "failed", "success", "success"]


def _no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_cut_on_a_full_disk_is_written_when_there_is_room(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node.open(home) as node:
        _fail_entry(node, monkeypatch)
        with pytest.raises(NodeError, match="South Clinic is cut off"):
            node.peers.revoke("South Clinic", [], NOW)
        with pytest.raises(NodeError, match="held back"):
            node.shared_studies.withdraw(STUDY)
        with pytest.raises(NodeError, match="objection 1 counts in this process"):
            node.wishes.add("objection", "PAT1", "", b"", "all")
        assert any("objection 1" in alert for alert in alerts_of(node, None))
        assert any("South Clinic is cut off" in alert for alert in alerts_of(node, None))
        assert any("is held back" in alert for alert in alerts_of(node, None))
        assert any("the disk is full" in alert for alert in alerts_of(node, None))
        _let_write(node, monkeypatch)
        endings = Endings(
            peers=node.peers,
            studies=node.shared_studies,
            wishes=node.wishes,
            discards=node.discards,
            feeds=node.feeds,
            connected=lambda: (),
            peer_changed=lambda peer: None,
            node_key_ended=lambda key: None,
            clock=node.clock,
            refusals=node.refusals,
        )
        trio.run(endings.look)
        assert [entry["type"] for entry in entries(node)][-3:] == [
            "trust-revoked",
            "withdrawn",
            "objection-added",
        ]
        assert alerts_of(node, None) == []
    with Node.open(home) as node:
        assert node.peers.find("South Clinic").revoked is not None
        assert _state_of_study(node) == "withheld"


def test_connections_are_cut_before_anything_is_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node.open(home) as node:
        cut: list[str] = []
        node.peers.on_change = lambda peer: cut.append(peer.petname)
        _fail_entry(node, monkeypatch)
        with pytest.raises(NodeError):
            node.peers.revoke("South Clinic", [], NOW)
        assert cut == ["South Clinic"]
        assert node.peers.store.by_node_key(SOUTH.node.public, NOW) is None


def test_a_second_cut_is_not_held_up_by_the_first(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node.open(home) as node:
        EAST.pair(node, "see")
        _fail_entry(node, monkeypatch)
        for name in ("South Clinic", "East Imaging"):
            with pytest.raises(NodeError):
                node.peers.revoke(name, [], NOW)
        assert node.peers.unwritten == ("South Clinic", "East Imaging")
        assert not node.feeds.sight.peers()


def test_a_database_of_an_older_backup_follows_the_log(home: Home) -> None:
    older = home.database_path.read_bytes()
    with Node.open(home) as node:
        node.peers.revoke("South Clinic", [], NOW)
        EAST.pair(node, "see")
    home.database_path.write_bytes(older)
    with Node.open(home) as node:
        assert node.peers.find("South Clinic").revoked is not None
        assert [peer.petname for peer in node.peers.store.peers] == ["South Clinic"]
        failed = [entry for entry in entries(node, "trust-added") if entry["outcome"] == "failed"]
        assert len(failed) == 1
