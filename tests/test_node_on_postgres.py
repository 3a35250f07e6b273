"""The owners' tests, run on Debian's PostgreSQL: the SQL is one that both databases know."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pg8000", reason="an older environment lacks the driver: make setup")

from postgres import ABSENT, FOUND, Server, connect, server

TESTS = Path(__file__).parent

OWNERS = (
    "test_node_catalog.py",
    "test_node_contests.py",
    "test_node_discard.py",
    "test_node_effects.py",
    "test_node_effects_compared.py",
    "test_node_audit_erasure.py",
    "test_node_feeds.py",
    "test_node_feeds_model.py",
    "test_node_feeds_privacy.py",
    "test_node_followed.py",
    "test_node_peers.py",
    "test_node_pending.py",
    "test_node_quarantine.py",
    "test_node_recalls.py",
    "test_node_reconciling.py",
    "test_node_reports_forwarding.py",
    "test_node_shared_studies.py",
    "test_node_transfers.py",
    "test_node_witness.py",
)
"""Of every owner in test_sql.py. What of them is left out, and why, stands in on_postgres.py."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
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
        cwd=TESTS.parent,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                (str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", ""))
            ),
            "RADMESH_TEST_POSTGRES": str(running.folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert _spaces(running) > before, "no database was made there"
