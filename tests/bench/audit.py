"""Speed and memory of the audit log: appending, opening, exporting, verifying.

    python tests/bench/audit.py [ENTRIES]

Run from the top of the repository. Every phase runs in a process of its own, so
that its peak memory is its own.
"""

import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from keys.card import issue_card
from keys.fingerprint import fingerprint, parse_fingerprint
from keys.identity import KeyPair
from node.audit import AuditLog
from node.home import now_ms
from protocol.log.entry import Event
from protocol.verify import verify_bundle

FACILITY, NODE, LOG, WITNESS = (KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 5))
ORIGIN = f"radmesh.log/{fingerprint(FACILITY.public)}"
SINGLE = 5000
BATCH = 1000


def _event(number, *, opened=False):
    subjects = (("study", f"1.2.840.113619.2.55.{number}"),) if opened else ()
    details = {"transfer": f"{number:032x}", "bytes": 263_000_000, "instances": 500}
    return Event(type="disclosed", peer=NODE.public, subjects=subjects, details=details)


def _open(directory):
    return AuditLog.open(directory, log_key=LOG, origin=ORIGIN, clock_ms=now_ms)


def _say(what, seconds, count=0):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    rate = f"{count / seconds:12,.0f}/s" if count else " " * 14
    print(f"{what:36}{seconds:9.2f} s{rate}{peak:7} MiB", flush=True)


def make(directory, count):
    details = {"facility_key": FACILITY.public.hex(), "log_key": LOG.public.hex(), "origin": ORIGIN}
    first = Event(type="init", actor="operator", details=details)
    log = AuditLog.create(directory, log_key=LOG, origin=ORIGIN, clock_ms=now_ms, first=first)
    for name, opened in (("single appends", False), ("single appends with an opening", True)):
        begun = time.perf_counter()
        for number in range(SINGLE):
            log.append(_event(number, opened=opened))
        _say(name, time.perf_counter() - begun, SINGLE)

    def work():
        for number in range(SINGLE):
            log.append(_event(number))

    threads = [threading.Thread(target=work) for _ in range(4)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _say("single appends, 4 threads", time.perf_counter() - begun, 4 * SINGLE)
    begun = time.perf_counter()
    rest = count - log.size
    for start in range(0, rest, BATCH):
        log.append_many([_event(start + number) for number in range(min(BATCH, rest - start))])
    _say(f"appends in batches of {BATCH}", time.perf_counter() - begun, rest)
    log.close()


def reopen(directory, _):
    begun = time.perf_counter()
    log = _open(directory)
    _say("open", time.perf_counter() - begun, log.size)
    log.close()


def export(directory, _):
    card = issue_card(
        FACILITY,
        name="Bench",
        node_key=NODE.public,
        log_key=LOG.public,
        witness_key=WITNESS.public,
        addresses=(),
        serial=1,
        issued=now_ms() // 1000,
        expires=now_ms() // 1000 + 1000,
    )
    log = _open(directory)
    begun = time.perf_counter()
    count = log.export(directory / "bundle.zip", card=card.encoded)
    _say("export", time.perf_counter() - begun, count)
    log.close()


def verify(directory, _):
    digest = parse_fingerprint(fingerprint(FACILITY.public))
    begun = time.perf_counter()
    with (directory / "bundle.zip").open("rb") as file:
        verdict = verify_bundle(file, facility_fingerprint=digest)
    _say(f"verify ({verdict.code})", time.perf_counter() - begun, verdict.size)


PHASES = {each.__name__: each for each in (make, reopen, export, verify)}


def main(count):
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for phase in PHASES:
            arguments = [sys.executable, __file__, phase, f"{folder}/audit", str(count)]
            subprocess.run(arguments, check=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        PHASES[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) == 2 else 1_000_000)
