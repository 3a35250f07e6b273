"""Petnames that people can tell apart."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.petname import folded, is_petname, look_alike


@pytest.mark.parametrize(
    "blank",
    [
        "",
        " ",
        "\u3164",  # Hangul filler
        "\uffa0\u115f\u1160",
        "\u2800",  # Braille without dots
        "\u034f",  # combining grapheme joiner
        "\ufe0f",  # variation selector
        "\u0301",  # an accent on nothing
        "-",
        "...",
        "\u200b",
        "\u00a0",
        "a\u202eb",
    ],
)
def test_blank_names_are_no_petnames(blank: str) -> None:
    assert not is_petname(blank)


@pytest.mark.parametrize(
    "name", ["A", "7", "Hôpital Nord", "Больница №1", "北京医院", "St. Mary's"]
)
def test_names_of_many_scripts_are_petnames(name: str) -> None:
    assert is_petname(name)


@pytest.mark.parametrize(
    "other",
    [
        "\N{FULLWIDTH LATIN CAPITAL LETTER H}ospital A",
        "HOSPITAL  a",
        "\N{CYRILLIC CAPITAL LETTER EN}ospital A",
        "H\N{CYRILLIC SMALL LETTER O}spital A",
        "H\N{GREEK SMALL LETTER OMICRON}spital \N{GREEK CAPITAL LETTER ALPHA}",
        "Hosp\N{LATIN SMALL LETTER DOTLESS I}tal A",
        "Hosp1tal A",
        "Hospita\N{LATIN CAPITAL LETTER I} A",
        "H0spital A",
        "Hospital\N{VARIATION SELECTOR-16} A",
        "Hospital A \N{HANGUL FILLER}",
        "\N{MATHEMATICAL BOLD CAPITAL H}ospital A",
    ],
)
def test_names_that_look_alike(other: str) -> None:
    assert look_alike("Hospital A", other)


@pytest.mark.parametrize(
    "other", ["Hospital B", "Hospital", "Hôspital A", "Hospital AA", "Spital A"]
)
def test_names_that_differ_to_the_eye(other: str) -> None:
    assert not look_alike("Hospital A", other)


LETTERS = st.text(st.characters(categories=["L", "N", "Zs"], max_codepoint=0x24F), max_size=12)


@given(LETTERS, LETTERS)
def test_names_that_are_compared_as_equal_look_alike(name: str, other: str) -> None:
    """Whatever case, width or spaces; and both ways round."""
    assert look_alike(name, f"  {name}  ")
    assert look_alike(name, unicodedata.normalize("NFKC", name))
    assert look_alike(name, other) == look_alike(other, name)
    if folded(name) == folded(other):
        assert look_alike(name, other)
