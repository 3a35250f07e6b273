"""`radmesh keys seal`, `unseal` and the facility key: what people see, and with a running node."""

import json
import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import RADMESH, wait_until
from sealed_homes import OTHER_WORDS, WORDS, cheap_passphrases
from terminal import FINGERPRINT, Terminal, north, terminal

from keys.keyfile import ROLES
from node.api.client import is_running
from node.errors import ExitCode
from node.home import Home

__all__ = ["north", "terminal"]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_passphrases(monkeypatch)


def fd(*lines: str) -> str:
    """A file descriptor, as text, with lines to be read."""
    reading, writing = os.pipe()
    os.write(writing, "".join(f"{line}\n" for line in lines).encode())
    os.close(writing)
    return str(reading)


def test_a_session_with_sealed_keys(north: Terminal) -> None:
    north.run("keys", "seal", "--new-passphrase-fd", fd(WORDS))
    north.run("keys", "rotate", "node")
    north.run("--passphrase-fd", fd("not these words"), "keys", "rotate", "node")
    north.run("--passphrase-fd", fd(WORDS), "keys", "rotate", "witness")
    north.run("keys", "show")
    north.run("--passphrase-fd", fd(WORDS), "keys", "seal", "--new-passphrase-fd", fd(OTHER_WORDS))
    north.run("--passphrase-fd", fd(WORDS), "keys", "unseal")
    north.run("--passphrase-fd", fd(OTHER_WORDS), "keys", "unseal")
    session = "\n".join(
        line for line in north.masked().splitlines() if not line.startswith(("old", "new", "$"))
    )
    assert session.splitlines() == [
        "sealed under the new passphrase: facility, node, log, witness",
        "keep the passphrase apart from this machine: nobody can restore it.",
        "radmesh: error: there is no terminal to ask for the passphrase of the keys",
        "radmesh: hint: give it through a file descriptor, `radmesh --passphrase-fd 3 COMMAND 3< "
        "FILE`, or as the credential radmesh.passphrase of systemd",
        "(exit 12)",
        "radmesh: error: the passphrase does not open the witness key, or its file is damaged",
        "radmesh: hint: give the right one; docs/recovery.md says what to do when it is lost",
        "(exit 12)",
        "the witness key was replaced by entry 2 of the log",
        "card serial 2",
        "next: back up the folder `keys` and the file `card`.",
        "facility  FINGERPRINT (in this home)",
        "node      HEX since TIME",
        "log       HEX from size 0",
        "witness   HEX since TIME until TIME",
        "witness   HEX since TIME",
        "the private keys are under a passphrase",
        "sealed under the new passphrase: facility, node, log, witness",
        "keep the passphrase apart from this machine: nobody can restore it.",
        "radmesh: error: the passphrase does not open the witness key, or its file is damaged",
        "radmesh: hint: give the right one; docs/recovery.md says what to do when it is lost",
        "(exit 12)",
        "in the open, mode 0600: facility, node, log, witness",
    ]
    assert not Home(north.home).keyring.is_sealed
    # And an auditor's verifier reads the entries.
    bundle = str(north.home.parent / "bundle")
    assert north.run("audit", "export", bundle).code == 0
    own = Home(north.home).read_card().fingerprint
    assert north.run("audit", "verify", bundle, "--facility", own).code == 0


def test_a_home_is_made_with_a_passphrase(terminal: Terminal) -> None:
    made = terminal.run(
        "--passphrase-fd", fd(WORDS), "init", "--name", "North General", "--passphrase"
    )
    assert made.code == 0
    assert Home(terminal.home).keyring.is_sealed
    assert terminal.run("status").code == 0
    assert terminal.run("card", "show").code == 0


def test_what_init_refuses(terminal: Terminal) -> None:
    make = ("init", "--name", "North General")
    assert terminal.run("--passphrase-fd", fd(WORDS), *make).code == ExitCode.USAGE
    short = terminal.run("--passphrase-fd", fd("too short"), *make, "--passphrase")
    assert short.code == ExitCode.USAGE
    assert "12 characters" in short.err
    assert terminal.run(*make, "--passphrase").code == ExitCode.PASSPHRASE
    assert not terminal.home.exists()


def test_a_credential_of_systemd_opens_the_keys(
    north: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    north.run("keys", "seal", "--new-passphrase-fd", fd(WORDS))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert north.run("keys", "rotate", "node").code == ExitCode.PASSPHRASE  # no such credential
    (tmp_path / "radmesh.passphrase").write_text(WORDS + "\n")
    assert north.run("keys", "rotate", "node").code == 0
    # A file descriptor that was named goes before it.
    words = ("--passphrase-fd", fd("not these words"), "keys", "rotate", "node")
    assert north.run(*words).code == ExitCode.PASSPHRASE
    (tmp_path / "radmesh.passphrase").write_bytes(b"\xff\xfe")
    ran = north.run("keys", "rotate", "node")
    assert (ran.code, "credential" in ran.err) == (ExitCode.PASSPHRASE, True)


def test_the_facility_key_leaves_and_serves_from_its_file(north: Terminal) -> None:
    stick = str(north.home.parent / "stick")
    moved = north.run("keys", "export-facility", stick, "--new-passphrase-fd", fd(WORDS))
    assert moved.code == 0
    assert moved.out.startswith(f"moved the facility key to {stick}; it was read back from there\n")
    assert "offline" in north.run("keys", "show").out
    assert north.run("keys", "rotate", "node").code == ExitCode.NOT_FOUND
    with_file = ("--facility-key", stick, "--facility-passphrase-fd")
    assert north.run("keys", "rotate", "node", *with_file, fd(WORDS)).code == 0
    assert north.run("card", "renew", *with_file, fd(WORDS)).out.startswith("card serial 3, valid")
    wrong = north.run("card", "renew", *with_file, fd(OTHER_WORDS))
    assert wrong.code == ExitCode.PASSPHRASE
    assert WORDS not in north.session
    assert north.run("card", "renew", "--facility-key", stick).code == ExitCode.PASSPHRASE
    again = north.run("keys", "import-facility", stick, "--facility-passphrase-fd", fd(WORDS))
    assert again.out.startswith("the facility key is in this home again\ncard serial 3, valid")
    assert north.run("card", "renew").code == 0
    elsewhere = str(north.home / "stick")
    refused = north.run("keys", "export-facility", elsewhere, "--new-passphrase-fd", fd(WORDS))
    assert refused.code == ExitCode.USAGE
    assert "in the home itself" in refused.err


def test_shares_on_paper_give_the_key_back(north: Terminal) -> None:
    made = json.loads(north.run("keys", "shares", "--json").out)
    shown = north.run("keys", "shares").out
    assert shown.count("\nshare ") == 3
    assert max(len(line) for line in shown.splitlines()) <= 80
    first, _, third = made["shares"]
    stick = str(north.home.parent / "stick")
    join = ("keys", "from-shares", stick, "--new-passphrase-fd")
    wrong = " ".join(["academic", *first.split()[1:]])
    refused = north.run(*join, fd(WORDS), "--shares-fd", fd(wrong, third))
    assert (refused.code, "a word of the share is wrong" in refused.err) == (ExitCode.USAGE, True)
    assert first.split()[0] not in refused.err
    joined = north.run(*join, fd(WORDS), "--shares-fd", fd(third, first))
    assert joined.code == 0
    assert FINGERPRINT.search(joined.out)[0] == made["fingerprint"]
    (north.home / "keys" / "facility").unlink()
    again = north.run("keys", "import-facility", stick, "--facility-passphrase-fd", fd(WORDS))
    assert again.code == 0
    # Onto a machine without a home, too.
    north.home.rename(north.home.with_name("gone"))
    other = str(north.home.parent / "other")
    join = ("keys", "from-shares", other, "--new-passphrase-fd")
    assert north.run(*join, fd(WORDS), "--shares-fd", fd(first, third)).code == 0


def test_shares_of_another_facility_are_refused(north: Terminal) -> None:
    made = json.loads(north.run("keys", "shares", "--json").out)
    north.home.rename(north.home.with_name("first"))
    north.run("init", "--name", "South Clinic")
    stick = north.home.parent / "stick"
    refused = north.run(
        "keys", "from-shares", str(stick), "--new-passphrase-fd", fd(WORDS), "--shares-fd",
        fd(*made["shares"][:2]),
    )  # fmt: skip
    assert refused.code == ExitCode.INTEGRITY
    assert not stick.exists()


@pytest.mark.slow
@pytest.mark.integration
def test_words_typed_at_the_terminal(north: Terminal) -> None:
    """A wrong share is asked for again, and the passphrase is not shown."""
    made = json.loads(north.run("keys", "shares", "--json").out)
    first, second, _ = made["shares"]
    stick = north.home.parent / "stick"
    wrong = " ".join([*first.split()[:-1], "academic"])
    typed = [wrong, first, second, WORDS, WORDS]
    code, shown = _at_a_terminal(
        [*RADMESH, "--home", str(north.home), "keys", "from-shares", str(stick)], typed
    )
    assert code == 0, shown
    assert "a word of the share is wrong: type the share again" in shown
    assert WORDS not in shown
    assert stick.exists()


@pytest.mark.slow
@pytest.mark.integration
def test_the_passphrase_is_asked_for_at_the_terminal_and_not_shown(north: Terminal) -> None:
    north.run("keys", "seal", "--new-passphrase-fd", fd(WORDS))
    command = [*RADMESH, "--home", str(north.home), "keys", "rotate", "witness"]
    code, shown = _at_a_terminal(command, [WORDS])
    assert (code, "the witness key was replaced" in shown) == (0, True), shown
    assert "passphrase of the keys:" in shown
    assert WORDS not in shown
    code, shown = _at_a_terminal(command, ["not these words"])
    assert code == ExitCode.PASSPHRASE
    assert "not these words" not in shown
    # The new one twice, and the one of today first.
    command[-2:] = ["seal"]
    code, shown = _at_a_terminal(command, [WORDS, OTHER_WORDS, OTHER_WORDS])
    assert code == 0, shown
    assert shown.index("passphrase of the keys:") < shown.index("new passphrase of the keys:")


def _at_a_terminal(command: list[str], typed: list[str]) -> tuple[int, str]:
    """Run a command at a pseudo-terminal, with a line typed after each prompt."""
    leader, follower = pty.openpty()
    shown = b""
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    ) as process:
        os.close(follower)
        killer = threading.Timer(60, process.kill)
        killer.start()
        lines = iter(typed)
        seen = 0
        while True:
            try:
                block = os.read(leader, 1024)
            except OSError:
                break
            if not block:
                break
            shown += block
            if shown[seen:].rstrip(b" ").endswith(b":"):
                seen = len(shown)
                os.write(leader, next(lines).encode() + b"\n")
        code = process.wait()
        killer.cancel()
    os.close(leader)
    return code, shown.decode()


# --- a running node ----------------------------------------------------------------------------


@pytest.fixture
def running(north: Terminal) -> Iterator[Terminal]:
    """A running node with sealed keys."""
    config = north.home / "config.toml"
    config.write_text('listen = ["/ip4/127.0.0.1/tcp/0"]\n')
    north.run("keys", "seal", "--new-passphrase-fd", fd(WORDS))
    descriptor = int(fd(WORDS))
    command = [*RADMESH, "--home", str(north.home), "--passphrase-fd", str(descriptor), "serve"]
    errors = (north.home.parent / "errors").open("wb")
    process = subprocess.Popen(
        command, pass_fds=[descriptor], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
    )
    os.close(descriptor)
    try:
        wait_until(lambda: is_running(Home(north.home).socket_path))
        yield north
    finally:
        process.terminate()
        process.wait(20)
        errors.close()


@pytest.mark.slow
@pytest.mark.integration
def test_a_node_starts_unattended_and_its_keys_change_while_it_runs(running: Terminal) -> None:
    home = Home(running.home)
    # A command to a running node needs no passphrase.
    assert running.run("keys", "rotate", "node").code == 0
    assert all(file.cost is not None for file in home.keyring.files().values())
    # But whoever changes the passphrase has to know it.
    change = ("keys", "seal", "--new-passphrase-fd")
    assert running.run(*change, fd(OTHER_WORDS)).code == ExitCode.PASSPHRASE
    assert running.run("keys", "unseal").code == ExitCode.PASSPHRASE
    wrong = running.run("--passphrase-fd", fd(OTHER_WORDS), *change, fd(OTHER_WORDS))
    assert wrong.code == ExitCode.PASSPHRASE
    stick = str(running.home.parent / "stick")
    moved = running.run("keys", "export-facility", stick, "--new-passphrase-fd", fd(WORDS))
    assert moved.code == 0, moved
    assert not home.has_key("facility")
    renew = ("card", "renew", "--facility-key", stick, "--facility-passphrase-fd")
    assert running.run(*renew, fd(WORDS)).code == 0
    taken = running.run("keys", "import-facility", stick, "--facility-passphrase-fd", fd(WORDS))
    assert taken.code == 0, taken
    assert sorted(home.keyring.files()) == sorted(ROLES)
    assert running.run("keys", "rotate", "log").code == 0
    log = (running.home.parent / "errors").read_text()
    for word in (WORDS, OTHER_WORDS, "four"):
        assert word not in log


@pytest.mark.slow
@pytest.mark.integration
def test_a_node_that_nobody_can_ask_does_not_start(north: Terminal) -> None:
    north.run("keys", "seal", "--new-passphrase-fd", fd(WORDS))
    ran = subprocess.run(
        [*RADMESH, "--home", str(north.home), "serve"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == ExitCode.PASSPHRASE
    assert "no terminal" in ran.stderr
    assert "Traceback" not in ran.stderr
