"""A right whose answer is kept for a while is never older than what it was decided from."""

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import exchange_pair
import pytest
from clocks_made import MadeClock
from facility_in_memory import Other, publish_study
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.trust import Peer
from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import Home
from node.transfer.right import Right, RightEnded
from protocol.errors import WireCode
from protocol.messages import Request
from protocol.recalls import WRONG_WORKLIST

STUDY = exchange_pair.STUDY
CLOCK = MadeClock()
SOUTH = Other("South Clinic", CLOCK.now(), expires=CLOCK.now() + 1000)


def _request(node: Node) -> Request:
    return Request(
        transfer=bytes(16),
        source=node.keys.node.public,
        study=STUDY,
        purpose="treatment",
        ephemeral=bytes(32),
        time=node.clock.now_ms(),
        stat=False,
        whole=False,
    )


def _move(node: Node, seconds: int) -> None:
    clock = node.clock
    assert isinstance(clock, MadeClock)
    clock.move(seconds)


def _note(node: Node) -> None:
    node.database.transact(
        lambda connection: connection.execute("UPDATE studies SET note = note || 'x'")
    )


def _revoke_on_full_disk(node: Node) -> None:
    """Cutting needs no disk: the trust store in memory changes, and no transaction ends."""

    def full(work: object) -> object:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    with patch.object(node.database, "transact", full), contextlib.suppress(NodeError):
        node.peers.revoke("South Clinic", [], node.clock.now())


def _peer(node: Node) -> Peer:
    return node.peers.store.peers[0]


def _withdraw_on_full_disk(node: Node) -> None:
    """Cutting needs no disk."""

    def full(event: object) -> int:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    with patch.object(node.audit, "append", full), contextlib.suppress(NodeError):
        node.shared_studies.withdraw_from(STUDY, _peer(node))


def _add_rule(node: Node, words: str) -> None:
    node.peers.add_rule("South Clinic", words.split(), node.facts.blind)


def _remove_rule(node: Node) -> None:
    rules = node.peers.store.peers[0].rules
    if rules:
        node.peers.remove_rule("South Clinic", rules[0].number)


CHANGES: dict[str, Callable[[Node], object]] = {
    "share": lambda node: node.shared_studies.share(STUDY),
    "withdraw": lambda node: node.shared_studies.withdraw(STUDY),
    "share to the peer": lambda node: node.shared_studies.share_to(STUDY, _peer(node)),
    "withdraw from the peer": lambda node: node.shared_studies.withdraw_from(STUDY, _peer(node)),
    "withdraw from the peer on a full disk": lambda node: _withdraw_on_full_disk(node),
    "hold back": lambda node: node.catalog.hold_back(STUDY),
    "let go": lambda node: node.catalog.let_go(STUDY),
    "discard one": lambda node: node.discards.discard(f"{STUDY}.1.1", WRONG_WORKLIST),
    "take fetch": lambda node: node.peers.revoke("South Clinic", ["fetch"], node.clock.now()),
    "take see": lambda node: node.peers.revoke("South Clinic", ["see"], node.clock.now()),
    "take trust": lambda node: node.peers.revoke("South Clinic", [], node.clock.now()),
    "take trust on a full disk": _revoke_on_full_disk,
    "rule for CT": lambda node: _add_rule(node, "allow see modality=CT"),
    "deny MR": lambda node: _add_rule(node, "deny fetch modality=MR"),
    "few a day": lambda node: _add_rule(node, "allow fetch studies-a-day=1 until=2099-01-01"),
    "remove a rule": _remove_rule,
    "pair": lambda node: SOUTH.pair(node, "see", "fetch"),
    "a second": lambda node: _move(node, 1),
    "its card ends": lambda node: _move(node, 1001),
    "something else": _note,
}


def _answer(right: Right, request: Request) -> str:
    try:
        right.require(request)
    except RightEnded as ended:
        return ended.refusal.reason
    return ""


def _new_right(node: Node) -> Right:
    peer = node.peers.store.peers[0]
    right = Right(
        node.catalog,
        node.facts,
        node.peers,
        node.lately,
        node.requests,
        node.emergencies,
        node.clock,
        peer,
        SOUTH.node.public,
        node.offers,
    )
    right.begin(STUDY)
    return right


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=12))
def test_what_is_kept_is_what_would_be_decided_anew(changes: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home.create(Path(folder) / "north", name="North", clock=MadeClock())
        with Node.open(home) as node:
            publish_study(node, instances=3)
            SOUTH.pair(node, "see", "fetch")
            request = _request(node)
            kept = _new_right(node)
            before = kept._discard
            held = 0
            assert _answer(kept, request) == ""
            for change in changes:
                if change == "let go" and not held:
                    continue
                held += (change == "hold back") - (change == "let go")
                # It may not be trusted any more, or its card have ended.
                with contextlib.suppress(NodeError):
                    CHANGES[change](node)
                anew = _new_right(node)
                anew._discard = before
                assert _answer(kept, request) == _answer(anew, request), change


def test_the_answer_is_kept_while_nothing_changes(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "north", name="North", clock=MadeClock())
    with Node.open(home) as node:
        publish_study(node, instances=3)
        SOUTH.pair(node, "see", "fetch")
        right, request = _new_right(node), _request(node)
        asked: list[str] = []
        study = node.catalog.study
        node.catalog.study = lambda uid: (asked.append(uid), study(uid))[1]  # type: ignore[method-assign]
        for _ in range(5):
            right.require(request)
        assert asked == [STUDY]
        _note(node)
        right.require(request)
        _move(node, 1)
        right.require(request)
        assert asked == [STUDY] * 3


def test_what_was_discarded_before_ends_no_right(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "north", name="North", clock=MadeClock())
    with Node.open(home) as node:
        publish_study(node, instances=3)
        SOUTH.pair(node, "see", "fetch")
        node.discards.discard(f"{STUDY}.1.1", WRONG_WORKLIST)
        right = _new_right(node)
        assert _answer(right, _request(node)) == ""
        node.discards.discard(f"{STUDY}.1.2", WRONG_WORKLIST)
        assert "discarded" in _answer(right, _request(node))


@pytest.mark.parametrize("is_begun", [False, True])
def test_what_was_denied_is_not_sent_when_no_rule_asks_any_more(
    tmp_path: Path, is_begun: bool
) -> None:
    """The peer asks again each minute; whoever takes the rule away in between says nothing new."""
    home = Home.create(tmp_path / "north", name="North", clock=MadeClock())
    with Node.open(home) as node:
        publish_study(node, instances=1)
        SOUTH.pair(node, "see", "fetch")
        _add_rule(node, "ask fetch")
        request = _request(node)
        node.requests.note(SOUTH.key, request, "rule 1")
        right = _new_right(node)
        if is_begun:
            node.requests.approve(1)
            right.require(request)
        node.requests.deny(1, "not for them")
        _remove_rule(node)
        _move(node, 1)
        assert _answer(right, request) == "request 1 was denied"
        refusal = right.refusal(request)
        assert refusal is not None
        assert refusal.code is WireCode.NOT_GRANTED
        # What is asked anew is another request, and no rule asks about it.
        assert right.refusal(replace(request, transfer=bytes(15) + b"1")) is None
