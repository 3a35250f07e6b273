"""What a bundle may make its reader do: counted, since seconds depend on the machine.

`python tests/bench/hostile_bundles.py` prints the seconds.
"""

import tracemalloc

import nacl.bindings
import pytest
from bundles_hostile import MADE, repeated_openings, repeated_receipts
from bundles_made import honest, make_receipt, verify
from containers_made import container, parts_of

from protocol.verify import Code, entries, openings, work
from protocol.verify.bundle import Bundle
from protocol.verify.container import Content
from protocol.verify.evidence import FINDINGS


class Meter:
    """Counts what is done, by the real parts."""

    def __init__(self, monkeypatch):
        self.signatures = self.hashed = self.unpacked = self.values = self.openings = 0
        open_signed, next_block = nacl.bindings.crypto_sign_open, Content.next_block
        decode, parse_opening = entries._decode, openings.parse_opening

        def counted_open(signed, key):
            self.signatures += 1
            self.hashed += len(signed)
            return open_signed(signed, key)

        def counted_block(content, most):
            block = next_block(content, most)
            self.unpacked += len(block)
            return block

        def counted_decode(text):
            self.values += text.count(",") + text.count("[")
            return decode(text)

        def counted_opening(line):
            self.openings += 1
            return parse_opening(line)

        monkeypatch.setattr(nacl.bindings, "crypto_sign_open", counted_open)
        monkeypatch.setattr(Content, "next_block", counted_block)
        monkeypatch.setattr(entries, "_decode", counted_decode)
        monkeypatch.setattr("protocol.verify.evidence.parse_opening", counted_opening)

    @property
    def units(self):
        """In the units of the budget, as `protocol.verify.work` says that they cost."""
        return (
            self.unpacked + self.signatures * work.SIGNATURE + self.hashed // 4 + self.values * 20
        )


@pytest.fixture
def meter(monkeypatch):
    return Meter(monkeypatch)


SMALL = {
    "named_receipts": 3_000,
    "named_statements": 2_000,
    "different_checkpoints": 1_000,
    "entries_of_lists": 150,
    "zeros": 100_000_000,
    "long_transfers": 450,
    "repeated_checkpoints": 3_000,
}
"""How many do for the tests; the bench makes more."""


def made(name):
    return MADE[name](*([SMALL[name]] if name in SMALL else []))


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_no_bundle_makes_more_work_than_its_size_allows(name, meter):
    data = made(name)
    verdict = verify(data)
    allowed = work.WORK_BASE + work.WORK_PER_BYTE * len(data)
    # One step more than allowed is begun before it is counted.
    assert meter.units <= allowed + 2_000_000
    assert len(verdict.findings) <= 3 * FINDINGS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zeros", "long_checkpoints", "bad_checkpoints", "long_transfers"])
def test_no_bundle_takes_much_memory(name):
    data = made(name)
    tracemalloc.start()
    verify(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_receipt_that_is_repeated_is_checked_once(meter):
    verdict = verify(repeated_receipts())
    assert verdict.code == Code.BUNDLE
    assert "there twice" in verdict.reason
    assert len(verdict.findings) == FINDINGS
    assert meter.signatures < 10


def test_openings_are_left_at_the_twentieth_finding(meter):
    verdict = verify(repeated_openings())
    assert (verdict.code, len(verdict.findings)) == (Code.OPENING_BAD, FINDINGS)
    assert meter.openings == FINDINGS + 1


def test_a_checkpoint_that_is_there_often_is_checked_once(meter):
    verdict = verify(made("repeated_checkpoints"))
    assert verdict.sound is True
    assert meter.signatures < 10


@pytest.mark.slow
def test_what_is_refused_for_its_work_says_so():
    verdict = verify(made("zeros"))
    assert (verdict.sound, verdict.code, verdict.exit_code) == (None, Code.BUNDLE, 2)
    assert "more work than an honest one of its size" in verdict.reason


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_a_bundle_may_make_so_much_work_and_no_more(size):
    left = work.Work(size)
    assert left.spend(work.WORK_BASE + work.WORK_PER_BYTE * size - 1) is True
    assert left.spend(1) is True
    assert left.spend(1) is False
    assert left.spend(0) is False


def test_json_costs_by_the_values_in_it():
    """Each costs the same more, whether it stands in an object or in a list."""
    empty, one, two = (work.json_work(b"{%b}" % rest) for rest in (b"", b'"a":[1]', b'"a":[1,2]'))
    assert 0 < empty < one < two
    assert two - one == one - empty == work.json_work(b'{"a":1,"b":2}') - empty


def test_a_small_file_costs_by_its_signatures_and_what_they_sign():
    card, long = work.note_work(b"x" * 400), work.note_work(b"x" * 40_000)
    assert work.SIGNATURE < card < 2 * work.SIGNATURE
    assert long - card == 39_600 / 4
    line = "\n— key AAAA".encode()
    signed = [work.note_work(b"x" * (400 - count * len(line)) + count * line) for count in (1, 2)]
    assert signed[1] - signed[0] == signed[0] - card >= work.SIGNATURE


def test_an_honest_bundle_stays_far_below_its_budget(meter):
    """Of what each kind of record costs, and not by the base that every bundle has."""
    data = container(parts_of(honest().members(), deflated=True))
    assert verify(data).sound is True
    assert meter.units < work.WORK_PER_BYTE * len(data) / 2


def test_no_file_of_an_honest_bundle_is_unpacked_twice(meter):
    """But `leaves`, of which so many hashes are read as there are entries."""
    assert verify(honest()).sound is True
    sizes = {name: len(data) for name, data in honest().members()}
    assert meter.unpacked <= sum(sizes.values()) + sizes["leaves"]


def test_signatures_of_receipts_are_work_of_the_bundle_that_holds_them(monkeypatch):
    """And not of the auditor's own, which are few and known."""
    spent, spend = [], Bundle.spend

    def counted(bundle, units):
        spent.append(units)
        spend(bundle, units)

    def total(log, **evidence):
        spent.clear()
        verify(log, **evidence)
        return sum(spent)

    monkeypatch.setattr(Bundle, "spend", counted)
    without = honest()
    without.receipts.clear()
    assert total(honest()) - total(without) >= 2 * work.SIGNATURE
    assert total(without, receipts=[make_receipt(9)]) <= total(without)
