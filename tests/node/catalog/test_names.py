"""Which names are the same, and how they are compared."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.catalog.names import folded, is_whole, parts, same, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller^Anna", "MULLER^ANNA"),
        ("Müller^Anna", "Mueller^Anna"),
        ("Muller^Jörg", "Müller^Joerg"),
        ("Müller^Anna", unicodedata.normalize("NFD", "MÜLLER^ANNA")),
        ("Strauß^Anna", "STRAUSS^Anna"),
        ("Müller-Lüdenscheidt^Anna", "Muller Luedenscheidt^Anna"),
        ("O'Brien^Pat", "OBrien^Pat"),
        ("O’Brien^Pat", "o'brien^pat"),
        ("D´Angelo^Pat", "Dangelo^Pat"),
        ("Sørensen^Åse", "Soerensen^Aase"),
        ("Sørensen^Åse", "Sorensen^Ase"),
        ("Łukasz^Đuro", "LUKASZ^DURO"),
        ("Bjørn^Ǽgir", "Bjorn^Aegir"),
        ("İnce^Işıl", "ince^isil"),
        ("Müller^Anna^Maria", "Müller^Anna Maria"),
        ("Müller^Anna^^Dr.^jun.", "Müller^Anna"),
        ("Müller, Anna", "Müller^Anna"),
        ("Wang^XiaoDong=王^小東=", "wang^xiaodong"),
        ("Иванов^Иван", "ИВАНОВ^ИВАН"),
        ("van der Berg^Jan", "VAN  DER BERG^JAN"),
    ],
)
def test_names_that_are_the_same(one: str, other: str) -> None:
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller^Anna", "Müller^Anne"),
        ("Müller^Anna", "Müller^Anna^Maria"),
        ("Müller^Anna", "Möller^Anna"),
        ("Muller^Anna", "Mueller^Anna"),
        ("Bauer^Anna", "Baur^Anna"),
        ("Müller^Anna", "Müller-Lüdenscheidt^Anna"),
        ("Anna^Müller", "Müller^Anna"),
        ("Müller^A", "Müller^Anna"),
        ("Müller^", "Müller^Anna"),
        ("王^小東", "=王^小東="),
        ("Müller^*", "Müller^Anna"),
    ],
)
def test_names_that_are_not(one: str, other: str) -> None:
    assert not same(one, other)
    assert not same(other, one)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Müller^Anna", True),
        ("Müller, Anna", True),
        ("Müller", False),
        ("Müller Anna", False),
        ("Müller^", False),
        ("^Anna", False),
        ("^", False),
        ("", False),
        ("=王^小東", False),
        ("--^Anna", False),
    ],
)
def test_a_whole_name_has_both(name: str, expected: bool) -> None:
    assert is_whole(name) is expected


@given(st.text(max_size=20))
def test_folding_what_is_folded_changes_nothing(text: str) -> None:
    once = folded(text.replace("=", ""))
    assert folded(once) == once
    assert all(len(word) in (1, 2) for word in words(text))


@given(st.text(max_size=20))
def test_how_a_text_is_coded_makes_no_difference(text: str) -> None:
    # Canonical equivalence: the two are the same text.
    composed = unicodedata.normalize("NFC", text)
    assert words(composed) == words(unicodedata.normalize("NFD", composed))


_LETTERS = st.text(st.sampled_from("aeouäöüßAEÖnr'- "), min_size=1, max_size=8)


@given(_LETTERS, _LETTERS)
def test_case_and_umlauts_make_no_difference(family: str, given_name: str) -> None:
    name = f"{family}^{given_name}"
    without = "".join(
        one for one in unicodedata.normalize("NFD", name) if not unicodedata.combining(one)
    )
    long = name.replace("ä", "ae").replace("ö", "oe").replace("ü", "ue").replace("Ö", "OE")
    for other in (name.upper(), name.lower(), without, long):
        assert same(name, other)
    assert parts(name)[0] == words(family)
