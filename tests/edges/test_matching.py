"""Which values match a key of a query, PS3.4 section C.2.2.2."""

import fnmatch
import random
import time

import pytest

from edges.matching import has_wildcard, is_like, is_universal, matcher, range_of


@pytest.mark.parametrize(
    ("vr", "key", "values", "matches"),
    [
        # Universal, also for what is empty.
        ("LO", "", (), True),
        ("PN", "*", (), True),
        ("DA", "", ("20260301",), True),
        ("LO", "**", (), True),
        # Single values.
        ("LO", "P1", ("P1",), True),
        ("LO", " P1 ", ("P1 ",), True),
        ("LO", "P1", ("P12",), False),
        ("LO", "P1", (), False),
        ("LO", "p1", ("P1",), False),
        ("CS", "CT", ("CT", "SR"), True),
        ("CS", "MR", ("CT", "SR"), False),
        ("CS", "MR\\CT", ("CT",), True),
        # Wildcards.
        ("LO", "P*", ("P12",), True),
        ("LO", "P?", ("P12",), False),
        ("LO", "*2", ("P12",), True),
        ("SH", "A[1]*", ("A[1]b",), True),
        ("UI", "1.2*", ("1.2.3",), False),
        # Lists of UIDs.
        ("UI", "1.2\\1.3", ("1.3",), True),
        ("UI", "1.2\\1.3", ("1.33",), False),
        # Ranges.
        ("DA", "20260301", ("20260301",), True),
        ("DA", "20260301", ("20260302",), False),
        ("DA", "20260101-20260331", ("20260301",), True),
        ("DA", "20260302-", ("20260301",), False),
        ("DA", "-20260301", ("20260301",), True),
        ("DA", "-20260301", (), False),
        ("DA", "2026.03.01", ("20260301",), True),
        ("DA", "March", ("20260301",), False),
        ("DA", "-", ("20260301",), False),
        ("TM", "1000-1200", ("115959.5",), True),
        ("TM", "1000-1200", ("1200",), True),
        ("TM", "1000-1200", ("120100",), False),
        ("TM", "1030", ("103012",), True),
        ("TM", "10:30-", ("1029",), False),
        ("TM", "10", ("noon",), False),
        # Names, without case and accents.
        ("PN", "müller^anna", ("MULLER^ANNA",), True),
        ("PN", "Mull*", ("Müller^Anna",), True),
        ("PN", "Müller", ("Müller^Anna",), False),
        ("PN", "*^Anna", ("Müller^Anna^^",), True),
        ("PN", "山*", ("Yamada^Taro=山田^太郎=やまだ^たろう",), True),
        ("PN", "=山田*", ("Yamada^Taro=山田^太郎",), True),
        ("PN", "=山田*", ("Yamada^Taro",), False),
        ("PN", "Yamada*=鈴木*", ("Yamada^Taro=山田^太郎",), False),
        # Numbers.
        ("IS", "1", ("001",), True),
        ("IS", "1\\2", ("2",), True),
        ("IS", "x", ("2",), False),
        ("US", "512", ("512",), True),
    ],
)
def test_what_matches(vr: str, key: str, values: tuple[str, ...], matches: bool) -> None:
    assert matcher(vr, key)(values) is matches


def test_patterns_are_read_as_a_shell_reads_them() -> None:
    choices = random.Random(1)
    for _ in range(3000):
        text = "".join(choices.choices("ab", k=choices.randrange(8)))
        pattern = "".join(choices.choices("ab*?", k=choices.randrange(8)))
        assert is_like(text, pattern) == fnmatch.fnmatchcase(text, pattern), (text, pattern)


def test_no_pattern_takes_long() -> None:
    begun = time.perf_counter()
    assert not is_like("a" * 1000, "*a" * 500 + "b")
    assert time.perf_counter() - begun < 2


def test_ranges() -> None:
    assert range_of("DA", "20260101-") == ("20260101", "")
    assert range_of("DA", "") is None
    assert range_of("DA", "x-y") is None
    assert range_of("TM", "10") == ("100000.000000", "105959.999999")
    assert range_of("TM", "101112.5") == ("101112.500000", "101112.599999")


def test_what_may_stand_for_several() -> None:
    assert [one for one in ("", "*", " ** ", "?", "a") if is_universal(one)] == ["", "*", " ** "]
    assert [one for one in ("a*", "a?", "a\\b", "a") if has_wildcard(one)] == ["a*", "a?", "a\\b"]
