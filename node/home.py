"""The node's home directory: its layout, its lock, its keys and its facility card.

    config.toml   settings
    card          the current facility card
    keys/         facility, node, log, witness: one file each, mode 0600
    node.db       SQLite: catalog, trust, feeds, transfers
    audit/        the audit log
    store/        encoded batches by digest
    incoming/     batches of unfinished transfers
    arrivals/     images that came one by one and are not packed yet
    quarantine/   bad input, each with its reason
    dicomweb/     DICOM JSON that was asked for, see `node.edges.dicomweb_cache`
    rotation/     a change of keys that is not finished
    sealing/      key files on their way into keys/, see `node.sealing`
    lock          held by the one process that has this home

A folder without a card is no home: `node.making` moves the card there last.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keys.card import Card, issue_card, parse_card_untrusted, sign_card
from keys.errors import KeysError
from keys.identity import KeyPair
from keys.keyfile import ROLES
from keys.passphrase import Wrapping
from node import config
from node.audit.log import AuditLog
from node.clock import SYSTEM_CLOCK, Clock
from node.durable import write_whole
from node.errors import ExitCode, NodeError
from node.keyring import Ask, Keyring, encode_all, nobody_to_ask
from node.making import make_whole
from protocol.log.checkpoint import log_origin
from protocol.log.entry import Event

CARD_LIFETIME_SECONDS = 2 * 365 * 24 * 3600
"""A card is renewed at start when less than half of this is left."""

_NODE_MARK = b"node"
"""Content of the lock file while a node has the home."""

_SOCKET_PATH_BYTES = 100
"""sockaddr_un holds 108 bytes; some are left for a temporary name."""


@dataclass(frozen=True)
class Keys:
    """The keys of a home; `facility` is None once it has been taken offline."""

    facility: KeyPair | None
    node: KeyPair
    log: KeyPair
    witness: KeyPair

    @property
    def proving(self) -> tuple[KeyPair, ...]:
        """The keys that prove themselves on the card."""
        return self.node, self.log, self.witness


class Home:
    """A node's home. Nothing is read or made before a method is called.

    Args:
        path: the directory.
        clock: dates its cards, and all actions of a node on it.
        ask: asked for the passphrase when sealed keys must be opened.
    """

    def __init__(
        self, path: Path, *, clock: Clock = SYSTEM_CLOCK, ask: Ask = nobody_to_ask
    ) -> None:
        self.path = path.absolute()
        self.clock = clock
        self.ask = ask
        self.config_path = self.path / "config.toml"
        self.card_path = self.path / "card"
        self.keys_path = self.path / "keys"
        self.database_path = self.path / "node.db"
        self.audit_path = self.path / "audit"
        self.store_path = self.path / "store"
        self.incoming_path = self.path / "incoming"
        self.arrivals_path = self.path / "arrivals"
        self.quarantine_path = self.path / "quarantine"
        self.dicomweb_path = self.path / "dicomweb"
        self.rotation_path = self.path / "rotation"
        self.sealing_path = self.path / "sealing"
        self.lock_path = self.path / "lock"
        self.keyring = Keyring(self.keys_path, ask)

    @property
    def exists(self) -> bool:
        """Whether this home was made by `radmesh init`."""
        return self.config_path.is_file() and self.card_path.is_file()

    @property
    def socket_path(self) -> Path:
        """Path of the local API's socket: in the home, or, if that path is too long for a
        Unix socket, in a private directory under the system's temporary one."""
        path = self.path / "api.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return path
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:24]
        return Path(tempfile.gettempdir()) / f"radmesh-{os.getuid()}" / f"{name}.sock"

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        name: str,
        listen: tuple[str, ...] = (),
        addresses: tuple[str, ...] = (),
        clock: Clock = SYSTEM_CLOCK,
        wrapping: Wrapping | None = None,
    ) -> "Home":
        """Make a home with four new keys, a signed card and the first log entry.

        With `wrapping`, the key of a passphrase, the key files are sealed from the beginning.

        Raises:
            NodeError: the home exists or cannot be written, or the name or an address is
                not valid for a card.
        """
        home = cls(path, clock=clock)

        def fill(folder: Path) -> None:
            try:
                making = cls(folder, clock=clock)
                making._fill(name, listen or config.DEFAULT_LISTEN, addresses, wrapping)
            except KeysError as error:
                raise NodeError(
                    f"the facility card cannot be made: {error}", code=ExitCode.USAGE
                ) from error

        make_whole(home.path, fill)
        return home

    def _fill(
        self,
        name: str,
        listen: tuple[str, ...],
        addresses: tuple[str, ...],
        wrapping: Wrapping | None,
    ) -> None:
        keypairs = {role: KeyPair.generate() for role in ROLES}
        facility = keypairs["facility"]
        now = self.clock.now()
        card = issue_card(
            facility,
            name=name,
            node_key=keypairs["node"].public,
            log_key=keypairs["log"].public,
            witness_key=keypairs["witness"].public,
            addresses=addresses,
            serial=1,
            issued=now,
            expires=now + CARD_LIFETIME_SECONDS,
            proving=keypairs.values(),
        )
        for directory in (
            self.keys_path,
            self.store_path,
            self.incoming_path,
            self.arrivals_path,
            self.quarantine_path,
        ):
            directory.mkdir(mode=0o700)
        for role, data in encode_all(keypairs, wrapping).items():
            write_whole(self.keys_path / role, data, mode=0o600)
        write_whole(self.card_path, card.encoded, mode=0o644)
        write_whole(self.config_path, config.template(listen, addresses).encode(), mode=0o644)
        origin = log_origin(facility.public)
        AuditLog.create(
            self.audit_path,
            log_key=keypairs["log"],
            origin=origin,
            clock_ms=self.clock.now_ms,
            first=Event(
                type="init",
                actor="operator",
                details={
                    "facility_key": facility.public.hex(),
                    "log_key": keypairs["log"].public.hex(),
                    "node_key": keypairs["node"].public.hex(),
                    "witness_key": keypairs["witness"].public.hex(),
                    "card": card.digest,
                    "origin": origin,
                },
            ),
        ).close()

    def require(self) -> None:
        """Raise NodeError unless this home was made."""
        if not self.exists:
            raise NodeError(
                f"there is no radmesh home at {self.path}",
                hint='make one with `radmesh init --name "Your Facility"`, or name it with --home',
                code=ExitCode.NO_HOME,
            )

    def lock(self, *, for_node: bool = False) -> Callable[[], None]:
        """Take the home for this process; the lock ends with the process.

        Args:
            for_node: a node that serves takes it; other commands may wait for that node.

        Returns:
            A function that releases the lock.

        Raises:
            NodeError: another process has locked the home.
        """
        self.require()
        try:
            descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NodeError(
                f"the home {self.path} cannot be used: {error.strerror}",
                hint="it must belong to the user who runs radmesh",
                code=ExitCode.NO_HOME,
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise NodeError(
                f"another radmesh process is using {self.path}",
                hint="stop it first, or wait until it is done",
                code=ExitCode.BUSY,
            ) from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _NODE_MARK if for_node else b"", 0)
        except OSError:
            # On a full disk commands do not wait for the start; all else works.
            pass
        return lambda: os.close(descriptor)

    def is_locked_by_node(self) -> bool:
        """Whether a node has locked the home; it answers once it has started."""
        try:
            return self.lock_path.read_bytes() == _NODE_MARK
        except OSError:
            return False

    def read_card(self) -> Card:
        """The facility's own card."""
        try:
            return parse_card_untrusted(self.card_path.read_bytes())
        except (OSError, KeysError) as error:
            raise NodeError(
                f"the facility card of {self.path} cannot be read: {error}",
                hint="restore the file `card` from the backup of this home",
                code=ExitCode.NO_HOME,
            ) from error

    def read_keys(self, *, log_may_be_lost: bool = False, may_stay_sealed: bool = False) -> Keys:
        """The keys of this home; asks for their passphrase if they are sealed.

        Args:
            log_may_be_lost: if the log key is missing, return a new random key in its place.
            may_stay_sealed: ask for no passphrase; sealed keys have their public half alone.

        Raises:
            NodeError: a key is damaged, or a key other than the facility key is missing, or
                the passphrase is missing or wrong.
        """
        ring = self.keyring
        pairs = ring.sealed_all() if may_stay_sealed else ring.open_all()
        found = {role: pairs.get(role) for role in ROLES}
        if log_may_be_lost and found["log"] is None:
            found["log"] = KeyPair.generate()
        node, log, witness = found["node"], found["log"], found["witness"]
        if node is None or log is None or witness is None:
            missing = next(role for role in ROLES[1:] if found[role] is None)
            hint = "restore it from the backup of this home"
            if missing == "log":
                hint += "; a lost one is replaced by `radmesh keys revoke log`"
            raise NodeError(
                f"the {missing} key is missing from {self.keys_path}",
                hint=hint,
                code=ExitCode.NO_HOME,
            )
        return Keys(found["facility"], node, log, witness)

    def has_key(self, role: str) -> bool:
        """Whether the key of a role has a file."""
        return (self.keys_path / role).is_file()

    def renew_card(
        self, card: Card, keys: Keys, addresses: tuple[str, ...], *, always: bool = False
    ) -> Card:
        """A card for `addresses` with the next serial, if that changes anything; not written.

        The new card proves keys that a card of an older release does not prove. Without the
        facility key, the old card is returned and stays valid.

        Args:
            card: the card in force.
            keys: the keys; those of the home, or with a facility key from elsewhere.
            addresses: where peers reach the node.
            always: make a new card even if it changes only the dates.
        """
        now = self.clock.now()
        fresh = card.expires - now > CARD_LIFETIME_SECONDS // 2
        fresh = fresh and not card.lacks_proof_by(keys.proving)
        if keys.facility is None or keys.facility.is_sealed:
            return card
        if card.addresses == addresses and fresh and not always:
            return card
        return sign_card(
            keys.facility,
            name=card.name,
            node_keys=card.node_keys,
            log_keys=card.log_keys,
            witness_keys=card.witness_keys,
            addresses=addresses,
            serial=card.serial + 1,
            issued=now,
            expires=now + CARD_LIFETIME_SECONDS,
            proving=keys.proving,
        )

    def write_card(self, card: Card) -> None:
        """Replace our card.

        Raises:
            NodeError: the disk is full or cannot be written; the old card stays.
        """
        try:
            write_whole(self.card_path, card.encoded, mode=0o644)
        except OSError as error:
            raise NodeError(
                f"the facility card cannot be written: {error.strerror}",
                hint="check free disk space and the permissions of the node's home",
                code=ExitCode.DISK,
            ) from error
