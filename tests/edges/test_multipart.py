"""Bodies of several parts, written and read, in pieces of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edges.dicomweb.multipart import (
    HEADER_BYTES,
    BadMultipart,
    Happened,
    MultipartReader,
    PartBegan,
    PartData,
    PartEnded,
    end_of,
    part_head,
)

PARTS = [
    b"",
    b"abc",
    b"\r\n",
    b"x\r\n--BBx\r\n--B",
    b"--BB",
    b"\r\n--B" * 40,
    bytes(range(256)) * 9,
]


def _written(parts: list[bytes]) -> bytes:
    body = b""
    for number, content in enumerate(parts):
        headers = [("Content-Type", "a/b"), ("X-Number", str(number))]
        body += part_head("BB", headers, is_first=number == 0) + content
    return body + end_of("BB", is_empty=not parts)


def _read(body: bytes, step: int) -> tuple[list[tuple[dict[str, str], bytes]], bool]:
    reader = MultipartReader("BB")
    happened: list[Happened] = []
    for start in range(0, len(body), step):
        happened += reader.receive(body[start : start + step])
    found: list[tuple[dict[str, str], bytes]] = []
    ended = 0
    for one in happened:
        match one:
            case PartBegan(headers):
                assert ended == len(found)
                found.append((dict(headers), b""))
            case PartData(data):
                found[-1] = (found[-1][0], found[-1][1] + data)
            case PartEnded():
                ended += 1
    assert ended == len(found) or not reader.is_over
    return found, reader.is_over


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 100_000])
def test_what_is_written_is_read(step: int) -> None:
    found, is_over = _read(_written(PARTS), step)
    assert is_over
    assert [content for _, content in found] == PARTS
    assert found[3][0] == {"content-type": "a/b", "x-number": "3"}


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.integers(1, 50))
def test_any_content_that_has_no_boundary_comes_back(parts: list[bytes], step: int) -> None:
    found, is_over = _read(_written(parts), step)
    assert is_over
    assert [content for _, content in found] == parts


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_give_parts_or_one_error(body: bytes, step: int) -> None:
    try:
        _read(b"--BB\r\n" + body, step)
    except BadMultipart:
        pass


def test_a_preamble_blanks_and_an_epilogue_are_passed_over() -> None:
    found, is_over = _read(b"hello\r\n--BB  \r\n\r\ncontent\r\n--BB--\r\nbye", 1)
    assert is_over
    assert found == [({}, b"content")]


def test_a_body_that_ends_early_is_not_over() -> None:
    found, is_over = _read(_written(PARTS)[:-30], 5)
    assert not is_over
    assert len(found) == len(PARTS)


@pytest.mark.parametrize(
    "body",
    [
        b"--BB\r\nno header\r\n\r\nx",
        b"--BB\r\nA: " + b"b" * HEADER_BYTES + b"\r\n\r\n",
        b"--BB\r\nA: " + b"b" * HEADER_BYTES * 2,
        b"x" * 100_000,
    ],
    ids=["a header without a colon", "long headers", "headers without an end", "no boundary"],
)
def test_what_is_no_such_body_is_refused(body: bytes) -> None:
    with pytest.raises(BadMultipart):
        _read(body, 1000)


@pytest.mark.parametrize("boundary", ["", "x" * 71, "ä"])
def test_what_can_be_no_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(BadMultipart):
        MultipartReader(boundary)
