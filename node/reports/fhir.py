"""FHIR R4 AuditEvents as NDJSON; disclosures follow IHE BALP.

A disclosed study is an AuditEvent of the profile PrivacyDisclosure.Source, a received one of
PrivacyDisclosure.Recipient (https://profiles.ihe.net/ITI/BALP, content 3:5.7.7). The other
profiles of BALP are for RESTful calls and do not apply: other entries become plain
AuditEvents with the codes of DICOM, from which AuditEvent is derived.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from node.phrases import clean
from node.reports.audit_messages import CODES, Agent, AuditMessage, Thing

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_PROFILES = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PrivacyDisclosure"
_TERMS = "http://terminology.hl7.org/CodeSystem"
_OWN_TYPES = "urn:x-radmesh:entry-type"
_COMMITMENTS = "urn:x-radmesh:commitment"
_FINGERPRINTS = "urn:x-radmesh:facility"
_LOG = "urn:x-radmesh:log"
_DICOM_UIDS = "urn:dicom:uid"

SOURCE_PROFILE, RECIPIENT_PROFILE = f"{_PROFILES}.Source", f"{_PROFILES}.Recipient"

_DISCLOSURES = {
    "disclosed": (SOURCE_PROFILE, "110106", "Export", "R"),
    "disclosure-failed": (SOURCE_PROFILE, "110106", "Export", "R"),
    "received": (RECIPIENT_PROFILE, "110107", "Import", "C"),
}
"""Profile, event, its meaning and action by entry type. A disclosure that broke off may have
disclosed something, too; its outcome shows that it broke off."""

_PURPOSES = {
    "treatment": ("TREAT", "treatment"),
    "second-opinion": ("TREAT", "treatment"),
    "research": ("HRESCH", "healthcare research"),
    "operations": ("HOPERAT", "healthcare operations"),
    "BTG": ("BTG", "break the glass"),
}
"""Our purposes as codes of HL7 v3 ActReason."""

_PLACES = {
    "study": ("2", "System Object", "3", "Report"),
    "instance": ("2", "System Object", "3", "Report"),
    "patient": ("1", "Person", "1", "Patient"),
    "person": ("1", "Person", "11", "Security User Entity"),
    "facility": ("3", "Organization", "6", "User"),
    "query": ("2", "System Object", "24", "Query"),
}

_UNNAMED = "the images name no patient"


def audit_event(message: AuditMessage) -> dict[str, Any]:
    """One AuditEvent as JSON."""
    record = message.record
    disclosure = _DISCLOSURES.get(record.type)
    event: dict[str, Any] = {"resourceType": "AuditEvent", "id": _id(message)}
    if disclosure is None:
        meaning = message.meaning
        event["type"] = _coding(_DCM, meaning.event, CODES[meaning.event])
        event["subtype"] = (
            [_coding(_DCM, meaning.kind, CODES[meaning.kind])] if meaning.kind else []
        )
        event["action"] = meaning.action
    else:
        profile, code, display, action = disclosure
        event["meta"] = {"profile": [profile]}
        event["type"] = _coding(_DCM, code, display)
        event["subtype"] = [
            _coding(f"{_TERMS}/iso-21089-lifecycle", "disclose", "Disclose Record Lifecycle Event")
        ]
        event["action"] = action
    event["subtype"].append(_coding(_OWN_TYPES, record.type, record.type))
    event["recorded"] = record.time
    event["outcome"] = message.outcome
    if why := record.details.get("why"):
        event["outcomeDesc"] = clean(why)
    if purpose := record.entry["purpose"]:
        code, display = _PURPOSES.get(purpose, ("", ""))
        coded = {"coding": [_coding(f"{_TERMS}/v3-ActReason", code, display)]} if code else {}
        event["purposeOfEvent"] = [{**coded, "text": clean(purpose)}]
    event["agent"] = [_agent(agent) for agent in message.agents]
    event["source"] = {
        "site": clean(message.own.name),
        "observer": _facility(message.own.fingerprint, message.own.name),
        "type": [_coding(f"{_TERMS}/security-source-type", "4", "Application Server")],
    }
    event["entity"] = list(_entities(message, is_disclosure=disclosure is not None))
    return event


def lines(events: Iterable[AuditMessage]) -> Iterator[bytes]:
    """NDJSON: one AuditEvent a line."""
    for message in events:
        text = json.dumps(audit_event(message), ensure_ascii=False, separators=(",", ":"))
        yield text.encode() + b"\n"


def _id(message: AuditMessage) -> str:
    """An id that is the same at each export of an entry, so that a repository takes it once."""
    name = hashlib.sha256(message.origin.encode()).hexdigest()[:16]
    part = f"-{message.part}" if message.part else ""
    return f"{name}-{message.record.index}{part}"


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}


def _facility(identity: str, name: str) -> dict[str, Any]:
    return {
        "identifier": {"system": _FINGERPRINTS, "value": clean(identity)},
        "display": clean(name),
    }


def _who(agent: Agent) -> dict[str, Any]:
    if not agent.person:
        return _facility(agent.identity, agent.name)
    identifier = {"value": clean(agent.identity)}
    if agent.person == "commitment":
        identifier["system"] = _COMMITMENTS
    return {"identifier": identifier, "display": clean(agent.name)}


def _agent(agent: Agent) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if agent.role:
        described["type"] = {"coding": [_coding(_DCM, agent.role, CODES[agent.role])]}
    described["who"] = _who(agent)
    if agent.node:
        described["altId"] = clean(agent.node)
    described["name"] = clean(agent.name)
    if agent.acts_as:
        described["role"] = [{"text": clean(agent.acts_as)}]
    described["requestor"] = agent.is_requestor
    address, kind = agent.access_point
    if address:
        described["network"] = {"address": clean(address), "type": kind}
    return described


def _entities(message: AuditMessage, *, is_disclosure: bool) -> Iterator[dict[str, Any]]:
    if is_disclosure and not message.of_kind("patient"):
        # The profile requires a patient; say explicitly that the images name none.
        yield {"what": {"type": "Patient", "display": _UNNAMED}, **_place("patient")}
    for thing in message.things:
        yield _entity(thing, message)
    record = message.record
    yield {
        "what": {"identifier": {"system": _LOG, "value": message.reference}},
        "type": _coding(f"{_TERMS}/audit-entity-type", "2", "System Object"),
        "role": _coding(f"{_TERMS}/object-role", "13", "Security Resource"),
        "name": "Security Audit Log",
        "detail": [
            {"type": name, "valueString": clean(str(value).lower() if value is True else value)}
            for name, value in sorted(record.details.items())
            if value != ""
        ],
    }


def _entity(thing: Thing, message: AuditMessage) -> dict[str, Any]:
    entity: dict[str, Any] = {}
    if thing.kind == "query":
        entity["query"] = base64.b64encode(thing.query).decode()
    else:
        entity["what"] = _what(thing)
    entity |= _place(thing.kind)
    if message.meaning.lifecycle and thing.kind in ("study", "patient", "instance"):
        entity["lifecycle"] = {
            "system": f"{_TERMS}/dicom-audit-lifecycle",
            "code": message.meaning.lifecycle,
        }
    return entity


def _place(kind: str) -> dict[str, Any]:
    type_code, type_display, role_code, role_display = _PLACES[kind]
    return {
        "type": _coding(f"{_TERMS}/audit-entity-type", type_code, type_display),
        "role": _coding(f"{_TERMS}/object-role", role_code, role_display),
    }


def _what(thing: Thing) -> dict[str, Any]:
    if thing.kind == "facility":
        return _facility(thing.identity, thing.name)
    if not thing.is_open:
        what: dict[str, Any] = {"identifier": {"system": _COMMITMENTS, "value": thing.identity}}
    elif thing.kind == "patient":
        number, _, issuer = thing.identity.partition("^^^")
        identifier: dict[str, Any] = {
            "type": {"coding": [_coding(f"{_TERMS}/v2-0203", "MR", "Medical record number")]},
            "value": clean(number),
        }
        if issuer:
            identifier["assigner"] = {"display": clean(issuer)}
        what = {"identifier": identifier}
    elif thing.kind == "person":
        what = {"identifier": {"value": clean(thing.identity)}, "display": clean(thing.name)}
    else:
        what = {"identifier": {"system": _DICOM_UIDS, "value": f"urn:oid:{thing.identity}"}}
    if thing.kind == "patient":
        what["type"] = "Patient"
    return what
