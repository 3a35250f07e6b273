"""Operation that looks at each edge and each peer, and says what is wrong and what to do."""

from collections.abc import Iterable

import trio

from node.failures import describe_unexpected, single_node_error
from node.operations.base import Call, Operation, Result
from node.operations.doctor_archives import archive_findings
from node.operations.doctor_commitment import commitments
from node.operations.doctor_edges import callers, certificates, doors, folders, listening, vendor
from node.operations.doctor_node import at_work, clock, disk, forwarding, log, notices, witnesses
from node.operations.doctor_peers import own_addresses, peers
from node.operations.findings import Check, Finding, blocking, finding
from node.operations.parameters import Nothing

CHECK_SECONDS = 30.0
"""Longest time of one check; all run at once, and each wait in them has its own limit."""

CHECKS = (
    blocking("disk", disk),
    blocking("clock", clock),
    blocking("log", log),
    blocking("witnesses", witnesses),
    blocking("forwarding", forwarding),
    blocking("notices", notices),
    blocking("what stands", at_work),
    blocking("certificates", certificates),
    Check("DICOM", listening),
    blocking("callers", callers),
    blocking("doors", doors),
    blocking("storage commitment", commitments),
    blocking("folders", folders),
    Check("archives", archive_findings),
    Check("own addresses", own_addresses),
    Check("facilities", peers),
)
"""Each thing that is looked at, a row; findings come in this order."""


async def doctor(call: Call, _: Nothing) -> Result:
    """What is wrong with each edge and each peer, and the AE titles of this node."""
    found: dict[str, Iterable[Finding]] = {}
    async with trio.open_nursery() as nursery:
        for check in CHECKS:
            nursery.start_soon(_run, check, call, found)
    return {
        "findings": [one for check in CHECKS for one in found[check.name]],
        "doors": vendor(call.node.settings.dimse),
    }


async def _run(check: Check, call: Call, found: dict[str, Iterable[Finding]]) -> None:
    why = f"it took longer than {CHECK_SECONDS:.0f} s"
    with trio.move_on_after(CHECK_SECONDS):
        try:
            found[check.name] = await check.run(call)
            return
        except Exception as error:
            # One that cannot be made says nothing about the others.
            known = single_node_error(error)
            why = describe_unexpected(error) if known is None else known.message
    found[check.name] = [
        finding(check.name, "wrong", f"it could not be checked: {why}", "see the process log")
    ]


async def send_test(call: Call, _: Nothing) -> Result:
    """Send a test mail and post a test to the webhook, and return who took it."""
    serving = call.require_serving()
    return {"tested": [] if serving.notices is None else await serving.notices.test()}


OPERATIONS = (
    Operation("doctor", Nothing, doctor, writes=False, roles=("look", "admin")),
    Operation(
        "notices.test", Nothing, send_test, writes=True, needs_network=True, roles=("admin",)
    ),
)
