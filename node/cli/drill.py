"""`radmesh drill`: plays a theft on a copy of the home."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node import phrases
from node.cli import output
from node.cli.key_files import facility_key_options, read_facility_key
from node.cli.session import Session, json_option, pass_session

if TYPE_CHECKING:
    from node.drill import PeerReport, Report


@click.group()
def drill() -> None:
    """Play a theft on a copy of the home; nothing in the home itself changes."""


@drill.command("stolen-node-key")
@click.option(
    "--since",
    metavar="TIME",
    help="When the key may have been stolen; by default since it is in force.",
)
@click.option(
    "--copy",
    "folder",
    metavar="DIRECTORY",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Where the copy is made and removed; by default beside the home. It holds keys.",
)
@facility_key_options
@json_option
@pass_session
def stolen_node_key(
    session: Session,
    since: str | None,
    folder: Path | None,
    facility_key: Path | None,
    facility_passphrase_fd: int | None,
) -> None:
    """Replace the node key of a copy of the home, as after a theft, and say what that means.

    Which peers would know at once, which are away, and what a thief could have fetched as
    this node meanwhile.
    """
    from keys.keyfile import decode_key
    from node.drill import stolen_node_key as play
    from node.reports.selection import parse_moment

    begin = None if since is None else parse_moment(since, end=False) // 1000
    given = read_facility_key(facility_key, facility_passphrase_fd)
    facility = decode_key("facility", given["facility_key"].encode()) if given else None
    report = play(
        session.home(),
        connected=_connected(session),
        facility=facility,
        since=begin,
        folder=None if folder is None else folder.absolute(),
    )
    if session.as_json:
        output.emit_json(_as_json(report))
        return
    for line in _lines(report):
        output.say(line)


def _connected(session: Session) -> list[bytes] | None:
    """The facility keys of connected peers; None where no node runs."""
    from node.api.client import is_running

    # Without a running node the call would open the home, and write to it.
    session.home().require()
    if not is_running(session.home().socket_path):
        return None
    peers = session.call("status")["peers"]
    return [bytes.fromhex(peer["facility_key"]) for peer in peers if peer["connected"]]


def _as_json(report: "Report") -> dict[str, Any]:
    return {
        "drill": "stolen-node-key",
        **dataclasses.asdict(report),
        "told": [peer.petname for peer in report.peers if peer.is_told],
        "away": [peer.petname for peer in report.peers if not peer.is_told],
    }


def _lines(report: "Report") -> list[str]:
    told = [peer for peer in report.peers if peer.is_told]
    away = [peer for peer in report.peers if not peer.is_told]
    lines = [
        f"drill: the node key of {phrases.clean(report.name)} was stolen (played on a copy; this "
        "home is unchanged)",
        f"the thief may have had it since {phrases.moment(report.since)}",
        f"in the copy it was replaced in {phrases.duration(report.seconds)} by card serial "
        f"{report.serial}: the old key counts " + ("no more" if report.has_ended
        else "STILL, which is a fault: report it"),
        "",
    ]  # fmt: skip
    if told:
        lines.append("these peers would know at once, and refuse the thief:")
        lines += [f"  {_named(peer)}" for peer in told]
    if away:
        lines.append("these are away: until they have the newer card, the thief is this node there")
        lines += [f"  {_named(peer)}; {_way(peer)}" for peer in away]
    if not report.peers:
        lines.append("no facility is trusted, so there is none that the thief could deceive")
        return lines
    lines += ["", "until then the thief could fetch as this node, and did perhaps:"]
    lines += [
        f"  {phrases.clean(peer.petname)}: {phrases.count(peer.studies, 'study', 'studies')}, "
        f"{phrases.count(peer.instances, 'image')}, {phrases.size(peer.bytes)} announced to us; "
        f"our log has {phrases.count(peer.fetched, 'fetch', 'fetches')} in that time"
        for peer in report.peers
    ]
    lines += [
        "",
        "if it really happens:",
        "  radmesh keys rotate node --compromised",
        *(
            f'  radmesh audit reconcile --peer "{phrases.clean(peer.petname)}"'
            for peer in report.peers
        ),
        "what a peer disclosed to this node and our log lacks went to the thief. Call those that "
        "are away.",
    ]
    return lines


def _named(peer: "PeerReport") -> str:
    return f"{phrases.clean(peer.petname)}, last seen {phrases.moment(peer.last_seen)}"


def _way(peer: "PeerReport") -> str:
    if peer.has_address:
        return "our node calls it, or send it the card by hand"
    return "it has no address: send it the card by hand (`radmesh card export`)"
