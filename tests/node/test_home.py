"""The home: made whole or not at all, locked, and read back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed import killed_at
from places import ROOT

from keys.card import Card, issue_card, parse_card_untrusted
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.config import read_settings
from node.errors import ExitCode, NodeError
from node.home import CARD_LIFETIME_SECONDS, Home

ADDRESS = "/ip4/192.0.2.1/tcp/4101"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", name="North General", addresses=(ADDRESS,))


def test_a_new_home_has_four_private_keys_and_a_card(home: Home) -> None:
    keys = home.read_keys()
    card = home.read_card()
    assert keys.facility is not None
    assert card.facility_key == keys.facility.public
    assert (card.node_key, card.log_key) == (keys.node.public, keys.log.public)
    assert card.witness_key == keys.witness.public
    assert card.addresses == (ADDRESS,)
    assert all(listed.proof for _, listed in card.listed)
    for path in home.keys_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in home.path.parent.iterdir()] == ["home"]


def test_a_home_is_never_overwritten(home: Home) -> None:
    before = home.read_card().encoded
    with pytest.raises(NodeError) as caught:
        Home.create(home.path, name="Another")
    assert caught.value.code is ExitCode.NO_HOME
    assert home.read_card().encoded == before


def test_a_name_that_no_card_may_have_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(NodeError):
        Home.create(tmp_path / "home", name="two\nlines")
    assert list(tmp_path.iterdir()) == []


def _members(path: Path) -> set[str]:
    return {one.name for one in path.iterdir()}


WHOLE = {"config.toml", "card", "keys", "audit", "store", "incoming", "arrivals", "quarantine"}


def test_a_home_in_an_empty_folder_that_cannot_be_renamed_over(tmp_path: Path) -> None:
    """As a mounted volume, or one in a folder of somebody else: its parent is not touched."""
    volume = tmp_path / "volume"
    (volume / "lost+found").mkdir(parents=True)
    inode = volume.stat().st_ino
    volume.chmod(0o755)
    tmp_path.chmod(0o500)
    try:
        home = Home.create(volume, name="North")
    finally:
        tmp_path.chmod(0o700)
    assert volume.stat().st_ino == inode
    assert _members(volume) == WHOLE | {"lost+found"}
    assert volume.stat().st_mode & 0o777 == 0o700
    with Node.open(home) as node:
        assert node.audit.size == 1


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system")
def test_a_home_on_a_mount_point(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", volume], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        Node.open(Home.create(volume, name="North")).close()
    finally:
        subprocess.run(["umount", volume], check=True)


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(NodeError, match="belongs to another user") as caught:
        Home.create(tmp_path, name="North")
    assert caught.value.code is ExitCode.NO_HOME
    assert _members(tmp_path) == set()


@pytest.mark.slow
def test_an_init_that_was_killed_leaves_no_home_and_is_run_again(tmp_path: Path) -> None:
    """Killed at each rename, flush and folder."""
    step, wholes = 0, 0
    while True:
        home = Home(tmp_path / f"home{step}")
        (home.path / "lost+found").mkdir(parents=True)
        killed = killed_at(step, home.path.resolve, lambda path: Home.create(path, name="First"))
        if home.exists:
            wholes += 1
            assert _members(home.path) >= WHOLE
            assert home.read_card().name == "First"
        else:
            assert Home.create(home.path, name="Second").read_card().name == "Second"
            assert _members(home.path) == WHOLE | {"lost+found"}
        Node.open(home).close()
        if not killed:
            break
        step += 1
    assert step > 25
    assert wholes == 3  # behind the card: a flush, the folder that is left, and all of it


def test_what_an_operator_put_there_is_never_cleared_away(home: Home) -> None:
    """A home that lost its card, beside a leftover of its making."""
    (home.path / ".making").mkdir()
    home.card_path.unlink()
    with pytest.raises(NodeError, match="not empty"):
        Home.create(home.path, name="Another")
    assert (home.keys_path / "facility").exists()


def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NodeError) as caught:
        Node.open(Home(tmp_path / "none"))
    assert caught.value.code is ExitCode.NO_HOME
    assert "radmesh init" in caught.value.hint


@pytest.mark.slow
def test_one_process_at_a_time(home: Home) -> None:
    unlock = home.lock()
    code = "import sys; from pathlib import Path; from node.home import Home\n"
    code += "from node.errors import NodeError\n"
    code += "try: Home(Path(sys.argv[1])).lock()\nexcept NodeError as e: sys.exit(int(e.code))"
    command = [sys.executable, "-c", code, str(home.path)]
    root = ROOT
    assert subprocess.run(command, cwd=root).returncode == ExitCode.BUSY
    unlock()
    assert subprocess.run(command, cwd=root).returncode == 0


@pytest.mark.parametrize("role", ["node", "log", "witness"])
def test_a_missing_key_is_told_by_name(home: Home, role: str) -> None:
    (home.keys_path / role).unlink()
    with pytest.raises(NodeError, match=f"the {role} key is missing"):
        home.read_keys()


def test_the_facility_key_may_be_offline(home: Home) -> None:
    (home.keys_path / "facility").unlink()
    assert home.read_keys().facility is None
    with Node.open(home) as node:
        node.publish_addresses(("/ip4/192.0.2.2/tcp/1",))
        assert node.card.addresses == (ADDRESS,)


def test_a_damaged_key_is_told_and_not_replaced(home: Home) -> None:
    path = home.keys_path / "node"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(NodeError, match="node key"):
        home.read_keys()


def test_a_new_address_makes_a_newer_card_with_the_same_keys(home: Home) -> None:
    with Node.open(home) as node:
        old = node.card
        node.publish_addresses((ADDRESS,))
        assert node.card is old
        size = node.audit.size
        node.publish_addresses(("/ip4/192.0.2.2/tcp/1",))
        new = parse_card_untrusted(home.card_path.read_bytes())
        assert new.serial == old.serial + 1
        assert (new.node_keys, new.log_keys) == (old.node_keys, old.log_keys)
        assert node.audit.size == size + 1


def test_no_two_homes_share_a_key(home: Home, tmp_path: Path) -> None:
    """A new facility key comes with new keys of every role: one proven twice is dead."""
    other = Home.create(tmp_path / "other", name="North General, anew")
    pairs = [(one.read_card(), one.read_keys().facility) for one in (home, other)]
    keys = [listed.key for card, _ in pairs for _, listed in card.listed]
    keys += [facility.public for _, facility in pairs if facility is not None]
    assert len(set(keys)) == 8


def _without_proofs(home: Home) -> Card:
    """Give a home the card that the first releases made."""
    keys, card = home.read_keys(), home.read_card()
    assert keys.facility is not None
    old = issue_card(
        keys.facility,
        name=card.name,
        node_key=keys.node.public,
        log_key=keys.log.public,
        witness_key=keys.witness.public,
        addresses=card.addresses,
        serial=1,
        issued=card.issued,
        expires=card.expires,
    )
    home.card_path.write_bytes(old.encoded)
    return old


def test_a_card_without_proofs_is_renewed_with_the_facility_key(home: Home) -> None:
    old = _without_proofs(home)
    with Node.open(home) as node:
        size = node.audit.size
        node.publish_addresses((ADDRESS,))
        assert node.card.serial == 2
        assert all(listed.proof for _, listed in node.card.listed)
        assert [listed.key for _, listed in node.card.listed] == [
            listed.key for _, listed in old.listed
        ]
        assert node.audit.size == size + 1
        # Once; then there is nothing to prove.
        node.publish_addresses((ADDRESS,))
        assert node.card.serial == 2


def test_a_card_without_proofs_stays_and_works_without_the_facility_key(home: Home) -> None:
    old = _without_proofs(home)
    (home.keys_path / "facility").unlink()
    with Node.open(home) as node:
        node.publish_addresses(("/ip4/192.0.2.2/tcp/4101",))
        assert node.card == old


def test_a_card_past_half_its_life_is_renewed(home: Home) -> None:
    keys = home.read_keys()
    assert keys.facility is not None
    now = SYSTEM_CLOCK.now()
    for left, serial in ((CARD_LIFETIME_SECONDS // 2 + 60, 7), (CARD_LIFETIME_SECONDS // 2, 8)):
        card = issue_card(
            keys.facility,
            name="North General",
            node_key=keys.node.public,
            log_key=keys.log.public,
            witness_key=keys.witness.public,
            addresses=(ADDRESS,),
            serial=7,
            issued=now - 1000,
            expires=now + left,
            proving=keys.proving,
        )
        assert home.renew_card(card, keys, (ADDRESS,)).serial == serial


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('listen = "one"', "list of texts"),
        ("write_block_bytes = 10", "from 1024"),
        ("write_block_bytes = true", "from 1024"),
        ('log_level = "loud"', "one of"),
        ("unknown = 1", "unknown entry"),
        ("export_mode = 416", "export_mode .* such as"),
        ('export_mode = "755"', "export_mode .* such as"),
        ('export_mode = "0444"', "export_mode .* such as"),
        ('export_mode = "rw"', "export_mode .* such as"),
        ("listen = [", "not valid TOML"),
        ("bandwidth = 5", "list of tables"),
        ("bandwidth = [5]", "entry 1 of bandwidth .* must be a table"),
        ('[[bandwidth]]\npeer = "*"', "entry 1 of bandwidth .* mbit_per_second"),
    ],
)
def test_wrong_settings_are_told_by_name(home: Home, text: str, said: str) -> None:
    home.config_path.write_text(text)
    with pytest.raises(NodeError, match=said):
        read_settings(home.config_path)


def test_the_socket_of_a_deep_home_fits(tmp_path: Path) -> None:
    deep = Home(tmp_path / ("d" * 120))
    assert len(os.fsencode(deep.socket_path)) < 108
    assert deep.socket_path != Home(tmp_path / ("e" * 120)).socket_path
