"""Lists of exchanges and results: what is changed is refused, whatever it is."""

import hashlib
from dataclasses import replace

import pytest
from bundles_made import CARD, FACILITY, LOG, NODE, ORIGIN, PEER, PEER_NODE, START_MS
from exchanges_made import Pair
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages
from protocol.errors import RemoteProtocolError
from protocol.late_receipts import receipt_of_received
from protocol.log.checkpoint import Checkpoint, sign_checkpoint
from protocol.log.entry import Event, decode_entry_untrusted
from protocol.log.note import Signer
from protocol.log.tree import inclusion_proof, leaf_hash, range_root
from protocol.receipt import SignedReceipt, decode_signed_untrusted
from protocol.reconcile import Comparison, Ledger, compare
from protocol.reconcile_messages import (
    Exchanges,
    ListReader,
    ProvenEntry,
    check_result_signature,
    decode_result_untrusted,
    findings_digest,
    make_result,
    sign_result,
)


def log_of_two_transfers():
    """North's entries, of which the first and the last are not about Lakeside."""
    pair = Pair().whole(1).whole(2)
    pair.a.add(Event(type="stop"), pair.now_ms)
    return pair.a.entries


ENTRIES = log_of_two_transfers()
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
ROOT_OF = range_root(LEAVES)
SIZE = len(ENTRIES)
NOTE = sign_checkpoint(Checkpoint(ORIGIN, SIZE, ROOT_OF(0, SIZE)), Signer(ORIGIN, LOG)).encode()
LISTED = ENTRIES[1:-1]


def a_part(**changes):
    entries = tuple(
        ProvenEntry(entry=ENTRIES[index], proof=tuple(inclusion_proof(index, SIZE, ROOT_OF)))
        for index in range(1, SIZE - 1)
    )
    part = Exchanges(checkpoint=NOTE, time=START_MS, more=False, entries=entries)
    return replace(part, **changes)


def a_reader():
    return ListReader(ORIGIN, CARD.log_keys, PEER.public, START_MS)


def test_a_list_is_read_and_named_by_its_digest():
    reader = a_reader()
    found = reader.take_untrusted(a_part())
    assert found == [decode_entry_untrusted(entry) for entry in LISTED]
    listed = reader.listed()
    assert (listed.size, listed.root, listed.entries) == (SIZE, ROOT_OF(0, SIZE), len(LISTED))
    assert listed.digest == hashlib.sha256(b"".join(LEAVES[1:-1])).digest()


def test_in_parts_it_is_the_same_list():
    whole, split = a_reader(), a_reader()
    whole.take_untrusted(a_part())
    entries = a_part().entries
    for start in range(0, len(entries), 3):
        split.take_untrusted(a_part(entries=entries[start : start + 3], more=True))
    assert split.listed() == whole.listed()
    assert split.next_index == SIZE - 1


@given(st.integers(0), st.integers(0, 7))
def test_one_changed_bit_invents_nothing(place, bit):
    data = bytearray(messages.encode(a_part()))
    data[place % len(data)] ^= 1 << bit
    reader = a_reader()
    try:
        part = messages.decode_untrusted(bytes(data), {Exchanges.TYPE: Exchanges})
        assert isinstance(part, Exchanges)
        found = reader.take_untrusted(part)
    except RemoteProtocolError:
        return
    # What may differ is not signed by the log: the time, and whether more follows.
    assert found == [decode_entry_untrusted(entry) for entry in LISTED]
    assert reader.listed().root == ROOT_OF(0, SIZE)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_result_or_refused(data):
    for decode in (decode_result_untrusted, decode_signed_untrusted):
        with pytest.raises(RemoteProtocolError):
            decode(data)


def test_a_signed_receipt_is_read_as_it_was_written():
    signed = SignedReceipt(body=b"b", recipient_signature=b"r" * 64, source_signature=b"s" * 64)
    assert decode_signed_untrusted(signed.encode()) == signed


def test_a_result_is_read_as_it_was_written_and_bound_to_its_signer():
    part = a_reader()
    part.take_untrusted(a_part())
    result = make_result(
        session=b"s" * 16,
        facilities=(FACILITY.public, PEER.public),
        nodes=(NODE.public, PEER_NODE.public),
        listed=(part.listed(), part.listed()),
        comparison=Comparison(()),
        grace_seconds=300,
    )
    body = result.encode()
    assert decode_result_untrusted(body) == result
    signature = sign_result(body, NODE)
    check_result_signature(body, signature, NODE.public)
    for wrong in ((body + b"x", signature, NODE.public), (body, signature, PEER_NODE.public)):
        with pytest.raises(RemoteProtocolError):
            check_result_signature(*wrong)


def test_the_digest_of_findings_is_of_the_lines_that_the_document_describes():
    a, b = Ledger(PEER.public), Ledger(FACILITY.public)
    for ledger in (a, b):
        ledger.reaches(2**50)
    for entry in LISTED[:2]:
        a.add_entry(decode_entry_untrusted(entry))
    [finding] = compare(a, b).findings
    line = f"ONLY_A A {finding.transfer}  \n"
    assert findings_digest([finding]) == hashlib.sha256(line.encode()).digest()


def test_a_receipt_made_from_the_log_says_what_the_entry_says():
    [received] = [
        decode_entry_untrusted(entry)
        for entry in Pair().whole(1).b.entries
        if b'"type":"received"' in entry
    ]
    receipt = receipt_of_received(
        received,
        recipient_facility=PEER.public,
        source_node=NODE.public,
        recipient_node=PEER_NODE.public,
        time_ms=START_MS,
    )
    assert receipt.source_facility == received.peer
    assert (receipt.transfer.hex(), receipt.batches) == (
        received.details["transfer"],
        received.details["batches"],
    )
