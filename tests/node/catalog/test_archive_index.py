"""Studies that an archive alone has: who is told of them, and what changes that. No widening."""

from collections.abc import Iterator
from pathlib import Path

import exchange_pair
import pytest
import trio
from archives_made import archive, receive_study
from arrivals_made import bring, part10
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study, told_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed_made import DAY, NOW, STUDY, indexed, look
from studies_kept import check_whole

from node import parts
from node.app import Node
from node.catalog.archive_index import MISSED
from node.catalog.catalog import StudyRow
from node.catalog.words import Search
from node.edges.archive_queue import SENT, TAKEN
from node.edges.archive_settings import QUERY
from node.errors import NodeError
from node.fsck.check import check_home
from node.home import Home
from node.images.spool import Spool
from node.sharing.rights_then import rights_then
from protocol.messages import Record
from protocol.recalls import QUALITY


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    home = Home.create(tmp_path / "north", name="North", clock=MadeClock(NOW * 1000))
    with Node.open(home) as found:
        yield found


@pytest.fixture
def south(node: Node) -> Other:
    other = Other("South Clinic", NOW)
    other.pair(node, "see", "fetch")
    return other


def _row(node: Node, study: str = STUDY) -> StudyRow:
    found = node.catalog.study(study)
    assert found is not None
    return found


def _told(node: Node, peer: Other) -> dict[str, Record]:
    return {one.study: one for one in told_to(node, peer) if one.kind != "withdrawn"}


def _bring(node: Node, path: Path, count: int = 3, *, source: str = "dimse:PACS") -> None:
    """Images of the study come in, as an arrival from a source."""
    path.mkdir()
    contents = [part10(number, study=STUDY) for number in range(1, count + 1)]

    async def main() -> None:
        spool = Spool(node.home.arrivals_path, node.store.require_free)
        arrivals = parts.arrivals_of(node, spool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrivals.run)
            assert set(await bring(arrivals, contents, source=source)) <= {"taken", "known"}
            assert await arrivals.pack_now(STUDY, 20)
            nursery.cancel_scope.cancel()
        spool.close()

    trio.run(main)


def test_it_is_withheld_until_a_person_or_a_rule_shares_it(node: Node, south: Other) -> None:
    look(node, indexed())
    row = _row(node)
    assert (row.state, row.indexed_in, row.instance_count) == ("withheld", "PACS", 3)
    assert _told(node, south) == {}
    node.shared_studies.share(STUDY)
    [entry] = entries(node, "shared")
    assert "content_root" not in entry["details"]
    record = _told(node, south)[STUDY]
    assert record.indexed
    assert (record.content_root, record.bytes, record.series, record.instances) == (
        bytes(32), 0, 1, 3,
    )  # fmt: skip
    assert record.modalities == ("CT",)
    node.shared_studies.withdraw(STUDY)
    assert _told(node, south) == {}


def test_a_sharing_rule_for_the_archive_shares(node: Node, south: Other) -> None:
    node.sharing_rules.add(["share", "source=archive:PACS", "modality=CT"])
    look(node, indexed(), indexed(f"{STUDY}.2", modalities=("MR",)))
    assert _row(node).state == "shared"
    assert _row(node, f"{STUDY}.2").state == "withheld"
    assert set(_told(node, south)) == {STUDY}


def test_what_is_told_without_a_person_is_in_the_log(node: Node, tmp_path: Path) -> None:
    """What a rule shares, what nobody shares any more, and what retention leaves shared."""
    rule = node.sharing_rules.add(["share", "source=archive:PACS"])
    look(node, indexed(), indexed(f"{STUDY}.2"))
    states = [one["details"]["state"] for one in entries(node, "indexed")]
    assert states == ["shared", "shared"]
    look(node, indexed(patient="OTHER"), indexed(f"{STUDY}.2"))
    _bring(node, tmp_path / "in")
    node.shared_studies.share(STUDY)
    node.discards.remove(_row(node), lambda study: "")
    node.sharing_rules.remove(rule.number)
    look(node, indexed(f"{STUDY}.3"))
    for _ in range(MISSED):
        look(node)
    found = entries(node, "indexed")[2:]
    assert [one["details"]["state"] for one in found] == ["to check", "shared", "gone", "gone"]
    assert "another patient" in found[0]["details"]["to_check"]
    assert all(one["subjects"] for one in found)


def test_why_it_was_shared_is_told_from_the_log(node: Node, south: Other) -> None:
    node.sharing_rules.add(["share", "source=archive:PACS"])
    look(node, indexed())
    assert isinstance(node.clock, MadeClock)
    shared_ms = node.clock.now_ms()
    node.clock.move(60)
    look(node, indexed(patient="OTHER"))
    peer, row = node.peers.find(south.card.fingerprint), _row(node)

    def then(time_ms: int) -> str:
        return rights_then(node.audit, peer, row, time_ms, node.facts.blind).state

    assert then(shared_ms) == "shared"
    assert then(node.clock.now_ms()) == "to check"


def test_what_the_archive_does_not_tell_otherwise_is_not_written(node: Node) -> None:
    look(node, indexed(), indexed(f"{STUDY}.2"))
    before = node.database.transactions
    look(node, indexed(), indexed(f"{STUDY}.2"), is_all=False)
    assert node.database.transactions == before


def test_days_that_are_asked_for_no_more(node: Node) -> None:
    look(node, indexed())
    node.indexed.keep_from("PACS", DAY)
    assert node.catalog.study(STUDY) is not None
    node.indexed.keep_from("CLOUD", "20270101")
    assert node.catalog.study(STUDY) is not None
    node.indexed.keep_from("PACS", "20260302")
    assert node.catalog.study(STUDY) is None


def test_new_counts_are_told_and_the_same_again_is_not(node: Node, south: Other) -> None:
    look(node, indexed())
    node.shared_studies.share(STUDY)
    told_to(node, south)
    before = _row(node).revision
    look(node, indexed())
    assert _row(node).revision == before
    look(node, indexed(instances=9))
    [record] = told_to(node, south)
    assert record.instances == 9


def test_it_is_searched_by_its_patient(node: Node) -> None:
    look(node, indexed())
    assert [one.study_uid for one in node.catalog.studies(search=Search(name="Marker^"))] == [STUDY]
    assert node.catalog.studies(search=Search(patient_id="OTHER")) == []
    look(node, indexed(patient="OTHER"))
    found = node.catalog.studies(search=Search(patient_id="OTHER"))
    assert [one.patient_id for one in found] == ["OTHER"]
    assert node.catalog.studies(search=Search(patient_id="MARKER-PATIENT-ID")) == []


def test_another_patient_ends_that_it_is_shared(node: Node, south: Other) -> None:
    look(node, indexed())
    node.shared_studies.share_to(STUDY, node.peers.find(south.card.fingerprint))
    assert set(_told(node, south)) == {STUDY}
    look(node, indexed(patient="OTHER"))
    row = _row(node)
    assert row.state == "to check"
    assert "another patient" in row.to_check
    assert _told(node, south) == {}


def test_it_goes_when_the_archive_has_left_it_out_in_two_looks(node: Node, south: Other) -> None:
    look(node, indexed())
    node.shared_studies.share(STUDY)
    look(node)
    assert set(_told(node, south)) == {STUDY}
    # Seen again, it has not been missed.
    look(node, indexed())
    for _ in range(MISSED - 1):
        look(node)
    # An answer that may not be all misses nothing; neither does one about another day.
    look(node, is_all=False)
    node.indexed.take("PACS", "dimse:PACS", "20260302", "20260309", (), is_all=True)
    assert set(_told(node, south)) == {STUDY}
    look(node)
    assert node.catalog.study(STUDY) is None
    assert _told(node, south) == {}
    check_whole(node)


def test_of_two_archives_the_other_one_has_it_still(node: Node) -> None:
    look(node, indexed())
    look(node, indexed(instances=5), archive="CLOUD")
    assert (_row(node).indexed_in, _row(node).instance_count) == ("PACS", 3)
    node.indexed.keep_archives({"CLOUD"})
    assert (_row(node).indexed_in, _row(node).instance_count) == ("CLOUD", 5)
    node.indexed.keep_archives(())
    assert node.catalog.study(STUDY) is None
    assert node.indexed.counts() == {}


def test_its_images_make_it_a_study_that_is_here(node: Node, south: Other, tmp_path: Path) -> None:
    look(node, indexed())
    node.shared_studies.share(STUDY)
    told_to(node, south)
    _bring(node, tmp_path / "in")
    row = _row(node)
    assert (row.state, row.indexed_in, row.instance_count) == ("shared", "", 3)
    [record] = told_to(node, south)
    assert not record.indexed
    assert (record.content_root, record.bytes) == (row.content_root, row.original_bytes)
    # What the archive says now changes nothing of it, and leaves it there.
    look(node, indexed(patient="OTHER", instances=3))
    for _ in range(MISSED):
        look(node)
    assert _row(node) == row
    check_whole(node)


def test_images_of_another_patient_have_to_be_looked_at(node: Node, tmp_path: Path) -> None:
    look(node, indexed(patient="OTHER"))
    node.shared_studies.share(STUDY)
    _bring(node, tmp_path / "in")
    assert _row(node).state == "to check"


def test_a_rule_that_withholds_counts_for_the_images_too(node: Node, tmp_path: Path) -> None:
    look(node, indexed())
    node.shared_studies.share(STUDY)
    node.sharing_rules.add(["withhold", "source=archive:*", "modality=CT"])
    _bring(node, tmp_path / "in")
    assert _row(node).state == "to check"


def test_what_comes_another_way_is_decided_by_the_rules_for_that(
    node: Node, tmp_path: Path
) -> None:
    """A study that the archive sends on its own account before it is indexed is not the index's."""
    node.sharing_rules.add(["share", "source=dimse:PACS"])
    _bring(node, tmp_path / "in")
    look(node, indexed())
    assert _row(node).state == "shared"
    assert node.indexed.wanting(STUDY) is None
    look(node, indexed(instances=5))
    # Of it, nothing is taken out of the archive.
    assert node.indexed.wanting(STUDY) is None


def test_what_retention_removes_is_indexed_again_as_it_was(
    node: Node, south: Other, tmp_path: Path
) -> None:
    look(node, indexed())
    node.shared_studies.share(STUDY)
    _bring(node, tmp_path / "in")
    told_to(node, south)
    assert node.indexed.wanting(STUDY) is None
    node.discards.remove(_row(node), lambda study: "")
    row = _row(node)
    assert (row.state, row.indexed_in, row.instance_count) == ("shared", "PACS", 3)
    assert (row.content_root, row.original_bytes) == (bytes(32), 0)
    record = _told(node, south)[STUDY]
    assert record.indexed
    wanting = node.indexed.wanting(STUDY)
    assert wanting is not None
    assert (wanting.archive, wanting.instances, wanting.here) == ("PACS", 3, 0)
    check_whole(node)
    _bring(node, tmp_path / "again")
    assert (_row(node).state, _row(node).indexed_in) == ("shared", "")
    check_whole(node)


def test_what_an_archive_brought_is_put_down_for_proof_with_its_images(
    node: Node, tmp_path: Path
) -> None:
    """In one transaction: whatever ends the process, it does not stay here for ever."""
    node.archive_queue.archives = archive(104, rules=[], sends_as="PACS")
    look(node, indexed())
    _bring(node, tmp_path / "in")
    [row] = node.archive_queue.of_study(STUDY)
    assert (row.archive, row.state) == ("PACS", SENT)
    known = node.archive_queue.instances(STUDY, "PACS")
    assert {one.state for one in known.values()} == {TAKEN}
    assert known.keys() == node.catalog.held_instances(STUDY).keys()


def test_what_was_only_brought_is_the_first_to_go(node: Node, tmp_path: Path) -> None:
    made_here, brought = exchange_pair.STUDY, STUDY
    publish_study(node)
    assert node.stored.note(made_here, QUERY, 12)
    assert isinstance(node.clock, MadeClock)
    node.clock.move(3600)
    look(node, indexed())
    _bring(node, tmp_path / "in")
    assert node.stored.note(brought, QUERY, 3)
    assert [one.study for one in node.stored.present()] == [brought, made_here]


def test_a_study_made_here_that_retention_removes_is_indexed(node: Node, tmp_path: Path) -> None:
    _bring(node, tmp_path / "in", source="dimse:CT1")
    node.shared_studies.share(STUDY)
    look(node, indexed())
    node.discards.remove(_row(node), lambda study: "")
    assert (_row(node).state, _row(node).indexed_in) == ("shared", "PACS")


def test_what_a_person_discards_does_not_come_back_out_of_the_index(
    node: Node, south: Other, tmp_path: Path
) -> None:
    look(node, indexed())
    node.shared_studies.share(STUDY)
    _bring(node, tmp_path / "in")
    node.discards.discard(STUDY, QUALITY)
    for _ in range(2):
        look(node, indexed())
        assert node.catalog.study(STUDY) is None
    assert _told(node, south) == {}


def test_a_study_of_another_facility_is_never_ours_to_tell_of(
    node: Node, south: Other, tmp_path: Path
) -> None:
    """We had it from there, our archive has it, it is removed here: no peer hears of it."""
    study = receive_study(node, south.key, sources=(f"peer:{south.card.fingerprint}",))
    node.sharing_rules.add(["share", "source=archive:PACS"])
    look(node, indexed(study))
    node.discards.remove(_row(node, study), lambda one: "")
    assert node.catalog.study(study) is None
    look(node, indexed(study))
    assert node.catalog.study(study) is None
    node.indexed.forget([study])
    look(node, indexed(study))
    # That it was here is forgotten with an erasure: then it is like any other.
    assert _row(node, study).indexed_in == "PACS"


def test_what_a_peer_brings_of_an_indexed_study_is_not_shared(node: Node, south: Other) -> None:
    look(node, indexed(exchange_pair.STUDY))
    node.shared_studies.share(exchange_pair.STUDY)
    receive_study(node, south.key, sources=(f"peer:{south.card.fingerprint}",))
    row = _row(node, exchange_pair.STUDY)
    assert (row.indexed_in, row.state, row.origin) == ("", "withheld", south.key.hex())


def test_what_is_only_in_an_archive_cannot_be_exported_or_held(node: Node) -> None:
    look(node, indexed())
    for act in (
        lambda: node.catalog.manifest(STUDY),
        lambda: node.holds.place(STUDY, "court"),
    ):
        with pytest.raises(NodeError, match="in the archive PACS") as raised:
            act()
        assert f"radmesh archive retrieve {STUDY}" in raised.value.hint
    assert node.catalog.totals().studies == 0


ACTIONS = (
    "seen", "seen with more", "seen of another patient", "missed", "shared", "withdrawn",
    "comes", "kept for long enough", "discarded",
)  # fmt: skip


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(ACTIONS), max_size=9))
def test_nothing_but_a_person_widens_and_all_tables_agree(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str]
) -> None:
    """Whatever an archive says, and whatever comes and goes: no rule shares, so a person has to."""
    path = tmp_path_factory.mktemp("any")
    home = Home.create(path / "north", name="North", clock=MadeClock(NOW * 1000))
    with Node.open(home) as node:
        south = Other("South Clinic", NOW)
        south.pair(node, "see", "fetch")
        shared = barred = False
        for number, action in enumerate(actions):
            before = node.catalog.study(STUDY)
            patients = node.catalog.patients(STUDY)
            if action.startswith("seen"):
                patient = "OTHER" if action.endswith("patient") else "MARKER-PATIENT-ID"
                look(node, indexed(patient=patient, instances=9 if "more" in action else 3))
            elif action == "missed":
                look(node)
            elif action == "comes" and not barred:
                _bring(node, path / str(number))
            elif before is not None and action == "shared":
                node.shared_studies.share(STUDY)
                shared = True
            elif before is not None and action == "withdrawn":
                node.shared_studies.withdraw(STUDY)
                shared = False
            elif before is not None and not before.indexed_in and action.startswith("kept"):
                node.discards.remove(before, lambda study: "")
            elif before is not None and action == "discarded":
                node.discards.discard(STUDY, QUALITY)
                barred = True
            after = node.catalog.study(STUDY)
            # Whoever shared it meant these patients, and a study that was there.
            shared = (
                shared and after is not None and set(node.catalog.patients(STUDY)) <= {*patients}
            )
            told = _told(node, south)
            assert set(told) == ({STUDY} if shared else set()), action
            if after is not None and shared:
                assert bool(told[STUDY].indexed) == bool(after.indexed_in)
                assert told[STUDY].instances == after.instance_count
                assert told[STUDY].content_root == after.content_root
            assert not (barred and after is not None and after.indexed_in)
            wanting = node.indexed.wanting(STUDY)
            assert wanting is None or wanting.instances > wanting.here
        check_whole(node)
    assert not check_home(home.path, now=NOW).findings
