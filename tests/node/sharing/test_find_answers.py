"""Answers to searches for a patient: whom a peer may find, what it learns, what the log has."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clocks_made import MadeClock
from facility_in_memory import Other, entries
from find_made import ANNA, NUMBER, ask, publish, publish_many, question, send
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killed import killed_at, killed_at_commit

from keys.grants import ASK, DENY, Rule
from keys.grants import Request as Asking
from node import parts
from node.app import Node
from node.catalog.catalog import StudyRow
from node.catalog.names import same
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError
from node.home import Home
from node.sharing.find_answers import decide_find
from node.sharing.policy import Refusal
from node.sharing.wishes import OBJECTION
from protocol import limits, messages
from protocol.errors import WireCode
from protocol.find_messages import Find, Found, asked_untrusted
from protocol.messages import Heartbeat, Request, Signed

NOW = SYSTEM_CLOCK.now()
SOUTH, EAST = Other("South Clinic", NOW), Other("East Imaging", NOW)


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North")) as node:
        SOUTH.pair(node, "find")
        yield node


def opened(node: Node, entry: dict[str, Any]) -> list[tuple[str, str]]:
    """The subjects of an entry in clear."""
    found = []
    for subject in entry["subjects"]:
        opening = node.audit.opening_of(subject["commitment"])
        found.append((subject["kind"], "" if opening is None else opening.value))
    return found


# --- what is told ---------------------------------------------------------------------


def test_a_patient_is_found_by_number_and_by_person(north: Node) -> None:
    study = publish(north, 1)
    publish(north, 2, patient_id="P2", patient_name="Meier^Eva")
    assert ask(north, SOUTH, question(north)).studies == [study]
    found = ask(north, SOUTH, question(north, **ANNA))
    assert found.studies == [study]
    assert isinstance(found.answer, Found)
    [record] = found.answer.records
    row = north.catalog.study(study)
    assert row is not None
    assert (record.content_root, record.bytes) == (row.content_root, row.original_bytes)
    assert (record.patient_id, record.patient_name, record.description) == (None, None, None)


NAMES = ("Müller^Anna", "MUELLER^ANNA", "Muller^Anna", "Müller^Anna^Maria", "Müller^Ann")
BORN, SEXES, ISSUERS = ("19700131", "19700130"), ("F", "M"), ("NORTH", "SOUTH", "")
_STUDIES = [
    (name, born, sex, issuer, shared)
    for number, name in enumerate(NAMES)
    for born in BORN
    for sex in SEXES
    for issuer in (ISSUERS[number % 3], "NORTH")
    for shared in (True, False)
]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Many patients who are almost the same."""
    home = Home.create(tmp_path_factory.mktemp("hospital") / "home", name="North")
    with Node.open(home) as node:
        SOUTH.pair(node, "find")
        for number, (name, born, sex, issuer, shared) in enumerate(_STUDIES):
            publish(
                node, number, shared=shared, patient_name=name, patient_birth_date=born,
                patient_sex=sex, patient_id=f"P{number % 3}", patient_id_issuer=issuer,
            )  # fmt: skip
        yield node


def _is_of(row: StudyRow, patients: tuple[str, ...], asked: dict[str, str]) -> bool:
    if "name" not in asked:
        return f"{asked['patient_id']}^^^{asked['issuer']}" in patients
    return (
        same(row.patient_name, asked["name"])
        and row.patient_birth_date == asked["birth_date"]
        and row.patient_sex == asked["sex"]
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.one_of(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from([*NAMES, "Mueller^Anna^Maria", "M^A"]),
                "birth_date": st.sampled_from(BORN),
                "sex": st.sampled_from(["M", "F", "O"]),
            }
        ),
        st.fixed_dictionaries(
            {
                "patient_id": st.sampled_from(["P0", "P1", "P2", "P", "p1"]),
                "issuer": st.sampled_from(["NORTH", "SOUTH", "N"]),
            }
        ),
    )
)
def test_what_is_told_is_what_a_reader_of_all_studies_would_tell(
    hospital: Node, asked: dict[str, str]
) -> None:
    expected = {
        row.study_uid
        for row in hospital.catalog.studies("shared")
        if _is_of(row, hospital.catalog.patients(row.study_uid), asked)
    }
    hospital.database.transact(lambda connection: connection.execute("DELETE FROM find_questions"))
    found = ask(hospital, SOUTH, question(hospital, **asked)).studies
    assert set(found) == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize("name", ["ʹ^ʹ", "Müller^ʹ", "ʹ^Anna"])
def test_a_name_without_a_letter_is_nobodys(north: Node, name: str) -> None:
    for number, other in enumerate(("", "^", "Müller^", "^Anna", "Müller^Anna")):
        publish(north, number, patient_name=other)
    assert ask(north, SOUTH, question(north, **{**ANNA, "name": name})).studies == []


def test_more_studies_than_can_be_told_are_refused_and_not_cut(north: Node) -> None:
    publish_many(north, range(limits.FIND_STUDIES))
    assert len(ask(north, SOUTH, question(north)).studies) == limits.FIND_STUDIES
    publish(north, limits.FIND_STUDIES)
    assert ask(north, SOUTH, question(north)).refused == (WireCode.TOO_LARGE, 0)
    entry = entries(north, "find-answered")[-1]
    assert (entry["outcome"], entry["details"]["studies"]) == ("refused", 0)
    assert opened(north, entry) == [("patient", "P1^^^NORTH")]
    assert "more than 200" in entry["details"]["why"]


# --- who may --------------------------------------------------------------------------


@pytest.mark.parametrize("grants", [(), ("see", "fetch", "send", "witness")])
def test_who_may_not_find_is_told_the_same_of_everybody(
    north: Node, grants: tuple[str, ...]
) -> None:
    EAST.pair(north, *grants)
    publish(north, 1)
    answers = [
        ask(north, EAST, question(north, **asked)) for asked in (ANNA, {**ANNA, "sex": "M"}, NUMBER)
    ]
    assert {one.refused for one in answers} == {(WireCode.NOT_GRANTED, 0)}
    assert {one.seconds for one in answers} == {limits.FIND_STEP_SECONDS}
    refused = entries(north, "refused")
    assert len(refused) == 3
    assert {entry["details"]["what"] for entry in refused} == {"find"}
    assert not any("studies" in entry["details"] for entry in refused)
    assert north.database.query("SELECT * FROM find_questions") == [], "it cost no budget"


def test_a_hit_and_a_miss_take_the_same_time(north: Node) -> None:
    publish_many(north, range(20))
    times = []
    # A machine with other work to do may need more than one step now and then.
    for _ in range(5):
        hit, miss = (
            ask(north, SOUTH, question(north, **asked))
            for asked in (NUMBER, {**NUMBER, "patient_id": "P2"})
        )
        assert (len(hit.studies), miss.studies) == (20, [])
        times.append((hit.seconds, miss.seconds))
        if times[-1] == (limits.FIND_STEP_SECONDS, limits.FIND_STEP_SECONDS):
            return
    pytest.fail(f"an answer never left after one step: {times}")


def test_a_withheld_study_is_as_one_that_is_not_there(north: Node) -> None:
    study = publish(north, 1, shared=False)
    told = [ask(north, SOUTH, question(north, patient_id=one, issuer="NORTH")).studies
            for one in ("P1", "P2")]  # fmt: skip
    assert told == [[], []]
    subjects = [opened(north, entry) for entry in entries(north, "find-answered")]
    assert subjects == [[("patient", "P1^^^NORTH")], [("patient", "P2^^^NORTH")]]
    north.shared_studies.share(study)
    assert ask(north, SOUTH, question(north)).studies == [study]
    north.shared_studies.withdraw(study)
    assert ask(north, SOUTH, question(north)).studies == []


def test_rules_decide_for_each_study(north: Node) -> None:
    rows = [north.catalog.study(publish(north, number)) for number in (1, 2)]
    studies = [row for row in rows if row is not None]
    north.shared_studies.withdraw(publish(north, 3))
    store = north.peers.store
    peer = store.by_node_key(SOUTH.node.public, NOW)
    assert peer is not None

    def decided(*rules: Rule, purpose: str = "treatment", speaks: bool = True) -> Any:
        store._rules[SOUTH.key] = rules
        asked = Asking(speaks=speaks, purpose=purpose)
        facts = north.facts.of_each(studies, SOUTH.key)
        said = decide_find(store, peer, asked, zip(studies, facts, strict=True), now=NOW)
        if isinstance(said, Refusal):
            return said
        assert {rule for _, rule in said} <= {"a"}
        return [row for row, _ in said]

    allow = Rule("a", "find")
    assert decided(allow) == studies
    assert decided(Rule("a", "find", conditions={"modality": ("CT",)})) == studies
    assert decided(Rule("a", "find", conditions={"modality": ("MR",)})) == []
    assert decided(allow, Rule("h", "find", ASK)) == [], "a person would have to be asked"
    assert decided(allow, Rule("d", "find", DENY, conditions={"modality": ("CT",)})) == []
    assert isinstance(decided(allow, Rule("d", "find", DENY)), Refusal)
    assert isinstance(decided(Rule("s", "see")), Refusal)
    assert isinstance(decided(allow, speaks=False), Refusal)
    wrong = decided(Rule("a", "find", conditions={"purpose": ("research",)}))
    assert wrong.code is WireCode.PURPOSE_NOT_ALLOWED
    assert decided(allow, purpose="curiosity").code is WireCode.PURPOSE_NOT_ALLOWED


def test_a_patient_whose_studies_a_rule_hides_is_as_one_who_is_not_here(north: Node) -> None:
    publish(north, 1)
    hide = Rule("no CT", "find", DENY, conditions={"modality": ("CT",)})
    north.peers.store._rules[SOUTH.key] = (Rule("a", "find"), hide)
    answers = [
        ask(north, SOUTH, question(north, patient_id=one, issuer="NORTH")) for one in ("P1", "P2")
    ]
    assert [one.studies for one in answers] == [[], []]
    assert len({one.seconds for one in answers}) == 1
    told = [opened(north, entry) for entry in entries(north, "find-answered")]
    assert told == [[("patient", "P1^^^NORTH")], [("patient", "P2^^^NORTH")]]


def test_what_a_rule_keeps_from_being_seen_is_not_found(north: Node) -> None:
    study = publish(north, 1)
    assert ask(north, SOUTH, question(north)).studies == [study]
    north.peers.add_rule("South Clinic", ["deny", "see", "patient=P1@NORTH"], north.facts.blind)
    assert ask(north, SOUTH, question(north)).studies == []
    north.peers.add_rule("South Clinic", ["deny", "see"], north.facts.blind)
    assert ask(north, SOUTH, question(north)).refused == (WireCode.NOT_GRANTED, 0)


def test_a_patient_who_objects_is_as_one_who_is_not_here(north: Node) -> None:
    study = publish(north, 1)
    wish = north.wishes.add(OBJECTION, "P1", "NORTH", SOUTH.key, "all")
    for asked in (NUMBER, ANNA, {**NUMBER, "patient_id": "P2"}):
        said = ask(north, SOUTH, question(north, **asked))
        assert (said.studies, said.seconds) == ([], limits.FIND_STEP_SECONDS)
    assert {entry["details"]["studies"] for entry in entries(north, "find-answered")} == {0}
    north.wishes.end(OBJECTION, wish.number)
    assert ask(north, SOUTH, question(north)).studies == [study]


def test_a_right_that_ended_finds_nothing(north: Node) -> None:
    publish(north, 1)
    answers = parts.find_answers_of(north)
    assert ask(north, SOUTH, question(north), answers).studies
    north.peers.revoke("South Clinic", ["find"], NOW)
    assert ask(north, SOUTH, question(north), answers).refused == (WireCode.NOT_GRANTED, 0)
    north.peers.revoke("South Clinic", [], NOW)
    assert ask(north, SOUTH, question(north), answers).answer is None, "the stream is reset"


# --- the log --------------------------------------------------------------------------


def test_the_log_names_the_patients_of_what_was_told_or_who_was_asked_for(north: Node) -> None:
    first, second = publish(north, 1), publish(north, 2, patient_id="P9")
    ask(north, SOUTH, question(north, **ANNA, person=" Dr. Who "))
    ask(north, SOUTH, question(north, **{**ANNA, "birth_date": "19700130"}))
    *hits, miss = entries(north, "find-answered")
    assert sorted(opened(north, one) for one in hits) == sorted(
        [("study", study), ("patient", f"{patient}^^^NORTH"), ("person", "Dr. Who at South Clinic")]
        for study, patient in ((first, "P1"), (second, "P9"))
    )
    assert opened(north, miss) == [("patient", "Müller^Anna^^^19700130 F")]
    assert [one["details"]["studies"] for one in (*hits, miss)] == [1, 1, 0]
    rights = north.peers.rights_digest(SOUTH.key)
    for entry in (*hits, miss):
        assert entry["details"]["rights"] == rights
        assert entry["details"]["rule"] == ("" if entry is miss else "the grant find")
        assert entry["peer"] == SOUTH.key.hex()
        assert entry["details"]["find"] == bytes(range(16)).hex()


def test_who_has_no_patient_id_is_named_by_the_question(north: Node) -> None:
    nobody = publish(north, 20, patient_id="", patient_id_issuer="", patient_name="Ohne^Nummer")
    asked = {**ANNA, "name": "Ohne^Nummer"}
    assert ask(north, SOUTH, question(north, **asked)).studies == [nobody]
    [entry] = entries(north, "find-answered")
    named = [north.audit.opening_of(one["commitment"]) for one in entry["subjects"]]
    assert [one.value for one in named if one is not None] == [
        nobody,
        "Ohne^Nummer^^^19700131 F",
    ]


def test_without_an_entry_nothing_is_told(north: Node) -> None:
    publish(north, 1)

    def full(events: object) -> object:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    answers = parts.find_answers_of(north)
    answers._append = full
    for asked in (NUMBER, {**NUMBER, "patient_id": "P2"}):
        refused = ask(north, SOUTH, question(north, **asked), answers).refused
        assert refused == (WireCode.SOURCE_DISK, 0)
    assert entries(north, "find-answered") == []


def test_a_full_disk_takes_no_entry(north: Node) -> None:
    publish(north, 1)
    north.budgets._free_bytes = lambda: 1000
    assert ask(north, SOUTH, question(north)).refused == (WireCode.SOURCE_DISK, 0)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after", "call"])
def test_killed_at_each_step_nothing_is_told_that_is_not_logged(tmp_path: Path, when: str) -> None:
    """A file takes what the peer was told; whatever is in it has its entry, and was counted."""
    home = tmp_path / "north"
    with Node.open(Home.create(home, name="North")) as node:
        SOUTH.pair(node, "find")
        publish(node, 1)
    told, step, ended = tmp_path / "told", 0, False

    def work(node: Node) -> None:
        studies = ask(node, SOUTH, question(node, find=step.to_bytes(16, "big"))).studies
        # Whole or not at all: the kill may come here, too.
        told.with_suffix(".new").write_text(f"{step} {' '.join(studies)}")
        told.with_suffix(".new").rename(told)

    while not ended:
        step += 1
        if when == "call":
            ended = not killed_at(step - 1, lambda: Node.open(Home(home)), work)
        else:
            ended = not killed_at_commit(step, when, lambda: Node.open(Home(home)), work)
        with Node.open(Home(home)) as node:
            answered = {one["details"]["find"] for one in entries(node, "find-answered")}
            counted = node.database.query("SELECT count(*) FROM find_questions")[0][0]
            if told.exists():
                assert told.read_text().partition(" ")[0] == str(step), "it was told in the end"
                assert step.to_bytes(16, "big").hex() in answered
            assert counted >= len(answered)
    assert told.exists()
    # Commits of the counter and of the openings; the log's own flush, others as they happen.
    assert step > (1 if when == "call" else 2)


# --- budgets --------------------------------------------------------------------------


def test_a_facility_may_ask_so_much_an_hour_and_a_day(tmp_path: Path) -> None:
    clock = MadeClock(SYSTEM_CLOCK.now_ms())
    home = Home.create(tmp_path / "north", name="North")
    with Node.open(home) as node:
        SOUTH.pair(node, "find")
        EAST.pair(node, "find")
        node.questions._clock = clock
        for asked in range(limits.FINDS_AN_HOUR):
            assert node.questions.take(SOUTH.key) == 0, asked
            clock.move(1)
        assert node.questions.take(SOUTH.key) == limits.FIND_HOUR_SECONDS - limits.FINDS_AN_HOUR
        assert node.questions.take(EAST.key) == 0, "another facility has its own"
    with Node.open(home) as node:
        node.questions._clock = clock
        wait = node.questions.take(SOUTH.key)
        assert wait == limits.FIND_HOUR_SECONDS - limits.FINDS_AN_HOUR
        clock.move(wait - 1)
        assert node.questions.take(SOUTH.key) == 1
        clock.move(1)
        assert node.questions.take(SOUTH.key) == 0
        asked = limits.FINDS_AN_HOUR + 1
        while asked < limits.FINDS_A_DAY:
            clock.move(node.questions.take(SOUTH.key) or 0)
            asked = node.database.query(
                "SELECT count(*) FROM find_questions WHERE peer = ?", (SOUTH.key,)
            )[0][0]
        clock.move(limits.FIND_HOUR_SECONDS)
        assert node.questions.take(SOUTH.key) > limits.FIND_HOUR_SECONDS, "the day is used up"


def test_a_clock_that_is_set_back_keeps_nobody_away_for_more_than_a_day(north: Node) -> None:
    clock = MadeClock()
    north.questions._clock = clock
    clock.move(365 * 24 * 3600)
    for _ in range(limits.FINDS_A_DAY):
        clock.move(north.questions.take(SOUTH.key))
    clock.move(-365 * 24 * 3600)
    assert 0 < north.questions.take(SOUTH.key) <= limits.FIND_DAY_SECONDS


def test_over_the_budget_nothing_is_looked_for_and_the_wait_is_told(north: Node) -> None:
    publish(north, 1)
    for _ in range(limits.FINDS_AN_HOUR):
        north.questions.take(SOUTH.key)
    code, wait = ask(north, SOUTH, question(north)).refused
    assert code == WireCode.BUSY
    assert limits.FIND_HOUR_SECONDS - 60 < wait <= limits.FIND_HOUR_SECONDS
    assert entries(north, "find-answered") == []
    [refused] = entries(north, "refused")
    assert refused["details"]["why"] == "more questions than its budget"


def test_refused_questions_do_not_fill_the_log(north: Node) -> None:
    EAST.pair(north)
    for _ in range(40):
        assert ask(north, EAST, question(north)).refused == (WireCode.NOT_GRANTED, 0)
    assert len(entries(north, "refused")) == 20
    north.refusals.write(all_of_it=True)
    assert entries(north, "refused")[-1]["details"]["count"] == 20


# --- hostile questions ----------------------------------------------------------------


def test_messages_that_are_no_question_are_refused(north: Node) -> None:
    publish(north, 1)
    good = question(north)
    signed = messages.sign(good, SOUTH.node)
    forged = dataclasses.replace(signed, signature=bytes(64))
    request = Request(
        transfer=bytes(16), source=north.keys.node.public, study="1.2", purpose="treatment",
        ephemeral=bytes(32), time=0,
    )  # fmt: skip
    for message, code in (
        (good, WireCode.UNEXPECTED),
        (Heartbeat(), WireCode.UNEXPECTED),
        (forged, WireCode.BAD_SIGNATURE),
        (messages.sign(good, EAST.node), WireCode.BAD_SIGNATURE),
        (messages.sign(request, SOUTH.node), WireCode.UNEXPECTED),
        (messages.sign(question(north, source=bytes(32)), SOUTH.node), WireCode.MALFORMED),
    ):
        assert send(north, SOUTH, message).refused == (code, 0)
    assert entries(north, "find-answered", "refused") == []
    assert north.database.query("SELECT * FROM find_questions") == []


def test_a_question_of_another_day_is_refused(north: Node) -> None:
    for time in (0, north.clock.now_ms() + 2 * limits.CLOCK_SKEW_SECONDS * 1000):
        assert ask(north, SOUTH, question(north, time=time)).refused == (WireCode.CLOCK_SKEW, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {**ANNA, **NUMBER},
        {"patient_id": "P1"},
        {"issuer": "NORTH"},
        {**ANNA, "sex": None},
        {**NUMBER, "sex": "F"},
        {**ANNA, "name": "Müller^Anna\\Meier^Eva"},
        {**ANNA, "name": "Müller^*"},
        {**ANNA, "name": "Müller"},
        {**ANNA, "name": "Müller^Anna=王^小東"},
        {**NUMBER, "patient_id": "P?"},
        {**NUMBER, "patient_id": "x" * (limits.FIND_CHARACTERS + 1)},
        {**NUMBER, "person": "x" * (limits.NAME_CHARACTERS + 1)},
        {**NUMBER, "find": bytes(15)},
    ],
)
def test_a_patient_who_is_not_named_wholly_is_not_looked_for(
    north: Node, changes: dict[str, Any]
) -> None:
    publish(north, 1)
    find = question(north, **changes)
    assert ask(north, SOUTH, find).refused == (WireCode.MALFORMED, 0)
    assert entries(north, "find-answered", "refused") == []


def test_no_answer_is_logged_behind_a_revocation(north: Node) -> None:
    """An answer and its entry are one decision: a revocation waits for it, or comes first."""
    study = publish(north, 1)
    for _ in range(8):
        told: list[str] = []
        asking = threading.Thread(
            target=lambda told=told: told.append(ask_as_it_is(north, question(north)))
        )
        asking.start()
        north.peers.revoke("South Clinic", ["find"], NOW)
        asking.join()
        kinds = [
            (entry["type"], entry["outcome"])
            for entry in entries(north, "find-answered", "trust-ungranted", "refused")
        ]
        last = kinds[-2:]
        if told == [study]:
            assert last == [("find-answered", "success"), ("trust-ungranted", "success")]
        else:
            assert ("find-answered", "success") not in last
        north.peers.grant("South Clinic", ["find"])


def ask_as_it_is(north: Node, find: Find) -> str:
    """The one study of an answer, decided in this thread; "" for a refusal."""
    answers = parts.find_answers_of(north)
    said = answers._decide(SOUTH.node.public, find, asked_untrusted(find), bytes(32))
    if not isinstance(said, Signed):
        return ""
    found = messages.open_signed_untrusted(said, Found, north.keys.node.public)
    return found.records[0].study


def test_too_many_at_once_are_told_to_come_again(north: Node) -> None:
    answers = parts.find_answers_of(north)
    answers._answering[SOUTH.key] = limits.FINDS_AT_ONCE
    assert ask(north, SOUTH, question(north), answers).refused == (WireCode.BUSY, 1)
    assert answers._answering[SOUTH.key] == limits.FINDS_AT_ONCE


def test_a_question_is_never_read_as_more(north: Node) -> None:
    """Fields of a later release are ignored, and the signature covers them."""
    assert {field.name for field in dataclasses.fields(Find)} == {
        "find", "source", "purpose", "person", "time", "patient_id", "issuer", "name",
        "birth_date", "sex",
    }  # fmt: skip
