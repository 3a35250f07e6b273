"""`radmesh keys seal`, `unseal` and the facility key in a file of its own, or on paper."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from node import phrases
from node.cli import output, passphrases
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError

F = TypeVar("F", bound=Callable[..., Any])

_new_passphrase = click.option(
    "--new-passphrase-fd",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Read the new passphrase, a line, from this file descriptor.",
)

_facility_passphrase = click.option(
    "--facility-passphrase-fd",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Read the passphrase of a sealed facility key from this file descriptor.",
)


def facility_key_options(function: F) -> F:
    """Give a command `--facility-key` and the file descriptor of its passphrase."""
    named = click.option(
        "--facility-key",
        metavar="FILE",
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        help='The file of the facility key, where it is kept offline ("-" for standard '
        "input). It is read once and not kept.",
    )
    return named(_facility_passphrase(function))


def read_facility_key(file: Path | None, descriptor: int | None) -> dict[str, str]:
    """The facility key in a file, as the parameter of an operation; nothing without a file.

    Args:
        file: the file, sealed or not; "-" for standard input.
        descriptor: has the passphrase of a sealed one; otherwise the terminal is asked.

    Raises:
        NodeError: it cannot be read or opened.
    """
    from keys.keyfile import KEY_FILE_BYTES, encode_key
    from node.keyring import open_file

    if file is None:
        return {}
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(KEY_FILE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(KEY_FILE_BYTES + 1)
    except OSError as error:
        raise NodeError(
            f"the facility key {file} cannot be read: {error.strerror}", code=ExitCode.NOT_FOUND
        ) from error
    pair = open_file(
        "facility",
        data,
        lambda: passphrases.read(
            "passphrase of the facility key",
            descriptor,
            hint="give it through a file descriptor: --facility-passphrase-fd 4 4< FILE",
        ),
    )
    return {"facility_key": encode_key("facility", pair).decode()}


@click.command()
@_new_passphrase
@click.option(
    "--lost",
    is_flag=True,
    help="The passphrase of today is lost: take the keys that the running node has.",
)
@json_option
@pass_session
def seal(session: Session, new_passphrase_fd: int | None, lost: bool) -> None:
    """Put the private keys under a passphrase, or under another one.

    The node then needs it at each start, see `radmesh --passphrase-fd`. A running node goes
    on. Older backups keep the keys as they were.
    """
    if lost:
        _require_running(session)
    else:
        _prove_passphrase(session)
    passphrase = passphrases.new("new passphrase of the keys", new_passphrase_fd)
    wrapping = passphrases.wrapping_of(passphrase)
    sealed = session.call("keys.seal", {"seal": wrapping})
    if session.as_json:
        output.emit_json(sealed)
        return
    output.say(f"sealed under the new passphrase: {', '.join(sealed['roles'])}")
    output.say("keep the passphrase apart from this machine: nobody can restore it.")


@click.command()
@json_option
@pass_session
def unseal(session: Session) -> None:
    """Put the private keys in the open again: the node starts without a passphrase."""
    _prove_passphrase(session)
    unsealed = session.call("keys.unseal")
    if session.as_json:
        output.emit_json(unsealed)
        return
    output.say(f"in the open, mode 0600: {', '.join(unsealed['roles'])}")


def _prove_passphrase(session: Session) -> None:
    """Have the passphrase of today given, before a new one is asked for; a running node would
    not ask for it at all."""
    session.require_home()
    # A change that was cut short is finished first, when the home is opened.
    if session.socket_path is None and not session.home().sealing_path.exists():
        session.home().keyring.open_all()


def _require_running(session: Session) -> None:
    from node.api.client import is_running

    session.require_home()
    if session.socket_path is None and not is_running(session.home().socket_path):
        raise NodeError(
            "the node of this home is not running, so nobody has its keys",
            hint="`radmesh keys restore` takes them from a backup; see docs/recovery.md",
            code=ExitCode.BUSY,
        )


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--backup-passphrase-fd",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Read the passphrase of the backup from this file descriptor.",
)
@json_option
@pass_session
def restore(session: Session, directory: Path, backup_passphrase_fd: int | None) -> None:
    """Take the keys of this home from the newest backup in DIRECTORY that was made with keys.

    For a stopped node whose keys nobody can open any more, or whose key files are damaged.
    Keys that were sealed are then under the passphrase of the backup. All else in the home
    stays as it is.
    """
    from keys.keyfile import decode_key
    from node.api.client import is_running
    from node.backup import restoring

    home = session.home()
    home.require()
    if is_running(home.socket_path):
        raise NodeError(
            "the node of this home is running and has its keys",
            hint="`radmesh keys seal --lost` puts them under a new passphrase",
            code=ExitCode.BUSY,
        )
    found = restoring.find_backup(Path.cwd() / directory, with_keys=True)
    passphrase = passphrases.read("passphrase of the keys in the backup", backup_passphrase_fd)
    files, were_sealed = restoring.open_plain_keys(found, passphrase)
    home.keyring.adopt(
        {
            role: decode_key(role, data)
            for role, data in files.items()
            # A facility key that was taken off the machine does not come back by this.
            if role != "facility" or home.has_key(role)
        }
    )
    if were_sealed:
        seal = passphrases.wrapping_of(passphrase)
        kept = session.call("keys.seal", {"seal": seal})
    else:
        kept = session.call("keys.unseal")
    if session.as_json:
        output.emit_json({"backup": str(found), **kept})
        return
    output.say(f"took the keys from the backup {found}: {', '.join(kept['roles'])}")
    if were_sealed:
        output.say("they are under the passphrase of the backup; `radmesh keys seal` changes it")


@click.command("export-facility")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_new_passphrase
@json_option
@pass_session
def export_facility(session: Session, file: Path, new_passphrase_fd: int | None) -> None:
    """Move the facility key to FILE, under a passphrase of its own.

    FILE is read back before the key leaves this home. The node runs without it; renewing
    the card and changing keys need it, see `--facility-key`.
    """
    session.require_home()
    passphrase = passphrases.new("new passphrase of the facility key", new_passphrase_fd)
    path = str(Path.cwd() / file.expanduser())
    seal = passphrases.wrapping_of(passphrase)
    moved = session.call("keys.export-facility", {"path": path, "seal": seal})
    if session.as_json:
        output.emit_json(moved)
        return
    output.say(f"moved the facility key to {moved['path']}; it was read back from there")
    output.say("copy this file to a second medium, and keep its passphrase apart from both.")
    output.say(
        f"it is needed next before {phrases.moment(moved['card_expires'])}, when the card ends: "
        f"`radmesh card renew --facility-key {moved['path']}`"
    )


@click.command("import-facility")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@_facility_passphrase
@json_option
@pass_session
def import_facility(session: Session, file: Path, facility_passphrase_fd: int | None) -> None:
    """Put the facility key of FILE back into this home.

    A card that is due is renewed at once. FILE stays as it is.
    """
    parameters = read_facility_key(file, facility_passphrase_fd)
    taken = session.call("keys.import-facility", parameters)
    if session.as_json:
        output.emit_json(taken)
        return
    output.say("the facility key is in this home again")
    output.say(
        f"card serial {taken['serial']}, valid until {phrases.moment(taken['card_expires'])}"
    )


@click.command()
@facility_key_options
@json_option
@pass_session
def shares(session: Session, facility_key: Path | None, facility_passphrase_fd: int | None) -> None:
    """Print the facility key as three shares for paper; any two give it back (SLIP-39)."""
    parameters = read_facility_key(facility_key, facility_passphrase_fd)
    made = session.call("keys.shares", parameters)
    if session.as_json:
        output.emit_json(made)
        return
    output.say(f"facility key of {made['fingerprint']}")
    output.say("write each share on a sheet of its own, and give the sheets to three people:")
    for number, share in enumerate(made["shares"], 1):
        output.say()
        output.say(f"share {number} of {len(made['shares'])}")
        words = share.split()
        for start in range(0, len(words), 6):
            output.say("  " + " ".join(words[start : start + 6]))
    output.say()
    output.say("two shares together are the facility: see `radmesh keys from-shares`.")


@click.command("from-shares")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--shares-fd",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Read the two shares, a line each, from this file descriptor.",
)
@_new_passphrase
@json_option
@pass_session
def from_shares(
    session: Session, file: Path, shares_fd: int | None, new_passphrase_fd: int | None
) -> None:
    """Make FILE, the facility key under a new passphrase, of two shares on paper."""
    from keys.errors import BadKey
    from keys.fingerprint import fingerprint
    from node.facility_key import require_of, write_sealed
    from node.shares import NEEDED, check_untrusted, join_untrusted

    typed: list[str] = []
    for number in range(1, NEEDED + 1):
        while len(typed) < number:
            share = _typed_share(number, shares_fd)
            try:
                typed.append(check_untrusted(share))
            except BadKey as error:
                if shares_fd is not None:
                    raise _bad_share(error) from error
                output.note(f"{error}: type the share again")
    try:
        facility = join_untrusted(typed)
    except BadKey as error:
        raise _bad_share(error) from error
    home = session.home()
    if home.exists:
        require_of(facility, home.read_card())
    passphrase = passphrases.new("new passphrase of the facility key", new_passphrase_fd)
    path = Path.cwd() / file.expanduser()
    write_sealed(path, facility, passphrases.derived(passphrase))
    if session.as_json:
        output.emit_json({"path": str(path), "fingerprint": fingerprint(facility.public)})
        return
    output.say(f"wrote the facility key to {path}; it was read back from there")
    output.say(f"fingerprint: {fingerprint(facility.public)}")


def _typed_share(number: int, descriptor: int | None) -> str:
    if descriptor is None and sys.stdin.isatty():
        asked: str = click.prompt(f"share {number}, all its words", err=True)
        return asked
    return passphrases.read(
        "share", descriptor, hint="give two lines through a file descriptor: --shares-fd 4 4< FILE"
    )


def _bad_share(error: Exception) -> NodeError:
    return NodeError(
        str(error), hint="type the words as they stand on the sheet", code=ExitCode.USAGE
    )
