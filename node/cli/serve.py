"""`radmesh serve` and `radmesh status`: the node, in the foreground, and how it is."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from node import phrases, service
from node.cli import output, witness
from node.cli.archive import archive_lines
from node.cli.session import Session, json_option, pass_session
from node.cli.transfers import transfer_table
from node.cli.trust import peer_table
from node.errors import ExitCode, NodeError
from node.log_lines import LineLimit

if TYPE_CHECKING:
    import trio

    from node.app import Node
    from node.home import Home

STOP_SECONDS = 4.5
"""Longest clean stop. What is durable is so already: after this the process just ends."""


@click.command()
@pass_session
def serve(session: Session) -> None:
    """Run the node until Ctrl-C.

    It connects to the facilities that we trust, announces what we share, and sends
    and fetches studies. Its log goes to standard error.
    """
    import trio

    from node.memory import keep_freed_memory

    keep_freed_memory()
    home = session.home()
    home.require()
    _start_logging("warning")
    with _open_when_free(home) as node:
        _start_logging(node.settings.log_level)
        trio.run(_serve, node)
    output.say("the node has stopped")


def _open_when_free(home: "Home") -> "Node":
    """Open the home, waiting a little for a short command that has it.

    Raises:
        NodeError: the node of this home is running already, or the home cannot be used.
    """
    from node.api.client import LOCK_POLL_SECONDS, LOCK_SECONDS, is_running
    from node.api.offline import HomeBusy, open_node

    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        if is_running(home.socket_path):
            raise NodeError(
                f"the node of {home.path} is running already",
                hint="see `radmesh status`",
                code=ExitCode.BUSY,
            )
        try:
            return open_node(home, to_serve=True)
        except HomeBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOCK_POLL_SECONDS)


async def _serve(node: "Node") -> None:
    import trio

    from node.alerts import standing
    from node.api.server import serve_api
    from node.memory import spare_collector
    from node.serving import serving
    from protocol import manifest

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, nursery.cancel_scope)
            async with serving(node) as running:
                manifest.prepare()
                spare_collector()
                if running.notices is not None:
                    nursery.start_soon(running.notices.run, lambda: standing(node, running))
                await serve_api(
                    node,
                    running,
                    node.home.socket_path,
                    ready=lambda: _greet(node, running.network.addresses),
                )


async def _stop_on_signal(signals: AsyncIterator[int], scope: "trio.CancelScope") -> None:
    async for _ in signals:
        output.say("stopping")
        service.tell(service.STOPPING)
        timer = threading.Timer(STOP_SECONDS, _give_up)
        timer.daemon = True
        timer.start()
        scope.cancel()
        return


def _give_up() -> None:
    logging.getLogger("radmesh").error("the node did not stop in time and was ended")
    sys.stderr.flush()
    os._exit(ExitCode.FAILED)


def _greet(node: "Node", addresses: list[str]) -> None:
    output.say(f"{phrases.clean(node.card.name)} is running (home {node.home.path})")
    output.say(f"fingerprint {node.card.fingerprint}")
    for address in addresses:
        output.say(f"listening on {address}")
    output.say("Ctrl-C stops it")
    sys.stdout.flush()
    service.tell(service.READY)


class _Formatter(logging.Formatter):
    """One line a record: time (UTC), level, what; never a traceback, never control
    characters."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        text = phrases.clean(record.getMessage())
        if record.exc_info and record.exc_info[0] is not None:
            text += f" ({record.exc_info[0].__name__})"
        return f"{moment} {record.levelname.lower()} {record.name}: {text}"


def _start_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    handler.addFilter(LineLimit())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("radmesh").setLevel(level.upper())


@click.command()
@click.option("--alive", is_flag=True, help="Only whether the node runs and answers.")
@json_option
@pass_session
def status(session: Session, alive: bool) -> ExitCode:
    """Show how the node is: identity, addresses, facilities, transfers.

    Exits with 11 while requests, reviews, offers or proposals wait for a person; with --alive
    with 0 whenever the node answers.
    """
    found = session.call("status")
    if alive and not found["running"]:
        raise NodeError(
            "the node of this home is not running",
            hint="start it with `radmesh serve`",
            code=ExitCode.BUSY,
        )
    if session.as_json:
        output.emit_json(found)
    elif alive:
        output.say("the node answers")
    else:
        for line in _status_lines(found):
            output.say(line)
    return ExitCode.WAITING if found["waiting"] and not alive else ExitCode.OK


def _status_lines(found: dict[str, Any]) -> list[str]:
    running = f"yes, since {phrases.moment(found['started'] / 1000)}" if found["running"] else "no"
    lines = output.fields(
        [
            ("name", found["name"]),
            ("fingerprint", found["fingerprint"]),
            ("node", found["peer_id"]),
            ("running", running),
            *[("address", address) for address in found["addresses"] or ("none yet",)],
            ("home", found["home"]),
            ("version", found["version"]),
            (
                "studies",
                f"{found['studies']} ({phrases.count(found['instances'], 'image')}, "
                f"{phrases.size(found['store_bytes'])} on disk, "
                f"{phrases.size(found['free_bytes'])} free)",
            ),
            ("quarantine", phrases.count(found["quarantined"], "file")),
            *_incoming_field(found["incoming"]),
            *_arrivals_field(found["arrivals"]),
            *_dicom_fields(found["dicom"]),
            *_commitment_fields(found["commitment"]),
            *(("folder", _folder(one)) for one in found["folders"]),
            *(("archive", line) for line in archive_lines(found["archives"])),
            ("log", phrases.count(found["log_size"], "entry", "entries")),
        ]
    )
    if found["alerts"]:
        lines += ["", *(f"ALERT: {phrases.clean(alert)}" for alert in found["alerts"])]
    lines += witness.status_lines(found["witnessing"])
    lines += _collector_lines(found)
    lines += _notices_lines(found["notices"])
    lines.append("")
    if found["peers"]:
        lines += peer_table(found["peers"])
    else:
        lines.append("no facility is trusted yet: see `radmesh trust add --help`")
    lines += _cap_lines(found["peers"])
    lines += _over_lines(found["peers"])
    if found["transfers"]:
        lines += ["", *transfer_table(found["transfers"])]
    return lines


def _incoming_field(incoming: dict[str, int]) -> list[tuple[str, str]]:
    if not incoming["batches"]:
        return []
    text = (
        f"{phrases.size(incoming['bytes'])} of unfinished transfers, deleted when nothing came of "
        "them for a week or two"
    )
    return [("incoming", text)]


def _dicom_fields(dicom: dict[str, Any] | None) -> list[tuple[str, str]]:
    if dicom is None:
        return []
    images = ", ".join(f"{number} {kind}" for kind, number in sorted(dicom["images"].items()))
    now = phrases.count(dicom["associations"], "association")
    refused = sum(dicom["refused"].values())
    text = f"{now} open, {dicom['taken']} taken; images: {images or 'none'}; {refused} refused"
    return [
        *(("DICOM", address) for address in dicom["addresses"]),
        ("DICOM", text),
        *(("without TLS", link) for link in dicom["plain"]),
    ]


def _commitment_fields(commitment: dict[str, int]) -> list[tuple[str, str]]:
    if not any(commitment.values()):
        return []
    text = f"{phrases.count(commitment['given'], 'report')} given, {commitment['waiting']} to give"
    return [("commitment", f"{text}, {commitment['awaited']} awaited of archives")]


def _folder(one: dict[str, Any]) -> str:
    text = f"{one['name']}: {one['waiting']} waiting, {one['taken']} taken"
    for name in ("set_aside", "refused", "growing"):
        if one[name]:
            text += f", {one[name]} {name.replace('_', ' ')}"
    return f"{text}; {one['trouble']}" if one["trouble"] else text


def _arrivals_field(arrivals: dict[str, Any]) -> list[tuple[str, str]]:
    if not arrivals["instances"]:
        return []
    text = f"{phrases.count(arrivals['instances'], 'image')} ({phrases.size(arrivals['bytes'])})"
    if "studies" not in arrivals:
        return [("arrived", f"{text} to be packed when the node runs")]
    studies = phrases.count(arrivals["studies"], "study", "studies")
    oldest = phrases.duration(arrivals["oldest_seconds"])
    return [("arrived", f"{text} of {studies} to be packed, the first {oldest} ago")]


def _over_lines(peers: list[dict[str, Any]]) -> list[str]:
    """What each facility that was over a budget caused today."""
    lines = []
    for peer in peers:
        if not any(one["over"] for one in peer["today"].values()):
            continue
        kinds = ", ".join(
            f"{kind} {one['count']}" + (f" ({one['over']} over its budget)" if one["over"] else "")
            for kind, one in sorted(peer["today"].items())
        )
        lines.append(f"{phrases.clean(peer['petname'])} caused today: {kinds}")
    return lines


def _cap_lines(peers: list[dict[str, Any]]) -> list[str]:
    """The caps that are in force now, a line for each facility that has one."""
    lines = []
    for peer in peers:
        cap = peer["cap"]
        if cap is None or peer["revoked"] is not None:
            continue
        when = "at all times" if cap["from"] == cap["to"] else f"until {cap['to']}"
        urgent = ", urgent transfers exempt" if cap["stat_exempt"] else ""
        lines.append(
            f"at most {cap['mbit_per_second']:g} Mbit/s to {phrases.clean(peer['petname'])} "
            f"{when}{urgent}"
        )
    return ["", *lines] if lines else []


def _collector_lines(found: dict[str, Any]) -> list[str]:
    collector = found["collector"]
    if collector is None:
        return []
    told = (
        f"the collector {collector['address']} has {collector['delivered']} of "
        f"{phrases.count(found['log_size'], 'entry', 'entries')}"
    )
    error = collector["last_error"]
    return [phrases.clean(told), *([phrases.clean(f"  {error}")] if error else [])]


def _notices_lines(channels: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in channels:
        waiting = f", {phrases.count(one['unsent'], 'notice')} to be sent" if one["unsent"] else ""
        lines.append(f"{one['kind']} by {one['place']}: {one['sent']} sent{waiting}")
        if one["last_error"]:
            since = phrases.duration(one["failing_seconds"])
            lines.append(f"  for {since}: {one['last_error']}")
    return [phrases.clean(line) for line in lines]
