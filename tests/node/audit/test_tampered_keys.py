"""Attacks on the changes of keys in a log whose keys the node itself replaced."""

import io
import json
import zipfile

import pytest
import second_log as second
from bundles_made import zip_of
from terminal import Terminal, north, terminal

from keys.card import parse_card_untrusted
from keys.identity import KeyPair
from node.home import Home
from protocol.verify import Code, Evidence, verify_bundle

__all__ = ["north", "terminal"]

pytestmark = pytest.mark.slow


class Rotated:
    """A home whose log key was replaced, what it exported, and its keys before and after."""

    def __init__(self, terminal: Terminal, *words: str) -> None:
        home = Home(terminal.home)
        self.old = home.read_keys().log
        self.facility = home.read_keys().facility
        terminal.run("audit", "prove", "0", str(terminal.home.parent / "first.tlog-proof"))
        path = terminal.home.parent / "log.zip"
        noted = terminal.run("audit", "export", str(path)).out.splitlines()[1].split()[-1]
        pin = [word.replace("NOTED", noted) for word in words]
        ran = terminal.run("keys", *pin)
        assert ran.code == 0, ran.err
        terminal.run("audit", "prove", "1", str(terminal.home.parent / "second.tlog-proof"))
        self.new = home.read_keys().log
        path = terminal.home.parent / "rotated.zip"
        terminal.run("audit", "export", str(path))
        with zipfile.ZipFile(path) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        self.entries = self.members["entries.jsonl"].split(b"\n")[:-1]
        kinds = [json.loads(entry)["type"] for entry in self.entries]
        [self.index] = [at for at, kind in enumerate(kinds) if kind in ("rotation", "key-revoked")]
        self.fingerprint = second.sha256(parse_card_untrusted(self.members["card"]).facility_key)

    @property
    def origin(self) -> str:
        return str(json.loads(self.entries[0])["details"]["origin"])

    def judge(self, entries: list[bytes] | None = None, **notes: str) -> tuple[Code, int | None]:
        """The verdict over these entries and checkpoints (`size_N`) in place of the true ones."""
        held = self.entries if entries is None else entries
        members = {
            **{name: data for name, data in self.members.items() if name != "leaves"},
            "entries.jsonl": b"".join(entry + b"\n" for entry in held),
            "bundle.json": second.canonical(
                {**json.loads(self.members["bundle.json"]), "size": len(held)}
            ),
        }
        for name, note in notes.items():
            members[f"checkpoints/{name.removeprefix('size_')}"] = note.encode()
        verdict = verify_bundle(
            io.BytesIO(zip_of(members.items())),
            facility_fingerprint=self.fingerprint,
            evidence=Evidence(),
        )
        assert verdict.sound is (verdict.code == Code.OK)
        return verdict.code, verdict.index

    def signed(self, entries: list[bytes], key: KeyPair) -> dict[str, str]:
        """A checkpoint of all of them, as an argument of `judge`."""
        return {f"size_{len(entries)}": second.checkpoint(self.origin, entries, key)}

    def rewritten(self) -> list[bytes]:
        """Its entries, with another one in front of the change of keys."""
        entry = json.loads(self.entries[self.index - 1])
        changed = second.canonical({**entry, "purpose": "another"})
        return [*self.entries[: self.index - 1], changed, *self.entries[self.index :]]

    def with_change(self, entries: list[bytes], **details: object) -> list[bytes]:
        """These entries, with other details in the change of keys."""
        entry = json.loads(entries[self.index])
        entry["details"] |= details
        return [*entries[: self.index], second.canonical(entry), *entries[self.index + 1 :]]


def test_attacks_on_a_rotation(north: Terminal) -> None:
    log = Rotated(north, "rotate", "log")
    assert log.judge() == (Code.OK, None)
    size, before = len(log.entries), log.entries[: log.index]
    # What the old key signed stands; the keys may not sign each other's sizes.
    assert log.judge(**log.signed(before, log.old)) == (Code.OK, None)
    assert log.judge(**log.signed(before, log.new)) == (Code.CP_BAD, None)
    assert log.judge(**{f"size_{size}.1": second.checkpoint(log.origin, log.entries, log.old)}) == (
        Code.CP_BAD,
        None,
    )
    # A history rewritten by who has the new key alone, in each way that he has.
    rewritten = log.rewritten()
    assert log.judge(rewritten) == (Code.ROOT_MISMATCH, None)
    assert log.judge(rewritten, **log.signed(rewritten, log.new)) == (Code.KEY_CHAIN, log.index)
    card = parse_card_untrusted(log.members["card"])
    details = second.key_change(
        rewritten[: log.index],
        facility=log.facility,
        old=log.old,
        new=log.new,
        card=card,
        origin=log.origin,
        signers={"old": log.new},
    )
    again = log.with_change(rewritten, **details)
    assert log.judge(again, **log.signed(again, log.new)) == (Code.KEY_CHAIN, log.index)
    # With the old key too it holds: only somebody outside can tell (a limit).
    details = second.key_change(
        rewritten[: log.index],
        facility=log.facility,
        old=log.old,
        new=log.new,
        card=card,
        origin=log.origin,
    )
    again = log.with_change(rewritten, **details)
    assert log.judge(again, **log.signed(again, log.new)) == (Code.OK, None)


@pytest.mark.parametrize("name", ["old", "new", "facility"])
def test_a_signature_of_a_rotation_that_is_not_theirs(north: Terminal, name: str) -> None:
    log = Rotated(north, "rotate", "log")
    forged = second.base64_of(second.sign_raw(b"s" * 32, b"anything"))
    entries = log.with_change(log.entries, **{f"signature_{name}": forged})
    assert log.judge(entries, **log.signed(entries, log.new)) == (Code.KEY_CHAIN, log.index)


def test_attacks_on_a_revocation(north: Terminal) -> None:
    log = Rotated(north, "revoke", "log", "--trusted", "NOTED")
    assert log.judge() == (Code.OK, None)
    details = json.loads(log.entries[log.index])["details"]
    trusted = log.entries[: details["trusted_size"]]
    assert log.judge(**log.signed(trusted, log.old)) == (Code.OK, None)
    if details["trusted_size"] < log.index:
        later = log.entries[: log.index]
        assert log.judge(**log.signed(later, log.old)) == (Code.CP_BAD, None)
    # Who has the new key cannot move the size from which on he counts.
    entries = log.with_change(log.entries, trusted_size=1)
    assert log.judge(entries, **log.signed(entries, log.new)) == (Code.KEY_CHAIN, log.index)


def test_the_node_and_the_second_implementation_write_the_same_change(north: Terminal) -> None:
    log = Rotated(north, "rotate", "log")
    details = second.key_change(
        log.entries[: log.index],
        facility=log.facility,
        old=log.old,
        new=log.new,
        card=parse_card_untrusted(log.members["card"]),
        origin=log.origin,
    )
    assert json.loads(log.entries[log.index])["details"] == details
