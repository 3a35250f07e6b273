"""Cosignatures and witness policies as the verifier reads them."""

import base64
import json

import pytest
import second_log as second
from bundles_made import (
    CARD,
    COSIGNERS,
    LOG,
    NEXT_LOG,
    ORIGIN,
    PEER,
    PEER_NODE,
    SIGNED_AT,
    STRANGER,
    TWO_OF_THREE,
    WITNESS,
    honest,
    rotated,
    verify,
    witnessed,
)
from hypothesis import given
from hypothesis import strategies as st

from keys.card import issue_card, sign_card
from keys.card_fields import SizedKey, TimedKey
from keys.fingerprint import fingerprint
from keys.identity import KeyPair
from protocol.verify import Code, PolicyProblem, parse_policy
from protocol.verify.checkpoints import CheckpointProblem, read_checkpoint
from protocol.verify.claims import held_witness_keys
from protocol.verify.note import NamedKey
from protocol.verify.policy import any_of
from protocol.verify.witnesses import Witness, Witnesses

LAKESIDE, HILL, BAY = COSIGNERS


def policy_text(quorum="two", log=None, kinds=(4, 4, 4)):
    lines = [] if log is None else [f"log {second.vkey(ORIGIN, log.public)}"]
    lines += ["# who must have seen it", ""]
    for number, (cosigner, kind) in enumerate(zip(COSIGNERS, kinds, strict=True), 1):
        lines.append(f"witness w{number} {second.vkey(cosigner.name, cosigner.key.public, kind)}")
    lines += {
        "two": ["group two 2 w1 w2 w3"],
        "all-three": ["group\tall-three  all w1 w2 w3"],
        "one": ["group pair all w1 w3", "group one any w2 pair"],
    }.get(quorum, [])
    lines += [f"quorum {quorum}", ""]
    return "\n".join(lines).encode()


def code(log, **evidence):
    return verify(log, **evidence).code


def test_two_of_three_by_cards():
    verdict = verify(witnessed(), **TWO_OF_THREE)
    assert verdict.sound is True
    assert [words.split(" at ")[0] for words in verdict.witnesses] == [
        "Lakeside saw 12 entries",
        "Hill saw 12 entries",
    ]
    assert "write the whole log anew" not in " ".join(verdict.notes)
    assert code(honest().cosign(LAKESIDE), **TWO_OF_THREE) == Code.QUORUM
    assert code(honest().cosign(LAKESIDE, LAKESIDE), **TWO_OF_THREE) == Code.QUORUM
    assert code(honest().cosign(HILL, BAY), **TWO_OF_THREE) == Code.OK


def test_what_is_missing_is_said():
    verdict = verify(honest().sign(7).cosign(LAKESIDE, HILL, size=7), **TWO_OF_THREE)
    assert verdict.reason == (
        "too few others saw the log of 12 entries: the policy asks for 2 of 3 witnesses; "
        "these cosigned: none; enough saw 7 entries"
    )
    verdict = verify(honest().cosign(HILL), **TWO_OF_THREE)
    assert verdict.reason.endswith("2 of 3 witnesses; these cosigned: Hill")


def test_cosignatures_under_two_files_of_one_size_count_together():
    log = witnessed()
    first, second_line = log.checkpoints["checkpoints/12"].splitlines(keepends=True)[-2:]
    note = honest().checkpoints["checkpoints/12"]
    log.checkpoints = {"checkpoints/12": note + first, "checkpoints/12.1": note + second_line}
    assert code(log, **TWO_OF_THREE) == Code.OK


def test_cosignatures_from_outside_count():
    shown = witnessed().checkpoints["checkpoints/12"].encode()
    assert code(honest(), checkpoints=[shown], **TWO_OF_THREE) == Code.OK


@pytest.mark.parametrize("kinds", [(4, 4, 4), (1, 4, 1)])
def test_a_policy_file(kinds):
    for quorum, cosigners, expected in (
        ("two", (LAKESIDE, HILL), Code.OK),
        ("two", (LAKESIDE,), Code.QUORUM),
        ("all-three", (LAKESIDE, HILL), Code.QUORUM),
        ("all-three", COSIGNERS, Code.OK),
        ("one", (HILL,), Code.OK),
        ("one", (LAKESIDE, BAY), Code.OK),
        ("one", (BAY,), Code.QUORUM),
        ("w3", (BAY,), Code.OK),
        ("none", (), Code.OK),
    ):
        policy = parse_policy(policy_text(quorum, kinds=kinds))
        assert code(honest().cosign(*cosigners), policy=policy) == expected


def test_policy_and_quorum_must_both_hold():
    policy = parse_policy(policy_text("all-three"))
    assert code(witnessed(), policy=policy, **TWO_OF_THREE) == Code.QUORUM
    assert code(honest().cosign(*COSIGNERS), policy=policy, **TWO_OF_THREE) == Code.OK


def test_a_policy_that_names_the_log():
    for key, expected in ((LOG, Code.OK), (STRANGER, Code.QUORUM)):
        assert code(witnessed(), policy=parse_policy(policy_text(log=key))) == expected
    # A key that was replaced since, as the log itself shows, is good enough.
    log = rotated().cosign(LAKESIDE, HILL)
    for key, expected in ((LOG, Code.OK), (NEXT_LOG, Code.OK), (STRANGER, Code.QUORUM)):
        assert code(log, policy=parse_policy(policy_text(log=key))) == expected


def test_a_quorum_beyond_the_witnesses_is_the_auditors_mistake():
    for evidence in ({"quorum": 1}, {"quorum": 4}, {"quorum": 0}):
        with pytest.raises(PolicyProblem, match="quorum of"):
            verify(honest(), **{**TWO_OF_THREE, "witness_cards": [], **evidence})


def test_one_key_counts_once_under_whatever_names():
    twin = issue_card(
        PEER,
        name="Twin",
        node_key=PEER_NODE.public,
        log_key=STRANGER.public,
        witness_key=LAKESIDE.key.public,
        addresses=(),
        serial=1,
        issued=SIGNED_AT - 100,
        expires=SIGNED_AT + 100,
    )
    for cards in ([LAKESIDE.card, twin], [LAKESIDE.card, LAKESIDE.card]):
        with pytest.raises(PolicyProblem, match="same key"):
            verify(honest().cosign(LAKESIDE), witness_cards=cards, quorum=2)


def test_a_facility_is_no_witness_of_its_own_log():
    own = f"radmesh.witness/{CARD.fingerprint}"
    policy = parse_policy(f"witness w {second.vkey(own, WITNESS.public, 4)}\nquorum w\n".encode())
    for evidence in ({"witness_cards": [CARD], "quorum": 1}, {"policy": policy}):
        with pytest.raises(PolicyProblem, match="its own log"):
            verify(honest(), **evidence)


def test_witnesses_that_only_the_bundle_names_prove_nothing():
    log = witnessed()
    log.extra = [("witnesses/1", LAKESIDE.card.encoded), ("policy", policy_text("w1"))]
    verdict = verify(log)
    assert verdict.sound is True
    assert verdict.witnesses == ()
    notes = " ".join(verdict.notes)
    assert f"Lakeside ({LAKESIDE.card.fingerprint})" in notes
    assert "not known, not checked: 1" in notes
    assert "own policy asks for the witness w1" in notes
    assert "write the whole log anew" in notes
    assert verify(log, **{**TWO_OF_THREE, "witness_cards": [BAY.card], "quorum": 1}).code == (
        Code.QUORUM
    )


def test_a_cosignature_of_a_witness_in_the_bundle_must_hold():
    log = honest().cosign(LAKESIDE)
    log.checkpoints["checkpoints/12"] = _flip_last(log.checkpoints["checkpoints/12"])
    assert code(log) == Code.OK
    log.extra = [("witnesses/1", LAKESIDE.card.encoded)]
    assert code(log) == Code.CP_BAD


def _flip_last(note):
    head, line = note.rstrip("\n").rsplit(" ", 1)
    raw = bytearray(base64.b64decode(line))
    raw[-1] ^= 1
    return f"{head} {base64.b64encode(raw).decode()}\n"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (SIGNED_AT, Code.OK),
        (LAKESIDE.card.witness_keys[0].since, Code.OK),
        (LAKESIDE.card.witness_keys[0].since - 1, Code.CP_BAD),
        (0, Code.CP_BAD),
        (2**63, Code.CP_BAD),
    ],
)
def test_a_cosignature_counts_while_its_key_did(seconds, expected):
    log = honest().cosign(LAKESIDE, seconds=seconds)
    assert code(log, witness_cards=[LAKESIDE.card], quorum=1) == expected


def test_policies_and_cards_in_the_bundle_that_are_none():
    log = honest()
    log.extra = [("policy", b"quorum two\n")]
    verdict = verify(log)
    assert verdict.sound is True
    assert "nothing that can be read (line 1 of the policy names a witness" in str(verdict.notes)
    log.extra = [("witnesses/1", b"junk")]
    assert code(log) == Code.BUNDLE


def test_published_policies(shared):
    vectors = json.loads((shared / "vectors/policy/policy.json").read_text())
    for case in vectors["good"]:
        policy = parse_policy(case["text"].encode())
        assert len(policy.witnesses) == case["n"]
        names = list(policy.witnesses)
        assert policy.holds(set(names[: case["k"]]))
        assert not policy.holds(set(names[: case["k"] - 1]))
    for case in vectors["bad"]:
        with pytest.raises(PolicyProblem):
            parse_policy(case["text"].encode())


def test_published_cosignatures(shared):
    vectors = json.loads((shared / "vectors/cosignature/ed25519_v1.json").read_text())
    lines = [f"witness {at} {vkey}" for at, vkey in enumerate(vectors["witness_vkeys"])]
    policy = parse_policy("\n".join([*lines, "quorum none", ""]).encode())
    for case in vectors["cases"]:
        witnesses = Witnesses()
        witnesses.add_trusted([], [policy])
        note = case["note"]
        origin = note.split("\n")[0]
        found = witnesses.check(read_checkpoint(note.encode(), origin))
        assert [each.time for each in found] == case["timestamps"]
        assert witnesses.unknown == 1  # the log's own
        with pytest.raises(CheckpointProblem):
            witnesses.check(read_checkpoint(_flip_last(note).encode(), origin))


@pytest.mark.parametrize(
    "line",
    [
        "witness w1",
        "witness w1 x+00000000+AAAA",
        "witness w1 " + second.vkey(LAKESIDE.name, LAKESIDE.key.public, 4)[:-4],
        "witness w1 " + second.vkey(LAKESIDE.name, LAKESIDE.key.public, 2),
        "witness w1 " + second.vkey(LAKESIDE.name, LAKESIDE.key.public, 4).replace("+", "+0", 1),
        "witness w " + second.vkey("other", LAKESIDE.key.public, 4),
        "witness u " + second.vkey("other", LAKESIDE.key.public, 4),
        "witness u " + second.vkey("other", BAY.key.public, 4).replace("other", "another"),
        "log " + second.vkey(ORIGIN, LOG.public, 4),
        "group w 1 v",
        "group g 1",
        "group g 3 w v",
        "group g 0 w v",
        "group g ² w v",
        "group g 1 w w",
        "group g 1 w\ngroup h 1 w",
        "group all 1 w",
        "group g 1 later",
        "quorum later",
        "quorum w\nquorum w",
        "hello w",
        "witness\x00",
    ],
)
def test_lines_that_no_policy_has(line):
    witness = "\n".join(
        f"witness {name} {second.vkey(each.name, each.key.public, 4)}"
        for name, each in (("w", LAKESIDE), ("v", HILL))
    )
    good = f"{witness}\n%s\nquorum w\n"
    parse_policy((good % "").encode())
    with pytest.raises(PolicyProblem):
        parse_policy((good % line).encode())


def test_a_policy_of_endless_lines_is_refused():
    with pytest.raises(PolicyProblem):
        parse_policy(b"#" * 100_001)
    lines = [f"witness w {second.vkey(LAKESIDE.name, LAKESIDE.key.public, 4)}"]
    lines += [f"group g{number} 1 w" for number in range(1000)]
    with pytest.raises(PolicyProblem):
        parse_policy("\n".join([*lines, "quorum w", ""]).encode())


@given(st.binary(max_size=200))
def test_any_text_is_a_policy_or_refused(data):
    try:
        parse_policy(data)
    except PolicyProblem:
        return
    assert b"quorum" in data


def test_a_policy_of_cards_says_what_it_asks_for():
    policy = any_of(1, {"Lakeside": [], "Hill": []})
    assert policy.words == "1 of 2 witnesses"
    assert parse_policy(policy_text("two")).words == "2 of 3 witnesses"
    assert parse_policy(policy_text("one")).words == "1 of 2 groups and witnesses"
    assert parse_policy(policy_text("none")).words == "no witness"
    assert parse_policy(policy_text("w2")).words == "the witness w2"
    # Either of two witnesses is a group, either key of one is that witness.
    lines = policy_text("one").replace(b"pair all", b"pair any")
    assert parse_policy(lines).words == "1 of 2 groups and witnesses"
    keys = [NamedKey(COSIGNERS[0].name, COSIGNERS[number].key.public) for number in (0, 2)]
    assert any_of(2, {"Lakeside": keys, "Hill": [NamedKey("x", bytes(32))]}).words == (
        "2 of 2 witnesses"
    )


def test_no_name_on_a_card_makes_a_key_count_for_two():
    """A facility may call itself what a policy of cards calls another one's key."""
    first, second_key, third = (
        NamedKey(f"radmesh.witness/{name}", name.encode() * 32) for name in "abc"
    )
    for name in ("A 1 key 2", "key 2 of A 2"):
        policy = any_of(2, {"A 1": [first, second_key], name: [third]})
        held = [at for at, key in policy.witnesses.items() if key == second_key]
        assert not policy.holds(set(held))


# --- keys that two cards name --------------------------------------------------------------

TWIN_NODE, TWIN_LOG, TWIN_KEY = (KeyPair.from_seed(bytes([n]) * 32) for n in (201, 202, 203))


def two_keyed(name, facility, listed, proving):
    """A card with witness keys, of which the last is the current one."""
    *ended, last = listed
    return sign_card(
        facility,
        name=name,
        node_keys=(TimedKey(TWIN_NODE.public, SIGNED_AT - 100),),
        log_keys=(SizedKey(TWIN_LOG.public, 0),),
        witness_keys=(
            *(TimedKey(key.public, SIGNED_AT - 100, SIGNED_AT + 50) for key in ended),
            TimedKey(last.public, SIGNED_AT - 100),
        ),
        addresses=(),
        serial=2,
        issued=SIGNED_AT - 100,
        expires=SIGNED_AT + 100,
        proving=proving,
    )


def lakeside_card(proving):
    facility = KeyPair.from_seed(bytes([101, 0]) * 16)
    card = two_keyed("Lakeside", facility, [LAKESIDE.key], proving)
    assert card.facility_key == LAKESIDE.card.facility_key
    return card


def relabelled(log, facility):
    """A cosignature of Lakeside's, under the name of another facility."""
    forged = f"radmesh.witness/{fingerprint(facility.public)}"
    text = log.checkpoints["checkpoints/12"].split("\n\n")[0] + "\n"
    line = second.cosignature_line(forged, LAKESIDE.key, text, SIGNED_AT)
    log.checkpoints["checkpoints/12"] += line
    return log


def test_a_key_counts_for_the_facility_that_proves_it():
    """Twin lists Lakeside's key; one signature of Lakeside must not make two."""
    facility = KeyPair.from_seed(b"t" * 32)
    twin = two_keyed("Twin", facility, [LAKESIDE.key, TWIN_KEY], [TWIN_KEY])
    lakeside = lakeside_card([LAKESIDE.key])
    log = relabelled(honest().cosign(LAKESIDE), facility)
    for cards in ([lakeside, twin], [twin, lakeside]):
        assert code(log, witness_cards=cards, quorum=2) == Code.QUORUM
        verdict = verify(log, witness_cards=cards, quorum=1)
        assert verdict.code == Code.OK
        assert [words.split(" saw ")[0] for words in verdict.witnesses] == ["Lakeside"]
    # A card that is not among the witnesses takes nothing either, nor gives it.
    assert code(log, witness_cards=[lakeside], peer_cards=[twin], quorum=1) == Code.OK
    assert code(log, witness_cards=[twin], peer_cards=[lakeside], quorum=1) == Code.QUORUM


def test_a_key_that_two_facilities_prove_counts_for_neither():
    facility = KeyPair.from_seed(b"t" * 32)
    twin = two_keyed("Twin", facility, [LAKESIDE.key, TWIN_KEY], [LAKESIDE.key, TWIN_KEY])
    lakeside = lakeside_card([LAKESIDE.key])
    log = relabelled(honest().cosign(LAKESIDE), facility)
    assert code(log, witness_cards=[lakeside, twin], quorum=1) == Code.QUORUM
    assert code(log.cosign(HILL), witness_cards=[lakeside, twin, HILL.card], quorum=1) == Code.OK
    with pytest.raises(PolicyProblem, match="quorum of 2"):
        verify(log, witness_cards=[lakeside, twin], quorum=2)


def test_a_key_of_which_no_card_proves_whose_it_is():
    twin = two_keyed("Twin", KeyPair.from_seed(b"t" * 32), [LAKESIDE.key, TWIN_KEY], [])
    for cards in ([LAKESIDE.card, twin, HILL.card], [twin, LAKESIDE.card, HILL.card]):
        with pytest.raises(PolicyProblem, match="no card proves whose it is"):
            verify(honest().cosign(LAKESIDE), witness_cards=cards, quorum=1)
    # Beside a policy that names keys it is only not said whose the cosignature is.
    verdict = verify(honest().cosign(LAKESIDE), peer_cards=[LAKESIDE.card, twin])
    assert verdict.witnesses == ()


def test_a_facility_key_is_no_witness_key_of_another():
    facility = KeyPair.from_seed(bytes([101, 0]) * 16)
    twin = two_keyed("Twin", KeyPair.from_seed(b"t" * 32), [facility, TWIN_KEY], [facility])
    with pytest.raises(PolicyProblem, match="quorum of 3"):
        verify(honest(), witness_cards=[LAKESIDE.card, twin], quorum=3)
    assert [key.key for key in held_witness_keys(twin, [LAKESIDE.card])] == [TWIN_KEY.public]


@given(
    st.integers(1, 6),
    st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True),
    st.data(),
)
def test_no_policy_that_is_read_counts_a_key_twice(least, numbers, data):
    """Groups within groups too: to meet a quorum of k flat witnesses takes k keys."""
    keys = [KeyPair.from_seed(bytes([number, 77]) * 16) for number in numbers]
    names = [f"w{number}" for number in numbers]
    lines = [
        f"witness {name} {second.vkey('example.com/w', key.public, 4)}"
        for name, key in zip(names, keys, strict=True)
    ]
    groups = data.draw(
        st.lists(st.lists(st.sampled_from(names), min_size=1, max_size=4), max_size=4)
    )
    lines += [f"group g{at} any {' '.join(members)}" for at, members in enumerate(groups)]
    lines.append(f"group all-of-them {least} " + " ".join(f"g{at}" for at in range(len(groups))))
    lines.append("quorum all-of-them\n")
    try:
        policy = parse_policy("\n".join(lines).encode())
    except PolicyProblem:
        return
    flat = [member for members in groups for member in members]
    assert len(set(flat)) == len(flat)
    for count in range(len(names) + 1):
        if policy.holds(set(names[:count])):
            assert count >= least


@pytest.mark.parametrize(
    ("time", "expected"), [(2**63 - 1, True), (2**63, False)], ids=["last", "too late"]
)
def test_the_last_time_that_a_cosignature_may_have(time, expected):
    text = honest().checkpoints["checkpoints/12"]
    witnesses = Witnesses()
    witnesses.add([Witness(LAKESIDE.name, LAKESIDE.key.public, "Lakeside")])
    signed = text.split("\n\n")[0] + "\n"
    note = read_checkpoint((text + LAKESIDE.line(signed, time)).encode(), ORIGIN)
    if expected:
        assert [each.time for each in witnesses.check(note)] == [time]
    else:
        with pytest.raises(CheckpointProblem):
            witnesses.check(note)


@pytest.mark.parametrize(("time", "counts"), [(99, False), (100, True), (199, True), (200, False)])
def test_a_key_counts_from_its_first_second_to_before_its_last(time, counts):
    text = honest().checkpoints["checkpoints/12"]
    witnesses = Witnesses()
    witnesses.add([Witness(LAKESIDE.name, LAKESIDE.key.public, "Lakeside", 100, 200)])
    signed = text.split("\n\n")[0] + "\n"
    note = read_checkpoint((text + LAKESIDE.line(signed, time)).encode(), ORIGIN)
    if counts:
        assert len(witnesses.check(note)) == 1
    else:
        with pytest.raises(CheckpointProblem, match="did not count"):
            witnesses.check(note)


def test_of_a_witness_the_largest_size_is_told_and_the_last_of_equal_ones():
    log = honest().sign(7)
    witnesses = Witnesses()
    witnesses.add([Witness(LAKESIDE.name, LAKESIDE.key.public, "Lakeside")])

    def check(size, seconds):
        text = log.checkpoints[f"checkpoints/{size}"]
        line = LAKESIDE.line(text.split("\n\n")[0] + "\n", seconds)
        witnesses.check(read_checkpoint((text + line).encode(), ORIGIN))
        [newest] = witnesses.cosigned
        return newest.size, newest.time

    assert check(7, 5) == (7, 5)
    assert check(7, 6) == (7, 6)
    assert check(12, 4) == (12, 4)
    assert check(7, 9) == (12, 4)
