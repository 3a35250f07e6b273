"""Erasing openings: nothing of the name is left beside the log, at whatever point power fails."""

import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from logs_made import create, entries_of, reopen, verified

from node.audit.erasing import erase, finish_erasures, go_on_erasing
from node.audit.erasure import Erasures, is_patient
from node.audit.log import AuditLog
from node.clock import SYSTEM_CLOCK
from node.database import Database
from node.errors import NodeError
from node.transfer.transfers import TRANSFERS_SCHEMA, Transfers, TransferState
from protocol.log.entry import Event, commitment, subjects_of

STUDY = "1.2.826.0.1.3680043.8.498.77777777777"
OTHER = "1.2.826.0.1.3680043.8.498.88888888888"
PATIENT = "PID-55555^^^NORTH"


def _forget(_: object) -> None:
    pass


class PowerCut(Exception):
    """The process ends here."""


def _log(directory: Path) -> AuditLog:
    log = create(directory)
    for number in range(3):
        log.append(Event(type="ingest", subjects=subjects_of(f"1.2.3.{number}", (f"P{number}",))))
    log.append(Event(type="ingest", actor="operator", subjects=subjects_of(STUDY, (PATIENT,))))
    log.append(Event(type="announced", subjects=(("study", STUDY), ("study", OTHER))))
    log.append(Event(type="disclosed", subjects=subjects_of(STUDY, (PATIENT,))))
    log.append(Event(type="ingest", subjects=subjects_of(OTHER, ("Q9",))))
    return log


def _bytes_beside(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file())


def _opened(log: AuditLog) -> list[str]:
    return [opening.value for _, opening in log.evidence.openings(log.size)]


def test_a_study_is_erased_with_whose_it_was_and_nothing_else(tmp_path: Path) -> None:
    log = _log(tmp_path)
    before = list(log.entries())
    erasure, index, salt = erase(log, "study", STUDY, _forget)
    assert (erasure.openings, erasure.entries) == (5, 3)
    assert _opened(log) == ["1.2.3.0", "P0", "1.2.3.1", "P1", "1.2.3.2", "P2", OTHER, OTHER, "Q9"]
    assert list(log.entries(0, len(before))) == before
    entry = entries_of(log)[index]
    assert (entry.type, entry.actor, entry.subjects) == ("erased", "operator", ())
    assert entry.details["commitment"] == commitment("study", STUDY, salt)
    assert verified(log).sound
    log.close()


def test_a_patient_is_erased_with_all_studies(tmp_path: Path) -> None:
    log = _log(tmp_path)
    erasure, _, _ = erase(log, "patient", "PID-55555", _forget)
    assert erasure.openings == 5
    assert STUDY not in _opened(log)
    assert PATIENT not in _opened(log)
    assert verified(log).sound
    log.close()


@pytest.mark.parametrize("patient", ["PID-5555", "PID-55555^^^SOUTH", "ID-55555", "PID-55555%"])
def test_a_part_of_an_identity_is_not_the_identity(tmp_path: Path, patient: str) -> None:
    log = _log(tmp_path)
    assert log.evidence.erasures.find("patient", patient, log.size).openings == 0
    log.close()


@pytest.mark.parametrize(
    ("wanted", "others"),
    [
        (PATIENT, ["PID-55555", "PID-55555^^^SOUTH", "PID-5555^^^NORTH"]),
        ("PID-55555", ["PID-5555", "PID-555555^^^NORTH", "ID-55555^^^NORTH"]),
    ],
)
def test_code_and_sql_mean_the_same_patient(tmp_path: Path, wanted: str, others: list[str]) -> None:
    log = _log(tmp_path)
    for other in others:
        log.append(Event(type="ingest", subjects=(("patient", other),)))
    erase(log, "patient", wanted, _forget)
    assert is_patient(PATIENT, wanted)
    assert PATIENT not in _opened(log)
    for other in others:
        assert not is_patient(other, wanted)
        assert other in _opened(log)
    log.close()


def test_the_other_patient_of_an_entry_stays(tmp_path: Path) -> None:
    """A study with two patients: its UID goes with either, an instance too, a name does not."""
    log = _log(tmp_path)
    subjects = (
        ("study", "1.2.7"),
        ("patient", PATIENT),
        ("patient", "Q7"),
        ("instance", "1.2.7.1"),
    )
    log.append(Event(type="discarded", subjects=subjects))
    erase(log, "patient", PATIENT, _forget)
    assert {"1.2.7", "1.2.7.1"}.isdisjoint(_opened(log))
    assert "Q7" in _opened(log)
    log.close()


def test_what_else_tells_of_a_study_is_forgotten_too_also_after_a_crash(tmp_path: Path) -> None:
    log = _log(tmp_path)
    told: list[list[str]] = []
    erase(log, "patient", PATIENT, lambda studies: told.append(list(studies)))
    log.evidence.erasures.begin("study", OTHER, log.size)
    finish_erasures(log, lambda studies: told.append(list(studies)))
    finish_erasures(log, lambda studies: told.append(list(studies)))
    assert told == [[STUDY], [OTHER]]
    log.close()


def test_no_byte_of_the_name_is_left_in_the_folder(tmp_path: Path) -> None:
    log = create(tmp_path)
    chance = random.Random(4)
    for number in range(400):
        named = chance.random() < 0.2
        study = STUDY if named else f"1.2.{number}.{chance.getrandbits(90)}"
        patient = PATIENT if named else f"P{chance.getrandbits(60)}"
        log.append(Event(type="ingest", subjects=subjects_of(study, (patient,))))
    assert STUDY.encode() in _bytes_beside(tmp_path)
    erase(log, "study", STUDY, _forget)
    left = _bytes_beside(tmp_path)
    assert b"77777777777" not in left
    assert b"PID-55555" not in left
    log.close()
    assert b"77777777777" not in _bytes_beside(tmp_path)


async def test_no_byte_of_a_transfer_is_left_in_the_database(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.db", (TRANSFERS_SCHEMA,))
    transfers = Transfers(database, clock=SYSTEM_CLOCK)
    for number in range(40):
        study = STUDY if number == 7 else f"1.2.{number}"
        fetch = transfers.begin_incoming(study, bytes(32), "treatment", only_peer=False, stat=False)
        for state, why in (("waiting", "x" * 9 * number), ("receiving", ""), ("complete", "")):
            await transfers.enter(fetch, TransferState(state), why)
        if number == 20:
            database.empty_write_ahead_log()
    assert b"77777777777" in _bytes_beside(tmp_path)
    transfers.forget([STUDY])
    assert b"77777777777" not in _bytes_beside(tmp_path)
    assert len(transfers.recent()) == 39
    database.close()


def _cut_in(monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool) -> None:
    owner: type = Erasures if step in ("begin", "finish") else AuditLog
    original = getattr(owner, step)

    def cut(*args: object) -> object:
        if after:
            original(*args)
        raise PowerCut

    monkeypatch.setattr(owner, step, cut)


@pytest.mark.parametrize(
    ("step", "after", "is_erased"),
    [
        ("begin", False, False),
        ("begin", True, True),
        ("append", False, True),
        ("append", True, True),
        ("finish", False, True),
        ("finish", True, True),
    ],
)
def test_power_fails_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, is_erased: bool
) -> None:
    log = _log(tmp_path)
    with monkeypatch.context() as patch:
        _cut_in(patch, step, after=after)
        with pytest.raises(PowerCut):
            erase(log, "study", STUDY, _forget)
    log.close()
    for _ in range(2):
        log = reopen(tmp_path)
        finish_erasures(log, _forget)
        assert [entry.type for entry in entries_of(log)].count("erased") == int(is_erased)
        assert (STUDY in _opened(log)) is not is_erased
        assert log.evidence.erasures.pending() == []
        assert verified(log).sound
        log.close()
    assert (b"77777777777" in _bytes_beside(tmp_path)) is not is_erased


def test_power_fails_between_deleting_and_overwriting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _log(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("node.database.Database.empty_write_ahead_log", _cut)
        with pytest.raises(PowerCut):
            erase(log, "study", STUDY, _forget)
    assert b"77777777777" in _bytes_beside(tmp_path)
    finish_erasures(log, _forget)
    assert b"77777777777" not in _bytes_beside(tmp_path)
    log.close()


def _cut(_: object) -> None:
    raise PowerCut


def test_an_entry_that_could_not_be_written_is_written_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _log(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "append", _full)
        with pytest.raises(NodeError, match="not finished"):
            erase(log, "study", STUDY, _forget)
    assert STUDY in _opened(log)
    log.close()
    log = reopen(tmp_path)
    finish_erasures(log, _forget)
    assert entries_of(log)[-1].type == "erased"
    assert STUDY not in _opened(log)
    log.close()


def _full(*_: object) -> int:
    raise NodeError("the disk is full")


def test_openings_that_come_while_an_erasure_waits_stay(tmp_path: Path) -> None:
    log = _log(tmp_path)
    log.evidence.erasures.begin("study", STUDY, log.size)
    log.append(Event(type="ingest", subjects=subjects_of(STUDY, (PATIENT,))))
    finish_erasures(log, _forget)
    assert _opened(log)[-2:] == [STUDY, PATIENT]
    assert _opened(log).count(STUDY) == 1
    log.close()


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from logs_made import reopen
    from node.audit.log import AuditLog
    from node.audit.erasing import erase
    from node.audit.erasure import Erasures
    from node.database import Database

    owner, step, when = {"AuditLog": AuditLog, "Erasures": Erasures, "Database": Database}[
        sys.argv[1]
    ], sys.argv[2], sys.argv[3]
    original = getattr(owner, step)

    def killed(*arguments):
        if when == "after":
            original(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    log = reopen(Path(sys.argv[4]))
    setattr(owner, step, killed)
    erase(log, "study", sys.argv[5], lambda studies: None)
    """
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "step", "when"),
    [
        ("Erasures", "begin", "after"),
        ("AuditLog", "append", "after"),
        ("Database", "empty_write_ahead_log", "before"),
        ("Database", "empty_write_ahead_log", "after"),
        ("Erasures", "finish", "after"),
    ],
)
def test_the_process_is_killed(tmp_path: Path, owner: str, step: str, when: str) -> None:
    _log(tmp_path).close()
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script), owner, step, when, str(tmp_path), STUDY],
        env={"PYTHONPATH": ":".join(sys.path)},
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    log = reopen(tmp_path)
    finish_erasures(log, _forget)
    assert [entry.type for entry in entries_of(log)].count("erased") == 1
    assert STUDY not in _opened(log)
    assert verified(log).sound
    log.close()
    assert b"77777777777" not in _bytes_beside(tmp_path)


def test_an_erasure_that_cannot_be_finished_does_not_stop_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = _log(tmp_path)
    log.evidence.erasures.begin("study", STUDY, log.size)
    with monkeypatch.context() as patch:
        patch.setattr("node.database.Database.empty_write_ahead_log", _full)
        go_on_erasing(log, _forget)
    assert "not finished" in caplog.text
    assert STUDY not in caplog.text
    go_on_erasing(log, _forget)
    assert log.evidence.erasures.pending() == []
    assert [entry.type for entry in entries_of(log)].count("erased") == 1
    log.close()


INSTANCE = f"{STUDY}.1.1"


def _with_instances(directory: Path) -> AuditLog:
    log = create(directory)
    for patient, number in ((PATIENT, 1), ("PID-55555^X", 2), ("PID-55555^^X", 3), ("Q9", 4)):
        subjects = (("patient", patient), ("instance", f"{INSTANCE}{number}"))
        log.append(Event(type="ingest", subjects=subjects))
    return log


def test_the_instances_of_a_patient_are_erased_and_no_one_elses(tmp_path: Path) -> None:
    log = _with_instances(tmp_path)
    before = _opened(log)
    erasure, _, _ = erase(log, "patient", "PID-55555", _forget)
    assert (erasure.openings, erasure.entries) == (2, 1)
    assert _opened(log) == [one for one in before if one not in (PATIENT, f"{INSTANCE}1")]
    assert verified(log).sound
    log.close()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_one_erasure_at_a_time_is_finished(tmp_path: Path, first: int) -> None:
    """Of several that a crash left, in whatever order of their random names."""
    log = _log(tmp_path)
    begun = [
        log.evidence.erasures.begin("study", f"1.2.3.{number}", log.size)[0] for number in range(3)
    ]
    one = sorted(begun, key=lambda each: each.name)[first]
    number = begun.index(one)
    log.evidence.erasures.finish(one)
    assert f"1.2.3.{number}" not in _opened(log)
    left = [other for other in range(3) if other != number]
    assert all(f"1.2.3.{other}" in _opened(log) for other in left)
    assert {each.name for each in log.evidence.erasures.pending()} == {
        begun[other].name for other in left
    }
    finish_erasures(log, _forget)
    assert not any(f"1.2.3.{other}" in _opened(log) for other in range(3))
    log.close()


def test_erasures_that_wait_are_finished_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    log = create(tmp_path)
    for number in range(8):
        subjects = subjects_of(f"1.2.3.{number}", f"P{number}")
        log.append(Event(type="ingest", subjects=subjects))
        log.evidence.erasures.begin("study", f"1.2.3.{number}", log.size)
    told: list[str] = []
    finish_erasures(log, told.extend)
    assert told == [f"1.2.3.{number}" for number in range(8)]
    log.close()


def test_what_would_be_erased_is_said_before_it_is(tmp_path: Path) -> None:
    log = _log(tmp_path)
    found = log.evidence.erasures.find("study", STUDY, log.size)
    assert (found.studies, found.patients) == ((STUDY,), (PATIENT,))
    found = log.evidence.erasures.find("patient", "Q9", log.size)
    assert (found.studies, found.patients) == ((OTHER,), ("Q9",))
    found = log.evidence.erasures.find("study", STUDY, log.size - 2)
    assert (found.openings, found.entries) == (3, 2)
    log.close()


def test_one_person_is_erased_and_no_other(tmp_path: Path) -> None:
    log = _log(tmp_path)
    for name in ("anna", "bert", "anna2"):
        log.append(Event(type="shared", subjects=(("study", OTHER), ("person", name))))
    erase(log, "person", "anna", _forget)
    left = _opened(log)
    assert "anna" not in left
    assert {"bert", "anna2"} <= set(left)
    assert left.count(OTHER) == 5
    log.close()
