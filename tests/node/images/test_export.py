import os
import tempfile
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_home import ImageHome
from studies_made import contents, make_instance, make_study

from node.errors import ExitCode, NodeError
from node.images.export import export_study, read_instance


@pytest.fixture
def home(tmp_path):
    made = ImageHome(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def study(home, tmp_path):
    uid = make_study(tmp_path / "in", 3)
    make_study(tmp_path / "in" / "large", 1, study=uid, first=4, rows=1024, frames=5)
    home.ingest(tmp_path / "in")
    return uid


def export(home, study, directory, **kwargs):
    return export_study(home.catalog, home.store, study, directory, **kwargs)


def refused(home, study, directory, match):
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(NodeError, match=match) as caught:
        export(home, study, directory)
    after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    return caught.value.code


def test_files_come_back_byte_for_byte(home, study, tmp_path):
    told = []
    assert export(home, study, tmp_path / "out", progress=told.append) == 4
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    names = sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.dcm")
    )
    assert names == [f"SERIES01/IM0000{number}.dcm" for number in (1, 2, 3, 4)]
    assert told[-1].instances == told[-1].instances_total == 4
    assert told[-1].bytes == told[-1].bytes_total == sum(map(len, contents(tmp_path / "in")))


def test_preamble_is_kept(home, tmp_path):
    study = make_study(tmp_path / "in", 1)
    path = tmp_path / "in" / "IM00001.dcm"
    path.write_bytes(b"II*\0" + bytes(range(124)) + path.read_bytes()[128:])
    home.ingest(path)
    export(home, study, tmp_path / "out")
    assert contents(tmp_path / "out") == {path.read_bytes()}


def test_export_is_run_again(home, study, tmp_path):
    out = tmp_path / "out"
    export(home, study, out)
    # As one that was broken off leaves it.
    (out / "SERIES01" / "IM00002.dcm").unlink()
    (out / "SERIES01" / "IM00002.dcm.part").write_bytes(b"half")
    assert export(home, study, out) == 4
    assert contents(out) == contents(tmp_path / "in")


def _names(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*.dcm")
    }


def test_an_export_that_was_broken_off_gives_the_same_names(home, study, tmp_path):
    export(home, study, tmp_path / "whole")
    export(home, study, tmp_path / "out")
    (tmp_path / "out" / "SERIES01" / "IM00002.dcm").unlink()
    export(home, study, tmp_path / "out")
    assert _names(tmp_path / "out") == _names(tmp_path / "whole")


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=6, unique=True
        ),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
@settings(max_examples=25)
def test_a_study_that_grows_is_exported_into_its_folder_again(portions, data):
    """Series and instances come in any order, and some files were lost between two exports."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        home = ImageHome(path / "home")
        try:
            for portion, places in enumerate(portions):
                folder = path / f"in{portion}"
                folder.mkdir()
                for series, number in places:
                    make_instance("1.2.3", number, series=f"1.2.3.{series}", rows=4).save_as(
                        folder / f"{series}-{number}", enforce_file_format=True
                    )
                home.ingest(folder)
                before = _names(path / "out")
                lost = data.draw(st.sets(st.sampled_from([*sorted(before), ""])))
                for name in lost - {""}:
                    (path / "out" / name).unlink()
                kept = {name: before[name] for name in before.keys() - lost}
                count = export(home, "1.2.3", path / "out")
                after = _names(path / "out")
                assert kept.items() <= after.items()
                files = contents(path / "out")
                assert len(after) == len(files) == count
                assert files == set.union(*(contents(path / f"in{n}") for n in range(portion + 1)))
                # A folder is one series.
                series_of = {
                    (name.partition("/")[0], pydicom.dcmread(path / "out" / name).SeriesInstanceUID)
                    for name in after
                }
                assert len(series_of) == len(dict(series_of))
        finally:
            home.close()


def test_what_a_stick_brings_is_no_obstacle(home, study, tmp_path):
    (tmp_path / "out" / "System Volume Information" / "x").mkdir(parents=True)
    assert export(home, study, tmp_path / "out") == 4


@pytest.mark.parametrize(("mode", "folder"), [(None, 0o700), (0o640, 0o750), (0o644, 0o755)])
def test_others_read_an_export_only_where_that_is_said(home, study, tmp_path, mode, folder):
    old = os.umask(0)
    try:
        more = {} if mode is None else {"mode": mode}
        export(home, study, tmp_path / "out", **more)
    finally:
        os.umask(old)
    out = tmp_path / "out"
    assert {path.stat().st_mode & 0o777 for path in (out, out / "SERIES01")} == {folder}
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*.dcm")} == {mode or 0o600}


def test_nothing_is_overwritten(home, study, tmp_path):
    out = tmp_path / "out"
    export(home, study, out)
    (out / "SERIES01" / "IM00003.dcm").write_bytes(b"of somebody else")
    assert refused(home, study, out, "other content") is ExitCode.USAGE


def test_folder_with_other_files_is_refused(home, study, tmp_path):
    for name, said in (
        ("notes.txt", "not empty"),
        ("SERIES01/IM00009.dcm", "other content"),
        ("SERIES02/x", "not empty"),
        ("SERIES01/SERIES01/IM00001.dcm", "not empty"),
    ):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("keep me")
        assert refused(home, study, folder, said) is ExitCode.USAGE
        assert contents(folder) == {b"keep me"}


def test_links_in_the_folder_are_not_followed(home, study, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "SERIES01").symlink_to(tmp_path / "elsewhere")
    refused(home, study, tmp_path / "out", "not empty")
    assert contents(tmp_path / "elsewhere") == set()


def test_damaged_store_is_told_and_leaves_no_file(home, study, tmp_path):
    digest = home.catalog.manifest(study).batches[0].digest
    path = home.store.path(digest)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert refused(home, study, tmp_path / "out", "damaged") is ExitCode.INTEGRITY
    assert contents(tmp_path / "out") == set()


def test_wrong_digest_in_the_catalog_is_told(home, study, tmp_path):
    home.database.transact(
        lambda connection: connection.execute(
            "UPDATE instances SET digest = ? WHERE number = 2", (bytes(32),)
        )
    )
    home.catalog._manifests.clear()
    assert refused(home, study, tmp_path / "out", "digest") is ExitCode.INTEGRITY
    assert not (tmp_path / "out" / "SERIES01" / "IM00002.dcm").exists()


def test_unknown_study(home, tmp_path):
    with pytest.raises(NodeError) as caught:
        export(home, "1.2.3", tmp_path / "out")
    assert caught.value.code is ExitCode.NOT_FOUND
    assert not (tmp_path / "out").exists()


def test_target_that_is_a_file(home, study, tmp_path):
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(NodeError):
        export(home, study, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"a file"


def test_one_instance(home, study, tmp_path):
    for number in (2, 4):
        content = read_instance(home.catalog, home.store, study, f"{study}.1.{number}")
        assert content in contents(tmp_path / "in")
    with pytest.raises(NodeError) as caught:
        read_instance(home.catalog, home.store, study, f"{study}.1.9")
    assert caught.value.code is ExitCode.NOT_FOUND
