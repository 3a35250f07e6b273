"""Replaces the node, log or witness key of a home.

Order of writes: new key and new card into the folder `rotation`; the entry into the log,
which puts the new key in force; key file and card into their places; then the folder is
removed. After a crash before the entry the old key is in force, after the entry the new
one: `settle` undoes or finishes the change when the home is opened next.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from keys.card import Card, parse_card_untrusted, sign_card
from keys.card_fields import SizedKey, TimedKey
from keys.errors import KeysError
from keys.identity import KeyPair
from node import sealing
from node.audit.log import AuditLog
from node.durable import overwrite, remove_overwritten, rename, write_whole
from node.errors import ExitCode, NodeError
from node.facility_key import require_of
from node.home import CARD_LIFETIME_SECONDS, Home, Keys
from protocol.log.entry import Event
from protocol.log.rotation import ROLES, KeyChange

OVERLAP_SECONDS = 3600
"""How long a replaced node or witness key still counts, for receipts and cosignatures on
their way. A key that may be in wrong hands ends at once."""

_NAMES = ("role", "key", "card")


@dataclass(frozen=True)
class Staged:
    """A new key and the card that names it, not yet in force or not yet in their places."""

    role: str
    key: KeyPair
    card: Card


@dataclass(frozen=True, kw_only=True)
class Request:
    """A change of keys, as an operator asks for it.

    Attributes:
        role: `log`, `node` or `witness`.
        facility: the facility key.
        compromised: the old key may be in wrong hands; it and those before it end at once.
        trusted: to revoke a log key: the last size and root signed by it that still count.
    """

    role: str
    facility: KeyPair
    compromised: bool = False
    trusted: tuple[int, bytes] | None = None


@dataclass(frozen=True)
class Changed:
    """The outcome: the keys and the card now in force, and the logged change."""

    keys: Keys
    card: Card
    change: KeyChange


def read_staged(home: Home) -> Staged | None:
    """The new key and card of an unfinished rotation; None when there is none.

    Raises:
        NodeError: they are damaged.
    """
    folder = home.rotation_path
    if not folder.is_dir():
        return None
    try:
        role, key, card = ((folder / name).read_bytes() for name in _NAMES)
        name = role.decode("ascii").strip()
        return Staged(name, home.keyring.decode(name, key), parse_card_untrusted(card))
    except (OSError, ValueError, KeysError) as error:
        raise NodeError(
            f"a change of keys that was begun cannot be read from {folder}: {error}",
            hint="restore the home from its backup",
            code=ExitCode.NO_HOME,
        ) from error


def _stage(home: Home, staged: Staged) -> None:
    making = home.rotation_path.with_name(".rotation.new")
    remove_overwritten(making)
    making.mkdir(mode=0o700)
    contents = (
        staged.role.encode(),
        home.keyring.encode(staged.role, staged.key),
        staged.card.encoded,
    )
    for name, data in zip(_NAMES, contents, strict=True):
        write_whole(making / name, data, mode=0o600)
    rename(making, home.rotation_path)


def _install(home: Home, staged: Staged) -> None:
    """Put the key and the card in their places; can be repeated after a crash."""
    data = home.keyring.encode(staged.role, staged.key)
    write_whole(home.keys_path / staged.role, data, mode=0o600)
    # The card may be newer: an earlier try failed on the disk, and then addresses changed.
    if home.read_card().serial < staged.card.serial:
        write_whole(home.card_path, staged.card.encoded, mode=0o644)
    _discard(home)


def _discard(home: Home) -> None:
    # Rename first: a half-deleted folder could not be read.
    leaving = home.rotation_path.with_name(".rotation.old")
    remove_overwritten(leaving)
    rename(home.rotation_path, leaving)
    remove_overwritten(leaving)


def settle(home: Home, audit: AuditLog, staged: Staged) -> None:
    """Finish a rotation whose entry is in the log; undo any other.

    Raises:
        NodeError: the disk is full or failing.
    """
    known = audit.has_change_to(staged.key.public)
    try:
        if known:
            # Sign this size with the key in force, before the card requires that key.
            audit.latest_checkpoint()
            _install(home, staged)
        else:
            _discard(home)
    except OSError as error:
        raise _disk_error(home, error) from error


def sweep(home: Home) -> None:
    """Remove files that a crash left half made: keys that were never in force, or copies of
    keys that are."""
    for name in (".rotation.new", ".rotation.old"):
        with contextlib.suppress(OSError):
            remove_overwritten(home.path / name)
    for leftover in home.keys_path.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            overwrite(leftover)
            leftover.unlink()
    for leftover in home.path.glob(".card.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def require_agreement(
    keys: Keys, card: Card, audit: AuditLog, *, log_key_is_lost: bool = False
) -> None:
    """Check that key files, card and log name the same keys.

    Args:
        keys: the keys of the home.
        card: the card of the home.
        audit: the log of the home.
        log_key_is_lost: there is no log key to compare.

    Raises:
        NodeError: they name different keys: a part of an older backup came back.
    """
    for role in ROLES:
        if role == "log" and log_key_is_lost:
            continue
        public = getattr(keys, role).public
        named = {getattr(card, f"{role}_key"), audit.newest_key(role) or public}
        if named != {public}:
            raise NodeError(
                f"the {role} key of this home is not the one that its card and its log name",
                hint="restore the folders `audit` and `keys` and the file `card` from the same "
                "backup",
                code=ExitCode.INTEGRITY,
            )


class Rotator:
    """Replaces keys of an open home, one at a time. Thread-safe.

    Args:
        home: the home.
        audit: its log.
        get: returns the keys and the card in force.
        put: takes the new keys and card.
    """

    def __init__(
        self,
        home: Home,
        audit: AuditLog,
        get: Callable[[], tuple[Keys, Card]],
        put: Callable[[Keys, Card], None],
    ) -> None:
        self._home = home
        self._audit = audit
        self._get = get
        self._put = put
        self.lock = threading.Lock()

    def change(self, request: Request) -> Changed:
        """Replace a key; the new one is in force when this returns.

        Raises:
            NodeError: the facility key is of another facility, the trusted root is not one
                of this log, or the disk fails.
        """
        with self.lock:
            try:
                # What a change of the passphrase left aside is older than the new key.
                sealing.finish(self._home)
            except OSError as error:
                raise _disk_error(self._home, error) from error
            leftover = read_staged(self._home)
            if leftover is not None:
                # An earlier try failed on the disk: finish it if its entry is logged, or undo it.
                settle(self._home, self._audit, leftover)
                self._put(self._home.read_keys(), self._home.read_card())
            keys, card = self._get()
            self._require_fit(request, card)
            return self._change(request, keys, card)

    def _require_fit(self, request: Request, card: Card) -> None:
        require_of(request.facility, card)
        if request.trusted is None:
            return
        size, root = request.trusted
        if not 0 < size <= self._audit.size:
            raise NodeError(
                f"the log has {self._audit.size} entries and never had size {size}",
                code=ExitCode.USAGE,
            )
        if self._audit.root_at(size) != root:
            raise NodeError(
                f"the log of this home has another root at size {size}",
                hint="a checkpoint with that root is not of this log: keep it, and this home, "
                "for an examination",
                code=ExitCode.INTEGRITY,
            )
        since = card.log_keys[-1].since_size
        if size + 1 < since:
            raise NodeError(
                f"the log key is in force from size {since} on and signed nothing at size {size}",
                hint=f"to take back all that it signed, name size {since - 1} and its root",
                code=ExitCode.USAGE,
            )

    def _change(self, request: Request, keys: Keys, card: Card) -> Changed:
        role, new = request.role, KeyPair.generate()
        old: KeyPair = getattr(keys, role)
        # The public key of a lost log key is known from the log.
        old_public = self._audit.log_key if role == "log" else old.public
        changes: list[KeyChange] = []
        staged: list[Staged] = []

        def make(size: int, root: bytes) -> Event:
            change = KeyChange(
                origin=self._audit.origin,
                facility_key=card.facility_key,
                role=role,
                old_key=old_public,
                new_key=new.public,
                size=size,
                root=root,
                trusted=request.trusted,
            )
            proving = (*keys.proving, new)
            newer = _newer_card(card, change, request, proving, self._home.clock.now())
            try:
                _stage(self._home, Staged(role, new, newer))
            except OSError as error:
                raise _disk_error(self._home, error) from error
            changes.append(change)
            staged.append(Staged(role, new, newer))
            return change.event(
                old=old if request.trusted is None else None,
                new=new,
                facility=request.facility,
                card=newer.digest,
                serial=newer.serial,
            )

        self._audit.change_key(make, role, new, revoked=request.trusted is not None)
        self._put(replace(keys, **{role: new}), staged[0].card)
        settle(self._home, self._audit, staged[0])
        return Changed(replace(keys, **{role: new}), staged[0].card, changes[0])


def _newer_card(
    card: Card, change: KeyChange, request: Request, proving: Iterable[KeyPair], now: int
) -> Card:
    now = max(now, card.issued)
    lists = {role: getattr(card, f"{role}_keys") for role in ROLES}
    if change.role == "log":
        *earlier, last = lists["log"]
        ended = replace(last, until_size=change.since_size)
        lists["log"] = (*earlier, ended, SizedKey(change.new_key, change.since_size))
    else:
        *earlier, last = lists[change.role]
        until = now if request.compromised else now + OVERLAP_SECONDS
        if request.compromised:
            # A key replaced within the hour may be the one in wrong hands, so end it, too.
            earlier = [_ended_by(key, now) for key in earlier]
        ended = replace(last, until=max(until, last.since))
        lists[change.role] = (*earlier, ended, TimedKey(change.new_key, now))
    try:
        return sign_card(
            request.facility,
            name=card.name,
            node_keys=lists["node"],
            log_keys=lists["log"],
            witness_keys=lists["witness"],
            addresses=card.addresses,
            serial=card.serial + 1,
            issued=now,
            expires=now + CARD_LIFETIME_SECONDS,
            proving=proving,
        )
    except KeysError as error:
        raise NodeError(f"the facility card cannot be made: {error}") from error


def _ended_by(key: TimedKey, now: int) -> TimedKey:
    return key if key.until is None or key.until <= now else replace(key, until=max(now, key.since))


def _disk_error(home: Home, error: OSError) -> NodeError:
    return NodeError(
        f"the change of keys cannot be written to {home.path}: {error.strerror}",
        hint="free disk space or repair the disk; the next start of the node finishes or "
        "undoes the change",
        code=ExitCode.DISK,
    )
