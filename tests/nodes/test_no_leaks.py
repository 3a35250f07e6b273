"""Studies of markers go through real nodes; nothing gets out but what the lists say.

North has the studies. Its peers have one kind of right each. What may be seen where is data in
this file: `PEERS` and `SHOWS`.
"""

import base64
import binascii
import contextlib
import re
import signal
import socket
import statistics
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from facilities import RADMESH, Facility, free_port, wait_until
from marked_studies import MAGIC, REASON, Marked, Search, forms
from relay import CONTROL_BYTES, Relay, Way

from node.errors import ExitCode, NodeError

pytestmark = [pytest.mark.integration]

SHARED, WITHHELD, DAMAGED, DISCARDED, ARRIVED, NEVER, ASKED = (Marked(one) for one in "ABCDEFG")
"""NEVER is a study that nobody has; ASKED is for one peer, which has to be approved."""
HERE = (SHARED, WITHHELD, DAMAGED, DISCARDED, ARRIVED, ASKED)
SEARCH = Search(*HERE)

ANNOUNCED = frozenset({"uid", "study_date"})
"""What an announcement says of a study, see docs/threat-model.md, guarantee 6."""


@dataclass(frozen=True)
class Rights:
    """What a peer has, and what its node may know of shared studies because of it."""

    grants: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    knows: frozenset[str] = frozenset()
    objects: bool = False
    takes: bool = False


PEERS = {
    "Nothing": Rights(),
    "Fetch": Rights(("fetch",)),
    "See": Rights(("see",), knows=ANNOUNCED),
    "Request": Rights(("find",), ("allow see shows=on-request",)),
    "Conditions": Rights((), ("allow see modality=MR", "allow fetch modality=MR",
                              "allow find body-part=HAND")),
    "Denied": Rights(("see", "find", "fetch"), ("deny see modality=CT", "deny find modality=CT")),
    "Objected": Rights(("see", "find", "fetch"), objects=True),
    "Finder": Rights(("find",)),
    "Asker": Rights(("see", "fetch"), ("ask fetch",), knows=ANNOUNCED, takes=True),
    "Taker": Rights(("see", "find", "fetch"), knows=ANNOUNCED, takes=True),
}  # fmt: skip

# --- what a command may show to its operator ---------------------------------------------

STUDY = frozenset({"uid"})
PERSON = frozenset({"PatientID", "IssuerOfPatientID"})
SHOWS: dict[str, frozenset[str]] = {
    "ingest": STUDY | {"file"},
    "arrive": frozenset({"file"}),
    "studies": ANNOUNCED | {"PatientName", "StudyDescription"},
    "studies --json": ANNOUNCED | PERSON | {"PatientName", "StudyDescription", "AccessionNumber"},
    "quarantine list": STUDY | {"file", "instance_uid"},
    "share": STUDY,
    "withdraw": STUDY,
    "sharing list": frozenset({"InstitutionName"}),
    "discard": STUDY,
    "find": ANNOUNCED,
    "objection list": PERSON,
    "consent list": PERSON,
    "requests": STUDY | {"reason"},
    "transfers": STUDY,
    "recalls list": STUDY,
    # The institution is a condition of a rule, as the admin wrote it; the body part is a fact that
    # decided, in an opening that can be erased.
    "audit show": STUDY
    | PERSON
    | {"instance_uid", "InstitutionName", "BodyPartExamined", "reason"},
    "status": STUDY,
    "audit receipts": STUDY,
    "audit pending": STUDY,
    "trust explain": STUDY | {"InstitutionName"},
    "trust who": STUDY,
}
"""What an operator is shown of the own studies by a command that is about studies.

All other commands show nothing of any study. What the operator typed may be repeated.
"""

# --- the world --------------------------------------------------------------------------


class Recorder(Relay):
    """A relay that keeps all bytes that pass."""

    def __init__(self, target_port: int) -> None:
        self.recorded = {way: bytearray() for way in Way}
        super().__init__(target_port)

    def _send(self, way: Way, sink: socket.socket, data: bytes) -> bool:
        self.recorded[way] += data
        return super()._send(way, sink, data)


@dataclass
class World:
    """North, its peers, the line between them, and what commands printed."""

    directory: Path
    north: Facility
    line: Recorder
    peers: dict[str, Facility]
    leaks: list[str] = field(default_factory=list)

    def run(self, facility: Facility, *words: str, code: int | None = 0) -> str:
        """Run a command as an operator, and look at what it prints; its output."""
        done = facility.cli(*words, check=False)
        if code is not None:
            assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        self.look(words, done.stdout + done.stderr)
        return done.stdout

    def look(self, words: tuple[str, ...], printed: str) -> None:
        """Note what a command shows though it may not."""
        assert "Traceback" not in printed, (words, printed)
        typed = SEARCH.find("\n".join(words).encode())
        may = _shown_by(words)
        for one in SEARCH.find(printed.encode()) - typed:
            if one.partition(":")[2] not in may:
                self.leaks.append(f"{' '.join(words[:3])} shows {one}: {_near(printed)}")


def _shown_by(words: tuple[str, ...]) -> frozenset[str]:
    plain = [word for word in words if not word.startswith("-")]
    as_json = " --json" if "--json" in words else ""
    for name in (" ".join(plain[:2]), plain[0]):
        if f"{name}{as_json}" in SHOWS or name in SHOWS:
            return SHOWS.get(f"{name}{as_json}") or SHOWS[name]
    return frozenset()


def _near(text: str) -> str:
    return " | ".join(line for line in text.splitlines() if MAGIC.upper() in line.upper())[:400]


def _make(directory: Path, names: list[str]) -> World:
    port = free_port()
    line = Recorder(port)
    north = Facility(directory, "North General", port=port, address=line.address)
    peers = {name: Facility(directory, f"{name} Clinic", only_calls=True) for name in names}
    for name, peer in peers.items():
        rights = PEERS[name]
        north.trust(peer, *rights.grants)
        peer.trust(north)
        for rule in rights.rules:
            north.call("rules.add", peer=peer.name, rule=rule.split())
    return World(directory, north, line, peers)


@contextlib.contextmanager
def _running(directory: Path, names: list[str]) -> Iterator[World]:
    world = _make(directory, names)
    everybody = [world.north, *world.peers.values()]
    try:
        for first in range(0, len(everybody), 2):
            for one in everybody[first : first + 2]:
                one.launch()
            for one in everybody[first : first + 2]:
                one.wait_started()
        for peer in world.peers.values():
            wait_until(lambda peer=peer: peer.peer(world.north)["connected"], 60, peer.name)
        yield world
    finally:
        for one in everybody:
            if one.process is not None:
                one.process.kill()
                one.process.wait()
        world.line.close()


# --- looking ----------------------------------------------------------------------------


def _in_home(facility: Facility) -> set[str]:
    """All that stands in a home: its files, among them the database and the log."""
    found = set[str]()
    for path in facility.home.path.rglob("*"):
        if path.is_file() and not path.is_socket():
            with contextlib.suppress(FileNotFoundError):
                found |= SEARCH.find(path.read_bytes())
    return found


def _in_names(directory: Path) -> set[str]:
    names = "\n".join(str(path.relative_to(directory)) for path in directory.rglob("*"))
    return SEARCH.find(names.encode())


def _unknown(peer: str, found: set[str]) -> set[str]:
    """What a node has that it may not have."""
    rights = PEERS[peer]
    shared = {one.letter for one in (SHARED, ARRIVED, DISCARDED, ASKED)}
    left = set()
    for one in found:
        letter, _, kind = one.partition(":")
        if letter not in shared or kind not in rights.knows:
            left.add(one)
    return left


def _refused(peer: Facility, north: Facility, study: Marked) -> tuple[str, str, int]:
    with pytest.raises(NodeError) as caught:
        peer.call("fetch", study=study.uid, peer=north.name)
    said = caught.value
    return (said.message.replace(study.uid, "U"), str(said.hint).replace(study.uid, "U"), said.code)


def _messages(world: World) -> list[tuple[Way, int]]:
    """The messages of a moment, without those that only keep the connection."""
    return sorted(one for one in world.line.seen if one[1] > CONTROL_BYTES)


# --- tests ------------------------------------------------------------------------------


def test_the_search_finds_each_form_of_a_marker() -> None:
    study = SHARED
    for text, name in (
        (study.text("PatientName"), "A:PatientName"),
        (study.birth_date, "A:birth_date"),
        (study.uid, "A:uid"),
        (study.instance_uid, "A:instance_uid"),
    ):
        assert SEARCH.find(text.encode()) == {name}
        for form, written in forms(text).items():
            assert SEARCH.find(b"\x00some" + written + b"thing\xff"), (form, text)
    made = study.instance(1)
    texts = [one for one in made.iterall() if MAGIC.upper() in str(one.value)]
    assert len({one.tag for one in texts}) > 200
    assert len({str(one.value) for one in texts}) == len({one.tag for one in texts})
    assert SEARCH.find(b"radmesh: study 1.2.840.10008.1 of 2026-01-01") == set()


QUICK = "Nothing"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_right_nothing_comes_and_nothing_is_told(tmp_path: Path) -> None:
    with _running(tmp_path, [QUICK]) as world:
        north, peer = world.north, world.peers[QUICK]
        SHARED.write(tmp_path / "in")
        world.run(north, "ingest", str(tmp_path / "in"))
        world.line.forget()
        said = [_refused(peer, north, study) for study in (SHARED, NEVER, SHARED, NEVER)]
        assert said[0] == said[1] == said[2] == said[3]
        found = []
        for study in (SHARED, NEVER):
            with pytest.raises(NodeError) as caught:
                peer.call("find", peer=north.name, **_number(study))
            found.append((caught.value.message, caught.value.hint, caught.value.code))
        assert found[0] == found[1]
        world.run(north, "status")
        world.run(peer, "studies", "--all")
        asked = {f"{one}:{kind}" for one in "AF" for kind in PERSON}
        assert _in_home(peer) <= asked | {"A:uid"}
        assert len(_in_home(north)) > 10, "the search finds what is there"
        for one in (north, peer):
            assert SEARCH.find(one.errors.read_bytes()) == set()
            assert _in_names(one.home.path) == set()
        assert SEARCH.find(bytes(world.line.recorded[Way.DOWN])) == set()
        assert SEARCH.find(bytes(world.line.recorded[Way.UP])) == set()
        assert world.leaks == []


def _number(study: Marked) -> dict[str, str]:
    return {
        "patient_id": study.text("PatientID"),
        "issuer": study.text("IssuerOfPatientID"),
    }


# --- everything -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world after all that can happen to studies has happened, and nobody has asked yet."""
    with _running(tmp_path_factory.mktemp("leaks"), list(PEERS)) as world:
        _studies_come(world)
        yield world


def _studies_come(world: World) -> None:
    north, made = world.north, world.directory
    for study in (SHARED, ARRIVED, DISCARDED, ASKED):
        world.run(north, "objection", "add", study.text("PatientID"), "--against",
                  "Objected Clinic")  # fmt: skip
    world.run(north, "objection", "list")
    world.run(north, "sharing", "add", "withhold",
              f"institution={WITHHELD.text('InstitutionName')}")  # fmt: skip
    for study in (SHARED, WITHHELD, DISCARDED, ASKED):
        study.write(made / "in" / study.letter)
        world.run(north, "ingest", str(made / "in" / study.letter))
    world.run(north, "arrive", "--stat", *map(str, ARRIVED.write(made / "in" / "E")))
    for path in DAMAGED.write(made / "in" / "C"):
        path.write_bytes(path.read_bytes()[:-700])
    world.run(north, "ingest", str(made / "in" / "C"), code=ExitCode.PARTLY)
    SHARED.write(made / "in" / "again", seed=1)
    world.run(north, "ingest", str(made / "in" / "again"), code=ExitCode.PARTLY)
    world.run(north, "ingest", str(made / "in" / "again"), "--json", code=ExitCode.PARTLY)
    seen = {SHARED.uid, DISCARDED.uid, ARRIVED.uid, ASKED.uid}
    for name, rights in PEERS.items():
        if rights.knows:
            wait_until(lambda peer=world.peers[name]: set(peer.announced(north)) == seen, 40, name)
    world.run(north, "discard", DISCARDED.uid, "--reason", "quality", "--yes")
    world.run(north, "withdraw", SHARED.uid, "--from", "See Clinic")
    world.run(north, "share", SHARED.uid, "--to", "See Clinic")
    gone = seen - {DISCARDED.uid}
    for name, rights in PEERS.items():
        if rights.knows:
            wait_until(lambda peer=world.peers[name]: set(peer.announced(north)) == gone, 40, name)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PEERS)
def test_before_it_asks_a_peer_has_what_its_rights_show_and_no_more(told: World, name: str) -> None:
    peer = told.peers[name]
    for words in (
        ("studies", "--all", "--json"), ("status",), ("audit", "show", "--all"),
    ):  # fmt: skip
        told.run(peer, *words)
    found = _in_home(peer)
    assert _unknown(name, found) == set()
    if PEERS[name].knows:
        assert "A:uid" in found, "the search finds what is there"
    else:
        assert told.run(peer, "studies", "--all") == ""
    assert not any(path.is_file() for path in (peer.home.path / "store").rglob("*"))
    assert told.leaks == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_without_see_cannot_tell_whether_a_study_exists(told: World, name: str) -> None:
    peer, north = told.peers[name], told.north

    def fetch(study: Marked) -> object:
        return _refused(peer, north, study)

    def find(study: Marked) -> object:
        try:
            return peer.call("find", peer=north.name, **_number(study))["studies"]
        except NodeError as error:
            return (error.message, error.hint, error.code)

    # Who may see does not learn of what is withheld, either.
    rights = PEERS[name]
    _are_the_same(told, fetch, WITHHELD if rights.knows else SHARED, NEVER)
    finds = "find" in rights.grants and not rights.objects and name != "Denied"
    _are_the_same(told, find, WITHHELD if finds else SHARED, NEVER)


TRIES = 5
SECONDS = 0.03
"""Medians may differ by so much, or by half of the shorter: this machine does other things, too."""


def _are_the_same(
    world: World, ask: Callable[[Marked], object], here: Marked, never: Marked
) -> None:
    """The same code, the same messages by size, and the same time, for two studies."""
    times: dict[str, list[float]] = {here.letter: [], never.letter: []}
    sizes: dict[str, list[tuple[tuple[Way, int], ...]]] = {here.letter: [], never.letter: []}
    answers = []
    for _ in range(TRIES):
        for study in (here, never):
            world.line.forget()
            begun = time.monotonic()
            answers.append(ask(study))
            times[study.letter].append(time.monotonic() - begun)
            sizes[study.letter].append(tuple(_messages(world)))
    assert all(answer == answers[0] for answer in answers)
    first, second = (statistics.median(times[one.letter]) for one in (here, never))
    assert abs(first - second) <= max(SECONDS, min(first, second) / 2), times
    # Other peers use the line, too, and messages that follow at once may go as one: so it is enough
    # that some try for the one looked like some try for the other.
    assert set(sizes[here.letter]) & set(sizes[never.letter]), sizes


# --- and then everybody asks --------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(told: World) -> World:
    """The same world after all peers have asked, and North's operator has looked at everything."""
    _peers_ask(told)
    _one_is_approved(told)
    _it_goes_wrong(told)
    _north_looks(told)
    return told


def _peers_ask(world: World) -> None:
    made = world.directory
    number = ("--patient-id", SHARED.text("PatientID"), "--issuer",
              SHARED.text("IssuerOfPatientID"))  # fmt: skip
    at = "North General"
    for name, peer in world.peers.items():
        if not PEERS[name].takes:
            refused = ExitCode.REFUSED
            world.run(peer, "fetch", SHARED.uid, "--from", at, code=refused)
        world.run(peer, "find", "--at", at, *number, code=None)
        world.run(peer, "audit", "show", "--all")
    taker = world.peers["Taker"]
    world.run(taker, "fetch", SHARED.uid)
    world.run(taker, "fetch", ARRIVED.uid, "--json")
    world.run(taker, "export", SHARED.uid, str(made / "out"))
    world.run(taker, "studies")
    world.run(taker, "audit", "reconcile", "--peer", at)
    world.run(world.north, "discard", f"{ARRIVED.instance_uid}.1", "--reason", "quality", "--yes")
    wait_until(lambda: taker.call("recalls.list")["recalls"], what="the recall")
    world.run(taker, "recalls", "list")
    world.run(taker, "status")


def _one_is_approved(world: World) -> None:
    north, asker = world.north, world.peers["Asker"]
    fetch = ("fetch", ASKED.uid, "--reason", ASKED.text(REASON))
    with _in_background(world, asker, *fetch):
        [request] = wait_until(lambda: north.call("requests")["requests"], what="the request")
        assert _unknown("Asker", _in_home(asker)) <= _typed_by_peers() | {"G:reason"}
        world.run(north, "requests")
        world.run(north, "approve", str(request["number"]))
        wait_until(
            lambda: {one["state"] for one in asker.call("transfers")["transfers"]} >= {"complete"},
            90,
            "the approved transfer",
        )
    with _in_background(world, asker, "fetch", SHARED.uid):
        [request] = wait_until(lambda: north.call("requests")["requests"], what="the request")
        # Why it was denied stays at North.
        world.run(north, "deny", str(request["number"]), "--reason", SHARED.text(REASON))


def _it_goes_wrong(world: World) -> None:
    north, taker, made = world.north, world.peers["Taker"], world.directory
    for one, words in (
        (north, ("export", NEVER.uid, str(made / "no"))),
        (north, ("share", NEVER.uid)),
        (north, ("discard", NEVER.uid, "--reason", "quality", "--yes")),
        (taker, ("fetch", NEVER.uid)),
        (taker, ("fetch", NEVER.uid, "--from", "North General")),
        (north, ("trust", "explain", "See Clinic", NEVER.uid)),
        (north, ("studies", "--born", SHARED.text(REASON))),
        (north, ("audit", "report", "fhir", "--output", "/proc/nothing", "--study", SHARED.uid)),
        (north, ("export", SHARED.uid, "/proc/nothing")),
        (north, ("quarantine", "take", SHARED.uid, "--reason", "mistake")),
        (north, ("ingest", str(made / "in" / SHARED.text(REASON)))),
    ):
        world.run(one, *words, code=None)
    small = Facility(made, "Small Disk", only_calls=True)
    limited = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash", *RADMESH, "--home"]
    for command in ("ingest", "arrive"):
        words = [*limited, str(small.home.path), command, str(made / "in" / "A")]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        world.look((command, str(made / "in" / "A")), done.stdout + done.stderr)
    north.kill()
    with _in_background(world, taker, "fetch", ASKED.uid, seconds=1.5):
        pass
    north.start()
    for peer in world.peers.values():
        wait_until(lambda peer=peer: peer.peer(north)["connected"], 90, peer.name)


@contextlib.contextmanager
def _in_background(
    world: World, facility: Facility, *words: str, seconds: float = 0
) -> Iterator[None]:
    """Run a command until the block ends, as somebody who then presses Ctrl-C."""
    running = subprocess.Popen(
        [*RADMESH, "--home", str(facility.home.path), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(seconds or 30)
    finally:
        running.send_signal(signal.SIGINT)
        world.look(words, "".join(running.communicate(timeout=30)))


def _north_looks(world: World) -> None:
    north, made = world.north, world.directory
    study, who = SHARED.uid, SHARED.text("PatientID")
    for line in NORTH_LOOKS:
        words = [
            {"STUDY": study, "PATIENT": who}.get(word, word.replace("MADE", str(made)))
            for word in line.split()
        ]
        world.run(north, *(word.replace("~", " ") for word in words), code=None)
    for one in north.call("quarantine.list")["aside"]:
        world.run(north, "quarantine", "drop", one["name"], "--reason", "not-needed")
    world.run(north, "audit", "erase", who, "--patient", "--yes")
    world.run(north, "audit", "show", "--all", "--study", study)


NORTH_LOOKS = (
    """
status|status --json|studies|studies --json|studies --all|studies --to-check|quarantine list
studies --patient-id PATIENT|quarantine list --json|requests --all|requests --all --json
transfers|transfers --json|recalls list|objection list|consent add PATIENT|consent list
sharing list|sharing conditions|sharing try share modality=CT|people list|proposals|retention
trust list|trust list --json|trust show See~Clinic|trust show Taker~Clinic --json|trust mine
trust rule list Denied~Clinic|trust rule conditions|trust try Nothing~Clinic allow see modality=CT
trust explain See~Clinic STUDY|trust explain Denied~Clinic STUDY|trust explain Objected~Clinic STUDY
trust explain Conditions~Clinic STUDY --json|trust who STUDY|trust who STUDY --json
keys show|card show|export STUDY MADE/north-out|check|check --fast --json
audit show --all|audit show --all --json|audit show --patient PATIENT|audit show --study STUDY
audit export MADE/all.zip|audit export MADE/nameless.zip --without-openings
audit export MADE/see.zip --peer See~Clinic|audit verify MADE/all.zip|audit verify MADE/nameless.zip
audit report dicom --output MADE/report.xml|audit report fhir --output MADE/report.json
audit report accounting --output MADE/report.csv --all-purposes|audit receipts
audit receipts --export MADE/receipts|audit pending|audit pending --all|audit policy|audit forks
audit witness|audit prove 5 MADE/proof --without-openings|audit check-proof MADE/proof
audit reconcile --peer Taker~Clinic|backup MADE/backup
restore MADE/backup --home MADE/restored --keys MADE/north/keys
share --dry-run --modality CT|withdraw --dry-run --modality CT
withdraw STUDY --from See~Clinic|share STUDY --to See~Clinic|drill stolen-node-key
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""What an operator can look at; ~ is a space in a word."""


def _typed_by_peers() -> set[str]:
    """What the peers said when they asked, in this file."""
    return {f"{one.letter}:{kind}" for one in (SHARED, WITHHELD, NEVER) for kind in PERSON | STUDY}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_show_what_the_list_says(asked: World) -> None:
    assert asked.leaks == []


@pytest.mark.slow
def test_no_process_log_names_anything(asked: World) -> None:
    for one in (asked.north, *asked.peers.values()):
        assert SEARCH.find(one.errors.read_bytes()) == set(), one.name
        assert "Traceback" not in one.stderr()


@pytest.mark.slow
def test_no_file_name_names_anything(asked: World) -> None:
    for name in ("north", "out", "north-out", "backup", "restored", *map(str.lower, PEERS)):
        assert _in_names(asked.directory / name) == set(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in PEERS.items() if not one.takes])
def test_a_refused_peer_knows_what_it_typed_and_no_more(asked: World, name: str) -> None:
    found = _unknown(name, _in_home(asked.peers[name])) - _typed_by_peers()
    finds = name in {"Request", "Finder"}
    assert found <= ({"A:study_date"} if finds else set())
    assert not any(path.is_file() for path in (asked.peers[name].home.path / "store").rglob("*"))


@pytest.mark.slow
def test_who_may_fetch_has_what_was_fetched_and_nothing_of_others(asked: World) -> None:
    for name, fetched in (("Taker", "AEG"), ("Asker", "G")):
        found = _unknown(name, _in_home(asked.peers[name])) - _typed_by_peers()
        assert {one for one in found if one[0] not in fetched} == set(), name
        assert "G:PatientName" in found, "the search finds what is there"
    assert "A:reason" not in _in_home(asked.peers["Asker"]), "why it was denied"


@pytest.mark.slow
def test_nothing_stands_in_clear_on_the_line(asked: World) -> None:
    for way in Way:
        assert len(asked.line.recorded[way]) > 10_000
        assert SEARCH.find(bytes(asked.line.recorded[way])) == set()


@pytest.mark.slow
def test_a_file_for_others_names_what_was_asked_for(asked: World) -> None:
    made = asked.directory
    assert _in_zip(made / "all.zip") >= {"A:uid", "A:PatientID"}
    # The log holds sharing rules as the admin wrote them.
    rule = {"B:InstitutionName"}
    assert _in_zip(made / "nameless.zip") == rule
    # See may have asked for WITHHELD, and the log says so then.
    assert {one for one in _in_zip(made / "see.zip") if one[0] in "BC"} <= rule | {"B:uid"}
    for name in ("receipts", "proof"):
        assert SEARCH.find((made / name).read_bytes()) == set(), name
    may = STUDY | PERSON | {"instance_uid", "InstitutionName"}
    for name in ("report.xml", "report.json", "report.csv"):
        found = _in_report(made / name)
        assert {one.partition(":")[2] for one in found} <= may, (name, found)


def _in_report(path: Path) -> set[str]:
    """What stands in a report; DICOM audit messages have their details in base64."""

    def decoded(value: re.Match[bytes]) -> bytes:
        try:
            return b'"%s"' % base64.b64decode(value[1], validate=True)
        except binascii.Error:
            return value[0]

    return SEARCH.find(re.sub(rb'"([A-Za-z0-9+/]{8,}={0,2})"', decoded, path.read_bytes()))


def _in_zip(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as bundle:
        return {found for name in bundle.namelist() for found in SEARCH.find(bundle.read(name))}
