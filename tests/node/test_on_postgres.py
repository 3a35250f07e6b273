"""The owners' tests, run on Debian's PostgreSQL: the SQL is one that both databases know."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from places import ROOT, SUPPORT, TESTS

pytest.importorskip("pg8000", reason="an older environment lacks the driver: make setup")

from postgres import ABSENT, FOUND, Server, connect, server

OWNERS = (
    "node/catalog/test_catalog.py",
    "node/sharing/test_contests.py",
    "node/images/test_discard.py",
    "node/audit/test_effects.py",
    "node/audit/test_effects_compared.py",
    "node/audit/test_erasure.py",
    "node/sharing/test_feeds.py",
    "node/sharing/test_feeds_model.py",
    "node/sharing/test_feeds_privacy.py",
    "node/transfer/test_followed.py",
    "node/sharing/test_peers.py",
    "node/receipts/test_pending.py",
    "node/images/test_quarantine.py",
    "node/sharing/test_recalls.py",
    "node/receipts/test_reconciling.py",
    "node/reports/test_forwarding.py",
    "node/sharing/test_shared_studies.py",
    "node/transfer/test_transfers.py",
    "node/witness/test_witness.py",
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
