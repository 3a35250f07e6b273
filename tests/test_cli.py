"""Golden terminal sessions: what a person types, sees, and gets as the exit code.

Words that change from run to run (paths, keys, times) are masked. Sessions with
running nodes are in test_cli_nodes.py.
"""

import json
import os
import pty
import re
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pydicom.data
import pytest

from keys.card import issue_card
from keys.fingerprint import fingerprint
from keys.identity import KeyPair
from node import phrases
from node.cli import main, output
from node.errors import ExitCode

FINGERPRINT = re.compile(r"[A-Z2-7]{7}(-[A-Z2-7]{7}){7}")
MASKS = (
    (FINGERPRINT, "FINGERPRINT"),
    (re.compile(r"12D3KooW[A-Za-z0-9]{44}"), "PEER"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "HEX"),
    (re.compile(r"in \d+\.\d s"), "in SECONDS"),
    (re.compile(r"[0-9.]+ (GB|TB) free"), "SPACE free"),
)


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclass
class Terminal:
    """Runs `radmesh` in this process, and remembers the session."""

    home: Path
    capsys: pytest.CaptureFixture[str]
    session: str = ""

    def run(self, *words: str) -> Ran:
        self.capsys.readouterr()
        code = main(["--home", str(self.home), *words])
        captured = self.capsys.readouterr()
        shown = captured.out + captured.err
        if code:
            shown += f"(exit {int(code)})\n"
        self.session += f"$ radmesh {' '.join(words)}\n{shown}"
        return Ran(int(code), captured.out, captured.err)

    def masked(self) -> str:
        text = self.session.replace(str(self.home.parent), "DIR")
        for pattern, word in MASKS:
            text = pattern.sub(word, text)
        return text

    def expect(self, golden: str) -> None:
        assert self.masked().splitlines() == textwrap.dedent(golden).strip("\n").splitlines()


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path / "home", capsys)


@pytest.fixture
def north(terminal: Terminal) -> Terminal:
    """A terminal whose home is made."""
    assert terminal.run("init", "--name", "North General").code == 0
    terminal.session = ""
    return terminal


@pytest.fixture
def card_file(tmp_path: Path) -> Callable[..., Path]:
    """Makes the card file of another facility."""

    def make(name: str = "South Clinic", serial: int = 1, expires_in: int = 1000) -> Path:
        now = int(time.time()) - 10
        keys = [KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 5)]
        card = issue_card(
            keys[0],
            name=name,
            node_key=keys[1].public,
            log_key=keys[2].public,
            witness_key=keys[3].public,
            addresses=("/ip4/192.0.2.7/tcp/4101",),
            serial=serial,
            issued=now if expires_in > 0 else now - 1000,
            expires=now + expires_in,
        )
        path = tmp_path / f"south-{serial}.card"
        path.write_bytes(card.encoded)
        return path

    return make


SOUTH_FINGERPRINT = fingerprint(KeyPair.from_seed(b"\1" * 32).public)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with a CT image whose texts try to take over the terminal, and a text file."""
    folder = tmp_path / "images"
    folder.mkdir()
    dataset = pydicom.dcmread(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.StudyDescription = "red\x1b[31m \u202etxet"
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    del dataset[0xFFFC, 0xFFFC]  # trailing padding, which an ingest would note
    dataset.save_as(folder / "ct.dcm")
    (folder / "notes.txt").write_text("not an image")
    return folder


STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"


# --- sessions ---------------------------------------------------------------------------


def test_a_facility_is_made_and_shown(terminal: Terminal) -> None:
    terminal.run("init", "--name", "North General", "--address", "/dns4/north.example/tcp/4101")
    terminal.run("card", "show")
    terminal.run("card", "export", str(terminal.home.parent / "north.card"))
    terminal.expect(
        """
        $ radmesh init --name North General --address /dns4/north.example/tcp/4101
        made the node of North General in DIR/home
        fingerprint: FINGERPRINT

        next: `radmesh card export FILE` makes the card to send to another facility,
        and `radmesh serve` starts the node. Keep a backup of the folder `keys`.
        $ radmesh card show
        name         North General
        fingerprint  FINGERPRINT
        node         PEER
        address      /dns4/north.example/tcp/4101
        serial       1
        issued       TIME
        expires      TIME
        $ radmesh card export DIR/north.card
        wrote the card of North General to DIR/north.card
        read this fingerprint to the other admin by phone:
          FINGERPRINT
        """
    )


def test_the_exported_card_is_the_shown_one(north: Terminal) -> None:
    path = north.home.parent / "north.card"
    exported = json.loads(north.run("card", "export", str(path), "--json").out)
    assert exported["card"] == path.read_text()
    assert json.loads(north.run("card", "show", str(path), "--json").out)["name"] == "North General"
    assert north.run("card", "export", "-").out == path.read_text()


def test_a_card_without_address_is_exported_with_a_warning(north: Terminal) -> None:
    assert "names no address yet" in north.run("card", "export", str(north.home / "c")).err


def test_trust(north: Terminal, card_file: Callable[..., Path]) -> None:
    path = str(card_file())
    north.run("trust", "list")
    north.run("trust", "add", path, "--fingerprint", SOUTH_FINGERPRINT, "--grant", "see,fetch")
    north.run("trust", "list")
    north.run("trust", "grant", "south clinic", "witness")
    north.run("trust", "rename", "South Clinic", "South")
    north.run("trust", "revoke", "South", "fetch", "witness")
    north.run("trust", "show", "South")
    north.run("trust", "revoke", "South")
    north.run("trust", "list")
    north.expect(
        """
        $ radmesh trust list
        radmesh: no facility is trusted yet: see `radmesh trust add --help`
        $ radmesh trust add DIR/south-1.card --fingerprint FINGERPRINT --grant see,fetch
        South Clinic is trusted now
        it may: fetch,see
        $ radmesh trust list
        NAME          MAY        CONNECTED    LAST SEEN
        South Clinic  fetch,see  not running  never
        $ radmesh trust grant south clinic witness
        South Clinic: granted
        it may: fetch,see,witness
        $ radmesh trust rename South Clinic South
        the name is South now
        it may: fetch,see,witness
        $ radmesh trust revoke South fetch witness
        South: revoked
        it may: see
        $ radmesh trust show South
        name           South
        calls itself   South Clinic
        fingerprint    FINGERPRINT
        node           PEER
        address        /ip4/192.0.2.7/tcp/4101
        may            see
        purposes       any
        trusted since  TIME
        connected      not running
        last seen      never
        card           serial 1, valid until TIME
        $ radmesh trust revoke South
        South: not trusted any more
        it may: revoked
        $ radmesh trust list
        NAME   MAY      CONNECTED    LAST SEEN
        South  revoked  not running  never
        """
    )


def test_images_come_in_and_go_out(north: Terminal, images: Path) -> None:
    north.run("studies")
    first = north.run("ingest", str(images))
    again = north.run("ingest", str(images))
    assert first.out.splitlines()[0].endswith("1 new image in 1 study, 0 known already")
    assert first.out.splitlines()[2:] == [
        f"  {STUDY}  1 new, 0 known",
        "left alone: 1 file, not DICOM",
    ]
    assert again.out.splitlines()[0].endswith("0 new images in 1 study, 1 known already")
    north.session = ""
    north.run("studies")
    north.run("withdraw", STUDY)
    north.run("studies")
    north.run("share", STUDY[:20])
    north.run("export", STUDY, str(north.home.parent / "out"))
    north.expect(
        f"""
        $ radmesh studies
        DATE        KIND  SERIES  IMAGES     SIZE  STATE   DESCRIPTION     PATIENT
        2004-01-19  CT         1       1  39.1 kB  shared  red [31m  txet  Yamada^Tarou=山田^太郎
          {STUDY}
        $ radmesh withdraw {STUDY}
        study {STUDY} is not shared any more
        $ radmesh studies
        DATE        KIND  SERIES  IMAGES     SIZE  STATE     DESCRIPTION     PATIENT
        2004-01-19  CT         1       1  39.1 kB  withheld  red [31m  txet  Yamada^Tarou=山田^太郎
          {STUDY}
        $ radmesh share {STUDY[:20]}
        study {STUDY} is shared now
        $ radmesh export {STUDY} DIR/out
        wrote 1 file (39.1 kB) to DIR/out, each checked against its digest
        """
    )
    (exported,) = [path for path in (north.home.parent / "out").rglob("*") if path.is_file()]
    assert exported.read_bytes() == (images / "ct.dcm").read_bytes()


def test_bad_files_are_named_and_make_exit_code_9(north: Terminal, images: Path) -> None:
    whole = (images / "ct.dcm").read_bytes()
    (images / "cut.dcm").write_bytes(whole[:-5000])
    ran = north.run("ingest", str(images))
    assert ran.code == ExitCode.PARTLY
    assert "quarantined, not taken: 1 file" in ran.out
    assert f"  {images / 'cut.dcm'} is cut" in ran.out
    (images / "cut.dcm").write_bytes(whole.replace(b"GE MEDICAL", b"XX MEDICAL"))
    ran = north.run("ingest", str(images), "--json")
    assert ran.code == ExitCode.PARTLY
    assert [Path(each["file"]).name for each in json.loads(ran.out)["conflicts"]] == ["cut.dcm"]


def test_the_log_is_shown_exported_and_verified(north: Terminal, images: Path) -> None:
    north.run("ingest", str(images))
    assert STUDY in north.run("audit", "show", "--type", "ingest").out
    bundle = north.home.parent / "log.zip"
    noted = north.run("audit", "export", str(bundle)).out.splitlines()[1].split()[-1]
    own = json.loads(north.run("card", "show", "--json").out)
    card = north.home.parent / "north.card"
    card.write_text(own["card"])
    for facility in (own["fingerprint"], own["fingerprint"].lower(), str(card)):
        ran = north.run("audit", "verify", str(bundle), "--facility", facility, "--pin", noted)
        assert ran.code == 0, ran
        assert ran.out.startswith("SOUND: ")
    size, _ = noted.split(":")
    ran = north.run(
        "audit", "verify", str(bundle), "--facility", str(card), "--pin", f"{size}:{'0' * 64}",
        "--json",
    )  # fmt: skip
    assert ran.code == 1
    assert json.loads(ran.out)["code"] == "FORK_VS_PIN"


def test_an_altered_log_is_not_sound(north: Terminal) -> None:
    bundle, forged = north.home.parent / "log.zip", north.home.parent / "forged.zip"
    north.run("audit", "export", str(bundle))
    own = json.loads(north.run("card", "show", "--json").out)
    with zipfile.ZipFile(bundle) as original, zipfile.ZipFile(forged, "w") as copy:
        for name in original.namelist():
            data = original.read(name)
            if name == "entries.jsonl":
                data = data.replace(b'"operator"', b'"operatex"')
            copy.writestr(name, data)
    ran = north.run("audit", "verify", str(forged), "--facility", own["fingerprint"])
    assert ran.code == 1
    assert ran.out.startswith("NOT SOUND: ")


def test_status_of_a_node_that_does_not_run(north: Terminal) -> None:
    north.run("status")
    north.expect(
        """
        $ radmesh status
        name         North General
        fingerprint  FINGERPRINT
        node         PEER
        running      no
        address      none yet
        home         DIR/home
        version      0.1.0
        studies      0 (0 images, 0 B on disk, SPACE free)
        quarantine   0 files
        log          1 entry

        no facility is trusted yet: see `radmesh trust add --help`
        """
    )


def test_no_transfer_yet(north: Terminal) -> None:
    assert north.run("transfers") == Ran(0, "", "radmesh: there was no transfer yet\n")


# --- errors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("card", "show"),
        ("trust", "list"),
        ("studies",),
        ("status",),
        ("serve",),
        ("audit", "show"),
        ("ingest", "."),
        ("fetch", "1.2.3"),
    ],
    ids=" ".join,
)
def test_without_a_home(terminal: Terminal, words: tuple[str, ...]) -> None:
    ran = terminal.run(*words)
    assert ran.code == ExitCode.NO_HOME
    assert ran.err == (
        f"radmesh: error: there is no radmesh home at {terminal.home}\n"
        'radmesh: hint: make one with `radmesh init --name "Your Facility"`, '
        "or name it with --home\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("init --name Again", 3, "{home} exists already and is not empty"),
        ("card show missing.card", 5, "there is no file missing.card"),
        ("trust add missing.card", 5, "there is no file missing.card"),
        ("trust show Nobody", 5, "there is no peer of this name"),
        ("trust grant Nobody see", 5, "there is no peer of this name"),
        ("studies --peer Nobody", 5, "there is no peer of this name"),
        ("studies --peer Nobody --all", 2, "--peer and --all exclude each other"),
        ("ingest /no/such/folder", 5, "there is no file or folder /no/such/folder"),
        ("share 1.2.3.4.5.6.7", 5, "there is no study"),
        ("withdraw 1.2.3.4.5.6.7", 5, "there is no study"),
        ("export 1.2.3.4.5.6.7 out", 5, "there is no study"),
        ("fetch 1.2.3.4", 4, "the node of this home is not running"),
        ("cancel abcd", 4, "the node of this home is not running"),
        ("nonsense", 2, "No such command 'nonsense'."),
        ("init", 2, "Missing option '--name'."),
        ("trust grant Nobody", 2, "Missing argument 'GRANTS...'."),
        ("audit show --last 0", 2, "Invalid value for '--last'"),
        ("audit verify none.zip --facility F", 2, "F is neither a card file nor a fingerprint"),
        ("demo /no/such/folder", 5, "there is no file or folder /no/such/folder"),
    ],
)
def test_errors(north: Terminal, words: str, code: int, error: str) -> None:
    ran = north.run(*words.split())
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(f"radmesh: error: {error.format(home=north.home)}")
    assert "Traceback" not in ran.err


def test_errors_as_json(north: Terminal) -> None:
    ran = north.run("fetch", "1.2.3.4", "--json")
    assert ran.code == ExitCode.BUSY
    assert json.loads(ran.err) == {
        "error": {
            "message": "the node of this home is not running",
            "hint": "start it with `radmesh serve`",
            "code": 4,
        }
    }


def test_usage_errors_name_the_help(north: Terminal) -> None:
    assert north.run("trust", "add").err.splitlines() == [
        "radmesh: error: Missing argument 'CARD'.",
        "radmesh: hint: see `radmesh trust add --help`",
    ]


def test_a_wrong_fingerprint_is_refused(north: Terminal, card_file: Callable[..., Path]) -> None:
    own = json.loads(north.run("card", "show", "--json").out)["fingerprint"]
    for wrong in (own, SOUTH_FINGERPRINT[:7]):
        ran = north.run("trust", "add", str(card_file()), "--fingerprint", wrong)
        assert ran.code == ExitCode.INTEGRITY
    assert json.loads(north.run("trust", "list", "--json").out)["peers"] == []


def test_a_slip_in_a_fingerprint_is_located(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    slip = ("B" if SOUTH_FINGERPRINT[0] == "A" else "A") + SOUTH_FINGERPRINT[1:]
    ran = north.run("trust", "add", str(card_file()), "--fingerprint", slip)
    assert ran.code == ExitCode.INTEGRITY
    assert "group" in ran.err


def test_forged_expired_and_older_cards_are_refused(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    good = ("--fingerprint", SOUTH_FINGERPRINT)
    assert north.run("trust", "add", str(card_file(serial=5)), *good).code == 0
    older = north.run("trust", "add", str(card_file(serial=4)), *good)
    assert older.code == ExitCode.INTEGRITY
    assert "serial 5" in older.err
    expired = north.run("trust", "add", str(card_file(serial=6, expires_in=-1)), *good)
    assert expired.code == ExitCode.INTEGRITY
    assert "has expired" in expired.err
    forged = card_file(serial=7)
    forged.write_bytes(forged.read_bytes().replace(b"South", b"North"))
    for words in (("trust", "add", str(forged), *good), ("card", "show", str(forged))):
        ran = north.run(*words)
        assert ran.code == ExitCode.INTEGRITY
        assert "it was altered" in ran.err


def test_an_expired_card_is_shown_with_a_warning(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    ran = north.run("card", "show", str(card_file(expires_in=-1)))
    assert ran.code == 0
    assert ran.err == "radmesh: warning: the card of South Clinic (serial 1) has expired\n"


def test_our_own_card_and_unknown_grants_are_refused(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    own = json.loads(north.run("card", "show", "--json").out)
    path = north.home.parent / "own.card"
    path.write_text(own["card"])
    ran = north.run("trust", "add", str(path), "--fingerprint", own["fingerprint"])
    assert ran.code == ExitCode.REFUSED
    ran = north.run(
        "trust", "add", str(card_file()), "--fingerprint", SOUTH_FINGERPRINT, "--grant", "all"
    )
    assert ran.code == ExitCode.USAGE
    assert "the grants are see, fetch, send, witness" in ran.err


def test_nobody_at_the_terminal(
    north: Terminal, card_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        ran = north.run("trust", "add", str(card_file()))
    assert ran.code == ExitCode.USAGE
    assert ran.err.splitlines() == [
        "radmesh: error: nobody is at a terminal who could compare the fingerprint",
        "radmesh: hint: give the one that the other admin read to you: --fingerprint ABCDEFG-...",
    ]


def test_what_cannot_be_verified_is_no_verdict(north: Terminal, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.zip"
    garbage.write_bytes(b"PK no")
    for words in (
        (str(tmp_path / "none.zip"), "--facility", SOUTH_FINGERPRINT),
        (str(garbage), "--facility", SOUTH_FINGERPRINT),
        (str(garbage), "--facility", SOUTH_FINGERPRINT, "--pin", "5"),
        (str(garbage), "--facility", SOUTH_FINGERPRINT, "--receipt", "none"),
    ):
        assert north.run("audit", "verify", *words).code == 2


def test_the_demonstration_replaces_only_its_own_folder(north: Terminal, tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.mkdir()
    (other / "file").write_text("keep me")
    ran = north.run("demo", "--home", str(other))
    assert ran.code == ExitCode.NO_HOME
    assert ran.err.startswith(f"radmesh: error: {other} exists and was not made by the demo")
    assert (other / "file").read_text() == "keep me"


def test_an_unexpected_error_shows_no_traceback_and_no_text(
    north: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("Doe^John")

    monkeypatch.setattr("node.cli.session.Session.call", fail)
    ran = north.run("studies")
    assert ran.code == ExitCode.FAILED
    assert re.match(r"radmesh: error: .*\(KeyError in test_cli\.py:\d+\)\n", ran.err)
    assert "Doe" not in ran.err
    assert "Traceback" not in ran.err


def test_ctrl_c_is_130(north: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("node.cli.session.Session.call", interrupt)
    assert north.run("studies") == Ran(130, "", "\nradmesh: stopped\n")


# --- a person at a terminal ---------------------------------------------------------------


def _at_terminal(words: list[str], answer: str) -> tuple[int, str]:
    """Run `radmesh` on a pseudo-terminal and type an answer to its question."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "node.cli", *words], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with open(ours, "r+b", buffering=0) as terminal:  # noqa: PTH123
        while b"[y/N]" not in shown:
            shown += terminal.read(1000)
        terminal.write(answer.encode() + b"\n")
        try:
            while chunk := terminal.read(1000):
                shown += chunk
        except OSError:
            pass  # Linux says EIO once the other side is closed
    return process.wait(), shown.decode().replace("\r\n", "\n")


@pytest.mark.slow
@pytest.mark.integration
def test_the_fingerprint_is_asked_for(north: Terminal, card_file: Callable[..., Path]) -> None:
    words = ["--home", str(north.home), "trust", "add", str(card_file()), "--grant", "see"]
    code, shown = _at_terminal(words, "n")
    assert code == ExitCode.FAILED
    assert f"fingerprint  {SOUTH_FINGERPRINT}" in shown
    assert "address      /ip4/192.0.2.7/tcp/4101" in shown
    assert "Does the fingerprint match what the other admin reads to you? [y/N]" in shown
    assert "the card is not trusted; nothing was changed" in shown
    assert json.loads(north.run("trust", "list", "--json").out)["peers"] == []
    code, shown = _at_terminal(words, "y")
    assert (code, "South Clinic is trusted now" in shown) == (0, True)


# --- start-up ---------------------------------------------------------------------------

SLOW_MODULES = "libp2p pydicom numpy rich starlette hypercorn httpx trio.testing"


@pytest.mark.parametrize(
    "words", [("--help",), ("studies",), ("card", "show"), ("trust", "list")], ids=" ".join
)
def test_small_commands_import_nothing_slow(north: Terminal, words: tuple[str, ...]) -> None:
    code = (
        "import sys; from node.cli import main; main(sys.argv[2:]); "
        "print([name for name in sys.argv[1].split() if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, SLOW_MODULES, "--home", str(north.home), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_small_commands_start_at_once(north: Terminal) -> None:
    for words in (["--help"], ["studies"], ["card", "show"], ["trust", "list"]):
        seconds = []
        for _ in range(5):
            began = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "node.cli", "--home", str(north.home), *words],
                capture_output=True,
                check=True,
            )
            seconds.append(time.monotonic() - began)
        assert min(seconds) < 0.4, words


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"radmesh \d+\.\d+\.\d+\n", capsys.readouterr().out)


# --- words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (14_700_000, "14.7 MB"),
        (5 * 10**9, "5.0 GB"),
        (3 * 10**15, "3000.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert phrases.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"),
     (7810, "2 h 10 min")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert phrases.duration(seconds) == text


def test_clean_text() -> None:
    assert phrases.clean("Müller 山田 a\u00a0b") == "Müller 山田 a b"
    for evil in (
        "\x1b",
        "\x07",
        "\x7f",
        "\x9b",
        "\n",
        "\r",
        "\u202e",
        "\u2066",
        "\u200b",
        "\ud800",
    ):
        assert phrases.clean(f"a{evil}b") == "a\ufffdb"


def test_a_table_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "terminal_width", lambda: 20)
    columns = (
        output.Column("NAME", flexible=True),
        output.Column("N", right=True),
    )
    rows = [("a long name that goes on", 5), ("山田太郎山田太郎山田太郎", 12345)]
    assert output.table(columns, rows) == [
        "NAME               N",
        "a long name …      5",
        "山田太郎山田…  12345",
    ]
