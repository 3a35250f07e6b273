"""Two real nodes: a study that was fetched grows at its source, and comes without a command."""

from pathlib import Path

import pytest
from facilities import two_facilities, wait_until
from studies_made import contents, make_study

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_new_images_come_by_themselves_and_are_a_transfer_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    with two_facilities(tmp_path / "pair") as (north, south):
        study = make_study(tmp_path / "in", 4)
        left = make_study(tmp_path / "left", 1)
        north.call("ingest", paths=[str(tmp_path / "in"), str(tmp_path / "left")])
        wait_until(lambda: {study, left} <= set(south.announced(north)), what="announcement")
        ran = south.cli("fetch", study, "--purpose", "research", "--from", north.name, "--stat")
        assert "fetched by itself for a day" in ran.stderr
        south.cli("fetch", left, "--no-follow")
        held = south.call("studies")["studies"]
        assert {one["study"]: bool(one["followed_until"]) for one in held} == {
            study: True,
            left: False,
        }

        make_study(tmp_path / "in", 3, study=study, first=5)
        make_study(tmp_path / "left", 1, study=left, first=2)
        north.call("ingest", paths=[str(tmp_path / "in"), str(tmp_path / "left")])

        def grown() -> bool:
            return any(one["grew"] for one in south.call("studies")["studies"])

        wait_until(grown, 60.0, what="growth")
        by_study = {one["study"]: one for one in south.call("studies")["studies"]}
        assert (by_study[study]["instances"], by_study[left]["instances"]) == (7, 1)
        grew = by_study[study]["grew"]
        assert (grew["before"], grew["instances"]) == (4, 7)
        assert "grew 4 -> 7 images, 20" in south.cli("studies").stdout
        assert "complete, stat, follow-up" in south.cli("transfers").stdout
        south.call("export", study=study, directory=str(tmp_path / "out"))
        assert contents(tmp_path / "out") == contents(tmp_path / "in")

        follow_up, first = (
            one for one in south.call("transfers")["transfers"] if one["study"] == study
        )
        assert (first["follow_up"], follow_up["follow_up"]) == (False, True)
        # What was here was not sent again, and it was asked for as the person had asked.
        assert 0 < follow_up["wire_bytes"] < first["wire_bytes"]
        for key in ("purpose", "stat", "peer"):
            assert follow_up[key] == first[key]
        own = {
            one["type"]: one
            for one in south.entries()
            if one["details"].get("transfer") == follow_up["transfer"]
        }
        assert set(own) == {"requested", "received", "receipt"}
        for entry in own.values():
            assert entry["actor"] == "node"
            assert entry["purpose"] == "research"
            assert entry["details"]["follow_up"] is True
            assert entry["details"]["stat"] is True
        theirs = [
            one
            for one in north.entries()
            if one["details"].get("transfer") == follow_up["transfer"]
        ]
        kinds = {"requested", "disclosure-begun", "disclosed", "receipt"}
        assert {one["type"] for one in theirs} == kinds
        assert all("follow_up" not in one["details"] for one in theirs)
        assert theirs[-1]["details"]["receipt"] == own["receipt"]["details"]["receipt"]
        for facility in (north, south):
            facility.check_log(tmp_path, facility.name)
            assert facility.cli("check").returncode == 0
        counts = south.call("audit.reconcile", peer=north.name)["counts"]
        assert counts["MATCHED"] == 3
