"""How one key of the facility followed another (docs/protocol-log.md section 12).

Theory. The card, signed by the facility key, lists every key. The log records each
change. In an entry `rotation`, the old key, the new key and the facility key sign the
size and root at which the new key takes over. An entry `key-revoked` has no signature
by the old key, which nobody trusts any more, and names the last size and root that
still count. Card and log must agree. A thief with a newer log key can sign a rewritten
history, but cannot make the older key hand that history over.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from keys.card import Card
from protocol.verify.checkpoints import log_keys
from protocol.verify.entries import EntryProblem, canonical
from protocol.verify.note import NoteProblem, decode_base64, verifies
from protocol.verify.verdict import Code, Finding

CHANGES = ("rotation", "key-revoked")
"""Types of the entries that change a key."""

_ROTATION = b"radmesh-rotation-v1\0"
_REVOCATION = b"radmesh-key-revoked-v1\0"


@dataclass(frozen=True, kw_only=True)
class _Change:
    """The details of an entry that changes a key, with their types checked."""

    role: str
    old_key: bytes
    new_key: bytes
    size: int
    root: bytes
    serial: int
    card: str
    trusted_size: int
    trusted_root: bytes
    signatures: dict[str, bytes]


class KeyChain:
    """Follows the keys through the entries.

    Args:
        card: the newest available card of the facility.
        origin: the log's origin.
    """

    def __init__(self, card: Card, origin: str) -> None:
        self._card = card
        self._origin = origin
        self._log_keys = log_keys(card)
        self._place = 0
        self._roots: dict[int, bytes] = {}
        # A change whose signatures hold, but for a different history.
        self._foreign: Finding | None = None
        self.changes = 0
        self.taken_back: list[tuple[int, int]] = []
        """For each revoked log key: index of the revoking entry, and the trusted size."""
        self.sizes = {key.since - 1 for key in self._log_keys if key.since > 0}
        """Sizes at which the caller must call `note_root`."""

    def note_root(self, size: int, root: bytes) -> None:
        """Remember the root (32 bytes) at one of `sizes`."""
        self._roots[size] = root

    def check_first(self, details: dict[str, Any]) -> None:
        """Check the first entry's log key.

        Raises:
            EntryProblem: KEY_CHAIN.
        """
        if self._log_keys[0].since != 0:
            raise _broken("begins a log whose first key, by the facility's card, counts later")
        if details.get("log_key") != self._log_keys[0].public.hex():
            raise _broken("names a first log key that is not that of the facility's card")

    def check_change(self, kind: str, details: dict[str, Any], index: int, root: bytes) -> None:
        """Check an entry that changes a key.

        Args:
            kind: the entry's type, one of `CHANGES`.
            details: the entry's details.
            index: the entry's index.
            root: the log's root before this entry, 32 bytes.

        Raises:
            EntryProblem: KEY_CHAIN.
        """
        change = _parse(kind, details)
        if change.size != index:
            raise _broken(f"changes a key at size {change.size}, and stands at {index}")
        if change.serial > self._card.serial:
            raise _broken(
                f"names a facility card with serial {change.serial}; the newest one here "
                f"has serial {self._card.serial}"
            )
        if change.serial == self._card.serial and change.card != self._card.digest:
            raise _broken("names another facility card of the serial that is here")
        self._check_listed(kind, change)
        self._check_signatures(kind, change)
        if change.role == "log":
            self._place += 1
        if kind == "key-revoked":
            self.taken_back.append((index, change.trusted_size))
        self.changes += 1
        if change.root != root and self._foreign is None:
            self._foreign = Finding(
                Code.KEY_CHAIN,
                index,
                f"entry {index} hands over to a new key another history than the one that is "
                "here: what stands before it was rewritten",
            )

    def _check_listed(self, kind: str, change: _Change) -> None:
        """Check that the card lists this change."""
        if change.role != "log":
            listed = self._card.node_keys if change.role == "node" else self._card.witness_keys
            keys = [key.key for key in listed]
            pairs = list(pairwise(keys))
            if (change.old_key, change.new_key) not in pairs:
                raise _broken(f"changes the {change.role} key to one that the card does not name")
            return
        if change.old_key != self._log_keys[self._place].public:
            raise _broken("replaces a key that was not the key of the log then")
        if self._place + 1 == len(self._log_keys):
            raise _broken("changes the log key, and the card does not")
        following = self._log_keys[self._place + 1]
        last = change.size if kind == "rotation" else change.trusted_size
        if change.new_key != following.public or following.since != last + 1:
            raise _broken("changes the log key to another one, or elsewhere, than the card")
        if kind == "key-revoked":
            known = self._roots.get(change.trusted_size)
            if change.trusted_size > change.size or known != change.trusted_root:
                raise _broken("takes back a key from a size or root on that this log does not have")

    def _check_signatures(self, kind: str, change: _Change) -> None:
        signed: dict[str, Any] = {
            "facility_key": self._card.facility_key.hex(),
            "new_key": change.new_key.hex(),
            "old_key": change.old_key.hex(),
            "origin": self._origin,
            "role": change.role,
            "root": change.root.hex(),
            "size": change.size,
        }
        signers = {"new": change.new_key, "facility": self._card.facility_key}
        domain = _ROTATION
        if kind == "rotation":
            signers["old"] = change.old_key
        else:
            domain = _REVOCATION
            signed["trusted_size"] = change.trusted_size
            signed["trusted_root"] = change.trusted_root.hex()
        for name, key in signers.items():
            if not verifies(key, domain + canonical(signed), change.signatures[name]):
                raise _broken(f"changes a key and is not signed by the {name} key")

    def finish(self, size: int) -> Finding | None:
        """What is wrong with the chain as a whole, judged at the end of the log.

        Call this only if the `size` entries have the signed roots: otherwise a change
        hands over a different history merely because the entries differ.
        """
        if self._foreign is not None:
            return self._foreign
        later = self._log_keys[self._place + 1 :]
        if later and later[0].since <= size:
            return Finding(
                Code.KEY_CHAIN,
                later[0].since - 1,
                f"by the card the log changed its key at size {later[0].since - 1:,}, and no "
                "entry says so: the older key did not hand this history over",
            )
        return None


def _broken(reason: str) -> EntryProblem:
    return EntryProblem(Code.KEY_CHAIN, reason)


def _parse(kind: str, details: dict[str, Any]) -> _Change:
    names = ["new", "facility"] + ["old"] * (kind == "rotation")
    trusted = {"trusted_size": 0, "trusted_root": "00" * 32, **details}
    try:
        change = _Change(
            role=details["role"],
            old_key=_hash(details["old_key"]),
            new_key=_hash(details["new_key"]),
            size=details["size"],
            root=_hash(details["root"]),
            serial=details["serial"],
            card=details["card"],
            trusted_size=trusted["trusted_size"],
            trusted_root=_hash(trusted["trusted_root"]),
            signatures={name: decode_base64(details[f"signature_{name}"]) for name in names},
        )
    except (KeyError, TypeError, ValueError, NoteProblem):
        raise _broken("changes a key and lacks what is needed to check that") from None
    sizes = (change.size, change.serial, change.trusted_size)
    roles = ("log", "node", "witness") if kind == "rotation" else ("log",)
    if change.role not in roles or any(type(each) is not int for each in sizes):
        raise _broken("changes a key and lacks what is needed to check that")
    return change


def _hash(text: Any) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != 32 or value.hex() != text:
        raise ValueError
    return value
