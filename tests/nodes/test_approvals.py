"""A request that waits for a person, between two real nodes that are killed meanwhile."""

import threading
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import make_study

from node.errors import NodeError

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def _state(facility: Facility) -> dict[str, Any]:
    found: dict[str, Any] = facility.call("transfers")["transfers"][0]
    return found


def _waits(facility: Facility) -> bool:
    found = _state(facility)
    return bool(found["state"] == "waiting" and "waiting for approval at" in found["why"])


def test_it_waits_over_kills_of_both_and_goes_on_by_itself(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):
        study = make_study(tmp_path / "in", 3)
        north.call("ingest", paths=[str(tmp_path / "in")])
        north.call("rules.add", peer=south.name, rule=["ask", "fetch"])
        wait_until(lambda: study in south.announced(north), what="announcement")

        def fetch() -> None:
            # The node goes on when the command and the node are gone.
            try:
                south.call("fetch", study=study, reason="before the operation")
            except (NodeError, OSError):
                pass

        asking = threading.Thread(target=fetch)
        asking.start()
        wait_until(lambda: len(north.call("requests")["requests"]) == 1, what="the request")
        wait_until(lambda: _waits(south), what="the asker sees that it waits")
        south.kill()
        asking.join(30)
        north.kill()
        north.start()
        south.start()
        [waiting] = north.call("requests")["requests"]
        assert (waiting["study"], waiting["peer"]) == (study, south.name)
        assert waiting["reason"] == "before the operation"
        wait_until(lambda: _waits(south), 40.0, "it asks again by itself")
        north.call("approve", number=waiting["number"])
        wait_until(lambda: _state(south)["state"] == "complete", 90.0, "it goes on by itself")
        assert len(north.entries("approval-asked")) == 1
        kinds = [entry["type"] for entry in north.entries()]
        assert kinds.index("approval-asked") < kinds.index("approved")
        assert kinds.index("approved") < kinds.index("disclosure-begun")
        for facility in (north, south):
            facility.check_log(tmp_path)


def test_what_is_denied_ends_at_the_asker(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):
        study = make_study(tmp_path / "in", 3)
        north.call("ingest", paths=[str(tmp_path / "in")])
        north.call("rules.add", peer=south.name, rule=["ask", "fetch"])
        wait_until(lambda: study in south.announced(north), what="announcement")
        ended: list[str] = []

        def fetch() -> None:
            try:
                south.call("fetch", study=study)
            except NodeError as error:
                ended.append(error.message)

        asking = threading.Thread(target=fetch)
        asking.start()
        wait_until(lambda: len(north.call("requests")["requests"]) == 1, what="the request")
        north.call("deny", number=1, reason="ask the ward")
        asking.join(60)
        [message] = ended
        assert "does not allow us to fetch its studies" in message
        # Why stays at home.
        assert "ward" not in message
