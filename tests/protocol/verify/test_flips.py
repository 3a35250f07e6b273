"""Any log, and any bit of what was exported: it is noticed, or harmless by name.

A sound verdict over a changed file is allowed in these places and no others:

1. what the ZIP container says about its members (dates, attributes, comments), as
   long as each member's content is the same;
2. a member that the log can do without and that got another name: it is then counted
   among the files that were not looked at;
3. in `bundle.json`, the member `exported`, which is for people;
4. in `leaves`, which nothing depends on, and the verdict says so;
5. in `policy`, the word of the log's own facility, while the auditor has one;
6. in a cosignature that is not needed, its name or key: it is then counted among those
   by unknown keys;
7. in `witnessed/`, which is about other logs: the verdict says that it does not hold,
   or the signature of a witness under it was changed, which is not needed for it.
"""

import io
import json
import zipfile
from dataclasses import replace

import pytest
import second_log as second
from bundles_made import (
    COSIGNERS,
    FINGERPRINT,
    NEXT_LOG,
    NEXT_WITNESS,
    PEER,
    PEER_CARD,
    RECEIPT,
    STRANGER,
    TWO_OF_THREE,
    WITNESS,
    Log,
    fill,
    init_event,
    receipt_event,
    verify,
    zip_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.log.entry import Event
from protocol.verify import Evidence, verify_bundle

pytestmark = pytest.mark.slow

NEEDED = ("bundle.json", "card", "entries.jsonl")


def whole_log():
    """A log with one of everything that a bundle may hold."""
    log = fill(Log().add(init_event()), range(1, 7)).sign()
    log.cosign(COSIGNERS[2])
    log.change_key(NEXT_LOG)
    log.change_key(NEXT_WITNESS, role="witness", old=WITNESS)
    fill(log, range(9, 12)).sign().cosign(*COSIGNERS[:2])
    origin = f"radmesh.log/{PEER_CARD.fingerprint}"
    log.extra = [
        ("policy", b"quorum none\n"),
        ("witnesses/1", COSIGNERS[2].card.encoded),
        ("witnessed/1/card", PEER_CARD.encoded),
        ("witnessed/1/held", second.checkpoint(origin, [b"a", b"b"], STRANGER).encode()),
        ("witnessed/1/shown", second.checkpoint(origin, [b"a", b"c"], STRANGER).encode()),
    ]
    return log


LOG_OF_ALL = whole_log()
MEMBERS = dict(LOG_OF_ALL.members())
ZIP = LOG_OF_ALL.bundle()


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def judge(data, **evidence):
    return verify_bundle(
        io.BytesIO(data),
        facility_fingerprint=FINGERPRINT,
        evidence=Evidence(**{**TWO_OF_THREE, **evidence}),
    )


def check_content(name, before, after, verdict):
    """That a sound verdict over a changed member is one of those named above."""
    if name == "bundle.json":
        old, new = json.loads(before), json.loads(after)
        assert {**old, "exported": ""} == {**new, "exported": ""} or (
            old.keys() - new.keys() == {"exported"}
        )
    elif name == "leaves":
        assert any("`leaves`" in note for note in verdict.notes)
    elif name.startswith("witnessed/"):
        [words] = verdict.forks
        assert "does not hold" in words or "bad card" in words
    elif name == "checkpoints/7":
        assert any("by keys that are not known, not checked: 1" in note for note in verdict.notes)
    else:
        assert name == "policy"


def test_the_untouched_log_is_sound():
    verdict = judge(ZIP)
    assert (verdict.sound, verdict.key_changes, len(verdict.forks)) == (True, 2, 1)
    assert verdict.counts["receipt"] == 1


@settings(max_examples=600)
@given(st.data())
def test_any_flipped_bit_of_any_member(data):
    name = data.draw(st.sampled_from(sorted(MEMBERS)))
    bit = data.draw(st.integers(0, len(MEMBERS[name]) * 8 - 1))
    changed = flipped(MEMBERS[name], bit)
    verdict = judge(zip_of({**MEMBERS, name: changed}.items()))
    if verdict.sound is True:
        check_content(name, MEMBERS[name], changed, verdict)


@settings(max_examples=600)
@given(st.integers(0, len(ZIP) * 8 - 1))
def test_any_flipped_bit_of_the_file(bit):
    data = flipped(ZIP, bit)
    verdict = judge(data)
    if verdict.sound is not True:
        return
    if any("`leaves`" in note for note in verdict.notes):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if name in MEMBERS}
    assert {name: MEMBERS[name] for name in held} == held
    missing = MEMBERS.keys() - held.keys()
    if missing:
        assert len(missing) == 1
        assert not missing & {*NEEDED, "checkpoints/12"}
        unknown = any("did not look at: 1" in note for note in verdict.notes)
        assert unknown or verdict.forks != judge(ZIP).forks


# --- any log -----------------------------------------------------------------------

SUBJECTS = st.lists(
    st.tuples(st.sampled_from(["study", "patient", "instance", "person"]), st.text(max_size=20)),
    max_size=3,
)
DETAILS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "receipt"),
    st.text(max_size=20) | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans(),
    max_size=4,
)
EVENTS = st.builds(
    Event,
    type=st.sampled_from(["ingest", "disclosed", "refused", "stop"]),
    actor=st.sampled_from(["node", "operator"]),
    peer=st.sampled_from([b"", PEER.public]),
    purpose=st.text(max_size=10),
    outcome=st.sampled_from(["success", "refused", "failed"]),
    subjects=SUBJECTS.map(tuple),
    details=DETAILS,
)
STEPS = st.lists(
    st.one_of(EVENTS, st.sampled_from(["sign", "rotate", "revoke", "receipt"])), max_size=12
)


def built(steps):
    """A log of these steps, signed at its end and cosigned there."""
    log = Log().add(init_event())
    keys = iter([NEXT_LOG, STRANGER])
    for step in steps:
        if isinstance(step, Event):
            log.add(step)
        elif step == "sign":
            log.sign()
        elif step == "receipt":
            log.add(receipt_event(RECEIPT))
            log.receipts.append((len(log.entries) - 1, RECEIPT))
        elif key := next(keys, None):
            # What the taken-back key signed counts only up to where it is trusted.
            trusted = None if step == "rotate" else len(log.entries) - 1
            signed = {int(name.split("/")[1]): name for name in log.checkpoints}
            if trusted is not None and max(signed, default=0) > trusted:
                del log.checkpoints[signed[max(signed)]]
            log.change_key(key, trusted_size=trusted)
    return log.sign().cosign(*COSIGNERS[:2])


@settings(max_examples=150)
@given(STEPS, st.data())
def test_any_log_is_sound_and_no_bit_of_it_can_be_changed(steps, data):
    log = built(steps)
    members = {name: content for name, content in log.members() if content}
    assert judge(zip_of(members.items())).sound is True
    name = data.draw(st.sampled_from(sorted(members)))
    changed = flipped(members[name], data.draw(st.integers(0, len(members[name]) * 8 - 1)))
    verdict = judge(zip_of({**members, name: changed}.items()))
    if verdict.sound is True:
        check_content(name, members[name], changed, verdict)


@settings(max_examples=60)
@given(STEPS, st.data())
def test_no_entry_of_any_log_can_be_left_out_or_moved(steps, data):
    log = built([*steps, "receipt"])
    entries = list(log.entries)
    at = data.draw(st.integers(0, len(entries) - 1))
    taken = entries.pop(at)
    to = data.draw(st.none() | st.integers(0, len(entries)))
    if to is not None:
        entries.insert(to, taken)
    verdict = judge(replace(log, entries=entries).bundle())
    assert (verdict.sound is True) is (entries == log.entries)
    assert verify(log).sound is True
