"""Two persons as two users of the machine, at a node as a process that is stopped and killed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility
from facility_in_memory import Other
from other_users import OTHER, OTHERS_GROUP, SECOND, as_root, as_user, public

from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode

__all__ = ["public"]

pytestmark = [as_root, pytest.mark.slow, pytest.mark.integration]


DYING = """
import os, sys
from node.audit.appending import Appender
from node.cli import main

original = Appender.append_many

def append_and_die(self, events):
    written = original(self, events)
    if any(event.type == "confirmed" for event in events):
        os._exit(9)
    return written

Appender.append_many = append_and_die
sys.exit(main(sys.argv[1:]))
"""
"""A node that ends at once when a confirmation is on disk, before its act."""


@pytest.fixture
def facility(tmp_path: Path, public: Path) -> Iterator[Facility]:
    """A node whose people are two users of the machine, under the rule for trust."""
    made = Facility(tmp_path, "North General")
    with made.home.config_path.open("a") as settings:
        settings.write(f'\n[people]\ngroup = "{OTHERS_GROUP}"\nfolder = "{public / "people"}"\n')
    made.start()
    for name, user, role in (("anna", OTHER, "admin"), ("bert", SECOND, "approve")):
        made.cli("people", "add", name, "--user", user, "--role", role)
    made.cli("people", "rule", "trust", "2")
    yield made
    if made.process is not None:
        made.stop()


def _ask(public: Path, user: str, operation: str, **given: Any) -> dict[str, Any]:
    ran = as_user(user, [OTHERS_GROUP], public / "people" / "api.sock", operation, **given)
    body = ran.stdout.partition(b"\r\n\r\n")[2]
    lines = [line for line in body.splitlines() if line.startswith(b"{")]
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _proposed(public: Path) -> tuple[int, str]:
    other = Other("South Clinic", SYSTEM_CLOCK.now())
    answer = _ask(
        public,
        OTHER,
        "trust.add",
        card=other.card.encoded.decode(),
        fingerprint=other.card.fingerprint,
        grants=["see"],
    )
    return answer["result"]["waits_for_second"]["number"], other.card.fingerprint


def _trusted(facility: Facility) -> list[str]:
    return [peer["fingerprint"] for peer in facility.call("trust.list")["peers"]]


def test_two_users_with_a_restart_and_a_kill_between_them(
    facility: Facility, public: Path, tmp_path: Path
) -> None:
    number, fingerprint = _proposed(public)
    facility.stop()
    facility.start()
    facility.kill()
    facility.start()
    assert _trusted(facility) == []
    alone = _ask(public, OTHER, "confirm", number=number)
    assert alone["error"]["code"] == ExitCode.REFUSED
    assert _trusted(facility) == []
    owner = facility.cli("confirm", str(number), check=False)
    assert owner.returncode == ExitCode.REFUSED
    assert "only a person of the list" in owner.stderr
    assert _ask(public, SECOND, "confirm", number=number)["result"]["proposal"]["state"] == "done"
    assert _trusted(facility) == [fingerprint]
    [added] = [one for one in facility.entries() if one["type"] == "trust-added"]
    assert [one["value"] for one in added["opened"]] == ["anna^^^admin^^^", "bert^^^approve^^^"]
    for name in ("anna", "bert", OTHER, SECOND):
        assert name not in facility.stderr()
    facility.check_log(tmp_path)


def test_killed_right_after_the_confirmation_it_waits_as_before(
    facility: Facility, public: Path, tmp_path: Path
) -> None:
    """The node is one that dies once the entry is on disk, before the act."""
    number, fingerprint = _proposed(public)
    facility.stop()
    with facility.errors.open("ab") as errors:
        facility.process = subprocess.Popen(
            [sys.executable, "-c", DYING, "--home", str(facility.home.path), "serve"],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    facility.wait_started()
    with pytest.raises(IndexError):
        _ask(public, SECOND, "confirm", number=number)
    assert facility.process is not None
    assert facility.process.wait(timeout=20) == 9
    facility.process = None
    facility.start()
    assert _trusted(facility) == []
    told = [one for one in facility.entries() if one["type"] == "confirmed"]
    assert [one["outcome"] for one in told] == ["success", "failed"]
    shown = _ask(public, SECOND, "proposals")["result"]["proposals"]
    assert [(one["number"], one["state"]) for one in shown] == [(number, "proposed")]
    assert "result" in _ask(public, SECOND, "confirm", number=number)
    assert _trusted(facility) == [fingerprint]
    facility.check_log(tmp_path)


def test_the_command_line_says_that_another_person_is_waited_for(
    facility: Facility, public: Path, tmp_path: Path
) -> None:
    """With the rule, the owner's command is refused; a person's would wait with its own code."""
    other = Other("South Clinic", SYSTEM_CLOCK.now())
    card = tmp_path / "south.card"
    card.write_bytes(other.card.encoded)
    words = ("trust", "add", str(card), "--fingerprint", other.card.fingerprint)
    owner = facility.cli(*words, check=False)
    assert owner.returncode == ExitCode.REFUSED
    assert "two people of the list have to do this together" in owner.stderr
    assert "two people are needed for: trust" in facility.cli("people", "list").stdout
    assert _trusted(facility) == []
