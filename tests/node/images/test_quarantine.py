"""What lies aside: listed, taken by an operator in the place of what is here, dropped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from checked_home import take
from facility_in_memory import entries
from hypothesis import given, settings
from hypothesis import strategies as st
from studies_kept import STUDY, check_whole, exported
from studies_made import make_instance, make_study

from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import Home
from node.images.quarantine import Quarantine
from protocol.recalls import WRONG_WORKLIST


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North")) as node:
        yield node


def other_version(folder: Path, number: int = 1, seed: int = 9) -> bytes:
    """Another version of an instance of the study, as a file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"other{number}-{seed}.dcm"
    make_instance(STUDY, number, seed=seed).save_as(path, enforce_file_format=True)
    return path.read_bytes()


def test_a_version_takes_the_place_of_the_one_that_is_here(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 4, study=STUDY)
    take(node, tmp_path / "in")
    before = exported(node, tmp_path / "out")
    right = other_version(tmp_path / "again")
    report = take(node, tmp_path / "again")
    assert len(report.conflicts) == 1
    assert exported(node, tmp_path / "out") == before, "nothing comes by itself"
    [aside] = node.set_aside.all()
    assert "other bytes" in aside.reason
    root = node.catalog.study(STUDY).content_root
    done = node.set_aside.take(aside.name, "corrected")
    assert (done.instances, done.replaced) == (1, 1)
    wrong = (tmp_path / "in" / "IM00001.dcm").read_bytes()
    assert exported(node, tmp_path / "out") == before - {wrong} | {right}
    assert node.catalog.study(STUDY).content_root != root
    assert node.catalog.study(STUDY).state == "shared"
    check_whole(node)
    [entry] = entries(node, "quarantine-taken")
    assert entry["details"]["reason"] == "corrected"
    assert [one["kind"] for one in entry["subjects"]] == ["study", "patient", "instance"]
    # What was replaced lies aside, and can come back.
    [aside] = node.set_aside.all()
    node.set_aside.take(aside.name, "mistake")
    assert exported(node, tmp_path / "out") == before
    check_whole(node)


def test_the_only_instance_of_a_study_is_replaced(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 1, study=STUDY)
    take(node, tmp_path / "in")
    node.shared_studies.withdraw(STUDY)
    right = other_version(tmp_path / "again")
    take(node, tmp_path / "again")
    node.set_aside.take(node.set_aside.all()[0].name, "damaged")
    assert exported(node, tmp_path / "out") == {right}
    assert node.catalog.study(STUDY).state == "withheld"
    check_whole(node)


def test_what_was_discarded_by_mistake_comes_back(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 3, study=STUDY)
    take(node, tmp_path / "in")
    before = exported(node, tmp_path / "out")
    node.discards.discard(STUDY, WRONG_WORKLIST)
    take(node, tmp_path / "in")
    assert node.catalog.study(STUDY) is None
    assert len(node.set_aside.all()) == 3
    done = node.set_aside.take(STUDY, "mistake")
    assert (done.instances, done.replaced) == (3, 0)
    assert exported(node, tmp_path / "out") == before
    assert node.catalog.study(STUDY).state == "withheld", "an operator shares it"
    assert node.set_aside.all() == []
    assert not any(node.home.quarantine_path.iterdir())
    check_whole(node)
    # The study is taken again, by ingest too.
    other_version(tmp_path / "more", number=9)
    assert take(node, tmp_path / "more").instances_new == 1


def test_one_of_a_discarded_study_is_taken_and_no_other(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 3, study=STUDY)
    take(node, tmp_path / "in")
    node.discards.discard(STUDY, WRONG_WORKLIST)
    take(node, tmp_path / "in")
    node.set_aside.take(node.set_aside.all()[1].name, "mistake")
    assert node.catalog.study(STUDY).instance_count == 1
    assert take(node, tmp_path / "in").instances_new == 0
    check_whole(node)


def test_what_is_dropped_is_gone(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 2, study=STUDY)
    other_version(tmp_path / "in")
    bad = tmp_path / "in" / "bad.dcm"
    bad.write_bytes((tmp_path / "in" / "IM00001.dcm").read_bytes()[:3000])
    take(node, tmp_path / "in")
    assert len(node.set_aside.all()) == 2
    for one in node.set_aside.all():
        if one.row is None:
            assert "cut" in one.reason
            with pytest.raises(NodeError, match="cannot be taken") as caught:
                node.set_aside.take(one.name, "mistake")
            assert caught.value.code is ExitCode.USAGE
        node.set_aside.drop(one.name, "damaged")
    assert node.set_aside.all() == []
    assert not any(node.home.quarantine_path.iterdir())
    assert len(entries(node, "quarantine-dropped")) == 2
    check_whole(node)


def test_what_is_damaged_aside_is_not_taken(node: Node, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 2, study=STUDY)
    take(node, tmp_path / "in")
    other_version(tmp_path / "again")
    take(node, tmp_path / "again")
    [aside] = node.set_aside.all()
    path = node.home.quarantine_path / aside.folder / "file"
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    with pytest.raises(NodeError) as caught:
        node.set_aside.take(aside.name, "corrected")
    assert caught.value.code is ExitCode.INTEGRITY
    assert entries(node, "quarantine-taken") == []


@pytest.mark.parametrize("text", ["", "ab", "0" * 12, "1.2.3.4.5.6.7"])
def test_what_is_not_there_is_said(node: Node, text: str) -> None:
    for act, reason in ((node.set_aside.take, "mistake"), (node.set_aside.drop, "damaged")):
        with pytest.raises(NodeError) as caught:
            act(text, reason)
        assert caught.value.code is ExitCode.NOT_FOUND


@settings(max_examples=40, deadline=None)
@given(reason=st.binary(max_size=60), name=st.sampled_from(["20260101-" + "ab" * 16, "x", ".y"]))
def test_no_folder_of_the_quarantine_breaks_the_list(
    reason: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("home")
    with Node.open(Home.create(path / "north", name="North")) as node:
        Quarantine(node.home.quarantine_path, now=0)
        folder = node.home.quarantine_path / name
        folder.mkdir()
        (folder / "reason.json").write_bytes(reason)
        assert len(node.set_aside.all()) == (not name.startswith("."))
