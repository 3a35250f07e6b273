"""Keys of a home replaced: what is in force, and what a crash at any point leaves."""

import errno
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk
from places import ROOT

from keys.identity import KeyPair
from keys.keyfile import encode_key
from keys.possession import is_proof
from node import rotation
from node.api.client import call
from node.app import Node
from node.audit.log import AuditLog
from node.clock import SYSTEM_CLOCK
from node.durable import write_whole
from node.errors import ExitCode, NodeError
from node.home import Home
from node.operations import Call, keys
from node.operations.parameters import Nothing
from node.rotation import OVERLAP_SECONDS, Changed, Request
from protocol.errors import RemoteProtocolError
from protocol.log.checkpoint import (
    Checkpoint,
    log_origin,
    open_checkpoint_untrusted,
    sign_checkpoint,
)
from protocol.log.entry import Event, decode_entry_untrusted
from protocol.log.note import Signer
from protocol.log.rotation import parse_change_untrusted

ROLES = ("log", "node", "witness")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", name="North General")


def _rotate(node: Node, role: str, **options: object) -> Changed:
    assert node.keys.facility is not None
    return node.rotator.change(
        Request(role=role, facility=node.keys.facility, **options)  # type: ignore[arg-type]
    )


def _require_whole(home: Home) -> Node:
    """Open the home, check that key files, card, log and checkpoint agree, and return it."""
    node = Node.open(home)
    for role in ROLES:
        public = getattr(home.read_keys(), role).public
        assert public == getattr(home.read_card(), f"{role}_key")
        assert public == getattr(node.keys, role).public
    assert node.audit.log_key == node.keys.log.public
    text = node.audit.latest_checkpoint()
    open_checkpoint_untrusted(text.encode(), node.audit.origin, node.keys.log.public)
    assert not home.rotation_path.exists()
    return node


@pytest.mark.parametrize("role", ROLES)
def test_a_key_is_replaced_and_the_card_names_both(home: Home, role: str) -> None:
    with Node.open(home) as node:
        old = getattr(node.keys, role)
        node.audit.append(Event(type="start"))
        size, root = node.audit.size, node.audit.root()
        changed = _rotate(node, role)
        entry = decode_entry_untrusted(next(node.audit.entries(size)))
        facility_key = node.card.facility_key
        change = parse_change_untrusted(entry, origin=node.audit.origin, facility_key=facility_key)
        assert (change.role, change.size, change.root) == (role, size, root)
        assert (change.old_key, change.new_key) == (old.public, getattr(node.keys, role).public)
        assert entry.details["card"] == node.card.digest == changed.card.digest
        first, second = getattr(node.card, f"{role}_keys")
        assert first.proof is not None
        assert is_proof(second.proof or b"", second.key, role, facility_key)
        assert (first.key, second.key) == (old.public, change.new_key)
        if role == "log":
            assert (first.until_size, second.since_size) == (size + 1, size + 1)
        else:
            assert first.until == second.since + OVERLAP_SECONDS
    _require_whole(home).close()


def test_a_card_that_is_newer_than_an_unfinished_change_stays(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node.open(home) as node:
        with monkeypatch.context() as patch:
            # The disk takes the entry, and nothing more.
            patch.setattr(rotation, "write_whole", _fail_behind(3))
            with pytest.raises(NodeError, match="cannot be written"):
                _rotate(node, "node")
        node.publish_addresses(("/ip4/192.0.2.2/tcp/1",))
        assert node.card.serial == 3
    with _require_whole(home) as node:
        assert node.card.serial == 3
        assert node.card.addresses == ("/ip4/192.0.2.2/tcp/1",)


def _fail_behind(count: int) -> Callable[..., None]:
    """Writes as many files, and fails for the next."""
    written = 0

    def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
        nonlocal written
        if written == count:
            raise OSError(errno.EIO, "Input/output error")
        written += 1
        write_whole(path, data, mode=mode)

    return write


def test_every_key_again_and_again(home: Home) -> None:
    for _ in range(3):
        for role in ROLES:
            with Node.open(home) as node:
                _rotate(node, role)
        _require_whole(home).close()
    with Node.open(home) as node:
        assert [len(getattr(node.card, f"{role}_keys")) for role in ROLES] == [4, 4, 4]
        assert node.card.serial == 10


def test_a_compromised_key_ends_at_once(home: Home) -> None:
    with Node.open(home) as node:
        old = node.keys.node.public
        _rotate(node, "node", compromised=True)
        now = SYSTEM_CLOCK.now()
        assert not node.card.is_current_node_key(old, now)
        assert node.card.is_current_node_key(node.keys.node.public, now)


@pytest.mark.parametrize("role", ["node", "witness"])
def test_a_compromised_key_ends_its_predecessors_hour_too(home: Home, role: str) -> None:
    with Node.open(home) as node:
        _rotate(node, role)
        _rotate(node, role, compromised=True)
        now = SYSTEM_CLOCK.now()
        *replaced, current = getattr(node.card, f"{role}_keys")
        assert [key.until is not None and key.until <= now for key in replaced] == [True, True]
        assert current.until is None


def test_each_checkpoint_is_signed_by_the_key_in_force_at_its_size(home: Home) -> None:
    with Node.open(home) as node:
        old = node.keys.log.public
        before = node.audit.latest_checkpoint()
        _rotate(node, "log")
        after = node.audit.latest_checkpoint()
        new = node.keys.log.public
        origin = node.audit.origin
        assert open_checkpoint_untrusted(before.encode(), origin, old).size == 1
        assert open_checkpoint_untrusted(after.encode(), origin, new).size == 2
        with pytest.raises(RemoteProtocolError):
            open_checkpoint_untrusted(after.encode(), origin, old)


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_checkpoint_by_a_key_not_in_force_at_its_size_does_not_open(
    home: Home, which: str
) -> None:
    with Node.open(home) as node:
        old = node.keys.log
        _rotate(node, "log")
        size = node.audit.size if which == "old" else node.audit.size - 1
        key = old if which == "old" else node.keys.log
        checkpoint = Checkpoint(node.audit.origin, size, node.audit.root_at(size))
    signed = sign_checkpoint(checkpoint, Signer(checkpoint.origin, key))
    (home.audit_path / "checkpoint").write_text(signed)
    with pytest.raises(NodeError, match="not in force") as caught:
        Node.open(home)
    assert caught.value.code == ExitCode.INTEGRITY


def test_an_old_log_key_seals_no_new_entry(home: Home) -> None:
    old = home.read_keys().log
    with Node.open(home) as node:
        _rotate(node, "log")
    with pytest.raises(NodeError, match="not the one that its audit log names"):
        AuditLog.open(
            home.audit_path,
            log_key=old,
            origin=log_origin(home.read_card().facility_key),
            clock_ms=SYSTEM_CLOCK.now_ms,
            log_keys=home.read_card().log_keys,
        )


def test_a_revoked_log_key_counts_up_to_the_trusted_size_only(home: Home) -> None:
    with Node.open(home) as node:
        for _ in range(4):
            node.audit.append(Event(type="start"))
        trusted = (3, node.audit.root_at(3))
        _rotate(node, "log", trusted=trusted)
        first, second = node.card.log_keys
        assert (first.until_size, second.since_size) == (4, 4)
        entry = decode_entry_untrusted(next(node.audit.entries(5)))
        assert entry.type == "key-revoked"
        assert "signature_old" not in entry.details
        assert (entry.details["trusted_size"], entry.details["trusted_root"]) == (
            3,
            trusted[1].hex(),
        )
    _require_whole(home).close()


@pytest.mark.parametrize("trusted", [(0, bytes(32)), (99, bytes(32)), (2, bytes(32))])
def test_a_revocation_with_a_state_that_the_log_never_had_changes_nothing(
    home: Home, trusted: tuple[int, bytes]
) -> None:
    with Node.open(home) as node:
        node.audit.append(Event(type="start"))
        card, size = node.card, node.audit.size
        with pytest.raises(NodeError):
            _rotate(node, "log", trusted=trusted)
        assert (node.card, node.audit.size) == (card, size)


def test_a_revocation_before_the_key_was_in_force_is_refused(home: Home) -> None:
    with Node.open(home) as node:
        for _ in range(3):
            node.audit.append(Event(type="start"))
        _rotate(node, "log")
        with pytest.raises(NodeError, match="signed nothing at size 2"):
            _rotate(node, "log", trusted=(2, node.audit.root_at(2)))
        _rotate(node, "log", trusted=(4, node.audit.root_at(4)))
    _require_whole(home).close()


def test_the_facility_key_may_be_offline_and_must_be_the_right_one(home: Home) -> None:
    path = home.keys_path / "facility"
    text = path.read_bytes().decode()
    path.unlink()
    with pytest.raises(NodeError, match="not in this home") as caught:
        call(home, "keys.rotate", {"role": "node"})
    assert caught.value.code == ExitCode.NOT_FOUND
    wrong = encode_key("facility", KeyPair.generate()).decode()
    for bad, code in ((wrong, ExitCode.INTEGRITY), (text[:-9], ExitCode.USAGE)):
        with pytest.raises(NodeError) as caught:
            call(home, "keys.rotate", {"role": "node", "facility_key": bad})
        assert caught.value.code == code
    done = call(home, "keys.rotate", {"role": "node", "facility_key": text})
    assert done["serial"] == 2
    shown = call(home, "keys.show", {})
    assert shown["facility_key_here"] is False
    assert [key["key"] for key in shown["node"]] == [done["old_key"], done["new_key"]]


async def test_a_facility_key_that_was_taken_offline_since_the_start_is_not_used(
    home: Home,
) -> None:
    with Node.open(home) as node:
        (home.keys_path / "facility").unlink()
        assert (await keys.show(Call(node), Nothing()))["facility_key_here"] is False
        with pytest.raises(NodeError, match="not in this home"):
            await keys.rotate(Call(node), keys.Rotate("node"))


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("keys.rotate", {"role": "facility"}),
        ("keys.rotate", {"role": "log", "compromised": True}),
        ("keys.revoke", {"role": "node", "trusted": "1:" + "00" * 32}),
        ("keys.revoke", {"role": "log", "trusted": "1"}),
        ("keys.revoke", {"role": "log", "trusted": "x:" + "00" * 32}),
        ("keys.revoke", {"role": "log", "trusted": "1:zz"}),
    ],
)
def test_what_cannot_be_asked(home: Home, operation: str, parameters: dict[str, object]) -> None:
    with pytest.raises(NodeError) as caught:
        call(home, operation, parameters)
    assert caught.value.code == ExitCode.USAGE


def test_a_lost_log_key_is_revoked_without_it(home: Home) -> None:
    with Node.open(home) as node:
        for _ in range(3):
            node.audit.append(Event(type="start"))
        pin = f"{node.audit.size}:{node.audit.root().hex()}"
        lost = node.keys.log.public
    (home.keys_path / "log").unlink()
    with pytest.raises(NodeError, match="the log key is missing"):
        call(home, "status", {})
    wrong = {"role": "log", "trusted": "4:" + "00" * 32}
    with pytest.raises(NodeError, match="another root"):
        call(home, "keys.revoke", wrong)
    assert not home.has_key("log")
    done = call(home, "keys.revoke", {"role": "log", "trusted": pin})
    assert done["old_key"] == lost.hex()
    with _require_whole(home) as node:
        assert [key.key for key in node.card.log_keys] == [lost, node.keys.log.public]


@pytest.mark.parametrize("part", ["keys/log", "keys/node", "card"])
def test_a_part_of_an_older_backup_is_noticed(home: Home, tmp_path: Path, part: str) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(home.path, backup)
    with Node.open(home) as node:
        _rotate(node, "log")
        _rotate(node, "node")
    shutil.copyfile(backup / part, home.path / part)
    with pytest.raises(NodeError) as caught:
        Node.open(home)
    assert caught.value.code == ExitCode.INTEGRITY
    assert "same backup" in caught.value.hint or "checkpoint" in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize("role", ["log", "node", "revoked"])
def test_power_cut_at_each_call_of_a_change(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    with Node.open(home) as node:
        node.audit.append(Event(type="start"))
    old = home.read_keys()
    name = "log" if role == "revoked" else role
    outcomes = set()
    at, reached = 0, True
    while reached:
        run = Home(tmp_path / f"run-{at}")
        shutil.copytree(home.path, run.path)
        acknowledged = False
        with monkeypatch.context() as patch:
            disk = FaultyDisk(run.path, patch)
            node = Node.open(run)
            trusted = (1, node.audit.root_at(1)) if role == "revoked" else None
            disk.fail(at)
            try:
                _rotate(node, name, trusted=trusted)
                acknowledged = True
            except NodeError as error:
                if error.code != ExitCode.DISK:
                    raise
            reached = disk.calls > at
            new = getattr(node.keys, name).public
            for kind, left in disk.survivors(tmp_path / "left", seed=at):
                whole = _require_whole(Home(left))
                found = getattr(whole.keys, name).public
                is_old = found == getattr(old, name).public
                outcomes.add(is_old)
                if acknowledged:
                    assert found == new, f"lost at call {at}, {kind}"
                changes = [
                    decode_entry_untrusted(entry).type
                    for entry in whole.audit.entries()
                    if b'"new_key"' in entry
                ]
                assert len(changes) == (0 if is_old else 1)
                whole.close()
            node.close()
        shutil.rmtree(run.path)
        at += 1
    assert outcomes == {True, False}
    assert at > 25


@pytest.mark.slow
def test_an_error_at_each_call_of_a_change_and_another_try(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, reached = 0, True
    while reached:
        run = Home(tmp_path / f"run-{at}")
        shutil.copytree(home.path, run.path)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(run.path, patch)
            node = Node.open(run)
            disk.fail(at, 5)
            try:
                _rotate(node, "log")
            except NodeError as error:
                if error.code != ExitCode.DISK:
                    raise
            reached = disk.calls > at
            disk.fail(None)
            _rotate(node, "log")
            node.audit.append(Event(type="stop"))
            in_force = node.keys.log.public
            node.close()
        whole = _require_whole(run)
        assert whole.keys.log.public == in_force
        whole.close()
        shutil.rmtree(run.path)
        at += 1
    assert at > 25


_ROTATE_FOR_EVER = """
import sys
from pathlib import Path
from node.app import Node
from node.home import Home
from node.rotation import Request
with Node.open(Home(Path(sys.argv[1]))) as node:
    while True:
        for role in ("log", "node", "witness"):
            node.rotator.change(Request(role=role, facility=node.keys.facility))
            print(node.card.serial, flush=True)
"""


@pytest.mark.alone
@pytest.mark.slow
def test_kill_9_in_the_middle_of_changes(home: Home) -> None:
    serial = 0
    for number in range(6):
        command = [sys.executable, "-c", _ROTATE_FOR_EVER, str(home.path)]
        root = ROOT
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(number + 1):
                serial = int(process.stdout.readline())
            # A different moment of the next change each time.
            time.sleep(number * 0.004)
            process.kill()
            serial = max([serial, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
        with _require_whole(home) as node:
            assert node.card.serial >= serial
