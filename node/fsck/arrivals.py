"""Checks whether the files in `arrivals/` can be packed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import blake3

from node.fsck.files import LEFTOVER_SECONDS, View, changed_at, entries_of
from node.fsck.findings import Finding

_HEADER, _MAGIC, _SETTLED = 512, b"RMARRIV1", 2
_BLOCK_BYTES = 4 * 1024 * 1024


def check_arrivals(view: View) -> Iterator[Finding]:
    """Find damaged files in `arrivals/`; whole files that wait to be packed are no finding."""
    for path in entries_of(view.home / "arrivals"):
        if not view.is_old(changed_at(path), LEFTOVER_SECONDS):
            continue
        where = f"arrivals/{path.name}"
        if path.name.startswith("."):
            yield Finding("arrivals-leftover", where, f"{where} is half written")
            continue
        try:
            bad = _bad_records(path, fast=view.fast)
        except FileNotFoundError:
            # The node has packed it meanwhile.
            continue
        if bad:
            yield Finding("arrivals-damaged", where, f"{where} has {bad} that cannot be packed")


def _bad_records(path: Path, *, fast: bool) -> str:
    """How much of a file is damaged, in words; "" when nothing is."""
    bad = 0
    with path.open("rb") as file:
        end, offset = os.fstat(file.fileno()).st_size, 0
        while offset < end:
            file.seek(offset)
            told = _told(file.read(_HEADER))
            if told is None:
                return f"{end - offset} bytes"
            size, digest, is_settled = told
            if offset + _HEADER + size > end:
                return f"{end - offset} bytes"
            if not is_settled and not fast:
                hasher, left = blake3.blake3(), size
                while left:
                    block = file.read(min(left, _BLOCK_BYTES))
                    if not block:
                        break
                    hasher.update(block)
                    left -= len(block)
                bad += hasher.hexdigest() != digest
            offset += _HEADER + size
    return f"{bad} images" if bad else ""


def _told(header: bytes) -> tuple[int, str, bool] | None:
    """Size, digest and whether it is settled, from a header; None when it is no header."""
    body = header[9:-32]
    whole = header[:8] == _MAGIC and blake3.blake3(_MAGIC + body).digest() == header[-32:]
    if not whole:
        return None
    told = json.loads(body)
    return int(told["size"]), str(told["digest"]), header[8] == _SETTLED
