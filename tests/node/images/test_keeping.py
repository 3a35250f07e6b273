"""Retention of studies: what goes since it is in an archive, and above all what never does."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checked_home import take
from clocks_made import MadeClock
from facility_in_memory import Other, available, entries, told_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studies_kept import check_whole
from studies_made import make_study

from node.app import Node
from node.edges.match_rows import LocalPatient
from node.errors import ExitCode, NodeError
from node.home import Home
from node.images.keeping import Keeping, KeepingSettings, Stored
from protocol.messages import Request
from protocol.recalls import QUALITY, RETENTION

DAY = 24 * 3600
NOW = 1_790_000_000
STUDIES = [f"1.2.826.0.1.3680043.8.498.5.{number}" for number in range(4)]


@dataclass(frozen=True, kw_only=True)
class Settings(KeepingSettings):
    """With a quota in bytes, since the studies are small."""

    quota: int = 0

    @property
    def quota_bytes(self) -> int:
        return self.quota

    @property
    def is_on(self) -> bool:
        return bool(self.days or self.quota)


class Site:
    """A node whose studies can be said to be in an archive."""

    def __init__(self, path: Path) -> None:
        self.clock = MadeClock(NOW * 1000)
        self.home = Home.create(path / "north", name="North", clock=self.clock)
        self.stored: dict[str, Stored] = {}
        self.node = self.open()
        for number, study in enumerate(STUDIES):
            make_study(path / str(number), 2, study=study, rows=32)
            take(self.node, path / str(number))
            self.node.catalog.study(study)

    def open(self) -> Node:
        self._opened = Node.open(self.home)
        node = self._opened.__enter__()
        node.proven_stored = lambda: sorted(self.stored.values(), key=lambda one: one.since)
        return node

    def archive(self, *studies: str, days_ago: int = 0) -> None:
        """Have studies in the archive, as they are here."""
        for study in studies:
            row = self.node.catalog.study(study)
            assert row is not None
            self.stored[study] = Stored(study, row.content_root, self.clock.now() - days_ago * DAY)

    def keeping(self, **values: int) -> Keeping:
        """What removes, with settings."""
        node = self.node
        given = Settings(**{"youngest_days": 0, **values})
        return Keeping(
            given,
            node.catalog,
            node.discards,
            lambda: node.proven_stored(),
            node.keeping._reasons,
            node.clock,
        )

    def here(self) -> list[str]:
        return [study for study in STUDIES if self.node.catalog.study(study) is not None]

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_what_is_long_enough_in_an_archive_goes(site: Site) -> None:
    site.archive(STUDIES[0], days_ago=31)
    site.archive(STUDIES[1], days_ago=29)
    keeping = site.keeping(days=30)
    assert keeping.look() == 1
    assert site.here() == STUDIES[1:]
    [entry] = entries(site.node, "discarded")
    assert (entry["details"]["code"], entry["details"]["instances"]) == (RETENTION, 2)
    check_whole(site.node)
    assert keeping.describe().removed == 1


def test_it_may_come_in_again(site: Site, tmp_path: Path) -> None:
    site.archive(STUDIES[0], days_ago=31)
    site.keeping(days=30).look()
    take(site.node, tmp_path / "0")
    assert site.here() == STUDIES


def test_a_peer_is_told_that_it_is_not_here_without_a_recall(site: Site) -> None:
    south = Other("South Clinic", NOW)
    south.pair(site.node, "see", "fetch")
    for study in STUDIES:
        site.node.shared_studies.share(study)
    told_to(site.node, south)
    site.archive(STUDIES[0], days_ago=31)
    site.keeping(days=30).look()
    # Who asks for all of it anew hears of what is here; of what went there is nothing to recall.
    records = told_to(site.node, south)
    assert available(records) == set(STUDIES[1:])
    assert {one.recall for one in records} == {None}


def test_the_quota_takes_those_that_are_longest_in_an_archive(site: Site) -> None:
    for days, study in enumerate(STUDIES):
        site.archive(study, days_ago=days)
    used = site.node.catalog.totals().encoded_bytes
    assert site.keeping(quota=used).look() == 0
    assert site.keeping(quota=used - 1).look() == 1
    assert site.here() == STUDIES[:3]
    assert site.keeping(quota=1).look() == 3


def test_nothing_goes_that_is_not_in_an_archive_and_nothing_more_comes_in(site: Site) -> None:
    keeping = site.keeping(quota=1)
    assert keeping.look() == 0
    assert site.here() == STUDIES
    with pytest.raises(NodeError, match=r"the quota of .* GB is used up") as raised:
        keeping.require_room()
    assert raised.value.code is ExitCode.DISK
    site.archive(STUDIES[0])
    assert keeping.look() == 1
    site.archive(*STUDIES[1:])
    assert keeping.look() == 3
    keeping.require_room()


def test_without_settings_nothing_goes(site: Site) -> None:
    site.archive(*STUDIES, days_ago=10_000)
    assert site.node.keeping.look() == 0
    assert site.here() == STUDIES


def test_what_has_grown_since_stays(site: Site, tmp_path: Path) -> None:
    site.archive(STUDIES[0], days_ago=31)
    make_study(tmp_path / "more", 3, study=STUDIES[0], rows=32)
    take(site.node, tmp_path / "more")
    assert site.keeping(days=30).look() == 0
    assert site.here() == STUDIES


def _hold(site: Site) -> None:
    site.node.holds.place(STUDIES[0], "file 12")


def _offered(site: Site) -> None:
    Other("South Clinic", NOW).pair(site.node, "see")
    site.node.offers.make(STUDIES[0], "South Clinic", "treatment", "look", None)


def _moving(site: Site) -> None:
    south = Other("South Clinic", NOW)
    south.pair(site.node, "see", "fetch")
    transfers = site.node.transfers
    transfers._store(
        transfers.begin_incoming(STUDIES[0], south.key, "treatment", only_peer=True, stat=False)
    )


def _asked_for(site: Site) -> None:
    south = Other("South Clinic", NOW)
    south.pair(site.node, "see")
    request = Request(
        transfer=bytes(16),
        source=site.node.keys.node.public,
        study=STUDIES[0],
        purpose="treatment",
        ephemeral=bytes(32),
        time=site.clock.now_ms(),
        person="Dr. B. Beispiel",
    )
    site.node.requests.note(south.key, request, "rule 1")


KEEPS = {
    _hold: "is under a legal hold",
    _moving: "is on its way to or from a facility",
    _offered: "is offered",
    _asked_for: "is asked for",
}


@pytest.mark.parametrize("keeps", KEEPS, ids=lambda keeps: keeps.__name__.strip("_"))
def test_what_keeps_a_study(site: Site, keeps) -> None:  # type: ignore[no-untyped-def]
    site.archive(*STUDIES, days_ago=31)
    keeps(site)
    keeping = site.keeping(days=30)
    assert keeping.why_stays(STUDIES[0]) == KEEPS[keeps]
    assert keeping.look() == 3
    assert site.here() == STUDIES[:1]


def test_a_young_study_stays(site: Site) -> None:
    site.archive(*STUDIES, days_ago=31)
    keeping = site.keeping(days=30, youngest_days=7)
    site.clock.move(7 * DAY - 1)
    assert keeping.look() == 0
    site.clock.move(1)
    assert keeping.look() == 4


def test_an_offer_that_ends_lets_it_go(site: Site) -> None:
    _offered(site)
    site.archive(STUDIES[0], days_ago=31)
    keeping = site.keeping(days=30)
    assert keeping.look() == 0
    site.node.offers.end(1)
    assert keeping.look() == 1


def test_a_hold_refuses_each_discard_of_the_study(site: Site) -> None:
    site.node.holds.place(STUDIES[0], "file  12 ")
    for what in (STUDIES[0], f"{STUDIES[0]}.1.1"):
        with pytest.raises(NodeError, match="under a legal hold \\('file 12'\\)") as raised:
            site.node.discards.discard(what, QUALITY)
        assert raised.value.code is ExitCode.REFUSED
    assert site.here() == STUDIES
    site.node.holds.lift(STUDIES[0])
    assert [entry["type"] for entry in entries(site.node, "hold-placed", "hold-lifted")] == [
        "hold-placed",
        "hold-lifted",
    ]
    site.node.discards.discard(STUDIES[0], QUALITY)


@pytest.mark.parametrize("reference", ["", " ", "x" * 65, "a\x1b[1m"])
def test_a_hold_has_a_reference(site: Site, reference: str) -> None:
    with pytest.raises(NodeError, match="a reference of 1 to 64"):
        site.node.holds.place(STUDIES[0], reference)
    assert site.node.holds.all() == []


def test_the_words_of_a_hold_are_in_no_entry(site: Site) -> None:
    site.node.holds.place(STUDIES[0], "MARKER 12")
    assert "MARKER" not in str(entries(site.node, "hold-placed"))


def test_what_begins_to_keep_it_when_it_is_looked_at_keeps_it(site: Site) -> None:
    """Between the look and the removal somebody places a hold: asked once more."""
    row = site.node.catalog.study(STUDIES[0])
    assert row is not None
    site.node.shared_studies.share(STUDIES[0])
    site.node.holds.place(STUDIES[0], "file 12")
    with pytest.raises(NodeError, match="it is under a legal hold"):
        site.node.discards.remove(row, site.keeping(days=1).why_stays)
    assert entries(site.node, "discarded") == []
    after = site.node.catalog.study(STUDIES[0])
    assert after is not None
    assert after.state == "shared"


def test_what_came_in_meanwhile_is_not_removed_with_it(site: Site, tmp_path: Path) -> None:
    row = site.node.catalog.study(STUDIES[0])
    assert row is not None
    make_study(tmp_path / "more", 3, study=STUDIES[0], rows=32)
    take(site.node, tmp_path / "more")
    with pytest.raises(NodeError, match="has changed"):
        site.node.discards.remove(row, lambda study: "")
    assert entries(site.node, "discarded") == []
    check_whole(site.node)
    # Nothing holds it back any more.
    site.node.shared_studies.share(STUDIES[0])
    after = site.node.catalog.study(STUDIES[0])
    assert after is not None
    assert (after.state, after.instance_count) == ("shared", 3)


@given(
    archived=st.lists(st.tuples(st.sampled_from(STUDIES), st.integers(0, 60)), max_size=4),
    held=st.sets(st.sampled_from(STUDIES)),
    days=st.integers(0, 60),
    quota=st.sampled_from([0, 1, 10**12]),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.slow
def test_only_what_is_stored_and_free_ever_goes(
    tmp_path_factory: pytest.TempPathFactory,
    archived: list[tuple[str, int]],
    held: set[str],
    days: int,
    quota: int,
) -> None:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        for study, days_ago in archived:
            site.archive(study, days_ago=days_ago)
        for study in held:
            site.node.holds.place(study, "file 1")
        keeping = site.keeping(days=days, quota=quota)
        keeping.look()
        gone = set(STUDIES) - set(site.here())
        assert gone <= set(site.stored) - held
        over = {one.study for one in site.stored.values() if days and NOW - one.since >= days * DAY}
        if quota != 1:
            assert gone == over - held
        else:
            assert gone == set(site.stored) - held
        check_whole(site.node)
    finally:
        site.close()


def test_a_hold_that_is_placed_at_the_last_moment_counts(site: Site) -> None:
    """Between the last question and the transaction somebody places it, and is told so."""
    row = site.node.catalog.study(STUDIES[0])
    assert row is not None

    def asked(study: str) -> str:
        site.node.holds.place(study, "file 12")
        return ""

    with pytest.raises(NodeError, match="under a legal hold"):
        site.node.discards.remove(row, asked)
    assert site.here() == STUDIES
    assert entries(site.node, "discarded") == []


@pytest.mark.parametrize("how", ["temporary", "undone"])
def test_what_has_no_patient_yet_stays(site: Site, how: str) -> None:
    origin = Other("South Clinic", NOW).key.hex()
    site.node.database.transact(
        lambda connection: connection.execute("UPDATE studies SET origin = ?", (origin,))
    )
    if how == "temporary":
        site.node.matches.match_for_now(STUDIES[0])
    else:
        site.node.matches.match(STUDIES[0], LocalPatient(patient_id="H-1"))
        site.node.matches.undo(STUDIES[0])
    site.archive(*STUDIES, days_ago=31)
    assert site.keeping(days=30).look() == 3
    assert site.here() == STUDIES[:1]
