"""Evidence, policies and postal addresses as an operator handles them, where no node runs."""

from pathlib import Path

import pytest
import second_log as second
from facilities import Facility

from keys.fingerprint import parse_fingerprint
from node.app import Node
from node.errors import ExitCode
from node.operations.reconcile import known_losses
from node.witness.store import FORK, ROLLBACK
from protocol.log.checkpoint import parse_checkpoint_untrusted
from protocol.log.entry import Event
from protocol.log.note import Signer, parse_note_untrusted, sign_note
from protocol.verify import parse_policy
from protocol.verify.command import main
from protocol.verify.handed import checkpoints_in, receipts_in

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TRANSFER = "07" * 16


@pytest.fixture
def north(tmp_path: Path) -> Facility:
    return Facility(tmp_path, "North General")


@pytest.fixture
def south(tmp_path: Path) -> Facility:
    return Facility(tmp_path, "South Clinic")


def _receipt(source: Facility, recipient: Facility) -> bytes:
    """What both sign of one transfer."""
    nodes = [each.home.read_keys().node for each in (source, recipient)]
    body = {
        "transfer": bytes.fromhex(TRANSFER),
        "source_facility": source.home.read_card().facility_key,
        "recipient_facility": recipient.home.read_card().facility_key,
        "source_node": nodes[0].public,
        "recipient_node": nodes[1].public,
        "manifest": b"m" * 32,
        "content_root": b"r" * 32,
        "instances": 2,
        "bytes": 70_000,
        "batches": 2,
        "encoded_bytes": 30_000,
        "purpose": "treatment",
        "time": source.home.clock.now_ms(),
        "status": "received",
    }
    return second.receipt(body, *nodes)


def _log_receipt(facility: Facility, other: Facility, receipt: bytes, **details: str) -> None:
    with Node.open(facility.home) as node:
        named = node.audit.add_receipt(receipt)
        node.audit.append(
            Event(
                type="receipt",
                peer=other.home.read_card().facility_key,
                purpose="treatment",
                details={"transfer": TRANSFER, "receipt": named, **details},
            )
        )


def _fingerprint(facility: Facility) -> bytes:
    return parse_fingerprint(facility.home.read_card().fingerprint)


def test_receipts_are_handed_over_and_show_what_a_log_lacks(
    north: Facility, south: Facility, tmp_path: Path
) -> None:
    receipt = _receipt(north, south)
    south.trust(north, "see")
    _log_receipt(south, north, receipt)
    assert "from" in south.cli("audit", "receipts").stdout
    [listed] = south.cli_json("audit", "receipts", "--peer", "North General")["receipts"]
    assert (listed["direction"], listed["transfer"]) == ("in", TRANSFER)
    given = tmp_path / "given"
    said = south.cli("audit", "receipts", "--export", str(given)).stdout
    assert said.startswith("wrote 1 receipt (")
    with given.open("rb") as file:
        assert receipts_in(file, _fingerprint(north)) == [receipt]
    assert south.entries("log-exported")[-1]["details"]["format"] == "receipts"
    # North's log does not name it; then it does.
    card = tmp_path / "north.card"
    card.write_bytes(north.home.read_card().encoded)
    for code, name in ((1, "before.zip"), (0, "after.zip")):
        north.call("audit.export", path=str(tmp_path / name))
        words = [str(tmp_path / name), "--facility", str(card), "--receipt", str(given)]
        assert main(words) == code
        if code:
            _log_receipt(north, south, receipt, direction="out")


def test_what_was_cosigned_is_handed_over(north: Facility, south: Facility, tmp_path: Path) -> None:
    south.trust(north, "see")
    with Node.open(north.home) as node:
        note = node.audit.latest_checkpoint().encode()
    facility = north.home.read_card().facility_key
    shown = parse_checkpoint_untrusted(parse_note_untrusted(note)[0])
    with Node.open(south.home) as node:
        now = node.clock.now()
        node.witness_store.keep(facility, shown, note, now)
        node.witness_store.add_alert(facility, b"w" * 32, ROLLBACK, note, note, now)
    given = tmp_path / "given"
    said = south.cli("audit", "witness", "--export", str(given), "--peer", "North General").stdout
    assert said.startswith("wrote 2 checkpoints (")
    with given.open("rb") as file:
        cosigned, bare = checkpoints_in(file, _fingerprint(north))
    assert bare == note
    assert cosigned.startswith(note)
    north.call("audit.export", path=str(tmp_path / "north.zip"))
    card = tmp_path / "south.card"
    card.write_bytes(south.home.read_card().encoded)
    words = [str(tmp_path / "north.zip"), "--facility", north.home.read_card().fingerprint]
    assert main([*words, "--checkpoint", str(given)]) == 0
    assert main([*words, "--witness-card", str(card), "--not-older-than", "1d"]) == 1
    words += ["--witness-card", str(card), "--checkpoint", str(given)]
    assert main([*words, "--not-older-than", "1d"]) == 0


@pytest.mark.parametrize("command", ["receipts", "witness"])
def test_nothing_is_handed_over_where_there_is_nothing(
    north: Facility, tmp_path: Path, command: str
) -> None:
    done = north.cli("audit", command, "--export", str(tmp_path / "none"), check=False)
    assert done.returncode == ExitCode.NOT_FOUND
    assert "to hand over" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_policy_is_recommended_for_two_and_more(
    north: Facility, south: Facility, tmp_path: Path
) -> None:
    north.trust(south, "witness")
    assert "#" not in north.cli("audit", "policy").stdout
    north.trust(Facility(tmp_path, "East Hospital"), "witness")
    text = north.cli("audit", "policy").stdout
    assert parse_policy(text.encode()).quorum == ""
    kept = [line for line in text.splitlines() if not line.startswith(("#", "quorum", "group"))]
    asked = [
        line.removeprefix("# ")
        for line in text.splitlines()
        if line.startswith(("# group ", "# quorum "))
    ]
    policy = parse_policy("\n".join((*kept, *asked)).encode())
    assert policy.words == "2 of 2 witnesses"


def test_a_postal_address_is_noted_and_taken_away(north: Facility, south: Facility) -> None:
    north.trust(south, "see")
    north.cli("trust", "address", "South Clinic", "12 High Street, Southtown")
    assert "12 High Street, Southtown" in north.cli("trust", "show", "South Clinic").stdout
    assert north.peer(south)["postal_address"] == "12 High Street, Southtown"
    done = north.cli("trust", "address", "South Clinic", "two\nlines", check=False)
    assert done.returncode == ExitCode.REFUSED
    assert "not known" in north.cli("trust", "address", "South Clinic", "").stdout
    assert north.peer(south)["postal_address"] == ""


def test_a_log_that_lost_entries_never_agrees_live(north: Facility, south: Facility) -> None:
    """Settled or not; unless the entries are there again."""
    north.trust(south, "witness")
    peer = south.home.read_card().facility_key
    with Node.open(north.home) as node:
        text = f"{node.audit.origin}\n99\n{second.base64_of(b'x' * 32)}\n"
        signer = Signer(node.audit.origin, node.keys.log)
        lost = sign_note(text, [signer]).encode()
        there = node.audit.latest_checkpoint().encode()
        store, now = node.witness_store, node.clock.now()
        [south_here] = node.peers.store.peers
        store.add_alert(node.card.facility_key, peer, FORK, there, there, now)
        assert known_losses(node, south_here) == []
        alert = store.add_alert(node.card.facility_key, peer, ROLLBACK, lost, there, now)
        assert alert is not None
        for _ in range(2):
            [said] = known_losses(node, south_here)
            assert "had 99 when South Clinic cosigned it" in said
            store.settle([alert.number], now)
        store.add_alert(peer, peer, ROLLBACK, lost, there, now)
        assert len(known_losses(node, south_here)) == 2
        store.settle([one.number for one in store.alerts()], now)
        assert len(known_losses(node, south_here)) == 1
