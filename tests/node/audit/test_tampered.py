"""The tamper cases on a bundle that the node wrote."""

import io
import json
import zipfile

import bundles_made
import bundles_tampered as tampered
import pytest
from bundles_made import CARD, LOG, ORIGIN, RECEIPT, START_MS, Log, Opening, init_event, verify
from bundles_tampered import CASES

from node.audit.log import AuditLog

# Those that start from the honest log; the others start from keys or witnesses that
# the node alone does not have.
NODE_CASES = sorted(
    name
    for name, (build, _) in CASES.items()
    if {"honest", "with_receipt", "cut_with_checkpoints", "rewritten_against_pin"}
    & set(build.__code__.co_names)
)


class Events:
    """Takes what `fill` adds."""

    def __init__(self):
        self.entries, self.receipts = [None], []

    def add(self, event):
        self.entries.append(event)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The members of a bundle of the honest log, written by the node."""
    clock = iter(range(START_MS, START_MS + 100_000, 1000))
    log = AuditLog.create(
        tmp_path_factory.mktemp("log") / "audit",
        log_key=LOG,
        origin=ORIGIN,
        clock_ms=lambda: next(clock),
        first=init_event(),
    )
    log.add_receipt(RECEIPT)
    events = Events()
    bundles_made.fill(events)
    for event in events.entries[1:]:
        log.append(event)
    buffer = io.BytesIO()
    log.export(buffer, card=CARD.encoded)
    log.close()
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def from_members(members):
    """The log of these members, to be tampered with."""
    openings = map(json.loads, members["openings.jsonl"].splitlines())
    return Log(
        entries=members["entries.jsonl"].split(b"\n")[:-1],
        openings=[
            (each["index"], Opening(each["kind"], each["value"], bytes.fromhex(each["salt"])))
            for each in openings
        ],
        receipts=[(5, RECEIPT)],
        checkpoints={"checkpoints/12": members["checkpoints/12"].decode()},
        leaves=members["leaves"],
    )


def test_the_node_and_the_second_implementation_write_the_same(members):
    log = from_members(members)
    ours = dict(log.members())
    for name in ("card", "entries.jsonl", "leaves", "openings.jsonl", "receipts.jsonl"):
        assert ours[name] == members[name], name
    assert ours["checkpoints/12"] == log.sign().checkpoints["checkpoints/12"].encode()


def test_most_cases_apply():
    assert len(NODE_CASES) >= 25
    assert NODE_CASES[0] == "00"


@pytest.mark.parametrize("name", NODE_CASES)
def test_tamper_case(name, members, monkeypatch):
    monkeypatch.setattr(tampered, "honest", lambda: from_members(members))
    build, code = CASES[name]
    log, evidence, index = build()
    verdict = verify(log, **evidence)
    assert (verdict.code, verdict.index) == (code, index)
