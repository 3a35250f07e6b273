"""How old a log is by its witnesses, and times of entries against those of cosignatures."""

import json

import pytest
from bundles_made import (
    COSIGNERS,
    FACILITY,
    SIGNED_AT,
    START_MS,
    TWO_OF_THREE,
    Log,
    honest,
    init_event,
    verify,
    witnessed,
)
from proofs_made import check, prove

from keys.fingerprint import fingerprint
from protocol.log.entry import Event
from protocol.verify import Code, Evidence, report_lines, to_json
from protocol.verify.command import main
from protocol.verify.moments import age_words, parse_age, parse_since

HOUR = 3600
CARDS = {"witness_cards": [each.card for each in COSIGNERS]}


def _seen(log, **evidence):
    verdict = verify(log, **evidence)
    return verdict.last_seen, verdict.code


def test_the_newest_cosignature_is_named():
    log = witnessed().cosign(COSIGNERS[2], seconds=SIGNED_AT + HOUR)
    verdict = verify(log, **CARDS, now=SIGNED_AT + 4 * HOUR)
    assert verdict.last_seen == "by your witnesses 3 h ago: 12 entries at 2026-11-24T10:32:58Z"
    assert f"  last seen {verdict.last_seen}" in report_lines(verdict)
    assert json.loads(to_json(verdict))["last_seen"] == verdict.last_seen
    assert verify(log, **CARDS).last_seen == "by your witnesses 12 entries at 2026-11-24T10:32:58Z"
    # Witnesses that the auditor did not name have seen nothing.
    assert verify(log, now=SIGNED_AT).last_seen == ""


def test_a_newer_cosignature_of_a_smaller_size_is_named_with_its_size():
    log = honest().sign(9).cosign(COSIGNERS[0], size=9, seconds=SIGNED_AT + HOUR)
    log.cosign(COSIGNERS[1])
    assert _seen(log, **CARDS, now=SIGNED_AT + 2 * HOUR)[0].startswith(
        "by your witnesses 60 min ago: 9 entries at"
    )


@pytest.mark.parametrize("made", [verify, lambda log, **held: check(prove(log, 3), **held)])
def test_a_log_that_was_not_seen_lately_is_old(made):
    log, now = witnessed(), SIGNED_AT + 5 * HOUR
    for most, code in ((5 * HOUR, Code.OK), (5 * HOUR - 1, Code.OLD), (0, Code.OLD)):
        for rules in (TWO_OF_THREE, CARDS):
            verdict = made(log, **rules, now=now, not_older_than=most)
            assert (verdict.code, verdict.exit_code) == (code, int(code != Code.OK))
    assert "your witnesses saw the log last 5 h ago" in verdict.reason
    unseen = made(log, now=now, not_older_than=5 * HOUR)
    assert (unseen.code, unseen.sound) == (Code.OLD, False)
    assert "no witness that you named" in unseen.reason


def test_as_many_as_are_asked_for_must_have_seen_it_lately():
    """One witness that goes along with an old copy makes it no newer."""
    log = honest().cosign(COSIGNERS[0]).cosign(COSIGNERS[1], seconds=SIGNED_AT + 9 * HOUR)
    held = {"now": SIGNED_AT + 10 * HOUR, "not_older_than": 2 * HOUR}
    assert verify(log, **TWO_OF_THREE, **held).code == Code.OLD
    assert verify(log, **{**TWO_OF_THREE, "quorum": 1}, **held).code == Code.OK
    log.cosign(COSIGNERS[2], seconds=SIGNED_AT + 8 * HOUR)
    assert verify(log, **TWO_OF_THREE, **held).code == Code.OK
    assert verify(honest(), **TWO_OF_THREE, **held).code == Code.QUORUM


def test_an_age_needs_a_now():
    with pytest.raises(ValueError, match="now"):
        Evidence(not_older_than=1)


# --- times of entries --------------------------------------------------------------------


def _log(*times_ms):
    log = Log().add(init_event(), times_ms[0])
    for time in times_ms[1:]:
        log.add(Event(type="stop"), time)
    return log


def _notes(log):
    return [note for note in verify(log, **CARDS).notes if note.startswith("times that do not")]


MINUTES_10 = 600_000


@pytest.mark.parametrize(("ms", "told"), [(0, False), (MINUTES_10, False), (MINUTES_10 + 1, True)])
def test_an_entry_that_is_dated_after_it_was_seen(ms, told):
    log = _log(START_MS // 1000 * 1000, START_MS // 1000 * 1000 + ms).sign()
    log.cosign(COSIGNERS[0], seconds=START_MS // 1000)
    notes = _notes(log)
    assert bool(notes) is told
    if told:
        assert "entry 1 is dated" in notes[0]
        assert verify(log, **CARDS).sound is True
        assert any("times that do not" in note for note in check(prove(log, 1), **CARDS).notes)
        assert not any("times that do" in note for note in check(prove(log, 0), **CARDS).notes)


@pytest.mark.parametrize(("ms", "told"), [(0, False), (MINUTES_10, False), (MINUTES_10 + 1, True)])
def test_an_entry_that_is_dated_before_the_log_was_seen_without_it(ms, told):
    start = START_MS // 1000 * 1000
    log = _log(start, start).sign()
    log.cosign(COSIGNERS[0], seconds=(start + MINUTES_10) // 1000)
    log.add(Event(type="stop"), start + MINUTES_10 - ms).sign()
    notes = _notes(log)
    assert bool(notes) is told
    assert not told or "entry 2 is dated" in notes[0]


def test_a_forged_date_is_told_and_an_unknown_witness_says_nothing():
    far = START_MS + 73 * 365 * 86_400_000
    log = _log(START_MS, far).sign().cosign(*COSIGNERS)
    assert "(3)" in _notes(log)[0]
    assert "dated 2099-" in _notes(log)[0]
    assert not [note for note in verify(log).notes if "times that do not" in note]


# --- words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("34", 34),
        ("2026-11-24", "2026-11-24T00:00:00.000Z"),
        ("2026-11-24T09:31Z", "2026-11-24T09:31:00.000Z"),
        ("2026-11-24 10:31:58.1234+01:00", "2026-11-24T09:31:58.124Z"),
        ("2026-11-24T09:31", None),
        ("tomorrow", None),
        ("2026-13-24", None),
        ("-1", None),
        ("0001-01-01T00:00+14:00", None),
    ],
)
def test_since(text, value):
    if value is None:
        with pytest.raises(ValueError):
            parse_since(text)
    else:
        assert parse_since(text) == value


def test_ages():
    assert [parse_age(each) for each in ("90min", "36h", "7 d")] == [5400, 129_600, 604_800]
    for text in ("", "7", "h", "-1h", "1w", "1.5h"):
        with pytest.raises(ValueError):
            parse_age(text)
    assert [age_words(each) for each in (-5, 59, 60, 7199, 7200, 172_799, 172_800)] == [
        "less than a minute", "less than a minute", "1 min", "119 min", "2 h", "47 h", "2 days",
    ]  # fmt: skip


def test_the_command(tmp_path, capsys):
    (tmp_path / "w.zip").write_bytes(witnessed().bundle())
    (tmp_path / "card").write_bytes(COSIGNERS[0].card.encoded)
    words = [str(tmp_path / "w.zip"), "--facility", fingerprint(FACILITY.public)]
    words += ["--witness-card", str(tmp_path / "card")]
    assert main(words) == 0
    assert "  last seen by your witnesses " in capsys.readouterr().out
    assert main([*words, "--not-older-than", "999999d", "--since", "3"]) == 0
    for wrong in (["--not-older-than", "1"], ["--since", "yesterday"]):
        with pytest.raises(SystemExit) as raised:
            main([*words, *wrong])
        assert raised.value.code == 2
