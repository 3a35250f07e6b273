"""Receipts and checkpoints in the files that others give: taken, chosen, and bounded."""

import base64
import contextlib
import io
import os

import pytest
import second_log as second
from bundles_made import (
    CARD,
    COSIGNERS,
    FACILITY,
    FINGERPRINT,
    LOG,
    NEXT_LOG,
    NODE,
    ORIGIN,
    PEER,
    PEER_CARD,
    PEER_NODE,
    RECEIPT,
    START_MS,
    STRANGER,
    Log,
    fill,
    honest,
    init_event,
    make_receipt,
    receipt_body,
    revoked,
    rotated,
    verify,
    zip_of,
)
from exchanges_made import PEER_ORIGIN
from hypothesis import given
from hypothesis import strategies as st
from proofs_made import prove

from keys.fingerprint import fingerprint
from protocol.verify import Code
from protocol.verify.command import main
from protocol.verify.handed import HandedProblem, checkpoints_in, receipts_in

OTHERS = make_receipt(9, facility=STRANGER)
UNLOGGED = make_receipt(2)
NOTE = honest().checkpoints["checkpoints/12"].encode()
PEERS_NOTE = second.checkpoint(PEER_ORIGIN, [b"a"], STRANGER).encode()


def lines(header, *items):
    return header + b"".join(base64.b64encode(item) + b"\n" for item in items)


def peers_bundle(*receipts, notes=()):
    """The bundle of Lakeside, which holds receipts with us and others, and alerts about us."""
    log = Log(card=PEER_CARD.encoded, key=STRANGER, origin=PEER_ORIGIN)
    log.add(init_event(PEER, STRANGER, PEER_ORIGIN)).sign()
    log.receipts = [(0, receipt) for receipt in receipts]
    if notes:
        held, shown = notes
        log.extra = [("witnessed/1/held", held), ("witnessed/1/shown", shown)]
        log.extra.append(("witnessed/1/card", CARD.encoded))
    return log.bundle()


def receipts(data):
    return receipts_in(io.BytesIO(data), FINGERPRINT)


def checkpoints(data):
    return checkpoints_in(io.BytesIO(data), FINGERPRINT)


RECEIPTS, CHECKPOINTS = b"radmesh-receipts/1\n", b"radmesh-checkpoints/1\n"


@pytest.mark.parametrize(
    "data",
    [
        RECEIPT,
        lines(RECEIPTS, OTHERS, RECEIPT, RECEIPT),
        peers_bundle(OTHERS, RECEIPT),
        prove(honest(), 5).text().encode(),
    ],
)
def test_receipts_are_taken_from_each_kind_of_file(data):
    assert receipts(data) == [RECEIPT]


@pytest.mark.parametrize(
    "data",
    [
        NOTE,
        lines(CHECKPOINTS, PEERS_NOTE, NOTE, NOTE),
        peers_bundle(notes=(NOTE, NOTE)),
        honest().bundle(),
        prove(honest(), 5).text().encode(),
    ],
)
def test_checkpoints_are_taken_from_each_kind_of_file(data):
    assert checkpoints(data) == [NOTE]


@pytest.mark.parametrize(
    ("read", "data", "words"),
    [
        (receipts, lines(RECEIPTS, OTHERS), "no receipt of this facility"),
        (receipts, lines(RECEIPTS), "no receipt of this facility"),
        (receipts, peers_bundle(), "no receipt of this facility"),
        (receipts, lines(CHECKPOINTS, NOTE), "something else"),
        (receipts, lines(RECEIPTS, RECEIPT)[:-1], "cut off"),
        (receipts, RECEIPTS + b"!\n", "damaged"),
        (receipts, RECEIPTS + "ü\n".encode(), "damaged"),
        (receipts, prove(honest(), 3).text().encode(), "without its receipt"),
        (receipts, b"c2sp.org/tlog-proof@v1\n", "cannot be used"),
        (receipts, zip_of([("card", b"x"), ("receipts.jsonl", b"{}\n")]), "cannot be used"),
        (receipts, b"PK\3\4 and no more", "cannot be used"),
        (checkpoints, peers_bundle(RECEIPT), "no checkpoint of this log"),
        (checkpoints, lines(CHECKPOINTS, PEERS_NOTE), "no checkpoint of this log"),
        (checkpoints, lines(RECEIPTS, RECEIPT), "something else"),
    ],
)
def test_a_file_without_any_is_said_to_be_so(read, data, words):
    with pytest.raises(HandedProblem, match=words):
        read(data)


@given(st.sampled_from([b"", RECEIPTS, CHECKPOINTS, b"PK", b"c2sp.org/tlog-proof@v1"]), st.binary())
def test_anything_is_taken_or_refused(start, rest):
    for read in (receipts, checkpoints):
        with contextlib.suppress(HandedProblem):
            assert read(start + rest)


def test_what_was_handed_over_counts_as_if_it_were_given_alone():
    log = honest()
    assert verify(log, receipts=receipts(peers_bundle(OTHERS, RECEIPT))).code == Code.OK
    missing = verify(log, receipts=receipts(lines(RECEIPTS, RECEIPT, UNLOGGED)))
    assert missing.code == Code.RECEIPT_NOT_LOGGED
    assert "newer than this log" not in missing.reason
    other = fill(Log().add(init_event()), range(101, 112)).sign().checkpoints["checkpoints/12"]
    forked = verify(log, checkpoints=checkpoints(peers_bundle(notes=(NOTE, other.encode()))))
    assert forked.code == Code.FORK


def test_a_receipt_that_is_newer_than_the_log_is_said_to_be_so():
    body = {**receipt_body(3), "time": START_MS + 10**9}
    late = second.receipt(body, NODE, PEER_NODE)
    verdict = verify(honest(), receipts=[late])
    assert verdict.code == Code.RECEIPT_NOT_LOGGED
    assert "ask for a newer bundle" in verdict.reason


def test_what_a_thief_signed_and_was_taken_back_is_no_evidence():
    log = revoked()
    thief = second.checkpoint(ORIGIN, [b"x"] * 7, LOG).encode()
    assert verify(log, checkpoints=[thief]).sound is True
    # By a key that only handed over, or of a size at which the new one signs, it is wrong.
    new = second.checkpoint(ORIGIN, [b"x"] * 3, NEXT_LOG).encode()
    assert verify(log, checkpoints=[new]).code == Code.CP_BAD
    late = second.checkpoint(ORIGIN, [b"x"] * 9, LOG).encode()
    assert verify(rotated(), checkpoints=[late]).code == Code.CP_BAD


def test_cosignatures_in_what_was_handed_over_count():
    cosigned = honest().cosign(COSIGNERS[0]).checkpoints["checkpoints/12"].encode()
    held = checkpoints(lines(CHECKPOINTS, cosigned))
    rule = {"quorum": 1, "witness_cards": [COSIGNERS[0].card]}
    assert verify(honest(), **rule).code == Code.QUORUM
    assert verify(honest(), checkpoints=held, **rule).code == Code.OK


def test_the_command(tmp_path, capsys):
    for name, data in {
        "north.zip": honest().bundle(),
        "south.zip": peers_bundle(OTHERS, RECEIPT, notes=(NOTE, NOTE)),
        "r": lines(RECEIPTS, UNLOGGED),
        "empty": lines(RECEIPTS, OTHERS),
    }.items():
        (tmp_path / name).write_bytes(data)
    words = [os.fspath(tmp_path / "north.zip"), "--facility", fingerprint(FACILITY.public)]
    south, missing, empty = (os.fspath(tmp_path / name) for name in ("south.zip", "r", "empty"))
    assert main([*words, "--receipt", south, "--checkpoint", south]) == 0
    assert main([*words, "--receipt", missing]) == 1
    for wrong in (empty, os.fspath(tmp_path / "none")):
        with pytest.raises(SystemExit) as raised:
            main([*words, "--receipt", wrong])
        assert raised.value.code == 2
        assert wrong in capsys.readouterr().err
