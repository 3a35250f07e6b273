"""Receipts and checkpoints from others, in any of the files in which they come.

Accepted are a single receipt or checkpoint, the output of `radmesh audit receipts --export`
and `radmesh audit witness --export`, another facility's bundle, and the proof of an entry
(docs/protocol-log.md section 13). From a file that holds many, only those about the
verified log are taken. No signature is checked here: the caller checks them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from keys.fingerprint import format_hash
from protocol.verify.bundle import Bundle, BundleDamaged
from protocol.verify.checkpoints import CHECKPOINT_BYTES
from protocol.verify.entries import EntryProblem, parse_object
from protocol.verify.note import NoteProblem, decode_base64
from protocol.verify.proof import HEADER, PROOF_BYTES, Proof, ProofUnreadable, parse_proof
from protocol.verify.receipts import RECEIPT_BYTES, facilities_of

RECEIPTS_HEADER = b"radmesh-receipts/1\n"
CHECKPOINTS_HEADER = b"radmesh-checkpoints/1\n"

_ZIP = b"PK"
_MOST = 200_000
"""Most receipts or checkpoints about one log that are taken from one file."""

_LINE_BYTES = CHECKPOINT_BYTES * 4 // 3 + 16
_RECEIPT_LINE_BYTES = RECEIPT_BYTES * 4 // 3 + 256


class HandedProblem(Exception):
    """A file has nothing about the verified log; the text ends the sentence "the file ..."."""


def receipts_in(file: BinaryIO, facility_fingerprint: bytes) -> list[bytes]:
    """The receipts in a file.

    Args:
        file: seekable, at its beginning, opened for reading bytes.
        facility_fingerprint: SHA-256 of the facility key (32 bytes) that they must name.

    Raises:
        HandedProblem: the file is damaged, or holds no receipt of this facility.
    """
    kind = _kind(file)
    if kind == "one":
        return [file.read(RECEIPT_BYTES + 1)]
    if kind == "proof":
        extra = _proof(file).extra
        if not isinstance(extra.get("receipt"), str):
            raise HandedProblem("is the proof of an entry without its receipt")
        return [_decoded(extra["receipt"])]
    found = _bundled_receipts(file) if kind == "bundle" else _lines(file, RECEIPTS_HEADER)
    chosen = _bounded(
        blob
        for blob in found
        if facility_fingerprint in {hashlib.sha256(key).digest() for key in facilities_of(blob)}
    )
    if not chosen:
        raise HandedProblem("holds no receipt of this facility")
    return chosen


def checkpoints_in(file: BinaryIO, facility_fingerprint: bytes) -> list[bytes]:
    """Like `receipts_in`, for checkpoints of that facility's log, each as a signed note.

    Raises:
        HandedProblem: the file is damaged, or holds no checkpoint of this log.
    """
    kind = _kind(file)
    if kind == "one":
        return [file.read(CHECKPOINT_BYTES + 1)]
    if kind == "proof":
        return [_proof(file).checkpoint]
    start = f"radmesh.log/{format_hash(facility_fingerprint)}\n".encode()
    found = _bundled_checkpoints(file) if kind == "bundle" else _lines(file, CHECKPOINTS_HEADER)
    chosen = _bounded(note for note in found if note.startswith(start))
    if not chosen:
        raise HandedProblem("holds no checkpoint of this log")
    return chosen


def _kind(file: BinaryIO) -> str:
    head = file.read(64)
    file.seek(0)
    if head.startswith(_ZIP):
        return "bundle"
    if head.startswith(HEADER):
        return "proof"
    if head.startswith((RECEIPTS_HEADER, CHECKPOINTS_HEADER)):
        return "lines"
    return "one"


def _bounded(items: Iterable[bytes]) -> list[bytes]:
    # Keep each item once: a copy adds no evidence.
    found: dict[bytes, None] = {}
    try:
        for item in items:
            found[item] = None
            if len(found) > _MOST:
                raise HandedProblem(f"holds more than {_MOST:,} about this facility")
    except BundleDamaged as problem:
        raise HandedProblem(f"cannot be used: {problem}") from None
    return list(found)


def _decoded(text: str) -> bytes:
    try:
        return decode_base64(text)
    except NoteProblem as problem:
        raise HandedProblem(f"is damaged: a line of it {problem}") from None


def _proof(file: BinaryIO) -> Proof:
    try:
        return parse_proof(file.read(PROOF_BYTES + 1))
    except ProofUnreadable as problem:
        raise HandedProblem(f"cannot be used: {problem}") from None


def _lines(file: BinaryIO, header: bytes) -> Iterator[bytes]:
    if file.readline(len(header)) != header:
        raise HandedProblem("holds something else: receipts for checkpoints, or the other way")
    while line := file.readline(_LINE_BYTES):
        if not line.endswith(b"\n"):
            raise HandedProblem("is damaged: its last line is cut off or too long")
        try:
            yield _decoded(line[:-1].decode("ascii"))
        except UnicodeDecodeError:
            raise HandedProblem("is damaged: a line of it is no base64") from None


def _bundled_receipts(file: BinaryIO) -> Iterator[bytes]:
    with Bundle(file) as bundle:
        if not bundle.has("receipts.jsonl"):
            return
        for line in bundle.lines("receipts.jsonl", _RECEIPT_LINE_BYTES):
            try:
                yield decode_base64(parse_object(line.removesuffix(b"\n"))["receipt"])
            except (EntryProblem, NoteProblem, KeyError, TypeError, ValueError):
                raise BundleDamaged("a line of receipts.jsonl is malformed") from None


def _bundled_checkpoints(file: BinaryIO) -> Iterator[bytes]:
    with Bundle(file) as bundle:
        for name in (*bundle.checkpoints, *bundle.evidence):
            if not name.endswith("/card"):
                yield bundle.read(name, CHECKPOINT_BYTES)
