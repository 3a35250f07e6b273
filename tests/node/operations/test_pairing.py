"""Addresses and QR texts of a pairing, as people type and scan them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairing_made import statement

from keys.card import parse_card_untrusted
from node.errors import ExitCode, NodeError
from node.network.addresses import for_people, typed
from node.operations.pairing import PORT, Show, qr_text, read_place

CARD = parse_card_untrusted(statement("North General")[0].card)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("radmesh.north.example", "/dns/radmesh.north.example/tcp/4101"),
        (" radmesh.north.example:4102 ", "/dns/radmesh.north.example/tcp/4102"),
        ("192.0.2.1", "/ip4/192.0.2.1/tcp/4101"),
        ("192.0.2.1:80", "/ip4/192.0.2.1/tcp/80"),
        ("2001:db8::1", "/ip6/2001:db8::1/tcp/4101"),
        ("[2001:db8::1]", "/ip6/2001:db8::1/tcp/4101"),
        ("[2001:db8::1]:4102", "/ip6/2001:db8::1/tcp/4102"),
        ("/dns4/north.example/tcp/1", "/dns4/north.example/tcp/1"),
    ],
)
def test_an_address_as_people_type_it(text: str, address: str) -> None:
    assert typed(text, 4101) == address
    assert read_place(text) == (address, "")
    again = for_people(address, 4101)
    assert typed(again, 4101) == address.replace("/dns4/", "/dns/")


@pytest.mark.parametrize(
    "text", ["", "a b", "north.example:port", "north.example:99999", "a/b", "/x/y", "[::1", ":4101"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(NodeError) as caught:
        read_place(text)
    assert caught.value.code is ExitCode.USAGE


@given(st.text(max_size=40))
def test_whatever_is_typed_is_an_address_or_a_sentence(text: str) -> None:
    codes = set()
    try:
        address, _ = read_place(text)
    except NodeError as error:
        codes.add(error.code)
    else:
        assert address.split("/")[3] == "tcp"
    assert codes <= {ExitCode.USAGE}


def test_the_text_of_a_picture_holds_fingerprint_and_address() -> None:
    text = qr_text(CARD)
    assert text == f"RADMESH:{CARD.fingerprint}/RADMESH.NORTH.EXAMPLE"
    assert text == text.upper()
    assert read_place(text) == ("/dns/radmesh.north.example/tcp/4101", CARD.fingerprint)
    assert read_place(text.lower())[1] == CARD.fingerprint
    assert PORT == 4101


def test_what_is_asked_for_is_nothing_by_default() -> None:
    assert Show() == Show((), ())
