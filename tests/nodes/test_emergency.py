"""Two real nodes: a study in an emergency, with the commands that people use."""

from pathlib import Path

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import contents, make_study

from node.errors import ExitCode

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REASON = "life-threatening: bleeding, no time to ask"


def _breaks(south: Facility, study: str, reason: str = REASON) -> int:
    words = ("fetch", study, "--from", "North General", "--emergency", reason)
    return south.cli(*words, check=False).returncode


def test_the_glass_is_broken_and_both_sides_review_it(tmp_path: Path) -> None:
    with two_facilities(tmp_path, grants=()) as (north, south):
        study = make_study(tmp_path / "in", 4)
        north.call("ingest", paths=[str(tmp_path / "in")])
        for facility in (north, south):
            assert facility.cli("status").returncode == ExitCode.OK

        assert _breaks(south, study) == ExitCode.REFUSED
        assert _breaks(south, study, "because") == ExitCode.USAGE
        assert _breaks(south, study, "unconscious") == ExitCode.REFUSED
        words = ("fetch", study, "--from", "North General", "--purpose", "BTG")
        assert south.cli(*words, check=False).returncode == ExitCode.USAGE
        north.cli("trust", "rule", "add", "South Clinic", "allow", "emergency")
        # What was refused waits for a review at the side that tried.
        for number in (1, 2):
            done = south.cli(
                "review", str(number), "--outcome", "not-justified", "--note", "no rule yet"
            )
            assert "not-justified" in done.stdout
        assert len(north.call("emergencies")["emergencies"]) == 0

        assert _breaks(south, study) == ExitCode.OK
        south.call("export", study=study, directory=str(tmp_path / "out"))
        assert contents(tmp_path / "out") == contents(tmp_path / "in")
        for facility in (north, south):
            assert facility.cli("status", check=False).returncode == ExitCode.WAITING
            assert facility.cli("status", "--alive").returncode == ExitCode.OK
            assert "emergency" in facility.cli("status", check=False).stdout
            assert "emergency access" in facility.stderr()
            for secret in (study, "bleeding", "MARKER-PATIENT-ID"):
                assert secret not in facility.stderr()
        [one] = north.call("emergencies")["emergencies"]
        assert (one["study"], one["reason"], one["direction"]) == (study, REASON, "out")
        assert REASON in north.cli("review").stdout
        kinds = [entry["type"] for entry in south.entries()]
        assert kinds.index("emergency-begun") < kinds.index("received")

        # Killed and started again: it is still open on both.
        for facility in (north, south):
            facility.kill()
            facility.start()
            [waiting] = facility.call("emergencies")["emergencies"]
            assert waiting["ended"] is not None
            number = str(waiting["number"])
            facility.cli("review", number, "--outcome", "justified", "--note", "it was needed")
            assert facility.cli("status").returncode == ExitCode.OK
        for facility in (north, south):
            facility.check_log(tmp_path)
        wait_until(lambda: north.answers() and south.answers())
        south.stop()
        dead = south.cli("status", "--alive", check=False)
        assert dead.returncode == ExitCode.BUSY
