"""Keys that two facilities claim: what the node logs, tells, and no longer counts."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from facilities import Facility
from hypothesis import given
from hypothesis import strategies as st

from keys.card import Card, sign_card
from keys.card_fields import SizedKey, TimedKey
from keys.identity import KeyPair
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.config import AuditSettings
from node.errors import NodeError
from node.home import Home
from node.operations.base import Call
from node.operations.cosigned import counted, own_policy
from node.operations.facility import status
from node.operations.parameters import Nothing
from node.sharing.contests import FORGET_SECONDS, SHOWN_CONTESTS
from node.witness.store import Cosigned
from node.witness.witness import Witness
from protocol.audit_messages import AddCheckpoint
from protocol.audit_messages import Cosigned as CosignedMessage
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.checkpoint import Checkpoint, log_origin, sign_checkpoint
from protocol.log.cosignature import Cosigner, cosign, witness_name
from protocol.log.note import Signer, Verifier, is_key_name
from protocol.log.policy import format_policy, k_of_n, parse_policy_untrusted
from protocol.verify import parse_policy

NOW = SYSTEM_CLOCK.now()
ROLES = ("node", "log", "witness")


def pair(name: str, role: str) -> KeyPair:
    return KeyPair.from_seed(f"{name} {role}".encode().ljust(32, b"."))


def facility(name: str) -> bytes:
    return pair(name, "facility").public


def card(
    name: str, *, serial: int = 1, claims: KeyPair | None = None, role: str = "node",
    is_proven: bool = True, has_claimed_key: bool = False,
) -> Card:  # fmt: skip
    """A card that may list a key of another facility too, before its own."""
    mine = {each: pair(name, each) for each in ROLES}
    extra = () if claims is None else (TimedKey(claims.public, NOW - 50, NOW + 10**6),)
    proving = list(mine.values()) if is_proven else []
    if has_claimed_key and claims is not None:
        proving.append(claims)

    def timed(each: str) -> tuple[TimedKey, ...]:
        return (*(extra if each == role else ()), TimedKey(mine[each].public, NOW - 50))

    return sign_card(
        pair(name, "facility"),
        name=name,
        node_keys=timed("node"),
        log_keys=(SizedKey(mine["log"].public, 0),),
        witness_keys=timed("witness"),
        addresses=(),
        serial=serial,
        issued=NOW - 50,
        expires=NOW + 10**7,
        proving=proving,
    )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "home", name="North")) as opened:
        yield opened


def add(node: Node, one: Card, *grants: str) -> None:
    node.peers.add(one.encoded, one.fingerprint, grants, "", NOW)


def take(node: Node, one: Card, now: int = NOW) -> None:
    assert node.peers.take_newer_card(one.encoded, one.facility_key, now) is not None


def entries(node: Node, start: int) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in node.audit.entries(start)]


def test_a_claim_to_a_key_that_another_proves_is_logged_and_told(node: Node) -> None:
    add(node, card("Alpha"))
    add(node, card("Xavier"))
    size = node.audit.size
    alphas = pair("Alpha", "node")
    take(node, card("Xavier", serial=2, claims=alphas))
    logged = entries(node, size)
    assert [entry["type"] for entry in logged] == ["card-updated", "key-contested"]
    assert logged[1]["peer"] == facility("Xavier").hex()
    assert logged[1]["outcome"] == "failed"
    assert logged[1]["details"] == {
        "facility": facility("Xavier").hex(),
        "other": facility("Alpha").hex(),
        "holder": facility("Alpha").hex(),
        "key": alphas.public.hex(),
        "keys": 1,
        "role": "node",
    }

    async def shown() -> Any:
        return await status(Call(node), Nothing())

    [contested] = trio.run(shown)["contested"]
    assert contested["what"] == (
        f"Xavier and Alpha both claim the node key {alphas.public.hex()[:16]}: "
        "it counts as the key of Alpha, which proves it"
    )
    # Told once, whatever else changes, until it is settled.
    take(node, card("Xavier", serial=3, claims=alphas))
    node.peers.grant("Alpha", ["see"])
    assert [entry["type"] for entry in entries(node, size)] == [
        "card-updated", "key-contested", "card-updated", "trust-granted",
    ]  # fmt: skip
    take(node, card("Xavier", serial=4))
    assert node.peers.contested(NOW) == []


def test_a_contest_that_comes_back_is_told_again_after_a_day(node: Node) -> None:
    add(node, card("Alpha"))
    add(node, card("Xavier"))
    claiming = {"claims": pair("Alpha", "node")}
    size = node.audit.size
    for serial, seconds in enumerate((0, 60, 120, FORGET_SECONDS, FORGET_SECONDS + 60), 2):
        card_now = card("Xavier", serial=serial, **(claiming if serial % 2 == 0 else {}))  # type: ignore[arg-type]
        take(node, card_now, NOW + seconds)
    kinds = [entry["type"] for entry in entries(node, size)]
    # On, off, on again, off; and on again a day later.
    assert kinds == [
        "card-updated", "key-contested", "card-updated", "card-updated", "card-updated",
        "card-updated", "key-contested",
    ]  # fmt: skip


def test_a_key_in_two_hands_ends_what_both_have(node: Node) -> None:
    changed: list[str] = []
    add(node, card("Alpha"), "see")
    add(node, card("Xavier"), "see")
    node.peers.on_change = lambda peer: changed.append(peer.petname)
    alphas = pair("Alpha", "node")
    take(node, card("Xavier", serial=2, claims=alphas, has_claimed_key=True))
    assert sorted(changed) == ["Alpha", "Xavier"]
    assert node.peers.store.by_node_key(alphas.public, NOW) is None
    [contested] = node.peers.contested(NOW)
    assert contested.holder is None
    node.peers.revoke("Xavier", [], NOW)
    assert node.peers.contested(NOW) == []
    held = node.peers.store.by_node_key(alphas.public, NOW)
    assert held is not None
    assert held.petname == "Alpha"


def test_what_was_contested_before_this_release_is_told_at_start(tmp_path: Path) -> None:
    """8dfb4af compared node keys alone: there two peers may have one witness key."""
    home = Home.create(tmp_path / "home", name="North")
    with Node.open(home) as node:
        add(node, card("Alpha", is_proven=False), "witness")
        add(node, card("Xavier", is_proven=False), "witness")
        claiming = card(
            "Xavier", serial=2, claims=pair("Alpha", "witness"), role="witness", is_proven=False
        )
        old = replace(node.peers.find("Xavier"), card=claiming)
        size = node.audit.size
    with sqlite3.connect(home.database_path) as connection:
        connection.execute(
            "UPDATE peers SET state=? WHERE facility_key=?", (old.to_json(), old.facility_key)
        )
    for _ in range(2):
        with Node.open(home) as node:
            node.peers.review_contests(NOW)
            [entry] = entries(node, size)
            assert (entry["type"], entry["details"]["role"]) == ("key-contested", "witness")


def test_who_holds_a_key_cannot_fill_log_or_status_with_made_up_facilities(node: Node) -> None:
    add(node, card("Alpha"))
    size, key = node.audit.size, pair("Alpha", "node").public
    for number in range(3 * SHOWN_CONTESTS):
        for _ in range(2):
            node.peers.contest_shown(key, facility("Alpha"), facility(f"made up {number}"), NOW)
    assert [entry["type"] for entry in entries(node, size)] == ["key-contested"] * SHOWN_CONTESTS
    assert len(node.peers.contested(NOW)) == SHOWN_CONTESTS
    # Another peer's are told all the same.
    add(node, card("Bravo"))
    node.peers.contest_shown(pair("Bravo", "node").public, facility("Bravo"), b"x" * 32, NOW)
    assert entries(node, size)[-1]["details"]["other"] == facility("Bravo").hex()


def test_a_log_key_in_two_hands_signs_no_log(node: Node) -> None:
    """Neither facility's checkpoints count by it; one that only names it changes nothing."""
    alphas = pair("Alpha", "log")
    add(node, card("Alpha"))
    add(node, card("Xavier"))
    alpha = node.peers.find("Alpha")
    origin = log_origin(facility("Alpha"))
    note = sign_checkpoint(Checkpoint(origin, 3, bytes(32)), Signer(origin, alphas)).encode()
    witness = Witness(
        node.witness_store,
        own_facility=node.card.facility_key,
        key=lambda: node.keys.witness,
        append=node.audit.append,
        now=lambda: NOW,
        log_keys=node.log_keys_of,
    )
    request = AddCheckpoint(old=0, proof=(), checkpoint=note)
    take(node, with_log_key("Xavier", alphas, serial=2, proving=[]))
    assert isinstance(witness.judge(alpha, request), CosignedMessage)
    assert [key.key for key in node.log_keys_of(node.peers.find("Xavier"))] == []
    take(node, with_log_key("Xavier", alphas, serial=3, proving=[alphas]))
    assert node.log_keys_of(alpha) == ()
    with pytest.raises(RemoteProtocolError):
        witness.judge(alpha, request)
    node.peers.revoke("Xavier", [], NOW)
    assert node.log_keys_of(alpha) == alpha.card.log_keys


def with_log_key(name: str, key: KeyPair, *, serial: int, proving: list[KeyPair]) -> Card:
    """A card whose current log key is another's."""
    mine = card(name)
    return sign_card(
        pair(name, "facility"), name=name, node_keys=mine.node_keys,
        log_keys=(SizedKey(key.public, 0),), witness_keys=mine.witness_keys, addresses=(),
        serial=serial, issued=NOW - 50, expires=NOW + 10**7, proving=proving,
    )  # fmt: skip


# --- quorums ---------------------------------------------------------------------------------


def with_quorum(node: Node, quorum: int) -> None:
    node.settings = replace(node.settings, audit=AuditSettings(witness_quorum=quorum))


def cosigned(*names: str, key: KeyPair) -> Cosigned:
    text = "radmesh.log/example\n5\n" + "A" * 43 + "=\n"
    return Cosigned(
        5,
        text,
        {
            facility(name): (cosign(text, witness_name(facility(name)), key, NOW), NOW)
            for name in names
        },
    )


@pytest.mark.parametrize("is_proven", [True, False])
@pytest.mark.parametrize("first", ["Alpha", "Xavier"])
def test_one_witness_key_is_one_witness(node: Node, first: str, is_proven: bool) -> None:
    alphas = pair("Alpha", "witness")
    cards = [card("Alpha", is_proven=is_proven), card("Xavier")]
    cards[1] = sign_card(
        pair("Xavier", "facility"), name="Xavier", node_keys=cards[1].node_keys,
        log_keys=cards[1].log_keys,
        witness_keys=(TimedKey(pair("Xavier", "witness").public, NOW - 50, NOW),
                      TimedKey(alphas.public, NOW - 50)),
        addresses=(), serial=2, issued=NOW - 50, expires=NOW + 10**7,
    )  # fmt: skip
    for one in cards if first == "Alpha" else reversed(cards):
        add(node, one, "witness")
    both = cosigned("Alpha", "Xavier", key=alphas)
    assert counted(node, both) == 1
    assert counted(node, cosigned("Xavier", key=alphas)) == (
        0 if is_proven or first == "Alpha" else 1
    )
    with_quorum(node, 1)
    for parse in (parse_policy_untrusted, parse_policy):
        assert len(parse(own_policy(node).encode()).witnesses) == 1
    with_quorum(node, 2)
    with pytest.raises(NodeError, match="asks for 2 witnesses, and 1 have the grant and a key"):
        own_policy(node)


def test_a_cosignature_by_an_earlier_key_of_a_witness_counts(node: Node) -> None:
    add(node, card("Alpha"), "witness")
    old = pair("Alpha", "old witness")
    take(node, card("Alpha", serial=2, claims=old, role="witness", has_claimed_key=True))
    assert counted(node, cosigned("Alpha", key=old)) == 1
    assert counted(node, cosigned("Alpha", key=pair("Alpha", "witness"))) == 1
    assert counted(node, cosigned("Alpha", key=pair("nobody", "witness"))) == 0
    assert counted(node, cosigned("Bravo", key=old)) == 0


LOG = Verifier("radmesh.log/example", pair("our", "log").public)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="+"), min_size=1, max_size=12
).filter(is_key_name)
COSIGNERS = st.builds(Cosigner, NAMES, st.integers(0, 5).map(lambda n: pair(str(n), "w").public))


@given(st.lists(COSIGNERS, max_size=5), st.integers(-1, 6))
def test_what_is_written_as_a_policy_our_verifier_reads(cosigners: list[Cosigner], k: int) -> None:
    try:
        text = format_policy(k_of_n(LOG, cosigners, k))
    except (LocalProtocolError, UnicodeEncodeError):
        return
    ours, theirs = parse_policy_untrusted(text.encode()), parse_policy(text.encode())
    assert list(ours.witnesses) == list(theirs.witnesses)
    publics = [one.public for one in cosigners]
    assert len(set(publics)) == len(publics)
    for count in range(len(cosigners) + 1):
        met = ours.is_met_by(cosigners[:count])
        assert met == theirs.holds({one.name for one in cosigners[:count]}) == (count >= k)


def test_a_policy_of_more_than_readers_take_is_not_written() -> None:
    many = [
        Cosigner(witness_name(number.to_bytes(32)), pair(str(number), "w").public)
        for number in range(600)
    ]
    assert parse_policy(format_policy(k_of_n(LOG, many[:300], 200)).encode()).words == (
        "200 of 300 witnesses"
    )
    with pytest.raises(LocalProtocolError, match="no reader would take this policy"):
        format_policy(k_of_n(LOG, many, 200))


@pytest.mark.integration
@pytest.mark.slow
def test_the_command_status_says_so(tmp_path: Path) -> None:
    north = Facility(tmp_path, "North General")
    with Node.open(north.home) as node:
        add(node, card("Alpha"))
        add(node, card("Xavier", claims=pair("Alpha", "node")))
    shown = north.cli("status").stdout
    assert "ALERT: Xavier and Alpha both claim the node key" in shown
    assert "docs/operations.md section 15" in shown
    assert len(north.cli_json("status")["contested"]) == 1
