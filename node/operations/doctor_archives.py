"""What is wrong with each archive: whether it answers, its certificate, and what waits for it."""

from typing import TYPE_CHECKING

import trio

from node.blocking import in_thread
from node.edges.archive_queue import FAILED, OPEN, UNMATCHED, ArchiveStudy
from node.edges.archive_settings import ArchiveSettings
from node.edges.dimse_settings import DimseSettings
from node.errors import NodeError
from node.operations.base import Call
from node.operations.findings import Finding, finding
from node.phrases import count, duration

if TYPE_CHECKING:
    # It is slow to load, and small commands need none of it.
    from node.edges.archiving import Archiving

CHECK_SECONDS = 20.0
"""Longest wait for the answer of an archive; all are asked at once."""

LATE_SECONDS = 3600
"""What is due for so long is named."""


async def archive_findings(call: Call) -> list[Finding]:
    """The findings about all archives of the settings, and what waits for those that are gone."""
    archives = call.node.settings.archives
    found: dict[str, list[Finding]] = {name: [] for name in archives}
    if call.serving is not None:
        async with trio.open_nursery() as nursery:
            for name in archives:
                nursery.start_soon(_check, call.serving.archiving, name, found[name])
    rows = await in_thread(call.node.archive_queue.all)
    for name, archive in archives.items():
        found[name] += _of_index(call, archive)
        found[name] += _of_queue(call, archive, [one for one in rows if one.archive == name])
    lost = {one.archive for one in rows if one.archive not in archives and one.state in OPEN}
    gone = [
        finding(
            f"archive {name}",
            "wrong",
            "studies wait for it, and config.toml has no such archive",
            "put it back, or drop each with `radmesh archive drop STUDY`",
        )
        for name in sorted(lost)
    ]
    return [*(one for each in found.values() for one in each), *gone]


async def _check(archiving: "Archiving", name: str, found: list[Finding]) -> None:
    about = f"archive {name}"
    with trio.move_on_after(CHECK_SECONDS) as patience:
        try:
            await archiving.check(name)
        except NodeError as error:
            found.append(finding(about, "wrong", error.message, error.hint))
        else:
            found.append(finding(about, "fine", "it answers"))
    if patience.cancelled_caught:
        found.append(
            finding(
                about, "wrong", f"it does not answer within {CHECK_SECONDS:.0f} s",
                "see its own log",
            )
        )  # fmt: skip


def _of_index(call: Call, archive: ArchiveSettings) -> list[Finding]:
    """What keeps an archive from being indexed, or from giving what is wanted."""
    if not archive.index_days:
        return []
    about, dimse, found = f"archive {archive.name}", call.node.settings.dimse, []
    if not archive.stow and not dimse.is_on:
        found.append(
            finding(
                about, "wrong", "it is indexed, and has nowhere to send what is wanted of it",
                "let the node listen: `listen` in the table dimse of config.toml",
            )
        )  # fmt: skip
    elif not archive.stow and archive.sends_as not in dimse.callers:
        found.append(
            finding(
                about, "wrong",
                f"it is indexed, and {archive.sends_as} may not send here what is wanted of it",
                f'add [dimse.callers."{archive.sends_as}"] to config.toml',
            )
        )  # fmt: skip
    found += _of_door(about, archive, dimse)
    if call.serving is None:
        return found
    index = call.serving.indexing.describe()[archive.name]
    if index["trouble"]:
        found.append(
            finding(about, "wrong", f"it is not indexed: {index['trouble']}", "see its own log")
        )
    failed = [
        one for one in call.serving.retrievals.failed() if one.wanting.archive == archive.name
    ]
    if failed:
        found.append(
            finding(
                about, "wrong",
                f"{count(len(failed), 'study', 'studies')} did not come from it: {failed[-1].why}",
                "`radmesh archive retrieve STUDY` tries at once",
            )
        )  # fmt: skip
    return found


def _of_door(about: str, archive: ArchiveSettings, dimse: DimseSettings) -> list[Finding]:
    """Whether what an archive is asked for comes in by a door that only takes it in."""
    if archive.stow or not dimse.is_on:
        return []
    door = dimse.doors.get(archive.moves_to)
    if door is not None and not door.to:
        return []
    what = "there is no such door" if door is None else f"what comes by it is offered to {door.to}"
    return [
        finding(
            about, "wrong",
            f"it is asked to send to {archive.moves_to} (`moves_to`), and {what}",
            "name a door without `to`, such as RADMESH",
        )
    ]  # fmt: skip


def _of_queue(call: Call, archive: ArchiveSettings, rows: list[ArchiveStudy]) -> list[Finding]:
    about, now = f"archive {archive.name}", call.node.clock.now_ms()
    found = []
    if archive.is_plain:
        found.append(
            finding(
                about,
                "note",
                "images go there without TLS: whoever is on that line can read them",
                "give its `ca`, if it can TLS",
            )
        )
    failing = [one.failing for one in rows if one.state in OPEN and one.failing]
    if failing and now - min(failing) > LATE_SECONDS * 1000:
        late = duration((now - min(failing)) / 1000)
        why = next(one.why for one in rows if one.failing == min(failing))
        found.append(
            finding(
                about, "wrong", f"studies could not go there for {late}: {why}",
                "`radmesh archive retry` tries at once",
            )
        )  # fmt: skip
    for state, what, todo in (
        (FAILED, "failed", "`radmesh archive` names the images and why"),
        (UNMATCHED, "waits for a match with a patient here", "see `radmesh match`"),
    ):
        many = sum(one.state == state for one in rows)
        if many:
            kind = "wrong" if state == FAILED else "note"
            found.append(finding(about, kind, f"{count(many, 'study', 'studies')}: {what}", todo))
    return found
