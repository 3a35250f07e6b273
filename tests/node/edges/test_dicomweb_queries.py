"""Searches: what a caller is told of is in the log first, and their effort has a bound."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from logs_made import START_MS, create, entries_of
from node_home import ImageHome
from studies_made import make_study

from edges.dicomweb.paths import read_path
from edges.dicomweb.query import BadQuery, read_query
from node.dicom.headers import patient_identity
from node.edges.dicomweb_queries import Queries
from node.edges.dicomweb_settings import WebCaller
from node.edges.query_values import SeenStudy
from node.edges.told import CallersLately
from node.errors import NodeError
from node.sharing.feeds import Feeds

VIEWER = WebCaller(name="VIEWER", token_digest="")


class Told:
    """Keeps what would be written, or has no room for it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str, list[SeenStudy]]] = []
        self.is_full = False

    def tell(self, caller: str, purpose: str, door: str, studies: Sequence[SeenStudy]) -> None:
        if self.is_full:
            raise NodeError("the disk is full")
        self.told.append((caller, purpose, door, list(studies)))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ImageHome]:
    made = ImageHome(tmp_path / "home")
    yield made
    made.close()


def _queries(home: ImageHome, told: Told) -> Queries:
    # A caller without a purpose is told nothing of partners.
    feeds = cast(Feeds, None)
    return Queries(home.database, home.catalog, feeds, str, cast(CallersLately, told))


@pytest.mark.parametrize("below", ["", "/series", "/instances"])
def test_who_is_told_of_a_study_is_noted_first(home: ImageHome, tmp_path: Path, below: str) -> None:
    study = make_study(tmp_path / "in", 2)
    home.ingest(tmp_path / "in")
    told = Told()
    asked = read_path(f"/dicom-web/studies/{study}{below}" if below else "/dicom-web/studies")
    rows, _ = _queries(home, told).search(asked, read_query(""), VIEWER)
    assert rows
    [(caller, purpose, door, [seen])] = told.told
    assert (caller, purpose, door, seen.study) == ("dicomweb:VIEWER", "", "", study)
    row = home.catalog.study(study)
    assert row is not None
    assert [one for one in seen.patients if one == patient_identity(row.patient_id, "")]
    told.is_full = True
    with pytest.raises(NodeError, match="full"):
        _queries(home, told).search(asked, read_query(""), VIEWER)


def test_what_was_told_lately_is_not_noted_again(home: ImageHome, tmp_path: Path) -> None:
    make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    log = create(tmp_path / "log")
    told = CallersLately(log, lambda: START_MS // 1000)
    queries = Queries(home.database, home.catalog, cast(Feeds, None), str, told)
    asked = read_path("/dicom-web/studies")
    for name in ("VIEWER", "VIEWER", "OTHER"):
        queries.search(asked, read_query(""), WebCaller(name=name, token_digest=""))
    found = [one.details for one in entries_of(log) if one.type == "queried"]
    log.close()
    assert found == [
        {"caller": "dicomweb:VIEWER", "studies": 1},
        {"caller": "dicomweb:OTHER", "studies": 1},
    ]


def test_only_what_is_listed_is_noted(home: ImageHome, tmp_path: Path) -> None:
    for number in range(3):
        make_study(tmp_path / f"in{number}", 1)
        home.ingest(tmp_path / f"in{number}")
    told = Told()
    asked = read_path("/dicom-web/studies")
    rows, has_more = _queries(home, told).search(asked, read_query("limit=1&offset=1"), VIEWER)
    assert (len(rows), has_more) == (1, True)
    [(_, _, _, [seen])] = told.told
    assert [seen.study] == rows[0]["0020000D"]["Value"]


def test_series_are_read_of_so_many_studies(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        make_study(tmp_path / f"in{number}", 1)
        home.ingest(tmp_path / f"in{number}")
    asked = read_path("/dicom-web/series")
    queries = _queries(home, Told())
    rows, has_more = queries.search(asked, read_query(""), VIEWER)
    assert not has_more
    monkeypatch.setattr("node.edges.dicomweb_queries.MOST_READ", 2)
    less, has_more = queries.search(asked, read_query(""), VIEWER)
    assert has_more
    assert 0 < len(less) < len(rows)


def test_an_offset_has_a_bound() -> None:
    assert read_query("offset=100000").offset == 100_000
    with pytest.raises(BadQuery, match="at most"):
        read_query("offset=100001")
