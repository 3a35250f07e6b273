"""The key files of a home: opened with its passphrase if they are sealed, written likewise.

All sealed files of a home have one salt, so one derivation at the start opens them all. The
passphrase is asked for only when a sealed file must be opened. Public keys can always be read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import nacl.utils

from keys.errors import BadKey, KeysError, WrongPassphrase
from keys.identity import KeyPair
from keys.keyfile import (
    NONCE_BYTES,
    ROLES,
    KeyFile,
    encode_key,
    read_key_file,
    seal_key,
)
from keys.passphrase import Cost, Wrapping, derive
from node.errors import ExitCode, NodeError

Ask = Callable[[], str]
"""Returns the passphrase of the keys, or raises NodeError."""


def nobody_to_ask() -> str:
    """Says that there is no passphrase; the default of a keyring."""
    raise NodeError(
        "the keys of this home are under a passphrase, and none was given",
        hint="the command line asks for it: see `radmesh --help`",
        code=ExitCode.PASSPHRASE,
    )


class Keyring:
    """The folder `keys` of a home.

    Args:
        folder: its path.
        ask: asked for the passphrase, at most once.

    Attributes:
        wrapping: seals the key files of this home; None while they are not sealed, or not
            opened yet.
        adopted: keys that are used instead of their files, by role.
    """

    def __init__(self, folder: Path, ask: Ask = nobody_to_ask) -> None:
        self._folder = folder
        self._ask = ask
        self._wrappings: dict[Cost, Wrapping] = {}
        self.wrapping: Wrapping | None = None
        self.adopted: dict[str, KeyPair] = {}

    def files(self) -> dict[str, KeyFile]:
        """The key files that are there, by role; sealed ones stay sealed. Those in whose place
        another key was adopted are left out.

        Raises:
            NodeError: one of them is damaged or cannot be read.
        """
        found = {}
        for role in ROLES:
            if role in self.adopted:
                continue
            try:
                found[role] = read_key_file(role, (self._folder / role).read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, KeysError) as error:
                raise self._unusable(role, error) from error
        return found

    @property
    def is_sealed(self) -> bool:
        """Whether a key file is under a passphrase."""
        return any(file.cost is not None for file in self.files().values())

    def open_all(self) -> dict[str, KeyPair]:
        """The keys that are there, by role; asks for the passphrase if one is sealed.

        Raises:
            NodeError: a file is damaged, or the passphrase is wrong or missing.
        """
        files = self.files()
        asked: list[str] = []
        if self.wrapping is not None:
            self._wrappings[self.wrapping.cost] = self.wrapping
        # The facility key last: it alone may have a passphrase of its own.
        pairs = {role: self._open(files[role], asked) for role in ROLES[::-1] if role in files}
        pairs |= self.adopted
        # A facility key that somebody put here may be under a salt of its own. And one file that
        # came back in the open must not have the next ones written so.
        costs = (files[role].cost for role in ROLES[1:] if role in files)
        own = next((cost for cost in costs if cost is not None), None)
        self.wrapping = None if own is None else self._wrappings[own]
        return pairs

    def adopt(self, pairs: Mapping[str, KeyPair]) -> None:
        """Use these keys, by role, instead of files that are lost or that nobody can open.

        The next change of the passphrase writes them.
        """
        self.adopted = dict(pairs)

    def sealed_all(self) -> dict[str, KeyPair]:
        """The keys that are there, by role; sealed ones with their public half alone."""
        return {
            role: file.open() if file.cost is None else KeyPair.sealed(file.public)
            for role, file in self.files().items()
        }

    def encode(self, role: str, pair: KeyPair) -> bytes:
        """The contents of a key file of this home, sealed if the others are."""
        return encode_all({role: pair}, self.wrapping)[role]

    def decode(self, role: str, data: bytes) -> KeyPair:
        """Open a key that `encode` wrote.

        Raises:
            KeysError: it is damaged, or sealed otherwise.
        """
        return read_key_file(role, data).open(self.wrapping)

    def _open(self, file: KeyFile, asked: list[str]) -> KeyPair:
        """Open a file; `asked` holds the passphrase once it was asked for."""
        try:
            if file.cost is None:
                return file.open()
            if file.cost not in self._wrappings:
                if not asked:
                    asked.append(self._ask())
                self._wrappings[file.cost] = derive(asked[0], file.cost)
            return file.open(self._wrappings[file.cost])
        except WrongPassphrase as error:
            self._wrappings.clear()
            raise NodeError(
                str(error),
                hint="a facility key with a passphrase of its own comes back with `radmesh keys "
                "import-facility`"
                if file.role == "facility"
                else "give the right one; docs/recovery.md says what to do when it is lost",
                code=ExitCode.PASSPHRASE,
            ) from error
        except KeysError as error:
            raise self._unusable(file.role, error) from error

    def _unusable(self, role: str, error: Exception) -> NodeError:
        return NodeError(
            f"the {role} key in {self._folder} cannot be used: {error}",
            hint="restore it from the backup of this home",
            code=ExitCode.NO_HOME,
        )


def open_file(role: str, data: bytes, ask: Ask) -> KeyPair:
    """Open a key file from outside of the home; asks for its passphrase if it is sealed.

    Raises:
        NodeError: it is damaged or of another role, or the passphrase is wrong or missing.
    """
    try:
        file = read_key_file(role, data)
        return file.open(None if file.cost is None else derive(ask(), file.cost))
    except WrongPassphrase as error:
        raise NodeError(str(error), hint="give it again", code=ExitCode.PASSPHRASE) from error
    except BadKey as error:
        raise NodeError(
            f"the {role} key cannot be used: {error}",
            hint=f"name the file `{role}` of the folder `keys`, or what `radmesh keys` wrote",
            code=ExitCode.USAGE,
        ) from error


def encode_all(pairs: Mapping[str, KeyPair], wrapping: Wrapping | None) -> dict[str, bytes]:
    """Key files for keys by role, sealed if there is a key to seal with."""
    if wrapping is None:
        return {role: encode_key(role, pair) for role, pair in pairs.items()}
    return {
        role: seal_key(role, pair, wrapping, nacl.utils.random(NONCE_BYTES))
        for role, pair in pairs.items()
    }
