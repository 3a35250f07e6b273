"""C2SP log policies: the published vectors, the rules, and who is enough."""

import json
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import KeyPair
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.cosignature import Cosigner
from protocol.log.note import Verifier
from protocol.log.policy import format_policy, k_of_n, parse_policy_untrusted

LOG = Verifier("example.com/log", KeyPair.from_seed(b"l" * 32).public)
A, B, C, D, E = (
    Cosigner(f"w/{number}", KeyPair.from_seed(bytes([number]) * 32).public) for number in range(5)
)
WITNESSES = "".join(
    f"witness {name} {one.vkey}\n" for name, one in zip("ABCDE", (A, B, C, D, E), strict=True)
)


@pytest.fixture
def vectors(shared: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shared / "vectors/policy/policy.json").read_text())
    return loaded


def test_published_policies_are_read(vectors: dict[str, Any]) -> None:
    for case in vectors["good"]:
        policy = parse_policy_untrusted(case["text"].encode())
        known = list(policy.witnesses.values())
        assert len(known) == case["n"]
        for count in range(case["n"] + 1):
            for some in combinations(known, count):
                assert policy.is_met_by(some) == (count >= case["k"])


def test_published_mistakes_are_refused(vectors: dict[str, Any]) -> None:
    assert vectors["bad"]
    for case in vectors["bad"]:
        with pytest.raises(RemoteProtocolError):
            parse_policy_untrusted(case["text"].encode())


def test_two_levels_of_groups() -> None:
    text = (
        "# two of X, and one of Y\n\n"
        f"log {LOG.vkey} https://example.com/\n" + WITNESSES + "\tgroup X 2 A B C  \n"
        "group Y any D E\n"
        "group both all X Y\n"
        "quorum both\n"
    )
    policy = parse_policy_untrusted(text.encode())
    assert policy.logs == (LOG,)
    everybody = (A, B, C, D, E)
    for some in chain.from_iterable(combinations(everybody, n) for n in range(6)):
        expected = len({A, B, C} & set(some)) >= 2 and bool({D, E} & set(some))
        assert policy.is_met_by(some) == expected


def test_one_witness_or_none_can_be_the_quorum() -> None:
    policy = parse_policy_untrusted((WITNESSES + "quorum B\n").encode())
    assert policy.is_met_by([B])
    assert not policy.is_met_by([A, C, D, E])
    assert parse_policy_untrusted(b"quorum none\n").is_met_by([])


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "quorum A\nquorum A\n",
        "quorum X\ngroup X any A\n",
        "group X any\nquorum X\n",
        "group X 0 A\nquorum X\n",
        "group X 2 A\nquorum X\n",
        "group X 01 A\nquorum X\n",
        "group X some A\nquorum X\n",
        "group X any none\nquorum X\n",
        "group X any X\nquorum X\n",
        "group X any A A\nquorum X\n",
        "group X any A\ngroup Y any A\nquorum Y\n",
        "group A any B\nquorum A\n",
        "group any any B\nquorum any\n",
        f"witness F {A.vkey}\nquorum F\n",
        f"log {LOG.vkey}\nlog {LOG.vkey}\nquorum none\n",
        f"log {A.vkey}\nquorum none\n",
        "witness F nonsense\nquorum none\n",
        f"witness F {A.vkey} url more\nquorum none\n",
        "quorum\n",
        "quorum none none\n",
        "mirror x\nquorum none\n",
        "quorum none\r\n",
        "quorum none\0\n",
    ],
)
def test_mistakes_are_refused(lines: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_policy_untrusted((WITNESSES + lines).encode())


def test_names_are_octets() -> None:
    """A name that is not UTF-8 is a name; a key needs one that can be hashed."""
    text = b"witness \xff " + A.vkey.encode() + b"\nquorum \xff\n"
    assert parse_policy_untrusted(text).is_met_by([A])
    with pytest.raises(RemoteProtocolError):
        parse_policy_untrusted(b"witness x \xff" + A.vkey.encode() + b"\nquorum x\n")
    with pytest.raises(RemoteProtocolError):
        parse_policy_untrusted(b"quorum none\n" + b"#" * 300_000)


@given(st.integers(0, 5))
def test_k_of_n_is_written_and_read_again(k: int) -> None:
    policy = k_of_n(LOG, (A, B, C, D, E), k)
    again = parse_policy_untrusted(format_policy(policy).encode())
    assert again == policy
    for count in range(6):
        assert again.is_met_by((A, B, C, D, E)[:count]) == (count >= k)


@pytest.mark.parametrize(
    ("witnesses", "k"),
    [
        ((A,), 2),
        ((A,), -1),
        ((A, A), 1),
        ((A, Cosigner("w/twin", A.public)), 1),
        ((), 1),
    ],
)
def test_a_quorum_that_cannot_be_is_refused(witnesses: tuple[Cosigner, ...], k: int) -> None:
    with pytest.raises(LocalProtocolError):
        k_of_n(LOG, witnesses, k)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_policy_or_refused(data: bytes) -> None:
    for candidate in (data, WITNESSES.encode() + data):
        try:
            policy = parse_policy_untrusted(candidate)
        except RemoteProtocolError:
            continue
        assert policy.is_met_by([]) == (policy.quorum == "none")
