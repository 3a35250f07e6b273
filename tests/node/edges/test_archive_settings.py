"""The tables `archives`: what can be written there, and which studies go where."""

from pathlib import Path
from typing import Any

import pytest

from node.edges.archive_settings import ArchiveSettings, read_archives
from node.edges.door_settings import BadEdge

DIMSE = {"ae_title": "PACS", "host": "10.1.2.5", "port": 104}
STOW = {"stow": "https://pacs.example/dicom-web"}


def read(**entries: Any) -> ArchiveSettings:
    return read_archives({"PACS": entries}, Path("/home/north"))["PACS"]


def test_what_is_not_written_is_as_the_table_says() -> None:
    found = read(**DIMSE)
    assert (found.calling, found.sends_as, found.proof, found.rules) == (
        "RADMESH", "PACS", "query", (),
    )  # fmt: skip
    assert found.is_plain
    assert not read(**DIMSE, ca="pacs-ca.pem").is_plain
    assert read(**DIMSE, ca="pacs-ca.pem").ca == "/home/north/pacs-ca.pem"
    assert read(**DIMSE, sends_as="OTHER").source == "dimse:OTHER"
    assert read(**STOW).source == ""
    assert not read(**STOW).is_plain


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ({}, "neither `stow` nor all of"),
        ({"ae_title": "PACS", "host": "x"}, "neither `stow` nor all of"),
        ({**DIMSE, "port": 0}, "a port or a host"),
        ({**DIMSE, "port": True}, "a port or a host"),
        ({**DIMSE, "host": "a\nb"}, "a port or a host"),
        ({**DIMSE, "ae_title": "A" * 17}, "no AE title"),
        ({**DIMSE, "calling": 'A"B'}, "no AE title"),
        ({**DIMSE, "sends_as": ""}, "no text"),
        ({**DIMSE, "token": "t"}, "a `token` without `stow`"),
        ({**DIMSE, "proof": "hope"}, "one of commitment, query, none"),
        ({**DIMSE, "key": "k"}, "`certificate` and `key`"),
        ({**DIMSE, "from": "19:00"}, "both from and to"),
        ({**DIMSE, "from": "25:00", "to": "07:00"}, "no time of day"),
        ({**DIMSE, "rules": {}}, "rules that are no list"),
        ({**DIMSE, "rules": ["all"]}, "a rule that is no table"),
        ({**DIMSE, "rules": [{"modality": "CT"}]}, "no list of texts"),
        ({**DIMSE, "rules": [{"stat": 1}]}, "not true or false"),
        ({**DIMSE, "rules": [{"study": ["1"]}]}, "in a rule study"),
        ({**DIMSE, "speed": 1}, "speed"),
        ({**DIMSE, "index_days": -1}, "index_days no number"),
        ({**DIMSE, "index_days": True}, "index_days no number"),
        ({**DIMSE, "index_days": 36_601}, "index_days no number"),
        ({**DIMSE, "moves_to": "A" * 17}, "no AE title"),
        ({**STOW, "moves_to": "RADMESH"}, "beside it what is for C-STORE"),
        ({**DIMSE, **STOW}, "beside it what is for C-STORE"),
        ({**STOW, "proof": "commitment"}, "C-STORE alone"),
        ({"stow": "http://pacs.example/dicom-web"}, "not https"),
        ({"stow": "https://user:word@pacs.example/"}, "no address such as"),
        ({"stow": "https:///x"}, "no address such as"),
        ({"stow": "https://pacs.example:99999/x"}, "no address such as"),
        ({"stow": "https://pacs.example/x?a=b"}, "no address such as"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(entries: dict[str, Any], error: str) -> None:
    with pytest.raises(BadEdge, match='have for "PACS"') as found:
        read(**entries)
    assert error in str(found.value)


def test_what_an_archive_brings_is_from_there() -> None:
    pacs, cloud = read(**DIMSE), read(**STOW)
    assert (pacs.index_days, pacs.moves_to) == (0, "RADMESH")
    assert (pacs.brings, cloud.brings) == ("dimse:PACS", "archive:PACS")
    for sources, is_from_there in (
        (["dimse:PACS"], True),
        (["archive:PACS"], True),
        (["archive:PACS", "dimse:PACS"], True),
        (["archive:PACS", "dimse:CT1"], False),
        (["archive:CLOUD"], False),
        ([], False),
    ):
        assert pacs.is_from_there(sources) is is_from_there
    assert not cloud.is_from_there(["dimse:PACS"])


def test_http_is_for_this_machine_alone() -> None:
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert read(stow=f"http://{host}:8042/dicom-web").is_plain


@pytest.mark.parametrize("tables", [[], {"PACS": 1}, {"a b": DIMSE}])
def test_other_forms_of_tables_are_refused(tables: Any) -> None:
    with pytest.raises(BadEdge):
        read_archives(tables, Path("/"))


@pytest.mark.parametrize(
    ("rules", "is_wanted"),
    [
        ([], False),
        ([{}], True),
        ([{"modality": ["CT"]}], True),
        ([{"modality": ["MR", "US"]}], False),
        ([{"modality": ["MR"]}, {"modality": ["SR"]}], True),
        ([{"source": ["peer:*"]}], True),
        ([{"source": ["peer:South Clinic"], "modality": ["CT"]}], True),
        ([{"source": ["peer:South"]}], False),
        ([{"source": ["dimse:CT*"]}], False),
        ([{"stat": True}], False),
        ([{"stat": True, "modality": ["CT"]}], False),
    ],
)
def test_a_study_goes_where_one_rule_holds_as_a_whole(rules: list[Any], is_wanted: bool) -> None:
    one = read(**DIMSE, rules=rules)
    assert one.wants(["CT", "SR"], ["peer:South Clinic", "dimse:PACS"], False) is is_wanted
    # Nothing goes back to where all of it is from.
    assert not one.wants(["CT", "SR"], ["dimse:PACS"], True)


def test_what_is_urgent_has_rules_of_its_own() -> None:
    one = read(**DIMSE, rules=[{"stat": True, "modality": ["CT"]}])
    assert one.wants(["CT"], ["command"], True)
    assert not one.wants(["MR"], ["command"], True)


def test_a_window_may_go_over_midnight() -> None:
    one = read(**DIMSE, **{"from": "19:00", "to": "07:00"})
    assert [one.takes_at(hour * 60) for hour in (0, 6, 7, 18, 19, 23)] == [
        True, True, False, False, True, True,
    ]  # fmt: skip
    assert read(**DIMSE).takes_at(720)
