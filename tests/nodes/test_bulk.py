"""Bulk work of a trusted peer is cut by no budget: 2,000 studies, fetched one after another."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from facilities import two_facilities, wait_until
from studies_made import make_study

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = "1.2.826.0.1.3680043.8.498.5"
STUDIES = 2000
AT_ONCE = 64


def test_two_thousand_studies_are_fetched_with_no_refusal(tmp_path: Path) -> None:
    wanted = {
        make_study(
            tmp_path / "in" / str(number), 1, study=f"1.2.826.0.1.3680043.8.498.5.{number}", rows=8
        )
        for number in range(1, STUDIES + 1)
    }
    with two_facilities(tmp_path) as (north, south):
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: len(south.announced(north)) == STUDIES, 120.0, "announcements")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            states = list(
                pool.map(lambda study: south.call("fetch", study=study)["state"], sorted(wanted))
            )
        assert states == ["complete"] * STUDIES
        assert {row["study"] for row in south.call("studies")["studies"]} == wanted
        assert not north.entries("refused")
        assert not south.entries("refused")
        assert len(north.entries("disclosed")) == STUDIES
        over = [one["over"] for one in north.peer(south)["today"].values()]
        assert not any(over)
