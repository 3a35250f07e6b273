"""docs/recovery.md: each command of it is run, in its order, and the facility is there again."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import RADMESH, Facility, two_facilities, wait_until
from places import ROOT
from sealed_homes import OTHER_WORDS, WORDS, cheap_passphrases
from terminal import Ran, Terminal, images, terminal

from keys.keyfile import ROLES
from node.api.client import is_running
from node.app import Node
from node.cli import key_files, passphrases
from node.errors import ExitCode, NodeError
from node.home import Home

__all__ = ["images", "terminal"]

TEXT = (ROOT / "docs" / "recovery.md").read_text()
OF_BACKUP = "another four words here"
OF_FACILITY = "and these four for paper"


def commands(section: int) -> list[str]:
    """The command lines in a section of the document."""
    [text] = re.findall(rf"^## {section}\. .*?$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return re.findall(r"^ {4,8}(radmesh .*)$", text, re.MULTILINE)


class Admin:
    """Runs the lines of the document on a machine in a folder, and types at its terminal."""

    def __init__(self, terminal: Terminal, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.terminal = terminal
        self.folder = folder
        self.home = folder / "home"
        self.shares: list[str] = []
        self.typed = {
            "passphrase of the keys": WORDS,
            "new passphrase of the keys": WORDS,
            "passphrase of the keys in the backup": OF_BACKUP,
            "passphrase of the facility key": OF_FACILITY,
            "new passphrase of the facility key": OF_FACILITY,
        }
        self.asked: list[str] = []

        def read(what: str, descriptor: int | None, **_: object) -> str:
            self.asked.append(what)
            return self.typed[what]

        monkeypatch.setattr(passphrases, "read", read)
        monkeypatch.setattr(key_files, "_typed_share", lambda number, _: self.shares[number - 1])
        cheap_passphrases(monkeypatch)
        (folder / "stick").mkdir()

    def run(self, line: str, *, code: int = 0, **replaced: str) -> Ran:
        """Run one line of the document, with this machine's folders in place of those in it."""
        text = line
        places = {
            "/mnt/backup/north": str(self.folder / "backups"),
            "/media/stick": str(self.folder / "stick"),
            "/var/lib/radmesh/home": str(self.home),
            "/var/lib/radmesh/new": str(self.folder / "new"),
            " north": f" {self.folder}/north",
        }
        for place, here in {**places, **replaced}.items():
            text = text.replace(place, here)
        words = shlex.split(text)[1:]
        home = self.home
        if words[0] == "--home":
            home = Path(words[1])
            words = words[2:]
        if words == ["serve"]:
            return self._serve(home)
        self.terminal.home = home
        ran = self.terminal.run(*words)
        assert ran.code == code, (line, ran)
        return ran

    def _serve(self, home: Path) -> Ran:
        """What a start of the node does with the keys and the log."""
        with Node.open(Home(home, ask=lambda: passphrases.of_home(None)), to_serve=True) as node:
            node.record_start()
            node.clean_up()
            node.record_stop()
        return Ran(0, "", "")


@pytest.fixture
def admin(
    terminal: Terminal, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> Admin:
    """A machine with sealed keys and a study, prepared as section 1 says."""
    admin = Admin(terminal, tmp_path, monkeypatch)
    assert terminal.run("init", "--name", "North General", "--passphrase").code == 0
    terminal.run("ingest", str(images))
    backup, shares, export = commands(1)
    admin.run(backup)
    printed = admin.run(shares).out
    found = re.findall(r"share \d of 3\n((?:  .*\n)+)", printed)
    admin.shares = [" ".join(share.split()) for share in found]
    assert len(admin.shares) == 3
    admin.run(export)
    assert sorted(path.name for path in (admin.home / "keys").iterdir()) == [
        "log",
        "node",
        "witness",
    ]
    return admin


def _log(home: Path) -> bytes:
    return (home / "audit" / "log").read_bytes().rstrip(b"\0")


@pytest.mark.slow
def test_the_machine_is_lost(admin: Admin) -> None:
    card = Home(admin.home).read_card()
    shutil.rmtree(admin.home)
    restore, check, seal, serve, rotate, witness, revoke = commands(2)
    restored = admin.run(restore)
    noted = re.search(r"size and root of the log: (\S+)", restored.out)[1]
    admin.run(check)
    # The keys are under the passphrase of the backup, and nothing else.
    with pytest.raises(NodeError) as caught:
        admin.run(serve)
    assert caught.value.code is ExitCode.PASSPHRASE
    admin.typed["passphrase of the keys"] = OF_BACKUP
    admin.typed["new passphrase of the keys"] = OTHER_WORDS
    admin.run(seal)
    admin.typed["passphrase of the keys"] = OTHER_WORDS
    admin.run(serve)
    assert Home(admin.home).read_card().facility_key == card.facility_key
    # Somebody may have its disk.
    admin.run(rotate)
    admin.run(witness)
    admin.run(revoke, **{"SIZE:ROOT": noted})
    admin.run(serve)
    newer = Home(admin.home).read_card()
    for role in ("node", "log", "witness"):
        assert getattr(newer, f"{role}_key") != getattr(card, f"{role}_key")
        assert Home(admin.home).keyring.files()[role].cost is not None
    assert newer.facility_key == card.facility_key
    admin.run(check)
    assert json.loads(admin.terminal.run("studies", "--json").out)["studies"]


def test_the_passphrase_is_lost_and_the_node_does_not_run(admin: Admin) -> None:
    before, log = Home(admin.home).read_card(), _log(admin.home)
    admin.typed["passphrase of the keys"] = "who knows what it was"
    assert admin.terminal.run("keys", "rotate", "log").code == ExitCode.PASSPHRASE
    _, restore, seal = commands(3)
    admin.run(restore)
    admin.typed["passphrase of the keys"] = OF_BACKUP
    admin.typed["new passphrase of the keys"] = OTHER_WORDS
    admin.run(seal)
    admin.typed["passphrase of the keys"] = OTHER_WORDS
    admin.run("radmesh serve")
    home = Home(admin.home)
    assert home.read_card() == before
    assert _log(admin.home).startswith(log)
    assert not home.has_key("facility")  # it was taken off the machine
    assert set(home.keyring.files()) == set(ROLES) - {"facility"}


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_a_key_file_is_lost(admin: Admin, how: str) -> None:
    path = admin.home / "keys" / "node"
    path.unlink() if how == "deleted" else path.write_bytes(b"radmesh-key-v1 node")
    assert admin.terminal.run("status").code == ExitCode.NO_HOME
    _, restore, _ = commands(3)
    admin.run(restore)
    admin.typed["passphrase of the keys"] = OF_BACKUP
    admin.run("radmesh serve")


def test_keys_of_another_time_are_refused(admin: Admin) -> None:
    """A key that was replaced since the backup does not come back."""
    _, restore, _ = commands(3)
    facility = str(admin.folder / "stick" / "facility")
    assert admin.terminal.run("keys", "rotate", "node", "--facility-key", facility).code == 0
    keys = {path.name: path.read_bytes() for path in (admin.home / "keys").iterdir()}
    refused = admin.run(restore, code=ExitCode.INTEGRITY)
    assert "not the one that its card and its log name" in refused.err
    assert keys == {path.name: path.read_bytes() for path in (admin.home / "keys").iterdir()}


def test_a_backup_without_keys_gives_none(admin: Admin) -> None:
    _, restore, _ = commands(3)
    shutil.rmtree(admin.folder / "backups")
    assert admin.terminal.run("backup", str(admin.folder / "backups")).code == 0
    refused = admin.run(restore, code=ExitCode.NOT_FOUND)
    assert "no backup with keys" in refused.err


def test_the_facility_key_is_lost(admin: Admin) -> None:
    (admin.folder / "stick" / "facility").unlink()
    serial = Home(admin.home).read_card().serial
    join, renew, make, export = commands(5)
    admin.shares = admin.shares[1:]  # one sheet is gone, too
    admin.run(join)
    admin.run(renew)
    assert Home(admin.home).read_card().serial == serial + 1
    # No copy is left.
    admin.run(make)
    admin.run(export)
    first, new = Home(admin.home).read_card(), Home(admin.folder / "new").read_card()
    assert first.facility_key != new.facility_key
    assert {key.key for _, key in first.listed}.isdisjoint({key.key for _, key in new.listed})


def test_the_drill(admin: Admin) -> None:
    [drill] = commands(6)
    assert "stolen (played on a copy" in admin.run(drill).out


@pytest.mark.slow
@pytest.mark.integration
def test_the_passphrase_is_lost_and_the_node_runs(admin: Admin) -> None:
    lost, *_ = commands(3)
    admin.run(lost, code=ExitCode.BUSY)  # nobody has the keys yet
    (admin.home / "config.toml").write_text('listen = ["/ip4/127.0.0.1/tcp/0"]\n')
    words = admin.folder / "words"
    words.write_text(WORDS)
    with words.open("rb") as opened:
        process = subprocess.Popen(
            [*RADMESH, "--home", str(admin.home), "--passphrase-fd", str(opened.fileno()), "serve"],
            pass_fds=[opened.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    try:
        wait_until(lambda: is_running(Home(admin.home).socket_path))
        admin.asked.clear()
        admin.typed["new passphrase of the keys"] = OTHER_WORDS
        admin.run(lost)
        assert admin.asked == ["new passphrase of the keys"]
    finally:
        process.terminate()
        process.wait(20)
    assert admin.terminal.run("keys", "seal").code == ExitCode.PASSPHRASE
    admin.typed["passphrase of the keys"] = OTHER_WORDS
    admin.run("radmesh serve")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Facility, Facility]]:
    (tmp_path / "two").mkdir()
    with two_facilities(tmp_path / "two") as two:
        yield two


@pytest.mark.slow
@pytest.mark.integration
def test_the_node_key_is_stolen(
    pair: tuple[Facility, Facility],
    terminal: Terminal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    north, south = pair
    admin = Admin(terminal, tmp_path, monkeypatch)
    admin.home = north.home.path
    _, _, export = commands(1)
    admin.run(export)
    old = north.home.read_card().node_key
    rotate, reconcile, card = commands(4)
    rotated = admin.run(rotate)
    assert "was sent to 1 connected peer" in rotated.out
    wait_until(lambda: south.peer(north)["connected"], what="South knows North again")
    known = south.peer(north)
    assert known["card_serial"] == north.home.read_card().serial
    assert not north.home.read_card().is_current_node_key(old, known["last_seen"])
    wait_until(lambda: north.peer(south)["connected"])
    admin.run(reconcile)
    admin.run(card)
    assert (tmp_path / "north.card").read_bytes() == north.home.card_path.read_bytes()


def test_each_command_of_the_document_is_in_a_test_here() -> None:
    """The numbers that the tests above unpack are those of the document."""
    counts = [len(commands(section)) for section in range(1, 7)]
    assert counts == [3, 7, 3, 3, 4, 1]
    assert sum(counts) == len(re.findall(r"^ {4,}radmesh ", TEXT, re.MULTILINE))
