"""Passphrases: from a file descriptor, from systemd, or asked for at the terminal.

Never from an argument or a variable of the environment, which other programs can read.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.errors import ExitCode, NodeError

if TYPE_CHECKING:
    from keys.passphrase import Wrapping

CREDENTIAL = "radmesh.passphrase"
"""Name of the credential of systemd (`LoadCredentialEncrypted=`)."""

_HINT = (
    "give it through a file descriptor, `radmesh --passphrase-fd 3 COMMAND 3< FILE`, or as the "
    f"credential {CREDENTIAL} of systemd"
)

_PASSPHRASE_BYTES = 4096


def of_home(descriptor: int | None) -> str:
    """The passphrase of the keys of the home.

    It comes from the file descriptor of `radmesh --passphrase-fd`, from a credential of
    systemd, or from the terminal.

    Raises:
        NodeError: there is none of the three, or it cannot be read.
    """
    if descriptor is None:
        credential = _credential()
        if credential is not None:
            return credential
    return read("passphrase of the keys", descriptor, hint=_HINT)


def new(what: str, descriptor: int | None) -> str:
    """A new passphrase; at a terminal it is asked for twice.

    Raises:
        NodeError: it is too short, or cannot be read.
    """
    from keys.passphrase import PASSPHRASE_CHARACTERS

    passphrase = read(what, descriptor, is_new=True)
    if len(passphrase) < PASSPHRASE_CHARACTERS:
        raise NodeError(
            f"a passphrase has {PASSPHRASE_CHARACTERS} characters or more",
            hint="take four words or more that nobody connects",
            code=ExitCode.USAGE,
        )
    return passphrase


def read(
    what: str,
    descriptor: int | None,
    *,
    is_new: bool = False,
    hint: str = "give it through a file descriptor: --passphrase-fd 3 3< FILE",
) -> str:
    """A passphrase from a file descriptor, or from the terminal if that is None.

    Args:
        what: names it at the terminal.
        descriptor: has one line of UTF-8.
        is_new: ask for it twice.
        hint: what to do where there is no terminal.

    Raises:
        NodeError: there is no terminal, or nothing can be read.
    """
    if descriptor is None:
        if not sys.stdin.isatty():
            raise NodeError(
                f"there is no terminal to ask for the {what}",
                hint=hint,
                code=ExitCode.PASSPHRASE,
            )
        asked: str = click.prompt(what, hide_input=True, confirmation_prompt=is_new, err=True)
        return asked
    data = b""
    try:
        # Byte by byte: what follows the line is for the next reader of the same descriptor.
        while len(data) <= _PASSPHRASE_BYTES:
            byte = os.read(descriptor, 1)
            if byte in (b"", b"\n"):
                break
            data += byte
        return data.removesuffix(b"\r").decode()
    except (OSError, UnicodeDecodeError):
        raise NodeError(
            f"no passphrase can be read from the file descriptor {descriptor}",
            hint="give it a file or a pipe with one line of UTF-8: --passphrase-fd 3 3< FILE",
            code=ExitCode.USAGE,
        ) from None


def _credential() -> str | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    path = Path(folder) / CREDENTIAL
    try:
        text = path.read_bytes()[:_PASSPHRASE_BYTES].decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise NodeError(
            f"the credential {CREDENTIAL} cannot be read",
            hint="make it of one line of UTF-8 with `systemd-creds encrypt`",
            code=ExitCode.PASSPHRASE,
        ) from None
    return text.partition("\n")[0].removesuffix("\r")


def derived(passphrase: str) -> "Wrapping":
    """What a new passphrase gives, with a new salt."""
    import nacl.utils

    from keys.passphrase import SALT_BYTES, derive, usual_cost

    return derive(passphrase, usual_cost(nacl.utils.random(SALT_BYTES)))


def wrapping_of(passphrase: str) -> dict[str, str | int]:
    """What a new passphrase gives, as the parameter of an operation.

    The node never learns the passphrase itself.
    """
    wrapping = derived(passphrase)
    cost = wrapping.cost
    return {
        "key": wrapping.key.hex(),
        "salt": cost.salt.hex(),
        "passes": cost.passes,
        "memory": cost.memory_bytes,
    }
