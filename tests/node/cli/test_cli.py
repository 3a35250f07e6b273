"""Golden terminal sessions: what a person types, sees, and gets as the exit code.

Words that change from run to run (paths, keys, times) are masked. Sessions with
running nodes are in test_nodes.py.
"""

import json
import os
import pty
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from part10_made import element
from terminal import SOUTH_FINGERPRINT, STUDY, Ran, Terminal, card_file, images, north, terminal

from node.errors import ExitCode

__all__ = ["card_file", "images", "north", "terminal"]


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


def test_a_facility_may_have_letters_beyond_ascii(terminal: Terminal) -> None:
    name = "Röntgen 山田"
    made = json.loads(terminal.run("init", "--name", name, "--json").out)
    path = terminal.home.parent / "card"
    exported = json.loads(terminal.run("card", "export", str(path), "--json").out)
    assert path.read_text(encoding="utf-8") == exported["card"] == made["card"]
    assert terminal.run("card", "export", "-").out == exported["card"]
    assert name in terminal.run("card", "show", str(path)).out


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
        $ radmesh trust list
        NAME   MAY      CONNECTED    LAST SEEN
        South  revoked  not running  never
        """
    )


def test_the_log_shows_a_facility_by_our_name_for_it(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    north.run("trust", "add", str(card_file()), "--fingerprint", SOUTH_FINGERPRINT)
    north.run("trust", "rename", "South Clinic", "South")
    assert "       peer: South\n" in north.run("audit", "show", "--type", "trust-added").out
    nothing = north.run("audit", "show", "--type", "disclosed")
    assert (nothing.out, "no entry" in nothing.err) == ("", True)


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


def test_who_may_read_an_export_is_said_by_option_or_setting(north: Terminal, images: Path) -> None:
    north.run("ingest", str(images))
    out = north.home.parent / "out"

    def modes(*words: str) -> set[int]:
        ran = north.run("export", STUDY, str(out), *words)
        assert ran.code == 0, ran
        found = {path.stat().st_mode & 0o777 for path in out.rglob("*.dcm")}
        shutil.rmtree(out)
        return found

    assert modes() == {0o600}
    assert modes("--mode", "0644") == {0o644}
    settings = north.home / "config.toml"
    settings.write_text('export_mode = "0640"\n' + settings.read_text())
    assert modes() == {0o640}
    assert modes("--mode", "600") == {0o600}
    ran = north.run("export", STUDY, str(out), "--mode", "0777")
    assert ran.code == ExitCode.USAGE
    assert "0640" in ran.err


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


def test_lost_files_and_members_of_a_medium_make_exit_code_9(north: Terminal, images: Path) -> None:
    (images / "IM000002").write_bytes(b"")
    ran = north.run("ingest", str(images))
    assert ran.code == ExitCode.PARTLY
    assert f"  {images / 'IM000002'} is empty\n" in ran.out
    (images / "IM000002").unlink()
    assert north.run("ingest", str(images)).code == ExitCode.OK
    meta = (images / "ct.dcm").read_bytes()[:132] + element(
        0x00020002, b"UI", b"1.2.840.10008.1.3.10"
    )
    meta += element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
    (images / "DICOMDIR").write_bytes(meta + element(0x00041500, b"CS", b"DIR\\IM3 "))
    ran = north.run("ingest", str(images))
    assert ran.code == ExitCode.PARTLY
    assert "missing: 1 file" in ran.out
    assert (
        f"  {images / 'DIR' / 'IM3'} is listed in {images / 'DICOMDIR'} and is not there" in ran.out
    )


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


def test_a_crash_leaves_no_image_of_the_memory() -> None:
    """It would hold the keys; the limit is inherited by all that the process starts."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard == 0:
        pytest.skip("needs a machine that would write one")
    script = (
        "import resource, sys; from node.cli import main; main(['--version'])\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    )
    assert ran.stdout.splitlines()[-1] == "0"
