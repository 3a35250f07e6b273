"""What `radmesh doctor` finds at the systems of the hospital: DICOM, DICOMweb, doors, folders."""

from collections.abc import Iterator
from typing import Any

import trio

from keys.purposes import covered_by
from node.app import Node
from node.certificates import certificate_ends
from node.edges.dimse_settings import DimseSettings
from node.edges.door_settings import Door
from node.errors import NodeError
from node.failures import os_reason
from node.operations.base import Call
from node.operations.findings import ENDING_SECONDS, Finding, finding
from node.phrases import moment

CONNECT_SECONDS = 5.0

_EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""How an address of all interfaces is reached from this machine."""


async def listening(call: Call) -> list[Finding]:
    """Whether the listeners for DICOM take connections."""
    if not call.node.settings.dimse.is_on:
        return [finding("DICOM", "fine", "no DICOM associations are taken", "see docs/edges.md")]
    if call.serving is None or call.serving.dimse is None:
        return []
    return [await _listener(host, port) for host, port in call.serving.dimse.addresses]


async def _listener(host: str, port: int) -> Finding:
    about, why = f"DICOM at {host} port {port}", f"no answer within {CONNECT_SECONDS:.0f} s"
    with trio.move_on_after(CONNECT_SECONDS):
        try:
            stream = await trio.open_tcp_stream(_EVERY.get(host, host), port)
        except OSError as error:
            why = os_reason(error)
        else:
            await trio.aclose_forcefully(stream)
            return finding(about, "fine", "it takes connections")
    return finding(
        about, "wrong", f"it does not take connections: {why}",
        "is there a firewall on this machine? else start the node again",
    )  # fmt: skip


def callers(call: Call) -> Iterator[Finding]:
    """Who may call, who does, and over which lines."""
    settings = call.node.settings.dimse
    if not settings.is_on:
        return
    if not settings.callers:
        yield finding(
            "DICOM", "wrong", "no caller is listed, so all are refused",
            'list each in config.toml: [dimse.callers."AE_TITLE"]',
        )  # fmt: skip
    for title, address in settings.plain_links:
        yield finding(
            f"caller {title}",
            "note",
            f"it may call from {address} without TLS: whoever is on that line can read its images",
            "use `dimse.tls_listen`, if it can TLS",
        )
    if call.serving is None or call.serving.dimse is None:
        return
    counts = call.serving.dimse.counts
    since = moment((call.node.started_ms or call.node.clock.now_ms()) / 1000)
    for title in settings.callers:
        if title not in counts.callers:
            yield finding(
                f"caller {title}", "note", f"it has not called since the node started, {since}",
                f"try C-ECHO there: `echoscu -aet {title} -aec RADMESH HOST PORT`",
            )  # fmt: skip
    for why, number in sorted(dict(counts.refused).items()):
        yield finding(
            "DICOM", "note", f"{number} refused since the node started: {why}",
            "the process log names address and AE titles",
        )  # fmt: skip


def certificates(call: Call) -> Iterator[Finding]:
    """When each certificate of the settings ends."""
    for name, end in certificate_ends(call.node.settings).items():
        about = f"certificate {name}"
        if end is None:
            yield finding(about, "wrong", "it cannot be read", f"see `{name}` in config.toml")
            continue
        left = end - call.node.clock.now()
        if left > ENDING_SECONDS:
            yield finding(about, "fine", f"it ends {moment(end)}")
        else:
            ends = "has ended" if left <= 0 else "ends"
            todo = "get a new one, and start the node again"
            yield finding(about, "wrong", f"it {ends} {moment(end)}", todo)


def doors(call: Call) -> Iterator[Finding]:
    """What becomes of what comes in by each door, and what was not offered."""
    node = call.node
    if node.settings.dimse.is_on:
        for door in node.settings.dimse.doors.values():
            yield _door(node, f"door {door.name}", door)
    for one in node.doors.waiting():
        if one.why:
            yield finding(
                f"door {one.door}",
                "wrong",
                f"study {one.study_uid} is not offered: {one.why}",
                "it is tried again each minute, for a week",
            )


def dicomweb(call: Call) -> Iterator[Finding]:
    """Whether DICOMweb is served, and what each of its callers may do."""
    settings = call.node.settings.dicomweb
    if not settings.is_on:
        yield finding("DICOMweb", "fine", "it is not served", "see docs/edges.md")
        return
    if not settings.callers:
        yield finding(
            "DICOMweb", "wrong", "no caller is listed, so all are refused",
            'list each in config.toml: [dicomweb.callers."NAME"]',
        )  # fmt: skip
    for caller in settings.callers.values():
        may = [word for word, is_so in (("read", caller.read), ("store", caller.store)) if is_so]
        partners = f", partners' studies for {caller.purpose}" if caller.purpose else ""
        found = f"may {' and '.join(may) or 'do nothing'}{partners if caller.read else ''}"
        yield finding(f"web caller {caller.name}", "fine" if may else "note", found)


def folders(call: Call) -> Iterator[Finding]:
    """Whether each folder can be read, and what lies there."""
    for one in call.node.settings.folders.values():
        about = f"folder {one.name}"
        yield _door(call.node, about, one.door)
        found = None
        if call.serving is not None:
            found = next(each for each in call.serving.folders if each.settings is one).counts
        if found is not None and found.trouble:
            yield finding(
                about, "wrong", f"{one.path}: {found.trouble}",
                "is the share mounted, and may the user of the node read, write and delete there?",
            )  # fmt: skip
        if found is not None and found.growing:
            yield finding(
                about, "note", f"{found.growing} files have been growing for ten minutes",
                "what writes them?",
            )  # fmt: skip
        if found is not None and found.refused:
            yield finding(
                about, "note", f"{found.refused} files are no DICOM images, or may not be read",
                f"they are in {one.path}/.radmesh-refused",
            )  # fmt: skip


def _door(node: Node, about: str, door: Door) -> Finding:
    if not door.to:
        return finding(about, "fine", "takes images; the sharing rules decide about them")
    try:
        peer = node.peers.find(door.to)
    except NodeError:
        return finding(
            about, "wrong", f"it offers to {door.to}, and there is no such facility",
            "`radmesh trust list` has the names; `radmesh pair` makes one known",
        )  # fmt: skip
    if not peer.is_trusted(node.clock.now()):
        return finding(
            about, "wrong", f"it offers to {peer.petname}, which is not trusted any more",
            f"see `radmesh trust show {peer.petname}`",
        )  # fmt: skip
    if peer.purposes and not covered_by(peer.purposes, door.purpose):
        return finding(
            about,
            "wrong",
            f"it offers to {peer.petname} for {door.purpose}, for which that is not trusted",
            f"name one of {', '.join(sorted(peer.purposes))}",
        )
    return finding(about, "fine", f"offers to {peer.petname} for {door.purpose}")


def vendor(settings: DimseSettings) -> list[dict[str, Any]]:
    """What a vendor enters into a PACS or a modality for each AE title."""
    places = [(one, False) for one in settings.listen] + [
        (one, True) for one in settings.tls_listen
    ]
    return [
        {
            "ae_title": door.name,
            "host": place.host,
            "port": place.port,
            "tls": is_tls,
            "does": _does(door),
            "answers": _answers(door, settings),
        }
        for door in settings.doors.values()
        for place, is_tls in places
    ]


def _answers(door: Door, settings: DimseSettings) -> str:
    """Whose studies queries by an AE title find; "" if no caller may query."""
    if not any(caller.query for caller in settings.callers.values()):
        return ""
    if door.to:
        return f"those of {door.to}"
    return "ours and those of all partners" if door.partners else "ours"


def _does(door: Door) -> str:
    does = f"offers to {door.to} for {door.purpose}" if door.to else "takes images"
    return f"{does}, at once" if door.stat else does
