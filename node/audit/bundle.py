"""Writes the audit bundle that an auditor verifies (docs/protocol-log.md section 7)."""

import base64
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from keys.canonical import canonical_json
from node.audit.evidence import EvidenceStore
from node.durable import whole_file
from node.errors import ExitCode, NodeError
from protocol.log.checkpoint import Checkpoint
from protocol.log.entry import Opening, decode_entry_untrusted
from protocol.log.tree import leaf_hash

FORMAT = "radmesh-audit-bundle/1"

_LARGE_BYTES = 200_000_000
"""Above so many bytes of entries, a file of the bundle may be larger than 2 GiB."""


def write_bundle_file(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a bundle to `path`, whole or not at all; an older file is replaced.

    Raises:
        NodeError: it cannot be written.
    """
    try:
        with whole_file(path, mode=0o644) as file:
            write(file)
    except OSError as error:
        raise NodeError(
            f"the bundle {path} cannot be written: {error.strerror}",
            hint="check that the folder exists and has space",
            code=ExitCode.DISK,
        ) from error


def write_bundle(
    file: BinaryIO,
    *,
    checkpoint: Checkpoint,
    signed: str,
    card: bytes,
    exported: str,
    entries: Callable[[], Iterator[bytes]],
    evidence: EvidenceStore,
    include_openings: bool | Callable[[int, Opening], bool],
    further: Mapping[str, bytes],
) -> None:
    """Write a bundle of the entries that one checkpoint covers.

    Args:
        file: the target; written from its position on.
        checkpoint: the checkpoint that the bundle ends with.
        signed: the signed note of that checkpoint.
        card: the facility card.
        exported: time of the export, for people.
        entries: returns the `checkpoint.size` entries; called several times.
        evidence: openings and receipts.
        include_openings: whether the bundle names patients, studies and people; a
            function decides this by entry and opening.
        further: further members; checkpoints of this size and above are left out.
    """
    size = checkpoint.size
    # Write ZIP64 fields only where they may be needed: an entry's openings and receipts are
    # never ten times as long as the entry.
    large = sum(len(entry) + 1 for entry in entries()) > _LARGE_BYTES
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        header = {
            "exported": exported,
            "format": FORMAT,
            "origin": checkpoint.origin,
            "size": size,
        }
        _add(archive, "bundle.json", [canonical_json(header) + b"\n"])
        _add(archive, "card", [card])
        _add(archive, f"checkpoints/{size}", [signed.encode()])
        _add(archive, "entries.jsonl", (entry + b"\n" for entry in entries()), large=large)
        # Stored without compression, since hashes do not compress.
        _add(archive, "leaves", map(leaf_hash, entries()), zipfile.ZIP_STORED, large=large)
        _add(
            archive, "receipts.jsonl", _evidence_lines(entries(), evidence, "receipt"), large=large
        )
        _add_some(
            archive, "stored.jsonl", _evidence_lines(entries(), evidence, "stored"), large=large
        )
        for name, content in further.items():
            folder, _, rest = name.partition("/")
            if folder != "checkpoints" or int(rest) < size:
                _add(archive, name, [content])
        if include_openings:
            lines = _opening_lines(size, evidence, include_openings)
            _add(archive, "openings.jsonl", lines, large=large)


def _add(
    archive: zipfile.ZipFile,
    name: str,
    parts: Iterable[bytes],
    compression: int = zipfile.ZIP_DEFLATED,
    *,
    large: bool = False,
) -> None:
    # The default date of ZipInfo, 1980, keeps equal logs equal as files.
    member = zipfile.ZipInfo(name)
    member.compress_type = compression
    member.external_attr = 0o644 << 16
    with archive.open(member, "w", force_zip64=large) as stream:
        for part in parts:
            stream.write(part)


def _add_some(archive: zipfile.ZipFile, name: str, lines: Iterator[bytes], *, large: bool) -> None:
    """Add a member that earlier releases do not know, only if there is something in it."""
    first = next(lines, None)
    if first is not None:
        _add(archive, name, itertools.chain([first], lines), large=large)


def _evidence_lines(
    entries: Iterable[bytes], evidence: EvidenceStore, name: str
) -> Iterator[bytes]:
    """What entries name by a digest in the detail `name`, as far as it is at hand."""
    mark = f'"{name}":"'.encode()
    for index, encoded in enumerate(entries):
        # Most entries name none, and parsing each would cost most of the export.
        if mark not in encoded:
            continue
        digest = decode_entry_untrusted(encoded).details.get(name)
        if not isinstance(digest, str) or len(digest) != 64:
            continue
        kept = evidence.receipt(digest)
        if kept is not None:
            yield canonical_json({"index": index, name: base64.b64encode(kept).decode()}) + b"\n"


def _opening_lines(
    size: int, evidence: EvidenceStore, chosen: bool | Callable[[int, Opening], bool]
) -> Iterator[bytes]:
    for index, opening in evidence.openings(size):
        if callable(chosen) and not chosen(index, opening):
            continue
        line = {
            "commitment": opening.commitment,
            "index": index,
            "kind": opening.kind,
            "salt": opening.salt.hex(),
            "value": opening.value,
        }
        yield canonical_json(line) + b"\n"
