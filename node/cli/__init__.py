"""The command line: one file a noun, and the only place that prints."""

from node.cli.main import main

__all__ = ["main"]
