"""Fixtures that several test files use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from places import SHARED

from node import blocking, database

# Hypothesis's deadline of 200 ms an example measures the machine, not the code.
settings.register_profile("radmesh", deadline=None, print_blob=True)
settings.load_profile("radmesh")

# For the nodes that tests start as processes; what a test calls itself may block.
os.environ[blocking.CHECK_VARIABLE] = "1"
# Every owner's work can be run again: each is, here and in these processes.
os.environ[database.CHECK_VARIABLE] = "1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of agreed vectors and sample studies that lies beside a checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder 'shared' (vectors and sample studies) beside the checkout")
    return SHARED
