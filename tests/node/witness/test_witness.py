"""The witness and its memory: what it cosigns, what it keeps, and what a kill leaves."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from logs_made import CARD, FACILITY, LOG, NODE, ORIGIN
from logs_made import WITNESS as OTHER_KEY

from keys.identity import KeyPair
from keys.trust import Peer
from node.database import Database
from node.errors import ExitCode, NodeError
from node.witness.store import (
    FORK,
    KEPT_CHECKPOINTS,
    ROLLBACK,
    UNPROVEN,
    WITNESS_SCHEMA,
    WitnessStore,
)
from node.witness.witness import Witness
from protocol.audit_messages import AddCheckpoint, CheckpointHeld, Cosigned, GetCheckpoint
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.checkpoint import Checkpoint, sign_checkpoint
from protocol.log.cosignature import Cosigner, cosignatures_untrusted, witness_name
from protocol.log.entry import Event
from protocol.log.note import Signer
from protocol.log.tree import consistency_proof, leaf_hash, range_root

NOW = 1_790_000_100
OWN = KeyPair.from_seed(b"o" * 32)
KEY = KeyPair.from_seed(b"k" * 32)
PEER = Peer(FACILITY.public, "North", CARD)
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(20)]
REWRITTEN = [*LEAVES[:3], *(leaf_hash(b"other %d" % number) for number in range(17))]


def note(
    size: int, leaves: list[bytes] = LEAVES, key: KeyPair = LOG, origin: str = ORIGIN
) -> bytes:
    checkpoint = Checkpoint(origin, size, range_root(leaves)(0, size))
    return sign_checkpoint(checkpoint, Signer(origin, key)).encode()


def add(old: int, size: int, leaves: list[bytes] = LEAVES) -> AddCheckpoint:
    proof = tuple(consistency_proof(old, size, range_root(leaves))) if 0 < old < size else ()
    return AddCheckpoint(old=old, proof=proof, checkpoint=note(size, leaves))


class Bench:
    """A witness on a database in a directory."""

    def __init__(self, directory: Path) -> None:
        self.database = Database(directory / "node.db", (WITNESS_SCHEMA,))
        self.store = WitnessStore(self.database)
        self.events: list[Event] = []
        self.full = False
        self.witness = Witness(
            self.store,
            own_facility=OWN.public,
            key=lambda: KEY,
            append=self.append,
            now=lambda: NOW,
        )

    def append(self, event: Event) -> int:
        if self.full:
            raise NodeError("the disk is full", code=ExitCode.DISK)
        self.events.append(event)
        return len(self.events)

    def judge(self, request: AddCheckpoint) -> object:
        return self.witness.judge(PEER, request)

    @property
    def size(self) -> int:
        return self.store.held(PEER.facility_key)[0].size


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _assert_cosigns(answer: object, checkpoint: bytes) -> None:
    assert isinstance(answer, Cosigned)
    cosigner = Cosigner(witness_name(OWN.public), KEY.public)
    [found] = cosignatures_untrusted(checkpoint + answer.line, [cosigner])
    assert found.time == NOW


def test_a_log_that_grows_is_cosigned_and_remembered(bench: Bench, tmp_path: Path) -> None:
    for old, size in ((0, 5), (5, 5), (5, 11), (11, 20)):
        _assert_cosigns(bench.judge(add(old, size)), note(size))
        assert bench.size == size
    again = Bench(tmp_path)
    assert again.store.held(PEER.facility_key) == bench.store.held(PEER.facility_key)
    assert again.store.all_held() == [(PEER.facility_key, 20, NOW)]
    assert bench.events == []


def test_a_peer_that_starts_elsewhere_is_told_what_is_held(bench: Bench) -> None:
    bench.judge(add(0, 5))
    held = CheckpointHeld(size=5, checkpoint=note(5))
    assert bench.judge(add(0, 8)) == held
    assert bench.judge(add(3, 8)) == held
    assert bench.witness.show(PEER, GetCheckpoint(checkpoint=note(8))) == held
    assert bench.store.alerts() == []


def test_nothing_is_held_of_a_log_that_never_came(bench: Bench) -> None:
    answer = bench.witness.show(PEER, GetCheckpoint(checkpoint=note(8)))
    assert answer == CheckpointHeld(size=0, checkpoint=b"")


def _assert_alert(bench: Bench, kind: str, held: bytes, shown: bytes) -> None:
    [alert] = bench.store.alerts()
    assert (alert.kind, alert.held, alert.shown, alert.seen) == (kind, held, shown, NOW)
    [event] = bench.events
    assert event.type == ("rollback-seen" if kind == ROLLBACK else "fork-seen")
    assert event.peer == PEER.facility_key
    assert event.details == {
        "origin": ORIGIN,
        "size": alert.held_checkpoint.size,
        "root": alert.held_checkpoint.root.hex(),
        "digest": hashlib.sha256(held).hexdigest(),
        "shown_size": alert.shown_checkpoint.size,
        "shown_root": alert.shown_checkpoint.root.hex(),
        "shown_digest": hashlib.sha256(shown).hexdigest(),
    }


@pytest.mark.parametrize("old", [0, 8])
def test_a_fork_is_kept_and_never_cosigned(bench: Bench, old: int) -> None:
    bench.judge(add(0, 8))
    for _ in range(3):
        answer = bench.judge(add(old, 8, REWRITTEN))
        assert answer == CheckpointHeld(size=8, checkpoint=note(8))
    _assert_alert(bench, FORK, note(8), note(8, REWRITTEN))
    # The branch that was cosigned goes on.
    _assert_cosigns(bench.judge(add(8, 9)), note(9))


def test_a_log_that_went_back_is_kept_as_evidence(bench: Bench) -> None:
    bench.judge(add(0, 8))
    assert bench.judge(add(0, 5)) == CheckpointHeld(size=8, checkpoint=note(8))
    _assert_alert(bench, ROLLBACK, note(8), note(5))
    assert bench.size == 8


def test_a_question_alone_exposes_too(bench: Bench) -> None:
    bench.judge(add(0, 8))
    bench.witness.show(PEER, GetCheckpoint(checkpoint=note(5)))
    _assert_alert(bench, ROLLBACK, note(8), note(5))


def test_a_log_that_cannot_prove_that_it_extends_is_kept_as_evidence(bench: Bench) -> None:
    bench.judge(add(0, 8))
    with pytest.raises(RemoteProtocolError) as caught:
        bench.judge(add(8, 12, REWRITTEN))
    assert caught.value.code is WireCode.BAD_PROOF
    _assert_alert(bench, UNPROVEN, note(8), note(12, REWRITTEN))


def test_a_proof_where_none_belongs_accuses_nobody(bench: Bench) -> None:
    for old, size in ((0, 8), (8, 8)):
        with pytest.raises(RemoteProtocolError) as caught:
            bench.judge(AddCheckpoint(old=old, proof=(bytes(32),), checkpoint=note(size)))
        assert caught.value.code is WireCode.BAD_PROOF
        bench.judge(add(old, size))
    assert bench.store.alerts() == []


def test_only_the_key_in_force_speaks_for_a_log(bench: Bench) -> None:
    for bad in (note(5, key=OTHER_KEY), note(5, origin="radmesh.log/X"), b"nonsense"):
        with pytest.raises(RemoteProtocolError):
            bench.judge(AddCheckpoint(old=0, proof=(), checkpoint=bad))
        # A question is answered all the same: our card of it may be the older one.
        assert bench.witness.show(PEER, GetCheckpoint(checkpoint=bad)).size == 0
    bench.judge(add(0, 8))
    bench.witness.show(PEER, GetCheckpoint(checkpoint=note(5, key=OTHER_KEY)))
    assert bench.store.alerts() == []


def test_logs_of_two_facilities_are_apart(bench: Bench) -> None:
    bench.judge(add(0, 8))
    other = replace(PEER, facility_key=NODE.public)
    with pytest.raises(RemoteProtocolError):
        bench.witness.judge(other, add(0, 5))
    assert bench.witness.show(other, GetCheckpoint(checkpoint=note(5))).size == 0


def test_an_alert_that_could_not_be_logged_is_logged_later(bench: Bench, tmp_path: Path) -> None:
    bench.judge(add(0, 8))
    bench.full = True
    bench.judge(add(8, 8, REWRITTEN))
    assert [alert.kind for alert in bench.store.alerts(unlogged_only=True)] == [FORK]
    again = Bench(tmp_path)
    again.witness.log_alerts()
    again.witness.log_alerts()
    _assert_alert(again, FORK, note(8), note(8, REWRITTEN))


def test_a_settled_alert_makes_room_for_another(bench: Bench) -> None:
    bench.judge(add(0, 8))
    bench.judge(add(0, 5))
    bench.store.settle([1], NOW)
    assert bench.store.alerts(open_only=True) == []
    bench.judge(add(0, 4))
    [_, second] = bench.store.alerts()
    assert (second.number, second.settled, second.shown) == (2, None, note(4))
    bench.store.forget(PEER.facility_key)
    _assert_cosigns(bench.judge(add(0, 4)), note(4))


def test_a_kill_between_the_commit_and_the_answer_loses_the_answer_alone(
    bench: Bench, tmp_path: Path
) -> None:
    """The key is taken after the commit, so a key that kills stands at that very place."""
    bench.judge(add(0, 5))
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert bench.size == 11
    # The peer, who got no answer, asks again from where it was, and then from there.
    assert bench.judge(add(5, 11)) == CheckpointHeld(size=11, checkpoint=note(11))
    _assert_cosigns(bench.judge(add(11, 11)), note(11))
    assert bench.store.alerts() == []


def test_nothing_is_cosigned_that_could_not_be_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.judge(add(0, 5))

    def full(*_: object) -> None:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    monkeypatch.setattr(bench.store, "keep", full)
    with pytest.raises(NodeError):
        bench.judge(add(5, 8))
    assert bench.size == 5


# --- cosigned checkpoints of our own ------------------------------------------------------


def test_cosigned_checkpoints_are_merged(bench: Bench) -> None:
    for facility, line in ((b"b" * 32, "two\n"), (b"a" * 32, "one\n")):
        bench.store.add_cosignature(7, "note\n", facility, line, NOW, NOW)
    bench.store.add_cosignature(5, "older\n", b"a" * 32, "x\n", NOW - 1, NOW)
    [newest, older] = bench.store.cosigned()
    assert (newest.size, newest.merged) == (7, "note\none\ntwo\n")
    assert bench.store.cosigned(5) == [older]
    assert bench.store.newest_by(b"a" * 32) == (7, NOW)
    assert bench.store.newest_by(b"c" * 32) is None
    bench.store.drop_cosigned([7])
    assert bench.store.newest_by(b"a" * 32) == (5, NOW - 1)


def test_old_cosigned_checkpoints_are_thinned_to_one_a_day(bench: Bench) -> None:
    day = 24 * 3600
    sizes = []
    for number in range(3):
        for minute in range(KEPT_CHECKPOINTS):
            size = 1 + number * KEPT_CHECKPOINTS + minute
            sizes.append(size)
            time = NOW - NOW % day + number * day + minute * 60
            bench.store.add_cosignature(size, f"{size}\n", b"a" * 32, "x\n", time, time)
    kept = [one.size for one in bench.store.cosigned()][::-1]
    assert kept == [KEPT_CHECKPOINTS, 2 * KEPT_CHECKPOINTS, *sizes[-KEPT_CHECKPOINTS:]]


def _killed() -> KeyPair:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _judge_and_die(directory: Path) -> None:
    made = Bench(directory)
    witness = Witness(
        made.store, own_facility=OWN.public, key=_killed, append=made.append, now=lambda: NOW
    )
    witness.judge(PEER, add(5, 11))


if __name__ == "__main__":
    _judge_and_die(Path(sys.argv[1]))


@pytest.mark.parametrize("ask", ["add", "get"])
def test_a_log_of_no_entries_with_another_root_accuses_nobody(bench: Bench, ask: str) -> None:
    text = Checkpoint(ORIGIN, 0, b"\1" * 32)
    empty = sign_checkpoint(text, Signer(ORIGIN, LOG)).encode()
    if ask == "add":
        with pytest.raises(RemoteProtocolError):
            bench.judge(AddCheckpoint(old=0, proof=(), checkpoint=empty))
    else:
        answer = bench.witness.show(PEER, GetCheckpoint(checkpoint=empty))
        assert answer == CheckpointHeld(size=0, checkpoint=b"")
    assert (bench.store.alerts(), bench.events) == ([], [])
    _assert_cosigns(bench.judge(add(0, 5)), note(5))


def test_two_histories_at_the_same_moment_are_not_both_cosigned(bench: Bench) -> None:
    start = threading.Barrier(8)

    def ask(leaves: list[bytes]) -> bool:
        start.wait()
        return isinstance(bench.judge(add(0, 5, leaves)), Cosigned)

    with ThreadPoolExecutor(8) as pool:
        cosigned = list(pool.map(ask, [LEAVES, REWRITTEN] * 4))
    # The others start from another size than the one that is held by then.
    assert cosigned.count(True) == 1
    assert [alert.kind for alert in bench.store.alerts()] == [FORK]
