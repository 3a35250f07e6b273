"""What `radmesh doctor` finds of storage commitment: reports that nobody can give or take."""

from collections.abc import Iterator

from node.operations.base import Call
from node.operations.findings import Finding, finding

WAITED_MS = 60_000
"""A report that nobody asks for or may give is named after so long."""


def commitments(call: Call) -> Iterator[Finding]:
    """Reports that systems of the facility, or this node, wait for."""
    node = call.node
    now, callers = node.clock.now_ms(), node.settings.dimse.callers
    waiting = {one.caller: one for one in reversed(node.commitment_requests.open())}
    for title, one in waiting.items():
        if one.why:
            yield finding(
                f"caller {title}", "wrong", f"a report of storage commitment waits: {one.why}",
                "it is tried again for a week; does it take reports there, under this AE title?",
            )  # fmt: skip
            continue
        caller = callers.get(title)
        if one.since + WAITED_MS <= now and (caller is None or caller.report_to is None):
            yield finding(
                f"caller {title}", "wrong",
                "it asks for storage commitment, and does not wait for the report",
                f'say where it takes it: `report_to` in [dimse.callers."{title}"]',
            )  # fmt: skip
    asked = {one.archive: one for one in node.commitments.kept.open() if one.is_open}
    for archive, request in asked.items():
        may_call = archive in callers and node.settings.dimse.is_on
        if not may_call and request.since + WAITED_MS <= now:
            yield finding(
                f"archive {archive}", "wrong",
                "it is to report on storage commitment, and may not call this node",
                f'list it in config.toml: [dimse.callers."{archive}"]',
            )  # fmt: skip
