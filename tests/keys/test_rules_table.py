"""What rules decide, as a table of cases: verdict, the rule that decides, and what is told."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grants_made import CARD

from keys.card import issue_card
from keys.conditions import KINDS, USES, Facts
from keys.explaining import explain_in_full
from keys.grants import ACTIONS, Answer, Ask, No, Request, Rule, Usage, Yes, may, rules_of
from keys.identity import KeyPair
from keys.peer import Peer
from keys.purposes import CODES, WORDS
from keys.rules import LIMITS, SHOWS, read_rule
from keys.trust import TrustStore
from keys.written import folded
from node.sharing.policy import Refusal, decide_fetch

NOW = int(datetime.datetime(2026, 9, 21, 14, 13, 20, tzinfo=datetime.UTC).timestamp())
YEAR = 365 * 86_400
KEYS = KeyPair.from_seed(b"South".ljust(32))
LASTING = issue_card(
    KEYS,
    name="South",
    node_key=CARD.node_keys[0].key,
    log_key=CARD.log_keys[0].key,
    witness_key=CARD.witness_keys[0].key,
    addresses=(),
    serial=1,
    issued=NOW - YEAR,
    expires=NOW + YEAR,
)
TABLE = Path(__file__).with_name("rules_table.tsv")
COLUMNS = 8
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
KNOWN = {"yes": True, "no": False, "?": None}


def _rows() -> list[list[str]]:
    lines = TABLE.read_text().split("\n")
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


ROWS = _rows()


def _blind(kind: str, value: str) -> str:
    return f"{kind}:{value}"


def _rule(text: str, number: int) -> Rule:
    later = [word for word in text.split() if "*" in word]
    words = [word.replace("~", " ") for word in text.split() if word not in later]
    if later and "=" not in later[0]:
        words.insert(0, "deny")
    fields = read_rule(words, number, actions=list(ACTIONS), blind=_blind).to_fields()
    for word in later:
        name, _, value = word.partition("=")
        name = name.replace("*", "")
        if not value:
            fields["effect"] = name
        elif name in ("shows", "withheld"):
            fields[name] = value
        elif value.isdigit():
            fields["limits"] = {name: int(value)}
        else:
            fields["conditions"] = fields.get("conditions", {}) | {name: [value]}
    return Rule.from_fields(fields)


def _peer(text: str) -> Peer:
    words = [one for one in text.split(" | ") if one]
    granted = [one.split() for one in words if one.startswith("grant ")]
    rules = [one for one in words if not one.startswith("grant ")]
    return Peer(
        LASTING.facility_key,
        "South",
        LASTING,
        grants=frozenset(one[1] for one in granted),
        filters={"colour": "red"} if any(len(one) > 2 for one in granted) else {},
        rules=tuple(_rule(one, number) for number, one in enumerate(rules, 1)),
    )


def _pairs(text: str) -> dict[str, str]:
    named = (word.partition("=") for word in text.split() if "=" in word)
    return {name: value.replace("~", " ") for name, _, value in named}


def _uses(text: str) -> frozenset[str] | None:
    """The uses that are consented to; yes is all of them, ? is not known."""
    if text == "?":
        return None
    named = {"yes": USES, "no": ()}.get(text, text.split(","))
    return frozenset(named)


def _facts(text: str) -> Facts | None:
    if text == "-":
        return None
    known = _pairs(text)
    listed: dict[str, Any] = {
        name: tuple(known[name].split(",")) if name in known else None
        for name in ("modality", "part")
    }
    # A further value behind a semicolon, where the images differ; "" for one that is not known.
    texts = {name: known.get(name, "").split(";") for name in ("date", "acc", "ref", "inst")}
    names = {"date": "study_date", "acc": "accession", "ref": "referring", "inst": "institution"}
    patients = [one.rpartition("@") for one in known.get("patient", "").split(",") if one]
    return Facts(
        study_uid=known.get("uid", "1.2.3"),
        state=known.get("state", "shared"),
        modalities=listed["modality"],
        body_parts=listed["part"],
        study_date=texts["date"][0],
        accession=texts["acc"][0],
        patients=tuple((one[0], one[2]) if one[1] else (one[2], "") for one in patients),
        referring=texts["ref"][0],
        institution=texts["inst"][0],
        more=tuple((names[name], one) for name, found in texts.items() for one in found[1:]),
        is_deidentified=KNOWN[known.get("deid", "?")],
        consents=_uses(known.get("consent", "?")),
        objections=frozenset(filter(None, known.get("objects", "").split(","))),
        blind=_blind,
    )


def _request(text: str) -> tuple[Request, int]:
    known = _pairs(text)
    purposes = [word for word in text.split() if "=" not in word]
    purpose = known.get("purpose", purposes[0] if purposes else "treatment")
    hour, _, minute = known.get("at", "?").partition(":")
    day = known.get("day", "?")
    now = NOW
    if "time" in known:
        now = int(datetime.datetime.fromisoformat(known["time"] + "+00:00").timestamp())
    return (
        Request(
            speaks=True,
            purpose=purpose,
            role=known.get("role", ""),
            reason=known.get("reason", ""),
            is_stat=KNOWN[known.get("stat", "?")],
            minute=None if hour == "?" else int(hour) * 60 + int(minute),
            weekday=None if day == "?" else DAYS.index(day),
        ),
        now,
    )


def _usage(text: str) -> tuple[Usage, Usage]:
    """What it would have used with the study, and if there were none."""
    known = {name: int(value) for name, value in _pairs(text).items()}
    used = {f"{name}-a-day": value for name, value in known.items() if name != "none"}
    absent = dict(used)
    if "none" in known:
        absent = dict.fromkeys(used, known["none"])
    return Usage(used), Usage(absent)


def _verdict(answer: Answer, action: str) -> str:
    if isinstance(answer, No):
        return "no"
    if isinstance(answer, Ask):
        return "ask"
    return f"yes {answer.shows}" if action == "see" else "yes"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ; ".join(row[1:5]))
def test_the_rules_decide(row: list[str]) -> None:
    action, rules, study, asked, used, verdict, decides, told = row
    peer, facts = _peer(rules), _facts(study)
    (request, now), (usage, unseen) = _request(asked), _usage(used)
    answer = may(action, peer, rules_of(peer), facts, request, usage, now)
    assert (_verdict(answer, action), answer.rule) == (verdict, decides)
    explained = explain_in_full(action, peer, rules_of(peer), facts, request, usage, now)
    assert explained.answer == answer
    assert explained.decides == decides
    if action not in ("fetch", "emergency"):
        return
    store = TrustStore([peer], bytes(32))
    decided = decide_fetch(store, peer, request, facts, now=now, usage=usage, unseen=unseen)
    code = decided.code.name.lower() if isinstance(decided, Refusal) else ""
    assert (code, decided.rule) == (told, decides)


def test_what_the_table_covers() -> None:
    assert len(ROWS) >= 200
    assert {len(row) for row in ROWS} == {COLUMNS}
    assert len({tuple(row[:5]) for row in ROWS}) == len(ROWS), "a row is there twice"
    words = {word.partition("=")[0] for row in ROWS for word in row[1].split()}
    assert words >= {*KINDS, *LIMITS, "until"}
    assert {word for row in ROWS for word in row[1].split()} >= {f"shows={one}" for one in SHOWS}
    assert {word for row in ROWS for word in row[3].split()} >= {*CODES, *WORDS}


def test_a_peer_that_may_not_see_is_told_the_same_with_and_without_the_study() -> None:
    """For each row: a study that it may not see now, and no study, have one code."""
    for action, rules, study, asked, used, *_ in ROWS:
        peer, facts = _peer(rules), _facts(study)
        (request, now), (usage, unseen) = _request(asked), _usage(used)
        store = TrustStore([peer], bytes(32))
        if action != "fetch" or isinstance(
            store.may("see", peer.facility_key, now, facts=facts), Yes
        ):
            continue
        told = []
        for known, use in ((facts, usage), (None, unseen), (facts and replace(facts), unseen)):
            decided = decide_fetch(store, peer, request, known, now=now, usage=use, unseen=unseen)
            assert isinstance(decided, Refusal)
            told.append(decided.code)
        assert len(set(told)) == 1, (rules, study, asked)


def test_what_is_refused_in_an_emergency_is_told_as_if_there_were_no_study() -> None:
    """To a peer that may not see it; and an objection is gone over by the one setting alone."""
    refused = 0
    for action, rules, study, asked, used, verdict, *_ in ROWS:
        if (action, verdict) != ("emergency", "no"):
            continue
        peer, facts = _peer(rules), _facts(study)
        (request, now), (usage, unseen) = _request(asked), _usage(used)
        store = TrustStore([peer], bytes(32))
        with_it = decide_fetch(store, peer, request, facts, now=now, usage=usage, unseen=unseen)
        none = decide_fetch(store, peer, request, None, now=now, usage=unseen, unseen=unseen)
        assert isinstance(with_it, Refusal)
        assert isinstance(none, Refusal)
        assert with_it.code is none.code
        over = decide_fetch(
            store, peer, request, facts, now=now, usage=usage, unseen=unseen, over_objections=True
        )
        assert isinstance(over, Refusal) is ("objects=" not in study)
        refused += 1
    assert refused > 10


def test_the_setting_on_objections_is_for_emergencies_alone() -> None:
    peer, facts = _peer("grant see | grant fetch"), _facts("objects=care")
    request, now = _request("treatment")
    decided = decide_fetch(
        TrustStore([peer], bytes(32)), peer, request, facts, now=now, over_objections=True
    )
    assert isinstance(decided, Refusal)


def test_names_are_compared_folded() -> None:
    assert folded(" ＮＯＲＴＨ   General ") == "north general"
