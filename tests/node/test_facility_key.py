"""The facility key out of the home, into a sealed file, back, and on paper."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from clocks_made import MadeClock
from facility_in_memory import entries
from faulty_disk import FaultyDisk
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_homes import OTHER_WORDS, WORDS, asks, reopened, wrapping_of
from shamir_mnemonic.wordlist import WORDLIST

from keys.errors import BadKey, KeysError
from keys.identity import KeyPair
from keys.keyfile import decode_key, encode_key, read_key_file, seal_key
from node import facility_key
from node.alerts import alerts_of
from node.api.client import call
from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import CARD_LIFETIME_SECONDS, Home
from node.keyring import open_file
from node.shares import NEEDED, SHARES, check_untrusted, join_untrusted, split
from node.shares import WORDS as SHARE_WORDS

DAY = 24 * 3600
FILE = wrapping_of(OTHER_WORDS, 7)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", name="North General")


def _text(pair: KeyPair | None) -> str:
    assert pair is not None
    return encode_key("facility", pair).decode()


# --- to a file and back ----------------------------------------------------------------------


def test_it_leaves_for_a_file_that_opens_and_the_node_runs_without_it(
    home: Home, tmp_path: Path
) -> None:
    file, old = tmp_path / "stick", home.keys_path / "facility"
    seed = home.read_keys().facility.seed
    with old.open("rb") as kept:
        with Node.open(home) as node:
            node.move_facility_key_out(file, FILE)
            assert node.keys.facility is None
            assert entries(node)[-1]["details"] == {"to": "file"}
            with pytest.raises(NodeError, match="not in this home"):
                facility_key.require_here(home, node.keys)
            node.audit.latest_checkpoint()
        assert kept.read() == bytes(os.fstat(kept.fileno()).st_size)  # overwritten
    assert not old.exists()
    assert file.stat().st_mode & 0o777 == 0o600
    assert open_file("facility", file.read_bytes(), asks(OTHER_WORDS)).seed == seed
    with Node.open(Home(home.path)) as node:
        assert node.keys.facility is None


def test_it_stays_where_the_file_does_not_come_back_as_written(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, damaged = facility_key._from_disk, []

    def damaging(path: Path) -> bytes:
        data = bytearray(read(path))
        data[-10] ^= 1
        damaged.append(path)
        return bytes(data)

    monkeypatch.setattr(facility_key, "_from_disk", damaging)
    with Node.open(home) as node:
        size = node.audit.size
        with pytest.raises(NodeError, match="does not come back") as caught:
            node.move_facility_key_out(tmp_path / "stick", FILE)
        assert caught.value.code is ExitCode.DISK
        assert node.keys.facility is not None
        assert node.audit.size == size
    assert damaged
    assert home.read_keys().facility is not None


def test_it_stays_where_the_file_holds_another_key(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = seal_key("facility", KeyPair.generate(), FILE, bytes(24))
    monkeypatch.setattr(facility_key, "_from_disk", lambda path: other)
    with Node.open(home) as node:
        with pytest.raises(NodeError, match="does not come back"):
            node.move_facility_key_out(tmp_path / "stick", FILE)
    assert home.read_keys().facility is not None


def test_a_key_that_cannot_be_removed_is_said(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(facility_key, "overwrite", fail)
    with Node.open(home) as node:
        with pytest.raises(NodeError, match=r"facility key is in .*stick, and its file .*cannot"):
            node.move_facility_key_out(tmp_path / "stick", FILE)
        with pytest.raises(NodeError, match="not in this home"):
            facility_key.require_here(home, node.keys)
    assert (tmp_path / "stick").exists()


@pytest.mark.slow
def test_power_cut_at_each_call_of_moving_out(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is in the home or in the file, wherever the power fails."""
    seed = home.read_keys().facility.seed
    outcomes = set()
    at, reached = 0, True
    while reached:
        machine = tmp_path / f"run-{at}"
        shutil.copytree(home.path, machine / "home")
        run, acknowledged = Home(machine / "home"), False
        with monkeypatch.context() as patch:
            disk = FaultyDisk(machine, patch)
            node = Node.open(run)
            disk.fail(at)
            try:
                node.move_facility_key_out(machine / "stick", FILE)
                acknowledged = True
                # Or it is written in the background while the folders are looked at.
                node.audit.latest_checkpoint()
            except NodeError as error:
                if error.code is not ExitCode.DISK:
                    raise
            reached = disk.calls > at
            for kind, left in disk.survivors(tmp_path / "left", seed=at):
                here = _is_here(left / "home", seed)
                there = _is_there(left / "stick", seed)
                outcomes.add((here, there))
                assert here or there, f"the key is lost: call {at}, {kind}"
                assert not acknowledged or (here, there) == (False, True), f"call {at}, {kind}"
            node.close()
        shutil.rmtree(machine)
        at += 1
    assert outcomes == {(True, False), (True, True), (False, True)}
    assert at > 10


def _is_here(path: Path, seed: bytes) -> bool:
    file = path / "keys" / "facility"
    try:
        return decode_key("facility", file.read_bytes()).seed == seed
    except (OSError, KeysError):
        return False


def _is_there(path: Path, seed: bytes) -> bool:
    try:
        return decode_key("facility", path.read_bytes(), FILE).seed == seed
    except (OSError, KeysError):
        return False


def test_what_a_crash_leaves_of_it_is_overwritten_by_the_next_start(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power failed before the file in the home was overwritten."""

    def dies(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(facility_key, "overwrite", dies)
    with Node.open(home) as node:
        with pytest.raises(KeyboardInterrupt):
            node.move_facility_key_out(tmp_path / "stick", FILE)
    [left] = home.keys_path.glob(".*")
    with left.open("rb") as kept:
        with Node.open(home) as node:
            assert node.keys.facility is None
        assert kept.read() == bytes(os.fstat(kept.fileno()).st_size)
    assert sorted(path.name for path in home.keys_path.iterdir()) == ["log", "node", "witness"]


def test_the_file_is_read_back_and_logged_before_the_key_goes(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(facility_key, "overwrite", lambda path: seen.append(path.read_bytes()))
    with Node.open(home) as node:
        original = (home.keys_path / "facility").read_bytes()
        monkeypatch.setattr(
            node.audit,
            "append",
            lambda event: seen.append((event.type, (tmp_path / "stick").exists())),
        )
        node.move_facility_key_out(tmp_path / "stick", FILE)
    assert seen == [("facility-key-moved", True), original]


@pytest.mark.parametrize("where", ["exists", "inside", "no-folder"])
def test_files_that_it_does_not_go_to(home: Home, tmp_path: Path, where: str) -> None:
    path = {
        "exists": tmp_path / "stick",
        "inside": home.path / "facility-again",
        "no-folder": tmp_path / "none" / "stick",
    }[where]
    (tmp_path / "stick").write_text("something else")
    with Node.open(home) as node:
        with pytest.raises(NodeError):
            node.move_facility_key_out(path, FILE)
        assert node.keys.facility is not None
    assert home.read_keys().facility is not None
    assert (tmp_path / "stick").read_text() == "something else"


@pytest.mark.parametrize("is_sealed", [False, True])
def test_it_comes_back_as_the_other_keys_are_kept(tmp_path: Path, is_sealed: bool) -> None:
    path = tmp_path / "home"
    wrapping = wrapping_of(WORDS) if is_sealed else None
    Home.create(path, name="North General", wrapping=wrapping)
    with Node.open(reopened(path, WORDS)) as node:
        facility = node.keys.facility
        node.move_facility_key_out(tmp_path / "stick", FILE)
    taken = call(reopened(path, WORDS), "keys.import-facility", {"facility_key": _text(facility)})
    assert taken["serial"] == 1  # the card was not due
    kept = read_key_file("facility", (path / "keys" / "facility").read_bytes())
    assert (kept.cost is not None) is is_sealed
    with Node.open(reopened(path, WORDS)) as node:
        assert node.keys.facility.public == facility.public
        assert entries(node)[-1]["details"] == {"to": "home"}


def test_the_facility_key_of_another_is_not_taken(home: Home) -> None:
    stranger = _text(KeyPair.generate())
    for operation in ("keys.import-facility", "card.renew", "keys.shares"):
        with pytest.raises(NodeError, match="another facility") as caught:
            call(home, operation, {"facility_key": stranger})
        assert caught.value.code is ExitCode.INTEGRITY
    assert home.read_card().serial == 1


# --- the card ---------------------------------------------------------------------------------


def test_a_card_is_renewed_with_the_key_from_a_file_and_the_key_is_not_kept(home: Home) -> None:
    facility = home.read_keys().facility
    (home.keys_path / "facility").unlink()
    with pytest.raises(NodeError, match="not in this home"):
        call(home, "card.renew", {})
    before = home.read_card()
    home.config_path.write_text('addresses = ["/ip4/192.0.2.77/tcp/4101"]\n')
    renewed = call(home, "card.renew", {"facility_key": _text(facility)})
    card = home.read_card()
    assert (renewed["serial"], renewed["card"]) == (2, card.digest)
    assert card.addresses == ("/ip4/192.0.2.77/tcp/4101",)
    assert [one.key for _, one in card.listed] == [one.key for _, one in before.listed]
    assert not home.has_key("facility")
    with Node.open(home) as node:
        [entry] = entries(node, "card-updated")
        assert entry["details"]["card"] == card.digest


@pytest.mark.parametrize(
    ("days_left", "said"),
    [
        (91, None),
        (90, "in 90 days"),
        (31, "soon"),
        (30, "this week"),
        (8, "this week"),
        (7, "today"),
        (0, "in 0 days"),
        (-1, "our card ended"),
    ],
)
@pytest.mark.parametrize("here", [True, False])
def test_before_the_card_ends_the_node_says_what_to_do(
    tmp_path: Path, days_left: int, said: str | None, here: bool
) -> None:
    clock = MadeClock()
    home = Home.create(tmp_path / "home", name="North General", clock=clock)
    if not here:
        (home.keys_path / "facility").unlink()
    clock.move(CARD_LIFETIME_SECONDS - days_left * DAY - 60)
    with Node.open(home) as node:
        found = [one for one in alerts_of(node, None) if "our card" in one]
    if said is None:
        assert found == []
        return
    [alert] = found
    assert said in alert
    assert "radmesh card renew" in alert
    assert ("--facility-key" in alert) is not here


def test_a_card_that_is_due_is_renewed_when_the_key_comes_back(tmp_path: Path) -> None:
    clock = MadeClock()
    home = Home.create(tmp_path / "home", name="North General", clock=clock)
    facility = home.read_keys().facility
    (home.keys_path / "facility").unlink()
    clock.move(CARD_LIFETIME_SECONDS - 20 * DAY)
    taken = call(home, "keys.import-facility", {"facility_key": _text(facility)})
    assert taken["serial"] == 2
    assert taken["card_expires"] == clock.now() + CARD_LIFETIME_SECONDS


# --- on paper ---------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.binary(min_size=32, max_size=32))
def test_any_two_shares_give_the_key_back(seed: bytes) -> None:
    pair = KeyPair.from_seed(seed)
    shares = split(pair)
    assert len(shares) == SHARES
    assert all(len(share.split()) == SHARE_WORDS for share in shares)
    for two in itertools.permutations(shares, NEEDED):
        typed = ["  " + share.upper().replace(" ", "  ") for share in two]
        assert join_untrusted(typed).seed == seed


SHARES_OF_ONE = split(KeyPair.from_seed(bytes(range(32))))


@given(
    st.sampled_from(SHARES_OF_ONE),
    st.integers(min_value=0, max_value=SHARE_WORDS - 1),
    st.sampled_from(WORDLIST) | st.just("radiology"),
)
def test_a_wrong_word_is_found_and_no_word_is_repeated(share: str, at: int, word: str) -> None:
    words = share.split()
    if words[at] == word:
        return
    words[at] = word
    with pytest.raises(BadKey) as caught:
        check_untrusted(" ".join(words))
    assert str(caught.value) == "a word of the share is wrong"


@pytest.mark.parametrize(
    "shares",
    [
        SHARES_OF_ONE[:1],
        SHARES_OF_ONE[:1] * 2,
        SHARES_OF_ONE,
        (SHARES_OF_ONE[0], split(KeyPair.from_seed(bytes(32)))[1]),
        ("", ""),
        (SHARES_OF_ONE[0], " ".join(SHARES_OF_ONE[1].split()[:-1])),
    ],
)
def test_what_gives_no_key(shares: tuple[str, ...]) -> None:
    with pytest.raises(BadKey):
        join_untrusted(shares)


def test_printing_shares_is_on_record_and_changes_nothing(home: Home) -> None:
    made = call(home, "keys.shares", {})
    assert join_untrusted(made["shares"][1:]).public == home.read_card().facility_key
    assert home.has_key("facility")
    with Node.open(home) as node:
        assert entries(node)[-1]["details"] == {"to": "paper"}
        log = b"".join(node.audit.entries())
    assert not any(share.encode() in log for share in made["shares"])


def test_a_file_from_outside(home: Home) -> None:
    facility = home.read_keys().facility
    with pytest.raises(NodeError, match="another role") as caught:
        open_file("facility", (home.keys_path / "node").read_bytes(), asks(WORDS))
    assert caught.value.code is ExitCode.USAGE
    data = seal_key("facility", facility, FILE, bytes(24))
    with pytest.raises(NodeError, match="passphrase does not open") as caught:
        open_file("facility", data, asks(WORDS))
    assert caught.value.code is ExitCode.PASSPHRASE
    assert open_file("facility", data, asks(OTHER_WORDS)).seed == facility.seed
