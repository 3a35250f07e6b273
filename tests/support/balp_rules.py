"""The rules of IHE BALP for a privacy disclosure, beyond FHIR itself.

Written from the profiles IHE.BasicAudit.PrivacyDisclosure.Source and .Recipient: their
slices, cardinalities and the invariant val-audit-source, none of which a validator of plain
FHIR knows.
"""

from typing import Any

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_BASE = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PrivacyDisclosure"
_TYPES = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_ROLES = "http://terminology.hl7.org/CodeSystem/object-role"

PROFILES = {f"{_BASE}.Source": ("110106", "R"), f"{_BASE}.Recipient": ("110107", "C")}
"""Profile to the code of its type and its action."""


def problems(event: dict[str, Any]) -> list[str]:
    """The violations of an AuditEvent against the profile that it claims."""
    [profile] = event["meta"]["profile"]
    code, action = PROFILES[profile]
    checks = {
        "type": (event["type"].get("system"), event["type"].get("code")) == (_DCM, code),
        "action": event.get("action") == action,
        "subtype": any(
            one.get("code") == "disclose"
            and one.get("system") == "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
            for one in event.get("subtype", [])
        ),
        "outcome": event.get("outcome") in ("0", "4", "8", "12"),
        "modifierExtension": "modifierExtension" not in event,
        "agents": len(event.get("agent", [])) >= 2,
        "entities": len(event.get("entity", [])) >= 2,
    }
    roles = {}
    for name, role in (("source", "110153"), ("recipient", "110152")):
        found = [agent for agent in event.get("agent", []) if _has_type(agent, role)]
        roles[name] = found
        checks[f"one {name}"] = len(found) == 1
        checks[f"{name}.who"] = all("who" in agent for agent in found)
        checks[f"{name}.network"] = all("network" in agent for agent in found)
    ours = "source" if code == "110106" else "recipient"
    checks["val-audit-source"] = all(
        agent.get("who") == event["source"]["observer"] for agent in roles[ours]
    )
    patients = [
        entity
        for entity in event.get("entity", [])
        if (entity.get("type", {}).get("system"), entity.get("type", {}).get("code"))
        == (_TYPES, "1")
    ]
    checks["one patient"] = len(patients) == 1
    checks["patient.role"] = all(
        (one.get("role", {}).get("system"), one.get("role", {}).get("code")) == (_ROLES, "1")
        for one in patients
    )
    checks["patient.what"] = all(_is_patient(one.get("what")) for one in patients)
    return [name for name, holds in checks.items() if not holds]


def _has_type(agent: dict[str, Any], role: str) -> bool:
    codings = agent.get("type", {}).get("coding", [])
    return any((one.get("system"), one.get("code")) == (_DCM, role) for one in codings)


def _is_patient(what: dict[str, Any] | None) -> bool:
    if not what:
        return False
    reference = what.get("reference", "Patient/")
    return reference.startswith("Patient/") and what.get("type", "Patient") == "Patient"
