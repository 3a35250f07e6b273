"""C-STORE into a node, beside dcmtk, Orthanc and pynetdicom: images a second, MB a second.

python tests/bench/dimse.py --runs 3

The sender is dcmtk's storescu, with one association and with four, each with its part of the study.
The time is from the first start of a storescu to the end of the last; what storescu takes for
itself is in every row. A server gets an empty folder in the temporary folder (`TMPDIR`) for each
run, in turns. Only Radmesh and Orthanc put an image on the disk before they answer.

Then the other way: the same study from a node into dcmtk's storescp, beside storescu. The node has
it already; its time is from the entry before the first byte to that after the last answer, that of
storescu from its start to its end. storescu reads plain files, the node decodes its batches.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from corpus import STUDIES, add_arguments, content, studies
from facilities import Facility, free_port
from processes import server
from sites import Usage
from tables import medians, shortened, table

STUDIES["mr600"] = ["--kind", "mr", "--n", "600", "--rows", "128", "--cols", "128", "--seed", "5"]

ASSOCIATIONS = (1, 4)
IDLE = 20
IDLE_SECONDS = 10

Server = Callable[[Path], contextlib.AbstractContextManager[tuple[int, int]]]
"""Runs a server in a folder; gives its port and its process."""


@contextlib.contextmanager
def _radmesh(directory: Path) -> Iterator[tuple[int, int]]:
    facility, port = Facility(directory, "North"), free_port()
    with facility.home.config_path.open("a") as settings:
        settings.write(f'\n[dimse]\nlisten = ["127.0.0.1:{port}"]\n')
        settings.write('[dimse.callers."STORESCU"]\naddresses = ["127.0.0.1"]\n')
        settings.write('[dimse.callers."PYNETDICOM"]\naddresses = ["127.0.0.1"]\n')
    facility.start()
    try:
        assert facility.process is not None
        yield port, facility.process.pid
    finally:
        facility.kill()


@contextlib.contextmanager
def _started(words: list[str], port: int, directory: Path) -> Iterator[tuple[int, int]]:
    with server(words, port, log=directory / "log", environment={"TCP_NODELAY": "1"}) as process:
        yield port, process.pid


def _dcmtk(directory: Path) -> contextlib.AbstractContextManager[tuple[int, int]]:
    port, landed = free_port(), directory / "landed"
    landed.mkdir()
    words = ["storescp", "--fork", "+B", "-pdu", "131072", "-od", str(landed), str(port)]
    return _started(words, port, directory)


def _orthanc(directory: Path) -> contextlib.AbstractContextManager[tuple[int, int]]:
    port = free_port()
    settings = {
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "storage"),
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomAet": "RADMESH",
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "SynchronousStorage": True,
        "Plugins": [],
    }
    path = directory / "orthanc.json"
    path.write_text(json.dumps(settings))
    return _started(["Orthanc", str(path)], port, directory)


_PYNETDICOM = """
import sys
from pathlib import Path
from pynetdicom import AE, AllStoragePresentationContexts, evt
folder = Path(sys.argv[2])
def store(event):
    path = folder / event.request.AffectedSOPInstanceUID
    path.write_bytes(event.encoded_dataset())
    return 0
entity = AE("RADMESH")
entity.maximum_associations = 100
entity.maximum_pdu_size = 131072
entity.supported_contexts = AllStoragePresentationContexts
entity.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=[(evt.EVT_C_STORE, store)])
"""


def _pynetdicom(directory: Path) -> contextlib.AbstractContextManager[tuple[int, int]]:
    port, landed = free_port(), directory / "landed"
    landed.mkdir()
    words = [sys.executable, "-c", _PYNETDICOM, str(port), str(landed)]
    return _started(words, port, directory)


SERVERS: dict[str, Server] = {
    "Radmesh": _radmesh,
    "Orthanc": _orthanc,
    "dcmtk storescp, nothing flushed": _dcmtk,
    "pynetdicom, nothing flushed": _pynetdicom,
}


def _parts(study: Path, count: int, directory: Path) -> list[Path]:
    """Folders with links to equal parts of a study."""
    files = sorted(path for path in study.rglob("*.dcm"))
    found = []
    for number in range(count):
        part = directory / f"part{count}-{number}"
        part.mkdir()
        for path in files[number::count]:
            (part / path.name).symlink_to(path.resolve())
        found.append(part)
    return found


def _send(parts: list[Path], port: int, *, nodelay: bool) -> float:
    """Seconds until all of it was answered."""
    environment = {**os.environ, **({"TCP_NODELAY": "1"} if nodelay else {})}
    words = ["storescu", "-R", "-aec", "RADMESH", "+sd", "-pdu", "131072"]
    words += ["--max-send-pdu", "131072", "127.0.0.1", str(port)]
    begun = time.perf_counter()
    senders = [subprocess.Popen([*words, str(part)], env=environment) for part in parts]
    codes = [sender.wait() for sender in senders]
    taken = time.perf_counter() - begun
    if any(codes):
        raise SystemExit(f"storescu could not send: {codes}")
    return taken


def _measure(one: Server, parts: list[Path], *, nodelay: bool = True) -> dict[str, float]:
    directory = Path(tempfile.mkdtemp(prefix="dimse-"))
    try:
        with one(directory) as (port, process):
            before = Usage.of(process).cpu
            seconds = _send(parts, port, nodelay=nodelay)
            return {"seconds": seconds, "cpu": Usage.of(process).cpu - before}
    finally:
        shutil.rmtree(directory)


def _idle(one: Server) -> dict[str, float]:
    """Processor time of associations that say nothing, in parts of a core."""
    from pynetdicom import AE

    entity = AE("PYNETDICOM")
    entity.add_requested_context("1.2.840.10008.1.1")
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2")
    directory = Path(tempfile.mkdtemp(prefix="dimse-"))
    try:
        with one(directory) as (port, process):
            open_now = [
                entity.associate("127.0.0.1", port, ae_title="RADMESH") for _ in range(IDLE)
            ]
            before = Usage.of(process).cpu
            time.sleep(IDLE_SECONDS)
            used = Usage.of(process).cpu - before
            for association in open_now:
                association.abort()
            return {"core": used / IDLE_SECONDS}
    finally:
        shutil.rmtree(directory)


def _forward(study: Path, sender: str) -> dict[str, float]:
    """Seconds for a study into dcmtk's storescp, by the node or by storescu."""
    directory = Path(tempfile.mkdtemp(prefix="dimse-"))
    try:
        with _dcmtk(directory) as (port, _), contextlib.ExitStack() as stack:
            if sender == "storescu":
                [part] = _parts(study, 1, directory)
                before = os.times()
                seconds = _send([part], port, nodelay=True)
                after = os.times()
                used = after.children_user + after.children_system
                used -= before.children_user + before.children_system
                return {"seconds": seconds, "cpu": used}
            facility = Facility(directory, "North")
            with facility.home.config_path.open("a") as settings:
                settings.write('\n[archives."PACS"]\nae_title = "RADMESH"\nhost = "127.0.0.1"\n')
                settings.write(f'port = {port}\nproof = "none"\n')
            facility.start()
            stack.callback(facility.kill)
            facility.call("ingest", paths=[str(study.resolve())])
            [uid] = [one["study"] for one in facility.call("studies")["studies"]]
            assert facility.process is not None
            before_cpu = Usage.of(facility.process.pid).cpu
            facility.call("archive.send", study=uid)
            while facility.call("archive")["studies"][0]["state"] != "sent":
                time.sleep(0.02)
            [begun], [ended] = (
                [datetime.fromisoformat(one["time"]) for one in facility.entries(kind)]
                for kind in ("forward-begun", "forwarded")
            )
            return {
                "seconds": (ended - begun).total_seconds(),
                "cpu": Usage.of(facility.process.pid).cpu - before_cpu,
            }
    finally:
        shutil.rmtree(directory)


def _print_forwarding(study: Path, count: int, size: int, runs: int) -> None:
    """Forwarding, in turns."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(runs):
        for sender in ("Radmesh", "storescu"):
            found.setdefault(sender, []).append(_forward(study, sender))
    rows = []
    for sender, results in found.items():
        one = medians(results)
        rates = (shortened(count / one["seconds"]), shortened(size / 1e6 / one["seconds"]))
        rows.append((sender, *rates, shortened(one["cpu"])))
    table(("forwarding by", "images a second", "MB a second", "CPU seconds"), rows)


def main() -> None:
    """Measure, and print a table for each study."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, ["ct100", "mr600"])
    parser.add_argument("--only-servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--forwarding", action="store_true", help="only what goes out")
    asked = parser.parse_args()
    for program in ("storescu", "storescp", "Orthanc"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not here: make dicom-peers")
    for name, study in studies(asked.shared, asked.studies, asked.only):
        count, size = content(study)
        print(f"{name}: {count} images, {size / 1e6:.0f} MB\n")
        with tempfile.TemporaryDirectory() as made:
            if not asked.forwarding:
                _print(study, count, size, asked.runs, asked.only_servers, Path(made))
            _print_forwarding(study, count, size, asked.runs)
    if asked.forwarding:
        return
    rows = ((name, f"{_idle(SERVERS[name])['core']:.1%}") for name in asked.only_servers)
    table(("server", f"{IDLE} idle associations, of a core"), rows)


def _print(
    study: Path, count: int, size: int, runs: int, servers: list[str], directory: Path
) -> None:
    parts = {number: _parts(study, number, directory) for number in ASSOCIATIONS}
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(runs):
        for name in servers:
            for number in ASSOCIATIONS:
                result = _measure(SERVERS[name], parts[number])
                found.setdefault((name, str(number)), []).append(result)
            if "pynetdicom" not in name:
                result = _measure(SERVERS[name], parts[1], nodelay=False)
                found.setdefault((name, "1, Nagle"), []).append(result)
    rows = []
    for (name, way), results in found.items():
        one = medians(results)
        rows.append(
            (
                name,
                way,
                shortened(count / one["seconds"]),
                shortened(size / 1e6 / one["seconds"]),
                shortened(one["cpu"]),
            )
        )
    table(("server", "associations", "images a second", "MB a second", "CPU seconds"), rows)


if __name__ == "__main__":
    main()
