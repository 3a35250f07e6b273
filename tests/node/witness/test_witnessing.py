"""Nodes that witness each other, as real processes: rounds, forks, and logs cut on disk."""

import json
import shutil
import signal
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, mesh, wait_until
from studies_made import make_study

from node.audit.log import AuditLog
from node.clock import SYSTEM_CLOCK
from node.database import Database
from node.errors import ExitCode, NodeError
from node.migrations import NODE_MIGRATIONS
from protocol.log.checkpoint import log_origin
from protocol.log.cosignature import cosignatures_untrusted
from protocol.log.entry import Event
from protocol.log.policy import parse_policy_untrusted
from protocol.verify import Code

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def _witnessing(facility: Facility) -> dict[str, Any]:
    found: dict[str, Any] = facility.call("status")["witnessing"]
    return found


def _is_cosigned(facility: Facility, by: int = 1) -> bool:
    found = _witnessing(facility)
    full = [one for one in found["witnesses"] if one["size"] == found["size"]]
    return len(full) >= by


def _kinds(facility: Facility) -> list[str]:
    return [entry["type"] for entry in facility.entries()]


def _strip_a_line(source: Path, target: Path, size: int) -> None:
    """A bundle without the last cosignature of its newest checkpoint."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == f"checkpoints/{size}":
                content = b"".join(content.splitlines(keepends=True)[:-1])
            new.writestr(name, content)


def test_a_log_is_cosigned_by_itself_and_exported_so(tmp_path: Path) -> None:
    with mesh(tmp_path, "North", "South", "West", witness_quorum=2) as (north, south, west):
        for one in (north, south, west):
            one.start()
        wait_until(lambda: _is_cosigned(north, by=2), what="North is cosigned by both")
        make_study(tmp_path / "in", 2)
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: _is_cosigned(north, by=2), what="its new entry is cosigned by both")
        assert (_witnessing(north)["cosigned_by"], _witnessing(north)["quorum"]) == (2, 2)

        north.check_log(tmp_path, "north")
        with zipfile.ZipFile(tmp_path / "north-log.zip") as bundle:
            names = bundle.namelist()
            size = json.loads(bundle.read("bundle.json"))["size"]
            head = bundle.read(f"checkpoints/{size}")
            policy = parse_policy_untrusted(bundle.read("policy"))
            cards = {bundle.read(name) for name in names if name.startswith("witnesses/")}
        cards_expected = {one.home.read_card().encoded for one in (south, west)}
        assert cards == cards_expected
        cosigned = [one.cosigner for one in cosignatures_untrusted(head, policy.witnesses.values())]
        assert policy.is_met_by(cosigned)
        assert not policy.is_met_by(cosigned[:1])

        # An auditor who knows the witnesses demands both, and gets them from this bundle.
        (tmp_path / "policy").write_text(north.cli("audit", "policy").stdout)
        verified = north.cli(
            "audit", "verify", str(tmp_path / "north-log.zip"),
            "--facility", str(north.home.card_path), "--policy", str(tmp_path / "policy"),
            check=False,
        )  # fmt: skip
        assert verified.returncode == ExitCode.OK, verified.stdout
        for number, card in enumerate(sorted(cards_expected)):
            (tmp_path / f"card-{number}").write_bytes(card)
        wanting = [
            "audit", "verify", str(tmp_path / "stripped.zip"),
            "--facility", str(north.home.card_path), "--quorum", "2",
            "--witness-card", str(tmp_path / "card-0"), "--witness-card", str(tmp_path / "card-1"),
        ]  # fmt: skip
        _strip_a_line(tmp_path / "north-log.zip", tmp_path / "stripped.zip", size)
        lacking = north.cli(*wanting, check=False)
        assert lacking.returncode == ExitCode.FAILED
        assert "QUORUM" in lacking.stdout

        shown = north.cli("audit", "witness").stdout
        assert "South" in shown
        assert "by 2 witnesses (2 needed)" in shown
        assert north.cli("audit", "policy").stdout.endswith("quorum witnesses\n")
        assert "cosigned up to entry" in north.cli("status").stdout


def test_a_cosignature_of_a_peer_without_the_grant_is_not_asked_for(tmp_path: Path) -> None:
    with mesh(tmp_path, "North", "South") as (north, south):
        north.call("trust.revoke", peer=south.name, grants=["witness"])
        for one in (north, south):
            one.start()
        # South has the grant to ask: North cosigns for it all the same.
        wait_until(lambda: _is_cosigned(south), what="South is cosigned")
        assert _witnessing(north)["witnesses"] == []
        assert north.call("audit.witness")["cosigned_size"] is None
        assert _witnessing(south)["logs"] == []
        north.call("trust.grant", peer=south.name, grants=["witness"])
        wait_until(lambda: _is_cosigned(north), what="North is cosigned once South has the grant")


def test_a_heartbeat_says_that_nothing_happened(tmp_path: Path) -> None:
    with mesh(tmp_path, "North", "South", heartbeat_seconds=1) as (north, south):
        for one in (north, south):
            one.start()
        wait_until(lambda: _kinds(north).count("checkpoint-heartbeat") >= 2, what="heartbeats")
        size = north.call("status")["log_size"]

        def cosigned() -> bool:
            [one] = _witnessing(north)["witnesses"]
            return one["size"] is not None and one["size"] >= size

        wait_until(cosigned, what="the heartbeat is cosigned")


def test_a_frozen_witness_holds_up_nobody(tmp_path: Path) -> None:
    with mesh(tmp_path, "North", "South", "West") as (north, south, west):
        for one in (north, south, west):
            one.start()
        wait_until(lambda: _is_cosigned(north, by=2), what="North is cosigned by both")
        assert south.process is not None
        south.process.send_signal(signal.SIGSTOP)
        try:
            make_study(tmp_path / "in", 2)
            north.call("ingest", paths=[str(tmp_path / "in")])
            wait_until(lambda: _is_cosigned(north), 10, "North is cosigned by West")
            # Bounded: an export waits a few seconds for cosignatures, no more.
            with pytest.raises(AssertionError):
                wait_until(lambda: _is_cosigned(north, by=2), 0.5)
            north.check_log(tmp_path, "north")
        finally:
            south.process.send_signal(signal.SIGCONT)
        wait_until(lambda: _is_cosigned(north, by=2), what="South cosigns when it is back")
        # Late requests are no log that went back.
        assert _witnessing(south)["alerts"] == []


def test_a_killed_witness_never_goes_back(tmp_path: Path) -> None:
    """Whatever was answered before a kill is known after it."""
    with mesh(tmp_path, "North", "South") as (north, south):
        for one in (north, south):
            one.start()
        for _ in range(4):
            north.call("audit.witness")
            wait_until(lambda: _is_cosigned(north), what="North is cosigned")
            [answered] = _witnessing(north)["witnesses"]
            south.kill()
            database = Database(south.home.database_path, (), NODE_MIGRATIONS)
            [row] = database.query("SELECT size FROM witnessed")
            database.close()
            assert row["size"] >= answered["size"]
            south.start()
            north.call("trust.grant", peer=south.name, grants=["send"])
        assert _witnessing(south)["alerts"] == []


# --- logs that go back ---------------------------------------------------------------


def _grown(north: Facility, south: Facility, directory: Path) -> Path:
    """Bring North's log to be cosigned; returns a copy of its home from before its last entries."""
    for one in (north, south):
        one.start()
    wait_until(lambda: _is_cosigned(north), what="North is cosigned")
    north.stop()
    backup = directory / "backup"
    shutil.copytree(north.home.path, backup)
    north.start()
    make_study(directory / "in", 2)
    north.call("ingest", paths=[str(directory / "in")])
    wait_until(lambda: _is_cosigned(north), what="North's newest entries are cosigned")
    north.stop()
    return backup


def _restore(facility: Facility, backup: Path) -> None:
    shutil.rmtree(facility.home.path)
    shutil.copytree(backup, facility.home.path)


def _is_in_doubt(facility: Facility) -> bool:
    return bool(_witnessing(facility)["in_doubt"])


def test_a_restored_old_backup_is_exposed_by_the_witness_before_a_word_is_logged(
    tmp_path: Path,
) -> None:
    with mesh(tmp_path, "North", "South") as (north, south):
        backup = _grown(north, south, tmp_path)
        newest = tmp_path / "newest"
        shutil.copytree(north.home.path, newest)
        _restore(north, backup)
        before = (north.home.audit_path / "log").read_bytes()
        north.start()
        wait_until(lambda: _is_in_doubt(north), what="North learns that its log went back")

        said = _witnessing(north)["in_doubt"]
        assert "when South cosigned it: it was cut, or comes from an old backup" in said
        for call in (
            lambda: north.call("ingest", paths=[str(tmp_path / "in")]),
            lambda: north.call("fetch", study="1.2.3", peer=south.name),
            lambda: north.call("trust.grant", peer=south.name, grants=["send"]),
        ):
            with pytest.raises(NodeError) as caught:
                call()
            assert caught.value.code is ExitCode.INTEGRITY
            assert said in caught.value.message
        with pytest.raises(NodeError) as caught:
            south.call("fetch", study="1.2.3", peer=north.name)
        assert "its own audit log is in doubt" in caught.value.message
        assert "STOPPED: this node's audit log has" in north.cli("status").stdout

        # The peer knows too, and both have the proof.
        wait_until(lambda: _witnessing(south)["alerts"], what="South's alert")
        [alert] = _witnessing(south)["alerts"]
        assert (alert["kind"], alert["own"]) == ("rollback", False)
        assert alert["shown"]["size"] < alert["held"]["size"]
        assert "rollback-seen" in _kinds(south)
        assert "ALERT 1: North shows a log of" in south.cli("status").stdout

        # Nothing was added to the wrong history, not even by stopping.
        assert north.stop() == 0
        assert (north.home.audit_path / "log").read_bytes().startswith(before)
        assert (north.home.audit_path / "log").stat().st_size == len(before)

        # It stays so after another start, also when no witness is there.
        south.stop()
        north.start()
        assert _is_in_doubt(north)
        north.stop()

        # The right copy comes back, with what was learned in the meantime.
        shutil.rmtree(north.home.audit_path)
        shutil.copytree(newest / "audit", north.home.audit_path)
        for one in (north, south):
            one.start()
        assert not _is_in_doubt(north)
        assert "rollback-seen" in _kinds(north)
        wait_until(lambda: _is_cosigned(north), what="North is cosigned again")
        north.check_log(tmp_path, "again")


def test_with_no_witness_at_start_the_first_that_comes_is_asked_before_it_is_served(
    tmp_path: Path,
) -> None:
    with mesh(tmp_path, "North", "South") as (north, south):
        backup = _grown(north, south, tmp_path)
        _restore(north, backup)
        south.stop()
        north.start()
        assert not _is_in_doubt(north)
        study = make_study(tmp_path / "other", 1)
        north.call("ingest", paths=[str(tmp_path / "other")])
        south.start()
        wait_until(lambda: _is_in_doubt(north), what="North learns that its log went back")
        announced = [one["details"] for one in north.entries("announced")]
        with pytest.raises(NodeError):
            south.call("fetch", study=study, peer=north.name)
        assert study not in south.announced(north)
        assert [one["details"] for one in north.entries("announced")] == announced


def _rewrite(facility: Facility, keep: int, further: int) -> None:
    """As somebody who holds the log key: the log with its first `keep` entries and others."""
    keys, card = facility.home.read_keys(), facility.home.read_card()
    origin = log_origin(card.facility_key)

    def open_log(path: Path) -> AuditLog:
        return AuditLog.open(path, log_key=keys.log, origin=origin, clock_ms=SYSTEM_CLOCK.now_ms)

    old = open_log(facility.home.audit_path)
    frames, size = [], 0
    for entry in old.entries(0, keep):
        frames.append(len(entry) + 8)
        size += 1
    assert size == keep
    old.close()
    made = facility.home.audit_path
    log_bytes = (made / "log").read_bytes()[: sum(frames)]
    for path in made.iterdir():
        if path.name not in ("log", "evidence.db"):
            path.unlink()
    (made / "log").write_bytes(log_bytes)
    _sign(facility, keep)
    again = open_log(made)
    for number in range(further):
        again.append(Event(type="ingest", details={"rewritten": number}))
    again.close()
    # Who rewrites the log rewrites the node's own memory of it too.
    database = Database(facility.home.database_path, (), NODE_MIGRATIONS)

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM own_checkpoints")
        connection.execute("DELETE FROM own_cosignatures")

    database.transact(change)
    database.close()


def _sign(facility: Facility, size: int) -> None:
    """Write a checkpoint over what the log holds, by the stolen log key."""
    from node.audit.files import LogFile
    from protocol.log.checkpoint import Checkpoint, sign_checkpoint
    from protocol.log.note import Signer
    from protocol.log.tree import Frontier, leaf_hash

    tree = Frontier()
    file = LogFile(facility.home.audit_path / "log")
    for entry in file.scan():
        tree.append(leaf_hash(entry))
    file.close()
    assert tree.size == size
    origin = log_origin(facility.home.read_card().facility_key)
    signed = sign_checkpoint(
        Checkpoint(origin, tree.size, tree.root()), Signer(origin, facility.home.read_keys().log)
    )
    (facility.home.audit_path / "checkpoint").write_text(signed)


def test_a_log_truncated_on_disk_is_exposed_by_the_state_of_the_peer(tmp_path: Path) -> None:
    """Cut with the log key and the database in hand, so that nothing at home tells."""
    with mesh(tmp_path, "North", "South") as (north, south):
        _grown(north, south, tmp_path)
        database = Database(south.home.database_path, (), NODE_MIGRATIONS)
        [row] = database.query("SELECT size FROM witnessed")
        database.close()
        _rewrite(north, row["size"] - 3, 0)
        north.start()
        wait_until(lambda: _is_in_doubt(north), what="North learns that its log was cut")
        wait_until(lambda: _witnessing(south)["alerts"], what="South's alert")
        [alert] = _witnessing(south)["alerts"]
        assert alert["held"]["size"] == row["size"]
        assert alert["shown"]["size"] == row["size"] - 3


def test_a_log_cut_with_the_key_alone_is_exposed_by_its_own_cosigned_checkpoints(
    tmp_path: Path,
) -> None:
    with mesh(tmp_path, "North", "South") as (north, south):
        backup = _grown(north, south, tmp_path)
        south.stop()
        shutil.rmtree(north.home.audit_path)
        shutil.copytree(backup / "audit", north.home.audit_path)
        north.start()
        assert "when South cosigned it" in _witnessing(north)["in_doubt"]


def test_a_rewritten_log_of_the_same_size_is_a_fork_and_both_sides_have_the_proof(
    tmp_path: Path,
) -> None:
    with mesh(tmp_path, "North", "South") as (north, south):
        _grown(north, south, tmp_path)
        database = Database(south.home.database_path, (), NODE_MIGRATIONS)
        [row] = database.query("SELECT size FROM witnessed")
        database.close()
        _rewrite(north, row["size"] - 2, 2)
        north.start()
        wait_until(lambda: _is_in_doubt(north), what="North learns that its log was rewritten")
        assert "are not those that South cosigned" in _witnessing(north)["in_doubt"]
        wait_until(lambda: _witnessing(south)["alerts"], what="South's alert")
        [alert] = _witnessing(south)["alerts"]
        assert alert["kind"] == "fork"
        assert alert["held"]["size"] == alert["shown"]["size"] == row["size"]
        assert alert["held"]["root"] != alert["shown"]["root"]
        [entry] = south.entries("fork-seen")
        assert entry["details"]["root"] == alert["held"]["root"]
        assert entry["details"]["shown_root"] == alert["shown"]["root"]

        done = south.cli("audit", "forks", "--export", str(tmp_path / "proof"), check=False)
        assert done.returncode == ExitCode.FAILED
        assert "North signed two histories of its log" in done.stdout
        files = {path.name: path.read_bytes() for path in (tmp_path / "proof" / "1").iterdir()}
        assert files["card"] == north.home.read_card().encoded
        south.check_log(tmp_path, "south")
        with zipfile.ZipFile(tmp_path / "south-log.zip") as bundle:
            for name in ("held", "shown", "card"):
                assert bundle.read(f"witnessed/1/{name}") == files[name]


def test_admins_who_have_spoken_let_a_log_go_on(tmp_path: Path) -> None:
    """The entries are lost for good: the witness starts over, then the owner settles."""
    with mesh(tmp_path, "North", "South") as (north, south):
        backup = _grown(north, south, tmp_path)
        _restore(north, backup)
        north.start()
        wait_until(lambda: _is_in_doubt(north), what="North learns that its log went back")
        wait_until(lambda: _witnessing(south)["alerts"], what="South's alert")
        own = _witnessing(north)["alerts"][0]["number"]
        done = north.cli("audit", "forks", "--settle", str(own), "--start-over", check=False)
        assert done.returncode == ExitCode.USAGE
        south.cli("audit", "forks", "--settle", "1", "--start-over")
        north.cli("audit", "forks", "--settle", str(own))
        assert not _is_in_doubt(north)
        assert "rollback-seen" in _kinds(north)
        wait_until(lambda: _is_cosigned(north), what="North is cosigned again")
        assert _witnessing(south)["alerts"] == []
        [seen, settled] = south.entries("rollback-seen")
        assert settled["actor"] == "operator"
        assert settled["details"]["digest"] == seen["details"]["digest"]
        # What is gone is gone, for an auditor too.
        north.check_log(tmp_path, "north", Code.LOST)
