"""`radmesh init` and `radmesh card`: who we are, and the card that says so."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node import phrases
from node.cli import output, passphrases
from node.cli.key_files import facility_key_options, read_facility_key
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError

if TYPE_CHECKING:
    from keys.card import Card


@click.command()
@click.option("--name", required=True, help="Name of the facility, as peers will see it.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="MULTIADDR",
    help="Where peers reach the node, such as /dns4/radmesh.example.org/tcp/4101. "
    "Can be given more than once. By default the addresses that it listens on.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="MULTIADDR",
    help="Where the node listens. By default /ip4/0.0.0.0/tcp/4101.",
)
@click.option(
    "--passphrase",
    is_flag=True,
    help="Seal the keys with a passphrase; it is asked for, or read from `radmesh "
    "--passphrase-fd`.",
)
@json_option
@pass_session
def init(
    session: Session,
    name: str,
    addresses: tuple[str, ...],
    listen: tuple[str, ...],
    passphrase: bool,
) -> None:
    """Make the home of a node: its four keys, its facility card and its log."""
    from node.home import Home
    from node.network.sockets import parse_address

    for address in listen:
        try:
            parse_address(address)
        except ValueError as error:
            raise NodeError(f"cannot listen: {error}", code=ExitCode.USAGE) from error
    if session.passphrase_fd is not None and not passphrase:
        raise click.UsageError("--passphrase-fd goes with --passphrase")
    wrapping = None
    if passphrase:
        text = passphrases.new("new passphrase of the keys", session.passphrase_fd)
        wrapping = passphrases.derived(text)
    home = Home.create(
        session.home_path, name=name, listen=listen, addresses=addresses, wrapping=wrapping
    )
    card = home.read_card()
    if session.as_json:
        output.emit_json({"home": str(home.path), **_describe(card)})
        return
    output.say(f"made the node of {phrases.clean(card.name)} in {home.path}")
    output.say(f"fingerprint: {card.fingerprint}")
    output.say()
    output.say("next: `radmesh card export FILE` makes the card to send to another facility,")
    output.say("and `radmesh serve` starts the node. Keep a backup of the folder `keys`.")


@click.group()
def card() -> None:
    """Our facility card, and those of others."""


@card.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@json_option
@pass_session
def export_card(session: Session, file: Path) -> None:
    """Write our card to FILE ("-" for standard output), to send to another facility.

    The card holds no secret. The other admin compares its fingerprint with you by
    phone before trusting it.
    """
    own = session.call("card.own")
    if str(file) == "-":
        click.echo(own["card"].encode(), nl=False)
        return
    try:
        file.write_bytes(own["card"].encode())
    except OSError as error:
        raise NodeError(
            f"the card cannot be written to {file}: {error.strerror}", code=ExitCode.DISK
        ) from error
    if session.as_json:
        output.emit_json({"file": str(file), **own})
        return
    output.say(f"wrote the card of {phrases.clean(own['name'])} to {file}")
    output.say("read this fingerprint to the other admin by phone:")
    output.say(f"  {own['fingerprint']}")
    if not own["addresses"]:
        output.note(
            "the card names no address yet: start the node once (`radmesh serve`) or give "
            "addresses in config.toml, then export it again; a private address (10.x, "
            "192.168.x, ...) is on the card only if it stands there"
        )


@card.command()
@facility_key_options
@json_option
@pass_session
def renew(session: Session, facility_key: Path | None, facility_passphrase_fd: int | None) -> None:
    """Make our card anew, valid for two years from now.

    Connected peers get it at once. A node that has its facility key does this by itself at a
    start, when half of the two years are over.
    """
    parameters = read_facility_key(facility_key, facility_passphrase_fd)
    renewed = session.call("card.renew", parameters)
    if session.as_json:
        output.emit_json(renewed)
        return
    output.say(f"card serial {renewed['serial']}, valid until {phrases.moment(renewed['expires'])}")
    if renewed["peers_told"] or renewed["peers_away"]:
        output.say(
            f"sent to {phrases.count(renewed['peers_told'], 'connected peer')}; the others get it "
            "on connecting"
        )


@card.command("show")
@click.argument(
    "file", required=False, type=click.Path(dir_okay=False, allow_dash=True, path_type=Path)
)
@json_option
@pass_session
def show_card(session: Session, file: Path | None) -> None:
    """Show our card, or the one in FILE."""
    from keys.card import check_card, parse_card_untrusted
    from keys.errors import KeysError

    if file is None:
        shown = parse_card_untrusted(session.call("card.own")["card"].encode())
    else:
        shown = read_card(file)
    problem = ""
    try:
        check_card(shown, int(time.time()))
    except KeysError as error:
        problem = str(error)
    if session.as_json:
        output.emit_json({**_describe(shown), "problem": problem})
        return
    for line in card_lines(shown):
        output.say(line)
    if problem:
        output.note(f"warning: {phrases.clean(problem)}")


def read_facility(text: str) -> "tuple[bytes, Card | None]":
    """Whose log something must be, from a card file or a spoken fingerprint.

    Returns:
        SHA-256 of the facility key (32 bytes), and the card where that was given.

    Raises:
        NodeError: it is neither.
    """
    import hashlib

    from keys.errors import BadFingerprint
    from keys.fingerprint import parse_fingerprint

    if Path(text).is_file():
        card = read_card(Path(text))
        return hashlib.sha256(card.facility_key).digest(), card
    try:
        return parse_fingerprint(text), None
    except BadFingerprint as error:
        raise NodeError(
            f"{text} is neither a card file nor a fingerprint: {error}",
            hint="a fingerprint has 8 groups of 7 characters",
        ) from error


def read_card(file: Path) -> "Card":
    """The card in a file, "-" for standard input; its signature holds.

    Raises:
        NodeError: it cannot be read, or is no valid card.
    """
    from keys.card import CARD_BYTES, parse_card_untrusted
    from keys.errors import KeysError

    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(CARD_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(CARD_BYTES + 1)
        return parse_card_untrusted(data)
    except FileNotFoundError:
        raise NodeError(f"there is no file {file}", code=ExitCode.NOT_FOUND) from None
    except OSError as error:
        raise NodeError(
            f"the card {file} cannot be read: {error.strerror}", code=ExitCode.NOT_FOUND
        ) from error
    except KeysError as error:
        raise NodeError(
            f"the card {file} is refused: {error}",
            hint="do not trust this card; ask the facility for it again",
            code=ExitCode.INTEGRITY,
        ) from error


def card_lines(shown: "Card") -> list[str]:
    """A card for people."""
    from keys.identity import peer_id

    pairs = [
        ("name", shown.name),
        ("fingerprint", shown.fingerprint),
        ("node", peer_id(shown.node_key)),
        *[("address", address) for address in shown.addresses or ("none yet",)],
        ("serial", shown.serial),
        ("issued", phrases.moment(shown.issued)),
        ("expires", phrases.moment(shown.expires)),
    ]
    return output.fields(pairs)


def _describe(shown: "Card") -> dict[str, object]:
    from keys.identity import peer_id

    return {
        "card": shown.encoded.decode(),
        "name": shown.name,
        "fingerprint": shown.fingerprint,
        "peer_id": peer_id(shown.node_key),
        "addresses": list(shown.addresses),
        "serial": shown.serial,
        "issued": shown.issued,
        "expires": shown.expires,
    }
