"""`radmesh trust`: the facilities that we trust, and what each of them may do."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output, rules
from node.cli.card import card_lines, read_card
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError
from node.phrases import count

GRANTS_HELP = (
    "see: may learn which studies we share; find: may ask for those of a patient that it names; "
    "fetch: may take them; send: may offer us studies; witness: signs our log."
)


def split_words(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Grants, and purposes, are given as `see,fetch`, as `see fetch`, or one by one."""
    words = [word.strip() for value in values for word in value.split(",")]
    return tuple(dict.fromkeys(word for word in words if word))


@click.group()
def trust() -> None:
    """Facilities that we trust, and what each of them may do.

    A facility is trusted by the key on its card, once both admins have compared the
    fingerprint by phone. Without a grant it may do nothing.
    """


@trust.command()
@click.argument("card", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--fingerprint",
    metavar="F",
    help="The fingerprint as the other admin read it to you; without it you are asked.",
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="GRANTS",
    callback=split_words,
    help=f"What the facility may do, such as see,fetch. {GRANTS_HELP}",
)
@click.option("--petname", default="", metavar="N", help="Our name for it; else its own.")
@json_option
@pass_session
def add(
    session: Session, card: Path, fingerprint: str | None, grants: tuple[str, ...], petname: str
) -> None:
    """Trust the facility of CARD, a file that its admin sent."""
    session.require_home()
    shown = read_card(card)
    if fingerprint is None:
        fingerprint = _ask(card_lines(shown), shown.fingerprint)
    peer = session.call(
        "trust.add",
        {
            "card": shown.encoded.decode(),
            "fingerprint": fingerprint,
            "grants": list(grants),
            "petname": petname,
        },
    )
    _show_change(session, peer, f"{phrases.clean(peer['petname'])} is trusted now")


def _ask(lines: list[str], fingerprint: str) -> str:
    """Have a person compare the fingerprint; give back the confirmed one."""
    if not sys.stdin.isatty():
        raise NodeError(
            "nobody is at a terminal who could compare the fingerprint",
            hint="give the one that the other admin read to you: --fingerprint ABCDEFG-...",
            code=ExitCode.USAGE,
        )
    for line in lines:
        click.echo(line, err=True)
    if not click.confirm("Does the fingerprint match what the other admin reads to you?", err=True):
        raise NodeError(
            "the card is not trusted; nothing was changed",
            hint="ask the other admin for the card again, over another way",
            code=ExitCode.FAILED,
        )
    return fingerprint


for _command in (rules.rule, rules.try_rule, rules.explain, rules.who, rules.mine):
    trust.add_command(_command)


@trust.command("list")
@json_option
@pass_session
def list_peers(session: Session) -> None:
    """List the facilities that we trust."""
    found = session.call("trust.list")
    if session.as_json:
        output.emit_json(found)
        return
    if not found["peers"]:
        output.note("no facility is trusted yet: see `radmesh trust add --help`")
        return
    for line in peer_table(found["peers"]):
        output.say(line)


@trust.command("show")
@click.argument("peer")
@json_option
@pass_session
def show_peer(session: Session, peer: str) -> None:
    """Show one facility: PEER is its name or fingerprint."""
    found = session.call("trust.show", {"peer": peer})
    if session.as_json:
        output.emit_json(found)
        return
    for line in _peer_lines(found):
        output.say(line)


@trust.command()
@click.argument("peer")
@click.argument("grants", nargs=-1, required=True, callback=split_words)
@json_option
@pass_session
def grant(session: Session, peer: str, grants: tuple[str, ...]) -> None:
    """Give PEER more GRANTS, such as see,fetch.

    see: may learn which studies we share. fetch: may take them. send: may offer us
    studies. witness: signs our log.
    """
    found = session.call("trust.grant", {"peer": peer, "grants": list(grants)})
    _show_change(session, found, f"{phrases.clean(found['petname'])}: granted")


@trust.command()
@click.argument("peer")
@click.argument("grants", nargs=-1, callback=split_words)
@json_option
@pass_session
def revoke(session: Session, peer: str, grants: tuple[str, ...]) -> None:
    """Take GRANTS from PEER; with none named, all trust. Takes effect at once."""
    found = session.call("trust.revoke", {"peer": peer, "grants": list(grants)})
    what = "revoked" if grants else "not trusted any more"
    _show_change(session, found, f"{phrases.clean(found['petname'])}: {what}")


@trust.command()
@click.argument("peer")
@click.argument("petname")
@json_option
@pass_session
def rename(session: Session, peer: str, petname: str) -> None:
    """Give PEER another name among ours."""
    found = session.call("trust.rename", {"peer": peer, "petname": petname})
    _show_change(session, found, f"the name is {phrases.clean(found['petname'])} now")


@trust.command()
@click.argument("peer")
@click.argument("postal_address", metavar="ADDRESS")
@json_option
@pass_session
def address(session: Session, peer: str, postal_address: str) -> None:
    """Note where letters reach PEER, on one line, for accountings of disclosures.

    An empty ADDRESS ("") takes it away. It stays here, and is not logged.
    """
    found = session.call("trust.address", {"peer": peer, "postal_address": postal_address})
    shown = phrases.clean(found["postal_address"]) or "not known any more"
    _show_change(session, found, f"the address of {phrases.clean(found['petname'])} is {shown}")


def _show_change(session: Session, peer: dict[str, Any], sentence: str) -> None:
    if session.as_json:
        output.emit_json(peer)
        return
    output.say(sentence)
    if peer["revoked"] is None:
        output.say(f"it may: {_grants(peer)}")


def peer_table(peers: list[dict[str, Any]]) -> list[str]:
    """Peers for people, one line each, and below it what is wrong with its connection."""
    lines = output.table(
        (
            output.Column("NAME", flexible=True),
            output.Column("MAY"),
            output.Column("CONNECTED"),
            output.Column("LAST SEEN"),
        ),
        [
            (peer["petname"], _grants(peer), _connection(peer), phrases.moment(peer["last_seen"]))
            for peer in peers
        ],
    )
    shown = [lines[0]]
    for line, peer in zip(lines[1:], peers, strict=True):
        shown.append(line)
        if peer["last_error"]:
            shown.append(f"  {phrases.clean(peer['last_error'])}")
    return shown


def _peer_lines(peer: dict[str, Any]) -> list[str]:
    expired = peer["card_expires"] <= time.time()
    pairs: list[tuple[str, object]] = [
        ("name", peer["petname"]),
        ("calls itself", peer["name"]),
        ("fingerprint", peer["fingerprint"]),
        ("node", peer["peer_id"]),
        *[("address", address) for address in peer["addresses"] or ("none known",)],
        *([("letters to", peer["postal_address"])] if peer["postal_address"] else []),
        ("may", _grants(peer)),
        ("purposes", ", ".join(peer["purposes"]) or "any"),
        *[(f"rule {one['number']}", one["rule"]) for one in peer["rules"]],
        ("trusted since", phrases.moment(peer["added"])),
        *([("trusted until", phrases.moment(peer["expires"]))] if peer["expires"] else []),
        ("connected", _connection(peer)),
        ("last seen", phrases.moment(peer["last_seen"])),
        (
            "card",
            f"serial {peer['card_serial']}, {'EXPIRED' if expired else 'valid until'} "
            f"{phrases.moment(peer['card_expires'])}",
        ),
    ]
    if peer["revoked"] is not None:
        pairs.append(("revoked", phrases.moment(peer["revoked"])))
    if peer["last_error"]:
        pairs.append(("problem", peer["last_error"]))
    return output.fields(pairs)


def _grants(peer: dict[str, Any]) -> str:
    if peer["revoked"] is not None:
        return "revoked"
    may = ",".join(peer["grants"])
    if peer["rules"]:
        may += (", " if may else "") + count(len(peer["rules"]), "rule")
    return may or "nothing"


def _connection(peer: dict[str, Any]) -> str:
    connected = peer["connected"]
    return "not running" if connected is None else "yes" if connected else "no"
