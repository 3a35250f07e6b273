"""A Radmesh node: hosts, sockets, disks, SQLite, DICOM, the command line."""

VERSION = "0.1.0"
"""Of this software; `pyproject.toml` says the same."""
