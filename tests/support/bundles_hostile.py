"""Bundles made to keep their reader busy: small files that unpack to large ones, or whose
content is expensive to check. Their maker may hold the log key, so everything can be signed."""

import base64
import json

from bundles_made import (
    COSIGNERS,
    LOG,
    ORIGIN,
    RECEIPT,
    START_MS,
    STORED,
    Log,
    honest,
    init_event,
    receipt_event,
    second,
    stored_event,
    with_stored,
)
from containers_made import Part, container

from keys.identity import KeyPair
from protocol.log.entry import Event
from protocol.log.note import Signer, sign_note


def _bundle(log, **changed):
    members = {**dict(log.members()), **changed}
    parts = [Part(name.encode(), data, deflated=True) for name, data in members.items()]
    return container(parts)


def _line(log, name):
    return dict(log.members())[name].splitlines(keepends=True)[0]


def repeated_receipts(count=20_000):
    """One receipt, again and again for its entry."""
    log = honest()
    return _bundle(log, **{"receipts.jsonl": _line(log, "receipts.jsonl") * count})


def named_receipts(count=20_000):
    """One receipt that many entries name."""
    log = Log().add(init_event())
    event = receipt_event(RECEIPT)
    for _ in range(count):
        log.add(event, START_MS)
    log.receipts = [(index, RECEIPT) for index in range(1, count + 1)]
    return _bundle(log.sign())


def repeated_statements(count=20_000):
    """One statement that a study is stored, again and again for its entry."""
    log = with_stored()
    return _bundle(log, **{"stored.jsonl": _line(log, "stored.jsonl") * count})


def named_statements(count=10_000):
    """One statement that many entries name, each time beside its receipt."""
    log = Log().add(init_event())
    event = stored_event(STORED)
    for _ in range(count):
        log.add(event, START_MS)
    log.receipts = [(index, RECEIPT) for index in range(1, count + 1)]
    log.stored = [(index, STORED) for index in range(1, count + 1)]
    return _bundle(log.sign())


def repeated_openings(count=300_000):
    """One opening, again and again."""
    log = honest()
    return _bundle(log, **{"openings.jsonl": _line(log, "openings.jsonl") * count})


def repeated_checkpoints(count=9_000):
    """One checkpoint under many names."""
    log = honest().cosign(*COSIGNERS)
    note = log.checkpoints["checkpoints/12"].encode()
    more = {f"checkpoints/12.{number}": note for number in range(1, count)}
    return _bundle(log, **more)


def different_checkpoints(count=9_000):
    """Many checkpoints of one size, each signed."""
    log = honest()
    text = log.checkpoints["checkpoints/12"].split("\n\n")[0]
    signer = [Signer(ORIGIN, LOG)]
    more = {
        f"checkpoints/12.{number}": sign_note(f"{text}\n{number}\n", signer).encode()
        for number in range(1, count)
    }
    return _bundle(log, **more)


def long_checkpoints(count=50):
    """Checkpoints of a megabyte, cosigned again and again by one witness of the bundle."""
    log = honest()
    head = log.checkpoints["checkpoints/12"].split("\n\n")[0]
    more = {"witnesses/1": COSIGNERS[0].card.encoded}
    for number in range(1, count + 1):
        text = f"{head}\n{number}{'x' * 980_000}\n"
        note = sign_note(text, [Signer(ORIGIN, LOG)]) + COSIGNERS[0].line(text) * 90
        more[f"checkpoints/12.{number}"] = note.encode()
    return _bundle(log, **more)


def entries_of_lists(count=2_000):
    """Entries of a later version, each with a list of 32,000 numbers."""
    log = Log().add(init_event())
    later = [0] * 32_000
    for index in range(1, count + 1):
        log.entries.append(second.entry(index, START_MS, type="start", later=later))
    return _bundle(log.sign())


def large_cards(count=99):
    """Cards of witnesses, each signed and with a list of 30,000 numbers that no card has."""
    head, body, _ = COSIGNERS[0].card.encoded.split(b"\n")
    body = second.canonical({**json.loads(body), "later": [0] * 30_000})
    domain = head.split(b" ")[0]
    signature = base64.b64encode(KeyPair.from_seed(bytes([101, 0]) * 16).sign(domain, body))
    card = domain + b" " + signature + b"\n" + body + b"\n"
    more = {f"witnesses/{number}": card for number in range(1, count + 1)}
    return _bundle(honest(), **more)


def bad_checkpoints(count=9_000):
    """Checkpoints that are none."""
    more = {f"checkpoints/12.{number}": b"x" for number in range(1, count)}
    return _bundle(honest(), **more)


def zeros(size=500_000_000, name="later"):
    """A file that unpacks to a thousand times its size."""
    return _bundle(honest(), **{name: bytes(size)})


def repeated_key_changes(count=3_000):
    """Many entries, and then many of the type `rotation` that change no key."""
    log = Log().add(init_event())
    for _ in range(count):
        log.add(Event(type="start"), START_MS)
    details = {"a": "x" * 60_000}
    for _ in range(200):
        log.add(Event(type="rotation", details=details), START_MS)
    return _bundle(log.sign())


def long_transfers(count=2_000):
    """Disclosures whose transfers have names of 60,000 characters."""
    log = Log().add(init_event())
    for number in range(count):
        name = f"{number}{'x' * 60_000}"
        log.add(Event(type="disclosure-begun", details={"transfer": name}), START_MS)
    return _bundle(log.sign())


MADE = {
    each.__name__: each
    for each in (
        repeated_receipts,
        named_receipts,
        repeated_statements,
        named_statements,
        repeated_openings,
        repeated_checkpoints,
        different_checkpoints,
        long_checkpoints,
        entries_of_lists,
        large_cards,
        bad_checkpoints,
        zeros,
        repeated_key_changes,
        long_transfers,
    )
}
