"""Facility cards: what is issued reads back, and nothing else is taken."""

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.canonical import canonical_json
from keys.card import (
    CARD_BYTES,
    CLOCK_SKEW_SECONDS,
    check_card,
    check_newer,
    facility_of_untrusted,
    issue_card,
    parse_card_untrusted,
    sign_card,
)
from keys.card_fields import SizedKey, TimedKey, is_address, is_name
from keys.errors import BadCard, CardExpired, CardSuperseded
from keys.fingerprint import fingerprint
from keys.identity import KeyPair
from keys.possession import is_proof, prove

FACILITY = KeyPair.from_seed(b"f" * 32)
NODE, LOG, WITNESS, SPARE = (
    KeyPair.from_seed(role * 32).public for role in (b"n", b"l", b"w", b"s")
)
NOW = 1_790_000_000
YEAR = 365 * 86400


def issue(**changes):
    fields = {
        "name": "North General",
        "node_key": NODE,
        "log_key": LOG,
        "witness_key": WITNESS,
        "addresses": ("/ip4/192.0.2.7/tcp/4101",),
        "serial": 1,
        "issued": NOW,
        "expires": NOW + YEAR,
    }
    return issue_card(FACILITY, **(fields | changes))


def signed(body, key=FACILITY):
    """A card file over any second line."""
    signature = base64.b64encode(key.sign(b"radmesh-card-v1", body))
    return b"radmesh-card-v1 " + signature + b"\n" + body + b"\n"


def fields_with(**changes):
    fields = json.loads(issue().encoded.split(b"\n")[1]) | changes
    return {name: value for name, value in fields.items() if value is not ...}


def test_issued_card_reads_back():
    card = issue()
    assert parse_card_untrusted(card.encoded) == card
    assert (card.name, card.serial, card.issued, card.expires) == (
        "North General",
        1,
        NOW,
        NOW + YEAR,
    )
    assert card.facility_key == FACILITY.public
    assert (card.node_key, card.log_key, card.witness_key) == (NODE, LOG, WITNESS)
    assert card.fingerprint == fingerprint(FACILITY.public)
    assert card.digest == hashlib.sha256(card.encoded).hexdigest()


def test_file_is_two_lines_of_text():
    first, second, rest = issue(name="Hôpital Nord").encoded.split(b"\n")
    assert rest == b""
    assert first.startswith(b"radmesh-card-v1 ")
    assert len(first) == len("radmesh-card-v1 ") + 88
    assert canonical_json(json.loads(second)) == second
    assert json.loads(second)["node_keys"] == [{"key": NODE.hex(), "since": NOW}]


def test_unknown_fields_are_covered_and_ignored():
    data = signed(canonical_json(fields_with(later={"x": [1, True]})))
    card = parse_card_untrusted(data)
    assert card.encoded == data
    assert card.name == "North General"


@pytest.mark.parametrize(
    "alter",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"card-v1", b"card-v2"),
        lambda data: data.replace(b"radmesh-card-v1 ", b"radmesh-card-v1  "),
        lambda data: data.replace(b"North", b"South"),
        lambda data: data.replace(b"4101", b"4102"),
        lambda data: b"radmesh-card-v1 \n" + data.split(b"\n")[1] + b"\n",
        lambda data: b"radmesh-card-v1 A\n" + data.split(b"\n")[1] + b"\n",
        lambda data: data.replace(b"==\n", b"=\n"),
        lambda data: data.split(b"\n")[0] + b"\n[]\n",
        lambda data: signed(b"[]"),
        lambda data: signed(b"{}"),
        lambda data: signed(b"x"),
        lambda data: signed(b" " + data.split(b"\n")[1]),
        lambda data: signed(data.split(b"\n")[1], KeyPair.from_seed(b"x" * 32)),
        lambda data: signed(canonical_json(fields_with(pad="x" * CARD_BYTES))),
    ],
)
def test_altered_or_forged_cards(alter):
    with pytest.raises(BadCard):
        parse_card_untrusted(alter(issue().encoded))


def test_each_flipped_byte_is_noticed():
    data = issue().encoded
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1
        with pytest.raises(BadCard):
            parse_card_untrusted(bytes(altered))


def key_entry(key, **rest):
    return {"key": key.hex(), **rest}


BAD_FIELDS = [
    {"version": 2},
    {"version": True},
    {"version": ...},
    {"name": ""},
    {"name": "x" * 129},
    {"name": " padded"},
    {"name": "two\nlines"},
    {"name": "escape\x1b[2J"},
    {"name": "turned\N{RIGHT-TO-LEFT OVERRIDE}round"},
    {"name": 5},
    {"name": ...},
    {"facility_key": "00"},
    {"facility_key": FACILITY.public.hex().upper()},
    {"facility_key": ...},
    {"serial": 0},
    {"serial": -1},
    {"serial": "1"},
    {"issued": -1},
    {"issued": ...},
    {"expires": NOW},
    {"expires": ...},
    {"addresses": "/ip4/192.0.2.7/tcp/4101"},
    {"addresses": [5]},
    {"addresses": ["192.0.2.7:4101"]},
    {"addresses": [""]},
    {"addresses": ["/ip4/999.0.2.7/tcp/4101"]},
    {"addresses": ["/ip6/2001:db8::1/tcp/0"]},
    {"addresses": ["/dns4/-a/tcp/4101"]},
    {"addresses": ["/ip4/192.0.2.7/tcp/4101"] * 17},
    {"addresses": ...},
    {"node_keys": []},
    {"node_keys": ...},
    {"node_keys": {}},
    {"node_keys": [NODE.hex()]},
    {"node_keys": [key_entry(NODE)]},
    {"node_keys": [key_entry(NODE[:31], since=1)]},
    {"node_keys": [key_entry(NODE, since=-1)]},
    {"node_keys": [key_entry(NODE, since=1, until=2)]},
    {"node_keys": [key_entry(SPARE, since=1), key_entry(NODE, since=2)]},
    {"node_keys": [key_entry(SPARE, since=2, until=1), key_entry(NODE, since=2)]},
    {"node_keys": [key_entry(NODE, since=1, until=2), key_entry(NODE, since=2)]},
    {"node_keys": [key_entry(FACILITY.public, since=1)]},
    {"node_keys": [key_entry(LOG, since=1)]},
    {"log_keys": [key_entry(LOG, since=0)]},
    {"log_keys": []},
    {"witness_keys": [key_entry(LOG, since=1)]},
    {"witness_keys": ...},
]


@pytest.mark.parametrize("changes", BAD_FIELDS)
def test_signed_cards_with_values_that_no_card_may_have(changes):
    with pytest.raises(BadCard):
        parse_card_untrusted(signed(canonical_json(fields_with(**changes))))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "two\nlines"},
        {"name": "half \ud800"},
        {"serial": 0},
        {"serial": 2**53},
        {"addresses": ("somewhere",)},
        {"addresses": ("/dns4/a.example/tcp/443/tls/ws",)},
        {"node_key": b"short"},
        {"expires": NOW},
    ],
)
def test_no_bad_card_is_issued(changes):
    with pytest.raises(BadCard):
        issue(**changes)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bad_card(data):
    with pytest.raises(BadCard):
        parse_card_untrusted(data)


printable = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
json_values = st.recursive(
    st.booleans() | st.integers(-5, 2**40) | printable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(printable, inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(fields_with())), json_values)
def test_any_signed_field_gives_a_card_or_bad_card(name, value):
    try:
        card = parse_card_untrusted(signed(canonical_json(fields_with(**{name: value}))))
    except BadCard:
        return
    assert is_name(card.name)
    assert all(is_address(address) for address in card.addresses)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("/ip4/127.0.0.1/tcp/4101", True),
        ("/ip6/2001:db8::1/tcp/1", True),
        ("/dns4/node.north-general.example/tcp/65535", True),
        ("/dns6/n_1/tcp/4101", True),
        ("/dns4/a./tcp/4101", True),
        ("", False),
        ("/ip4/127.0.0.1/tcp/4101/", False),
        ("x/ip4/127.0.0.1/tcp/4101", False),
        ("/ip4/127.0.0.1/udp/4101", False),
        ("/ip4/127.0.0.1/tcp/0", False),
        ("/ip4/127.0.0.1/tcp/65536", False),
        ("/ip4/127.0.0.1/tcp/+1", False),
        ("/ip4/127.0.0.1/tcp/\N{ARABIC-INDIC DIGIT ONE}", False),
        ("/ip4/127.0.0/tcp/1", False),
        ("/ip4/::1/tcp/1", False),
        ("/ip6/127.0.0.1/tcp/1", False),
        ("/ip6/fe80::1%eth0/tcp/1", False),
        ("/dns4//tcp/1", False),
        ("/dns4/a b/tcp/1", False),
        ("/dns4/-a/tcp/1", False),
        (f"/dns4/{'a' * 254}/tcp/1", False),
        ("/dns/a/tcp/1", False),
        ("/unix/a/tcp/1", False),
    ],
)
def test_addresses(text, good):
    assert is_address(text) is good


LATER_KINDS = [
    "/dns4/node.example/tcp/443/tls/ws",
    "/ip4/192.0.2.7/udp/4101/quic-v1",
    "/dns/node.example/tcp/4101",
    "/ip4/192.0.2.7/tcp/4101/p2p/12D3Koo/p2p-circuit",
    "/onion3/abc:4101",
    "/radmesh-relay/X",
]


@pytest.mark.parametrize("later", LATER_KINDS)
def test_a_kind_of_address_that_is_not_known_is_left_out_and_the_card_read(later):
    known = "/ip4/192.0.2.7/tcp/4101"
    card = parse_card_untrusted(signed(canonical_json(fields_with(addresses=[later, known]))))
    assert card.addresses == (known,)
    assert later.encode() in card.encoded
    alone = parse_card_untrusted(signed(canonical_json(fields_with(addresses=[later]))))
    assert alone.addresses == ()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=16))
def test_whatever_stands_behind_a_slash_is_no_reason_to_refuse_a_card(rest):
    later = ["/later" + text for text in rest]
    card = parse_card_untrusted(signed(canonical_json(fields_with(addresses=later))))
    assert card.addresses == ()


def test_node_that_only_dials_out_has_no_address():
    assert issue(addresses=()).addresses == ()


def rotated(serial=2):
    return sign_card(
        FACILITY,
        name="North General",
        node_keys=(TimedKey(NODE, NOW, NOW + 100), TimedKey(SPARE, NOW + 50)),
        log_keys=(SizedKey(LOG, 0, 10), SizedKey(KeyPair.from_seed(b"L" * 32).public, 10)),
        witness_keys=(TimedKey(WITNESS, NOW),),
        addresses=(),
        serial=serial,
        issued=NOW,
        expires=NOW + YEAR,
    )


def test_replaced_keys_stay_listed_and_stop_to_count():
    card = rotated()
    assert parse_card_untrusted(card.encoded).log_keys[0] == SizedKey(LOG, 0, 10)
    assert card.node_key == SPARE
    assert card.log_key != LOG
    assert card.is_current_node_key(NODE, NOW)
    assert card.is_current_node_key(NODE, NOW + 99)
    assert not card.is_current_node_key(NODE, NOW + 100)
    assert card.is_current_node_key(SPARE, NOW + 100)
    assert not card.is_current_node_key(LOG, NOW)


def test_new_key_counts_a_day_early():
    card = issue()
    assert card.is_current_node_key(NODE, NOW - CLOCK_SKEW_SECONDS)
    assert not card.is_current_node_key(NODE, NOW - CLOCK_SKEW_SECONDS - 1)


def test_check_card():
    card = issue()
    check_card(card, NOW)
    check_card(card, NOW + YEAR - 1)
    check_card(card, NOW - CLOCK_SKEW_SECONDS)
    with pytest.raises(CardExpired):
        check_card(card, NOW + YEAR)
    with pytest.raises(BadCard, match="future"):
        check_card(card, NOW - CLOCK_SKEW_SECONDS - 1)


def test_check_newer():
    old, new = issue(), issue(serial=2)
    check_newer(old, new)
    check_newer(old, issue())
    with pytest.raises(CardSuperseded):
        check_newer(new, old)
    with pytest.raises(CardSuperseded):
        check_newer(old, issue(name="South General"))
    other = issue_card(
        KeyPair.from_seed(b"o" * 32),
        name="Other",
        node_key=NODE,
        log_key=LOG,
        witness_key=WITNESS,
        addresses=(),
        serial=9,
        issued=NOW,
        expires=NOW + 1,
    )
    with pytest.raises(BadCard):
        check_newer(old, other)


# --- proofs of possession -----------------------------------------------------------------

PAIRS = {role: KeyPair.from_seed(role[:1].encode() * 32) for role in ("node", "log", "witness")}


def proven(**changes):
    return issue(proving=PAIRS.values(), **changes)


def with_proof(role, proof):
    """The fields of a card on which the key of a role has another proof."""
    fields = json.loads(proven().encoded.split(b"\n")[1])
    fields[f"{role}_keys"][-1]["proof"] = proof
    return fields


def test_keys_at_hand_prove_themselves():
    card = proven()
    assert parse_card_untrusted(card.encoded) == card
    assert not card.lacks_proof_by(PAIRS.values())
    for role, listed in card.listed:
        message = role.encode() + b"\0" + FACILITY.public
        assert listed.proof == PAIRS[role].sign(b"radmesh-card-key-v1", message)
        assert listed.to_fields()["proof"] == listed.proof.hex()


def test_a_card_without_proofs_is_read():
    card = issue()
    assert [listed.proof for _, listed in card.listed] == [None] * 3
    assert "proof" not in card.encoded.decode()
    assert card.lacks_proof_by([PAIRS["log"]])
    assert not card.lacks_proof_by([KeyPair.from_seed(b"s" * 32)])


def test_proofs_are_copied_to_the_next_card():
    """A key that was replaced need not be there any more."""
    card = proven()
    spare = KeyPair.from_seed(b"s" * 32)
    newer = sign_card(
        FACILITY,
        name=card.name,
        node_keys=(
            TimedKey(NODE, NOW, NOW + 9, card.node_keys[0].proof),
            TimedKey(spare.public, NOW + 9),
        ),
        log_keys=card.log_keys,
        witness_keys=card.witness_keys,
        addresses=(),
        serial=2,
        issued=NOW,
        expires=NOW + YEAR,
        proving=[spare],
    )
    assert all(listed.proof for _, listed in newer.listed)
    assert newer.node_keys[0].proof == card.node_keys[0].proof


@pytest.mark.parametrize("role", PAIRS)
def test_a_proof_that_does_not_hold(role):
    other_facility = KeyPair.from_seed(b"x" * 32).public
    other_role = next(each for each in PAIRS if each != role)
    for proof in (
        prove(PAIRS[role], role, other_facility),
        prove(PAIRS[role], other_role, FACILITY.public),
        prove(PAIRS[other_role], role, FACILITY.public),
        bytes(64),
    ):
        assert is_proof(proof, PAIRS[role].public, role, FACILITY.public) is False
        with pytest.raises(BadCard, match=f"does not prove that its facility holds the {role} key"):
            parse_card_untrusted(signed(canonical_json(with_proof(role, proof.hex()))))
    good = prove(PAIRS[role], role, FACILITY.public).hex()
    assert parse_card_untrusted(signed(canonical_json(with_proof(role, good)))) == proven()
    for form in (good.upper(), good[:-2], good + "00", "", 5, [good], True):
        with pytest.raises(BadCard, match="not a signature in hex"):
            parse_card_untrusted(signed(canonical_json(with_proof(role, form))))


def test_the_base64_of_a_signature_has_one_form():
    """64 bytes leave four bits of the last character unused, which a reader might overlook."""
    data = issue().encoded
    first, rest = data.split(b"\n", 1)
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet.index(first[-3])
    assert last % 16 == 0
    for other in range(last + 1, last + 16):
        line = first[:-3] + alphabet[other : other + 1] + b"=="
        assert base64.b64decode(line.split()[1]) == base64.b64decode(first.split()[1])
        with pytest.raises(BadCard, match="first line of the card is damaged"):
            parse_card_untrusted(line + b"\n" + rest)


@given(st.binary(max_size=300))
def test_whose_card_it_claims_to_be(data):
    assert facility_of_untrusted(issue().encoded) == FACILITY.public
    # Nothing is checked: that is for those who go on.
    forged = issue().encoded.replace(b"North", b"South")
    assert facility_of_untrusted(forged) == FACILITY.public
    assert facility_of_untrusted(data) is None
    assert facility_of_untrusted(signed(canonical_json([1]))) is None
    assert facility_of_untrusted(signed(canonical_json({"facility_key": "x"}))) is None
    assert facility_of_untrusted(signed(b"x" * CARD_BYTES)) is None
