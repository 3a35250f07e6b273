"""Two logs against each other: each disclosure in exactly one class."""

import io
import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from bundles_made import FACILITY, PEER
from exchanges_made import (
    CONTENT,
    FINGERPRINT,
    PEER_FINGERPRINT,
    SENT,
    Pair,
    receipt_of,
    transfer_id,
)
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from protocol.log.entry import Event
from protocol.reconcile import DIFFERENCES, TYPES, Class, Comparison, Ledger, Said, compare, time_ms
from protocol.reconcile_bundles import reconcile_bundles
from protocol.reconcile_report import MEANINGS, outcome_json, outcome_lines

AUDITING = ROOT / "docs" / "auditing.md"


def ledgers(pair):
    found = []
    for log, peer in ((pair.a, PEER), (pair.b, FACILITY)):
        ledger = Ledger(peer.public)
        for entry in map(json.loads, log.entries):
            ledger.add(entry)
            ledger.reaches(time_ms(entry["time"]))
        found.append(ledger)
    return found


def classes(pair, **options):
    return [
        (one.kind, one.source, one.fields) for one in compare(*ledgers(pair), **options).findings
    ]


def only(pair, **options):
    [found] = classes(pair.close(), **options)
    return found


# --- single cases -----------------------------------------------------------------------


@pytest.mark.parametrize("source", ["A", "B"])
def test_a_whole_transfer_is_matched(source):
    pair = Pair().whole(1, source)
    [finding] = compare(*ledgers(pair.close())).findings
    assert (finding.kind, finding.source, finding.fields) == (Class.MATCHED, source, ())
    assert finding.transfer == transfer_id(1)
    assert finding.receipt == receipt_of(1)
    assert (finding.entry_a, finding.entry_b) == (1, 1)


def test_one_transfer_id_in_both_directions_is_two_disclosures():
    assert classes(Pair().whole(1, "A").whole(1, "B").close()) == [
        (Class.MATCHED, "A", ()),
        (Class.MATCHED, "B", ()),
    ]


@pytest.mark.parametrize("source", ["A", "B"])
def test_a_receipt_that_the_other_log_knows_nothing_of(source):
    pair = Pair().wait()
    pair.source(source, "disclosure-begun", 1).source(source, "receipt", 1, receipt=receipt_of(1))
    assert only(pair) == (Class(f"ONLY_{source}"), source, ())


@pytest.mark.parametrize("source", ["A", "B"])
def test_a_study_that_arrived_and_that_nobody_says_to_have_sent(source):
    other = "B" if source == "A" else "A"
    pair = Pair().wait().recipient(other, "received", 1)
    assert only(pair) == (Class(f"ONLY_{other}"), source, ())


def test_a_disclosure_that_nobody_asked_for():
    assert only(Pair().wait().source("A", "disclosure-begun", 1)) == (Class.ONLY_A, "A", ())


def test_one_that_broke_off_as_both_say():
    pair = Pair().begin(1).source("A", "disclosure-failed", 1)
    assert only(pair) == (Class.BROKEN_OFF, "A", ())


def test_one_that_only_the_source_says_to_have_been_confirmed():
    assert only(Pair().begin(1).source("A", "disclosed", 1)) == (Class.ONLY_A, "A", ())


@pytest.mark.parametrize(
    "said",
    [
        [("requested", {"direction": "in"})],
        [("receive-failed", {"direction": "in"})],
        [("refused", {})],
    ],
)
def test_what_was_asked_for_and_never_begun_is_no_disclosure(said):
    pair = Pair().wait()
    for kind, details in said:
        pair.log("B", kind, 1, **details)
    pair.log("A", "refused", 1)
    assert classes(pair.close()) == []


@pytest.mark.parametrize("lacking", ["A", "B", "both"])
def test_a_receipt_that_is_missing_is_a_mismatch(lacking):
    pair = Pair().begin(1).recipient("B", "received", 1)
    if lacking == "B":
        pair.source("A", "receipt", 1, receipt=receipt_of(1))
    if lacking == "A":
        pair.recipient("B", "receipt", 1, receipt=receipt_of(1))
    assert only(pair) == (Class.MISMATCH, "A", ("receipt",))


def test_two_receipts_that_differ():
    pair = Pair().begin(1).recipient("B", "received", 1, bytes=1)
    pair.source("A", "receipt", 1, receipt=receipt_of(1))
    pair.recipient("B", "receipt", 1, receipt=receipt_of(2), bytes=1)
    assert only(pair) == (Class.MISMATCH, "A", ("bytes", "receipt"))


@pytest.mark.parametrize("name", [*CONTENT, *SENT, "manifest", "purpose"])
def test_one_receipt_of_which_the_logs_say_different_things(name):
    wrong = {name: "research" if name == "purpose" else 7}
    assert only(Pair().whole(1, **wrong)) == (Class.MISMATCH, "A", (name,))


def test_a_countersignature_that_got_lost_beside_a_second_session_that_went_well():
    """The source has the receipt of the first session too: the recipient must ask for it."""
    pair = Pair().begin(1).recipient("B", "received", 1)
    pair.source("A", "disclosed", 1).source("A", "receipt", 1, receipt=receipt_of(1, 1))
    pair.whole(1)
    assert only(pair) == (Class.MISMATCH, "A", ("receipt",))
    pair.recipient("B", "receipt", 1, receipt=receipt_of(1, 1))
    assert only(pair) == (Class.MATCHED, "A", ())


def test_a_receipt_of_which_the_source_knows_nothing_beside_one_that_both_have():
    pair = Pair().whole(1).recipient("B", "receipt", 1, receipt=receipt_of(1, 1))
    assert only(pair) == (Class.MISMATCH, "A", ("receipt",))


def test_a_study_that_grew_before_its_transfer_went_on():
    pair = Pair().wait().source("A", "disclosure-begun", 1, content_root="e" * 64, instances=3)
    assert only(pair.whole(1)) == (Class.MATCHED, "A", ())


def test_a_receipt_without_its_transfer_is_found_by_its_digest():
    pair = Pair().wait()
    for where, more in (("A", {"direction": "out"}), ("B", {})):
        pair.log(where, "receipt", 1, transfer="", receipt=receipt_of(1), **more)
    assert only(pair) == (Class.MATCHED, "A", ())


def test_what_names_no_transfer_or_another_peer_is_let_pass():
    pair = Pair().wait()
    for transfer in ("", "zz", 7):
        pair.log("A", "disclosure-begun", 1, transfer=transfer)
        pair.log("A", "receipt", 1, transfer=transfer, receipt=7)
    a, _ = ledgers(pair)
    assert (a.said, a.entries) == ({}, 0)
    other = Ledger(bytes(32))
    for entry in map(json.loads, Pair().whole(1).a.entries):
        other.add(entry)
    assert other.said == {}


@pytest.mark.parametrize(
    ("ms", "kind"), [(299_000, Class.NOT_YET), (301_000, Class.ONLY_A), (0, Class.NOT_YET)]
)
def test_what_is_newer_than_the_other_log_is_not_missing_there(ms, kind):
    pair = Pair().wait().source("A", "disclosure-begun", 1)
    pair.wait(ms).source("B", "disclosure-begun", 2)
    [finding] = [one for one in compare(*ledgers(pair)).findings if one.source == "A"]
    assert finding.kind is kind


def test_what_contradicts_is_never_put_off():
    pair = Pair().whole(1, bytes=1)
    assert classes(pair) == [(Class.MISMATCH, "A", ("bytes",))]


def test_the_grace_can_be_set():
    pair = Pair().wait().source("A", "disclosure-begun", 1)
    pair.wait(1000).source("B", "disclosure-begun", 2)
    kinds = {one.source: one.kind for one in compare(*ledgers(pair), grace_seconds=0).findings}
    assert kinds["A"] is Class.ONLY_A


# --- any two logs ------------------------------------------------------------------------

_entries = st.lists(
    st.fixed_dictionaries(
        {
            "where": st.sampled_from("AB"),
            "kind": st.sampled_from(sorted(TYPES)),
            "number": st.integers(1, 3),
            "direction": st.sampled_from(["in", "out", None]),
            "receipt": st.sampled_from([receipt_of(1), receipt_of(2), None]),
            "bytes": st.sampled_from([1, 2, None]),
            "ms": st.sampled_from([0, 200_000, 10_000_000]),
        }
    ),
    max_size=25,
)


def _any_pair(entries):
    pair = Pair()
    for one in entries:
        one = dict(one)
        pair.wait(one.pop("ms"))
        where, kind, number = one.pop("where"), one.pop("kind"), one.pop("number")
        said = {name: value for name, value in one.items() if value is not None}
        pair.log(where, kind, number, subjects=False, **said)
    return pair


_SWAPPED = {"A": "B", "B": "A", Class.ONLY_A: Class.ONLY_B, Class.ONLY_B: Class.ONLY_A}


def _swapped(finding):
    return replace(
        finding,
        kind=_SWAPPED.get(finding.kind, finding.kind),
        source=_SWAPPED[finding.source],
        entry_a=finding.entry_b,
        entry_b=finding.entry_a,
        time_a=finding.time_b,
        time_b=finding.time_a,
    )


@given(_entries)
def test_each_disclosure_is_in_one_class_and_swapping_the_logs_mirrors_it(entries):
    a, b = ledgers(_any_pair(entries))
    comparison = compare(a, b)
    told = {("A" if out else "B", name) for (out, name), said in a.said.items() if said.tells}
    told |= {("B" if out else "A", name) for (out, name), said in b.said.items() if said.tells}
    found = Counter((one.source, one.transfer) for one in comparison.findings)
    assert found == Counter(dict.fromkeys(told, 1))
    assert sum(comparison.counts.values()) == len(comparison.findings)
    mirrored = {_swapped(one) for one in compare(b, a).findings}
    assert mirrored == set(comparison.findings)


@given(_entries)
def test_a_log_agrees_with_an_honest_mirror_of_itself(entries):
    """What one log says about receipts, told by the other side: nothing differs."""
    a, _ = ledgers(_any_pair(entries))
    b = Ledger(FACILITY.public)
    for (out, name), said in a.said.items():
        b.said[not out, name] = replace(
            said, begun=not out and said.tells, received=out and said.tells, asked=True
        )
    a.reaches(10**15)
    b.reaches(10**15)
    for finding in compare(a, b).findings:
        assert finding.kind is not Class.ONLY_A
        assert finding.kind is not Class.ONLY_B
        assert finding.fields in ((), ("receipt",))


# --- receipts that one log lacks ----------------------------------------------------------


@pytest.mark.parametrize("source", ["A", "B"])
@pytest.mark.parametrize("holder", ["source", "recipient"])
@pytest.mark.parametrize("tells", [True, False])
def test_no_grace_for_a_receipt_that_the_other_log_lacks_and_goes_on_behind(source, holder, tells):
    other = "B" if source == "A" else "A"
    pair = Pair().wait()
    if tells:
        pair.begin(1, source)
        pair.recipient(other, "received", 1)
    if holder == "source":
        lacking = other
        pair.source(source, "receipt", 1, receipt=receipt_of(1))
    else:
        lacking = source
        pair.recipient(other, "receipt", 1, receipt=receipt_of(1))
    assert [kind for kind, _, _ in classes(pair)] == [Class.NOT_YET]
    log = pair.a if lacking == "A" else pair.b
    log.add(Event(type="stop"), pair.now_ms)
    # At the very moment of the receipt it may still follow; a millisecond later not.
    assert [kind for kind, _, _ in classes(pair)] == [Class.NOT_YET]
    log.add(Event(type="stop"), pair.now_ms + 1)
    [(kind, _, _)] = classes(pair)
    assert kind in (Class.MISMATCH, Class.ONLY_A, Class.ONLY_B)
    assert kind is (Class.MISMATCH if tells else Class(f"ONLY_{'AB'[lacking == 'A']}"))


def test_a_log_whose_end_was_cut_off_does_not_agree():
    """North's last five minutes are gone, and it goes on for 42 s; South has the receipt."""
    pair = Pair().whole(1)
    pair.whole(2)
    cut = next(at for at, data in enumerate(pair.a.entries) if transfer_id(2).encode() in data)
    del pair.a.entries[cut:]
    pair.a.openings = [pair_ for pair_ in pair.a.openings if pair_[0] < cut]
    for log in (pair.a, pair.b):
        log.add(Event(type="stop"), pair.now_ms + 42_000)
        log.sign()
    found = outcome(pair)
    assert (found.exit_code, found.comparison.counts[Class.ONLY_B]) == (1, 1)


@given(_entries)
def test_what_agrees_lacks_no_receipt_behind_which_a_log_goes_on(entries):
    a, b = ledgers(_any_pair(entries))
    for finding in compare(a, b).findings:
        if finding.kind not in DIFFERENCES:
            is_a_source = finding.source == "A"
            said_a = a.said.get((is_a_source, finding.transfer), Said())
            said_b = b.said.get((not is_a_source, finding.transfer), Said())
            for one, other, log in ((said_a, said_b, b), (said_b, said_a, a)):
                lacking = one.receipt_times.keys() - other.receipts.keys()
                assert not any(one.receipt_times[digest] < log.last_time for digest in lacking)


# --- bundles -----------------------------------------------------------------------------


def outcome(pair, **options):
    a, b = (io.BytesIO(data) for data in pair.bundles())
    arguments = {"fingerprint_a": FINGERPRINT, "fingerprint_b": PEER_FINGERPRINT, **options}
    return reconcile_bundles(a, b, **arguments)


def test_two_bundles_that_agree():
    found = outcome(Pair().whole(1).whole(2, "B").close())
    assert found.exit_code == 0
    assert outcome_lines(found)[:3] == [
        "AGREED: no difference in 2 disclosures",
        "  A  North General: sound, 9 entries, to 2026-11-24T12:31:58.123Z",
        "  B  Lakeside: sound, 9 entries, to 2026-11-24T12:31:58.123Z",
    ]


def test_bundles_without_openings_do():
    pair = Pair().whole(1).close()
    pair.a.openings, pair.b.openings = [], []
    assert outcome(pair).exit_code == 0


def test_an_entry_that_is_missing_on_one_side_is_named():
    pair = Pair().whole(1).wait().source("A", "disclosure-begun", 2)
    found = outcome(pair.close())
    assert found.exit_code == 1
    said = outcome_json(found)
    assert said["outcome"] == "differences"
    assert said["counts"]["ONLY_A"] == said["differences"] == 1
    [named] = said["named"]
    assert (named["class"], named["transfer"]) == ("ONLY_A", transfer_id(2))
    assert any(line.startswith("  - ONLY_A: A to B, ") for line in outcome_lines(found))


def test_logs_that_are_not_sound_are_not_compared():
    pair = Pair().whole(1).close()
    pair.b.entries[2] = pair.b.entries[2].replace(b"treatment", b"research!")
    found = outcome(pair)
    assert found.exit_code == 2
    assert found.comparison is None
    assert outcome_lines(found)[0].startswith("CANNOT TELL: the log of B cannot be relied on")
    assert outcome_json(found)["outcome"] == "cannot tell"


@pytest.mark.parametrize(
    "options",
    [
        {"fingerprint_a": PEER_FINGERPRINT, "fingerprint_b": FINGERPRINT},
        {"fingerprint_b": FINGERPRINT},
        {"fingerprint_a": bytes(32)},
    ],
)
def test_bundles_of_others_are_not_compared(options):
    assert outcome(Pair().whole(1).close(), **options).exit_code == 2


def test_one_facility_is_not_compared_with_itself():
    data = Pair().whole(1).close().a.bundle()
    found = reconcile_bundles(
        io.BytesIO(data), io.BytesIO(data), fingerprint_a=FINGERPRINT, fingerprint_b=FINGERPRINT
    )
    assert (found.exit_code, found.reason) == (2, "both logs are of one facility")


@given(st.binary(max_size=100))
def test_anything_else_than_a_bundle_cannot_tell(data):
    whole = Pair().whole(1).close().b.bundle()
    found = reconcile_bundles(
        io.BytesIO(data),
        io.BytesIO(whole),
        fingerprint_a=FINGERPRINT,
        fingerprint_b=PEER_FINGERPRINT,
    )
    assert found.exit_code == 2


def test_a_bundle_that_changes_while_it_is_read_cannot_tell():
    class Changing(io.BytesIO):
        """Gives other bytes once it was opened twice: for its card and to be verified."""

        opened = 0

        def seek(self, offset, whence=0):
            if (offset, whence) == (0, 2):
                Changing.opened += 1
                if Changing.opened == 3:
                    self.__init__(Pair().whole(7).close().a.bundle())
            return super().seek(offset, whence)

    pair = Pair().whole(1).close()
    found = reconcile_bundles(
        Changing(pair.a.bundle()),
        io.BytesIO(pair.b.bundle()),
        fingerprint_a=FINGERPRINT,
        fingerprint_b=PEER_FINGERPRINT,
    )
    assert (found.exit_code, found.reason) == (2, "a bundle changed while it was read")


def test_the_output_shown_to_auditors_is_real():
    """The last example of docs/auditing.md: one of three is in North's log alone."""
    pair = Pair().whole(1).whole(2, "B").wait().source("A", "disclosure-begun", 3)
    shown = re.findall(r"^```text compared\n(.*?)^```$", AUDITING.read_text(), re.S | re.M)
    assert shown == ["".join(f"{line}\n" for line in outcome_lines(outcome(pair.close())))]


def test_the_document_lists_all_classes():
    listed = re.findall(r"^\| ([A-Z_]+) \| .*\|$", AUDITING.read_text(), re.M)
    assert set(Class) <= set(listed)


def test_every_class_has_its_words():
    assert set(MEANINGS) == set(Class)
    assert Comparison(()).counts == dict.fromkeys(Class, 0)
