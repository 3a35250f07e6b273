"""What a client takes, as clients in use write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edges.dicomweb.media import (
    DICOM,
    OCTETS,
    PNG,
    Chosen,
    MediaRange,
    Offer,
    choose,
    frame_offers,
    read_media,
)

NATIVE = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.50"


def _frames(accept: str, syntax: str) -> tuple[str, bool] | None:
    offers = frame_offers(syntax, is_native=syntax == NATIVE)
    chosen = choose(read_media(accept), offers, single=True)
    return None if chosen is None else (chosen.offer.kind, chosen.is_multipart)


@pytest.mark.parametrize(
    ("accept", "native", "jpeg"),
    [
        # Quoted and unquoted; cornerstone (issue 530) writes the second.
        ('multipart/related; type="application/octet-stream"', (OCTETS, True), None),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            (OCTETS, True),
            (OCTETS, True),
        ),
        (
            'multipart/related;type="application/octet-stream";transfer-syntax="*"',
            (OCTETS, True),
            (OCTETS, True),
        ),
        # Orthanc answers these two with 400.
        ("application/octet-stream", (OCTETS, False), None),
        ("application/octet-stream; transfer-syntax=*", (OCTETS, False), (OCTETS, False)),
        ("*/*", (OCTETS, True), ("image/jpeg", True)),
        ("", (OCTETS, True), ("image/jpeg", True)),
        ("multipart/related", (OCTETS, True), ("image/jpeg", True)),
        ('multipart/related; type="image/jpeg"', None, ("image/jpeg", True)),
        ("image/*", None, ("image/jpeg", False)),
        (
            f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}',
            None,
            ("image/jpeg", True),
        ),
        (
            'multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.70',
            None,
            None,
        ),
        ("image/jp2, multipart/related; type=image/jpeg;q=0.5", None, ("image/jpeg", True)),
        ("text/html", None, None),
        ("*/*;q=0", None, None),
        ("MULTIPART/Related; TYPE=Application/Octet-Stream", (OCTETS, True), None),
    ],
)
def test_frames_as_a_client_takes_them(
    accept: str, native: tuple[str, bool] | None, jpeg: tuple[str, bool] | None
) -> None:
    assert _frames(accept, NATIVE) == native
    assert _frames(accept, JPEG) == jpeg


def test_what_is_liked_more_comes_first() -> None:
    offers = [Offer(PNG), Offer(DICOM)]
    accepted = read_media("image/png;q=0.3, application/dicom;q=0.9, */*;q=0.1")
    assert choose(accepted, offers, single=True) == Chosen(Offer(DICOM), False)


def test_without_a_transfer_syntax_files_are_given_as_they_are() -> None:
    accepted = read_media('multipart/related; type="application/dicom"')
    assert choose(accepted, [Offer(DICOM, JPEG)], single=False) is not None
    other = read_media(f'multipart/related; type="application/dicom"; transfer-syntax={NATIVE}')
    assert choose(other, [Offer(DICOM, JPEG)], single=False) is None


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ('a/b; c="d;e,f"; g=h', [MediaRange("a/b", {"c": "d;e,f", "g": "h"})]),
        ('a/b; c="d\\"e"', [MediaRange("a/b", {"c": 'd"e'})]),
        ("a/b ,, c/d;;", [MediaRange("a/b"), MediaRange("c/d")]),
        ("a/b; nothing; c=d", [MediaRange("a/b", {"c": "d"})]),
    ],
)
def test_what_a_header_says(text: str, ranges: list[MediaRange]) -> None:
    assert read_media(text) == ranges


@given(st.text(alphabet='ab/;,=" \\*', max_size=60))
def test_any_header_is_read(text: str) -> None:
    for one in read_media(text):
        assert 0 <= one.quality <= 1
    choose(read_media(text), [Offer(DICOM)], single=True)


@pytest.mark.parametrize("quality", ["x", "2", "-1", "nan"])
def test_an_odd_quality_takes_nothing_away_from_others(quality: str) -> None:
    assert choose(read_media(f"a/b;q={quality}, image/png"), [Offer(PNG)], single=True)
