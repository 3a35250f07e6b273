"""What a request is about, what a search wants, and what became of what was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edges.dicomweb.attributes import ATTRIBUTES, Kind, attribute, row_json
from edges.dicomweb.matching import date_range, fits, has_wildcards, literal_beginning
from edges.dicomweb.paths import Level, NotFound, Resource, What, read_path
from edges.dicomweb.query import LIMIT, BadQuery, accept_of, read_query
from edges.dicomweb.stored import NOT_OF_STUDY, Stored, answer, http_status

S, E, I = Level.STUDY, Level.SERIES, Level.INSTANCE  # noqa: E741
ALL = {"study": "1.2", "series": "1.3", "instance": "1.4"}


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("studies", Resource(what=What.SEARCH, level=S)),
        ("studies/", Resource(what=What.SEARCH, level=S)),
        ("series", Resource(what=What.SEARCH, level=E)),
        ("instances", Resource(what=What.SEARCH, level=I)),
        ("studies/1.2/series", Resource(what=What.SEARCH, level=E, study="1.2")),
        ("studies/1.2/instances", Resource(what=What.SEARCH, level=I, study="1.2")),
        (
            "studies/1.2/series/1.3/instances",
            Resource(what=What.SEARCH, level=I, study="1.2", series="1.3"),
        ),
        ("studies/1.2", Resource(what=What.OBJECTS, level=S, study="1.2")),
        ("studies/1.2/metadata", Resource(what=What.METADATA, level=S, study="1.2")),
        ("studies/1.2/thumbnail", Resource(what=What.THUMBNAIL, level=S, study="1.2")),
        (
            "studies/1.2/series/1.3/instances/1.4/frames/1,3",
            Resource(what=What.FRAMES, level=I, frames=(1, 3), **ALL),
        ),
        (
            "studies/1.2/series/1.3/instances/1.4/frames/2/rendered",
            Resource(what=What.RENDERED, level=I, frames=(2,), **ALL),
        ),
        (
            "studies/1.2/series/1.3/instances/1.4/bulkdata/54000100/0/54001010",
            Resource(what=What.BULK, level=I, place=("54000100", "0", "54001010"), **ALL),
        ),
        ("studies/1%2E2", Resource(what=What.OBJECTS, level=S, study="1.2")),
    ],
)
def test_what_a_path_names(path: str, resource: Resource) -> None:
    assert read_path(f"/dicom-web/{path}") == resource


@pytest.mark.parametrize(
    "path",
    [
        "/", "/studies", "/dicom-web", "/dicom-web/", "/dicom-web/patients",
        "/dicom-web/studies/../../etc", "/dicom-web/studies/x", "/dicom-web/studies/1..2",
        "/dicom-web/series/1.2", "/dicom-web/metadata", "/dicom-web/studies/1.2/frames/1",
        "/dicom-web/studies/1/series/2/instances/3/frames/0",
        "/dicom-web/studies/1/series/2/instances/3/frames/1,x",
        "/dicom-web/studies/1/series/2/instances/3/frames/1,2/rendered",
        "/dicom-web/studies/1/series/2/instances/3/bulkdata/54000100/0",
        "/dicom-web/studies/1/series/2/instances/3/bulkdata/7fe00010x",
        "/dicom-web/studies/" + "1" * 65,
    ],
)  # fmt: skip
def test_what_names_nothing(path: str) -> None:
    with pytest.raises(NotFound):
        read_path(path)


@given(st.text(max_size=80))
def test_any_path_is_read_or_names_nothing(text: str) -> None:
    try:
        read_path(f"/dicom-web/{text}")
    except NotFound:
        pass


@pytest.mark.parametrize(
    ("kind", "wanted", "value", "fit"),
    [
        (Kind.NAME, "doe*", "DOE^John", True),
        (Kind.NAME, "*JOHN", "DOE^John^^^", True),
        (Kind.NAME, "doe", "DOE^John", False),
        (Kind.NAME, "d?e^john", "DOE^John", True),
        (Kind.NAME, "*", "", True),
        (Kind.NAME, "müller*", "MÜLLER^A", True),
        (Kind.CODE, "A?3*", "A73x", True),
        (Kind.CODE, "ct", "CT", False),
        (Kind.CODE, "CT\\MR", "MR", True),
        (Kind.CODE, "XA,CT", "CT", True),
        (Kind.CODE, "A.C", "ABC", False),
        (Kind.TEXT, "*chest*", "CT Chest plain", True),
        (Kind.DATE, "20200101-20200131", "20200115", True),
        (Kind.DATE, "20200101-20200131", "20200201", False),
        (Kind.DATE, "-20200131", "20200131", True),
        (Kind.DATE, "20200131-", "20200130", False),
        (Kind.DATE, "20200131", "20200131", True),
        (Kind.DATE, "20200101-", "", False),
        (Kind.DATE, "nonsense", "20200131", False),
        (Kind.TIME, "0930-1000", "093059.5", True),
        (Kind.TIME, "0930-1000", "100059", True),
        (Kind.TIME, "0930-1000", "100100", False),
        (Kind.TIME, "09", "0930", True),
        (Kind.NUMBER, "7", "007", True),
        (Kind.NUMBER, "x", "7", False),
        (Kind.UID, "1.2,1.3", "1.3", True),
        (Kind.UID, "1.2*", "1.23", False),
        (Kind.NONE, "anything", "", True),
    ],
)
def test_what_fits(kind: Kind, wanted: str, value: str, fit: bool) -> None:
    assert fits(kind, wanted, [value]) is fit


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    # A regular expression would not come back before the test's time is over.
    assert not fits(Kind.TEXT, "*a" * 100 + "b", ["a" * 200])


def test_what_narrows_a_search() -> None:
    assert date_range("20200101-") == ("20200101", "")
    assert date_range("x") is None
    assert literal_beginning("DOE^J?N*") == "DOE^J"
    assert has_wildcards("D?E")
    assert not has_wildcards("DOE")


def test_the_parameters_of_a_search() -> None:
    query = read_query(
        "PatientName=DOE*&00080061=CT&includefield=00081030,InstitutionName&includefield=all"
        "&limit=10&offset=3&fuzzymatching=true&Foo=1&0020000d="
    )
    assert {one.keyword: wish for one, wish in query.wishes.items()} == {
        "PatientName": "DOE*",
        "ModalitiesInStudy": "CT",
    }
    assert (query.limit, query.offset, query.fuzzy, query.is_all) == (10, 3, True, True)
    assert query.unknown == ("Foo",)
    assert query.wish("PatientName") == "DOE*"
    assert query.wish("PatientID") == ""
    assert read_query("limit=999999999").limit == LIMIT
    assert accept_of("accept=application/dicom%2Bjson") == "application/dicom+json"


@pytest.mark.parametrize(
    "text",
    [
        "limit=x",
        "offset=-1",
        "limit=9999999999",
        "PatientID=1&00100020=2",
        "&".join("a=b" for _ in range(200)),
        "PatientID=%FF",
        "PatientID=" + "x" * 20_000,
    ],
)
def test_parameters_that_cannot_be_understood(text: str) -> None:
    with pytest.raises(BadQuery):
        read_query(text)


def test_what_is_listed_of_a_row() -> None:
    query = read_query("")
    at_study = {one.keyword for one in query.columns(S, above=False)}
    # OHIF and others show nothing without these (OHIF 2774, dicom-server 1847).
    assert {"ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"} <= (
        at_study
    )
    at_series = {one.keyword for one in query.columns(E, above=False)}
    assert "PatientName" not in at_series
    assert {"StudyInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"} <= at_series
    assert "PatientName" in {one.keyword for one in query.columns(E, above=True)}
    named = read_query("includefield=PatientName").columns(E, above=False)
    assert "PatientName" in {one.keyword for one in named}
    every = {one.keyword for one in read_query("includefield=all").columns(I, above=False)}
    assert every == {one.keyword for one in ATTRIBUTES}


def test_a_row_as_json() -> None:
    columns = [one for one in ATTRIBUTES if one.keyword in ("PatientName", "StudyID", "Rows")]
    found = row_json({"PatientName": ["A^B=漢=k"], "Rows": ["7"], "StudyID": [""]}, columns)
    assert found == {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00100010": {
            "vr": "PN",
            "Value": [{"Alphabetic": "A^B", "Ideographic": "漢", "Phonetic": "k"}],
        },
        "00200010": {"vr": "SH"},
        "00280010": {"vr": "US", "Value": [7]},
    }
    assert attribute("0010001x") is None
    assert attribute("PatientName") is attribute("00100010")


GOOD = Stored("1.1", "1.5", "1.2", "1.3", 0)
WARNED = Stored("1.1", "1.6", "1.2", "1.3", 0xB007)
BAD = Stored("", "", "", "", 0xC000)
OTHER = Stored("1.1", "1.7", "1.9", "1.3", NOT_OF_STUDY)


@pytest.mark.parametrize(
    ("stored", "status"),
    [
        ([GOOD], 200),
        ([GOOD, WARNED], 202),
        ([GOOD, BAD], 202),
        ([WARNED], 202),
        ([BAD, OTHER], 409),
    ],
)
def test_the_status_of_an_answer(stored: list[Stored], status: int) -> None:
    assert http_status(stored) == status


def test_the_answer_lists_all() -> None:
    found = answer([GOOD, WARNED, BAD, OTHER], "studies/")
    taken, failed = found["00081199"]["Value"], found["00081198"]["Value"]
    assert found["00081190"]["Value"] == ["studies/1.2"]
    assert [one["00081155"].get("Value") for one in taken] == [["1.5"], ["1.6"]]
    assert taken[0]["00081190"]["Value"] == ["studies/1.2/series/1.3/instances/1.5"]
    assert "00081196" not in taken[0]
    assert taken[1]["00081196"]["Value"] == [0xB007]
    assert [one["00081197"]["Value"] for one in failed] == [[0xC000], [NOT_OF_STUDY]]
    assert failed[0]["00081155"] == {"vr": "UI"}
