"""Searching studies: what is found is what a reader of the whole list would choose."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catalogs_made
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.catalog.catalog import CATALOG_SCHEMA, LOCAL, Catalog, StudyRow
from node.catalog.discards import Discard
from node.catalog.names import parts, words
from node.catalog.patients import Described
from node.catalog.words import ANY, Search
from node.database import Database
from node.dicom.headers import InstanceHeader, StudyAttributes
from protocol.manifest import Manifest, SeriesEntry
from protocol.recalls import QUALITY

NAMES = ("Müller^Anna", "MUELLER^ANNEMARIE", "Muller^Bert", "Möller-Maß^Anna", "O'Brien^Pat", "")
IDS = (("P1", ""), ("P1", "NORTH"), ("P1", "SOUTH"), ("P12", "NORTH"))
BORN, SEEN = ("19700101", "19700102", ""), ("20260101", "20260131", "20251231", "")
KINDS = ("CT", "MR", "US")
SPACE = range(40)


def _made(number: int) -> tuple[StudyAttributes, str]:
    """Study `number`, of which each attribute goes round at its own pace."""
    patient_id, issuer = IDS[number % len(IDS)]
    attributes = StudyAttributes(
        study_uid=catalogs_made.study_uid(number),
        patient_id=patient_id,
        patient_name=NAMES[number % len(NAMES)],
        patient_birth_date=BORN[number // 2 % len(BORN)],
        patient_sex="F",
        accession_number=f"A{number // 3}",
        study_id="",
        study_date=SEEN[number // 5 % len(SEEN)],
        study_time="",
        study_description="",
        referring_physician="",
        institution="",
        patient_id_issuer=issuer,
    )
    return attributes, KINDS[number // 7 % len(KINDS)]


def _publish(catalog: Catalog, attributes: StudyAttributes, kind: str, number: int) -> None:
    base = catalogs_made.header(number)
    header = InstanceHeader(
        study=attributes,
        series=type(base.series)(f"{attributes.study_uid}.1", 1, kind, "", "", "", "", ""),
        sop_instance_uid=base.sop_instance_uid,
        sop_class_uid=base.sop_class_uid,
        transfer_syntax_uid=base.transfer_syntax_uid,
        number=1,
        rows=1,
        columns=1,
        frames=1,
    )
    plain = catalogs_made.manifest(number, 1)
    uid = attributes.study_uid
    made = Manifest(uid, (SeriesEntry(f"{uid}.1", kind),), plain.instances, plain.batches)
    catalog.publish(made, {0: header}, origin=LOCAL, shared=True)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    database = Database(tmp_path_factory.mktemp("words") / "node.db", (CATALOG_SCHEMA,))
    made = Catalog(database, clock=lambda: 0.0)
    for number in SPACE:
        _publish(made, *_made(number), number)
    yield made
    database.close()


def _begins(word: frozenset[str], others: tuple[frozenset[str], ...]) -> bool:
    return any(form.startswith(begin) for begin in word for other in others for form in other)


def _is_meant(number: int, search: Search) -> bool:
    """The same said of one study, without an index."""
    attributes, kind = _made(number)
    family, given_name = parts(attributes.patient_name)
    if "^" in search.name:
        wanted = parts(search.name)
        named = all(_begins(one, family) for one in wanted[0]) and all(
            _begins(one, given_name) for one in wanted[1]
        )
    else:
        named = all(_begins(one, family + given_name) for one in words(search.name))
    seen = attributes.study_date
    return (
        named
        and search.patient_id in ("", attributes.patient_id)
        and search.issuer in ("", attributes.patient_id_issuer)
        and search.birth_date in ("", attributes.patient_birth_date)
        and search.accession_number in ("", attributes.accession_number)
        and search.modality in ("", kind)
        and (not search.first_date or seen >= search.first_date)
        and (not search.last_date or (seen != "" and seen <= search.last_date))
    )


def _found(rows: list[StudyRow]) -> list[str]:
    return [row.study_uid for row in rows]


_PATIENT = st.sampled_from([("", ""), *IDS])


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    name=st.sampled_from(
        ["", "mul", "Mül", "MUE", "Müller^An", "muller^b", "ann mu", "^anna", "ma", "brien", "obr"]
    ),
    patient=_PATIENT,
    birth_date=st.sampled_from(["", *BORN]),
    accession_number=st.sampled_from(["", "A1", "A12"]),
    modality=st.sampled_from(["", "CT", "XA"]),
    first_date=st.sampled_from(["", "20260101"]),
    last_date=st.sampled_from(["", "20260130"]),
    size=st.integers(1, 45),
)
def test_a_search_finds_what_a_reader_of_the_list_would(
    catalog: Catalog, patient: tuple[str, str], size: int, **wanted: str
) -> None:
    search = Search(patient_id=patient[0], issuer=patient[1], **wanted)
    expected = {catalogs_made.study_uid(number) for number in SPACE if _is_meant(number, search)}
    whole = catalog.studies(search=search)
    assert set(_found(whole)) == expected
    assert catalog.study_count(search=search) == len(expected)
    pages: list[StudyRow] = []
    while len(pages) < len(whole):
        last = (pages[-1].study_date, pages[-1].study_uid) if pages else None
        pages += catalog.studies(search=search, limit=size, after=last)
    assert pages == whole


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("Muller", {"Müller^Anna", "Muller^Bert"}),
        ("Müller", {"Müller^Anna", "Muller^Bert", "MUELLER^ANNEMARIE"}),
        ("Mueller", {"Müller^Anna", "MUELLER^ANNEMARIE"}),
        ("mass", {"Möller-Maß^Anna"}),
        ("Moeller^A", {"Möller-Maß^Anna"}),
        ("Anna", {"Müller^Anna", "Möller-Maß^Anna"}),
        ("Ann", {"Müller^Anna", "Möller-Maß^Anna", "MUELLER^ANNEMARIE"}),
        ("O'Br", {"O'Brien^Pat"}),
        ("uller", set()),
    ],
)
def test_what_is_typed_finds_these_names(catalog: Catalog, typed: str, names: set[str]) -> None:
    found = catalog.studies(search=Search(name=typed))
    assert {row.patient_name for row in found} == names


def _words(catalog: Catalog) -> list[tuple[Any, ...]]:
    rows = catalog._database.query("SELECT * FROM study_words ORDER BY study_uid, kind, word")
    return [tuple(row) for row in rows]


def test_the_words_follow_the_study(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.db", (CATALOG_SCHEMA,))
    made = Catalog(database, clock=lambda: 0.0)
    attributes, _ = _made(1)
    _publish(made, attributes, "CT", 1)
    before = _words(made)
    assert [row.study_uid for row in made.studies(search=Search(name="annemarie"))] == [
        attributes.study_uid
    ]
    described = Described(
        [StudyAttributes(**dict.fromkeys(StudyAttributes.__slots__, "")
                         | {"study_uid": attributes.study_uid, "patient_id": "P9",
                            "accession_number": "B"})]
    )  # fmt: skip
    row = made.study(attributes.study_uid)
    assert row is not None
    assert made.read_again(attributes.study_uid, described, row.revision, False, lambda: 0)
    assert made.study_count(search=Search(patient_id="P9")) == 1
    assert set(before) < set(_words(made))
    row = made.study(attributes.study_uid)
    assert row is not None
    gone = Discard(attributes.study_uid, "", "", QUALITY)
    assert made.discard(gone, None, entry=lambda: 1, revision=row.revision)
    assert _words(made) == []
    assert made.studies(search=ANY) == []
    database.close()
