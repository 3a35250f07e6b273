"""The demonstration: two facilities on this machine exchange a study.

Runs the real commands in processes of their own (`node.demo_site`) and describes what
happens in the words of a radiology department. A step that fails ends it with an error.
"""

import contextlib
import filecmp
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keys.canonical import canonical_json
from node.demo_site import Site, free_ports, typed_command
from node.errors import ExitCode, NodeError
from node.home import Home
from node.phrases import clean, count, duration, ratio, size

Say = Callable[[str], None]

MARKER = ".radmesh-demo"
"""Marks the folder of a demonstration; a folder without this file is never replaced."""

SAMPLES = (
    "CT_small.dcm",
    "MR_small.dcm",
    "examples_overlay.dcm",
    "dicomdirtests/98892001",
    "dicomdirtests/77654033",
)
"""CT, MR and CR images of several patients among the test files in pydicom's wheel."""


def run_demo(source: Path | None, directory: Path, say: Say) -> None:
    """Show a study on its whole way, and check each step.

    Args:
        source: a file or folder of DICOM images; None takes those of `SAMPLES`.
        directory: the folder for the two facilities.
        say: prints a line for the person who watches.

    Raises:
        NodeError: a step failed.
    """
    began = time.monotonic()
    if source is not None and not source.exists():
        raise NodeError(f"there is no file or folder {source}", code=ExitCode.NOT_FOUND)
    _prepare(directory)
    ports = free_ports(2)
    north = Site("North General", directory / "north", ports[0])
    south = Site("South Clinic", directory / "south", ports[1])
    say(f"Radmesh demonstration: two facilities on this machine, in {directory}")
    with contextlib.ExitStack() as stack:
        stack.callback(north.stop)
        stack.callback(south.stop)
        _make(north, south, say)
        _trust(north, south, say)
        _start(north, south, say)
        sources, report = _ingest(north, source, directory, say)
        _announced(south, report, say)
        _fetch(south, report, say)
        _compare(south, sources, report, directory, say)
        bundle = _verify(north, directory, say, witness=south)
        _verify(south, directory, say)
        _forge(north, bundle, directory, say)
    say("")
    say(f"All of it held. It took {duration(time.monotonic() - began)}; both nodes are stopped.")
    _by_hand(north, south, report, say)


def _prepare(directory: Path) -> None:
    """Make an empty folder with the marker; an earlier demonstration is deleted."""
    marker = directory / MARKER
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise _not_ours(directory)
    if directory.exists() and any(directory.iterdir()):
        if not marker.is_file():
            raise _not_ours(directory)
        for name in ("north", "south"):
            home = Home(directory / name)
            if home.exists:
                # Raises when a node of the earlier demonstration still runs.
                home.lock()()
        shutil.rmtree(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        marker.write_text("Made by `radmesh demo`, which may delete this folder.\n")
    except OSError as error:
        raise NodeError(
            f"the folder {directory} cannot be made: {error.strerror}", code=ExitCode.DISK
        ) from error


def _not_ours(directory: Path) -> NodeError:
    return NodeError(
        f"{directory} exists and was not made by the demonstration",
        hint="name another folder: `radmesh demo --home DIR`",
        code=ExitCode.NO_HOME,
    )


def _make(north: Site, south: Site, say: Say) -> None:
    _step(say, 1, "Two facilities, each with its own keys; a fingerprint names them")
    for site in (north, south):
        made = site.run(
            "init", "--name", site.name, "--listen", site.address, "--address", site.address
        )
        site.fingerprint = made["fingerprint"]
        site.run("card", "export", os.fspath(site.card_path))
        say(f"   {site.name:13} {site.fingerprint}")


def _trust(north: Site, south: Site, say: Say) -> None:
    _step(say, 2, "Trust by key: the admins swap cards and compare the fingerprints by phone")
    given = ("--grant", "see,fetch,witness")
    for site, other, grants in ((north, south, given), (south, north, ())):
        added = site.run(
            "trust", "add", os.fspath(other.card_path), "--fingerprint", other.fingerprint, *grants
        )
        may = ", ".join(sorted(added["grants"], key=("see", "fetch", "witness").index))
        say(f"   {site.name} trusts {other.name}; it may: {may or 'nothing'}")


def _start(north: Site, south: Site, say: Say) -> None:
    _step(say, 3, "Both nodes start and find each other")
    north.start()
    south.start()

    def connected() -> bool:
        return all(peer["connected"] for peer in south.run("status")["peers"])

    seconds = south.wait_until("the connection", connected)
    for site in (north, south):
        say(f"   {site.name:14} process {site.pid}, listening on {site.address}")
    say(f"   connected after {duration(seconds)}; anybody else is refused before a word is said")


def _ingest(
    north: Site, source: Path | None, directory: Path, say: Say
) -> tuple[dict[str, list[Path]], dict[str, Any]]:
    _step(say, 4, f"Images come in at {north.name}")
    if source is None:
        paths = _samples(directory)
        say("   CT, MR and CR images that come with the installed package pydicom as its test")
        say("   files. They are small; try a study of your own: radmesh demo DICOM_PATH")
    else:
        paths = source.absolute()
    sources = _by_digest(paths)
    report = north.run("ingest", os.fspath(paths), accept=(ExitCode.PARTLY,), show_progress=True)
    if not report["instances_new"]:
        raise NodeError(
            f"there is no DICOM image that can be taken in {paths}",
            hint="name a file or folder with DICOM images",
            code=ExitCode.NOT_FOUND,
        )
    studies = len(report["studies"])
    say(
        f"   {count(report['files'], 'file')} looked at in {duration(report['seconds'])}: "
        f"{count(report['instances_new'], 'image')} in {count(studies, 'study', 'studies')}"
    )
    say(
        f"   stored {size(report['original_bytes'])} as {size(report['encoded_bytes'])} "
        f"({ratio(report['original_bytes'], report['encoded_bytes'])} times smaller), "
        "and checked bit for bit"
    )
    aside = report["quarantined"] + report["conflicts"] + report["unreadable"]
    if aside:
        say(f"   {count(len(aside), 'file')} not taken, each with its reason, such as:")
        say(f"     {clean(Path(aside[0]['file']).name)} {clean(aside[0]['reason'])}")
    return sources, report


def _samples(directory: Path) -> Path:
    """A folder with copies of the sample images."""
    found = importlib.util.find_spec("pydicom")
    if found is None or not found.submodule_search_locations:
        raise NodeError(
            "the package pydicom, whose test images the demonstration takes, is not installed",
            hint="give images of your own: `radmesh demo DICOM_PATH`",
        )
    files = Path(found.submodule_search_locations[0]) / "data" / "test_files"
    target = directory / "images"
    for name in SAMPLES:
        path = files / name
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=shutil.ignore_patterns("*.py*", "__*"))
        elif path.is_file():
            target.mkdir(exist_ok=True)
            shutil.copyfile(path, target / path.name)
    return target


def _announced(south: Site, report: dict[str, Any], say: Say) -> None:
    _step(say, 5, f"{south.name} learns of it by itself")
    wanted = {study["study"]: study["new"] for study in report["studies"]}
    listed: dict[str, dict[str, Any]] = {}

    def all_there() -> bool:
        for study in south.run("studies", "--all")["studies"]:
            if study["where"] != "own":
                listed[study["study"]] = study
        return all(
            uid in listed and listed[uid]["instances"] == images for uid, images in wanted.items()
        )

    seconds = south.wait_until("the announcement", all_there)
    for uid in list(wanted)[:5]:
        study = listed[uid]
        kinds = "/".join(study["modalities"])
        say(
            f"   {clean(kinds):5} {clean(study['study_date']):8}  "
            f"{count(study['instances'], 'image'):>10}  {size(study['bytes']):>8}"
        )
        say(f"     {clean(uid)}")
    if len(wanted) > 5:
        say(f"   and {len(wanted) - 5} more")
    if any(study["patient_name"] or study["patient_id"] for study in listed.values()):
        raise NodeError("an announcement named a patient", code=ExitCode.INTEGRITY)
    say(f"   announced within {duration(seconds)}, without a patient's name or number")


def _fetch(south: Site, report: dict[str, Any], say: Say) -> None:
    _step(say, 6, f"{south.name} fetches, for treatment")
    done = [
        south.run("fetch", study["study"], "--purpose", "treatment", show_progress=True)
        for study in report["studies"]
    ]
    images = sum(each["instances"] for each in done)
    whole = sum(each["bytes"] - each["held_bytes"] for each in done)
    wire = sum(each["wire_bytes"] for each in done)
    seconds = sum(max(1, each["ended"] - each["started"]) for each in done) / 1000
    say(
        f"   {count(images, 'image')} ({size(whole)}) in {duration(seconds)}: "
        f"{size(int(whole / seconds))} of images a second"
    )
    say(
        f"   sent as {size(wire)} ({ratio(whole, wire)} times smaller), encrypted for "
        f"{south.name} alone;"
    )
    say("   both sides have signed a receipt")


def _compare(
    south: Site,
    sources: dict[str, list[Path]],
    report: dict[str, Any],
    directory: Path,
    say: Say,
) -> None:
    _step(say, 7, "The images at both places are the same, byte for byte")
    same, total = 0, 0
    for number, study in enumerate(report["studies"], start=1):
        target = directory / "exported" / f"study-{number:02}"
        south.run("export", study["study"], os.fspath(target.absolute()))
        for path in _files(target):
            total += 1
            originals = sources.get(_digest(path), [])
            same += any(filecmp.cmp(path, original, shallow=False) for original in originals)
    if not total == same == report["instances_new"]:
        raise NodeError(
            f"only {same} of {report['instances_new']} images are identical",
            code=ExitCode.INTEGRITY,
        )
    say(f"   {count(total, 'file')} exported at {south.name}: {same} identical with the originals")


def _verify(site: Site, directory: Path, say: Say, witness: Site | None = None) -> Path:
    bundle = directory / f"{site.home.name}-log.zip"
    exported = site.run("audit", "export", os.fspath(bundle.absolute()))
    seen: tuple[str, ...] = ()
    if witness is not None:
        seen = ("--quorum", "1", "--witness-card", os.fspath(witness.card_path.absolute()))
        _step(say, 8, "Who got what, and why, is in two signed logs that anybody can check")
        for entry in site.run("audit", "show", "--type", "disclosed")["entries"][-1:]:
            say(
                f"   {site.name} wrote: {entry['time']} {entry['type']}, "
                f"{entry['purpose']}, {entry['outcome']}"
            )
    verdict = _check_bundle(site, bundle, *seen)
    say(
        f"   {site.name:14} {count(exported['entries'], 'entry', 'entries')}: "
        f"{verdict['verdict'].upper()}"
    )
    for line in verdict["witnesses"]:
        say(f"   witness        {clean(line)}")
    return bundle


def _check_bundle(
    site: Site, bundle: Path, *further: str, accept: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Verify a bundle as an auditor does, with the fingerprint from the phone call."""
    return site.run(
        "audit",
        "verify",
        os.fspath(bundle.absolute()),
        "--facility",
        site.fingerprint,
        *further,
        accept=accept,
    )


def _forge(north: Site, bundle: Path, directory: Path, say: Say) -> None:
    _step(say, 9, "A forged log is caught")
    forged = directory / "north-log-forged.zip"
    index = forge_bundle(bundle, forged)
    say(f"   in a copy of {north.name}'s log, one word of entry {index} was changed:")
    say('   the purpose of a disclosure, from "treatment" to "research"')
    verdict = _check_bundle(north, forged, accept=(ExitCode.FAILED,))
    if verdict["exit_code"] != ExitCode.FAILED or verdict["index"] != index:
        raise NodeError("the forged log was not caught", code=ExitCode.INTEGRITY)
    told = f"the verifier: {verdict['verdict'].upper()}: {clean(verdict['reason'])}"
    say(textwrap.fill(told, 80, initial_indent="   ", subsequent_indent="   "))
    say(f"   ({verdict['code']}, first bad entry {verdict['index']})")


def forge_bundle(bundle: Path, forged: Path) -> int:
    """Copy a bundle, with the purpose of its last disclosure changed; returns its index.

    Raises:
        NodeError: the log holds no disclosure.
    """
    with zipfile.ZipFile(bundle) as original, zipfile.ZipFile(forged, "w") as copy:
        lines = original.read("entries.jsonl").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines]
        found = [entry["index"] for entry in entries if entry["type"] == "disclosed"]
        if not found:
            raise NodeError("the log holds no disclosure", code=ExitCode.INTEGRITY)
        index: int = found[-1]
        lines[index] = canonical_json({**entries[index], "purpose": "research"}) + b"\n"
        for name in original.namelist():
            data = b"".join(lines) if name == "entries.jsonl" else original.read(name)
            copy.writestr(name, data, zipfile.ZIP_DEFLATED)
    return index


def _by_hand(north: Site, south: Site, report: dict[str, Any], say: Say) -> None:
    radmesh = typed_command()
    study = report["studies"][0]["study"]
    say("")
    say("Go on by hand, in two terminals:")
    at_north, at_south = (f"--home {shlex.quote(str(site.home))}" for site in (north, south))
    say(f"   {radmesh} {at_north} serve")
    say(f"   {radmesh} {at_south} serve")
    say("and in a third:")
    for words in (
        f"{at_north} status",
        f"{at_south} studies --all",
        f"{at_north} withdraw {study}",
        f"{at_north} audit show",
        f"{at_north} trust revoke '{south.name}'",
    ):
        say(f"   {radmesh} {words}")
    say("The nodes' own words are in the files *.log beside the two homes.")


def _step(say: Say, number: int, title: str) -> None:
    say("")
    say(f"{number}. {title}")


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names if (Path(folder) / name).is_file())


def _by_digest(path: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in _files(path):
        with contextlib.suppress(OSError):
            found.setdefault(_digest(file), []).append(file)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
