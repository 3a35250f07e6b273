"""The owners' tests, run on Debian's PostgreSQL: the SQL is one that both databases know."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from places import ROOT, SUPPORT, TESTS

pytest.importorskip("pg8000", reason="an older environment lacks the driver: make setup")

from pg8000.exceptions import DatabaseError
from postgres import ABSENT, ATTEMPTS, FOUND, PostgresDatabase, Server, connect, server

from node.catalog.catalog import CATALOG_SCHEMA
from node.catalog.discards import Discard, insert_discard
from node.witness.store import FORK, WITNESS_SCHEMA, WitnessStore
from protocol.recalls import QUALITY

OWNERS = (
    "node/catalog/test_archive_index.py",
    "node/catalog/test_catalog.py",
    "node/catalog/test_words.py",
    "node/sharing/test_contests.py",
    "node/images/test_discard.py",
    "node/audit/test_effects.py",
    "node/audit/test_effects_compared.py",
    "node/audit/test_erasure.py",
    "node/sharing/test_feeds.py",
    "node/sharing/test_feed_words.py",
    "node/sharing/test_find_answers.py",
    "node/sharing/test_found.py",
    "node/sharing/test_feeds_model.py",
    "node/sharing/test_feeds_privacy.py",
    "node/edges/test_unmatched.py",
    "node/transfer/test_followed.py",
    "node/sharing/test_granting.py",
    "node/sharing/test_offers.py",
    "node/sharing/test_peers.py",
    "node/people/test_persons.py",
    "node/people/test_two_persons.py",
    "node/receipts/test_pending.py",
    "node/images/test_quarantine.py",
    "node/sharing/test_recalls.py",
    "node/receipts/test_reconciling.py",
    "node/reports/test_forwarding.py",
    "node/sharing/test_shared_studies.py",
    "node/sharing/test_sharing_rules.py",
    "node/sharing/test_requests.py",
    "node/sharing/test_wishes.py",
    "node/sharing/test_rules.py",
    "node/transfer/test_transfers.py",
    "node/witness/test_witness.py",
)
"""Of every owner in test_sql.py. What of them is left out, and why, stands in on_postgres.py."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOUND, reason=ABSENT),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server() as made:
        yield made


def _spaces(running: Server) -> int:
    connection = connect(running.folder)
    done = connection.execute_simple(
        "SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE 'home\\_%'"
    )
    connection.close()
    return int(done.rows[0][0])


@pytest.mark.parametrize("name", OWNERS)
def test_the_tests_of_an_owner_pass_on_postgresql(running: Server, name: str) -> None:
    before = _spaces(running)
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "on_postgres", "-p", "no:cacheprovider",
            "-q", "--tb=short", str(TESTS / name),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                (str(ROOT), str(SUPPORT), os.environ.get("PYTHONPATH", ""))
            ),
            "RADMESH_TEST_POSTGRES": str(running.folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert _spaces(running) > before, "no database was made there"


# --- transactions that meet -------------------------------------------------------------


def _two(
    running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[PostgresDatabase, PostgresDatabase]:
    """Two connections to one database, as two nodes of a site would have."""
    monkeypatch.setenv("RADMESH_TEST_POSTGRES", str(running.folder))
    schema = (CATALOG_SCHEMA, WITNESS_SCHEMA)
    one, other = (PostgresDatabase(tmp_path / "shared.db", schema) for _ in range(2))
    one._is_checked = other._is_checked = False
    return one, other


def _alert(database: PostgresDatabase, who: int) -> None:
    WitnessStore(database).add_alert(bytes([who]) * 32, bytes(32), FORK, b"", b"", 0)


def _discard(database: PostgresDatabase, who: int) -> None:
    database.transact(
        lambda connection: insert_discard(connection, Discard(f"1.2.{who}", "", "", QUALITY))
    )


@pytest.mark.parametrize(("table", "number"), [("log_alerts", _alert), ("discards", _discard)])
def test_of_two_transactions_that_meet_one_is_run_again(
    running: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    number: Callable[[PostgresDatabase, int], None],
) -> None:
    """Both take the next number of what they see, and none is given twice."""
    databases = _two(running, tmp_path, monkeypatch)
    both_look = threading.Barrier(2, timeout=60)
    runs: Counter[int] = Counter()
    after: Counter[int] = Counter()

    def add(who: int) -> None:
        database = databases[who]

        def work(_: object) -> None:
            runs[who] += 1
            database.query(f"SELECT max(number) FROM {table}")
            if runs[who] == 1:
                # From here on neither sees what the other one writes.
                both_look.wait()
            number(database, who)
            database.after_commit(lambda: after.update([who]))

        database.transact(work)

    threads = [threading.Thread(target=add, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = databases[0].query(f"SELECT number FROM {table} ORDER BY number")
    assert [row["number"] for row in rows] == [1, 2]
    assert sorted(runs.values()) == [1, 2]
    assert after == {0: 1, 1: 1}


def test_a_transaction_that_always_meets_another_one_ends(
    running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = _two(running, tmp_path, monkeypatch)
    runs = 0

    def work(_: object) -> None:
        nonlocal runs
        runs += 1
        one.query("SELECT max(number) FROM discards")
        # On another connection, and committed first.
        other.query("SELECT max(number) FROM discards")
        _discard(other, runs)
        _discard(one, 0)

    with pytest.raises(DatabaseError) as caught:
        one.transact(work)
    assert caught.value.args[0]["C"] == "40001"
    assert runs == ATTEMPTS
    rows = one.query("SELECT study FROM discards ORDER BY number")
    assert [row["study"] for row in rows] == [f"1.2.{number}" for number in range(1, runs + 1)]
