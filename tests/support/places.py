"""Where the checkout is, and what lies beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"

SHARED = ROOT.parent / "shared"
"""Agreed vectors and sample studies; not there on every machine."""
