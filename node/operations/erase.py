"""Erases openings that name a study, a patient or a person, beside the audit log."""

from dataclasses import dataclass

from node.app import Node
from node.audit.erasing import erase
from node.audit.erasure import Found
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.people.acts import Act

KINDS = ("study", "patient", "person")


@dataclass(frozen=True)
class Erase:
    """Parameters of `audit.erase`."""

    what: str
    kind: str | None = None
    confirmed: bool = False


def _find(node: Node, wanted: str, kind: str) -> tuple[str, Found]:
    """Find what an erasure would erase; without a kind, try a study and then a patient."""
    for tried in (kind,) if kind else ("study", "patient"):
        found = node.audit.evidence.erasures.find(tried, wanted, node.audit.size)
        if found.openings:
            return tried, found
    is_person = kind == "person"
    raise NodeError(
        f"nothing beside the log names this {'person' if is_person else 'study or patient'}",
        hint="give the user name as in `radmesh audit show`"
        if is_person
        else "give the whole Study Instance UID, or the Patient ID as in the images",
        code=ExitCode.NOT_FOUND,
    )


def erase_act(call: Call, asked: Erase) -> Act | None:
    """What a two-person rule holds of `audit.erase`; None while it only counts."""
    wanted, kind = asked.what.strip(), asked.kind or ""
    if not asked.confirmed or not wanted or kind not in ("", *KINDS):
        return None
    chosen, found = _find(call.node, wanted, kind)
    return Act(
        what=f"erase what names the {chosen} {wanted} beside the log: {found.openings} openings of "
        f"{found.entries} entries, {len(found.studies)} studies",
        parameters={"what": wanted, "kind": chosen, "confirmed": True},
        # A subject of the kind person would be who asked.
        subjects=() if chosen == "person" else ((chosen, wanted),),
    )


async def erase_openings(call: Call, asked: Erase) -> Result:
    """Erase the openings of a study, a patient or a person; without `confirmed` only count them."""
    node, wanted, kind = call.node, asked.what.strip(), asked.kind or ""
    if kind not in ("", *KINDS):
        raise NodeError(
            f"the parameter kind must be one of {', '.join(KINDS)}", code=ExitCode.USAGE
        )
    if not wanted:
        raise NodeError("nothing is named", code=ExitCode.USAGE)

    def work() -> Result:
        chosen, found = _find(node, wanted, kind)
        result: Result = {
            "kind": chosen,
            "openings": found.openings,
            "entries": found.entries,
            "studies": len(found.studies),
            "patients": len(found.patients),
            "in_catalog": sum(node.catalog.study(study) is not None for study in found.studies),
            "erased": False,
        }
        if asked.confirmed:
            erasure, entry, salt = erase(
                node.audit, chosen, wanted, node.forget, node.transfers.forget_persons
            )
            result |= {
                "erased": True,
                "openings": erasure.openings,
                "entries": erasure.entries,
                "entry": entry,
                "commitment": erasure.commitment,
                "salt": salt.hex(),
            }
        return result

    return await in_thread(work)


OPERATIONS = (
    Operation(
        "audit.erase",
        Erase,
        erase_openings,
        writes=True,
        local_only=True,
        roles=("admin",),
        listed_only=True,
        held_by=("erasure",),
        act=erase_act,
    ),
)
