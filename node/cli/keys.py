"""`radmesh keys`: the keys of this facility, and how each is replaced."""

from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import key_files, output
from node.cli.key_files import facility_key_options, read_facility_key
from node.cli.session import Session, json_option, pass_session


@click.group()
def keys() -> None:
    """The keys of this facility, and how each is replaced."""


@keys.command()
@json_option
@pass_session
def show(session: Session) -> None:
    """Show our keys, the replaced ones too, and for when each counts."""
    shown = session.call("keys.show")
    if session.as_json:
        output.emit_json(shown)
        return
    here = "in this home" if shown["facility_key_here"] else "offline"
    pairs = [("facility", f"{shown['fingerprint']} ({here})")]
    for role in ("node", "log", "witness"):
        pairs += [(role, _line(key)) for key in shown[role]]
    for line in output.fields(pairs):
        output.say(line)
    if shown["sealed"]:
        output.say("the private keys are under a passphrase")


def _line(key: dict[str, Any]) -> str:
    if "since" in key:
        since = f"since {phrases.moment(key['since'])}"
        until = key["until"]
        return f"{key['key']} {since}" + (f" until {phrases.moment(until)}" if until else "")
    text = f"{key['key']} from size {key['since_size']}"
    return text + (f" to size {key['until_size'] - 1}" if key["until_size"] is not None else "")


@keys.command()
@click.argument("role", type=click.Choice(["log", "node", "witness"]))
@facility_key_options
@click.option(
    "--compromised",
    is_flag=True,
    help="The old key may be in wrong hands: it ends now, not in an hour.",
)
@json_option
@pass_session
def rotate(
    session: Session,
    role: str,
    facility_key: Path | None,
    facility_passphrase_fd: int | None,
    compromised: bool,
) -> None:
    """Replace the ROLE key by a new one, while the node runs or not.

    The change is an entry of the log, signed by the old key, the new one and the
    facility key. Peers get the newer card by themselves and need not pair again.
    """
    given = read_facility_key(facility_key, facility_passphrase_fd)
    parameters = {"role": role, "compromised": compromised, **given}
    _report(session, session.call("keys.rotate", parameters))


@keys.command()
@click.argument("role", type=click.Choice(["log"]))
@click.option(
    "--trusted",
    required=True,
    metavar="SIZE:ROOT",
    help="The last size that the old key signed in our hands, and the root at it.",
)
@facility_key_options
@json_option
@pass_session
def revoke(
    session: Session,
    role: str,
    trusted: str,
    facility_key: Path | None,
    facility_passphrase_fd: int | None,
) -> None:
    """Take back a log key that is in wrong hands.

    What it signed beyond the trusted size counts no more; a new key signs the log from
    there on.
    """
    given = read_facility_key(facility_key, facility_passphrase_fd)
    parameters = {"role": role, "trusted": trusted, **given}
    _report(session, session.call("keys.revoke", parameters))


def _report(session: Session, changed: dict[str, Any]) -> None:
    if session.as_json:
        output.emit_json(changed)
        return
    output.say(f"the {changed['role']} key was replaced by entry {changed['entry']} of the log")
    output.say(f"old  {changed['old_key']}")
    output.say(f"new  {changed['new_key']}")
    output.say(f"card serial {changed['serial']}")
    if changed["role"] == "node":
        output.say(f"node {changed['peer_id']}")
    told, away = changed["peers_told"], changed["peers_away"]
    if told or away:
        later = f"; {phrases.count(away, 'other')} will get it on connecting" if away else ""
        output.say(f"the new card was sent to {phrases.count(told, 'connected peer')}{later}")
    output.say("next: back up the folder `keys` and the file `card`.")


for command in (
    key_files.seal,
    key_files.unseal,
    key_files.restore,
    key_files.export_facility,
    key_files.import_facility,
    key_files.shares,
    key_files.from_shares,
):
    keys.add_command(command)
