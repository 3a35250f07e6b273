"""Operation that looks at each edge and each peer, and says what is wrong and what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509

from keys.purposes import covered_by
from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.edges.dimse_settings import DimseSettings
from node.edges.door_settings import Door
from node.errors import NodeError
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing
from node.phrases import moment

ENDING_SECONDS = 30 * 24 * 3600
"""A certificate or card that ends within this time is named."""

WAITED_MS = 60_000
"""A report of storage commitment that nobody can give or take is named after so long."""

Finding = dict[str, str]
"""`about`, `state` (`fine`, `note`, `wrong`), `found`, and `next`, what to do."""


def _finding(about: str, state: str, found: str, todo: str = "") -> Finding:
    return {"about": about, "state": state, "found": found, "next": todo}


async def doctor(call: Call, _: Nothing) -> Result:
    """What is wrong with each edge and each peer, and the AE titles of this node."""
    found = await in_thread(lambda: list(_findings(call)))
    return {"findings": found, "doors": _doors(call)}


def _findings(call: Call) -> Iterator[Finding]:
    node = call.node
    if call.serving is None:
        yield _finding("the node", "wrong", "it does not run", "start it with `radmesh serve`")
    settings = node.settings.dimse
    if not settings.is_on:
        yield _finding("DICOM", "fine", "no DICOM associations are taken", "see docs/edges.md")
    else:
        yield from _callers(node)
        if settings.tls_listen:
            yield _certificate(node, Path(settings.certificate))
        for door in settings.doors.values():
            yield _door(node, f"door {door.name}", door)
    yield from _commitment(node)
    yield from _folders(call)
    for one in node.doors.waiting():
        if one.why:
            yield _finding(
                f"door {one.door}",
                "wrong",
                f"study {one.study_uid} is not offered: {one.why}",
                "it is tried again each minute, for a week",
            )
    for peer in node.peers.store.peers:
        yield _peer(call, peer)


def _callers(node: Node) -> Iterator[Finding]:
    settings = node.settings.dimse
    if not settings.callers:
        yield _finding(
            "DICOM", "wrong", "no caller is listed, so all are refused",
            'list each in config.toml: [dimse.callers."AE_TITLE"]',
        )  # fmt: skip
    for title, address in settings.plain_links:
        yield _finding(
            f"caller {title}",
            "note",
            f"it may call from {address} without TLS: whoever is on that line can read its images",
            "use `dimse.tls_listen`, if it can TLS",
        )


def _certificate(node: Node, path: Path) -> Finding:
    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return _finding(
            "DICOM over TLS", "wrong", "the certificate cannot be read",
            "see `dimse.certificate` in config.toml",
        )  # fmt: skip
    left = end - node.clock.now()
    state = "fine" if left > ENDING_SECONDS else "wrong"
    ends = "has ended" if left <= 0 else "ends"
    return _finding(
        "DICOM over TLS",
        state,
        f"its certificate {ends} {moment(end)}",
        "" if state == "fine" else "get a new one, and start the node again",
    )


def _commitment(node: Node) -> Iterator[Finding]:
    """Reports of storage commitment that somebody waits for."""
    now, callers = node.clock.now_ms(), node.settings.dimse.callers
    waiting = {one.caller: one for one in reversed(node.commitment_requests.open())}
    for title, one in waiting.items():
        if one.why:
            yield _finding(
                f"caller {title}", "wrong", f"a report of storage commitment waits: {one.why}",
                "it is tried again for a week; does it take reports there, under this AE title?",
            )  # fmt: skip
            continue
        caller = callers.get(title)
        if one.since + WAITED_MS <= now and (caller is None or caller.report_to is None):
            yield _finding(
                f"caller {title}", "wrong",
                "it asks for storage commitment, and does not wait for the report",
                f'say where it takes it: `report_to` in [dimse.callers."{title}"]',
            )  # fmt: skip
    asked = {one.archive: one for one in node.commitments.kept.open() if one.is_open}
    for archive, request in asked.items():
        may_call = archive in callers and node.settings.dimse.is_on
        if not may_call and request.since + WAITED_MS <= now:
            yield _finding(
                f"archive {archive}", "wrong",
                "it is to report on storage commitment, and may not call this node",
                f'list it in config.toml: [dimse.callers."{archive}"]',
            )  # fmt: skip


def _folders(call: Call) -> Iterator[Finding]:
    for one in call.node.settings.folders.values():
        about = f"folder {one.name}"
        yield _door(call.node, about, one.door)
        found = None
        if call.serving is not None:
            found = next(each for each in call.serving.folders if each.settings is one).counts
        if found is not None and found.trouble:
            yield _finding(
                about, "wrong", f"{one.path}: {found.trouble}",
                "is the share mounted, and may the user of the node read, write and delete there?",
            )  # fmt: skip
        if found is not None and found.growing:
            yield _finding(
                about, "note", f"{found.growing} files have been growing for ten minutes",
                "what writes them?",
            )  # fmt: skip
        if found is not None and found.refused:
            yield _finding(
                about, "note", f"{found.refused} files are no DICOM images, or may not be read",
                f"they are in {one.path}/.radmesh-refused",
            )  # fmt: skip


def _door(node: Node, about: str, door: Door) -> Finding:
    if not door.to:
        return _finding(about, "fine", "takes images; the sharing rules decide about them")
    try:
        peer = node.peers.find(door.to)
    except NodeError:
        return _finding(
            about, "wrong", f"it offers to {door.to}, and there is no such facility",
            "`radmesh trust list` has the names; `radmesh pair` makes one known",
        )  # fmt: skip
    if not peer.is_trusted(node.clock.now()):
        return _finding(
            about, "wrong", f"it offers to {peer.petname}, which is not trusted any more",
            f"see `radmesh trust show {peer.petname}`",
        )  # fmt: skip
    if peer.purposes and not covered_by(peer.purposes, door.purpose):
        return _finding(
            about,
            "wrong",
            f"it offers to {peer.petname} for {door.purpose}, for which that is not trusted",
            f"name one of {', '.join(sorted(peer.purposes))}",
        )
    return _finding(about, "fine", f"offers to {peer.petname} for {door.purpose}")


def _peer(call: Call, peer: Peer) -> Finding:
    about, now = f"facility {peer.petname}", call.node.clock.now()
    if not peer.is_trusted(now):
        return _finding(about, "note", "it is not trusted any more")
    left = peer.card.expires - now
    if left <= ENDING_SECONDS:
        return _finding(
            about, "wrong", f"its card ends {moment(peer.card.expires)}",
            "it has to renew its card: call it",
        )  # fmt: skip
    if call.serving is None:
        return _finding(about, "note", "whether it is there is not known: the node does not run")
    if call.serving.presence.is_peer_connected(peer):
        return _finding(about, "fine", "it is connected")
    error = call.serving.links.status(peer.card.node_key).last_error
    return _finding(
        about,
        "wrong",
        f"it is not connected{f': {error}' if error else ''}",
        "if others are, call it; if none is, look at the firewall (docs/operations.md section 2)",
    )


def _doors(call: Call) -> list[dict[str, Any]]:
    """What a vendor enters into a PACS or a modality for each AE title."""
    settings = call.node.settings.dimse
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


OPERATIONS = (Operation("doctor", Nothing, doctor, writes=False, roles=("look", "admin")),)
