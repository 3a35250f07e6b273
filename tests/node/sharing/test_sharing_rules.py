"""What new studies become by rule: by each way in, as they grow, and after a restart."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import trio
from arrivals_made import pieces
from facility_in_memory import Other, available, entries, told_to
from studies_made import make_instance
from two_in_memory import TwoNodes, two_nodes

from node import parts
from node.alerts import alerts_of
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError
from node.home import Home
from node.images.spool import Spool
from node.operations import OPERATIONS, Call
from protocol.recalls import QUALITY, RETENTION

STUDY = "1.2.826.0.1.3680043.8.498.31"
SOUTH = Other("South Clinic", SYSTEM_CLOCK.now())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North")


@pytest.fixture
def north(home: Home) -> Iterator[Node]:
    with Node.open(home) as node:
        yield node


def image(number: int, *, study: str = STUDY, series: int = 1, **more: Any) -> bytes:
    """One image as a file; further arguments are its attributes."""
    buffer = BytesIO()
    made = make_instance(study, number, rows=4, series=f"{study}.{series}")
    for name, value in more.items():
        setattr(made, name, value)
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def call(node: Node, operation: str, **parameters: Any) -> dict[str, Any]:
    result = trio.run(OPERATIONS[operation].answer, Call(node), parameters)
    assert isinstance(result, dict)
    return result


def ingest(node: Node, *images: bytes) -> None:
    folder = node.home.path.parent / f"in-{node.audit.size}"
    folder.mkdir()
    for number, content in enumerate(images):
        (folder / f"{number}.dcm").write_bytes(content)
    call(node, "ingest", paths=[str(folder)])


def arrive(node: Node, source: str, *images: bytes) -> None:
    """Have images come one by one through an edge, and pack them."""
    spool = Spool(node.home.arrivals_path, lambda size: None)
    arrivals = parts.arrivals_of(node, spool)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrivals.run)
            async with arrivals.association(source) as association:
                for content in images:
                    async with aclosing(pieces(content)) as chunks:
                        await association.take(chunks, stat=True)
            with trio.fail_after(20):
                while arrivals.describe()["instances"]:
                    await arrivals.next_packing()
            nursery.cancel_scope.cancel()

    trio.run(main)
    spool.close()


def state(node: Node, study: str = STUDY) -> tuple[str, str]:
    row = node.catalog.study(study)
    assert row is not None
    return row.state, row.to_check


def details(node: Node, kind: str = "ingest") -> dict[str, Any]:
    found: dict[str, Any] = entries(node, kind)[-1]["details"]
    return found


def add(node: Node, *rules: str) -> None:
    for rule in rules:
        node.sharing_rules.add(rule.split())


# --- the ways in -----------------------------------------------------------------------


def test_without_a_rule_what_comes_by_hand_is_shared_and_nothing_else(north: Node) -> None:
    studies = [f"{STUDY}.{number}" for number in range(4)]
    ingest(north, image(1, study=studies[0]))
    arrive(north, "command", image(1, study=studies[1]))
    arrive(north, "command:night shift", image(1, study=studies[2]))
    arrive(north, "dimse:CT1", image(1, study=studies[3]))
    assert [state(north, study) for study in studies] == [("shared", "")] * 3 + [("withheld", "")]
    assert [entry["details"]["sharing"] for entry in entries(north, "ingest")] == ["default"] * 4
    assert not any("sharing_rules" in one["details"] for one in entries(north, "ingest"))
    SOUTH.pair(north, "see")
    assert available(told_to(north, SOUTH)) == set(studies[:3])


def test_a_rule_shares_what_comes_from_a_modality_and_its_entry_names_it(north: Node) -> None:
    add(north, "check modality=SR", "share source=dimse:CT* modality=CT")
    SOUTH.pair(north, "see")
    arrive(north, "dimse:CT1", image(1), image(2))
    assert state(north) == ("shared", "")
    assert details(north)["sharing"] == "sharing rule 2"
    digest = details(north, "sharing-rule-added")["sharing_rules"]
    assert details(north)["sharing_rules"] == digest
    arrive(north, "dimse:MR1", image(1, study=f"{STUDY}.2"))
    assert state(north, f"{STUDY}.2") == ("withheld", "")
    assert details(north)["sharing"] == "default"
    assert available(told_to(north, SOUTH)) == {STUDY}


def test_what_is_to_be_checked_waits_and_is_told_to_nobody(north: Node) -> None:
    add(north, "check modality=SR")
    SOUTH.pair(north, "see")
    ingest(north, image(1), image(1, series=2, Modality="SR"))
    why = "sharing rule 1 has a person look at it"
    assert state(north) == ("to check", why)
    assert details(north)["to_check"] == why
    assert any("1 study to check" in alert for alert in alerts_of(north, None))
    assert not available(told_to(north, SOUTH))
    call(north, "share", study=STUDY)
    assert state(north) == ("shared", "")
    assert available(told_to(north, SOUTH)) == {STUDY}


def test_whoever_brings_a_study_hears_that_it_is_withheld(north: Node, tmp_path: Path) -> None:
    add(north, "withhold modality=CT")
    (tmp_path / "1.dcm").write_bytes(image(1))
    notes = call(north, "ingest", paths=[str(tmp_path / "1.dcm")])["notes"]
    assert notes == [f"study {STUDY}: sharing rule 1 withholds it, so it is not shared"]
    (tmp_path / "1.dcm").write_bytes(image(2))
    assert call(north, "ingest", paths=[str(tmp_path / "1.dcm")])["notes"] == []


def test_all_images_are_asked_not_only_the_first(north: Node) -> None:
    add(north, "share source=dimse:* institution=North", "withhold institution=Ward")
    arrive(
        north,
        "dimse:CT1",
        image(1, InstitutionName="North"),
        image(2, InstitutionName="Ward"),
    )
    assert state(north) == ("withheld", "")
    assert details(north)["sharing"] == "sharing rule 2"
    # Not for want of a rule that withholds: one that shares has to hold for each.
    call(north, "sharing.remove", number=2)
    other = f"{STUDY}.2"
    arrive(
        north,
        "dimse:CT1",
        image(1, study=other, InstitutionName="North"),
        image(2, study=other, InstitutionName="East"),
    )
    assert (state(north, other), details(north)["sharing"]) == (("withheld", ""), "default")
    third = f"{STUDY}.3"
    arrive(
        north, "dimse:CT1", image(1, study=third, InstitutionName="North"), image(2, study=third)
    )
    assert state(north, third) == ("shared", ""), "an image that names none differs from none"


def test_two_patients_wait_although_a_rule_shares(north: Node) -> None:
    add(north, "share")
    arrive(north, "dimse:CT1", image(1, PatientID="P"), image(2, PatientID="Q"))
    assert state(north) == ("to check", "its images name 2 Patient IDs")


@pytest.mark.parametrize(
    ("rule", "expected", "name"),
    [
        ("", ("withheld", ""), "default"),
        ("share source=peer:North", ("shared", ""), "sharing rule 1"),
        ("share source=peer:*", ("shared", ""), "sharing rule 1"),
        ("share source=peer:North modality=MR", ("withheld", ""), "default"),
        ("check source=peer:North", ("withheld", "sharing rule 1 has a person look at it"),
         "sharing rule 1"),
    ],
)  # fmt: skip
def test_what_is_fetched_is_withheld_unless_a_rule_says_otherwise(
    tmp_path: Path, rule: str, expected: tuple[str, str], name: str
) -> None:
    with two_nodes(tmp_path) as nodes:
        add(nodes.south, *filter(None, [rule]))
        ingest(nodes.north, image(1))
        assert nodes.fetch(STUDY)
        assert state(nodes.south) == expected
        assert details(nodes.south, "received")["sharing"] == name
        assert details(nodes.south, "received").get("to_check", "") == expected[1]


def test_a_rule_that_names_a_facility_keeps_its_key_and_not_its_name(tmp_path: Path) -> None:
    with two_nodes(tmp_path) as nodes:
        south = nodes.south
        add(south, "share source=peer:North")
        south.peers.rename("North", "Nord")
        assert call(south, "sharing.list")["rules"][0]["rule"] == "share source=peer:Nord"
        ingest(nodes.north, image(1))
        assert nodes.fetch(STUDY)
        assert state(south) == ("shared", "")
        with pytest.raises(NodeError) as caught:
            add(south, "share source=peer:Nobody")
        assert caught.value.code is ExitCode.NOT_FOUND


# --- growing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "source", "more", "why"),
    [
        ((), "command", {}, ""),
        ((), "dimse:CT2", {},
         "images came from dimse:CT2, and no rule shares what comes from there"),
        (("share source=dimse:CT2",), "dimse:CT2", {}, ""),
        (("share source=dimse:*", "withhold modality=SR"), "dimse:CT2", {"Modality": "SR"},
         "sharing rule 2 withholds it"),
        (("withhold institution=Ward",), "command", {"InstitutionName": "Ward"},
         "sharing rule 1 withholds it"),
        (("check modality=SR",), "command", {"Modality": "SR"},
         "sharing rule 1 has a person look at it"),
    ],
)  # fmt: skip
def test_a_shared_study_that_grows_stays_shared_only_by_the_rules(
    north: Node, rules: Sequence[str], source: str, more: dict[str, str], why: str
) -> None:
    institution = {"InstitutionName": "North"} if "withhold institution=Ward" in rules else {}
    ingest(north, image(1, **institution))
    SOUTH.pair(north, "see")
    assert available(told_to(north, SOUTH)) == {STUDY}
    add(north, *rules)
    arrive(north, source, image(2, series=2, **(institution | more)))
    assert state(north) == ("to check", why) if why else ("shared", "")
    assert details(north).get("to_check", "") == why
    assert available(told_to(north, SOUTH)) == (set() if why else {STUDY})
    if why:
        # A person settles it, as with patients.
        call(north, "share", study=STUDY)
        assert state(north) == ("shared", "")


def test_nothing_becomes_shared_by_growing(north: Node) -> None:
    arrive(north, "dimse:CT1", image(1))
    add(north, "share")
    arrive(north, "dimse:CT1", image(2))
    assert (state(north), details(north)["sharing"]) == (("withheld", ""), "sharing rule 1")
    ingest(north, image(3))
    assert state(north) == ("withheld", "")


def test_what_was_shared_onward_and_grows_by_a_fetch_stays_unless_a_rule_withholds(
    tmp_path: Path,
) -> None:
    with two_nodes(tmp_path) as nodes:
        north, south = nodes.north, nodes.south
        ingest(north, image(1))
        assert nodes.fetch(STUDY)
        south.shared_studies.share(STUDY)
        ingest(north, image(2))
        assert nodes.fetch(STUDY)
        assert state(south) == ("shared", "")
        add(south, "withhold modality=SR")
        ingest(north, image(3, series=3, Modality="SR"))
        assert nodes.fetch(STUDY)
        assert state(south) == ("withheld", "sharing rule 1 withholds it")
        assert details(south, "received")["to_check"] == "sharing rule 1 withholds it"


def test_what_is_taken_out_of_the_quarantine_is_asked_for_too(north: Node) -> None:
    ingest(north, image(1))
    ingest(north, image(1, Modality="SR"))
    [aside] = north.set_aside.all()
    add(north, "withhold modality=SR")
    north.set_aside.take(aside.name, "corrected")
    assert state(north) == ("to check", "sharing rule 1 withholds it")


def test_a_new_study_out_of_the_quarantine_is_withheld_whatever_shares(north: Node) -> None:
    ingest(north, image(1))
    north.discards.discard(STUDY, QUALITY)
    ingest(north, image(1))
    [aside] = north.set_aside.all()
    add(north, "share")
    north.set_aside.take(aside.name, "it was right")
    assert state(north) == ("withheld", "")


# --- the rules themselves --------------------------------------------------------------


def test_rules_and_what_they_decided_stand_after_a_restart(home: Home) -> None:
    with Node.open(home) as node:
        add(node, "share source=dimse:CT*", "check modality=SR", "withhold modality=US")
        node.sharing_rules.remove(2)
        arrive(node, "dimse:CT1", image(1))
        told = [str(rule) for rule in node.sharing_rules.all()]
    with Node.open(home) as node:
        assert [str(rule) for rule in node.sharing_rules.all()] == told
        assert [rule.number for rule in node.sharing_rules.all()] == [1, 3]
        assert state(node) == ("shared", "")
        arrive(node, "dimse:CT1", image(1, study=f"{STUDY}.2"))
        assert state(node, f"{STUDY}.2") == ("shared", "")
        add(node, "share source=http:*")
        assert [rule.number for rule in node.sharing_rules.all()] == [1, 3, 4], "none given twice"


def test_each_change_of_rules_is_an_entry_that_holds_the_rule(north: Node) -> None:
    added = call(north, "sharing.add", rule=["withhold", "accession=SECRET-1"])
    removed = call(north, "sharing.remove", number=1)
    assert added == removed == {
        "number": 1, "effect": "withhold", "rule": "withhold 'accession=1 listed'",
    }  # fmt: skip
    kinds = [entry["type"] for entry in entries(north)][-2:]
    assert kinds == ["sharing-rule-added", "sharing-rule-removed"]
    first, last = details(north, "sharing-rule-added"), details(north, "sharing-rule-removed")
    assert first["rule"] == last["rule"]
    assert (len(first["sharing_rules"]), last["sharing_rules"]) == (64, "")
    assert "SECRET-1" not in str(entries(north))
    with pytest.raises(NodeError) as caught:
        call(north, "sharing.remove", number=1)
    assert caught.value.code is ExitCode.NOT_FOUND
    with pytest.raises(NodeError) as caught:
        call(north, "sharing.add", rule=["share", "purpose=TREAT"])
    assert caught.value.code is ExitCode.USAGE


def test_rules_that_cannot_be_read_let_nothing_in(north: Node) -> None:
    add(north, "share")
    north.database.transact(
        lambda connection: connection.execute("UPDATE sharing_rules SET rules = '[{}]'")
    )
    with pytest.raises(NodeError, match="sharing rules") as caught:
        ingest(north, image(1))
    assert caught.value.code is ExitCode.INTEGRITY
    assert north.catalog.study(STUDY) is None


def test_a_rule_is_tried_before_it_is_saved(north: Node) -> None:
    arrive(north, "dimse:CT1", image(1))
    arrive(north, "dimse:CT1", image(1, study=f"{STUDY}.2", Modality="MR"))
    ingest(north, image(1, study=f"{STUDY}.3", Modality=""))
    size = north.audit.size
    found = call(north, "sharing.try", rule=["share", "source=dimse:*", "modality=CT"])
    assert found["studies"] == 3
    assert (found["concerned"], found["only_missing"]) == (1, 0)
    assert found["before"] == {"share": 1, "check": 0, "withhold": 2}
    assert found["after"] == {"share": 2, "check": 0, "withhold": 1}
    found = call(north, "sharing.try", rule=["withhold", "modality=CT"])
    assert (found["concerned"], found["only_missing"]) == (2, 1)
    assert found["after"] == {"share": 0, "check": 0, "withhold": 3}
    assert north.audit.size == size
    assert not north.sharing_rules.all()


# --- all that match --------------------------------------------------------------------


@pytest.fixture
def filled(north: Node) -> Node:
    arrive(north, "dimse:CT1", image(1, study=f"{STUDY}.1", StudyDate="20260101"))
    arrive(north, "dimse:CT2", image(1, study=f"{STUDY}.2", StudyDate="20260201", Modality="MR"))
    arrive(north, "http:x", image(1, study=f"{STUDY}.3", StudyDate="", AccessionNumber="A1"))
    ingest(
        north,
        image(1, study=f"{STUDY}.4", PatientID="P"),
        image(2, study=f"{STUDY}.4", PatientID="Q"),
    )
    return north


def shared(node: Node) -> set[str]:
    return {row.study_uid.removeprefix(f"{STUDY}.") for row in node.catalog.studies("shared")}


@pytest.mark.parametrize(
    ("search", "expected", "waiting"),
    [
        ({"source": "dimse:CT1"}, {"1"}, 0),
        ({"source": "dimse:*"}, {"1", "2"}, 0),
        ({"source": "dimse:CT"}, set(), 0),
        ({"source": "command"}, set(), 1),
        ({"modality": "mr"}, {"2"}, 0),
        ({"modality": "CT"}, {"1", "3"}, 1),
        ({"study_date": "2026-01-01"}, {"1"}, 0),
        ({"study_date": "2026-01-01..2026-02-01"}, {"1", "2"}, 0),
        ({"study_date": "20260115.."}, {"2"}, 1),
        ({"study_date": "..2026-01-31"}, {"1"}, 0),
        ({"accession_number": "A1"}, {"3"}, 0),
        ({"modality": "CT", "source": "dimse:*"}, {"1"}, 0),
    ],
)
def test_all_that_match_are_shared_and_withdrawn(
    filled: Node, search: dict[str, str], expected: set[str], waiting: int
) -> None:
    dry = call(filled, "sharing.change", shared=True, dry=True, **search)
    assert (dry["chosen"], dry["waiting"]) == (len(expected), waiting)
    assert {one.removeprefix(f"{STUDY}.") for one in dry["studies"]} == expected
    assert shared(filled) == set()
    done = call(filled, "sharing.change", shared=True, confirmed=dry["digest"], **search)
    assert (done["done"], done["refused"]) == (len(expected), [])
    assert shared(filled) == expected
    assert len(entries(filled, "shared")) == len(expected)
    call(filled, "sharing.change", shared=False, **search)
    assert shared(filled) == set()
    # What waits was looked at by nobody, and is settled by withdrawing it all the same.
    assert len(entries(filled, "withdrawn")) == len(expected) + waiting


def test_only_what_is_not_so_yet_is_counted(filled: Node) -> None:
    call(filled, "share", study=f"{STUDY}.1")
    dry = call(filled, "sharing.change", shared=True, dry=True, source="dimse:*")
    assert (dry["matching"], dry["studies"]) == (2, [f"{STUDY}.2"])
    dry = call(filled, "sharing.change", shared=False, dry=True, source="dimse:*")
    assert (dry["matching"], dry["studies"]) == (2, [f"{STUDY}.1"])


def test_on_a_full_disk_all_that_match_are_held_back(
    filled: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(filled, "sharing.change", shared=True, source="dimse:*")

    def full(event: object) -> int:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    with monkeypatch.context() as disk:
        disk.setattr(filled.audit, "append", full)
        with pytest.raises(NodeError, match="held back"):
            call(filled, "sharing.change", shared=False, source="dimse:*")
        assert shared(filled) == set()
    filled.shared_studies.write_unwritten()
    assert shared(filled) == set()
    assert len(entries(filled, "withdrawn")) == 2


def test_nothing_is_done_when_other_studies_match_than_were_confirmed(filled: Node) -> None:
    dry = call(filled, "sharing.change", shared=True, dry=True, source="dimse:*")
    arrive(filled, "dimse:CT1", image(1, study=f"{STUDY}.5"))
    with pytest.raises(NodeError, match="other studies match now"):
        call(filled, "sharing.change", shared=True, source="dimse:*", confirmed=dry["digest"])
    assert shared(filled) == set()


@pytest.mark.parametrize(
    "search",
    [{}, {"study_date": "2026-02-30"}, {"study_date": "2026-02-02..2026-01-01"},
     {"study_date": ".."}],
)  # fmt: skip
def test_a_search_that_says_nothing_or_no_day_is_refused(
    filled: Node, search: dict[str, str]
) -> None:
    with pytest.raises(NodeError) as caught:
        call(filled, "sharing.change", shared=True, **search)
    assert caught.value.code is ExitCode.USAGE
    assert shared(filled) == set()


def test_who_brought_a_study_is_forgotten_with_it(filled: Node) -> None:
    filled.discards.discard(f"{STUDY}.1", RETENTION)
    rows = filled.database.query("SELECT study_uid FROM study_sources ORDER BY study_uid")
    assert [row[0] for row in rows] == [f"{STUDY}.2", f"{STUDY}.3", f"{STUDY}.4"]


def test_what_all_match_holds_for_one_facility_alone(nodes: TwoNodes) -> None:
    arrive(nodes.north, "dimse:CT1", image(1))
    call(nodes.north, "sharing.change", shared=True, source="dimse:*", peer="South")
    assert state(nodes.north) == ("withheld", "")
    assert nodes.fetch(STUDY)
    call(nodes.north, "sharing.change", shared=False, source="dimse:*", peer="South")
    assert [one["type"] for one in entries(nodes.north, "shared-to", "withdrawn-from")] == [
        "shared-to",
        "withdrawn-from",
    ]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    (tmp_path / "two").mkdir()
    with two_nodes(tmp_path / "two") as made:
        yield made
