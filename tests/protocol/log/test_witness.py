"""What a witness decides: the published cases, and any history of any log."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.card_fields import SizedKey
from keys.identity import KeyPair
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.checkpoint import Checkpoint, open_checkpoint_untrusted, sign_checkpoint
from protocol.log.note import Signer, parse_vkey_untrusted
from protocol.log.tree import consistency_proof, leaf_hash, range_root
from protocol.log.witness import (
    Held,
    Verdict,
    compare,
    decide,
    log_key_at,
    open_in_force_untrusted,
)

ORIGIN = "example.com/log"
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(40)]
OTHER = [*LEAVES[:3], *(leaf_hash(b"other %d" % number) for number in range(37))]

_PUBLISHED = {
    "ok": {Verdict.ADVANCE, Verdict.SAME},
    "stale (409)": {Verdict.STALE},
    "invalid (422)": {Verdict.UNPROVEN},
}


def _at(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint:
    return Checkpoint(ORIGIN, size, range_root(leaves)(0, size))


def _held(size: int) -> Held:
    checkpoint = _at(size)
    return Held(checkpoint.size, checkpoint.root)


def _proof(old: int, new: int, leaves: list[bytes] = LEAVES) -> list[bytes]:
    return consistency_proof(old, new, range_root(leaves)) if old else []


def test_published_cases(shared: Path) -> None:
    vectors = json.loads((shared / "vectors/witness/update.json").read_text())
    key = parse_vkey_untrusted(vectors["log_vkey"])
    assert len(vectors["cases"]) == 4
    for case in vectors["cases"]:
        init, new = (
            open_checkpoint_untrusted(case[name].encode(), key.name, key.public)
            for name in ("init", "new")
        )
        proof = [bytes.fromhex(one) for one in case["proof_hex"]]
        verdict = decide(Held(init.size, init.root), case["old"], new, proof)
        assert verdict in _PUBLISHED[case["verdict"]], case["name"]


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_log_that_only_grows_is_cosigned(old: int, new: int) -> None:
    old, new = sorted((old, new))
    verdict = decide(_held(old), old, _at(new), _proof(old, new))
    assert verdict is (Verdict.SAME if old == new else Verdict.ADVANCE)


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=12))
def test_what_is_cosigned_is_always_one_log(requests: list[tuple[int, bool, bool]]) -> None:
    """Whatever is presented, everything cosigned is a prefix of the last that was."""
    held, cosigned = Held(), []
    for size, rewritten, honest_old in requests:
        leaves = OTHER if rewritten else LEAVES
        old = held.size if honest_old and held.size <= size else 0
        proof = _proof(old, size, leaves)
        checkpoint = _at(size, leaves)
        if decide(held, old, checkpoint, proof) in (Verdict.ADVANCE, Verdict.SAME):
            assert checkpoint.size >= held.size
            held = Held(checkpoint.size, checkpoint.root)
            cosigned.append(held)
    for leaves in (LEAVES, OTHER):
        if all(range_root(leaves)(0, one.size) == one.root for one in cosigned):
            return
    raise AssertionError("two histories were cosigned")


@pytest.mark.parametrize(
    ("held", "old", "checkpoint", "proof", "verdict"),
    [
        (_held(5), 5, _at(5, OTHER), [], Verdict.FORK),
        (_held(5), 0, _at(5, OTHER), [], Verdict.FORK),
        (_held(5), 5, _at(8, OTHER), _proof(5, 8, OTHER), Verdict.UNPROVEN),
        (_held(5), 5, _at(8), [], Verdict.UNPROVEN),
        (_held(5), 5, _at(5), [bytes(32)], Verdict.UNPROVEN),
        (_held(0), 0, _at(5), [bytes(32)], Verdict.UNPROVEN),
        (_held(5), 3, _at(8), _proof(3, 8), Verdict.STALE),
        (_held(5), 6, _at(8), _proof(6, 8), Verdict.STALE),
        (_held(5), 0, _at(5), [], Verdict.STALE),
        (_held(5), 4, _at(4), [], Verdict.BEHIND),
        (_held(5), 0, _at(4, OTHER), [], Verdict.BEHIND),
        (_held(0), 0, Checkpoint(ORIGIN, 0, bytes(32)), [], Verdict.FORK),
        (_held(0), 0, _at(0), [], Verdict.SAME),
    ],
)
def test_cases(
    held: Held, old: int, checkpoint: Checkpoint, proof: list[bytes], verdict: Verdict
) -> None:
    assert decide(held, old, checkpoint, proof) is verdict


def test_a_request_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decide(_held(5), 9, _at(8), [])


def test_comparing_without_a_proof() -> None:
    assert compare(_held(5), _at(4)) is Verdict.BEHIND
    assert compare(_held(5), _at(5)) is Verdict.SAME
    assert compare(_held(5), _at(5, OTHER)) is Verdict.FORK
    assert compare(_held(5), _at(6, OTHER)) is Verdict.ADVANCE


# --- keys in force -----------------------------------------------------------------

FIRST, SECOND = KeyPair.from_seed(b"1" * 32), KeyPair.from_seed(b"2" * 32)
KEYS = (SizedKey(FIRST.public, 0, 6), SizedKey(SECOND.public, 6))


def _signed(size: int, key: KeyPair, origin: str = ORIGIN) -> bytes:
    checkpoint = Checkpoint(origin, size, range_root(LEAVES)(0, size))
    return sign_checkpoint(checkpoint, Signer(origin, key)).encode()


@pytest.mark.parametrize(("size", "key"), [(5, FIRST), (6, SECOND), (40, SECOND)])
def test_the_key_in_force_opens_a_checkpoint_and_the_other_does_not(
    size: int, key: KeyPair
) -> None:
    assert log_key_at(KEYS, size) == key.public
    assert open_in_force_untrusted(_signed(size, key), ORIGIN, KEYS) == _at(size)
    other = SECOND if key is FIRST else FIRST
    with pytest.raises(RemoteProtocolError) as caught:
        open_in_force_untrusted(_signed(size, other), ORIGIN, KEYS)
    assert caught.value.code is WireCode.BAD_SIGNATURE


def test_a_size_without_a_key_and_another_log_are_refused() -> None:
    gap = (SizedKey(FIRST.public, 2, 6), SizedKey(SECOND.public, 6))
    with pytest.raises(RemoteProtocolError):
        open_in_force_untrusted(_signed(1, FIRST), ORIGIN, gap)
    with pytest.raises(RemoteProtocolError):
        open_in_force_untrusted(_signed(5, FIRST, "example.com/other"), ORIGIN, KEYS)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_checkpoint_or_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_in_force_untrusted(data, ORIGIN, KEYS)
