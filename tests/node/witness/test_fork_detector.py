"""Our own log against what it signed: when it halts, and when it goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from logs_made import CARD, FACILITY, LOG, ORIGIN, WITNESS, create, event, reopen

from keys.card import Card, sign_card
from keys.card_fields import SizedKey
from keys.identity import KeyPair
from node.audit.log import AuditLog
from node.database import Database
from node.errors import ExitCode, NodeError
from node.witness.fork_detector import ForkDetector
from node.witness.store import FORK, ROLLBACK, WITNESS_SCHEMA, WitnessStore
from protocol.errors import RemoteProtocolError
from protocol.log.checkpoint import Checkpoint, sign_checkpoint
from protocol.log.entry import Event, decode_entry_untrusted
from protocol.log.note import Signer

NOW = 1_790_000_100
PEER = b"p" * 32


def signed(size: int, root: bytes) -> bytes:
    return sign_checkpoint(Checkpoint(ORIGIN, size, root), Signer(ORIGIN, LOG)).encode()


class Home:
    """A log of six entries and its doubts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = create(directory / "audit")
        for number in range(5):
            self.log.append(event(number))
        self.database = Database(directory / "node.db", (WITNESS_SCHEMA,))
        self.store = WitnessStore(self.database)
        self.card: Card = CARD
        self.fork_detector = self._detector(self.log)

    def _detector(self, log: AuditLog) -> ForkDetector:
        return ForkDetector(
            self.store, log, card=lambda: self.card, petname=lambda key: "South", now=lambda: NOW
        )

    def restart(self) -> None:
        self.log.close()
        self.log = reopen(self.directory / "audit")
        self.fork_detector = self._detector(self.log)
        self.fork_detector.check_kept()

    def kinds(self) -> list[str]:
        return [decode_entry_untrusted(data).type for data in self.log.entries()]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.log.close()
    made.database.close()


def test_what_the_log_has_is_no_doubt(home: Home) -> None:
    for size in range(7):
        assert not home.fork_detector.judge(PEER, signed(size, home.log.root_at(size)))
    assert home.log.halt.reason is None
    assert home.store.alerts() == []


def test_a_larger_size_that_we_signed_halts_the_log_across_starts(home: Home) -> None:
    assert home.fork_detector.judge(PEER, signed(9, b"r" * 32))
    for _ in range(2):
        with pytest.raises(NodeError) as caught:
            home.log.append(event(9))
        assert caught.value.code is ExitCode.INTEGRITY
        assert caught.value.message == (
            "this node's audit log has 6 entries, but had 9 when South cosigned it: it was cut, "
            "or comes from an old backup"
        )
        assert caught.value.hint
        assert home.log.size == 6
        home.restart()
    [alert] = home.fork_detector.alerts()
    assert (alert.kind, alert.witness) == (ROLLBACK, PEER)
    assert alert.shown == home.log.latest_checkpoint().encode()


def test_another_root_at_a_size_that_we_have_is_a_fork(home: Home) -> None:
    assert home.fork_detector.judge(PEER, signed(4, b"r" * 32))
    assert [alert.kind for alert in home.fork_detector.alerts()] == [FORK]
    with pytest.raises(NodeError, match="the first 4 entries of this node's audit log are not"):
        home.log.append(event(9))


def test_what_we_did_not_sign_proves_nothing(home: Home) -> None:
    forged = sign_checkpoint(Checkpoint(ORIGIN, 9, b"r" * 32), Signer(ORIGIN, WITNESS)).encode()
    for note in (forged, b"nonsense"):
        with pytest.raises(RemoteProtocolError):
            home.fork_detector.judge(PEER, note)
    assert home.log.halt.reason is None


def test_our_own_memory_is_enough(home: Home) -> None:
    """The log was put back, the database was not: no witness is needed to see it."""
    note = signed(8, b"r" * 32).decode()
    home.store.add_cosignature(8, note, PEER, "— x AAAAAAAA\n", NOW, NOW)
    home.restart()
    assert home.log.halt.reason is not None
    assert "when South cosigned it" in home.log.halt.reason.message


def test_the_right_copy_ends_the_doubt_and_the_log_tells_it(home: Home) -> None:
    cut = (home.directory / "audit" / "log").read_bytes()
    checkpoint = (home.directory / "audit" / "checkpoint").read_bytes()
    for number in range(3):
        home.log.append(event(number))
    note = home.log.latest_checkpoint().encode()
    home.log.close()
    whole = (home.directory / "audit" / "log").read_bytes()
    (home.directory / "audit" / "log").write_bytes(cut)
    (home.directory / "audit" / "checkpoint").write_bytes(checkpoint)
    home.log = reopen(home.directory / "audit")
    home.fork_detector = home._detector(home.log)
    assert home.log.size == 6
    assert home.fork_detector.judge(PEER, note)
    home.log.close()
    (home.directory / "audit" / "log").write_bytes(whole)
    (home.directory / "audit" / "checkpoint").write_bytes(note)
    home.restart()
    assert home.log.halt.reason is None
    assert home.kinds()[-1] == "rollback-seen"
    last = decode_entry_untrusted(list(home.log.entries())[-1])
    assert (last.peer, last.details["size"], last.details["shown_size"]) == (PEER, 9, 6)
    home.restart()
    assert home.kinds().count("rollback-seen") == 1


def test_a_key_revoked_from_before_ends_the_doubt(home: Home) -> None:
    home.fork_detector.judge(PEER, signed(9, b"r" * 32))
    new = KeyPair.from_seed(b"n" * 32)

    def revocation(size: int, root: bytes) -> Event:
        return Event(type="key-revoked", actor="operator")

    with pytest.raises(NodeError):
        home.log.change_key(revocation, "log", new, revoked=False)
    # The one entry that a log in doubt takes.
    home.log.change_key(revocation, "log", new, revoked=True)
    home.card = sign_card(
        FACILITY,
        name=CARD.name,
        node_keys=CARD.node_keys,
        log_keys=(SizedKey(LOG.public, 0, 7), SizedKey(new.public, 7)),
        witness_keys=CARD.witness_keys,
        addresses=(),
        serial=2,
        issued=CARD.issued,
        expires=CARD.expires,
    )
    home.fork_detector.review()
    assert home.log.halt.reason is None
    assert home.kinds()[-2:] == ["key-revoked", "rollback-seen"]


def test_an_operator_can_settle_it(home: Home) -> None:
    note = signed(8, b"r" * 32)
    home.store.add_cosignature(8, note.decode(), PEER, "— x AAAAAAAA\n", NOW, NOW)
    home.store.add_cosignature(
        5, signed(5, home.log.root_at(5)).decode(), PEER, "— x AAAAAAAA\n", NOW, NOW
    )
    home.fork_detector.check_kept()
    [alert] = home.fork_detector.alerts()
    home.fork_detector.settle(alert.number)
    assert home.log.halt.reason is None
    assert [one.size for one in home.store.cosigned()] == [5]
    home.restart()
    assert home.log.halt.reason is None
    assert home.fork_detector.judge(PEER, note)
    assert home.log.halt.reason is not None


def test_one_proof_is_enough_at_the_start_and_it_is_the_largest(home: Home) -> None:
    other = b"o" * 32
    for size, witness in ((8, other), (9, PEER)):
        note = signed(size, b"r" * 32).decode()
        home.store.add_cosignature(size, note, witness, "— x AAAAAAAA\n", NOW, NOW)
    home.restart()
    [alert] = home.fork_detector.alerts()
    assert (alert.witness, alert.held_checkpoint.size) == (PEER, 9)


def test_a_cosigned_checkpoint_of_a_key_that_is_not_ours_hides_no_other(home: Home) -> None:
    forged = sign_checkpoint(Checkpoint(ORIGIN, 9, b"r" * 32), Signer(ORIGIN, WITNESS))
    for size, note in ((9, forged), (8, signed(8, b"r" * 32).decode())):
        home.store.add_cosignature(size, note, PEER, "— x AAAAAAAA\n", NOW, NOW)
    home.restart()
    [alert] = home.fork_detector.alerts()
    assert alert.held_checkpoint.size == 8


def test_what_a_key_signed_after_it_was_taken_back_is_void(home: Home) -> None:
    old, new, stranger = (KeyPair.from_seed(bytes([number]) * 32) for number in (71, 72, 73))
    home.card = sign_card(
        FACILITY,
        name="North",
        node_keys=CARD.node_keys,
        log_keys=(SizedKey(LOG.public, 0, 3), SizedKey(old.public, 3, 7), SizedKey(new.public, 7)),
        witness_keys=CARD.witness_keys,
        addresses=(),
        serial=CARD.serial + 1,
        issued=CARD.issued,
        expires=CARD.expires,
    )

    def by(key: KeyPair, size: int) -> bytes:
        checkpoint = Checkpoint(ORIGIN, size, b"r" * 32)
        return sign_checkpoint(checkpoint, Signer(ORIGIN, key)).encode()

    assert [home.fork_detector.is_void(by(LOG, size)) for size in (2, 3, 4)] == [False, True, True]
    assert [home.fork_detector.is_void(by(old, size)) for size in (2, 6, 7, 8)] == [
        False,
        False,
        True,
        True,
    ]
    assert not any(home.fork_detector.is_void(by(new, size)) for size in (6, 7, 99))
    assert not home.fork_detector.is_void(by(stranger, 99))
    assert not home.fork_detector.is_void(b"nonsense")
