"""Discarding and what lies aside, as a person types it."""

import json
import shutil
from pathlib import Path

from terminal import STUDY, Terminal, images, north, terminal

from node.errors import ExitCode

__all__ = ["images", "north", "terminal"]


def test_discarding_a_study(north: Terminal, images: Path) -> None:
    north.run("ingest", str(images))
    north.session = ""
    assert north.run("discard", STUDY, "--reason", "wrong-patient").code == ExitCode.USAGE
    assert north.run("discard", STUDY, "--reason", "dislike", "--yes").code == ExitCode.USAGE
    north.run("discard", STUDY, "--reason", "wrong-patient", "--yes")
    north.run("studies")
    north.run("discard", STUDY, "--reason", "retention", "--yes")
    north.run("recalls", "list")
    north.expect(
        f"""
        $ radmesh discard {STUDY} --reason wrong-patient
        radmesh: error: nothing was discarded: nobody is at a terminal who could be asked
        radmesh: hint: give --yes to discard it without being asked
        (exit 2)
        $ radmesh discard {STUDY} --reason dislike --yes
        radmesh: error: Invalid value for '--reason': 'dislike' is not one of 'quality', \
'patient-safety', 'wrong-patient', 'retention'.
        radmesh: hint: see `radmesh discard --help`
        (exit 2)
        $ radmesh discard {STUDY} --reason wrong-patient --yes
        discarded 1 image (39.1 kB) of study {STUDY}
        $ radmesh studies
        radmesh: no study is here yet: see `radmesh ingest --help`
        $ radmesh discard {STUDY} --reason retention --yes
        radmesh: error: there is no study '{STUDY}' here
        radmesh: hint: see `radmesh studies`; a study is named by its UID, at least 6 characters \
of its beginning, or its accession number
        (exit 5)
        $ radmesh recalls list
        nothing was recalled
        """
    )


def test_what_lies_aside(north: Terminal, images: Path, tmp_path: Path) -> None:
    north.run("quarantine", "list")
    north.run("ingest", str(images))
    other = tmp_path / "other"
    shutil.copytree(images, other)
    changed = (other / "ct.dcm").read_bytes()
    (other / "ct.dcm").write_bytes(changed.replace(b"Yamada", b"Suzuki"))
    assert north.run("ingest", str(other)).code == ExitCode.PARTLY
    [aside] = json.loads(north.run("quarantine", "list", "--json").out)["aside"]
    name = aside["name"]
    assert (aside["study"], aside["replaces"], aside["origin"]) == (STUDY, True, "local")
    shown = north.run("quarantine", "list").out
    assert name in shown
    assert "it has the SOP Instance UID of another instance" in shown
    north.session = ""
    north.run("quarantine", "take", name, "--reason", "corrected")
    [aside] = json.loads(north.run("quarantine", "list", "--json").out)["aside"]
    assert aside["name"] != name
    north.session = north.session.split("$ radmesh quarantine list")[0]
    north.run("quarantine", "drop", aside["name"], "--reason", "not-needed")
    north.run("quarantine", "drop", aside["name"], "--reason", "not-needed")
    north.run("quarantine", "list")
    north.expect(
        f"""
        $ radmesh quarantine take {name} --reason corrected
        took 1 image into study {STUDY}, 1 of them in the place of another
        $ radmesh quarantine drop {aside["name"]} --reason not-needed
        dropped {aside["name"]}
        $ radmesh quarantine drop {aside["name"]} --reason not-needed
        radmesh: error: nothing lies aside as {aside["name"]}
        radmesh: hint: see `radmesh quarantine list`
        (exit 5)
        $ radmesh quarantine list
        nothing lies aside
        """
    )
